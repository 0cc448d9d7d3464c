"""The resolver against a nameserver that misbehaves: a scripted UDP and TCP server on loopback, in the test's own loop.

Deadlines are tested with a short timeout that the server lets pass; no assertion looks at a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop

from fastrelay.route.resolver import (
    MAX_ALIASES,
    MAX_FORGED,
    MAX_RECORDS,
    Answer,
    Nameserver,
    Resolver,
    system_nameservers,
)

pytestmark = pytest.mark.interop

Reply = Callable[[dns.message.Message, "ScriptedServer", Any], bytes | None]


class ScriptedServer(asyncio.DatagramProtocol):
    """Answers UDP by `script[n]` for the n-th query (the last one repeats), TCP by `tcp_reply`. Keeps the queries."""

    def __init__(self, *script: Reply, tcp_reply: Reply | None = None) -> None:
        self.script = script
        self.tcp_reply = tcp_reply
        self.queries: list[dns.message.Message] = []
        self.tcp_queries = 0
        self.transport: Any = None
        self.address = ""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        reply = self.script[min(len(self.queries), len(self.script) - 1)]
        self.queries.append(query)
        wire = reply(query, self, addr)
        if wire is not None:
            self.transport.sendto(wire, addr)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        query = dns.message.from_wire(await reader.readexactly(length))
        self.tcp_queries += 1
        assert self.tcp_reply is not None
        wire = self.tcp_reply(query, self, None)
        if wire is not None:
            writer.write(struct.pack("!H", len(wire)) + wire)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(server: ScriptedServer, address: str = "127.0.0.1") -> AsyncIterator[ScriptedServer]:
    """Runs the server on a port that is free for UDP and TCP."""
    loop = asyncio.get_running_loop()
    tcp = await asyncio.start_server(server.serve_tcp, address, 0)
    port = tcp.sockets[0].getsockname()[1]
    udp, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(address, port))
    server.address = f"{address}:{port}" if "." in address else f"[{address}]:{port}"
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()


def answer(*records: str, rcode: int = dns.rcode.NOERROR, flags: int = dns.flags.RA, **header: Any) -> Reply:
    """A proper answer: records in zone file form without TTL and class, "MX 10 a.test."; header: id, question."""

    def reply(query: dns.message.Message, server: ScriptedServer, addr: Any) -> bytes:
        response = dns.message.make_response(query)
        response.flags |= flags
        response.set_rcode(rcode)
        by_type: dict[tuple[str, str], list[str]] = {}
        for record in records:
            owner, rdtype, rest = ("@ " + record).split(" ", 2) if record.split()[0].isupper() else record.split(" ", 2)
            by_type.setdefault((str(query.question[0].name) if owner == "@" else owner, rdtype), []).append(rest)
        for (owner, rdtype), texts in by_type.items():
            response.answer.append(dns.rrset.from_text_list(owner, 300, "IN", rdtype, texts))
        if "id" in header:
            response.id = (query.id + header["id"]) & 0xFFFF
        if "question" in header:
            response.question = [dns.rrset.from_text(header["question"], 0, "IN", "MX")]
        return response.to_wire(max_size=65535)

    return reply


def failing(rcode: int) -> Reply:
    return answer(rcode=rcode)


def silent(query: dns.message.Message, server: ScriptedServer, addr: Any) -> None:
    return None


def garbage(query: dns.message.Message, server: ScriptedServer, addr: Any) -> bytes:
    return query.id.to_bytes(2, "big") + b"\x80\x00" + b"\xff" * 40


def truncated(query: dns.message.Message, server: ScriptedServer, addr: Any) -> bytes:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


def after(*bad: Reply, good: Reply) -> Reply:
    """Sends every bad answer, then the good one."""

    def reply(query: dns.message.Message, server: ScriptedServer, addr: Any) -> bytes | None:
        for one in bad:
            wire = one(query, server, addr)
            if wire is not None:
                server.transport.sendto(wire, addr)
        return good(query, server, addr)

    return reply


GOOD = answer("MX 10 a.test.")
EVIL = answer("MX 1 evil.test.")
RECORDS = ((10, "a.test"),)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on either loop."""
    return uvloop.run if request.param == "uvloop" else asyncio.run


