"""Thin binding to liblmdb: environments with named databases.

What it is: what the spool and the supervisor's own store need of LMDB and no more. Each Python call is one short
transaction; a group commit of the spool does not come this way but through one nogil call (committer.h) on the same
environment.

Rules it keeps (DESIGN section 4): a fixed sparse map that is never resized; no environment opened twice in one
process (LMDB would drop the first one's locks when the second closes); read transactions are short, so that old pages
can be used again; slots of readers that died are cleared at every opening.

Trust in what is on disk: LMDB trusts its file, so before it is opened every page that can be reached is checked
(verify.h). Then both meta pages are written back unchanged, and synced: after a failed sync the page cache may show a
meta page that the disk does not hold; once this rewrite succeeded they are the same again, so opening anew after such
a failure is sound (data pages are always synced before the meta page that points to them).

Known faults: a read that misses the page cache waits for the disk. Not for use from several threads. Contents of keys
and values are not checked.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import os
import weakref

from fastrelay.errors import FastrelayError

DATA_FILE = "data.mdb"
MAP_BYTES = 64 << 30
MAX_READERS = 32
MAX_DATABASES = 16
SLICE = 1000

_open_environments = {}


class LmdbError(FastrelayError):
    """An operation of LMDB failed. `code`: errno, or LMDB's own negative number; `operation`: what was tried; `path`:
    the folder.
    """

    def __init__(self, operation, code, path):
        self.operation = operation
        self.code = code
        self.path = path
        super().__init__(f"{path}: {operation}: {describe(code)}")

    @property
    def corrupt(self):
        """Whether it says that the file itself cannot be trusted."""
        return self.code in (MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_VERSION_MISMATCH)


def describe(int code):
    """LMDB's words for a code (errno values included)."""
    return mdb_strerror(code).decode("utf-8", "replace")


cdef int check(int code, str operation, str path) except -1:
    """Raise LmdbError unless the code is 0."""
    if code:
        raise LmdbError(operation, code, path)
    return 0


cdef extern from "verify.h" nogil:
    ctypedef struct fr_check:
        uint64_t page_size
        uint64_t looked_at
        char words[160]
    int fr_verify(int, fr_check*)


cdef inline MDB_val _value(bytes octets) noexcept:
    cdef MDB_val value
    value.mv_size = <size_t>PyBytes_GET_SIZE(octets)
    value.mv_data = PyBytes_AS_STRING(octets)
    return value


cdef inline bytes _octets(const MDB_val* value):
    return PyBytes_FromStringAndSize(<const char*>value.mv_data, <Py_ssize_t>value.mv_size)


