/* Second part of a group commit: one LMDB transaction, committed synchronously. */
#ifndef FASTRELAY_TRANSACT_H
#define FASTRELAY_TRANSACT_H

#include "spoolstate.h"

typedef struct {
    MDB_txn *txn;
    MDB_cursor *messages, *states, *events;
} fr_transaction;

static inline MDB_val fr_val(const void *octets, size_t length) {
    MDB_val value = {length, (void *)octets};
    return value;
}

static inline int fr_put_record(fr_committer *c, fr_transaction *t, fr_op *op) {
    uint64_t key_octets = fr_to_key(op->msgid);
    MDB_val key = fr_val(&key_octets, 8), value = fr_val(NULL, op->record_length);
    int newest = op->msgid > c->greatest_id;          /* appended: no search, and pages are filled */
    int error = mdb_cursor_put(t->messages, &key, &value, MDB_RESERVE | (newest ? MDB_APPEND : 0));
    if (error) return error;
    if (newest) c->greatest_id = op->msgid;
    fr_place place;
    fr_read_place(&place, op->record);
    memcpy(value.mv_data, op->record, op->record_length);
    fr_write_place(value.mv_data, op->segment, op->crc, op->offset, op->content_length);
    c->transaction_counters[0] += place.recipients;
    return 0;
}

/* Delete a message and its state; its content becomes garbage. One that is not there is none to delete: a settle that
 * is done again after a failure whose outcome was not known finds it gone. */
static inline int fr_delete(fr_committer *c, fr_transaction *t, fr_op *op) {
    (void)c;
    uint64_t key_octets = fr_to_key(op->msgid);
    MDB_val key = fr_val(&key_octets, 8), value;
    op->done = 0;
    int error = mdb_cursor_get(t->messages, &key, &value, MDB_SET);
    if (!error && value.mv_size >= FR_HEAD) {
        fr_place place;
        fr_read_place(&place, value.mv_data);
        op->segment = place.segment;
        op->content_length = place.length;
        op->done = 1;
    }
    if (!error) error = mdb_cursor_del(t->messages, 0);
    if (error && error != MDB_NOTFOUND) return error;
    key = fr_val(&key_octets, 8);
    error = mdb_cursor_get(t->states, &key, &value, MDB_SET);
    if (!error) error = mdb_cursor_del(t->states, 0);
    return error == MDB_NOTFOUND ? 0 : error;
}

/* Point a record to the new place of its content, if it still points to the old one. */
static inline int fr_move(fr_transaction *t, fr_op *op) {
    uint64_t key_octets = fr_to_key(op->msgid);
    MDB_val key = fr_val(&key_octets, 8), value;
    fr_place place;
    op->done = 0;
    int error = mdb_cursor_get(t->messages, &key, &value, MDB_SET);
    if (error) return error == MDB_NOTFOUND ? 0 : error;
    if (value.mv_size < FR_HEAD) return 0;
    fr_read_place(&place, value.mv_data);
    if (place.segment != op->old_segment || place.offset != op->old_offset || place.length != op->content_length
        || place.crc != op->crc) return 0;
    char *record = malloc(value.mv_size);
    if (!record) return ENOMEM;
    memcpy(record, value.mv_data, value.mv_size);
    fr_write_place(record, op->segment, op->crc, op->offset, op->content_length);
    value.mv_data = record;
    key = fr_val(&key_octets, 8);
    error = mdb_cursor_put(t->messages, &key, &value, 0);
    free(record);
    op->done = !error;
    return error;
}

static inline int fr_put_meta(fr_committer *c, fr_transaction *t, fr_op *op) {
    MDB_val key = fr_val(op->content, op->content_length), value = fr_val(op->record, op->record_length);
    if (op->record) return mdb_put(t->txn, c->meta, &key, &value, 0);
    int error = mdb_del(t->txn, c->meta, &key, NULL);
    return error == MDB_NOTFOUND ? 0 : error;
}

static inline int fr_apply(fr_committer *c, fr_transaction *t, fr_op *op, int accepts) {
    uint64_t key_octets = fr_to_key(op->msgid);
    MDB_val key = fr_val(&key_octets, 8), value = fr_val(op->record, op->record_length);
    switch (op->kind) {
    case FR_PUT:
    case FR_PUT_FILE: return accepts ? fr_put_record(c, t, op) : 0;
    case FR_STATE: return mdb_cursor_put(t->states, &key, &value, 0);
    case FR_DELETE: return fr_delete(c, t, op);
    case FR_MOVE: return accepts ? fr_move(t, op) : 0;
    default: return fr_put_meta(c, t, op);
    }
}