def ask(run: Any, server: ScriptedServer, *, rdtype: str = "MX", **settings: Any) -> tuple[Answer, Resolver]:
    """One query to one server."""

    async def scenario() -> tuple[Answer, Resolver]:
        async with serving(server):
            resolver = Resolver([server.address], **{"timeout": 5.0, "tries": 3, **settings})
            return await resolver.query("example.com", rdtype), resolver

    result: tuple[Answer, Resolver] = run(scenario())
    return result


def test_an_answer(run: Any) -> None:
    server = ScriptedServer(answer("MX 20 B.Test.", "MX 10 a.test.", "MX 0 .", flags=dns.flags.RA | dns.flags.AD))
    found, resolver = ask(run, server)
    assert found == Answer("ok", ((0, "."), (10, "a.test"), (20, "b.test")), 300, True)
    assert resolver.stats.queries == resolver.stats.answers == 1
    assert len(resolver.stats.drain_latencies()) == 1
    assert resolver.stats.drain_latencies() == []
    query = server.queries[0]
    assert query.flags & dns.flags.RD
    assert query.flags & dns.flags.AD
    assert (query.edns, query.payload) == (0, 1232)


def test_addresses(run: Any) -> None:
    assert ask(run, ScriptedServer(answer("A 192.0.2.1")), rdtype="A")[0].records == ("192.0.2.1",)
    assert ask(run, ScriptedServer(answer("AAAA 2001:db8::1")), rdtype="AAAA")[0].records == ("2001:db8::1",)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.YXDOMAIN])
def test_servfail_and_its_like_are_temporary(run: Any, rcode: int) -> None:
    server = ScriptedServer(failing(rcode))
    found, resolver = ask(run, server)
    assert found.status == "temporary"
    assert dns.rcode.to_text(dns.rcode.Rcode.make(rcode)) in found.detail
    assert server.address in found.detail
    assert len(server.queries) == 3
    assert resolver.stats.servfail == 3


def test_servfail_then_an_answer(run: Any) -> None:
    found, _ = ask(run, ScriptedServer(failing(dns.rcode.SERVFAIL), GOOD))
    assert found.records == RECORDS


def test_nxdomain_is_no_failure(run: Any) -> None:
    server = ScriptedServer(failing(dns.rcode.NXDOMAIN))
    assert ask(run, server)[0].status == "nxdomain"
    assert len(server.queries) == 1


def test_silence_is_a_timeout(run: Any) -> None:
    server = ScriptedServer(silent)
    found, resolver = ask(run, server, timeout=0.05, tries=2)
    assert found.status == "temporary"
    assert "does not answer within 0.05 s" in found.detail
    assert len(server.queries) == resolver.stats.timeouts == 2


def test_a_lost_packet_is_asked_for_again(run: Any) -> None:
    assert ask(run, ScriptedServer(silent, GOOD), timeout=0.5)[0].records == RECORDS


