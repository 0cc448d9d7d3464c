/* What the committer, its janitor and the loop thread of one spool share, and the hooks by which tests break it. */
#ifndef FASTRELAY_SPOOLSTATE_H
#define FASTRELAY_SPOOLSTATE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "batch.h"
#include "crc32c.h"
#include "segments.h"

/* The places where a test can end the process or have a call fail (commit.pyx gives their names). */
enum fr_step {
    FR_STEP_NONE,
    FR_STEP_SEGMENT_OPEN,            /* a new segment is about to be made */
    FR_STEP_FOLDER_SYNC,             /* made; its folder not synced */
    FR_STEP_CONTENT_WRITE,           /* no content written */
    FR_STEP_CONTENT_HALF,            /* half of it written (crash only) */
    FR_STEP_CONTENT_SYNC,            /* all of it written, not synced */
    FR_STEP_LARGE_SYNC,              /* a file of its own, not synced */
    FR_STEP_BEGIN,                   /* content synced, no transaction */
    FR_STEP_PUT,                     /* inside the transaction */
    FR_STEP_COMMIT,                  /* transaction complete, not committed */
    FR_STEP_COMMITTED,               /* committed, event lines not in the log */
    FR_STEP_LOG_WRITE,
    FR_STEP_LOG_HALF,                /* half of the lines in the log (crash only) */
    FR_STEP_DONE,                    /* all done, the loop not told */
    FR_STEP_LOG_SYNC,
    FR_STEP_UNLINK,
    FR_STEPS
};

#define FR_SLICE_RECORDS 4096        /* a read transaction is renewed after so many: old pages stay usable */
#define FR_TRIM_ROWS 2048            /* event rows taken out by one commit, at most */
#define FR_ROW_BYTES 1900            /* an event row stays below LMDB's overflow pages (2,022 with this key) */
#define FR_ID_RESERVE 65536          /* message ids recorded as used ahead, so that none is used again after a crash */
#define FR_TIMINGS 512               /* group commits remembered until the loop asks */
#define FR_NAME 64

typedef struct {                     /* the row "state" in the database meta; little-endian, grows at its end only */
    uint32_t version;
    uint32_t next_segment;
    uint64_t batch;
    uint64_t next_id;
    uint64_t next_event;
    int64_t counters[FR_COUNTERS];
} fr_state_row;

#define FR_SPARES 8

typedef struct { float seconds; uint32_t operations; } fr_timing;

typedef struct fr_work { struct fr_work *next; uint32_t segment; uint64_t msgid; } fr_work;      /* an unlink */

typedef struct {
    /* set before the threads start */
    MDB_env *env;
    MDB_dbi messages, states, events, meta;
    int segments_folder, large_folder;               /* open folders */
    int completion;                                  /* eventfd the loop reads */
    uint64_t segment_bytes;
    int spare_most;                                  /* full segments kept for use again instead of being removed */
    char *ballast;                                   /* path, or NULL */
    char *fresh;                                     /* how the names of large files begin that this process writes */
    /* the committer's own */
    int active_fd;
    uint32_t active_id;
    uint64_t active_size;
    uint32_t next_segment;
    uint64_t batch_number, greatest_id;
    int64_t counters[FR_COUNTERS];
    int64_t transaction_counters[FR_COUNTERS];
    int log_fd;
    int log_torn;                                    /* it ends inside a line */
    int log_behind;                                  /* lines are to be taken from the rows in LMDB */
    uint64_t log_written;                            /* sequence of the last line in the log */
    pthread_t committer, janitor;
    int committer_runs, janitor_runs;
    /* shared, under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t wake_committer, wake_janitor;
    fr_batch *submitted, *finished;
    int stop_committer, stop_janitor, poked, ready;
    int start_error;                                 /* of the count at the start */
    int next_log_fd, has_next_log;
    uint64_t log_synced;                             /* every line up to it is on stable storage */
    uint64_t log_to_sync;                            /* every line up to it is in the log file */
    int log_sync_failed, log_failing, log_waits;
    fr_segments segments;
    uint32_t *emptied;                               /* segments with nothing live, for the loop to hand back */
    size_t n_emptied, emptied_room;
    fr_work *work;
    uint32_t spares[FR_SPARES];                      /* spare.<id in hex>: nothing in them is live */
    int n_spares;
    uint64_t commits, committed_operations, sync_failures, log_failures, content_bytes, unlinked, ballast_freed;
    double last_commit_seconds;
    fr_timing timings[FR_TIMINGS];
    unsigned n_timings;
    /* tests: end the process, or fail a call */
    int crash_at, crash_after;                       /* step, and how often it may pass first */
    int fault_errno[FR_STEPS], fault_after[FR_STEPS], fault_times[FR_STEPS];
} fr_committer;

