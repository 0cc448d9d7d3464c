"""The PROXY protocol: headers of both versions however they arrive, and who a connection then is."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from support.net import free_endpoint
from support.raw_client import RawClient
from support.worker import Mx, WorkerBox, run

from fastrelay.ingest import proxy
from fastrelay.ingest.proxy import LONGEST_V1, LONGEST_V2, SIGNATURE, ProxyFault, ProxyHeader

BODY = b"Subject: x\r\n\r\nhello\r\n"


def v1(client: str, server: str = "192.0.2.2", version: int = 4, port: int = 4321) -> bytes:
    return f"PROXY TCP{version} {client} {server} {port} 25\r\n".encode()


def v2(client: str = "", tlvs: bytes = b"", command: int = 1, family: int | None = None) -> bytes:
    block = b""
    if client:
        address = ipaddress.ip_address(client)
        other = ipaddress.ip_address("192.0.2.2" if address.version == 4 else "2001:db8::2")
        block = address.packed + other.packed + struct.pack(">HH", 4321, 25)
        family = family if family is not None else 0x11 if address.version == 4 else 0x21
    block += tlvs
    return SIGNATURE + bytes([0x20 | command, family or 0]) + struct.pack(">H", len(block)) + block


def read(octets: bytes, cuts: list[int] | None = None) -> tuple[str | None, int]:
    """(client, octets used) of a header that arrives in pieces, each seen with all that came before it unread."""
    header, used = ProxyHeader(), 0
    for end in [*(cuts or []), len(octets)]:
        while used < end and not header.done:
            used += header.feed(octets[used:end])
    assert header.done, "it is not complete"
    return header.client, used


SOUND = [
    (v1("198.51.100.7"), "198.51.100.7"),
    (v1("2001:db8::7", "2001:db8::2", 6), "2001:db8::7"),
    (v1("::ffff:198.51.100.7", "::1", 6), "198.51.100.7"),
    (v1("255.255.255.255", "255.255.255.255", port=65535), "255.255.255.255"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (v2("198.51.100.7"), "198.51.100.7"),
    (v2("2001:db8::7"), "2001:db8::7"),
    (v2("::ffff:198.51.100.7"), "198.51.100.7"),
    (v2("198.51.100.7", tlvs=b"\x04\x01\x00" + b"\0" * 256), "198.51.100.7"),
    (v2("198.51.100.7", tlvs=b"\0" * (LONGEST_V2 - 28)), "198.51.100.7"),
    (v2("198.51.100.7", command=0), None),  # LOCAL: the balancer's own
    (v2(command=0), None),
    (v2(command=1, family=0), None),
    (v2(command=1, family=0x31, tlvs=b"\0" * 216), None),  # a Unix socket
]
BEHIND = [b"", b"\x16\x03\x01\x02\x00", b"EHLO x\r\n", b"\r\n", b"\0", SIGNATURE]


@pytest.mark.parametrize(("header", "client"), SOUND)
def test_sound_headers_cut_anywhere(header: bytes, client: str | None) -> None:
    """The client, and not an octet of what is behind."""
    for behind in BEHIND:
        octets = header + behind
        assert read(octets) == (client, len(header))
        assert read(octets, list(range(1, len(octets)))) == (client, len(header))
        for cut in range(1, min(len(octets), 130)):
            assert read(octets, [cut]) == (client, len(header))


def oversize() -> bytes:
    return SIGNATURE + b"\x21\x11" + struct.pack(">H", LONGEST_V2 - 15)


UNSOUND = {
    "SMTP": b"EHLO client.example\r\n",
    "TLS": b"\x16\x03\x01",
    "another word": b"PROXZ",
    "no space": b"PROXYTCP4",
    "small letters": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "another protocol": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "bare LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    "two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "a space at the end": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "too few words": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "too many words": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "no such address": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "an address with zeros": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    "the wrong family": b"PROXY TCP4 2001:db8::1 1.2.3.4 1 2\r\n",
    "the other family": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "a scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "no such port": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "a port with zeros": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "a signed port": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "an empty line": b"PROXY \r\n",
    "too long": b"PROXY UNKNOWN " + b"x" * (LONGEST_V1 - 14 - 1) + b"\r\n",
    "endless": b"PROXY UNKNOWN " + b"x" * 1000,
    "no signature": b"\r\n\r\n\0\r\nQUIX",
    "version 1 in binary": SIGNATURE + b"\x11\x11\0\x0c" + b"\0" * 12,
    "a command of nobody": SIGNATURE + b"\x22\x11\0\x0c" + b"\0" * 12,
    "UDP": SIGNATURE + b"\x21\x12\0\x0c" + b"\0" * 12,
    "a family of nobody": SIGNATURE + b"\x21\x41\0\x0c" + b"\0" * 12,
    "too short": SIGNATURE + b"\x21\x11\0\x0b" + b"\0" * 11,
    "too short for IPv6": SIGNATURE + b"\x21\x21\0\x0c" + b"\0" * 12,
    "too large": oversize(),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_headers_cut_anywhere(name: str) -> None:
    octets = UNSOUND[name]
    for cuts in ([], list(range(1, len(octets))), *([cut] for cut in range(1, min(len(octets), 130)))):
        with pytest.raises(ProxyFault):
            read(octets, cuts)


def test_the_longest_line() -> None:
    line = b"PROXY UNKNOWN " + b"x" * (LONGEST_V1 - 16) + b"\r\n"
    assert len(line) == LONGEST_V1
    assert read(line) == (None, LONGEST_V1)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda more: b"PROXY TCP4 " + more),
        st.binary(max_size=60).map(lambda more: SIGNATURE + b"\x21" + more),
        st.builds(
            lambda header, at, octet: header[:at] + octet + header[at + 1 :],
            st.sampled_from([header for header, _ in SOUND]),
            st.integers(0, 300),
            st.binary(min_size=1, max_size=1),
        ),
    ),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_whatever_comes_seams_change_nothing(octets: bytes, seams: list[int]) -> None:
    """A client, a fault or too little: the same however it is cut, nothing else is raised, and all of it is bounded."""

    def outcome(cuts: list[int]) -> Any:
        header, used = ProxyHeader(), 0
        try:
            for end in [*cuts, len(octets)]:
                while used < end and not header.done:
                    took = header.feed(octets[used:end])
                    assert took > 0
                    used += took
        except ProxyFault:
            return "fault"
        assert len(header._octets) == used <= LONGEST_V2
        return header.done, header.client, used

    cuts = sorted({min(seam, len(octets)) for seam in seams})
    assert outcome(cuts) == outcome([])
    assert outcome(list(range(1, len(octets)))) == outcome([])


# -- on real sockets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(trustme.CA().issue_cert("relay.test").private_key_and_cert_chain_pem.bytes())
    return {"certificate": str(path)}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


BALANCER, STRANGER = "127.99.0.1", "127.99.0.2"


def serve(folder: Path, act: Callable[[WorkerBox, dict[str, str], Mx], Any], certificate: dict[str, str]) -> None:
    """A worker behind balancers at BALANCER; clients in 198.51.100.0/24 may relay, the balancer itself may not."""

    async def work() -> None:
        mx = Mx()
        binds = {kind: free_endpoint() for kind in ("starttls", "implicit")}
        listeners = [
            {"bind": binds["starttls"], "proxy_from": [f"{BALANCER}/32"]},
            {"bind": binds["implicit"], "tls": "implicit", "proxy_from": [f"{BALANCER}/32"]},
        ]
        keys: dict[str, Any] = {"listeners": {"smtp": listeners}, "tls": certificate}
        keys["relay_networks"] = ["198.51.100.0/24", "2001:db8::/32", "127.0.0.0/8"]
        async with WorkerBox(folder / "state", [await mx.start()], **keys) as box:
            await act(box, binds, mx)
            await box.until(lambda: box.app.listener.load == 0)

    run(work)


def refusals(box: WorkerBox) -> dict[str, int]:
    found = {}
    for _, name, labels, value in box.app.meters.slab.entries():
        if name == "fastrelay_smtp_refused_total" and value:
            found[dict(labels)["class"]] = int(value)
    return found


async def ask(bind: str, act: Callable[[RawClient], Any], source: str = BALANCER, first: bytes = b"") -> Any:
    def work() -> Any:
        with RawClient(bind, first, source) as client:
            return act(client)

    return await asyncio.to_thread(work)


@pytest.mark.parametrize("header", [v1("198.51.100.7"), v2("198.51.100.7", tlvs=b"\x04\0\x40" + b"\0" * 64)])
@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@pytest.mark.parametrize("how", ["together", "octets"])
def test_the_client_is_whom_the_balancer_names(
    tmp_path: Path, certificate: dict[str, str], header: bytes, kind: str, how: str
) -> None:
    """In events, in Received, and before relay_networks; TLS follows at once behind the header."""

    def submit(client: RawClient) -> str:
        if how == "octets":
            client.send(*(header[n : n + 1] for n in range(len(header))))
        if kind == "implicit":
            client.tls()
        client.reply()
        client.say(b"EHLO client.test")
        return client.message(BODY)

    async def act(box: WorkerBox, binds: dict[str, str], mx: Mx) -> None:
        reply = await ask(binds[kind], submit, first=header if how == "together" else b"")
        assert reply.startswith("250 2.0.0")
        await box.until(lambda: mx.accepted)
        assert b"client.test ([198.51.100.7])" in mx.accepted[0][1]
        (event,) = [event for event in box.events() if event["event"] == "accepted"]
        assert event["client"] == "198.51.100.7"

    serve(tmp_path, act, certificate)


def test_relaying_is_the_clients_right_not_the_balancers(tmp_path: Path, certificate: dict[str, str]) -> None:
    """The balancer's address is in relay_networks, and that helps nobody."""

    def try_it(client: RawClient) -> str:
        client.reply()
        return client.says(b"EHLO client.test", b"MAIL FROM:<a@a.test>", b"RCPT TO:<b@x.test>")[2]

    async def act(box: WorkerBox, binds: dict[str, str], mx: Mx) -> None:
        for header, expected in [
            (v1("198.51.100.7"), "250"),
            (v2("2001:db8::1"), "250"),
            (v1("203.0.113.1"), "550 5.7.1"),
            (v2("203.0.113.1"), "550 5.7.1"),
            (b"PROXY UNKNOWN\r\n", "550 5.7.1"),
            (v2(command=0), "550 5.7.1"),
            (v2(BALANCER, command=0), "550 5.7.1"),
        ]:
            assert (await ask(binds["starttls"], try_it, first=header)).startswith(expected), header

    serve(tmp_path, act, certificate)


