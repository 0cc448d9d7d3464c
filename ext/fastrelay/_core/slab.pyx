"""The metrics of one worker slot: counters, gauges and histograms in a mapped file, one writer, any readers.

What: a worker asks once for the entry of a series (`counter("fastrelay_events_total")`) and keeps the number; counting
is then an addition in shared memory, a few ns and no system call. The supervisor maps the same files and sums them up
for /metrics, so nothing is lost when a worker dies, and nobody has to answer.

How: a header, entries of 16 bytes, and a text area with keys (JSON: name and sorted labels). A series is found by
its key when a new worker opens the file of its slot: counters and histograms go on, gauges start at 0. New entries are
written first and then published by the count (release); a reader that loads the count (acquire) sees whole entries. A
histogram is an entry (the sum) followed by one entry for each bucket, with its own count and upper bound.

Bounds: CAPACITY entries and TEXT_BYTES of keys. When they are used up, a new series shares one with all labels `other`
(room for these is held back), and `overflows` counts it; past that, entry 0 takes what nobody will see.

Known faults: values are doubles, exact up to 2**53. A reader may see a histogram between the two stores of one
observation. A histogram whose bounds were changed is a new series; the old one stays in the file.
"""

cimport cython
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy, memset

import errno
import json
import os

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    void* MAP_FAILED

cdef extern from *:
    """
    #define fr_load_acquire(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define fr_store_release(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    static inline double fr_read(double *place)
    { double value; __atomic_load(place, &value, __ATOMIC_RELAXED); return value; }
    static inline void fr_write(double *place, double value)
    { __atomic_store(place, &value, __ATOMIC_RELAXED); }
    """
    uint32_t fr_load_acquire(uint32_t* place) noexcept nogil
    void fr_store_release(uint32_t* place, uint32_t value) noexcept nogil
    double fr_read(double* place) noexcept nogil
    void fr_write(double* place, double value) noexcept nogil

cdef enum:
    VERSION = 1
    HEADER_BYTES = 4096
    CAPACITY_ = 65536
    TEXT_BYTES_ = 8 * 1024 * 1024
    OTHER_ENTRIES = 1024        # held back for `other` series
    OTHER_TEXT = 65536
    LABEL_CHARS = 200           # a longer label value is cut
    MAX_BUCKETS = 250

cdef const char* MAGIC = b"FRSLAB\n\0"

CAPACITY = CAPACITY_
TEXT_BYTES = TEXT_BYTES_
KINDS = {COUNTER: "counter", GAUGE: "gauge", HISTOGRAM: "histogram"}


class SlabError(Exception):
    """The metrics file cannot be used. `path`: the file; `why`: the words for the operator."""

    def __init__(self, path, why):
        super().__init__(f"metrics file {path}: {why}")
        self.path = path
        self.why = why


def _size(capacity, text_bytes):
    return HEADER_BYTES + capacity * sizeof(SlabEntry) + text_bytes


