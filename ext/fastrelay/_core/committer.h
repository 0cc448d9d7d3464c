/* The committer: a thread that makes batches durable, one after the other.
 *
 * It never needs the interpreter, so it is a plain thread: the loop hands a batch over under a mutex, and is woken by
 * an eventfd. commit.pyx holds the argument why no crash loses anything; it reads this file from top to bottom.
 */
#ifndef FASTRELAY_COMMITTER_H
#define FASTRELAY_COMMITTER_H

#include "spoolstate.h"

#include <dirent.h>
#include "contents.h"
#include "transact.h"
#include "journal.h"
#include "janitor.h"

/* ---- at the start: what is live, and which files are garbage ---- */

static inline int fr_count_live(fr_committer *c) {
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    int error = mdb_txn_begin(c->env, NULL, MDB_RDONLY, &txn);
    if (error) return error;
    error = mdb_cursor_open(txn, c->messages, &cursor);
    if (!error) error = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    fr_segment *row = NULL;
    while (!error) {
        if (key.mv_size == 8 && value.mv_size >= FR_HEAD) {
            fr_place place;
            fr_read_place(&place, value.mv_data);
            c->greatest_id = fr_from_key(key.mv_data);
            if (place.segment != FR_OWN_FILE) {
                if (!row || row->id != place.segment) row = fr_segment_get(&c->segments, place.segment);
                if (!row) { error = ENOMEM; break; }
                row->live++;
                row->live_bytes += place.length;
                if (place.segment >= c->next_segment) c->next_segment = place.segment + 1;
            }
        }
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (cursor) mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return error == MDB_NOTFOUND ? 0 : error;
}

static inline int fr_has_record(fr_committer *c, uint64_t msgid, int *found) {
    MDB_txn *txn;
    uint64_t key_octets = fr_to_key(msgid);
    MDB_val key = {8, &key_octets}, value;
    int error = mdb_txn_begin(c->env, NULL, MDB_RDONLY, &txn);
    if (error) return error;
    error = mdb_get(txn, c->messages, &key, &value);
    mdb_txn_abort(txn);
    *found = !error;
    return error == MDB_NOTFOUND ? 0 : error;
}

static inline int fr_sweep_segment(fr_committer *c, const char *name) {
    char *end;
    if (!strncmp(name, "spare.", 6)) {
        if (c->n_spares < c->spare_most) { c->spares[c->n_spares++] = (uint32_t)strtoul(name + 6, NULL, 16); return 0; }
        return unlinkat(c->segments_folder, name, 0) && errno != ENOENT ? errno : 0;
    }
    unsigned long id = strtoul(name, &end, 16);
    if (*end || strlen(name) != 8) return 0;               /* not ours */
    fr_segment *row = fr_segment_find(&c->segments, (uint32_t)id);
    struct stat status;
    if (id >= c->next_segment) c->next_segment = (uint32_t)id + 1;
    if (!row) return unlinkat(c->segments_folder, name, 0) && errno != ENOENT ? errno : (c->unlinked++, 0);
    if (!fstatat(c->segments_folder, name, &status, 0)) row->size = (uint64_t)status.st_size;
    return 0;
}

static inline int fr_sweep_large(fr_committer *c, const char *name) {
    char *end;
    int found = 0;
    unsigned long long msgid = strtoull(name, &end, 16);
    if (*end && strncmp(name, "new.", 4)) return 0;          /* not ours */
    if (*end && c->fresh && !strncmp(name, c->fresh, strlen(c->fresh))) return 0;
    int error = *end ? 0 : fr_has_record(c, msgid, &found);
    if (error || found) return error;
    return unlinkat(c->large_folder, name, 0) && errno != ENOENT ? errno : (c->unlinked++, 0);
}

static inline int fr_sweep(fr_committer *c, int folder, int (*sweep)(fr_committer *, const char *)) {
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
    if (copy < 0) return errno;
    DIR *names = fdopendir(copy);
    if (!names) { close(copy); return ENOMEM; }
    struct dirent *entry;
    while (!error && (entry = readdir(names))) if (entry->d_name[0] != '.') error = sweep(c, entry->d_name);
    closedir(names);
    return error;
}

/* ---- for the compactor: what is live in some segments ---- */

typedef struct { uint64_t msgid, offset, length; uint32_t segment, crc; } fr_found;

/* Looks at FR_SLICE_RECORDS records behind *last. `segments` is sorted. Gives what it found, and in *last how far it
 * came: 0 at the end. */
static inline int fr_find(MDB_env *env, MDB_dbi messages, const uint32_t *segments, int n, uint64_t *last,
                          fr_found *found, size_t *n_found) {
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    uint64_t key_octets = fr_to_key(*last + 1);
    MDB_val key = {8, &key_octets}, value;
    int error = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), seen = 0;
    *n_found = 0;
    if (error) return error;
    error = mdb_cursor_open(txn, messages, &cursor);
    if (!error) error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; !error && seen < FR_SLICE_RECORDS; seen++) {
        fr_place place = {0};
        *last = fr_from_key(key.mv_data);
        if (value.mv_size >= FR_HEAD) fr_read_place(&place, value.mv_data);
        int low = 0, high = n;
        while (low < high) {
            int middle = (low + high) / 2;
            if (segments[middle] < place.segment) low = middle + 1;
            else high = middle;
        }
        if (low < n && segments[low] == place.segment) {
            fr_found one = {*last, place.offset, place.length, place.segment, place.crc};
            found[(*n_found)++] = one;
        }
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (cursor) mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    if (error == MDB_NOTFOUND) { *last = 0; error = 0; }
    return error;
}

