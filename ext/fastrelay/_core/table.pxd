"""The shared table: counts, demand, rates, recorded rules and caps in cells; the file and names are in cells.pxd."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from fastrelay._core.cells cimport Cell, Cells

cdef enum:
    UNSET_NS = 1000000000       # how soon to ask again where the governor has not set a rule yet


cdef class Table(Cells):
    cdef int64_t last_tat, last_emission    # of the last take through this object; see undo
    cdef void undo(self, uint32_t cell, int32_t n, int64_t tat, int64_t emission_ns) noexcept nogil
    cdef void _copy_rate(self, Cell* source, uint32_t cell) noexcept nogil
    cdef void _copy_rule(self, Cell* source, uint32_t cell) noexcept nogil
    cpdef bint acquire(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil
    cpdef void release(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef int64_t used(self, uint32_t cell) noexcept nogil
    cpdef int32_t held(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef void demand(self, uint32_t cell, uint32_t slot, int32_t n) noexcept nogil
    cpdef int32_t demanded(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef int32_t share(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil
    cpdef void clear_slot(self, uint32_t slot) noexcept nogil
    cpdef void want(self, uint32_t cell, uint32_t slot, int64_t now_ns, int64_t for_ns) noexcept nogil
    cpdef bint others_want(self, uint32_t cell, uint32_t slot, int64_t now_ns) noexcept nogil
    cpdef int64_t take(
        self, uint32_t cell, int64_t now_ns, int32_t n, int64_t emission_ns, int64_t burst
    ) noexcept nogil
    cpdef int64_t take_up_to(
        self, uint32_t cell, int64_t now_ns, int32_t most, int64_t emission_ns, int64_t burst
    ) noexcept nogil
    cpdef int64_t look(self, uint32_t cell, int64_t now_ns, int64_t emission_ns, int64_t burst) noexcept nogil
    cpdef void introduce(self, uint32_t cell, int64_t emission_ns, int64_t burst) noexcept nogil
    cdef int64_t _take(
        self, uint32_t cell, int64_t now_ns, int32_t least, int32_t most, int64_t emission_ns, int64_t burst,
        bint really
    ) noexcept nogil
    cdef void _new_rule(
        self, Cell* place, int64_t now_ns, int64_t old_ns, int64_t emission_ns, int64_t burst
    ) noexcept nogil
    cpdef void give_back(self, uint32_t cell, int32_t n) noexcept nogil
    cpdef void give_back_late(self, uint32_t cell, int32_t n, int64_t taken_ns, int64_t now_ns) noexcept nogil
    cpdef void set_rate(self, uint32_t cell, int64_t emission_ns, int64_t burst) noexcept nogil
    cdef int64_t recorded(self, uint32_t cell, int64_t* burst) noexcept nogil
    cpdef int64_t take_recorded(
        self, uint32_t cell, int64_t now_ns, int32_t most, bint unset_denies=*
    ) noexcept nogil
    cpdef bint set_cap(self, uint32_t cell, uint32_t period, int64_t cap) noexcept nogil
    cpdef bint set_used(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil
    cdef bint _begin_period(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil
    cdef int64_t claim(self, uint32_t cell, int64_t n, uint32_t* period) noexcept nogil
    cdef int64_t cap_state(self, uint32_t cell, uint32_t* period, int64_t* cap) noexcept nogil
    cpdef void cap_return(self, uint32_t cell, uint32_t period, int64_t n) noexcept nogil
