"""What fills the suppression list, and what never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastrelay._core.lmdb import LmdbError
from fastrelay._core.slab import Slab
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.feedback.desk import Desk, DeskError
from fastrelay.feedback.suppress_rules import Suppression
from fastrelay.feedback.suppression import SuppressionError
from fastrelay.feedback.tail import Event

DAY = 86400.0


class Box:
    """A feedback process' desk in this one."""

    def __init__(self, folder: Path, clock: SimulatedClock, **suppression: Any) -> None:
        self.folder = folder
        self.clock = clock
        (folder / "events").mkdir(exist_ok=True)
        config = from_builtins({"hostname": "relay.example.org", "suppression": suppression})
        slab = Slab(str(folder / "slab"), create=not (folder / "slab").exists())
        self.desk = Desk(config, state_dir=str(folder), clock=clock, slab=slab)

    @property
    def rules(self) -> Suppression:
        return self.desk.suppression

    def entries(self) -> list[tuple[str, str, str, str]]:
        found, _ = self.rules.list.page(b"", 1000)
        return [(one.address.decode(), one.scope, one.value.decode(), one.reason) for one in found]

    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "events" / "feedback.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "suppression"]


@asynccontextmanager
async def box(folder: Path, clock: SimulatedClock | None = None, **suppression: Any) -> AsyncIterator[Box]:
    made = Box(folder, clock or SimulatedClock(), **suppression)
    await made.desk.start()
    try:
        yield made
    finally:
        await made.desk.close()


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 120))  # type: ignore[arg-type]


