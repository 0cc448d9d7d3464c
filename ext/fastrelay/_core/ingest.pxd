"""The shell around the SMTP server machine; see ingest.pyx."""

from fastrelay._core.engine cimport Engine
from fastrelay._core.server cimport SmtpServer

cdef class Connection:
    cdef readonly SmtpServer server
    cdef readonly Engine engine
    cdef readonly object listener, transport
    cdef readonly bytes client
    cdef bytes refusal
    cdef public object large
    cdef public object mail         # what its mail is assigned (ingest/assign.py), or None
    cdef public bint closed, waiting, reading_paused, writing_paused
    cdef bint closing
    cdef object message_ready
    cdef bytes trace_head, trace_for
    cdef unsigned char* buffer

    cpdef int pump(self, double now) except -1
    cdef int _first_chunk(self, bytes chunk) except -1
    cdef int _flush(self) except -1
    cdef int _message(self, double now) except -1
    cdef bytes _trace_head(self, object envelope)
