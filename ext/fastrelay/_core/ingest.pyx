"""The shell around the SMTP server machine: one client connection, as uvloop's buffered protocol.

It owns the transport. Complete messages go to the engine; the reply comes back through `stored` once the message is on
stable storage. A content too large for memory goes to a file while it arrives (fastrelay/ingest/large.py), with
reading paused while the disk is behind.

At STARTTLS nothing is read before the transport is uvloop's TLS over the same socket: what a client sent behind the
command is dropped by the machine, and what comes later can only be a part of the handshake. AUTH is the listener's
(fastrelay/ingest/auth.py), which answers by `auth_challenge` and `auth_done`, at once or later.

Known faults: none.
"""

from json import dumps

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.math cimport INFINITY

from fastrelay._core.envelope cimport Envelope
from fastrelay._core.server cimport (
    SERVER_AUTH,
    SERVER_AUTH_CANCEL,
    SERVER_AUTH_RESPONSE,
    SERVER_DISCARD,
    SERVER_MESSAGE,
    SERVER_NONE,
    SERVER_SPILL,
    SERVER_STARTTLS,
)

from fastrelay._core.engine import PLAIN_NAME

BACKLOG_BYTES = 256 * 1024      # octets a client may send ahead while its message is being stored
LINGER_SECONDS = 10.0           # for the last reply to be read, once the connection is closed on our side


