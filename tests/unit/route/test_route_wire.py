"""DNS messages against dnspython, the oracle: proper ones read alike, mangled ones never do harm."""

from __future__ import annotations

import random
import struct
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.route import wire

LABELS = st.one_of(
    st.sampled_from(["a", "b", "Mx1", "example", "x_y", "q-9", "com"]), st.text("abcXYZ019-_", min_size=1, max_size=63)
)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) < 250)
TYPES = st.sampled_from(["MX", "A", "AAAA"])


@st.composite
def responses(draw: st.DrawFn) -> tuple[dns.message.QueryMessage, str, str]:
    """(response, name, type): aliases, records, records of others, an SOA, EDNS, in any order."""
    name, rdtype = draw(NAMES), draw(TYPES)
    query = dns.message.make_query(name, rdtype, use_edns=draw(st.sampled_from([0, False])))
    response = dns.message.make_response(query)
    response.flags |= draw(st.sampled_from([0, dns.flags.AA, dns.flags.RA | dns.flags.AD]))
    owner = name
    seen = {dns.name.from_text(name)}
    for target in draw(st.lists(NAMES, max_size=3)):
        if dns.name.from_text(target) in seen:
            continue
        seen.add(dns.name.from_text(target))
        ttl = draw(st.integers(0, 2**31 - 1))
        response.answer.append(dns.rrset.from_text(owner + ".", ttl, "IN", "CNAME", target + "."))
        owner = target
    if draw(st.booleans()):
        ttl = draw(st.integers(0, 2**31 - 1))
        response.answer.append(dns.rrset.from_text_list(owner + ".", ttl, "IN", rdtype, draw(records_of(rdtype))))
    elif draw(st.booleans()):
        zone = ".".join(owner.split(".")[draw(st.integers(0, 3)) :]) + "."
        soa = f"ns.{zone} h.{zone} 1 2 3 4 {draw(st.integers(0, 9999))}" if zone != "." else "a. b. 1 2 3 4 77"
        if all(len(text) < 240 for text in soa.split()):
            response.authority.append(dns.rrset.from_text(zone, draw(st.integers(0, 9999)), "IN", "SOA", soa))
        if draw(st.booleans()):
            response.set_rcode(dns.rcode.NXDOMAIN)
    response.answer.append(dns.rrset.from_text("other.unrelated.test.", 5, "IN", "TXT", '"x"'))
    draw(st.randoms()).shuffle(response.answer)
    return response, name, rdtype


def records_of(rdtype: str) -> st.SearchStrategy[list[str]]:
    if rdtype == "A":
        return st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=6, unique=True)
    if rdtype == "AAAA":
        return st.lists(st.ip_addresses(v=6).map(str), min_size=1, max_size=6, unique=True)
    hosts = st.one_of(NAMES.map(lambda name: name + "."), st.just("."), st.just("a\\032\\.b\\255.test."))
    return st.lists(st.builds("{} {}".format, st.integers(0, 65535), hosts), min_size=1, max_size=6, unique=True)


def plain(rrset: Any, rdtype: str) -> list[Any]:
    """The oracle's records in our form."""
    if rdtype == "MX":
        return [(record.preference, record.exchange.to_text(omit_final_dot=True).lower()) for record in rrset]
    return [record.address for record in rrset]


def same(records: tuple[Any, ...], expected: list[Any], rdtype: str) -> bool:
    if rdtype == "AAAA":  # libraries differ in how they spell ::ffff:0:0/96
        import ipaddress

        return [ipaddress.ip_address(one) for one in records] == [ipaddress.ip_address(one) for one in expected]
    return sorted(records) == sorted(set(expected)) if rdtype == "MX" else list(records) == expected


