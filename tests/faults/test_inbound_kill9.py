"""The feedback process is killed with -9 while bounces come in: what was answered 250 has its event, and what was not
comes again under the same key."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import threading
from collections.abc import Callable
from pathlib import Path

from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import RelayProcess
from support.reports import delivery_report

from fastrelay.clock import RealClock
from fastrelay.feedback.reference import References

KEY = bytes(range(32))
BOUNCES = 60
KILLS = 3
CLIENTS = 6


def events(relay: RelayProcess, name: str) -> list[dict[str, str]]:
    """Whole lines only: the last one may be under way."""
    path = relay.state_dir / "events" / "feedback.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = []
    for line in lines:
        if line.startswith(b"{") and line.endswith(b"}"):
            found.append(json.loads(line))
    return [event for event in found if event["event"] == name]


class Senders:
    """Hosts that bounce: each message is tried until it is taken."""

    def __init__(self, relay: RelayProcess, bounces: list[tuple[str, bytes]]) -> None:
        self.relay = relay
        self.left = list(bounces)
        self.taken: list[str] = []
        self.refused = 0
        self.missing: list[str] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(CLIENTS)]

    def run(self) -> None:
        while True:
            with self.lock:
                if not self.left:
                    return
                recipient, octets = self.left.pop()
            if self.deliver(octets):
                told = {event["recipient"] for event in events(self.relay, "bounced")}
                with self.lock:
                    self.taken.append(recipient)
                    if recipient not in told:
                        self.missing.append(recipient)
            else:
                with self.lock:
                    self.refused += 1
                    self.left.insert(0, (recipient, octets))

    def deliver(self, octets: bytes) -> bool:
        address = split_endpoint(self.relay.config["listeners"]["smtp"][1]["bind"])
        try:
            with smtplib.SMTP(*address, local_hostname="mx.far.example", timeout=60) as client:
                client.sendmail("", ["b@b.test"], octets)
        except smtplib.SMTPResponseException as error:
            if error.smtp_code // 100 != 4:
                raise
            return False
        except (smtplib.SMTPServerDisconnected, OSError):
            return False
        return True


def test_nothing_that_was_answered_is_lost(make_relay: Callable[..., RelayProcess], tmp_path: Path) -> None:
    key_file = tmp_path / "reference.key"
    key_file.write_text(KEY.hex())
    relay = make_relay(
        {
            "suppression": {"enabled": True},
            "listeners": {
                "smtp": [{"bind": free_endpoint()}, {"bind": free_endpoint(), "inbound": ["b@b.test"]}],
                "metrics": {"bind": free_endpoint()},
            },
            "compose": {"reference": "X-Ref", "reference_key": str(key_file)},
        }
    )
    references = References(KEY)
    day = int(RealClock().wall() // 86400)
    bounces = []
    for number in range(BOUNCES):
        recipient = f"r{number}@far.example"
        token = references.make(recipient.encode(), b"", b"", b"news.example", day, f"ab-{number + 1:x}")
        returned = f"X-Ref: {token}\r\nFrom: a@news.example\r\nTo: {recipient}\r\nSubject: x\r\n\r\n".encode()
        bounces.append((recipient, delivery_report(returned, recipient, to="b@b.test", number=number)))
    senders = Senders(relay, bounces)
    for thread in senders.threads:
        thread.start()
    for turn in range(1, KILLS + 1):
        least = turn * BOUNCES // (KILLS + 1)
        wait_until(lambda least=least: len(events(relay, "bounced")) >= least, 120, "bounces to be told")
        wait_until(lambda: relay.feedback_process(), 60, "the feedback process")
        pid = relay.feedback_process()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    for thread in senders.threads:
        thread.join(240)
        assert not thread.is_alive()
    assert senders.missing == [], "a 250 says that the event is there"
    told = events(relay, "bounced")
    recipients = {event["recipient"] for event in told}
    assert len(recipients) == BOUNCES
    assert len({event["key"] for event in told}) == BOUNCES, "what was told twice has one key"
    suppressed = {event["recipient"] for event in events(relay, "suppression")}
    assert suppressed == recipients
