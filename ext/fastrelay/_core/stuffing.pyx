"""Dot-stuffing and its inverse, as streams (RFC 5321 section 4.5.2).

`stuff` and `Stuffer` make content safe to send after DATA. `Unstuffer` finds the end of DATA, takes the stuffed dots
out, and learns on the way what the relay must know of a content: its length, its header's length, its longest line,
whether it holds 8-bit octets, NULs, or a bare CR or LF. Each octet is looked at once, in blocks of 64, and copied once.

Only CRLF ends a line and only CRLF.CRLF ends DATA, wherever the seams of the chunks are: LF.LF, LF.CRLF, CRLF.LF and
CR.CR are content (SMTP smuggling, CVE-2023-51764). With `repair` a bare CR or LF becomes CRLF in the content, but what
ends DATA is still judged by the octets that came: a dot after a repaired line end is content, kept as it is, and is
stuffed when the content is sent on.

Known faults: a block is scanned again behind each stuffed dot, and behind each bare CR or LF that is repaired, so
content that is nothing but bare LFs is repaired at some 25 MB/s. Off x86 the scan is eight octets wide, which reads
contents at about a third of the speed.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from "stuffing.h" nogil:
    ctypedef struct fr_masks:
        uint64_t lf
        uint64_t cr
        uint64_t dot
        uint64_t high
        uint64_t nul
    ctypedef struct fr_run:
        uint64_t after_cr
        uint64_t line_start
        int64_t line_from
        int64_t longest_line
        int64_t empty_line
        uint64_t high
        uint64_t nul
    void fr_end_line(fr_run* run, int64_t lf) noexcept
    int64_t fr_plain_blocks(
        const unsigned char* p, int64_t n, int64_t offset, int bare, int dots, fr_run* state
    ) noexcept
    void fr_scan64(const unsigned char* p, fr_masks* m) noexcept
    void fr_scan64_portable(const unsigned char* p, fr_masks* m) noexcept
    void fr_scan_tail(const unsigned char* p, int n, fr_masks* m) noexcept
    int64_t fr_find_lf_dot(const unsigned char* p, int64_t start, int64_t n) noexcept

cdef extern from "Python.h":
    # As a plain pointer: the object is filled and resized first and shown to anyone only then.
    PyObject* _new_bytes "PyBytes_FromStringAndSize"(void* octets, Py_ssize_t n) except NULL

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil

# Where the stream stands between two octets.
cdef enum:
    TEXT = 0  # inside a line
    AFTER_CR = 1  # the last octet was CR
    LINE_START = 2  # the last two were CRLF, or nothing came yet
    AFTER_DOT = 3  # a dot at a line start was taken out; the next octets say whether it was the end
    AFTER_DOT_CR = 4  # that dot and CR; the CR is not yet in the content

cdef enum:
    POSITIONS = 256  # dots remembered by the first pass of a stuffing, so that few dots cost no second scan
    SMALLEST = 2048  # octets of a new Collector


cdef inline int _state_after(const unsigned char* p, Py_ssize_t n, int state) noexcept:
    """The state after a non-empty chunk that began in `state`."""
    cdef unsigned char before
    if p[n - 1] == c"\r":
        return AFTER_CR
    if p[n - 1] == c"\n":
        before = p[n - 2] if n > 1 else (<unsigned char>c"\r" if state == AFTER_CR else 0)
        if before == c"\r":
            return LINE_START
    return TEXT


cdef inline Py_ssize_t _next_dot(const unsigned char* p, Py_ssize_t start, Py_ssize_t n, int state) noexcept:
    """Index of the next dot at a line start in p[start:n], or -1. `state` tells what came before p[0]."""
    cdef Py_ssize_t i
    if start == 0 and n > 0 and state == LINE_START and p[0] == c".":
        return 0
    i = start - 1 if start > 0 else 0
    while True:
        i = fr_find_lf_dot(p, i, n)
        if i < 0:
            return -1
        if p[i - 2] == c"\r" if i > 1 else state == AFTER_CR:
            return i


cdef bytes _stuffed(object chunk, const unsigned char* p, Py_ssize_t n, int state):
    """Stuffs a chunk; the chunk itself when there is nothing to stuff and it is a bytes object."""
    cdef Py_ssize_t[POSITIONS] found
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t i = _next_dot(p, 0, n, state)
    if i < 0:
        return chunk if type(chunk) is bytes else PyBytes_FromStringAndSize(<const char*>p, n)
    while i >= 0:
        if count < POSITIONS:
            found[count] = i
        count += 1
        i = _next_dot(p, i + 1, n, state)

    cdef bytes stuffed = PyBytes_FromStringAndSize(NULL, n + count)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(stuffed)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t k
    for k in range(count):
        i = found[k] if k < POSITIONS else _next_dot(p, at + 1, n, state)
        memcpy(out, p + at, i - at)
        out[i - at] = c"."
        out += i - at + 1
        at = i
    memcpy(out, p + at, n - at)
    return stuffed


cpdef bytes stuff(object content):
    """Content with a dot put before each dot at a line start; no terminator.

    `content` is any object with a buffer of octets. A bytes object that needs no dot is returned as it is, uncopied.
    Lines end with CRLF only.
    """
    cdef const unsigned char[::1] view
    if type(content) is bytes:
        return _stuffed(
            content, <const unsigned char*>PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content), LINE_START
        )
    view = content
    return _stuffed(content, &view[0] if view.shape[0] else NULL, view.shape[0], LINE_START)


@cython.final
cdef class Stuffer:
    """Dot-stuffing of a content that comes in chunks; a line end may lie across a seam."""

    def __cinit__(self):
        self._state = LINE_START

    cpdef bytes feed(self, object chunk):
        """The chunk, stuffed: the same object when it is a bytes object that needs no dot."""
        cdef const unsigned char[::1] view
        cdef const unsigned char* p
        cdef Py_ssize_t n
        cdef int state = self._state
        if type(chunk) is bytes:
            p = <const unsigned char*>PyBytes_AS_STRING(chunk)
            n = PyBytes_GET_SIZE(chunk)
        else:
            view = chunk
            n = view.shape[0]
            p = &view[0] if n else NULL
        if n == 0:
            return b""
        self._state = _state_after(p, n, state)
        return _stuffed(chunk, p, n, state)

    cpdef bytes finish(self):
        """The end of DATA, with the CRLF that the content may lack; then the stream is as new."""
        cdef int state = self._state
        self._state = LINE_START
        return b".\r\n" if state == LINE_START else b"\r\n.\r\n"

    cpdef void reset(self) noexcept:
        self._state = LINE_START


@cython.final
cdef class Collector:
    def __dealloc__(self):
        Py_XDECREF(self._bytes)

    cdef int reserve(self, Py_ssize_t capacity) except -1:
        """Room for `capacity` octets in all; on MemoryError what was collected is lost."""
        cdef Py_ssize_t length = self.length
        if capacity <= self.capacity:
            return 0
        if self._bytes is NULL:
            self._bytes = _new_bytes(NULL, capacity)
        else:
            # A failed resize frees the object and leaves NULL.
            self.start = NULL
            self.length = self.capacity = 0
            _PyBytes_Resize(&self._bytes, capacity)
        self.start = <unsigned char*>PyBytes_AS_STRING(<object>self._bytes)
        self.length = length
        self.capacity = capacity
        return 0

    cdef int append(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t need = self.length + n
        if need > self.capacity:
            self.reserve(max(need, 2 * self.capacity, SMALLEST))
        memcpy(self.start + self.length, p, n)
        self.length = need
        return 0

    cdef bytes take(self):
        """What was collected; the collector is empty afterwards."""
        cdef bytes taken
        if self.length == 0:
            self.clear()
            return b""
        if self.length != self.capacity:
            self.capacity = 0
            _PyBytes_Resize(&self._bytes, self.length)  # shrinks in place
        taken = <bytes>self._bytes
        self.clear()
        return taken

    cdef void clear(self) noexcept:
        Py_XDECREF(self._bytes)
        self._bytes = NULL
        self.start = NULL
        self.length = self.capacity = 0


@cython.final
cdef class Unstuffer:
    """Reads the content of one message, from DATA or from BDAT chunks, and collects it.

    `restart` begins a message. `feed_bytes` takes octets and gives how many belonged to the content; `ended` says that
    CRLF.CRLF was among them (DATA only). Every fact is the same wherever the chunks were cut.
    """

    def __cinit__(self, bint dots=True, bint repair=False):
        self.content = Collector()
        self.repair = repair
        self.restart(dots)

    cdef void restart(self, bint dots) noexcept:
        self.dots = dots
        self.discard = self.ended = self.bare = self.eight_bit = self.nul = False
        self.length = self.longest_line = self.header_length = self._line_start = 0
        self._state = LINE_START
        self.content.clear()

    def feed(self, const unsigned char[::1] chunk):
        """The number of octets consumed: all of them unless the end of DATA came."""
        return self.feed_bytes(&chunk[0], chunk.shape[0]) if chunk.shape[0] else 0

    def take(self):
        """The content collected since the last call."""
        return self.content.take()

    def finish(self):
        """Ends a content that came in BDAT chunks: a CR that is its last octet is bare."""
        self.finish_chunks()

    cdef int finish_chunks(self) except -1:
        if self._state == AFTER_CR:
            self.bare = True
            if self.repair:
                self._emit(b"\n", 1)
                self._end_line(self.length - 2, self.length)
            self._state = TEXT
        if self.length - self._line_start > self.longest_line:
            self.longest_line = self.length - self._line_start
        return 0

    cdef inline int _emit(self, const unsigned char* p, Py_ssize_t n) except -1:
        self.length += n
        if n and not self.discard:
            self.content.append(p, n)
        return 0

    cdef inline void _end_line(self, long long end, long long after) noexcept:
        """Notes a line that ends before offset `end` of the content; the next begins at `after`."""
        cdef long long octets = end - self._line_start
        if octets > self.longest_line:
            self.longest_line = octets
        if octets == 0 and self.header_length == 0:
            self.header_length = after
        self._line_start = after

    cdef Py_ssize_t feed_bytes(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Takes octets up to the end of DATA; gives how many it used up."""
        cdef Py_ssize_t i = 0  # octets looked at
        cdef Py_ssize_t start = 0  # first octet that was not yet emitted
        if self._state >= AFTER_DOT and n:
            i = start = self._after_dot(p, 0, n)
        while i < n and not self.ended:
            i = self._pass(p, i, n, self.length + (i - start))
            if i == n:
                break
            # p[i] needs a decision: what stands before it is content.
            self._emit(p + start, i - start)
            start = i
            if self._state == LINE_START and p[i] == c".":
                self._state = AFTER_DOT
                i = start = self._after_dot(p, i + 1, n)
                continue
            self.bare = True
            self._state = TEXT
            if p[i] == c"\n":
                if self.repair:
                    self._emit(b"\r\n", 2)
                    self._end_line(self.length - 2, self.length)
                    start += 1
                i += 1
            elif self.repair:
                # The octet before p[i] was the CR; it is out already.
                self._emit(b"\n", 1)
                self._end_line(self.length - 2, self.length)
        if not self.ended:
            self._emit(p + start, n - start)
        return i

    cdef Py_ssize_t _pass(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n, long long offset) except -1:
        """Goes from p[i] to the next octet that needs a decision, or to n; `offset` is that of p[i] in the content."""
        cdef fr_run run
        cdef fr_masks found
        cdef uint64_t after_cr, ends, stop
        # Once a content is refused for a bare line end, no further one matters.
        cdef bint bare = self.repair or not self.bare
        cdef Py_ssize_t begin = i
        cdef int width, k
        run.after_cr = self._state == AFTER_CR
        run.line_start = self._state == LINE_START
        run.line_from = self._line_start
        run.longest_line = self.longest_line
        run.empty_line = self.header_length
        run.high = run.nul = 0
        i += fr_plain_blocks(p + i, n - i, offset, bare, self.dots, &run)
        if i < n:
            # The block with the decision, or the tail.
            width = <int>min(n - i, 64)
            fr_scan_tail(p + i, width, &found)
            after_cr = found.cr << 1 | run.after_cr
            ends = found.lf & after_cr
            stop = found.lf ^ after_cr if bare else 0
            if self.dots:
                stop |= found.dot & (ends << 1 | run.line_start)
            if width < 64:
                stop &= (<uint64_t>1 << width) - 1
            if stop:
                width = __builtin_ctzll(stop)
                stop = (<uint64_t>1 << width) - 1
                ends &= stop
                found.high &= stop
                found.nul &= stop
            run.high |= found.high
            run.nul |= found.nul
            while ends:
                k = __builtin_ctzll(ends)
                fr_end_line(&run, offset + (i - begin) + k)
                ends &= ends - 1
            i += width
        self._line_start = run.line_from
        self.longest_line = run.longest_line
        self.header_length = run.empty_line
        if run.high:
            self.eight_bit = True
        if run.nul:
            self.nul = True
        if i > begin:
            self._state = _state_after(p + begin, i - begin, self._state)
        return i

    cdef Py_ssize_t _after_dot(self, const unsigned char* p, Py_ssize_t i, Py_ssize_t n) except -1:
        """Goes on behind a dot that was taken from a line start; gives the index of the first octet not used up."""
        if self._state == AFTER_DOT:
            if i == n:
                return i
            if p[i] != c"\r":
                self._state = TEXT
                return i
            i += 1
            self._state = AFTER_DOT_CR
        if i == n:
            return i
        if p[i] == c"\n":
            self.ended = True
            self._state = LINE_START
            return i + 1
        # A CR alone behind the dot: content after all, and bare.
        self.bare = True
        self._emit(b"\r", 1)
        if self.repair:
            self._emit(b"\n", 1)
            self._end_line(self.length - 2, self.length)
        self._state = TEXT
        return i


def _masks(const unsigned char[::1] block, bint portable):
    """For tests: the five masks of 64 octets, from either scan."""
    cdef fr_masks found
    if block.shape[0] != 64:
        raise ValueError("a block has 64 octets")
    if portable:
        fr_scan64_portable(&block[0], &found)
    else:
        fr_scan64(&block[0], &found)
    return found.lf, found.cr, found.dot, found.high, found.nul
