"""STARTTLS, implicit TLS and AUTH on real sockets: what a client says in the clear never counts under TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trustme
from support.net import free_endpoint
from support.raw_client import RawClient, trusting
from support.worker import Mx, WorkerBox, run

from fastrelay.config.sending import Assignment
from fastrelay.metrics import names

BODY = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Keys of the configuration's section `tls`."""
    issued = authority.issue_cert("relay.test")
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    paths[1].write_bytes(issued.private_key_pem.bytes())
    return {"certificate": str(paths[0]), "key": str(paths[1])}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, nothing is logged as an error."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


class Served:
    """A worker with listeners of each kind, and clients in threads."""

    def __init__(self, box: WorkerBox, mx: Mx, binds: dict[str, str]) -> None:
        self.box, self.mx, self.binds = box, mx, binds

    async def client(self, act: Callable[[RawClient], Any], kind: str = "starttls", **more: Any) -> Any:
        def work() -> Any:
            with RawClient(self.binds[kind], **more) as client:
                return act(client)

        return await asyncio.to_thread(work)

    def handshakes(self) -> dict[tuple[str, str], int]:
        """How often, by (result, version)."""
        found = {}
        for kind, name, labels, value in self.box.app.meters.slab.entries():
            if name == names.SMTP_TLS_HANDSHAKES.name and kind == "counter" and value:
                words = dict(labels)
                found[words["result"], words["version"]] = int(value)
        return found

    def accepted(self) -> list[dict[str, Any]]:
        return [event for event in self.box.events() if event["event"] == "accepted"]

    async def nobody(self) -> None:
        """Until every client is gone."""
        await self.box.until(lambda: self.box.app.listener.load == 0 and not self.box.app.listener._upgrading)


def serve(folder: Path, act: Callable[[Served], Any], tls: dict[str, Any], **keys: Any) -> None:
    async def work() -> None:
        mx = Mx()
        binds = {kind: free_endpoint() for kind in ("starttls", "implicit", "required")}
        listeners = [
            {"bind": binds["starttls"]},
            {"bind": binds["implicit"], "tls": "implicit"},
            {"bind": binds["required"], "auth": "required"},
        ]
        built: dict[str, Any] = {"listeners": {"smtp": listeners}, "tls": tls, **keys}
        async with WorkerBox(folder / "state", [await mx.start()], **built) as box:
            await act(Served(box, mx, binds))

    run(work)


def test_starttls_and_implicit_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    def by_starttls(client: RawClient) -> Any:
        keywords = client.says(b"EHLO client.test")[0] if client.reply() else ""
        assert "250-STARTTLS" in keywords
        assert "REQUIRETLS" not in keywords
        assert client.say(b"STARTTLS").startswith("220 2.0.0")
        client.tls()
        assert client.say(b"MAIL FROM:<news@a.test>").startswith("503 5.5.1 EHLO first")
        keywords = client.say(b"EHLO client.test")
        assert "STARTTLS" not in keywords
        assert "250-REQUIRETLS" in keywords
        assert client.message(BODY).startswith("250 2.0.0")
        assert client.say(b"STARTTLS").startswith("503 5.5.1")
        assert client.say(b"QUIT").startswith("221")
        assert client.rest() == b""

    def by_implicit(client: RawClient) -> Any:
        client.tls()
        assert client.reply().startswith("220 relay.test ESMTP")
        client.say(b"EHLO client.test")
        assert client.message(BODY, mail=b" SMTPUTF8").startswith("250 2.0.0")
        client.say(b"HELO client.test")
        assert client.message(BODY).startswith("250 2.0.0")

    async def act(served: Served) -> None:
        await served.client(by_starttls)
        await served.client(by_implicit, "implicit")
        assert served.handshakes() == {("ok", "TLSv1.3"): 2}
        await served.box.until(lambda: len(served.mx.accepted) == 3)
        assert [event["tls"] for event in served.accepted()] == ["TLSv1.3"] * 3
        traces = [re.sub(rb"\r\n\s+", b" ", content) for _, content in served.mx.accepted]
        words = [re.match(rb"Received: from client.test \(\[127[0-9.]+\]\) \(using TLSv1.3 with cipher TLS_[A-Z0-9_]+\)"
                          rb" by relay.test with (\w+) id ", trace) for trace in traces]  # fmt: skip
        assert all(words), traces
        assert sorted(found[1] for found in words if found) == [b"ESMTPS", b"SMTP", b"UTF8SMTPS"]
        await served.nobody()

    serve(tmp_path, act, certificate)


