"""Reading stored content back, and files of their own for large content.

What it is: content that is in the page cache is read at once on the loop thread (preadv2 with RWF_NOWAIT: it never
waits for the disk); the rest is read by a few threads that never need the interpreter. Every content is checked
against the sum in its record.

A segment that is being read is pinned: it is removed after the reads. One that was removed because its content was
copied forward gives DamagedContent with `moved` set: the record was an old one, get it again.

Known faults: descriptors are kept for the 256 segments that were opened last; with more that are read in turns, each
read opens one.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free
from posix.unistd cimport close as close_descriptor
from posix.unistd cimport read as read_descriptor
from posix.unistd cimport write as write_descriptor

import os
import time

cdef extern from "fcntl.h" nogil:
    int sync_file_range(int, long long, long long, unsigned int)
    unsigned int SYNC_FILE_RANGE_WRITE

fr_crc_setup()

cdef enum:
    OWN_FILE = 0xFFFFFFFF
    WRITE_OUT_BYTES = 4 << 20             # a large file is written out as it grows, so that its sync is short

OPEN_SEGMENTS = 256                       # descriptors kept for reading
PENDING_READS = 4096                      # reads that may be under way


def crc32c(bytes octets, uint32_t before=0):
    """CRC-32C of octets, going on from `before`."""
    return fr_crc32c(before, PyBytes_AS_STRING(octets), <size_t>PyBytes_GET_SIZE(octets))


def crc32c_by_table(bytes octets, uint32_t before=0):
    """The same without the processor's instruction; what hosts without SSE4.2 use."""
    return ~fr_crc_by_table(~before, <const unsigned char*>PyBytes_AS_STRING(octets), <size_t>PyBytes_GET_SIZE(octets))


def damaged(path, segment, offset, msgid, int error):
    """DamagedContent in words. `error`: errno, -1 (cut short) or -2 (wrong sum)."""
    from fastrelay.spool.errors import DamagedContent

    words = {-1: "it is cut short", -2: "its checksum is wrong"}.get(error) or os.strerror(error)
    place = f"large/{msgid:x}" if segment == OWN_FILE else f"segments/{segment:08x} at {offset}"
    return DamagedContent(path, f"{place}: {words}", msgid, moved=error == 2)          # ENOENT