/* ---- one batch ---- */

/* After a commit: what it means for the files. */
static inline void fr_account(fr_committer *c, fr_batch *batch) {
    int accepts = !batch->accept_error;
    pthread_mutex_lock(&c->mutex);
    for (size_t i = 0; i < batch->n; i++) {
        fr_op *op = &batch->ops[i];
        fr_segment *row;
        if ((op->kind == FR_PUT || (op->kind == FR_MOVE && op->done)) && accepts) {
            row = fr_segment_find(&c->segments, op->segment);
            if (row) { row->live++; row->live_bytes += op->content_length; }
        }
        if (op->kind == FR_DELETE && op->done && op->segment == FR_OWN_FILE) fr_unlink_later(c, FR_OWN_FILE, op->msgid);
        int gone = (op->kind == FR_DELETE && op->done) || (op->kind == FR_MOVE && op->done && accepts);
        row = gone ? fr_segment_find(&c->segments, op->kind == FR_MOVE ? op->old_segment : op->segment) : NULL;
        if (row && row->live) { row->live--; row->live_bytes -= op->content_length; }
    }
    for (size_t i = 0; i < c->segments.n; i++) fr_segment_settle(c, &c->segments.rows[i]);
    c->commits++;
    c->committed_operations += batch->n;
    pthread_mutex_unlock(&c->mutex);
}

static inline void fr_free_ballast(fr_committer *c) {
    if (c->ballast && !unlink(c->ballast)) {
        pthread_mutex_lock(&c->mutex);
        c->ballast_freed++;
        pthread_mutex_unlock(&c->mutex);
    }
}

/* Settles must get through where accepts need not: without the accepts, then without the ballast. */
static inline void fr_run(fr_committer *c, fr_batch *batch) {
    int work = batch->accepts || batch->contents || batch->files;
    batch->settle_error = batch->accept_error = 0;
    if (work) batch->accept_error = fr_write_contents(c, batch);
    int accepts = !batch->accept_error;
    if (!accepts) fr_batch_drop_accept_events(batch);
    int error = fr_transact(c, batch, accepts, &batch->settle_step);
    if (error && accepts && work) {
        batch->accept_error = error;
        batch->accept_step = batch->settle_step;
        fr_batch_drop_accept_events(batch);
        error = fr_transact(c, batch, 0, &batch->settle_step);
    }
    if (error && fr_no_room(c, error)) {
        fr_free_ballast(c);
        error = fr_transact(c, batch, 0, &batch->settle_step);
    }
    batch->settle_error = error;
    batch->panic = error == MDB_PANIC;
    if (error) return;
    fr_account(c, batch);
    fr_log_batch(c, batch);
}

static inline void fr_finish(fr_committer *c, fr_batch *batch, double started) {
    double seconds = fr_seconds() - started;
    fr_step(c, FR_STEP_DONE);
    pthread_mutex_lock(&c->mutex);
    batch->seconds = c->last_commit_seconds = seconds;
    fr_timing *timing = &c->timings[c->n_timings++ % FR_TIMINGS];
    timing->seconds = (float)seconds;
    timing->operations = (uint32_t)batch->n;
    c->finished = batch;
    pthread_mutex_unlock(&c->mutex);
    fr_wake_loop(c);
}

static inline int fr_start_up(fr_committer *c) {
    int error = fr_count_live(c);
    if (!error) error = fr_sweep(c, c->segments_folder, fr_sweep_segment);
    if (!error) error = fr_sweep(c, c->large_folder, fr_sweep_large);
    return error;
}

