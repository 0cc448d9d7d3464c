"""Canonical forms of header and body for signatures (RFC 6376 section 3.4), and the body's hash.

What it is: the part of signing that looks at every octet. A body is brought into canonical form in pieces and hashed
by hashlib (OpenSSL: processors have instructions for SHA-256), one call for each piece; a body of usual size is one.
A header is parsed once a message; names are found by a hash of their lower-case form.

Content is as the relay sends it: lines end in CRLF, a bare CR or LF is an octet like any other. A body that does not
end in CRLF is taken as if it did, since it will when it is sent.

Known faults: white space is space and tab alone, as the RFC has it; dkimpy strips form feeds and vertical tabs, too, at
the ends of a field's value, and does not drop white space at the end of a last line without CRLF.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy

from hashlib import sha256

cdef enum:
    PIECE_BYTES = 65536                   # of a body in canonical form, in memory at a time
    ONE_PIECE_BYTES = 1 << 20             # a body up to here is hashed in one call
    FIELDS_AT_FIRST = 48
    FIELDS_COUNTED = 255                  # of one name that are signed: the lowest ones
    LINE = 78                             # octets of a line of a signature field, without CRLF (RFC 5322 section 2.1.1)
    LISTS_CACHED = 256                    # values of h= that are kept
    FIELDS_MOST = 100_000                 # the header block is bounded, too; beyond this many the rest is not looked at
    COMMENT_DEPTH = 100

cdef bytes LINE_ENDS = b"\r\n" * (PIECE_BYTES // 2)
cdef bytes LINE_END = b"\r\n"


cdef inline object _view(const unsigned char* p, size_t n):
    return PyMemoryView_FromMemory(<char*>p, <Py_ssize_t>n, PyBUF_READ)


cdef inline size_t _without_empty_lines(const unsigned char* p, size_t n) noexcept nogil:
    """How long it is without the line ends at its end."""
    while n >= 2 and p[n - 1] == c"\n" and p[n - 2] == c"\r":
        n -= 2
    return n


@cython.final
cdef class BodyHash:
    """SHA-256 of a body in canonical form, as it comes; how it is cut into chunks makes no difference.

    One thread at a time may feed it; which one does not matter.
    """

    def __cinit__(self, bint relaxed):
        self._hash = sha256()
        self._update = self._hash.update
        self._relaxed = relaxed
        self._any = False
        self._empty = 0
        self._state.wsp = self._state.cr = 0
        self._out = NULL
        self._digest = None
        if relaxed:
            self._out = <unsigned char*>malloc(PIECE_BYTES + 2)
            if self._out == NULL:
                raise MemoryError

    def __dealloc__(self):
        free(self._out)

    cpdef int feed(self, const unsigned char[::1] octets) except -1:
        """More of the body. ValueError after digest()."""
        cdef size_t n = <size_t>octets.shape[0], at = 0, piece
        if self._digest is not None:
            raise ValueError("this body is complete")
        if n == 0:
            return 0
        cdef const unsigned char* p = &octets[0]
        while at < n:
            piece = n - at
            if self._relaxed and piece > PIECE_BYTES:
                piece = PIECE_BYTES
            self._piece(p + at, piece)
            at += piece
        return 0

    cdef int _piece(self, const unsigned char* p, size_t n) except -1:
        cdef size_t made
        if self._relaxed:
            with nogil:
                made = fr_squeeze_body(&self._state, p, n, self._out)
            return self._emit(self._out, made)
        if self._state.cr:
            if p[0] == c"\n":
                self._emit(b"\r\n", 2)
                p, n = p + 1, n - 1
            else:
                self._emit(b"\r", 1)
            self._state.cr = 0
        if n and p[n - 1] == c"\r":
            self._state.cr = 1
            n -= 1
        return self._emit(p, n)

    cdef int _emit(self, const unsigned char* p, size_t n) except -1:
        """Hash a canonical piece but for the line ends at its end; they count if something follows."""
        cdef size_t text = _without_empty_lines(p, n)
        if text:
            while self._empty:
                lines = min(self._empty, <uint64_t>(PIECE_BYTES // 2))
                self._update(LINE_ENDS if lines == PIECE_BYTES // 2 else LINE_ENDS[:2 * lines])
                self._empty -= lines
            self._update(_view(p, text))
            self._any = True
        self._empty += (n - text) // 2
        return 0

    cpdef bytes digest(self):
        """The hash, 32 octets; the body is complete then."""
        if self._digest is None:
            if self._state.cr:                      # the last octet is a bare CR
                self._emit(b" \r" if self._state.wsp else b"\r", 2 if self._state.wsp else 1)
            if self._any or not self._relaxed:
                self._update(LINE_END)
            self._digest = self._hash.digest()
            self._hash = self._update = None
        return self._digest


def _plain(bytes octets, bint folds, bint portable):
    """What one step copies of octets: for tests, which hold the portable step against the other."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(octets)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(octets)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef unsigned char* into = <unsigned char*>PyBytes_AS_STRING(out)
    cdef size_t copied = (fr_copy_plain_portable if portable else fr_copy_plain)(p, p + n, into, folds)
    return out[:<Py_ssize_t>copied]


