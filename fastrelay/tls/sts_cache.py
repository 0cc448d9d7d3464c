"""What a worker knows of MTA-STS: the records that announce policies, and the policies that the supervisor keeps.

The supervisor fetches policies and keeps them (store.py); every worker has a copy of all of them, so that a policy
holds also where somebody makes its record disappear (RFC 8461 section 5.1). A worker asks for the record (TXT) with its
own resolver, and tells the supervisor of ids that it does not have.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.route.cache import BoundedCache
from fastrelay.route.flights import Flights
from fastrelay.tls.mta_sts import Policy, record_id

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.config.security import OutboundTls

log = logging.getLogger(__name__)

MAX_LOOKUPS = 20_000
MAX_WAITING = 20_000  # domains whose policy was asked for; beyond it they go without
ANSWER_SECONDS = 300.0  # the supervisor answers always; this is for the case that it can't
USED_SECONDS = 86400.0  # how often the supervisor is told that a policy is in use


class Kept(msgspec.Struct, frozen=True):
    """A policy as it is kept: in the supervisor's store, and in each worker.

    id       of the record by which it was fetched
    fetched  wall time, seconds
    """

    domain: str
    id: str
    policy: Policy
    fetched: float

    def left(self, wall: float) -> float:
        """Seconds for which it still holds. A clock that was set back makes it no older, nor longer-lived."""
        return self.policy.max_age - max(0.0, wall - self.fetched)


def kept_of(described: Any) -> list[Kept]:
    """Policies as they come over the channel."""
    return msgspec.convert(list(described), list[Kept])


class Record(msgspec.Struct, gc=False):
    """What the DNS says at _mta-sts.DOMAIN: the id, None without one; until when, in the caller's `now`."""

    id: str | None
    expires_at: float
    why: str = ""


class Announced(msgspec.Struct, gc=False):
    """The policy that holds for a domain (None: none), why there is none, and until when that is known."""

    policy: Policy | None
    expires_at: float
    why: str = ""


