"""DNS messages on the wire: makes a query, reads a response (RFC 1035 section 4), as much of it as mail routing needs.

Why its own: dnspython takes some 300 µs to read a response with two MX records, several times what a message costs to
relay, and a campaign to many small domains asks three questions for each (benchmarks/bench_route.py). dnspython is the
oracle in the tests.

A name is held in its wire form, uncompressed and in lower case ("\\x07example\\x03com\\x00"): it can be compared,
asked for again and has no escapes. Lower-casing the octets is safe because the length of a label is below 64, less
than "A".

Everything here is hostile input: whatever is wrong raises WireError. Compression pointers only go backwards, a name
ends at 255 octets, a section at the end of the message.

Known faults: only class IN; of the additional section only the extended reply code is read.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import Any

A, CNAME, SOA, PTR, MX, AAAA, OPT = 1, 5, 6, 12, 15, 28, 41
IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

QR, AA, TC, RD, RA, AD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020
OPCODE = 0x7800

MAX_NAME = 255
# Bounds on the work that one message can cause; a name has at most 127 labels, so a proper one has fewer pointers.
MAX_POINTERS = 127
MAX_SECTION = 2048

_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_PLAIN_LABEL = re.compile(rb"[a-z0-9_-]+\Z")
_ESCAPED = b'"().;\\@$'


class WireError(ValueError):
    """Octets that are no DNS message, or one that contradicts itself."""


@dataclass(slots=True)
class Record:
    """One resource record; its data lies at `offset` in the message, `length` octets."""

    owner: bytes
    rdtype: int
    ttl: int
    offset: int
    length: int


@dataclass(slots=True)
class Response:
    """A response, its records of class IN."""

    wire: bytes
    flags: int
    rcode: int
    question: tuple[bytes, int] | None
    answer: list[Record]
    authority: list[Record]


@dataclass(slots=True)
class Chain:
    """What a response answers to its question, aliases followed.

    name     where the chain of aliases ends
    records  of the type asked for; empty: there are none
    aliases  how many were followed, and the least of their TTLs
    ttl      seconds, the least along the way; of a negative answer by RFC 2308 section 5, 60 without an SOA record
    """

    name: bytes
    records: list[Record]
    aliases: int
    alias_ttl: int
    ttl: int


def name_to_wire(text: str) -> bytes:
    """A domain (ASCII, no final dot) in wire form. Raises WireError."""
    try:
        labels = text.lower().encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise WireError("a name that is not ASCII") from None
    if not all(0 < len(label) < 64 for label in labels):
        raise WireError("an empty label, or one of more than 63 octets")
    wire = b"".join([bytes((len(label),)) + label for label in labels]) + b"\x00"
    if len(wire) > MAX_NAME:
        raise WireError("a name of more than 255 octets")
    return wire


def name_to_text(name: bytes) -> str:
    """A name for people: no final dot, "." for the root; what is no host name character is escaped (RFC 1035 5.1)."""
    labels = []
    position = 0
    while name[position]:
        label = name[position + 1 : position + 1 + name[position]]
        labels.append(label.decode() if _PLAIN_LABEL.match(label) else "".join(map(_escape, label)))
        position += 1 + name[position]
    return ".".join(labels) or "."


def _escape(octet: int) -> str:
    if octet in _ESCAPED:
        return "\\" + chr(octet)
    return chr(octet) if 0x20 < octet < 0x7F else f"\\{octet:03d}"


def make_query(message_id: int, name: bytes, rdtype: int, edns_payload: int = 0) -> bytes:
    """A question, recursion desired, AD wanted (RFC 6840 section 5.7); with EDNS if a payload size is given."""
    query = _HEADER.pack(message_id, RD | AD, 1, 0, 0, 1 if edns_payload else 0) + name + struct.pack("!HH", rdtype, IN)
    if edns_payload:
        query += b"\x00" + _FIXED.pack(OPT, edns_payload, 0, 0)
    return query


def read_name(wire: bytes, offset: int) -> tuple[bytes, int]:
    """The name at an offset and the offset behind it. Raises WireError or IndexError."""
    parts = []
    total = 1
    pointers = 0
    behind = 0
    bound = offset  # a pointer leads before everything that was read of this name
    while True:
        length = wire[offset]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | wire[offset + 1]
            behind = behind or offset + 2
            pointers += 1
            if target >= bound or pointers > MAX_POINTERS:
                raise WireError("a compression pointer that does not go back")
            bound = offset = target
            continue
        if length > 63:
            raise WireError("a label of a kind that does not exist")
        if length == 0:
            parts.append(b"\x00")
            return b"".join(parts).lower(), behind or offset + 1
        total += length + 1
        if total > MAX_NAME:
            raise WireError("a name of more than 255 octets")
        parts.append(wire[offset : offset + 1 + length])
        offset += 1 + length


def read_response(wire: bytes) -> Response:
    """A whole response. Raises WireError."""
    try:
        _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(wire)
        if not flags & QR or flags & OPCODE:
            raise WireError("not the response to a query")
        if questions > 1:
            raise WireError("more than one question")
        offset = _HEADER.size
        question = None
        if questions:
            name, offset = read_name(wire, offset)
            rdtype, rdclass = struct.unpack_from("!HH", wire, offset)
            question = (name, rdtype if rdclass == IN else -1)
            offset += 4
        answer, offset = _read_section(wire, offset, answers)
        authority, offset = _read_section(wire, offset, authorities)
        rcode = flags & 0xF | _extended_rcode(wire, offset, additional) << 4
        return Response(wire, flags, rcode, question, answer, authority)
    except (IndexError, struct.error):
        raise WireError("a message that ends too early") from None


def _read_section(wire: bytes, offset: int, count: int) -> tuple[list[Record], int]:
    """The records of a section, those of class IN, and the offset behind it."""
    if count > MAX_SECTION:
        raise WireError(f"more than {MAX_SECTION} records in a section")
    records = []
    for _ in range(count):
        owner, offset = read_name(wire, offset)
        rdtype, rdclass, ttl, length = _FIXED.unpack_from(wire, offset)
        offset += _FIXED.size
        if offset + length > len(wire):
            raise WireError("a record that ends behind the message")
        if rdclass == IN:
            # RFC 2181 section 8: a TTL with the highest bit set counts as zero.
            records.append(Record(owner, rdtype, ttl if ttl < 1 << 31 else 0, offset, length))
        offset += length
    return records, offset


def _extended_rcode(wire: bytes, offset: int, count: int) -> int:
    """The upper bits of the reply code, from the OPT record (RFC 6891 section 6.1.3); 0 without one."""
    for _ in range(min(count, MAX_SECTION)):
        _, offset = read_name(wire, offset)
        rdtype, _, ttl, length = _FIXED.unpack_from(wire, offset)
        if rdtype == OPT:
            return int(ttl >> 24)
        offset += _FIXED.size + length
    return 0


def answers(response: Response, name: bytes, rdtype: int) -> bool:
    """Whether it answers that question. An error may leave the question out (a server that could not read it)."""
    if response.question is None:
        return response.rcode in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    return response.question == (name, rdtype)


def follow(response: Response, name: bytes, rdtype: int, max_aliases: int) -> Chain:
    """Follow the aliases (CNAME) in a response to its question. Raises WireError."""
    alias_ttl = (1 << 31) - 1
    for aliases in range(max_aliases + 1):
        records = [record for record in response.answer if record.rdtype == rdtype and record.owner == name]
        if records:
            if response.rcode == NXDOMAIN:
                raise WireError("records of a name that does not exist")
            ttl = min(alias_ttl, *(record.ttl for record in records))
            return Chain(name, records, aliases, alias_ttl, ttl)
        alias = next((record for record in response.answer if record.rdtype == CNAME and record.owner == name), None)
        if alias is None:
            return Chain(name, [], aliases, alias_ttl, min(alias_ttl, _negative_ttl(response, name)))
        alias_ttl = min(alias_ttl, alias.ttl)
        name = _name_in(response, alias, 0)
    raise WireError(f"more than {max_aliases} aliases (CNAME)")


def _negative_ttl(response: Response, name: bytes) -> int:
    """RFC 2308 section 5: the lesser of the SOA's TTL and its minimum."""
    for record in response.authority:
        if record.rdtype == SOA and (name == record.owner or _is_below(name, record.owner)) and record.length >= 22:
            (minimum,) = struct.unpack_from("!I", response.wire, record.offset + record.length - 4)
            return min(record.ttl, int(minimum))
    return 60


