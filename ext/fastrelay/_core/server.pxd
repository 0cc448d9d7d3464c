"""Contents page of the SMTP server machine; the words are in server.pyx."""

from fastrelay._core.envelope cimport Envelope, ServerLimits
from fastrelay._core.intake cimport Intake
from fastrelay._core.stuffing cimport Collector


cdef enum ServerEvent:
    SERVER_NONE = 0
    SERVER_MESSAGE = 1  # `envelope` is complete; the machine waits for answer()
    SERVER_SPILL = 2  # take_chunk() gives content for a file
    SERVER_DISCARD = 3  # what was spilled since the last message is void: delete that file
    SERVER_CLOSE = 4  # write what take_output() gives, then close
    SERVER_STARTTLS = 5  # write what take_output() gives, then the handshake, then tls_started()
    SERVER_AUTH = 6  # `auth_mechanism`, `auth_octets`: auth_challenge() or auth_done()
    SERVER_AUTH_RESPONSE = 7  # `auth_octets`: the same
    SERVER_AUTH_CANCEL = 8  # the exchange is over without an outcome


cdef class SmtpServer:
    cdef public Envelope envelope
    cdef public object verify_recipient
    cdef public object verify_sender
    cdef public bint may_relay
    cdef public bint without_dsn  # DSN is not offered: nobody would report
    cdef public bint offer_starttls
    cdef public bytes offer_auth  # mechanisms, b"PLAIN LOGIN"; None: no AUTH
    cdef public bint auth_needs_tls  # there would be mechanisms under TLS
    cdef public bint auth_required
    cdef public bint tls
    cdef public bytes user  # who authenticated, or None
    cdef readonly bytes auth_mechanism
    cdef readonly bytes auth_octets  # decoded; None: no initial response
    cdef public double deadline
    cdef readonly ServerLimits limits
    cdef readonly bytes hostname
    cdef readonly bytes helo
    cdef readonly bint esmtp
    cdef readonly bint early_talker
    cdef readonly bint closed
    cdef readonly long long messages  # answered with 2xx
    cdef readonly Py_ssize_t output_length

    cdef int _phase
    cdef bint _running  # inside receive or answer: the buffers are in use
    cdef bint _shutting_down
    cdef int _commands
    cdef int _errors
    cdef bint _progress  # a whole command or content came since the deadline was set
    cdef double _now

    # input
    cdef Collector _held
    cdef Py_ssize_t _held_from
    cdef Collector _line
    cdef Py_ssize_t _line_octets
    cdef unsigned char _line_last
    cdef bint _line_bare

    # output
    cdef unsigned char* _output
    cdef Py_ssize_t _output_capacity

    # content
    cdef Intake _intake
    cdef bint _chunking  # a BDAT of this transaction was taken
    cdef long long _chunk_left
    cdef bint _chunk_last
    cdef bytes _chunk_reply
    cdef double _body_began
    cdef long long _body_octets

    # events
    cdef bint _event_message
    cdef bint _event_discard
    cdef bint _event_close
    cdef bint _event_cancel
    cdef ServerEvent _event_talk  # STARTTLS, AUTH or AUTH_RESPONSE

    # what the shell calls
    cdef int receive_bytes(self, const unsigned char* p, Py_ssize_t n, double now) except -1
    cpdef int greeting(self, double now) except -1
    cpdef int refuse(self, bytes reply) except -1
    cpdef bytes take_output(self)
    cpdef int next_event(self) except -1
    cpdef bytes take_chunk(self)
    cpdef int answer(self, bytes reply, double now) except -1
    cpdef bint tick(self, double now) except -1
    cpdef int shutdown(self, double now) except -1
    cpdef void connection_lost(self) noexcept
    cpdef int reset_session(self) except -1
    cpdef int tls_started(self, double now) except -1
    cpdef int auth_challenge(self, bytes octets, double now) except -1
    cpdef int auth_done(self, bytes user, bytes reply, double now) except -1

    # input
    cdef Py_ssize_t _run(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _run_held(self) except -1
    cdef int _hold(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef Py_ssize_t _take_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _keep_line(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef void _drop_line(self) noexcept
    cdef int _on_line(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) except -1
    cdef bint _is_auth(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) noexcept
    cdef int _bad_line(self, const unsigned char* p, Py_ssize_t n, bytes reply) except -1
    cdef int _dispatch(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _on_unknown(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef void _set_deadline(self, double now) noexcept

    # output
    cdef int _say(self, bytes reply) except -1
    cdef int _fault(self, bytes reply) except -1
    cdef int _close(self, bytes reply) except -1

    # commands: p[0:n] is the line, p[i] the first octet of the argument
    cdef int _on_hello(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n, bint esmtp) except -1
    cdef int _on_mail(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1
    cdef int _on_rcpt(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1
    cdef int _on_data(self) except -1
    cdef int _on_bdat(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1
    cdef int _on_starttls(self, bint argument) except -1
    cdef int _on_auth(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1
    cdef int _on_response(self, const unsigned char* p, Py_ssize_t n, Py_ssize_t octets) except -1
    cdef int _go_on(self, double now) except -1

    # content
    cdef Py_ssize_t _take_data(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef Py_ssize_t _take_chunk_octets(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _end_chunk(self) except -1
    cdef int _end_content(self) except -1
    cdef void _end_transaction(self) noexcept
