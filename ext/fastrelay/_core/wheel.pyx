"""A hierarchical timer wheel over small integer ids: add, remove and expire in O(1), 16 bytes an id.

What: ids (indexes of the caller's own records) wait for a due time in milliseconds. `advance` hands out what is due, in
slices of the caller's choice. The arrays are intrusive (next, prev, due by id), so a million waiting ids are 16 MB and
not one Python object.

How: four levels of 256 slots over ticks of 100 ms. An id lies at the level of the highest byte in which its due tick
differs from the current tick, in the slot of that byte; when time reaches the slot, its ids fall to lower levels. A bit
per slot says what is occupied, so that a jump of days costs a few bit scans and not a step per tick.

Promises: never early; at most one tick late. The due time is rounded up to a tick, the current time down. Time that
goes backwards is ignored. Ids that become due go out in the order of their ticks (within a tick in no order).

Known faults: an id is below 2**31 - 1 (the top bit marks list heads). A due time past 13.6 years after the start is
held at that end. A slot of many ids falls in slices (CASCADE_SLICE an advance), so a huge slot may come out over
several calls; `next_due_ms` then says "now".
"""

cimport cython
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

cdef extern from *:
    """
    #define fr_lowest_bit(word) ((uint32_t)__builtin_ctzll(word))
    #define fr_highest_bit(word) ((uint32_t)(63 - __builtin_clzll(word)))
    """
    uint32_t fr_lowest_bit(uint64_t word) noexcept nogil
    uint32_t fr_highest_bit(uint64_t word) noexcept nogil

cdef enum:
    TICK = 100
    CASCADE_SLICE = 16384       # ids moved between levels in one advance, at most: below a millisecond
    ADVANCE_DEFAULT = 1024

cdef uint32_t HEAD = 0x80000000u
cdef uint32_t NONE = 0xFFFFFFFFu
cdef uint32_t MAX_IDS = 0x7FFFFFFFu
cdef uint64_t LAST_TICK = 0xFFFFFFFFu

TICK_MS = TICK
NEVER = INT64_MAX


