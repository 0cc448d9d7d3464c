"""The table that all processes of one relay share: connection counts, rates and demand by name, in a mapped file.

What: a *cell* for each name (a bytes such as b"conn:a:mx.example"). In it: how many connections each worker slot holds,
how many it could use (its demand), and the state of one rate (GCRA). The limits hold over all workers because every
permit is taken here, with atomic operations and without a call to another process.

How: an index of name hashes (open addressing, 64 probes) points to cells, given out in order and never given back while
the relay runs. A process that dies at any instruction leaves no lock and no half cell: an index entry is claimed by
compare-and-set, and its cell number is set by whoever comes first. Connection counts are kept per slot and summed, so
that no total can leak: `acquire` adds its own, sums all and takes its own back when the sum is over. After waitpid the
supervisor clears the dead worker's slot. Names beyond the capacity share the first eighth of the cells, by their hash:
stricter, never laxer, and with some thousand cells hardly noticed.

Rates: time is CLOCK_BOOTTIME in ns, passed in. The file outlives every process; buckets that are not full again yet
are carried over a restart. Under a foreign boot id, or when the file was lost or damaged, every bucket counts as empty
at that instant (no burst). While `reloading` is set, the stricter of the recorded and the given rule holds.

Known faults: two workers that compete for the last permit may both be turned away. Two names whose keyed 64-bit hashes
are equal share a cell. A name that is never used again keeps its cell until the next start of the relay. The day
counters of warm-up caps are not here yet.
"""

cimport cython
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import errno
import hashlib
import os

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    void* MAP_FAILED

cdef extern from *:
    """
    #include <stdint.h>
    #define fr_load(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
    #define fr_store(place, value) __atomic_store_n((place), (value), __ATOMIC_SEQ_CST)
    #define fr_fetch_add(place, value) __atomic_fetch_add((place), (value), __ATOMIC_SEQ_CST)
    static inline int fr_swap_u32(uint32_t *place, uint32_t *expected, uint32_t value)
    { return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
    static inline int fr_swap_u64(uint64_t *place, uint64_t *expected, uint64_t value)
    { return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
    static inline int fr_swap_i64(int64_t *place, int64_t *expected, int64_t value)
    { return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
    /* Saturating: a rule of a day by a burst of millions must not wrap round to a free pass. */
    static inline int64_t fr_times(int64_t a, int64_t b)
    { int64_t r; return __builtin_mul_overflow(a, b, &r) || r > INT64_MAX / 4 ? INT64_MAX / 4 : r; }
    """
    int32_t fr_load_i32 "fr_load"(int32_t* place) noexcept nogil
    uint32_t fr_load_u32 "fr_load"(uint32_t* place) noexcept nogil
    int64_t fr_load_i64 "fr_load"(int64_t* place) noexcept nogil
    uint64_t fr_load_u64 "fr_load"(uint64_t* place) noexcept nogil
    void fr_store_i32 "fr_store"(int32_t* place, int32_t value) noexcept nogil
    void fr_store_u32 "fr_store"(uint32_t* place, uint32_t value) noexcept nogil
    void fr_store_i64 "fr_store"(int64_t* place, int64_t value) noexcept nogil
    int32_t fr_add_i32 "fr_fetch_add"(int32_t* place, int32_t value) noexcept nogil
    uint32_t fr_add_u32 "fr_fetch_add"(uint32_t* place, uint32_t value) noexcept nogil
    bint fr_swap_u32(uint32_t* place, uint32_t* expected, uint32_t value) noexcept nogil
    bint fr_swap_u64(uint64_t* place, uint64_t* expected, uint64_t value) noexcept nogil
    bint fr_swap_i64(int64_t* place, int64_t* expected, int64_t value) noexcept nogil
    int64_t fr_times(int64_t a, int64_t b) noexcept nogil

