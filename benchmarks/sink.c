/* sink: an SMTP server that takes everything as fast as it can and keeps an exact account of it.
 *
 *   sink [options]
 *     -l SPEC        listen there; repeatable. SPEC is ADDR:PORT, [::1]:PORT, or FIRST-LAST:PORT for every IPv4
 *                    address from FIRST to LAST, both included                          (127.0.0.1:2526)
 *     -n N           stop once N different deliveries were acknowledged                 (0: run until SIGTERM or SIGINT)
 *     -M N           size of the account: keys 0 … N-1, one byte each; others count as "foreign"   (4194304)
 *     -w N           recipients of one message (see below)                              (1)
 *     -d MS          answer everything, greeting included, MS milliseconds late
 *     -P             offer no PIPELINING
 *     -C             offer no CHUNKING
 *     -T FILE        offer STARTTLS with the key and certificate in this PEM file (built -DWITH_TLS)
 *     -t PERMILLE    answer these of a thousand RCPT commands with 451 (by hashing address and attempt, not at random)
 *     -u PERMILLE    answer these of a thousand addresses with 550, always
 *     -x PERMILLE    of a thousand messages, take these and close without the final reply (counted as "unanswered")
 *     -V             verify X-Bench-Sum, and that no bare CR or LF comes ("damaged"); costs a pass over each octet
 *     -a FILE        at the end write the account: one byte a key, how often it was acknowledged (255 and more: 255)
 *     -r FILE        write the report there too, and whenever SIGUSR1 comes
 *     -j             report as one JSON object, not as "key value" lines
 *
 * The key of a delivery is X-Bench-Id * w + the digits between "." and "@" in its RCPT address (u17.2@… is 2 of message 17).
 *
 * Report: messages, deliveries (recipients acknowledged), unique, duplicates, foreign, damaged, unanswered, tempfailed,
 * refused, bytes, connections, live, max_live, busiest (most connections that owed or awaited something at once),
 * first_ack and last_ack (seconds of CLOCK_MONOTONIC), seconds (between them), rate (deliveries/s).
 * Memory: one byte a key, 3 KB a connection, and the head of a content (at most 16 KB) while it comes.
 * Known fault: with -d, replies that become due while others of the same connection wait go out with those.
 * Build: cc -O2 -o sink sink.c; with TLS: cc -O2 -DWITH_TLS -o sink sink.c -lssl -lcrypto
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tls.h"

enum mode { COMMAND, DATA, BDAT };
enum { LINE_SIZE = 2048, HEAD_SIZE = 16384, RECIPIENTS = 1000, READ_SIZE = 262144, EVENTS = 512 };

typedef struct peer {
    int fd, is_listener, closing, watching_out, queued, gone, starting;
    SSL *ssl;                     /* NULL: plain */
    enum mode mode;
    char line[LINE_SIZE];
    size_t line_length;
    char *out;
    size_t out_length, out_size;
    char *head;                   /* first octets of the content, stuffed as they came */
    size_t head_length;
    char seam[4];                 /* the last octets of DATA before this chunk, always four */
    size_t held;                  /* octets of ".CR" that came and are neither content nor end yet */
    uint64_t sum;                 /* -V: FNV-1a of the body so far */
    int in_body, blank, line_start, previous, damaged, refuse_chunk;
    size_t chunk_left;
    int chunk_last;
    uint16_t *recipients;         /* their indices within the message */
    int recipient_count;
    double due;
    struct peer *next_due;
} peer;

static uint8_t *account;
static int64_t keys = 4194304, width = 1, stop_after;
static int64_t messages, deliveries, unique, duplicates, foreign, damaged, unanswered, tempfailed, refused, connections, live,
    max_live, owing, busiest;
