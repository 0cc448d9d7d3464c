"""SMTP replies and their parser (see reply.pyx)."""

cdef enum:
    REPLY_LINE_LIMIT = 2048      # octets of one line, CRLF included
    REPLY_LINES_LIMIT = 128      # lines of one reply
    REPLY_TOTAL_LIMIT = 65536    # octets of one reply
    REPLY_TEXT_LIMIT = 512       # octets of text kept of one reply (EHLO aside)
    REPLY_SLOTS = 4              # last-seen replies kept per parser


cdef class Reply:
    cdef readonly int code       # 200..599
    cdef readonly bytes text     # text of the lines joined by LF, without codes, bounded
    cdef str enhanced_status(self)    # the property `enhanced`
    cpdef str text_for_log(self)


cdef class ReplyParser:
    cdef readonly Reply reply              # complete after parse() returned before the end, or at it; else None
    cdef readonly str error                # why the octets are no reply; set once, then the parser is dead
    cdef public Py_ssize_t text_limit      # octets of text to keep, REPLY_TEXT_LIMIT unless changed
    cdef int slot                          # which last-seen reply to compare with, 0 .. REPLY_SLOTS - 1
    cdef list _seen
    cdef list _parts
    cdef unsigned char* _held
    cdef Py_ssize_t _held_length
    cdef Py_ssize_t _kept
    cdef Py_ssize_t _total
    cdef int _lines
    cdef int _code
    cdef Py_ssize_t parse(self, const unsigned char* octets, Py_ssize_t n) except -1
    cdef inline bint partial(self) noexcept:
        """True when the start of a reply has been read, and not its end."""
        return self._held_length != 0 or self._lines != 0
    cdef int _hold(self, const unsigned char* octets, Py_ssize_t n) except -1
    cdef int _line(self, const unsigned char* line, Py_ssize_t length) except -1
    cdef int _complete(self, const unsigned char* text, Py_ssize_t length) except -1
    cdef int _fail(self, str words) except -1
