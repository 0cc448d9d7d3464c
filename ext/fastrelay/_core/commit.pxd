"""The spool of one worker: what ingest and settle call, all of it on the loop thread and never waiting for the disk."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastrelay._core.committer cimport fr_batch, fr_committer, fr_op, fr_place
from fastrelay._core.content cimport Contents, LargeFile
from fastrelay._core.lmdb cimport Environment
from fastrelay._core.scan cimport Scan


cdef class Spool:
    cdef fr_committer* _c
    cdef fr_batch* _open               # collects
    cdef fr_batch* _running            # at the committer
    cdef fr_batch* _failed             # settles that did not get through; before anything else
    cdef fr_batch* _spare
    cdef readonly Environment environment
    cdef PyObject* _held               # the same once more, out of the reach of the garbage collector while threads run
    cdef readonly str path
    cdef readonly str tag              # six base32 characters, made with the folder
    cdef bytes _event_head
    cdef object _loop, _on_commit, _submit_call
    cdef readonly object options
    cdef bint _scheduled
    cdef int _log_fd
    cdef readonly object walking       # a lock: held by who walks the environment in another thread
    cdef public object care            # free room and compaction (fastrelay/spool/care.py)
    cdef readonly bint dead            # out of service until the next start
    cdef readonly int reopened         # how often the environment had to be opened anew
    cdef readonly bint closed
    cdef uint64_t _next_id, _next_event, _first_id
    cdef list _counters                # as of the last commit
    cdef readonly Contents contents
    cdef set _emptied                  # segments to be removed once their reads are over
    cdef dict _refusals                # reason -> reply
    cdef object _retry_timer
    cdef public bint accepting         # False: no message may be accepted, `refusal` is the reply
    cdef public str refusal
    cdef public bint settle_blocked    # True: no transaction may start
    cdef readonly str unhealthy        # why, for people; "" when all is well

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
    cpdef bytes get_record(self, uint64_t msgid)
    cpdef bytes get_state(self, uint64_t msgid)
    cpdef bytes read_content(self, bytes record, uint64_t msgid=*)
    cpdef int read_content_later(self, bytes record, object callback, uint64_t msgid=*) except -1

    cdef fr_op* _op(self, int kind, uint64_t msgid, object cookie) except NULL
    cdef int _schedule(self) except -1
    cdef int _may_accept(self, bytes record) except -1
    cdef uint64_t _event(self, bytes line, int of_accept) except? 0
    cdef bytes _get(self, str database, uint64_t msgid)
    cdef int _place(self, bytes record, uint64_t msgid, fr_place* place) except -1
    cdef int _take_cookies(self, fr_batch* batch, list accepted, list settled) except -1
    cdef int _keep_settles(self, fr_batch* batch, list accepted) except -1
    cdef int _release(self, fr_op* op, bint committed) except -1
