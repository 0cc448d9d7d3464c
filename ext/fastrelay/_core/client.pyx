"""The SMTP client machine: replies in, commands out, one mail transaction at a time on one session.

Sans-IO: it holds no socket and no clock. The shell calls receive/begin/chunk/progress/tick/connection_lost with `now`
(monotonic seconds), then writes what take_output gives, then asks next_event until it says NONE:

    READY              greeting and EHLO are done, or the last transaction is over and the session is clean:
                       begin() may be called
    DONE               take_finished() gives the transaction, with what became of it
    NEED_BODY          chunk() may be called once (for a content that is streamed)
    GREETING_REFUSED   last_reply says why the server takes no mail in this session; CLOSING follows
    CLOSING            write what is left, then close; error_kind and error say why, if it was not our wish
    STARTTLS           220 was said to STARTTLS: make TLS, look at the certificate, then tls_started() (or tls_failed())

take_output must be called after each of these calls: a reply that was read before its command was handed out is
nobody's answer, and that is how the machine knows. `deadline` counts from the request, not from the last octet read.

Before READY: STARTTLS where `tls` asks for it, EHLO again behind it (all that was offered before is forgotten), AUTH if
there is a login. An octet between the 220 and the handshake, in whichever read, ends the session: it could have been
put there by anybody, to be taken for an answer under TLS. With TLS_IMPLICIT the shell makes TLS first.

How a transaction goes out: with PIPELINING, MAIL and all RCPT in one group, with DATA behind them; where CHUNKING is
offered too, a small content goes in that same group as "BDAT n LAST", and a larger or streamed one by BDAT after the
replies. Nothing follows a final dot or last chunk before its reply is read (RFC 2920 section 3.1, RFC 3030 section
4.2). A session that had a refusal is reset, and is READY only after 250 to RSET. Every reply is counted in order;
whatever does not fit ends the session, and a transaction is delivered by nothing but a 2xx reply to its whole content.

Known faults: a server that answers one command twice with well-formed replies inside one pipelined group shifts the
rest by one, which cannot be told from a right order when all are 2xx. A server that parses a refused BDAT chunk as
commands (against RFC 3030) ends the session.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.math cimport INFINITY

from fastrelay._core.reply cimport REPLY_TEXT_LIMIT, REPLY_TOTAL_LIMIT
from fastrelay._core.transaction cimport (
    BDAT_LAST, DATA_COMMAND, ERROR_AUTH, ERROR_CLOSED, ERROR_LOCAL_ABORT, ERROR_NONE, ERROR_PROTOCOL, ERROR_TIMEOUT,
    ERROR_TLS, NO_BODY, STAGE_BODY, STAGE_DATA, STAGE_FINAL, STAGE_MAIL, STAGE_NONE, STAGE_RCPT, command_group, fits,
    look,
)

from fastrelay._core import transaction as _nouns

# Names cimported for C are given to Python too, so that users import everything from here.
globals().update({name: getattr(_nouns, name) for name in (
    "Capabilities", "Timeouts", "Transaction", "Stage", "ErrorKind")})

# What goes on in each state, for people. The timeouts stand in _patience.
cdef tuple WORDS = (
    "waiting for the greeting", "waiting for the reply to EHLO", "waiting for the reply to HELO",
    "waiting for the reply to STARTTLS", "in the TLS handshake", "waiting for the reply to AUTH", "idle",
    "waiting for the reply to MAIL", "waiting for the reply to RCPT", "waiting for the reply to DATA",
    "sending the message", "waiting for the reply to the message", "waiting for the reply to RSET",
    "waiting for the reply to QUIT", "closed",
)


cdef inline bint _not_understood(int code) noexcept:
    return 500 <= code <= 502 or code == 504


@cython.final
cdef class SmtpClient:
    """One SMTP session. See the top of the file for the protocol between it and its shell."""

    def __init__(self, bytes ehlo_name not None, double now, *, bint allow_pipelining=True,
                 bint allow_chunking=True, Timeouts timeouts=None, object trace=None, int tls=TLS_NONE,
                 object login=None, bint auth_in_clear=False):
        """`tls`: one of Tls. `login`: makes the lines of AUTH (fastrelay/deliver/login.py). Nothing of it is shown to a
        server that has not proved who it is under TLS, unless auth_in_clear (loopback)."""
        if not ehlo_name or look(ehlo_name) != 0 or b" " in ehlo_name:
            raise ValueError("the EHLO name must be a host name or an address literal")
        self._ehlo_name = ehlo_name
        self._allow_pipelining = allow_pipelining
        self._allow_chunking = allow_chunking
        self._timeouts = Timeouts() if timeouts is None else timeouts
        self.trace = trace
        self.capabilities = Capabilities.__new__(Capabilities)
        self._parser = ReplyParser()
        self._out = []
        self._tls_wanted = tls
        self._login = login
        self._auth_in_clear = auth_in_clear
        self._await(STATE_HANDSHAKE if tls == TLS_IMPLICIT else STATE_GREETING, now)

    # ---- the shell calls these

    def receive(self, octets, double now):
        """Octets from the server (any buffer)."""
        cdef bytes copy = octets if type(octets) is bytes else bytes(octets)
        self.receive_bytes(<const unsigned char*>PyBytes_AS_STRING(copy), PyBytes_GET_SIZE(copy), now)

    cdef int receive_bytes(self, const unsigned char* octets, Py_ssize_t n, double now) except -1:
        cdef Py_ssize_t used = 0
        cdef ReplyParser parser = self._parser
        while used < n and self.state != STATE_CLOSED:
            if self.state == STATE_HANDSHAKE:
                return self._injected()
            used += parser.parse(octets + used, n - used)
            if parser.error is not None:
                return self._fail(ERROR_PROTOCOL, parser.error)
            if parser.reply is not None:
                self._on_reply(parser.reply, now)
        return 0

    cpdef int begin(self, Transaction tx, double now) except -1:
        """Start a transaction; READY must have been said. Raises RuntimeError and ValueError for mistakes of ours.

        What the server cannot take (size, 8BITMIME, SMTPUTF8) fails here: DONE follows, nothing is sent.
        """
        if self.state != STATE_READY or self._events & (1 << EVENT_DONE):
            raise RuntimeError("the session is not ready for a transaction")
        tx.start()
        self._events &= ~(1 << EVENT_READY)
        self.finished = None
        if not fits(tx, self.capabilities, self.tls_verified):
            self.finished = tx
            self._events |= (1 << EVENT_DONE) | (1 << EVENT_READY)
            return 0
        self._tx = tx
        if self._parser.partial():
            return self._fail(ERROR_PROTOCOL, "the server sent the start of a reply nobody asked for")
        return self._send_envelope(now)

    cpdef bint chunk(self, bytes octets, bint last, double now) except -1:
        """The next piece of a streamed body. False when it is no longer wanted (a refusal came meanwhile)."""
        cdef Transaction tx = self._tx
        cdef Py_ssize_t n = PyBytes_GET_SIZE(octets)
        if self.state != STATE_BODY or tx is None or self._refused_chunk:
            return False
        if not self._wanted:
            raise RuntimeError("no chunk was asked for")
        self._wanted = False
        self._events &= ~(1 << EVENT_NEED_BODY)
        if not self._bdat:
            self._trace_body(n)
            self._queue(self._stuffer.feed(octets))
            if last:
                self._queue(self._stuffer.finish())
        elif n or last:
            if self._chunks == 0:
                self._asked = True
            self._chunks += 1
            self._last_chunk = last
            if self._prefix_due:
                self._prefix_due = False
                n += PyBytes_GET_SIZE(tx.prefix)
                self._call(b"BDAT %d%s\r\n%s" % (n, b" LAST" if last else b"", tx.prefix))
            else:
                self._call(b"BDAT %d%s\r\n" % (n, b" LAST" if last else b""))
            self._trace_body(n)
            self._queue(octets)
        self._body_out(last, now)
        return True

    cpdef int abort_body(self, double now) except -1:
        """The content cannot be read to its end. By BDAT the session survives; by DATA it is closed without a dot."""
        cdef Transaction tx = self._tx
        if tx is None:
            return 0
        if self.state != STATE_BODY or not self._bdat:
            return self._fail(ERROR_LOCAL_ABORT, "the content could not be read to its end")
        tx.fail(ERROR_LOCAL_ABORT, "the content could not be read to its end", None)
        self._refused_chunk = True
        self._events &= ~(1 << EVENT_NEED_BODY)
        return self._finish(STAGE_BODY, False, now) if self._chunks == 0 else 0

    cpdef int quit(self, double now) except -1:
        """Say QUIT when READY; close at once in a state where that would be out of step."""
        if self._tx is not None:
            raise RuntimeError("a transaction is under way")
        if self.state != STATE_READY:
            return self._close()
        self._events &= ~(1 << EVENT_READY)
        return self._ask(b"QUIT\r\n", STATE_QUIT, now)

    cpdef int tls_started(self, double now, bint verified=False) except -1:
        """TLS stands. verified: the certificate is that of the host by a rule nobody on the way can bend."""
        if self.state != STATE_HANDSHAKE:
            raise RuntimeError("TLS was not asked for")
        self.tls = True
        self.tls_verified = verified
        self.capabilities = Capabilities.__new__(Capabilities)
        self._parser = ReplyParser()
        if self.trace is not None:
            self.trace("-", b"TLS stands" + (b", with a server that has proved who it is" if verified else b""))
        return self._hello(now) if self._greeted else self._await(STATE_GREETING, now)

    cpdef int tls_failed(self, str words) except -1:
        """TLS did not come about, or not as it must be: the session ends."""
        return self._fail(ERROR_TLS, words)

    cpdef int tick(self, double now) except -1:
        """Look at the deadline; 1 when it has passed (events follow)."""
        if now < self.deadline or self.state == STATE_CLOSED:
            return 0
        self._fail(ERROR_TIMEOUT, f"timed out {WORDS[self.state]}")
        return 1

    cpdef int progress(self, double now, Py_ssize_t pending=0) except -1:
        """The socket took octets, `pending` are left in its buffer. A must for bodies above SMALL_BODY octets."""
        cdef bint moved = self._pending < 0 or pending < self._pending
        if self.state == STATE_BODY or (self.state == STATE_FINAL and self._draining):
            self._pending = pending
            if pending == 0 and self.state == STATE_FINAL:
                self._draining = False
                self.deadline = now + self._timeouts.final
            elif moved:
                self.deadline = min(self._body_deadline, now + self._timeouts.block)
        return 0

    cpdef int connection_lost(self, double now) except -1:
        """The connection is gone, by whichever side."""
        return self._fail(ERROR_CLOSED, f"connection closed by the server while {WORDS[self.state]}")

    cpdef list take_output(self):
        """What to write now, in order; a new list of bytes."""
        cdef list out = self._out
        if PyList_GET_SIZE(out):
            self._out = []
        else:
            out = []
        if self._asked:
            self._asked = False
            self._stale = self._parser.partial()
        if self._sent and self._tx is not None:
            self._tx.rcpt_written = True
        if self._body_queued and self._tx is not None:
            self._tx.body_began = True
            self._tx.body_complete = self._body_queued == 2
            self._body_queued = 0
        return out

    cpdef Transaction take_finished(self):
        """The finished transaction, handed over: the machine keeps no hold of its content."""
        cdef Transaction tx = self.finished
        self.finished = None
        return tx

    cpdef int next_event(self) noexcept:
        """The next event, EVENT_NONE when there is none."""
        cdef int event
        if self._events:
            for event in range(EVENT_DONE, EVENT_STARTTLS + 1):
                if self._events & (1 << event):
                    self._events &= ~(1 << event)
                    return event
        return EVENT_NONE

    # ---- what goes out

    cdef int _queue(self, bytes octets) except -1:
        if PyBytes_GET_SIZE(octets):
            self._out.append(octets)
        return 0

    cdef int _ask(self, bytes octets, int state, double now) except -1:
        """Queue commands when no reply is outstanding, and wait for the first of their replies."""
        self._call(octets)
        self._asked = True
        return self._await(state, now)

    cdef int _call(self, bytes octets) except -1:
        """Queue commands."""
        self._out.append(octets)
        if self.trace is not None:
            self._trace_commands(octets)
        return 0

    cdef int _trace_commands(self, bytes octets) except -1:
        """Show command lines; a prefix behind BDAT is body and is counted by _body_out."""
        for line in octets.split(b"\r\n"):
            if line:
                self.trace(">", line)
            if line[:5] == b"BDAT ":
                break
        return 0

    cdef int _trace_body(self, Py_ssize_t octets) except -1:
        if self.trace is not None and octets:
            self.trace("-", b"%d octets of the message" % octets)
        return 0

    cdef int _await(self, int state, double now) except -1:
        self.state = state
        self._parser.slot = 0 if state == STATE_MAIL else 1 if state == STATE_RCPT else 2 if state == STATE_FINAL else 3
        self.deadline = now + self._patience(state)
        if STATE_MAIL <= state <= STATE_DATA and self.deadline > self._envelope_deadline:
            self.deadline = self._envelope_deadline
        return 0

    cdef double _patience(self, int state) noexcept:
        cdef Timeouts timeouts = self._timeouts
        if state == STATE_GREETING:
            return timeouts.greeting
        if STATE_EHLO <= state <= STATE_AUTH and state != STATE_HANDSHAKE:    # the shell looks after that
            return timeouts.ehlo
        if state == STATE_MAIL:
            return timeouts.mail
        if state == STATE_RCPT:
            return timeouts.rcpt
        if state == STATE_DATA:
            return timeouts.data
        if state == STATE_BODY:
            return timeouts.block
        if state == STATE_FINAL:
            return timeouts.final
        if state == STATE_RESET:
            return timeouts.rset
        if state == STATE_QUIT:
            return timeouts.quit
        return INFINITY

    cdef int _send_envelope(self, double now) except -1:
        cdef Transaction tx = self._tx
        cdef Py_ssize_t n = PyList_GET_SIZE(tx.recipients)
        self._recipients = n
        self._answered = self._accepted = 0
        self._mail_refused = self._refused_chunk = self._draining = self._wanted = self._last_chunk = False
        self._prefix_due = self._stale = False
        self._chunks = self._body_queued = 0
        self._envelope_deadline = now + self._timeouts.envelope
        self._bdat = self.capabilities.chunking and self._allow_chunking
        if not (self.capabilities.pipelining and self._allow_pipelining):
            self._sent = 0
            self._body_sent = False
            return self._ask(command_group(tx, self.capabilities, True, 0, 0, NO_BODY), STATE_MAIL, now)
        self._sent = n
        self._body_sent = not self._bdat
        if not self._bdat:
            return self._ask(command_group(tx, self.capabilities, True, 0, n, DATA_COMMAND), STATE_MAIL, now)
        if tx.content is None or PyBytes_GET_SIZE(tx.content) + PyBytes_GET_SIZE(tx.prefix) > SMALL_BODY:
            return self._ask(command_group(tx, self.capabilities, True, 0, n, NO_BODY), STATE_MAIL, now)
        self._body_sent = True
        self._chunks = 1
        self._last_chunk = True
        self._body_queued = 2
        self._ask(command_group(tx, self.capabilities, True, 0, n, BDAT_LAST), STATE_MAIL, now)
        self._trace_body(tx.size)
        return self._queue(tx.content)

    cdef int _send_body(self, double now) except -1:
        """The envelope stands (and 354 was read, if it is DATA): the body, or the call for it."""
        cdef Transaction tx = self._tx
        self._body_deadline = now + self._timeouts.body + tx.size / self._timeouts.body_rate
        self._asked = True
        if self._bdat:
            if tx.content is None:
                self._prefix_due = True
                self._await(STATE_BODY, now)
                return self._want_body()
            self._chunks = 1
            self._last_chunk = True
            self._call(command_group(tx, self.capabilities, False, 0, 0, BDAT_LAST))
            self._trace_body(tx.size)
            self._queue(tx.content)
            return self._body_out(True, now)
        if self._stuffer is None:
            self._stuffer = Stuffer()
        self._stuffer.reset()
        self._trace_body(PyBytes_GET_SIZE(tx.prefix) if tx.content is None else tx.size)
        self._queue(self._stuffer.feed(tx.prefix))
        if tx.content is None:
            return self._body_out(False, now)
        self._queue(self._stuffer.feed(tx.content))
        self._queue(self._stuffer.finish())
        return self._body_out(True, now)

    cdef int _body_out(self, bint last, double now) except -1:
        """A piece of the body was queued: where that leaves us."""
        self._pending = -1
        self._body_queued = 2 if last else 1
        if not last:
            self._await(STATE_BODY, now)
            if self.deadline > self._body_deadline:
                self.deadline = self._body_deadline
            return self._want_body()
        self._await(STATE_FINAL, now)
        self._draining = self._tx.size > SMALL_BODY
        if self._draining:
            self.deadline = min(self._body_deadline, now + self._timeouts.block)
        return 0

    cdef int _want_body(self) except -1:
        if not self._wanted and self._chunks < CHUNKS_OUTSTANDING:
            self._wanted = True
            self._events |= 1 << EVENT_NEED_BODY
        return 0

    # ---- what comes in

    cdef int _on_reply(self, Reply reply, double now) except -1:
        cdef int state = self.state
        self.last_reply = reply
        if self.trace is not None:
            self._trace_reply(reply)
        if reply.code == 421:
            return self._on_shutdown(reply)
        if self._asked or self._stale:
            return self._unexpected(reply)
        if state == STATE_MAIL:
            return self._on_mail(reply, now)
        if state == STATE_RCPT:
            return self._on_rcpt(reply, now)
        if state == STATE_DATA:
            return self._on_data(reply, now)
        if state == STATE_FINAL:
            return self._on_final(reply, now)
        if state == STATE_BODY:
            return self._on_chunk(reply, now) if self._bdat else self._on_early(reply, now)
        if state == STATE_RESET:
            return self._ready() if reply.code // 100 == 2 else self._unexpected(reply)
        if state == STATE_GREETING:
            return self._on_greeting(reply, now)
        if state == STATE_EHLO or state == STATE_HELO:
            return self._on_hello(reply, now)
        if state == STATE_STARTTLS:
            return self._on_starttls(reply, now)
        if state == STATE_AUTH:
            return self._on_auth(reply, now)
        if state == STATE_QUIT:
            return self._close()
        return self._unexpected(reply)

    cdef int _trace_reply(self, Reply reply) except -1:
        cdef list lines = reply.text.split(b"\n")
        cdef Py_ssize_t i
        for i in range(len(lines)):
            self.trace("<", b"%d%s%s" % (reply.code, b" " if i + 1 == len(lines) else b"-", lines[i]))
        return 0

    cdef int _on_greeting(self, Reply reply, double now) except -1:
        if reply.code // 100 == 3:
            return self._unexpected(reply)
        if reply.code // 100 != 2:
            return self._refuse_session(reply)
        self._greeted = True
        return self._hello(now)

    cdef int _hello(self, double now) except -1:
        self._parser.text_limit = REPLY_TOTAL_LIMIT
        return self._ask(b"EHLO %s\r\n" % self._ehlo_name, STATE_EHLO, now)

    cdef int _on_hello(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        self._parser.text_limit = REPLY_TEXT_LIMIT
        self._parser.reply = None
        if digit == 2:
            if self.state == STATE_EHLO:
                self.capabilities = Capabilities.from_ehlo(reply)
            self.last_reply = None
            return self._secure(now)
        self.last_reply = Reply(reply.code, reply.text[:REPLY_TEXT_LIMIT])
        if digit == 5 and self.state == STATE_EHLO:
            return self._ask(b"HELO %s\r\n" % self._ehlo_name, STATE_HELO, now)
        if digit == 3:
            return self._unexpected(reply)
        return self._refuse_session(self.last_reply)

    cdef int _secure(self, double now) except -1:
        """EHLO is answered: TLS if it is wanted and not there yet, then AUTH, then mail."""
        if not self.tls and self._tls_wanted != TLS_NONE:
            if self.capabilities.starttls:
                return self._ask(b"STARTTLS\r\n", STATE_STARTTLS, now)
            self.starttls_missing = True
            if self._tls_wanted != TLS_OFFERED:
                return self._give_up(ERROR_TLS, "the server does not offer STARTTLS, and TLS is required")
        return self._authenticate(now)

    cdef int _injected(self) except -1:
        self.starttls_injected = True
        return self._fail(ERROR_PROTOCOL, "octets came in clear behind the 220 to STARTTLS, which could be anybody's")

    cdef int _on_starttls(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        if digit == 3:
            return self._unexpected(reply)
        if digit == 2:
            if self._parser.partial():
                return self._injected()
            self._events |= 1 << EVENT_STARTTLS
            return self._await(STATE_HANDSHAKE, now)
        self.starttls_missing = True
        self.starttls_refused = reply
        if self._tls_wanted != TLS_OFFERED:
            return self._give_up(ERROR_TLS, f"the server refused STARTTLS: {reply.text_for_log()}")
        return self._authenticate(now)

    cdef int _authenticate(self, double now) except -1:
        cdef object begun
        if self._login is None:
            return self._ready()
        if not (self.tls_verified or self._auth_in_clear):
            return self._give_up(ERROR_AUTH, "our credentials are for a server that has proved who it is under TLS")
        begun = self._login.begin(self.capabilities.auth)
        if begun is None:
            return self._give_up(ERROR_AUTH, self._login.problem)
        return self._say_secret(begun, b"AUTH " + begun.split(b" ")[1], now)

    cdef int _on_auth(self, Reply reply, double now) except -1:
        cdef object line
        if reply.code == 334:
            line = self._login.respond(reply.text)
            if line is None:
                return self._fail(ERROR_AUTH, f"the server asks what its mechanism has not: {reply.text_for_log()}")
            return self._say_secret(line, b"(credentials)", now)
        if reply.code // 100 == 2:
            return self._ready()
        if reply.code // 100 == 3:
            return self._unexpected(reply)
        return self._give_up(ERROR_AUTH, f"the server refused our credentials: {reply.text_for_log()}")

    cdef int _say_secret(self, bytes line, bytes shown, double now) except -1:
        """Queue a line that no trace may show."""
        self._out.append(line + b"\r\n")
        if self.trace is not None:
            self.trace(">", shown)
        self._asked = True
        return self._await(STATE_AUTH, now)

    cdef int _on_mail(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        if digit == 3:
            return self._unexpected(reply)
        self._tx.mail_reply = reply
        self._mail_refused = digit != 2
        if self._sent:
            return self._await(STATE_RCPT, now)
        if self._mail_refused:
            return self._finish(STAGE_MAIL, False, now)
        self._sent = 1
        return self._ask(command_group(self._tx, self.capabilities, False, 0, 1, NO_BODY), STATE_RCPT, now)

    cdef int _on_rcpt(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        if digit == 3:
            return self._unexpected(reply)
        self._tx.recipient_replies[self._answered] = reply
        self._answered += 1
        self._accepted += digit == 2
        if self._answered < self._sent:
            return self._await(STATE_RCPT, now)
        if self._sent < self._recipients:
            self._sent += 1
            return self._ask(
                command_group(self._tx, self.capabilities, False, self._sent - 1, self._sent, NO_BODY), STATE_RCPT, now)
        return self._on_envelope(now)

    cdef int _on_envelope(self, double now) except -1:
        """All RCPTs are answered."""
        if self._mail_refused:
            self._accepted = 0
        if self._body_sent:
            return self._await(STATE_FINAL if self._bdat else STATE_DATA, now)
        if self._accepted == 0:
            return self._finish(STAGE_RCPT, False, now)
        if self._bdat:
            return self._send_body(now)
        return self._ask(b"DATA\r\n", STATE_DATA, now)

    cdef int _on_data(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        if digit == 2:
            return self._unexpected(reply)
        if digit == 3:
            if self._accepted:
                return self._send_body(now)
            return self._ask(b".\r\n", STATE_FINAL, now)    # RFC 2920 section 3.1: all recipients refused, yet 354
        if self._accepted:
            self._tx.final_reply = reply
            return self._finish(STAGE_DATA, False, now)
        return self._finish(STAGE_MAIL if self._mail_refused else STAGE_RCPT, False, now)

    cdef int _on_early(self, Reply reply, double now) except -1:
        """A reply while DATA goes out: only a refusal makes sense, and only closing ends DATA without delivering."""
        if reply.code // 100 < 4:
            return self._unexpected(reply)
        self._tx.final_reply = reply
        self._done(STAGE_BODY)
        return self._close()

    cdef int _on_chunk(self, Reply reply, double now) except -1:
        """The reply to a BDAT chunk that was not the last, or to any behind a refused one (read in step, then RSET)."""
        cdef int digit = reply.code // 100
        if self._chunks == 0 or digit == 3:
            return self._unexpected(reply)
        self._chunks -= 1
        if self._refused_chunk:
            if digit == 2 and self._last_chunk and self._chunks == 0:
                return self._unexpected(reply)
        elif _not_understood(reply.code):
            return self._on_unknown_bdat(reply)
        elif digit != 2:
            self._refused_chunk = True
            self._events &= ~(1 << EVENT_NEED_BODY)
            self._tx.final_reply = reply
        if self._refused_chunk:
            return self._finish(STAGE_BODY, False, now) if self._chunks == 0 else self._await(self.state, now)
        if self.state == STATE_BODY:
            self.deadline = min(self._body_deadline, now + self._timeouts.block)
            return self._want_body()
        return 0

    cdef int _on_final(self, Reply reply, double now) except -1:
        cdef int digit = reply.code // 100
        cdef Transaction tx = self._tx
        if self._bdat and (self._chunks > 1 or self._refused_chunk):
            return self._on_chunk(reply, now)
        if digit == 3 or (digit == 2 and self._mail_refused):
            return self._unexpected(reply)
        if self._accepted == 0:
            return self._finish(STAGE_MAIL if self._mail_refused else STAGE_RCPT, False, now)
        if not tx.body_complete:
            return self._unexpected(reply) if self._bdat else self._on_early(reply, now)
        if self._bdat and _not_understood(reply.code):
            return self._on_unknown_bdat(reply)
        tx.final_reply = reply
        if digit == 2:
            tx.all_delivered = self._accepted == self._recipients
            return self._finish(STAGE_FINAL, True, now)
        if self._draining and not self._bdat:
            self._done(STAGE_BODY)
            return self._close()
        return self._finish(STAGE_FINAL, False, now)

    cdef int _on_unknown_bdat(self, Reply reply) except -1:
        """CHUNKING was offered and BDAT is not understood: no verdict on the message, and its octets may be commands.

        The next session with this host should be made with allow_chunking=False; chunking_broken says so.
        """
        self.chunking_broken = True
        self._tx.body_complete = False
        return self._fail(ERROR_PROTOCOL, f"the server offers CHUNKING and refused BDAT: {reply.text_for_log()}")

    cdef int _on_shutdown(self, Reply reply) except -1:
        """421, asked or not: the server closes (RFC 5321 section 3.8). It answers whatever was awaited."""
        cdef Transaction tx = self._tx
        if self.state == STATE_STARTTLS or self.state == STATE_AUTH:
            return self._fail(ERROR_CLOSED, f"the server closed the session: {reply.text_for_log()}")
        if self.state < STATE_READY:
            return self._refuse_session(reply)
        if tx is not None:
            if self.state == STATE_MAIL:
                tx.mail_reply = reply
            elif self.state == STATE_RCPT:
                tx.recipient_replies[self._answered] = reply
            elif tx.final_reply is None and self._accepted:
                tx.final_reply = reply
        return self._fail(ERROR_CLOSED, f"the server closed the session: {reply.text_for_log()}")

    # ---- how it ends

    cdef int _ready(self) noexcept:
        self.state = STATE_READY
        self.deadline = INFINITY
        self._events |= 1 << EVENT_READY
        return 0

    cdef int _done(self, int stage) except -1:
        self._tx.stage = stage
        self.finished = self._tx
        self._tx = None
        self.transactions_done += 1
        self._events |= 1 << EVENT_DONE
        return 0

    cdef int _finish(self, int stage, bint clean, double now) except -1:
        """The transaction is over in step; the session is ready at once or after RSET."""
        self._done(stage)
        if clean:
            return self._ready()
        self._events &= ~(1 << EVENT_NEED_BODY)
        return self._ask(b"RSET\r\n", STATE_RESET, now)

    cdef int _refuse_session(self, Reply reply) except -1:
        """The server takes no mail in this session. 521 and 421 close by themselves (RFC 7504, 5321 section 3.8)."""
        self._close()
        self._events |= 1 << EVENT_GREETING_REFUSED
        if reply.code != 521 and reply.code != 421:
            self._call(b"QUIT\r\n")
        return 0

    cdef int _close(self) except -1:
        self.state = STATE_CLOSED
        self.deadline = INFINITY
        self._out = []
        self._asked = False
        self._events = (self._events & (1 << EVENT_DONE)) | (1 << EVENT_CLOSING)
        return 0

    cdef int _fail(self, int kind, str words) except -1:
        """The session ends here, and with it the transaction, if one was under way."""
        cdef Transaction tx = self._tx
        if self.state == STATE_CLOSED:
            return 0
        if kind == ERROR_CLOSED or kind == ERROR_TIMEOUT:
            # A host that goes away here has trouble with TLS; in plain it may well take mail.
            if (self.state == STATE_STARTTLS or self.state == STATE_HANDSHAKE
                    or (self.state == STATE_EHLO and self.tls)):
                kind = ERROR_TLS
        if self.trace is not None:
            self.trace("-", words.encode())
        if self.state != STATE_QUIT:
            self.error_kind = kind
            self.error = words
        if tx is not None:
            if tx.error_kind == ERROR_NONE:
                tx.fail(kind, words, None)
            self._done(STAGE_NONE if self.state == STATE_READY else self.state - STATE_READY)
        return self._close()

    cdef int _give_up(self, int kind, str words) except -1:
        """The session is in step, and of no use to us."""
        self._fail(kind, words)
        self._call(b"QUIT\r\n")
        return 0

    cdef int _unexpected(self, Reply reply) except -1:
        if self._asked or self._stale:
            return self._fail(ERROR_PROTOCOL, f"a reply came before its command: {reply.text_for_log()}")
        return self._fail(ERROR_PROTOCOL,
                          f"unexpected reply while {WORDS[self.state]}: {reply.text_for_log()}")
