"""What is queued, in memory.

A queued recipient is a 32-octet record and its message one of 48, in arrays that grow by chunks of 65,536 (no
copying when they grow), with 16 octets a recipient in the timer wheel: 96 octets for a message of one recipient.
Everything else about a message is read from LMDB when it is needed. Records are named by their number in the
array; a number is used again once its record is free, so it is never kept across a wait without its message id.

A recipient is in exactly one place at a time:

    UNPLACED     being moved by the code at hand
    READY        in a queue of its site: sent as soon as a session pulls it
    RETRY        in the timer wheel: deferred, or (never tried) not to be sent before its time
    DNS          in its domain's queue: waits for a route
    IN_FLIGHT    part of a transaction (or of a settlement that is not yet on disk)
    SUSPENDED    held by an operator's suspension
    QUARANTINED  held until an operator looks at it
    LOADING      its content is being read from disk
    UNSIGNED     waits for a DKIM key
    SUPPRESSION  the suppression list can't be read

Known faults: a domain's queue numbers are recycled, but Domain objects stay until `forget_idle_domains`.
"""

cimport cython
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from fastrelay._core.flows cimport FLOWS_PER_SITE, SHARED, TRANSACTIONAL, Flow, Heap, Lane, Queue
from fastrelay._core.record cimport (
    FLAG_REPORTS_ASKED,
    FLAG_REQUIRETLS,
    FLAG_TLS_OPTIONAL,
    FLAG_UNSIGNED,
    FLAG_VERP,
)

PLACE_NAMES = ("unplaced", "ready", "retry_backoff", "dns", "in_flight", "suspended", "quarantined", "loading",
               "no_dkim_key", "suppression")


cdef bytes domain_key(bytes name, bytes pool, int variant):
    """By what `Index.domains` knows a Domain. No name has a NUL in it."""
    if variant:
        return name + b"\0" + pool + b"\0%d" % variant
    return name + b"\0" + pool if pool else name


cpdef int variant_of(int flags) noexcept:
    """Which variant of its recipients' domains a message with these flags (of its record) goes to."""
    return VARIANT_REQUIRETLS if flags & FLAG_REQUIRETLS else VARIANT_TLS_OPTIONAL if flags & FLAG_TLS_OPTIONAL else 0


cdef uint8_t message_flags(int flags) noexcept:
    """What the index keeps of the flags of a record."""
    return ((MESSAGE_ALONE if flags & FLAG_VERP else 0) | (MESSAGE_UNSIGNED if flags & FLAG_UNSIGNED else 0)
            | (MESSAGE_ASKED if flags & FLAG_REPORTS_ASKED else 0))


cdef inline uint64_t flow_key(uint8_t kind, uint32_t campaign, uint32_t tenant) noexcept:
    return (<uint64_t> campaign << 32) + (<uint64_t> tenant << 2) + kind


@cython.final
cdef class Domain:
    """A recipient domain with mail queued for one pool (and variant), its route, and what waits for that route."""

    def __cinit__(self, bytes name, bytes pool, uint32_t number, Queue pending, int variant):
        self.name = name
        self.pool = pool
        self.variant = variant
        self.number = number
        self.route = None
        self.route_expires = 0
        self.site = None
        self.pending = pending
        self.resolving = False
        self.wait_until = 0
        self.wait_detail = ""
        self.queued = 0


@cython.final
cdef class SiteQueue:
    """What is ready for one site from one pool, in flows; see flows.pyx."""

    def __cinit__(self, object site, str pool_name="default", object tls=None):
        self.site = site
        self.tls = tls
        self.key = site.key
        self.provider = site.provider
        self.pool_name = pool_name
        self.common = Lane(self, 0)
        self.by_source = {}
        self.flows = {}
        self.parked = []
        self.resting = []
        self.virtual[0] = self.virtual[1] = 0
        self.unpark_ns = 0
        self.empty_flows = 0
        self.pool = None
        self.idle = []
        self.dirty = False
        self.backoff_until = 0
        self.reason = "ready"
        self.detail = ""
        self.held = False
        self.several = False
        self.turns = {}
        self.gates = {}
        self.cold_gates = []
        self.denied_until_ns = 0

    cpdef Py_ssize_t ready(self):
        """Recipients that could be sent now."""
        return self.count

    cpdef int denied(self, object rule, int64_t until_ns) except -1:
        """A limit holds the head of the queue, until CLOCK_BOOTTIME `until_ns` at least."""
        self.reason = rule.reason
        self.detail = rule.detail
        self.denied_until_ns = until_ns
        return 0


