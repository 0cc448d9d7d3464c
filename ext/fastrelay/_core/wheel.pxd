from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    LEVELS = 4                  # 4 levels of 256 slots: 2**32 ticks of 100 ms, 13.6 years
    SLOTS = 256
    READY = LEVELS * SLOTS      # list index of what is due and not yet handed out
    LISTS = LEVELS * SLOTS + 1


cdef class Wheel:
    cdef uint32_t* _next
    cdef uint32_t* _prev        # an id; or HEAD | list index for the first of a list; or NONE: not in the wheel
    cdef int64_t* _due          # ms, as given
    cdef uint32_t _capacity
    cdef readonly uint32_t max_ids
    cdef uint32_t _count
    cdef uint32_t[LISTS] _heads
    cdef uint64_t[LEVELS][4] _occupied     # a bit per slot that is not empty
    cdef uint32_t _ready_tail
    cdef int64_t _start_ms
    cdef uint64_t _tick         # ticks since _start_ms that were passed
    cdef int _cascading         # list that is being moved to lower levels, or -1

    cdef int _grow(self, uint32_t id) except -1
    cdef void _push(self, uint32_t id, uint32_t which) noexcept nogil
    cdef void _append_ready(self, uint32_t id) noexcept nogil
    cdef void _unlink(self, uint32_t id) noexcept nogil
    cdef void _place(self, uint32_t id) noexcept nogil
    cdef uint64_t _next_stop(self, int* which) noexcept nogil
    cdef bint _cascade(self, uint32_t* budget) noexcept nogil

    cpdef int reserve(self, uint32_t ids) except -1
    cpdef int add(self, uint32_t id, int64_t due_ms) except -1
    cpdef bint remove(self, uint32_t id) noexcept
    cpdef int64_t due(self, uint32_t id) noexcept
    cpdef int64_t next_due_ms(self) noexcept
    cdef size_t advance_into(self, int64_t now_ms, uint32_t* ids, size_t limit) noexcept nogil
    cpdef list advance(self, int64_t now_ms, size_t limit=*)