static uint64_t bytes;
static double first_ack, last_ack, delay;
static int no_pipelining, no_chunking, temporary, permanent, unanswering, verify, json, poller;
static const char *report_path, *account_path;
static volatile sig_atomic_t stopping, report_wanted;
static peer *due_first, *due_last;
static uint32_t attempts;
static int with_tls;
#ifdef WITH_TLS
static SSL_CTX *context;
#endif

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_signal(int number) { if (number == SIGUSR1) report_wanted = 1; else stopping = 1; }

static uint32_t hash(const char *text, size_t length, uint32_t h)
{
    for (size_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 16777619u;
    return h ^ h >> 15;
}

static int chosen(uint32_t h, int permille) { return permille && (int)(h * 2654435761u >> 16) % 1000 < permille; }

/* -- replies ---------------------------------------------------------------------------------- */

static void reply(peer *p, const char *text)
{
    size_t length = strlen(text);
    if (p->out_length + length > p->out_size) {
        p->out_size = (p->out_length + length) * 2 + 256;
        p->out = realloc(p->out, p->out_size);
    }
    memcpy(p->out + p->out_length, text, length);
    p->out_length += length;
}

static void forget(peer *p)
{
    free(p->out);
    free(p->head);
    free(p->recipients);
    free(p);
}

static void drop(peer *p)
{
    io_free(p->ssl);
    p->ssl = NULL;
    close(p->fd);
    live--;
    p->gone = 1;
    if (!p->queued) forget(p);
}

/* Write what is owed. 1 if the connection is over and p is gone. */
static int flush(peer *p)
{
    size_t sent = 0;
    while (sent < p->out_length) {
        ssize_t n = io_write(p->ssl, p->fd, p->out + sent, p->out_length - sent);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) { drop(p); return 1; }
        sent += (size_t)n;
    }
    p->out_length -= sent;
    memmove(p->out, p->out + sent, p->out_length);
    if (!p->out_length && p->closing) { drop(p); return 1; }
    int out = p->out_length > 0;
    if (out != p->watching_out) {
        struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = p};
        epoll_ctl(poller, EPOLL_CTL_MOD, p->fd, &event);
        p->watching_out = out;
    }
    return 0;
}

static void flush_or_queue(peer *p)
{
    if (!p->out_length && !p->closing) return;
    if (delay <= 0) { flush(p); return; }
    if (p->queued) return;
    p->queued = 1;
    p->due = now() + delay;
    p->next_due = NULL;
    if (due_last) due_last->next_due = p; else due_first = p;
    due_last = p;
    if (++owing > busiest) busiest = owing;
}

static void flush_due(void)
{
    for (double t = now(); due_first && due_first->due <= t;) {
        peer *p = due_first;
        due_first = p->next_due;
        if (!due_first) due_last = NULL;
        p->queued = 0;
        owing--;
        if (p->gone) forget(p); else flush(p);
    }
}

/* -- the account ------------------------------------------------------------------------------ */

static void acknowledge(int64_t key)
{
    deliveries++;
    if (key < 0 || key >= keys) { foreign++; return; }
    if (account[key] == 0) unique++; else duplicates++;
    if (account[key] < 255) account[key]++;
}

static const char *field(const peer *p, const char *name)
{
    char *at = memmem(p->head, p->head_length, name, strlen(name));
    return at ? at + strlen(name) : NULL;
}

static void end_of_message(peer *p)
{
    p->head[p->head_length < HEAD_SIZE ? p->head_length : HEAD_SIZE] = 0;
    const char *id = field(p, "\r\nX-Bench-Id: "), *sum = field(p, "\r\nX-Bench-Sum: ");
    int64_t number = id ? atoll(id) : -1;
    messages++;
    if (verify && (p->damaged || !sum || strtoull(sum, NULL, 16) != p->sum)) damaged++;
    for (int i = 0; i < p->recipient_count; i++)
        acknowledge(number < 0 || p->recipients[i] >= width ? -1 : number * width + p->recipients[i]);
    last_ack = now();
    if (!first_ack) first_ack = last_ack;
    if (stop_after && unique >= stop_after) stopping = 1;
    p->recipient_count = 0;
    p->mode = COMMAND;
    if (chosen(hash((char *)&messages, sizeof messages, 99), unanswering)) { unanswered++; p->closing = 1; }
    else reply(p, "250 2.0.0 taken\r\n");
}

