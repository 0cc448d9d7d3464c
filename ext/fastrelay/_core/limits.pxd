"""Limits of one worker: rules on cells of the shared table, gates of several rules, and who waits for which rule.

For the engine: `gate.permit(most, now_ns, urgent)` before a transaction, `gate.unused(n)` at once for what of it is not
needed, `gate.give_back(n, taken_ns, now_ns)` later for a transaction that wrote no RCPT.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t

from fastrelay._core.table cimport Table

cdef enum:
    FIXED = 0           # a rate from the configuration
    RECORDED = 1        # a rate that the governor records in the cell; none: unlimited
    SPREAD = 2          # the same; none: denied
    CAP = 3             # so many in a period, reserved in blocks

    MOST_RULES = 16     # of one gate

cdef class Rule
cdef class Waiting

cdef class Waiter:
    """A site in the waiting list of a rule."""
    cdef object site
    cdef Rule rule
    cdef bint urgent
    cdef Waiter before, after

cdef class Rule:
    cdef readonly Table table
    cdef readonly uint32_t cell
    cdef readonly uint32_t slot
    cdef readonly int kind_number
    cdef readonly int64_t emission_ns, burst
    cdef readonly bytes name
    cdef public object reason, detail, origin
    cdef int64_t took_tat, took_emission    # of the last take, to undo it in the same moment
    cdef int64_t seen_emission          # RECORDED: as of the last take
    cdef int64_t asked_ns               # the last take
    cdef int64_t changed_ns             # since then the rule (or the period) is the present one
    cdef bint wanting                   # the table says that we wait for transactional mail
    # CAP
    cdef object reservations            # what makes blocks durable; None: nothing does
    cdef readonly uint32_t period       # of the block
    cdef readonly int64_t left          # of the block
    cdef readonly int64_t pending       # of the next block, on its way to the disk
    cdef bint closed
    # of Waiting
    cdef Waiting waiting
    cdef Waiter first_urgent, last_urgent, first, last
    cdef readonly Py_ssize_t waiters
    cdef Py_ssize_t urgent_waiters
    cdef int64_t wake_ns
    cdef Py_ssize_t place               # in the heap; -1: not there

    cdef int64_t take(self, int32_t most, int64_t now_ns, bint urgent) except? 0
    cdef void untake(self, int32_t n) noexcept
    cdef int give_back(self, int32_t n, int64_t taken_ns, int64_t now_ns) except -1
    cdef int _trim(self) except -1
    cdef int64_t room(self, int64_t now_ns) except? 0
    cpdef int64_t look(self, int64_t now_ns, bint urgent=*) except? 0
    cdef int64_t _take_rate(self, int32_t most, int64_t now_ns) noexcept
    cdef int64_t _take_cap(self, int32_t most, int64_t now_ns) except? 0
    cdef int _in_period(self, int64_t now_ns) except -1
    cdef int _next_block(self) except -1
    cdef int64_t _rate(self, int64_t* burst) noexcept
    cdef int64_t charged(self) noexcept
    cdef int64_t _patience(self) noexcept
    cdef int64_t _interval(self) noexcept

cdef class Gate:
    cdef readonly tuple rules
    cdef int count
    cdef readonly Rule denied
    cdef readonly int64_t retry_at_ns

    cpdef int permit(self, int most, int64_t now_ns, bint urgent) except? -1
    cpdef int unused(self, int n) except -1
    cpdef int give_back(self, int n, int64_t taken_ns, int64_t now_ns) except -1
    cpdef int available(self, int64_t now_ns) except? -1
    cpdef int soon(self, int64_t now_ns) except? -1

cdef class Waiting:
    cdef list _heap                     # rules with waiters, by wake_ns
    cdef dict _waiters                  # site → Waiter
    cdef public object on_sooner        # called when next_ns() became earlier from outside of a pull

    cpdef int wait(self, Rule rule, object site, int64_t at_ns, bint urgent=*) except -1
    cpdef int forget(self, object site) except -1
    cpdef list due(self, int64_t now_ns)
    cpdef int64_t next_ns(self) noexcept
    cdef int _unlink(self, Waiter waiter) except -1
    cdef int _schedule(self, Rule rule, int64_t at_ns) except -1
    cdef int _schedule_earlier(self, Rule rule, int64_t at_ns) except -1
    cdef int _unschedule(self, Rule rule) except -1
    cdef int _up(self, Py_ssize_t place) except -1
    cdef int _down(self, Py_ssize_t place) except -1
    cdef int _wake(self, Rule rule, int64_t permits, list woken) except -1
