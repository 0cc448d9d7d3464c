"""Walks over the messages of a spool's index, in slices.

What it is: at the start the schedule is filled from here, at C speed: messages joined with their states, a slice at a
time, so that the loop gets its turn; and the compactor finds what is still live in a segment. Between slices the read
transaction is renewed: one that stays open keeps LMDB from using old pages again.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastrelay._core.committer cimport FR_HEAD, FR_SLICE_RECORDS, fr_find, fr_found, fr_from_key, fr_to_key
from fastrelay._core.lmdb cimport (
    MDB_NEXT,
    MDB_NOTFOUND,
    MDB_RDONLY,
    MDB_SET_RANGE,
    check,
    mdb_cursor_close,
    mdb_cursor_get,
    mdb_cursor_open,
    mdb_cursor_renew,
    mdb_txn_abort,
    mdb_txn_begin,
    mdb_txn_renew,
    mdb_txn_reset,
)

from fastrelay._core.lmdb import LmdbError


@cython.final
cdef class Scan:
    """A walk over the messages (and their states) that were there at the opening, in order of their ids; what is
    accepted since does not show. Call renew() between slices of a few milliseconds: a read transaction that stays
    open keeps LMDB from using old pages again. In nogil code: next(), then the fields.
    """

    def __cinit__(self, Environment environment, uint64_t below):
        self._environment = environment
        self._txn = NULL
        self._messages = self._states = NULL
        self.msgid = 0
        self._below = below
        self._begin()
        environment.scans.add(self)

    def __dealloc__(self):
        self.close()

    cpdef int close(self) except -1:
        """End the read transaction; renew() would go on."""
        if self._messages != NULL:
            mdb_cursor_close(self._messages)
        if self._states != NULL:
            mdb_cursor_close(self._states)
        if self._txn != NULL:
            mdb_txn_abort(self._txn)
        self._messages = self._states = NULL
        self._txn = NULL
        return 0

    cdef int _begin(self) except -1:
        cdef str path = self._environment.path
        if self._environment.env == NULL:
            raise LmdbError("walk: it is closed", 9, path)          # EBADF
        check(mdb_txn_begin(self._environment.env, NULL, MDB_RDONLY, &self._txn), "begin a read transaction", path)
        check(mdb_cursor_open(self._txn, self._environment.handle("msg"), &self._messages), "open a cursor", path)
        check(mdb_cursor_open(self._txn, self._environment.handle("st"), &self._states), "open a cursor", path)
        self._positioned = False
        return 0

    cpdef int renew(self) except -1:
        """Go on in a new read transaction, behind the message that came last."""
        cdef str path = self._environment.path
        if self._txn == NULL:
            return self._begin()
        mdb_txn_reset(self._txn)
        self._positioned = False
        check(mdb_txn_renew(self._txn), "begin a read transaction", path)
        check(mdb_cursor_renew(self._txn, self._messages), "renew a cursor", path)
        check(mdb_cursor_renew(self._txn, self._states), "renew a cursor", path)
        return 0

    cdef bint next(self) except -1 nogil:
        """Whether there is another message; the fields tell which."""
        cdef uint64_t key_octets
        cdef int code
        if self._txn == NULL:
            return False
        if self._positioned:
            code = mdb_cursor_get(self._messages, &self._message_key, &self._message_value, MDB_NEXT)
        else:
            key_octets = fr_to_key(self.msgid + 1)
            self._message_key.mv_size = self._state_key.mv_size = 8
            self._message_key.mv_data = self._state_key.mv_data = &key_octets
            code = mdb_cursor_get(self._states, &self._state_key, &self._state_value, MDB_SET_RANGE)
            self._state_there = code == 0
            if code == 0 or code == MDB_NOTFOUND:
                code = mdb_cursor_get(self._messages, &self._message_key, &self._message_value, MDB_SET_RANGE)
            self._positioned = True
        while code == 0 and (self._message_key.mv_size != 8 or self._message_value.mv_size < FR_HEAD):
            code = mdb_cursor_get(self._messages, &self._message_key, &self._message_value, MDB_NEXT)
        if code:
            self._positioned = False
            if code != MDB_NOTFOUND:
                with gil:
                    check(code, "walk", self._environment.path)
            return False
        if fr_from_key(self._message_key.mv_data) >= self._below:
            return False
        self.msgid = fr_from_key(self._message_key.mv_data)
        self.record = <const char*>self._message_value.mv_data
        self.record_length = self._message_value.mv_size
        self.state = NULL
        self.state_length = 0
        while self._state_there and fr_from_key(self._state_key.mv_data) < self.msgid:
            self._state_there = mdb_cursor_get(self._states, &self._state_key, &self._state_value, MDB_NEXT) == 0
        if self._state_there and fr_from_key(self._state_key.mv_data) == self.msgid:
            self.state = <const char*>self._state_value.mv_data
            self.state_length = self._state_value.mv_size
        return True

    def slice(self, Py_ssize_t limit=1000):
        """The next messages, at most `limit`: [(id, record, state or None)]; [] at the end. Renews."""
        found = []
        self.renew()
        while len(found) < limit and self.next():
            state = None if self.state == NULL else PyBytes_FromStringAndSize(self.state, <Py_ssize_t>self.state_length)
            found.append((self.msgid, PyBytes_FromStringAndSize(self.record, <Py_ssize_t>self.record_length), state))
        return found


cdef inline tuple _as_tuple(const fr_found* one):
    return one.msgid, one.segment, one.offset, one.length, one.crc


def find_contents(Environment environment, segments, uint64_t after):
    """One slice of a search for what is live in `segments`: ([(msgid, segment, offset, length, crc)], last message
    looked at; 0: the end).

    Without the interpreter lock, about a millisecond; may be called in another thread, but not while the environment
    is closed.
    """
    cdef list wanted = sorted(segments)
    cdef int n = <int>len(wanted)
    cdef size_t n_found = 0, i
    cdef uint64_t last = after
    cdef int error
    cdef uint32_t* ids = <uint32_t*>malloc((n or 1) * sizeof(uint32_t))
    cdef fr_found* found = <fr_found*>malloc(FR_SLICE_RECORDS * sizeof(fr_found))
    try:
        if ids == NULL or found == NULL:
            raise MemoryError
        for i in range(<size_t>n):
            ids[i] = wanted[i]
        handle = environment.handle("msg")
        if environment.env == NULL:
            raise LmdbError("walk: it is closed", 9, environment.path)
        with nogil:
            error = fr_find(environment.env, handle, ids, n, &last, found, &n_found)
        check(error, "walk", environment.path)
        return [_as_tuple(&found[i]) for i in range(n_found)], last
    finally:
        free(ids)
        free(found)
