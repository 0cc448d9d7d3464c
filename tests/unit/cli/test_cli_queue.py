"""`fastrelay queue …` against a fake relay: what is asked for, what is shown, the exit code."""

import json

import pytest

SUMMARY = {
    "accepted": 100000,
    "queued": 9000,
    "delivered": 90000,
    "failed": 700,
    "expired": 200,
    "suppressed": 60,
    "removed": 40,
    "quarantined": 2,
    "by_reason": {"retry_backoff": 8000, "connection_limit": 1000, "dns": 0},
    "by_provider": {"google": 6000, "other": 3000},
    "oldest_seconds": 7500.0,
    "segments_bytes": 10 * 2**30,
}
ROW = {
    "id": "k3f9ax-1c2f",
    "queued": 3,
    "size_bytes": 10444,
    "age_seconds": 7500.0,
    "reverse_path": "bounce@news.example",
    "campaign": "spring",
    "tenant": "acme",
    "domains": ["a.example", "b.example", "c.example", "d.example"],
    "attempts": 4,
    "next_attempt_seconds": 300.0,
    "reason": "retry_backoff",
}
MESSAGE = {
    **ROW,
    "trace": "Received: from app\r\n\tby mta1; today",
    "client": "127.0.0.1",
    "accepted": "2026-11-20T10:00:00Z",
    "segment": 7,
    "recipients": [
        {
            "address": "one@a.example",
            "state": "queued",
            "attempts": 4,
            "next_attempt_seconds": 300.0,
            "last_reply": "451 4.7.1 try later\r\nplease \x1b[31m",
            "source": "a",
            "site": "mx.a.example",
            "reason": "retry_backoff",
            "possible_duplicate": False,
        },
        {
            "address": "two@b.example",
            "state": "queued",
            "attempts": 0,
            "next_attempt_seconds": -1.0,
            "last_reply": None,
            "source": None,
            "site": None,
            "reason": "ready",
            "possible_duplicate": True,
        },
    ],
}


def test_summary(ask, fake_relay):
    fake_relay.answers = {"queue.summary": SUMMARY}
    result = ask("queue", "summary")
    assert result.exit_code == 0
    assert fake_relay.arguments == {}
    lines = [line.split() for line in result.output.splitlines()]
    assert ["accepted", "100,000"] in lines
    assert ["delivered", "90,000", "90.0%"] in lines
    assert ["queued", "9,000", "9.0%"] in lines
    assert ["of", "them", "in", "quarantine", "2"] in lines
    assert ["retry", "backoff", "8,000", "88.9%"] in lines
    assert ["google", "6,000", "66.7%"] in lines
    assert "2h 5m" in result.output
    assert "10.0 GiB" in result.output
    assert "dns" not in result.output


def test_summary_json_has_the_promised_names(ask, fake_relay):
    fake_relay.answers = {"queue.summary": SUMMARY}
    answer = json.loads(ask("queue", "summary", "--json").output)
    assert answer == SUMMARY
    assert {"accepted", "queued", "delivered", "failed", "expired", "suppressed", "removed"} <= set(answer)


def test_summary_of_an_empty_relay(ask, fake_relay):
    fake_relay.answers = {"queue.summary": dict.fromkeys(("accepted", "queued", "delivered"), 0)}
    result = ask("queue", "summary")
    assert result.exit_code == 0
    assert "oldest" not in result.output


SELECTORS = {
    "--campaign": ("spring", {"campaign": "spring"}),
    "--tenant": ("acme", {"tenant": "acme"}),
    "--domain": ("@Bücher.Example.", {"domain": "xn--bcher-kva.example"}),
    "--provider": ("google", {"provider": "google"}),
    "--source": ("a", {"source": "a"}),
    "--older-than": ("2h", {"older_than_seconds": 7200.0}),
}


@pytest.mark.parametrize("command", ["list", "suspend", "resume", "flush", "remove"])
@pytest.mark.parametrize("option", SELECTORS)
def test_every_selector_on_every_command(ask, fake_relay, command, option):
    value, asked = SELECTORS[option]
    fake_relay.answers = {f"queue.{command}": {"matched": 1, "messages": [ROW]}}
    result = ask("queue", command, option, value)
    assert result.exit_code == 0, result.output
    assert fake_relay.arguments.items() >= asked.items()
    assert not set(fake_relay.arguments) & ({"campaign", "tenant", "domain", "provider", "source"} - set(asked))


def test_list(ask, fake_relay):
    fake_relay.answers = {"queue.list": {"messages": [ROW], "matched": 4321}}
    result = ask("queue", "list", "--limit", 1)
    assert result.exit_code == 0
    assert fake_relay.arguments == {"limit": 1}
    for shown in ("k3f9ax-1c2f", "2h 5m", "10.2 KiB", "5m", "retry backoff", "spring", "bounce@news.example", "+1"):
        assert shown in result.output
    assert "1 of 4,321 messages" in result.output