cdef enum:
    VERSION = 2
    HEADER_BYTES = 4096
    PROBES = 64
    MAX_SLOT_COUNT = 256
    MAX_CELLS = 1 << 22
    DEFAULT_CELLS = 131072      # 16 MiB of disk with up to 8 slots; only pages in use are in memory
    SHARED_PART = 8             # one cell in so many is for names beyond the capacity

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


def _shared_cells(capacity):
    return max(capacity // SHARED_PART, 1)


def _geometry(capacity, slots):
    """(index entries, bytes a cell, bytes of the file)."""
    index = max(_power_of_two(2 * capacity), PROBES)
    stride = (sizeof(Cell) + 2 * sizeof(int32_t) * slots + 63) // 64 * 64
    return index, stride, HEADER_BYTES + index * sizeof(IndexEntry) + capacity * stride


@cython.final
cdef class Table:
    """An open table. A worker opens the file the supervisor made: `Table(path)`; the supervisor uses `Table.create`."""

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
        self._shared = _shared_cells(self._capacity)
        self._stride = stride
        self._index = <IndexEntry*>(self._base + HEADER_BYTES)
        self._cells = self._base + HEADER_BYTES + <size_t>self._index_capacity * sizeof(IndexEntry)

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self._size)

    @staticmethod
    def create(path, *, uint32_t slots, str boot_id, int64_t now_ns, uint32_t capacity=DEFAULT_CELLS):
        """Make the table anew for `slots` workers and carry over what must last from the file that lies there.

        For the holder of the state directory's lock only: no other process may have the old file open. `boot_id` names
        this boot, `now_ns` is CLOCK_BOOTTIME. Buckets that are not full again at `now_ns` keep their state. Raises
        TableError (also for a full disk: the room is reserved, so that no write to the mapping can fail later).
        """
        cdef Table old = None
        cdef Table new
        path = os.fspath(path)
        if not (1 <= slots <= MAX_SLOT_COUNT and 1 <= capacity <= MAX_CELLS and now_ns >= 0):
            raise ValueError(f"{slots} slots, {capacity} cells: out of range")
        try:
            old = Table(path)
        except TableError:
            old = None      # lost or damaged: no burst (floor_ns below)
        if old is not None and old.boot_id != boot_id:
            old = None
        _write_empty(path + ".new", slots, capacity, boot_id, old.hash_key if old is not None else os.urandom(16))
        new = Table(path + ".new")
        new._header.floor_ns = now_ns if old is None else old._header.floor_ns
        if old is not None:
            new._carry_over(old, now_ns)
        os.rename(path + ".new", path)
        new.path = path
        return new

    def _carry_over(self, Table old, int64_t now_ns):
        """The buckets of `old` that are not full again. Counts and demand start at nothing: nobody lives."""
        cdef uint32_t number, other
        cdef uint32_t last = min(fr_load_u32(&old._header.next_cell), old._capacity)
        cdef Cell* source
        for number in range(old._shared, last):
            source = old._cell(number)
            if source.tat > now_ns and source.name_hash != 0:
                self._copy_rate(source, self._find(source.name_hash))
        for number in range(old._shared):
            source = old._cell(number)
            if source.tat > now_ns:
                if old._shared == self._shared:
                    self._copy_rate(source, number)
                else:       # its names lie elsewhere now: the strictest for all
                    for other in range(self._shared):
                        self._copy_rate(source, other)

    cdef void _copy_rate(self, Cell* source, uint32_t cell) noexcept nogil:
        cdef Cell* target = self._cell(cell)
        if target.tat < source.tat:
            target.tat = source.tat
            target.emission_ns = source.emission_ns
            target.burst = source.burst
            target.generation = source.generation

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

    cdef int32_t* _row(self, uint32_t cell, uint32_t slot) noexcept nogil:
        """The pair (used, demand) of a slot in a cell."""
        return <int32_t*>(self._cells + <size_t>cell * self._stride + sizeof(Cell)) + 2 * slot

    cpdef uint32_t cell(self, bytes name) except? 0:
        """The cell of a name, made when it is new; a shared one when the table is full. Keep the answer: it stays the
        same while the relay runs, and asking costs about a microsecond."""
        cdef bytes digest = hashlib.blake2b(name, digest_size=8, key=self.hash_key).digest()
        cdef uint64_t name_hash
        memcpy(&name_hash, <const char*>digest, 8)
        return self._find(name_hash if name_hash else 1)

    cdef uint32_t _find(self, uint64_t name_hash) noexcept nogil:
        # "Full" is read before the probe: then a name that another process placed at the last moment is seen by it.
        cdef bint full = fr_load_u32(&self._header.next_cell) >= self._capacity
        cdef uint32_t probe
        cdef uint64_t found
        cdef IndexEntry* entry
        for probe in range(PROBES):
            entry = &self._index[(name_hash + probe) & (self._index_capacity - 1)]
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

    # --- connection counts ---

    cpdef bint acquire(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil:
        """Take one connection for this worker's slot, unless all slots together would hold more than `limit`."""
        cdef int32_t recorded
        if cell >= self._capacity or slot >= self._slots:
            return False
        recorded = fr_load_i32(&self._cell(cell).limit)
        if recorded != limit:
            if fr_load_u32(&self._header.reloading) and recorded > 0:
                limit = min(limit, recorded)
            else:
                fr_store_i32(&self._cell(cell).limit, limit)
        # Add before the sum: of those that hold, the last to add has seen all others, so the sum is never over.
        fr_add_i32(self._row(cell, slot), 1)
        if self.used(cell) > limit:
            fr_add_i32(self._row(cell, slot), -1)
            return False
        return True

    cpdef void release(self, uint32_t cell, uint32_t slot) noexcept nogil:
        """Give one connection back. More releases than acquires are ignored (a slot is written by one thread)."""
        cdef int32_t* own
        if cell < self._capacity and slot < self._slots:
            own = self._row(cell, slot)
            if fr_load_i32(own) > 0:
                fr_add_i32(own, -1)

    cpdef int64_t used(self, uint32_t cell) noexcept nogil:
        """Connections held by all slots."""
        cdef int64_t total = 0
        cdef uint32_t slot
        if cell < self._capacity:
            for slot in range(self._slots):
                total += fr_load_i32(self._row(cell, slot))
        return total

    cpdef int32_t held(self, uint32_t cell, uint32_t slot) noexcept nogil:
        """Connections held by one slot."""
        if cell >= self._capacity or slot >= self._slots:
            return 0
        return fr_load_i32(self._row(cell, slot))

    # --- demand ---

    cpdef void demand(self, uint32_t cell, uint32_t slot, int32_t n) noexcept nogil:
        """Publish how many connections (or units) this slot could use now, those it holds included."""
        if cell < self._capacity and slot < self._slots:
            fr_store_i32(self._row(cell, slot) + 1, max(n, 0))

    cpdef int32_t demanded(self, uint32_t cell, uint32_t slot) noexcept nogil:
        """What a slot last said with `demand`."""
        if cell >= self._capacity or slot >= self._slots:
            return 0
        return fr_load_i32(self._row(cell, slot) + 1)

    cpdef int32_t share(self, uint32_t cell, uint32_t slot, int32_t limit) noexcept nogil:
        """This slot's fair share of `limit` by the published demand (max-min: small demands are met in full, the rest
        is split evenly). 0 without demand, else at least 1; a worker that holds more yields at a message boundary.
        The shares of one cell add up to at most `limit`, aside from that 1."""
        cdef int32_t own, wish, per
        cdef int32_t left = limit
        cdef int32_t floor = 0          # demands up to here are met in full
        cdef int32_t next_floor
        cdef int32_t hungry, rank
        cdef uint32_t other, place
        if cell >= self._capacity or slot >= self._slots:
            return 0
        own = fr_load_i32(self._row(cell, slot) + 1)
        if own <= 0:
            return 0
        while True:
            hungry = 0
            rank = 0
            for place in range(self._slots):
                other = (place + cell) % self._slots        # who gets the odd ones differs from cell to cell
                wish = own if other == slot else fr_load_i32(self._row(cell, other) + 1)
                if wish > floor:
                    if other == slot:
                        rank = hungry
                    hungry += 1
            if hungry == 0:
                return max(min(own, limit), 1)
            per = left // hungry if left > 0 else 0
            next_floor = 0
            for other in range(self._slots):
                wish = own if other == slot else fr_load_i32(self._row(cell, other) + 1)
                if floor < wish <= per:
                    left -= wish
                    next_floor = per
            if own <= per:
                return own
            if next_floor == 0:
                return max(per + (1 if rank < left - per * hungry else 0), 1)
            floor = next_floor

    # --- rates ---

    cpdef int64_t take(
        self, uint32_t cell, int64_t now_ns, int32_t n, int64_t emission_ns, int64_t burst
    ) noexcept nogil:
        """Take `n` units of a rate (GCRA): one unit for each `emission_ns`, at most `burst` at once.

        `now_ns` is CLOCK_BOOTTIME. Gives 0 (taken), the ns to wait (nothing was taken), or -1: `n` is more than the
        burst (maybe the smaller one of a reload under way), ask for fewer. A cell that does not exist: wait for ever.
        """
        cdef Cell* place
        cdef int64_t seen, tat, depth, cost
        if n <= 0:
            return 0
        if cell >= self._capacity:
            return INT64_MAX
        place = self._cell(cell)
        emission_ns = max(emission_ns, 1)
        burst = max(burst, 1)
        if place.emission_ns != emission_ns or place.burst != burst:
            if fr_load_u32(&self._header.reloading) and place.emission_ns > 0:
                emission_ns = max(emission_ns, place.emission_ns)
                burst = min(burst, max(place.burst, 1))
            else:
                fr_store_i64(&place.emission_ns, emission_ns)
                fr_store_i64(&place.burst, burst)
                fr_add_u32(&place.generation, 1)
        if n > burst:
            return -1
        depth = fr_times(emission_ns, burst)
        cost = fr_times(emission_ns, n)
        seen = fr_load_i64(&place.tat)
        while True:
            tat = max(seen, now_ns)
            if self._header.floor_ns:
                tat = max(tat, self._header.floor_ns + depth)
            tat = min(tat, now_ns + depth)      # under a new rule the bucket is empty at worst
            if tat + cost > now_ns + depth:
                return tat + cost - now_ns - depth
            if fr_swap_i64(&place.tat, &seen, tat + cost):
                return 0

    cpdef void give_back(self, uint32_t cell, int32_t n) noexcept nogil:
        """Undo a take of `n` units of which none was used (no RCPT was written)."""
        cdef Cell* place
        cdef int64_t seen
        if cell >= self._capacity or n <= 0:
            return
        place = self._cell(cell)
        seen = fr_load_i64(&place.tat)
        while not fr_swap_i64(&place.tat, &seen, seen - fr_times(place.emission_ns, n)):
            pass

    cpdef void clear_slot(self, uint32_t slot) noexcept nogil:
        """Take back what a dead worker held. Only after waitpid: its counts have no other writer then."""
        cdef uint32_t cell
        if slot >= self._slots:
            return
        for cell in range(min(fr_load_u32(&self._header.next_cell), self._capacity)):
            fr_store_i32(self._row(cell, slot), 0)
            fr_store_i32(self._row(cell, slot) + 1, 0)


def _write_empty(path, slots, capacity, boot_id, hash_key):
    """A file of the full size, its room reserved, with a header and nothing else."""
    cdef TableHeader header
    index, _, size = _geometry(capacity, slots)
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, MAGIC, 8)
    header.version = VERSION
    header.slots = slots
    header.capacity = capacity
    header.index_capacity = index
    header.next_cell = _shared_cells(capacity)
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
