"""The hot path's middle: accept, pull, settle; see engine.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastrelay._core.commit cimport Spool
from fastrelay._core.flows cimport Flow
from fastrelay._core.index cimport Domain, Index, Message, SiteQueue
from fastrelay._core.inflight cimport Inflight
from fastrelay._core.limits cimport Gate, Rule, Waiting
from fastrelay._core.record cimport Head, Record, Text
from fastrelay._core.envelope cimport Envelope
from fastrelay._core.reply cimport Reply
from fastrelay._core.scan cimport Scan
from fastrelay._core.slab cimport Slab
from fastrelay._core.transaction cimport Transaction

cdef enum:
    FIELD_NAME_LONGEST = 77

cdef class Accepted:
    cdef public object connection
    cdef public uint64_t msgid
    cdef public bytes raw
    cdef public bytes content
    cdef public list domains
    cdef public Py_ssize_t size
    cdef public uint32_t campaign, tenant, expire_s
    cdef public int priority, flags     # flags: of the record
    cdef public int64_t hold_ms         # not before so long after acceptance
    cdef public double since

cdef class Hot:
    cdef Record record
    cdef bytes content

cdef class Delivery:
    cdef public Transaction transaction
    cdef public object session
    cdef public uint32_t message
    cdef public uint64_t msgid
    cdef public int spool
    cdef public list recipients
    cdef public Record record
    cdef public double started
    cdef readonly int permits           # of each gate, 0: none was needed, or they are given back
    cdef Gate gate, flow_gate
    cdef int64_t permitted_ns
    cdef int handle

cdef class Engine:
    cdef public Index index
    cdef public list spools, inflights, tags
    cdef Spool spool
    cdef Inflight inflight
    cdef public Slab slab
    cdef dict denials                   # (reason, provider): the entry that counts them
    cdef public object cold
    cdef public object monotonic, wall
    cdef public bytearray read_buffer
    cdef public bytes hostname
    cdef public Py_ssize_t received_limit, queued_limit, hot_limit, loading_limit
    cdef public int64_t expire_ms
    cdef int64_t class_expire_ms[3]     # 0: expire_ms
    cdef public object boottime_ns      # a function
    cdef double boot_for                # monotonic time at which boot time was read last
    cdef int64_t boot_then_ns
    cdef set yielding                   # cells for which a session leaves at this moment
    cdef public Waiting waiting       # which site waits for which rule
    cdef public object assign           # which campaign, tenant, pool, class and times a message has
    cdef public bint assigned           # whether a message without our header fields may have any
    cdef public object seal             # what is added before a message, and its signature; None: nothing
    cdef public bint suspensions, held_back
    cdef public object suppression      # what knows who gets no mail (fastrelay/schedule/suppressed.py); None: nobody
    cdef readonly frozenset field_names
    cdef char field_initials[256]
    cdef dict hot
    cdef readonly Py_ssize_t hot_bytes
    cdef public Py_ssize_t loading
    cdef Text text
    cdef Reply last_reply
    cdef bytes last_reply_json
    cdef list dirty, starved
    cdef int64_t second
    cdef bytes second_iso, second_date
    cdef uint32_t accepted_messages, accepted_recipients, accepted_bytes, events_total, duplicates_total
    cdef uint32_t commit_seconds, commit_group
    cdef public object accept_edit

    cdef int64_t boot_ns(self, double now) except -1
    cdef int _clock(self, double wall) except -1
    cdef int _event_begin(self, const char* name, double wall, bytes tag, uint64_t msgid) except -1
    cdef bint _has_field(self, bytes content, Py_ssize_t header_length) except -1
    cpdef bytes accept(self, object connection, Envelope envelope, bytes client, bytes trace_head, object large,
                       double now)
    cdef int _accepted(self, Accepted a, double now_ms) except -1
    cpdef Delivery pull(self, SiteQueue site, int source, int most, double now)
    cdef list _together(self, uint32_t r, SiteQueue site, int source, int most)
    cdef int _permit(self, SiteQueue site, int source, Flow flow, Gate gate, int wanted, int64_t now_ns) except -1
    cdef Gate _flow_gate(self, Flow flow)
    cdef Gate _gate(self, SiteQueue site, int source)
    cdef int _deny(self, SiteQueue site, int source, Gate gate, bint urgent) except -1
    cdef int _count_denial(self, SiteQueue site, Rule rule) except -1
    cdef int _nothing(self, SiteQueue site) except -1
    cdef bint _left_to_cold(self, SiteQueue site, int source, Gate gate, int64_t now_ns) except -1
    cpdef int give_back(self, Delivery delivery) except -1
    cdef int64_t _lifetime_ms(self, uint32_t m) noexcept
    cdef bint _expired(self, uint32_t m, int64_t now_ms) noexcept
    cdef Delivery _load(self, uint32_t r, SiteQueue site, list numbers)
    cdef int _misrouted(self, uint32_t r, SiteQueue site, double now) except -1
    cpdef int body_leaves(self, Delivery delivery) except -1
    cpdef int settle_delivered(self, Delivery delivery, bytes tail, double now) except -1
    cpdef int released(self, Delivery delivery) except -1
    cdef int _wait(self, Rule rule, object who, int64_t until_ns, bint urgent) except -1
    cpdef int wake(self, object who) except -1
    cdef int _wake_site(self, SiteQueue site, double now) except -1
    cdef int _starve(self, SiteQueue site) except -1
    cdef int _forget_hot(self, uint64_t msgid) except -1
    cdef int _look_up_accepted(self, uint32_t m, Accepted a) except -1
    cdef list _not_suppressed(self, uint32_t m, Record record, list numbers, bint place)
    cdef Domain _domain_of(self, const char* address, Py_ssize_t length, bytes pool, int variant)
    cdef bytes _pool_in(self, const unsigned char* raw, const Head* head)
    cdef Domain _new_domain(self, bytes name, bytes pool, int variant)
    cdef uint32_t _name_in(self, const unsigned char* raw, const Head* head, int which) except? 0xFFFFFFFF
    cpdef int place_ready(self, uint32_t r, double now) except -1
    cdef bytes _trace(self, Envelope envelope, bytes trace_head, uint64_t msgid, double wall)
    cdef int _event_accepted(self, Accepted a, Envelope envelope, bytes client, double wall, bytes warnings) except -1
    cdef int _event_names(self, uint32_t campaign, uint32_t tenant) except -1
    cdef Delivery _delivery(self, uint32_t m, Record record, bytes content, list numbers)
    cdef bint _by_flags(self, Transaction tx, Record record, bytes content, Message* message) except -1
    cdef int _event_delivered(self, Delivery delivery, Py_ssize_t i, bytes tail, double wall, double now) except -1