/* Whether a test asked for the process to end here and now. */
static inline int fr_crash_due(fr_committer *c, int step) {
    return __builtin_expect(c->crash_at == step, 0) && c->crash_after-- <= 0;
}

/* 0, or the errno a test asked for at this step. Ends the process when a test asked for that. */
static inline int fr_step(fr_committer *c, int step) {
    if (fr_crash_due(c, step)) _exit(9);
    if (__builtin_expect(c->fault_errno[step] != 0, 0)) {
        if (c->fault_after[step] > 0) { c->fault_after[step]--; return 0; }
        int error = c->fault_errno[step];
        if (c->fault_times[step] > 0 && --c->fault_times[step] == 0) c->fault_errno[step] = 0;
        return error;
    }
    return 0;
}

static inline double fr_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline void fr_spare_name(char *name, uint32_t id) { snprintf(name, FR_NAME, "spare.%08x", id); }
static inline void fr_segment_name(char *name, uint32_t id) { snprintf(name, FR_NAME, "%08x", id); }
static inline void fr_large_name(char *name, uint64_t msgid) {
    snprintf(name, FR_NAME, "%llx", (unsigned long long)msgid);
}

static inline uint64_t fr_from_key(const void *octets) {
    uint64_t key;
    memcpy(&key, octets, 8);
    return __builtin_bswap64(key);
}
static inline uint64_t fr_to_key(uint64_t number) { return __builtin_bswap64(number); }

typedef struct {                     /* octets 4..31 of a message record */
    uint32_t recipients;
    uint32_t segment;
    uint32_t crc;
    uint64_t offset;
    uint64_t length;
} fr_place;

#define FR_HEAD 32
static inline void fr_read_place(fr_place *place, const char *record) {
    memcpy(&place->recipients, record + 4, 4);
    memcpy(&place->segment, record + 8, 4);
    memcpy(&place->crc, record + 12, 4);
    memcpy(&place->offset, record + 16, 8);
    memcpy(&place->length, record + 24, 8);
}
static inline void fr_write_place(char *record, uint32_t segment, uint32_t crc, uint64_t offset, uint64_t length) {
    memcpy(record + 8, &segment, 4);
    memcpy(record + 12, &crc, 4);
    memcpy(record + 16, &offset, 8);
    memcpy(record + 24, &length, 8);
}

/* Whether an error means that there is no room: LMDB reports a short write as EIO. */
static inline int fr_no_room(fr_committer *c, int error) {
    if (error == ENOSPC || error == EDQUOT || error == MDB_MAP_FULL) return 1;
    if (error != EIO) return 0;
    struct statvfs room;
    if (fstatvfs(c->segments_folder, &room)) return 0;
    return (uint64_t)room.f_bavail * room.f_frsize < (uint64_t)(8 << 20);
}

static inline void fr_wake_loop(fr_committer *c) {
    uint64_t one = 1;
    while (write(c->completion, &one, sizeof one) < 0 && errno == EINTR) {}
}

#endif
