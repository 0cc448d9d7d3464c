"""Bounce messages of ours with whole relays: what the sender's host gets, that it gets it once, and when nothing."""

import re
import urllib.request
from collections.abc import Callable
from typing import Any

from support.net import wait_until
from support.relay import RelayProcess
from support.sink import Received, Sink

from fastrelay.feedback.bounce import parse_bounce

MakeRelay = Callable[..., RelayProcess]
CONTENT = b"From: news@sender.example\r\nSubject: Spring sale\r\n\r\nhello\r\n"
SENDER = "news@sender.example"
NO_DSN = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


def refuse(session: Any, argument: str) -> str | None:
    """Nobody is at bad.example."""
    return "550 5.1.1 No such user" if "@bad.example" in argument else None


def config(sink: Sink, **bounces: Any) -> dict[str, Any]:
    return {"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}], "bounces": {"gather": "2s"} | bounces}


def submit(
    relay: RelayProcess, recipients: dict[str, list[str]], sender: str = SENDER, options: list[str] | None = None
) -> None:
    """Hands a message in. `recipients`: address → RCPT parameters."""
    with relay.client() as client:
        client.ehlo()
        assert client.mail(sender, options or [])[0] == 250
        for address, asked in recipients.items():
            assert client.rcpt(address, asked)[0] == 250
        assert client.data(CONTENT)[0] == 250


def letters(sink: Sink, sender: str = SENDER) -> list[Received]:
    return [one for one in sink.messages if one.recipients == [sender]]


def told(sink: Sink, sender: str = SENDER) -> list[list[tuple[str, str, str]]]:
    """(recipient, action, status) of each bounce message."""
    found = [parse_bounce(one.content) for one in letters(sink, sender)]
    return sorted([(one.address, one.action, one.status) for one in bounce.recipients] for bounce in found)


def owed(relay: RelayProcess) -> int:
    """The gauge; it is set once a second."""
    host, port = relay.metrics
    text = urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30).read().decode()
    return int(sum(float(value) for value in re.findall(r"(?m)^fastrelay_bounces_owed\S* (\S+)$", text)))


def test_what_notify_asks_for(make_relay: MakeRelay) -> None:
    with Sink({"rcpt": refuse}, extensions=NO_DSN) as sink:
        relay = make_relay(config(sink))
        submit(relay, {"a@bad.example": [], "b@good.example": [], "c@bad.example": ["NOTIFY=FAILURE"]})
        submit(relay, {"d@bad.example": ["NOTIFY=NEVER"], "e@good.example": ["NOTIFY=SUCCESS"]})
        submit(relay, {"f@bad.example": ["NOTIFY=SUCCESS,DELAY"]})
        submit(relay, {"g@bad.example": ["NOTIFY=SUCCESS,FAILURE,DELAY"]}, sender="")
        submit(relay, {"h@bad.example": ["NOTIFY=FAILURE", "ORCPT=rfc822;list+2B1@old.example"]}, options=["ENVID=E1"])
        wait_until(lambda: len(letters(sink)) >= 3, 60, "the bounce messages")
        relay.wait_drained()
        wait_until(lambda: not owed(relay), 60, "nothing owed")
        relay.assert_balanced()
        assert told(sink) == [
            [("a@bad.example", "failed", "5.1.1"), ("c@bad.example", "failed", "5.1.1")],
            [("e@good.example", "relayed", "2.0.0")],
            [("list+1@old.example", "failed", "5.1.1")],
        ]
        assert {one.reverse_path for one in letters(sink)} == {""}
        assert [one.recipients for one in sink.messages if one.reverse_path == ""] == [[SENDER]] * 3
        assert not sink.violations


def test_a_host_with_dsn_is_asked_itself(make_relay: MakeRelay) -> None:
    with Sink() as sink:
        relay = make_relay(config(sink))
        asked = ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;e@good.example"]
        submit(relay, {"e@good.example": asked}, options=["RET=HDRS", "ENVID=E1"])
        wait_until(lambda: sink.messages, 60, "the message")
        relay.wait_drained()
        [one] = sink.messages
        assert one.recipient_parameters == [asked]
        assert {"RET=HDRS", "ENVID=E1"} <= set(one.mail_parameters)
        relay.assert_balanced()
        assert owed(relay) == 0


def test_what_is_owed_outlives_every_process(make_relay: MakeRelay) -> None:
    """kill -9 of all while it gathers, and again while it pays."""
    with Sink({"rcpt": refuse}) as sink:
        relay = make_relay(config(sink, gather="5s"))
        for number in range(40):
            submit(relay, {f"a{number}@bad.example": []})
        wait_until(lambda: relay.summary()["failed"] == 40, 60, "all have failed")
        assert relay.kill("all")
        relay.start()
        relay.assert_balanced()
        wait_until(lambda: letters(sink), 60, "the first bounce message")
        assert relay.kill("all")
        relay.start()
        wait_until(lambda: len({str(one) for one in told(sink)}) == 40, 120, "a bounce message for each")
        relay.wait_drained()
        wait_until(lambda: not owed(relay), 60, "nothing owed")
        relay.assert_balanced()
        ids = {re.search(rb"(?m)^Message-ID: (\S+)", one.content)[1] for one in letters(sink)}  # type: ignore[index]
        assert len(ids) == 40, "a bounce message was made twice"
        flagged = {one["id"] for one in relay.events() if one.get("possible_duplicate")}
        assert len(letters(sink)) - 40 <= len(flagged), "one came twice without being in hand at the kill"


def test_users_that_read_events_get_none(make_relay: MakeRelay) -> None:
    with Sink({"rcpt": refuse}) as sink:
        relay = make_relay(config(sink, gather="1s") | {"senders": {"sender.example": {"bounces": False}}})
        submit(relay, {"a@bad.example": []})
        submit(relay, {"b@bad.example": []}, sender="x@other.example")
        wait_until(lambda: letters(sink, "x@other.example"), 60, "the bounce message of the other")
        relay.wait_drained()
        relay.assert_balanced()
        assert letters(sink) == []
        failed = [one["recipient"] for one in relay.events() if one["event"] == "failed"]
        assert sorted(failed) == ["a@bad.example", "b@bad.example"]
