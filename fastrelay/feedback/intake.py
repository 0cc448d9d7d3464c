"""Mail that came back: from a worker's hands to events, the suppression list and the other parts of this process.

    read       in a thread: what is it (complaint, report, unsubscribe, bounce …), and what does it say
    match      by our references (match.py): which message and recipient of ours it is about
    follow     a bounce: an event, and the suppression list; the rest goes to the parts that know it
    sync       events, then the record that it was seen, for all messages that wait together
    answer     250

Custody. A message is never stored; its 250 says that what follows from it is on stable storage. A death

    before the event is synced         no answer: the worker says 451, and the sender tries again
    behind it, before `seen` is        the same; the events come again with the same keys (made of the message), the
                                       suppression list takes the same entry again, soft bounces count once a day
    behind `seen`, before the 250      the sender tries again; `seen` knows the message, and nothing follows again

so each message has its effect at least once, events can be told apart by key, and nothing that was answered is lost.
What has no effect (vacation notes, bounces of mail that we never sent) is counted, and answered 250 as well: to refuse
it would make a bounce of a bounce. The same message twice at a time has one reading and one answer.

Safety. Nothing follows for a recipient that no reference of ours names (match.py). A bounce about us or about the
message, or for another address than we sent to, makes an event and suppresses nobody.

Bounds: messages and octets in hand (line.py), one thread; what reading may take is bounded by the parsers, about a
second at the worst; `seen` has MOST_SEEN entries and SEEN_DAYS days.

A message that kills the process is set aside after some deaths (suspects.py).

Known faults: the reading thread shares the interpreter with the loop, which is slower meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.feedback.desk import Desk, Part
from fastrelay.feedback.ledger import Ledger
from fastrelay.feedback.line import AWAY, Inbound, LineServer
from fastrelay.feedback.match import Purposes
from fastrelay.feedback.suspects import DEATHS, FOLDER, Suspects
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.feedback.bounce_class import Classes
    from fastrelay.feedback.bounce_types import Bounce, BouncedRecipient
    from fastrelay.feedback.match import Match, Matcher, Proof

log = logging.getLogger("fastrelay.feedback")

TAKEN = b"250 2.0.0 Ok\r\n"
READ_TOGETHER = 16
SMALL_OCTETS = 256 << 10  # beyond it nothing more is read in one go
DAY_SECONDS = 86400
DATABASE = "seen"
SEEN_DAYS = 14
MOST_SEEN = 4_000_000
SWEEP_SECONDS = 600.0
SWEEP_SLICE = 1000
REPLY_CHARACTERS = 512
UNSUBSCRIBE_OCTETS = 64 << 10  # of the message, in which a reference is looked for


class Reading(NamedTuple):
    """What a message is. `found`: what its parser made of it."""

    kind: str
    found: Any = None
    proofs: Sequence[Proof] = ()  # our references in it, where its kind does not find them itself


class Unread(NamedTuple):
    """A message that waits for the thread."""

    message: Inbound
    digest: bytes
    future: asyncio.Future[Reading]


class Intake(Part):
    """Takes the mail of all workers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.commands: Mapping[str, Callable[..., Any]] = {"inbound.status": self.status}
        self._server: LineServer | None = None
        self._thread: ThreadPoolExecutor | None = None  # one: the parsers are not made for two that read at once
        self._matcher: Matcher | None = None
        self._matcher_key: str | None = ""
        self._in_hand: dict[bytes, asyncio.Future[bytes]] = {}
        self._ledger = Ledger(desk)
        self._suspects = Suspects(os.path.join(desk.state_dir, FOLDER))
        self._unread: deque[Unread] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._next_sweep = 0.0
        self._counts: dict[tuple[str, str], int] = {}
        self._unmatched: dict[str, int] = {}
        self.configure(desk.config)

    # -- life ---------------------------------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        self.purposes = Purposes(config.compose)
        self._reference_field = config.compose.reference or ""
        if self._matcher_key != config.compose.reference_key:
            self._matcher = None
        self.wanted = any(one.inbound for one in config.listeners.smtp)
        self._classes: Classes | None = None  # the built-in ones, which are read when they are first needed
        if self.wanted and config.replies is not None:
            from fastrelay.feedback.classes import classes_of

            self._classes = classes_of(config)
        if self.wanted and self._thread is None and self._next_sweep:  # after the start: a reload
            self._starting = asyncio.get_running_loop().create_task(self._listen())

    async def start(self) -> list[str]:
        self._next_sweep = self._desk.clock.monotonic() + SWEEP_SECONDS
        if self.wanted:
            await self._listen()
        return []

    async def _listen(self) -> None:
        """Only where there is a listener for it: the parsers cost memory."""
        self.matcher  # noqa: B018 - a key that can't be had is said at the start
        _warm_up()
        self._suspects.open()
        # From 0 on: an alert looks at it.
        self._desk.meters.entry(names.INBOUND_MESSAGES, kind="unreadable", matched="no")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._server = LineServer(self._desk.state_dir, self.take)
        await self._server.start()

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            await self._server.close()
        if self._reader is not None:
            self._reader.cancel()
        if self._thread is not None:
            self._thread.submit(self._suspects.close)  # behind what it reads just now
            self._thread.shutdown(wait=False)

    def second(self, now: float) -> None:
        if now >= self._next_sweep:
            more = self._sweep()
            self._next_sweep = now + (0.0 if more else SWEEP_SECONDS)

    @property
    def matcher(self) -> Matcher:
        """Reads our references. KeyFileError."""
        if self._matcher is None:
            from fastrelay.feedback.match import make_matcher

            config = self._desk.config
            self._matcher = make_matcher(config, self._desk.state_dir, self._today)
            self._matcher_key = config.compose.reference_key
        return self._matcher

    def _today(self) -> int:
        return int(self._desk.clock.wall() // DAY_SECONDS)

    # -- one message --------------------------------------------------------------------------------------------------

    async def take(self, message: Inbound) -> bytes:
        """The reply to a message: 250 once what follows from it is on stable storage, else 451."""
        digest = digest_of(message)
        under_way = self._in_hand.get(digest)
        if under_way is not None:
            return await asyncio.shield(under_way)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._in_hand[digest] = future
        reply = AWAY
        try:
            reply = await self._take(message, digest)
        except (FastrelayError, OSError) as error:
            self._desk.meters.count(names.ERRORS, where="feedback")
            log.error("mail that came back is refused for now: %s", error)
        finally:
            del self._in_hand[digest]
            if not future.done():
                future.set_result(reply)
        return reply

    async def _take(self, message: Inbound, digest: bytes) -> bytes:
        began = self._desk.clock.monotonic()
        if self.seen(digest):
            self._count("repeated", "no", began)
            return TAKEN
        deaths = self._suspects.deaths(digest)
        if deaths >= DEATHS:
            return await self._set_aside(message, digest, began)
        kind, found, proofs = await self._reading(message, digest)
        if deaths:
            self._suspects.clear(digest)
        acts = {"complaint": self._complaint, "report": self._report, "unsubscribe": self._unsubscribe}
        act = acts.get(kind, self._bounce if kind == "bounce" else None)
        if act is not None:
            matched = await act(message, found, proofs, digest)
            await self._synced(digest)
        else:
            matched = "yes" if proofs else "no"
        self._count(kind, matched, began)
        return TAKEN

    async def _set_aside(self, message: Inbound, digest: bytes, began: float) -> bytes:
        """A message that ended this process again and again: a file for the operator instead of an effect."""
        if not self._suspects.set_aside(digest, message.octets):
            return AWAY
        await self._synced(digest)
        self._suspects.clear(digest)
        self._count("unreadable", "no", began)
        return TAKEN

    def _count(self, kind: str, matched: str, began: float) -> None:
        key = (kind, matched)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._desk.meters.count(names.INBOUND_MESSAGES, kind=kind, matched=matched)
        self._desk.meters.observe(names.INBOUND_SECONDS, self._desk.clock.monotonic() - began)

    # -- in a thread --------------------------------------------------------------------------------------------------

    async def _reading(self, message: Inbound, digest: bytes) -> Reading:
        """What a message is, once it is its turn in a thread."""
        future: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._unread.append(Unread(message, digest, future))
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read_on())
        return await future

    async def _read_on(self) -> None:
        """Reads what waits, several small ones in one go: to hand over costs as much as to read."""
        try:
            while self._unread:
                await self._read_group(self._next_group())
        finally:
            self._reader = None

    def _next_group(self) -> list[Unread]:
        """What is read in one go. What was being read at a death is read alone: it must show whose fault it was."""
        waiting = self._unread
        group = [waiting.popleft()]
        octets = len(group[0].message.octets)
        if self._suspects.deaths(group[0].digest):
            return group
        while waiting and len(group) < READ_TOGETHER and octets < SMALL_OCTETS:
            if self._suspects.deaths(waiting[0].digest):
                break
            octets += len(waiting[0].message.octets)
            group.append(waiting.popleft())
        return group

    async def _read_group(self, group: list[Unread]) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._read_all, group)
        except Exception as error:  # no thread to be had, or a disk error
            for one in group:
                if not one.future.done():
                    one.future.set_exception(error)
            return
        for one, reading in zip(group, found, strict=True):
            if not one.future.done():
                one.future.set_result(reading)

    def _read_all(self, group: list[Unread]) -> list[Reading]:
        self._suspects.begin([one.digest for one in group])
        readings = [self._read(one.message) for one in group]
        self._suspects.end()
        return readings

    def _read(self, message: Inbound) -> Reading:
        """What a message is. It is the other end's, so nothing in it is an error of ours."""
        try:
            return self._what(message)
        except Exception:
            log.exception("a message that came back could not be read; please report this")
            return Reading("unreadable")

    def _what(self, message: Inbound) -> Reading:
        from fastrelay.feedback import arf, bounce
        from fastrelay.feedback.match import classic_verp

        if self.purposes.is_unsubscribe(message.recipients):
            return Reading("unsubscribe")
        report = self._desk.reports.read(message.octets)
        if report is not None:
            return Reading("report", report)
        complaint = arf.parse(message.octets, self._reference_field)
        if complaint is not None:
            return Reading("complaint", complaint)
        verp = ""
        proofs = self.matcher.proofs(message.recipients)
        for proof in proofs:
            verp = verp or proof.reference.recipient.decode("utf-8", "replace")
        for mailbox in message.recipients[:10]:
            verp = verp or classic_verp(mailbox)
        field = self._reference_field or bounce.REFERENCE_FIELD
        found = bounce.parse_bounce(message.octets, verp_recipient=verp, reference_field=field, classes=self._classes)
        proofs += self.matcher.proofs((), found.original.reference)
        return Reading(found.what if found.what != "complaint" else "other", found, proofs)

    # -- what follows -------------------------------------------------------------------------------------------------

    async def _bounce(self, message: Inbound, bounce: Bounce, proofs: Sequence[Proof], digest: bytes) -> str:
        """An event for each recipient of ours that the bounce is about."""
        matches = self._matches(bounce, proofs)
        for number, (match, recipient) in enumerate(matches):
            self._desk.event("bounced", event_fields(match, recipient, bounce), f"b{digest.hex()}-{number}")
            await self._suppress(match, recipient)
        return "yes" if matches else "no"

    def _matches(self, bounce: Bounce, proofs: Sequence[Proof]) -> list[tuple[Match, BouncedRecipient]]:
        """The recipients of ours that a bounce says have failed."""
        matcher = self.matcher
        failed = [one for one in bounce.recipients if one.action == "failed"]
        sound = [proof for proof in proofs if not matcher.is_old(proof.reference)]
        hints = [name for one in failed[:10] for name in (one.final_recipient, one.original_recipient)]
        found = matcher.match(sound, [one.address for one in failed], [*hints, *bounce.original.to])
        kept = [(match, failed[match.at]) for match in found if match.at >= 0]
        if not kept:
            why = "recipient" if found or sound else "old" if proofs else "reference"
            self._unmatched[why] = self._unmatched.get(why, 0) + 1
        return kept

    async def _suppress(self, match: Match, recipient: BouncedRecipient) -> None:
        """Nobody is suppressed but whom we sent to, for what the bounce says of the recipient."""
        if not match.agrees:
            return
        of = match.reference
        done = self._desk.suppression.bounce(
            recipient.kind,
            recipient.about,
            match.recipient,
            tenant=of.tenant,
            sender_domain=of.sender_domain,
            source=f"bounce {recipient.status}".rstrip(),
        )
        if done is not None:
            await done

    async def _complaint(self, message: Inbound, found: Any, *_: Any) -> str:
        return said(await self._desk.complaints.take(message, found))

    async def _report(self, message: Inbound, found: Any, *_: Any) -> str:
        return said(self._desk.reports.take(message, found))

    async def _unsubscribe(self, message: Inbound, found: Any, *_: Any) -> str:
        """Who wrote to an address of List-Unsubscribe: the reference stands in it, in the subject, or in the text."""
        for octets in (b" ".join(message.recipients), message.octets[:UNSUBSCRIBE_OCTETS]):
            for reference in self.matcher.tokens(octets):
                if await self._desk.unsubscribe.take_mail(reference) is not None:
                    return "yes"
        return "no"

    # -- stable storage -----------------------------------------------------------------------------------------------

    async def _synced(self, digest: bytes) -> None:
        """All events so far are on stable storage, and then that this message was seen. OSError, LmdbError."""
        day = self._today().to_bytes(2, "big")
        await self._ledger.commit([(DATABASE, day + digest, b"")])

    def seen(self, digest: bytes) -> bool:
        """Whether this message had its effect within SEEN_DAYS."""
        today, get = self._today(), self._desk.store.get
        return any(
            get(DATABASE, max(0, day).to_bytes(2, "big") + digest) is not None
            for day in range(today + 1, today - SEEN_DAYS, -1)
        )

    def _sweep(self) -> bool:
        """Forgets what is old, or too much; whether there is more."""
        store = self._desk.store
        first = store.items(DATABASE, b"", SWEEP_SLICE)
        oldest = max(0, self._today() - SEEN_DAYS).to_bytes(2, "big")
        much = store.count(DATABASE) - MOST_SEEN
        gone = [key for at, (key, _) in enumerate(first) if key[:2] <= oldest or at < much]
        if gone:
            store.delete_many(DATABASE, gone)
        return len(gone) == SWEEP_SLICE

    # -- for the operator ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What came in since the start of the process."""
        kinds: dict[str, dict[str, int]] = {}
        for (kind, matched), n in self._counts.items():
            kinds.setdefault(kind, {"messages": 0, "matched": 0})["messages"] += n
            kinds[kind]["matched"] += n if matched == "yes" else 0
        server = self._server
        return {
            "listening": server is not None,
            "in_hand": server.messages if server is not None else 0,
            "seen": self._desk.store.count(DATABASE),
            "set_aside": self._suspects.set_aside_count(),
            "set_aside_folder": self._suspects.unread_folder,
            "kinds": kinds,
            "unmatched": dict(self._unmatched),
        }


