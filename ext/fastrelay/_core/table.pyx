"""The table that all processes of one relay share: connection counts, rates, caps and demand by name, in a mapped file.

What: a *cell* for each name (cells.pyx: a bytes such as b"connections:source:a"). In it: how many connections each
worker slot holds, how many it could use (its demand), and the state of one rate (GCRA) or of the cap of a period. The
limits hold over all workers because every permit is taken here, with atomic operations and without a call to another
process.

Connection counts are kept per slot and summed, so that no total can leak: `acquire` adds its own, sums all and takes
its own back when the sum is over. After waitpid the supervisor clears the dead worker's slot.

Rates: time is CLOCK_BOOTTIME in ns, passed in. A rule comes with each take, or is recorded in the cell by the governor
(adaptive rates, a cap spread over its day) and read by each take. When a rule changes, the units that are owed stay
owed, each at the new price; a process that is killed in the midst of that leaves a bucket that owes too much. The file
outlives every process; buckets that are not full again yet, recorded rules and caps are carried over a restart. Under a
foreign boot id, or when the file was lost or damaged, every bucket counts as empty at that instant (no burst). While
`reloading` is set, the stricter of the recorded and the given rule holds, and is recorded.

Caps: of a cell with a cap, one word holds the period and what is used in it, another the period and the cap. Both are
changed by compare-and-set, and a claim needs the periods to be the same: between two periods, and whenever only one
word was written, nothing is granted. Only the governor moves a period on, and it only grows.

Known faults: two workers that compete for the last permit may both be turned away. In a shared cell a recorded rule
holds for all of its names, and a cap for none: it grants nothing.
"""

cimport cython
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint32_t, uint64_t

import os

from fastrelay._core.atomics cimport (
    fr_add_i32,
    fr_load_i32,
    fr_load_i64,
    fr_load_u32,
    fr_load_u64,
    fr_scaled,
    fr_store_i32,
    fr_store_i64,
    fr_store_u32,
    fr_store_u64,
    fr_swap_i64,
    fr_swap_u64,
    fr_times,
)
from fastrelay._core.cells cimport CELL_CAP, CELL_RECORDED, Cell, Cells, DEFAULT_CELLS, MAX_CELLS, MAX_SLOT_COUNT

from fastrelay._core.cells import CAPACITY, MAX_SLOTS, TableError, write_empty

__all__ = ["CAPACITY", "MAX_SLOTS", "Table", "TableError"]

cdef enum:
    WANT_SHIFT = 20             # demand for units is published in 2**20 ns (about a ms), and at most
    WANT_MOST = 1 << 16         # so many of them ahead (68 s); it wraps round after 26 days
    USED_BITS = 44              # of the words of a cap; the period is above them
    PERIOD_MOST = 1 << 20

cdef uint64_t USED_MASK = (<uint64_t>1 << USED_BITS) - 1


@cython.final
cdef class Table(Cells):
    """An open table. A worker opens the file the supervisor made: `Table(path)`; the supervisor uses `Table.create`."""

    @staticmethod
    def create(path, *, uint32_t slots, str boot_id, int64_t now_ns, uint32_t capacity=DEFAULT_CELLS, bint first=False):
        """Make the table anew for `slots` workers and carry over what must last from the file that lies there.

        For the holder of the state directory's lock only: no other process may have the old file open. `boot_id` names
        this boot, `now_ns` is CLOCK_BOOTTIME. Buckets that are not full again at `now_ns` keep their state. Raises
        TableError (also for a full disk: the room is reserved, so that no write to the mapping can fail later).

        `first`: nothing was ever sent from this state directory. Where no table lies there, buckets then begin full.
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
        write_empty(path + ".new", slots, capacity, boot_id, old.hash_key if old is not None else os.urandom(16))
        new = Table(path + ".new")
        if old is None:
            new._header.floor_ns = 0 if first and not os.path.lexists(path) else now_ns
        else:
            new._header.floor_ns = old._header.floor_ns
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

    cpdef void clear_slot(self, uint32_t slot) noexcept nogil:
        """Take back what a dead worker held. Only after waitpid: its counts have no other writer then."""
        cdef uint32_t cell
        if slot >= self._slots:
            return
        for cell in range(min(fr_load_u32(&self._header.next_cell), self._capacity)):
            fr_store_i32(self._row(cell, slot), 0)
            fr_store_i32(self._row(cell, slot) + 1, 0)

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
            if not really:
                return n
            if fr_swap_i64(&place.tat, &seen, tat + emission_ns * n):
                self.last_tat = tat + emission_ns * n
                self.last_emission = emission_ns
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

    cdef void undo(self, uint32_t cell, int32_t n, int64_t tat, int64_t emission_ns) noexcept nogil:
        """Undo `n` units of a take that left the bucket at `tat` (last_tat). Where another process took since, nothing
        comes back: it may have waited behind our units for longer than it had to, and time that passed meanwhile
        would be given out twice."""
        cdef int64_t expected = tat
        fr_swap_i64(&self._cell(cell).tat, &expected, tat - fr_times(emission_ns, n))

    cpdef void give_back(self, uint32_t cell, int32_t n) noexcept nogil:
        """Undo a take of `n` units of this same moment, of which nobody else knows. Later use give_back_late()."""
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
        """Units of the period's cap that were claimed; 0 where no cap is. All of them where nobody knows."""
        cdef uint32_t period = 0
        cdef int64_t cap = 0
        cdef int64_t used = self.cap_state(cell, &period, &cap)
        return cap if used == <int64_t>USED_MASK else max(used, 0)

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
