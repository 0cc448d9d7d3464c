from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef struct TableHeader:
    uint8_t[8] magic
    uint32_t version
    uint32_t slots
    uint32_t capacity           # cells
    uint32_t index_capacity     # entries of the index, a power of two
    uint32_t next_cell          # the first cell that is nobody's; shared ones come before all others
    uint32_t overflows          # answers that were a shared cell
    uint8_t[16] hash_key
    uint8_t[40] boot_id
    int64_t floor_ns            # boot time from which every bucket counts as empty; 0: never
    uint32_t reloading          # while set, the stricter of old and new rules holds

cdef struct IndexEntry:
    uint64_t name_hash          # 0: free
    uint32_t cell               # 0: claimed, no cell yet
    uint32_t reserved

cdef enum:
    CELL_PLAIN = 0
    CELL_RECORDED = 1
    CELL_CAP = 2
    UNSET_NS = 1000000000       # how soon to ask again where the governor has not set a rule yet

cdef struct Cell:
    int64_t tat                 # GCRA: theoretical arrival time, boot-time ns
    int64_t emission_ns         # rule seen last: ns per unit
    int64_t burst
    uint64_t name_hash
    int32_t limit               # connection limit seen last; 0: none seen
    uint32_t kind               # what the governor wrote below
    int64_t first               # CELL_RECORDED: ns per unit (0: no rule); CELL_CAP: period (20 bits), used (44 bits)
    int64_t second              # CELL_RECORDED: burst; CELL_CAP: period, cap
    # then, for each slot: int32_t used, int32_t demand


cdef class Table:
    cdef char* _base
    cdef size_t _size
    cdef TableHeader* _header
    cdef IndexEntry* _index
    cdef char* _cells
    cdef size_t _stride
    cdef uint32_t _capacity     # copies: what a file says later is not trusted
    cdef uint32_t _index_capacity
    cdef uint32_t _shared
    cdef uint32_t _slots
    cdef readonly str path

    cdef Cell* _cell(self, uint32_t cell) noexcept nogil
    cdef bint _is_shared(self, Cell* place) noexcept nogil
    cdef void _copy_rate(self, Cell* source, uint32_t cell) noexcept nogil
    cdef int32_t* _row(self, uint32_t cell, uint32_t slot) noexcept nogil
    cdef void _copy_rule(self, Cell* source, uint32_t cell) noexcept nogil
    cdef uint32_t _find(self, uint64_t name_hash, uint32_t room) noexcept nogil
    cdef uint32_t _claim(self, IndexEntry* entry, uint64_t name_hash) noexcept nogil

    cpdef uint32_t cell(self, bytes name) except? 0
    cpdef bint acquire(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil
    cpdef void release(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef int64_t used(self, uint32_t cell) noexcept nogil
    cpdef int32_t held(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef void demand(self, uint32_t cell, uint32_t slot, int32_t n) noexcept nogil
    cpdef int32_t demanded(self, uint32_t cell, uint32_t slot) noexcept nogil
    cpdef int32_t share(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil
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
    cpdef void want(self, uint32_t cell, uint32_t slot, int64_t now_ns, int64_t for_ns) noexcept nogil
    cpdef bint others_want(self, uint32_t cell, uint32_t slot, int64_t now_ns) noexcept nogil
    cpdef bint set_cap(self, uint32_t cell, uint32_t period, int64_t cap) noexcept nogil
    cpdef bint set_used(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil
    cdef bint _begin_period(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil
    cdef int64_t claim(self, uint32_t cell, int64_t n, uint32_t* period) noexcept nogil
    cdef int64_t cap_state(self, uint32_t cell, uint32_t* period, int64_t* cap) noexcept nogil
    cpdef void cap_return(self, uint32_t cell, uint32_t period, int64_t n) noexcept nogil
    cpdef void clear_slot(self, uint32_t slot) noexcept nogil
