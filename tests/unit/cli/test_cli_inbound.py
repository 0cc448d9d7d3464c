"""`fastrelay inbound status` against a fake relay."""

from __future__ import annotations

import json
from typing import Any

ANSWER: dict[str, Any] = {
    "listening": True,
    "in_hand": 3,
    "seen": 12,
    "set_aside": 2,
    "set_aside_folder": "/state/inbound/unread",
    "kinds": {"other": {"messages": 2, "matched": 0}, "bounce": {"messages": 1234, "matched": 1200}},
    "unmatched": {"reference": 33, "recipient": 1},
}


def test_status(ask, fake_relay) -> None:
    fake_relay.answers["inbound.status"] = ANSWER
    result = ask("inbound", "status")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[1].split() == ["bounce", "1,234", "1,200"]
    assert lines[2].split() == ["other", "2", "0"]
    assert "33 bounces without a reference of ours" in result.output
    assert "1 bounce with a reference of ours" in result.output
    assert "in hand: 3" in result.output
    assert "2 messages that ended their reader are kept in /state/inbound/unread" in result.output


def test_nothing_yet(ask, fake_relay) -> None:
    fake_relay.answers["inbound.status"] = {**ANSWER, "kinds": {}, "unmatched": {}, "in_hand": 0, "set_aside": 0}
    assert ask("inbound", "status").output == "nothing came in yet\n"
    fake_relay.answers["inbound.status"] = {**ANSWER, "listening": False}
    assert "listeners.smtp[].inbound" in ask("inbound", "status").output


def test_json(ask, fake_relay) -> None:
    fake_relay.answers["inbound.status"] = ANSWER
    assert json.loads(ask("inbound", "status", "--json").output) == ANSWER