def test_a_client_in_the_clear_costs_and_says_what_it_did(tmp_path: Path, certificate: dict[str, str]) -> None:
    def plain(client: RawClient) -> None:
        client.reply()
        client.say(b"EHLO client.test")
        assert client.message(BODY).startswith("250 2.0.0")

    async def act(served: Served) -> None:
        await served.client(plain)
        await served.box.until(lambda: served.mx.accepted)
        assert b"with ESMTP id" in served.mx.accepted[0][1]
        assert b"using" not in served.mx.accepted[0][1].partition(b"\r\n\r\n")[0]
        (event,) = served.accepted()
        assert "tls" not in event
        assert "user" not in event

    serve(tmp_path, act, certificate)


INJECTED = b"EHLO injected.test\r\nMAIL FROM:<injected@a.test>\r\nRCPT TO:<injected@x.test>\r\n"


@pytest.mark.parametrize("seams", [(0,), (1, 0), (2, 1)], ids=["same segment", "next segment", "late"])
def test_what_is_injected_behind_starttls_has_no_effect(
    tmp_path: Path, certificate: dict[str, str], seams: tuple[int, ...]
) -> None:
    """Plain commands behind STARTTLS, whenever they are sent: they are dropped, or they spoil the handshake."""

    def inject(client: RawClient) -> str:
        client.reply()
        client.say(b"EHLO client.test")
        if seams == (0,):
            client.send(b"STARTTLS\r\n" + INJECTED)
        elif seams == (1, 0):
            client.send(b"STARTTLS\r\n", INJECTED)
        else:
            client.send(b"STARTTLS\r\n")
        assert client.reply().startswith("220 2.0.0")
        if seams == (2, 1):
            client.send(INJECTED)
        try:
            client.tls()
        except (OSError, ssl.SSLError):
            return "spoiled"
        # Nothing is said to what was injected, and nothing of it holds.
        assert client.say(b"NOOP") == "250 2.0.0 Ok"
        assert client.say(b"RCPT TO:<a@x.test>").startswith("503 5.5.1 MAIL first")
        assert client.say(b"MAIL FROM:<a@x.test>").startswith("503 5.5.1 EHLO first")
        assert client.say(b"EHLO client.test").startswith("250-")
        assert client.message(BODY).startswith("250 2.0.0")
        return "dropped"

    async def act(served: Served) -> None:
        outcome = await served.client(inject)
        if seams == (0,):
            assert outcome == "dropped"
        if seams == (2, 1):
            assert outcome == "spoiled"
        await served.nobody()
        expected = {("ok", "TLSv1.3"): 1} if outcome == "dropped" else {("protocol", "none"): 1}
        assert served.handshakes() == expected
        assert [event["helo"] for event in served.accepted()] == ["client.test"] * (outcome == "dropped")

    serve(tmp_path, act, certificate)


