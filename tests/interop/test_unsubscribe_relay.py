"""The loop as others see it: mail with a one-click link, a POST to it, a complaint by mail; and what the relay sends
next."""

from __future__ import annotations

import json
import smtplib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import RelayProcess
from support.sink import Sink

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]

NEWS = b"From: News <news@news.example>\r\nTo: you\r\nSubject: Tulips\r\n\r\nSpring comes.\r\n"


class Story:
    """A relay that composes links, its sink, and its page."""

    def __init__(self, make_relay: Maker, sink: Sink) -> None:
        self.sink = sink
        self.page, self.inbound, self.urgent = free_endpoint(), free_endpoint(), free_endpoint()
        self.relay = make_relay({
            "suppression": {"enabled": True},
            "listeners": {
                "smtp": [
                    {"bind": free_endpoint()},
                    {"bind": self.inbound, "inbound": ["fbl@news.example"]},
                    {"bind": self.urgent, "mail": {"priority": "transactional"}},
                ],
                "metrics": {"bind": free_endpoint()},
                "unsubscribe": {"bind": self.page, "tls": "none"},
            },
            "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
            "compose": {
                "list_unsubscribe": "https://news.example/unsubscribe/{reference}",
                "reference": "X-Fastrelay-Reference",
            },
            "complaints": {"least_delivered": 1},
        })  # fmt: skip

        wait_until(self.answers, 60, "the feedback process to be ready")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.page}/healthz", timeout=60) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def send(self, recipient: str, endpoint: str | None = None) -> None:
        host, port = split_endpoint(endpoint) if endpoint else self.relay.smtp
        with smtplib.SMTP(host, port, timeout=60) as client:
            client.sendmail("news@news.example", [recipient], NEWS)

    def delivered(self, n: int) -> bytes:
        """The n-th message that the sink has, its lines unfolded."""
        wait_until(lambda: len(self.sink.messages) >= n, 60, f"{n} messages to arrive")
        content: bytes = self.sink.messages[n - 1].content
        return content

    def events(self, *names: str) -> list[dict[str, Any]]:
        found = []
        for path in (self.relay.state_dir / "events").glob("*.jsonl"):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                if event["event"] in names:
                    found.append(event)
        return found

    def wait_for(self, name: str, n: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.events(name)) >= n, 60, f"{n} events {name}")
        return self.events(name)


def link_in(content: bytes) -> str:
    """The path of the one-click link."""
    header = content.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
    fields = dict(line.split(": ", 1) for line in header.split("\r\n") if ": " in line)
    assert fields["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    return fields["List-Unsubscribe"].strip("<>").removeprefix("https://news.example")


def test_one_click_and_what_is_sent_next(make_relay: Maker) -> None:
    with Sink() as sink:
        story = Story(make_relay, sink)
        story.send("reader@mailbox.example")
        url = f"http://{story.page}{link_in(story.delivered(1))}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert b"<button" in answer.read()
        assert story.events("unsubscribed") == []
        curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--data", "List-Unsubscribe=One-Click", url]
        assert [subprocess.run(curl, capture_output=True, text=True, check=True).stdout for _ in range(2)] == [
            "200"
        ] * 2
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url[:-2] + "aa", data=b"List-Unsubscribe=One-Click", timeout=60)
        (event,) = story.events("unsubscribed")
        assert (event["recipient"], event["method"]) == ("reader@mailbox.example", "one-click")

        def stopped() -> bool:  # each worker looks for the first entry of a list once a second
            story.send("Reader@Mailbox.example")
            logs = (story.relay.state_dir / "events").glob("w*.jsonl")
            return all(b'"event":"suppressed"' in log.read_bytes() for log in logs)

        wait_until(stopped, 60, "both workers to suppress the next message")
        kept = story.events("suppressed")[0]
        assert (kept["suppression_reason"], kept["suppression_scope"]) == ("unsubscribe", "sender")
        story.relay.wait_drained()
        before = len(story.events("delivered"))
        story.send("reader@mailbox.example")
        story.send("reader@mailbox.example", story.urgent)
        story.send("other@mailbox.example")
        story.relay.wait_drained()
        wait_until(lambda: len(story.events("delivered")) >= before + 2, 60, "two deliveries")
        last = sorted(story.events("delivered"), key=lambda one: str(one["time"]))[before:]
        assert sorted(one["recipient"] for one in last) == ["other@mailbox.example", "reader@mailbox.example"]


def test_a_complaint_and_the_rates(make_relay: Maker) -> None:
    with Sink() as sink:
        story = Story(make_relay, sink)
        story.send("reader@mailbox.example")
        came = story.delivered(1).decode().replace("reader@", "redacted@")
        report = (
            "From: fbl@mailbox.example\r\nTo: fbl@news.example\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n"
            "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
            "--b\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n--b\r\n"
            "Content-Type: message/feedback-report\r\n\r\n"
            "Feedback-Type: abuse\r\nUser-Agent: Yahoo!-Mail-Feedback/2.0\r\nVersion: 1\r\n\r\n"
            f"--b\r\nContent-Type: message/rfc822\r\n\r\n{came}\r\n--b--\r\n"
        )
        host, port = split_endpoint(story.inbound)
        for _ in range(2):
            with smtplib.SMTP(host, port, timeout=60) as client:
                client.sendmail("", ["fbl@news.example"], report.encode())
        (event,) = story.events("complained")  # answered with 250, so it is there
        assert (event["recipient"], event["feedback_source"]) == ("reader@mailbox.example", "yahoo")

        def counted() -> bool:
            rows = story.relay.control("complaints.rates", {"by": "all"})["rates"]
            return bool(rows) and (rows[0]["delivered"], rows[0]["complaints"]) == (1, 1)

        wait_until(counted, 60, "the delivery to be counted")
        assert "100.000%" in story.relay.cli("complaints").stdout
