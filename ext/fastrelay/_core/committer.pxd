"""C names of committer.h and what it includes; for commit.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastrelay._core.lmdb cimport MDB_dbi, MDB_env


cdef extern from "committer.h" nogil:
    enum:
        FR_COUNTERS
        FR_PUT
        FR_PUT_FILE
        FR_STATE
        FR_DELETE
        FR_MOVE
        FR_META
        FR_OWN_FILE
        FR_HEAD
        FR_ID_RESERVE
        FR_TIMINGS
        FR_STEPS
        FR_SLICE_RECORDS

    ctypedef struct fr_op:
        uint8_t kind
        uint8_t done
        uint8_t renamed
        uint32_t segment
        uint32_t crc
        uint64_t offset
        uint64_t msgid
        uint32_t old_segment
        uint64_t old_offset
        const char* record
        size_t record_length
        const char* content
        uint64_t content_length
        int fd
        void* record_owner
        void* content_owner
        void* cookie

    ctypedef struct fr_batch:
        fr_op* ops
        size_t n
        size_t contents
        size_t accepts
        size_t files
        uint64_t content_bytes
        int64_t counts[8]
        int counted
        size_t n_events
        size_t lines_length
        uint64_t next_id
        uint64_t next_event
        int last
        int accept_error
        int accept_step
        int settle_error
        int settle_step
        int panic
        uint64_t number
        double seconds

    ctypedef struct fr_state_row:
        uint32_t version
        uint32_t next_segment
        uint64_t batch
        uint64_t next_id
        uint64_t next_event
        int64_t counters[8]

    ctypedef struct fr_place:
        uint32_t recipients
        uint32_t segment
        uint32_t crc
        uint64_t offset
        uint64_t length

    ctypedef struct fr_timing:
        float seconds
        uint32_t operations

    ctypedef struct fr_segment:
        uint32_t id
        uint32_t live
        uint64_t live_bytes
        uint64_t size
        uint8_t active
        uint8_t doomed

    ctypedef struct fr_segments:
        fr_segment* rows
        size_t n

    ctypedef struct pthread_mutex_t:
        pass

    ctypedef struct fr_committer:
        MDB_env* env
        MDB_dbi messages
        MDB_dbi states
        MDB_dbi events
        MDB_dbi meta
        int segments_folder
        int large_folder
        int completion
        uint64_t segment_bytes
        int spare_most
        char* ballast
        char* fresh
        uint32_t next_segment
        uint64_t batch_number
        int64_t counters[8]
        int log_fd
        pthread_mutex_t mutex
        int ready
        int start_error
        int next_log_fd
        int has_next_log
        int poked
        fr_segments segments
        uint32_t* emptied
        size_t n_emptied
        uint64_t commits
        uint64_t committed_operations
        uint64_t sync_failures
        uint64_t log_failures
        uint64_t content_bytes
        uint64_t unlinked
        uint64_t ballast_freed
        double last_commit_seconds
        fr_timing timings[512]
        unsigned int n_timings
        int crash_at
        int crash_after
        int fault_errno[16]
        int fault_after[16]
        int fault_times[16]

    void fr_crc_setup()
    uint32_t fr_crc32c(uint32_t, const void*, size_t)
    int fr_grow(void**, size_t*, size_t, size_t)
    fr_op* fr_batch_op(fr_batch*, int, uint64_t)
    int fr_batch_event(fr_batch*, uint64_t, int, const char*, size_t, const char*, size_t)
    void fr_batch_drop_accept_events(fr_batch*)
    int fr_batch_empty(const fr_batch*)
    void fr_batch_clear(fr_batch*, size_t)
    void fr_batch_free(fr_batch*)
    fr_committer* fr_committer_new()
    void fr_committer_free(fr_committer*)
    int fr_start(fr_committer*)
    void fr_submit(fr_committer*, fr_batch*)
    fr_batch* fr_take_finished(fr_committer*)
    void fr_stop_janitor(fr_committer*)
    void fr_stop_committer(fr_committer*)
    int fr_unlink_later(fr_committer*, uint32_t, uint64_t)
    double fr_thread_seconds(fr_committer*)
    void fr_read_place(fr_place*, const char*)
    uint64_t fr_from_key(const void*)
    uint64_t fr_to_key(uint64_t)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

    ctypedef struct fr_found:
        uint64_t msgid
        uint64_t offset
        uint64_t length
        uint32_t segment
        uint32_t crc

    int fr_find(MDB_env*, MDB_dbi, const uint32_t*, int, uint64_t*, fr_found*, size_t*)
    void fr_poke(fr_committer*)
