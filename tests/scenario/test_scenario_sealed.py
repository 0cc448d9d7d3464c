"""Content is sacred: with everything on that adds, checks and signs, what follows the prefix is what was submitted.

In by DATA and by BDAT, out by DATA and by BDAT, small and large (in a file of its own).
"""

from __future__ import annotations

import random
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dkim_keys import key_file, records_of, rsa_key, signer_for, verdicts
from support.net import wait_until
from support.relay import RelayProcess
from support.sink import Sink

from fastrelay.config.security import Dkim, DkimKey
from fastrelay.feedback.reference import References, read_key

PLAIN = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")
LARGE_OCTETS = 300_000  # above spool.large_message of this relay


@pytest.fixture(scope="module")
def sinks() -> Iterator[dict[str, Sink]]:
    with Sink() as chunking, Sink(extensions=PLAIN) as plain:
        yield {"bdat": chunking, "data": plain}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sealed")


@pytest.fixture(scope="module")
def dkim_config(folder: Path) -> Dkim:
    return Dkim(keys=[DkimKey(domain="news.example", selector="s1", key=key_file(folder, "s1.pem", rsa_key()))])


@pytest.fixture(scope="module")
def relay(folder: Path, sinks: dict[str, Sink], dkim_config: Dkim) -> Iterator[RelayProcess]:
    config = {
        "workers": 1,
        "routes": [{"domains": [f"{name}.example"], "hosts": [sink.endpoint]} for name, sink in sinks.items()],
        "spool": {"large_message": "100 KB"},
        "dkim": {"keys": [{"domain": "news.example", "selector": "s1", "key": dkim_config.keys[0].key}]},
        "compose": {
            "add": ["date", "message_id"],
            "list_unsubscribe": "https://news.example/u/{reference}?to={recipient}",
            "list_unsubscribe_mailto": "u+{reference}@news.example",
            "feedback_id": "{campaign}:{tenant}:news:fastrelay",
            "cfbl_address": "fbl@news.example",
            "reference": "X-Reference",
            "reverse_path": "b+{reference}@news.example",
        },
        "checks": {"refuse": ["from", "line_length"], "warn": ["no_recipient_field"]},
    }
    with RelayProcess(folder / "relay", config) as one:
        yield one


def contents(octets: int) -> bytes:
    """A message with all that is awkward: dots, empty lines, long lines, 8 bits, white space at ends."""
    rng = random.Random(octets)
    lines = [b"", b".", b"..", b".\t ", b" ", b"x" * 998, "grüße".encode(), b"From here", b"end of line \t", b"=0D=0A"]
    header = b"From: News <a@news.example>\r\nSubject: a\r\n \tfolded  \r\nX-Odd:  two  spaces \r\n\r\n"
    body: list[bytes] = []
    while sum(map(len, body)) < octets:
        body.append(rng.choice(lines) + b"\r\n")
    return header + b"".join(body) + b"\r\n\r\n"


