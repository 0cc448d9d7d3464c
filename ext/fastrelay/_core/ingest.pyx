"""The shell around the SMTP server machine: one client connection, as uvloop's buffered protocol.

It owns the transport. Complete messages go to the engine; the reply comes back through `stored` once the message is on
stable storage. A content too large for memory goes to a file while it arrives (fastrelay/ingest/large.py), with
reading paused while the disk is behind.

Known faults: none.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_GET_SIZE

from fastrelay._core.envelope cimport Envelope
from fastrelay._core.server cimport SERVER_DISCARD, SERVER_MESSAGE, SERVER_NONE, SERVER_SPILL

from fastrelay._core.engine import PLAIN_NAME

BACKLOG_BYTES = 256 * 1024      # octets a client may send ahead while its message is being stored


@cython.final
cdef class Connection:

    def __init__(self, SmtpServer server, Engine engine, listener, bytes client, bytes refusal=None, mail=None):
        """`client`: the address for trace headers and events, as text. `listener`: fastrelay/ingest/listener.py.
        `refusal`: a 421 or 554 said in place of the greeting. `mail`: what Engine.assign is given for its mail; an
        authenticated user has one of its own."""
        self.server = server
        self.engine = engine
        self.listener = listener
        self.client = client
        self.refusal = refusal
        self.buffer = <unsigned char*> PyByteArray_AS_STRING(engine.read_buffer)
        self.closed = self.waiting = self.reading_paused = self.writing_paused = self.closing = False
        self.large = None
        self.mail = mail
        self.trace_for = None

    # -- what uvloop calls --------------------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef double now = self.engine.monotonic()
        self.transport = transport
        self.listener.opened(self)
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
        except Exception as error:
            self.listener.broke(self, error)

    def eof_received(self):
        return False

    def connection_lost(self, error):
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
        cdef int event
        while True:
            event = self.server.next_event()
            if event == SERVER_NONE:
                break
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
            else:
                self.closing = True
        self._flush()
        if self.closing and not self.closed and not self.waiting:
            self.transport.close()
        if self.waiting or self.large is not None:
            self._pace()
        return 0

    cdef int _first_chunk(self, bytes chunk) except -1:
        """The first chunk has the whole header: fields that are for us are taken out here."""
        cdef Envelope envelope = self.server.envelope
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
            literal = b"IPv6:" + self.client if b":" in self.client else self.client
            self.trace_head = (b"Received: from " + helo.translate(PLAIN_NAME)[:255] + b" ([" + literal + b"])\r\n\tby "
                               + self.engine.hostname + b" with " + protocol + b" id ")
            self.trace_for = helo if not envelope.smtputf8 else None
        return self.trace_head

    # -- pace and deadlines --------------------------------------------------------------------------------------

    def _pace(self):
        """Reads on only while the client's replies, its message and the disk keep up."""
        cdef bint pause = self.writing_paused
        if self.waiting and self.server.backlog > BACKLOG_BYTES:
            pause = True
        if self.large is not None and self.large.behind:
            pause = True
        if self.transport is None or pause == self.reading_paused:
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
        if self.server.deadline <= now and not self.waiting:
            self.server.tick(now)
            self.pump(now)

    def shut(self, double now):
        """421 and goodbye, at a moment when no message is in hand; False where one is."""
        if self.waiting or self.closed:
            return False
        self.server.shutdown(now)
        self.pump(now)
        return True

    @property
    def busy(self):
        """True while a mail transaction is open."""
        return self.waiting or self.server.envelope is not None
