"""The spool of one worker: what ingest and settle call, all of it on the loop thread and never waiting for the disk.

next_id, put_message, put_state, delete_message, count, add_event and their like are in writer.pxd.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastrelay._core.committer cimport fr_batch, fr_committer, fr_place
from fastrelay._core.content cimport Contents
from fastrelay._core.lmdb cimport Environment
from fastrelay._core.scan cimport Scan
from fastrelay._core.writer cimport Writer


cdef class Spool(Writer):
    cdef fr_committer* _c
    cdef fr_batch* _spare
    cdef readonly Environment environment
    cdef PyObject* _held               # the same once more, out of the reach of the garbage collector while threads run
    cdef readonly str tag              # six base32 characters, made with the folder
    cdef object _on_commit
    cdef int _log_fd
    cdef readonly object walking       # a lock: held by who walks the environment in another thread
    cdef public object care            # free room and compaction (fastrelay/spool/care.py)
    cdef readonly bint dead            # out of service until the next start
    cdef readonly int reopened         # how often the environment had to be opened anew
    cdef uint64_t _first_id
    cdef list _counters                # as of the last commit
    cdef readonly Contents contents
    cdef set _emptied                  # segments to be removed once their reads are over
    cdef object _retry_timer
    cdef public bint settle_blocked    # True: no transaction may start
    cdef readonly str unhealthy        # why, for people; "" when all is well

    cpdef bytes get_record(self, uint64_t msgid)
    cpdef bytes get_state(self, uint64_t msgid)
    cpdef bytes read_content(self, bytes record, uint64_t msgid=*)
    cpdef int read_content_later(self, bytes record, object callback, uint64_t msgid=*) except -1

    cdef bytes _get(self, str database, uint64_t msgid)
    cdef int _place(self, bytes record, uint64_t msgid, fr_place* place) except -1
    cdef int _take_cookies(self, fr_batch* batch, list accepted, list settled) except -1
    cdef int _keep_settles(self, fr_batch* batch, list accepted) except -1