KINDS = ("hard", "soft", "", "odd")
ABOUT = ("recipient", "us", "message", "domain", "other", "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("about", ABOUT)
def test_only_what_is_about_the_recipient_counts(tmp_path: Path, kind: str, about: str) -> None:
    async def story() -> None:
        async with box(tmp_path, soft_bounces=1) as made:
            future = made.rules.bounce(kind, about, b"joe@example.com")
            counts = about == "recipient" and kind in ("hard", "soft")
            assert (future is not None) == counts
            if future is not None:
                assert await future
            assert [reason for *_, reason in made.entries()] == (
                [{"hard": "hard_bounce", "soft": "soft_bounces"}[kind]] if counts else []
            )
            assert made.desk.store.count("soft") == 0

    run(story)


@pytest.mark.parametrize(
    ("reason", "tenant", "sender", "scope", "value"),
    [
        ("hard_bounce", b"acme", b"news.example", "global", ""),
        ("complaint", b"acme", b"news.example", "tenant", "acme"),
        ("complaint", b"", b"news.example", "tenant", ""),
        ("unsubscribe", b"acme", b"News.Example", "sender", "news.example"),
        ("unsubscribe", "acme", "", "tenant", "acme"),
        ("unsubscribe", b"", b"", "tenant", ""),
    ],
)
def test_scopes(tmp_path: Path, reason: Any, tenant: Any, sender: Any, scope: str, value: str) -> None:
    async def story() -> None:
        async with box(tmp_path) as made:
            added = made.rules.add_rule(reason, b"Joe@Example.com", tenant=tenant, sender_domain=sender, source="x")
            assert await added
            assert made.entries() == [("joe@example.com", scope, value, reason)]
            (event,) = made.events()
            assert event["action"] == "added"
            assert (event["recipient"], event["reason"], event["source"]) == ("joe@example.com", reason, "x")
            assert event.get("scope_value", "") == value
            assert not await made.rules.add_rule(reason, b"joe@example.com", tenant=tenant, sender_domain=sender)
            assert len(made.events()) == 1

    run(story)


@pytest.mark.parametrize(
    ("reason", "switch"),
    [
        ("hard_bounce", {"hard_bounces": False}),
        ("soft_bounces", {"soft_bounces": 0}),
        ("complaint", {"complaints": False}),
        ("unsubscribe", {"unsubscribes": False}),
        ("complaint", {"enabled": False}),
    ],
)
def test_rules_can_be_switched_off(tmp_path: Path, reason: Any, switch: dict[str, Any]) -> None:
    async def story() -> None:
        async with box(tmp_path, **switch) as made:
            assert not await made.rules.add_rule(reason, b"joe@example.com")
            if reason == "soft_bounces":
                assert made.rules.soft_bounce(b"joe@example.com") is None
            assert made.entries() == []

    run(story)


@pytest.mark.parametrize("recipient", [b"", b"example.com", b"@example.com", b"joe@", b"\xff@\xff", b"a b@c"])
def test_an_address_that_is_none_is_passed_over(tmp_path: Path, recipient: bytes) -> None:
    async def story() -> None:
        async with box(tmp_path) as made:
            assert not await made.rules.add_rule("hard_bounce", recipient)
            assert made.rules.soft_bounce(recipient) is None
            made.rules.delivered(recipient)
            assert made.entries() == []

    run(story)


def test_soft_bounces_on_several_days(tmp_path: Path) -> None:
    async def story() -> None:
        clock = SimulatedClock()
        async with box(tmp_path, clock, soft_bounces=3, soft_window=10 * DAY) as made:
            for _ in range(5):  # a day counts once
                assert made.rules.soft_bounce(b"joe@example.com") is None
            clock.advance(DAY)
            assert made.rules.soft_bounce(b"Joe@example.com") is None
            clock.advance(DAY)
            future = made.rules.soft_bounce(b"joe@example.com")
            assert future is not None
            assert await future
            assert made.entries() == [("joe@example.com", "global", "", "soft_bounces")]
            assert made.desk.store.count("soft") == 0  # begun anew

    run(story)


def test_soft_bounces_outside_the_window_count_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        clock = SimulatedClock()
        async with box(tmp_path, clock, soft_bounces=2, soft_window=10 * DAY) as made:
            assert made.rules.soft_bounce(b"joe@example.com") is None
            clock.advance(11 * DAY)
            assert made.rules.soft_bounce(b"joe@example.com") is None
            clock.advance(12 * DAY)
            await made.rules.sweep_slice()
            assert made.desk.store.count("soft") == 0
            assert made.entries() == []

    run(story)


def test_a_delivery_clears_them(tmp_path: Path) -> None:
    async def story() -> None:
        clock = SimulatedClock()
        async with box(tmp_path, clock, soft_bounces=2) as made:
            made.rules.soft_bounce(b"joe@example.com")
            made.rules.soft_bounce(b"joe@example.co")  # another, whose key begins alike
            await made.rules.take([Event(event="delivered", recipient="JOE@example.com")])
            clock.advance(DAY)
            assert made.rules.soft_bounce(b"joe@example.com") is None
            assert made.rules.soft_bounce(b"joe@example.co") is not None

    run(story)


def test_events_of_our_own_deliveries(tmp_path: Path) -> None:
    async def story() -> None:
        async with box(tmp_path, soft_bounces=1, bounce_scope="sender") as made:
            common = {"reverse_path": "b@News.example", "time": "2026-11-01T00:00:00.000Z"}
            await made.rules.take(
                [
                    Event(event="failed", recipient="a@x.example", kind="hard", about="recipient", **common),
                    Event(event="failed", recipient="b@x.example", kind="hard", about="us", **common),
                    Event(event="expired", recipient="c@x.example", kind="soft", about="recipient", **common),
                    Event(event="expired", recipient="d@x.example", kind="soft", about="us", **common),
                    Event(event="failed", recipient="e@x.example", **common),
                ]
            )
            assert made.entries() == [
                ("a@x.example", "sender", "news.example", "hard_bounce"),
                ("c@x.example", "sender", "news.example", "soft_bounces"),
            ]
            first = made.events()
            # Given again, as after a crash: nothing new, and the key of a told event is of the bounce.
            await made.rules.take_out(made.rules.list.entries(b"a@x.example"))
            await made.rules.take(
                [Event(event="failed", recipient="a@x.example", kind="hard", about="recipient", **common)]
            )
            assert made.events()[-1]["key"] == first[0]["key"]

    run(story)


def test_an_entry_ends_and_the_sweep_takes_it_out(tmp_path: Path) -> None:
    async def story() -> None:
        clock = SimulatedClock()
        async with box(tmp_path, clock, complaint_expire=2 * DAY) as made:
            await made.rules.add_rule("complaint", b"joe@example.com")
            await made.rules.add_rule("hard_bounce", b"joe@example.com")
            clock.advance(2 * DAY - 1)
            await made.rules.sweep_slice()
            assert len(made.entries()) == 2
            clock.advance(2)
            await made.rules.sweep_slice()
            assert made.entries() == [("joe@example.com", "global", "", "hard_bounce")]
            assert [event["action"] for event in made.events()] == ["added", "added", "expired"]

    run(story)


def test_what_was_answered_for_is_there_after_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with box(tmp_path) as made:
            rules = made.rules
            futures = [rules.add_rule("hard_bounce", b"j%d@example.com" % number) for number in range(2500)]
            assert await asyncio.gather(*futures) == [True] * 2500
        async with box(tmp_path) as made:
            assert made.rules.list.total == made.desk.store.count("suppression") == 2500

    run(story)


def test_a_failed_commit_is_told_and_nothing_is_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with box(tmp_path) as made:

            class Failing:
                def __getattr__(self, name: str) -> Any:
                    return getattr(made.desk.store, name)

                def write(self, changes: Any) -> None:
                    raise LmdbError("commit", 28, "x")

            kept, made.rules.list._store = made.rules.list._store, Failing()
            future = made.rules.add_rule("hard_bounce", b"joe@example.com")
            with pytest.raises(LmdbError):
                await future
            assert (made.rules.list.total, made.entries()) == (0, []) or made.rules.list.total == 0
            made.rules.list._store = kept
            assert await made.rules.add_rule("hard_bounce", b"joe@example.com")
            assert made.rules.list.total == 1

    run(story)


def test_a_full_list_refuses_what_is_new(tmp_path: Path) -> None:
    async def story() -> None:
        async with box(tmp_path, entries=2) as made:
            futures = [made.rules.add_rule("hard_bounce", b"j%d@example.com" % number) for number in range(3)]
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert results[:2] == [True, True]
            assert isinstance(results[2], SuppressionError)
            assert not await made.rules.add_rule("hard_bounce", b"j1@example.com")  # is there

    run(story)


# -- commands ---------------------------------------------------------------------------------------------------------


def row(address: str, scope: str = "global", value: str = "", reason: str = "manual", expires: int = 0) -> list[Any]:
    return [address, scope, value, reason, "", 0, expires]


def test_commands(tmp_path: Path) -> None:
    async def story() -> None:
        async with box(tmp_path) as made:
            command = made.desk.command
            rows = [
                row("Joe@x.example"),
                row("x.example", "tenant", "acme"),
                row("nobody"),
                ["odd"],
                row("a@b.c", "any"),
            ]
            answer = await command("suppress.put", {"rows": rows, "dry_run": True})
            assert (answer["new"], answer["bad"]) == (2, 3)
            assert made.entries() == []
            answer = await command("suppress.put", {"rows": rows})
            assert [number for number, _ in answer["problems"]] == [2, 3, 4]
            assert len(made.events()) == 2
            again = await command("suppress.put", {"rows": rows})
            assert (again["new"], again["changed"], again["same"]) == (0, 0, 2)
            assert len(made.events()) == 2
            stats = await command("suppress.stats", {})
            assert (stats["entries"], stats["by_reason"]["manual"]) == (2, 2)
            listed = await command("suppress.list", {"domain": "x.example"})
            assert [one[0] for one in listed["rows"]] == ["@x.example", "joe@x.example"]
            assert (await command("suppress.list", {"scope": "tenant", "value": "other"}))["rows"] == []
            removed = await command("suppress.remove", {"addresses": ["joe@x.example"], "reason": "complaint"})
            assert removed["removed"] == 0
            removed = await command("suppress.remove", {"addresses": ["joe@x.example"]})
            assert removed["removed"] == 1
            assert made.events()[-1]["action"] == "removed"
            with pytest.raises(DeskError):
                await command("suppress.put", {"rows": [row("a@b.example")] * 5001})

    run(story)


def test_whom_a_check_is_about(tmp_path: Path) -> None:
    async def story() -> None:
        clock = SimulatedClock()
        async with box(tmp_path, clock) as made:
            command = made.desk.command
            rows = [
                row("a@x.example", "tenant", "acme"),
                row("a@x.example", "sender", "news.example", "unsubscribe"),
                row("old@x.example", expires=int(clock.wall()) - 1),
                row("y.example"),
            ]
            await command("suppress.put", {"rows": rows})

            async def suppressed(address: str, **whose: Any) -> bool:
                answer: dict[str, Any] = await command("suppress.check", {"address": address, **whose})
                return bool(answer["suppressed"])

            assert not await suppressed("a@x.example")
            assert await suppressed("A@X.example", tenant="acme")
            assert not await suppressed("a@x.example", tenant="")
            assert await suppressed("a@x.example", sender="News.Example")
            assert not await suppressed("a@x.example", sender="news.example", transactional=True)
            assert not await suppressed("old@x.example")
            assert await suppressed("anybody@y.example")
            assert await suppressed("y.example")

    run(story)
