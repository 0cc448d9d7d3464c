"""The spool of one worker: group commit of content and records, and reading them back.

What it is: operations (messages, states, deletions, counts, event lines) collect in an open batch on the loop thread;
the committer (committer.h), a thread that never needs the interpreter, makes one batch after the other durable; the
loop is told by an eventfd and calls `on_commit`. While one batch is at the committer the next one collects: the
slower the disk, the larger the groups.

Why no crash loses or repeats anything. Steps of one batch, and what is found after a crash right behind each:

    step                                    what is found at the next start
    ----                                    -------------------------------
    operations in the open batch            nothing; no 250 was sent, no outcome was reported
    content appended to the segment         a tail no record points to: garbage, goes with its segment
    segment synced (fdatasync)              the same
    LMDB transaction filled                 the same; LMDB shows the transaction before
    its pages synced, meta page not         the same
    meta page synced: committed             all of the batch: its content was synced before. A client without a 250
                                            sends it again, as SMTP has it (RFC 5321 section 4.2.5)
    event lines appended to the log         the rows are still there: the lines are written again, same keys
    loop told: 250, outcomes                all of it
    log synced                              all of it; the rows are still there
    rows taken out by a later batch         all of it: a row goes only in a commit after the sync of its line
    segment or file removed                 nothing pointed to it in the commit before; a removal that was forgotten is
                                            made at the next start

A failed sync is never taken for done the second time. A segment that failed is given up; its accepts get the error.
LMDB writes every page of a transaction anew when the transaction is tried again, and the pages of earlier ones were
synced. If the write of a meta page fails, LMDB refuses service (MDB_PANIC) and nobody knows if the batch is there:
the environment is opened anew (lmdb.pyx says why that is sound), and the number of its last batch tells.

Known faults: reading records waits for the disk when LMDB's page is not cached.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset, strdup
from posix.unistd cimport close as close_descriptor
from posix.unistd cimport read

from fastrelay._core.committer cimport (
    FR_COUNTERS,
    FR_DELETE,
    FR_HEAD,
    FR_ID_RESERVE,
    FR_MOVE,
    FR_OWN_FILE,
    FR_PUT,
    FR_PUT_FILE,
    FR_STATE,
    FR_TIMINGS,
    fr_batch_clear,
    fr_batch_drop_accept_events,
    fr_batch_empty,
    fr_batch_free,
    fr_committer_free,
    fr_committer_new,
    fr_crc_setup,
    fr_op,
    fr_place,
    fr_poke,
    fr_read_place,
    fr_start,
    fr_state_row,
    fr_stop_committer,
    fr_stop_janitor,
    fr_submit,
    fr_take_finished,
    fr_thread_seconds,
    fr_to_key,
    fr_unlink_later,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from fastrelay._core.content cimport Contents
from fastrelay._core.lmdb cimport MDB_NOTFOUND, MDB_val, check, mdb_get
from fastrelay._core.scan cimport Scan
from fastrelay._core.writer cimport Writer

import os
import select
import threading

from fastrelay._core.writer import spool_error

fr_crc_setup()

OUTCOMES = ("accepted", "delivered", "failed", "expired", "suppressed", "removed")
KEPT_BYTES = 8 << 20                # memory of a batch that is kept for the next one
RETRY_SECONDS = 1.0                 # between attempts after a failed settle
STEPS = (
    "none", "segment_open", "folder_sync", "content_write", "content_half", "content_sync", "large_sync", "begin",
    "put", "commit", "committed", "log_write", "log_half", "done", "log_sync", "unlink",
)


@cython.final
cdef class Spool(Writer):
    """One spool folder, open. Made by fastrelay.spool.open_spool(), which prepared the folder and the environment.

    loop       call_soon, call_later, add_reader, remove_reader
    on_commit  called with (cookies, error) when a batch is through: its cookies but None, in order. No error: durable.
               Else a SpoolError: nothing of these is there. Cookies of settles (put_state, delete_message) never get
               an error: what could not be committed is kept and tried again.
    """

    def __cinit__(self):
        self._spare = <fr_batch*>calloc(1, sizeof(fr_batch))
        self._c = NULL
        self._log_fd = -1
        self._held = NULL
        if self._spare == NULL:
            raise MemoryError

    def __init__(self, str path, Environment environment, *, loop, on_commit, options):
        self.path = path
        self.environment = environment
        Py_INCREF(environment)
        self._held = <PyObject*>environment
        self.options = options
        self._loop = loop
        self._on_commit = on_commit
        self._submit_call = self._submit
        self._emptied = set()
        self._log_fd = -1
        self.walking = threading.Lock()
        self._refusals = {}
        self.accepting = True
        self.refusal = ""
        self.unhealthy = ""
        self.tag = environment.get("meta", b"tag").decode("ascii")
        self._event_head = b'{"key":"' + self.tag.encode() + b"-"
        self.contents = Contents(path, loop=loop, on_released=self._released)
        self._start()

    def __dealloc__(self):
        if self._log_fd >= 0:
            close_descriptor(self._log_fd)
        for batch in (<size_t>self._open, <size_t>self._running, <size_t>self._failed, <size_t>self._spare):
            self._drop(batch)
        fr_committer_free(self._c)
        self._c = NULL
        if self._held != NULL:
            Py_DECREF(<object>self._held)

    def _drop(self, size_t address):
        cdef fr_batch* batch = <fr_batch*>address
        cdef size_t i
        if batch == NULL:
            return
        if self._c != NULL:
            fr_stop_committer(self._c)
        for i in range(batch.n):
            self._release(&batch.ops[i], False)
        fr_batch_free(batch)

    # ---- start and end ----

    def _start(self):
        cdef fr_state_row row
        cdef bytes octets = self.environment.get("meta", b"state") or b""
        memset(&row, 0, sizeof(row))
        memcpy(&row, PyBytes_AS_STRING(octets), min(<size_t>PyBytes_GET_SIZE(octets), sizeof(row)))
        self._c = fr_committer_new()
        if self._c == NULL:
            raise MemoryError
        self._c.env = self.environment.env
        self._c.messages = self.environment.handle("msg")
        self._c.states = self.environment.handle("st")
        self._c.events = self.environment.handle("ev")
        self._c.meta = self.environment.handle("meta")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._c.segments_folder = os.open(os.path.join(self.path, "segments"), flags)
        self._c.large_folder = os.open(os.path.join(self.path, "large"), flags)
        self._c.completion = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._c.segment_bytes = self.options.segment_bytes
        self._c.spare_most = min(self.options.spare_segments, 8)
        self._c.fresh = strdup(self.contents.fresh.encode())
        if self.options.ballast:
            self._c.ballast = strdup(os.fsencode(self.options.ballast))
        self._c.next_segment = max(row.next_segment, 1)
        self._c.batch_number = row.batch
        for i in range(FR_COUNTERS):
            self._c.counters[i] = row.counters[i]
        self._counters = [row.counters[i] for i in range(FR_COUNTERS)]
        self._next_id = max(row.next_id, <uint64_t>1, self._next_id)
        if not self._first_id:
            self._first_id = self._next_id
        self._next_event = max(row.next_event, <uint64_t>1, self._next_event)
        if self._log_fd >= 0:
            self._c.next_log_fd = os.dup(self._log_fd)
            self._c.has_next_log = 1
        error = fr_start(self._c)
        if error:
            raise spool_error("start the committer", error, self.path, accept=False)
        self._loop.add_reader(self._c.completion, self._on_completion)

    def set_log_fd(self, int descriptor):
        """Where event lines go from now on: a file opened for appending (the spool takes a copy of the descriptor),
        or -1. Lines that went to the one before are synced first, in the committer's thread.
        """
        cdef int kept = self._log_fd
        self._log_fd = os.dup(descriptor) if descriptor >= 0 else -1
        if kept >= 0:
            os.close(kept)
        if self._c == NULL:
            return
        cdef int copy = os.dup(descriptor) if descriptor >= 0 else -1
        pthread_mutex_lock(&self._c.mutex)
        if self._c.has_next_log and self._c.next_log_fd >= 0:
            close_descriptor(self._c.next_log_fd)
        self._c.next_log_fd = copy
        self._c.has_next_log = 1
        pthread_mutex_unlock(&self._c.mutex)
        fr_poke(self._c)

    def _stop(self):
        """End the threads and forget what they knew."""
        if self._c == NULL:
            return
        fr_stop_janitor(self._c)
        fr_stop_committer(self._c)
        self._loop.remove_reader(self._c.completion)
        fr_committer_free(self._c)
        self._c = NULL

    def _open_anew(self, size_t address):
        """After MDB_PANIC: nobody knows if the batch was committed. Ask the environment, opened anew; once, for a
        disk that is gone does not come back while the environment is open. What is in doubt stays unanswered or is
        told 451, and is found at the next start.
        """
        cdef fr_batch* batch = <fr_batch*>address
        cdef uint64_t number = batch.number
        self.reopened += 1
        self._stop()
        try:
            with self.walking:
                self.environment.reopen()
            self._start()
        except Exception as error:
            self._stop()
            self.dead = True
            self.settle_blocked = True
            self.unhealthy = f"{error}; the spool is out of service until the worker is started again"
            self.refuse("dead", spool_error("commit", batch.settle_error, self.path, accept=True).reply)
            return
        if self._c.batch_number == number:
            batch.accept_error = batch.settle_error = 0

    # ---- batches on their way ----

    def _submit(self):
        self._scheduled = False
        if self._running != NULL or self._failed != NULL or fr_batch_empty(self._open) or self._c == NULL:
            return
        self._running = self._open
        self._open = self._spare
        self._spare = NULL
        self._hand_over(FR_ID_RESERVE)

    def _hand_over(self, uint64_t reserve):
        self._running.next_id = self._next_id + reserve
        self._running.next_event = self._next_event
        fr_submit(self._c, self._running)

    def _on_completion(self):
        cdef uint64_t times
        cdef fr_batch* batch
        if self._c == NULL or read(self._c.completion, &times, sizeof(times)) < 0:
            return
        batch = fr_take_finished(self._c)
        if self._c.start_error and not self.unhealthy:
            error = spool_error("count what is live", self._c.start_error, self.path, accept=False)
            self.unhealthy = f"{error}; segments are kept until the next start"
        if batch == NULL:
            return
        self._running = NULL
        self._through(<size_t>batch)
        if not fr_batch_empty(self._open):
            self._submit()

    def _through(self, size_t address):
        cdef fr_batch* batch = <fr_batch*>address
        cdef list accepted = [], settled = []
        error = None
        if batch.panic:
            self._open_anew(address)
        if batch.accept_error:
            error = spool_error(STEPS[batch.accept_step], batch.accept_error, self.path, accept=True)
        if batch.settle_error:
            self._keep_settles(batch, accepted)
            self._failed = batch
            self._block(batch.settle_step, batch.settle_error)
            self._spare = <fr_batch*>calloc(1, sizeof(fr_batch)) if self._spare == NULL else self._spare
        else:
            self._counters = [self._c.counters[i] for i in range(FR_COUNTERS)]
            self._take_cookies(batch, accepted, settled)
            fr_batch_clear(batch, KEPT_BYTES)
            if self._spare == NULL:
                self._spare = batch
            else:
                fr_batch_free(batch)
            self._unblock()
        self._empty_segments()
        if error is None:
            if accepted or settled:
                self._on_commit(accepted + settled if accepted and settled else accepted or settled, None)
            return
        self._refuse_after(error)
        if settled:
            self._on_commit(settled, None)
        if accepted:
            self._on_commit(accepted, error)

    cdef int _take_cookies(self, fr_batch* batch, list accepted, list settled) except -1:
        cdef size_t i
        cdef fr_op* op
        cdef bint failed = batch.accept_error != 0
        for i in range(batch.n):
            op = &batch.ops[i]
            if op.cookie != NULL and op.kind == FR_MOVE:
                self._loop.call_soon(<object>op.cookie, not failed and op.done)
            elif op.cookie != NULL:
                if failed and op.kind in (FR_PUT, FR_PUT_FILE):
                    accepted.append(<object>op.cookie)
                else:
                    settled.append(<object>op.cookie)
            self._release(op, not (failed and op.kind in (FR_PUT, FR_PUT_FILE)))
        return 0

    cdef int _keep_settles(self, fr_batch* batch, list accepted) except -1:
        """Take the accepts (and what was to be done to their messages) out of a batch that failed as a whole."""
        cdef size_t i, kept = 0
        cdef fr_op* op
        gone = set()
        for i in range(batch.n):
            op = &batch.ops[i]
            if op.kind in (FR_PUT, FR_PUT_FILE):
                gone.add(op.msgid)
            if op.kind in (FR_PUT, FR_PUT_FILE, FR_MOVE) or (op.kind in (FR_STATE, FR_DELETE) and op.msgid in gone):
                if op.cookie != NULL and op.kind == FR_MOVE:
                    self._loop.call_soon(<object>op.cookie, False)
                elif op.cookie != NULL:
                    accepted.append(<object>op.cookie)
                self._release(op, False)
            else:
                batch.ops[kept] = op[0]
                kept += 1
        batch.n = kept
        batch.accepts = batch.contents = batch.files = 0
        batch.content_bytes = 0
        fr_batch_drop_accept_events(batch)
        return 0

    def _block(self, int step, int code):
        if self.dead:
            return
        error = spool_error(STEPS[step], code, self.path, accept=False)
        self.settle_blocked = True
        self.unhealthy = str(error)
        self.refuse("settle", error.reply)
        self._retry_timer = self._loop.call_later(RETRY_SECONDS, self._retry)

    def _unblock(self):
        if self.settle_blocked:
            self.settle_blocked = False
            self.allow("settle")
        if self.unhealthy and "error" not in self._refusals and not self._c.start_error:
            self.unhealthy = ""

    def _retry(self):
        self._retry_timer = None
        if self._failed == NULL or self._running != NULL or self._c == NULL:
            return
        self._running = self._failed
        self._failed = NULL
        self._hand_over(FR_ID_RESERVE)

    def _refuse_after(self, error):
        """Accept nothing for a while: until the next try."""
        if self.dead:
            return
        self.refuse("error", error.reply)
        self.unhealthy = str(error)
        self._loop.call_later(RETRY_SECONDS, self.allow, "error")

    def _empty_segments(self):
        """Hand segments with nothing live back to be removed, once no read of them is under way."""
        cdef list ids
        cdef size_t i
        if self._c == NULL:
            return
        pthread_mutex_lock(&self._c.mutex)
        ids = [self._c.emptied[i] for i in range(self._c.n_emptied)]
        self._c.n_emptied = 0
        pthread_mutex_unlock(&self._c.mutex)
        for segment in ids:
            self._remove(segment)

    def _remove(self, uint32_t segment):
        """Have an empty segment removed, at once or when its last read is over."""
        if self.contents.drop(segment):
            self._emptied.discard(segment)
            pthread_mutex_lock(&self._c.mutex)
            fr_unlink_later(self._c, segment, 0)
            pthread_mutex_unlock(&self._c.mutex)
        else:
            self._emptied.add(segment)

    def _released(self, segment):
        if segment in self._emptied and self._c != NULL:
            self._remove(segment)

    def drain(self):
        """Wait until nothing is under way or open (tests, and the end): the loop stands still meanwhile. False if
        settles fail.
        """
        while True:
            self._submit()
            if self._running == NULL:
                return self._failed == NULL and self._c != NULL
            select.select([self._c.completion], [], [])
            self._on_completion()

    def close(self):
        """Commit what is open, sync the log, stop the threads, close the environment. Waits for the disk."""
        if self.closed:
            return
        self.refuse("closed", spool_error("accept", 11, self.path, accept=True).reply)         # EAGAIN
        if self.care is not None:
            self.care.stop()
        self._open.counted = 1                       # one more batch in any case: it has the log catch up
        clean = self.drain()
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        if clean:
            fr_stop_janitor(self._c)
            self._open.last = self._open.counted = 1
            self._running = self._open
            self._open = self._spare
            self._spare = NULL
            self._hand_over(0)
            select.select([self._c.completion], [], [])
            self._on_completion()
        self.closed = True
        self._stop()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
        self.contents.close()
        with self.walking:
            self.environment.close()

    # ---- reading ----

    cpdef bytes get_record(self, uint64_t msgid):
        """The record of a message as committed, or None."""
        return self._get("msg", msgid)

    cpdef bytes get_state(self, uint64_t msgid):
        """The state of a message as committed, or None."""
        return self._get("st", msgid)

    cdef bytes _get(self, str database, uint64_t msgid):
        cdef uint64_t key_octets = fr_to_key(msgid)
        cdef MDB_val key, value
        key.mv_size = 8
        key.mv_data = &key_octets
        cdef int code = mdb_get(self.environment.begin_read(), self.environment.handle(database), &key, &value)
        try:
            if code == MDB_NOTFOUND:
                return None
            check(code, "get", self.path)
            return PyBytes_FromStringAndSize(<const char*>value.mv_data, <Py_ssize_t>value.mv_size)
        finally:
            self.environment.end_read()

    cpdef bytes read_content(self, bytes record, uint64_t msgid=0):
        """Content that `record` (from get_record) points to, checked against its sum; None if that would wait for the
        disk. DamagedContent.
        """
        cdef fr_place place
        self._place(record, msgid, &place)
        return self.contents.read(place.segment, place.offset, place.length, place.crc, msgid)

    cpdef int read_content_later(self, bytes record, object callback, uint64_t msgid=0) except -1:
        """The same without waiting: callback(content, None) or callback(None, DamagedContent), later, on the loop."""
        cdef fr_place place
        self._place(record, msgid, &place)
        self.contents.read_later(place.segment, place.offset, place.length, place.crc, msgid, callback)
        return 0

    def open_content(self, bytes record, uint64_t msgid):
        """(descriptor, offset, length) for reading in pieces; the descriptor is the caller's. Not checked.
        DamagedContent.
        """
        cdef fr_place place
        self._place(record, msgid, &place)
        if place.segment == FR_OWN_FILE:
            return self.contents.open_large(msgid), 0, place.length
        return self.contents.open_segment(place.segment, msgid), place.offset, place.length

    cdef int _place(self, bytes record, uint64_t msgid, fr_place* place) except -1:
        memset(place, 0, sizeof(fr_place))
        if PyBytes_GET_SIZE(record) < FR_HEAD:
            from fastrelay.spool.errors import DamagedContent

            raise DamagedContent(self.path, "its record is cut short", msgid)
        fr_read_place(place, PyBytes_AS_STRING(record))
        return 0

    def large_file(self):
        """A LargeFile for a content that is streamed to disk while it arrives. OSError."""
        return self.contents.large_file()

    def scan(self):
        """A Scan over the messages that were there at the opening."""
        return Scan(self.environment, self._first_id)

    def housekeep(self, reserve_bytes=None):
        """Look at the free room now; with `reserve_bytes` other than so far, if given (SpoolOptions)."""
        if self.care is not None:
            self.care.look(reserve_bytes)

    # ---- figures ----

    @property
    def counters(self):
        """{"accepted": n, "delivered": n, ...} as of the last commit; recipients."""
        return dict(zip(OUTCOMES, self._counters, strict=False))

    @property
    def ready(self):
        """Whether the count of live content, made at the start, is through."""
        cdef int ready = 0
        if self._c != NULL:
            pthread_mutex_lock(&self._c.mutex)
            ready = self._c.ready
            pthread_mutex_unlock(&self._c.mutex)
        return ready != 0

    @property
    def committer_seconds(self):
        """Processor time of the committer, in seconds."""
        return fr_thread_seconds(self._c) if self._c != NULL else 0.0

    def figures(self):
        """Counts since the start, and what the segments hold."""
        cdef size_t i
        if self._c == NULL:
            return {}
        pthread_mutex_lock(&self._c.mutex)
        try:
            return {
                "commits": self._c.commits,
                "committed_operations": self._c.committed_operations,
                "last_commit_seconds": self._c.last_commit_seconds,
                "sync_failures": self._c.sync_failures,
                "log_failures": self._c.log_failures,
                "content_bytes": self._c.content_bytes,
                "unlinked": self._c.unlinked,
                "ballast_freed": self._c.ballast_freed,
                "segments": self._c.segments.n,
                "segments_bytes": sum([self._c.segments.rows[i].size for i in range(self._c.segments.n)]),
                "live_bytes": sum([self._c.segments.rows[i].live_bytes for i in range(self._c.segments.n)]),
            }
        finally:
            pthread_mutex_unlock(&self._c.mutex)

    def segments(self):
        """[(id, size, live bytes, live messages, still appended to)]"""
        cdef size_t i
        found = []
        if self._c == NULL:
            return found
        pthread_mutex_lock(&self._c.mutex)
        for i in range(self._c.segments.n):
            row = self._c.segments.rows[i]
            found.append((row.id, row.size, row.live_bytes, row.live, bool(row.active)))
        pthread_mutex_unlock(&self._c.mutex)
        return found

    def drain_timings(self):
        """[(seconds, operations)] of the group commits since the last call; the newest 512 at most."""
        cdef unsigned int i, n
        if self._c == NULL:
            return []
        pthread_mutex_lock(&self._c.mutex)
        n = min(self._c.n_timings, <unsigned int>FR_TIMINGS)
        found = [(self._c.timings[i].seconds, self._c.timings[i].operations) for i in range(n)]
        self._c.n_timings = 0
        pthread_mutex_unlock(&self._c.mutex)
        return found

    # ---- for tests ----

    def crash_at(self, str step, int after=0):
        """End the process at a step of the committer (STEPS), when it passes there for the (after + 1)th time."""
        self._c.crash_after = after
        self._c.crash_at = STEPS.index(step)

    def fail_at(self, str step, int code, int times=0, int after=0):
        """Have a step fail with an errno: `times` times (0: for good), the first `after` times not."""
        cdef int at = STEPS.index(step)
        self._c.fault_after[at] = after
        self._c.fault_times[at] = times
        self._c.fault_errno[at] = code
