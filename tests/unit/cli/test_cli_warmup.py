"""`fastrelay warmup …` against a fake relay: what is asked for, what is shown, the exit code."""

import json
from typing import Any

import pytest

SHARES = {
    "deferrals": {"share": 0.12, "hold": 0.10, "step_back": 0.25, "stop": None},
    "blocks": {"share": 0.002, "hold": 0.01, "step_back": 0.05, "stop": 0.30},
    "bounces": {"share": 0.0, "hold": 0.03, "step_back": 0.08, "stop": 0.20},
    "complaints": {"share": 0.02, "hold": 0.001, "step_back": 0.003, "stop": 0.01},
}
ROW: dict[str, Any] = {
    "source": "b",
    "key": "*",
    "stage": 3,
    "stages": 29,
    "per": "day",
    "cap": 1000,
    "used": 850,
    "cold": True,
    "state": "running",
    "held": False,
    "why": "",
    "days_left": 27,
    "overflow": True,
    "plan": "new",
    "schedule": "template sparkpost",
    "time_zone": "Europe/Berlin",
    "day": "2026-11-23",
    "by_operator": False,
    "delivered": 800,
    "delivered_counts": 800,
    "needed": 900,
    "attempts_judged": 1000,
    "minimum_messages": 100,
    "sent_days": 2,
    "shares": SHARES,
    "verdict": None,
}
DONE = {**ROW, "source": "a", "state": "done", "stage": 29, "cold": False, "cap": 0, "used": 0, "days_left": 0}
HELD = {**ROW, "key": "google", "state": "held", "held": True, "by_operator": True, "why": "list\x1b is being cleaned"}


def rows(output: str) -> dict[str, list[str]]:
    """Table rows by source and key."""
    return {" ".join(line.split()[:2]): line.split() for line in output.splitlines() if " of " in line}


def test_status(ask, fake_relay) -> None:
    fake_relay.answers["warmup.status"] = {"warmup": [DONE, ROW, HELD]}
    result = ask("warmup", "status")
    assert result.exit_code == 0
    shown = rows(result.output)
    assert shown["b *"] == [
        "b", "*", "running", "3", "of", "29", "1,000/d", "850", "800", "of", "900",
        "12%", ">10%", "0.2%", "0%", "2%", ">1%", "27",
    ]  # fmt: skip
    assert shown["a *"] == ["a", "*", "done", "29", "of", "29"]
    assert "b google is held, by an operator: list\\x1b is being cleaned" in result.output
    assert "day: 2026-11-23" in result.output
    assert fake_relay.arguments == {}


def test_status_of_one(ask, fake_relay) -> None:
    fake_relay.answers["warmup.status"] = {"warmup": [{**ROW, "per": "hour"}]}
    result = ask("warmup", "status", "b", "*")
    assert "1,000/h" in result.output
    assert fake_relay.arguments == {"source": "b", "provider": "*"}


def test_status_says_what_comes_tonight(ask, fake_relay) -> None:
    verdict = {"act": "step_back", "why": "deferrals 30 %, more than 25 %"}
    fake_relay.answers["warmup.status"] = {"warmup": [{**ROW, "verdict": verdict}]}
    result = ask("warmup", "status")
    assert (
        "b: as it stands, it goes one stage back at the end of the day: deferrals 30 %, more than 25 %, "
        "of 1,000 attempts" in result.output
    )


def test_status_says_why_a_stage_was_repeated(ask, fake_relay) -> None:
    why = "not moved on: 500 of 1000 delivered, fewer than 90 %"
    fake_relay.answers["warmup.status"] = {"warmup": [{**ROW, "why": why}]}
    assert f"b: {why}" in ask("warmup", "status").output


