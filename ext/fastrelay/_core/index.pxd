"""What is queued, in memory: compact records and the lists they stand in; see index.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastrelay._core.flows cimport Flow, Heap, Lane, Queue
from fastrelay._core.wheel cimport Wheel

cdef enum:
    NIL = 0xFFFFFFFF
    CHUNK_BITS = 16
    CHUNK = 65536
    CHUNK_MASK = 65535

cdef enum:
    UNPLACED = 0
    READY = 1
    RETRY = 2
    DNS = 3
    IN_FLIGHT = 4
    SUSPENDED = 5
    QUARANTINED = 6
    LOADING = 7
    UNSIGNED = 8
    SUPPRESSION = 9
    PLACES = 10

cdef enum:
    RECIPIENT_POSSIBLE_DUPLICATE = 1

cdef enum:                       # flags of a Message
    MESSAGE_HELD = 1             # quarantined; see fastrelay/schedule/quarantine.py
    MESSAGE_ALONE = 2            # one recipient in a transaction
    MESSAGE_UNSIGNED = 4         # to be signed when it is sent
    MESSAGE_ASKED = 8            # for a report of success or delay of a recipient (RFC 3461)
    MESSAGE_OWES = 16            # a bounce message may be owed, see fastrelay/outcome/owed.py
    MESSAGE_LATE = 32            # looked at once, for a warning that it is delayed

cdef enum:                       # variants of a Domain
    VARIANT_REQUIRETLS = 1
    VARIANT_TLS_OPTIONAL = 2

cdef bytes domain_key(bytes name, bytes pool, int variant)
cpdef int variant_of(int flags) noexcept
cdef uint8_t message_flags(int flags) noexcept

cdef struct Message:
    uint64_t msgid
    int64_t accepted_at_ms       # monotonic, so a wall clock that jumps expires nothing
    uint32_t first               # chain of recipients still queued, ascending by number
    uint32_t queued
    uint32_t recipients
    uint32_t size
    uint32_t campaign
    uint32_t tenant
    uint32_t expire_s            # given up so long after it was accepted; 0: as its class says
    uint8_t spool
    uint8_t priority
    uint8_t flags
    uint8_t in_use

cdef struct Recipient:
    uint32_t message
    uint32_t domain
    uint32_t next
    uint32_t prev
    uint32_t sibling
    uint32_t queue               # number of the Queue it stands in, NIL if none
    uint16_t number              # position in the envelope
    uint16_t attempts
    uint16_t source              # 0: none preferred; else source number + 1
    uint8_t place
    uint8_t flags

cdef class Domain:
    cdef readonly bytes name
    cdef readonly bytes pool            # empty: the pool `default`
    cdef readonly int variant           # 0, or what its mail asks of TLS (RFC 8689)
    cdef readonly uint32_t number
    cdef public object route
    cdef public double route_expires
    cdef public SiteQueue site
    cdef readonly Queue pending
    cdef public bint resolving
    cdef public double wait_until
    cdef public str wait_detail
    cdef public Py_ssize_t queued

cdef class SiteQueue:
    cdef readonly object site
    cdef readonly str key, provider, pool_name
    cdef public object tls              # its TlsPolicy (fastrelay/tls/policy.py), or None
    cdef readonly Lane common
    cdef readonly dict by_source        # source number + 1: its Lane
    cdef readonly Py_ssize_t count, urgent
    cdef readonly dict flows
    cdef double virtual[2]              # time of the flow served last; of the transactional ones
    cdef list parked, resting
    cdef Py_ssize_t empty_flows
    cdef int64_t unpark_ns
    cdef Queue last                     # that a recipient was put into
    cdef public object pool
    cdef public list idle
    cdef public bint dirty
    cdef public double backoff_until
    cdef public str reason
    cdef public str detail
    cdef public bint held
    cdef public bint several            # more than one source may send there
    cdef readonly dict turns            # source number: its Turn in the line of a limit
    cdef public dict gates              # source number: its Gate; see Engine.pull
    cdef public list cold_gates         # of the usable sources that are to be filled first
    cdef public int64_t denied_until_ns     # CLOCK_BOOTTIME; 0: nothing was denied since the last permit
    cpdef Py_ssize_t ready(self)
    cpdef int denied(self, object rule, int64_t until_ns) except -1

cdef class Index:
    cdef Message** messages
    cdef Recipient** recipients
    cdef uint32_t message_chunks, recipient_chunks, message_top, recipient_top, message_free, recipient_free
    cdef readonly Py_ssize_t queued_messages, queued_recipients
    cdef Py_ssize_t not_before          # of those at RETRY: never tried yet
    cdef Py_ssize_t places[10]
    cdef Wheel wheel
    cdef list queues, queue_numbers_free
    cdef readonly dict domains, names
    cdef public frozenset lanes          # sources (number + 1) that a recipient may wait for
    cdef list domain_list, domain_numbers_free, name_list
    cdef set sites
    cdef double class_weights[3]
    cdef dict campaign_weights, tenant_weights

    cdef Message* message(self, uint32_t m) noexcept nogil
    cdef Recipient* recipient(self, uint32_t r) noexcept nogil
    cdef uint32_t new_message(self) except? 0xFFFFFFFF
    cdef uint32_t new_recipient(self) except? 0xFFFFFFFF
    cdef uint32_t add_message(self, uint64_t msgid, int64_t accepted_at_ms, uint32_t size, uint32_t recipients,
                              uint32_t campaign, uint32_t tenant, uint8_t priority, uint8_t spool,
                              uint32_t expire_s) except? 0xFFFFFFFF
    cdef uint32_t add_recipient(self, uint32_t m, uint16_t number, Domain domain) except? 0xFFFFFFFF
    cdef bint remove_recipient(self, uint32_t r) except -1
    cdef int place(self, uint32_t r, uint8_t place) except -1
    cdef int push(self, Queue queue, uint32_t r) except -1
    cdef int push_front(self, Queue queue, uint32_t r) except -1
    cdef int push_site(self, SiteQueue site, uint32_t r) except -1
    cdef int push_lane(self, Lane lane, uint32_t r, bint front) except -1
    cdef int unlink(self, uint32_t r) except -1
    cdef uint32_t pop(self, Queue queue) except? 0xFFFFFFFF
    cdef uint32_t pop_lane(self, Lane lane) except? 0xFFFFFFFF
    cdef uint32_t peek_site(self, SiteQueue site, uint32_t source, int64_t now_ns) except? 0xFFFFFFFF
    cdef Flow flow_of(self, SiteQueue site, uint32_t r)
    cdef int charge(self, SiteQueue site, Flow flow, Py_ssize_t recipients) except -1
    cdef int park(self, SiteQueue site, Flow flow, object rule, int64_t until_ns) except -1
    cdef Queue _queue_of(self, Lane lane, uint32_t r)
    cdef Flow _new_flow(self, SiteQueue site, uint8_t kind, uint32_t campaign, uint32_t tenant)
    cdef int _arrived(self, Queue queue) except -1
    cdef int _left(self, Queue queue) except -1
    cdef int _stand(self, Queue queue) except -1
    cdef Queue _top(self, SiteQueue site, Heap heap)
    cdef int _rest(self, SiteQueue site, Flow flow) except -1
    cdef Queue _first(self, SiteQueue site, Lane own, bint urgent)
    cdef int unpark_flow(self, Flow flow) except -1
    cdef int _unpark(self, SiteQueue site, int64_t now_ns) except -1
    cdef int _free_flow(self, SiteQueue site, Flow flow) except -1
    cdef double _weight(self, Flow flow) except -1
    cdef int defer(self, uint32_t r, int64_t due_ms) except -1
    cpdef Domain domain(self, bytes name, bytes pool=*, int variant=*)
    cpdef uint32_t name_number(self, bytes name) except? 0xFFFFFFFF
    cpdef Queue new_queue(self, int place)
