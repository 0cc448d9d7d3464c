/* source: submits messages over SMTP, as fast as the server takes them or at a steady rate, and says how that went.
 *
 *   source [options]
 *     -c ADDR:PORT   server, [::1]:PORT for IPv6; repeatable, sessions take turns    (127.0.0.1:2525)
 *     -s N           sessions                                                       (20)
 *     -n N           messages in all                                                (10000)
 *     -l BYTES       size of one message's content                                  (10240)
 *     -d N           spread the recipients over N domains: d0.ZONE, d1.ZONE, …      (1)
 *     -z ZONE        their parent domain                                            (example)
 *     -r N           recipients of each message, all in its one domain              (1)
 *     -b N           first X-Bench-Id                                               (0)
 *     -m N           messages on one connection, then QUIT and connect again        (0: no limit)
 *     -R RATE        steady load of RATE messages/s; latency then counts from the moment a message was due,
 *                    so a server that stalls cannot hide it by slowing the source    (0: as fast as it goes)
 *     -H LINE        one more header line; repeatable
 *     -k             keep going: connect again after a broken or refused connection, until all are tried
 *     -T             STARTTLS; no certificate is verified (built -DWITH_TLS)
 *     -t SECONDS     give up when nothing is heard for so long                       (60)
 *     -a FILE        account: one byte a message: 0 never sent, 1 accepted, 2 refused, 3 unknown (the connection
 *                    broke after its MAIL and before its final reply). Mapped, so it survives a kill of the source
 *     -j             report as one JSON object, not as "key value" lines
 *
 * A message carries "X-Bench-Id: N", "X-Bench-Sum: HASH" (FNV-1a of the body after the empty line, 64 bit), a plausible
 * newsletter header, and a body with long and short lines, some of which begin with dots. A message is
 * never submitted twice, so whatever the far end sees twice, the server repeated.
 *
 * Report: accepted, refused, unknown, connections, connect_failures, seconds, rate, ms_p50, ms_p90, ms_p99, ms_p999, ms_max
 * (MAIL, or due time with -R, to final reply). Exit status 1 unless every message was accepted.
 * Memory: bounded by sessions; latencies go to a histogram of fixed size (2 % wide steps).
 * Known faults: no AUTH; a reply longer than 4 KB ends the connection.
 * Build: cc -O2 -o source source.c; with TLS: cc -O2 -DWITH_TLS -o source source.c -lssl -lcrypto
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tls.h"

enum stage { CLOSED, CONNECTING, GREETING, HELLO, STARTING, IDLE, ENVELOPE, CONTENT, GOODBYE };
enum fate { NEVER, ACCEPTED, REFUSED, UNKNOWN };
enum { PIECES = 3, STEPS = 64, BUCKETS = STEPS * 40, IN_SIZE = 4096, BACKOFF_MS = 50 };

typedef struct session {
    int fd;
    SSL *ssl;                     /* NULL: plain */
    enum stage stage;
    int expected;                 /* replies still to come for what was sent */
    int refusal;                  /* first code >= 400 of this envelope */
    int pipelining, step, on_connection, waiting_out;
    int64_t message;              /* index from 0; its X-Bench-Id is base + index */
    double begun;
    double retry_at;              /* CLOSED: not before */
    char in[IN_SIZE];
    size_t in_length;
    struct iovec out[PIECES];
    char *text;                   /* envelope, or the header of the content */
    struct session *next_idle;
} session;

static struct { struct sockaddr_storage address; socklen_t length; } servers[64];
static int server_count;
static int64_t total = 10000, base, next_message, finished, accepted, refused, unknown, connections, connect_failures;
static int session_count = 20, domains = 1, recipients = 1, per_connection, keep_going, json, silence = 60;
static double rate, started;
static const char *zone = "example";
static size_t content_length = 10240;
static char *body, extra_headers[4096];
static size_t body_length;
static uint64_t body_sum;
static uint8_t *account;
static uint64_t histogram[BUCKETS];
static double slowest;
static session *idle_first;
static int poller, timer, with_tls;
#ifdef WITH_TLS
static SSL_CTX *context;
#endif
static char tail[] = "\r\n.\r\n";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    fprintf(stderr, "source: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* -- latency ---------------------------------------------------------------------------------- */

static int bucket_of(double microseconds)
{
    uint64_t value = microseconds < 1 ? 1 : (uint64_t)microseconds;
    int power = 63 - __builtin_clzll(value);
    int step = power < 6 ? (int)(value << (6 - power)) - STEPS : (int)(value >> (power - 6)) - STEPS;
    int bucket = power * STEPS + step;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static void observe(double seconds)
{
    histogram[bucket_of(seconds * 1e6)]++;
    if (seconds > slowest) slowest = seconds;
}

static double percentile(double share)
{
    uint64_t want = (uint64_t)(share * (double)accepted), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > want) return (double)(1ull << (i / STEPS)) * (1.0 + (double)(i % STEPS) / STEPS) / 1000.0;
    }
    return slowest * 1000.0;
}