def _identity(path):
    """Of the data file of the folder, None if there is none. The file is held open with the environment, so that no
    other file can have its number; a folder's would be free for another as soon as the folder is removed.
    """
    try:
        status = os.stat(os.path.join(path, DATA_FILE))
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@cython.final
cdef class Environment:
    """One LMDB folder, opened with the named databases `databases` (made when absent).

    path        folder; made when absent (its parent must exist)
    map_bytes   size of the sparse map: an upper bound of the file, fixed for as long as it is open
    """

    def __cinit__(self, str path, databases, *, map_bytes=MAP_BYTES, max_readers=MAX_READERS):
        self.env = NULL
        self._reader = NULL
        self._identity = None
        self.scans = weakref.WeakSet()
        self.path = os.path.abspath(path)
        self.map_bytes = map_bytes
        self._max_readers = max_readers
        self._handles = dict.fromkeys(databases, 0)
        if len(self._handles) > MAX_DATABASES:
            raise ValueError(f"at most {MAX_DATABASES} databases")
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._open()

    def __dealloc__(self):
        self._shut()

    cdef int _open(self) except -1:
        identity = _identity(self.path)
        if identity in _open_environments:
            raise LmdbError("open: this process has it open already", 16, self.path)   # EBUSY
        if identity is not None:
            prepare_file(self.path)
        check(mdb_env_create(&self.env), "create", self.path)
        try:
            check(mdb_env_set_mapsize(self.env, self.map_bytes), "set the size of the map", self.path)
            check(mdb_env_set_maxreaders(self.env, self._max_readers), "set the number of readers", self.path)
            check(mdb_env_set_maxdbs(self.env, MAX_DATABASES), "set the number of databases", self.path)
            check(mdb_env_open(self.env, os.fsencode(self.path), MDB_NOTLS, 0o600), "open", self.path)
            self._open_databases()
            check(mdb_txn_begin(self.env, NULL, MDB_RDONLY, &self._reader), "begin a read transaction", self.path)
            mdb_txn_reset(self._reader)
        except BaseException:
            self._shut()
            raise
        self._identity = _identity(self.path)
        _open_environments[self._identity] = self.path
        return 0

    def _open_databases(self):
        cdef MDB_txn* txn = NULL
        cdef MDB_dbi handle = 0
        cdef int dead = 0
        cdef int code
        check(mdb_reader_check(self.env, &dead), "clear the slots of dead readers", self.path)
        check(mdb_txn_begin(self.env, NULL, 0, &txn), "begin a transaction", self.path)
        try:
            for name in self._handles:
                check(mdb_dbi_open(txn, name.encode(), MDB_CREATE, &handle), f"open the database {name}", self.path)
                self._handles[name] = handle
        except BaseException:
            mdb_txn_abort(txn)
            raise
        with nogil:
            code = mdb_txn_commit(txn)
        check(code, "commit", self.path)

    cdef void _shut(self) noexcept:
        if self._reader != NULL:
            mdb_txn_abort(self._reader)
            self._reader = NULL
        if self.env != NULL:
            mdb_env_close(self.env)
            self.env = NULL
        if self._identity is not None and _open_environments is not None:
            _open_environments.pop(self._identity, None)
        self._identity = None

    def close(self):
        """Close; no transaction may be open. Twice is harmless."""
        for scan in list(self.scans):
            scan.close()
        self._shut()

    cpdef int reopen(self) except -1:
        """Close and open again, as after MDB_PANIC: the caller has ended every transaction and cursor. Raises as
        opening does.
        """
        self.close()
        return self._open()

    cdef MDB_dbi handle(self, str name) except? 0:
        """Handle of a named database; KeyError when it was not named at opening."""
        return self._handles[name]

    cdef MDB_txn* begin_read(self) except NULL:
        """The read transaction, at the newest commit; end_read() must follow before the loop goes on."""
        if self.env == NULL:
            raise LmdbError("read: it is closed", 9, self.path)     # EBADF
        check(mdb_txn_renew(self._reader), "begin a read transaction", self.path)
        return self._reader

    cdef void end_read(self) noexcept:
        mdb_txn_reset(self._reader)

    def get(self, str database, bytes key):
        """Value of a key, or None."""
        cdef MDB_val wanted = _value(key)
        cdef MDB_val found
        cdef int code = mdb_get(self.begin_read(), self.handle(database), &wanted, &found)
        try:
            if code == MDB_NOTFOUND:
                return None
            check(code, "get", self.path)
            return _octets(&found)
        finally:
            self.end_read()

    def items(self, str database, bytes start=b"", Py_ssize_t limit=SLICE):
        """At most `limit` (key, value) pairs in order of their keys, from the first key >= start. For the next slice
        pass the last key + b"\\0".
        """
        cdef MDB_txn* txn = self.begin_read()
        cdef MDB_cursor* cursor = NULL
        cdef MDB_val key = _value(start)
        cdef MDB_val value
        cdef list found = []
        cdef int code
        try:
            check(mdb_cursor_open(txn, self.handle(database), &cursor), "open a cursor", self.path)
            code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE if start else MDB_FIRST)
            while code == 0 and len(found) < limit:
                found.append((_octets(&key), _octets(&value)))
                code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
            if code != MDB_NOTFOUND:
                check(code, "walk", self.path)
            return found
        finally:
            if cursor != NULL:
                mdb_cursor_close(cursor)
            self.end_read()

    def put(self, str database, bytes key, bytes value):
        """Put one pair, in a transaction of its own, on stable storage when this returns."""
        self.write([(database, key, value)])

    def put_many(self, str database, pairs):
        """Put many (key, value) pairs, all or none."""
        self.write([(database, key, value) for key, value in pairs])

    def delete(self, str database, bytes key):
        """Delete a key; absent is no error."""
        self.write([(database, key, None)])

    def delete_many(self, str database, keys):
        """Delete many keys, all or none."""
        self.write([(database, key, None) for key in keys])

    def write(self, changes):
        """Put (database, key, value) or delete (value None), over several databases, all or none; synced when this
        returns.
        """
        cdef MDB_txn* txn = NULL
        cdef MDB_val key, value
        cdef int code
        if self.env == NULL:
            raise LmdbError("write: it is closed", 9, self.path)    # EBADF
        check(mdb_txn_begin(self.env, NULL, 0, &txn), "begin a transaction", self.path)
        try:
            for database, name, octets in changes:
                key = _value(name)
                if octets is None:
                    code = mdb_del(txn, self.handle(database), &key, NULL)
                    if code != MDB_NOTFOUND:
                        check(code, "delete", self.path)
                else:
                    value = _value(octets)
                    check(mdb_put(txn, self.handle(database), &key, &value, 0), "put", self.path)
        except BaseException:
            mdb_txn_abort(txn)
            raise
        with nogil:
            code = mdb_txn_commit(txn)
        check(code, "commit", self.path)

    def count(self, str database):
        """Number of pairs."""
        cdef MDB_stat stat
        cdef int code = mdb_stat(self.begin_read(), self.handle(database), &stat)
        self.end_read()
        check(code, "count", self.path)
        return stat.ms_entries

    def info(self):
        """{"used_bytes", "map_bytes", "transactions", "readers"}"""
        cdef MDB_envinfo info
        if self.env == NULL:
            raise LmdbError("read: it is closed", 9, self.path)     # EBADF
        check(mdb_env_info(self.env, &info), "info", self.path)
        return {
            "used_bytes": (info.me_last_pgno + 1) * os.sysconf("SC_PAGESIZE"),
            "map_bytes": info.me_mapsize,
            "transactions": info.me_last_txnid,
            "readers": info.me_numreaders,
        }