@cython.final
cdef class Slab:
    """An open metrics file. The worker of the slot writes; the supervisor reads, and writes only for a dead worker.

    `create`: make the file when it is missing, and anew when it cannot be used. Raises SlabError.
    """

    def __cinit__(self, path, *, bint create=False, bint writable=True, uint32_t capacity=CAPACITY_,
                  uint32_t text_bytes=TEXT_BYTES_):
        self.path = os.fspath(path)
        self.writable = writable
        self._known = {}
        self._described = []
        self._described_to = 1
        if create:
            try:
                self._map()
            except SlabError:
                self._unmap()
                _write_empty(self.path, capacity, text_bytes)
                self._map()
        else:
            self._map()
        for _, key, _, entry, _ in self._describe():
            self._known.setdefault(key, entry)

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self._size)

    def _unmap(self):
        if self._base != NULL:
            munmap(self._base, self._size)
            self._base = NULL

    def _map(self):
        cdef void* place
        cdef int fd
        try:
            fd = os.open(self.path, (os.O_RDWR if self.writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise SlabError(self.path, error.strerror) from error
        try:
            self._size = os.fstat(fd).st_size
            if self._size < HEADER_BYTES:
                raise SlabError(self.path, "it is not a metrics file (too short)")
            place = mmap(NULL, self._size, PROT_READ | (PROT_WRITE if self.writable else 0), MAP_SHARED, fd, 0)
            if place == MAP_FAILED:
                raise SlabError(self.path, "cannot be mapped into memory")
        finally:
            os.close(fd)
        self._base = <char*>place
        self._header = <SlabHeader*>place
        if memcmp(self._header.magic, MAGIC, 8) != 0 or self._header.version != VERSION:
            raise SlabError(self.path, "it is not a metrics file of this version")
        self._capacity = self._header.capacity
        self._text_capacity = self._header.text_capacity
        if self._size != _size(self._capacity, self._text_capacity):
            raise SlabError(self.path, "it is damaged (wrong size)")
        if not (1 <= self._header.count <= self._capacity and self._header.text_used <= self._text_capacity):
            raise SlabError(self.path, "it is damaged (impossible counts)")
        self._entries = <SlabEntry*>(self._base + HEADER_BYTES)
        self._text = self._base + HEADER_BYTES + <size_t>self._capacity * sizeof(SlabEntry)

    @property
    def overflows(self):
        """How many series had to share an `other` series."""
        return self._header.overflows

    def __len__(self):
        """Entries in use (a histogram takes one for each bucket, and one)."""
        return fr_load_acquire(&self._header.count)

    # --- the series of the worker ---

    def counter(self, str name, /, **labels):
        """The entry of a counter, made when it is new; see `inc`."""
        return self._series(COUNTER, name, labels, ())

    def gauge(self, str name, /, **labels):
        """The entry of a gauge, made when it is new; see `set` and `inc`."""
        return self._series(GAUGE, name, labels, ())

    def histogram(self, str name, buckets, /, **labels):
        """The entry of a histogram, made when it is new; see `observe`. `buckets`: rising bounds, without +Inf."""
        bounds = tuple([float(bound) for bound in buckets])
        if not bounds or len(bounds) > MAX_BUCKETS or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"{name}: the buckets are 1 to {MAX_BUCKETS} rising bounds")
        return self._series(HISTOGRAM, name, labels, bounds)

    cdef uint32_t _series(self, int kind, str name, dict labels, tuple bounds) except? 0:
        cdef bytes key = _key(name, labels, bounds)
        found = self._known.get(key)
        if found is not None:
            return found
        if not self.writable:
            raise SlabError(self.path, "it is open for reading")
        cdef uint32_t entry = self._new(kind, key, bounds, OTHER_ENTRIES)
        if entry == 0:
            self._header.overflows += 1
            key = _key(name, dict.fromkeys(labels, "other"), bounds)
            entry = self._known.get(key, 0) or self._new(kind, key, bounds, 0)
        else:
            self._known[key] = entry
        return entry

    cdef uint32_t _new(self, int kind, bytes key, tuple bounds, uint32_t reserve) except? 0:
        """Append a series; 0 when there is no room but for `reserve`."""
        cdef uint32_t entry = self._header.count
        cdef uint32_t buckets = len(bounds) + 1 if kind == HISTOGRAM else 0
        cdef uint32_t length = len(key)
        cdef uint32_t i
        cdef SlabEntry* place
        if entry + 1 + buckets + min(reserve, self._capacity // 4) > self._capacity:
            return 0
        if self._header.text_used + length + (min(OTHER_TEXT, self._text_capacity // 4) if reserve else 0) \
                > self._text_capacity or length > 0xFFFF:
            return 0
        place = &self._entries[entry]
        memcpy(self._text + self._header.text_used, <const char*>key, length)
        place.value = 0
        place.tail.key.offset = self._header.text_used
        place.tail.key.length = length
        place.tail.key.kind = kind
        place.tail.key.buckets = buckets
        for i in range(buckets):
            place[1 + i].value = 0
            place[1 + i].tail.bound = bounds[i] if i + 1 < buckets else INFINITY
        self._header.text_used += length
        fr_store_release(&self._header.count, entry + 1 + buckets)
        self._known[key] = entry
        return entry

    # --- counting ---

    cpdef void inc(self, uint32_t entry, double n=1) noexcept nogil:
        """Add to a counter or gauge (a counter never by less than 0)."""
        if entry < self._capacity and self.writable:
            fr_write(&self._entries[entry].value, self._entries[entry].value + n)

    cpdef void set(self, uint32_t entry, double value) noexcept nogil:
        """Set a gauge."""
        if entry < self._capacity and self.writable:
            fr_write(&self._entries[entry].value, value)

    cpdef double value(self, uint32_t entry) noexcept nogil:
        """The value of a counter or gauge, or the sum of a histogram."""
        return fr_read(&self._entries[entry].value) if entry < self._capacity else 0

    cpdef void observe(self, uint32_t entry, double value) noexcept nogil:
        """Count a value in a histogram; what is not a finite number is left out."""
        cdef SlabEntry* place
        cdef SlabEntry* bucket
        cdef SlabEntry* last
        if entry == 0 or entry >= self._capacity or not self.writable or not isfinite(value):
            return
        place = &self._entries[entry]
        if place.tail.key.kind != HISTOGRAM or entry + place.tail.key.buckets >= self._capacity:
            return
        bucket = place + 1
        last = place + place.tail.key.buckets
        while bucket < last and value > bucket.tail.bound:
            bucket += 1
        fr_write(&bucket.value, bucket.value + 1)
        fr_write(&place.value, place.value + value)

    cpdef void reset_gauges(self) noexcept nogil:
        """Set every gauge to 0: by a new worker at its start, by the supervisor for a dead one."""
        cdef uint32_t entry = 1
        cdef uint32_t count = min(fr_load_acquire(&self._header.count), self._capacity)
        if not self.writable:
            return
        while entry < count:
            if self._entries[entry].tail.key.kind == GAUGE:
                fr_write(&self._entries[entry].value, 0)
            entry += 1 + self._entries[entry].tail.key.buckets

    # --- reading ---

    def _describe(self):
        """Read the keys that were added since the last call; gives all: (kind, key, (name, labels), entry, bounds).
        A key that cannot be read (a file torn by a power cut) is passed over."""
        cdef uint32_t count = min(fr_load_acquire(&self._header.count), self._capacity)
        cdef uint32_t entry = self._described_to
        cdef uint32_t i
        cdef SlabKey* key
        while entry < count:
            key = &self._entries[entry].tail.key
            if entry + 1 + key.buckets > count:
                break
            if key.kind in (COUNTER, GAUGE, HISTOGRAM) and key.offset + <size_t>key.length <= self._text_capacity:
                text = self._text[key.offset:key.offset + key.length]
                identity = _read_key(text)
                if identity is not None:
                    bounds = tuple([self._entries[entry + 1 + i].tail.bound for i in range(key.buckets)])
                    self._described.append((key.kind, text, identity, entry, bounds))
            entry += 1 + key.buckets
        self._described_to = entry
        return self._described

    def series(self, str name):
        """(entry, labels) of each counter and gauge of a name, for who reads the same ones again and again."""
        return [(number, identity[1]) for kind, _, identity, number, _ in self._describe()
                if identity[0] == name and kind != HISTOGRAM]

    def entries(self):
        """All series as a list of (kind, name, labels, value): kind is "counter", "gauge" or "histogram", labels a
        tuple of (name, value) sorted by name, value a float; of a histogram (sum, bounds, counts), one count for each
        bucket alone, the last bound infinite."""
        cdef uint32_t entry, i
        found = []
        for kind, _, identity, number, bounds in self._describe():
            entry = number
            value = fr_read(&self._entries[entry].value)
            if kind == HISTOGRAM:
                value = (value, bounds, [fr_read(&self._entries[entry + 1 + i].value) for i in range(len(bounds))])
            found.append((KINDS[kind], identity[0], identity[1], value))
        return found


def _key(name, labels, bounds):
    pairs = [(label, str(value)[:LABEL_CHARS]) for label, value in sorted(labels.items())]
    return json.dumps([name, pairs, list(bounds)], separators=(",", ":")).encode()


def _read_key(text):
    """(name, labels) of a key text, or None."""
    try:
        name, pairs, _ = json.loads(text)
        return str(name), tuple([(str(label), str(value)) for label, value in pairs])
    except (ValueError, TypeError):
        return None


def _write_empty(path, capacity, text_bytes):
    cdef SlabHeader header
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, MAGIC, 8)
    header.version = VERSION
    header.capacity = capacity
    header.text_capacity = text_bytes
    header.count = 1
    size = _size(capacity, text_bytes)
    try:
        fd = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, (<char*>&header)[:sizeof(header)], 0)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
    except OSError as error:
        why = f"no room for {size} bytes" if error.errno == errno.ENOSPC else error.strerror
        raise SlabError(path, why) from error
