"""Bounce messages that are owed: who is to be told what, when it leaves, and that it leaves once.

    recipient ends, or is late   a bit in its state (RecipientState.report), in the commit of the outcome itself
    `gather` later               all bits of the message: one bounce message (dsn.py), put in by ingest/inject.py
    its commit                   the bits are cleared; with the last one, and nobody queued, the message is deleted

Record and content of a message stay while it owes. It is not queued: no recipient of it is.

Crash argument. A payment is two commits, in the same environment, in this order:

    A   the bounce message X is accepted; the state moves its bits from OWED to PAYING and names X
    B   the bits are cleared (or the message deleted), as X is on disk

    found at the next start              what it means                       what is done
    bits OWED                            A was not committed                 paid again: no X ever was
    bits PAYING, record of X is there    A was, B was not                    cleared: X is on its way
    bits PAYING, no record of X          A without its accept: the disk      OWED again
                                         refused it; B would say so
    no bits                              B was committed                     nothing

The last row but one can't mean that X was sent and deleted: B is put into the open batch in the very call that tells of
A's commit, so before X is handed to anybody; batches are committed in order, so a deletion of X is never on disk
without B. That A's two halves share a batch: both are put into the open one in one turn of the loop.

Who is told (RFC 3461 section 4.1, 5.2): failed, expired and suppressed recipients unless NOTIFY says otherwise; late
ones with NOTIFY=DELAY (`warn_unasked`: also those without NOTIFY), once; with NOTIFY=SUCCESS where the host that took
it does not report (`relayed`). Nobody is told about mail from the null reverse-path or from an address that comes back
to us (listeners.smtp[].inbound: there is the event), where `bounces` is false for the user, listener or sender's
domain, and of what an operator removed.

Bounds: MOST_KEPT messages in memory; those beyond are found by a walk over the states once there is room. MOST_AT_ONCE
are being paid; a mass failure leaves by `bounces.rate`, of which each worker has its share.

Known faults: debts in the spool folder of a worker that is no more are paid from another environment: a crash between
the commits of the two repeats the bounce message. A message with a not-before is looked at again until its time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.ingest.inbound import Addresses
from fastrelay.ingest.inject import LARGEST_BYTES, InjectRefused, submit
from fastrelay.limits.rate import parse_rate
from fastrelay.metrics import names
from fastrelay.outcome.dsn import Action, Report, Reported, build, worst_of
from fastrelay.schedule.state import (
    DELIVERED,
    EXPIRED,
    FAILED,
    FLAG_UNSIGNED,
    QUEUED,
    SUPPRESSED,
    MessageState,
    RecipientState,
    decode_state,
)
from fastrelay.spool import DamagedContent

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.config.schema import Config

log = logging.getLogger(__name__)

# Bits of RecipientState.report
OWES_FAILED, OWES_DELAYED, OWES_RELAYED, WARNED = 1, 2, 4, 8
OWED = OWES_FAILED | OWES_DELAYED | OWES_RELAYED
PAYING_SHIFT = 4
PAYING = OWED << PAYING_SHIFT

# What NOTIFY asks for
SUCCESS, FAILURE, DELAY = 1, 2, 4
ASKS = {b"SUCCESS": SUCCESS, b"FAILURE": FAILURE, b"DELAY": DELAY, b"NEVER": 0}
NOTIFY = re.compile(rb"(?i)(?:^| )NOTIFY=([A-Z,]+)(?: |$)")
ORCPT = re.compile(rb"(?i)(?:^| )ORCPT=([^ ]+)")
ENVID = re.compile(rb"(?i)(?:^| )ENVID=([^ ]+)")
RET = re.compile(rb"(?i)(?:^| )RET=(FULL|HDRS)")

ACTIONS: dict[int, Action] = {OWES_FAILED: "failed", OWES_DELAYED: "delayed", OWES_RELAYED: "relayed"}
MESSAGE_OWES, MESSAGE_LATE = 16, 32  # flags of a message in the index, see _core/index.pxd
OWN_FILE = 0xFFFFFFFF

SUPPRESSED_WORDS = "Not sent: the address is on the suppression list of this mail system"

MOST_KEPT = 50_000
MOST_AT_ONCE = 50
MOST_GROUPS = 1_000  # recipients of one bounce message
AGAIN_SECONDS = 30.0  # after the queue refused a bounce message
LATE_SLICE = 20_000  # messages looked at in a second
MOST_LATE = 200  # warned of in a second
WALK_SLICE = 500  # states
HEADER_READ_BYTES = 256 << 10
WHOLE_MOST_BYTES = LARGEST_BYTES * 3 // 4


def owes(state: MessageState) -> bool:
    """Whether anything of a message is owed or being paid."""
    return any(one.report & (OWED | PAYING) for one in state.recipients)


def asked(parameters: bytes) -> int | None:
    """What NOTIFY in RCPT parameters asks for; None: it is not there."""
    found = NOTIFY.search(parameters)
    if found is None:
        return None
    return sum({ASKS.get(word, 0) for word in found[1].upper().split(b",")})


def unpaid(state: MessageState, *, paid: bool) -> None:
    """Ends a payment: its bits are cleared, or owed again."""
    for one in state.recipients:
        if one.report & PAYING:
            again = 0 if paid else (one.report & PAYING) >> PAYING_SHIFT
            one.report = one.report & ~PAYING | again
    state.paying = ""


class Wishes:
    """Who wants bounce messages at all, by one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config.bounces
        ours = [one for listener in config.listeners.smtp for one in listener.inbound]
        self._ours = Addresses(ours) if ours else None

    def of(self, record: Any, number: int) -> int:
        """What the sender wants to know of a recipient: SUCCESS, FAILURE, DELAY, or'ed."""
        if not self.config.send or not record.bounces:
            return 0
        reverse_path = record.reverse_path
        if not reverse_path or (self._ours is not None and self._ours.take(reverse_path)):
            return 0
        wanted = asked(record.recipient(number)[1])
        if wanted is None:
            wanted = FAILURE | DELAY if self.config.warn_unasked else FAILURE
        return wanted if self.config.success else wanted & ~SUCCESS


