"""Thin binding to liblmdb: the C names, and one open environment."""

from libc.stdint cimport uint64_t


cdef extern from "lmdb.h" nogil:
    ctypedef struct MDB_env:
        pass
    ctypedef struct MDB_txn:
        pass
    ctypedef struct MDB_cursor:
        pass
    ctypedef unsigned int MDB_dbi
    ctypedef struct MDB_val:
        size_t mv_size
        void* mv_data
    ctypedef struct MDB_stat:
        unsigned int ms_psize
        unsigned int ms_depth
        size_t ms_branch_pages
        size_t ms_leaf_pages
        size_t ms_overflow_pages
        size_t ms_entries
    ctypedef struct MDB_envinfo:
        size_t me_mapsize
        size_t me_last_pgno
        size_t me_last_txnid
        unsigned int me_maxreaders
        unsigned int me_numreaders
    ctypedef enum MDB_cursor_op:
        MDB_FIRST
        MDB_LAST
        MDB_NEXT
        MDB_SET
        MDB_SET_KEY
        MDB_SET_RANGE
        MDB_GET_CURRENT

    int MDB_NOTLS, MDB_RDONLY, MDB_CREATE, MDB_NOTFOUND, MDB_APPEND
    int MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_PANIC, MDB_INVALID, MDB_VERSION_MISMATCH, MDB_MAP_FULL, MDB_BAD_TXN

    char* mdb_strerror(int)
    int mdb_env_create(MDB_env**)
    int mdb_env_open(MDB_env*, const char*, unsigned int, int)
    void mdb_env_close(MDB_env*)
    int mdb_env_set_mapsize(MDB_env*, size_t)
    int mdb_env_set_maxreaders(MDB_env*, unsigned int)
    int mdb_env_set_maxdbs(MDB_env*, MDB_dbi)
    int mdb_env_info(MDB_env*, MDB_envinfo*)
    int mdb_env_sync(MDB_env*, int)
    int mdb_reader_check(MDB_env*, int*)
    int mdb_txn_begin(MDB_env*, MDB_txn*, unsigned int, MDB_txn**)
    int mdb_txn_commit(MDB_txn*)
    void mdb_txn_abort(MDB_txn*)
    void mdb_txn_reset(MDB_txn*)
    int mdb_txn_renew(MDB_txn*)
    int mdb_dbi_open(MDB_txn*, const char*, unsigned int, MDB_dbi*)
    int mdb_stat(MDB_txn*, MDB_dbi, MDB_stat*)
    int mdb_get(MDB_txn*, MDB_dbi, MDB_val*, MDB_val*)
    int mdb_put(MDB_txn*, MDB_dbi, MDB_val*, MDB_val*, unsigned int)
    int mdb_del(MDB_txn*, MDB_dbi, MDB_val*, MDB_val*)
    int mdb_cursor_open(MDB_txn*, MDB_dbi, MDB_cursor**)
    void mdb_cursor_close(MDB_cursor*)
    int mdb_cursor_renew(MDB_txn*, MDB_cursor*)
    int mdb_cursor_get(MDB_cursor*, MDB_val*, MDB_val*, MDB_cursor_op)


cdef class Environment:
    cdef MDB_env* env
    cdef MDB_txn* _reader                  # one read transaction, reset between uses
    cdef readonly str path
    cdef readonly object scans             # walks that are open: ended before the environment is closed
    cdef readonly uint64_t map_bytes
    cdef unsigned int _max_readers
    cdef dict _handles                     # name of a database -> its handle
    cdef tuple _identity                   # what the guard against a second opening knows this folder by

    cdef int _open(self) except -1
    cdef void _shut(self) noexcept
    cdef MDB_dbi handle(self, str name) except? 0
    cdef MDB_txn* begin_read(self) except NULL
    cdef void end_read(self) noexcept
    cpdef int reopen(self) except -1


cdef int check(int code, str operation, str path) except -1