cpdef bytes body_hash(bytes content, Py_ssize_t header_length, bint relaxed):
    """SHA-256 of the body of a content in canonical form, 32 octets. `header_length`: with the empty line."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(content) - header_length
    cdef size_t made
    cdef fr_squeeze state
    cdef const unsigned char* p
    cdef unsigned char* out
    if header_length < 0 or n < 0:
        raise ValueError(f"a header of {header_length} octets in a content of {PyBytes_GET_SIZE(content)}")
    p = <const unsigned char*>PyBytes_AS_STRING(content) + header_length
    if n > ONE_PIECE_BYTES:
        hashed = BodyHash(relaxed)
        hashed.feed(_view(p, <size_t>n))
        return hashed.digest()
    out = <unsigned char*>malloc(<size_t>n + 4)
    if out == NULL:
        raise MemoryError
    try:
        if relaxed:
            state.wsp = state.cr = 0
            made = fr_squeeze_body(&state, p, <size_t>n, out)
            if state.cr:
                if state.wsp:
                    out[made] = c" "
                    made += 1
                out[made] = c"\r"
                made += 1
        else:
            memcpy(out, p, <size_t>n)
            made = <size_t>n
        made = _without_empty_lines(out, made)
        if made or not relaxed:
            out[made], out[made + 1] = c"\r", c"\n"
            made += 2
        return sha256(_view(out, made)).digest()
    finally:
        free(out)


# -- header fields ----------------------------------------------------------------------------------------------------

cdef inline unsigned char _lower(unsigned char octet) noexcept nogil:
    return octet | 0x20 if c"A" <= octet <= c"Z" else octet


cdef uint32_t _hash_name(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """FNV-1a of a name in lower case."""
    cdef uint32_t h = 2166136261u
    cdef Py_ssize_t i
    for i in range(n):
        h = (h ^ _lower(p[i])) * 16777619u
    return h


cdef bint _is_name(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """Whether these octets can be a field's name (RFC 5322 section 2.2)."""
    cdef Py_ssize_t i
    for i in range(n):
        if p[i] <= 32 or p[i] >= 127:
            return False
    return True


@cython.final
cdef class SignedNames:
    """Which fields are signed, in this order, and which of them nobody may add one of (oversigned)."""

    def __cinit__(self, names, oversign=()):
        over = {name.lower() for name in oversign}
        self._names = []
        self._lower = []
        self._lists = {}
        for name in [*names, *oversign]:
            if name.lower() not in self._lower:
                self._names.append(name)
                self._lower.append(name.lower())
        self._count = len(self._names)
        self._hashes = <uint32_t*>malloc(<size_t>(self._count + 1) * sizeof(uint32_t))
        self._oversigned = <bint*>malloc(<size_t>(self._count + 1) * sizeof(bint))
        if self._hashes == NULL or self._oversigned == NULL:
            raise MemoryError
        for i, lower in enumerate(self._lower):
            self._hashes[i] = _hash_name(<const unsigned char*>PyBytes_AS_STRING(lower), len(lower))
            self._oversigned[i] = lower in over

    cdef bytes _listed(self, bytes counts):
        """The value of h= that names the first so many times, the second so many, …; in lines, broken behind colons."""
        cdef Py_ssize_t column = len(b" h=")
        text = bytearray()
        for i in range(self._count):
            for _ in range(counts[i]):
                name = <bytes>self._names[i]
                if text:
                    text += b":"
                    column += 1
                    if column + len(name) + 1 > LINE:
                        text += b"\r\n "
                        column = 1
                text += name
                column += len(name)
        if len(self._lists) >= LISTS_CACHED:
            self._lists.clear()
        listed = self._lists[counts] = bytes(text)
        return listed

    def __dealloc__(self):
        free(self._hashes)
        free(self._oversigned)