@cython.final
cdef class Connection:

    def __init__(self, SmtpServer server, Engine engine, listener, bytes client, bytes refusal=None, mail=None,
                 door=None, bint loopback=False):
        """`client`: the address for trace headers and events, as text. `listener`: fastrelay/ingest/listener.py.
        `refusal`: a 421 or 554 said in place of the greeting. `mail`: what Engine.assign is given for its mail; an
        authenticated user has one of its own. `door`: the listener's words about where it came in."""
        self.server = server
        self.engine = engine
        self.listener = listener
        self.client = client
        self.refusal = refusal
        self.buffer = <unsigned char*> PyByteArray_AS_STRING(engine.read_buffer)
        self.closed = self.waiting = self.reading_paused = self.writing_paused = self.closing = False
        self.large = None
        self.mail = mail
        self.door = door
        self.loopback = loopback
        self.gone_by = INFINITY
        self.trace_for = None

    # -- what uvloop calls --------------------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef double now = self.engine.monotonic()
        self.transport = transport
        self.listener.opened(self)
        if self.server.tls:
            self._note_tls()
        if self.refusal is not None:
            self.server.refuse(self.refusal)
        else:
            self.server.greeting(now)
        self.pump(now)

    def get_buffer(self, Py_ssize_t hint):
        return self.engine.read_buffer

    def buffer_updated(self, Py_ssize_t n):
        cdef double now = self.engine.monotonic()
        try:
            self.server.receive_bytes(self.buffer, n, now)
            self.pump(now)
            if self.inbound is not None:
                self.inbound.grown(self, self.server.collected, now)
        except Exception as error:
            self.listener.broke(self, error)

    def eof_received(self):
        return False

    def connection_lost(self, error):
        if self.closed:
            return
        if self.auth_begun:
            self.listener.auth.forget(self)
        self.closed = self.closing = True
        self.transport = None
        self.server.connection_lost()
        if self.large is not None and not self.waiting:
            self.large.abort()
            self.large = None
        self.listener.closed(self)

    def pause_writing(self):
        """The client does not read its replies: it gets no more of them until it does."""
        self.writing_paused = True
        self._pace()

    def resume_writing(self):
        self.writing_paused = False
        self._pace()

    # -- what the machine says ----------------------------------------------------------------------------------

    cpdef int pump(self, double now) except -1:
        if self.pumping:  # an answer that came at once
            return 0
        self.pumping = True
        try:
            self._events(now)
        except Exception as error:
            self.listener.broke(self, error)
            return 0
        finally:
            self.pumping = False
        self._flush()
        if self.upgrading and not self.closing:
            self.listener.upgrade(self)
        if self.closing and not self.closed and not self.waiting:
            self._end(now)
        if self.waiting or self.large is not None or (self.auth_begun and self.user is None):
            self._pace()
        return 0

    cdef int _events(self, double now) except -1:
        cdef int event
        while True:
            event = self.server.next_event()
            if event == SERVER_NONE:
                return 0
            if event == SERVER_MESSAGE:
                self._message(now)
            elif event == SERVER_DISCARD:
                if self.large is not None:
                    self.large.abort()
                    self.large = None
            elif event == SERVER_SPILL:
                if self.large is None:
                    self.large = self.listener.large_file(self)
                    self._first_chunk(self.server.take_chunk())
                else:
                    self.large.write(self.server.take_chunk())
            elif event == SERVER_STARTTLS:
                self.upgrading = True
                if not self.transport.is_closing():
                    self.transport.pause_reading()  # before the client hears of it
            elif event == SERVER_AUTH:
                self.auth_begun = True
                self.listener.auth.begin(self, self.server.auth_mechanism, self.server.auth_octets)
            elif event == SERVER_AUTH_RESPONSE:
                self.listener.auth.go_on(self, self.server.auth_octets)
            elif event == SERVER_AUTH_CANCEL:
                self.listener.auth.cancel(self)
            else:
                self.closing = True

    cdef int _end(self, double now) except -1:
        """Closes; a client that does not read its last reply is cut off some seconds later."""
        if self.gone_by == INFINITY:
            self.gone_by = now + LINGER_SECONDS
            self.transport.close()
        return 0

    cdef int _first_chunk(self, bytes chunk) except -1:
        """The first chunk has the whole header: fields that are for us are taken out here."""
        cdef Envelope envelope = self.server.envelope
        if self.verify_header is not None:
            self.header_refusal = self.verify_header(chunk[:envelope.header_length])
        self.large.names = header = self.engine.accept_edit(envelope) if self.engine.accept_edit is not None else None
        if header is not None:
            chunk = <bytes> header[1] + chunk[envelope.header_length:]
        self.large.write(chunk)
        return 0

    cdef int _flush(self) except -1:
        cdef bytes out = self.server.take_output()
        if PyBytes_GET_SIZE(out) and self.transport is not None:
            if out[0] >= 52 or b"\n4" in out or b"\n5" in out:  # 52: "4"
                self.listener.refused(out)
            self.transport.write(out)
        return 0

    cdef int _message(self, double now) except -1:
        """A whole message was read: into the spool, or refused."""
        cdef bytes refusal
        cdef Envelope envelope = self.server.envelope
        if self.inbound is not None:
            refusal = self.inbound.take(self, envelope, now)
            if refusal is not None:
                self.server.answer(refusal, now)
            else:
                self.waiting = True
            return 0
        envelope.event_part = self.event_part
        if self.verify_header is not None:
            refusal = self._header_verified(envelope)
            if refusal is not None:
                self.server.answer(refusal, now)
                return 0
        if self.large is not None:
            self.waiting = True
            self.large.finish(envelope)
            return 0
        refusal = self.engine.accept(self, envelope, self.client, self._trace_head(envelope), None, now)
        if refusal is not None:
            self.server.answer(refusal, now)
        else:
            self.waiting = True
        return 0

    cdef bytes _header_verified(self, Envelope envelope):
        """None, or the reply that refuses the message for its header; a large content was looked at as it began."""
        cdef bytes refusal
        if self.large is None:
            return self.verify_header(envelope.content[:envelope.header_length])
        refusal = self.header_refusal
        self.header_refusal = None
        if refusal is not None:
            self.large.abort()
            self.large = None
        return refusal

    def large_written(self, envelope, error):
        """The content that was streamed to a file is written (not yet synced): now it is accepted like any other."""
        cdef double now = self.engine.monotonic()
        cdef bytes refusal
        cdef object large = self.large
        self.large = None
        if self.closed:
            large.abort()
            return
        if error is not None:
            refusal = error.reply.encode() + b"\r\n"
        else:
            refusal = self.engine.accept(self, envelope, self.client, self._trace_head(envelope), large, now)
        if refusal is None:
            return
        large.abort()
        self.stored(refusal, now)

    def stored(self, bytes reply, double now):
        """The fate of the message in hand is known: `reply` goes to the client, and its next commands are read."""
        self.waiting = False
        if self.closed:
            return
        self.server.answer(reply, now)
        self.pump(now)
        self._pace()

    cdef bytes _trace_head(self, object envelope):
        cdef bytes helo = envelope.helo
        cdef bytes protocol
        if self.trace_head is None or self.trace_for is not helo or envelope.smtputf8:
            protocol = b"UTF8SMTP" if envelope.smtputf8 else b"ESMTP" if envelope.esmtp else b"SMTP"
            if envelope.esmtp:  # RFC 3848, RFC 6531 section 4.3
                protocol += (b"S" if self.tls_version else b"") + (b"A" if self.user is not None else b"")
            literal = b"IPv6:" + self.client if b":" in self.client else self.client
            using = b""
            if self.tls_version:
                using = b"\r\n\t(using %b with cipher %b)" % (self.tls_version.encode(), self.tls_cipher.encode())
            self.trace_head = (b"Received: from " + helo.translate(PLAIN_NAME)[:255] + b" ([" + literal + b"])" + using
                               + b"\r\n\tby " + self.engine.hostname + b" with " + protocol + b" id ")
            self.trace_for = helo if not envelope.smtputf8 else None
        return self.trace_head

    # -- TLS and AUTH ---------------------------------------------------------------------------------------------

    def tls_started(self, transport):
        """The handshake that STARTTLS asked for is done: a new session begins on this transport."""
        cdef double now = self.engine.monotonic()
        self.transport = transport
        self.upgrading = self.reading_paused = self.writing_paused = False
        self._note_tls()
        self.listener.secured(self)
        self.server.tls_started(now)
        self.pump(now)

    def _note_tls(self):
        secured = self.transport.get_extra_info("ssl_object")
        self.tls_version = secured.version()
        self.tls_cipher = secured.cipher()[0]
        self._session_changed()

    def auth_challenge(self, bytes octets):
        """AUTH goes on: what the mechanism asks, not yet in base64."""
        cdef double now = self.engine.monotonic()
        self.server.auth_challenge(octets, now)
        self.pump(now)

    def auth_done(self, login, bytes reply):
        """AUTH is over. `login`: who the client is now and what its mail gets, or None; `reply`: whole lines."""
        cdef double now = self.engine.monotonic()
        if self.closed:
            return
        if login is None:
            self.server.auth_done(None, reply, now)
        else:
            self.user = login.name
            self.mail = login.mail
            self.server.verify_sender = login.verify_sender
            self.server.may_relay = True
            self._session_changed()
            self.server.auth_done(login.name, reply, now)
        self.pump(now)
        self._pace()

    cdef int _session_changed(self) except -1:
        """What trace headers and events say of the session is made anew."""
        cdef dict said = {}
        self.trace_head = self.trace_for = None
        if self.tls_version:
            said["tls"] = self.tls_version
        if self.user is not None:
            said["user"] = self.user.decode("utf-8", "replace")
        self.event_part = b"," + dumps(said, separators=(",", ":"))[1:].rstrip("}").encode() if said else None
        return 0

    # -- pace and deadlines --------------------------------------------------------------------------------------

    def _pace(self):
        """Reads on only while the client's replies, its message and the disk keep up."""
        cdef bint pause = self.writing_paused
        if (self.waiting or self.auth_begun) and self.server.backlog > BACKLOG_BYTES:
            pause = True
        if self.large is not None and self.large.behind:
            pause = True
        if self.transport is None or pause == self.reading_paused or self.upgrading:
            return
        self.reading_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pace(self):
        """The disk caught up."""
        self._pace()

    def tick(self, double now):
        """Idle deadlines; the worker calls this about once a second."""
        if self.gone_by <= now:
            if self.gone_by <= now - LINGER_SECONDS:
                self.connection_lost(None)  # uvloop owes it
            elif self.transport is not None:
                self.transport.abort()
        elif self.server.deadline <= now and not self.waiting:
            self.server.tick(now)
            self.pump(now)

    def shut(self, double now):
        """421 and goodbye, at a moment when no message is in hand; False where one is."""
        if self.waiting or self.closed:
            return False
        if self.upgrading:
            self.transport.abort()  # there is no saying anything in the middle of a handshake
            return True
        self.server.shutdown(now)
        self.pump(now)
        return True

    @property
    def busy(self):
        """True while a mail transaction is open."""
        return self.waiting or self.server.envelope is not None
