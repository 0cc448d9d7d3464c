"""What collects for the next group commit of a spool."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastrelay._core.committer cimport fr_batch, fr_op
from fastrelay._core.content cimport LargeFile


cdef class Writer:
    cdef fr_batch* _open               # collects
    cdef fr_batch* _running            # at the committer
    cdef fr_batch* _failed             # settles that did not get through; before anything else
    cdef readonly str path
    cdef bytes _event_head
    cdef object _loop, _submit_call
    cdef readonly object options
    cdef bint _scheduled
    cdef readonly bint closed
    cdef uint64_t _next_id, _next_event
    cdef dict _refusals                # reason -> reply
    cdef public bint accepting         # False: no message may be accepted, `refusal` is the reply
    cdef public str refusal

    cpdef uint64_t next_id(self) noexcept
    cpdef int put_message(self, uint64_t msgid, bytes record, bytes content, object cookie) except -1
    cpdef int put_message_file(self, uint64_t msgid, bytes record, LargeFile large_file, object cookie) except -1
    cpdef int put_state(self, uint64_t msgid, bytes state, object cookie) except -1
    cpdef int delete_message(self, uint64_t msgid, object cookie) except -1
    cpdef int move_content(self, uint64_t msgid, uint32_t segment, uint64_t offset, bytes content,
                           object cookie) except -1
    cpdef int put_meta(self, bytes key, bytes value, object cookie) except -1
    cpdef int count(self, int outcome, int64_t n) noexcept
    cpdef uint64_t add_event(self, bytes line) except? 0
    cpdef uint64_t add_accept_event(self, bytes line) except? 0

    cdef fr_op* _op(self, int kind, uint64_t msgid, object cookie) except NULL
    cdef int _schedule(self) except -1
    cdef int _may_accept(self, bytes record) except -1
    cdef uint64_t _event(self, bytes line, int of_accept) except? 0
    cdef int _release(self, fr_op* op, bint committed) except -1