@cython.final
@cython.freelist(8)
cdef class Fields:
    """The fields of a header block, in their order. Names are asked for in lower case."""

    def __cinit__(self, bytes header not None):
        self._header = header
        self._room = FIELDS_AT_FIRST
        self._places = <FieldPlace*>malloc(<size_t>self._room * sizeof(FieldPlace))
        if self._places == NULL:
            raise MemoryError
        self._parse()

    def __dealloc__(self):
        free(self._places)

    cdef int _parse(self) except -1:
        """Finds the fields; an empty line ends the header."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self._header)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(self._header), at = 0, end
        cdef const unsigned char* found
        while at < n and self.number < FIELDS_MOST:
            if p[at] == c"\r" and at + 1 < n and p[at + 1] == c"\n":
                break
            end = at
            while True:
                found = <const unsigned char*>memchr(p + end, c"\n", <size_t>(n - end))
                end = n if found == NULL else found - p + 1
                if end >= n or (p[end] != c" " and p[end] != c"\t"):
                    break
            self._add(at, end)
            at = end
        return 0

    cdef int _add(self, Py_ssize_t start, Py_ssize_t end) except -1:
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self._header)
        cdef Py_ssize_t name_end
        cdef const unsigned char* colon = <const unsigned char*>memchr(p + start, c":", <size_t>(end - start))
        cdef FieldPlace* place
        name_end = start if colon == NULL else colon - p
        while name_end > start and (p[name_end - 1] == c" " or p[name_end - 1] == c"\t"):
            name_end -= 1
        if name_end == start or not _is_name(p + start, name_end - start):
            self.unreadable += 1
            return 0
        if self.number == self._room:
            place = <FieldPlace*>realloc(self._places, <size_t>(2 * self._room) * sizeof(FieldPlace))
            if place == NULL:
                raise MemoryError
            self._places, self._room = place, 2 * self._room
        place = &self._places[self.number]
        self.number += 1
        place.start, place.name_length, place.value = start, name_end - start, colon - p + 1
        if end > place.value and p[end - 1] == c"\n":
            end -= 1
            if end > place.value and p[end - 1] == c"\r":
                end -= 1
        place.end = end
        place.hash = _hash_name(p + start, name_end - start)
        return 0

    cdef bint _is(self, Py_ssize_t at, bytes lower, uint32_t hash) noexcept:
        """Whether the field has this name."""
        cdef FieldPlace* place = &self._places[at]
        cdef Py_ssize_t i
        if place.hash != hash or place.name_length != PyBytes_GET_SIZE(lower):
            return False
        cdef const unsigned char* name = <const unsigned char*>PyBytes_AS_STRING(self._header) + place.start
        cdef const unsigned char* wanted = <const unsigned char*>PyBytes_AS_STRING(lower)
        for i in range(place.name_length):
            if _lower(name[i]) != wanted[i]:
                return False
        return True

    cpdef Py_ssize_t count(self, bytes name):
        """How many fields have this name (lower case)."""
        cdef uint32_t hash = _hash_name(<const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        cdef Py_ssize_t i, n = 0
        for i in range(self.number):
            n += self._is(i, name, hash)
        return n

    cpdef bytes last(self, bytes name):
        """Value of the last field with this name (lower case), as it stands without its CRLF; None: there is none."""
        cdef uint32_t hash = _hash_name(<const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        cdef Py_ssize_t i
        for i in range(self.number - 1, -1, -1):
            if self._is(i, name, hash):
                return self._header[self._places[i].value : self._places[i].end]
        return None

    cpdef bytes from_domain(self):
        """Domain of the first address in From, in lower case (ASCII; other octets as they are).

        None: there is not exactly one From field, or it has no address that can be read.
        """
        if self.count(b"from") != 1:
            return None
        return first_domain(self.last(b"from"))

    cpdef tuple signed_input(self, SignedNames names, bint relaxed):
        """(value of h=, folded to stand behind " h=", the signed fields in canonical form, each with CRLF).

        Fields of one name are taken from the bottom up (RFC 6376 section 5.4.2); a name that is oversigned stands once
        more than it has fields.
        """
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(self._header)
        cdef Py_ssize_t i, k
        cdef unsigned char found
        cdef uint32_t hash
        cdef size_t made = 0, room = <size_t>(PyBytes_GET_SIZE(self._header) + 2 * self.number + 2)
        cdef FieldPlace* place
        cdef bytes lower, listed
        cdef bytes counts = PyBytes_FromStringAndSize(NULL, names._count)
        cdef unsigned char* out = <unsigned char*>malloc(room)
        if out == NULL:
            raise MemoryError
        try:
            for k in range(names._count):
                lower = <bytes>names._lower[k]
                found = names._oversigned[k]
                hash = names._hashes[k]
                for i in range(self.number - 1, -1, -1):
                    place = &self._places[i]
                    if place.hash != hash or not self._is(i, lower, hash) or found == FIELDS_COUNTED:
                        continue
                    found += 1
                    if relaxed:
                        made += fr_relaxed_field(
                            p + place.start, <size_t>place.name_length, p + place.value,
                            <size_t>(place.end - place.value), out + made
                        )
                    else:
                        memcpy(out + made, p + place.start, <size_t>(place.end - place.start))
                        made += <size_t>(place.end - place.start)
                    out[made], out[made + 1] = c"\r", c"\n"
                    made += 2
                (<unsigned char*>PyBytes_AS_STRING(counts))[k] = found
            listed = names._lists.get(counts)
            if listed is None:
                listed = names._listed(counts)
            return listed, PyBytes_FromStringAndSize(<char*>out, <Py_ssize_t>made)
        finally:
            free(out)


cpdef Fields parse_fields(bytes header):
    """The fields of a header block, with or without the empty line and what follows it."""
    return Fields(header)


cpdef bytes canonical_field(bytes field, bint relaxed):
    """One field in canonical form. `field`: without CRLF at its end, as the answer. ValueError: it has no colon."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(field), colon = field.find(b":"), name_length = colon, value = colon + 1
    if colon < 0:
        raise ValueError("a header field has a colon")
    if not relaxed:
        return field
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(field)
    while name_length and (p[name_length - 1] == c" " or p[name_length - 1] == c"\t"):
        name_length -= 1
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 1)
    cdef size_t made = fr_relaxed_field(
        p, <size_t>name_length, p + value, <size_t>(n - value), <unsigned char*>PyBytes_AS_STRING(out)
    )
    return out[:<Py_ssize_t>made]