static void begin_content(peer *p)
{
    if (!p->head) p->head = malloc(HEAD_SIZE + 1);
    p->head_length = p->held = 0;
    memcpy(p->seam, "\0\0\r\n", 4);
    p->sum = 0xcbf29ce484222325u;
    p->in_body = p->damaged = p->previous = 0;
    p->blank = p->line_start = 1;
}

static void keep_head(peer *p, const char *from, size_t length)
{
    size_t room = HEAD_SIZE - p->head_length;
    if (length > room) length = room;
    memcpy(p->head + p->head_length, from, length);
    p->head_length += length;
}

/* -V: octet by octet, the plain way; `stuffed` for DATA. */
static void check(peer *p, const char *from, size_t length, int stuffed)
{
    for (size_t i = 0; i < length; i++) {
        int octet = (uint8_t)from[i];
        if ((octet == '\n') != (p->previous == '\r')) p->damaged = 1;
        p->previous = octet;
        if (stuffed && p->line_start && octet == '.') { p->line_start = 0; p->blank = 0; continue; }
        if (p->in_body) p->sum = (p->sum ^ (uint8_t)octet) * 0x100000001b3u;
        p->line_start = octet == '\n';
        if (octet == '\n') { if (p->blank) p->in_body = 1; p->blank = 1; }
        else if (octet != '\r') p->blank = 0;
    }
}

static void take(peer *p, const char *from, size_t length, int stuffed)
{
    bytes += length;
    if (p->head_length < HEAD_SIZE) keep_head(p, from, length);
    if (verify) check(p, from, length, stuffed);
}

/* -- commands --------------------------------------------------------------------------------- */

static void on_rcpt(peer *p)
{
    const char *at = memchr(p->line, '@', p->line_length), *dot = at;
    size_t end = at ? (size_t)(at - p->line) : p->line_length;
    uint32_t h = hash(p->line, end, 2166136261u);
    if (chosen(h, permanent)) { refused++; reply(p, "550 5.1.1 no such mailbox\r\n"); return; }
    if (chosen(hash((char *)&attempts, sizeof attempts, h), temporary)) {
        attempts++;
        tempfailed++;
        reply(p, "451 4.2.1 come back later\r\n");
        return;
    }
    attempts++;
    if (p->recipient_count == RECIPIENTS) { reply(p, "452 4.5.3 too many recipients\r\n"); return; }
    while (dot && dot > p->line && dot[-1] >= '0' && dot[-1] <= '9') dot--;
    int index = dot && dot > p->line && dot[-1] == '.' && dot < at ? atoi(dot) : 0;
    if (!p->recipients) p->recipients = malloc(RECIPIENTS * sizeof *p->recipients);
    p->recipients[p->recipient_count++] = (uint16_t)index;
    reply(p, "250 2.1.5 OK\r\n");
}

static void on_bdat(peer *p)
{
    char *rest;
    p->chunk_left = strtoul(p->line + 5, &rest, 10);
    p->chunk_last = strcasestr(rest, "LAST") != NULL;
    p->refuse_chunk = !p->recipient_count;
    if (p->mode != BDAT) begin_content(p);
    p->mode = BDAT;
}

static void end_of_chunk(peer *p)
{
    if (p->refuse_chunk) { reply(p, "503 5.5.1 no valid recipients\r\n"); p->mode = COMMAND; }
    else if (p->chunk_last) end_of_message(p);
    else { reply(p, "250 2.0.0 chunk taken\r\n"); p->chunk_left = SIZE_MAX; }
}

