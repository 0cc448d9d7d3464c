"""The mapped file of the shared table: its layout, and cells by name."""

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
    MAX_SLOT_COUNT = 256
    MAX_CELLS = 1 << 22
    DEFAULT_CELLS = 131072      # 16 MiB of disk with up to 8 slots; only pages in use are in memory

    CELL_PLAIN = 0
    CELL_RECORDED = 1
    CELL_CAP = 2

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


cdef class Cells:
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
    cdef int32_t* _row(self, uint32_t cell, uint32_t slot) noexcept nogil
    cdef uint32_t _find(self, uint64_t name_hash, uint32_t room) noexcept nogil
    cdef uint32_t _claim(self, IndexEntry* entry, uint64_t name_hash) noexcept nogil
    cpdef uint32_t cell(self, bytes name) except? 0
