"""What is queued, in memory.

A queued recipient is a 40-octet record and its message one of 56, in arrays that grow by chunks of 65,536 (no
copying when they grow), with 16 octets a recipient in the timer wheel: 112 octets for a message of one recipient.
Everything else about a message is read from LMDB when it is needed. Records are named by their number in the
array; a number is used again once its record is free, so it is never kept across a wait without its message id.

A recipient is in exactly one place at a time:

    UNPLACED     being moved by the code at hand
    READY        in a queue of its site: sent as soon as a session pulls it
    RETRY        in the timer wheel: deferred, waits for its next attempt
    DNS          in its domain's queue: waits for a route
    IN_FLIGHT    part of a transaction (or of a settlement that is not yet on disk)
    SUSPENDED    held by an operator's suspension
    QUARANTINED  held until an operator looks at it
    LOADING      its content is being read from disk

Known faults: a domain's queue numbers are recycled, but Domain objects stay until `forget_idle_domains`.
"""

cimport cython
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

PLACE_NAMES = ("unplaced", "ready", "retry_backoff", "dns", "in_flight", "suspended", "quarantined", "loading")


@cython.final
cdef class Queue:
    """A first-in-first-out list of recipients; O(1) at both ends and for taking one out of the middle."""

    def __cinit__(self, uint32_t number, uint8_t place):
        self.number = number
        self.head = self.tail = NIL
        self.count = 0
        self.place = place


@cython.final
cdef class Domain:
    """A recipient domain with mail queued, its route, and what waits for that route."""

    def __cinit__(self, bytes name, uint32_t number, Queue pending):
        self.name = name
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
    """What is ready for one site: a common queue, and one for each source that a retry prefers."""

    def __cinit__(self, object site, Queue common):
        self.site = site
        self.key = site.key
        self.provider = site.provider
        self.common = common
        self.by_source = {}
        self.pool = None
        self.idle = []
        self.dirty = False
        self.backoff_until = 0
        self.reason = "ready"
        self.detail = ""
        self.held = False

    cpdef Py_ssize_t ready(self):
        """Recipients that could be sent now."""
        cdef Py_ssize_t n = self.common.count
        cdef Queue queue
        if self.by_source:
            for queue in self.by_source.values():
                n += queue.count
        return n


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
                              uint32_t campaign, uint32_t tenant, uint8_t priority,
                              uint8_t spool) except? 0xFFFFFFFF:
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
        message.spool = spool
        message.priority = priority
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
        queue.count += 1
        return 0

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
        queue.count += 1
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
        return 0

    cdef int push_site(self, SiteQueue site, uint32_t r) except -1:
        """Makes a recipient ready for its site, in the queue of the source it prefers, if any."""
        cdef uint16_t source = self.recipient(r).source
        cdef Queue queue = site.common
        if source and source in self.lanes:
            queue = site.by_source.get(source)
            if queue is None:
                queue = site.by_source[source] = self.new_queue(READY)
        return self.push(queue, r)

    def release_lanes(self, SiteQueue site):
        """Recipients that prefer a source which is not in `lanes` any more go to the common queue."""
        cdef Queue queue
        cdef uint32_t r
        for source in [source for source in site.by_source if source not in self.lanes]:
            queue = site.by_source.pop(source)
            while True:
                r = self.pop(queue)
                if r == NIL:
                    break
                self.push(site.common, r)
            self.free_queue(queue)

    cdef uint32_t pop(self, Queue queue) except? 0xFFFFFFFF:
        """The oldest, now UNPLACED, or NIL."""
        cdef uint32_t r = queue.head
        if r != NIL:
            self.place(r, UNPLACED)
        return r

    cdef uint32_t pop_site(self, SiteQueue site, uint16_t source) except? 0xFFFFFFFF:
        """The next for a session of `source` (number + 1): what prefers that source first, then the common queue."""
        cdef Queue queue
        if site.by_source:
            queue = site.by_source.get(source)
            if queue is not None and queue.count:
                return self.pop(queue)
        return self.pop(site.common)

    cdef int defer(self, uint32_t r, int64_t due_ms) except -1:
        """Puts a recipient into the wheel until `due_ms` (monotonic)."""
        self.place(r, RETRY)
        self.wheel.add(r, due_ms)
        return 0

    # -- names ------------------------------------------------------------------------------------------------

    cpdef Domain domain(self, bytes name):
        """The Domain of a normalised domain name (A-labels, lower case), made where there is none."""
        cdef Domain domain = self.domains.get(name)
        cdef uint32_t number
        if domain is None:
            if self.domain_numbers_free:
                number = self.domain_numbers_free.pop()
            else:
                number = <uint32_t> len(self.domain_list)
                self.domain_list.append(None)
            domain = Domain(name, number, self.new_queue(DNS))
            self.domain_list[number] = domain
            self.domains[name] = domain
        return domain

    def domain_at(self, uint32_t number):
        return self.domain_list[number]

    def forget_idle_domains(self, Py_ssize_t keep):
        """Drops domains with nothing queued when there are more than `keep`; gives how many went."""
        cdef Domain domain
        cdef Py_ssize_t gone = 0
        if len(self.domains) <= keep:
            return 0
        for domain in list(self.domains.values()):
            if domain.queued == 0 and not domain.resolving:
                del self.domains[domain.name]
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
        return self.name_list[number]

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

    def new_site_queue(self, site):
        return SiteQueue(site, self.new_queue(READY))

    def free_site_queue(self, SiteQueue site):
        cdef Queue queue
        self.free_queue(site.common)
        for queue in site.by_source.values():
            self.free_queue(queue)
        site.by_source = {}

    # -- for the cold paths in Python -----------------------------------------------------------------------------

    def place_counts(self):
        """{place name: recipients}."""
        return {PLACE_NAMES[i]: self.places[i] for i in range(PLACES)}

    def memory_bytes(self):
        return self.message_chunks * CHUNK * sizeof(Message) + self.recipient_chunks * CHUNK * sizeof(Recipient)

    def py_add(self, uint64_t msgid, int64_t accepted_at_ms, uint32_t size, list recipients, uint32_t campaign=0,
               uint32_t tenant=0, int priority=0, int spool=0):
        """Adds a message; `recipients` is [(number, domain name)]. Gives (message number, [recipient numbers])."""
        cdef uint32_t m = self.add_message(msgid, accepted_at_ms, size, <uint32_t> len(recipients), campaign, tenant,
                                           <uint8_t> priority, <uint8_t> spool)
        out = [self.add_recipient(m, number, self.domain(name)) for number, name in sorted(recipients, reverse=True)]
        return m, out[::-1]

    def py_push(self, Queue queue, uint32_t r, bint front=False):
        if front:
            self.push_front(queue, r)
        else:
            self.push(queue, r)

    def py_push_site(self, SiteQueue site, uint32_t r):
        self.push_site(site, r)

    def py_pop(self, Queue queue):
        cdef uint32_t r = self.pop(queue)
        return None if r == NIL else r

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
        if recipient.attempts < 65535:
            recipient.attempts += 1
        return recipient.attempts

    def set_attempts(self, uint32_t r, int attempts):
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
        """When the oldest queued message was accepted (monotonic ms), or None. A scan of 56 octets a message."""
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
