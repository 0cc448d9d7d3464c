"""Contents page of the words of an SMTP command: verbs, paths, parameters."""


cdef enum PathFault:
    PATH_OK = 0
    PATH_SYNTAX = 1
    PATH_LENGTH = 2  # over 64, 63, 255 or 256 octets (RFC 5321 section 4.5.3.1)
    PATH_NO_DOMAIN = 3  # a mailbox without @domain


cdef struct Path:
    Py_ssize_t start  # of the mailbox in the line, behind "<" and a source route
    Py_ssize_t length  # of the mailbox; 0 for the null path
    Py_ssize_t end  # index behind ">"
    bint utf8  # holds non-ASCII octets


cdef struct Parameter:
    Py_ssize_t start  # of the keyword
    Py_ssize_t keyword  # its length
    Py_ssize_t value  # start of the value
    Py_ssize_t length  # of the value; -1 when there is no "="
    Py_ssize_t end  # index behind the parameter


cdef PathFault parse_path(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Path* path) noexcept nogil
cdef PathFault parse_mailbox(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* end) noexcept nogil
cdef bint parse_parameter(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Parameter* parameter) noexcept nogil
cdef bint same_word(const unsigned char* p, Py_ssize_t n, const char* word) noexcept nogil
cdef bint is_text(const unsigned char* p, Py_ssize_t n) noexcept nogil
cdef bint is_utf8(const unsigned char* p, Py_ssize_t n) noexcept nogil
cdef bint is_xtext(const unsigned char* p, Py_ssize_t n) noexcept nogil
cdef bint is_atom(const unsigned char* p, Py_ssize_t n) noexcept nogil
cdef bint is_client_name(const unsigned char* p, Py_ssize_t n) noexcept nogil
cdef long long parse_number(const unsigned char* p, Py_ssize_t n) noexcept nogil
cpdef object mailbox_fault(bytes mailbox, bint smtputf8=*)
