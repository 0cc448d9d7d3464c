"""Security: too long, too many, too slow. Each is refused in words or cut off, memory stays, and others are served.

No test looks at how long something took: a deadline is short in the configuration, and the relay has to act on it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.net import wait_until
from support.rawsmtp import RawClient, codes
from support.relay import RelayProcess, memory_bytes
from support.sink import Sink

Maker = Callable[..., RelayProcess]

HELLO = (b"EHLO client.test\r\n", b"MAIL FROM:<a@sender.example>\r\n")
RCPT = b"RCPT TO:<b@d.example>\r\n"
MEGABYTE = 1 << 20
QUIET_LOOKS = 20  # at a socket that takes nothing: it is full, and stays so
GROWTH_BYTES = 48 * MEGABYTE  # of a worker, whatever is thrown at it


def relay_of(make_relay: Maker, sink: Sink, **keys: Any) -> RelayProcess:
    return make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}], "workers": 1, **keys})


def still_serves(relay: RelayProcess, sink: Sink) -> None:
    """Somebody else's mail goes through as ever."""
    before = len(sink.messages)
    relay.submit(b"Subject: x\r\n\r\nx\r\n", ["b@d.example"])
    wait_until(lambda: len(sink.messages) == before + 1, what="the message")


def resident(relay: RelayProcess) -> int:
    return sum(memory_bytes(pid)["VmRSS"] for pid in relay.workers())


@pytest.mark.parametrize(
    "start", [b"EHLO ", b"MAIL FROM:<", b"RCPT TO:<", b"AUTH PLAIN ", b"NOOP ", b"", b"STARTTLS ", b"BDAT "], ids=repr
)
def test_a_command_line_without_end(make_relay: Maker, sink: Sink, start: bytes) -> None:
    """64 MiB without a line end: refused, not kept."""
    relay = relay_of(make_relay, sink)
    still_serves(relay, sink)
    before = resident(relay)
    with RawClient(relay.smtp) as client:
        client.send(start)
        for _ in range(64):
            client.send(b"x" * MEGABYTE)
            if client.closed:
                break
        client.send(b"\r\nQUIT\r\n")
        said = client.rest()
    assert not said or said.startswith(b"5"), said
    assert resident(relay) - before < GROWTH_BYTES
    still_serves(relay, sink)