/* -- messages --------------------------------------------------------------------------------- */

/* The body as it goes over the wire (stuffed, without the final CRLF, which comes with the end of message). Its hash
 * is over the unstuffed octets with that final CRLF. */
static void make_body(size_t wanted)
{
    static const char words[] = "Dear reader, this month we look at harvest fairs, slow trains and the price of paper. ";
    body = malloc(wanted + 256);
    size_t n = 0;
    for (int line = 0; n < wanted; line++) {
        size_t width = line % 23 == 0 ? 0 : line % 11 == 0 ? 30 : 74;
        if (line % 17 == 3) { body[n++] = '.'; body[n++] = '.'; }
        for (size_t i = 0; i < width && n < wanted; i++) body[n++] = words[(size_t)(line * 13 + (int)i) % (sizeof words - 1)];
        if (n + 2 <= wanted) { body[n++] = '\r'; body[n++] = '\n'; } else break;
    }
    while (n && (body[n - 1] == '\n' || body[n - 1] == '\r')) n--;
    body_length = n;
    body_sum = 0xcbf29ce484222325u;
    int start = 1;
    for (size_t i = 0; i < n + 2; i++) {
        uint8_t octet = i < n ? (uint8_t)body[i] : (uint8_t)(i == n ? '\r' : '\n');
        if (start && octet == '.') { start = 0; continue; }
        start = octet == '\n';
        body_sum = (body_sum ^ octet) * 0x100000001b3u;
    }
}

static size_t write_header(const session *s, char *to)
{
    long id = (long)(base + s->message), domain = (long)(s->message % domains);
    return (size_t)sprintf(to,
        "From: The Example Gazette <news@sender.example>\r\nTo: <u%ld.0@d%ld.%s>\r\nSubject: The Example Gazette, number %ld\r\n"
        "Date: Mon, 23 Nov 2026 09:00:00 +0000\r\nMessage-ID: <%ld.gazette@sender.example>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nList-Unsubscribe: <https://sender.example/u/%ld>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n%sX-Bench-Id: %ld\r\nX-Bench-Sum: %016llx\r\n\r\n",
        id, domain, zone, id, id, id, extra_headers, id, (unsigned long long)body_sum);
}

static size_t write_envelope(const session *s, char *to)
{
    long id = (long)(base + s->message);
    size_t n = (size_t)sprintf(to, "MAIL FROM:<news-%ld@sender.example>\r\n", id);
    for (int r = 0; r < recipients; r++)
        n += (size_t)sprintf(to + n, "RCPT TO:<u%ld.%d@d%ld.%s>\r\n", id, r, (long)(s->message % domains), zone);
    return n + (size_t)sprintf(to + n, "DATA\r\n");
}

static void settle(session *s, enum fate fate)
{
    if (account) account[s->message] = (uint8_t)fate;
    finished++;
    if (fate == ACCEPTED) { accepted++; observe(now() - s->begun); }
    else if (fate == REFUSED) refused++;
    else unknown++;
}

/* -- writing ---------------------------------------------------------------------------------- */

static void watch(session *s, int out)
{
    if (s->waiting_out == out) return;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &event)) fail("epoll_ctl");
    s->waiting_out = out;
}