@cython.final
cdef class Index:

    def __cinit__(self, Wheel wheel):
        self.messages = NULL
        self.recipients = NULL
        self.message_chunks = self.recipient_chunks = 0
        self.message_top = self.recipient_top = 0
        self.message_free = self.recipient_free = NIL
        self.wheel = wheel
        self.queues = []
        self.queue_numbers_free = []
        self.domains = {}
        self.domain_list = []
        self.domain_numbers_free = []
        self.names = {b"": 0}
        self.lanes = frozenset()
        self.name_list = [b""]
        self.sites = set()
        self.class_weights[0] = self.class_weights[1] = self.class_weights[2] = 1
        self.campaign_weights = {}
        self.tenant_weights = {}
        self.not_before = 0
        memset(self.places, 0, sizeof(self.places))

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.message_chunks):
            free(self.messages[i])
        for i in range(self.recipient_chunks):
            free(self.recipients[i])
        free(self.messages)
        free(self.recipients)

    # -- storage ----------------------------------------------------------------------------------------------

    cdef Message* message(self, uint32_t m) noexcept nogil:
        return &self.messages[m >> CHUNK_BITS][m & CHUNK_MASK]

    cdef Recipient* recipient(self, uint32_t r) noexcept nogil:
        return &self.recipients[r >> CHUNK_BITS][r & CHUNK_MASK]

    cdef uint32_t new_message(self) except? 0xFFFFFFFF:
        cdef uint32_t m = self.message_free
        cdef Message** grown
        if m != NIL:
            self.message_free = self.message(m).first
            return m
        if self.message_top == self.message_chunks << CHUNK_BITS:
            grown = <Message**> realloc(self.messages, (self.message_chunks + 1) * sizeof(Message*))
            if grown == NULL:
                raise MemoryError()
            self.messages = grown
            grown[self.message_chunks] = <Message*> calloc(CHUNK, sizeof(Message))
            if grown[self.message_chunks] == NULL:
                raise MemoryError()
            self.message_chunks += 1
        m = self.message_top
        self.message_top += 1
        return m

    cdef uint32_t new_recipient(self) except? 0xFFFFFFFF:
        cdef uint32_t r = self.recipient_free
        cdef Recipient** grown
        if r != NIL:
            self.recipient_free = self.recipient(r).next
            return r
        if self.recipient_top == self.recipient_chunks << CHUNK_BITS:
            grown = <Recipient**> realloc(self.recipients, (self.recipient_chunks + 1) * sizeof(Recipient*))
            if grown == NULL:
                raise MemoryError()
            self.recipients = grown
            grown[self.recipient_chunks] = <Recipient*> calloc(CHUNK, sizeof(Recipient))
            if grown[self.recipient_chunks] == NULL:
                raise MemoryError()
            self.recipient_chunks += 1
        r = self.recipient_top
        self.recipient_top += 1
        return r

    cdef uint32_t add_message(self, uint64_t msgid, int64_t accepted_at_ms, uint32_t size, uint32_t recipients,
                              uint32_t campaign, uint32_t tenant, uint8_t priority, uint8_t spool,
                              uint32_t expire_s) except? 0xFFFFFFFF:
        cdef uint32_t m = self.new_message()
        cdef Message* message = self.message(m)
        message.msgid = msgid
        message.accepted_at_ms = accepted_at_ms
        message.first = NIL
        message.queued = 0
        message.recipients = recipients
        message.size = size
        message.campaign = campaign
        message.tenant = tenant
        message.expire_s = expire_s
        message.spool = spool
        message.priority = min(priority, <uint8_t> TRANSACTIONAL)
        message.flags = 0
        message.in_use = 1
        self.queued_messages += 1
        return m

    cdef uint32_t add_recipient(self, uint32_t m, uint16_t number, Domain domain) except? 0xFFFFFFFF:
        """Adds before the message's other recipients: add them with falling numbers to keep the chain in order."""
        cdef uint32_t r = self.new_recipient()
        cdef Recipient* recipient = self.recipient(r)
        cdef Message* message = self.message(m)
        recipient.message = m
        recipient.domain = domain.number
        recipient.next = recipient.prev = NIL
        recipient.sibling = message.first
        recipient.queue = NIL
        recipient.number = number
        recipient.attempts = 0
        recipient.source = 0
        recipient.place = UNPLACED
        recipient.flags = 0
        message.first = r
        message.queued += 1
        domain.queued += 1
        self.queued_recipients += 1
        self.places[UNPLACED] += 1
        return r

    cdef bint remove_recipient(self, uint32_t r) except -1:
        """Takes a recipient out for good. True when its message has no recipient left; it is then gone too."""
        cdef Recipient* recipient = self.recipient(r)
        cdef uint32_t m = recipient.message
        cdef Message* message = self.message(m)
        cdef uint32_t at
        self.place(r, UNPLACED)
        self.places[UNPLACED] -= 1
        (<Domain> self.domain_list[recipient.domain]).queued -= 1
        if message.first == r:
            message.first = recipient.sibling
        else:
            at = message.first
            while self.recipient(at).sibling != r:
                at = self.recipient(at).sibling
            self.recipient(at).sibling = recipient.sibling
        recipient.message = NIL
        recipient.next = self.recipient_free
        self.recipient_free = r
        self.queued_recipients -= 1
        message.queued -= 1
        if message.queued:
            return False
        message.in_use = 0
        message.first = self.message_free
        self.message_free = m
        self.queued_messages -= 1
        return True

    # -- places -----------------------------------------------------------------------------------------------

    cdef int place(self, uint32_t r, uint8_t place) except -1:
        """Moves a recipient out of where it stands to a place that is no list."""
        cdef Recipient* recipient = self.recipient(r)
        if recipient.queue != NIL:
            self.unlink(r)
        elif recipient.place == RETRY:
            self.wheel.remove(r)
            if recipient.attempts == 0:
                self.not_before -= 1
        self.places[recipient.place] -= 1
        recipient.place = place
        self.places[place] += 1
        return 0

    cdef int push(self, Queue queue, uint32_t r) except -1:
        cdef Recipient* recipient
        self.place(r, queue.place)
        recipient = self.recipient(r)
        recipient.queue = queue.number
        recipient.next = NIL
        recipient.prev = queue.tail
        if queue.tail == NIL:
            queue.head = r
        else:
            self.recipient(queue.tail).next = r
        queue.tail = r
        return self._arrived(queue)

    cdef int push_front(self, Queue queue, uint32_t r) except -1:
        cdef Recipient* recipient
        self.place(r, queue.place)
        recipient = self.recipient(r)
        recipient.queue = queue.number
        recipient.prev = NIL
        recipient.next = queue.head
        if queue.head == NIL:
            queue.tail = r
        else:
            self.recipient(queue.head).prev = r
        queue.head = r
        return self._arrived(queue)

    cdef int _arrived(self, Queue queue) except -1:
        cdef Flow flow = queue.flow
        cdef SiteQueue site
        queue.count += 1
        if flow is not None:
            queue.lane.count += 1
            site = <SiteQueue> queue.lane.site
            site.count += 1
            if flow.kind == TRANSACTIONAL:
                site.urgent += 1
            if queue.count == 1:
                self._stand(queue)
            if flow.count == 0:
                site.empty_flows -= 1
            flow.count += 1
        return 0

    cdef int unlink(self, uint32_t r) except -1:
        cdef Recipient* recipient = self.recipient(r)
        cdef Queue queue = <Queue> self.queues[recipient.queue]
        if recipient.prev == NIL:
            queue.head = recipient.next
        else:
            self.recipient(recipient.prev).next = recipient.next
        if recipient.next == NIL:
            queue.tail = recipient.prev
        else:
            self.recipient(recipient.next).prev = recipient.prev
        recipient.queue = NIL
        queue.count -= 1
        if queue.flow is not None:
            self._left(queue)
        return 0

    cdef int _left(self, Queue queue) except -1:
        cdef Flow flow = queue.flow
        cdef SiteQueue site = <SiteQueue> queue.lane.site
        queue.lane.count -= 1
        site.count -= 1
        if flow.kind == TRANSACTIONAL:
            site.urgent -= 1
        flow.count -= 1
        if flow.count == 0:
            site.empty_flows += 1
        return 0

    cdef uint32_t pop(self, Queue queue) except? 0xFFFFFFFF:
        """The oldest, now UNPLACED, or NIL."""
        cdef uint32_t r = queue.head
        if r != NIL:
            self.place(r, UNPLACED)
        return r

    # -- what is ready at a site ---------------------------------------------------------------------------------

    cdef int push_site(self, SiteQueue site, uint32_t r) except -1:
        """Makes a recipient ready for its site, in the lane of the source it prefers, if any."""
        cdef uint16_t source = self.recipient(r).source
        cdef Lane lane = site.common
        if source and source in self.lanes:
            lane = site.by_source.get(source)
            if lane is None:
                lane = site.by_source[source] = Lane(site, source)
        return self.push_lane(lane, r, False)

    cdef int push_lane(self, Lane lane, uint32_t r, bint front) except -1:
        """Into the recipient's flow."""
        cdef Queue queue = self._queue_of(lane, r)
        return self.push_front(queue, r) if front else self.push(queue, r)

    cdef Queue _queue_of(self, Lane lane, uint32_t r):
        """The queue of a recipient's flow in a lane, made where there is none."""
        cdef Message* message = self.message(self.recipient(r).message)
        cdef SiteQueue site = <SiteQueue> lane.site
        cdef Queue queue = site.last
        cdef Flow flow
        if queue is not None and queue.lane is lane:
            flow = queue.flow
            if (flow.campaign == message.campaign and flow.tenant == message.tenant
                    and flow.kind == message.priority):
                return queue
        flow = site.flows.get(flow_key(message.priority, message.campaign, message.tenant))
        if flow is None:
            flow = self._new_flow(site, message.priority, message.campaign, message.tenant)
        queue = flow.queues.get(lane.source)
        if queue is None:
            queue = self.new_queue(READY)
            queue.flow = flow
            queue.lane = lane
            flow.queues[lane.source] = queue
        site.last = queue
        return queue

    cdef Flow _new_flow(self, SiteQueue site, uint8_t kind, uint32_t campaign, uint32_t tenant):
        """A flow with nothing in it; where there are too many, the one that such share."""
        cdef Flow flow
        if len(site.flows) >= FLOWS_PER_SITE:
            if site.empty_flows >= FLOWS_PER_SITE // 16:        # so many that looking for them costs little for each
                for flow in list(site.flows.values()):
                    if flow.count == 0:
                        self._free_flow(site, flow)
            if len(site.flows) >= FLOWS_PER_SITE:
                campaign = tenant = SHARED
                flow = site.flows.get(flow_key(kind, campaign, tenant))
                if flow is not None:
                    return flow
        flow = Flow(site, kind, campaign, tenant)
        flow.step = 1 / self._weight(flow)
        site.flows[flow_key(kind, campaign, tenant)] = flow
        site.empty_flows += 1
        return flow

    cdef int _free_flow(self, SiteQueue site, Flow flow) except -1:
        """Forgets an empty flow."""
        cdef Queue queue
        for queue in flow.queues.values():
            if queue.at >= 0:
                queue.lane.heap(flow.kind).remove(queue)
            if site.last is queue:
                site.last = None
            self.free_queue(queue)
        if flow.parked_until_ns:
            flow.parked_until_ns = 0
            site.parked.remove(flow)
        flow.queues = {}
        site.empty_flows -= 1
        del site.flows[flow_key(flow.kind, flow.campaign, flow.tenant)]
        return 0

    cdef int _stand(self, Queue queue) except -1:
        """A queue that had nothing has something: it takes its place in the heap of its lane."""
        cdef Flow flow = queue.flow
        if flow.count == 0:
            flow.start = max(flow.start, (<SiteQueue> queue.lane.site).virtual[flow.kind == TRANSACTIONAL])
        if queue.at < 0 and flow.parked_until_ns == 0:
            queue.key = flow.start
            queue.lane.heap(flow.kind).add(queue)
        return 0

    cdef Queue _top(self, SiteQueue site, Heap heap):
        """The queue in a heap whose flow is due first, or None; what has no place there goes."""
        cdef Queue queue
        while heap.queues:
            queue = <Queue> heap.queues[0]
            if queue.count == 0 or queue.flow.parked_until_ns:
                heap.remove(queue)
                if queue.flow.count == 0 and queue.flow.standing == 0:
                    self._rest(site, queue.flow)
            elif queue.key < queue.flow.start:
                queue.key = queue.flow.start
                heap.moved(queue)
            else:
                return queue
        return None

    cdef int _rest(self, SiteQueue site, Flow flow) except -1:
        """Forgets an empty flow, or, if it was served ahead of the others, does so once they have caught up."""
        if flow.start <= site.virtual[flow.kind == TRANSACTIONAL]:
            return self._free_flow(site, flow)
        site.resting.append(flow)
        return 0

    cdef Queue _first(self, SiteQueue site, Lane own, bint urgent):
        """The queue that is due first in the common lane and another (or None). A flow that has mail in both takes
        turns, so that neither its retries nor its new mail starve."""
        cdef Queue queue = None, common = None, other
        if own is not None and own.count:
            queue = self._top(site, own.urgent if urgent else own.others)
        if site.common.count:
            common = self._top(site, site.common.urgent if urgent else site.common.others)
        if queue is None:
            return common
        if common is not None and common.flow.start < queue.flow.start:
            queue = common
        other = queue.flow.queues.get(0 if queue.flow.common_next else own.source)
        return queue if other is None or other.count == 0 else other

    cdef uint32_t peek_site(self, SiteQueue site, uint32_t source, int64_t now_ns) except? 0xFFFFFFFF:
        """The next for a session of `source` (number + 1), or NIL: of what prefers that source and what prefers none.

        It stays where it is, and its flow is not charged: that follows when it is taken (`charge`).
        """
        cdef Queue queue = None
        cdef Lane own = None
        if site.count == 0:
            return NIL
        if site.parked and site.unpark_ns <= now_ns:
            self._unpark(site, now_ns)
        if site.by_source:
            own = site.by_source.get(source)
        if site.urgent:
            queue = self._first(site, own, True)
        if queue is None:
            queue = self._first(site, own, False)
        return NIL if queue is None else queue.head

    cdef uint32_t pop_lane(self, Lane lane) except? 0xFFFFFFFF:
        """The next of a lane, now UNPLACED and not charged, or NIL. Parked flows too, last."""
        cdef SiteQueue site = <SiteQueue> lane.site
        cdef Queue queue = None
        cdef Flow flow
        if lane.count == 0:
            return NIL
        queue = self._top(site, lane.urgent)
        if queue is None:
            queue = self._top(site, lane.others)
        if queue is None:
            for flow in site.parked:
                queue = flow.queues.get(lane.source)
                if queue is not None and queue.count:
                    return self.pop(queue)
            queue = None
        return NIL if queue is None else self.pop(queue)

    cdef Flow flow_of(self, SiteQueue site, uint32_t r):
        """The flow in which a ready recipient stands."""
        return (<Queue> self.queues[self.recipient(r).queue]).flow

    cdef int charge(self, SiteQueue site, Flow flow, Py_ssize_t recipients) except -1:
        """Moves a flow on for what was taken of it; below 0 for what is put back."""
        cdef Queue queue
        cdef bint urgent = flow.kind == TRANSACTIONAL
        if recipients > 0:
            site.virtual[urgent] = max(site.virtual[urgent], flow.start)
            flow.common_next = not flow.common_next
            flow.start += recipients * flow.step
            if site.resting:
                resting, site.resting = site.resting, []
                for flow in resting:
                    if flow.count == 0 and flow.standing == 0 and flow.queues:
                        self._rest(site, flow)
            return 0
        flow.start += recipients * flow.step
        for queue in flow.queues.values():
            if queue.at >= 0 and queue.key > flow.start:
                queue.key = flow.start
                queue.lane.heap(flow.kind).moved(queue)
        return 0

    cdef int park(self, SiteQueue site, Flow flow, object rule, int64_t until_ns) except -1:
        """A limit of its own holds a flow until CLOCK_BOOTTIME `until_ns`: it is passed over, at no cost."""
        if flow.parked_until_ns == 0:
            site.parked.append(flow)
        flow.parked_until_ns = max(until_ns, 1)
        flow.denied = rule
        site.unpark_ns = min([one.parked_until_ns for one in site.parked])
        return 0

    cdef int _unpark(self, SiteQueue site, int64_t now_ns) except -1:
        """Flows whose time has come take their places again."""
        cdef Flow flow
        for flow in [flow for flow in site.parked if flow.parked_until_ns <= now_ns]:
            self.unpark_flow(flow)
        return 0

    cdef int unpark_flow(self, Flow flow) except -1:
        """A flow takes its place again, if it is parked."""
        cdef SiteQueue site = <SiteQueue> flow.site
        cdef Queue queue
        if flow.parked_until_ns == 0:
            return 0
        site.parked.remove(flow)
        site.unpark_ns = min([one.parked_until_ns for one in site.parked]) if site.parked else 0
        flow.parked_until_ns = 0
        flow.denied = None
        flow.start = max(flow.start, site.virtual[flow.kind == TRANSACTIONAL])
        for queue in flow.queues.values():
            if queue.count and queue.at < 0:
                queue.key = flow.start
                queue.lane.heap(flow.kind).add(queue)
        if flow.count == 0 and flow.standing == 0:
            self._rest(site, flow)
        return 0

    cdef double _weight(self, Flow flow) except -1:
        cdef double weight = self.class_weights[min(flow.kind, 2)]
        if flow.campaign != SHARED:
            if self.campaign_weights:
                weight *= self.campaign_weights.get(self.name_list[flow.campaign], 1)
            if self.tenant_weights:
                weight *= self.tenant_weights.get(self.name_list[flow.tenant], 1)
        return weight

    def set_weights(self, classes, dict campaigns, dict tenants):
        """Weights of the classes (bulk, normal, transactional), and of campaigns and tenants by name (bytes); 1 where
        none is given. Holds at once for what is queued."""
        cdef SiteQueue site
        cdef Flow flow
        cdef int i
        for i in range(3):
            self.class_weights[i] = classes[i]
        self.campaign_weights = dict(campaigns)
        self.tenant_weights = dict(tenants)
        for site in self.sites:
            for flow in site.flows.values():
                flow.step = 1 / self._weight(flow)

    def forget_limits(self):
        """The limits changed: gates are asked for again, and parked flows are free."""
        cdef SiteQueue site
        cdef Flow flow
        for site in self.sites:
            site.gates = {}
            site.cold_gates = []
            self._unpark(site, 0x7FFFFFFFFFFFFFFF)
            for flow in site.flows.values():
                flow.gate = None

    def release_lanes(self, SiteQueue site):
        """Recipients that prefer a source which is not in `lanes` any more go to the common lane."""
        cdef Lane lane
        cdef uint32_t r
        for source in [source for source in site.by_source if source not in self.lanes]:
            lane = site.by_source[source]
            while True:
                r = self.pop_lane(lane)
                if r == NIL:
                    break
                self.push_lane(site.common, r, False)
            self._forget_lane(lane)
            del site.by_source[source]

    def _forget_lane(self, Lane lane):
        """Takes the queues of an empty lane out of the flows."""
        cdef SiteQueue site = <SiteQueue> lane.site
        cdef Flow flow
        cdef Queue queue
        for flow in site.flows.values():
            queue = flow.queues.pop(lane.source, None)
            if queue is not None:
                if queue.at >= 0:
                    lane.heap(flow.kind).remove(queue)
                if site.last is queue:
                    site.last = None
                self.free_queue(queue)

    cdef int defer(self, uint32_t r, int64_t due_ms) except -1:
        """Puts a recipient into the wheel until `due_ms` (monotonic)."""
        self.place(r, RETRY)
        if self.recipient(r).attempts == 0:
            self.not_before += 1
        self.wheel.add(r, due_ms)
        return 0

    # -- names ------------------------------------------------------------------------------------------------

    cpdef Domain domain(self, bytes name, bytes pool=b"", int variant=0):
        """The Domain of a normalised domain name (A-labels, lower case) for a pool, made where there is none.

        `variant`: what its mail asks of TLS (0: nothing, 1: REQUIRETLS, 2: TLS-Required: No)."""
        cdef bytes key = domain_key(name, pool, variant)
        cdef Domain domain = self.domains.get(key)
        cdef uint32_t number
        if domain is None:
            if self.domain_numbers_free:
                number = self.domain_numbers_free.pop()
            else:
                number = <uint32_t> len(self.domain_list)
                self.domain_list.append(None)
            domain = Domain(name, pool, number, self.new_queue(DNS), variant)
            self.domain_list[number] = domain
            self.domains[key] = domain
        return domain

    def forget_idle_domains(self, Py_ssize_t keep):
        """Drops domains with nothing queued when there are more than `keep`; gives how many went."""
        cdef Domain domain
        cdef Py_ssize_t gone = 0
        if len(self.domains) <= keep:
            return 0
        for key, domain in list(self.domains.items()):
            if domain.queued == 0 and not domain.resolving:
                del self.domains[key]
                self.domain_list[domain.number] = None
                self.domain_numbers_free.append(domain.number)
                self.free_queue(domain.pending)
                gone += 1
        return gone

    cpdef uint32_t name_number(self, bytes name) except? 0xFFFFFFFF:
        """The number of a campaign or tenant name. Beyond 65,536 names new ones share one: `(other)`."""
        number = self.names.get(name)
        if number is None:
            if len(self.name_list) >= CHUNK:
                name = b"(other)"
                if name in self.names:
                    return self.names[name]
            number = len(self.name_list)
            self.name_list.append(name)
            self.names[name] = number
        return number

    def name_of(self, uint32_t number):
        """A campaign or tenant name; several that share a flow are `(other)`."""
        return b"(other)" if number == SHARED else self.name_list[number]

    cpdef Queue new_queue(self, int place):
        cdef Queue queue
        if self.queue_numbers_free:
            queue = Queue(self.queue_numbers_free.pop(), place)
            self.queues[queue.number] = queue
        else:
            queue = Queue(<uint32_t> len(self.queues), place)
            self.queues.append(queue)
        return queue

    def free_queue(self, Queue queue):
        """Gives an empty queue's number back."""
        if queue.count:
            raise ValueError("queue is not empty")
        self.queues[queue.number] = None
        self.queue_numbers_free.append(queue.number)

    def new_site_queue(self, site, str pool_name="default", tls=None):
        cdef SiteQueue made = SiteQueue(site, pool_name, tls)
        self.sites.add(made)
        return made

    def free_site_queue(self, SiteQueue site):
        """Forgets a site for which nothing is ready."""
        cdef Flow flow
        if site.count:
            raise ValueError("something is ready for the site")
        for flow in list(site.flows.values()):
            self._free_flow(site, flow)
        site.by_source = {}
        self.sites.discard(site)

    # -- for the cold paths in Python -----------------------------------------------------------------------------

    def place_counts(self):
        """{place name: recipients}; of those in the wheel, who was never tried waits for `not_before`."""
        counts = {PLACE_NAMES[i]: self.places[i] for i in range(PLACES)}
        counts["retry_backoff"] -= self.not_before
        counts["not_before"] = self.not_before
        return counts

    def memory_bytes(self):
        return self.message_chunks * CHUNK * sizeof(Message) + self.recipient_chunks * CHUNK * sizeof(Recipient)

    def py_add(self, uint64_t msgid, int64_t accepted_at_ms, uint32_t size, list recipients, uint32_t campaign=0,
               uint32_t tenant=0, int priority=0, int spool=0, uint32_t expire_s=0, bytes pool=b"", int variant=0,
               int flags=0):
        """Adds a message; `recipients` is [(number, domain name)], `flags` those of its record. Gives
        (message number, [recipient numbers])."""
        cdef uint32_t m = self.add_message(msgid, accepted_at_ms, size, <uint32_t> len(recipients), campaign, tenant,
                                           <uint8_t> min(priority, 2), <uint8_t> spool, expire_s)
        self.message(m).flags = message_flags(flags)
        out = [self.add_recipient(m, number, self.domain(name, pool, variant))
               for number, name in sorted(recipients, reverse=True)]
        return m, out[::-1]

    def py_push(self, where, uint32_t r, bint front=False):
        """Into a Queue, or into the recipient's flow in a Lane."""
        if isinstance(where, Lane):
            self.push_lane(where, r, front)
        elif front:
            self.push_front(where, r)
        else:
            self.push(where, r)

    def py_push_site(self, SiteQueue site, uint32_t r):
        self.push_site(site, r)

    def py_pop(self, where):
        """The next of a Queue, or of a Lane (its flow is not charged); None where there is none."""
        cdef uint32_t r = self.pop_lane(where) if isinstance(where, Lane) else self.pop(where)
        return None if r == NIL else r

    def py_take(self, SiteQueue site, int source, int64_t now_ns=0):
        """What a session of `source` (number) would send next, taken and charged; None where there is nothing."""
        cdef uint32_t r = self.peek_site(site, source + 1, now_ns)
        if r == NIL:
            return None
        self.charge(site, self.flow_of(site, r), 1)
        self.place(r, UNPLACED)
        return r

    def py_park(self, SiteQueue site, uint32_t r, rule, int64_t until_ns):
        """Parks the flow of a ready recipient."""
        self.park(site, self.flow_of(site, r), rule, until_ns)

    def parked_by(self, uint32_t r):
        """(rule, until CLOCK_BOOTTIME in ns) where the flow of a ready recipient is parked, else None."""
        cdef Recipient* recipient = self.recipient(r)
        cdef Flow flow
        if recipient.queue == NIL:
            return None
        flow = (<Queue> self.queues[recipient.queue]).flow
        return None if flow is None or flow.parked_until_ns == 0 else (flow.denied, flow.parked_until_ns)

    def py_defer(self, uint32_t r, int64_t due_ms):
        self.defer(r, due_ms)

    def py_place(self, uint32_t r, int place):
        self.place(r, <uint8_t> place)

    def py_remove(self, uint32_t r):
        return self.remove_recipient(r)

    def set_source(self, uint32_t r, int source):
        self.recipient(r).source = <uint16_t> source

    def count_attempt(self, uint32_t r):
        """One attempt more; gives how many that makes."""
        cdef Recipient* recipient = self.recipient(r)
        if recipient.place == RETRY and recipient.attempts == 0:
            self.not_before -= 1
        if recipient.attempts < 65535:
            recipient.attempts += 1
        return recipient.attempts

    def set_attempts(self, uint32_t r, int attempts):
        if self.recipient(r).place == RETRY:
            self.not_before += (attempts == 0) - (self.recipient(r).attempts == 0)
        self.recipient(r).attempts = <uint16_t> attempts

    def flag_possible_duplicate(self, uint32_t r, bint on):
        if on:
            self.recipient(r).flags |= RECIPIENT_POSSIBLE_DUPLICATE
        else:
            self.recipient(r).flags &= ~RECIPIENT_POSSIBLE_DUPLICATE

    def due_in_ms(self, uint32_t r, int64_t now_ms):
        """Milliseconds until a deferred recipient is due; None where it is not deferred."""
        if self.recipient(r).place != RETRY:
            return None
        return max(0, self.wheel.due(r) - now_ms)

    def message_info(self, uint32_t m):
        """A queued message as a tuple: msgid, accepted_at_ms, queued, recipients, size, campaign, tenant, spool,
        flags; None where that number is free."""
        cdef Message* message
        if m >= self.message_top:
            return None
        message = self.message(m)
        if not message.in_use:
            return None
        return (message.msgid, message.accepted_at_ms, message.queued, message.recipients, message.size,
                self.name_list[message.campaign], self.name_list[message.tenant], message.spool, message.flags)

    def priority_of(self, uint32_t m):
        """The class of a message: 0 bulk, 1 normal, 2 transactional."""
        return self.message(m).priority

    def set_message_flag(self, uint32_t m, int flag, bint on):
        if on:
            self.message(m).flags |= <uint8_t> flag
        else:
            self.message(m).flags &= <uint8_t> ~flag

    def recipient_info(self, uint32_t r):
        """A queued recipient as a tuple: message number, envelope number, Domain, place, attempts, source, flags."""
        cdef Recipient* recipient = self.recipient(r)
        return (recipient.message, recipient.number, self.domain_list[recipient.domain], recipient.place,
                recipient.attempts, recipient.source, recipient.flags)

    def recipients_of(self, uint32_t m):
        """Numbers of the recipients of a message that are still queued, in envelope order."""
        cdef list out = []
        cdef uint32_t r = self.message(m).first
        while r != NIL:
            out.append(r)
            r = self.recipient(r).sibling
        return out

    def find(self, uint64_t msgid, int spool=0):
        """The number of a message id, or None. Looks at every record: for people, not for the hot path."""
        cdef uint32_t m
        for m in range(self.message_top):
            if self.message(m).in_use and self.message(m).msgid == msgid and self.message(m).spool == spool:
                return m
        return None

    def select(self, uint32_t start, Py_ssize_t slice_messages, accepted_before_ms=None, campaign=None,
               tenant=None, domains=None, source=None, int place=-1):
        """Recipients that match, from message number `start` on: (next start or None at the end, [recipients]).

        Looks at `slice_messages` messages at most, so that a loop that calls it never stands still for long.
        `campaign` and `tenant` are name numbers, `domains` a set of domain numbers, `source` a source number + 1.
        """
        cdef list out = []
        cdef uint32_t m, r, stop
        cdef Message* message
        cdef Recipient* recipient
        cdef bint aged = accepted_before_ms is not None
        cdef int64_t before_ms = accepted_before_ms if aged else 0       # below 0 for mail from before this boot
        cdef int64_t wanted_campaign = -1 if campaign is None else campaign
        cdef int64_t wanted_tenant = -1 if tenant is None else tenant
        cdef int64_t wanted_source = -1 if source is None else source
        stop = <uint32_t> min(<Py_ssize_t> self.message_top, start + slice_messages)
        for m in range(start, stop):
            message = self.message(m)
            if not message.in_use:
                continue
            if aged and message.accepted_at_ms > before_ms:
                continue
            if wanted_campaign >= 0 and message.campaign != wanted_campaign:
                continue
            if wanted_tenant >= 0 and message.tenant != wanted_tenant:
                continue
            r = message.first
            while r != NIL:
                recipient = self.recipient(r)
                if ((place < 0 or recipient.place == place)
                        and (wanted_source < 0 or recipient.source == wanted_source)
                        and (domains is None or recipient.domain in domains)):
                    out.append(r)
                r = recipient.sibling
        return (stop if stop < self.message_top else None), out

    def oldest_accepted_ms(self):
        """When the oldest queued message was accepted (monotonic ms), or None. A scan of 48 octets a message."""
        cdef uint32_t m
        cdef int64_t oldest = 0x7FFFFFFFFFFFFFFF
        with nogil:
            for m in range(self.message_top):
                if self.message(m).in_use and self.message(m).accepted_at_ms < oldest:
                    oldest = self.message(m).accepted_at_ms
        return None if oldest == 0x7FFFFFFFFFFFFFFF else oldest

    def set_recipients(self, uint32_t m, uint32_t recipients):
        """How many recipients the envelope had, where some are settled already."""
        self.message(m).recipients = recipients