class Bucket:
    """`bounces.rate`, of this worker its share."""

    def __init__(self, rate: str, slots: int, now: float) -> None:
        parsed = parse_rate(rate)
        self._seconds = parsed.emission_ns * slots / 1e9
        self._burst = max(1, parsed.burst // slots)
        self._full_at = now

    def take(self, now: float) -> bool:
        """Takes one, if there is one."""
        if max(self._full_at, now) - now > self._seconds * (self._burst - 1):
            return False
        self._full_at = max(self._full_at, now) + self._seconds
        return True


class Owed:
    """The debts of one worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._due: deque[tuple[float, int]] = deque()  # (monotonic seconds, key), by time but for those tried again
        self._kept: set[int] = set()
        self._paying: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._walks = 0  # over the states on disk: some did not fit into memory
        self._walk = (0, b"")  # where it stands: spool, next key
        self._late_at = 0
        self._number = 0
        self._closed = False
        self._rate = ""
        self.configure(app.config)

    def configure(self, config: Config) -> None:
        """Takes a configuration."""
        self.wishes = Wishes(config)
        if self._rate != config.bounces.rate:  # a reload gives no new burst
            self._rate = config.bounces.rate
            self._bucket = Bucket(self._rate, self._app.slots, self._app.clock.monotonic())

    # -- debts ----------------------------------------------------------------------------------------------------

    def note(self, record: Any, number: int, one: RecipientState, *, peer_reports: bool = False) -> None:
        """An outcome: what is owed goes into the state `one`, which the caller writes. `peer_reports`: the host that
        took it offers DSN, and was told what is asked."""
        one.report &= ~OWES_DELAYED
        if one.status in (FAILED, EXPIRED, SUPPRESSED):
            if self.wishes.of(record, number) & FAILURE:
                one.report |= OWES_FAILED
        elif one.status == DELIVERED and not peer_reports and self.wishes.of(record, number) & SUCCESS:
            one.report |= OWES_RELAYED

    def add(self, spool: int, msgid: int, seconds: float | None = None) -> None:
        """A message owes, by the state that goes to disk now; it is told in `seconds` (default: gather)."""
        key = msgid << 8 | spool
        if key in self._kept or key in self._paying:
            return
        if len(self._kept) >= MOST_KEPT:
            self._walks = 2  # the first may come before the commit
            return
        wait = self.wishes.config.gather_seconds if seconds is None else seconds
        self._kept.add(key)
        self._due.append((self._app.clock.monotonic() + wait, key))

    def found(self, spool: int, msgid: int, state: MessageState) -> bool:
        """A state that was read at the start; True: it was changed, and is to be written."""
        changed = bool(state.paying)
        if changed:
            unpaid(state, paid=self._is_there(state.paying))
        if owes(state):
            self.add(spool, msgid)
        return changed

    def _is_there(self, message_id: str) -> bool:
        """Whether a message is in a spool of ours."""
        tag, _, number = message_id.rpartition("-")
        spools = self._app.engine.spools
        return any(spool.tag == tag and spool.get_record(int(number, 16)) is not None for spool in spools)

    @property
    def waiting(self) -> int:
        """Messages that owe, as far as they are in memory."""
        return len(self._kept) + len(self._paying)

    # -- time -----------------------------------------------------------------------------------------------------

    def second(self, now: float) -> None:
        """Called once a second: pays what is due, looks for what is late, takes up what did not fit."""
        self._app.meters.slab.set(self._app.meters.entry(names.BOUNCES_OWED), self.waiting)
        if self._app.draining or self._closed:
            return
        self._pay_due(now)
        self._look_for_late(now)
        if self._walks and len(self._kept) < MOST_KEPT // 2:
            self._take_up()

    def close(self) -> None:
        """Nothing is paid from now on."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    # -- paying ---------------------------------------------------------------------------------------------------

    def _pay_due(self, now: float) -> None:
        """Begins as many payments as may be."""
        spool = self._app.own_spool
        while self._due and self._due[0][0] <= now and len(self._paying) < MOST_AT_ONCE:
            if not spool.accepting or spool.settle_blocked or not self._bucket.take(now):
                return
            key = self._due.popleft()[1]
            self._kept.discard(key)
            self._paying.add(key)
            task = asyncio.get_running_loop().create_task(self._pay(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _ended(self, key: int, again: float | None = None) -> None:
        """A payment is over; `again`: in so many seconds there is another try, or the next one."""
        self._paying.discard(key)
        if again is not None:
            self.add(key & 255, key >> 8, again)
        if not self._app.draining and not self._closed:
            self._pay_due(self._app.clock.monotonic())

    async def _pay(self, key: int) -> None:
        """Pays all that a message owes: its bounce message is in the open batch at the end, or the debt waits on."""
        spool, msgid = key & 255, key >> 8
        try:
            under_way, again = await self._submit(key, spool, msgid)
        except Exception:
            log.exception("message %s: its bounce message could not be made; it stays owed", self._name(spool, msgid))
            self._app.count_error("outcome")
            under_way, again = False, AGAIN_SECONDS
        if not under_way:
            self._ended(key, again)

    async def _submit(self, key: int, spool: int, msgid: int) -> tuple[bool, float | None]:
        """(whether `_settled` will hear of it, seconds until another try)."""
        app = self._app
        record = app.record(spool, msgid)
        if record is None:
            return False, None
        returned, whole = await self._returned(spool, msgid, record)
        # From here to `put` in one turn of the loop.
        state = app.settler.states.get(spool, msgid, record.count)
        told = self._told(record, state)
        if not told or state.paying:
            return False, None
        if not self.wishes.config.send:
            self._drop(spool, msgid, state)
            return False, None
        report = self._report(spool, msgid, record, [one for _, _, one in told], returned, whole)
        octets = build(report)
        while len(octets) > LARGEST_BYTES and (report.whole or len(told) > 1):  # the rest is told in the next one
            told = told if report.whole else told[: len(told) // 2]
            recipients = [one for _, _, one in told]
            report = msgspec.structs.replace(report, whole=False, recipients=recipients)
            octets = build(report)
        before = app.own_spool.next_id()
        try:
            own = submit(app, b"", [record.reverse_path], octets, tenant=record.tenant)
        except InjectRefused as refused:
            return False, self._refused(spool, msgid, state, refused)
        state.paying = app.engine.message_id(before + 1)
        for number, bit, _ in told:
            one = state.recipients[number]
            one.report = one.report & ~bit | bit << PAYING_SHIFT
        app.settler.states.put(spool, msgid, state)
        own.then = lambda reply: self._settled(key, record.count, worst_of(report.recipients), reply)
        return True, None

    def _settled(self, key: int, count: int, kind: str, reply: bytes) -> None:
        """The bounce message is on disk, or refused: called in the very turn that hears of it."""
        spool, msgid = key & 255, key >> 8
        paid = reply.startswith(b"250 ")
        state = self._app.settler.states.get(spool, msgid, count)
        unpaid(state, paid=paid)
        self._put(spool, msgid, state)
        if paid:
            self._app.meters.count(names.BOUNCE_MESSAGES, kind=kind)
        self._ended(key, None if not owes(state) else 0.0 if paid else AGAIN_SECONDS)

    def _drop(self, spool: int, msgid: int, state: MessageState) -> None:
        """Forgives what is owed."""
        for one in state.recipients:
            one.report &= ~OWED
        self._put(spool, msgid, state)

    def _put(self, spool: int, msgid: int, state: MessageState) -> None:
        """The state, or the end of a message that owes nothing and has nobody queued."""
        states = self._app.settler.states
        if owes(state) or any(one.status == QUEUED for one in state.recipients):
            states.put(spool, msgid, state)
        else:
            self._app.engine.spools[spool].delete_message(msgid, None)
            states.forget(spool, msgid)

    def _refused(self, spool: int, msgid: int, state: MessageState, refused: InjectRefused) -> float | None:
        """Our own queue takes no such message: now, or ever."""
        if refused.code // 100 == 5:
            log.error(
                "message %s: no bounce message can be sent to its sender: %s", self._name(spool, msgid), refused.reply
            )
            self._app.meters.count(names.BOUNCE_MESSAGES, kind="undeliverable")
            self._drop(spool, msgid, state)
            return None
        return AGAIN_SECONDS

    def _told(self, record: Any, state: MessageState) -> list[tuple[int, int, Reported]]:
        """(recipient, bit, what is said of it) of all that is owed."""
        out: list[tuple[int, int, Reported]] = []
        addresses = record.recipients()
        for number, one in enumerate(state.recipients):
            for bit, action in ACTIONS.items():
                if one.report & bit and len(out) < MOST_GROUPS:
                    out.append((number, bit, self._reported(record, addresses[number], one, action)))
        return out

    def _reported(self, record: Any, recipient: tuple[bytes, bytes], one: RecipientState, action: Action) -> Reported:
        original = ORCPT.search(recipient[1])
        ours = one.status == SUPPRESSED  # what a host said before is not why
        return Reported(
            recipient[0],
            action,
            original=original[1] if original is not None else b"",
            status="" if ours else one.enhanced,
            reply=SUPPRESSED_WORDS if ours else one.reply,
            host="" if ours else one.host,
            tried=one.tried_ms / 1000,
            until=self._until(record) if action == "delayed" else 0.0,
            expired=one.status == EXPIRED,
        )

    def _until(self, record: Any) -> float:
        """When the relay gives the message up, in seconds since the epoch."""
        config = self._app.config
        fairness = config.fairness
        of_class = (fairness.bulk, fairness.normal, fairness.transactional)[min(record.priority, 2)].expire_seconds
        lives = record.expire_seconds or of_class or config.retry.expire_seconds
        return float(record.accepted_ms / 1000 + lives)

    def _report(
        self, spool: int, msgid: int, record: Any, recipients: list[Reported], returned: bytes | None, whole: bool
    ) -> Report:
        app = self._app
        hostname = app.config.hostname
        envid = ENVID.search(record.mail_parameters)
        self._number += 1
        wall = app.clock.wall()
        return Report(
            hostname=hostname,
            sender=self.wishes.config.address or f"mailer-daemon@{hostname}",
            to=record.reverse_path,
            message_id=f"{app.engine.message_id(msgid, spool)}.{int(wall * 1000):x}.{self._number:x}@{hostname}",
            date=wall,
            arrival=record.accepted_ms / 1000,
            recipients=recipients,
            log_id=app.engine.message_id(msgid, spool),
            envid=envid[1] if envid is not None else b"",
            returned=returned,
            whole=whole,
        )

    async def _returned(self, spool: int, msgid: int, record: Any) -> tuple[bytes | None, bool]:
        """What of the message goes back: (header or all of it, whether it is all). None: it can't be read."""
        asks = RET.search(record.mail_parameters)
        wanted = self.wishes.config.content == "full" if asks is None else asks[1].upper() == b"FULL"
        prefix = b"" if record.flags & FLAG_UNSIGNED else record.prefix
        whole = wanted and record.length + len(prefix) <= min(self.wishes.config.content_size_bytes, WHOLE_MOST_BYTES)
        try:
            try:
                content = await self._content(spool, msgid, record)
            except DamagedContent as error:
                moved = self._app.record(spool, msgid) if error.moved else None
                if moved is None:
                    raise
                content = await self._content(spool, msgid, moved)
        except (DamagedContent, OSError) as error:
            log.warning("message %s: its content can't be sent back: %s", self._name(spool, msgid), error)
            return None, False
        return prefix + content, whole

    async def _content(self, spool: int, msgid: int, record: Any) -> bytes:
        """The content; of one in a file of its own as much as a header may have."""
        at = self._app.engine.spools[spool]
        loop = asyncio.get_running_loop()
        if record.segment == OWN_FILE:
            descriptor, offset, length = at.open_content(record.raw, msgid)
            try:
                most = min(length, max(HEADER_READ_BYTES, self.wishes.config.content_size_bytes))
                return await loop.run_in_executor(None, os.pread, descriptor, most, offset)
            finally:
                os.close(descriptor)
        content: bytes | None = at.read_content(record.raw, msgid)
        if content is not None:
            return content
        reading: asyncio.Future[bytes] = loop.create_future()

        def done(octets: bytes | None, error: Exception | None) -> None:
            if not reading.done():
                reading.set_exception(error) if error is not None else reading.set_result(octets or b"")

        at.read_content_later(record.raw, done, msgid)
        return await reading

    def _name(self, spool: int, msgid: int) -> str:
        return str(self._app.engine.message_id(msgid, spool))

    # -- what is late ---------------------------------------------------------------------------------------------

    def _look_for_late(self, now: float) -> None:
        config = self.wishes.config
        if config.delay_seconds is None or not config.send or not self._app.index.queued_messages:
            return
        if len(self._kept) >= MOST_KEPT:
            return  # there is enough to tell already
        following, found = self._app.engine.late(
            self._late_at, LATE_SLICE, MOST_LATE, int(config.delay_seconds * 1000), not config.warn_unasked, now
        )
        self._late_at = following or 0
        for m in found:
            self._warn(m, config.delay_seconds)

    def _warn(self, m: int, delay_seconds: float) -> None:
        """Owes a warning to those recipients of a late message that want one and had none."""
        app = self._app
        msgid, _, _, total, _, _, _, spool, _ = app.index.message_info(m)
        try:
            record = app.record(spool, msgid)
            state = app.settler.states.get(spool, msgid, total)
        except (ValueError, msgspec.MsgspecError):
            return  # damaged: said elsewhere
        if record is None:
            return
        if record.not_before_ms and record.not_before_ms / 1000 + delay_seconds > app.clock.wall():
            app.index.set_message_flag(m, MESSAGE_LATE, False)
            return
        changed = False
        for r in app.index.recipients_of(m):
            number = app.index.recipient_info(r)[1]
            one = state.recipients[number]
            if not one.report & WARNED and self.wishes.of(record, number) & DELAY:
                one.report |= OWES_DELAYED | WARNED
                changed = True
        if changed:
            app.settler.states.put(spool, msgid, state)
            app.index.set_message_flag(m, MESSAGE_OWES, True)
            self.add(spool, msgid)

    # -- what did not fit -----------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """One slice of a walk over all states on disk; another walk follows where there was no room again."""
        spool, key = self._walk
        if spool >= len(self._app.engine.spools):
            self._walk = (0, b"")
            self._walks -= 1
            return
        rows = self._app.engine.spools[spool].environment.items("st", key, WALK_SLICE)
        for octets, value in rows:
            try:
                state = decode_state(value)
            except msgspec.MsgspecError:
                continue
            if any(one.report & OWED for one in state.recipients):
                self.add(spool, int.from_bytes(octets, "big"), 0.0)
        self._walk = (spool, rows[-1][0] + b"\0") if len(rows) == WALK_SLICE else (spool + 1, b"")