@cython.final
cdef class Contents:
    """The contents of one spool folder. `on_released`: called with a segment's id when the last read of it is over."""

    def __cinit__(self, str path, *, loop, on_released):
        self._segments = self._large = -1
        self._files = {}
        self._pins = {}
        self.path = path
        self._loop = loop
        self._on_released = on_released
        self._fresh = f"new.{os.getpid()}.{time.monotonic_ns()}."
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._segments = os.open(os.path.join(path, "segments"), flags)
        self._large = os.open(os.path.join(path, "large"), flags)
        self._readers = fr_readers_new()
        if self._readers == NULL:
            raise MemoryError
        loop.add_reader(self._readers.completion, self._on_read)

    def __dealloc__(self):
        self._shut()

    cdef void _shut(self) noexcept:
        cdef fr_read* request
        if self._readers != NULL:
            fr_readers_stop(self._readers)
            request = fr_readers_take(self._readers)
            while request != NULL:
                request = self._free(request)
            fr_readers_free(self._readers)
            self._readers = NULL
        if self._files is not None:
            for descriptor in self._files.values():
                close_descriptor(descriptor)
            self._files.clear()
        if self._segments >= 0:
            close_descriptor(self._segments)
        if self._large >= 0:
            close_descriptor(self._large)
        self._segments = self._large = -1

    cdef fr_read* _free(self, fr_read* request) noexcept:
        """Drop a request; gives the next."""
        cdef fr_read* following = request.next
        if request.segment == OWN_FILE:
            close_descriptor(request.fd)
        Py_DECREF(<object>request.content)
        Py_DECREF(<object>request.callback)
        free(request)
        return following

    def close(self):
        """End the threads; reads under way are forgotten, their callbacks not called."""
        if self._readers != NULL:
            self._loop.remove_reader(self._readers.completion)
        self._shut()

    @property
    def fresh(self):
        """How the names of large files begin that this process is writing."""
        return self._fresh

    cdef int file(self, uint32_t segment, uint64_t msgid) except -1:
        """Descriptor of a segment for reading; DamagedContent."""
        found = self._files.get(segment)
        if found is not None:
            return found
        if len(self._files) >= OPEN_SEGMENTS:
            for oldest in self._files:
                if oldest not in self._pins:
                    close_descriptor(self._files.pop(oldest))
                    break
        try:
            descriptor = os.open(f"{segment:08x}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._segments)
        except OSError as error:
            raise damaged(self.path, segment, 0, msgid, error.errno) from error
        self._files[segment] = descriptor
        return descriptor

    def open_large(self, uint64_t msgid):
        """Descriptor of a message's own file, the caller's to close; DamagedContent."""
        try:
            return os.open(f"{msgid:x}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._large)
        except OSError as error:
            raise damaged(self.path, OWN_FILE, 0, msgid, error.errno) from error

    def open_segment(self, uint32_t segment, uint64_t msgid):
        """Descriptor of a segment, the caller's to close; DamagedContent."""
        return os.dup(self.file(segment, msgid))

    cdef bytes read(self, uint32_t segment, uint64_t offset, uint64_t length, uint32_t crc, uint64_t msgid):
        """Content, or None if the disk would be waited for. DamagedContent."""
        if segment == OWN_FILE:
            return None
        cdef int descriptor = self.file(segment, msgid)
        cdef bytes content = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        cdef int error = fr_read_cached(descriptor, PyBytes_AS_STRING(content), length, offset, crc)
        if error == EAGAIN:
            return None
        if error:
            raise damaged(self.path, segment, offset, msgid, error)
        return content

    cdef int read_later(self, uint32_t segment, uint64_t offset, uint64_t length, uint32_t crc, uint64_t msgid,
                        object callback) except -1:
        """Have a thread read it; callback(content, None) or callback(None, DamagedContent), on the loop."""
        if self.pending >= PENDING_READS:
            raise RuntimeError(f"more than {PENDING_READS} reads are under way")
        cdef fr_read* request = <fr_read*>calloc(1, sizeof(fr_read))
        if request == NULL:
            raise MemoryError
        try:
            request.fd = self.open_large(msgid) if segment == OWN_FILE else self.file(segment, msgid)
            content = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        except BaseException:
            free(request)
            raise
        request.segment, request.offset, request.length = segment, offset, length
        request.crc, request.msgid = crc, msgid
        request.buffer = PyBytes_AS_STRING(content)
        Py_INCREF(content)
        Py_INCREF(callback)
        request.content, request.callback = <void*>content, <void*>callback
        self.pending += 1
        self._pins[segment] = self._pins.get(segment, 0) + 1
        cdef int error = fr_readers_add(self._readers, request)
        if error:
            self._done(request, False)
            raise OSError(error, "start a reader")
        return 0

    cdef fr_read* _done(self, fr_read* request, bint tell) except? NULL:
        """A read is over: drop it, tell its callback; gives the next."""
        cdef object content = <object>request.content, callback = <object>request.callback
        cdef uint32_t segment = request.segment
        error = None
        if request.error:
            error = damaged(self.path, segment, request.offset, request.msgid, request.error)
        request = self._free(request)
        self.pending -= 1
        self._pins[segment] -= 1
        if not self._pins[segment]:
            del self._pins[segment]
            if segment != OWN_FILE:
                self._on_released(segment)
        if tell:
            self._loop.call_soon(callback, None if error is not None else content, error)
        return request

    def _on_read(self):
        cdef uint64_t times
        cdef fr_read* request
        if read_descriptor(self._readers.completion, &times, sizeof(times)) < 0:
            return
        request = fr_readers_take(self._readers)
        while request != NULL:
            request = self._done(request, True)

    cdef bint drop(self, uint32_t segment) except -1:
        """Close a segment that is to be removed; False while it is being read (on_released tells the end)."""
        if segment in self._pins:
            return False
        descriptor = self._files.pop(segment, -1)
        if descriptor >= 0:
            close_descriptor(descriptor)
        return True

    def large_file(self):
        """A new LargeFile."""
        self._fresh_files += 1
        return LargeFile(self._large, f"{self._fresh}{self._fresh_files}")


@cython.final
cdef class LargeFile:
    """A content that is streamed to a file of its own while it arrives. write() waits for the disk: call it in an
    executor's thread, one call at a time. Then put_message_file(), or abort().
    """

    def __cinit__(self, int folder, str name):
        self.descriptor = -1
        self._folder = os.dup(folder)
        self.name = name
        self.descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)

    def __dealloc__(self):
        self._close()

    def _close(self):
        if self.descriptor >= 0:
            close_descriptor(self.descriptor)
            self.descriptor = -1
        if self._folder >= 0:
            close_descriptor(self._folder)
            self._folder = -1

    def write(self, bytes octets):
        """Append; OSError, and the file is of no use any more."""
        cdef const char* start = PyBytes_AS_STRING(octets)
        cdef size_t length = <size_t>PyBytes_GET_SIZE(octets), done = 0
        cdef ssize_t written
        cdef int error = 0
        if self.descriptor < 0:
            raise ValueError("the file is closed")
        with nogil:
            while done < length and not error:
                written = write_descriptor(self.descriptor, start + done, length - done)
                if written >= 0:
                    done += <size_t>written
                elif errno != EINTR:
                    error = errno
            self.crc = fr_crc32c(self.crc, start, length)
            self.length += length
            if not error and self.length - self._started >= WRITE_OUT_BYTES:
                sync_file_range(self.descriptor, self._started, self.length - self._started, SYNC_FILE_RANGE_WRITE)
                self._started = self.length
        if error:
            raise OSError(error, os.strerror(error), self.name)

    def close(self):
        """Close: the message was accepted, the file is the spool's."""
        self._close()

    def abort(self):
        """Close and remove: the message was not accepted. Twice is harmless."""
        if self._folder >= 0:
            try:
                os.unlink(self.name, dir_fd=self._folder)
            except OSError:
                pass                       # it goes at the next start
        self._close()