def digest_of(message: Inbound) -> bytes:
    """The same for the same message, tried again. Whom it came to belongs to it: by VERP that tells bounces apart."""
    made = hashlib.blake2b(digest_size=16)
    for recipient in sorted(one.lower() for one in message.recipients):
        made.update(recipient + b"\n")
    made.update(message.octets)
    return made.digest()


def event_fields(match: Match, recipient: BouncedRecipient, bounce: Bounce) -> dict[str, Any]:
    """Of the event `bounced`. What has no value is left away."""
    of = match.reference
    names_of_it = {"campaign": of.campaign, "tenant": of.tenant, "sender_domain": of.sender_domain}
    told = (recipient.address or recipient.final_recipient).encode("utf-8", "surrogateescape")
    told_text = text_of(told)[:320]
    optional: dict[str, Any] = {
        "id": of.id,
        **{name: text_of(value) for name, value in names_of_it.items()},
        "class": recipient.reply_class,
        "kind": recipient.kind,
        "about": recipient.about,
        "class_rule": recipient.rule,
        "code": recipient.code,
        "enhanced": recipient.status,
        "reply": recipient.diagnostic[:REPLY_CHARACTERS].encode("utf-8", "replace").decode(),
        "form": bounce.form,
        "how": bounce.how,
        "reporting_mta": bounce.reporting_mta.encode("utf-8", "replace").decode(),
        "final_recipient": "" if match.agrees else told_text,
    }
    return {
        "recipient": text_of(match.recipient),
        **{name: value for name, value in optional.items() if value},
        "matched": match.how,
    }


def text_of(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def said(result: Any) -> str:
    """The label of a metric: whether a part knew the message as one about ours."""
    return "no" if result is None or result is False else "yes"


def _warm_up() -> None:
    """Loads the parsers and their tables before there is a thread: msgspec makes ready what it knows of a type at its
    first use, and two threads that do so at once crash the process."""
    from fastrelay.feedback import arf, bounce

    samples = (
        b"<b@c.example>: host mx.c.example[192.0.2.1] said: 550 5.1.1 no such user\n",
        b"nobody knows\n",
        b"This is a MIME-encapsulated message.\n--b\nContent-Type: message/delivery-status\n\n"
        b"Reporting-MTA: dns; a.example\n\nFinal-Recipient: rfc822; b@c.example\nAction: failed\nStatus: 5.1.1\n"
        b"Remote-MTA: dns; mx.c.example\nDiagnostic-Code: smtp; 550 5.1.1 no such user\n\n--b--\n",
    )
    head = (
        b"From: MAILER-DAEMON@a.example\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n"
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
    )
    for octets in samples:
        bounce.parse_bounce(head + octets)
        bounce.parse_bounce(head.replace(b"multipart/report", b"text/plain") + octets)
        arf.parse(head + octets)