def test_what_is_injected_into_a_handshake_spoils_it(tmp_path: Path, certificate: dict[str, str]) -> None:
    def inject(client: RawClient) -> bytes:
        client.reply()
        client.say(b"EHLO client.test")
        client.say(b"STARTTLS")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        machine = trusting().wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            machine.do_handshake()
        client.send(outgoing.read(), INJECTED)
        return client.rest()

    async def act(served: Served) -> None:
        assert b"2.1.0" not in await served.client(inject)  # a ServerHello perhaps, and no reply to a command
        await served.nobody()
        assert served.handshakes() == {("protocol", "none"): 1}
        assert served.accepted() == []

    serve(tmp_path, act, certificate)


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@pytest.mark.parametrize("what", ["garbage", "old", "alert", "closed", "reset"])
def test_a_handshake_that_fails_is_quiet_and_counted(
    tmp_path: Path, certificate: dict[str, str], kind: str, what: str
) -> None:
    def fail(client: RawClient) -> None:
        if kind == "starttls":
            client.reply()
            client.say(b"EHLO client.test")
            client.say(b"STARTTLS")
        if what == "garbage":
            client.send(b"\x00" * 500)
            client.rest()
        elif what == "old":
            old = trusting()
            old.set_ciphers("AES128-SHA")  # no forward secrecy
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with contextlib.suppress(OSError):
                client.tls(old)
                client.rest()
        elif what == "alert":
            strict = ssl.create_default_context()
            with pytest.raises(ssl.SSLCertVerificationError):
                client.tls(strict, server_hostname="relay.test")
        elif what == "reset":
            client.send(b"\x16\x03")
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            client.send(b"\x16\x03")

    async def act(served: Served) -> None:
        await served.client(fail, kind)
        await served.box.until(served.handshakes)
        result = {"garbage": "protocol", "old": "protocol", "alert": "alert"}.get(what, "lost")
        assert served.handshakes() == {(result, "none"): 1}
        await served.nobody()

    serve(tmp_path, act, certificate)


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
def test_a_slow_handshake_ends_and_holds_nobody(tmp_path: Path, certificate: dict[str, str], kind: str) -> None:
    async def act(served: Served) -> None:
        slow = await asyncio.to_thread(RawClient, served.binds[kind])

        def stand_still() -> bytes:
            if kind == "starttls":
                slow.reply()
                slow.say(b"EHLO client.test")
                slow.say(b"STARTTLS")
            slow.send(b"\x16")
            return slow.rest()

        def other(client: RawClient) -> str:
            client.reply()
            return client.say(b"NOOP")

        standing = asyncio.create_task(asyncio.to_thread(stand_still))
        assert await served.client(other) == "250 2.0.0 Ok"
        assert await standing == b""
        slow.sock.close()
        assert served.handshakes() == {("timeout", "none"): 1}
        await served.nobody()

    serve(tmp_path, act, {**certificate, "handshake_timeout": 0.2})


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
def test_a_relay_that_stops_waits_for_no_handshake(tmp_path: Path, certificate: dict[str, str], kind: str) -> None:
    async def act(served: Served) -> None:
        client = await asyncio.to_thread(RawClient, served.binds[kind])
        listener = served.box.app.listener
        if kind == "starttls":

            def begin() -> str:
                client.reply()
                client.say(b"EHLO client.test")
                return client.say(b"STARTTLS")

            assert (await asyncio.to_thread(begin)).startswith("220")
            await served.box.until(lambda: listener._upgrading)
        else:
            await served.box.until(lambda: listener._opening)
        await served.box.app.drain(30.0)
        served.box.app._timer = None
        await served.nobody()
        assert await asyncio.to_thread(client.rest) == b""
        client.sock.close()

    serve(tmp_path, act, certificate)


def test_a_handshake_counts_as_a_connection(tmp_path: Path, certificate: dict[str, str]) -> None:
    async def act(served: Served) -> None:
        standing = [await asyncio.to_thread(RawClient, served.binds["implicit"]) for _ in range(2)]
        await served.box.until(lambda: served.box.app.listener.load == 2)
        assert (await served.client(RawClient.reply)).startswith("421 4.3.2")
        assert await served.client(RawClient.rest, "implicit") == b""  # no handshake, only to say that
        for client in standing:
            client.sock.close()
        await served.nobody()
        assert served.handshakes() == {("lost", "none"): 2}

    serve(tmp_path, act, certificate, limits={"smtp_connections": 2})


def test_large_and_pipelined_contents_over_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    contents = [b"Subject: %d\r\n\r\n" % n + b"x" * n + b"\r\n" + b"line\r\n" * n for n in (1, 16_000, 400_000)]

    def submit(client: RawClient) -> list[str]:
        client.tls().reply()
        client.say(b"EHLO client.test")
        script = b""
        for content in contents:
            script += b"MAIL FROM:<news@a.test>\r\nRCPT TO:<a@x.test>\r\nBDAT %d LAST\r\n" % len(content) + content
        client.send(script + b"QUIT\r\n")
        return [client.reply() for _ in range(3 * len(contents) + 1)]

    async def act(served: Served) -> None:
        replies = await served.client(submit, "implicit")
        assert [reply[:3] for reply in replies] == ["250"] * 9 + ["221"]
        await served.box.until(lambda: len(served.mx.accepted) == 3)
        came = sorted((content.partition(b"Subject:")[2] for _, content in served.mx.accepted), key=len)
        assert came == [content.partition(b"Subject:")[2] for content in contents]
        await served.nobody()

    serve(tmp_path, act, certificate, spool={"reserve": 0, "ballast": 0, "map_size": 1 << 28, "large_message": 100_000})


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, certificate: dict[str, str]) -> None:
    """It hears nothing of its replies, so its connection could not be closed in good order."""

    async def act(served: Served) -> None:
        client = await asyncio.to_thread(RawClient, served.binds["implicit"])
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def talk_on() -> None:
            client.tls().reply()
            with contextlib.suppress(OSError):
                while True:
                    client.send(b"HELP\r\n" * 10_000)

        talking = asyncio.create_task(asyncio.to_thread(talk_on))
        listener = served.box.app.listener
        await served.box.until(lambda: any(one.writing_paused for one in listener.connections))
        (connection,) = listener.connections
        served.box.pass_time(10_000)  # idle: 421, which can't be said
        assert connection.server.closed
        for _ in range(3):
            served.box.pass_time(10.5)
            await asyncio.sleep(0)
        await served.nobody()
        await talking
        client.sock.close()

    serve(tmp_path, act, certificate, smtp={"commands": 1_000_000_000})


