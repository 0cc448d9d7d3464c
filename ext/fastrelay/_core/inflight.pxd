"""The in-flight file: which recipients' bodies are being handed to a socket right now."""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t


cdef packed struct Slot:
    uint64_t msgid                         # 0: free; written last, cleared first
    uint16_t recipients
    uint16_t numbers[11]


cdef packed struct Header:
    char magic[8]
    uint32_t slots
    uint32_t clean                         # closed with nothing in flight
    char boot_id[40]
    uint32_t power_lost                    # noted, and not recorded elsewhere yet


cdef class Inflight:
    cdef char* _map
    cdef size_t _length
    cdef Header* _header
    cdef Slot* _slots
    cdef int32_t* _next                    # chains: free slots, and the slots of one transaction
    cdef int32_t _free
    cdef int _descriptor
    cdef list _recovered                   # slots that were taken at the opening
    cdef readonly str path
    cdef readonly int slots
    cdef readonly int used
    cdef readonly bint power_lost          # the host went down since, and not cleanly

    cdef int begin(self, uint64_t msgid, const uint16_t* recipients, int n) except -1
    cdef void clear(self, int handle) noexcept
    cdef void _release(self, int32_t slot) noexcept