def test_list_of_the_null_reverse_path_and_no_campaign(ask, fake_relay):
    fake_relay.answers = {"queue.list": {"messages": [{**ROW, "reverse_path": "", "campaign": None}], "matched": 1}}
    result = ask("queue", "list")
    assert "<>" in result.output
    assert "CAMPAIGN" not in result.output


def test_list_of_nothing(ask, fake_relay):
    fake_relay.answers = {"queue.list": {"messages": [], "matched": 0}}
    result = ask("queue", "list", "--json")
    assert json.loads(result.output)["messages"] == []
    assert "no queued message matches" in ask("queue", "list").output


def test_show(ask, fake_relay):
    fake_relay.answers = {"queue.show": {"message": MESSAGE}}
    result = ask("queue", "show", "k3f9ax-1c2f")
    assert result.exit_code == 0
    assert fake_relay.arguments == {"id": "k3f9ax-1c2f"}
    for shown in (
        "one@a.example",
        "mx.a.example",
        "451 4.7.1 try later",
        r"\x1b[31m",
        "possible duplicate",
        "now",
        "10:00:00Z (2h",
    ):
        assert shown in result.output
    assert "\x1b" not in result.output


def test_show_json(ask, fake_relay):
    fake_relay.answers = {"queue.show": {"message": MESSAGE}}
    assert json.loads(ask("queue", "show", "x", "--json").output) == {"message": MESSAGE}


def test_show_of_an_unknown_message(ask, fake_relay):
    fake_relay.answers = {"queue.show": "no such message in the queue"}
    result = ask("queue", "show", "nope")
    assert result.exit_code == 1
    assert "no such message in the queue" in result.stderr
    result = ask("queue", "show", "nope", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "no such message in the queue"}


def test_why_puts_like_recipients_together(ask, fake_relay):
    waits = [
        {
            "recipient": f"r{n}@a.example",
            "reason": "retry_backoff",
            "detail": "451 from mx.a.example",
            "until_seconds": 300.0,
        }
        for n in range(12)
    ]
    waits.append(
        {"recipient": "z@b.example", "reason": "suspended", "detail": "by s3: wrong link", "until_seconds": None}
    )
    fake_relay.answers = {"queue.why": {"id": "x-1", "why": waits}}
    result = ask("queue", "why", "x-1")
    assert result.exit_code == 0
    assert result.output.count("retry backoff (for 5m more)") == 1
    assert "and 2 more" in result.output
    assert "by s3: wrong link" in result.output
    assert "z@b.example" in result.output
    assert json.loads(ask("queue", "why", "x-1", "--json").output)["why"] == waits


def test_why_of_a_settled_message(ask, fake_relay):
    fake_relay.answers = {"queue.why": {"id": "x-1", "why": []}}
    assert "no recipient is queued" in ask("queue", "why", "x-1").output


# What the relay counts for each command.
COUNTED = {"suspend": "message", "resume": "message", "flush": "recipient", "remove": "recipient"}


@pytest.mark.parametrize("command", ["suspend", "resume", "flush", "remove"])
def test_a_change_that_a_worker_missed_fails(ask, fake_relay, command):
    fake_relay.answers = {f"queue.{command}": {"matched": 5, "incomplete": ["worker 1 is restarting"]}}
    result = ask("queue", command, "--all")
    assert result.exit_code == 1
    assert "incomplete: worker 1 is restarting" in result.stderr
    assert "5 " in result.stdout
    assert ask("queue", command, "--all", "--json").exit_code == 1


def test_a_view_that_lacks_a_worker_says_so(ask, fake_relay):
    part = {"incomplete": ["worker 1 is restarting"]}
    fake_relay.answers = {
        "queue.summary": SUMMARY | part,
        "queue.list": {"messages": [ROW], "matched": 1} | part,
        "queue.quarantine": {"messages": []} | part,
    }
    for words in (["summary"], ["list"], ["quarantine", "list"]):
        result = ask("queue", *words)
        assert result.exit_code == 0
        assert "warning: incomplete: worker 1 is restarting" in result.stderr


def test_remove_of_messages_that_are_not_there_fails(ask, fake_relay):
    fake_relay.answers = {"queue.remove": {"matched": 0}}
    result = ask("queue", "remove", "a-1")
    assert result.exit_code == 1
    assert "none of these messages" in result.stderr
    assert ask("queue", "remove", "--campaign", "x").exit_code == 0


@pytest.mark.parametrize("command", ["suspend", "resume", "flush", "remove"])
def test_a_change_without_a_selection_is_refused(ask, fake_relay, command):
    result = ask("queue", command)
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert fake_relay.requests == []


