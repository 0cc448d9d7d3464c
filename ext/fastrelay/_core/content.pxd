"""Reading stored content back, and files of their own for large content."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "readers.h" nogil:
    ctypedef struct fr_read:
        fr_read* next
        int fd
        uint32_t crc
        uint64_t offset
        uint64_t length
        char* buffer
        int error
        void* content
        void* callback
        uint32_t segment
        uint64_t msgid

    ctypedef struct fr_readers:
        int completion

    int fr_read_now(int, char*, uint64_t, uint64_t, uint32_t)
    int fr_read_cached(int, char*, uint64_t, uint64_t, uint32_t)
    fr_readers* fr_readers_new()
    int fr_readers_add(fr_readers*, fr_read*)
    fr_read* fr_readers_take(fr_readers*)
    void fr_readers_stop(fr_readers*)
    void fr_readers_free(fr_readers*)
    void fr_crc_setup()
    uint32_t fr_crc32c(uint32_t, const void*, size_t)
    uint32_t fr_crc_by_table(uint32_t, const unsigned char*, size_t)


cdef class Contents:
    cdef fr_readers* _readers
    cdef object _loop
    cdef readonly str path
    cdef int _segments, _large             # open folders
    cdef dict _files                       # segment id -> descriptor
    cdef dict _pins                        # segment id -> reads under way
    cdef readonly int pending              # reads under way
    cdef object _on_released               # called when the last read of a segment is over
    cdef str _fresh                        # how names of files begin whose message is not accepted yet
    cdef uint64_t _fresh_files

    cdef bytes read(self, uint32_t segment, uint64_t offset, uint64_t length, uint32_t crc, uint64_t msgid)
    cdef int read_later(self, uint32_t segment, uint64_t offset, uint64_t length, uint32_t crc, uint64_t msgid,
                        object callback) except -1
    cdef int file(self, uint32_t segment, uint64_t msgid) except -1
    cdef bint drop(self, uint32_t segment) except -1
    cdef void _shut(self) noexcept
    cdef fr_read* _free(self, fr_read* request) noexcept
    cdef fr_read* _done(self, fr_read* request, bint tell) except? NULL


cdef class LargeFile:
    cdef int _folder
    cdef readonly int descriptor
    cdef readonly uint32_t crc
    cdef readonly uint64_t length
    cdef public str name                   # in the folder; the committer gives it the message's
    cdef uint64_t _started                 # write-out was begun up to here
