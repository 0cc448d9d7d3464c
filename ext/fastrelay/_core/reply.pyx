"""SMTP replies (RFC 5321 section 4.2) and a bounded, incremental parser for them.

Strict where a reply could be misread: a line ends with CRLF and nothing else, it begins with three digits of
which the first is 2 to 5, then a space, a hyphen or the end of the line; all lines of one reply carry one code.
Everything else is an error, after which the parser reads nothing more: whoever owns it closes the session.

Bounds: REPLY_LINE_LIMIT octets a line, REPLY_LINES_LIMIT lines and REPLY_TOTAL_LIMIT octets a reply; of the text
only `text_limit` octets are kept. Memory held between calls is at most one line and the kept text.

Servers say the same few lines again and again, so a parser keeps the last reply seen per slot (its owner sets the
slot by the command that is answered) and returns the same object for the same octets.

Known faults: a server that ends lines with a bare LF is refused, although most clients tolerate it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    LINE_MORE = 0
    LINE_END = 1     # a reply is complete, or the parser failed

# C0, DEL and C1 controls, line and paragraph separators, and the marks that turn text around on a terminal.
_UNSAFE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_UNSAFE.update({
    code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
})
_UNSAFE[ord("\n")] = " "


@cython.final
@cython.freelist(256)
cdef class Reply:
    """One reply: code and text. Immutable; equal replies may be the same object."""

    def __init__(self, int code, bytes text=b""):
        if not 200 <= code <= 599:
            raise ValueError(f"a reply code is 200 to 599, not {code}")
        self.code = code
        self.text = text

    @property
    def digit(self):
        """The first digit, the one to act on: 2 done, 3 go on, 4 later, 5 never (RFC 5321 section 4.2.1)."""
        return self.code // 100

    @property
    def lines(self):
        """The text of each line."""
        return self.text.split(b"\n")

    @property
    def enhanced(self):
        """The enhanced status code as "x.y.z", or None: absent, or its class belies the reply code (RFC 2034)."""
        return self.enhanced_status()

    cdef str enhanced_status(self):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(self.text)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(self.text), i = 0
        cdef int fields = 0, digits = 0
        # The octet behind the last one of a bytes object is NUL, so text[n] may be looked at.
        while i <= n:
            if i < n and c"0" <= text[i] <= c"9" and digits < 3:
                digits += 1
            elif digits == 0:
                return None
            elif i < n and text[i] == c"." and fields < 2:
                if fields == 0 and (digits != 1 or text[0] - 48 != self.code // 100):
                    return None
                fields += 1
                digits = 0
            elif fields == 2 and (i == n or text[i] == c" " or text[i] == c"\n"):
                return PyUnicode_DecodeASCII(<const char*>text, i, NULL)
            else:
                return None
            i += 1
        return None

    cpdef str text_for_log(self):
        """Code and text on one line, at most REPLY_TEXT_LIMIT octets of text, nothing in it that moves a cursor."""
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(self.text)
        cdef Py_ssize_t n = min(PyBytes_GET_SIZE(self.text), <Py_ssize_t>REPLY_TEXT_LIMIT), i
        cdef char[REPLY_TEXT_LIMIT + 4] line
        if n == 0:
            return str(self.code)
        line[0] = 48 + self.code // 100
        line[1] = 48 + self.code // 10 % 10
        line[2] = 48 + self.code % 10
        line[3] = c" "
        for i in range(n):
            if not 32 <= text[i] < 127 and text[i] != c"\n":
                return f"{self.code} {self.text[:n].decode('utf-8', 'backslashreplace').translate(_UNSAFE)}"
            line[4 + i] = text[i] if text[i] != c"\n" else c" "
        return PyUnicode_DecodeASCII(line, n + 4, NULL)

    def __eq__(self, other):
        if not isinstance(other, Reply):
            return NotImplemented
        return self.code == (<Reply>other).code and self.text == (<Reply>other).text

    def __hash__(self):
        return hash((self.code, self.text))

    def __repr__(self):
        return f"Reply({self.code}, {self.text!r})"


@cython.final
cdef class ReplyParser:
    """Octets in, replies out. `feed` is the face for Python; the client machine calls `parse`."""

    def __cinit__(self):
        self.text_limit = REPLY_TEXT_LIMIT
        self._seen = [None] * REPLY_SLOTS
        self.slot = REPLY_SLOTS - 1

    def __dealloc__(self):
        PyMem_Free(self._held)

    def feed(self, bytes octets):
        """All replies completed by these octets, in order. Look at `error` after it."""
        cdef const unsigned char* start = <const unsigned char*>PyBytes_AS_STRING(octets)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(octets), used = 0
        replies = []
        while used < n and self.error is None:
            used += self.parse(start + used, n - used)
            if self.reply is not None:
                replies.append(self.reply)
        return replies

    @property
    def pending(self):
        """True when the start of a reply has been read, and not its end."""
        return self.partial()

    cdef Py_ssize_t parse(self, const unsigned char* octets, Py_ssize_t n) except -1:
        """Read up to the end of one reply; the octets used. Sets `reply` when one is complete, `error` on garbage."""
        cdef Py_ssize_t used = 0, length
        cdef const unsigned char* line
        cdef const unsigned char* end
        self.reply = None
        while used < n and self.error is None:
            line = octets + used
            end = <const unsigned char*>memchr(line, c"\n", n - used)
            if end == NULL:
                self._hold(line, n - used)
                return n
            length = end - line + 1
            used += length
            if self._held_length != 0:
                if self._hold(line, length) != 0:
                    return n
                line = self._held
                length = self._held_length
                self._held_length = 0
            if self._line(line, length) == LINE_END:
                return used
        return n

    cdef int _hold(self, const unsigned char* octets, Py_ssize_t n) except -1:
        """Keep the start of a line; 1 when the line grows too long."""
        if n > REPLY_LINE_LIMIT - self._held_length:
            self._fail("a reply line is longer than 2048 octets")
            return 1
        if self._held == NULL:
            self._held = <unsigned char*>PyMem_Malloc(REPLY_LINE_LIMIT)
            if self._held == NULL:
                raise MemoryError()
        memcpy(self._held + self._held_length, octets, n)
        self._held_length += n
        return 0

    cdef int _line(self, const unsigned char* line, Py_ssize_t length) except -1:
        """Take one line with its LF."""
        cdef int code
        cdef Py_ssize_t n = length - 2
        cdef bint last
        if length > REPLY_LINE_LIMIT:
            return self._fail("a reply line is longer than 2048 octets")
        if n < 0 or line[n] != c"\r":
            return self._fail("a reply line does not end with CRLF")
        if n < 3 or not (c"2" <= line[0] <= c"5" and c"0" <= line[1] <= c"9" and c"0" <= line[2] <= c"9"):
            return self._fail("a reply line does not begin with a reply code")
        last = n == 3 or line[3] == c" "
        if not last and line[3] != c"-":
            return self._fail("neither space nor hyphen follows a reply code")
        code = (line[0] - 48) * 100 + (line[1] - 48) * 10 + (line[2] - 48)
        if self._lines == 0:
            self._code = code
        elif code != self._code:
            return self._fail(f"one reply mixes the codes {self._code} and {code}")
        self._lines += 1
        self._total += length
        if self._lines > REPLY_LINES_LIMIT or self._total > REPLY_TOTAL_LIMIT:
            return self._fail("a reply is longer than 128 lines or 65536 octets")
        if last:
            return self._complete(line + 4, n - 4 if n > 4 else 0)
        if self._parts is None:
            self._parts = []
        if self._kept < self.text_limit:
            self._parts.append(PyBytes_FromStringAndSize(<const char*>line + 4, n - 4))
            self._kept += n - 3
        return LINE_MORE

    cdef int _complete(self, const unsigned char* text, Py_ssize_t length) except -1:
        """The last line has come: make the reply, or take the last-seen one when it is the same."""
        cdef Reply reply
        cdef bytes kept
        if self._lines == 1:
            if length > self.text_limit:
                length = self.text_limit
            reply = <Reply>self._seen[self.slot]
            if (reply is not None and reply.code == self._code and PyBytes_GET_SIZE(reply.text) == length
                    and memcmp(PyBytes_AS_STRING(reply.text), text, length) == 0):
                self._lines = 0
                self._total = 0
                self.reply = reply
                return LINE_END
            kept = PyBytes_FromStringAndSize(<const char*>text, length)
        else:
            if self._kept < self.text_limit:
                self._parts.append(PyBytes_FromStringAndSize(<const char*>text, length))
            kept = b"\n".join(self._parts)[:self.text_limit]
            self._parts = None
        reply = Reply.__new__(Reply)
        reply.code = self._code
        reply.text = kept
        if self._lines == 1:
            self._seen[self.slot] = reply
        self._lines = 0
        self._total = 0
        self._kept = 0
        self.reply = reply
        return LINE_END

    cdef int _fail(self, str words) except -1:
        self.error = words
        self._parts = None
        self._held_length = 0
        return LINE_END
