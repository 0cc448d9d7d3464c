/* Live content per segment file: how many messages and octets in it a record still points to.
 *
 * Rows are kept sorted by segment id; ids only grow, so a new row goes to the end. The committer owns the table and
 * changes it under its mutex, after a commit succeeded; other threads copy from it under the same mutex.
 */
#ifndef FASTRELAY_SEGMENTS_H
#define FASTRELAY_SEGMENTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FR_OWN_FILE 0xFFFFFFFFu      /* in a record instead of a segment: large/<message id in hex> */

typedef struct {
    uint32_t id;
    uint32_t live;                   /* messages */
    uint64_t live_bytes;
    uint64_t size;                   /* octets written to the file */
    uint8_t active;                  /* still appended to */
    uint8_t doomed;                  /* reported as empty; waits for its unlink */
} fr_segment;

typedef struct {
    fr_segment *rows;
    size_t n, room;
} fr_segments;

static inline fr_segment *fr_segment_find(fr_segments *table, uint32_t id) {
    size_t low = 0, high = table->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->rows[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return low < table->n && table->rows[low].id == id ? &table->rows[low] : NULL;
}

/* The row of a segment, made when there is none; NULL without memory. */
static inline fr_segment *fr_segment_get(fr_segments *table, uint32_t id) {
    fr_segment *found = fr_segment_find(table, id);
    if (found) return found;
    if (table->n == table->room) {
        size_t room = table->room ? table->room * 2 : 64;
        fr_segment *rows = realloc(table->rows, room * sizeof *rows);
        if (!rows) return NULL;
        table->rows = rows;
        table->room = room;
    }
    size_t at = table->n;
    while (at && table->rows[at - 1].id > id) at--;
    memmove(table->rows + at + 1, table->rows + at, (table->n - at) * sizeof *table->rows);
    memset(table->rows + at, 0, sizeof *table->rows);
    table->rows[at].id = id;
    table->n++;
    return &table->rows[at];
}

static inline void fr_segment_forget(fr_segments *table, uint32_t id) {
    fr_segment *found = fr_segment_find(table, id);
    if (!found) return;
    size_t at = (size_t)(found - table->rows);
    memmove(found, found + 1, (table->n - at - 1) * sizeof *found);
    table->n--;
}

#endif
