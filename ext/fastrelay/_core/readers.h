/* A few threads that read contents which are not in the page cache. They never need the interpreter. */
#ifndef FASTRELAY_READERS_H
#define FASTRELAY_READERS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc32c.h"

#define FR_READERS 4

typedef struct fr_read {
    struct fr_read *next;
    int fd;
    uint32_t crc;
    uint64_t offset, length;
    char *buffer;
    int error;                       /* errno; -1: cut short; -2: the sum is wrong */
    void *content, *callback;        /* references of the loop thread */
    uint32_t segment;
    uint64_t msgid;
} fr_read;

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t threads[FR_READERS];
    int n_threads, stopping, completion;
    fr_read *waiting, **last;
    fr_read *finished, **finished_last;
} fr_readers;

/* 0, errno, -1 (cut short) or -2 (wrong sum). */
static inline int fr_read_now(int fd, char *buffer, uint64_t length, uint64_t offset, uint32_t crc) {
    uint64_t done = 0;
    while (done < length) {
        ssize_t got = pread(fd, buffer + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return -1;
        done += (uint64_t)got;
    }
    return fr_crc32c(0, buffer, length) == crc ? 0 : -2;
}

/* Only what the page cache holds: 0, -2 (wrong sum), EAGAIN when the disk would be needed, or errno. */
static inline int fr_read_cached(int fd, char *buffer, uint64_t length, uint64_t offset, uint32_t crc) {
    struct iovec piece = {buffer, length};
    ssize_t got = preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT);
    if (got < 0 && errno == EOPNOTSUPP) return fr_read_now(fd, buffer, length, offset, crc);
    if (got < 0) return errno == EINTR ? EAGAIN : errno;
    if ((uint64_t)got < length) return EAGAIN;
    return fr_crc32c(0, buffer, length) == crc ? 0 : -2;
}

static inline void *fr_reader_main(void *argument) {
    fr_readers *r = argument;
    uint64_t one = 1;
    pthread_mutex_lock(&r->mutex);
    for (;;) {
        while (!r->waiting && !r->stopping) pthread_cond_wait(&r->wake, &r->mutex);
        fr_read *request = r->waiting;
        if (!request) break;
        r->waiting = request->next;
        if (!r->waiting) r->last = &r->waiting;
        pthread_mutex_unlock(&r->mutex);
        request->error = fr_read_now(request->fd, request->buffer, request->length, request->offset, request->crc);
        request->next = NULL;
        pthread_mutex_lock(&r->mutex);
        *r->finished_last = request;
        r->finished_last = &request->next;
        while (write(r->completion, &one, sizeof one) < 0 && errno == EINTR) {}
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static inline fr_readers *fr_readers_new(void) {
    fr_readers *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->wake, NULL);
    r->last = &r->waiting;
    r->finished_last = &r->finished;
    r->completion = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return r;
}

/* Queue a request; the threads start with the first one. errno or 0. */
static inline int fr_readers_add(fr_readers *r, fr_read *request) {
    int error = 0;
    if (r->n_threads < FR_READERS) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        error = pthread_create(&r->threads[r->n_threads], NULL, fr_reader_main, r);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!error) pthread_setname_np(r->threads[r->n_threads++], "spool-read");
        else if (r->n_threads) error = 0;
    }
    if (error) return error;
    request->next = NULL;
    pthread_mutex_lock(&r->mutex);
    *r->last = request;
    r->last = &request->next;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    return 0;
}

static inline fr_read *fr_readers_take(fr_readers *r) {
    pthread_mutex_lock(&r->mutex);
    fr_read *finished = r->finished;
    r->finished = NULL;
    r->finished_last = &r->finished;
    pthread_mutex_unlock(&r->mutex);
    return finished;
}

/* Ends the threads; requests that were queued are still served. */
static inline void fr_readers_stop(fr_readers *r) {
    pthread_mutex_lock(&r->mutex);
    r->stopping = 1;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    while (r->n_threads) pthread_join(r->threads[--r->n_threads], NULL);
}

static inline void fr_readers_free(fr_readers *r) {
    if (!r) return;
    if (r->completion >= 0) close(r->completion);
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->wake);
    free(r);
}

#endif