cpdef bytes finished_field(bytes field, bytes signature):
    """A signature field that ends in "b=", with its signature in base64 and CRLF."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(field), octets = PyBytes_GET_SIZE(signature)
    cdef Py_ssize_t column = n - field.rfind(b"\n") - 1
    cdef size_t room = <size_t>(n + octets // 3 * 4 + 4 + 3 * (octets // (LINE // 2) + 1) + 2)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
    cdef unsigned char* p = <unsigned char*>PyBytes_AS_STRING(out)
    memcpy(p, PyBytes_AS_STRING(field), <size_t>n)
    cdef size_t made = <size_t>n + fr_base64_folded(
        <const unsigned char*>PyBytes_AS_STRING(signature), <size_t>octets, <size_t>column, LINE, p + n
    )
    p[made], p[made + 1] = c"\r", c"\n"
    return out[:<Py_ssize_t>made + 2]


# -- the domain of From -----------------------------------------------------------------------------------------------

cdef Py_ssize_t _after_quoted(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the quoted string that begins at i; n: it does not end."""
    i += 1
    while i < n and p[i] != c'"':
        i += 2 if p[i] == c"\\" else 1
    return i + 1 if i < n else n


cdef Py_ssize_t _after_comment(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the comment that begins at i; n: it does not end, or nests too deeply."""
    cdef int depth = 0
    while i < n:
        if p[i] == c"\\":
            i += 1
        elif p[i] == c"(":
            depth += 1
            if depth > COMMENT_DEPTH:
                return n
        elif p[i] == c")":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return n


cpdef bytes first_domain(bytes value):
    """Domain of the first mailbox in the value of an address field, in lower case; None: there is none to be read.

    Display names, quoted strings, comments and folds are passed over (RFC 5322 section 3.4). A group gives None, since
    what follows its name is not the author alone.
    """
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value), i = 0, at = -1
    cdef bint angle = False, closed = False
    cdef unsigned char octet
    domain = bytearray()
    while i < n:
        octet = p[i]
        if octet == c'"':
            if at >= 0:
                return None
            i = _after_quoted(p, i, n)
            continue
        if octet == c"(":
            i = _after_comment(p, i, n)
            continue
        i += 1
        if octet == c"<":
            if angle:
                return None
            angle, at = True, -1
            domain.clear()
        elif octet == c">":
            closed = angle
            break
        elif octet == c"," and not angle:
            if at >= 0:
                break
            domain.clear()
        elif (octet == c":" or octet == c";") and at < 0 and not angle:
            return None
        elif octet == c"@":
            at = i
            domain.clear()
        elif at >= 0 and octet != c" " and octet != c"\t" and octet != c"\r" and octet != c"\n":
            if octet <= 32 or octet == 127 or octet == c"\\":
                return None
            domain.append(_lower(octet))
    if at < 0 or not domain or (angle and not closed):
        return None
    return bytes(domain).removesuffix(b".") or None
