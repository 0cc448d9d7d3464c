"""The content of one message on its way in: judged while it streams, kept in memory or passed on in chunks to a file.

A content of up to `spill_bytes` ends as one bytes object in the envelope. A longer one goes out through `take_chunk`,
whole, so that it costs no more memory than a short one; its header stays with the envelope. Once a content is to be
refused nothing of it is kept, but it is read and counted to its end.

Known faults: memory holds spill_bytes and one read of the shell beyond it, so spill_bytes is no exact bound.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE

from fastrelay._core.envelope cimport Envelope, ServerLimits
from fastrelay._core.stuffing cimport Unstuffer

cdef enum:
    HINT_BOUND = 1 << 16  # octets reserved on the word of the client
    SPILL_CHUNK = 1 << 16  # least octets of a chunk but the last


@cython.final
cdef class Intake:
    def __cinit__(self, ServerLimits limits, long long spill_bytes, bint repair):
        self.limits = limits
        self.spill_bytes = spill_bytes
        self.unstuffer = Unstuffer(True, repair)
        self.chunks = []

    cdef int begin(self, bint dots, long long hint) except -1:
        """A new content, from DATA (dots) or BDAT; `hint` is how many octets the client promises."""
        self.unstuffer.restart(dots)
        if hint > 0:
            self.unstuffer.content.reserve(min(hint, HINT_BOUND))
        return 0

    cdef Py_ssize_t feed(self, Envelope envelope, const unsigned char* p, Py_ssize_t n) except -1:
        """Takes octets; gives how many belonged to the content."""
        cdef Unstuffer content = self.unstuffer
        cdef Py_ssize_t used = content.feed_bytes(p, n)
        if not content.discard:
            if self.fault() is not None:
                # The chunks stay void until drop(); what the shell fetched is announced there.
                content.discard = True
                content.content.clear()
                self.chunks.clear()
                self.chunk_octets = 0
            elif content.length > self.spill_bytes and content.header_length:
                self._spill(envelope)
        return used

    cdef bytes fault(self):
        """The reply that refuses the content as it is so far, or None. It depends on the octets, never on the seams."""
        cdef Unstuffer content = self.unstuffer
        if content.length > self.limits.message_size:
            return self.too_large()
        if (content.header_length or content.length) > self.limits.header_size:
            return b"552 5.3.4 Header larger than %d octets\r\n" % self.limits.header_size
        if content.bare and not content.repair:
            return b"550 5.5.2 Bare CR or LF in the message; lines end with CRLF\r\n"
        if content.nul:
            return b"550 5.6.0 NUL in the message\r\n"
        return None

    cdef bytes too_large(self):
        return b"552 5.3.4 Message larger than %d octets\r\n" % self.limits.message_size

    cdef int _spill(self, Envelope envelope) except -1:
        """Moves what was collected to the chunks: all of it the first time, later by SPILL_CHUNK."""
        if envelope.spilled and self.unstuffer.content.length < SPILL_CHUNK:
            return 0
        self._push()
        if not envelope.spilled:
            envelope.spilled = True
            envelope.eight_bit = self.unstuffer.eight_bit
            envelope.read_header(self.chunks[0], self.unstuffer.header_length)
            envelope.keep_header(self.chunks[0])
        return 0

    cdef int _push(self) except -1:
        cdef bytes chunk = self.unstuffer.content.take()
        self.chunks.append(chunk)
        self.chunk_octets += PyBytes_GET_SIZE(chunk)
        return 0

    cdef int complete(self, Envelope envelope) except -1:
        """Tells the envelope what was learned, and gives it the content unless that was spilled."""
        cdef Unstuffer content = self.unstuffer
        envelope.content_length = content.length
        envelope.longest_line = content.longest_line
        envelope.eight_bit = content.eight_bit
        envelope.repaired = content.bare
        if not envelope.spilled:
            envelope.content = content.content.take()
            envelope.read_header(envelope.content, content.header_length or content.length)
        elif content.content.length:
            self._push()
        return 0

    cdef bytes take_chunk(self):
        cdef bytes chunk
        if not self.chunks:
            return b""
        chunk = self.chunks.pop(0)
        self.chunk_octets -= PyBytes_GET_SIZE(chunk)
        self.handed = True
        return chunk

    cdef bint drop(self) noexcept:
        """Forgets the content; whether the shell has fetched a part of it."""
        cdef bint handed = self.handed
        self.unstuffer.content.clear()
        self.chunks.clear()
        self.chunk_octets = 0
        self.handed = False
        return handed
