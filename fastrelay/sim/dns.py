"""An authoritative DNS server for tests and the demo.

It exists so that a relay can be run against MX records, addresses and failures of our own choosing, over
real UDP and TCP sockets, without a DNS server installed. A zone is a Python object; it holds the whole tree
(it answers for every name), and any name can be given a script: SERVFAIL, no answer at all, a truncated
answer, garbage, or a late answer, forever or for the first n queries.

Answers of names without a script are encoded once and remembered by the octets of the query, so that a zone
of 10,000 domains answers quickly from one thread.

Known faults: no DNSSEC, no zone transfer, no wildcard; a CNAME is followed inside the zone only.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

SERVFAIL = "servfail"
REFUSED = "refused"
NXDOMAIN = "nxdomain"
TIMEOUT = "timeout"  # the query is read and never answered
TRUNCATED = "truncated"  # over UDP the answer is cut (TC); TCP gives it whole
GARBAGE = "garbage"  # octets that are no DNS message
WRONG_ID = "wrong_id"  # a well-formed answer to another question's id
LATE = "late"  # answered after Script.delay seconds

KINDS = frozenset({SERVFAIL, REFUSED, NXDOMAIN, TIMEOUT, TRUNCATED, GARBAGE, WRONG_ID, LATE})
FOREVER = -1

CACHED_ANSWERS = 100_000  # encoded answers kept; beyond it the cache starts anew
COUNTED_NAMES = 100_000  # names counted one by one; queries for others count as "(other)"
MAX_CNAME_CHAIN = 8
TCP_IDLE_SECONDS = 30.0


@dataclass
class Script:
    """What a name does instead of answering; ``times`` queries long (``FOREVER``: always)."""

    kind: str
    times: int = FOREVER
    delay: float = 0.0

    def use(self) -> bool:
        """Take one use; False once the script has been played out."""
        if self.times == 0:
            return False
        if self.times > 0:
            self.times -= 1
        return True


@dataclass(frozen=True)
class Reply:
    """One answer: the octets, and after how many seconds they go out."""

    wire: bytes
    delay: float = 0.0


def canonical(name: str) -> str:
    """The key of a name: A-labels, lower case, no dot at the end."""
    if not name.isascii():
        name = dns.name.from_unicode(name).to_text()
    return name.rstrip(".").lower()


class Zone:
    """All names this server knows, with their records and scripts.

    secure  answers say that they were validated (AD), as a resolver's do for signed zones
    """

    def __init__(self, ttl: int = 300, negative_ttl: int = 60, secure: bool = False) -> None:
        self.ttl = ttl
        self.secure = secure
        self.negative_ttl = negative_ttl
        self.version = 0  # changes with every edit; the server's cache of answers follows it
        self._records: dict[tuple[str, str], list[str]] = {}
        self._ttls: dict[str, int] = {}
        self._names: set[str] = set()
        self._above: set[str] = set()  # names that have others below them (empty non-terminals)
        self._scripts: dict[tuple[str, str], Script] = {}

    def add(self, name: str, rdtype: str, *rdata: str, ttl: int | None = None) -> None:
        """Add records in presentation form, as ``add("a.example", "MX", "10 mx.a.example.")``."""
        key = canonical(name)
        self._records.setdefault((key, rdtype.upper()), []).extend(rdata)
        self._names.add(key)
        labels = key.split(".")
        self._above.update(".".join(labels[depth:]) for depth in range(1, len(labels)))
        if ttl is not None:
            self._ttls[key] = ttl
        self.version += 1

    def mx(self, domain: str, hosts: Iterable[tuple[int, str]], ttl: int | None = None) -> None:
        """Add MX records: (preference, host) pairs."""
        rdata = [f"{preference} {canonical(host)}." for preference, host in hosts]
        self.add(domain, "MX", *rdata, ttl=ttl)

    def null_mx(self, domain: str) -> None:
        """The domain takes no mail (RFC 7505)."""
        self.add(domain, "MX", "0 .")

    def address(self, host: str, *addresses: str, ttl: int | None = None) -> None:
        """Add A and AAAA records, told apart by the colon."""
        for address in addresses:
            self.add(host, "AAAA" if ":" in address else "A", address, ttl=ttl)

    def cname(self, name: str, target: str) -> None:
        """Make ``name`` an alias."""
        self.add(name, "CNAME", canonical(target) + ".")

    def script(self, name: str, kind: str, rdtype: str = "*", times: int = FOREVER, delay: float = 0.0) -> None:
        """Let queries for ``name`` (of one type, or ``*``) play ``kind`` instead of being answered."""
        if kind not in KINDS:
            raise ValueError(f"no such DNS script: {kind!r}; known are {', '.join(sorted(KINDS))}")
        self._scripts[canonical(name), rdtype.upper()] = Script(kind, times, delay)
        self.version += 1

    def clear(self, name: str) -> None:
        """Forget the records and scripts of a name."""
        key = canonical(name)
        self._records = {at: rdata for at, rdata in self._records.items() if at[0] != key}
        self._scripts = {at: script for at, script in self._scripts.items() if at[0] != key}
        self._names.discard(key)
        self.version += 1

    def scripted(self, name: str, rdtype: str) -> Script | None:
        """The script to play for this query, its use already counted; None to answer."""
        if not self._scripts:
            return None
        for at in ((name, rdtype), (name, "*")):
            script = self._scripts.get(at)
            if script is not None and script.use():
                return script
        return None

    def has_script(self, name: str, rdtype: str) -> bool:
        """Whether this query has, or once had, a script."""
        return (name, rdtype) in self._scripts or (name, "*") in self._scripts

    def records(self, name: str, rdtype: str) -> list[str]:
        """The records of exactly this name and type, in presentation form."""
        return self._records.get((name, rdtype), [])

    def ttl_of(self, name: str) -> int:
        """Seconds that answers for this name may be cached."""
        return self._ttls.get(name, self.ttl)

    def exists(self, name: str) -> bool:
        """Whether the name has records, or is above one that has (an empty non-terminal)."""
        return name in self._names or name in self._above


class Responder:
    """Octets of a query in, octets of an answer out; no sockets."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.queries: Counter[tuple[str, str]] = Counter()
        self.total = 0
        self._cache: dict[bytes, tuple[bytes, str, str]] = {}
        self._version = zone.version

    def respond(self, wire: bytes, over_tcp: bool) -> Reply | None:
        """The answer to one query; None when it stays unanswered."""
        if self._version != self.zone.version or len(self._cache) > CACHED_ANSWERS:
            self._cache.clear()
            self._version = self.zone.version
        cached = self._cache.get(wire[2:])
        if cached is not None:
            self._count(cached[1], cached[2])
            return Reply(wire[:2] + cached[0])
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError, struct.error, ValueError):
            return None
        name = canonical(question.name.to_text())
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self._count(name, rdtype)
        script = self.zone.scripted(name, rdtype)
        if script is not None:
            return self._play(script, query, name, rdtype, over_tcp)
        encoded = self._answer(query, name, rdtype).to_wire()
        if not self.zone.has_script(name, rdtype):
            self._cache[wire[2:]] = (encoded[2:], name, rdtype)
        return Reply(encoded)

    def _count(self, name: str, rdtype: str) -> None:
        self.total += 1
        known = len(self.queries) < COUNTED_NAMES or (name, rdtype) in self.queries
        self.queries[(name, rdtype) if known else ("(other)", "")] += 1

    def _answer(self, query: dns.message.Message, name: str, rdtype: str) -> dns.message.Message:
        """The honest answer: records through aliases, else NODATA or NXDOMAIN with an SOA."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA | (dns.flags.AD if self.zone.secure else 0)
        owner = name
        for _ in range(MAX_CNAME_CHAIN):
            found = self.zone.records(owner, rdtype)
            if found:
                response.answer.append(self._rrset(owner, rdtype, found))
                return response
            alias = self.zone.records(owner, "CNAME")
            if not alias:
                break
            response.answer.append(self._rrset(owner, "CNAME", alias))
            owner = canonical(alias[0])
        if not self.zone.exists(owner):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(self._soa())
        return response

    def _rrset(self, owner: str, rdtype: str, rdata: list[str]) -> dns.rrset.RRset:
        return dns.rrset.from_text_list(owner + ".", self.zone.ttl_of(owner), "IN", rdtype, rdata)

    def _soa(self) -> dns.rrset.RRset:
        text = f"ns.sim.invalid. hostmaster.sim.invalid. 1 3600 600 86400 {self.zone.negative_ttl}"
        return dns.rrset.from_text(".", self.zone.negative_ttl, "IN", "SOA", text)

    def _play(self, script: Script, query: dns.message.Message, name: str, rdtype: str, over_tcp: bool) -> Reply | None:
        """Play one use of a script."""
        kind = script.kind
        if kind == TIMEOUT:
            return None
        if kind == GARBAGE:
            return Reply(struct.pack("!H", query.id) + b"\xff" * 7, script.delay)
        response = self._answer(query, name, rdtype)
        if kind in (SERVFAIL, REFUSED, NXDOMAIN):
            response.answer.clear()
            response.authority.clear()
            if kind == NXDOMAIN:
                response.authority.append(self._soa())
            response.set_rcode(dns.rcode.from_text(kind.upper()))
        elif kind == TRUNCATED and not over_tcp:
            response.answer.clear()
            response.flags |= dns.flags.TC
        elif kind == WRONG_ID:
            response.id = query.id ^ 0x5555
        return Reply(response.to_wire(), script.delay)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, wire: bytes, client: tuple[str, int]) -> None:
        reply = self._responder.respond(wire, over_tcp=False)
        if reply is None:
            return
        if reply.delay:
            asyncio.get_running_loop().call_later(reply.delay, self._send, reply.wire, client)
        else:
            self._send(reply.wire, client)

    def _send(self, wire: bytes, client: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(wire, client)


class DnsServer:
    """UDP and TCP on one loopback port, answering from a ``Zone``.

    ``async with DnsServer(zone) as server:`` and then ``server.nameserver`` is "127.0.0.1:PORT".
    """

    def __init__(self, zone: Zone, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = zone
        self.host = host
        self.port = port
        self.responder = Responder(zone)
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    @property
    def nameserver(self) -> str:
        """As the configuration key dns.nameservers wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def asked(self, name: str, rdtype: str) -> int:
        """How many queries came for this name and type."""
        return self.responder.queries[canonical(name), rdtype.upper()]

    async def start(self) -> None:
        """Listen. With port 0 a port is sought that is free for TCP and UDP alike. Raises OSError."""
        attempts = 1 if self.port else 20
        for attempt in range(attempts):
            tcp = await asyncio.start_server(self._serve_tcp, self.host, self.port)
            port = tcp.sockets[0].getsockname()[1]
            try:
                loop = asyncio.get_running_loop()
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Udp(self.responder), local_addr=(self.host, port)
                )
            except OSError:
                tcp.close()
                await tcp.wait_closed()
                if attempt == attempts - 1:
                    raise
                continue
            self._tcp, self.port = tcp, port
            return

    async def stop(self) -> None:
        """Close both sockets and every TCP client."""
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        for writer in list(self._clients):
            writer.transport.abort()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()
            self._tcp = None

    async def __aenter__(self) -> DnsServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Messages with a length before each (RFC 1035 §4.2.2)."""
        self._clients.add(writer)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                reply = self.responder.respond(wire, over_tcp=True)
                if reply is None:
                    continue
                if reply.delay:
                    await asyncio.sleep(reply.delay)
                writer.write(struct.pack("!H", len(reply.wire)) + reply.wire)
                await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            pass
        finally:
            self._clients.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