@cython.final
cdef class ReadOnly:
    """An LMDB folder of which another process is the writer: values and counts, each as of the newest commit.

    Nothing is written and nothing checked: whoever owns the folder has checked it (Environment) before others open it.
    Never where this process has it open as an Environment (see the module's text). LmdbError where it is absent.
    """

    cdef MDB_env* env
    cdef MDB_txn* reader
    cdef dict handles
    cdef readonly str path

    def __cinit__(self, str path, databases, *, map_bytes=MAP_BYTES):
        cdef MDB_dbi handle = 0
        cdef int dead = 0
        self.env = NULL
        self.reader = NULL
        self.path = os.path.abspath(path)
        self.handles = {}
        if not os.path.exists(os.path.join(self.path, DATA_FILE)):
            raise LmdbError("open", 2, self.path)                   # ENOENT
        check(mdb_env_create(&self.env), "create", self.path)
        try:
            check(mdb_env_set_mapsize(self.env, map_bytes), "set the size of the map", self.path)
            check(mdb_env_set_maxdbs(self.env, MAX_DATABASES), "set the number of databases", self.path)
            check(mdb_env_open(self.env, os.fsencode(self.path), MDB_NOTLS | MDB_RDONLY, 0o600), "open", self.path)
            check(mdb_reader_check(self.env, &dead), "clear the slots of dead readers", self.path)
            check(mdb_txn_begin(self.env, NULL, MDB_RDONLY, &self.reader), "begin a read transaction", self.path)
            for name in databases:
                check(mdb_dbi_open(self.reader, name.encode(), 0, &handle), f"open the database {name}", self.path)
                self.handles[name] = handle
            # Only a commit makes the handles last for the transactions to come.
            code = mdb_txn_commit(self.reader)
            self.reader = NULL
            check(code, "commit", self.path)
            check(mdb_txn_begin(self.env, NULL, MDB_RDONLY, &self.reader), "begin a read transaction", self.path)
            mdb_txn_reset(self.reader)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        """Close. Twice is harmless."""
        if self.reader != NULL:
            mdb_txn_abort(self.reader)
            self.reader = NULL
        if self.env != NULL:
            mdb_env_close(self.env)
            self.env = NULL

    cdef int _renew(self) except -1:
        if self.env == NULL:
            raise LmdbError("read: it is closed", 9, self.path)     # EBADF
        return check(mdb_txn_renew(self.reader), "begin a read transaction", self.path)

    def get(self, str database, bytes key):
        """Value of a key, or None."""
        cdef MDB_val wanted = _value(key)
        cdef MDB_val found
        cdef MDB_dbi handle = self.handles[database]
        cdef int code
        self._renew()
        try:
            code = mdb_get(self.reader, handle, &wanted, &found)
            if code == MDB_NOTFOUND:
                return None
            check(code, "get", self.path)
            return _octets(&found)
        finally:
            mdb_txn_reset(self.reader)

    def get_both(self, str database, bytes first, bytes second):
        """The values of two keys, as of one commit: (value or None, value or None); None where both are absent."""
        cdef MDB_val wanted = _value(first)
        cdef MDB_val other = _value(second)
        cdef MDB_val found, other_found
        cdef MDB_dbi handle = self.handles[database]
        cdef int code, other_code
        self._renew()
        try:
            code = mdb_get(self.reader, handle, &wanted, &found)
            other_code = mdb_get(self.reader, handle, &other, &other_found)
            if code == MDB_NOTFOUND and other_code == MDB_NOTFOUND:
                return None
            if code != MDB_NOTFOUND:
                check(code, "get", self.path)
            if other_code != MDB_NOTFOUND:
                check(other_code, "get", self.path)
            return (_octets(&found) if code == 0 else None), (_octets(&other_found) if other_code == 0 else None)
        finally:
            mdb_txn_reset(self.reader)

    def count(self, str database):
        """Number of pairs."""
        cdef MDB_stat stat
        cdef MDB_dbi handle = self.handles[database]
        cdef int code
        self._renew()
        code = mdb_stat(self.reader, handle, &stat)
        mdb_txn_reset(self.reader)
        check(code, "count", self.path)
        return stat.ms_entries


def prepare_file(str path):
    """Before LMDB maps a file that exists: check every page that can be reached (verify.h), and write both meta pages
    back as they are read (the module's text says why). LmdbError; the number of pages that were looked at.
    """
    cdef fr_check found
    cdef int error, descriptor = os.open(os.path.join(path, DATA_FILE), os.O_RDWR | os.O_CLOEXEC)
    try:
        if not os.fstat(descriptor).st_size:
            return 0                                   # made, and never written to: LMDB begins it anew
        with nogil:
            error = fr_verify(descriptor, &found)
        if error == -1:
            raise LmdbError(f"open: {found.words.decode('utf-8', 'replace')}", MDB_CORRUPTED, path)
        check(error, "read", path)
        octets = os.pread(descriptor, 2 * found.page_size, 0)
        os.pwrite(descriptor, octets, 0)
        os.fdatasync(descriptor)
        return found.looked_at
    except OSError as problem:
        raise LmdbError("read and rewrite the meta pages", problem.errno, path) from problem
    finally:
        os.close(descriptor)
