"""A pull asks the limits: of the flow, then of the source at the site; and what was not used comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.worker import Mx, WorkerBox, run

from fastrelay._core.limits import Gate, Rule

SECOND = 1_000_000_000


class Limits:
    """Gates of a test, in place of the configuration's."""

    def __init__(self, box: WorkerBox) -> None:
        self.box = box
        self.rules: dict[str, Rule] = {}
        self.of_source: dict[int, list[str]] = {}
        self.of_campaign: dict[bytes, list[str]] = {}
        box.clock.advance(1e6)  # a table that is made anew gives no burst
        box.app.engine.cold.gate = self.gate
        box.app.engine.cold.flow_rules = self.flow_rules
        box.app.engine.forget_limits()

    def rule(self, name: str, per_second: float, burst: int, reason: str = "rate_limit") -> Rule:
        self.rules[name] = Rule(
            self.box.table, b"rate:" + name.encode(), int(SECOND / per_second), burst, reason, f"{name} is in use"
        )
        return self.rules[name]

    def gate(self, site: Any, source: int) -> Gate:
        return Gate([self.rules[name] for name in self.of_source.get(source, [])])

    def flow_rules(self, campaign: bytes, tenant: bytes) -> tuple[Rule, ...]:
        return tuple(self.rules[name] for name in self.of_campaign.get(campaign, []))

    def used(self, name: str) -> int:
        """Units of a rule's burst that are taken now."""
        rule = self.rules[name]
        return int(rule.burst - max(0, rule.look(self.box.clock.boottime_ns())))


def ready(folder: Path, act: Callable[[WorkerBox, Any, Limits], Awaitable[None]], *mail: tuple[str, list[str]]) -> None:
    """Runs `act` with messages ready for one site to which nobody connects: (campaign, recipients) each."""

    async def work() -> None:
        async with WorkerBox(folder, ["127.0.0.1:9"]) as box:
            box.app.engine.cold.pump = lambda site, now: None
            limits = Limits(box)
            for campaign, recipients in mail:
                field = b"X-Fastrelay-Campaign: " + campaign.encode() + b"\r\n" if campaign else b""
                await box.accepted(recipients, content=field + b"Subject: x\r\n\r\nhello\r\n")
            count = sum(len(recipients) for _, recipients in mail)
            await box.until(lambda: box.places() == {"ready": count})
            [site] = box.app.board.sites.values()
            await act(box, site, limits)

    run(work)


def pulled(box: WorkerBox, site: Any, most: int = 100, source: int = 0) -> list[str] | None:
    delivery = box.app.engine.pull(site, source, most, box.clock.monotonic())
    return None if delivery is None else [one.decode() for one in delivery.transaction.recipients]


