"""What we sent comes back: over SMTP to an inbound listener, and out as an event."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Callable
from typing import Any

from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import RelayProcess
from support.reports import delivery_report
from support.sink import Received, Sink

CONTENT = (
    b"From: News <a@news.example>\r\nTo: joe@far.example\r\nSubject: x\r\nX-Fastrelay-Campaign: c1\r\n\r\nhello\r\n"
)


def configuration(sink: Sink, reverse_path: str | None = "b+{reference}@bounces.test", **keys: Any) -> dict[str, Any]:
    return {
        "listeners": {
            "smtp": [
                {"bind": free_endpoint()},
                {"bind": free_endpoint(), "inbound": ["b@bounces.test", "fbl@fbl.test"]},
            ],
            "metrics": {"bind": free_endpoint()},
        },
        "compose": {"reverse_path": reverse_path, "reference": "X-Fastrelay-Reference"},
        "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
        **keys,
    }


def inbound(relay: RelayProcess) -> smtplib.SMTP:
    """A client at the inbound listener."""
    address = split_endpoint(relay.config["listeners"]["smtp"][1]["bind"])
    return smtplib.SMTP(*address, local_hostname="mx.far.example", timeout=60)


def deliver(relay: RelayProcess, recipient: str, content: bytes) -> tuple[int, bytes]:
    """The reply to a message from the null reverse-path."""
    with inbound(relay) as client:
        client.ehlo()
        assert client.mail("")[0] == 250
        code, words = client.rcpt(recipient)
        if code != 250:
            return code, words
        return client.data(content)


def told(relay: RelayProcess) -> list[dict[str, Any]]:
    """The events of the feedback process."""
    path = relay.state_dir / "events" / "feedback.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def bounced(relay: RelayProcess) -> list[dict[str, Any]]:
    return [event for event in told(relay) if event["event"] == "bounced"]


def sent(relay: RelayProcess, sink: Sink, recipient: str = "joe@far.example") -> Received:
    """A message that the relay delivered."""
    relay.submit(CONTENT, [recipient])
    wait_until(lambda: sink.messages, 60, "the message to arrive")
    return sink.messages[-1]


def test_a_bounce_becomes_an_event(make_relay: Callable[..., RelayProcess], sink: Sink) -> None:
    relay = make_relay(configuration(sink))
    message = sent(relay, sink)
    assert message.reverse_path.startswith("b+f")
    report = delivery_report(message.content, "joe@far.example", to=message.reverse_path)
    code, words = deliver(relay, message.reverse_path, report)
    assert (code, words) == (250, b"2.0.0 Ok")
    [event] = bounced(relay)  # there at once: 250 says so
    accepted = next(one for one in relay.events() if one["event"] == "accepted")
    assert event["recipient"] == "joe@far.example"
    assert event["id"] == accepted["id"]
    assert event["campaign"] == "c1"
    assert event["sender_domain"] == "news.example"
    assert (event["class"], event["kind"], event["about"]) == ("bad_mailbox", "hard", "recipient")
    assert (event["code"], event["enhanced"]) == (550, "5.1.1")
    assert event["matched"] == "verp"
    # The same once more, as after a lost reply: nothing follows again.
    assert deliver(relay, message.reverse_path, report)[0] == 250
    assert len(bounced(relay)) == 1
    status = relay.control("inbound.status")
    assert status["kinds"]["bounce"] == {"messages": 1, "matched": 1}
    assert status["kinds"]["repeated"]["messages"] == 1
