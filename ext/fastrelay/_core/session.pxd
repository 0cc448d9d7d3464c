"""The shell around the SMTP client machine; see session.pyx."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from fastrelay._core.client cimport SmtpClient
from fastrelay._core.engine cimport Delivery, Engine
from fastrelay._core.index cimport SiteQueue
from fastrelay._core.slab cimport Slab
from fastrelay._core.table cimport Table

cdef enum:
    MOST_CELLS = 8

cdef class Session:
    cdef readonly SmtpClient client
    cdef readonly Engine engine
    cdef public SiteQueue site
    cdef public object pool
    cdef readonly object transport
    cdef public Delivery delivery
    cdef public bytes tail
    cdef public int source
    cdef public str source_name, host, address
    cdef public Py_ssize_t messages_left
    cdef public int most
    cdef public bint idle, ready, closing, closed, paused, wanted, streaming, held
    cdef public double idle_since, opened, gone_by
    cdef public object resumed
    cdef public object ssl              # the ssl.SSLObject under this session; None in plain
    cdef public object tls              # what the one who connects knows of TLS (deliver/handshake.py); None: plain
    cdef public str tls_version, tls_verified
    cdef bint pumping
    cdef Table table
    cdef uint32_t cell, slot
    cdef int32_t limit
    cdef uint32_t urgent_cells[MOST_CELLS]
    cdef int urgent_count
    cdef uint32_t yields_for            # the cell for which it leaves; 0: none
    cdef int delivered_slot
    cdef object transaction_seconds
    cdef unsigned char* buffer

    cpdef bint secured(self, transport, double now) except -1
    cpdef int pump(self, double now) except -1
    cdef int _flush(self) except -1
    cpdef bint go(self, double now) except -1
    cdef int _follow(self, double now) except -1
    cdef int _close(self, double now) except -1
    cdef int _finish(self, double now) except -1
    cdef bint _over_share(self) noexcept
    cdef bint _missed_elsewhere(self) noexcept
    cdef bint _gives_way(self, double now) except -1
