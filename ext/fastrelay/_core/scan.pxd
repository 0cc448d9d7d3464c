"""Walks over the messages of a spool's index, in slices."""

from libc.stdint cimport uint64_t

from fastrelay._core.lmdb cimport MDB_cursor, MDB_txn, MDB_val, Environment


cdef class Scan:
    cdef object __weakref__
    cdef Environment _environment
    cdef MDB_txn* _txn
    cdef MDB_cursor* _messages
    cdef MDB_cursor* _states
    cdef MDB_val _message_key, _message_value, _state_key, _state_value
    cdef bint _state_there, _positioned
    cdef uint64_t _below               # messages from here on were accepted since the opening
    cdef uint64_t msgid                # of the message next() came to
    cdef const char* record            # valid until the next call
    cdef size_t record_length
    cdef const char* state             # NULL: it has none
    cdef size_t state_length

    cdef bint next(self) except -1 nogil
    cpdef int renew(self) except -1
    cpdef int close(self) except -1
    cdef int _begin(self) except -1