/* 0: all written or waiting for room; -1: the connection is broken. */
static int flush(session *s)
{
    for (;;) {
        int first = 0;
        while (first < PIECES && !s->out[first].iov_len) first++;
        if (first == PIECES) { watch(s, 0); return 0; }
        ssize_t n = io_writev(s->ssl, s->fd, s->out + first, PIECES - first);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) { watch(s, 1); return 0; }
            return -1;
        }
        for (int i = first; n && i < PIECES; i++) {
            size_t part = (size_t)n < s->out[i].iov_len ? (size_t)n : s->out[i].iov_len;
            s->out[i].iov_base = (char *)s->out[i].iov_base + part;
            s->out[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
}

static int put(session *s, const char *text, size_t length)
{
    s->out[0] = (struct iovec){(void *)text, length};
    s->out[1].iov_len = s->out[2].iov_len = 0;
    return flush(s);
}

/* -- the life of a session -------------------------------------------------------------------- */

static void disconnect(session *s)
{
    io_free(s->ssl);
    s->ssl = NULL;
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    s->stage = CLOSED;
}

static void connect_session(session *s)
{
    static int turn;
    int one = 1;
    int chosen = turn++ % server_count;
    s->fd = socket(servers[chosen].address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) fail("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    s->in_length = 0;
    s->on_connection = s->pipelining = 0;
    memset(s->out, 0, sizeof s->out);
    if (connect(s->fd, (void *)&servers[chosen].address, servers[chosen].length) && errno != EINPROGRESS) {
        connect_failures++;
        disconnect(s);
        s->retry_at = now() + BACKOFF_MS / 1000.0;
        return;
    }
    s->stage = CONNECTING;
    s->waiting_out = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &event)) fail("epoll_ctl");
}

/* The connection failed or was closed by the server. */
static void broken(session *s)
{
    if (s->stage == CONNECTING || s->stage == GREETING || s->stage == HELLO || s->stage == STARTING) {
        connect_failures++;
        s->retry_at = now() + BACKOFF_MS / 1000.0;
    }
    if (s->stage == ENVELOPE || s->stage == CONTENT) settle(s, UNKNOWN);
    disconnect(s);
}

static double due(int64_t message) { return rate > 0 ? started + (double)message / rate : 0; }

static void start_message(session *s)
{
    s->message = next_message++;
    s->begun = rate > 0 ? due(s->message) : now();
    s->refusal = s->step = 0;
    s->stage = ENVELOPE;
    if (account) account[s->message] = UNKNOWN;
    size_t length = write_envelope(s, s->text);
    s->expected = s->pipelining ? recipients + 2 : 1;
    if (!s->pipelining) length = (size_t)(strchr(s->text, '\n') - s->text) + 1;
    if (put(s, s->text, length)) broken(s);
}

static void say_goodbye(session *s)
{
    s->stage = GOODBYE;
    s->expected = 1;
    if (put(s, "QUIT\r\n", 6)) broken(s);
}

/* A session that has nothing in hand: next message, wait for one to be due, or leave. */
static void rest(session *s)
{
    if (next_message >= total || (per_connection && s->on_connection >= per_connection)) say_goodbye(s);
    else if (rate > 0 && due(next_message) > now()) { s->stage = IDLE; s->next_idle = idle_first; idle_first = s; }
    else start_message(s);
}

static void send_content(session *s)
{
    s->stage = CONTENT;
    s->expected = 1;
    s->out[0] = (struct iovec){s->text, write_header(s, s->text)};
    s->out[1] = (struct iovec){body, body_length};
    s->out[2] = (struct iovec){tail, sizeof tail - 1};
    if (flush(s)) broken(s);
}

static void refuse(session *s, int code)
{
    if (refused < 5) fprintf(stderr, "source: message %ld refused: %d\n", (long)(base + s->message), code);
    settle(s, REFUSED);
    rest(s);
}

static void envelope_reply(session *s, int code)
{
    if (code >= 400 && !s->refusal) s->refusal = code;
    if (--s->expected) return;
    if (!s->pipelining && !s->refusal && ++s->step < recipients + 2) {
        char *line = s->text;
        write_envelope(s, s->text);
        for (int i = 0; i < s->step; i++) line = strchr(line, '\n') + 1;
        s->expected = 1;
        if (put(s, line, (size_t)(strchr(line, '\n') - line) + 1)) broken(s);
    } else if (code == 354) {
        send_content(s);
    } else if (s->pipelining) {
        refuse(s, s->refusal ? s->refusal : code);
    } else {
        int refusal = s->refusal;
        say_goodbye(s);                  /* a half-made transaction: leave rather than RSET */
        settle(s, REFUSED);
        fprintf(stderr, "source: refused: %d\n", refusal);
    }
}

