"""The hot path's middle: what happens to a message between the two SMTP machines.

    accept   envelope and content → trace header, record → the spool's open batch. No reply is given yet.
    on_commit   the batch is on stable storage: reply 250, put into the index, wake the site.
    pull     a free session takes the next recipients of one message: index → record and content → Transaction.
    settle_delivered   every recipient was taken: event, counters, deletion → the open batch. A message that owes a
                       bounce message, or whose client asked for reports, is left to `cold` (outcome/owed.py).

Everything an operator may argue with (routes, retries, what a failure means) is behind `cold`, a Python object
(fastrelay/app.py) that is called only off the straight path.

Crash argument, by what is on disk when the process dies (DESIGN section 4):

    before the accept batch is committed    no 250 was sent; content without a record is garbage
    after it, before pull                   the record is there, nothing in the in-flight file: delivered at restart
    body handed to the socket               `body_leaves` wrote the in-flight slot before the write: the recipients go
                                            again, flagged possible_duplicate
    settled, batch not committed            as before: slot still set, so flagged
    batch committed, slot not yet cleared   the record is gone (or has the outcome); a slot without a queued recipient
                                            means nothing
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.string cimport memchr, memset

from fastrelay._core.flows cimport Lane, Queue, TRANSACTIONAL, Turn
from fastrelay._core.index cimport (
    IN_FLIGHT,
    LOADING,
    MESSAGE_ALONE,
    MESSAGE_ASKED,
    MESSAGE_HELD,
    MESSAGE_LATE,
    MESSAGE_OWES,
    MESSAGE_UNSIGNED,
    Message,
    NIL,
    READY,
    SUPPRESSION,
    RECIPIENT_POSSIBLE_DUPLICATE,
    RETRY,
    Recipient,
    SUSPENDED,
    UNPLACED,
    UNSIGNED,
    domain_key,
    message_flags,
    variant_of,
)
from fastrelay._core.record cimport (
    FLAG_EIGHT_BIT,
    FLAG_REPORTS_ASKED,
    FLAG_REQUIRETLS,
    FLAG_TLS_OPTIONAL,
    FLAG_UNSIGNED,
    FLAG_UTF8_ADDRESS,
    FLAG_UTF8_HEADER,
    FLAG_VERP,
    Head,
    RecipientView,
    Times,
    encode_record,
    first_recipient,
    head_of,
    head_size,
    next_recipient,
    times_of,
)
from fastrelay._core.reply cimport Reply

cdef enum:
    MOST_RECIPIENTS = 1000      # of one transaction
    LOOKED_AT_ONCE = 500        # recipients that one pull passes over: expired, held, or of another site
    STARVED_AT_ONCE = 64        # sites

import email.utils
import time as _time

from fastrelay.spool.errors import SpoolError

READ_BUFFER_BYTES = 256 * 1024
NO_RULES = Gate()
PLAIN_NAME = bytes(c if 32 < c < 127 and c not in b'()<>"\\' else 63 for c in range(256))


cdef bytes _reply_json(Reply reply):
    """The part of an event that tells a reply; hosts say the same thing over and over, so the last one is kept."""
    import json
    fields = {"code": reply.code, "enhanced": reply.enhanced, "reply": reply.text_for_log()}
    made = json.dumps({name: value for name, value in fields.items() if value}, separators=(",", ":"))
    return b"," + made[1:len(made) - 1].encode()


cdef bint _asks_reports(list parameters) except -1:
    """Whether RCPT parameters ask for more than reports of failure. An odd ORCPT may say yes, too."""
    cdef bytes one
    for one in parameters:
        if one is not None and (b"SUCCESS" in one.upper() or b"DELAY" in one.upper()):
            return True
    return False


@cython.final
@cython.freelist(256)
cdef class Accepted:
    """A message that waits for its commit."""


@cython.final
@cython.freelist(256)
cdef class Hot:
    """A message whose record and content are still in memory."""


@cython.final
@cython.freelist(256)
cdef class Delivery:
    """One transaction: which recipients of which message, in whose hands."""


@cython.final
cdef class Engine:
    """One worker's middle. All calls on the loop's thread; `now` is monotonic seconds."""

    def __init__(self, Index index, Slab slab, cold, *, monotonic, wall, bytes hostname, Py_ssize_t received_limit,
                 Py_ssize_t queued_limit, Py_ssize_t hot_bytes, int64_t expire_ms, boottime_ns=None):
        self.index = index
        self.slab = slab
        self.cold = cold
        self.monotonic = monotonic
        self.wall = wall
        self.spools = []
        self.inflights = []
        self.tags = []
        self.spool = None
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self.hostname = hostname
        self.received_limit = received_limit
        self.queued_limit = queued_limit
        self.hot_limit = hot_bytes
        self.loading_limit = 64
        self.expire_ms = expire_ms
        self.class_expire_ms[0] = self.class_expire_ms[1] = self.class_expire_ms[2] = 0
        self.boottime_ns = boottime_ns or (lambda: int(monotonic() * 1e9))
        self.boot_for = -1
        self.yielding = set()
        self.waiting = Waiting()
        self.assign = None
        self.seal = None
        self.assigned = False
        self.suspensions = False
        self.suppression = None
        self.held_back = False
        self.field_names = frozenset()
        memset(self.field_initials, 0, 256)
        self.hot = {}
        self.hot_bytes = 0
        self.loading = 0
        self.text = Text()
        self.dirty = []
        self.starved = []
        self.second = -1
        self.accept_edit = None
        self.accepted_messages = slab.counter("fastrelay_accepted_messages_total")
        self.accepted_recipients = slab.counter("fastrelay_accepted_recipients_total")
        self.accepted_bytes = slab.counter("fastrelay_accepted_bytes_total")
        self.events_total = slab.counter("fastrelay_events_total")
        self.duplicates_total = slab.counter("fastrelay_possible_duplicates_total")
        self.denials = {}

    def add_spool(self, Spool spool, Inflight inflight, tag):
        """The first one is this worker's own; others (of workers that are no more) are only drained."""
        self.spools.append(spool)
        self.inflights.append(inflight)
        self.tags.append(tag.encode() if isinstance(tag, str) else tag)
        if len(self.spools) == 1:
            self.spool = spool
            self.inflight = inflight
        return len(self.spools) - 1

    cdef int64_t boot_ns(self, double now) except -1:
        """CLOCK_BOOTTIME, read once for all that is done at the monotonic time `now`. It may be that much old: a limit
        that is asked for an earlier moment gives less, never more."""
        if now != self.boot_for:
            self.boot_then_ns = self.boottime_ns()
            self.boot_for = now
        return self.boot_then_ns

    # -- words ------------------------------------------------------------------------------------------------

    cdef int _clock(self, double wall) except -1:
        cdef int64_t second = <int64_t> wall
        if second != self.second:
            self.second = second
            self.second_iso = _time.strftime("%Y-%m-%dT%H:%M:%S.", _time.gmtime(second)).encode()
            self.second_date = email.utils.formatdate(second).replace("-0000", "+0000").encode()
        return 0

    cdef int _event_begin(self, const char* name, double wall, bytes tag, uint64_t msgid) except -1:
        """Up to and including the id: `"event":"…","time":"…","id":"…"`."""
        cdef Text text = self.text
        cdef int ms
        cdef char digits[3]
        self._clock(wall)
        ms = <int> ((wall - self.second) * 1000)
        digits[0] = <char> (48 + ms // 100)
        digits[1] = <char> (48 + ms // 10 % 10)
        digits[2] = <char> (48 + ms % 10)
        text.length = 0
        text.add(b'"event":"', 9)
        text.add_bytes(name)
        text.add(b'","time":"', 10)
        text.add_bytes(self.second_iso)
        text.add(digits, 3)
        text.add(b'Z","id":"', 9)
        text.add_bytes(tag)
        text.add(b'-', 1)
        text.add_hex(msgid)
        text.add(b'"', 1)
        return 0

    def message_id(self, uint64_t msgid, int spool=0):
        return f"{self.tags[spool].decode()}-{msgid:x}"

    def event(self, str name, int spool, uint64_t msgid, dict fields):
        """Adds an event of the cold paths: `fields` is what follows the id."""
        import json
        cdef Spool at = <Spool> self.spools[spool]
        self._event_begin(name.encode(), self.wall(), self.tags[spool], msgid)
        rest = json.dumps(fields, separators=(",", ":")).encode()
        self.text.add(b",", 1)
        self.text.add(PyBytes_AS_STRING(<bytes> rest) + 1, PyBytes_GET_SIZE(<bytes> rest) - 1)
        self.text.add(b"\n", 1)
        at.add_event(self.text.take())
        self.slab.inc(self.events_total, 1)

    # -- in -----------------------------------------------------------------------------------------------------

    cpdef bytes accept(self, object connection, Envelope envelope, bytes client, bytes trace_head, object large,
                       double now):
        """Puts a message into the open batch. None: the reply follows from on_commit; else the refusal to send.

        `trace_head` is the Received line up to the id, made once for a connection. `large` is the file of a
        content that was streamed to disk, or None.
        """
        cdef Spool spool = self.spool
        cdef Accepted a
        cdef bytes content = envelope.content
        cdef bytes address, name, prefix, campaign = b"", tenant = b"", pool = b"", edited = b""
        cdef bytes warnings = None
        cdef dict fields = None
        cdef list recipients = envelope.recipients
        cdef list parameters = envelope.recipient_parameters
        cdef Py_ssize_t count = PyList_GET_SIZE(recipients), i
        cdef int flags = 0, priority = 0, variant, spare = 0
        cdef uint32_t expire_s = 0
        cdef int64_t not_before_ms = 0
        cdef double wall = self.wall()
        if not spool.accepting:
            return spool.refusal.encode() + b"\r\n"
        if envelope.received_count > self.received_limit:
            return b"554 5.4.6 Too many Received header fields: mail loop\r\n"
        if self.index.queued_recipients + count > self.queued_limit:
            return b"452 4.3.1 Queue is full, try again later\r\n"
        if content is None:
            header = large.names        # its header was edited on the way to the file
            if header is not None:
                fields, edited = header
        elif self.field_names and self._has_field(content, envelope.header_length):
            header = self.accept_edit(envelope)
            if header is not None:
                fields, edited = header
                content = edited + content[envelope.header_length:]
        mail = getattr(connection, "mail", None)
        if fields is not None or mail is not None or self.assigned:
            found = self.assign(fields, mail, envelope.reverse_path, wall)
            if type(found) is bytes:
                return found
            campaign, tenant, pool, priority, expire_s, not_before_ms, spare = found
        if envelope.requiretls:
            flags |= FLAG_REQUIRETLS        # the header field says nothing then (RFC 8689 section 5)
        elif fields is not None and "tls_optional" in fields:
            flags |= FLAG_TLS_OPTIONAL
        variant = variant_of(flags)
        a = Accepted.__new__(Accepted)
        a.domains = []
        for i in range(count):
            address = recipients[i]
            name = address[address.rfind(b"@") + 1:].lower()
            domain = self.index.domains.get(domain_key(name, pool, variant))
            if domain is None:
                domain = self._new_domain(name, pool, variant)
                if domain is None:
                    return b"550 5.1.2 Recipient domain can't be used: " + name[:100] + b"\r\n"
            a.domains.append(domain)
        if envelope.eight_bit:
            flags |= FLAG_EIGHT_BIT
        if envelope.smtputf8:
            if envelope.eight_bit_header:
                flags |= FLAG_UTF8_HEADER
            if not envelope.reverse_path.isascii() or not all([address.isascii() for address in recipients]):
                flags |= FLAG_UTF8_ADDRESS
        a.msgid = spool.next_id()
        prefix = self._trace(envelope, trace_head, a.msgid, wall)
        if self.seal is not None:
            if fields is None:
                edited = envelope.header if content is None else content[:envelope.header_length]
            found = self.seal.seal(
                envelope, edited, content, None if content is not None else large.hasher,
                (campaign, tenant, pool, priority), self.message_id(a.msgid), wall,
            )
            if type(found) is bytes:
                return found
            prefix = <bytes> found[0] + prefix + <bytes> found[1]
            flags |= <int> found[2]
            warnings = found[3]
        if parameters is not None:
            if not any(parameters):
                parameters = None
            elif _asks_reports(parameters):
                flags |= FLAG_REPORTS_ASKED
        a.raw = encode_record(<int64_t> (wall * 1000), flags, priority, envelope.reverse_path,
                              self.cold.mail_parameters(envelope) if envelope.ret or envelope.envid else b"", campaign,
                              tenant, pool, client, envelope.helo, prefix, recipients, parameters, expire_s,
                              not_before_ms, spare)
        a.connection = connection
        a.content = content
        a.size = (large.file.length if content is None else PyBytes_GET_SIZE(content)) + PyBytes_GET_SIZE(prefix)
        a.campaign = self.index.name_number(campaign) if campaign else 0
        a.tenant = self.index.name_number(tenant) if tenant else 0
        a.priority = priority
        a.flags = flags
        a.expire_s = expire_s
        a.hold_ms = not_before_ms - <int64_t> (wall * 1000) if not_before_ms else 0
        a.since = now
        try:
            if content is not None:
                spool.put_message(a.msgid, a.raw, content, a)
            else:
                spool.put_message_file(a.msgid, a.raw, large.file, a)
        except SpoolError as error:
            return error.reply.encode() + b"\r\n"
        self._event_accepted(a, envelope, client, wall, warnings)
        self.slab.inc(self.events_total, 1)
        return None

    cdef bint _has_field(self, bytes content, Py_ssize_t header_length) except -1:
        """Whether the header has one of the fields that clients speak to us by: a look at each line's name."""
        cdef const char* at = PyBytes_AS_STRING(content)
        cdef const char* end = at + min(header_length, PyBytes_GET_SIZE(content))
        cdef const char* line_end
        cdef char name[FIELD_NAME_LONGEST]
        cdef Py_ssize_t n
        while at < end:
            if self.field_initials[<unsigned char> at[0]]:
                n = 0
                while n < FIELD_NAME_LONGEST and at + n < end and at[n] != 58 and at[n] > 32:
                    name[n] = at[n] + 32 if 65 <= at[n] <= 90 else at[n]
                    n += 1
                if n < FIELD_NAME_LONGEST and name[:n] in self.field_names:
                    return True
            line_end = <const char*> memchr(at, 10, end - at)
            if line_end == NULL:
                return False
            at = line_end + 1
        return False

    def set_field_names(self, names):
        """Names (lower case) of the header fields that `accept_edit` takes out, at most 76 octets each."""
        cdef int i
        self.field_names = frozenset(names)
        for i in range(256):
            self.field_initials[i] = 0
        for name in names:
            if len(name) >= FIELD_NAME_LONGEST:
                raise ValueError(f"header field name of {len(name)} octets: at most {FIELD_NAME_LONGEST - 1}")
            self.field_initials[<unsigned char> name[0]] = 1
            self.field_initials[<unsigned char> name.upper()[0]] = 1

    cdef bytes _trace(self, Envelope envelope, bytes trace_head, uint64_t msgid, double wall):
        """The Received field (RFC 5321 section 4.4); `for` only where it gives no other recipient away."""
        cdef Text text = self.text
        cdef list recipients = envelope.recipients
        self._clock(wall)
        text.length = 0
        text.add_bytes(trace_head)
        text.add_bytes(<bytes> self.tags[0])
        text.add(b"-", 1)
        text.add_hex(msgid)
        if PyList_GET_SIZE(recipients) == 1 and not envelope.smtputf8:
            text.add(b"\r\n\tfor <", 8)
            text.add_bytes(recipients[0])
            text.add(b">", 1)
        text.add(b";\r\n\t", 4)
        text.add_bytes(self.second_date)
        text.add(b"\r\n", 2)
        return text.take()

    cdef int _event_accepted(self, Accepted a, Envelope envelope, bytes client, double wall,
                             bytes warnings) except -1:
        cdef Text text = self.text
        cdef bytes part
        cdef bint first = True
        self._event_begin(b"accepted", wall, self.tags[0], a.msgid)
        text.add(b',"reverse_path":', 16)
        part = envelope.reverse_path
        text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        text.add(b',"recipients":[', 15)
        for part in envelope.recipients:
            if not first:
                text.add(b",", 1)
            first = False
            text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        text.add(b'],"size_bytes":', 15)
        text.add_number(a.size)
        text.add(b',"client":', 10)
        text.add_json(PyBytes_AS_STRING(client), PyBytes_GET_SIZE(client))
        text.add(b',"helo":', 8)
        part = envelope.helo
        text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        if envelope.event_part is not None:
            text.add_bytes(envelope.event_part)
        self._event_names(a.campaign, a.tenant)
        if warnings is not None:
            text.add(b',"warnings":', 12)
            text.add_bytes(warnings)
        text.add(b"}\n", 2)
        self.spool.add_accept_event(text.take())
        return 0

    cdef int _event_names(self, uint32_t campaign, uint32_t tenant) except -1:
        cdef bytes part
        if campaign:
            part = self.index.name_list[campaign]
            self.text.add(b',"campaign":', 12)
            self.text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        if tenant:
            part = self.index.name_list[tenant]
            self.text.add(b',"tenant":', 10)
            self.text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        return 0

    def on_commit(self, list cookies, error):
        """A batch is on stable storage (error None) or its new messages are not (error a SpoolError)."""
        cdef double now = self.monotonic()
        cdef int64_t now_ms = <int64_t> (now * 1000)
        cdef Accepted a
        for cookie in cookies:
            try:
                if type(cookie) is Accepted:
                    a = <Accepted> cookie
                    if error is None:
                        self._accepted(a, now_ms)
                        a.connection.stored(b"250 2.0.0 Ok: queued as " + <bytes> self.tags[0]
                                            + b"-%x\r\n" % a.msgid, now)
                    else:
                        a.connection.stored(error.reply.encode() + b"\r\n", now)
                elif type(cookie) is Delivery:
                    self.released(<Delivery> cookie)
                else:
                    cookie(error)
            except Exception as failure:
                self.cold.failed("after a commit", failure)
        self.wake_dirty(now)

    cdef int _accepted(self, Accepted a, double now_ms) except -1:
        """Into the index, and to the site where the route is known."""
        cdef Index index = self.index
        cdef Py_ssize_t i, count = PyList_GET_SIZE(a.domains)
        cdef uint32_t m, r
        cdef Domain domain
        cdef Hot hot
        m = index.add_message(a.msgid, <int64_t> now_ms, <uint32_t> a.size, <uint32_t> count, a.campaign, a.tenant,
                              <uint8_t> a.priority, 0, a.expire_s)
        index.message(m).flags = message_flags(a.flags)
        for i in range(count - 1, -1, -1):
            domain = a.domains[i]
            if (<list> index.domain_list)[domain.number] is not domain:
                domain = index.domain(domain.name, domain.pool, domain.variant)
                a.domains[i] = domain
            r = index.add_recipient(m, <uint16_t> i, domain)
        # Before anything is placed: a route that fails may end the message at once, and forget what is hot.
        if a.content is not None and self.hot_bytes + PyBytes_GET_SIZE(a.content) <= self.hot_limit:
            hot = Hot.__new__(Hot)
            hot.record = Record(a.raw)
            hot.content = a.content
            self.hot[a.msgid] = hot
            self.hot_bytes += PyBytes_GET_SIZE(a.content)
        if self.suppression is not None and a.hold_ms <= 0:
            self._look_up_accepted(m, a)
        r = index.message(m).first if index.message(m).in_use else NIL      # all may be suppressed
        while r != NIL:
            domain = <Domain> index.domain_list[index.recipient(r).domain]
            if a.hold_ms > 0:
                index.defer(r, <int64_t> now_ms + a.hold_ms)
            elif a.flags & FLAG_UNSIGNED:
                self.place_ready(r, now_ms / 1000)
            elif self.suspensions and self.cold.suspended(r):
                index.place(r, SUSPENDED)
            elif domain.site is not None and domain.route_expires * 1000 > now_ms:
                index.push_site(domain.site, r)
                if not domain.site.dirty:
                    domain.site.dirty = True
                    self.dirty.append(domain.site)
            else:
                index.push(domain.pending, r)
                if not domain.resolving:
                    self.cold.unrouted(domain)
            r = index.recipient(r).sibling
        self.slab.inc(self.accepted_messages, 1)
        self.slab.inc(self.accepted_recipients, count)
        self.slab.inc(self.accepted_bytes, a.size)
        return 0

    # -- the suppression list -----------------------------------------------------------------------------------

    cdef int _look_up_accepted(self, uint32_t m, Accepted a) except -1:
        """Ends the recipients of a message just accepted that are suppressed; the others are looked up again when they
        are pulled, and so are all where this fails."""
        cdef uint32_t r = self.index.message(m).first
        cdef list numbers = []
        while r != NIL:
            numbers.append(r)
            r = self.index.recipient(r).sibling
        try:
            hot = self.hot.get(a.msgid)
            self._not_suppressed(m, (<Hot> hot).record if hot is not None else Record(a.raw), numbers, False)
        except Exception as error:
            self.cold.failed("looking up new recipients in the suppression list", error)
        return 0

    cdef list _not_suppressed(self, uint32_t m, Record record, list numbers, bint place):
        """Those of a message's recipients that are not suppressed; the others end as such. Where the list can't be
        read, nobody is known to be free: then `place` puts them at SUPPRESSION and gives none."""
        cdef Index index = self.index
        cdef Domain domain
        cdef list kept = None, ended
        cdef uint32_t r
        cdef tuple pair
        find = self.suppression.find
        ended = []
        try:
            for r in numbers:
                pair = record.recipient(index.recipient(r).number)
                domain = <Domain> index.domain_list[index.recipient(r).domain]
                found = find(pair[0], domain.name)
                if found is not None:
                    entry = self.suppression.stops(found, m, record)
                    if entry is not None:
                        ended.append((r, entry))
        except Exception as error:
            self.suppression.unreadable(error)
            if not place:
                return numbers
            for r in numbers:
                index.place(r, SUPPRESSION)
            return []
        if not ended:
            return numbers
        gone = {found[0] for found in ended}
        kept = [r for r in numbers if r not in gone]
        for found in ended:
            self.suppression.end(found[0], found[1])
        return kept

    # -- at start -----------------------------------------------------------------------------------------------

    def load_slice(self, Scan scan, int spool, Py_ssize_t most, dict suspects, uint64_t power_mark, double now):
        """Puts up to `most` messages of a spool into the index; False at its end.

        `suspects`: {msgid: [envelope numbers]} of what was in flight when the last process died; `power_mark`: messages
        below it that were never tried since are flagged, as the host lost power while they were due. Recipients
        land in their domain's queue, or in the wheel where the state says so.
        """
        cdef Py_ssize_t _done
        cdef const Head* head
        cdef const unsigned char* at
        cdef const unsigned char* end
        cdef const unsigned char* raw
        cdef RecipientView view
        cdef int64_t wall_ms = <int64_t> (self.wall() * 1000), now_ms = <int64_t> (now * 1000), age_ms, hold_ms
        cdef uint32_t m, r, number
        cdef list domains
        cdef const Times* times
        cdef bytes pool
        scan.renew()
        for _done in range(most):
            if not scan.next():
                return False
            raw = <const unsigned char*> scan.record
            head = head_of(raw, <Py_ssize_t> scan.record_length)
            if head == NULL:
                self.cold.bad_record(spool, scan.msgid)
                continue
            age_ms = wall_ms - head.accepted_ms
            if age_ms < 0:
                age_ms = 0
            if suspects and scan.msgid in suspects or scan.state != NULL:
                self.cold.load(spool, scan.msgid, scan.record[:scan.record_length],
                               scan.state[:scan.state_length] if scan.state != NULL else None,
                               suspects.get(scan.msgid) if suspects else None, now_ms - age_ms)
                continue
            domains = []
            pool = self._pool_in(raw, head)
            times = times_of(head)
            hold_ms = times.not_before_ms - wall_ms if times != NULL and times.not_before_ms else 0
            at = first_recipient(raw)
            end = raw + scan.record_length
            for _number in range(head.recipients):
                at = next_recipient(at, end, &view)
                if at == NULL:
                    break
                domains.append(self._domain_of(view.address, view.address_length, pool, variant_of(head.flags)))
            m = self.index.add_message(scan.msgid, now_ms - age_ms, <uint32_t> (head.length + head.prefix_length),
                                       head.recipients, self._name_in(raw, head, 0), self._name_in(raw, head, 1),
                                       head.priority, <uint8_t> spool, times.expire_s if times != NULL else 0)
            self.index.message(m).flags = message_flags(head.flags)
            for number in range(<uint32_t> PyList_GET_SIZE(domains)):
                number = <uint32_t> PyList_GET_SIZE(domains) - 1 - number
                r = self.index.add_recipient(m, <uint16_t> number, <Domain> domains[number])
                if scan.msgid < power_mark:
                    self.index.recipient(r).flags |= RECIPIENT_POSSIBLE_DUPLICATE
            r = self.index.message(m).first
            while r != NIL:
                if hold_ms > 0:
                    self.index.defer(r, now_ms + hold_ms)
                else:
                    self.place_ready(r, now)
                r = self.index.recipient(r).sibling
        return True

    cdef Domain _new_domain(self, bytes name, bytes pool, int variant):
        return self.cold.domain_for(name, pool, variant) if pool or variant else self.cold.domain_for(name)

    cdef Domain _domain_of(self, const char* address, Py_ssize_t length, bytes pool, int variant):
        cdef Py_ssize_t i = length
        cdef bytes name
        while i > 0 and address[i - 1] != 64:
            i -= 1
        name = PyBytes_FromStringAndSize(address + i, length - i).lower()
        domain = self.index.domains.get(domain_key(name, pool, variant))
        if domain is None:
            domain = self._new_domain(name, pool, variant) or self.index.domain(b"invalid", pool, variant)
        return domain

    cdef bytes _pool_in(self, const unsigned char* raw, const Head* head):
        cdef const char* at = (<const char*> raw + head_size(head) + head.reverse_path_length
                               + head.mail_parameters_length + head.campaign_length + head.tenant_length)
        return at[:head.pool_length] if head.pool_length else b""

    cdef uint32_t _name_in(self, const unsigned char* raw, const Head* head, int which) except? 0xFFFFFFFF:
        cdef const char* at = (<const char*> raw + head_size(head) + head.reverse_path_length
                               + head.mail_parameters_length)
        if which == 0:
            return self.index.name_number(at[:head.campaign_length]) if head.campaign_length else 0
        at += head.campaign_length
        return self.index.name_number(at[:head.tenant_length]) if head.tenant_length else 0

    cpdef int place_ready(self, uint32_t r, double now) except -1:
        """To its site where the route is known, else to its domain's queue."""
        cdef Domain domain = <Domain> self.index.domain_list[self.index.recipient(r).domain]
        if self.suspensions and self.cold.suspended(r):
            self.index.place(r, SUSPENDED)
            return 0
        if (self.index.message(self.index.recipient(r).message).flags & MESSAGE_UNSIGNED
                and self.cold.keyless(self.index.recipient(r).message)):
            self.index.place(r, UNSIGNED)
            return 0
        if domain.site is not None and domain.route_expires > now:
            self.index.push_site(domain.site, r)
            self.wake(domain.site)
            return 0
        self.index.push(domain.pending, r)
        if not domain.resolving:
            self.cold.unrouted(domain)
        return 0

    def advance(self, double now, int most=2000):
        """Makes due retries ready; gives how many came (call again while it is `most`)."""
        cdef list due = self.index.wheel.advance(<int64_t> (now * 1000), most)
        cdef uint32_t r
        for r in due:
            self.index.not_before -= self.index.recipient(r).attempts == 0
            self.index.recipient(r).place = UNPLACED
            self.index.places[RETRY] -= 1
            self.index.places[UNPLACED] += 1
            try:
                self.place_ready(r, now)
            except Exception as error:
                self.cold.failed("making a retry ready", error)
        return PyList_GET_SIZE(due)

    def route_pending(self, Domain domain, double now):
        """The domain has a site now: everything that waited for it is ready."""
        cdef uint32_t r
        while True:
            r = self.index.pop(domain.pending)
            if r == NIL:
                break
            if self.suspensions and self.cold.suspended(r):
                self.index.place(r, SUSPENDED)
            else:
                self.index.push_site(domain.site, r)
        self.wake(domain.site)

    def count(self, int spool, int outcome, int n):
        """Durable counters of a spool (commit.pxd) from the cold paths."""
        (<Spool> self.spools[spool]).count(outcome, n)

    # -- out ----------------------------------------------------------------------------------------------------

    cpdef int wake(self, object who) except -1:
        """Marks a site for wake_dirty; also by what waits for a limit on its behalf (Turn, Flow)."""
        cdef SiteQueue site
        if type(who) is SiteQueue:
            site = <SiteQueue> who
        elif type(who) is Flow:
            site = (<Flow> who).site
            self.index.unpark_flow(<Flow> who)
        else:
            site = (<Turn> who).site
        if not site.dirty:
            site.dirty = True
            self.dirty.append(site)
        return 0

    def wake_dirty(self, double now):
        """Gives new work to idle sessions, and lets pools open connections."""
        cdef SiteQueue site
        cdef list dirty
        if self.waiting._heap:
            self.wake_waiting(self.boottime_ns())
        if self.starved and self.loading < self.loading_limit:
            self.dirty += self.starved[:STARVED_AT_ONCE]
            del self.starved[:STARVED_AT_ONCE]
        if not self.dirty:
            return
        dirty = self.dirty
        self.dirty = []
        for site in dirty:
            site.dirty = False
            try:
                self._wake_site(site, now)
            except Exception as error:
                self.cold.failed("giving work to sessions", error)

    cdef int _wake_site(self, SiteQueue site, double now) except -1:
        if site.idle:
            for session in list(site.idle):
                if site.dirty or not site.ready():
                    break
                session.go(now)
        if site.ready() and not site.dirty:
            self.cold.pump(site, now)
        return 0

    cdef int _starve(self, SiteQueue site) except -1:
        """Something that all sites share is used up: this one is looked at again at a later wake_dirty."""
        if not site.dirty:
            site.dirty = True
            self.starved.append(site)
        return 0

    cpdef Delivery pull(self, SiteQueue site, int source, int most, double now):
        """The next recipients of one message for a session of `source` (number), at most `most`; None: nothing.

        Whose turn it is says the index (fair shares); then the limits of the flow (its campaign and tenant) are asked,
        then those of the source at this site. A flow that is denied is passed over until a time; where the site is
        denied, nothing is sent and the site says why.
        """
        cdef Index index = self.index
        cdef uint32_t r
        cdef int64_t now_ms = <int64_t> (now * 1000), now_ns = 0
        cdef Recipient* recipient
        cdef Domain domain
        cdef Delivery delivery
        cdef Flow flow
        cdef Spool spool
        cdef Inflight inflight
        cdef Gate gate, flow_gate
        cdef list numbers
        cdef Py_ssize_t kept, wanted
        cdef int looked_at = 0, granted
        if self.held_back or site.held or site.count == 0:
            return None
        gate = site.gates.get(source)
        if gate is None:
            gate = self._gate(site, source)
        if gate.count or site.parked or site.cold_gates:
            now_ns = self.boot_ns(now)
            if site.cold_gates and self._left_to_cold(site, source, gate, now_ns):
                return None
        most = min(most, <int> MOST_RECIPIENTS)
        while True:
            looked_at += 1
            if self.loading >= self.loading_limit or looked_at > LOOKED_AT_ONCE:
                self._starve(site)
                return None
            r = index.peek_site(site, source + 1, now_ns)
            if r == NIL:
                self._nothing(site)
                return None
            recipient = index.recipient(r)
            domain = <Domain> index.domain_list[recipient.domain]
            if domain.site is not site or domain.route_expires <= now:
                self._misrouted(r, site, now)
                continue
            if self._expired(recipient.message, now_ms):
                self.cold.expire(r)
                continue
            if self.suspensions and self.cold.suspended(r, source):
                index.place(r, SUSPENDED)
                continue
            spool = <Spool> self.spools[index.message(recipient.message).spool]
            inflight = <Inflight> self.inflights[index.message(recipient.message).spool]
            if spool.settle_blocked or inflight.used > inflight.slots // 2:
                self._starve(site)
                return None
            flow = index.flow_of(site, r)
            numbers = self._together(r, site, source, most)
            flow_gate = flow.gate if flow.gate is not None else self._flow_gate(flow)
            granted = 0
            if gate.count or flow_gate.count:
                if now_ns == 0:
                    now_ns = self.boot_ns(now)
                granted = self._permit(site, source, flow, gate, <int> PyList_GET_SIZE(numbers), now_ns)
                if granted == 0:
                    if flow.parked_until_ns:
                        continue
                    return None
                del numbers[granted:]
            wanted = PyList_GET_SIZE(numbers)
            index.charge(site, flow, wanted)
            delivery = self._load(r, site, numbers)
            kept = PyList_GET_SIZE(numbers)
            if delivery is not None:
                if kept < wanted:       # the others are suppressed
                    if granted > kept:
                        gate.unused(<int> (granted - kept))
                        flow_gate.unused(<int> (granted - kept))
                        granted = <int> kept
                    index.charge(site, flow, kept - wanted)
                delivery.started = now
                delivery.permits = granted
                delivery.permitted_ns = now_ns
                delivery.gate = gate
                delivery.flow_gate = flow_gate
                return delivery
            # Nothing was written: its content is being read first (`_back` takes back the charge), or it is damaged.
            gate.unused(granted)
            flow_gate.unused(granted)
            index.charge(site, flow, (1 if kept else 0) - wanted)

    cdef bint _expired(self, uint32_t m, int64_t now_ms) noexcept:
        """Whether a message was queued for as long as it may be."""
        return now_ms - self.index.message(m).accepted_at_ms > self._lifetime_ms(m)

    cdef int64_t _lifetime_ms(self, uint32_t m) noexcept:
        """From acceptance to expiry: its own, or that of its class, or retry.expire."""
        cdef Message* message = self.index.message(m)
        if message.expire_s:
            return <int64_t> message.expire_s * 1000
        return self.class_expire_ms[message.priority] or self.expire_ms

    def expires_in_ms(self, uint32_t m, double now):
        """Milliseconds until a queued message is given up; below 0 where that is due."""
        return self.index.message(m).accepted_at_ms + self._lifetime_ms(m) - <int64_t> (now * 1000)

    def set_fairness(self, fairness):
        """Weights and expiry by class, of the configuration (config/sending.py, Fairness)."""
        classes = (fairness.bulk, fairness.normal, fairness.transactional)
        for number, one in enumerate(classes):
            self.class_expire_ms[number] = 0 if one.expire_seconds is None else int(one.expire_seconds * 1000)
        self.index.set_weights(
            [one.weight for one in classes],
            {name.encode(): weight for name, weight in fairness.campaigns.items()},
            {name.encode(): weight for name, weight in fairness.tenants.items()},
        )

    def expired(self, uint32_t start, Py_ssize_t slice_messages, double now):
        """Recipients queued for as long as they may be, in hand or not, from message number `start` on: (next start or
        None at the end, [recipients]). Looks at `slice_messages` messages at most."""
        cdef Index index = self.index
        cdef int64_t now_ms = <int64_t> (now * 1000)
        cdef uint32_t m, r, stop = <uint32_t> min(<Py_ssize_t> index.message_top, start + slice_messages)
        cdef list found = []
        for m in range(start, stop):
            if index.message(m).in_use and self._expired(m, now_ms):
                r = index.message(m).first
                while r != NIL:
                    found.append(r)
                    r = index.recipient(r).sibling
        return (stop if stop < index.message_top else None), found

    def late(self, uint32_t start, Py_ssize_t slice_messages, Py_ssize_t most, int64_t delay_ms, bint asked,
             double now):
        """Messages queued for longer than `delay_ms`, each once, from message number `start` on: (next start or None at
        the end, [message numbers]). Looks at `slice_messages` at most, gives `most` at most; with `asked` only those
        whose client asked for reports."""
        cdef Index index = self.index
        cdef int64_t before_ms = <int64_t> (now * 1000) - delay_ms
        cdef uint32_t m, stop = <uint32_t> min(<Py_ssize_t> index.message_top, start + slice_messages)
        cdef Message* message
        cdef list found = []
        for m in range(start, stop):
            message = index.message(m)
            if not message.in_use or message.flags & MESSAGE_LATE or message.accepted_at_ms >= before_ms:
                continue
            if PyList_GET_SIZE(found) >= most:
                return m, found
            message.flags |= MESSAGE_LATE
            if message.flags & MESSAGE_ASKED or not asked:
                found.append(m)
        return (stop if stop < index.message_top else None), found

    # -- limits ---------------------------------------------------------------------------------------------------

    cdef Gate _gate(self, SiteQueue site, int source):
        """The limits of a source at a site, asked for once."""
        ask = getattr(self.cold, "gate", None)
        cdef Gate gate = ask(site, source) if ask is not None else None
        if gate is None:
            gate = NO_RULES
        site.gates[source] = gate
        return gate

    cdef Gate _flow_gate(self, Flow flow):
        """The limits of a flow's campaign and tenant, asked for once."""
        ask = getattr(self.cold, "flow_rules", None)
        rules = ()
        if ask is not None:
            rules = ask(self.index.name_of(flow.campaign), self.index.name_of(flow.tenant))
        flow.gate = Gate(rules) if rules else NO_RULES
        return flow.gate

    cdef int _permit(self, SiteQueue site, int source, Flow flow, Gate gate, int wanted, int64_t now_ns) except -1:
        """Permits for at most `wanted` recipients. 0: denied; the flow is parked then, or the site waits."""
        cdef bint urgent = flow.kind == TRANSACTIONAL
        cdef Gate own = flow.gate
        cdef int allowed = wanted, granted
        if own.count:
            allowed = own.permit(wanted, now_ns, urgent)
            if allowed == 0:
                self.index.park(site, flow, own.denied, own.retry_at_ns)
                self._wait(own.denied, flow, own.retry_at_ns, urgent)
                self._count_denial(site, own.denied)
                return 0
        granted = gate.permit(allowed, now_ns, urgent)
        if granted < allowed:
            own.unused(allowed - granted)
            if granted == 0:
                return self._deny(site, source, gate, urgent)
        if site.denied_until_ns:
            site.denied_until_ns = 0
            site.reason, site.detail = "ready", ""
        return granted

    cdef int _deny(self, SiteQueue site, int source, Gate gate, bint urgent) except -1:
        """The limits of a source at a site give nothing now. Each source waits in the line of its own rule."""
        cdef Turn turn = site.turns.get(source)
        if turn is None:
            turn = site.turns[source] = Turn(site)
        if site.several and site.denied_until_ns == 0:
            self.wake(site)     # another source may send what this one may not: by an idle session, or a new one
        site.denied(gate.denied, gate.retry_at_ns)
        self._wait(gate.denied, turn, gate.retry_at_ns, urgent)
        self._count_denial(site, gate.denied)
        return 0

    cdef int _count_denial(self, SiteQueue site, Rule rule) except -1:
        """One more time that a limit gave nothing, by its reason and the site's provider."""
        cdef tuple labels = (rule.reason, site.provider)
        entry = self.denials.get(labels)
        if entry is None:
            entry = self.slab.counter("fastrelay_limit_denied_total", reason=rule.reason, provider=site.provider)
            self.denials[labels] = entry
        self.slab.inc(entry, 1)
        return 0

    cdef int _nothing(self, SiteQueue site) except -1:
        """Nothing for this session. Where flows are parked, that is why."""
        cdef Flow flow
        if site.parked:
            flow = <Flow> site.parked[0]
            site.denied(flow.denied, flow.parked_until_ns)
        return 0

    cdef bint _left_to_cold(self, SiteQueue site, int source, Gate gate, int64_t now_ns) except -1:
        """Cold sources are filled first: a warm one takes what they can't, and retries that prefer it."""
        cdef int64_t left = 0
        cdef Gate cold
        cdef Lane own = site.by_source.get(source + 1) if site.by_source else None
        if own is not None and own.count:
            return False
        for cold in site.cold_gates:
            if cold is gate:
                return False
            left += cold.soon(now_ns)
        return site.count <= left

    cpdef int give_back(self, Delivery delivery) except -1:
        """A transaction ended. The unit of every limit is a RCPT written: its permits come back if none was.

        Every delivery that `pull` gave ends in one of two places of session.pyx, and both call this: `_finish` (the
        machine is done with it, whatever came of it: refused MAIL without pipelining, a feature the host lacks,
        421, timeout, lost connection) and `connection_lost` (the machine never began it). What was pulled and not given
        to a session (content to be read, or damaged) is given back in `pull`. A process that dies gives nothing back:
        that errs on the side of sending less. `rcpt_written` is set when the commands are handed out, so octets that
        were still in our socket buffer count as written.
        """
        cdef int64_t now_ns
        if delivery.permits and not delivery.transaction.rcpt_written:
            now_ns = self.boottime_ns()
            delivery.gate.give_back(delivery.permits, delivery.permitted_ns, now_ns)
            delivery.flow_gate.give_back(delivery.permits, delivery.permitted_ns, now_ns)
            delivery.permits = 0
        return 0

    def forget_limits(self):
        """The limits changed: gates are asked for again, and whatever waits tries again."""
        self.index.forget_limits()
        for who in self.waiting.wake_all():
            self.wake(who)

    def next_limit_ns(self):
        """When `wake_waiting` has something to do next (CLOCK_BOOTTIME); INT64_MAX: never, as things are."""
        return self.waiting.next_ns()

    def wake_waiting(self, int64_t now_ns):
        """Wakes what waits for a limit that may allow something now; `wake_dirty` gives it work."""
        for who in self.waiting.due(now_ns):
            self.wake(who)

    cdef int _wait(self, Rule rule, object who, int64_t until_ns, bint urgent) except -1:
        cdef int64_t before = self.waiting.next_ns()
        self.waiting.wait(rule, who, until_ns, urgent)
        if self.waiting.on_sooner is not None and self.waiting.next_ns() < before:
            self.waiting.on_sooner()
        return 0

    cdef int _misrouted(self, uint32_t r, SiteQueue site, double now) except -1:
        """The domain's route changed or ran out since the recipient was made ready."""
        cdef Domain domain = <Domain> self.index.domain_list[self.index.recipient(r).domain]
        if domain.site is not None and domain.route_expires > now:
            self.index.push_site(domain.site, r)
            self.wake(domain.site)
            return 0
        self.index.push(domain.pending, r)
        if not domain.resolving:
            self.cold.unrouted(domain)
        return 0

    def reroute(self, SiteQueue site, double now, int most=20000):
        """What is ready for a site but whose route ran out goes back to its domain, which asks for the route again; of
        `most` recipients. For a site that nobody pulls from: its mail may have other MX hosts by now."""
        cdef Index index = self.index
        cdef Flow flow
        cdef Queue queue
        cdef Domain domain
        cdef uint32_t r, following
        for queue in [queue for flow in site.flows.values() for queue in flow.queues.values()]:
            r = queue.head
            while r != NIL and most > 0:
                most -= 1
                following = index.recipient(r).next
                domain = <Domain> index.domain_list[index.recipient(r).domain]
                if domain.site is not site or domain.route_expires <= now:
                    self._misrouted(r, site, now)
                r = following

    cdef list _together(self, uint32_t r, SiteQueue site, int source, int most):
        """A ready recipient and its fellows: of the same message, at the same site, that this source may take."""
        cdef Index index = self.index
        cdef Message* message = index.message(index.recipient(r).message)
        cdef list numbers = [r]
        cdef Recipient* recipient
        cdef uint32_t s
        if message.queued == 1 or most <= 1 or message.flags & MESSAGE_ALONE:
            return numbers
        s = message.first
        while s != NIL and PyList_GET_SIZE(numbers) < most:
            recipient = index.recipient(s)
            if (s != r and recipient.place == READY
                    and (<Domain> index.domain_list[recipient.domain]).site is site
                    and (recipient.source == 0 or recipient.source == source + 1)
                    and not (self.suspensions and self.cold.suspended(s, source))):
                numbers.append(s)
            s = recipient.sibling
        return numbers

    cdef Delivery _load(self, uint32_t r, SiteQueue site, list numbers):
        """Record and content of a recipient and its fellows; None where the content has to be read first, or can't be,
        or there is no key to sign it: the recipient is then at LOADING, quarantined with its message, or UNSIGNED. Who
        is suppressed ends here, and is taken out of `numbers`."""
        cdef Index index = self.index
        cdef uint32_t m = index.recipient(r).message
        cdef Message* message = index.message(m)
        cdef Hot hot
        cdef Record record
        cdef bytes content, raw
        cdef Spool spool = <Spool> self.spools[message.spool]
        hot = self.hot.get(message.msgid) if message.spool == 0 else None
        if hot is not None:
            record = hot.record
            content = hot.content
            if self.suppression is not None:
                numbers[:] = self._not_suppressed(m, record, numbers, True)
                if not numbers:
                    return None
        else:
            try:
                raw = spool.get_record(message.msgid)
                if raw is None:
                    raise ValueError("its record is not in the spool")
                record = Record(raw)
                content = None
                if self.suppression is not None:
                    numbers[:] = self._not_suppressed(m, record, numbers, True)
                    if not numbers:
                        return None
                    r = numbers[0]
                if record.head.segment != 0xFFFFFFFFu:
                    content = spool.read_content(raw, message.msgid)
                    if content is None:
                        index.place(r, LOADING)
                        self.loading += 1
                        self._read_later(spool, raw, message.msgid, r, site)
                        return None
            except Exception as error:
                index.place(r, LOADING)
                self.cold.damaged(m, error)
                return None
        try:
            return self._delivery(m, record, content, numbers)
        except Exception as error:
            self.cold.damaged(m, error)
            return None

    def _read_later(self, Spool spool, bytes raw, uint64_t msgid, uint32_t r, SiteQueue site):
        """Reads a content off the loop; the recipient waits at LOADING and comes back first in the queue."""
        def done(content, error):
            cdef Hot hot
            self.loading -= 1
            if self.index.recipient(r).place != LOADING \
                    or self.index.message(self.index.recipient(r).message).msgid != msgid:
                return
            if error is not None and getattr(error, "moved", False):
                self._back(site, r)
                return
            if error is not None:
                self.cold.damaged(self.index.recipient(r).message, error)
                return
            hot = Hot.__new__(Hot)
            hot.record = Record(raw)
            hot.content = content
            if spool is self.spool and msgid not in self.hot:
                self.hot[msgid] = hot
                self.hot_bytes += PyBytes_GET_SIZE(<bytes> content)
            self._back(site, r)
            self.wake_dirty(self.monotonic())
        spool.read_content_later(raw, done, msgid)

    def _back(self, SiteQueue site, uint32_t r):
        """Its content is read: first in its flow again, in the lane it came from. A site that was forgotten meanwhile
        has no queue to stand in."""
        if site in self.index.sites:
            self.index.push_lane(site.by_source.get(self.index.recipient(r).source, site.common), r, True)
            self.index.charge(site, self.index.flow_of(site, r), -1)
            self.wake(site)
        else:
            self.place_ready(r, self.monotonic())

    cdef Delivery _delivery(self, uint32_t m, Record record, bytes content, list numbers):
        cdef Index index = self.index
        cdef Message* message = index.message(m)
        cdef Delivery delivery = Delivery.__new__(Delivery)
        cdef Transaction tx = Transaction.__new__(Transaction)
        cdef list parameters
        cdef uint32_t s
        cdef int flags = record.head.flags
        cdef tuple pair
        cdef bint any_parameters = False
        tx.recipients = []
        parameters = []
        for s in numbers:
            pair = record.recipient(index.recipient(s).number)
            tx.recipients.append(pair[0])
            parameters.append(pair[1])
            if pair[1]:
                any_parameters = True
        tx.reverse_path = record._part(0, record.head.reverse_path_length)
        tx.mail_parameters = record.mail_parameters if record.head.mail_parameters_length else b""
        tx.recipient_parameters = parameters if any_parameters else None
        tx.prefix = record.prefix
        tx.content = content
        tx.eight_bit = (flags & FLAG_EIGHT_BIT) != 0
        tx.utf8_header = (flags & FLAG_UTF8_HEADER) != 0
        tx.utf8_address = (flags & FLAG_UTF8_ADDRESS) != 0
        tx.requiretls = (flags & FLAG_REQUIRETLS) != 0
        if flags & (FLAG_UNSIGNED | FLAG_VERP) and not self._by_flags(tx, record, content, message):
            for s in numbers:
                index.place(s, UNSIGNED)
            return None
        # The record of a hot message was never read back, so it has no length.
        tx.size = (record.head.length if content is None else PyBytes_GET_SIZE(content)) + PyBytes_GET_SIZE(tx.prefix)
        delivery.transaction = tx
        delivery.session = None
        delivery.message = m
        delivery.msgid = message.msgid
        delivery.spool = message.spool
        delivery.recipients = numbers
        delivery.record = record
        delivery.handle = -1
        for s in numbers:           # last, so that an error above leaves nobody in flight
            index.place(s, IN_FLIGHT)
        return delivery

    cdef bint _by_flags(self, Transaction tx, Record record, bytes content, Message* message) except -1:
        """What is made for each attempt: the signature of a message that waited for its key (False: it has to wait on),
        and the reverse-path of a recipient (VERP)."""
        cdef bytes made
        if record.head.flags & FLAG_UNSIGNED:
            made = self.cold.sign(record, content, message.spool, message.msgid)
            if made is None:
                return False
            tx.prefix = made
        if record.head.flags & FLAG_VERP:
            made = self.cold.reverse_path(record, tx.recipients[0], message.spool, message.msgid)
            if made is not None:
                tx.reverse_path = made
        return True

    cpdef int body_leaves(self, Delivery delivery) except -1:
        """Before the last octet of a body is written: the in-flight file gets the recipients (promise 3)."""
        cdef uint16_t numbers[MOST_RECIPIENTS]
        cdef Py_ssize_t i, n = min(PyList_GET_SIZE(delivery.recipients), MOST_RECIPIENTS)
        if delivery.handle >= 0:
            return 0
        for i in range(n):
            numbers[i] = self.index.recipient(delivery.recipients[i]).number
        delivery.handle = (<Inflight> self.inflights[delivery.spool]).begin(delivery.msgid, numbers, <int> n)
        return 0

    cpdef int released(self, Delivery delivery) except -1:
        """Its settlement is on disk (or nothing was in doubt): the in-flight slots are free again."""
        if delivery.handle >= 0:
            (<Inflight> self.inflights[delivery.spool]).clear(delivery.handle)
            delivery.handle = -1
        return 0

    cdef int _forget_hot(self, uint64_t msgid) except -1:
        cdef Hot hot = self.hot.pop(msgid, None)
        if hot is not None:
            self.hot_bytes -= PyBytes_GET_SIZE(hot.content)
        return 0

    def hot_content(self, uint64_t msgid):
        """The content of a message that is still in memory, or None."""
        hot = self.hot.get(msgid)
        return None if hot is None else (<Hot> hot).content

    def forget_hot(self, uint64_t msgid):
        """Drops a message from memory: it waits for a retry, or is gone."""
        self._forget_hot(msgid)

    cpdef int settle_delivered(self, Delivery delivery, bytes tail, double now) except -1:
        """All recipients of a delivery were accepted by the MX host: outcome, event and deletion in one batch.

        `tail` is the part of the event that is the same for a session (source, site, provider, MX host), as JSON.
        """
        cdef Index index = self.index
        cdef Spool spool = <Spool> self.spools[delivery.spool]
        cdef Message* message = index.message(delivery.message)
        cdef double wall = self.wall()
        cdef Py_ssize_t i, n = PyList_GET_SIZE(delivery.recipients)
        cdef bint last = message.queued == <uint32_t> n
        cdef bint stateful = False
        cdef uint32_t r
        for i in range(n):
            r = delivery.recipients[i]
            if index.recipient(r).attempts:
                stateful = True
            self._event_delivered(delivery, i, tail, wall, now)
        spool.count(1, n)
        if not last or message.flags & (MESSAGE_ASKED | MESSAGE_OWES):
            self.cold.settle_part(delivery, last)
        else:
            if message.flags & MESSAGE_HELD:
                self.cold.gone(delivery.message)
            spool.delete_message(delivery.msgid, delivery)
            if stateful or message.recipients > 1:
                self.cold.forget(delivery.spool, delivery.msgid)
            if delivery.spool == 0:
                self._forget_hot(delivery.msgid)
        for i in range(n):
            index.remove_recipient(delivery.recipients[i])
        self.slab.inc(self.events_total, n)
        return 0

    cdef int _event_delivered(self, Delivery delivery, Py_ssize_t i, bytes tail, double wall, double now) except -1:
        cdef Text text = self.text
        cdef Index index = self.index
        cdef Message* message = index.message(delivery.message)
        cdef Recipient* recipient = index.recipient(delivery.recipients[i])
        cdef Transaction tx = delivery.transaction
        cdef Reply reply = tx.final_reply
        cdef bytes part
        self._event_begin(b"delivered", wall, self.tags[delivery.spool], delivery.msgid)
        text.add(b',"reverse_path":', 16)
        part = tx.reverse_path
        if message.flags & MESSAGE_ALONE:
            part = delivery.record.reverse_path
        text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        if message.flags & MESSAGE_ALONE:
            text.add(b',"mail_from":', 13)
            text.add_json(PyBytes_AS_STRING(tx.reverse_path), PyBytes_GET_SIZE(tx.reverse_path))
        text.add(b',"recipient":', 13)
        part = tx.recipients[i]
        text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        text.add(b',"domain":', 10)
        part = (<Domain> index.domain_list[recipient.domain]).name
        text.add_json(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        text.add(b',"attempt":', 11)
        text.add_number(recipient.attempts + 1)
        text.add_bytes(tail)
        if self.last_reply is None or reply.code != self.last_reply.code or reply.text != self.last_reply.text:
            self.last_reply = reply
            self.last_reply_json = _reply_json(reply)
        text.add_bytes(self.last_reply_json)
        text.add(b',"queued_seconds":', 18)
        text.add_seconds(<int64_t> (now * 1000) - message.accepted_at_ms)
        self._event_names(message.campaign, message.tenant)
        if recipient.flags & RECIPIENT_POSSIBLE_DUPLICATE:
            text.add(b',"possible_duplicate":true', 26)
            self.slab.inc(self.duplicates_total, 1)
        text.add(b"}\n", 2)
        (<Spool> self.spools[delivery.spool]).add_event(text.take())
        return 0
