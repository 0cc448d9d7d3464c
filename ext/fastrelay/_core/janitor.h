/* Slow work that no commit waits for, in a thread of its own: syncing the log once a second, removing files nobody
 * points to. */
#ifndef FASTRELAY_JANITOR_H
#define FASTRELAY_JANITOR_H

#include <sys/stat.h>

#include "spoolstate.h"

#define FR_LOG_SYNC_SECONDS 1
#define FR_LOG_MOST_WAITS 6          /* after failures in a row the time between syncs doubles so often, to a minute */

static inline void fr_sync_log(fr_committer *c) {                 /* called and left with the mutex held */
    uint64_t upto = c->log_to_sync;
    int fd = c->log_fd >= 0 ? fcntl(c->log_fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0) return;
    pthread_mutex_unlock(&c->mutex);
    int error = fr_step(c, FR_STEP_LOG_SYNC);
    if (!error && fdatasync(fd)) error = errno;
    close(fd);
    pthread_mutex_lock(&c->mutex);
    if (error) {
        c->sync_failures++;
        c->log_sync_failed = c->log_failing = 1;
        if (c->log_waits < FR_LOG_MOST_WAITS) c->log_waits++;
    } else if (upto > c->log_synced) {
        c->log_synced = upto;
        c->log_waits = 0;
    }
}

/* Keep a full segment as a spare one. 0 where it was kept. */
static inline int fr_spare_keep(fr_committer *c, const char *name, uint32_t id) {
    char spare[FR_NAME];
    struct stat status;
    fr_spare_name(spare, id);
    pthread_mutex_lock(&c->mutex);
    int wanted = c->n_spares < c->spare_most;
    pthread_mutex_unlock(&c->mutex);
    if (!wanted || fstatat(c->segments_folder, name, &status, 0) || (uint64_t)status.st_size < c->segment_bytes) return -1;
    if (renameat(c->segments_folder, name, c->segments_folder, spare)) return -1;
    pthread_mutex_lock(&c->mutex);
    c->spares[c->n_spares++] = id;               /* only this thread adds */
    pthread_mutex_unlock(&c->mutex);
    return 0;
}

static inline void fr_unlink_work(fr_committer *c, fr_work *work) {         /* without the mutex */
    while (work) {
        fr_work *next = work->next;
        char name[FR_NAME];
        int folder = work->segment == FR_OWN_FILE ? c->large_folder : c->segments_folder;
        if (work->segment == FR_OWN_FILE) fr_large_name(name, work->msgid);
        else fr_segment_name(name, work->segment);
        int error = fr_step(c, FR_STEP_UNLINK);
        int kept = !error && work->segment != FR_OWN_FILE && !fr_spare_keep(c, name, work->segment);
        if (!error && !kept && unlinkat(folder, name, 0) && errno != ENOENT) error = errno;
        pthread_mutex_lock(&c->mutex);
        if (!error && !kept) c->unlinked++;                         /* else it goes at the next start */
        if (work->segment != FR_OWN_FILE) fr_segment_forget(&c->segments, work->segment);
        pthread_mutex_unlock(&c->mutex);
        free(work);
        work = next;
    }
}

static inline void *fr_janitor_main(void *argument) {
    fr_committer *c = argument;
    double synced_at = fr_seconds();
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        int dirty = (c->log_to_sync > c->log_synced && c->log_fd >= 0) || c->log_failing;
        if (!c->work && !c->stop_janitor) {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += FR_LOG_SYNC_SECONDS;
            if (!dirty) pthread_cond_wait(&c->wake_janitor, &c->mutex);
            else if (fr_seconds() - synced_at < (FR_LOG_SYNC_SECONDS << c->log_waits))
                pthread_cond_timedwait(&c->wake_janitor, &c->mutex, &until);
        }
        fr_work *work = c->work;
        c->work = NULL;
        if (work) {
            pthread_mutex_unlock(&c->mutex);
            fr_unlink_work(c, work);
            pthread_mutex_lock(&c->mutex);
        }
        int due = fr_seconds() - synced_at >= (FR_LOG_SYNC_SECONDS << c->log_waits) || c->stop_janitor;
        if (due && c->log_to_sync > c->log_synced) fr_sync_log(c);
        if (due && c->log_failing && !c->stop_janitor) {   /* let the committer try the log again */
            c->poked = 1;
            pthread_cond_signal(&c->wake_committer);
        }
        if (due) synced_at = fr_seconds();
        if (c->stop_janitor && !c->work) break;
    }
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

/* Have a segment (or, with FR_OWN_FILE, the file of a message) removed. */
static inline int fr_unlink_later(fr_committer *c, uint32_t segment, uint64_t msgid) {      /* with the mutex held */
    fr_work *work = malloc(sizeof *work);
    if (!work) return ENOMEM;
    work->segment = segment;
    work->msgid = msgid;
    work->next = c->work;
    c->work = work;
    pthread_cond_signal(&c->wake_janitor);
    return 0;
}

#endif
