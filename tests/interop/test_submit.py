"""Mail submitted by real clients arrives byte for byte: smtplib, aiosmtplib, swaks, Postfix's smtp-source."""

import asyncio
import re
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from support.net import split_endpoint, wait_until
from support.newsletters import assert_same, corpus, name_of
from support.peers import require
from support.relay import RelayProcess
from support.sink import Sink

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]


@pytest.fixture
def relay(make_relay: Maker, sink: Sink) -> RelayProcess:
    return make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]})


def assert_all_arrived(sink: Sink, sent: dict[str, bytes]) -> None:
    wait_until(lambda: len(sink.messages) >= len(sent), 60, f"{len(sent)} messages, {len(sink.messages)} came")
    came = {name_of(message.content): message for message in sink.messages}
    assert len(sink.messages) == len(sent), "something came twice"
    for name, content in sent.items():
        assert came[name].content.lower().startswith(b"received:")
        assert_same(came[name].without_trace(), content, name)
    assert not sink.violations


def test_smtplib(relay: RelayProcess, sink: Sink) -> None:
    sent = dict(corpus())
    with relay.client() as client:
        for name, content in sent.items():
            client.sendmail("news@sender.example", [f"{name}@d.example"], content, ["BODY=8BITMIME"])
    assert_all_arrived(sink, sent)
    assert {message.recipients[0] for message in sink.messages} == {f"{name}@d.example" for name in sent}


def test_smtplib_message_to_many_recipients(relay: RelayProcess, sink: Sink) -> None:
    recipients = [f"r{n}@d{n % 3}.example" for n in range(150)]
    content = dict(corpus())["multipart"]
    with relay.client() as client:
        client.sendmail("news@sender.example", recipients, content)
    wait_until(lambda: sum(len(message.recipients) for message in sink.messages) >= 150, 60, "150 recipients")
    assert sorted(address for message in sink.messages for address in message.recipients) == sorted(recipients)
    for message in sink.messages:
        assert_same(message.without_trace(), content, "multipart")


def test_smtplib_smtputf8(relay: RelayProcess, sink: Sink) -> None:
    content = "Subject: Grüße\r\nX-Test-Name: utf8\r\n\r\nŽ\r\n".encode()
    with relay.client() as client:
        client.sendmail("pošta@sender.example", ["čtenář@d.example"], content, ["SMTPUTF8", "BODY=8BITMIME"])
    assert_all_arrived(sink, {"utf8": content})
    message = sink.messages[0]
    assert "SMTPUTF8" in message.mail_parameters
    assert (message.reverse_path, message.recipients) == ("pošta@sender.example", ["čtenář@d.example"])


def test_aiosmtplib_with_parallel_connections(relay: RelayProcess, sink: Sink) -> None:
    sent = dict(corpus())

    async def one_connection(part: list[tuple[str, bytes]]) -> None:
        host, port = relay.smtp
        async with aiosmtplib.SMTP(hostname=host, port=port, timeout=60, start_tls=False) as client:
            for name, content in part:
                await client.sendmail("news@sender.example", [f"{name}@d.example"], content)

    async def all_connections() -> None:
        parts = [list(sent.items())[start::5] for start in range(5)]
        await asyncio.gather(*(one_connection(part) for part in parts))

    asyncio.run(all_connections())
    assert_all_arrived(sink, sent)


def stuffed(content: bytes) -> bytes:
    return (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def test_swaks(relay: RelayProcess, sink: Sink, tmp_path: Path) -> None:
    swaks = require("swaks")
    sent = dict(corpus(large=False))
    for name, content in sent.items():
        path = tmp_path / name
        path.write_bytes(stuffed(content))  # --no-data-fixup: swaks sends exactly this after the 354
        done = subprocess.run(
            [swaks, "--server", relay.smtp[0], "--port", str(relay.smtp[1]), "--from", "news@sender.example", "--to",
             f"{name}@d.example", "--helo", "swaks.test", "--data", f"@{path}", "--no-data-fixup", "--hide-all"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert_all_arrived(sink, sent)


@pytest.mark.parametrize("sessions", [1, 10, 100])
def test_smtp_source(relay: RelayProcess, load_tools: Any, tmp_path: Path, sink: Sink, sessions: int) -> None:
    smtp_source = require("smtp-source", "postfix")
    done = subprocess.run(
        [smtp_source, "-s", str(sessions), "-m", "500", "-l", "5000", "-f", "news@sender.example", "-t", "r@d.example",
         "-c", f"inet:{relay.endpoint}"],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: len(sink.messages) >= 500, 60, f"500 messages, {len(sink.messages)} came")
    summary = relay.wait_drained()
    assert (summary["accepted"], summary["delivered"], len(sink.messages)) == (500, 500, 500)
    bodies = {message.without_trace().partition(b"\r\n\r\n")[2] for message in sink.messages}
    assert len(bodies) == 1
    assert re.fullmatch(rb"([0-9]?X+\r\n)+(\r\n)?", bodies.pop()), "smtp-source's filler, line by line"
    assert not sink.violations


def test_bare_line_feed_is_refused_and_the_session_goes_on(relay: RelayProcess, sink: Sink) -> None:
    with relay.client() as client:
        client.ehlo()
        for bad in (b"bare\nline feed\r\n", b"bare\rreturn\r\n", b"smuggled\n.\n\r\nMAIL FROM:<x@y.example>\r\n"):
            client.mail("news@sender.example")
            client.rcpt("r@d.example")
            client.putcmd("data")
            assert client.getreply()[0] == 354
            client.send(b"Subject: x\r\n\r\n" + bad + b"\r\n.\r\n")
            code, text = client.getreply()
            assert (code, text[:5]) == (550, b"5.5.2")
        client.sendmail("news@sender.example", ["r@d.example"], dict(corpus(large=False))["plain"])
    assert_all_arrived(sink, {"plain": dict(corpus(large=False))["plain"]})


def test_strangers_may_not_relay(make_relay: Maker, sink: Sink) -> None:
    relay = make_relay({
        "relay_networks": ["192.0.2.0/24"], "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
    })
    with relay.client() as client, pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.sendmail("news@sender.example", ["r@d.example"], b"Subject: x\r\n\r\nx\r\n")
    assert refused.value.recipients["r@d.example"][0] == 550
    assert refused.value.recipients["r@d.example"][1].startswith(b"5.7.1")
    assert split_endpoint(relay.endpoint) == relay.smtp
    assert not sink.messages