def test_a_transaction_takes_no_more_recipients_than_there_are_permits(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        limits.rule("a", per_second=1, burst=3)
        limits.rule("b", per_second=1, burst=10)
        limits.of_source[0] = ["a", "b"]
        delivery = box.app.engine.pull(site, 0, 100, box.clock.monotonic())
        assert delivery is not None
        assert delivery.transaction.recipients == [b"r0@x.test", b"r1@x.test", b"r2@x.test"]
        assert delivery.permits == 3
        assert (limits.used("a"), limits.used("b")) == (3, 3)
        assert pulled(box, site) is None
        assert (limits.used("a"), limits.used("b")) == (3, 3)
        assert box.reasons() == {"in_flight": 3, "rate_limit": 2}
        assert site.detail == "a is in use"
        box.clock.advance(1.0)
        assert pulled(box, site) == ["r3@x.test"]
        assert box.reasons() == {"in_flight": 4, "ready": 1}

    ready(tmp_path, act, ("", [f"r{n}@x.test" for n in range(5)]))


def test_what_a_message_does_not_need_is_not_taken(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        limits.rule("a", per_second=1, burst=50)
        limits.of_source[0] = ["a"]
        assert pulled(box, site) == ["r0@x.test", "r1@x.test"]
        assert limits.used("a") == 2

    ready(tmp_path, act, ("", ["r0@x.test", "r1@x.test"]), ("", ["r2@x.test"]))


def test_a_campaign_at_its_limit_is_passed_over_and_the_others_go(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        limits.rule("campaign:slow", per_second=0.1, burst=1)
        limits.of_campaign[b"slow"] = ["campaign:slow"]
        order = [pulled(box, site) for _ in range(5)]
        assert order == [["s0@x.test"], ["f0@x.test"], ["f1@x.test"], None, None]
        assert box.reasons() == {"in_flight": 3, "rate_limit": 2}
        assert site.detail == "campaign:slow is in use"
        assert box.app.index.parked_by(box.app.index.recipients_of(1)[0]) is not None
        box.clock.advance(10.0)
        box.app.engine.wake_waiting(box.clock.boottime_ns())
        assert site.dirty  # it was woken, without anybody asking for it
        assert [pulled(box, site), pulled(box, site)] == [["s1@x.test"], None]

    mail = [("slow", [f"s{n}@x.test"]) for n in range(3)] + [("fast", [f"f{n}@x.test"]) for n in range(2)]
    ready(tmp_path, act, *mail)


def test_what_a_flow_was_permitted_comes_back_where_the_site_is_denied(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        limits.rule("campaign:c", per_second=1, burst=10)
        limits.rule("a", per_second=0.1, burst=1)
        limits.of_campaign[b"c"] = ["campaign:c"]
        limits.of_source[0] = ["a"]
        assert pulled(box, site) == ["c0@x.test"]
        assert pulled(box, site) is None
        assert (limits.used("campaign:c"), limits.used("a")) == (1, 1)

    ready(tmp_path, act, ("c", ["c0@x.test"]), ("c", ["c1@x.test"]))


def test_each_source_waits_for_its_own_limit(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        engine = box.app.engine
        limits.rule("quick", per_second=1, burst=1)
        limits.rule("slow", per_second=0.001, burst=1)
        limits.of_source = {0: ["quick"], 1: ["slow"]}
        assert pulled(box, site, source=0)
        assert pulled(box, site, source=1)
        assert pulled(box, site, source=0) is None
        assert pulled(box, site, source=1) is None  # the last one that was denied is not the one to wait for
        due_in = engine.next_limit_ns() - box.clock.boottime_ns()
        assert 0 < due_in <= SECOND
        box.clock.advance(1.0)
        engine.wake_waiting(box.clock.boottime_ns())
        assert site.dirty
        assert pulled(box, site, source=0)

    ready(tmp_path, act, *[("", [f"r{n}@x.test"]) for n in range(5)])


def test_permits_come_back_while_the_content_is_read(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any, limits: Limits) -> None:
        limits.rule("a", per_second=1, burst=5)
        limits.of_source[0] = ["a"]
        for msgid in (1, 2):
            box.app.engine.forget_hot(msgid)
        held, box.app.engine.loading_limit = box.app.engine.loading_limit, 1
        assert pulled(box, site) is None  # read off the loop, or from the page cache at once
        assert limits.used("a") == 0
        box.app.engine.loading_limit = held
        await box.until(lambda: box.places() == {"ready": 2})
        assert limits.used("a") == 0

    async def cold_content(box: WorkerBox, site: Any, limits: Limits) -> None:
        box.app.own_spool.drain()
        spool = box.app.own_spool
        if spool.read_content(spool.get_record(1), 1) is not None:
            return  # this kernel has it in memory: nothing is read later
        await act(box, site, limits)

    ready(tmp_path, cold_content, ("", ["r0@x.test"]), ("", ["r1@x.test"]))


def sent_with(folder: Path, mx: Mx, recipients: int, act: Callable[[WorkerBox, Limits], Awaitable[None]]) -> None:
    """A message for a scripted host, with a limit of 10 in burst that hardly refills; `act` when it is settled."""

    async def work() -> None:
        async with WorkerBox(folder, [await mx.start()]) as box:
            limits = Limits(box)
            limits.rule("a", per_second=0.0001, burst=10)
            for number in range(4):
                limits.of_source[number] = ["a"]
            await box.accepted([f"r{n}@x.test" for n in range(recipients)])
            await box.settled()
            await act(box, limits)

    run(work)


def test_permits_come_back_where_mail_is_refused_before_any_rcpt(tmp_path: Path) -> None:
    mx = Mx(lambda verb, argument, talk: "451 later" if verb == "MAIL" else "", extensions=())

    async def act(box: WorkerBox, limits: Limits) -> None:
        assert box.places() == {"retry_backoff": 3}
        assert not any(command.startswith("RCPT") for command in mx.commands)
        assert limits.used("a") == 0

    sent_with(tmp_path, mx, 3, act)


def test_permits_come_back_where_the_host_lacks_a_feature(tmp_path: Path) -> None:
    mx = Mx(extensions=("PIPELINING", "SIZE 10"))

    async def act(box: WorkerBox, limits: Limits) -> None:
        assert box.counters()["failed"] == 3
        assert not any(command.startswith("MAIL") for command in mx.commands)
        assert limits.used("a") == 0

    sent_with(tmp_path, mx, 3, act)


def test_a_rcpt_that_was_written_is_used_whatever_came_of_it(tmp_path: Path) -> None:
    mx = Mx(lambda verb, argument, talk: "451 later" if verb == "MAIL" else "")

    async def act(box: WorkerBox, limits: Limits) -> None:
        assert any(command.startswith("RCPT") for command in mx.commands)  # pipelined behind MAIL
        assert limits.used("a") == 3

    sent_with(tmp_path, mx, 3, act)


def test_a_connection_that_is_lost_behind_rcpt_has_used_its_permits(tmp_path: Path) -> None:
    mx = Mx(lambda verb, argument, talk: None if verb == "RCPT" and talk.number == 1 else "", extensions=())

    async def act(box: WorkerBox, limits: Limits) -> None:
        assert limits.used("a") >= 1

    sent_with(tmp_path, mx, 2, act)


def test_delivered_mail_has_used_its_permits(tmp_path: Path) -> None:
    async def act(box: WorkerBox, limits: Limits) -> None:
        assert box.counters()["delivered"] == 3
        assert limits.used("a") == 3

    sent_with(tmp_path, Mx(), 3, act)
