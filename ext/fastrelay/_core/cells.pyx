"""The file of the shared table: cells by name.

How: an index of name hashes (open addressing, 64 probes) points to cells, given out in order and never given back while
the relay runs. A process that dies at any instruction leaves no lock and no half cell: an index entry is claimed by
compare-and-set, and its cell number is set by whoever comes first. Names beyond the capacity share the first eighth of
the cells, by their hash: stricter, never laxer, and with some thousand cells hardly noticed. The last cells are kept
for caps and spreads, for clients choose other names.

Known faults: two names whose keyed 64-bit hashes are equal share a cell. A name that is never used again keeps its cell
until the next start of the relay.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import errno
import hashlib
import os

from fastrelay._core.atomics cimport (
    fr_add_u32,
    fr_load_u32,
    fr_load_u64,
    fr_store_u32,
    fr_swap_u32,
    fr_swap_u64,
)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    void* MAP_FAILED

cdef enum:
    VERSION = 3
    HEADER_BYTES = 4096
    PROBES = 64
    SHARED_PART = 8             # one cell in so many is for names beyond the capacity
    GOVERNED_PART = 64          # one cell in so many is kept for caps and spreads: clients choose other names

cdef uint32_t SHARED = 0xFFFFFFFFu      # in the index: this name uses a shared cell
cdef const char* MAGIC = b"FRTABLE\n"

MAX_SLOTS = MAX_SLOT_COUNT
CAPACITY = DEFAULT_CELLS


class TableError(Exception):
    """The table file cannot be used. `path`: the file; `why`: the words for the operator."""

    def __init__(self, path, why):
        super().__init__(f"shared table {path}: {why}")
        self.path = path
        self.why = why


def _power_of_two(n):
    return 1 << (n - 1).bit_length()


def shared_cells(capacity):
    return max(capacity // SHARED_PART, 1)


def _geometry(capacity, slots):
    """(index entries, bytes a cell, bytes of the file)."""
    index = max(_power_of_two(2 * capacity), PROBES)
    stride = (sizeof(Cell) + 2 * sizeof(int32_t) * slots + 63) // 64 * 64
    return index, stride, HEADER_BYTES + index * sizeof(IndexEntry) + capacity * stride


cdef class Cells:
    """An open table file; Table adds what rates and caps are."""

    def __cinit__(self, path):
        cdef int fd
        cdef void* place
        self.path = os.fspath(path)
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise TableError(self.path, error.strerror) from error
        try:
            size = os.fstat(fd).st_size
            if size < HEADER_BYTES:
                raise TableError(self.path, "it is not a table (too short)")
            place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
            if place == MAP_FAILED:
                raise TableError(self.path, "cannot be mapped into memory")
        finally:
            os.close(fd)
        self._base = <char*>place
        self._size = size
        self._header = <TableHeader*>place
        if memcmp(self._header.magic, MAGIC, 8) != 0 or self._header.version != VERSION:
            raise TableError(self.path, "it is not a table of this version")
        self._capacity = self._header.capacity
        self._slots = self._header.slots
        if not (1 <= self._capacity <= MAX_CELLS and 1 <= self._slots <= MAX_SLOT_COUNT):
            raise TableError(self.path, "it is damaged (impossible sizes)")
        index, stride, wanted = _geometry(self._capacity, self._slots)
        if size != wanted or index != self._header.index_capacity:
            raise TableError(self.path, f"it is damaged ({size} bytes instead of {wanted})")
        self._index_capacity = index
        self._shared = shared_cells(self._capacity)
        self._stride = stride
        self._index = <IndexEntry*>(self._base + HEADER_BYTES)
        self._cells = self._base + HEADER_BYTES + <size_t>self._index_capacity * sizeof(IndexEntry)

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self._size)

    @property
    def slots(self):
        """Worker slots it has room for."""
        return self._slots

    @property
    def capacity(self):
        """Cells, the shared ones included."""
        return self._capacity

    @property
    def shared(self):
        """Cells that names beyond the capacity share."""
        return self._shared

    @property
    def cells(self):
        """Cells that were given to a name of their own."""
        return min(fr_load_u32(&self._header.next_cell), self._capacity) - self._shared

    @property
    def overflows(self):
        """How often a name was given a shared cell."""
        return fr_load_u32(&self._header.overflows)

    @property
    def boot_id(self):
        """The boot in which the times of this file count."""
        return bytes(self._header.boot_id[:40]).rstrip(b"\0").decode("ascii", "replace")

    @property
    def hash_key(self):
        """Key of the name hash: a client that chooses names cannot choose who shares a cell."""
        return bytes(self._header.hash_key[:16])

    @property
    def reloading(self):
        """While true, the stricter of the recorded and the given rule holds (set by the supervisor during a reload)."""
        return fr_load_u32(&self._header.reloading) != 0

    @reloading.setter
    def reloading(self, bint value):
        fr_store_u32(&self._header.reloading, value)

    cdef Cell* _cell(self, uint32_t cell) noexcept nogil:
        return <Cell*>(self._cells + <size_t>cell * self._stride)

    cdef bint _is_shared(self, Cell* place) noexcept nogil:
        return <char*>place < self._cells + <size_t>self._shared * self._stride

    cdef int32_t* _row(self, uint32_t cell, uint32_t slot) noexcept nogil:
        """The pair (used, demand) of a slot in a cell."""
        return <int32_t*>(self._cells + <size_t>cell * self._stride + sizeof(Cell)) + 2 * slot

    cpdef uint32_t cell(self, bytes name) except? 0:
        """The cell of a name, made when it is new; a shared one when the table is full. Keep the answer: it stays the
        same while the relay runs, and asking costs about a microsecond."""
        cdef bytes digest = hashlib.blake2b(name, digest_size=8, key=self.hash_key).digest()
        cdef uint64_t name_hash
        memcpy(&name_hash, <const char*>digest, 8)
        cdef uint32_t room = self._capacity
        if not name.startswith((b"cap:", b"spread:")):
            room -= self._capacity // GOVERNED_PART
        return self._find(name_hash if name_hash else 1, room)

    cdef uint32_t _find(self, uint64_t name_hash, uint32_t room) noexcept nogil:
        """The cell of a name hash; one that is new gets one of the first `room` cells."""
        # "Full" is read before the probe: then a name that another process placed at the last moment is seen by it.
        cdef bint full = fr_load_u32(&self._header.next_cell) >= room
        cdef int probe
        cdef uint64_t found
        cdef IndexEntry* entry
        for probe in range(PROBES):
            entry = &self._index[(name_hash + <uint64_t>probe) & (self._index_capacity - 1)]
            found = fr_load_u64(&entry.name_hash)
            if found == 0:
                if full:
                    break
                if fr_swap_u64(&entry.name_hash, &found, name_hash):
                    found = name_hash
            if found == name_hash:
                return self._claim(entry, name_hash)
        fr_add_u32(&self._header.overflows, 1)
        return name_hash % self._shared

    cdef uint32_t _claim(self, IndexEntry* entry, uint64_t name_hash) noexcept nogil:
        """The cell number of an index entry. Whoever finds none yet sets one; all agree on the first that was set (the
        claimer of the entry may have been killed before it did)."""
        cdef uint32_t cell = fr_load_u32(&entry.cell)
        cdef uint32_t wanted
        if cell == 0:
            wanted = SHARED
            if fr_load_u32(&self._header.next_cell) < self._capacity:
                wanted = fr_add_u32(&self._header.next_cell, 1)
                if wanted >= self._capacity:
                    wanted = SHARED
            if fr_swap_u32(&entry.cell, &cell, wanted):
                cell = wanted
                if cell != SHARED:
                    self._cell(cell).name_hash = name_hash
        if cell >= self._capacity:      # SHARED, or a damaged file
            fr_add_u32(&self._header.overflows, 1)
            return name_hash % self._shared
        return cell


def write_empty(path, slots, capacity, boot_id, hash_key):
    """A file of the full size, its room reserved, with a header and nothing else."""
    cdef TableHeader header
    index, _, size = _geometry(capacity, slots)
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, MAGIC, 8)
    header.version = VERSION
    header.slots = slots
    header.capacity = capacity
    header.index_capacity = index
    header.next_cell = shared_cells(capacity)
    memcpy(header.hash_key, <const char*><bytes>hash_key, 16)
    boot = boot_id.encode()[:39]
    memcpy(header.boot_id, <const char*><bytes>boot, len(boot))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, (<char*>&header)[:sizeof(header)], 0)
        finally:
            os.close(fd)
    except OSError as error:
        why = f"no room for {size} bytes" if error.errno == errno.ENOSPC else error.strerror
        raise TableError(path, why) from error
