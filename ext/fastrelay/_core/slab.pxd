from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct SlabHeader:
    uint8_t[8] magic
    uint32_t version
    uint32_t capacity           # entries
    uint32_t text_capacity      # bytes for keys
    uint32_t count              # entries in use; published last, with release
    uint32_t text_used
    uint32_t overflows          # series that had to share an `other` series

cdef struct SlabKey:            # of a series: where its key text lies
    uint32_t offset
    uint16_t length
    uint8_t kind                # COUNTER, GAUGE, HISTOGRAM
    uint8_t buckets             # entries that follow a histogram

cdef union SlabTail:
    SlabKey key
    double bound                # of a bucket: its upper bound

cdef struct SlabEntry:
    double value                # a bucket: observations in it alone; a histogram: the sum of what was observed
    SlabTail tail

cdef enum:
    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3


cdef class Slab:
    cdef char* _base
    cdef size_t _size
    cdef SlabHeader* _header
    cdef SlabEntry* _entries
    cdef char* _text
    cdef uint32_t _capacity
    cdef uint32_t _text_capacity
    cdef readonly bint writable
    cdef readonly str path
    cdef dict _known            # key bytes -> entry
    cdef list _described        # what entries() has read so far
    cdef uint32_t _described_to

    cdef uint32_t _new(self, int kind, bytes key, tuple bounds, uint32_t reserve) except? 0
    cdef uint32_t _series(self, int kind, str name, dict labels, tuple bounds) except? 0
    cpdef void inc(self, uint32_t entry, double n=*) noexcept nogil
    cpdef void set(self, uint32_t entry, double value) noexcept nogil
    cpdef double value(self, uint32_t entry) noexcept nogil
    cpdef void observe(self, uint32_t entry, double value) noexcept nogil
    cpdef void reset_gauges(self) noexcept nogil