static void on_reply(session *s, int code)
{
    switch (s->stage) {
    case GREETING:
        if (code != 220) { broken(s); return; }
        s->stage = HELLO;
        if (put(s, "EHLO source.example\r\n", 21)) broken(s);
        return;
    case HELLO:
        if (code >= 400) { broken(s); return; }
        if (with_tls && !s->ssl) {
            s->stage = STARTING;
            if (put(s, "STARTTLS\r\n", 10)) broken(s);
            return;
        }
        connections++;
        rest(s);
        return;
    case STARTING:
#ifdef WITH_TLS
        if (code == 220) s->ssl = tls_begin(context, s->fd, 0);
#endif
        s->stage = HELLO;
        s->pipelining = 0;
        if (!s->ssl || put(s, "EHLO source.example\r\n", 21)) broken(s);
        return;
    case ENVELOPE:
        envelope_reply(s, code);
        return;
    case CONTENT:
        s->on_connection++;
        if (code / 100 != 2) { refuse(s, code); return; }
        settle(s, ACCEPTED);
        rest(s);
        return;
    case GOODBYE:
        disconnect(s);
        return;
    default:                             /* an unasked reply, such as 421 on an idle session */
        broken(s);
    }
}

static void read_replies(session *s)
{
    ssize_t n = io_read(s->ssl, s->fd, s->in + s->in_length, IN_SIZE - 1 - s->in_length);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { broken(s); return; }
    s->in_length += (size_t)n;
    s->in[s->in_length] = 0;
    char *line = s->in, *end;
    int fd = s->fd;
    while ((end = memchr(line, '\n', (size_t)(s->in + s->in_length - line)))) {
        int last = end - line > 3 && line[3] != '-', code = atoi(line);
        if (s->stage == HELLO && !strncasecmp(line + 4, "PIPELINING", 10)) s->pipelining = 1;
        line = end + 1;
        if (!last) continue;
        on_reply(s, code);
        if (s->fd != fd || s->stage == CLOSED) return;
    }
    s->in_length = (size_t)(s->in + s->in_length - line);
    memmove(s->in, line, s->in_length);
    if (s->in_length >= IN_SIZE - 1) broken(s);
}

static void leave_idle(session *s)
{
    for (session **at = &idle_first; *at; at = &(*at)->next_idle)
        if (*at == s) { *at = s->next_idle; return; }
}

static void on_ready(session *s, unsigned events)
{
    if (s->stage == CLOSED) return;
    if (s->stage == IDLE) leave_idle(s);   /* only a close or an unasked reply can come here */
    if (s->stage == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error || (events & (EPOLLERR | EPOLLHUP))) { broken(s); return; }
        s->stage = GREETING;
        s->expected = 1;
        watch(s, 0);
    } else if ((events & EPOLLOUT) && flush(s)) { broken(s); return; }
    if (s->stage != CLOSED && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        do read_replies(s); while (s->stage != CLOSED && io_pending(s->ssl) > 0);
}

/* -- the whole run ---------------------------------------------------------------------------- */