static inline void *fr_committer_main(void *argument) {
    fr_committer *c = argument;
    int error = fr_start_up(c);
    pthread_mutex_lock(&c->mutex);
    c->start_error = error;
    c->ready = 1;
    pthread_mutex_unlock(&c->mutex);
    fr_wake_loop(c);
    for (;;) {
        pthread_mutex_lock(&c->mutex);
        while (!c->submitted && !c->stop_committer && !c->poked) pthread_cond_wait(&c->wake_committer, &c->mutex);
        fr_batch *batch = c->submitted;
        int stop = c->stop_committer && !batch;
        c->submitted = NULL;
        c->poked = 0;
        pthread_mutex_unlock(&c->mutex);
        if (stop) return NULL;
        double started = fr_seconds();
        fr_log_switch(c);
        if (batch) fr_run(c, batch);
        if (batch) fr_finish(c, batch, started);
        else fr_log_catch_up(c);
    }
}

/* ---- for the loop thread ---- */

static inline void fr_submit(fr_committer *c, fr_batch *batch) {
    pthread_mutex_lock(&c->mutex);
    c->submitted = batch;
    pthread_cond_signal(&c->wake_committer);
    pthread_mutex_unlock(&c->mutex);
}

/* Have it look at the log. */
static inline void fr_poke(fr_committer *c) {
    pthread_mutex_lock(&c->mutex);
    c->poked = 1;
    pthread_cond_signal(&c->wake_committer);
    pthread_mutex_unlock(&c->mutex);
}

static inline fr_batch *fr_take_finished(fr_committer *c) {
    pthread_mutex_lock(&c->mutex);
    fr_batch *batch = c->finished;
    c->finished = NULL;
    pthread_mutex_unlock(&c->mutex);
    return batch;
}

static inline fr_committer *fr_committer_new(void) {
    fr_committer *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->wake_committer, &monotonic);
    pthread_cond_init(&c->wake_janitor, &monotonic);
    pthread_condattr_destroy(&monotonic);
    c->segments_folder = c->large_folder = c->completion = c->active_fd = c->log_fd = -1;
    c->next_segment = 1;
    c->log_behind = 1;
    return c;
}

/* Start both threads; signals stay with the main thread. errno or 0. */
static inline int fr_start(fr_committer *c) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&c->committer, NULL, fr_committer_main, c);
    if (!error) {
        c->committer_runs = 1;
        pthread_setname_np(c->committer, "spool-commit");
        error = pthread_create(&c->janitor, NULL, fr_janitor_main, c);
    }
    if (!error) {
        c->janitor_runs = 1;
        pthread_setname_np(c->janitor, "spool-janitor");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static inline void fr_stop_janitor(fr_committer *c) {
    if (!c->janitor_runs) return;
    pthread_mutex_lock(&c->mutex);
    c->stop_janitor = 1;
    pthread_cond_signal(&c->wake_janitor);
    pthread_mutex_unlock(&c->mutex);
    pthread_join(c->janitor, NULL);
    c->janitor_runs = 0;
}

static inline void fr_stop_committer(fr_committer *c) {
    if (!c->committer_runs) return;
    pthread_mutex_lock(&c->mutex);
    c->stop_committer = 1;
    pthread_cond_signal(&c->wake_committer);
    pthread_mutex_unlock(&c->mutex);
    pthread_join(c->committer, NULL);
    c->committer_runs = 0;
}

static inline double fr_thread_seconds(fr_committer *c) {
    clockid_t clock;
    struct timespec used;
    if (!c->committer_runs || pthread_getcpuclockid(c->committer, &clock) || clock_gettime(clock, &used)) return 0.0;
    return (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
}

static inline void fr_committer_free(fr_committer *c) {
    if (!c) return;
    fr_stop_janitor(c);
    fr_stop_committer(c);
    fr_unlink_work(c, c->work);
    if (c->active_fd >= 0) close(c->active_fd);
    if (c->segments_folder >= 0) close(c->segments_folder);
    if (c->large_folder >= 0) close(c->large_folder);
    if (c->log_fd >= 0) close(c->log_fd);
    if (c->has_next_log && c->next_log_fd >= 0) close(c->next_log_fd);
    if (c->completion >= 0) close(c->completion);
    pthread_mutex_destroy(&c->mutex);
    pthread_cond_destroy(&c->wake_committer);
    pthread_cond_destroy(&c->wake_janitor);
    free(c->segments.rows);
    free(c->emptied);
    free(c->ballast);
    free(c->fresh);
    free(c);
}

#endif