/* Event lines, packed into rows; rows never span batches. */
static inline int fr_put_events(fr_transaction *t, fr_batch *batch) {
    size_t at = 0, i = 0;
    while (i < batch->n_events) {
        uint64_t key_octets = fr_to_key(batch->events[i].sequence);
        size_t length = batch->events[i++].length;
        while (i < batch->n_events && length + batch->events[i].length <= FR_ROW_BYTES)
            length += batch->events[i++].length;
        MDB_val key = fr_val(&key_octets, 8), value = fr_val(batch->lines + at, length);
        int error = mdb_cursor_put(t->events, &key, &value, MDB_APPEND);
        if (error == MDB_KEYEXIST) error = mdb_cursor_put(t->events, &key, &value, 0);
        if (error) return error;
        at += length;
    }
    return 0;
}

/* Take out event rows that are in the log for good. */
static inline int fr_trim_events(fr_transaction *t, uint64_t synced, int all) {
    MDB_val key, value;
    for (int rows = 0; all || rows < FR_TRIM_ROWS; rows++) {
        int error = mdb_cursor_get(t->events, &key, &value, MDB_FIRST);
        if (error) return error == MDB_NOTFOUND ? 0 : error;
        if (fr_from_key(key.mv_data) > synced) return 0;
        error = mdb_cursor_del(t->events, 0);
        if (error) return error;
    }
    return 0;
}

static inline int fr_put_state(fr_committer *c, fr_transaction *t, fr_batch *batch) {
    fr_state_row row;
    memset(&row, 0, sizeof row);
    row.version = 1;
    row.next_segment = c->next_segment;
    row.batch = batch->number = c->batch_number + 1;
    row.next_id = batch->next_id;
    row.next_event = batch->next_event;
    for (int i = 0; i < FR_COUNTERS; i++) {
        c->transaction_counters[i] += batch->counts[i];
        row.counters[i] = c->counters[i] + c->transaction_counters[i];
    }
    MDB_val key = fr_val("state", 5), value = fr_val(&row, sizeof row);
    return mdb_put(t->txn, c->meta, &key, &value, 0);
}

static inline int fr_fill(fr_committer *c, fr_transaction *t, fr_batch *batch, int accepts, uint64_t synced) {
    int error = mdb_cursor_open(t->txn, c->messages, &t->messages);
    if (!error) error = mdb_cursor_open(t->txn, c->states, &t->states);
    if (!error) error = mdb_cursor_open(t->txn, c->events, &t->events);
    memset(c->transaction_counters, 0, sizeof c->transaction_counters);
    for (size_t i = 0; i < batch->n && !error; i++) error = fr_apply(c, t, &batch->ops[i], accepts);
    if (!error) error = fr_step(c, FR_STEP_PUT);
    if (!error) error = fr_put_events(t, batch);
    if (!error) error = fr_trim_events(t, synced, batch->last);
    if (!error) error = fr_put_state(c, t, batch);
    return error;
}

/* One attempt to commit the batch, with its accepts or without. 0, errno or a code of LMDB; nothing is changed unless
 * 0. */
static inline int fr_transact(fr_committer *c, fr_batch *batch, int accepts, int *step) {
    fr_transaction t = {0};
    *step = FR_STEP_BEGIN;
    int error = fr_step(c, FR_STEP_BEGIN);
    if (!error) error = mdb_txn_begin(c->env, NULL, 0, &t.txn);
    if (error) return error;
    pthread_mutex_lock(&c->mutex);
    uint64_t synced = c->log_synced;
    pthread_mutex_unlock(&c->mutex);
    *step = FR_STEP_PUT;
    error = fr_fill(c, &t, batch, accepts, synced);
    if (!error) {
        *step = FR_STEP_COMMIT;
        error = fr_step(c, FR_STEP_COMMIT);
    }
    if (error) {
        mdb_txn_abort(t.txn);
        return error;
    }
    error = mdb_txn_commit(t.txn);
    if (error) return error;
    c->batch_number++;
    for (int i = 0; i < FR_COUNTERS; i++) c->counters[i] += c->transaction_counters[i];
    return 0;
}

#endif
