"""Limits of one worker: a *rule* on a cell of the shared table, a *gate* of all rules that hold for one source and
site, and *waiting*: who waits for which rule.

The unit of every rate and cap is a RCPT written (DESIGN section 5). A gate gives `most` or fewer, or 0 with the rule
that denies; what earlier rules gave too much is given back at once. The granted path makes no Python object.

Caps. A worker holds blocks of a cap: units that are claimed in the shared table and, before the first of them is used,
recorded by its own spool as "reserved in this period, in all" (fastrelay/limits/durable.py), on the group commit.

    step                           after kill -9 of the worker               after power loss
    ----                           ---------------------------               ----------------
    units claimed in the table     the table counts them: lost for           not reserved, and none was used
                                   this period
    record in the open batch       the same                                  the same
    batch committed                the same                                  the sum over the spools counts them as used
    units used                     the same                                  the same
    worker ends well: the rest     the table does not count the rest, the    before the next commit: the sum counts the
    goes back to the table, the    sum may still                             rest too; after it, what was used
    record is lowered
    the rest used by another       the table counts it; that one recorded    as above, for the other one's record
                                   it before

So the table (same boot) and the sum over all spools (another boot) never count less than what was used, and count more
by at most what each worker may hold unused: 1/OUTSTANDING_PART of the cap, or 1. A record is of one period; the first
block of the next period begins it anew. A block whose period is over is dropped, and so is one whose cap was lowered
below what is claimed. Units of one period are never given back into another.

Fairness between workers: who is denied a rate for transactional mail says so in the table, and other workers' other
mail gives way, for as long as the denied one may take to come back and a few intervals; then as before.

Waiting: each rule has a list of sites, first come first served (transactional first), and a place in a heap by the
time it is looked at next. So what happens costs no more with many sites. At that time as many sites are woken as there
are permits; were they not taken, more are woken shortly after: a woken site that takes nothing strands nobody.

Bounds: MOST_RULES a gate, MOST_AT_ONCE sites woken in one call (the rest at once after), a site waits once.

Known faults: a rule whose permits are taken by sites that never wait (they ask just when one comes) serves those first.
"""

cimport cython
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport INT32_MAX, INT64_MAX

from fastrelay._core.table cimport UNSET_NS

cdef enum:
    MOST_AT_ONCE = 1024
    OUTSTANDING_PART = 100              # a worker holds at most this part of a cap unused (or 1)
    LOOK_NS = 1_000_000_000             # a rule with waiters is looked at so often: the governor may have changed it
    RECHECK_MOST_NS = 20_000_000        # how soon to see if woken sites took what there was
    RECHECK_LEAST_NS = 1_000_000
    COMMIT_NS = 50_000_000              # when to ask again for a block; its commit wakes before
    WANT_INTERVALS = 4
    WANT_LEAST_NS = 50_000_000
    WANT_MOST_NS = 2_000_000_000

cdef int64_t LOOK_FIXED_NS = 10_000_000_000     # and one of the configuration: another worker may give units back

NEVER_NS = INT64_MAX
KINDS = {"fixed": FIXED, "recorded": RECORDED, "spread": SPREAD, "cap": CAP}
KIND_NAMES = {number: name for name, number in KINDS.items()}


@cython.final
@cython.freelist(256)
cdef class Waiter:
    """A site in the waiting list of a rule."""


