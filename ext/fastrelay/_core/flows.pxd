"""Fair shares inside a site: queues of recipients, the flows they belong to, and whose turn it is; see flows.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    FLOWS_PER_SITE = 1024       # beyond it, campaigns and tenants of a class share one flow
    CLASSES = 3                 # 0 bulk, 1 normal, 2 transactional
    TRANSACTIONAL = 2
    SHARED = 0xFFFFFFFF         # campaign and tenant of a flow that several share

cdef class Queue:
    cdef readonly uint32_t number
    cdef uint32_t head, tail
    cdef readonly Py_ssize_t count
    cdef uint8_t place
    cdef Flow flow              # None: no queue of a site
    cdef Lane lane
    cdef double key             # its flow's start when that was last looked at: never later than it
    cdef Py_ssize_t at          # where it stands in the heap of its lane, -1: not there

cdef class Flow:
    cdef readonly object site
    cdef readonly uint8_t kind
    cdef readonly uint32_t campaign, tenant
    cdef readonly Py_ssize_t count
    cdef double start           # virtual time at which its next recipient is due
    cdef double step            # virtual time that one recipient takes: 1 / weight
    cdef dict queues            # for each lane it was in, by the lane's source
    cdef Py_ssize_t standing    # how many of them are in a heap
    cdef bint common_next       # of its lanes, which is next where both have mail
    cdef readonly int64_t parked_until_ns       # CLOCK_BOOTTIME; 0: it is not parked
    cdef public object gate     # limits of its campaign and tenant; None: not asked for yet
    cdef public object denied   # the rule that parked it

cdef class Heap:
    cdef list queues
    cdef int add(self, Queue queue) except -1
    cdef int remove(self, Queue queue) except -1
    cdef int moved(self, Queue queue) except -1
    cdef int _up(self, Py_ssize_t at) except -1
    cdef int _down(self, Py_ssize_t at) except -1

cdef class Lane:
    cdef readonly uint32_t source
    cdef readonly Py_ssize_t count
    cdef readonly object site
    cdef Heap urgent, others
    cdef inline Heap heap(self, uint8_t kind):
        return self.urgent if kind == TRANSACTIONAL else self.others

cdef class Turn:
    cdef readonly object site
