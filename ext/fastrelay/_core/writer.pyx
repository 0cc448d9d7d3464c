"""What collects for the next group commit: messages, states, deletions, counts, event lines.

What it is: the half of a spool (commit.pyx) that its callers write to. Every call only adds to the open batch, in
memory, on the loop thread; the first one of a batch has it submitted at the end of this turn of the loop. Octets are
not copied but for event lines: the batch keeps references until it is through.

Bounds: BATCH_OPERATIONS and SpoolOptions.batch_bytes for accepts; settles are bounded by what is in flight.

Known faults: get_record() and read_content() do not see what is still in a batch.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from fastrelay._core.committer cimport (
    FR_COUNTERS,
    FR_DELETE,
    FR_HEAD,
    FR_META,
    FR_MOVE,
    FR_PUT,
    FR_PUT_FILE,
    FR_STATE,
    fr_batch_event,
    fr_batch_op,
)
from fastrelay._core.content cimport LargeFile

BATCH_OPERATIONS = 65_536           # accepts wait for the disk behind at most so many operations; beyond them 451


def spool_error(operation, int code, path, *, accept):
    """A SpoolError; its class is Python, and imports this."""
    from fastrelay.spool.errors import SpoolError

    return SpoolError(operation, code, path, accept=accept)


cdef class Writer:
    """The open batch of a spool, and whether anything may be accepted into it."""

    def __cinit__(self):
        self._open = <fr_batch*>calloc(1, sizeof(fr_batch))
        self._running = NULL
        self._failed = NULL
        if self._open == NULL:
            raise MemoryError

    cdef fr_op* _op(self, int kind, uint64_t msgid, object cookie) except NULL:
        if self.closed:
            raise ValueError("the spool is closed")
        cdef fr_op* op = fr_batch_op(self._open, kind, msgid)
        if op == NULL:
            raise MemoryError
        if cookie is not None:
            Py_INCREF(cookie)
            op.cookie = <void*>cookie
        self._schedule()
        return op

    cdef int _schedule(self) except -1:
        if not self._scheduled and self._running == NULL and self._failed == NULL:
            self._scheduled = True
            self._loop.call_soon(self._submit_call)
        return 0

    cpdef uint64_t next_id(self) noexcept:
        """A message id that was never used before in this folder, nor will be again."""
        self._next_id += 1
        return self._next_id - 1

    cpdef int put_message(self, uint64_t msgid, bytes record, bytes content, object cookie) except -1:
        """Accept a message: its content goes to a segment, its record (its place patched in) to LMDB; "accepted"
        grows by its recipients. SpoolError if nothing may be accepted now.
        """
        self._may_accept(record)
        cdef fr_op* op = self._op(FR_PUT, msgid, cookie)
        Py_INCREF(record)
        Py_INCREF(content)
        op.record_owner = <void*>record
        op.content_owner = <void*>content
        op.record = PyBytes_AS_STRING(record)
        op.record_length = <size_t>PyBytes_GET_SIZE(record)
        op.content = PyBytes_AS_STRING(content)
        op.content_length = <uint64_t>PyBytes_GET_SIZE(content)
        self._open.accepts += 1
        self._open.contents += 1
        self._open.content_bytes += op.content_length
        return 0

    cpdef int put_message_file(self, uint64_t msgid, bytes record, LargeFile large_file, object cookie) except -1:
        """Accept a message whose content was streamed to a file of its own (a LargeFile that was finished)."""
        self._may_accept(record)
        cdef fr_op* op = self._op(FR_PUT_FILE, msgid, cookie)
        Py_INCREF(record)
        Py_INCREF(large_file)
        op.record_owner = <void*>record
        op.content_owner = <void*>large_file
        op.record = PyBytes_AS_STRING(record)
        op.record_length = <size_t>PyBytes_GET_SIZE(record)
        op.fd = large_file.descriptor
        op.content = PyUnicode_AsUTF8(large_file.name)
        op.crc = large_file.crc
        op.content_length = large_file.length
        self._open.accepts += 1
        self._open.files += 1
        return 0

    cdef int _may_accept(self, bytes record) except -1:
        if not self.accepting:
            raise spool_error("accept: " + self.refusal, 11, self.path, accept=True)       # EAGAIN
        if PyBytes_GET_SIZE(record) < FR_HEAD:
            raise ValueError("a message record has at least 32 octets")
        if self._open.content_bytes > self.options.batch_bytes or self._open.n > <size_t>BATCH_OPERATIONS:
            raise spool_error("accept: too much mail waits for the disk", 11, self.path, accept=True)
        return 0

    cpdef int put_state(self, uint64_t msgid, bytes state, object cookie) except -1:
        """Replace the state of a message."""
        cdef fr_op* op = self._op(FR_STATE, msgid, cookie)
        Py_INCREF(state)
        op.record_owner = <void*>state
        op.record = PyBytes_AS_STRING(state)
        op.record_length = <size_t>PyBytes_GET_SIZE(state)
        return 0

    cpdef int delete_message(self, uint64_t msgid, object cookie) except -1:
        """Delete record and state; the content becomes garbage."""
        self._op(FR_DELETE, msgid, cookie)
        return 0

    cpdef int move_content(self, uint64_t msgid, uint32_t segment, uint64_t offset, bytes content,
                           object cookie) except -1:
        """Copy a content forward; the record is pointed to the copy only if it still points to (segment, offset).
        `cookie` is called with whether it was.
        """
        cdef fr_op* op = self._op(FR_MOVE, msgid, cookie)
        Py_INCREF(content)
        op.content_owner = <void*>content
        op.content = PyBytes_AS_STRING(content)
        op.content_length = <uint64_t>PyBytes_GET_SIZE(content)
        op.old_segment = segment
        op.old_offset = offset
        self._open.contents += 1
        self._open.content_bytes += op.content_length
        return 0

    cpdef int put_meta(self, bytes key, bytes value, object cookie) except -1:
        """Put a small key of another part's (value None: delete it), with the next group commit. A settle: it is kept
        until it is durable. Keys "state" and "tag" are the spool's own.
        """
        if key in (b"state", b"tag"):
            raise ValueError("a key of the spool's own")
        cdef fr_op* op = self._op(FR_META, 0, cookie)
        Py_INCREF(key)
        op.content_owner = <void*>key
        op.content = PyBytes_AS_STRING(key)
        op.content_length = <uint64_t>PyBytes_GET_SIZE(key)
        if value is not None:
            Py_INCREF(value)
            op.record_owner = <void*>value
            op.record = PyBytes_AS_STRING(value)
            op.record_length = <size_t>PyBytes_GET_SIZE(value)
        return 0

    cpdef int count(self, int outcome, int64_t n) noexcept:
        """Add to a durable counter, with the next commit: 1 delivered, 2 failed, 3 expired, 4 suppressed, 5 removed.
        "accepted" (0) is counted by put_message.
        """
        if 0 <= outcome < FR_COUNTERS:
            self._open.counts[outcome] += n
            self._open.counted = 1
            self._schedule()
        return 0

    cpdef uint64_t add_event(self, bytes line) except? 0:
        """Add an event line of a settle: the rest of a JSON object behind its key, with "}\\n". Gives its sequence."""
        return self._event(line, 0)

    cpdef uint64_t add_accept_event(self, bytes line) except? 0:
        """Add an event line that tells of an accept: it is dropped when the accepts of this batch fail."""
        return self._event(line, 1)

    cdef uint64_t _event(self, bytes line, int of_accept) except? 0:
        if self.closed:
            raise ValueError("the spool is closed")
        cdef char head[64]
        cdef char digits[24]
        cdef int n = 0, length = <int>PyBytes_GET_SIZE(self._event_head)
        cdef uint64_t sequence = self._next_event, rest = sequence
        memcpy(head, PyBytes_AS_STRING(self._event_head), length)
        while rest or not n:
            digits[n] = 48 + rest % 10
            rest //= 10
            n += 1
        while n:
            n -= 1
            head[length] = digits[n]
            length += 1
        head[length] = c'"'
        head[length + 1] = c","
        if fr_batch_event(self._open, sequence, of_accept, head, length + 2, PyBytes_AS_STRING(line),
                          PyBytes_GET_SIZE(line)):
            raise MemoryError
        self._next_event += 1
        self._schedule()
        return sequence

    cdef int _release(self, fr_op* op, bint committed) except -1:
        """Drop the references of an operation, and close or remove a file of its own."""
        cdef object owner
        if op.kind == FR_PUT_FILE and op.content_owner != NULL:
            owner = <object>op.content_owner
            if op.renamed:
                owner.name = f"{op.msgid:x}"
            if committed:
                owner.close()
            else:
                owner.abort()
        if op.record_owner != NULL:
            Py_DECREF(<object>op.record_owner)
        if op.content_owner != NULL:
            Py_DECREF(<object>op.content_owner)
        if op.cookie != NULL:
            Py_DECREF(<object>op.cookie)
        op.record_owner = op.content_owner = op.cookie = NULL
        return 0

    def refuse(self, str reason, str reply):
        """Accept no message until allow(reason); `reply` is what clients get."""
        self._refusals[reason] = reply
        self.accepting = False
        self.refusal = reply

    def allow(self, str reason):
        """Take back refuse(reason)."""
        self._refusals.pop(reason, None)
        self.accepting = not self._refusals
        self.refusal = next(iter(self._refusals.values()), "")