@pytest.mark.parametrize("command", ["suspend", "resume", "flush", "remove"])
def test_all_goes_alone(ask, fake_relay, command):
    assert ask("queue", command, "--all", "--campaign", "x").exit_code == 2
    assert fake_relay.requests == []
    fake_relay.answers = {f"queue.{command}": {"matched": 5}}
    result = ask("queue", command, "--all")
    assert result.exit_code == 0
    assert fake_relay.arguments["all"] is True
    assert f"5 {COUNTED[command]}s" in result.output


@pytest.mark.parametrize("command", ["suspend", "resume", "flush", "remove"])
def test_dry_run(ask, fake_relay, command):
    fake_relay.answers = {f"queue.{command}": {"matched": 1}}
    result = ask("queue", command, "--campaign", "x", "--dry-run")
    assert fake_relay.arguments == {"campaign": "x", "dry_run": True} | ({"why": ""} if command == "suspend" else {})
    assert f"1 {COUNTED[command]} would be" in result.output


def test_suspend_says_how_to_resume(ask, fake_relay):
    fake_relay.answers = {"queue.suspend": {"matched": 12, "suspension": {"id": "s3"}}}
    result = ask("queue", "suspend", "--campaign", "spring", "--why", "wrong link")
    assert fake_relay.arguments == {"campaign": "spring", "why": "wrong link", "dry_run": False}
    assert "12 messages suspended" in result.output
    assert "fastrelay queue resume s3" in result.output


def test_resume_by_name(ask, fake_relay):
    fake_relay.answers = {"queue.resume": {"matched": 12}}
    assert ask("queue", "resume", "s3").exit_code == 0
    assert fake_relay.arguments == {"suspension": "s3", "dry_run": False}
    assert ask("queue", "resume", "s3", "--all").exit_code == 2


def test_remove_by_id(ask, fake_relay):
    fake_relay.answers = {"queue.remove": {"matched": 2}}
    assert "2 recipients removed" in ask("queue", "remove", "a-1", "a-2").output
    assert fake_relay.arguments == {"ids": ["a-1", "a-2"], "dry_run": False}
    assert ask("queue", "remove", "a-1", "--all").exit_code == 2


@pytest.mark.parametrize(("answer", "code", "dry_runs"), [("y\n", 0, [True, False]), ("n\n", 1, [True])])
def test_remove_asks_on_a_terminal(ask, fake_relay, monkeypatch, answer, code, dry_runs):
    from fastrelay.cli import queue_act

    class Terminal:
        @staticmethod
        def isatty():
            return True

    class Sys:
        stdin = Terminal

    monkeypatch.setattr(queue_act, "sys", Sys)
    fake_relay.answers = {"queue.remove": {"matched": 7}}
    result = ask("queue", "remove", "--campaign", "x", stdin=answer)
    assert result.exit_code == code
    assert "Remove 7 recipients for good?" in result.stderr
    assert [request["arguments"]["dry_run"] for request in fake_relay.requests] == dry_runs
    fake_relay.requests.clear()
    assert ask("queue", "remove", "--campaign", "x", "--yes").exit_code == 0
    assert len(fake_relay.requests) == 1


def worker(slot, difference=0):
    return {"slot": slot, "accepted": 1000, "queued_counted": 10, "delivered": 990, "difference": difference}


def test_audit(ask, fake_relay):
    fake_relay.answers = {"queue.audit": {"ok": True, "workers": [worker(0), worker(1)]}}
    result = ask("queue", "audit")
    assert result.exit_code == 0
    assert "2,000" in result.output
    assert "every accepted recipient is accounted for" in result.output


def test_audit_that_fails(ask, fake_relay):
    fake_relay.answers = {"queue.audit": {"ok": False, "workers": [worker(0, -3)]}}
    result = ask("queue", "audit")
    assert result.exit_code == 1
    assert "NOT every" in result.output
    assert "-3" in result.output
    result = ask("queue", "audit", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["ok"] is False


def test_quarantine(ask, fake_relay):
    fake_relay.answers = {"queue.quarantine": {"messages": [{**ROW, "why": "content is damaged"}]}}
    result = ask("queue", "quarantine", "list")
    assert "content is damaged" in result.output
    assert json.loads(ask("queue", "quarantine", "list", "--json").output)["messages"][0]["id"] == ROW["id"]


def test_quarantine_of_nothing(ask, fake_relay):
    fake_relay.answers = {"queue.quarantine": {"messages": []}}
    assert "no message is in quarantine" in ask("queue", "quarantine", "list").output


def test_release(ask, fake_relay):
    fake_relay.answers = {"queue.release": {"released": True}}
    assert "is released" in ask("queue", "quarantine", "release", "a-1").output
    assert fake_relay.arguments == {"id": "a-1"}
    assert json.loads(ask("queue", "quarantine", "release", "a-1", "--json").output) == {"released": True}