# -- AUTH: what the connection makes of the listener's answers ---------------------------------------------------------


class FakeAuth:
    """One user, `me`, in the place of the authenticator."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.waiting: list[Any] = []
        self.at_once = True

    def offer(self, listener: Any, tls: bool, loopback: bool) -> bytes | None:
        self.calls.append(("offer", tls, loopback))
        return b"PLAIN LOGIN" if tls else None

    def begin(self, connection: Any, mechanism: bytes, octets: bytes | None) -> None:
        if octets is None:
            connection.auth_challenge(b"Go on")
        elif self.at_once:
            self._judge(connection, octets)
        else:
            self.waiting.append((connection, octets))

    def go_on(self, connection: Any, octets: bytes) -> None:
        self._judge(connection, octets)

    def judge_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for connection, octets in waiting:
            self._judge(connection, octets)

    def _judge(self, connection: Any, octets: bytes) -> None:
        if octets != b"me":
            connection.auth_done(None, b"535 5.7.8 Wrong\r\n")
            return
        login = SimpleNamespace(name=b"me", mail=Assignment(campaign="of-me"), verify_sender=self._verify)
        connection.auth_done(login, b"235 2.7.0 Ok\r\n")

    def _verify(self, sender: bytes) -> bytes | None:
        return None if sender.endswith(b"@a.test") else b"550 5.7.1 Not your address\r\n"

    def cancel(self, connection: Any) -> None:
        self.calls.append("cancel")

    def forget(self, connection: Any) -> None:
        self.calls.append("forget")

    def configure(self) -> None: ...

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...


def with_fake_auth(served: Served) -> FakeAuth:
    fake = FakeAuth()
    served.box.app.listener.auth = fake  # type: ignore[assignment]
    return fake


def test_a_user_over_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    def talk(client: RawClient) -> None:
        client.reply()
        assert "AUTH" not in client.say(b"EHLO client.test")
        assert client.say(b"AUTH PLAIN bWU=").startswith("538 5.7.11")
        assert client.say(b"MAIL FROM:<news@a.test>").startswith("530 5.7.0 STARTTLS first")
        client.say(b"STARTTLS")
        client.tls()
        assert "250-AUTH PLAIN LOGIN" in client.say(b"EHLO client.test")
        assert client.say(b"MAIL FROM:<news@a.test>").startswith("530 5.7.0 Authentication")
        assert client.says(b"AUTH LOGIN", b"*") == ["334 R28gb24=", "501 5.7.0 Authentication cancelled"]
        assert client.say(b"AUTH PLAIN eW91").startswith("535 5.7.8")
        assert client.says(b"AUTH PLAIN", b"bWU=") == ["334 R28gb24=", "235 2.7.0 Ok"]
        assert client.say(b"MAIL FROM:<news@b.test>").startswith("550 5.7.1 Not your address")
        assert client.message(BODY).startswith("250 2.0.0")

    async def act(served: Served) -> None:
        fake = with_fake_auth(served)
        served.box.app.listener._may_relay_cache.clear()
        served.box.app.listener._networks = []  # nobody may relay by address
        await served.client(talk, "required")
        await served.box.until(lambda: served.mx.accepted)
        assert b"with ESMTPSA id" in served.mx.accepted[0][1]
        (event,) = served.accepted()
        assert (event["user"], event["tls"], event["campaign"]) == ("me", "TLSv1.3", "of-me")
        await served.nobody()
        assert fake.calls == [("offer", False, True), ("offer", True, True), "cancel", "forget"]

    serve(tmp_path, act, certificate)


def test_an_answer_that_comes_later(tmp_path: Path, certificate: dict[str, str]) -> None:
    """What the client says meanwhile is held back; a client that went hears nothing, and nothing breaks."""

    def talk(client: RawClient) -> list[str]:
        client.tls().reply()
        client.say(b"EHLO client.test")
        client.send(b"AUTH PLAIN bWU=\r\nMAIL FROM:<news@a.test>\r\n")
        return [client.reply(), client.reply()]

    def leave(client: RawClient) -> None:
        client.tls().reply()
        client.say(b"EHLO client.test")
        client.send(b"AUTH PLAIN bWU=\r\n")
        client.sock.close()

    async def act(served: Served) -> None:
        fake = with_fake_auth(served)
        fake.at_once = False
        talking = asyncio.create_task(served.client(talk, "implicit"))
        await served.box.until(lambda: fake.waiting)
        await served.box.until(lambda: next(iter(served.box.app.listener.connections)).server.backlog)
        fake.judge_all()
        assert await talking == ["235 2.7.0 Ok", "250 2.1.0 Ok"]
        await served.nobody()
        await served.client(leave, "implicit")
        await served.box.until(lambda: fake.waiting)
        await served.nobody()
        fake.judge_all()
        assert fake.calls.count("forget") == 2

    serve(tmp_path, act, certificate, auth={"users": str(tmp_path / "users")})


def test_a_certificate_that_is_taken_away(tmp_path: Path, certificate: dict[str, str]) -> None:
    """Who was told of STARTTLS hears 454; who comes later is not told."""

    async def act(served: Served) -> None:
        def begin(client: RawClient) -> str:
            client.reply()
            return client.say(b"EHLO client.test")

        early = await asyncio.to_thread(RawClient, served.binds["starttls"])
        assert "STARTTLS" in await asyncio.to_thread(begin, early)
        config = served.box.config
        served.box.app.reload(msgspec.structs.replace(config, tls=type(config.tls)()))
        assert (await asyncio.to_thread(early.say, b"STARTTLS")).startswith("454 4.7.0")
        assert "STARTTLS" not in await served.client(begin)
        early.sock.close()

    serve(tmp_path, act, certificate)


def test_a_fault_of_ours_ends_one_connection(
    tmp_path: Path, certificate: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def talk(client: RawClient) -> str:
        client.tls().reply()
        client.say(b"EHLO client.test")
        return client.say(b"AUTH PLAIN bWU=")

    async def act(served: Served) -> None:
        fake = with_fake_auth(served)
        fake.begin = lambda *rest: 1 // 0  # type: ignore[assignment]
        other = await asyncio.to_thread(RawClient, served.binds["starttls"])
        assert await served.client(talk, "implicit") == ""
        assert (await asyncio.to_thread(other.reply)).startswith("220")
        assert (await asyncio.to_thread(other.say, b"NOOP")).startswith("250")
        other.sock.close()
        await served.nobody()
        assert "please report this" in caplog.text
        caplog.clear()

    serve(tmp_path, act, certificate, auth={"users": str(tmp_path / "users")})


def test_clients_of_every_end_leave_nothing_behind(tmp_path: Path, certificate: dict[str, str]) -> None:
    """Descriptors and objects, after connections that ended in every way."""

    def ends(client: RawClient, kind: str, end: int) -> None:
        if kind == "starttls":
            client.reply()
            client.say(b"EHLO client.test")
            client.send(b"STARTTLS\r\n")
            if end == 0:
                return
            client.reply()
        if end == 1:
            client.send(b"\x16\x03\x01")
            return
        if end == 2:
            client.send(b"NOOP\r\n")
            client.rest()
            return
        client.tls()
        if kind == "implicit":
            client.reply()
        client.say(b"EHLO client.test")
        if end == 4:
            client.sock.unwrap()  # type: ignore[attr-defined]
        if end == 5:
            client.say(b"QUIT")
        if end == 6:
            client.message(BODY)

    async def act(served: Served) -> None:
        def left() -> tuple[int, int]:
            gc.collect()
            kinds = ("Connection", "SSLProtocol", "SmtpServer")
            return len(os.listdir("/proc/self/fd")), sum(type(one).__name__ in kinds for one in gc.get_objects())

        async def rounds(number: int) -> None:
            for _ in range(number):
                for kind in ("starttls", "implicit"):
                    for end in range(7):
                        await served.client(lambda client, k=kind, e=end: ends(client, k, e), kind)
            await served.nobody()
            await served.box.settled()
            await served.box.hang_up()

        await rounds(2)
        descriptors, objects = left()
        await rounds(6)
        await served.box.until(lambda: left()[0] <= descriptors and left()[1] <= objects)

    serve(tmp_path, act, certificate)
