"""Contents page of the intake of one message's content; the words are in intake.pyx."""

from fastrelay._core.envelope cimport Envelope, ServerLimits
from fastrelay._core.stuffing cimport Unstuffer


cdef class Intake:
    cdef Unstuffer unstuffer
    cdef ServerLimits limits
    cdef long long spill_bytes
    cdef list chunks  # of bytes, for the shell to fetch
    cdef Py_ssize_t chunk_octets
    cdef bint handed  # the shell fetched a chunk of this content

    cdef int begin(self, bint dots, long long hint) except -1
    cdef Py_ssize_t feed(self, Envelope envelope, const unsigned char* p, Py_ssize_t n) except -1
    cdef bytes fault(self)
    cdef bytes too_large(self)
    cdef int complete(self, Envelope envelope) except -1
    cdef bytes take_chunk(self)
    cdef bint drop(self) noexcept
    cdef int _spill(self, Envelope envelope) except -1
    cdef int _push(self) except -1
