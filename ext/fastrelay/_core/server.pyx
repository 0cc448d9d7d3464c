"""The SMTP server as a machine without sockets: octets and the time go in, replies, envelopes and contents come out.

RFC 5321 with PIPELINING (2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531), CHUNKING (3030, without BINARYMIME),
DSN (3461), ENHANCEDSTATUSCODES (2034), LIMITS (9422), STARTTLS (3207), AUTH (4954) and REQUIRETLS (8689). Policy is
the shell's, through `may_relay`, `verify_sender`, `verify_recipient`, `limits.refusal` and the answer to a message; so
is the handshake, and what a mechanism of AUTH says. Here are the lines, the base64 and the order of things.

The shell feeds what it reads to `receive_bytes` (or `receive`), which uses it up or copies it, then drains `next_event`
and `take_output`. After MESSAGE the machine holds back what follows until `answer`, after AUTH and AUTH_RESPONSE until
`auth_challenge` or `auth_done`; after STARTTLS it drops what follows until `tls_started`. Whatever way the octets are
cut, replies, envelopes and contents are the same.

    phase      leaves by                       deadline
    NEW        greeting()                      none: the shell greets
    COMMAND    DATA, BDAT, QUIT                idle_seconds after the last whole command
    DATA       CRLF.CRLF                       data_seconds without an octet; body_seconds + octets / body_rate in all
    CHUNK      the last octet of the BDAT      the same
    RESPONSE   a line of AUTH                  idle_seconds after the last whole line
    WAIT       answer()                        none: the shell's own
    JUDGED     auth_challenge(), auth_done()   idle_seconds; the shell's own is shorter
    HANDSHAKE  tls_started()                   none: the shell's own
    CLOSED     -                               none

Choices: a bare CR or LF in a command line or a content is refused (contents may be repaired instead), and so is a NUL
in a content (550 5.6.0). `<postmaster>` without a domain is refused with 550 5.1.3: a relay has no mailboxes. Spaces
after "MAIL FROM:" and before CRLF are let pass. Errors and commands are counted anew from each accepted message.

Known faults: a message that is too large is read to its end, which a client may draw out to body_seconds + octets /
body_rate. A BDAT whose size cannot be read closes the connection, since nobody can tell where its chunk ends.
"""

from binascii import Error as NotBase64, a2b_base64, b2a_base64

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.math cimport INFINITY
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from fastrelay._core.command cimport (
    Path,
    PathFault,
    is_client_name,
    is_text,
    parse_number,
    parse_path,
    same_word,
)
from fastrelay._core.envelope cimport (
    OFFER_AUTH,
    OFFER_REQUIRETLS,
    Envelope,
    ServerLimits,
    read_mail_parameters,
    read_rcpt_parameters,
    recipient_fault,
    sender_fault,
)

# For Python; cimport finds them in server.pxd.
globals()["Envelope"] = Envelope
globals()["ServerLimits"] = ServerLimits
NONE = SERVER_NONE
MESSAGE = SERVER_MESSAGE
SPILL = SERVER_SPILL
DISCARD = SERVER_DISCARD
CLOSE = SERVER_CLOSE
STARTTLS = SERVER_STARTTLS
AUTH = SERVER_AUTH
AUTH_RESPONSE = SERVER_AUTH_RESPONSE
AUTH_CANCEL = SERVER_AUTH_CANCEL

cdef enum:
    NEW
    COMMAND
    DATA
    CHUNK
    RESPONSE
    WAIT
    JUDGED
    HANDSHAKE
    CLOSED

cdef enum:
    HELD_BOUND = 1 << 20  # octets held back behind a message; the shell stops reading long before
    OUTPUT_KEPT = 4096  # octets of output buffer kept between two takes
    SMALL_CHUNK = 512  # a BDAT below this counts as a command without mail
    AUTH_LINE = 12288  # octets of a line of AUTH with its CRLF, RFC 4954 section 4
    MECHANISM = 20  # octets of its name, RFC 4422 section 3.1


cdef inline int _verb(const unsigned char* p) noexcept nogil:
    """Four octets in capitals as a number."""
    return (p[0] & 0xDF) << 24 | (p[1] & 0xDF) << 16 | (p[2] & 0xDF) << 8 | (p[3] & 0xDF)


