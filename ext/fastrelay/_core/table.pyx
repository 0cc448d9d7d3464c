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

Rates: time is CLOCK_BOOTTIME in ns, passed in. A rule comes with each take, or is recorded in the cell by the governor
(adaptive rates, a cap spread over its day) and read by each take. When a rule changes, the units that are owed stay
owed, each at the new price; a process that is killed in the midst of that leaves a bucket that owes too much. The file
outlives every process; buckets that are not full again yet, recorded rules and caps are carried over a restart. Under a
foreign boot id, or when the file was lost or damaged, every bucket counts as empty at that instant (no burst). While
`reloading` is set, the stricter of the recorded and the given rule holds, and is recorded.

Caps: of a cell with a cap, one word holds the period and what is used in it, another the period and the cap. Both are
changed by compare-and-set, and a claim needs the periods to be the same: between two periods, and whenever only one
word was written, nothing is granted. Only the governor moves a period on, and it only grows.

Known faults: two workers that compete for the last permit may both be turned away. Two names whose keyed 64-bit hashes
are equal share a cell. A name that is never used again keeps its cell until the next start of the relay. In a shared
cell a recorded rule holds for all of its names, and a cap for none: it grants nothing.
"""

cimport cython
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
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
    /* a * b / c, rounded up; a and b at least 0, c above 0. */
    static inline int64_t fr_scaled(int64_t a, int64_t b, int64_t c)
    { __int128 r = ((__int128)a * b + c - 1) / c; return r > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)r; }
    """
    int32_t fr_load_i32 "fr_load"(int32_t* place) noexcept nogil
    uint32_t fr_load_u32 "fr_load"(uint32_t* place) noexcept nogil
    int64_t fr_load_i64 "fr_load"(int64_t* place) noexcept nogil
    uint64_t fr_load_u64 "fr_load"(uint64_t* place) noexcept nogil
    void fr_store_i32 "fr_store"(int32_t* place, int32_t value) noexcept nogil
    void fr_store_u32 "fr_store"(uint32_t* place, uint32_t value) noexcept nogil
    void fr_store_i64 "fr_store"(int64_t* place, int64_t value) noexcept nogil
    void fr_store_u64 "fr_store"(uint64_t* place, uint64_t value) noexcept nogil
    int32_t fr_add_i32 "fr_fetch_add"(int32_t* place, int32_t value) noexcept nogil
    uint32_t fr_add_u32 "fr_fetch_add"(uint32_t* place, uint32_t value) noexcept nogil
    bint fr_swap_u32(uint32_t* place, uint32_t* expected, uint32_t value) noexcept nogil
    bint fr_swap_u64(uint64_t* place, uint64_t* expected, uint64_t value) noexcept nogil
    bint fr_swap_i64(int64_t* place, int64_t* expected, int64_t value) noexcept nogil
    int64_t fr_times(int64_t a, int64_t b) noexcept nogil
    int64_t fr_scaled(int64_t, int64_t, int64_t) noexcept nogil

cdef enum:
    VERSION = 3
    HEADER_BYTES = 4096
    PROBES = 64
    MAX_SLOT_COUNT = 256
    MAX_CELLS = 1 << 22
    DEFAULT_CELLS = 131072      # 16 MiB of disk with up to 8 slots; only pages in use are in memory
    SHARED_PART = 8             # one cell in so many is for names beyond the capacity
    GOVERNED_PART = 64          # one cell in so many is kept for caps and spreads: clients choose other names
    WANT_SHIFT = 20             # demand for units is published in 2**20 ns (about a ms), and at most
    WANT_MOST = 1 << 16         # so many of them ahead (68 s); it wraps round after 26 days
    USED_BITS = 44              # of the words of a cap; the period is above them
    PERIOD_MOST = 1 << 20

