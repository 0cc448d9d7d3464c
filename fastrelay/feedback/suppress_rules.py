"""What fills the suppression list: the rules, and who may call them.

    hard bounce       of a delivery of ours, or a bounce message that matches our reference: at once
    soft bounces      so many within so long, each day counted once; a delivery in between clears them
    complaint         at once
    unsubscribe       at once

Only what says something about the recipient counts. A class about us (a block, a throttle, authentication, content) or
about a message never suppresses anyone: `bounce` is the one place that decides it.

Where a scope's value is not known (mail without a tenant or without a sender's domain), the entry holds for less, never
for more: a sender's entry falls back to the tenant, and a tenant's without a name holds for mail without a tenant.

Crash argument: the event is written and synced before the entry, and the entry is synced before the call's future is
done. A process that dies in between leaves an event whose entry is not there; who got no answer calls again, and the
event is told again with the same key where the caller gave the time (`created`).

Known faults: soft bounces are counted by day of UTC.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastrelay._core.lmdb import LmdbError
from fastrelay.config.feedback import Reason
from fastrelay.config.schema import Config
from fastrelay.feedback.desk import Part
from fastrelay.feedback.needed import DELIVERED, FAILURES, Known, Needed
from fastrelay.feedback.suppression import (
    REASONS,
    Change,
    Entry,
    SuppressionError,
    SuppressionList,
    address_key,
    domain_name,
    shown,
)
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.feedback.desk import Desk
    from fastrelay.feedback.tail import Event

log = logging.getLogger("fastrelay.feedback")

SOFT = "soft"
DAY = 86400
GROUP = 1000  # rules' entries in one commit
MOST_WAITING = 100_000  # for their commit
SOFT_ADDRESSES = 5_000_000
SWEEP_KEYS = 500  # looked at a second
SWEEP_AGAIN_SECONDS = 600.0


class Suppression(Part):
    """The list and its rules: `desk.suppression`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._config = desk.config.suppression
        self.list = SuppressionList(desk.store, self._config.entries)
        self.changing = asyncio.Lock()  # held from the preparation of a change to its commit
        self._waiting: deque[tuple[Entry, asyncio.Future[bool]]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._sweep_at: bytes | None = b""
        self._sweep_after = 0.0
        self._soft_at = b""
        self._sweeper: asyncio.Task[None] | None = None
        self._soft_known = desk.store.count(SOFT)
        self._known = Known(none=not self._soft_known)

    def configure(self, config: Config) -> None:
        self._config = config.suppression
        self.list.most = self._config.entries

    async def start(self) -> list[str]:
        tail = self._desk.tail
        tail.subscribe("suppression", self.take, wanted=FAILURES | {DELIVERED}, since="begin")
        tail.subscribers["suppression"].reader.wanted = Needed(self._known)
        self.count()
        return []

    async def close(self) -> None:
        for task in (self._writer, self._sweeper):
            if task is not None:
                await asyncio.wait([task])

    # -- rules --------------------------------------------------------------------------------------------------------

    def add_rule(
        self, reason: Reason, recipient: bytes, *, tenant: bytes | str = b"", sender_domain: bytes | str = b"",
        source: str = "", created: float | None = None,
    ) -> asyncio.Future[bool]:  # fmt: skip
        """Suppresses a recipient as the configuration has it for this reason.

        The future is done once that is on stable storage: True where the entry is new. It fails with LmdbError, OSError
        or SuppressionError (the list is full): nothing may be answered for then. An address that can't be one, and a
        rule that is switched off, give False. `created`: when it happened (seconds since 1970), now by default.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        entry = self._entry(reason, recipient, _octets(tenant), _octets(sender_domain), source, created)
        if entry is None:
            future.set_result(False)
            return future
        if len(self._waiting) >= MOST_WAITING:
            future.set_exception(SuppressionError("too many changes of the suppression list wait for the disk"))
            return future
        self._waiting.append((entry, future))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())
        return future

    def bounce(
        self, kind: str, about: str, recipient: bytes, *, tenant: bytes | str = b"", sender_domain: bytes | str = b"",
        source: str = "bounce", at: float | None = None,
    ) -> asyncio.Future[bool] | None:  # fmt: skip
        """What a bounce of that kind (hard, soft) and subject means for the list. Only one about the recipient counts.

        None: nothing to wait for. LmdbError where a soft bounce could not be counted.
        """
        if about != "recipient" or kind not in ("hard", "soft"):
            return None
        if kind == "hard":
            return self.add_rule(
                "hard_bounce", recipient, tenant=tenant, sender_domain=sender_domain, source=source, created=at
            )
        return self.soft_bounce(recipient, tenant=tenant, sender_domain=sender_domain, source=source, at=at)

    def soft_bounce(
        self, recipient: bytes, *, tenant: bytes | str = b"", sender_domain: bytes | str = b"",
        source: str = "bounce", at: float | None = None,
    ) -> asyncio.Future[bool] | None:  # fmt: skip
        """Counts a soft bounce about a recipient; those of a day count once. See `bounce`."""
        config = self._config
        if not config.soft_bounces or not config.enabled:
            return None
        tenant, sender_domain = _octets(tenant), _octets(sender_domain)
        entry = self._entry("soft_bounces", recipient, tenant, sender_domain, source, at)
        if entry is None:
            return None
        key = _soft_key(entry)
        today = entry.created // DAY
        days = self._days(key, today)
        if today not in days:
            days = sorted([*days, today])[-config.soft_bounces :]
            self._set_days(key, days)
        if len(days) < config.soft_bounces:
            return None
        future = self.add_rule(
            "soft_bounces", recipient, tenant=tenant, sender_domain=sender_domain, source=source, created=at
        )
        future.add_done_callback(lambda done: self._clear(key) if _succeeded(done) else None)
        return future

    def delivered(self, recipient: bytes) -> None:
        """A delivery to an address: its soft bounces so far count no more."""
        if not self._soft_known:
            return
        try:
            start = address_key(recipient) + b"\0"
        except SuppressionError:
            return
        keys = [key for key, _ in self._desk.store.items(SOFT, start, 100) if key.startswith(start)]
        if keys:
            self._desk.store.delete_many(SOFT, keys)
            self._soft_known = self._desk.store.count(SOFT)

    def _entry(
        self, reason: Reason, recipient: bytes, tenant: bytes, sender_domain: bytes, source: str, created: float | None
    ) -> Entry | None:
        """The entry that a rule makes; None where it makes none."""
        config = self._config
        scope, on, lasts = {
            "hard_bounce": (config.bounce_scope, config.hard_bounces, config.hard_expire_seconds),
            "soft_bounces": (config.bounce_scope, bool(config.soft_bounces), config.soft_expire_seconds),
            "complaint": (config.complaint_scope, config.complaints, config.complaint_expire_seconds),
            "unsubscribe": (config.unsubscribe_scope, config.unsubscribes, config.unsubscribe_expire_seconds),
        }[reason]
        if not on or not config.enabled:
            return None
        try:
            address = address_key(recipient)
            if address.startswith(b"@"):
                raise SuppressionError("a rule suppresses no whole domain")
            value = b""
            if scope == "sender":
                value = domain_name(sender_domain) if sender_domain else b""
                scope = scope if value else "tenant"
            if scope == "tenant":
                value = tenant
        except SuppressionError as error:
            log.info("nothing is suppressed for %r: %s", recipient[:100], error)
            return None
        at = int(self._desk.clock.wall() if created is None else created)
        return Entry(address, scope, value, reason, source, at, 0 if lasts is None else at + int(lasts) or 1)

    # -- soft bounces -------------------------------------------------------------------------------------------------

    def _days(self, key: bytes, today: int) -> list[int]:
        """The days with a soft bounce that lie within the window."""
        raw = self._desk.store.get(SOFT, key) or b""
        days = [int.from_bytes(raw[at : at + 3], "big") for at in range(0, len(raw) - 2, 3)]
        first = today - (int(self._config.soft_window_seconds) + DAY - 1) // DAY
        return [day for day in days if day > first]

    def _set_days(self, key: bytes, days: list[int]) -> None:
        store = self._desk.store
        self._known.add(key.partition(b"\0")[0])
        if self._soft_known >= SOFT_ADDRESSES and store.get(SOFT, key) is None:
            return  # the sweep makes room; until then new ones are not counted
        store.put(SOFT, key, b"".join(day.to_bytes(3, "big") for day in days))
        self._soft_known = store.count(SOFT)

    def _clear(self, key: bytes) -> None:
        self._desk.store.delete(SOFT, key)
        self._soft_known = self._desk.store.count(SOFT)

    # -- our own deliveries -------------------------------------------------------------------------------------------

    async def take(self, events: list[Event]) -> None:
        """Events of the workers, in order. It returns once what they mean is on stable storage."""
        futures: list[asyncio.Future[bool]] = []
        for event in events:
            recipient = event.recipient.encode("utf-8", "surrogateescape")
            if event.event == "delivered":
                self.delivered(recipient)
                continue
            sender_domain = event.reverse_path.rpartition("@")[2]
            future = self.bounce(
                event.kind, event.about, recipient, tenant=event.tenant, sender_domain=sender_domain,
                source="delivery", at=_seconds(event.time),
            )  # fmt: skip
            if future is not None:
                futures.append(future)
        if futures:
            await asyncio.gather(*futures)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Writes what waits, many in one commit."""
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                try:
                    new = await self.put([entry for entry, _ in group])
                except (LmdbError, OSError, SuppressionError) as error:
                    log.error("%d entries can't be put into the suppression list: %s", len(group), error)
                    self._desk.meters.count(names.ERRORS, where="feedback")
                    await self._one_by_one(group, error)
                    continue
                for (_, future), is_new in zip(group, new, strict=True):
                    if not future.done():
                        future.set_result(is_new)
        finally:
            self._writer = None

    async def _one_by_one(self, group: list[tuple[Entry, asyncio.Future[bool]]], error: Exception) -> None:
        """One entry may be the reason why a group failed (an address with thousands of them)."""
        for entry, future in group:
            if future.done():
                continue
            try:
                if not isinstance(error, SuppressionError):
                    raise error
                future.set_result((await self.put([entry]))[0])
            except (LmdbError, OSError, SuppressionError) as own:
                future.set_exception(own)

    async def put(self, entries: list[Entry], *, replace: bool = False, events: bool = True) -> list[bool]:
        """Puts entries in, with their events; for each, whether it is new. On stable storage when it returns."""
        async with self.changing:
            change = Change(self.list)
            new = [change.add(entry, replace=replace) for entry in entries]
            if events and any(new):
                for entry, is_new in zip(entries, new, strict=True):
                    if is_new:
                        self.tell("added", entry)
                await self._desk.sync_events()
            change.commit()
        self.count()
        return new

    async def take_out(self, entries: list[Entry], action: str = "removed") -> list[Entry]:
        """Takes entries out, with their events; gives those that were there."""
        async with self.changing:
            change = Change(self.list)
            gone = [found for entry in entries if (found := change.remove(entry)) is not None]
            if gone:
                for entry in gone:
                    self.tell(action, entry)
                await self._desk.sync_events()
            change.commit()
        self.count()
        return gone

    def tell(self, action: str, entry: Entry) -> None:
        """The event of a change. OSError."""
        what = "domain" if entry.of_domain else "recipient"
        fields: dict[str, Any] = {what: shown(entry.address).removeprefix("@"), "scope": entry.scope}
        if entry.scope != "global":
            fields["scope_value"] = entry.value.decode("utf-8", "backslashreplace")
        fields |= {"reason": entry.reason, "action": action, "source": entry.source}
        if entry.expires and action == "added":
            fields["expires"] = entry.expires
        self._desk.event("suppression", fields, key_of(action, entry))

    def count(self) -> None:
        """The gauges."""
        for reason in REASONS:
            entry = self._desk.meters.entry(names.SUPPRESSION_ENTRIES, reason=reason)
            self._desk.meters.slab.set(entry, self.list.by_reason()[reason])

    # -- expiry -------------------------------------------------------------------------------------------------------

    def second(self, now: float) -> None:
        """A slice of the sweep: entries and soft bounces whose time is over."""
        if self._sweeper is None and now >= self._sweep_after:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep(now))

    async def _sweep(self, now: float) -> None:
        try:
            await self.sweep_slice()
            if self._sweep_at == b"" and self._soft_at == b"":
                self._sweep_after = now + SWEEP_AGAIN_SECONDS
        except (LmdbError, OSError, SuppressionError) as error:
            log.error("the suppression list can't be swept: %s", error)
            self._sweep_after = now + SWEEP_AGAIN_SECONDS
        finally:
            self._sweeper = None

    async def sweep_slice(self) -> None:
        """Removes what expired among the next addresses."""
        wall = self._desk.clock.wall()
        entries, following = self.list.page(self._sweep_at or b"", SWEEP_KEYS)
        over = [entry for entry in entries if not entry.live(wall)]
        if over:
            await self.take_out(over, "expired")
        self._sweep_at = following or b""
        soft = self._desk.store.items(SOFT, self._soft_at, SWEEP_KEYS)
        first = int(wall - self._config.soft_window_seconds) // DAY
        old = [key for key, raw in soft if int.from_bytes(raw[-3:], "big") < first]
        if old:
            self._desk.store.delete_many(SOFT, old)
            self._soft_known = self._desk.store.count(SOFT)
        for key, _ in soft:
            self._known.walked(key.partition(b"\0")[0])
        self._soft_at = soft[-1][0] + b"\0" if len(soft) == SWEEP_KEYS else b""
        if not self._soft_at:
            self._known.walk_is_over(self._desk.clock.monotonic())


def key_of(action: str, entry: Entry) -> str:
    """The key of a change's event: the same for the same change told twice."""
    parts = (action.encode(), entry.address, entry.scope.encode(), entry.value, entry.reason.encode(),
             b"%d" % entry.created, b"%d" % entry.expires)  # fmt: skip
    return "s" + hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()


def _soft_key(entry: Entry) -> bytes:
    """Where soft bounces of an address are counted: each scope's value by itself."""
    return entry.address + b"\0" + entry.scope[:1].encode() + entry.value[:100]


def _octets(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _seconds(time: str) -> float | None:
    """Seconds since 1970 of an event's time."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None


def _succeeded(future: asyncio.Future[bool]) -> bool:
    return not future.cancelled() and future.exception() is None


def _retrieved(future: asyncio.Future[bool]) -> None:
    """Whoever did not wait for it was told by the log."""
    if not future.cancelled():
        future.exception()
