"""The relay's MTA-STS policies: asked for, fetched, refreshed, kept over a restart, told to workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay.clock import SimulatedClock
from fastrelay.tls import store as module
from fastrelay.tls.mta_sts import Policy, PolicyError
from fastrelay.tls.store import DATABASES, FAILURE_SECONDS, REFRESH_SECONDS, StsStore
from fastrelay.tls.sts_cache import Kept

WEEK = 604800
MONTH = 30 * 86400


class Relay:
    """A store over a folder, and policy hosts made of a dict."""

    def __init__(self, folder: Path, clock: SimulatedClock | None = None, most: int = 1000) -> None:
        self.clock = clock or SimulatedClock()
        self.environment = Environment(str(folder), DATABASES, map_bytes=1 << 24)
        self.policies: dict[str, Policy | Exception] = {}
        self.fetched: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.gate: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0
        self.store = StsStore(
            self.environment,
            self.clock,
            self._fetch,
            most=most,
            tell=self.told.append,
            event=lambda name, fields: self.events.append({"event": name, **fields}),
        )

    async def _fetch(self, domain: str) -> Policy:
        self.fetched.append(domain)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        found = self.policies.get(domain, PolicyError("sts-policy-fetch-error", "connection refused"))
        if isinstance(found, Exception):
            raise found
        return found

    def publish(self, domain: str, mode: str = "enforce", *mx: str, max_age: int = WEEK) -> None:
        self.policies[domain] = Policy(mode, mx or ("mx.test",), max_age)  # type: ignore[arg-type]

    def ask(self, domain: str, identity: str = "1", **more: Any) -> None:
        self.store.asked({"event": "mta_sts", "domain": domain, "id": identity, **more})

    async def quiet(self) -> None:
        """Until nothing is being fetched."""
        while self.store._fetching or self.store._queue:
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store.tick()
        await self.quiet()

    def close(self) -> None:
        self.environment.close()


def run(work: Any) -> None:
    asyncio.run(work())


@pytest.fixture
def relay(tmp_path: Path) -> Any:
    made = Relay(tmp_path / "control")
    yield made
    made.close()


# -- asking -----------------------------------------------------------------------------------------------------------


def test_fetched_once_and_told(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test")
        for _ in range(3):
            relay.ask("a.test")
        await relay.quiet()
        assert relay.fetched == ["a.test"]
        [told] = relay.told
        [kept] = told["policies"]
        assert (kept.domain, kept.id, kept.policy.mx, kept.fetched) == ("a.test", "1", ("mx.test",), relay.clock.wall())
        relay.ask("a.test")  # another worker, a little later
        assert relay.told[1] == {"policies": [kept]}
        assert relay.fetched == ["a.test"]
        assert relay.events == [
            {"event": "tls_policy", "domain": "a.test", "mode": "enforce", "was": "none", "mx": ["mx.test"]}
        ]
        assert relay.store.results["ok"] == 1
        assert relay.store.modes() == {"enforce": 1, "testing": 0, "none": 0}

    run(work)


def test_a_new_id(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test")
        relay.ask("a.test", "1")
        await relay.quiet()
        relay.publish("a.test", "testing")
        relay.ask("a.test", "2")
        await relay.quiet()
        assert relay.fetched == ["a.test"] * 2
        assert relay.told[-1]["policies"][0].id == "2"
        assert [(one["was"], one["mode"]) for one in relay.events] == [("none", "enforce"), ("enforce", "testing")]

    run(work)


def test_of_two_ids_the_last_counts(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test")
        relay.gate = asyncio.Event()
        relay.ask("a.test", "1")
        await asyncio.sleep(0)
        relay.ask("a.test", "2")
        relay.gate.set()
        await relay.quiet()
        assert relay.store.kept["a.test"].id == "2"
        assert relay.fetched == ["a.test"]

    run(work)


def test_failures_are_remembered(relay: Relay) -> None:
    async def work() -> None:
        relay.ask("a.test")
        await relay.quiet()
        assert relay.told == [
            {"failed": [{"domain": "a.test", "id": "1", "seconds": FAILURE_SECONDS, "why": "connection refused"}]}
        ]
        relay.clock.advance(100)
        relay.ask("a.test")
        await relay.quiet()
        assert relay.fetched == ["a.test"]
        assert relay.told[1]["failed"][0]["seconds"] == FAILURE_SECONDS - 100
        relay.ask("a.test", "2")  # another id is another matter
        await relay.quiet()
        assert len(relay.fetched) == 2
        relay.clock.advance(FAILURE_SECONDS)
        relay.ask("a.test", "2")
        await relay.quiet()
        assert relay.told[-1]["failed"][0]["seconds"] == 2 * FAILURE_SECONDS
        assert relay.store.results["sts-policy-fetch-error"] == 3
        for _ in range(20):
            relay.clock.advance(module.FAILURE_MAX_SECONDS)
            relay.ask("a.test", "2")
            await relay.quiet()
        assert relay.told[-1]["failed"][0]["seconds"] == module.FAILURE_MAX_SECONDS
        relay.publish("a.test")
        relay.clock.advance(module.FAILURE_MAX_SECONDS)
        relay.ask("a.test", "2")
        await relay.quiet()
        assert "a.test" in relay.store.kept

    run(work)


def test_a_bug_of_ours_is_an_answer_too(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        relay.policies["a.test"] = ZeroDivisionError("oh")
        relay.ask("a.test")
        await relay.quiet()
        assert "an error inside the relay" in relay.told[0]["failed"][0]["why"]
        relay.publish("b.test")
        relay.ask("b.test")
        await relay.quiet()
        assert "b.test" in relay.store.kept

    run(work)
    assert "please report this" in caplog.text


def test_so_many_at_a_time(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCHES", 3)
    monkeypatch.setattr(module, "MAX_WAITING", 5)

    async def work() -> None:
        relay.gate = asyncio.Event()
        for number in range(10):
            relay.ask(f"{number}.test")
        assert [one["failed"][0]["domain"] for one in relay.told] == ["8.test", "9.test"]
        assert "too many" in relay.told[0]["failed"][0]["why"]
        relay.gate.set()
        await relay.quiet()
        assert relay.most_at_once == 3
        assert len(relay.fetched) == 8

    run(work)


def test_bounded(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "control", most=2)

    async def work() -> None:
        for name in ("a.test", "b.test", "c.test"):
            relay.publish(name)
            relay.ask(name)
            await relay.quiet()
            relay.clock.advance(1)
        assert list(relay.store.kept) == ["b.test", "c.test"]
        assert relay.told[-1]["gone"] == ["a.test"]
        relay.store.write()
        assert [key for key, _ in relay.environment.items("mta_sts")] == [b"b.test", b"c.test"]

    run(work)
    relay.close()


# -- time -------------------------------------------------------------------------------------------------------------


def test_refreshed_before_it_ends(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test", max_age=MONTH)
        relay.ask("a.test")
        await relay.quiet()
        await relay.pass_time(MONTH / 2 - 10)
        assert len(relay.fetched) == 1
        await relay.pass_time(11)
        assert len(relay.fetched) == 2
        assert relay.store.kept["a.test"].fetched == relay.clock.wall()
        assert relay.store.kept["a.test"].id == "1"

    run(work)


def test_what_is_in_use_is_refreshed_daily(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test", max_age=MONTH)
        relay.ask("a.test")
        await relay.quiet()
        relay.ask("a.test", used=True)
        relay.ask("unknown.test", used=True)
        await relay.pass_time(REFRESH_SECONDS - 10)
        assert len(relay.fetched) == 1
        await relay.pass_time(11)
        assert len(relay.fetched) == 2
        await relay.pass_time(REFRESH_SECONDS + 1)  # not used since
        assert len(relay.fetched) == 2

    run(work)


def test_kept_while_it_cannot_be_fetched_and_then_gone(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test", max_age=WEEK)
        relay.ask("a.test")
        await relay.quiet()
        relay.policies.clear()
        for _ in range(6):
            await relay.pass_time(86400 - 1)
            assert "a.test" in relay.store.kept
            relay.ask("a.test")
            assert relay.told[-1]["policies"]
        assert 3 <= len(relay.fetched) <= 20
        await relay.pass_time(86400 + 10)
        assert "a.test" not in relay.store.kept
        assert relay.told[-1] == {"gone": ["a.test"]}
        assert relay.events[-1]["mode"] == "none"

    run(work)


def test_removal_by_mode_none(relay: Relay) -> None:
    async def work() -> None:
        relay.publish("a.test")
        relay.ask("a.test")
        await relay.quiet()
        relay.publish("a.test", "none")
        relay.ask("a.test", "2")
        await relay.quiet()
        assert relay.store.modes() == {"enforce": 0, "testing": 0, "none": 1}
        assert relay.events[-1]["was"] == "enforce"

    run(work)


def test_a_clock_that_is_set_back() -> None:
    kept = Kept("a.test", "1", Policy("enforce", ("mx.test",), WEEK), 1000.0)
    assert kept.left(1000.0) == WEEK
    assert kept.left(0.0) == WEEK
    assert kept.left(1000.0 + WEEK) == 0


# -- over a restart ---------------------------------------------------------------------------------------------------


def test_kept_over_a_restart(tmp_path: Path) -> None:
    clock = SimulatedClock()
    relay = Relay(tmp_path / "control", clock)

    async def work() -> None:
        relay.publish("a.test", max_age=WEEK)
        relay.publish("b.test", max_age=3600)
        relay.ask("a.test")
        relay.ask("b.test")
        await relay.quiet()
        relay.clock.advance(2)
        relay.store.tick()
        await relay.store.close()

    run(work)
    described = relay.store.described()
    relay.close()
    clock.advance(3601)
    again = Relay(tmp_path / "control", clock)

    async def later() -> None:
        assert again.store.described() == [one for one in described if one.domain == "a.test"]
        again.ask("a.test")
        assert again.told[0]["policies"][0].id == "1"
        assert again.fetched == []
        again.publish("a.test")
        await again.pass_time(WEEK / 2)
        assert again.fetched == ["a.test"]
        await again.store.close()
        assert [key for key, _ in again.environment.items("mta_sts")] == [b"a.test"]

    run(later)
    again.close()


def test_more_than_one_slice(tmp_path: Path) -> None:
    environment = Environment(str(tmp_path / "control"), DATABASES, map_bytes=1 << 26)
    clock = SimulatedClock()
    many = 5000
    kept = [Kept(f"{n}.test", "1", Policy("testing", ("mx.test",), WEEK), clock.wall() - n / 100) for n in range(many)]
    environment.write([("mta_sts", one.domain.encode(), msgspec.json.encode(one)) for one in kept])
    environment.write([("mta_sts", b"broken.test", b"{")])
    environment.close()
    relay = Relay(tmp_path / "control", clock, most=many - 1)
    assert len(relay.store.kept) == many - 1
    assert f"{many - 1}.test" not in relay.store.kept  # the oldest
    relay.store.write()
    assert relay.environment.get("mta_sts", b"broken.test") is None
    relay.close()


def test_a_disk_that_refuses(relay: Relay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        relay.publish("a.test")
        relay.ask("a.test")
        await relay.quiet()

        class Full:
            def write(self, changes: Any) -> None:
                raise LmdbError("commit", 28, "control")

        environment = relay.store._store
        monkeypatch.setattr(relay.store, "_store", Full())
        await relay.pass_time(5)
        assert "can't be written to disk" in caplog.text
        monkeypatch.setattr(relay.store, "_store", environment)
        await relay.pass_time(5)
        assert relay.environment.get("mta_sts", b"a.test")

    run(work)


def test_close_ends_what_is_fetched(relay: Relay) -> None:
    async def work() -> None:
        relay.gate = asyncio.Event()
        relay.ask("a.test")
        await asyncio.sleep(0)
        await relay.store.close()
        assert relay.at_once == 0
        assert relay.told == []

    run(work)