static void on_command(peer *p)
{
    const char *line = p->line;
    if (!strncasecmp(line, "RCPT", 4)) on_rcpt(p);
    else if (!strncasecmp(line, "MAIL", 4)) { p->recipient_count = 0; reply(p, "250 2.1.0 OK\r\n"); }
    else if (!strncasecmp(line, "BDAT", 4)) on_bdat(p);
    else if (!strncasecmp(line, "DATA", 4)) {
        if (!p->recipient_count) { reply(p, "503 5.5.1 no valid recipients\r\n"); return; }
        p->mode = DATA;
        begin_content(p);
        reply(p, "354 go ahead\r\n");
    } else if (!strncasecmp(line, "EHLO", 4)) {
        reply(p, "250-sink.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n");
        if (!no_pipelining) reply(p, "250-PIPELINING\r\n");
        if (!no_chunking) reply(p, "250-CHUNKING\r\n");
        if (with_tls && !p->ssl) reply(p, "250-STARTTLS\r\n");
        reply(p, "250 SIZE 0\r\n");
    } else if (with_tls && !p->ssl && !strncasecmp(line, "STARTTLS", 8)) {
        reply(p, "220 2.0.0 go ahead\r\n");
        p->starting = 1;
    } else if (!strncasecmp(line, "QUIT", 4)) { reply(p, "221 2.0.0 bye\r\n"); p->closing = 1; }
    else if (!strncasecmp(line, "RSET", 4) || !strncasecmp(line, "NOOP", 4) || !strncasecmp(line, "HELO", 4)) {
        if (line[0] == 'R' || line[0] == 'r') p->recipient_count = 0;
        reply(p, "250 2.0.0 OK\r\n");
    } else reply(p, "500 5.5.2 unknown command\r\n");
}

/* -- what comes in ---------------------------------------------------------------------------- */

static size_t feed_line(peer *p, const char *from, size_t length)
{
    const char *end = memchr(from, '\n', length);
    size_t used = end ? (size_t)(end - from) + 1 : length;
    size_t room = LINE_SIZE - 1 - p->line_length;
    memcpy(p->line + p->line_length, from, used < room ? used : room);
    p->line_length += used < room ? used : room;
    if (!end) return used;
    p->line[p->line_length] = 0;
    if (p->mode == BDAT && strncasecmp(p->line, "BDAT", 4)) p->mode = COMMAND;    /* RSET between chunks */
    on_command(p);
    p->line_length = 0;
    return used;
}

/* How many octets at the end of what came may belong to the end of message (".", ".CR" after a CRLF). */
static int undecided(const peer *p)
{
    if (!memcmp(p->seam + 1, "\r\n.", 3)) return 1;
    return memcmp(p->seam, "\r\n.\r", 4) ? 0 : 2;
}

static void slide_seam(peer *p, const char *from, size_t length)
{
    if (length >= 4) { memcpy(p->seam, from + length - 4, 4); return; }
    memmove(p->seam, p->seam + length, 4 - length);
    memcpy(p->seam + 4 - length, from, length);
}

/* DATA up to CRLF.CRLF, wherever the chunks were cut. */
static size_t feed_data(peer *p, const char *from, size_t length)
{
    char joined[8];
    size_t ahead = length < 4 ? length : 4, used = 0;
    memcpy(joined, p->seam, 4);
    memcpy(joined + 4, from, ahead);
    const char *end = memmem(joined, 4 + ahead, "\r\n.\r\n", 5);
    if (end) used = (size_t)(end + 5 - (joined + 4));
    else if ((end = memmem(from, length, "\r\n.\r\n", 5))) used = (size_t)(end + 5 - from);
    if (end) {
        if (used >= 3) { take(p, ".\r", p->held, 1); take(p, from, used - 3, 1); }
        end_of_message(p);
        return used;
    }
    slide_seam(p, from, length);
    size_t held = (size_t)undecided(p);
    if (held <= length) { take(p, ".\r", p->held, 1); take(p, from, length - held, 1); }
    p->held = held;
    return length;
}

