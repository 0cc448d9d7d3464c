"""The SMTP client machine (see client.pyx)."""

from libc.stdint cimport int64_t

from fastrelay._core.reply cimport Reply, ReplyParser
from fastrelay._core.stuffing cimport Stuffer
from fastrelay._core.transaction cimport Capabilities, ErrorKind, Stage, Timeouts, Transaction


cpdef enum State:
    # what is awaited; the table beside it (timeout, words) is in client.pyx
    STATE_GREETING = 0
    STATE_EHLO = 1
    STATE_HELO = 2
    STATE_STARTTLS = 3
    STATE_HANDSHAKE = 4  # the shell makes TLS; no octet may come
    STATE_AUTH = 5
    STATE_READY = 6      # nothing awaited, begin() may be called
    STATE_MAIL = 7
    STATE_RCPT = 8
    STATE_DATA = 9
    STATE_BODY = 10      # chunks go out; with BDAT, replies to them come in
    STATE_FINAL = 11
    STATE_RESET = 12
    STATE_QUIT = 13
    STATE_CLOSED = 14


cpdef enum Event:
    EVENT_NONE = 0
    EVENT_DONE = 1
    EVENT_GREETING_REFUSED = 2
    EVENT_READY = 3
    EVENT_NEED_BODY = 4
    EVENT_CLOSING = 5
    EVENT_STARTTLS = 6


cpdef enum Tls:
    TLS_NONE = 0
    TLS_OFFERED = 1      # STARTTLS where the server offers it and takes it
    TLS_REQUIRED = 2     # STARTTLS, or the session fails
    TLS_IMPLICIT = 3     # from the first octet


cdef enum:
    SMALL_BODY = 65536        # octets of a body that is pipelined with its envelope
    CHUNKS_OUTSTANDING = 8    # BDAT chunks sent and not yet answered


cdef class SmtpClient:
    cdef readonly int state
    cdef readonly double deadline
    cdef readonly Capabilities capabilities
    cdef readonly Reply last_reply
    cdef readonly Transaction finished
    cdef readonly long transactions_done
    cdef readonly bint chunking_broken    # CHUNKING was offered, and BDAT not understood: use DATA with this host
    cdef readonly bint tls, tls_verified
    cdef readonly Reply starttls_refused    # what was said to STARTTLS instead of 220
    cdef readonly bint starttls_missing     # not offered, or refused
    cdef readonly bint starttls_injected    # octets came in clear behind the 220
    cdef readonly int error_kind
    cdef readonly str error
    cdef public object trace
    cdef Timeouts _timeouts
    cdef ReplyParser _parser
    cdef Transaction _tx
    cdef bytes _ehlo_name
    cdef list _out
    cdef int _events
    cdef bint _allow_pipelining, _allow_chunking
    cdef int _tls_wanted
    cdef bint _greeted
    cdef object _login
    cdef bint _auth_in_clear
    cdef bint _asked                 # a command nobody has handed out yet, and nothing else, is awaited
    cdef bint _stale                 # the parser holds the start of a reply from before the command
    cdef bint _bdat                  # the body goes (or would go) by BDAT
    cdef bint _body_sent             # the body command went out together with RCPT
    cdef bint _mail_refused
    cdef bint _refused_chunk         # a BDAT chunk was refused; the replies to those behind it are read and dropped
    cdef bint _draining              # the last octet is handed out and has not yet reached the kernel
    cdef int _body_queued            # 0 none, 1 some, 2 all of the body is in _out
    cdef Py_ssize_t _recipients, _sent, _answered, _accepted
    cdef int _chunks
    cdef bint _last_chunk
    cdef bint _wanted                # NEED_BODY was said and no chunk came since
    cdef bint _prefix_due            # the prefix goes with the first BDAT chunk
    cdef Stuffer _stuffer
    cdef Py_ssize_t _pending         # octets the shell said wait in the socket's buffer; -1 not said
    cdef double _envelope_deadline, _body_deadline

    # the shell calls these
    cdef int receive_bytes(self, const unsigned char* octets, Py_ssize_t n, double now) except -1
    cpdef int begin(self, Transaction tx, double now) except -1
    cpdef bint chunk(self, bytes octets, bint last, double now) except -1
    cpdef int abort_body(self, double now) except -1
    cpdef int quit(self, double now) except -1
    cpdef int tls_started(self, double now, bint verified=*) except -1
    cpdef int tls_failed(self, str words) except -1
    cpdef int tick(self, double now) except -1
    cpdef int progress(self, double now, Py_ssize_t pending=*) except -1
    cpdef int connection_lost(self, double now) except -1
    cpdef list take_output(self)
    cpdef Transaction take_finished(self)
    cpdef int next_event(self) noexcept

    # what goes out
    cdef int _queue(self, bytes octets) except -1
    cdef int _call(self, bytes octets) except -1
    cdef int _ask(self, bytes octets, int state, double now) except -1
    cdef int _trace_commands(self, bytes octets) except -1
    cdef int _trace_body(self, Py_ssize_t octets) except -1
    cdef int _await(self, int state, double now) except -1
    cdef double _patience(self, int state) noexcept
    cdef int _send_envelope(self, double now) except -1
    cdef int _send_body(self, double now) except -1
    cdef int _body_out(self, bint last, double now) except -1
    cdef int _want_body(self) except -1

    # what comes in
    cdef int _on_reply(self, Reply reply, double now) except -1
    cdef int _trace_reply(self, Reply reply) except -1
    cdef int _on_greeting(self, Reply reply, double now) except -1
    cdef int _on_hello(self, Reply reply, double now) except -1
    cdef int _hello(self, double now) except -1
    cdef int _secure(self, double now) except -1
    cdef int _injected(self) except -1
    cdef int _on_starttls(self, Reply reply, double now) except -1
    cdef int _authenticate(self, double now) except -1
    cdef int _on_auth(self, Reply reply, double now) except -1
    cdef int _say_secret(self, bytes line, bytes shown, double now) except -1
    cdef int _on_mail(self, Reply reply, double now) except -1
    cdef int _on_rcpt(self, Reply reply, double now) except -1
    cdef int _on_envelope(self, double now) except -1
    cdef int _on_data(self, Reply reply, double now) except -1
    cdef int _on_early(self, Reply reply, double now) except -1
    cdef int _on_chunk(self, Reply reply, double now) except -1
    cdef int _on_final(self, Reply reply, double now) except -1
    cdef int _on_unknown_bdat(self, Reply reply) except -1
    cdef int _on_shutdown(self, Reply reply) except -1

    # how it ends
    cdef int _ready(self) noexcept
    cdef int _done(self, int stage) except -1
    cdef int _finish(self, int stage, bint clean, double now) except -1
    cdef int _refuse_session(self, Reply reply) except -1
    cdef int _close(self) except -1
    cdef int _fail(self, int kind, str words) except -1
    cdef int _give_up(self, int kind, str words) except -1
    cdef int _unexpected(self, Reply reply) except -1