static void start_due_messages(void)
{
    while (idle_first && (next_message >= total || due(next_message) <= now())) {
        session *s = idle_first;
        idle_first = s->next_idle;
        rest(s);
    }
    if (!idle_first || next_message >= total) return;
    double when = due(next_message);
    struct itimerspec at = {.it_value = {(time_t)when, (long)((when - (double)(time_t)when) * 1e9)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Connect what is closed while there is work; how many sessions live. */
static int revive(session *all)
{
    int living = 0;
    double t = now();
    for (int i = 0; i < session_count; i++) {
        if (all[i].stage == CLOSED && next_message < total && t >= all[i].retry_at && (keep_going || !(connect_failures + unknown)))
            connect_session(&all[i]);
        living += all[i].stage != CLOSED;
    }
    return living;
}

static void run(session *all)
{
    double heard = now();
    while (finished < total) {
        struct epoll_event events[256];
        int living = revive(all);
        if (!living && !keep_going) return;
        int n = epoll_wait(poller, events, 256, living < session_count && keep_going ? BACKOFF_MS : 1000);
        if (n > 0) heard = now();
        for (int i = 0; i < n; i++) {
            uint64_t ticks;
            if (events[i].data.ptr) on_ready(events[i].data.ptr, events[i].events);
            else if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) fail("timer");
        }
        if (rate > 0) start_due_messages();
        if (now() - heard > silence) { fprintf(stderr, "source: nothing heard for %d s\n", silence); return; }
    }
}

static void report(double seconds)
{
    const char *form = json
        ? "{\"accepted\": %ld, \"refused\": %ld, \"unknown\": %ld, \"connections\": %ld, \"connect_failures\": %ld, \"seconds\": %.3f, "
          "\"rate\": %.1f, \"ms_p50\": %.3f, \"ms_p90\": %.3f, \"ms_p99\": %.3f, \"ms_p999\": %.3f, \"ms_max\": %.3f}\n"
        : "accepted %ld\nrefused %ld\nunknown %ld\nconnections %ld\nconnect_failures %ld\nseconds %.3f\nrate %.1f\n"
          "ms_p50 %.3f\nms_p90 %.3f\nms_p99 %.3f\nms_p999 %.3f\nms_max %.3f\n";
    printf(form, (long)accepted, (long)refused, (long)unknown, (long)connections, (long)connect_failures, seconds,
           (double)accepted / seconds, percentile(.5), percentile(.9), percentile(.99), percentile(.999), slowest * 1000.0);
}

static void add_server(const char *text)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || server_count == 64) { fprintf(stderr, "source: -c wants ADDR:PORT\n"); exit(2); }
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    struct sockaddr_in *v4 = (void *)&servers[server_count].address;
    struct sockaddr_in6 *v6 = (void *)&servers[server_count].address;
    if (host[0] == '[') {
        host[strcspn(host, "]")] = 0;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)atoi(colon + 1));
        servers[server_count].length = sizeof *v6;
        if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1) { server_count++; return; }
    } else {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)atoi(colon + 1));
        servers[server_count].length = sizeof *v4;
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) { server_count++; return; }
    }
    fprintf(stderr, "source: not an address: %s\n", text);
    exit(2);
}

static void open_account(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, total)) fail(path);
    account = mmap(NULL, (size_t)total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (account == MAP_FAILED) fail(path);
    close(fd);
}

static void options(int argc, char **argv)
{
    int option;
    const char *account_path = NULL;
    size_t used = 0;
    while ((option = getopt(argc, argv, "c:s:n:l:d:z:r:b:m:R:H:kTt:a:j")) != -1) switch (option) {
        case 'c': add_server(optarg); break;
        case 'T':
#ifdef WITH_TLS
            with_tls = 1;
            context = tls_context(NULL);
            break;
#else
            fprintf(stderr, "source: built without TLS\n");
            exit(2);
#endif
        case 's': session_count = atoi(optarg); break;
        case 'n': total = atol(optarg); break;
        case 'l': content_length = (size_t)atol(optarg); break;
        case 'd': domains = atoi(optarg); break;
        case 'z': zone = optarg; break;
        case 'r': recipients = atoi(optarg); break;
        case 'b': base = atol(optarg); break;
        case 'm': per_connection = atoi(optarg); break;
        case 'R': rate = atof(optarg); break;
        case 'H': used += (size_t)snprintf(extra_headers + used, sizeof extra_headers - used, "%s\r\n", optarg);
                  if (used >= sizeof extra_headers) { fprintf(stderr, "source: too many -H\n"); exit(2); }
                  break;
        case 'k': keep_going = 1; break;
        case 't': silence = atoi(optarg); break;
        case 'a': account_path = optarg; break;
        case 'j': json = 1; break;
        default: fprintf(stderr, "source: the comment at the head of source.c lists the options\n"); exit(2);
    }
    if (!server_count) add_server("127.0.0.1:2525");
    if (total < 1 || session_count < 1 || domains < 1 || recipients < 1) { fprintf(stderr, "source: a number below 1\n"); exit(2); }
    if (session_count > total) session_count = (int)total;
    if (account_path) open_account(account_path);
}

int main(int argc, char **argv)
{
    options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    size_t header = 1024 + sizeof extra_headers;
    make_body(content_length > 700 ? content_length - 600 : 64);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event)) fail("epoll");
    session *all = calloc((size_t)session_count, sizeof *all);
    for (int i = 0; i < session_count; i++) {
        all[i].fd = -1;
        all[i].text = malloc(header + (size_t)(recipients + 2) * (96 + strlen(zone)));
    }
    started = now();
    run(all);
    report(now() - started);
    return accepted != total;
}