static size_t feed_chunk(peer *p, const char *from, size_t length)
{
    size_t used = length < p->chunk_left ? length : p->chunk_left;
    if (!p->refuse_chunk) take(p, from, used, 0);
    p->chunk_left -= used;
    if (!p->chunk_left) end_of_chunk(p);
    return used;
}

static void feed(peer *p, const char *from, size_t length)
{
    while (length && !p->closing) {
        size_t used;
        if (p->mode == DATA) used = feed_data(p, from, length);
        else if (p->mode == BDAT && p->chunk_left != SIZE_MAX) used = feed_chunk(p, from, length);
        else used = feed_line(p, from, length);
        from += used;
        length -= used;
        if (p->mode == BDAT && !p->chunk_left) end_of_chunk(p);
    }
}

static void on_readable(peer *p)
{
    static char buffer[READ_SIZE];
    do {
        ssize_t n = io_read(p->ssl, p->fd, buffer, sizeof buffer);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (n <= 0) { drop(p); return; }
        feed(p, buffer, (size_t)n);
    } while (io_pending(p->ssl) > 0);
#ifdef WITH_TLS
    if (p->starting) {                   /* the 220 goes out, late answers or not, and the handshake follows */
        p->starting = 0;
        if (flush(p)) return;
        p->ssl = tls_begin(context, p->fd, 1);
        if (!p->ssl) drop(p);
        return;
    }
#endif
    flush_or_queue(p);
}

static void on_connection(peer *listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        peer *p = calloc(1, sizeof *p);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        p->fd = fd;
        connections++;
        if (++live > max_live) max_live = live;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        reply(p, "220 sink.test ESMTP\r\n");
        flush_or_queue(p);
    }
}

/* -- start and end ---------------------------------------------------------------------------- */

static void add_listener(struct sockaddr *address, socklen_t length, const char *shown)
{
    int one = 1;
    peer *p = calloc(1, sizeof *p);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    p->is_listener = 1;
    p->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (p->fd < 0 || bind(p->fd, address, length) || listen(p->fd, 4096) || epoll_ctl(poller, EPOLL_CTL_ADD, p->fd, &event)) {
        fprintf(stderr, "sink: cannot listen on %s: %s\n", shown, strerror(errno));
        exit(1);
    }
}

static void add_listeners(const char *spec)
{
    char host[128];
    const char *colon = strrchr(spec, ':');
    snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - spec) : 0, spec);
    uint16_t port = htons((uint16_t)(colon ? atoi(colon + 1) : 0));
    if (host[0] == '[') {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port};
        host[strcspn(host, "]")] = 0;
        if (inet_pton(AF_INET6, host + 1, &v6.sin6_addr) == 1) { add_listener((void *)&v6, sizeof v6, spec); return; }
    } else {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port};
        struct in_addr first, last;
        char *dash = strchr(host, '-');
        if (dash) *dash = 0;
        if (inet_pton(AF_INET, host, &first) == 1 && inet_pton(AF_INET, dash ? dash + 1 : host, &last) == 1) {
            for (uint32_t at = ntohl(first.s_addr); at <= ntohl(last.s_addr); at++) {
                v4.sin_addr.s_addr = htonl(at);
                add_listener((void *)&v4, sizeof v4, spec);
            }
            return;
        }
    }
    fprintf(stderr, "sink: -l wants ADDR:PORT or FIRST-LAST:PORT, not %s\n", spec);
    exit(2);
}