cdef uint64_t USED_MASK = (<uint64_t>1 << USED_BITS) - 1

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
        """Caps, recorded rules, and the buckets of `old` that are not full again. Counts and demand start at nothing:
        nobody lives."""
        cdef uint32_t number, other
        cdef uint32_t last = min(fr_load_u32(&old._header.next_cell), old._capacity)
        cdef Cell* source
        for number in range(old._shared, last):     # first, so that they surely have cells of their own
            source = old._cell(number)
            if source.kind == CELL_CAP and source.name_hash != 0:
                self._copy_rule(source, self._find(source.name_hash, self._capacity))
        for number in range(old._shared, last):
            source = old._cell(number)
            if source.kind == CELL_CAP or source.name_hash == 0:
                continue
            if source.tat > now_ns or (source.kind == CELL_RECORDED and source.first > 0):
                other = self._find(source.name_hash, self._capacity)
                self._copy_rate(source, other)
                self._copy_rule(source, other)
        for number in range(old._shared):
            source = old._cell(number)
            if source.tat > now_ns or source.kind == CELL_RECORDED:
                for other in range(self._shared):
                    if old._shared != self._shared or other == number:
                        # In a table of another size its names lie elsewhere now: the strictest for all.
                        self._copy_rate(source, other)
                        self._copy_rule(source, other)

    cdef void _copy_rate(self, Cell* source, uint32_t cell) noexcept nogil:
        cdef Cell* target = self._cell(cell)
        if target.tat < source.tat:
            target.tat = source.tat
            target.emission_ns = source.emission_ns
            target.burst = source.burst

    cdef void _copy_rule(self, Cell* source, uint32_t cell) noexcept nogil:
        cdef Cell* target = self._cell(cell)
        if source.kind == CELL_CAP:
            if cell < self._shared:
                return
        elif source.kind != CELL_RECORDED or (cell < self._shared and target.first > source.first):
            return
        target.kind = source.kind
        target.first = source.first
        target.second = source.second

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
            if recorded != limit:
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
        cdef int64_t got
        if n <= 0:
            return 0
        if cell >= self._capacity:
            return INT64_MAX
        got = self._take(cell, now_ns, n, n, emission_ns, burst, True)
        if got > 0:
            return 0
        return -1 if got == 0 else -got

    cpdef int64_t take_up_to(
        self, uint32_t cell, int64_t now_ns, int32_t most, int64_t emission_ns, int64_t burst
    ) noexcept nogil:
        """Take as many units as there are, `most` at most: how many (above 0), or the ns to wait for the first one,
        negative. Never 0. The rule is as in take()."""
        if cell >= self._capacity or most <= 0:
            return -INT64_MAX
        return self._take(cell, now_ns, 1, most, emission_ns, burst, True)

    cpdef int64_t look(self, uint32_t cell, int64_t now_ns, int64_t emission_ns, int64_t burst) noexcept nogil:
        """What take_up_to() would find, taking nothing and recording nothing."""
        if cell >= self._capacity:
            return -INT64_MAX
        return self._take(cell, now_ns, 1, INT32_MAX, emission_ns, burst, False)

    cpdef void introduce(self, uint32_t cell, int64_t emission_ns, int64_t burst) noexcept nogil:
        """Record the rule of a cell that has none yet: a reload then knows it as the old one."""
        cdef int64_t unset = 0
        cdef Cell* place
        if cell < self._capacity:
            place = self._cell(cell)
            if fr_load_i64(&place.emission_ns) == 0:
                fr_store_i64(&place.burst, max(burst, 1))
                fr_swap_i64(&place.emission_ns, &unset, max(emission_ns, 1))

    cdef int64_t _take(
        self, uint32_t cell, int64_t now_ns, int32_t least, int32_t most, int64_t emission_ns, int64_t burst,
        bint really
    ) noexcept nogil:
        """`least` to `most` units, 0 when `least` is more than the burst, or the wait for `least`, negative."""
        cdef Cell* place = self._cell(cell)
        cdef int64_t seen, tat, end, n, known_emission, known_burst
        cdef int64_t given_emission = max(emission_ns, 1), given_burst = max(burst, 1)
        cdef bint told = False
        while True:
            # The order matters: who changes the rule stores it and then charges what is owed, so a compare-and-set
            # that succeeds after the charge has seen the new rule.
            seen = fr_load_i64(&place.tat)
            known_emission = fr_load_i64(&place.emission_ns)
            known_burst = fr_load_i64(&place.burst)
            emission_ns = given_emission
            burst = given_burst
            if known_emission != emission_ns or known_burst != burst:
                if fr_load_u32(&self._header.reloading) and known_emission > 0:
                    emission_ns = max(emission_ns, known_emission)
                    burst = min(burst, max(known_burst, 1))
            if known_emission != emission_ns or known_burst != burst:
                if really and not told:       # once: two that go by different rules must not wait for each other
                    told = True
                    self._new_rule(place, now_ns, known_emission, emission_ns, burst)
                    continue
                if known_emission > 0 and seen > now_ns and not self._is_shared(place):
                    seen = now_ns + fr_scaled(seen - now_ns, emission_ns, known_emission)
            if least > burst:
                return 0
            end = now_ns + fr_times(emission_ns, burst)     # the bucket has nothing left when tat is here
            tat = max(seen, now_ns)
            if self._header.floor_ns:
                tat = max(tat, self._header.floor_ns + fr_times(emission_ns, burst))
            tat = min(tat, INT64_MAX // 2)
            n = min((end - tat) // emission_ns, most)
            if n < least:
                return min(end - tat - fr_times(emission_ns, least), -1)
            if not really or fr_swap_i64(&place.tat, &seen, tat + emission_ns * n):
                return n

    cdef void _new_rule(
        self, Cell* place, int64_t now_ns, int64_t old_ns, int64_t emission_ns, int64_t burst
    ) noexcept nogil:
        """Record a rule. Units that are owed stay owed, at the new price.

        Slower: they are charged before the rule is stored (for who is killed here) and what others took meanwhile
        after. Faster: the rest is waived after, but in a shared cell, where the next one may be slow again. Of several
        that change the rule at once, one charges or waives."""
        cdef int64_t seen, owed, charged, expected = old_ns
        fr_store_i64(&place.burst, burst)
        if old_ns <= 0 or emission_ns == old_ns:
            fr_swap_i64(&place.emission_ns, &expected, emission_ns)
            return
        seen = fr_load_i64(&place.tat)
        owed = min(max(seen - now_ns, 0), INT64_MAX // 4)
        charged = fr_scaled(owed, emission_ns, old_ns)
        if emission_ns < old_ns:
            if fr_swap_i64(&place.emission_ns, &expected, emission_ns) and not self._is_shared(place):
                seen = fr_load_i64(&place.tat)
                while not fr_swap_i64(&place.tat, &seen, seen - (owed - charged)):
                    pass
            return
        while not fr_swap_i64(&place.tat, &seen, now_ns + charged):
            owed = min(max(seen - now_ns, 0), INT64_MAX // 4)
            charged = fr_scaled(owed, emission_ns, old_ns)
        charged += now_ns
        if not fr_swap_i64(&place.emission_ns, &expected, emission_ns):
            return
        seen = fr_load_i64(&place.tat)
        while seen > charged:
            owed = min(seen - charged, INT64_MAX // 4)
            if fr_swap_i64(&place.tat, &seen, charged + fr_scaled(owed, emission_ns, old_ns)):
                break

    cpdef void give_back(self, uint32_t cell, int32_t n) noexcept nogil:
        """Undo a take of `n` units of this same moment. Later use give_back_late()."""
        self.give_back_late(cell, n, 0, 0)

    cpdef void give_back_late(self, uint32_t cell, int32_t n, int64_t taken_ns, int64_t now_ns) noexcept nogil:
        """Undo a take of `n` units, made at `taken_ns` under the present rule, of which none was used.

        What has flowed in since then does not come back: with a bucket that would have been full meanwhile it was
        lost, and giving it back would allow more than the burst."""
        cdef Cell* place
        cdef int64_t seen, back
        if cell >= self._capacity or n <= 0 or now_ns < taken_ns:
            return
        place = self._cell(cell)
        back = fr_times(fr_load_i64(&place.emission_ns), n) - (now_ns - taken_ns)
        seen = fr_load_i64(&place.tat)
        while back > 0 and not fr_swap_i64(&place.tat, &seen, seen - back):
            pass

    # --- rules that the governor records ---

    cpdef void set_rate(self, uint32_t cell, int64_t emission_ns, int64_t burst) noexcept nogil:
        """Record the rule of a cell for take_recorded(); `emission_ns` 0 takes it away. Only the governor calls this.

        Names that share a cell get the slowest rule of them all, until it is taken away for one of them: then the
        governor says the others' again."""
        cdef Cell* place
        if cell >= self._capacity:
            return
        place = self._cell(cell)
        if cell < self._shared and 0 < emission_ns < place.first:
            return
        fr_store_u32(&place.kind, CELL_RECORDED)
        fr_store_i64(&place.second, max(burst, 1))
        fr_store_i64(&place.first, max(emission_ns, 0))

    def rate_of(self, uint32_t cell):
        """(emission_ns, burst) as recorded; (0, 0) where no rule is."""
        cdef int64_t emission_ns, burst = 0
        emission_ns = self.recorded(cell, &burst)
        return emission_ns, burst if emission_ns else 0

    cdef int64_t recorded(self, uint32_t cell, int64_t* burst) noexcept nogil:
        """Emission of the recorded rule (0: none), and its burst."""
        cdef Cell* place
        burst[0] = 0
        if cell >= self._capacity:
            return 0
        place = self._cell(cell)
        if fr_load_u32(&place.kind) != CELL_RECORDED:
            return 0
        burst[0] = fr_load_i64(&place.second)
        return fr_load_i64(&place.first)

    cpdef int64_t take_recorded(
        self, uint32_t cell, int64_t now_ns, int32_t most, bint unset_denies=False
    ) noexcept nogil:
        """take_up_to() by the recorded rule. Where none is recorded: `most`, or with `unset_denies` a second to wait
        (a cap is spread by this rule, and the governor has not said how yet)."""
        cdef int64_t burst, emission_ns
        if cell >= self._capacity or most <= 0:
            return -INT64_MAX
        emission_ns = self.recorded(cell, &burst)
        if emission_ns == 0:
            return -UNSET_NS if unset_denies else most
        return self._take(cell, now_ns, 1, most, emission_ns, burst, True)

    # --- demand for units ---

    cpdef void want(self, uint32_t cell, uint32_t slot, int64_t now_ns, int64_t for_ns) noexcept nogil:
        """Publish for `for_ns` from now that this slot waits for units for transactional mail; 0: no more."""
        cdef int64_t until
        if self._shared <= cell < self._capacity and slot < self._slots:
            if for_ns <= 0:
                fr_store_i32(self._row(cell, slot) + 1, 0)
                return
            until = (now_ns >> WANT_SHIFT) + min((for_ns >> WANT_SHIFT) + 1, WANT_MOST)
            fr_store_i32(self._row(cell, slot) + 1, <int32_t>((until & 0x7FFFFFFF) | 1))

    cpdef bint others_want(self, uint32_t cell, uint32_t slot, int64_t now_ns) noexcept nogil:
        """Whether another slot waits for units of this cell for transactional mail."""
        cdef uint32_t other
        cdef int32_t until, ahead
        if not self._shared <= cell < self._capacity:
            return False
        for other in range(self._slots):
            until = fr_load_i32(self._row(cell, other) + 1)
            if until == 0 or other == slot:
                continue
            ahead = <int32_t>((until - (now_ns >> WANT_SHIFT)) & 0x7FFFFFFF)
            if 0 < ahead <= WANT_MOST + 1:
                return True
        return False

    # --- caps ---

    cpdef bint set_cap(self, uint32_t cell, uint32_t period, int64_t cap) noexcept nogil:
        """The cap of a period. Only the governor calls this. A period that is over is refused (False); a new one
        begins with nothing used. A shared cell has no cap: it grants nothing."""
        if not self._begin_period(cell, period, 0):
            return False
        fr_store_u64(<uint64_t*>&self._cell(cell).second,
                     <uint64_t>period << USED_BITS | <uint64_t>min(max(cap, 0), <int64_t>USED_MASK))
        return True

    cpdef bint set_used(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil:
        """What is used of a period's cap at least: from what the spools have reserved, after another boot."""
        return self._begin_period(cell, period, min(max(used, 0), <int64_t>USED_MASK))

    cdef bint _begin_period(self, uint32_t cell, uint32_t period, int64_t used) noexcept nogil:
        cdef Cell* place
        cdef uint64_t seen, wanted
        if not self._shared <= cell < self._capacity or not 0 < period < PERIOD_MOST:
            return False
        place = self._cell(cell)
        fr_store_u32(&place.kind, CELL_CAP)
        seen = fr_load_u64(<uint64_t*>&place.first)
        while True:
            if seen >> USED_BITS > period:
                return False
            wanted = <uint64_t>period << USED_BITS | <uint64_t>used
            if seen >= wanted:
                return True
            if fr_swap_u64(<uint64_t*>&place.first, &seen, wanted):
                return True

    cdef int64_t claim(self, uint32_t cell, int64_t n, uint32_t* period) noexcept nogil:
        """At most `n` units of the cap: how many (0: it is full), and of which period."""
        cdef Cell* place
        cdef uint64_t seen, cap
        cdef int64_t room
        period[0] = 0
        if n <= 0 or not self._shared <= cell < self._capacity:
            return 0
        place = self._cell(cell)
        if fr_load_u32(&place.kind) != CELL_CAP:
            return 0
        seen = fr_load_u64(<uint64_t*>&place.first)
        while True:
            period[0] = <uint32_t>(seen >> USED_BITS)
            cap = fr_load_u64(<uint64_t*>&place.second)
            if cap >> USED_BITS != period[0]:
                return 0
            room = <int64_t>(cap & USED_MASK) - <int64_t>(seen & USED_MASK)
            if room <= 0:
                return 0
            if fr_swap_u64(<uint64_t*>&place.first, &seen, seen + <uint64_t>min(room, n)):
                return min(room, n)

    cdef int64_t cap_state(self, uint32_t cell, uint32_t* period, int64_t* cap) noexcept nogil:
        """What is used; -1 where no cap holds (none was set, or a period is just beginning)."""
        cdef Cell* place
        cdef uint64_t used, word
        period[0] = 0
        cap[0] = 0
        if not self._shared <= cell < self._capacity:
            return -1
        place = self._cell(cell)
        if fr_load_u32(&place.kind) != CELL_CAP:
            return -1
        used = fr_load_u64(<uint64_t*>&place.first)
        word = fr_load_u64(<uint64_t*>&place.second)
        period[0] = <uint32_t>(used >> USED_BITS)
        if word >> USED_BITS != period[0]:
            return -1
        cap[0] = <int64_t>(word & USED_MASK)
        return <int64_t>(used & USED_MASK)

    def cap_claim(self, uint32_t cell, int64_t n):
        """(granted, period): at most `n` units of the cap; 0 when it is full or not set."""
        cdef uint32_t period = 0
        granted = self.claim(cell, n, &period)
        return granted, period

    cpdef void cap_return(self, uint32_t cell, uint32_t period, int64_t n) noexcept nogil:
        """Give back units of a claim that were not used; nothing happens when its period is over."""
        cdef Cell* place
        cdef uint64_t seen
        if n <= 0 or not self._shared <= cell < self._capacity:
            return
        place = self._cell(cell)
        seen = fr_load_u64(<uint64_t*>&place.first)
        while seen >> USED_BITS == period and fr_load_u32(&place.kind) == CELL_CAP:
            if fr_swap_u64(<uint64_t*>&place.first, &seen, seen - min(<uint64_t>n, seen & USED_MASK)):
                return

    def cap_used(self, uint32_t cell):
        """Units of the period's cap that were claimed; 0 where no cap is."""
        cdef uint32_t period = 0
        cdef int64_t cap = 0
        return max(self.cap_state(cell, &period, &cap), 0)

    def cap_of(self, uint32_t cell):
        """The cap that holds, 0 where none does."""
        cdef uint32_t period = 0
        cdef int64_t cap = 0
        self.cap_state(cell, &period, &cap)
        return cap

    def cap_period(self, uint32_t cell):
        """The period that the cap's use belongs to; 0 where none was set."""
        cdef uint32_t period = 0
        cdef int64_t cap = 0
        self.cap_state(cell, &period, &cap)
        return period

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