def test_a_response_to_auth_without_end(make_relay: Maker, sink: Sink) -> None:
    """Whatever AUTH is offered: 12288 octets are the bound of a response (RFC 4954 section 4)."""
    relay = relay_of(make_relay, sink)
    with RawClient(relay.smtp) as client:
        client.say(HELLO[0])
        for command in (b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\n", b"AUTH CRAM-MD5\r\n", b"AUTH SCRAM-SHA-256\r\n"):
            assert client.say(command)[:1] in b"35"
        client.send(b"A" * 13_000 + b"\r\nQUIT\r\n")
        said = client.rest()
    assert said.startswith(b"5")
    still_serves(relay, sink)


def test_headers_lines_messages_and_recipients_have_bounds(make_relay: Maker, sink: Sink) -> None:
    relay = relay_of(make_relay, sink, limits={"message_size": "1MiB", "recipients_per_message": 10})
    with RawClient(relay.smtp) as client:
        client.all(*HELLO)
        replies = codes([client.say(RCPT) for _ in range(15)])
        assert replies == [250] * 10 + [452] * 5
        client.say(b"DATA\r\n")
        assert codes(client.say(b"Subject: x\r\n" * 30_000 + b"\r\n.\r\n"))[0] in (552, 554)
        for content in (b"Subject: x\r\n\r\n" + b"x" * 2 * MEGABYTE + b"\r\n.\r\n",):
            client.all(HELLO[1], RCPT, b"DATA\r\n")
            assert client.say(content).startswith(b"552 5.3.4")
        assert client.say(b"MAIL FROM:<a@sender.example> SIZE=99999999999999999999\r\n")[:1] == b"5"
        assert client.say(b"MAIL FROM:<a@sender.example> SIZE=2000000\r\n").startswith(b"552 5.3.4")
        client.all(HELLO[1], RCPT)
        client.send(b"BDAT 3000000 LAST\r\n")
        client.send(b"x" * 3_000_000)
        assert client.reply().startswith(b"552")
        client.say(b"RSET\r\n")
        assert client.say(b"MAIL FROM:<" + b"a" * 65 + b"@sender.example>\r\n")[:1] == b"5"
        assert client.say(b"MAIL FROM:<a@" + b"a." * 200 + b"example>\r\n")[:1] == b"5"
    assert relay.summary()["accepted"] == 0
    still_serves(relay, sink)


def test_commands_and_errors_without_mail_end_the_connection(make_relay: Maker, sink: Sink) -> None:
    relay = relay_of(make_relay, sink, smtp={"commands": 50, "errors": 5})
    for command in (b"NOOP\r\n", b"RSET\r\n", b"EHLO x\r\n", b"NONSENSE\r\n", b"BDAT 0\r\n"):
        with RawClient(relay.smtp) as client:
            client.send(command * 200)
            said = client.rest()
        assert b"\n421 " in b"\n" + said.splitlines(keepends=True)[-1], (command, said[-200:])
    still_serves(relay, sink)


@pytest.mark.parametrize(
    "stage", [(), HELLO[:1], HELLO, (*HELLO, RCPT), (*HELLO, RCPT, b"DATA\r\n"), (*HELLO, RCPT, b"BDAT 1000000\r\n")]
)
def test_a_client_that_drips_or_says_nothing_is_cut_off(
    make_relay: Maker, sink: Sink, stage: tuple[bytes, ...]
) -> None:
    """An octet now and then is no progress in a command: only whole commands count. In a content nothing at all is."""
    relay = relay_of(make_relay, sink, smtp={"idle_timeout": "2s", "data_timeout": "2s"})
    with RawClient(relay.smtp) as client:
        for command in stage:
            client.send(command)
            if not command.startswith(b"BDAT"):
                client.reply()
        in_content = bool(stage) and stage[-1].startswith((b"DATA", b"BDAT"))
        client.socket.settimeout(0.5)
        said = b""

        def dripped() -> bool:
            nonlocal said
            try:
                if not in_content:
                    client.send(b"N")
                octets = client.socket.recv(4096)
                said += octets
                return not octets
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(dripped, what="the connection's end")
        assert not said or said.startswith(b"421 "), said
    assert relay.summary()["accepted"] == 0
    still_serves(relay, sink)


def test_a_client_that_does_not_read_its_replies(make_relay: Maker, sink: Sink) -> None:
    """Replies wait in bounded memory; the relay stops reading, and serves the others."""
    relay = relay_of(make_relay, sink, smtp={"commands": 1_000_000_000, "idle_timeout": "3s"})
    still_serves(relay, sink)
    before = resident(relay)
    with socket.create_connection(relay.smtp, 60) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        sent = quiet = 0

        def stuck() -> bool:
            nonlocal sent, quiet
            before_this = sent
            try:
                while sent < 256 * MEGABYTE:
                    sent += deaf.send(b"EHLO client.test\r\n" * 1000)
                raise AssertionError("the relay reads on for ever")
            except BlockingIOError:
                quiet = quiet + 1 if sent == before_this else 0
                return quiet >= QUIET_LOOKS
            except OSError:  # cut off
                return True

        wait_until(stuck, what="the relay to stop reading")
        still_serves(relay, sink)
        assert resident(relay) - before < GROWTH_BYTES


def test_connections_beyond_the_limit_are_told_so(make_relay: Maker, sink: Sink) -> None:
    relay = relay_of(make_relay, sink, limits={"smtp_connections": 20})
    clients = [RawClient(relay.smtp) for _ in range(40)]
    try:
        greetings = [client.greeting[:3] for client in clients]
        assert greetings == [b"220"] * 20 + [b"421"] * 20
    finally:
        for client in clients:
            client.socket.close()
    wait_until(lambda: _greets(relay), what="a greeting")
    still_serves(relay, sink)


def _greets(relay: RelayProcess) -> bool:
    with RawClient(relay.smtp) as client:
        return client.greeting.startswith(b"220")


def test_a_configuration_of_billions_of_laughs_is_refused(make_relay: Maker, sink: Sink) -> None:
    """The file is the operator's, yet a generated one may go wrong: aliases that grow are an error, not a hang."""
    relay = relay_of(make_relay, sink)
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    text = relay.config_path.read_text()
    relay.config_path.write_text(text + bomb)
    os.kill(relay.pid, signal.SIGHUP)
    wait_until(lambda: "the new configuration is refused" in relay.log_text(), what="a refusal")
    still_serves(relay, sink)
