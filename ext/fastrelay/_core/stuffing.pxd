"""Contents page of the stuffing streams (RFC 5321 section 4.5.2); the words are in stuffing.pyx."""

from cpython.object cimport PyObject


cpdef bytes stuff(object content)


cdef class Stuffer:
    cdef int _state  # how the octet before the next chunk stands: see the states in stuffing.pyx

    cpdef bytes feed(self, object chunk)
    cpdef bytes finish(self)
    cpdef void reset(self) noexcept


cdef class Collector:
    """A growing bytes object: filled in place, handed over once, without a copy."""

    cdef PyObject* _bytes
    cdef unsigned char* start
    cdef Py_ssize_t length
    cdef Py_ssize_t capacity

    cdef int reserve(self, Py_ssize_t capacity) except -1
    cdef int append(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef bytes take(self)
    cdef void clear(self) noexcept


cdef class Unstuffer:
    cdef public bint dots  # True: DATA (dots removed, CRLF.CRLF ends). False: BDAT (octets as they are)
    cdef public bint repair  # a bare CR or LF becomes CRLF
    cdef public bint discard  # count and find the end, but store nothing
    cdef readonly bint ended  # the end of DATA was seen
    cdef readonly bint bare  # a bare CR or LF was seen
    cdef readonly bint eight_bit
    cdef readonly bint nul
    cdef readonly long long length  # octets of content so far, whether stored or discarded
    cdef readonly long long longest_line  # octets without CRLF
    cdef readonly long long header_length  # up to and including the empty line; 0 until that was seen
    cdef readonly Collector content
    cdef int _state
    cdef long long _line_start  # offset in the content

    cdef void restart(self, bint dots) noexcept
    cdef Py_ssize_t feed_bytes(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef Py_ssize_t _pass(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n, long long offset) except -1
    cdef int finish_chunks(self) except -1
    cdef int _emit(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef void _end_line(self, long long end, long long after) noexcept
    cdef Py_ssize_t _after_dot(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1
