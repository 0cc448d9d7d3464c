"""The in-flight file: which recipients' bodies are being handed to a socket right now.

What it is: a mapped file of fixed slots of 32 octets, a message id and up to 11 recipient numbers each. A slot is
taken before the last octet of a body is written and freed after the settle commit, so after the death of the process
it names exactly the recipients whose outcome nobody knows (promise 3). Memory of the page cache outlives the process,
so nothing is synced: 50 ns a transaction.

After a power loss the slots tell nothing: `power_lost` says so, and every recipient that was due has to be taken for
in flight.

What was found at the opening stays in its slots, and a power loss stays noted, until clear_old(): call it when all of
it is recorded where it lasts. So a second crash before that forgets nothing.
"""

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strncmp
from posix.mman cimport MAP_FAILED, MAP_SHARED, MS_SYNC, PROT_READ, PROT_WRITE, mmap, msync, munmap

import os

cdef extern from *:
    """
    #define FR_STORE_RELEASE(place, value) __atomic_store_n((unsigned long long *)(place), (value), __ATOMIC_RELEASE)
    """
    void FR_STORE_RELEASE(void*, uint64_t) noexcept nogil

cdef enum:
    HEADER_BYTES = 4096
    PER_SLOT = 11

SLOTS = 16_384
cdef bytes MAGIC = b"FRINFL01"


class InflightFull(Exception):
    """Every slot is taken: more bodies are on their way than the file was made for."""


@cython.final
cdef class Inflight:
    """The in-flight file at `path`, made when absent.

    boot_id  of this boot (/proc/sys/kernel/random/boot_id)
    """

    def __cinit__(self, str path, *, str boot_id, int slots=SLOTS):
        self._descriptor = -1
        self._map = NULL
        self._next = NULL
        self._recovered = []
        self.path = path
        self.slots = slots
        self._length = HEADER_BYTES + <size_t>slots * sizeof(Slot)
        self._next = <int32_t*>calloc(slots, sizeof(int32_t))
        if self._next == NULL:
            raise MemoryError
        self._map_file()
        self._adopt(boot_id.strip().encode("ascii"))

    def __dealloc__(self):
        if self._map != NULL:
            munmap(self._map, self._length)
        free(self._next)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _map_file(self):
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # All of it is allocated now: at a store to a hole, a full disk would kill us (SIGBUS).
        os.posix_fallocate(self._descriptor, 0, self._length)
        cdef void* place = mmap(NULL, self._length, PROT_READ | PROT_WRITE, MAP_SHARED, self._descriptor, 0)
        if place == MAP_FAILED:
            raise OSError(f"{self.path}: it cannot be mapped")
        self._map = <char*>place
        self._header = <Header*>self._map
        self._slots = <Slot*>(self._map + HEADER_BYTES)

    def _adopt(self, bytes boot_id):
        """Find out what the slots mean, and mark the file as in use on this boot; that mark is synced."""
        cdef Header* header = self._header
        cdef bint known = memcmp(header.magic, <const char*>MAGIC, 8) == 0
        cdef bint same_boot = known and strncmp(header.boot_id, boot_id, 40) == 0
        cdef int32_t slot
        self.power_lost = known and (header.power_lost or (not same_boot and not header.clean))
        if not known:
            memset(self._map, 0, self._length)
            memcpy(header.magic, <const char*>MAGIC, 8)
        header.power_lost = self.power_lost
        if not same_boot:
            memset(self._slots, 0, <size_t>self.slots * sizeof(Slot))
            memset(header.boot_id, 0, 40)
            memcpy(header.boot_id, <const char*>boot_id, min(len(boot_id), 39))
        header.slots = self.slots
        header.clean = 0
        if msync(self._map, self._length, MS_SYNC) or os.fsync(self._descriptor) is not None:
            raise OSError(f"{self.path}: it cannot be synced")
        self._free = -1
        for slot in range(self.slots - 1, -1, -1):
            if self._slots[slot].msgid:
                self._recovered.append(slot)
                self.used += 1
            else:
                self._next[slot] = self._free
                self._free = slot

    def list_all(self):
        """[(msgid, [recipient numbers])] that were in flight when the last process on this boot died, until
        clear_old().
        """
        cdef Slot* old
        cdef int i
        found = {}
        for slot in self._recovered:
            old = &self._slots[<int>slot]
            numbers = found.setdefault(old.msgid, set())
            for i in range(min(<int>old.recipients, <int>PER_SLOT)):
                numbers.add(old.numbers[i])
        return [(msgid, sorted(numbers)) for msgid, numbers in sorted(found.items())]

    def clear_old(self):
        """What was found at the opening, and a power loss, is recorded where it lasts: forget it here."""
        for slot in self._recovered:
            self._release(slot)
        self._recovered = []
        self._header.power_lost = 0

    cdef int begin(self, uint64_t msgid, const uint16_t* recipients, int n) except -1:
        """Take slots for `n` recipients of a message; gives the handle for clear(). InflightFull."""
        cdef int needed = (n + PER_SLOT - 1) // PER_SLOT
        cdef int32_t slot, last = -1, first = self._free
        cdef int at = 0, part
        if n <= 0 or msgid == 0:
            raise ValueError("no recipients, or no message")
        if self.used + needed > self.slots:
            raise InflightFull(f"{self.path}: all {self.slots} slots are taken")
        while at < n:
            slot = self._free
            self._free = self._next[slot]
            part = min(n - at, <int>PER_SLOT)
            self._slots[slot].recipients = <uint16_t>part
            memcpy(self._slots[slot].numbers, recipients + at, part * sizeof(uint16_t))
            FR_STORE_RELEASE(&self._slots[slot].msgid, msgid)
            last = slot
            at += part
        self._next[last] = -1              # the chain of free slots is the chain of this transaction up to here
        self.used += needed
        return first

    cdef void clear(self, int handle) noexcept:
        """Free the slots of a transaction: its outcome is committed, or no octet of it is in doubt."""
        cdef int32_t slot = handle, following
        while slot >= 0:
            following = self._next[slot]
            self._release(slot)
            slot = following

    cdef void _release(self, int32_t slot) noexcept:
        FR_STORE_RELEASE(&self._slots[slot].msgid, 0)
        self._next[slot] = self._free
        self._free = slot
        self.used -= 1

    def begin_list(self, uint64_t msgid, recipients):
        """begin() for Python: a list of recipient numbers."""
        cdef uint16_t numbers[1024]
        cdef int n = 0
        if len(recipients) > 1024:
            raise ValueError("at most 1024 recipients at once")
        for number in recipients:
            numbers[n] = number
            n += 1
        return self.begin(msgid, numbers, n)

    def clear_handle(self, int handle):
        """clear() for Python."""
        self.clear(handle)

    def close(self):
        """Unmap. With nothing in flight the file is marked clean, and synced: a reboot after it is no power loss."""
        if self._map == NULL:
            return
        if self.used == 0 and not self._header.power_lost:
            self._header.clean = 1
            msync(self._map, self._length, MS_SYNC)
            os.fsync(self._descriptor)
        munmap(self._map, self._length)
        self._map = NULL
        os.close(self._descriptor)
        self._descriptor = -1