@settings(max_examples=100, deadline=None)
@given(responses())
def test_reads_as_dnspython_does(made: tuple[dns.message.QueryMessage, str, str]) -> None:
    response, name, rdtype = made
    octets = response.to_wire(max_size=65535)
    oracle = dns.message.from_wire(octets)
    assert isinstance(oracle, dns.message.QueryMessage)
    ours = wire.read_response(octets)
    number = int(dns.rdatatype.from_text(rdtype))
    assert wire.answers(ours, wire.name_to_wire(name), number)
    assert not wire.answers(ours, wire.name_to_wire(name), 99)
    assert not wire.answers(ours, wire.name_to_wire("z." + name[:200]), number)
    assert ours.rcode == oracle.rcode()
    assert ours.flags & 0xFFF0 == int(oracle.flags) & 0xFFF0
    chain, expected = wire.follow(ours, wire.name_to_wire(name), number, 8), oracle.resolve_chaining()
    assert chain.name == expected.canonical_name.to_wire().lower()
    assert chain.aliases == len(expected.cnames)
    assert bool(chain.records) == (expected.answer is not None)
    if expected.answer is not None:
        assert chain.ttl == expected.minimum_ttl
        assert same(wire.plain_data(ours, number, chain.records, 100), plain(expected.answer, rdtype), rdtype)
    elif oracle.authority:
        assert chain.ttl == expected.minimum_ttl
    else:
        assert chain.ttl <= 60


@settings(max_examples=100, deadline=None)
@given(responses(), st.randoms(use_true_random=False), st.integers(1, 6))
def test_mangled_octets_do_no_harm(made: Any, rng: random.Random, changes: int) -> None:
    response, name, rdtype = made
    number = int(dns.rdatatype.from_text(rdtype))
    octets = bytearray(response.to_wire(max_size=65535))
    for _ in range(changes):
        octets[rng.randrange(2, len(octets))] = rng.choice([0, 1, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)])
    try:
        ours = wire.read_response(bytes(octets))
        chain = wire.follow(ours, wire.name_to_wire(name), number, 8)
        wire.plain_data(ours, number, chain.records, 100)
    except wire.WireError:
        return
    assert chain.ttl >= 0


@given(st.binary(max_size=80))
def test_any_octets(octets: bytes) -> None:
    for message in (octets, b"\x00\x00\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00" + octets):
        try:
            wire.read_response(message)
        except wire.WireError:
            pass


@settings(max_examples=25, deadline=None)
@given(responses())
def test_every_prefix_ends_too_early(made: Any) -> None:
    response, _, _ = made
    response.use_edns(False)
    octets = response.to_wire(max_size=65535)
    wire.read_response(octets)
    for end in range(len(octets)):
        with pytest.raises(wire.WireError):
            wire.read_response(octets[:end])


@given(NAMES, st.sampled_from([1, 15, 28]), st.integers(0, 65535), st.sampled_from([0, 1232]))
def test_queries_are_dnspythons(name: str, rdtype: int, message_id: int, payload: int) -> None:
    oracle = dns.message.make_query(
        name.lower(),
        dns.rdatatype.RdataType.make(rdtype),
        use_edns=0 if payload else False,
        payload=payload,
        id=message_id,
    )
    oracle.flags |= dns.flags.AD
    assert wire.make_query(message_id, wire.name_to_wire(name), rdtype, payload) == oracle.to_wire()


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3))
def test_names_are_written_as_dnspython_does(labels: list[bytes]) -> None:
    oracle = dns.name.Name([*(label.lower() for label in labels), b""])
    assert wire.name_to_text(oracle.to_wire()) == oracle.to_text(omit_final_dot=True)


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a.", "x" * 64, ".".join(["x" * 60] * 5), "ü.test"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(wire.WireError):
        wire.name_to_wire(name)


def header(flags: int = wire.QR, questions: int = 0, answer: int = 0, authority: int = 0, additional: int = 0) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, questions, answer, authority, additional)


