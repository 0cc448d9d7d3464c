"""The simulated DNS server, asked by dnspython over real sockets."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import pytest

from fastrelay.sim.dns import DnsServer, Responder, Zone, canonical


def zone() -> Zone:
    made = Zone(ttl=120)
    made.mx("a.example", [(10, "mx1.a.example"), (20, "mx2.a.example")])
    made.address("mx1.a.example", "127.0.0.9", "::1")
    made.address("mx2.a.example", "127.0.0.10")
    made.null_mx("null.example")
    made.cname("www.a.example", "mx1.a.example")
    made.add("deep.below.b.example", "TXT", '"x"')
    return made


def run(ask: Callable[[DnsServer], Awaitable[None]], served: Zone) -> None:
    async def with_server() -> None:
        async with DnsServer(served) as server:
            await ask(server)

    asyncio.run(with_server())


async def udp(server: DnsServer, name: str, rdtype: str, timeout: float = 5.0) -> dns.message.Message:
    return await dns.asyncquery.udp(dns.message.make_query(name, rdtype), server.host, timeout, server.port)


async def tcp(server: DnsServer, name: str, rdtype: str) -> dns.message.Message:
    return await dns.asyncquery.tcp(dns.message.make_query(name, rdtype), server.host, 5.0, server.port)


def texts(message: dns.message.Message) -> set[str]:
    return {record.to_text() for rrset in message.answer for record in rrset}


def test_records_come_over_udp_and_tcp() -> None:
    async def ask(server: DnsServer) -> None:
        for query in (udp, tcp):
            answer = await query(server, "a.example", "MX")
            assert answer.rcode() == dns.rcode.NOERROR
            assert texts(answer) == {"10 mx1.a.example.", "20 mx2.a.example."}
            assert answer.answer[0].ttl == 120
        assert texts(await udp(server, "MX1.a.Example", "AAAA")) == {"::1"}
        assert server.asked("a.example", "MX") == 2

    run(ask, zone())


def test_alias_is_followed() -> None:
    async def ask(server: DnsServer) -> None:
        answer = await udp(server, "www.a.example", "A")
        assert texts(answer) == {"mx1.a.example.", "127.0.0.9"}

    run(ask, zone())


def test_nodata_and_nxdomain_differ_and_carry_an_soa() -> None:
    async def ask(server: DnsServer) -> None:
        nodata = await udp(server, "mx1.a.example", "MX")
        assert nodata.rcode() == dns.rcode.NOERROR
        assert not nodata.answer
        above = await udp(server, "below.b.example", "A")
        assert above.rcode() == dns.rcode.NOERROR
        nothing = await udp(server, "no.such.example", "MX")
        assert nothing.rcode() == dns.rcode.NXDOMAIN
        assert nodata.authority[0].rdtype == nothing.authority[0].rdtype == dns.rdatatype.SOA

    run(ask, zone())


def test_null_mx() -> None:
    async def ask(server: DnsServer) -> None:
        assert texts(await udp(server, "null.example", "MX")) == {"0 ."}

    run(ask, zone())


def test_a_change_of_the_zone_is_seen_at_once() -> None:
    made = zone()

    async def ask(server: DnsServer) -> None:
        assert texts(await udp(server, "mx2.a.example", "A")) == {"127.0.0.10"}
        made.clear("mx2.a.example")
        made.address("mx2.a.example", "127.0.0.99")
        assert texts(await udp(server, "mx2.a.example", "A")) == {"127.0.0.99"}

    run(ask, made)


@pytest.mark.parametrize("kind", ["servfail", "refused", "nxdomain"])
def test_scripted_code_for_the_first_queries_only(kind: str) -> None:
    made = zone()
    made.script("a.example", kind, "MX", times=2)

    async def ask(server: DnsServer) -> None:
        codes = [(await udp(server, "a.example", "MX")).rcode() for _ in range(3)]
        assert codes == [dns.rcode.from_text(kind), dns.rcode.from_text(kind), dns.rcode.NOERROR]

    run(ask, made)


def test_truncated_over_udp_whole_over_tcp() -> None:
    made = zone()
    made.script("a.example", "truncated")

    async def ask(server: DnsServer) -> None:
        cut = await dns.asyncquery.udp(
            dns.message.make_query("a.example", "MX"), server.host, 5.0, server.port, raise_on_truncation=False
        )
        assert cut.flags & dns.flags.TC
        assert not cut.answer
        assert len(texts(await tcp(server, "a.example", "MX"))) == 2

    run(ask, made)


def test_unanswered_and_garbage_and_wrong_id() -> None:
    made = zone()
    made.script("silent.example", "timeout")
    made.script("garbage.example", "garbage")
    made.script("spoof.example", "wrong_id")
    responder = Responder(made)
    query = dns.message.make_query("silent.example", "MX")
    assert responder.respond(query.to_wire(), over_tcp=False) is None
    query = dns.message.make_query("garbage.example", "MX")
    garbage = responder.respond(query.to_wire(), over_tcp=False)
    assert garbage is not None
    with pytest.raises(dns.exception.DNSException):
        dns.message.from_wire(garbage.wire)
    query = dns.message.make_query("spoof.example", "MX")
    spoofed = responder.respond(query.to_wire(), over_tcp=False)
    assert spoofed is not None
    assert dns.message.from_wire(spoofed.wire).id != query.id


def test_late_answer_is_marked_with_its_delay() -> None:
    made = zone()
    made.script("a.example", "late", "MX", delay=7.0)
    reply = Responder(made).respond(dns.message.make_query("a.example", "MX").to_wire(), over_tcp=False)
    assert reply is not None
    assert reply.delay == 7.0
    assert len(texts(dns.message.from_wire(reply.wire))) == 2


@pytest.mark.parametrize(
    "octets", [b"", b"\x00", b"\x00" * 12, b"\xff" * 40, b"\x12\x34\x01\x00\x00\x01" + b"\x00" * 6]
)
def test_malformed_queries_are_ignored(octets: bytes) -> None:
    assert Responder(zone()).respond(octets, over_tcp=False) is None


def test_remembered_answers_keep_the_id_of_each_query() -> None:
    responder = Responder(zone())
    query = dns.message.make_query("a.example", "MX")
    first = responder.respond(query.to_wire(), over_tcp=False)
    query.id ^= 0xFFFF
    second = responder.respond(query.to_wire(), over_tcp=False)
    assert first is not None
    assert second is not None
    assert first.wire[2:] == second.wire[2:]
    assert dns.message.from_wire(second.wire).id == query.id
    assert responder.queries["a.example", "MX"] == 2


def test_unknown_script_is_refused() -> None:
    with pytest.raises(ValueError, match="no such DNS script"):
        Zone().script("a.example", "explode")


def test_names_in_any_spelling() -> None:
    assert canonical("A.Example.") == "a.example"
    assert canonical("köln.example") == "xn--kln-sna.example"


def test_port_is_free_again_after_stop() -> None:
    async def start_and_stop() -> int:
        server = DnsServer(zone())
        await server.start()
        await server.stop()
        return server.port

    port = asyncio.run(start_and_stop())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", port))
