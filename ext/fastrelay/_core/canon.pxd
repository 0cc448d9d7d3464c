"""Contents page of the canonical forms; the words are in canon.pyx."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "canon.h" nogil:
    ctypedef struct fr_squeeze:
        int wsp
        int cr
    size_t fr_copy_plain(const unsigned char* p, const unsigned char* end, unsigned char* out, int folds)
    size_t fr_copy_plain_portable(const unsigned char* p, const unsigned char* end, unsigned char* out, int folds)
    size_t fr_squeeze_body(fr_squeeze* state, const unsigned char* p, size_t n, unsigned char* out)
    size_t fr_relaxed_field(
        const unsigned char* name, size_t name_length, const unsigned char* value, size_t value_length,
        unsigned char* out
    )
    size_t fr_base64_folded(const unsigned char* p, size_t n, size_t column, size_t line, unsigned char* out)


cdef struct FieldPlace:
    Py_ssize_t start          # of the name
    Py_ssize_t name_length    # without white space before the colon
    Py_ssize_t value          # where the value begins, behind the colon
    Py_ssize_t end            # behind the last octet of the value, without its CRLF
    uint32_t hash             # of the name in lower case


cdef class BodyHash:
    cdef object _hash
    cdef object _update
    cdef bint _relaxed
    cdef bint _any             # something other than empty lines came
    cdef uint64_t _empty       # line ends kept back: they count only if something follows
    cdef fr_squeeze _state
    cdef unsigned char* _out
    cdef bytes _digest

    cpdef int feed(self, const unsigned char[::1] octets) except -1
    cpdef bytes digest(self)
    cdef int _piece(self, const unsigned char* p, size_t n) except -1
    cdef int _emit(self, const unsigned char* p, size_t n) except -1


cdef class SignedNames:
    cdef list _names           # as they are to be written
    cdef list _lower
    cdef uint32_t* _hashes
    cdef bint* _oversigned
    cdef Py_ssize_t _count
    cdef dict _lists           # how many fields each name has → the value of h=, folded

    cdef bytes _listed(self, bytes counts)


cdef class Fields:
    cdef bytes _header
    cdef FieldPlace* _places
    cdef Py_ssize_t _room
    cdef readonly Py_ssize_t number     # fields
    cdef readonly Py_ssize_t unreadable  # lines that are no field

    cdef int _parse(self) except -1
    cdef int _add(self, Py_ssize_t start, Py_ssize_t end) except -1
    cdef bint _is(self, Py_ssize_t at, bytes lower, uint32_t hash) noexcept
    cpdef Py_ssize_t count(self, bytes name)
    cpdef bytes last(self, bytes name)
    cpdef bytes from_domain(self)
    cpdef tuple signed_input(self, SignedNames names, bint relaxed)


cpdef bytes body_hash(bytes content, Py_ssize_t header_length, bint relaxed)
cpdef Fields parse_fields(bytes header)
cpdef bytes canonical_field(bytes field, bint relaxed)
cpdef bytes finished_field(bytes field, bytes signature)
