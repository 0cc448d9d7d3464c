"""MTA-STS between supervisor and workers: what a worker is told at its start, while it starts, and afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay._core.lmdb import Environment
from fastrelay.admin.workers import WorkerGone
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts
from fastrelay.tls.mta_sts import Policy
from fastrelay.tls.sts_cache import kept_of
from fastrelay.tls.supervise import DATABASES, MtaSts


class Slot:
    """A worker's place; `told` is what it was told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = asyncio.Event()
        self.told: list[dict[str, Any]] = []
        self.gone = False

    async def request(self, command: str, arguments: dict[str, Any], seconds: float) -> Any:
        assert command == "mta_sts"
        if self.gone:
            raise WorkerGone(self.number, "is not running")
        self.told.append(arguments)


def relay(folder: Path, slots: list[Any], **config: Any) -> MtaSts:
    made = MtaSts(
        from_builtins({"hostname": "relay.test", **config}),
        Environment(str(folder), DATABASES, map_bytes=1 << 24),
        SimulatedClock(),
        slots,
        lambda name, fields: None,
    )

    async def fetch(domain: str) -> Policy:
        return Policy("enforce", ("mx.test",), 604800, ("version: STSv1",))

    made.store.fetch = fetch
    return made


async def fetched(sts: MtaSts, *domains: str) -> None:
    for domain in domains:
        sts.asked(SimpleNamespace(number=0), {"event": "mta_sts", "domain": domain, "id": "1"})  # type: ignore[arg-type]
    while not all(domain in sts.store.kept for domain in domains):
        await asyncio.sleep(0)
    while sts._tasks:
        await asyncio.sleep(0)


def test_workers_are_told(tmp_path: Path) -> None:
    async def work() -> None:
        slots = [Slot(0), Slot(1)]
        sts = relay(tmp_path / "control", slots)
        for slot in slots:
            assert sts.start(slot.number) == []
        await fetched(sts, "a.test")  # before they are ready: a worker delivers what it recovered, and asks
        assert [slot.told for slot in slots] == [[], []]
        for slot in slots:
            slot.ready.set()
            sts.ready(slot)  # type: ignore[arg-type]
        await fetched(sts, "b.test")
        for slot in slots:
            assert [one["policies"][0]["domain"] for one in slot.told] == ["a.test", "b.test"]
            assert kept_of(slot.told[0]["policies"])[0].policy.mx == ("mx.test",)
        started = kept_of(sts.start(1))  # it died, and comes back
        assert [one.domain for one in started] == ["a.test", "b.test"]
        assert sts.published("a.test") == (["version: STSv1"], ["mx.test"])
        assert sts.published("c.test") is None
        await sts.close()

    asyncio.run(work())


def test_a_worker_that_dies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        slot = Slot(0)
        slot.gone = True
        sts = relay(tmp_path / "control", [slot])
        await fetched(sts, "a.test")
        assert not caplog.records  # it is told at its next start
        slot.ready.set()
        await fetched(sts, "b.test")
        assert "worker 0 was not told" in caplog.text
        await sts.close()

    asyncio.run(work())


def test_reload_and_metrics(tmp_path: Path) -> None:
    async def work() -> None:
        sts = relay(tmp_path / "control", [])
        await fetched(sts, "a.test")
        sts.configure(from_builtins({"hostname": "relay.test", "tls": {"outbound": {"policies_cached": 1}}}))
        await fetched(sts, "b.test")
        assert list(sts.store.kept) == ["b.test"]
        facts = Facts()
        sts.add_facts(facts)
        assert facts.values[names.MTA_STS_POLICIES.name, ("enforce",)] == 1
        assert facts.values[names.MTA_STS_FETCHES.name, ("ok",)] == 2
        await sts.close()

    asyncio.run(work())
