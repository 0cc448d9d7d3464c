"""The shell around the SMTP client machine: one connection to an MX host, as uvloop's buffered protocol.

It owns the transport and nothing else: the machine says what to write and what happened, the engine has the mail,
the pool (fastrelay/deliver/pool.py) decides about connections. A session is idle (in `site.idle`), busy with one
delivery, or on its way out.

All connections of a worker read into one buffer (the engine's): uvloop reads and calls `buffer_updated` in one step, so
nobody else can touch it in between, and an idle connection costs no buffer. The same holds under TLS, where uvloop
decrypts into it and calls in one step.

TLS: when the machine says STARTTLS the pool is told; who upgrades the transport (fastrelay/deliver/handshake.py) calls
`secured`. With TLS from the first octet `connection_made` comes when the handshake is done, and does the same. uvloop
may miss to say that a broken TLS connection is lost, so `tick` sees to it.

Known faults: none.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.list cimport PyList_GET_SIZE

from fastrelay._core.client cimport (
    EVENT_DONE,
    EVENT_GREETING_REFUSED,
    EVENT_NEED_BODY,
    EVENT_NONE,
    EVENT_READY,
    EVENT_STARTTLS,
    STATE_CLOSED,
    STATE_HANDSHAKE,
    STATE_READY,
)
from fastrelay._core.transaction cimport Transaction

CLOSE_SECONDS = 20.0        # for a host to take what was written before the connection is cut off
LOST_SECONDS = 2.0          # after that, for uvloop to say so


@cython.final
cdef class Session:

    def __init__(self, SmtpClient client, Engine engine, SiteQueue site, pool, *, int source, str source_name, str host,
                 str address, bytes tail, Py_ssize_t messages, int most, Table table, uint32_t cell, uint32_t slot,
                 int32_t limit, int delivered_slot, transaction_seconds, urgent_cells=(), tls=None):
        """`tail`: the part of an event that is the same for all of this session's deliveries. `messages`: how many
        may go over this connection. `most`: recipients of one transaction. `cell`, `slot`, `limit`: its place in the
        shared connection count. `urgent_cells`: where other workers say (Table.want) that transactional mail of theirs
        waits for one of this session's places. `tls`: has `checked(session, ssl) -> bool`, which looks at a new TLS
        connection."""
        cdef int i
        self.client = client
        self.engine = engine
        self.site = site
        self.pool = pool
        self.source = source
        self.source_name = source_name
        self.host = host
        self.address = address
        self.tail = tail
        self.messages_left = messages
        self.most = most
        self.table = table
        self.cell = cell
        self.slot = slot
        self.limit = limit
        self.urgent_count = min(<int> len(urgent_cells), <int> MOST_CELLS)
        for i in range(self.urgent_count):
            self.urgent_cells[i] = urgent_cells[i]
        self.yields_for = 0
        self.delivered_slot = delivered_slot
        self.transaction_seconds = transaction_seconds
        self.tls = tls
        self.tls_version = self.tls_verified = ""
        self.buffer = <unsigned char*> PyByteArray_AS_STRING(engine.read_buffer)
        self.idle = self.ready = self.closing = self.closed = self.paused = False
        self.wanted = self.streaming = self.pumping = self.held = False
        self.gone_by = 0
        self.opened = engine.monotonic()

    # -- what uvloop calls --------------------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef double now
        self.transport = transport
        if self.tls is not None and self.client.state == STATE_HANDSHAKE:    # TLS from the first octet
            now = self.engine.monotonic()
            try:
                self.secured(transport, now)
            except Exception as error:
                self.pool.broke(self, error)

    def get_buffer(self, Py_ssize_t hint):
        return self.engine.read_buffer

    def buffer_updated(self, Py_ssize_t n):
        cdef double now = self.engine.monotonic()
        try:
            self.client.receive_bytes(self.buffer, n, now)
            self.pump(now)
        except Exception as error:
            self.pool.broke(self, error)

    def eof_received(self):
        return False

    def connection_lost(self, error):
        cdef double now = self.engine.monotonic()
        if self.closed:
            return
        self.closed = self.closing = True
        self.transport = None
        if self.yields_for:
            self.engine.yielding.discard(self.yields_for)
        try:
            self.client.connection_lost(now)
            self.pump(now)
            self._resume()
        except Exception as failure:
            self.pool.broke(self, failure)
        if self.delivery is not None:       # the machine never began it, or could not end it
            delivery, self.delivery = self.delivery, None
            self.engine.give_back(delivery)
            self.engine.cold.unsettled(delivery)
        self.pool.gone(self, error)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.client.progress(self.engine.monotonic(), 0)
        self._resume()

    def _resume(self):
        """The one who streams a body may look again."""
        if self.resumed is not None and not self.resumed.done():
            self.resumed.set_result(None)

    cpdef bint secured(self, transport, double now) except -1:
        """TLS stands on this transport: EHLO. False where something is wrong with the certificate: the session ends."""
        self.transport = transport
        self.ssl = transport.get_extra_info("ssl_object")
        if self.tls.checked(self, self.ssl):
            self.client.tls_started(now, self.tls_verified != "")
        self.pump(now)
        return not self.closing

    # -- what the machine says ----------------------------------------------------------------------------------

    cpdef int pump(self, double now) except -1:
        if self.pumping:
            return 0  # go() inside the loop below, which sees the new transaction's events itself: no recursion
        self.pumping = True
        try:
            self._follow(now)
        finally:
            self.pumping = False
        self._flush()
        if self.closing and self.client.state == STATE_CLOSED and not self.closed and self.transport is not None:
            self._close(now)
        return 0

    cdef int _follow(self, double now) except -1:
        cdef int event
        while True:
            event = self.client.next_event()
            if event == EVENT_NONE:
                break
            if event == EVENT_DONE:
                self._finish(now)
            elif event == EVENT_READY:
                if not self.ready:
                    self.ready = True
                    self.pool.ready(self, now)
                self.go(now)
            elif event == EVENT_NEED_BODY:
                self.wanted = True
                if not self.streaming:
                    self.streaming = True
                    self.pool.stream(self)
                self._resume()
            elif event == EVENT_STARTTLS:
                self.pool.starttls(self)
            elif event == EVENT_GREETING_REFUSED:
                self.closing = True
                self.pool.refused(self, self.client.last_reply)
            else:
                self.closing = True
        return 0

    cdef int _close(self, double now) except -1:
        """Closes once everything is written; `tick` cuts off a host that does not read it."""
        self.leave_idle()
        self.closing = True
        if self.transport is not None:
            if not self.gone_by:
                self.gone_by = now + CLOSE_SECONDS
            self.transport.close()
        return 0

    cdef int _flush(self) except -1:
        cdef list out = self.client.take_output()
        if not PyList_GET_SIZE(out):
            return 0
        if self.transport is None:
            return 0
        if self.delivery is not None and self.delivery.transaction.body_complete:
            self.engine.body_leaves(self.delivery)
        if PyList_GET_SIZE(out) == 1:
            self.transport.write(out[0])
        elif self.ssl is not None:
            self.transport.write(b"".join(out))     # uvloop makes a TLS record and a write of each otherwise
        else:
            self.transport.writelines(out)
        return 0

    cdef int _finish(self, double now) except -1:
        cdef Delivery delivery = self.delivery
        cdef Transaction tx = self.client.take_finished()
        self.delivery = None
        self.messages_left -= 1
        if delivery is None:
            return 0
        try:
            if tx.all_delivered:
                self.engine.settle_delivered(delivery, self.tail, now)
                self.engine.slab.inc(self.delivered_slot, PyList_GET_SIZE(delivery.recipients))
            else:
                self.engine.give_back(delivery)
                self.engine.cold.settle(delivery, self, now)
        except Exception as error:
            self.pool.broke(self, error)
            self.engine.cold.unsettled(delivery)
        self.engine.slab.observe(self.transaction_seconds, now - delivery.started)
        return 0

    cdef bint _over_share(self) noexcept:
        """Another worker waits for connections of this site and this one holds more than its share."""
        return self.limit > 0 and (self.table.held(self.cell, self.slot)
                                   > self.table.share(self.cell, self.slot, self.limit))

    cdef bint _missed_elsewhere(self) noexcept:
        """All places of the site are taken and another worker has mail for more than it holds."""
        cdef uint32_t other
        if self.limit <= 0 or self.table.used(self.cell) < self.limit:
            return False
        for other in range(self.table._slots):
            if other != self.slot and self.table.demanded(self.cell, other) > self.table.held(self.cell, other):
                return True
        return False

    cdef bint _gives_way(self, double now) except -1:
        """Transactional mail in another worker waits for a place that this session holds, and there is none of that
        here: it leaves, one session of this worker at a time."""
        cdef int i
        cdef int64_t now_ns
        if self.urgent_count == 0 or self.site.urgent:
            return False
        now_ns = self.engine.boot_ns(now)
        for i in range(self.urgent_count):
            if (self.table.others_want(self.urgent_cells[i], self.slot, now_ns)
                    and self.urgent_cells[i] not in self.engine.yielding):
                self.yields_for = self.urgent_cells[i]
                self.engine.yielding.add(self.yields_for)
                return True
        return False

    cpdef bint go(self, double now) except -1:
        """Starts the next transaction; False where there is none (the session is then idle)."""
        cdef Delivery delivery
        if self.closing or self.closed or self.client.state != STATE_READY:
            return False
        if self.messages_left <= 0 or self.held or self._over_share() or self._gives_way(now):
            self.leave(now)
            return False
        delivery = self.engine.pull(self.site, self.source, self.most, now)
        if delivery is None:
            if not self.idle:
                self.idle = True
                self.idle_since = now
                self.site.idle.append(self)
            return False
        self.leave_idle()
        self.delivery = delivery
        delivery.session = self
        self.client.begin(delivery.transaction, now)
        self.pump(now)
        return True

    # -- the pool's side -----------------------------------------------------------------------------------------

    def leave_idle(self):
        """No longer among the idle ones."""
        if self.idle:
            self.idle = False
            self.site.idle.remove(self)

    def leave(self, double now):
        """Says QUIT and goes once that is answered (or `quit` timed out); for a session that has nothing in hand.

        Until then it counts as open: hosts count a connection until they have read the QUIT, and one opened in its
        place at once would be one too many for them (RFC 5321 section 4.1.1.10 also asks to wait).
        """
        if self.closing:
            return
        self.leave_idle()
        self.closing = True
        self.client.quit(now)
        self.pump(now)

    def tick(self, double now):
        """Deadlines; the worker calls this about once a second for each session."""
        if self.gone_by and now >= self.gone_by:
            self.abort()
            if now >= self.gone_by + LOST_SECONDS:
                self.connection_lost(None)
            return
        if self.idle and (self._gives_way(now) or self._missed_elsewhere()):
            self.leave(now)
            return
        if self.paused and self.transport is not None:
            self.client.progress(now, self.transport.get_write_buffer_size())
        if self.client.deadline <= now:
            self.client.tick(now)
            self.pump(now)

    def chunk(self, bytes octets, bint last):
        """A piece of a streamed body; False where the machine wants no more."""
        cdef double now = self.engine.monotonic()
        cdef bint more
        self.wanted = False
        more = self.client.chunk(octets, last, now)
        self.pump(now)
        return more

    def abort(self):
        """Drops the connection at once; what is in hand is settled as cut off."""
        if self.transport is not None:
            self.transport.abort()
