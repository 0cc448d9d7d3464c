"""The MTA-STS policies of the relay: fetched by the supervisor, kept until they end, given to every worker.

    a worker asks (a new id)      fetched, at most FETCHES at a time; the answer goes to all workers
    it can't be fetched           the old policy holds on (RFC 8461 section 3.3); asked again after a while, longer each
                                  time (FAILURE_SECONDS … FAILURE_MAX_SECONDS), or at once for another id
    half of max_age has passed    fetched again; where the policy is in use, at least every REFRESH_SECONDS
    max_age has passed            forgotten
    mode "none"                   kept like any other, and means: no policy

Kept in the LMDB `control`, database `mta_sts`, by domain; a change is on disk within WRITE_SECONDS. Of more than
`policies_cached`, those that were fetched longest ago go.

Known faults: with kill -9 the last second's policies are lost, and fetched again when they are wanted.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec

from fastrelay._core.lmdb import LmdbError
from fastrelay.clock import Clock
from fastrelay.tls.mta_sts import Policy, PolicyError
from fastrelay.tls.sts_cache import Kept

log = logging.getLogger("fastrelay.tls")

DATABASES = ("mta_sts",)
EVENT = "mta_sts"
FETCHES = 50  # at the same time; a slow policy host holds a place for policy_timeout
MAX_WAITING = 20_000  # fetches that wait for their turn
FAILURES_KEPT = 20_000
FAILURE_SECONDS = 300.0
FAILURE_MAX_SECONDS = 6 * 3600.0
REFRESH_SECONDS = 86400.0
LEAST_REFRESH_SECONDS = 3600.0
TOLD_TOGETHER = 1000  # policies in one message to a worker
WRITE_SECONDS = 1.0
RESULTS = ("ok", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid")

Fetch = Callable[[str], Awaitable[Policy]]
Tell = Callable[[dict[str, Any]], None]


class Store(Protocol):
    """What is needed of the LMDB `control`."""

    def items(self, database: str, start: bytes = b"", limit: int = ...) -> list[tuple[bytes, bytes]]: ...
    def write(self, changes: Iterable[tuple[str, bytes, bytes | None]]) -> None: ...


class Failure(msgspec.Struct):
    """Attempts at a policy that failed, in a row; when the next one is due, in monotonic seconds."""

    id: str
    count: int
    retry_at: float
    why: str


class StsStore:
    """Policies by domain, oldest first.

    fetch  gives a domain's policy or raises PolicyError
    tell   gives a message to all workers (command mta_sts)
    event  writes an event of the relay
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        fetch: Fetch,
        *,
        most: int,
        tell: Tell,
        event: Callable[[str, dict[str, Any]], None] = lambda name, fields: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tell = tell
        self._event = event
        self.fetch = fetch
        self.most = most
        self.results: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self._used: set[str] = set()  # since they were fetched
        self._failures: OrderedDict[str, Failure] = OrderedDict()
        self._queue: deque[tuple[str, str]] = deque()
        self._wanted: dict[str, str] = {}  # domain: id; queued or being fetched
        self._fetching: set[asyncio.Task[None]] = set()
        self._due: list[tuple[float, str, float]] = []  # monotonic seconds, domain, when it was fetched
        self._dirty: dict[str, Kept | None] = {}
        self._written_at = clock.monotonic()
        self._load()

    def _load(self) -> None:
        """What an earlier run kept, without what has ended."""
        wall = self._clock.wall()
        found = []
        for key, value in self._all():
            try:
                kept = msgspec.json.decode(value, type=Kept)
            except msgspec.DecodeError:
                log.warning("the MTA-STS policy kept for %.100r can't be read; it is fetched when it is wanted", key)
                self._dirty[key.decode("utf-8", "replace")] = None
                continue
            if kept.left(wall) > 0:
                found.append(kept)
            else:
                self._dirty[kept.domain] = None
        for kept in sorted(found, key=lambda one: one.fetched)[-self.most :]:
            self.kept[kept.domain] = kept
            self._plan(kept)

    def _all(self) -> Iterator[tuple[bytes, bytes]]:
        """What is on disk, a slice at a time."""
        start = b""
        while slice_ := self._store.items("mta_sts", start):
            yield from slice_
            start = slice_[-1][0] + b"\0"

    def described(self) -> list[Kept]:
        """All policies, as workers take them (sts_cache.kept_of)."""
        return list(self.kept.values())

    # -- what workers ask ---------------------------------------------------------------------------------------------

    def asked(self, message: dict[str, Any]) -> None:
        """A worker met an id that it has no policy of, and gets an answer in any case; or (`used`) it uses a policy."""
        domain, identity = str(message["domain"]), str(message["id"])
        kept = self.kept.get(domain)
        if message.get("used"):
            if kept is not None and domain not in self._used:
                self._used.add(domain)
                self._plan(kept)
            return
        if kept is not None and kept.id == identity and kept.left(self._clock.wall()) > 0:
            self._tell({"policies": [kept]})
            return
        failure = self._failures.get(domain)
        now = self._clock.monotonic()
        if failure is not None and failure.id == identity and now < failure.retry_at:
            self._tell({"failed": [self._failed(domain, failure, now)]})
            return
        self._want(domain, identity)

    def _want(self, domain: str, identity: str) -> None:
        """Fetch it when there is room."""
        queued = self._wanted.get(domain)
        if queued is not None:
            self._wanted[domain] = identity  # of two ids the last one seen counts
            return
        if len(self._queue) >= MAX_WAITING:
            failure = Failure(
                identity, 0, self._clock.monotonic() + 60.0, "too many MTA-STS policies are being fetched"
            )
            self._tell({"failed": [self._failed(domain, failure, self._clock.monotonic())]})
            return
        self._wanted[domain] = identity
        self._queue.append((domain, identity))
        self._start()

    def _start(self) -> None:
        while self._queue and len(self._fetching) < FETCHES:
            domain, _ = self._queue.popleft()
            task = asyncio.get_running_loop().create_task(self._fetch_one(domain))
            self._fetching.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching.discard(task)
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error(
                "fetching an MTA-STS policy failed in the relay itself; please report this", exc_info=task.exception()
            )
        self._start()

    async def _fetch_one(self, domain: str) -> None:
        identity = self._wanted[domain]
        try:
            policy = await self.fetch(domain)
        except PolicyError as error:
            self.results[error.result] += 1
            self._wanted.pop(domain, None)
            self._missed(domain, identity, str(error))
        except BaseException as error:
            self._wanted.pop(domain, None)
            if isinstance(error, Exception):
                self._missed(domain, identity, f"an error inside the relay ({error!r})")
            raise
        else:
            self.results["ok"] += 1
            identity = self._wanted.pop(domain, identity)
            self._got(domain, identity, policy)

    def _got(self, domain: str, identity: str, policy: Policy) -> None:
        """A policy is here."""
        old = self.kept.pop(domain, None)
        kept = Kept(domain, identity, policy, self._clock.wall())
        self._failures.pop(domain, None)
        self._used.discard(domain)
        self.kept[domain] = kept
        self._dirty[domain] = kept
        self._plan(kept)
        self._changed(domain, old.policy if old is not None else None, policy)
        gone = []
        while len(self.kept) > self.most:
            oldest = next(iter(self.kept))
            del self.kept[oldest]
            self._dirty[oldest] = None
            gone.append(oldest)
        self._tell({"policies": [kept], "gone": gone})

    def _missed(self, domain: str, identity: str, why: str) -> None:
        """It can't be had now. A policy that is kept holds on."""
        failure = self._failures.pop(domain, None)
        count = failure.count + 1 if failure is not None and failure.id == identity else 1
        now = self._clock.monotonic()
        delay = min(FAILURE_MAX_SECONDS, FAILURE_SECONDS * 2.0 ** min(count - 1, 16))
        failure = self._failures[domain] = Failure(identity, count, now + delay, why)
        if len(self._failures) > FAILURES_KEPT:
            self._failures.popitem(last=False)
        kept = self.kept.get(domain)
        if kept is not None:
            heapq.heappush(self._due, (now + delay, domain, kept.fetched))
        level = logging.WARNING if count == 1 else logging.INFO
        holds = "the one that is kept holds on" if kept is not None else "its mail goes without"
        log.log(level, "no MTA-STS policy of %s: %s; %s", domain, why, holds)
        self._tell({"failed": [self._failed(domain, failure, now)]})

    @staticmethod
    def _failed(domain: str, failure: Failure, now: float) -> dict[str, Any]:
        seconds = max(1.0, failure.retry_at - now)
        return {"domain": domain, "id": failure.id, "seconds": seconds, "why": failure.why}

    def _changed(self, domain: str, old: Policy | None, new: Policy) -> None:
        """An event where the mode is another one."""
        was = old.mode if old is not None else "none"
        if was == new.mode:
            return
        log.info("the MTA-STS policy of %s: %s, was %s", domain, new.mode, was)
        self._event("tls_policy", {"domain": domain, "mode": new.mode, "was": was, "mx": list(new.mx)})

    # -- time ---------------------------------------------------------------------------------------------------------

    def _plan(self, kept: Kept) -> None:
        """When it is fetched again."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        age = max(0.0, wall - kept.fetched)
        interval = max(LEAST_REFRESH_SECONDS, kept.policy.max_age / 2)
        if kept.domain in self._used:
            interval = min(interval, REFRESH_SECONDS)
        heapq.heappush(self._due, (now + max(0.0, interval - age), kept.domain, kept.fetched))

    def tick(self) -> None:
        """About once a second: what is due, and what goes to disk."""
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now and len(self._queue) < FETCHES:
            _, domain, fetched = heapq.heappop(self._due)
            kept = self.kept.get(domain)
            if kept is None or kept.fetched != fetched:
                continue
            if kept.left(self._clock.wall()) <= 0:
                self._end(kept)
            else:
                self._want(domain, kept.id)
        if self._dirty and now - self._written_at >= WRITE_SECONDS:
            self.write()

    def _end(self, kept: Kept) -> None:
        """A policy whose time is over."""
        del self.kept[kept.domain]
        self._used.discard(kept.domain)
        self._dirty[kept.domain] = None
        if kept.policy.mode != "none":
            self._event(
                "tls_policy",
                {"domain": kept.domain, "mode": "none", "was": kept.policy.mode, "why": "its time is over"},
            )
        self._tell({"gone": [kept.domain]})

    def write(self) -> None:
        """Put what changed to disk. What the disk refuses is tried again."""
        self._written_at = self._clock.monotonic()
        dirty, self._dirty = self._dirty, {}
        changes = [
            ("mta_sts", domain.encode(), None if kept is None else msgspec.json.encode(kept))
            for domain, kept in dirty.items()
        ]
        try:
            self._store.write(changes)
        except LmdbError as error:
            log.error("MTA-STS policies can't be written to disk (%s); they are tried again", error)
            self._dirty = dirty | self._dirty

    def modes(self) -> dict[str, int]:
        """Policies by mode."""
        counts = {"enforce": 0, "testing": 0, "none": 0}
        for kept in self.kept.values():
            counts[kept.policy.mode] += 1
        return counts

    async def close(self) -> None:
        """Stop what is being fetched, and put everything to disk."""
        self._queue.clear()
        tasks = list(self._fetching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._dirty:
            self.write()