cdef enum:
    # The verbs of four letters, as _verb gives them.
    EHLO = 0x45484C4F
    HELO = 0x48454C4F
    MAIL = 0x4D41494C
    RCPT = 0x52435054
    VERB_DATA = 0x44415441
    BDAT = 0x42444154
    VERB_AUTH = 0x41555448
    RSET = 0x52534554
    NOOP = 0x4E4F4F50
    VRFY = 0x56524659
    HELP = 0x48454C50
    QUIT = 0x51554954


@cython.final
cdef class SmtpServer:
    """One SMTP connection, from the greeting to the close."""

    def __cinit__(
        self,
        bytes hostname not None,
        ServerLimits limits not None,
        *,
        bint may_relay,
        long long spill_bytes=1 << 20,
        str bare_line_ends="refuse",
    ):
        if bare_line_ends not in ("refuse", "repair"):
            raise ValueError(f"bare_line_ends is 'refuse' or 'repair', not {bare_line_ends!r}")
        self.hostname = hostname
        self.limits = limits
        self.may_relay = may_relay
        self.deadline = INFINITY
        self._phase = NEW
        self._held = Collector()
        self._line = Collector()
        self._intake = Intake(limits, spill_bytes, bare_line_ends == "repair")

    def __dealloc__(self):
        free(self._output)

    # ---- what the shell calls

    def receive(self, const unsigned char[::1] octets, double now):
        """Takes octets that were read; keeps none of the buffer."""
        if octets.shape[0]:
            self.receive_bytes(&octets[0], octets.shape[0], now)

    cdef int receive_bytes(self, const unsigned char* p, Py_ssize_t n, double now) except -1:
        cdef Py_ssize_t used
        if self._phase == CLOSED or n <= 0:
            return 0
        if self._running:
            raise RuntimeError("verify_recipient must not call the machine")
        self._now = now
        if self._phase == NEW or self._phase == WAIT or self._phase == JUDGED:
            if self._phase == NEW:
                self.early_talker = True
            return self._hold(p, n)
        used = self._run(p, n)
        if used < n and (self._phase == WAIT or self._phase == JUDGED):
            self._hold(p + used, n - used)
        if self._shutting_down:
            self.shutdown(now)
        self._set_deadline(now)
        return 0

    cpdef int greeting(self, double now) except -1:
        """Greets the client; octets that came before are taken now, and `early_talker` tells of them."""
        if self._phase != NEW:
            return 0
        self._phase = COMMAND
        self._now = now
        self._say(b"220 %b ESMTP fastrelay\r\n" % self.hostname)
        self._run_held()
        self._progress = True
        self._set_deadline(now)
        return 0

    cpdef int refuse(self, bytes reply) except -1:
        """Says a last reply, of the shell's own (421 too many connections, …), and closes."""
        return self._close(reply)

    cpdef bytes take_output(self):
        """Octets to write, b"" when there are none."""
        if self.output_length == 0:
            return b""
        cdef bytes output = PyBytes_FromStringAndSize(<const char*>self._output, self.output_length)
        self.output_length = 0
        if self._output_capacity > OUTPUT_KEPT:
            free(self._output)
            self._output = NULL
            self._output_capacity = 0
        return output

    cpdef int next_event(self) except -1:
        """The next of DISCARD, SPILL (until take_chunk took all), MESSAGE, AUTH_CANCEL, one of STARTTLS, AUTH and
        AUTH_RESPONSE, CLOSE; then NONE."""
        cdef ServerEvent event
        if self._event_discard:
            self._event_discard = False
            return SERVER_DISCARD
        if self._intake.chunk_octets:
            return SERVER_SPILL
        if self._event_message:
            self._event_message = False
            return SERVER_MESSAGE
        if self._event_cancel:
            self._event_cancel = False
            return SERVER_AUTH_CANCEL
        if self._event_talk:
            event = self._event_talk
            self._event_talk = SERVER_NONE
            return event
        if self._event_close:
            self._event_close = False
            return SERVER_CLOSE
        return SERVER_NONE

    cpdef bytes take_chunk(self):
        """The next piece of a content that goes to a file, b"" for none; all pieces together are the content."""
        return self._intake.take_chunk()

    cpdef int answer(self, bytes reply, double now) except -1:
        """The reply to the message (one or more whole lines); then what was held back is handled.

        Does nothing when the connection is closed meanwhile. RuntimeError if no message waits.
        """
        if self._phase == CLOSED:
            return 0
        if self._phase != WAIT:
            raise RuntimeError("no message waits for an answer")
        self._now = now
        self._say(reply)
        if reply.startswith(b"2"):
            self.messages += 1
            self._commands = self._errors = 0
        self._phase = COMMAND
        self._intake.handed = False  # what was spilled is a message now
        self._end_transaction()
        return self._go_on(now)

    cdef int _go_on(self, double now) except -1:
        """Handles what was held back meanwhile."""
        self._run_held()
        if self._shutting_down:
            self.shutdown(now)
        self._progress = True
        self._set_deadline(now)
        return 0

    cpdef int tls_started(self, double now) except -1:
        """The handshake is done: a new session, in which nothing that was said before holds (RFC 3207 section 4.2)."""
        if self._phase == CLOSED:
            return 0
        if self._phase != HANDSHAKE:
            raise RuntimeError("no STARTTLS was answered")
        self.reset_session()
        self.tls = True
        return self._go_on(now)

    cpdef int auth_challenge(self, bytes octets, double now) except -1:
        """What the mechanism asks (not yet base64); its answer comes as AUTH_RESPONSE. RuntimeError if none is due."""
        if self._phase == CLOSED:
            return 0
        if self._phase != JUDGED:
            raise RuntimeError("no AUTH waits for an answer")
        self._now = now
        self.auth_octets = None
        self._phase = RESPONSE
        self._say(b"334 %b\r\n" % b2a_base64(octets, newline=False))
        return self._go_on(now)

    cpdef int auth_done(self, bytes user, bytes reply, double now) except -1:
        """AUTH is over: `user` is who the client is now, None if that failed; `reply` is one whole line or more, and
        421 closes."""
        if self._phase == CLOSED:
            return 0
        if self._phase != JUDGED:
            raise RuntimeError("no AUTH waits for an answer")
        self._now = now
        self.auth_octets = None
        self._phase = COMMAND
        self.user = user
        if user is None and reply.startswith(b"421"):
            self._close(reply)
        elif user is None and reply.startswith(b"5"):
            self._fault(reply)
        else:
            self._say(reply)
        return self._go_on(now)

    @property
    def backlog(self):
        """Octets held: behind what waits for an answer, and content not yet fetched. The shell stops at some."""
        return self._held.length - self._held_from + self._intake.chunk_octets

    @property
    def collected(self):
        """Octets of a content that is being read, as far as they are kept in memory."""
        return self._intake.unstuffer.content.length

    @property
    def waiting(self):
        """Whether a message waits for answer()."""
        return self._phase == WAIT

    cpdef bint tick(self, double now) except -1:
        """Closes with 421 when the deadline has passed; whether it did."""
        if now < self.deadline or self._phase == CLOSED:
            return False
        self._close(b"421 4.4.2 %b Timeout, closing\r\n" % self.hostname)
        return True

    cpdef int shutdown(self, double now) except -1:
        """Closes with 421 as soon as no mail transaction is open: now, or after the answer to the message under way."""
        self._shutting_down = True
        if self._phase == NEW or self._phase == RESPONSE or (self._phase == COMMAND and self.envelope is None):
            self._close(b"421 4.3.2 %b Shutting down\r\n" % self.hostname)
        return 0

    cpdef void connection_lost(self) noexcept:
        """Frees the buffers. A message that waits stays the shell's; its answer() will do nothing."""
        if self._phase != WAIT:
            self._intake.drop()
        self._event_discard = self._event_close = self._event_cancel = False
        self._event_talk = SERVER_NONE
        self.auth_octets = None
        self._phase = CLOSED
        self.closed = True
        self.deadline = INFINITY
        if not self._running:  # else they are in use, and freed behind the line
            self._held.clear()
            self._held_from = 0
            self._drop_line()

    cpdef int reset_session(self) except -1:
        """Forgets all that the client said, that was read or held back, and who it was (RFC 3207 section 4.2)."""
        if self._running:
            raise RuntimeError("verify_recipient must not call the machine")
        self._end_transaction()
        self._held.clear()
        self._held_from = 0
        self._drop_line()
        self.helo = None
        self.esmtp = False
        self.user = None
        self.auth_mechanism = self.auth_octets = None
        self._event_cancel = False
        self._event_talk = SERVER_NONE
        if self._phase != CLOSED:
            self._phase = COMMAND
        return 0

    # ---- input

    cdef Py_ssize_t _run(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Handles octets until something waits or the machine closed; gives how many were used up."""
        cdef Py_ssize_t i = 0
        self._running = True
        try:
            while i < n:
                if self._phase == COMMAND:
                    i += self._take_line(p + i, n - i)
                elif self._phase == DATA:
                    i += self._take_data(p + i, n - i)
                elif self._phase == CHUNK:
                    i += self._take_chunk_octets(p + i, n - i)
                elif self._phase == RESPONSE:
                    i += self._take_line(p + i, n - i)
                else:
                    break
        finally:
            self._running = False
        return i

    cdef int _run_held(self) except -1:
        cdef Py_ssize_t n = self._held.length - self._held_from
        if n:
            self._held_from += self._run(self._held.start + self._held_from, n)
        if self._held_from == self._held.length or self._phase == CLOSED or self._phase == HANDSHAKE:
            self._held.clear()
            self._held_from = 0
        return 0

    cdef int _hold(self, const unsigned char* p, Py_ssize_t n) except -1:
        if self._held_from:
            self._held.length -= self._held_from
            memmove(self._held.start, self._held.start + self._held_from, self._held.length)
            self._held_from = 0
        if self._held.length + n > HELD_BOUND:
            return self._close(b"421 4.3.0 %b Too much sent ahead\r\n" % self.hostname)
        return self._held.append(p, n)

    cdef void _set_deadline(self, double now) noexcept:
        cdef double whole
        if self._phase in (COMMAND, NEW, RESPONSE, JUDGED):
            # A command that comes an octet at a time does not move it.
            if self._progress:
                self._progress = False
                self.deadline = now + self.limits.idle_seconds
        elif self._phase == DATA or self._phase == CHUNK:
            whole = self._body_began + self.limits.body_seconds + self._body_octets / self.limits.body_rate
            self.deadline = min(now + self.limits.data_seconds, whole)
        else:
            self.deadline = INFINITY

    cdef Py_ssize_t _take_line(self, const unsigned char* p, Py_ssize_t n) except -1:
        """One command line, or the part of it that is here; gives the octets used up."""
        cdef const unsigned char* lf
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t octets
        if self._line_octets == 0 and p[0] == 0x16 and self.helo is None:
            # A TLS ClientHello: it has no CRLF to wait for.
            self._close(b"421 4.7.0 %b This port begins without TLS\r\n" % self.hostname)
            return n
        while True:
            lf = <const unsigned char*>memchr(p + i, c"\n", n - i)
            if lf is NULL:
                self._keep_line(p, n)
                return n
            i = lf - p + 1
            if (p[i - 2] if i > 1 else self._line_last) == c"\r":
                break
            self._line_bare = True
        octets = self._line_octets + i
        self._progress = True
        if self._line_octets == 0:
            self._on_line(p, i - 2, octets)
        else:
            self._keep_line(p, i)
            self._on_line(self._line.start, self._line.length - 2, octets)
        self._drop_line()
        return i

    cdef int _keep_line(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Keeps a part of a line, as far as the limit goes (which of the two, its whole length will tell)."""
        cdef Py_ssize_t most = self.limits.line if self.offer_auth is None else max(self.limits.line, AUTH_LINE)
        cdef Py_ssize_t room = most - self._line.length
        self._line_octets += n
        self._line_last = p[n - 1]
        return self._line.append(p, min(n, room))

    cdef void _drop_line(self) noexcept:
        if self._line_octets:
            self._line.clear()
            self._line_octets = 0
        self._line_last = 0
        self._line_bare = False

    cdef int _on_line(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) except -1:
        """A line without its CRLF. `octets` is its true length with CRLF; p may hold less of it."""
        self._commands += 1
        if self._commands > self.limits.commands:
            return self._close(b"421 4.7.0 %b Too many commands without mail\r\n" % self.hostname)
        if self._phase == RESPONSE:
            return self._on_response(p, n, octets)
        if octets > self.limits.line and not self._is_auth(p, n, octets):
            return self._bad_line(p, n, b"500 5.5.2 Line too long\r\n")
        if self._line_bare or memchr(p, c"\r", n) is not NULL:
            return self._bad_line(p, n, b"500 5.5.2 Bare CR or LF in a command\r\n")
        while n and (p[n - 1] == c" " or p[n - 1] == c"\t"):
            n -= 1
        if not is_text(p, n):
            return self._bad_line(p, n, b"500 5.5.2 Control character in a command\r\n")
        if self._shutting_down and self.envelope is None:
            return self._close(b"421 4.3.2 %b Shutting down\r\n" % self.hostname)
        return self._dispatch(p, n)

    cdef int _bad_line(self, const unsigned char* p, Py_ssize_t n, bytes reply) except -1:
        if n >= 4 and _verb(p) == BDAT:
            # The octets of its chunk must not be read as commands.
            return self._close(b"501 5.5.4 Syntax: BDAT octets [LAST]; closing\r\n")
        return self._fault(reply)

    cdef bint _is_auth(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) noexcept:
        """Whether it is a line of AUTH that may be so long."""
        return octets <= AUTH_LINE and self.offer_auth is not None and n > 4 and _verb(p) == VERB_AUTH and p[4] == c" "

    cdef int _dispatch(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Calls what a verb asks for."""
        cdef int verb
        cdef Py_ssize_t i = 5 if n > 5 else n  # of the argument
        if n < 4 or (n > 4 and p[4] != c" "):
            return self._on_unknown(p, n)
        while i < n and p[i] == c" ":
            i += 1
        verb = _verb(p)
        if verb == MAIL:
            return self._on_mail(p, i, n)
        if verb == RCPT:
            return self._on_rcpt(p, i, n)
        if verb == BDAT:
            return self._on_bdat(p, i, n)
        if verb == EHLO or verb == HELO:
            return self._on_hello(p, i, n, verb == EHLO)
        if verb == NOOP:
            return self._say(b"250 2.0.0 Ok\r\n")
        if verb == VRFY:
            if i == n:
                return self._fault(b"501 5.5.4 Syntax: VRFY address\r\n")
            return self._say(b"252 2.5.0 Not verified here; send mail and it will be tried\r\n")
        if verb == HELP:
            return self._say(b"214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 5321)\r\n")
        if verb == VERB_DATA or verb == RSET or verb == QUIT:
            if i < n:
                return self._fault(b"501 5.5.4 This command takes no argument\r\n")
            if verb == VERB_DATA:
                return self._on_data()
            if verb == QUIT:
                return self._close(b"221 2.0.0 %b closing\r\n" % self.hostname)
            self._end_transaction()
            return self._say(b"250 2.0.0 Ok\r\n")
        if verb == VERB_AUTH:
            return self._on_auth(p, i, n)
        return self._on_unknown(p, n)

    cdef int _on_unknown(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef const unsigned char* space = <const unsigned char*>memchr(p, c" ", n)
        if space is not NULL:
            n = space - p
        if same_word(p, n, b"STARTTLS"):
            return self._on_starttls(space is not NULL)
        for word in (b"GET", b"POST", b"HEAD", b"PUT", b"CONNECT", b"OPTIONS", b"DELETE"):
            if same_word(p, n, word):
                return self._close(b"421 4.7.0 %b This is SMTP\r\n" % self.hostname)
        for word in (b"EXPN", b"TURN", b"ETRN", b"SEND", b"SOML", b"SAML"):
            if same_word(p, n, word):
                return self._fault(b"502 5.5.1 Command not implemented\r\n")
        return self._fault(b"500 5.5.2 Command not recognized\r\n")

    # ---- output

    cdef int _say(self, bytes reply) except -1:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(reply)
        cdef Py_ssize_t need = self.output_length + n
        cdef unsigned char* grown
        if need > self._output_capacity:
            need = max(need, 2 * self._output_capacity, 256)
            grown = <unsigned char*>realloc(self._output, need)
            if grown is NULL:
                raise MemoryError
            self._output = grown
            self._output_capacity = need
        memcpy(self._output + self.output_length, PyBytes_AS_STRING(reply), n)
        self.output_length += n
        return 0

    cdef int _fault(self, bytes reply) except -1:
        """Refuses a command; after too many, the connection."""
        self._errors += 1
        if self._errors > self.limits.errors:
            return self._close(b"421 4.7.0 %b Too many errors\r\n" % self.hostname)
        return self._say(reply)

    cdef int _close(self, bytes reply) except -1:
        """The last words. A message that waits stays the shell's; what is unfinished is dropped."""
        if self._phase == CLOSED:
            return 0
        if self._phase != WAIT and self._intake.drop():
            self._event_discard = True
        self._say(reply)
        self._phase = CLOSED
        self.closed = True
        self.deadline = INFINITY
        self._event_close = True
        return 0

    # ---- commands; p[0:n] is the line, p[i] the first octet of the argument

    cdef int _on_hello(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n, bint esmtp) except -1:
        if not is_client_name(p + i, n - i):
            # No enhanced status code in any reply to EHLO or HELO (RFC 2034).
            return self._fault(b"501 Syntax: EHLO hostname\r\n" if esmtp else b"501 Syntax: HELO hostname\r\n")
        self._end_transaction()
        self.helo = p[i:n]
        self.esmtp = esmtp
        if not esmtp:
            return self._say(b"250 %b\r\n" % self.hostname)
        return self._say(
            b"250-%b\r\n250-PIPELINING\r\n250-SIZE %d\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n%b"
            b"250-ENHANCEDSTATUSCODES\r\n%b%b%b250 LIMITS RCPTMAX=%d\r\n"
            % (
                self.hostname,
                self.limits.message_size,
                b"" if self.without_dsn else b"250-DSN\r\n",
                b"250-STARTTLS\r\n" if self.offer_starttls and not self.tls and self.user is None else b"",
                b"250-AUTH %b\r\n" % self.offer_auth if self.offer_auth is not None and self.user is None else b"",
                b"250-REQUIRETLS\r\n" if self.tls else b"",
                self.limits.recipients,
            )
        )

    cdef int _on_mail(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1:
        cdef Path path
        cdef PathFault fault
        cdef Envelope envelope
        cdef bytes refusal
        cdef int offers
        if self.helo is None:
            return self._fault(b"503 5.5.1 EHLO first\r\n")
        if self.envelope is not None:
            return self._fault(b"503 5.5.1 A transaction is open; RSET or end it\r\n")
        if n - i < 5 or not same_word(p + i, 5, b"FROM:"):
            return self._fault(b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n")
        if self.auth_required and self.user is None:
            if self.offer_auth is None and self.offer_starttls and not self.tls:
                return self._fault(b"530 5.7.0 STARTTLS first, then AUTH\r\n")
            return self._fault(b"530 5.7.0 Authentication required\r\n")
        if self.limits.refusal is not None:
            return self._say(self.limits.refusal)
        i += 5
        while i < n and p[i] == c" ":
            i += 1
        fault = parse_path(p, i, n, &path)
        if fault:
            return self._fault(sender_fault(fault))
        envelope = Envelope.__new__(Envelope)
        envelope.helo = self.helo
        envelope.esmtp = self.esmtp
        envelope.reverse_path = p[path.start : path.start + path.length]
        if path.end < n:
            offers = OFFER_AUTH if self.offer_auth is not None else 0
            if self.tls:
                offers |= OFFER_REQUIRETLS
            refusal = read_mail_parameters(envelope, self.limits, offers, p, path.end, n)
            if refusal is not None:
                return self._fault(refusal)
        if path.utf8 and not envelope.smtputf8:
            return self._fault(b"553 5.6.7 A non-ASCII address needs SMTPUTF8\r\n")
        if self.verify_sender is not None:
            refusal = self.verify_sender(envelope.reverse_path)
            if refusal is not None:
                return self._fault(refusal) if refusal.startswith(b"5") else self._say(refusal)
        self.envelope = envelope
        return self._say(b"250 2.1.0 Ok\r\n")

    cdef int _on_rcpt(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1:
        cdef Path path
        cdef PathFault fault
        cdef Envelope envelope = self.envelope
        cdef bytes refusal
        if envelope is None or self._chunking:
            return self._fault(b"503 5.5.1 MAIL first\r\n" if envelope is None else b"503 5.5.1 Not after BDAT\r\n")
        if n - i < 3 or not same_word(p + i, 3, b"TO:"):
            return self._fault(b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
        i += 3
        while i < n and p[i] == c" ":
            i += 1
        fault = parse_path(p, i, n, &path)
        if fault or path.length == 0:
            return self._fault(recipient_fault(fault, p, &path))
        if path.end < n:
            refusal = read_rcpt_parameters(envelope, p, path.end, n)
            if refusal is not None:
                return self._fault(refusal)
        if path.utf8 and not envelope.smtputf8:
            return self._fault(b"553 5.6.7 A non-ASCII address needs SMTPUTF8\r\n")
        if not self.may_relay:
            if self.offer_auth is not None:
                return self._fault(b"550 5.7.1 Relaying denied without AUTH\r\n")
            return self._fault(b"550 5.7.1 Relaying denied\r\n")
        # Neither a recipient taken nor one too many speaks of a client that sends no mail.
        self._commands -= 1
        if PyList_GET_SIZE(envelope.recipients) >= self.limits.recipients:
            return self._say(b"452 4.5.3 Too many recipients; send the rest in another transaction\r\n")
        mailbox = <bytes>p[path.start : path.start + path.length]
        if self.verify_recipient is not None:
            refusal = self.verify_recipient(mailbox)
            if refusal is not None:
                return self._fault(refusal) if refusal.startswith(b"5") else self._say(refusal)
        parameters = None
        if path.end < n:
            parameters = <bytes>p[path.end : n]
            if b"  " in parameters:
                parameters = b" " + b" ".join(parameters.split())
        envelope.recipients.append(mailbox)
        envelope.recipient_parameters.append(parameters)
        return self._say(b"250 2.1.5 Ok\r\n")

    cdef int _on_data(self) except -1:
        if self.envelope is None:
            return self._fault(b"503 5.5.1 MAIL first\r\n")
        if self._chunking:
            return self._fault(b"503 5.5.1 Not after BDAT\r\n")
        if not self.envelope.recipients:
            # Usual behind a pipelined RCPT that was refused, so no error of its own.
            return self._say(b"554 5.5.1 No valid recipients\r\n")
        self._intake.begin(True, self.envelope.size_declared)
        self._body_began = self._now
        self._body_octets = 0
        self._phase = DATA
        return self._say(b"354 End data with <CR><LF>.<CR><LF>\r\n")

    cdef int _on_bdat(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1:
        cdef Py_ssize_t end = i
        cdef long long octets
        while end < n and p[end] != c" ":
            end += 1
        octets = parse_number(p + i, end - i)
        while end < n and p[end] == c" ":
            end += 1
        if octets < 0 or (end < n and not same_word(p + end, n - end, b"LAST")):
            # Nobody knows where this chunk ends; its octets must not be read as commands.
            return self._close(b"501 5.5.4 Syntax: BDAT octets [LAST]; closing\r\n")
        if octets >= SMALL_CHUNK:
            self._commands -= 1
        self._chunk_reply = None
        self._chunk_left = octets
        self._chunk_last = end < n
        if self.envelope is None or not self.envelope.recipients:
            self._chunk_reply = b"503 5.5.1 MAIL and a valid RCPT first\r\n"
        else:
            if not self._chunking:
                self._intake.begin(False, max(octets, self.envelope.size_declared))
                self._chunking = True
            if self._intake.unstuffer.length + octets > self.limits.message_size:
                self._chunk_reply = self._intake.too_large()
        if self._chunk_reply is not None:
            self._end_transaction()
        self._body_began = self._now
        self._body_octets = 0
        if octets == 0:
            return self._end_chunk()
        self._phase = CHUNK
        return 0

    # ---- TLS and AUTH

    cdef int _on_starttls(self, bint argument) except -1:
        """RFC 3207. What the client sends behind it is dropped: it was not said under TLS."""
        if self.tls:
            return self._fault(b"503 5.5.1 TLS is active\r\n")
        if not self.offer_starttls:
            return self._fault(b"502 5.5.1 Command not implemented\r\n")
        if argument:
            return self._fault(b"501 5.5.4 This command takes no argument\r\n")
        if self.envelope is not None or self.user is not None:
            return self._fault(b"503 5.5.1 Not in a transaction and not after AUTH\r\n")
        if self.limits.tls_refusal is not None:
            return self._say(self.limits.tls_refusal)
        self._phase = HANDSHAKE
        self._event_talk = SERVER_STARTTLS
        return self._say(b"220 2.0.0 Ready to start TLS\r\n")

    cdef int _on_auth(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1:
        """RFC 4954 section 4: AUTH mechanism [initial-response]."""
        cdef Py_ssize_t end = i
        cdef bytes mechanism
        if self.offer_auth is None:
            if self.auth_needs_tls and not self.tls:
                return self._fault(b"538 5.7.11 Encryption required; STARTTLS first\r\n")
            return self._fault(b"502 5.5.1 Command not implemented\r\n")
        if not self.esmtp:
            return self._fault(b"503 5.5.1 EHLO first\r\n")
        if self.envelope is not None or self.user is not None:
            return self._fault(b"503 5.5.1 Not in a transaction, and not twice\r\n")
        while end < n and p[end] != c" ":
            end += 1
        if end == i:
            return self._fault(b"501 5.5.4 Syntax: AUTH mechanism [initial-response]\r\n")
        mechanism = p[i : min(end, i + MECHANISM + 1)]
        mechanism = mechanism.upper()
        if mechanism not in self.offer_auth.split():
            return self._fault(b"504 5.5.4 Mechanism not offered\r\n")
        while end < n and p[end] == c" ":
            end += 1
        self.auth_octets = None
        if end < n:
            if n - end == 1 and p[end] == c"=":
                self.auth_octets = b""
            else:
                self.auth_octets = _decoded(p + end, n - end)
                if self.auth_octets is None:
                    return self._fault(b"501 5.5.2 Not base64\r\n")
        self.auth_mechanism = mechanism
        self._phase = JUDGED
        self._event_talk = SERVER_AUTH
        return 0

    cdef int _on_response(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) except -1:
        """A line of the client's in the middle of AUTH."""
        while n and (p[n - 1] == c" " or p[n - 1] == c"\t"):
            n -= 1
        self._phase = COMMAND
        self._event_cancel = True
        if octets > AUTH_LINE:
            return self._fault(b"500 5.5.6 Line too long\r\n")
        if n == 1 and p[0] == c"*":
            return self._fault(b"501 5.7.0 Authentication cancelled\r\n")
        self.auth_octets = None if self._line_bare else _decoded(p, n)
        if self.auth_octets is None:
            return self._fault(b"501 5.5.2 Not base64\r\n")
        self._event_cancel = False
        self._phase = JUDGED
        self._event_talk = SERVER_AUTH_RESPONSE
        return 0

    # ---- content

    cdef Py_ssize_t _take_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t used = self._intake.feed(self.envelope, p, n)
        self._body_octets += used
        if self._intake.unstuffer.ended:
            self._end_content()
        return used

    cdef Py_ssize_t _take_chunk_octets(self, const unsigned char* p, Py_ssize_t n) except -1:
        if n > self._chunk_left:
            n = self._chunk_left
        self._chunk_left -= n
        self._body_octets += n
        if self._chunk_reply is None:
            self._intake.feed(self.envelope, p, n)
        if self._chunk_left == 0:
            self._end_chunk()
        return n

    cdef int _end_chunk(self) except -1:
        cdef bytes reply
        self._phase = COMMAND
        self._progress = True
        if self._chunk_reply is not None:
            return self._say(self._chunk_reply)
        if self._chunk_last:
            self._intake.unstuffer.finish_chunks()
            return self._end_content()
        reply = self._intake.fault()
        if reply is None:
            return self._say(b"250 2.0.0 Ok, so far %d octets\r\n" % self._intake.unstuffer.length)
        self._end_transaction()
        return self._say(reply)

    cdef int _end_content(self) except -1:
        """The whole content is here: a message, or the reply that refuses it."""
        cdef bytes reply = self._intake.fault()
        self._progress = True
        if reply is not None:
            self._phase = COMMAND
            self._end_transaction()
            return self._say(reply)
        self._intake.complete(self.envelope)
        self._phase = WAIT
        self._event_message = True
        return 0

    cdef void _end_transaction(self) noexcept:
        """Forgets the transaction and a content that became no message; the shell learns of it if it has a part."""
        if self._intake.drop():
            self._event_discard = True
        self.envelope = None
        self._chunking = False


cdef bytes _decoded(const unsigned char* p, Py_ssize_t n):
    """The octets of p[0:n] in base64 (RFC 4648 section 4, padding and all); None where it is none."""
    if n == 0:
        return b""
    try:
        return a2b_base64(p[:n], strict_mode=True)
    except NotBase64:
        return None
