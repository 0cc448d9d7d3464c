"""MTA-STS in the supervisor: the store of policies, its fetcher, and the line to the workers.

A worker gets all policies in its start message, and each change after that. What comes up while a worker starts is held
for it until it is ready.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.metrics import names
from fastrelay.route import make_resolver
from fastrelay.tls.fetch import Fetcher
from fastrelay.tls.mta_sts import Policy
from fastrelay.tls.store import DATABASES, EVENT, Store, StsStore

if TYPE_CHECKING:
    from fastrelay.admin.workers import WorkerSlot
    from fastrelay.metrics.collector import Facts

__all__ = ["DATABASES", "EVENT", "MtaSts"]

log = logging.getLogger("fastrelay.tls")

TICK_SECONDS = 1.0
TELL_SECONDS = 30.0
HELD_MESSAGES = 20_000  # for one worker that starts


class MtaSts:
    """One relay's policies.

    slots  the supervisor's list of workers; context, port: see fetch.Fetcher
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        slots: list[WorkerSlot],
        event: Callable[[str, dict[str, Any]], None],
        *,
        context: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        self._clock = clock
        self._slots = slots
        self._context, self._port = context, port
        self._held: dict[int, list[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetcher = self._make_fetcher(config)
        most = config.tls.outbound.policies_cached
        self.store = StsStore(store, clock, self._fetch, most=most, tell=self.tell, event=event)

    def _make_fetcher(self, config: Config) -> Fetcher:
        return Fetcher(
            make_resolver(config),
            self._clock.monotonic,
            timeout=config.tls.outbound.policy_timeout_seconds,
            allow_private=config.delivery.allow_private_hosts,
            context=self._context,
            port=self._port,
        )

    async def _fetch(self, domain: str) -> Policy:
        return await self._fetcher.fetch(domain)

    def configure(self, config: Config) -> None:
        """After a reload."""
        old, self._fetcher = self._fetcher, self._make_fetcher(config)
        self.store.most = config.tls.outbound.policies_cached
        self._spawn(old.close())

    def asked(self, slot: WorkerSlot, message: dict[str, Any]) -> None:
        """What a worker reports (event mta_sts)."""
        self.store.asked(message)

    def published(self, domain: str) -> tuple[list[str], list[str]] | None:
        """The text and the MX patterns of the policy that is kept of a domain, for reports (RFC 8460 section 4.4)."""
        kept = self.store.kept.get(domain)
        return None if kept is None else (list(kept.policy.lines), list(kept.policy.mx))

    # -- telling workers ----------------------------------------------------------------------------------------------

    def start(self, slot: int) -> list[Any]:
        """What a worker is told at its start; what comes up from here on is held until it is ready."""
        self._held[slot] = []
        described: list[Any] = msgspec.to_builtins(self.store.described())
        return described

    def ready(self, slot: WorkerSlot) -> None:
        """A worker takes messages now."""
        for message in self._held.pop(slot.number, ()):
            self._spawn(self._tell_one(slot, message))

    def tell(self, message: dict[str, Any]) -> None:
        """A change, for all workers."""
        built = msgspec.to_builtins(message)
        for slot in self._slots:
            held = self._held.get(slot.number)
            if held is None:
                self._spawn(self._tell_one(slot, built))
            elif len(held) < HELD_MESSAGES:
                held.append(built)

    @staticmethod
    async def _tell_one(slot: WorkerSlot, message: dict[str, Any]) -> None:
        try:
            await slot.request("mta_sts", message, TELL_SECONDS)
        except FastrelayError as error:
            if slot.ready.is_set():  # else it is told everything at its next start
                log.warning("worker %d was not told of an MTA-STS policy: %s", slot.number, error)

    def _spawn(self, act: Any) -> None:
        task = asyncio.ensure_future(act)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refreshes and writes what is due, until it is cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.store.tick()

    def add_facts(self, facts: Facts) -> None:
        """Metrics."""
        for mode, count in self.store.modes().items():
            facts.set(names.MTA_STS_POLICIES, count, mode)
        for result, count in self.store.results.items():
            facts.set(names.MTA_STS_FETCHES, count, result)

    async def close(self) -> None:
        """Everything is on disk, and nothing is open."""
        await self.store.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fetcher.close()
