"""What we sent comes back: over SMTP to an inbound listener, and out as an event."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import RelayProcess
from support.reports import delivery_report
from support.sink import Received, Sink

CONTENT = (
    b"From: News <a@news.example>\r\nTo: joe@far.example\r\nSubject: x\r\nX-Fastrelay-Campaign: c1\r\n\r\nhello\r\n"
)


def configuration(sink: Sink, reverse_path: str | None = "b+{reference}@bounces.test", **keys: Any) -> dict[str, Any]:
    return {
        "suppression": {"enabled": True},
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


def test_what_the_listener_takes(make_relay: Callable[..., RelayProcess], sink: Sink) -> None:
    """Nothing is relayed, nothing is stored; anybody may write to the inbound addresses and to no other."""
    relay = make_relay(configuration(sink, workers=1, inbound={"message_size": "64KiB", "connections": 2}))
    with inbound(relay) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == str(64 * 1024)
        assert {"chunking", "smtputf8", "8bitmime", "pipelining"} <= set(client.esmtp_features)
        assert not {"dsn", "auth"} & set(client.esmtp_features)
        assert client.mail("", [f"SIZE={64 * 1024 + 1}"])[0] == 552
        assert client.mail("sender@far.example")[0] == 250
        assert client.rcpt("joe@far.example") == (550, b"5.1.1 No such address here")
        assert client.rcpt("c@bounces.test")[0] == 550
        assert client.rcpt("B+joe=far.example@Bounces.test")[0] == 250
        assert client.rcpt("fbl@fbl.test")[0] == 250
        assert client.data(b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" * 40_000)[0] == 552
        client.mail("")
        client.rcpt("fbl@fbl.test")
        assert client.data(b"Received: x\r\n" * 101 + b"Subject: x\r\n\r\nhello\r\n")[0] == 554
        client.mail("")
        client.rcpt("fbl@fbl.test")
        part = b"Subject: x\r\n\r\nhello\r\n"
        client.send(b"BDAT %d\r\n%bBDAT 3 LAST\r\nmo\n" % (len(part), part))  # a bare LF: it is only read
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 250
        assert client.docmd("MAIL FROM:<> SMTPUTF8")[0] == 250
        client.send("RCPT TO:<b+j\u00fcrgen=far.example@bounces.test>\r\n".encode())
        assert client.getreply()[0] == 250
        client.rset()
        with inbound(relay) as second:
            assert second.noop()[0] == 250
            with pytest.raises(smtplib.SMTPConnectError, match="421"):
                inbound(relay)
            with relay.client() as other:
                assert other.noop()[0] == 250, "submission is not crowded out"
    wait_until(lambda: deliver(relay, "fbl@fbl.test", b"Subject: y\r\n\r\n")[0] == 250, 60, "a free place")
    summary = relay.summary()
    assert summary["accepted"] == 0
    assert relay.control("inbound.status")["kinds"]["other"]["messages"] == 2
    assert told(relay) == []


def test_who_bounces_is_suppressed(make_relay: Callable[..., RelayProcess], sink: Sink) -> None:
    relay = make_relay(configuration(sink))
    message = sent(relay, sink)
    assert deliver(relay, message.reverse_path, delivery_report(message.content, "joe@far.example", to="b@b"))[0] == 250
    [entry] = [event for event in told(relay) if event["event"] == "suppression"]
    assert (entry["recipient"], entry["reason"], entry["action"]) == ("joe@far.example", "hard_bounce", "added")

    def suppressed() -> bool:
        """Workers look at the list once a second."""
        relay.submit(CONTENT, ["joe@far.example"])
        relay.wait_drained()
        return any(event["event"] == "suppressed" for event in relay.events())

    wait_until(suppressed, 60, "mail to be suppressed")


def test_the_feedback_process_is_away(make_relay: Callable[..., RelayProcess], sink: Sink) -> None:
    """Held by a signal, so that it neither answers nor goes."""
    relay = make_relay(configuration(sink, inbound={"processing_timeout": "1s"}))
    assert relay.control("inbound.status")["listening"]
    pid = relay.feedback_process()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert deliver(relay, "fbl@fbl.test", b"Subject: x\r\n\r\n")[0] == 451
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: deliver(relay, "fbl@fbl.test", b"Subject: x\r\n\r\n")[0] == 250, 60, "it to be taken")


def test_over_tls(make_relay: Callable[..., RelayProcess], sink: Sink, tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("relay.test")
    for path, blobs in (("cert.pem", leaf.cert_chain_pems), ("key.pem", [leaf.private_key_pem])):
        (tmp_path / path).write_bytes(b"".join(blob.bytes() for blob in blobs))
        (tmp_path / path).chmod(0o600)
    files = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    relay = make_relay(configuration(sink, tls=files))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.check_hostname = False
    with inbound(relay) as client:
        client.starttls(context=context)
        client.ehlo()
        assert "starttls" not in client.esmtp_features
        client.sendmail("", ["fbl@fbl.test"], b"Subject: x\r\n\r\nhello\r\n")
        assert client.docmd("MAIL FROM:<>")[0] == 250
        assert client.rcpt("joe@far.example")[0] == 550
    assert relay.control("inbound.status")["kinds"]["other"]["messages"] == 1