class Submitter:
    """SMTP by hand."""

    def __init__(self, relay: RelayProcess) -> None:
        self.socket = socket.create_connection(relay.smtp, timeout=60)
        self.file = self.socket.makefile("rb")
        self.reply()
        self.say(b"EHLO client.test\r\n")

    def reply(self) -> bytes:
        while (line := self.file.readline())[3:4] == b"-":
            pass
        return line

    def say(self, octets: bytes) -> bytes:
        self.socket.sendall(octets)
        return self.reply()

    def submit(self, content: bytes, recipient: str, *, bdat: bool) -> bytes:
        self.say(b"MAIL FROM:<r@news.example> BODY=8BITMIME\r\n")
        self.say(b"RCPT TO:<%b>\r\n" % recipient.encode())
        if not bdat:
            assert self.say(b"DATA\r\n").startswith(b"354")
            return self.say(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
        rng = random.Random(len(content))
        at = 0
        while at < len(content):
            chunk = content[at : at + rng.randint(1, max(2, len(content) // 5))]
            at += len(chunk)
            last = b" LAST" if at == len(content) else b""
            reply = self.say(b"BDAT %d%b\r\n" % (len(chunk), last) + chunk)
        return reply

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.parametrize("octets", [0, 20_000, LARGE_OCTETS])
@pytest.mark.parametrize("into", ["data", "bdat"])
@pytest.mark.parametrize("out", ["data", "bdat"])
def test_byte_for_byte(
    relay: RelayProcess, sinks: dict[str, Sink], dkim_config: Dkim, octets: int, into: str, out: str
) -> None:
    content = contents(octets)
    recipient = f"joe{octets}{into}@{out}.example"
    submitter = Submitter(relay)
    try:
        assert submitter.submit(content, recipient, bdat=into == "bdat").startswith(b"250 ")
    finally:
        submitter.close()
    sink = sinks[out]

    def arrived() -> list[object]:
        return [one for one in sink.messages if one.recipients == [recipient]]

    wait_until(arrived, 60, "the message to arrive")
    [message] = [one for one in sink.messages if one.recipients == [recipient]]
    assert message.chunked == (out == "bdat")
    assert message.content.endswith(content)
    prefix = message.content.removesuffix(content)
    names = re.findall(rb"(?m)^([A-Za-z-]+):", prefix)
    assert names == [
        b"DKIM-Signature", b"Received", b"Date", b"Message-ID", b"CFBL-Address", b"List-Unsubscribe",
        b"List-Unsubscribe-Post", b"Feedback-ID", b"X-Reference",
    ]  # fmt: skip
    assert verdicts(message.content, records_of(signer_for(dkim_config)), 1) == [True]
    references = References(read_key(str(relay.state_dir / "reference.key")))
    text = message.reverse_path.removeprefix("b+").removesuffix("@news.example")
    assert references.read(text).recipient_hash == references.hash_of(recipient.encode())
    field = re.search(rb"X-Reference:\s+(\S+)", prefix)
    assert field is not None
    assert references.read(field[1].decode()).recipient == recipient.encode()
    assert references.read(field[1].decode()).id == references.read(text).id
    assert sink.violations == []


def test_what_is_refused_and_warned_of(relay: RelayProcess) -> None:
    submitter = Submitter(relay)
    try:
        for bdat in (False, True):
            for octets in (0, LARGE_OCTETS):
                long_line = contents(octets) + b"y" * 999 + b"\r\n"
                assert submitter.submit(long_line, "a@data.example", bdat=bdat).startswith(b"550 5.6.104 ")
                nobody = contents(octets).replace(b"From: ", b"X-From: ", 1)
                assert submitter.submit(nobody, "a@data.example", bdat=bdat).startswith(b"550 5.1.7 ")
    finally:
        submitter.close()
    with urllib.request.urlopen("http://{}:{}/metrics".format(*relay.metrics), timeout=60) as answer:
        metrics = answer.read().decode()
    for check, times in (("line_length", 4), ("from", 4)):
        assert re.search(rf'fastrelay_message_checks_total{{action="refuse",check="{check}"}} {times}(\.0)?\n', metrics)


def test_a_warning_is_in_the_event(relay: RelayProcess) -> None:
    submitter = Submitter(relay)
    try:
        reply = submitter.submit(contents(0), "ann@data.example", bdat=False)
    finally:
        submitter.close()
    id = reply.split()[-1].decode()

    def event() -> list[dict[str, object]]:
        return [one for one in relay.events() if one["event"] == "accepted" and one["id"] == id]

    wait_until(event, 60, "the event")
    assert event()[0]["warnings"] == ["no_recipient_field"]

    def delivered() -> list[dict[str, object]]:
        return [one for one in relay.events() if one["event"] == "delivered" and one["id"] == id]

    wait_until(delivered, 60, "the delivery")
    assert delivered()[0]["reverse_path"] == "r@news.example"
    assert re.fullmatch(r"b\+f[a-z2-7]+@news\.example", str(delivered()[0]["mail_from"]))