def _is_below(name: bytes, parent: bytes) -> bool:
    while name[0]:
        name = name[1 + name[0] :]
        if name == parent:
            return True
    return False


def _name_in(response: Response, record: Record, skip: int) -> bytes:
    """The name that a record's data ends with, behind `skip` octets."""
    try:
        name, behind = read_name(response.wire, record.offset + skip)
    except IndexError:
        raise WireError("a message that ends too early") from None
    if behind != record.offset + record.length:
        raise WireError("a record of a wrong length")
    return name


def mx_data(response: Response, record: Record) -> tuple[int, str]:
    """(preference, exchange as text) of an MX record."""
    if record.length < 3:
        raise WireError("a record of a wrong length")
    (preference,) = struct.unpack_from("!H", response.wire, record.offset)
    return int(preference), name_to_text(_name_in(response, record, 2))


def address_data(response: Response, record: Record) -> str:
    """The address of an A or AAAA record."""
    octets = response.wire[record.offset : record.offset + record.length]
    try:
        return socket.inet_ntop(socket.AF_INET if record.rdtype == A else socket.AF_INET6, octets)
    except ValueError:
        raise WireError("a record of a wrong length") from None


def plain_data(response: Response, rdtype: int, records: list[Record], limit: int) -> tuple[Any, ...]:
    """The records' data, at most `limit`: of MX the best (preference, exchange), of A, AAAA, PTR text, else octets."""
    if rdtype == MX:
        best = sorted((mx_data(response, record) for record in records), key=lambda mx: mx[0])
        return tuple(dict.fromkeys(best))[:limit]
    if rdtype in (A, AAAA):
        return tuple(dict.fromkeys(address_data(response, record) for record in records[:limit]))
    if rdtype == PTR:
        return tuple(dict.fromkeys(name_to_text(_name_in(response, record, 0)) for record in records[:limit]))
    return tuple(response.wire[record.offset : record.offset + record.length] for record in records[:limit])
