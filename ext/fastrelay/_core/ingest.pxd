"""The shell around the SMTP server machine; see ingest.pyx."""

from fastrelay._core.engine cimport Engine
from fastrelay._core.envelope cimport Envelope
from fastrelay._core.server cimport SmtpServer

cdef class Connection:
    cdef readonly SmtpServer server
    cdef readonly Engine engine
    cdef readonly object listener, transport
    cdef readonly bytes client
    cdef readonly bytes refusal
    cdef public object large
    cdef readonly object door       # the listener that it came in by (ingest/listener.py), or None
    cdef public object inbound      # takes its mail in place of the engine (ingest/inbound.py), or None
    cdef public object mail         # what its mail is assigned (ingest/assign.py), or None
    cdef public bytes user          # who authenticated, or None
    cdef public object verify_header  # of each message: gives None, or the reply that refuses it; or None
    cdef public str tls_version, tls_cipher  # None without TLS
    cdef public bint loopback       # neither the client nor a balancer is on another host
    cdef public bint closed, waiting, reading_paused, writing_paused
    cdef bint closing, pumping, upgrading, auth_begun
    cdef double gone_by
    cdef bytes trace_head, trace_for, event_part, header_refusal
    cdef unsigned char* buffer

    cpdef int pump(self, double now) except -1
    cdef int _first_chunk(self, bytes chunk) except -1
    cdef int _flush(self) except -1
    cdef int _events(self, double now) except -1
    cdef int _end(self, double now) except -1
    cdef int _session_changed(self) except -1
    cdef int _message(self, double now) except -1
    cdef bytes _header_verified(self, Envelope envelope)
    cdef bytes _trace_head(self, object envelope)