class StsCache:
    """MTA-STS in one worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.policies: dict[str, Kept] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._told_used: dict[str, float] = {}
        self._failed: BoundedCache[tuple[str, float, str]] = BoundedCache(MAX_WAITING)
        self._records: BoundedCache[Record] = BoundedCache(1)
        self._flights: Flights[Record] = Flights(MAX_LOOKUPS)

    def configure(self, outbound: OutboundTls) -> None:
        """What follows from the configuration."""
        self._most = outbound.policies_cached
        self._records = BoundedCache(outbound.policies_cached)

    # -- what the supervisor says -------------------------------------------------------------------------------------

    def take(self, policies: Iterable[Kept], gone: Iterable[str] = (), failed: Iterable[dict[str, Any]] = ()) -> None:
        """Policies that are new or were fetched again, domains that have none any more, and attempts that failed."""
        now = self._app.clock.monotonic()
        for domain in gone:
            self.policies.pop(domain, None)
        for kept in policies:
            self.policies.pop(kept.domain, None)
            self.policies[kept.domain] = kept
            if len(self.policies) > self._most:
                del self.policies[next(iter(self.policies))]
            self._answered(kept.domain)
        for one in failed:
            self._failed.put(one["domain"], (one["id"], now + one["seconds"], one["why"]))
            self._answered(one["domain"])

    def _answered(self, domain: str) -> None:
        waiting = self._waiting.get(domain)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # -- the policy of a domain ---------------------------------------------------------------------------------------

    def begin(self, domain: str, now: float) -> None:
        """Ask for the record now; the answer is wanted soon."""
        known = self._records.get(domain)
        if (known is None or now >= known.expires_at) and not self._flights.full(domain):
            self._flights.start(domain, lambda: self._look_up(domain, now))

    def known(self, domain: str, now: float) -> Announced | None:
        """The policy of a domain if nothing has to be asked for; None: `find` it."""
        record = self._records.get(domain)
        if record is None or now >= record.expires_at:
            return None
        if record.id is not None:
            kept, _ = self._valid(domain)
            if kept is not None and kept.id == record.id:
                self._in_use(domain, record.id, now)
            elif not self._failed_lately(domain, record.id, now):
                return None
        return self._announced(domain, record, now)

    async def asked(self, domain: str, now: float) -> None:
        """Waits until the record is known."""
        await self._record(domain, now)

    async def find(self, domain: str, now: float) -> Announced:
        """The policy of a domain. Waits for the supervisor where a new id is announced."""
        record = await self._record(domain, now)
        why = "" if record.id is None else await self._fetched(domain, record.id)
        return self._announced(domain, record, self._app.clock.monotonic(), why)

    async def _record(self, domain: str, now: float) -> Record:
        record = self._records.get(domain)
        if record is not None and now < record.expires_at:
            return record
        if self._flights.full(domain):
            return Record(None, now + 1.0, "too many DNS look-ups are under way")
        return await self._flights.join(domain, lambda: self._look_up(domain, now))

    def _announced(self, domain: str, record: Record, now: float, why: str = "") -> Announced:
        """What follows from a record, now that its policy is here or can't be had."""
        kept, left = self._valid(domain)
        until = record.expires_at
        if record.id is not None and (kept is None or kept.id != record.id):
            failed = self._failed.get(domain)
            if failed is not None and failed[0] == record.id:
                until = min(until, max(failed[1], now + 1.0))
                why = why or failed[2]
        if kept is None:
            return Announced(None, until, why or record.why)
        policy = None if kept.policy.mode == "none" else kept.policy
        return Announced(policy, min(until, now + max(left, 1.0)), "" if policy is not None else why or record.why)

    def _failed_lately(self, domain: str, identity: str, now: float) -> bool:
        failed = self._failed.get(domain)
        return failed is not None and failed[0] == identity and now < failed[1]

    async def _fetched(self, domain: str, identity: str) -> str:
        """Waits until the policy of that id is here, or can't be had; why it is not, for people."""
        kept, _ = self._valid(domain)
        now = self._app.clock.monotonic()
        if kept is not None and kept.id == identity:
            self._in_use(domain, identity, now)
            return ""
        if self._failed_lately(domain, identity, now):
            return ""
        waiting = self._waiting.get(domain)
        if waiting is None:
            if len(self._waiting) >= MAX_WAITING:
                return "too many MTA-STS policies are being fetched"
            waiting = self._waiting[domain] = asyncio.get_running_loop().create_future()
            self._app.report({"event": "mta_sts", "domain": domain, "id": identity})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.shield(waiting)
        except TimeoutError:
            log.warning("the MTA-STS policy of %s was asked for, and no answer came", domain)
            return "no answer about the MTA-STS policy came from the supervisor"
        finally:
            if self._waiting.get(domain) is waiting:
                del self._waiting[domain]
        return ""

    def _in_use(self, domain: str, identity: str, now: float) -> None:
        """Tells the supervisor, now and then, that a policy is in use: it refreshes those more often."""
        told = self._told_used.get(domain)
        if told is not None and now - told < USED_SECONDS:
            return
        if len(self._told_used) > self._most:
            self._told_used.clear()
        self._told_used[domain] = now
        self._app.report({"event": "mta_sts", "domain": domain, "id": identity, "used": True})

    def _valid(self, domain: str) -> tuple[Kept | None, float]:
        """The policy that is kept, while it holds, and for how many seconds more."""
        kept = self.policies.get(domain)
        if kept is None:
            return None, 0.0
        left = kept.left(self._app.clock.wall())
        return (kept, left) if left > 0 else (None, 0.0)

    async def _look_up(self, domain: str, now: float) -> Record:
        answer = await self._app.router.resolver.query(f"_mta-sts.{domain}", "TXT")
        now = max(now, self._app.clock.monotonic())
        lifetimes = self._app.router.lifetimes
        if answer.status == "temporary":
            why = f"_mta-sts.{domain} cannot be looked up: {answer.detail}"
            record = Record(None, now + lifetimes.after_failure(1), why)
        elif answer.status == "ok":
            identity = record_id(answer.records)
            why = "" if identity else f"_mta-sts.{domain} holds no sound MTA-STS record"
            record = Record(identity, now + lifetimes.positive(answer.ttl), why)
        else:
            record = Record(None, now + lifetimes.negative(answer.ttl), f"_mta-sts.{domain} does not exist")
        self._records.put(domain, record)
        return record

    def lines_of(self, domain: str) -> tuple[str, ...]:
        """The lines of the policy that holds for a domain."""
        kept, _ = self._valid(domain)
        return () if kept is None else kept.policy.lines

    async def close(self) -> None:
        """Stop what is being looked up."""
        await self._flights.close()
