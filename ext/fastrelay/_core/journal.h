/* Third part of a group commit: event lines to the log file.
 *
 * The rows in LMDB are the truth, the log is for reading. A line is written after its commit, and its row is taken
 * out only after the log was synced; so after a crash lines can stand twice in the log (same key), and none is
 * missing. If the log cannot be written (its disk is full), it falls behind: the rows stay, and lines are taken from
 * them once it can.
 */
#ifndef FASTRELAY_JOURNAL_H
#define FASTRELAY_JOURNAL_H

#include "spoolstate.h"

/* Append whole lines. After a part of a line was written, the next append begins with a line end: other spools of
 * this worker may append to the same file, so nothing is taken back. Readers skip a line that is no JSON. */
static inline int fr_log_append(fr_committer *c, const char *lines, size_t length) {
    size_t done = 0;
    int error = fr_step(c, FR_STEP_LOG_WRITE);
    if (!error && c->log_torn && write(c->log_fd, "\n", 1) != 1) error = ENOSPC;
    if (error) return error;
    c->log_torn = 0;
    if (fr_crash_due(c, FR_STEP_LOG_HALF)) _exit(write(c->log_fd, lines, length / 2) < 0 ? 1 : 9);
    while (done < length) {
        ssize_t written = write(c->log_fd, lines + done, length - done);
        if (written < 0) {
            if (errno == EINTR) continue;
            c->log_torn = done && lines[done - 1] != '\n';
            return errno;
        }
        done += (size_t)written;
    }
    return 0;
}

/* One slice of rows that are not in the log yet. *more: whether to go on. */
static inline int fr_log_slice(fr_committer *c, int *more) {
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    uint64_t key_octets = fr_to_key(c->log_written + 1), last = c->log_written;
    MDB_val key = {8, &key_octets}, value;
    *more = 0;
    int error = mdb_txn_begin(c->env, NULL, MDB_RDONLY, &txn);
    if (error) return error;
    error = mdb_cursor_open(txn, c->events, &cursor);
    if (!error) error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (int rows = 0; !error && rows < FR_SLICE_RECORDS / 4; rows++) {
        error = fr_log_append(c, value.mv_data, value.mv_size);
        if (error) break;
        last = fr_from_key(key.mv_data);
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
        *more = !error;
    }
    c->log_written = last;           /* of a row only its first sequence is known; the next row's is greater */
    if (cursor) mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return error == MDB_NOTFOUND ? 0 : error;
}

static inline void fr_log_advanced(fr_committer *c) {
    pthread_mutex_lock(&c->mutex);
    if (c->log_to_sync <= c->log_synced) pthread_cond_signal(&c->wake_janitor);
    c->log_to_sync = c->log_written;
    c->log_failing = 0;
    pthread_mutex_unlock(&c->mutex);
}

static inline void fr_log_failed(fr_committer *c) {
    c->log_behind = 1;
    pthread_mutex_lock(&c->mutex);
    c->log_failures++;
    if (!c->log_failing) pthread_cond_signal(&c->wake_janitor);
    c->log_failing = 1;
    pthread_mutex_unlock(&c->mutex);
}

/* Make the name of a new log file durable: rows go when its lines are synced, so a power cut must not take the file. */
static inline int fr_sync_folder_of(int fd) {
    char link[FR_NAME], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return length ? errno : ENOENT;
    path[length] = 0;
    char *name = strrchr(path, '/');
    if (!name) return 0;                                   /* no file: a pipe, as in tests */
    *(name == path ? name + 1 : name) = 0;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return errno;
    int error = fsync(folder) ? errno : 0;
    close(folder);
    return error;
}

/* Take over a descriptor that the loop gave; the old one is synced first, or its unsynced lines are written again. If
 * the name of the new one cannot be made durable, it is tried again later, and lines wait in their rows. */
static inline void fr_log_switch(fr_committer *c) {
    pthread_mutex_lock(&c->mutex);
    int has_next = c->has_next_log, next = c->next_log_fd, sync_failed = c->log_sync_failed;
    c->has_next_log = 0;
    pthread_mutex_unlock(&c->mutex);
    if (!has_next && !sync_failed) return;
    int lost = sync_failed || (c->log_fd >= 0 && fdatasync(c->log_fd));
    int unnamed = has_next && next >= 0 && fr_sync_folder_of(next);
    pthread_mutex_lock(&c->mutex);
    if (lost) c->log_written = c->log_to_sync = c->log_synced;
    else if (c->log_fd >= 0) c->log_synced = c->log_to_sync;
    c->log_sync_failed = 0;
    if (lost || unnamed) c->sync_failures++;
    if (has_next) {
        if (c->log_fd >= 0) close(c->log_fd);              /* under the mutex: the janitor takes a copy of it there */
        c->log_fd = unnamed ? -1 : next;
        c->log_torn = 0;
    }
    if (unnamed && !c->has_next_log) {
        c->next_log_fd = next;
        c->has_next_log = c->log_failing = 1;
        pthread_cond_signal(&c->wake_janitor);
    } else if (unnamed) {
        close(next);
    }
    c->log_behind = 1;
    pthread_mutex_unlock(&c->mutex);
}

/* Write what the log lacks, from the rows. */
static inline void fr_log_catch_up(fr_committer *c) {
    int more = 1;
    if (c->log_fd < 0 || !c->log_behind) return;
    while (more) {
        if (fr_log_slice(c, &more)) {
            fr_log_failed(c);
            return;
        }
    }
    c->log_behind = 0;
    fr_log_advanced(c);
}

/* The lines of a batch that was just committed. */
static inline void fr_log_batch(fr_committer *c, fr_batch *batch) {
    fr_step(c, FR_STEP_COMMITTED);
    if (c->log_fd < 0 && batch->n_events) c->log_behind = 1;
    if (c->log_behind) {
        fr_log_catch_up(c);
        return;
    }
    if (!batch->n_events) return;
    if (fr_log_append(c, batch->lines, batch->lines_length)) {
        fr_log_failed(c);
        return;
    }
    c->log_written = batch->events[batch->n_events - 1].sequence;
    fr_log_advanced(c);
}

#endif
