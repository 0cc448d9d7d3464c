"""Security: octets that are commands, log lines, paths or header fields somewhere else stay what they are here.

What a client says in commands, what it writes into header fields, what a mail host answers, what is asked for over the
control socket: none of it becomes a second command, a second line of the event log, or the name of a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rawsmtp import RawClient, codes
from support.relay import REPO, ControlError, RelayProcess
from support.sink import Sink

Maker = Callable[..., RelayProcess]

ESCAPE = "\x1b[2J\x1b]0;title\x07"
FORGED = '{"event":"delivered","id":"forged","recipient":"x@y"}'
NAMES = [
    "../../../../tmp/fastrelay-owned",
    "/etc/passwd",
    "a\\nb",
    'q"uo\\te',
    ESCAPE,
    "x" * 5000,
    "\u2028\u2029\x85",
    FORGED,
]
CONTENT = b"Subject: x\r\n\r\nhello\r\n.\r\n"
BROKEN = [b"\r", b"\n", b"\0", b"\r\0\n", b"\x0b", b"\x1b", b"\x7f"]
COMMANDS = [
    b"EHLO client%btest", b"HELO client%btest", b"MAIL FROM:<a%bb@sender.example>",
    b"MAIL FROM:<a@b.example>%bBODY=7BIT",
    b"MAIL FROM:<a@sender%b.example> SIZE=1", b"RCPT TO:<b%bc@d.example>", b"RCPT TO:<b@d.example>%bNOTIFY=NEVER",
    b"RCPT TO:<\"b%bc\"@d.example>", b"RCPT TO:<b@d.example> ORCPT=rfc822;x%by", b"MAIL FROM:<a@b.example> ENVID=x%by",
    b"VRFY x%by", b"NOOP x%by", b"AUTH PLAIN AGEAYg=%b=", b"STARTTLS%b",
]  # fmt: skip
SMUGGLED = b"RCPT TO:<smuggled@d.example>"


def events_of(relay: RelayProcess) -> list[dict[str, Any]]:
    """Every line of every event log is one JSON object; nothing in it could be a line of its own for any reader."""
    found = []
    for path in sorted((relay.state_dir / "events").glob("*.jsonl*")):
        octets = path.read_bytes()
        assert octets.endswith(b"\n") or not octets
        for line in octets.split(b"\n")[:-1]:
            assert all(c >= 32 for c in line), line
            event = json.loads(line)
            assert isinstance(event, dict)
            found.append(event)
    return found


def relay_of(make_relay: Maker, sink: Sink, **keys: object) -> RelayProcess:
    return make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}], "workers": 1, **keys})


@pytest.mark.parametrize("broken", BROKEN, ids=repr)
def test_line_ends_and_controls_within_a_command(make_relay: Maker, sink: Sink, broken: bytes) -> None:
    """A command with one of them is refused as a whole; what stands behind it is no command."""
    relay = relay_of(make_relay, sink, smtp={"errors": 1000})
    with RawClient(relay.smtp) as client:
        client.say(b"EHLO client.test\r\n")
        for command in COMMANDS:
            for between in (broken, broken + SMUGGLED + broken):
                client.say(b"RSET\r\n")
                if command.startswith(b"RCPT"):
                    client.say(b"MAIL FROM:<a@sender.example>\r\n")
                client.send(command.replace(b"%b", between) + b"\r\nRSET\r\n")
                refused, reset = client.reply(), client.reply()
                assert codes([reset]) == [250], (command, between, refused, reset)  # one reply each, never more
                assert refused[:1] == b"5" or command.startswith((b"VRFY", b"NOOP")), (command, between, refused)
                assert b"smuggled" not in refused.replace(SMUGGLED, b""), refused
        assert client.say(b"BDAT" + broken + b"5 LAST\r\n")[:1] == b"5"
        client.send(SMUGGLED + b"\r\n")  # of unknown length: the connection is over
        assert client.rest() == b""
    assert relay.summary()["accepted"] == 0
    events_of(relay)


def test_whatever_a_client_names_things_stays_in_its_place(make_relay: Maker, sink: Sink) -> None:
    """HELO, addresses, campaigns and tenants of any octets: sound event lines, a sound trace header, no files."""
    relay = relay_of(make_relay, sink)
    before = {path for path in Path("/tmp").iterdir() if "owned" in path.name}
    sent = 0
    for name in NAMES:
        octets = name.encode().replace(b"\n", b"")
        with RawClient(relay.smtp) as client:
            client.say(b"EHLO client.test\r\n")
            client.say(b"HELO " + octets[:200].translate(None, b"\r\n\0") + b"\r\n")
            client.say(b"EHLO client.test\r\n")
            client.say(b"MAIL FROM:<news@sender.example>\r\n")
            client.say(b"RCPT TO:<b@d.example>\r\n")
            client.say(b"DATA\r\n")
            fields = b"".join(b"X-Fastrelay-%b: %b\r\n" % (field, octets) for field in (b"Campaign", b"Tenant"))
            reply = client.say(fields + b"X-Job: " + octets + b"\r\n" + CONTENT)
            assert codes([reply])[0] in (250, 550), reply
            sent += reply.startswith(b"250 ")
    quoted = [
        b'"%b"@d.example' % octets for octets in (b"a{}b", b'\\"', b"<script>", b"$(id)", b"`id`", b"%s%n", b"a  b")
    ]
    with RawClient(relay.smtp) as client:
        client.say(b"EHLO client.test\r\n")
        for mailbox in quoted:
            client.say(b"MAIL FROM:<" + mailbox + b">\r\n")
            if client.say(b"RCPT TO:<" + mailbox + b">\r\n").startswith(b"250"):
                client.say(b"DATA\r\n")
                sent += client.say(CONTENT).startswith(b"250 ")
            client.say(b"RSET\r\n")
    assert sent > len(NAMES) / 2
    relay.wait_drained()
    events = events_of(relay)
    assert len([event for event in events if event["event"] == "accepted"]) == sent
    assert not any(event["id"] == "forged" for event in events)
    assert not sink.violations
    for message in sink.messages:
        assert len(message.recipients) == 1
        trace = message.content[: -len(message.without_trace())]
        assert all(32 <= c < 127 or c in b"\r\n\t" for c in trace), trace
    assert {path for path in Path("/tmp").iterdir() if "owned" in path.name} == before


def test_an_event_line_is_one_line_whatever_the_host_answers(make_relay: Maker) -> None:
    answers = iter([
        f'550 5.1.1 no\x1b[31m "user" {FORGED}',
        "550 5.1.1 \u2028 \x85 \x00 \x07 \\ \\u0000 \\n",
        "450 4.2.1 " + "x" * 3000,
        "550-5.1.1 first\n550 5.1.1 {}\"}",
        "550 \udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ])  # fmt: skip
    with Sink({"rcpt": lambda session, to: next(answers, None)}) as sink:
        relay = relay_of(make_relay, sink, retry={"first": "1s", "max": "1s", "expire": "10m"})
        for number in range(5):
            relay.submit(b"Subject: x\r\n\r\nx\r\n", [f"b{number}@d.example"])
        relay.wait_drained(120)
        events = events_of(relay)
    outcomes = [event["event"] for event in events if event["event"] in ("delivered", "failed")]
    assert len(outcomes) == 5
    assert not any(event["id"] == "forged" for event in events)
    log = relay.log_text()
    assert "\x1b" not in log
    assert all(line[:4].isdigit() or line.startswith("warning: /") for line in log.split("\n")[:-1])


def test_a_person_who_looks_sees_no_control_characters(make_relay: Maker) -> None:
    """What a client or a host chose is shown by the command line, and does nothing to the terminal."""
    with Sink({"rcpt": lambda session, to: f"450 4.2.1 later {ESCAPE}"}) as sink:
        relay = relay_of(make_relay, sink, retry={"first": "1h"})
        fields = f"X-Fastrelay-Campaign: c{ESCAPE}\r\nX-Fastrelay-Tenant: t{ESCAPE}\r\n".encode()
        relay.submit(fields + b"Subject: x\r\n\r\nx\r\n", ["b@d.example"])
        [message] = relay.control("queue.list")["messages"]
        for words in (["queue", "list"], ["queue", "show", message["id"]], ["queue", "why", message["id"]], ["status"]):
            done = subprocess.run(
                [sys.executable, "-m", "fastrelay", *words, "--state-dir", str(relay.state_dir)],
                env={**relay.env, "PYTHONPATH": str(REPO)}, capture_output=True, check=True,
            )  # fmt: skip
            assert all(c >= 32 or c in b"\n\t" for c in done.stdout), words
        relay.control("queue.remove", {"all": True})


IDS = [
    "../../x", "/etc/passwd", "w0-../../x", "w0-", "-", "", "w0-" + "f" * 400, "w0-ffffffffffffffffffff", "W0-1",
    "w0-1/..", "w0-0x1", "w0--1", "\0", "w0-1\n", "spool/w0", "w00-1", "é-1", "w0-\u0661",
]  # fmt: skip
BY_ID = ("queue.show", "queue.why", "queue.release")


def test_ids_of_any_form_name_no_file(make_relay: Maker, sink: Sink) -> None:
    relay = relay_of(make_relay, sink)
    before = sorted(str(path) for path in relay.state_dir.rglob("*"))
    for command in BY_ID:
        for identity in IDS:
            with pytest.raises(ControlError, match=r"no such message|wants the id|not quarantined"):
                relay.control(command, {"id": identity})
        for identity in (1, None, ["w0-1"], {"a": 1}):
            with pytest.raises(ControlError):
                relay.control(command, {"id": identity})
    for identity in IDS:
        assert relay.control("queue.remove", {"ids": [identity]})["matched"] == 0
    for command in ("__class__", "on_queue_show", "../status", "inject", "drain", "reload", "queue.show.x"):
        with pytest.raises(ControlError, match="there is no command"):
            relay.control(command)
    assert sorted(str(path) for path in relay.state_dir.rglob("*")) == before