static void report_to(FILE *file)
{
    const char *form = json
        ? "{\"messages\": %ld, \"deliveries\": %ld, \"unique\": %ld, \"duplicates\": %ld, \"foreign\": %ld, \"damaged\": %ld, "
          "\"unanswered\": %ld, \"tempfailed\": %ld, \"refused\": %ld, \"bytes\": %llu, \"connections\": %ld, \"live\": %ld, "
          "\"max_live\": %ld, \"busiest\": %ld, \"first_ack\": %.6f, \"last_ack\": %.6f, \"seconds\": %.3f, \"rate\": %.1f}\n"
        : "messages %ld\ndeliveries %ld\nunique %ld\nduplicates %ld\nforeign %ld\ndamaged %ld\nunanswered %ld\ntempfailed %ld\n"
          "refused %ld\nbytes %llu\nconnections %ld\nlive %ld\nmax_live %ld\nbusiest %ld\nfirst_ack %.6f\nlast_ack %.6f\n"
          "seconds %.3f\nrate %.1f\n";
    double seconds = last_ack - first_ack;
    fprintf(file, form, (long)messages, (long)deliveries, (long)unique, (long)duplicates, (long)foreign, (long)damaged,
            (long)unanswered, (long)tempfailed, (long)refused, (unsigned long long)bytes, (long)connections, (long)live,
            (long)max_live, (long)busiest, first_ack, last_ack, seconds, seconds > 0 ? (double)deliveries / seconds : 0.0);
}

/* Written beside and renamed, so a reader never sees half a report. */
static void report_to_path(void)
{
    char beside[4096];
    report_wanted = 0;
    if (!report_path) return;
    snprintf(beside, sizeof beside, "%s.new", report_path);
    FILE *file = fopen(beside, "w");
    if (!file) return;
    report_to(file);
    if (!fclose(file)) rename(beside, report_path);
}

static void options(int argc, char **argv)
{
    int option, listeners = 0;
    while ((option = getopt(argc, argv, "l:n:M:w:d:PCT:t:u:x:Va:r:j")) != -1) switch (option) {
        case 'l': add_listeners(optarg); listeners++; break;
        case 'n': stop_after = atol(optarg); break;
        case 'M': keys = atol(optarg); break;
        case 'w': width = atol(optarg); break;
        case 'd': delay = atof(optarg) / 1000.0; break;
        case 'P': no_pipelining = 1; break;
        case 'T':
#ifdef WITH_TLS
            with_tls = 1;
            context = tls_context(optarg);
            break;
#else
            fprintf(stderr, "sink: built without TLS\n");
            exit(2);
#endif
        case 'C': no_chunking = 1; break;
        case 't': temporary = atoi(optarg); break;
        case 'u': permanent = atoi(optarg); break;
        case 'x': unanswering = atoi(optarg); break;
        case 'V': verify = 1; break;
        case 'a': account_path = optarg; break;
        case 'r': report_path = optarg; break;
        case 'j': json = 1; break;
        default: fprintf(stderr, "sink: the comment at the head of sink.c lists the options\n"); exit(2);
    }
    if (!listeners) add_listeners("127.0.0.1:2526");
}

static int next_wait(void)
{
    if (!due_first) return stopping ? 0 : 1000;
    double left = (due_first->due - now()) * 1000;
    return left <= 0 ? 0 : (int)left + 1;
}

static void run(void)
{
    while (!stopping || due_first) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poller, events, EVENTS, next_wait());
        for (int i = 0; i < n; i++) {
            peer *p = events[i].data.ptr;
            if (p->is_listener) on_connection(p);
            else if (p->gone) continue;
            else if ((events[i].events & EPOLLOUT) && !p->queued && flush(p)) continue;
            else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(p);
        }
        flush_due();
        if (report_wanted) report_to_path();
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct sigaction action = {.sa_handler = on_signal};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    options(argc, argv);
    account = calloc((size_t)keys, 1);
    if (!account) { fprintf(stderr, "sink: no memory for an account of %ld keys\n", (long)keys); return 1; }
    printf("ready\n");
    fflush(stdout);
    run();
    report_to(stdout);
    report_to_path();
    if (account_path) {
        FILE *file = fopen(account_path, "w");
        if (!file || fwrite(account, 1, (size_t)keys, file) != (size_t)keys || fclose(file)) { perror(account_path); return 1; }
    }
    return 0;
}
