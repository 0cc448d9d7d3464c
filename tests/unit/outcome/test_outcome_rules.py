"""Back-off rules at settlement: what a refusal becomes, when and by which source it is tried again, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, WorkerBox, run

from fastrelay._core.table import Table
from fastrelay.limits import reactions
from fastrelay.limits.backoff import adaptive_cell
from fastrelay.outcome.classify import judge_reply

RULES = """
rules:
- {name: too_fast, match: frequency limited, actions: {treat_as: throttle, retry_after: 2h}}
- {name: refused_us, match: reputation, actions: {treat_as: block}}
- {name: nobody, match: user unknown, actions: {treat_as: bad_address}}
- {name: elsewhere, match: try another, actions: {switch_source: yes, for: 10m}}
- {name: noted, match: only noted, actions: {connections: 3, for: 1m}}
"""

# reply to RCPT → what becomes of the recipient, reason, rule
REPLIES = [
    ("550 Ip frequency limited", "deferred", "throttled", "too_fast"),
    ("450 4.7.1 Ip frequency limited", "deferred", "throttled", "too_fast"),
    ("550 5.7.1 very low reputation", "failed", "blocked", "refused_us"),
    ("450 4.7.1 very low reputation", "deferred", "blocked", "refused_us"),
    ("450 4.1.1 user unknown", "failed", "bad_address", "nobody"),
    ("550 5.1.1 user unknown", "failed", "bad_address", "nobody"),
    ("450 4.7.1 only noted", "deferred", "rcpt_refused", "noted"),
    ("550 5.7.1 only noted", "failed", "rcpt_refused", "noted"),
    ("450 4.2.0 greylisted", "deferred", "greylisted", None),
    ("550 5.7.1 too many connections", "failed", "throttled", None),
    ("550 5.2.2 mailbox full", "failed", "rcpt_refused", None),
]


@pytest.fixture
def backoff(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return {"rules": str(path), "built_in": False}


def answer(text: str, verb: str = "RCPT") -> Any:
    return lambda said, argument, talk: text if said == verb else ""


@pytest.mark.parametrize("row", REPLIES, ids=[row[0] for row in REPLIES])
def test_what_a_rule_makes_of_a_reply(
    row: tuple[str, str, str, str | None], tmp_path: Path, backoff: dict[str, Any]
) -> None:
    text, kind, reason, rule = row

    async def work() -> None:
        mx = Mx(answer(text))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            reports: list[dict[str, Any]] = []
            box.app.report = reports.append
            await box.accepted(["a@one.test"])
            await box.settled()
            event = box.events()[-1]
            assert (event["event"], event["reason"], event.get("rule")) == (kind, reason, rule)
            assert [one["rule"] for one in reports] == ([rule] if rule else [])
            if reports:
                [site] = box.app.board.sites.values()
                assert reports[0] == {
                    "event": "reply_rule", "rule": rule, "source": "default", "place": site.key, "provider": "other",
                    "code": int(text[:3]), "enhanced": event.get("enhanced", ""), "text": text[4:], "attempts": 1,
                }  # fmt: skip
            await box.audit()
        await mx.stop()

    run(work)


def test_a_rule_may_want_a_later_retry(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(answer("550 Domain frequency limited"))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            assert box.events()[-1]["next_attempt_seconds"] == 7200.0
        await mx.stop()

    run(work)


def test_a_retry_need_not_use_the_source_again(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: said(verb, argument))
        replies = {"a@one.test": "450 4.2.0 greylisted", "b@one.test": "450 4.7.1 try another"}

        def said(verb: str, argument: str) -> str:
            return replies[argument.partition("<")[2].partition(">")[0]] if verb == "RCPT" else ""

        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            for name in replies:
                await box.accepted([name])
                await box.settled()
            info = [box.app.index.recipient_info(r) for m in (0, 1) for r in box.app.index.recipients_of(m)]
            assert [one[5] for one in info] == [1, 0]  # the source it prefers: the first, none
            replies.update(dict.fromkeys(("a@one.test", "b@one.test", "c@one.test"), ""))
            await box.accepted(["c@one.test"])  # there is no other source, so this one is waited for
            await box.until(lambda: box.reasons() == {"provider_backoff": 1, "retry_backoff": 2})
            box.pass_time(602)
            await box.until(lambda: set(mx.recipients()) >= {"b@one.test", "c@one.test"})
        await mx.stop()

    run(work)


def test_one_report_for_all_recipients_of_a_transaction(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(answer("550 5.7.1 very low reputation", "MAIL"))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            reports: list[dict[str, Any]] = []
            box.app.report = reports.append
            await box.accepted([f"r{n}@one.test" for n in range(5)])
            await box.settled()
            assert [(one["rule"], one["attempts"]) for one in reports] == [("refused_us", 5)]
            counted = {
                (name, tuple(labels)): value for _, name, labels, value in box.app.meters.slab.entries()
                if name in ("fastrelay_rule_fired_total", "fastrelay_blocks_total")
            }  # fmt: skip
            assert counted == {
                ("fastrelay_rule_fired_total", (("provider", "other"), ("rule", "refused_us"))): 5.0,
                ("fastrelay_blocks_total", (("provider", "other"), ("source", "default"))): 5.0,
            }
        await mx.stop()

    run(work)


def test_reports_are_a_few_a_second_and_lose_nothing(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(answer("450 4.7.1 only noted"))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            reports: list[dict[str, Any]] = []
            box.app.report = reports.append
            for n in range(20):
                await box.accepted([f"r{n}@one.test"])
            await box.settled()
            assert len(reports) <= reactions.REPORTS_AT_ONCE + 1
            box.app.settler.reactions.flush()
            assert sum(one["attempts"] for one in reports) == 20
            box.app.settler.reactions.flush()
            assert sum(one["attempts"] for one in reports) == 20
        await mx.stop()

    run(work)


def test_a_throttle_slows_all_workers_down_at_once(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(answer("450 4.7.1 frequency limited"))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            [site] = box.app.board.sites.values()
            table = Table(tmp_path / "w" / "table")
            cell = table.cell(adaptive_cell("default", site.key))
            assert table.rate_of(cell) == (20 * 10**9, 1)
            table.set_rate(cell, 300 * 10**9, 1)  # what the supervisor says; the worker makes nothing faster
            box.app.settler.reactions._slow("default", site.key, 180.0)
            assert table.rate_of(cell) == (300 * 10**9, 1)
        await mx.stop()

    run(work)


def test_rules_are_read_anew_after_a_reload(tmp_path: Path, backoff: dict[str, Any]) -> None:
    async def work() -> None:
        mx = Mx(answer("450 4.7.1 something new"))
        async with WorkerBox(tmp_path / "w", [await mx.start()], backoff=backoff) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            assert "rule" not in box.events()[-1]
            Path(backoff["rules"]).write_text(
                "rules:\n- {name: fresh, match: something new, actions: {treat_as: block}}\n"
            )
            from fastrelay.config.schema import from_builtins, to_builtins

            box.app.reload(from_builtins(to_builtins(box.config)))
            await box.accepted(["b@one.test"])
            await box.settled()
            assert box.events()[-1]["rule"] == "fresh"
        await mx.stop()

    run(work)


def test_a_refused_connection_fires_rules_too(tmp_path: Path, backoff: dict[str, Any]) -> None:
    class Site:
        provider, key = "google", "mx.google.test"

    async def work() -> None:
        async with WorkerBox(tmp_path / "w", [], backoff=backoff) as box:
            reports: list[dict[str, Any]] = []
            box.app.report = reports.append
            found = box.app.settler.reactions.refused("default", Site(), 554, "5.7.1", b"5.7.1 bad\nreputation")
            assert found is not None
            assert reports[0]["place"] == "google"
            assert reports[0]["text"] == "5.7.1 bad reputation"
            assert box.app.settler.reactions.refused("default", Site(), 421, "", b"closing") is None

    run(work)


def test_without_a_rule_replies_are_what_they_were() -> None:
    assert judge_reply(550, b"5.1.1 x", "550 5.1.1 x", "rcpt").rule is None