@cython.final
cdef class Wheel:
    """Ids that wait for a time. Times are milliseconds of one clock of the caller's that does not go backwards."""

    def __cinit__(self, int64_t now_ms, uint32_t capacity=1024, uint32_t max_ids=0x7FFFFFFF):
        """`capacity` ids have room at once; the arrays double when a larger id comes, up to `max_ids` (the bound)."""
        cdef int which
        if max_ids < 1 or max_ids > MAX_IDS:
            raise ValueError("max_ids is between 1 and 2**31 - 1")
        self.max_ids = max_ids
        self._start_ms = now_ms
        self._cascading = -1
        self._ready_tail = NONE
        for which in range(LISTS):
            self._heads[which] = NONE
        self.reserve(min(capacity, max_ids))

    def __dealloc__(self):
        free(self._next)
        free(self._prev)
        free(self._due)

    def __len__(self):
        return self._count

    def __contains__(self, uint32_t id):
        return id < self._capacity and self._prev[id] != NONE

    cdef void _push(self, uint32_t id, uint32_t which) noexcept nogil:
        """At the front of a slot's list."""
        cdef uint32_t first = self._heads[which]
        self._next[id] = first
        self._prev[id] = HEAD | which
        if first != NONE:
            self._prev[first] = id
        self._heads[which] = id
        if which < READY:
            self._occupied[which // SLOTS][(which % SLOTS) // 64] |= <uint64_t>1 << (which % 64)

    cdef void _append_ready(self, uint32_t id) noexcept nogil:
        """At the end of what is due: first come, first out, so that nobody starves behind later ids."""
        self._next[id] = NONE
        if self._heads[READY] == NONE:
            self._heads[READY] = id
            self._prev[id] = HEAD | READY
        else:
            self._next[self._ready_tail] = id
            self._prev[id] = self._ready_tail
        self._ready_tail = id

    cdef void _unlink(self, uint32_t id) noexcept nogil:
        cdef uint32_t before = self._prev[id]
        cdef uint32_t after = self._next[id]
        cdef uint32_t which
        if id == self._ready_tail:
            self._ready_tail = NONE if before & HEAD else before
        if after != NONE:
            self._prev[after] = before
        if before & HEAD:
            which = before ^ HEAD
            self._heads[which] = after
            if after == NONE and which < READY:
                self._occupied[which // SLOTS][(which % SLOTS) // 64] &= ~(<uint64_t>1 << (which % 64))
        else:
            self._next[before] = after
        self._prev[id] = NONE

    cdef void _place(self, uint32_t id) noexcept nogil:
        """Into the list that the due time and the current tick call for; the id is in no list."""
        cdef int64_t wait = self._due[id] - self._start_ms if self._due[id] > self._start_ms else 0
        cdef uint64_t tick = min((<uint64_t>wait + TICK - 1) // TICK, LAST_TICK)
        cdef uint32_t level
        if tick <= self._tick:
            self._append_ready(id)
            return
        level = fr_highest_bit(tick ^ self._tick) // 8
        self._push(id, level * SLOTS + <uint32_t>(tick >> (8 * level)) % SLOTS)

    cdef uint64_t _next_stop(self, int* which) noexcept nogil:
        """The next tick at which a list falls, and that list; past every tick when all are empty. A lower level shares
        its higher bytes with the current tick, so it always comes before the levels above."""
        cdef uint32_t level, slot, word, current
        cdef uint64_t bits
        for level in range(LEVELS):
            current = <uint32_t>(self._tick >> (8 * level)) % SLOTS
            if current == SLOTS - 1:
                continue
            slot = current + 1
            bits = self._occupied[level][slot // 64] >> (slot % 64) << (slot % 64)
            for word in range(slot // 64, SLOTS // 64):
                if word > slot // 64:
                    bits = self._occupied[level][word]
                if bits:
                    slot = word * 64 + fr_lowest_bit(bits)
                    which[0] = level * SLOTS + slot
                    return (self._tick >> (8 * level + 8) << (8 * level + 8)) | (<uint64_t>slot << (8 * level))
        return UINT64_MAX

    cdef bint _cascade(self, uint32_t* budget) noexcept nogil:
        """Move ids of the falling list to where they belong now; False when the budget ran out before its end."""
        cdef uint32_t id
        while self._heads[self._cascading] != NONE:
            if budget[0] == 0:
                return False
            budget[0] -= 1
            id = self._heads[self._cascading]
            self._unlink(id)
            self._place(id)
        self._cascading = -1
        return True

    cpdef int reserve(self, uint32_t ids) except -1:
        """Make room for ids below `ids`. Raises ValueError past max_ids, MemoryError."""
        cdef uint32_t* links
        cdef int64_t* dues
        if ids <= self._capacity:
            return 0
        if ids > self.max_ids:
            raise ValueError(f"timer id {ids - 1} is past the bound of {self.max_ids} ids")
        links = <uint32_t*>realloc(self._next, <size_t>ids * sizeof(uint32_t))
        if links == NULL:
            raise MemoryError
        self._next = links
        links = <uint32_t*>realloc(self._prev, <size_t>ids * sizeof(uint32_t))
        if links == NULL:
            raise MemoryError
        self._prev = links
        dues = <int64_t*>realloc(self._due, <size_t>ids * sizeof(int64_t))
        if dues == NULL:
            raise MemoryError
        self._due = dues
        memset(self._prev + self._capacity, 0xFF, <size_t>(ids - self._capacity) * sizeof(uint32_t))
        self._capacity = ids
        return 0

    cdef int _grow(self, uint32_t id) except -1:
        cdef uint64_t wanted = max(<uint64_t>id + 1, <uint64_t>self._capacity * 2)
        if id >= self.max_ids:
            raise ValueError(f"timer id {id} is past the bound of {self.max_ids} ids")
        return self.reserve(<uint32_t>min(wanted, <uint64_t>self.max_ids))

    cpdef int add(self, uint32_t id, int64_t due_ms) except -1:
        """Wait until `due_ms`; an id that waits already is moved. Raises ValueError past max_ids, MemoryError."""
        if id >= self._capacity:
            self._grow(id)
        if self._prev[id] != NONE:
            self._unlink(id)
        else:
            self._count += 1
        self._due[id] = due_ms
        self._place(id)
        return 0

    cpdef bint remove(self, uint32_t id) noexcept:
        """Forget the id; False when it did not wait."""
        if id >= self._capacity or self._prev[id] == NONE:
            return False
        self._unlink(id)
        self._count -= 1
        return True

    cpdef int64_t due(self, uint32_t id) noexcept:
        """The due time of the id in ms; NEVER when it does not wait."""
        if id >= self._capacity or self._prev[id] == NONE:
            return INT64_MAX
        return self._due[id]

    cpdef int64_t next_due_ms(self) noexcept:
        """When to call `advance` next: not after the first due tick, but maybe before it, to let ids fall to a lower
        level (at most one call for 256 ticks); NEVER when nothing waits."""
        cdef uint64_t stop
        cdef int which
        if self._count == 0:
            return INT64_MAX
        if self._heads[READY] != NONE or self._cascading >= 0:
            return self._start_ms + <int64_t>self._tick * TICK
        stop = self._next_stop(&which)
        return self._start_ms + <int64_t>stop * TICK

    cdef size_t advance_into(self, int64_t now_ms, uint32_t* ids, size_t limit) noexcept nogil:
        """Fill `ids` with at most `limit` ids that are due, and take them out; gives how many. When it gives `limit`,
        or next_due_ms() <= now_ms, there is more to do."""
        cdef uint32_t budget = CASCADE_SLICE
        cdef uint64_t target = self._tick
        cdef uint64_t stop
        cdef size_t found = 0
        cdef uint32_t id
        cdef int which
        if now_ms - self._start_ms > <int64_t>self._tick * TICK:
            target = min(<uint64_t>(now_ms - self._start_ms) // TICK, LAST_TICK)
        while True:
            while self._heads[READY] != NONE:
                if found == limit:
                    return found
                id = self._heads[READY]
                self._unlink(id)
                self._count -= 1
                ids[found] = id
                found += 1
            if self._cascading >= 0:
                if not self._cascade(&budget):
                    return found
                continue
            stop = self._next_stop(&which)
            if stop > target:
                self._tick = target
                return found
            self._tick = stop
            self._cascading = which

    cpdef list advance(self, int64_t now_ms, size_t limit=ADVANCE_DEFAULT):
        """At most `limit` ids that are due at `now_ms`, taken out of the wheel (see advance_into)."""
        cdef uint32_t* ids
        cdef size_t found, i
        limit = min(limit, <size_t>self._count)
        ids = <uint32_t*>malloc(max(limit, <size_t>1) * sizeof(uint32_t))
        if ids == NULL:
            raise MemoryError
        try:
            found = self.advance_into(now_ms, ids, limit)
            return [ids[i] for i in range(found)]
        finally:
            free(ids)
