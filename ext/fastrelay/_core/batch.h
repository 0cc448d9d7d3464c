/* One group commit: the operations, counts and event lines that become durable together.
 *
 * A batch is filled by the loop thread, handed to the committer, and handed back; it is never touched by both. What
 * is pointed to (octets of Python objects) is kept alive by references that only the loop thread takes and drops.
 */
#ifndef FASTRELAY_BATCH_H
#define FASTRELAY_BATCH_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FR_COUNTERS 8

enum fr_kind { FR_PUT, FR_PUT_FILE, FR_STATE, FR_DELETE, FR_MOVE, FR_META };

typedef struct {
    uint8_t kind;
    uint8_t done;                    /* FR_MOVE, FR_DELETE: it found what it expected */
    uint8_t renamed;                 /* FR_PUT_FILE: the file has the message's name now */
    uint32_t segment, crc;           /* place of the content: new (put, move) or the one given up (delete) */
    uint64_t offset;
    uint64_t msgid;
    uint32_t old_segment;            /* FR_MOVE: place that must still hold */
    uint64_t old_offset;
    const char *record;              /* or state, or value of a meta key (NULL: delete it) */
    size_t record_length;
    const char *content;             /* or name of a meta key, or of a file of its own */
    uint64_t content_length;
    int fd;                          /* FR_PUT_FILE */
    void *record_owner, *content_owner, *cookie;      /* references, see above */
} fr_op;

typedef struct {
    uint64_t sequence;
    uint32_t length;
    uint32_t of_accept;              /* dropped if the accepts of this batch fail */
} fr_event;

typedef struct {
    fr_op *ops;
    size_t n, room;
    size_t contents;                 /* ops with content for a segment */
    size_t accepts;
    size_t files;
    uint64_t content_bytes;
    int64_t counts[FR_COUNTERS];
    int counted;
    fr_event *events;
    size_t n_events, events_room;
    char *lines;
    size_t lines_length, lines_room;
    uint64_t next_id, next_event;    /* to be recorded */
    int last;                        /* of this opening: every event row that is safe in the log goes */
    /* results */
    int accept_error, accept_step;   /* errno or LMDB code; 0: committed */
    int settle_error, settle_step;
    int panic;                       /* the environment must be opened anew before anything else */
    uint64_t number;                 /* recorded in the environment by this batch's commit */
    double seconds;
} fr_batch;

static inline int fr_grow(void **rows, size_t *room, size_t wanted, size_t size) {
    if (wanted <= *room) return 0;
    size_t more = *room ? *room : 64;
    while (more < wanted) more *= 2;
    void *grown = realloc(*rows, more * size);
    if (!grown) return ENOMEM;
    *rows = grown;
    *room = more;
    return 0;
}

/* A cleared operation at the end of the batch, or NULL without memory. */
static inline fr_op *fr_batch_op(fr_batch *batch, int kind, uint64_t msgid) {
    if (fr_grow((void **)&batch->ops, &batch->room, batch->n + 1, sizeof *batch->ops)) return NULL;
    fr_op *op = &batch->ops[batch->n++];
    memset(op, 0, sizeof *op);
    op->kind = (uint8_t)kind;
    op->msgid = msgid;
    op->fd = -1;
    return op;
}

/* Add `head` + `line` as one event. */
static inline int fr_batch_event(fr_batch *batch, uint64_t sequence, int of_accept, const char *head,
                                 size_t head_length, const char *line, size_t line_length) {
    size_t length = head_length + line_length;
    if (fr_grow((void **)&batch->events, &batch->events_room, batch->n_events + 1, sizeof *batch->events))
        return ENOMEM;
    if (fr_grow((void **)&batch->lines, &batch->lines_room, batch->lines_length + length, 1)) return ENOMEM;
    memcpy(batch->lines + batch->lines_length, head, head_length);
    memcpy(batch->lines + batch->lines_length + head_length, line, line_length);
    batch->lines_length += length;
    batch->events[batch->n_events].sequence = sequence;
    batch->events[batch->n_events].length = (uint32_t)length;
    batch->events[batch->n_events].of_accept = (uint32_t)of_accept;
    batch->n_events++;
    return 0;
}

/* Drop the event lines that tell of accepts. */
static inline void fr_batch_drop_accept_events(fr_batch *batch) {
    size_t kept = 0, from = 0, to = 0;
    for (size_t i = 0; i < batch->n_events; i++) {
        uint32_t length = batch->events[i].length;
        if (!batch->events[i].of_accept) {
            memmove(batch->lines + to, batch->lines + from, length);
            batch->events[kept++] = batch->events[i];
            to += length;
        }
        from += length;
    }
    batch->n_events = kept;
    batch->lines_length = to;
}

static inline int fr_batch_empty(const fr_batch *batch) {
    return !batch->n && !batch->n_events && !batch->counted;
}

/* Ready for use again; the owners were dropped by the caller. Keeps its memory, unless it grew beyond `bound` octets.
 * */
static inline void fr_batch_clear(fr_batch *batch, size_t bound) {
    fr_op *ops = batch->ops;
    fr_event *events = batch->events;
    char *lines = batch->lines;
    size_t room = batch->room, events_room = batch->events_room, lines_room = batch->lines_room;
    if (room * sizeof *ops > bound) { free(ops); ops = NULL; room = 0; }
    if (events_room * sizeof *events > bound) { free(events); events = NULL; events_room = 0; }
    if (lines_room > bound) { free(lines); lines = NULL; lines_room = 0; }
    memset(batch, 0, sizeof *batch);
    batch->ops = ops;
    batch->room = room;
    batch->events = events;
    batch->events_room = events_room;
    batch->lines = lines;
    batch->lines_room = lines_room;
}

static inline void fr_batch_free(fr_batch *batch) {
    if (!batch) return;
    free(batch->ops);
    free(batch->events);
    free(batch->lines);
    free(batch);
}

#endif