@cython.final
cdef class Rule:
    """One limit. Rules with the same cell are one object in a worker; `name` is the cell's name.

    kind          "fixed": `emission_ns` and `burst`; "recorded": as the governor recorded, unlimited where it has not;
                  "spread": as "recorded", denied where it has not; "cap": so many in a period
    reason        what waits for it says this (`rate_limit`, `warmup_cap`, …); `detail` and `origin` are for people
    slot          this worker's
    reservations  "cap": a fastrelay.limits.durable.Reservations; None where nothing needs to last (simulations)
    """

    def __init__(self, Table table, bytes name, int64_t emission_ns=0, int64_t burst=1, str reason="rate_limit",
                 detail="", str kind="fixed", *, uint32_t slot=0, origin="", reservations=None):
        self.table = table
        self.name = name
        self.cell = table.cell(name)
        self.slot = slot
        self.kind_number = KINDS[kind]
        self.reason = reason
        self.detail = detail
        self.origin = origin
        self.emission_ns = max(emission_ns, 0)
        self.burst = max(burst, 1)
        self.reservations = reservations
        self.place = -1
        if self.kind_number == FIXED and emission_ns <= 0:
            raise ValueError("a fixed rate needs the ns of one unit")
        if self.kind_number == FIXED:
            table.introduce(self.cell, self.emission_ns, self.burst)

    @property
    def kind(self):
        """"fixed", "recorded", "spread" or "cap"."""
        return KIND_NAMES[self.kind_number]

    def change(self, int64_t emission_ns, int64_t burst, detail, origin, int64_t now_ns):
        """A fixed rule after a reload. The bucket keeps what it owes."""
        if self.kind_number != FIXED or emission_ns <= 0:
            raise ValueError("only a fixed rate is changed, to another rate")
        if emission_ns != self.emission_ns:
            self.changed_ns = now_ns
        self.emission_ns = emission_ns
        self.burst = max(burst, 1)
        self.detail = detail
        self.origin = origin

    # --- taking ---

    cdef int64_t take(self, int32_t most, int64_t now_ns, bint urgent) except? 0:
        """1 to `most`, or the ns to wait, negative; never 0."""
        cdef int64_t got
        self.asked_ns = now_ns
        if self.kind_number == CAP:
            return self._take_cap(most, now_ns)
        if not urgent and (self.urgent_waiters or self.table.others_want(self.cell, self.slot, now_ns)):
            return -self._interval()
        got = self._take_rate(most, now_ns)
        if not urgent:
            return got
        if got > 0:
            if self.wanting:
                self.wanting = False
                self.table.want(self.cell, self.slot, now_ns, 0)
        else:
            self.wanting = True
            self.table.want(self.cell, self.slot, now_ns, min(
                -got + min(max(WANT_INTERVALS * self._interval(), <int64_t>WANT_LEAST_NS), <int64_t>WANT_MOST_NS),
                <int64_t>60_000_000_000))
        return got

    cdef int64_t _interval(self) noexcept:
        cdef int64_t _burst
        return min(max(self._rate(&_burst), <int64_t>RECHECK_LEAST_NS), <int64_t>LOOK_NS)

    cdef int64_t _patience(self) noexcept:
        """How long a rule with waiters may go without a look."""
        return LOOK_FIXED_NS if self.kind_number == FIXED else LOOK_NS

    cdef int64_t charged(self) noexcept:
        """ns per unit as takes are charged now."""
        return self.table._cell(self.cell).emission_ns

    cdef int64_t _rate(self, int64_t* burst) noexcept:
        """ns per unit, 0: no rule recorded."""
        if self.kind_number == FIXED:
            burst[0] = self.burst
            return self.emission_ns
        return self.table.recorded(self.cell, burst)

    cdef int64_t _take_rate(self, int32_t most, int64_t now_ns) noexcept:
        cdef int64_t got, burst, emission_ns = self._rate(&burst)
        if self.kind_number != FIXED and emission_ns != self.seen_emission:
            self.seen_emission = emission_ns
            self.changed_ns = now_ns
        if emission_ns == 0:
            return -UNSET_NS if self.kind_number == SPREAD else most
        got = self.table.take_up_to(self.cell, now_ns, most, emission_ns, burst)
        if got > 0:
            self.took_tat = self.table.last_tat
            self.took_emission = self.table.last_emission
        return got

    cdef int64_t _take_cap(self, int32_t most, int64_t now_ns) except? 0:
        cdef int64_t got
        if not self._in_period(now_ns):
            return -LOOK_NS
        if self.left < most:
            self._next_block()
        if self.left <= 0:
            return -COMMIT_NS if self.pending else -LOOK_NS
        got = min(self.left, most)
        self.left -= got
        return got

    cdef int _in_period(self, int64_t now_ns) except -1:
        """Whether a cap holds and the block may be used; a block that may not is dropped or returned."""
        cdef uint32_t period
        cdef int64_t cap, used = self.table.cap_state(self.cell, &period, &cap)
        if used < 0 or self.closed:
            return 0
        if period != self.period:
            self.period = period
            self.changed_ns = now_ns
            self.left = self.pending = 0
        elif used > cap and self.left:          # it was lowered
            self.table.cap_return(self.cell, period, self.left)
            self._lower(self.left)
            self.left = 0
        return cap > 0

    def _lower(self, n):
        if self.reservations is not None:
            self.reservations.lower(self.name, self.period, n)

    cdef int _next_block(self) except -1:
        """Claim the next block, unless it is on its way or there would be too much unused."""
        cdef uint32_t period
        cdef int64_t cap, got, most
        if self.pending or self.table.cap_state(self.cell, &period, &cap) < 0 or period != self.period:
            return 0
        most = max(cap // OUTSTANDING_PART, 1) - self.left
        # Half of it while the other half is used, so that the disk is not waited for.
        got = self.table.claim(self.cell, min(max(cap // (2 * OUTSTANDING_PART), 1), most), &period)
        if got and period != self.period:
            self.table.cap_return(self.cell, period, got)
            return 0
        if got and self.reservations is None:
            self.left += got
        elif got:
            self.pending = got
            self.reservations.reserve(self.name, period, got, _Committed(self, period, got))
        return 0

    def _committed(self, uint32_t period, int64_t n):
        """A block is on stable storage."""
        if period != self.period or self.closed or self.pending != n:
            return
        self.pending = 0
        self.left += n
        if self.waiters and self.waiting is not None:
            self.waiting._schedule(self, 0)
            if self.waiting.on_sooner is not None:
                self.waiting.on_sooner()

    def close(self):
        """The worker ends well, or this rule goes: what is left of a cap's block is returned, and wants end."""
        cdef int64_t rest = self.left + self.pending
        if self.wanting:
            self.wanting = False
            self.table.want(self.cell, self.slot, 0, 0)
        if self.kind_number == CAP and not self.closed and rest:
            self.table.cap_return(self.cell, self.period, rest)
            self._lower(rest)
        self.left = self.pending = 0
        self.closed = True

    # --- giving back ---

    cdef void untake(self, int32_t n) noexcept:
        """Units that were taken in this same moment."""
        if self.kind_number == CAP:
            self.left += n
        elif self.kind_number == FIXED or self.seen_emission:
            self.table.undo(self.cell, n, self.took_tat, self.took_emission)
            self.took_tat -= self.took_emission * n     # for what is undone of the same take after this

    cdef int give_back(self, int32_t n, int64_t taken_ns, int64_t now_ns) except -1:
        """Units that were taken at `taken_ns`; nothing when the rule or the period changed since."""
        cdef int64_t emission_ns, _burst
        if taken_ns < self.changed_ns or self.closed:
            return 0
        if self.kind_number == CAP:
            self.left += n
            self._trim()
            return 0
        emission_ns = self._rate(&_burst)
        if emission_ns == self.charged() and (self.kind_number == FIXED or emission_ns == self.seen_emission):
            self.table.give_back_late(self.cell, n, taken_ns, now_ns)
        return 0

    cdef int _trim(self) except -1:
        """Return what came back and is more than a worker may hold unused."""
        cdef uint32_t period
        cdef int64_t cap, surplus
        if self.table.cap_state(self.cell, &period, &cap) < 0 or period != self.period:
            return 0
        surplus = min(self.left + self.pending - max(cap // OUTSTANDING_PART, 1), self.left)
        if surplus > 0:
            self.left -= surplus
            self.table.cap_return(self.cell, period, surplus)
            self._lower(surplus)
        return 0

    # --- looking ---

    cpdef int64_t look(self, int64_t now_ns, bint urgent=False) except? 0:
        """What a take would give now (above 0), or the ns to wait, negative. A cap begins its next block, if it needs
        one; a rate is not touched."""
        cdef int64_t burst, emission_ns
        if self.kind_number == CAP:
            if not self._in_period(now_ns):
                return -LOOK_NS
            if self.left <= 0:
                self._next_block()
            if self.left > 0:
                return self.left
            return -COMMIT_NS if self.pending else -LOOK_NS
        if not urgent and self.table.others_want(self.cell, self.slot, now_ns):
            return -self._interval()
        emission_ns = self._rate(&burst)
        if emission_ns == 0:
            return -UNSET_NS if self.kind_number == SPREAD else INT32_MAX
        return self.table.look(self.cell, now_ns, emission_ns, burst)

    cdef int64_t room(self, int64_t now_ns) except? 0:
        """As look(), but all that is left of a cap, as far as this worker can tell: it waits for the disk at most."""
        cdef uint32_t period
        cdef int64_t cap, used
        if self.kind_number != CAP:
            return self.look(now_ns)
        if not self._in_period(now_ns):
            return 0
        used = self.table.cap_state(self.cell, &period, &cap)
        return self.left + self.pending + max(cap - used, 0)

    def __repr__(self):
        return f"<Rule {self.kind} {self.name!r} {self.reason}>"


@cython.final
cdef class _Committed:
    """What the commit of a block calls."""
    cdef Rule rule
    cdef uint32_t period
    cdef int64_t n

    def __init__(self, Rule rule, uint32_t period, int64_t n):
        self.rule = rule
        self.period = period
        self.n = n

    def __call__(self, error=None):
        if error is None:
            self.rule._committed(self.period, self.n)


@cython.final
cdef class Gate:
    """All rules of one source at one site, in the order in which they are asked. Immutable; at most MOST_RULES."""

    def __init__(self, rules=()):
        self.rules = tuple(rules)
        if len(self.rules) > MOST_RULES:
            raise ValueError(f"{len(self.rules)} rules of one gate: at most {MOST_RULES}")
        if not all([isinstance(rule, Rule) for rule in self.rules]):
            raise TypeError("a gate is made of rules")
        self.count = <int>len(self.rules)

    cpdef int permit(self, int most, int64_t now_ns, bint urgent) except? -1:
        """1 to `most` units, all rules charged; or 0, none charged, and `denied` and `retry_at_ns` (boot time) say
        which rule and when to ask again."""
        cdef int32_t taken[MOST_RULES]
        cdef int i, n = most
        cdef int64_t got
        if most <= 0:
            return 0
        for i in range(self.count):
            got = (<Rule>PyTuple_GET_ITEM(self.rules, i)).take(n, now_ns, urgent)
            if got <= 0:
                self.denied = <Rule>PyTuple_GET_ITEM(self.rules, i)
                self.retry_at_ns = now_ns - got if got > now_ns - INT64_MAX else INT64_MAX
                while i > 0:
                    i -= 1
                    (<Rule>PyTuple_GET_ITEM(self.rules, i)).untake(taken[i])
                return 0
            n = <int>got
            taken[i] = n
        for i in range(self.count):
            if taken[i] > n:
                (<Rule>PyTuple_GET_ITEM(self.rules, i)).untake(taken[i] - n)
        return n

    cpdef int unused(self, int n) except -1:
        """Give back `n` units of the permit that was given in this same moment (the same `now_ns`)."""
        cdef int i
        if n > 0:
            for i in range(self.count):
                (<Rule>PyTuple_GET_ITEM(self.rules, i)).untake(n)
        return 0

    cpdef int give_back(self, int n, int64_t taken_ns, int64_t now_ns) except -1:
        """Give back `n` units that were permitted at `taken_ns` and for which no RCPT was written."""
        cdef int i
        if n > 0:
            for i in range(self.count):
                (<Rule>PyTuple_GET_ITEM(self.rules, i)).give_back(n, taken_ns, now_ns)
        return 0

    cpdef int available(self, int64_t now_ns) except? -1:
        """How many units all rules let through now, with all that is left of a cap, though it must be reserved first:
        what other sources leave to a cold one. Nothing is taken. INT32_MAX where no rule limits."""
        cdef int64_t n = INT32_MAX, got
        cdef int i
        for i in range(self.count):
            got = (<Rule>PyTuple_GET_ITEM(self.rules, i)).room(now_ns)
            if got <= 0:
                return 0
            n = min(n, got)
        return <int>n

    cpdef int soon(self, int64_t now_ns) except? -1:
        """The same as `available`."""
        return self.available(now_ns)

    def __len__(self):
        return self.count


@cython.final
cdef class Waiting:
    """Which sites wait for which rule. Sites are any hashable objects."""

    def __init__(self):
        self._heap = []
        self._waiters = {}
        self.on_sooner = None

    def __len__(self):
        return len(self._waiters)

    cpdef int wait(self, Rule rule, object site, int64_t at_ns, bint urgent=False) except -1:
        """`site` waits for a permit of `rule`, which said `at_ns`. It keeps its turn where it waits for that rule
        already; it waits for no other one any more."""
        cdef Waiter waiter = self._waiters.get(site)
        if waiter is not None and waiter.rule is rule and waiter.urgent == urgent:
            return self._schedule_earlier(rule, at_ns)
        if waiter is not None:
            self._unlink(waiter)
        else:
            waiter = Waiter.__new__(Waiter)
            waiter.site = site
        self._waiters[site] = waiter
        waiter.rule = rule
        waiter.urgent = urgent
        waiter.before = rule.last_urgent if urgent else rule.last
        waiter.after = None
        if waiter.before is not None:
            waiter.before.after = waiter
        elif urgent:
            rule.first_urgent = waiter
        else:
            rule.first = waiter
        if urgent:
            rule.last_urgent = waiter
        else:
            rule.last = waiter
        rule.waiters += 1
        rule.urgent_waiters += urgent
        rule.waiting = self
        return self._schedule_earlier(rule, at_ns)

    cpdef int forget(self, object site) except -1:
        """The site waits for nothing any more (it is gone, or was woken by something else)."""
        cdef Waiter waiter = self._waiters.pop(site, None)
        if waiter is not None:
            self._unlink(waiter)
        return 0

    def rule_of(self, site):
        """The rule that a site waits for, or None."""
        cdef Waiter waiter = self._waiters.get(site)
        return None if waiter is None else waiter.rule

    def wake_all(self):
        """All sites that wait, waiting no more: after a reload."""
        sites = list(self._waiters)
        for site in sites:
            self._unlink(self._waiters.pop(site))
        return sites

    cpdef list due(self, int64_t now_ns):
        """Sites to wake: of each rule whose time has come at most as many as there are permits, in turn."""
        cdef list woken = []
        cdef Rule rule
        cdef int64_t permits
        cdef Py_ssize_t most
        while self._heap and len(woken) < MOST_AT_ONCE:
            rule = self._heap[0]
            if rule.wake_ns > now_ns:
                break
            permits = rule.look(now_ns, True)
            most = rule.waiters
            if permits > 0 and rule.kind_number != CAP and rule.table.others_want(rule.cell, rule.slot, now_ns):
                most = rule.urgent_waiters      # the others give way
            if permits > 0:
                self._wake(rule, min(permits, most, MOST_AT_ONCE - len(woken)), woken)
                if rule.waiters and len(woken) >= MOST_AT_ONCE:
                    self._schedule(rule, now_ns)
                elif rule.waiters:
                    self._schedule(rule, now_ns + min(rule._interval(), <int64_t>RECHECK_MOST_NS))
            else:
                self._schedule(rule, now_ns + min(-permits, rule._patience()))
        return woken

    cpdef int64_t next_ns(self) noexcept:
        """When due() has something to do next (boot time); INT64_MAX: never, as things are."""
        return (<Rule>self._heap[0]).wake_ns if self._heap else INT64_MAX

    cdef int _wake(self, Rule rule, int64_t permits, list woken) except -1:
        cdef Waiter waiter
        while permits > 0 and rule.waiters:
            waiter = rule.first_urgent if rule.first_urgent is not None else rule.first
            del self._waiters[waiter.site]
            self._unlink(waiter)
            woken.append(waiter.site)
            permits -= 1
        return 0

    cdef int _unlink(self, Waiter waiter) except -1:
        cdef Rule rule = waiter.rule
        if waiter.before is not None:
            waiter.before.after = waiter.after
        elif waiter.urgent:
            rule.first_urgent = waiter.after
        else:
            rule.first = waiter.after
        if waiter.after is not None:
            waiter.after.before = waiter.before
        elif waiter.urgent:
            rule.last_urgent = waiter.before
        else:
            rule.last = waiter.before
        waiter.before = waiter.after = None
        waiter.rule = None
        rule.waiters -= 1
        rule.urgent_waiters -= waiter.urgent
        if not rule.waiters:
            self._unschedule(rule)
        return 0

    # --- the heap ---

    cdef int _schedule_earlier(self, Rule rule, int64_t at_ns) except -1:
        if rule.asked_ns:
            at_ns = min(at_ns, rule.asked_ns + rule._patience())
        if rule.place < 0 or at_ns < rule.wake_ns:
            self._schedule(rule, at_ns)
        return 0

    cdef int _schedule(self, Rule rule, int64_t at_ns) except -1:
        cdef int64_t before = rule.wake_ns
        rule.wake_ns = at_ns
        if rule.place < 0:
            rule.place = len(self._heap)
            self._heap.append(rule)
            return self._up(rule.place)
        return self._up(rule.place) if at_ns < before else self._down(rule.place)

    cdef int _unschedule(self, Rule rule) except -1:
        cdef Py_ssize_t place = rule.place
        cdef Rule moved
        if place < 0:
            return 0
        rule.place = -1
        moved = self._heap.pop()
        if moved is not rule:
            self._heap[place] = moved
            moved.place = place
            self._up(place)
            self._down(moved.place)
        return 0

    cdef int _up(self, Py_ssize_t place) except -1:
        cdef Rule rule = self._heap[place], above
        while place > 0:
            above = self._heap[(place - 1) // 2]
            if above.wake_ns <= rule.wake_ns:
                break
            self._heap[place] = above
            above.place = place
            place = (place - 1) // 2
        self._heap[place] = rule
        rule.place = place
        return 0

    cdef int _down(self, Py_ssize_t place) except -1:
        cdef Rule rule = self._heap[place], below, other
        cdef Py_ssize_t n = len(self._heap), child
        while 2 * place + 1 < n:
            child = 2 * place + 1
            below = self._heap[child]
            if child + 1 < n:
                other = self._heap[child + 1]
                if other.wake_ns < below.wake_ns:
                    below = other
                    child += 1
            if rule.wake_ns <= below.wake_ns:
                break
            self._heap[place] = below
            below.place = place
            place = child
        self._heap[place] = rule
        rule.place = place
        return 0