def test_nobody_else_gets_in(tmp_path: Path, certificate: dict[str, str]) -> None:
    async def act(box: WorkerBox, binds: dict[str, str], mx: Mx) -> None:
        for first in (b"", v1("198.51.100.7"), b"EHLO x\r\n"):
            heard = await ask(binds["starttls"], RawClient.rest, source=STRANGER, first=first)
            assert heard in (b"554 5.7.1 This port is for load balancers only\r\n", b"")  # unread octets may reset it
            assert await ask(binds["implicit"], RawClient.rest, source=STRANGER, first=first) == b""
        assert refusals(box) == {"proxy": 6}

    serve(tmp_path, act, certificate)


def test_an_unsound_header_closes(
    tmp_path: Path, certificate: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(box: WorkerBox, binds: dict[str, str], mx: Mx) -> None:
        for first in (b"EHLO x\r\n", b"\x16\x03\x01", UNSOUND["too long"], oversize(), UNSOUND["UDP"]):
            for bind in binds.values():
                assert await ask(bind, RawClient.rest, first=first) == b""
        assert refusals(box) == {"proxy": 10}
        said = [record.getMessage() for record in caplog.records if "load balancer" in record.getMessage()]
        assert len(said) == 1  # not a line for each
        assert f"of the load balancer {BALANCER} was refused: it does not begin with a PROXY header" in said[0]

    serve(tmp_path, act, certificate)


@pytest.mark.parametrize("what", ["incomplete", "gone"])
def test_a_header_that_does_not_come(
    tmp_path: Path, certificate: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy.read_header, "__defaults__", (0.2,))

    async def act(box: WorkerBox, binds: dict[str, str], mx: Mx) -> None:
        if what == "incomplete":
            assert await ask(binds["starttls"], RawClient.rest, first=b"PROXY TCP4 1.2.3") == b""
            assert refusals(box) == {"proxy": 1}
        else:
            await ask(binds["starttls"], lambda client: None, first=b"PROXY TCP4 1.2.3")
            await ask(binds["starttls"], lambda client: None)

    serve(tmp_path, act, certificate)


def test_a_socket_handed_to_another_worker_has_its_header(tmp_path: Path, certificate: dict[str, str]) -> None:
    """Nothing is read before it is known whose the connection is; the header was sent long before."""

    async def work() -> None:
        mx = Mx()
        bind = free_endpoint()
        keys: dict[str, Any] = {
            "listeners": {"smtp": [{"bind": bind, "tls": "implicit", "proxy_from": ["127.0.0.0/8"]}]}
        }
        keys |= {"tls": certificate, "relay_networks": ["198.51.100.0/24"], "slots": 2}
        one = WorkerBox(tmp_path / "state", [await mx.start()], **keys)
        two = WorkerBox(tmp_path / "state", [], clock=one.clock, **keys | {"slot": 1})
        two.app.listener.listen = lambda: []  # type: ignore[method-assign]
        async with one, two:

            def connect() -> RawClient:
                client = RawClient(bind, v2("198.51.100.7"))
                client.tls().reply()
                client.say(b"EHLO client.test")
                return client

            clients = [await asyncio.to_thread(connect) for _ in range(4)]
            assert [one.app.listener.load, two.app.listener.load] == [2, 2]
            for client in clients:
                replies = await asyncio.to_thread(client.says, b"MAIL FROM:<a@a.test>", b"RCPT TO:<b@x.test>")
                assert replies[1].startswith("250")
                client.sock.close()
            await one.until(lambda: one.app.listener.load == two.app.listener.load == 0)

    run(work)


def test_a_reader_in_vain_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled while it waits: the socket is free for others, and nothing of it was read."""

    async def work() -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        task = asyncio.create_task(proxy.read_header(here))
        there.send(b"PROXY TCP4 198.51.100.7 ")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not asyncio.get_running_loop().remove_reader(here.fileno())
        here.close()
        there.close()

    run(work)
