"""Who must get no mail gets none: by a bounce, an operator, an import; also after the relay was killed."""

from __future__ import annotations

import json
import smtplib
from pathlib import Path
from typing import Any

import pytest
from support.net import wait_until
from support.relay import RelayProcess
from support.sink import Sink

CONTENT = b"From: News <a@news.example>\r\nTo: joe@far.example\r\nSubject: x\r\n\r\nhello\r\n"


def configuration(sink: Sink, **keys: Any) -> dict[str, Any]:
    routes = [{"domains": ["*"], "hosts": [sink.endpoint]}]
    off = {"backoff": {"enabled": False}, "bounces": {"send": False}}
    return {"routes": routes, "workers": 1, "suppression": {"enabled": True}, **off, **keys}


def suppressions(relay: RelayProcess) -> list[dict[str, Any]]:
    path = relay.state_dir / "events" / "feedback.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == "suppression"]


def events_of(relay: RelayProcess, name: str) -> list[dict[str, Any]]:
    return [event for event in relay.events() if event["event"] == name]


def in_use(relay: RelayProcess) -> None:
    """The worker has seen that the list has something: of an empty one, it looks once a second."""

    def probed() -> bool:
        relay.submit(CONTENT, ["probe@far.example"])
        relay.wait_drained()
        return any(event["recipient"] == "probe@far.example" for event in events_of(relay, "suppressed"))

    relay.cli("suppress", "add", "probe@far.example")
    wait_until(probed, 60, "the worker to see the list")


def test_a_hard_bounce_suppresses_and_a_block_does_not(tmp_path: Path) -> None:
    def rcpt(session: Any, argument: str) -> str | None:
        if "gone" in argument:
            return "550 5.1.1 user unknown"
        if "blocked" in argument:
            return "554 5.7.1 Service unavailable; client host blocked using zen.spamhaus.org"
        return None

    with Sink({"rcpt": rcpt}) as sink, RelayProcess(tmp_path, configuration(sink)) as relay:
        relay.submit(CONTENT, ["gone@far.example", "blocked@far.example", "joe@far.example"])
        wait_until(lambda: suppressions(relay), 60, "the rule")
        (event,) = suppressions(relay)
        assert (event["recipient"], event["reason"], event["action"]) == ("gone@far.example", "hard_bounce", "added")
        in_use(relay)
        before = len(sink.messages)
        relay.submit(CONTENT, ["Gone@far.example", "joe@far.example"])
        relay.wait_drained()
        wait_until(lambda: len(sink.messages) == before + 1, 60, "the other one")
        assert [one["recipient"] for one in events_of(relay, "suppressed")].count("Gone@far.example") == 1
        (told,) = [one for one in events_of(relay, "suppressed") if one["recipient"] == "Gone@far.example"]
        assert (told["suppression_reason"], told["suppression_scope"]) == ("hard_bounce", "global")
        counts = relay.assert_balanced()
        assert counts["suppressed"] == len(events_of(relay, "suppressed"))
        answer = json.loads(relay.cli("suppress", "check", "blocked@far.example", "--json").stdout)
        assert (answer["suppressed"], answer["entries"]) == (False, [])


@pytest.mark.parametrize("part", ["all", "supervisor"])
def test_what_was_acknowledged_outlasts_a_kill(tmp_path: Path, part: str) -> None:
    with Sink() as sink, RelayProcess(tmp_path, configuration(sink)) as relay:
        relay.cli("suppress", "add", "joe@far.example", "far.test", "--tenant", "acme", "--source", "phone")
        relay.kill(part)
        relay.start()
        answer = json.loads(relay.cli("suppress", "list", "--json").stdout)
        assert [(one["address"], one["scope_value"], one["source"]) for one in answer["entries"]] == [
            ("@far.test", "acme", "phone"),
            ("joe@far.example", "acme", "phone"),
        ]


def test_import_and_export(tmp_path: Path) -> None:
    with Sink() as sink, RelayProcess(tmp_path, configuration(sink)) as relay:
        listed, exported = tmp_path / "in.csv", tmp_path / "out.csv"
        rows = [f"j{number}@far.example,hard_bounce,2026-01-0{1 + number % 9}T00:00:00Z" for number in range(5000)]
        listed.write_text("\n".join(["email,reason,created", *rows, "bad", ""]))
        dry = relay.cli("suppress", "import", str(listed), "--dry-run", check=False)
        assert "5,000 would be new" in dry.stdout
        assert "line 5002" in dry.stderr
        assert json.loads(relay.cli("suppress", "stats", "--json").stdout)["entries"] == 0
        done = relay.cli("suppress", "import", str(listed), "--json", check=False)
        assert done.returncode == 1
        told = json.loads(done.stdout)
        assert (told["new"], told["bad"], told["problems"][0]["line"]) == (5000, 1, 5002)
        again = json.loads(relay.cli("suppress", "import", str(listed), "--json", check=False).stdout)
        assert (again["new"], again["changed"], again["same"]) == (0, 0, 5000)
        relay.cli("suppress", "export", str(exported))
        assert len(exported.read_text().splitlines()) == 5001
        back = json.loads(relay.cli("suppress", "import", str(exported), "--json").stdout)
        assert (back["new"], back["changed"], back["same"]) == (0, 0, 5000)
        (event,) = suppressions(relay)
        assert (event["action"], event["entries"], event["source"]) == ("imported", 5000, "import:in.csv")
        removed = json.loads(relay.cli("suppress", "remove", "j7@far.example", "--json").stdout)
        assert removed["removed"] == 1


def test_refused_at_submission(tmp_path: Path) -> None:
    keys = {"suppression": {"at_submission": "refuse"}}
    with Sink() as sink, RelayProcess(tmp_path, configuration(sink, **keys)) as relay:
        relay.cli("suppress", "add", "joe@far.example", "--reason", "hard_bounce")
        relay.cli("suppress", "add", "other@far.example", "--sender", "else.example")
        relay.cli("suppress", "add", "mine@far.example", "--sender", "sender.example")
        relay.cli("suppress", "add", "out@far.example", "--reason", "unsubscribe")

        def refused(recipient: str) -> bytes | None:
            with relay.client() as client:
                client.ehlo()
                client.mail("news@Sender.example")
                code, words = client.rcpt(recipient)
                return words if code == 550 else None

        wait_until(lambda: refused("Joe@far.example"), 60, "the worker to see the list")
        assert b"hard_bounce" in (refused("joe@far.example") or b"")
        assert refused("mine@far.example")
        assert not refused("other@far.example")
        assert not refused("out@far.example")  # transactional mail is spared it, and the class is not known yet
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            relay.submit(CONTENT, ["joe@far.example"])


def test_the_relay_has_words_where_there_is_nothing(tmp_path: Path) -> None:
    with Sink() as sink, RelayProcess(tmp_path, configuration(sink)) as relay:
        assert "not suppressed" in relay.cli("suppress", "check", "joe@far.example").stdout
        assert "no entries" in relay.cli("suppress", "list").stdout
        assert "nothing" in relay.cli("suppress", "remove", "joe@far.example").stdout
        bad = relay.cli("suppress", "check", "joe", check=False)
        assert (bad.returncode, "is no" in bad.stderr) == (1, True)
