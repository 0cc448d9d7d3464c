"""Fair shares inside a site.

What is ready for a site stands in *flows*, one for each (class, campaign, tenant). Transactional flows go first;
among the others, and among the transactional ones, each gets a share by its weight: class × campaign × tenant.

The method is start-time fair queueing: each flow has a virtual time at which its next recipient is due, the flow that
is due first is served, and a recipient moves its flow on by 1 / weight. A flow that comes back from having nothing
starts at the virtual time of the site, so it saves up no turns; one that was idle for a moment keeps its place. Of
deficit round robin, which was the other choice, weights of 1000 would make bursts of 1000: here 1:3 is 1:3 in every
window. A decision costs a few steps in a heap of the flows of a site (at most FLOWS_PER_SITE), whatever their length.

A flow has a queue for each *lane*: the common one, and one for each source that retries prefer. A session serves its
source's lane and the common one as one: the flow that is due first, and where it has mail in both, by turns. All queues
of a flow share its virtual time, so a campaign gets its share once, and neither lane starves the other. A queue whose
flow was served in another lane is put right when it comes to the top of its heap.

Empty flows stay until they would be served (by then they owe nothing and are owed nothing), until the room is
needed, or until the site is empty.

Known faults: flows beyond FLOWS_PER_SITE share one flow of their class, and a limit of one campaign among them parks
them all.
"""

cimport cython


@cython.final
cdef class Queue:
    """A first-in-first-out list of recipients; O(1) at both ends and for taking one out of the middle."""

    def __cinit__(self, uint32_t number, uint8_t place):
        self.number = number
        self.head = self.tail = 0xFFFFFFFF
        self.count = 0
        self.place = place
        self.key = 0
        self.at = -1


@cython.final
cdef class Flow:
    """What one campaign of one tenant, in one class, has ready at one site."""

    def __cinit__(self, object site, uint8_t kind, uint32_t campaign, uint32_t tenant):
        self.site = site
        self.kind = kind
        self.campaign = campaign
        self.tenant = tenant
        self.count = 0
        self.start = 0
        self.step = 1
        self.queues = {}
        self.standing = 0
        self.parked_until_ns = 0


@cython.final
cdef class Heap:
    """Queues by their key, the least first. Equal keys: whoever the heap has first."""

    def __cinit__(self):
        self.queues = []

    cdef int add(self, Queue queue) except -1:
        queue.at = len(self.queues)
        queue.flow.standing += 1
        self.queues.append(queue)
        return self._up(queue.at)

    cdef int remove(self, Queue queue) except -1:
        cdef Py_ssize_t at = queue.at
        cdef Queue last = <Queue> self.queues.pop()
        queue.at = -1
        queue.flow.standing -= 1
        if last is not queue:
            self.queues[at] = last
            last.at = at
            self.moved(last)
        return 0

    cdef int moved(self, Queue queue) except -1:
        """Its key changed."""
        self._up(queue.at)
        return self._down(queue.at)

    cdef int _up(self, Py_ssize_t at) except -1:
        cdef list queues = self.queues
        cdef Queue queue = <Queue> queues[at]
        cdef Queue above
        while at > 0:
            above = <Queue> queues[(at - 1) >> 1]
            if above.key <= queue.key:
                break
            queues[at] = above
            above.at = at
            at = (at - 1) >> 1
        queues[at] = queue
        queue.at = at
        return 0

    cdef int _down(self, Py_ssize_t at) except -1:
        cdef list queues = self.queues
        cdef Queue queue = <Queue> queues[at]
        cdef Queue below
        cdef Py_ssize_t child, n = len(queues)
        while True:
            child = 2 * at + 1
            if child >= n:
                break
            below = <Queue> queues[child]
            if child + 1 < n and (<Queue> queues[child + 1]).key < below.key:
                child += 1
                below = <Queue> queues[child]
            if below.key >= queue.key:
                break
            queues[at] = below
            below.at = at
            at = child
        queues[at] = queue
        queue.at = at
        return 0


@cython.final
cdef class Lane:
    """What of a site waits for one source (its number + 1), or for any (0)."""

    def __cinit__(self, object site, uint32_t source):
        self.site = site
        self.source = source
        self.count = 0
        self.urgent = Heap()
        self.others = Heap()


@cython.final
cdef class Turn:
    """A site that waits for a limit of one source: each source has its place in the line of its own limit."""

    def __cinit__(self, object site):
        self.site = site