def test_status_fits_a_terminal(ask, fake_relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.cli.output.terminal_width", lambda: 80)
    fake_relay.answers["warmup.status"] = {"warmup": [ROW, DONE, HELD]}
    table = [line for line in ask("warmup", "status").output.splitlines() if " of " in line]
    assert max(len(line) for line in table) <= 80


@pytest.mark.parametrize("command", ["status", "plan"])
def test_json_and_nothing(ask, fake_relay, command: str) -> None:
    fake_relay.answers[f"warmup.{command}"] = {"warmup": []}
    assert json.loads(ask("warmup", command, "--json").output) == {"warmup": []}
    assert "no source has a warm-up plan" in ask("warmup", command).output


def test_plan(ask, fake_relay) -> None:
    ahead = [
        {"date": "2026-11-23", "stage": 3, "cap": 10000},
        {"date": "2026-11-24", "stage": 4, "cap": 10000},
        {"date": "2026-11-25", "stage": 5, "cap": 12500},
    ]
    row = {**ROW, "ahead": ahead, "warm_on": "2026-11-26", "count": "sending_days"}
    held = {**HELD, "ahead": ahead[2:], "warm_on": "2026-11-26"}
    done = {**DONE, "ahead": [], "warm_on": None}
    fake_relay.answers["warmup.plan"] = {"warmup": [row, held, done]}
    lines = ask("warmup", "plan", "b").output.splitlines()
    assert lines[0] == "b: plan new (template sparkpost)"
    assert lines[2].split() == ["2026-11-23", "3", "to", "4", "10,000", "per", "day"]
    assert lines[3].split() == ["2026-11-25", "5", "12,500", "per", "day"]
    assert lines[4] == "  warm on 2026-11-26, if each day sends enough and is well (Europe/Berlin)"
    assert "b at google: plan new (template sparkpost)" in lines
    assert "  but it is held: list\\x1b is being cleaned" in lines
    assert lines[-1] == "  done: the source is warm"
    assert fake_relay.arguments == {"source": "b"}


@pytest.mark.parametrize(
    ("words", "command", "arguments"),
    [
        (["set", "b", "5"], "set", {"source": "b", "stage": 5}),
        (["set", "b", "done", "google"], "set", {"source": "b", "provider": "google", "stage": "done"}),
        (["hold", "b", "--why", "holiday"], "hold", {"source": "b", "why": "holiday"}),
        (["hold", "b", "google"], "hold", {"source": "b", "provider": "google"}),
        (["resume", "b"], "resume", {"source": "b"}),
    ],
)
def test_acts(ask, fake_relay, words: list[str], command: str, arguments: dict[str, Any]) -> None:
    fake_relay.answers[f"warmup.{command}"] = {"warmup": [ROW]}
    result = ask("warmup", *words)
    assert result.exit_code == 0
    assert "3 of 29" in result.output
    assert fake_relay.arguments == arguments


@pytest.mark.parametrize("stage", ["five", "-1", "1.5", ""])
def test_a_stage_is_a_number(ask, fake_relay, stage: str) -> None:
    result = ask("warmup", "set", "--", "b", stage) if stage == "-1" else ask("warmup", "set", "b", stage)
    assert result.exit_code == 2
    assert fake_relay.requests == []


def test_refusal(ask, fake_relay) -> None:
    fake_relay.answers["warmup.resume"] = "it is running, not held"
    result = ask("warmup", "resume", "b")
    assert (result.exit_code, result.output) == (1, "fastrelay: it is running, not held\n")


def test_workers_that_were_not_told_are_named(ask, fake_relay) -> None:
    fake_relay.answers["warmup.set"] = {"warmup": [ROW], "incomplete": ["worker 1 is not running"]}
    assert "warning: incomplete: worker 1 is not running" in ask("warmup", "set", "b", "2").output


def test_templates(fastrelay) -> None:
    result = fastrelay("warmup", "templates")
    assert result.exit_code == 0
    for name in ("sparkpost", "sendgrid", "responsys", "copernica", "ipost", "momentum"):
        assert name in result.output
    told = json.loads(fastrelay("warmup", "templates", "sendgrid", "--json").output)
    assert told["templates"][0]["stages"]["*"][:3] == [20, 28, 39]
    assert all(template["source"] for template in told["templates"])


def test_one_template(fastrelay) -> None:
    lines = fastrelay("warmup", "templates", "responsys").output.splitlines()
    assert lines[0] == "responsys: messages per day, a stage a day"
    assert "yahoo:" in lines
    assert "  5,000, 5,000, 5,000, 7,500, 7,500, 10,000, 10,000" in lines
    result = fastrelay("warmup", "templates", "respnosys")
    assert result.exit_code == 2
    assert "no template 'respnosys'" in result.output


@pytest.mark.parametrize("command", ["", "status", "plan", "set", "hold", "resume", "templates"])
def test_help(fastrelay, command: str) -> None:
    result = fastrelay("warmup", *([command] if command else []), "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert max(len(line) for line in result.output.splitlines()) <= 100