def test_a_dead_nameserver_is_known_at_once(run: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    resolver = Resolver([f"127.0.0.1:{port}"], timeout=200.0, tries=2)  # the port refuses, nobody waits 200 s
    found = run(resolver.query("example.com", "MX"))
    assert found.status == "temporary"
    assert "cannot be reached" in found.detail
    assert resolver.stats.network_errors == 2


def test_the_next_nameserver_is_asked_and_then_preferred(run: Any) -> None:
    async def scenario() -> tuple[list[str], int, int]:
        async with serving(ScriptedServer(failing(dns.rcode.SERVFAIL))) as bad, serving(ScriptedServer(GOOD)) as good:
            resolver = Resolver([bad.address, good.address], timeout=5.0, tries=2)
            found = [(await resolver.query("example.com", "MX")).status for _ in range(3)]
            return found, len(bad.queries), len(good.queries)

    assert run(scenario()) == (["ok", "ok", "ok"], 1, 3)


def test_truncated_goes_over_tcp(run: Any) -> None:
    many = answer(*(f"MX {number} mx{number}.test." for number in range(400)))
    found, resolver = ask(run, ScriptedServer(truncated, tcp_reply=many))
    assert len(found.records) == MAX_RECORDS  # bounded, the best ones
    assert found.records[0] == (0, "mx0.test")
    assert found.records[-1] == (MAX_RECORDS - 1, f"mx{MAX_RECORDS - 1}.test")
    assert resolver.stats.tcp == 1


@pytest.mark.parametrize(
    "tcp_reply",
    [
        lambda query, server, addr: None,  # closes without a word
        lambda query, server, addr: b"\x00" * 5,
        answer("MX 1 evil.test.", id=1),
        answer("MX 1 evil.test.", question="other.test."),
    ],
)
def test_trouble_over_tcp_is_temporary(run: Any, tcp_reply: Reply) -> None:
    found, resolver = ask(run, ScriptedServer(truncated, tcp_reply=tcp_reply), tries=2)
    assert found.status == "temporary"
    assert "cannot be read" in found.detail
    assert resolver.stats.tcp == 2


def test_a_wrong_id_is_not_taken(run: Any) -> None:
    wrong = answer("MX 1 evil.test.", id=1)
    found, resolver = ask(run, ScriptedServer(after(wrong, wrong, good=GOOD)))
    assert found.records == RECORDS
    assert resolver.stats.forged == 2


def test_an_answer_to_another_question_is_not_taken(run: Any) -> None:
    wrong = answer("MX 1 evil.test.", question="other.test.")
    found, resolver = ask(run, ScriptedServer(after(wrong, garbage, good=GOOD)))
    assert found.records == RECORDS
    assert resolver.stats.forged == 2


def test_guessing_drives_the_query_to_tcp(run: Any) -> None:
    wrong = answer("MX 1 evil.test.", id=1)
    server = ScriptedServer(after(*[wrong] * (MAX_FORGED - 1), good=wrong), tcp_reply=GOOD)
    found, resolver = ask(run, server)
    assert found.records == RECORDS
    assert (resolver.stats.tcp, resolver.stats.forged) == (1, MAX_FORGED)


def test_an_answer_from_elsewhere_is_not_taken(run: Any) -> None:
    def from_elsewhere(query: dns.message.Message, server: ScriptedServer, addr: Any) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.sendto(EVIL(query, server, addr) or b"", addr)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other_port:
            other_port.bind(("127.0.0.1", 0))
            other_port.sendto(EVIL(query, server, addr) or b"", addr)
        wire = GOOD(query, server, addr)
        assert wire is not None
        return wire

    found, _ = ask(run, ScriptedServer(from_elsewhere))
    assert found.records == RECORDS


def test_garbage_is_temporary(run: Any) -> None:
    found, _ = ask(run, ScriptedServer(garbage), timeout=0.05, tries=1)
    assert found.status == "temporary"


def test_a_server_without_edns(run: Any) -> None:
    server = ScriptedServer(failing(dns.rcode.FORMERR), GOOD)
    assert ask(run, server)[0].records == RECORDS
    assert [query.edns for query in server.queries] == [0, -1]


def test_a_referral_is_no_answer(run: Any) -> None:
    """A server that does not recurse must not look like "no such record", which would fail mail for good."""
    server = ScriptedServer(answer(flags=0))
    found, _ = ask(run, server)
    assert found.status == "temporary"
    assert "does not recurse" in found.detail
    assert ask(run, ScriptedServer(answer(flags=dns.flags.AA)))[0].status == "nodata"


def test_aliases_are_followed_also_when_the_server_did_not(run: Any) -> None:
    server = ScriptedServer(answer("CNAME real.test."), answer("CNAME more.test."), GOOD)
    assert ask(run, server)[0].records == RECORDS
    asked = [str(query.question[0].name) for query in server.queries]
    assert asked == ["example.com.", "real.test.", "more.test."]
    whole = ScriptedServer(answer("CNAME real.test.", "real.test. MX 10 a.test."))
    assert ask(run, whole)[0].records == RECORDS
    assert len(whole.queries) == 1


def test_a_loop_of_aliases_ends(run: Any) -> None:
    found, _ = ask(run, ScriptedServer(answer("CNAME example.com.")))
    assert found.status == "temporary"
    assert "aliases" in found.detail


def test_endless_aliases_end(run: Any) -> None:
    server = ScriptedServer(*(answer(f"CNAME alias{number}.test.") for number in range(100)))
    found, _ = ask(run, server)
    assert found.status == "temporary"
    assert "aliases" in found.detail
    assert len(server.queries) == MAX_ALIASES + 1


def test_strange_exchange_names_come_through_as_text(run: Any) -> None:
    found, _ = ask(run, ScriptedServer(answer("MX 1 a\\032b.test.", "MX 2 \\195\\188.test.", "MX 3 x\\.y.test.")))
    assert [exchange for _, exchange in found.records] == ["a\\032b.test", "\\195\\188.test", "x\\.y.test"]


def test_concurrency_and_waiting_are_bounded(run: Any) -> None:
    server = ScriptedServer(silent)

    async def scenario() -> list[Answer]:
        async with serving(server):
            resolver = Resolver([server.address], timeout=0.2, tries=1, max_concurrent=2, max_waiting=3)
            asked = [asyncio.ensure_future(resolver.query(f"d{number}.test", "MX")) for number in range(5)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result().detail.split()[0] for task in done} == {"3"}
            assert resolver.stats.refused_full == 2
            assert resolver.stats.queries <= 2
            answers: list[Answer] = await asyncio.gather(*asked)
            assert resolver.waiting == 0
            return answers

    assert [one.status for one in run(scenario())] == ["temporary"] * 5


def test_a_cancelled_query_leaves_nothing_behind(run: Any) -> None:
    async def scenario() -> None:
        async with serving(ScriptedServer(silent, GOOD)) as server:
            resolver = Resolver([server.address], timeout=60.0, max_concurrent=1)
            task = asyncio.ensure_future(resolver.query("example.com", "MX"))
            while not server.queries:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert resolver.waiting == 0
            assert (await resolver.query("example.com", "MX")).status == "ok"

    run(scenario())


def test_ipv6(run: Any) -> None:
    async def scenario() -> Answer:
        async with serving(ScriptedServer(truncated, tcp_reply=GOOD), "::1") as server:
            return await Resolver([server.address]).query("example.com", "MX")

    assert run(scenario()).records == RECORDS


def test_names_that_cannot_be_asked_for(run: Any) -> None:
    async def scenario() -> list[Awaitable[Answer] | Answer]:
        resolver = Resolver(["127.0.0.1:1"])
        return [await resolver.query(name, "MX") for name in ("x" * 64 + ".test", "a..b", ".".join(["x" * 60] * 6))]

    assert [one.status for one in run(scenario())] == ["nxdomain"] * 3


def test_nameservers_from_resolv_conf(tmp_path: Any) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# comment\nsearch a.test\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\nnameserver\noptions x\n"
    )
    assert system_nameservers(str(path)) == ["192.0.2.53", "2001:db8::53"]
    assert system_nameservers(str(tmp_path / "missing")) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.53", "192.0.2.53:53"),
        ("192.0.2.53:5353", "192.0.2.53:5353"),
        ("2001:db8::53", "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ("[2001:db8::53]", "[2001:db8::53]:53"),
    ],
)
def test_nameserver_spellings(text: str, name: str) -> None:
    assert Nameserver(text).name == name


@pytest.mark.parametrize("text", ["", "ns.example.com", "192.0.2.53:x", "192.0.2.53:99999", "[::1", "300.0.0.1"])
def test_nameservers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        Nameserver(text)
