"""`fastrelay events`: what it shows of the logs, the state of webhooks, replays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.events import LogWriter

from fastrelay.cli import events as module
from fastrelay.cli.group import cli
from fastrelay.clock import RealClock, SimulatedClock


@pytest.fixture
def logs(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path, SimulatedClock(start=RealClock().wall() - 600))


def run(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["events", *words, "--state-dir", str(tmp_path)])


def test_tail_in_words(tmp_path: Path, logs: LogWriter) -> None:
    logs.write("w0", "accepted", recipients=["a@b.example", "c@d.example"])
    logs.write("w0", "failed", recipient="a@b.example", reply="550 no\x1b[31m", source="s1", provider="other")
    logs.append("relay", b'{"event":"rule_fired","time":"2026-11-23T00:00:00.000Z","id":"relay-1","rule":"x"}\n')
    result = run(tmp_path, "tail", "--since", "3650d")
    assert result.exit_code == 0
    assert "rule=x" in result.output
    assert "accepted     a@b.example, c@d.example" in result.output
    assert "550 no\\x1b[31m  [s1 other]" in result.output


def test_tail_filters(tmp_path: Path, logs: LogWriter) -> None:
    keys = [
        logs.write("w0", "failed", recipient="Ann@b.example", campaign="spring", tenant="blue"),
        logs.write("w0", "failed", recipient="joann@b.example", campaign="autumn"),
        logs.write("w0", "delivered", recipient="ann@b.example", campaign="spring"),
        logs.write("w0", "accepted", recipients=["x@b.example", "ann@b.example"]),
    ]

    def found(*words: str) -> list[str]:
        result = run(tmp_path, "tail", "--json", *words)
        assert result.exit_code == 0, result.output
        return [json.loads(line)["key"] for line in result.output.splitlines()]

    assert found() == keys
    assert found("--event", "failed") == keys[:2]
    assert found("--recipient", "ANN@b.example") == [keys[0], keys[2], keys[3]]
    assert found("--campaign", "spring", "--event", "delivered") == [keys[2]]
    assert found("--tenant", "blue") == [keys[0]]
    assert found("--id", "w0-m2") == [keys[1]]
    assert found("-n", "1") == keys[3:]
    assert found("--since", "1m") == []


def test_tail_follows(tmp_path: Path, logs: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(3))

    def sleep(seconds: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt
        logs.write("w0", "failed", recipient="new@b.example")

    monkeypatch.setattr(module.time, "sleep", sleep)
    logs.write("w0", "failed", recipient="old@b.example")
    result = run(tmp_path, "tail", "-f")
    assert result.exit_code == 0
    assert result.output.count("new@b.example") == 3
    assert result.output.count("old@b.example") == 1


def test_an_event_that_is_none(tmp_path: Path, logs: LogWriter) -> None:
    assert run(tmp_path, "tail", "--event", "fai.*").exit_code == 2


HOOK = {
    "name": "app", "url": "https://app.example/", "format": "fastrelay", "events": ["failed"], "state": "failing",
    "problem": "answered 500", "failures": 3, "next_attempt_seconds": 4.0, "taken": 1234, "dropped": 2,
    "lag_seconds": 90.0, "lag_bytes": 1000, "lag_events": 7, "lag_events_least": True, "gone": 0, "replay": None,
}  # fmt: skip
REPLAY = {"from": "2026-11-23T08:00:00.000Z", "to": "2026-11-23T09:00:00.000Z", "events": 5, "done": True, "error": ""}


def test_status(fake_relay: Any, ask: Callable[..., Result]) -> None:
    fake_relay.answers["events.status"] = {"webhooks": [HOOK]}
    result = ask("events", "status")
    assert result.exit_code == 0, result.output
    for word in ("app", "failing", "1,234", "≥ 7", "1m 30s", "app: answered 500"):
        assert word in result.output


def test_replay_waits_until_it_is_done(
    fake_relay: Any, ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    begun = {**REPLAY, "events": 0, "done": False}
    fake_relay.answers["events.replay"] = {"webhooks": {"app": begun}}
    fake_relay.answers["events.status"] = [
        {"webhooks": [{**HOOK, "replay": begun}]},
        {"webhooks": [{**HOOK, "replay": REPLAY}]},
    ]
    result = ask("events", "replay", "--from", "2026-11-23T08:00:00Z", "--webhook", "app")
    assert result.exit_code == 0, result.output
    assert "5 events taken, done" in result.output
    assert fake_relay.requests[0]["arguments"] == {"start": "2026-11-23T08:00:00Z", "webhook": "app"}