RECORD = b"\x01a\x00" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\x01\x02\x03\x04"


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "too early"),
        (header(0), "not the response"),
        (header(wire.QR | 0x2800), "not the response"),
        (header(questions=2), "more than one"),
        (header(answer=1) + b"\xc0\x0c", "go back"),  # a pointer to itself
        (header(answer=1) + b"\xc0\x0e\x00\x00", "go back"),
        (header(answer=1) + b"\x40", "kind"),
        (header(answer=1) + b"\x80", "kind"),
        (header(answer=1) + b"\x3f" + b"x" * 10, "too early"),
        (header(answer=1) + (b"\x3f" + b"x" * 63) * 4 + b"\x00", "255"),
        (header(answer=1) + RECORD[:-1], "behind the message"),
        (header(answer=2) + RECORD, "too early"),
        (header(answer=60_000) + RECORD * 10, "2048"),
        (header(additional=1), "too early"),
    ],
)
def test_broken_messages(octets: bytes, why: str) -> None:
    with pytest.raises(wire.WireError, match=why):
        wire.read_response(octets)


def test_chains_of_pointers_are_bounded() -> None:
    pointers = b"".join(struct.pack("!H", 0xC000 | 12 + 2 * max(number - 1, 0)) for number in range(1, 5000))
    octets = header() + b"\x00\x00" + pointers  # each pointer leads to the one before it, the first to the root
    with pytest.raises(wire.WireError, match="go back"):
        wire.read_name(octets, 12 + 2 * 4000)
    assert wire.read_name(octets, 12 + 2 * 100) == (b"\x00", 12 + 2 * 100 + 2)


def response_of(*records: bytes, flags: int = wire.QR, name: bytes = b"\x01a\x00", rdtype: int = 15) -> wire.Response:
    question = name + struct.pack("!HH", rdtype, 1)
    return wire.read_response(header(flags, 1, len(records)) + question + b"".join(records))


def record(rdtype: int, rdata: bytes, ttl: int = 60, rdclass: int = 1) -> bytes:
    return b"\x01a\x00" + struct.pack("!HHIH", rdtype, rdclass, ttl, len(rdata)) + rdata


@pytest.mark.parametrize(
    ("rdtype", "rdata"),
    [
        (15, b""),
        (15, b"\x00\x01"),
        (15, b"\x00\x01\x01b"),
        (15, b"\x00\x01\x01b\x00extra"),
        (1, b"\x01\x02\x03"),
        (1, b"\x01\x02\x03\x04\x05"),
        (28, b"\x01\x02\x03\x04"),
    ],
)
def test_broken_records(rdtype: int, rdata: bytes) -> None:
    response = response_of(record(rdtype, rdata), rdtype=rdtype)
    with pytest.raises(wire.WireError):
        wire.plain_data(response, rdtype, wire.follow(response, b"\x01a\x00", rdtype, 8).records, 100)


def test_broken_alias() -> None:
    with pytest.raises(wire.WireError):
        wire.follow(response_of(record(5, b"\x01b")), b"\x01a\x00", 15, 8)


def test_odd_but_readable() -> None:
    good = record(15, b"\x00\x01\x01B\x00", ttl=0x80000001)
    foreign = record(15, b"\x00\x02\x01c\x00", rdclass=3)
    response = response_of(good, foreign, good)
    chain = wire.follow(response, b"\x01a\x00", 15, 8)
    assert wire.plain_data(response, 15, chain.records, 100) == ((1, "b"),)  # one class, no repeats
    assert chain.ttl == 0  # RFC 2181 section 8
    assert wire.plain_data(response_of(record(16, b"\x01x"), rdtype=16), 16, response.answer[:0], 9) == ()
    with pytest.raises(wire.WireError, match="does not exist"):
        wire.follow(response_of(good, flags=wire.QR | wire.NXDOMAIN), b"\x01a\x00", 15, 8)


def test_an_extended_code_is_no_success() -> None:
    opt = b"\x00" + struct.pack("!HHIH", wire.OPT, 1232, 1 << 24, 0)
    assert wire.read_response(header(additional=2) + RECORD + opt).rcode == 16  # BADVERS
