"""The stub resolver: one DNS question to the configured nameservers, over UDP, then TCP when the answer is too large.

Each query has a connected UDP socket of its own, so the kernel picks a random port, drops answers from another address,
and reports a dead nameserver at once (ICMP) instead of after a timeout. EDNS with 1232 octets (no fragments); the AD
bit is asked for and reported (RFC 6840 section 5.7). CNAMEs are followed, also when the nameserver did not. Several
answers with a wrong id or question are an attempt to guess: the query then goes over TCP.

The AD bit counts only from nameservers on this host, or in networks that the operator named (`trust_ad`).

Bounds: `max_concurrent` queries on the wire, `max_waiting` behind them (beyond: a temporary failure at once), a
timeout per try, `tries` tries over the servers, MAX_RECORDS records of an answer, MAX_ALIASES aliases.

Known faults: an answer cut below MAX_RECORDS is not marked; /etc/resolv.conf is read once (a reload reads it again),
its options and search list are ignored, since a mail domain is always absolute.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fastrelay.route import wire

Status = Literal["ok", "nodata", "nxdomain", "temporary"]

EDNS_PAYLOAD = 1232  # the DNS flag day 2020 figure: fits any path without fragments
MAX_RECORDS = 100
MAX_ALIASES = 8
MAX_FORGED = 20  # answers that are not to our question before a query leaves UDP
MAX_LATENCIES = 4096
TRUSTED = ("127.0.0.0/8", "::1/128")

RDTYPES = {"A": 1, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "TLSA": 52}
RCODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 9: "NOTAUTH", 16: "BADVERS"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the DNS says.

    status   "ok"; "nodata" (the name exists, this type does not); "nxdomain"; "temporary" (SERVFAIL, timeout, …)
    records  MX: (preference, exchange), lower case, no final dot, "." for the root; A, AAAA: address text;
             PTR: names as those; else the octets of the record's data
    ttl      seconds; of a negative answer by RFC 2308
    secure   a nameserver whose word counts validated it (AD), aliases included; only such answers prove anything
    alias    where the chain of aliases (CNAME) ends, as text; "" without one
    detail   for a temporary failure: what happened, for people
    """

    status: Status
    records: tuple[Any, ...] = ()
    ttl: int = 0
    secure: bool = False
    detail: str = ""
    alias: str = ""


@dataclass(slots=True)
class ResolverStats:
    """Counters since the start; `latencies` are seconds per answered try, the newest MAX_LATENCIES."""

    queries: int = 0  # tries put on the wire
    answers: int = 0  # usable ones: records, and the two below
    nxdomain: int = 0
    nodata: int = 0
    servfail: int = 0  # SERVFAIL, REFUSED, NOTIMP and answers that could not be read
    timeouts: int = 0
    network_errors: int = 0
    tcp: int = 0
    forged: int = 0
    refused_full: int = 0  # not asked: too many waiting
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LATENCIES))

    def drain_latencies(self) -> list[float]:
        """The latencies since the last call, in seconds."""
        drained = list(self.latencies)
        self.latencies.clear()
        return drained


class Question(NamedTuple):
    """A name in wire form (wire.py) and a type."""

    name: bytes
    rdtype: int


class _Failed(Exception):
    """A try without a usable answer; args[0] says why, for people."""


class Nameserver:
    """Where to ask: "address:port", "[address]:port" or an address (port 53). Raises ValueError."""

    __slots__ = ("family", "name", "sockaddr", "trusted")

    family: int
    sockaddr: Any

    def __init__(self, text: str) -> None:
        address, port = text, 53
        if text.startswith("["):
            address, _, rest = text[1:].partition("]")
            port = int(rest[1:]) if rest[:1] == ":" else 53
        elif text.count(":") == 1:
            address, _, rest = text.partition(":")
            port = int(rest)
        if not 0 < port < 65536 or ("[" in text) != ("]" in text):
            raise ValueError(f"nameserver {text!r} is not an IP address with an optional port of 1 to 65535")
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except (OSError, OverflowError) as error:
            raise ValueError(f"nameserver {text!r} is not an IP address with an optional port ({error})") from None
        self.family, _, _, _, self.sockaddr = found[0]
        self.name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self.trusted = False  # whether its AD bit counts


def system_nameservers(path: str = "/etc/resolv.conf") -> list[str]:
    """The addresses in resolv.conf; 127.0.0.1 when there are none, as the C library does."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            words = [line.split() for line in lines]
    except OSError:
        words = []
    return [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"] or ["127.0.0.1"]


class Resolver:
    """Asks nameservers. `query` never raises for anything that the network or a server does; it answers "temporary".

    timeout   seconds per try (UDP and, after truncation, TCP together); on the wire a query ends within tries × timeout
    trust_ad  networks of the nameservers whose AD bit counts. Whoever sits between us and a nameserver can set the bit,
              so that it is believed from this host alone unless the operator says otherwise (RFC 4035 section 4.9.3)
    timer     for latencies only; the loop's clock by default
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        tries: int = 3,
        max_concurrent: int = 200,
        max_waiting: int = 20_000,
        trust_ad: Sequence[str] = TRUSTED,
        timer: Callable[[], float] | None = None,
    ) -> None:
        self.nameservers = tuple(Nameserver(text) for text in (nameservers or system_nameservers()))
        networks = [ipaddress.ip_network(one) for one in trust_ad]
        for server in self.nameservers:
            address = ipaddress.ip_address(server.sockaddr[0].partition("%")[0])
            server.trusted = any(address in network for network in networks)
        self.timeout = timeout
        self.tries = tries
        self.max_waiting = max_waiting
        self.stats = ResolverStats()
        self.waiting = 0
        self._places = asyncio.Semaphore(max_concurrent)
        self._preferred = 0
        self._timer = timer

    async def query(self, name: str, rdtype: str) -> Answer:
        """Records of that type ("MX", "A", …) at a name (A-labels, no final dot)."""
        if self.waiting >= self.max_waiting:
            self.stats.refused_full += 1
            return Answer("temporary", detail=f"{self.waiting} DNS queries are waiting already")
        try:
            question = Question(wire.name_to_wire(name), RDTYPES[rdtype])
        except wire.WireError as error:
            return Answer("nxdomain", detail=str(error))
        self.waiting += 1
        try:
            async with self._places:
                return await self._follow(question)
        finally:
            self.waiting -= 1

    async def _follow(self, question: Question) -> Answer:
        """Ask; ask on where a nameserver left an alias unfollowed."""
        ttl = 1 << 31
        aliases = 0
        secure = True
        while True:
            try:
                response = await self._ask(question)
                chain = wire.follow(response, question.name, question.rdtype, MAX_ALIASES - aliases)
                records = wire.plain_data(response, question.rdtype, chain.records, MAX_RECORDS)
            except _Failed as failure:
                return Answer("temporary", detail=str(failure))
            except wire.WireError as error:
                self.stats.servfail += 1
                return Answer("temporary", detail=f"the answer makes no sense: {error}")
            aliases += chain.aliases
            secure = secure and bool(response.flags & wire.AD)
            if records or response.rcode == wire.NXDOMAIN or not chain.aliases or response.authority:
                alias = wire.name_to_text(chain.name) if aliases else ""
                return self._counted(records, response.rcode, min(ttl, chain.ttl), secure, alias)
            ttl = min(ttl, chain.alias_ttl)
            question = Question(chain.name, question.rdtype)

    def _counted(self, records: tuple[Any, ...], rcode: int, ttl: int, secure: bool, alias: str) -> Answer:
        self.stats.answers += 1
        if records:
            return Answer("ok", records, ttl, secure, alias=alias)
        if rcode == wire.NXDOMAIN:
            self.stats.nxdomain += 1
            return Answer("nxdomain", (), ttl, secure, alias=alias)
        self.stats.nodata += 1
        return Answer("nodata", (), ttl, secure, alias=alias)

    async def _ask(self, question: Question) -> wire.Response:
        """One answer with NOERROR or NXDOMAIN, from whichever server gives one first. Raises _Failed."""
        problems: list[str] = []
        edns = EDNS_PAYLOAD
        for attempt in range(max(self.tries, 1)):
            position = (self._preferred + attempt) % len(self.nameservers)
            server = self.nameservers[position]
            try:
                response = await self._try(server, question, edns)
            except _Failed as failure:
                problems.append(f"{server.name} {failure}")
                continue
            rcode = response.rcode
            if rcode == wire.NOERROR and not response.answer and not response.flags & (wire.AA | wire.RA):
                # A referral is no answer; taken for "no such record" it would fail mail for good.
                problems.append(f"{server.name} does not recurse")
                continue
            if rcode in (wire.NOERROR, wire.NXDOMAIN):
                self._preferred = position
                return response
            self.stats.servfail += 1
            problems.append(f"{server.name} answers {RCODES.get(rcode, f'code {rcode}')}")
            if rcode in (wire.FORMERR, wire.NOTIMP):
                edns = 0  # RFC 6891 section 7: a server without EDNS
        raise _Failed("; ".join(dict.fromkeys(problems)))

    async def _try(self, server: Nameserver, question: Question, edns: int) -> wire.Response:
        """One question to one server, within the timeout. Raises _Failed."""
        message_id = int.from_bytes(os.urandom(2), "big")
        query = wire.make_query(message_id, question.name, question.rdtype, edns)
        timer = self._timer or asyncio.get_running_loop().time
        began = timer()
        self.stats.queries += 1
        try:
            async with asyncio.timeout(self.timeout):
                response = await _over_udp(server, query, question, self.stats)
                if response is None:
                    self.stats.tcp += 1
                    response = await _over_tcp(server, query, question)
        except TimeoutError:
            self.stats.timeouts += 1
            raise _Failed(f"does not answer within {self.timeout:g} s") from None
        except OSError as error:
            self.stats.network_errors += 1
            raise _Failed(f"cannot be reached ({error.strerror or error})") from None
        except (EOFError, wire.WireError) as error:
            self.stats.servfail += 1
            raise _Failed(f"answers what cannot be read ({error})") from None
        self.stats.latencies.append(timer() - began)
        if not server.trusted:
            response.flags &= ~wire.AD
        return response


class _UdpQuestion:
    """Reads datagrams until one answers the question: `done` gets the response, or None for "ask over TCP"."""

    def __init__(self, sock: socket.socket, query: bytes, question: Question, stats: ResolverStats) -> None:
        self.sock = sock
        self.message_id = query[:2]
        self.question = question
        self.stats = stats
        self.forged = 0
        self.done: asyncio.Future[wire.Response | None] = asyncio.get_running_loop().create_future()

    def readable(self) -> None:
        """Called by the loop; takes a bounded number of datagrams a turn."""
        for _ in range(8):
            if self.done.done():
                return
            try:
                datagram = self.sock.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.done.set_exception(error)
                return
            self._datagram(datagram)

    def _datagram(self, datagram: bytes) -> None:
        if len(datagram) < 12 or datagram[:2] != self.message_id:
            self._not_ours()
            return
        if datagram[2] & 0x02:  # TC: whatever is in it, TCP has it whole
            self.done.set_result(None)
            return
        try:
            response = wire.read_response(datagram)
        except wire.WireError:
            self._not_ours()
            return
        if wire.answers(response, self.question.name, self.question.rdtype):
            self.done.set_result(response)
        else:
            self._not_ours()

    def _not_ours(self) -> None:
        self.stats.forged += 1
        self.forged += 1
        if self.forged >= MAX_FORGED:
            self.done.set_result(None)


async def _over_udp(server: Nameserver, query: bytes, question: Question, stats: ResolverStats) -> wire.Response | None:
    """The answer; None if it was truncated or UDP cannot be trusted. Raises OSError."""
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(server.sockaddr)
        sock.send(query)
        exchange = _UdpQuestion(sock, query, question, stats)
        loop.add_reader(sock.fileno(), exchange.readable)
        try:
            return await exchange.done
        finally:
            loop.remove_reader(sock.fileno())


async def _over_tcp(server: Nameserver, query: bytes, question: Question) -> wire.Response:
    """The answer over TCP (RFC 7766). Raises OSError, EOFError or WireError."""
    sock = socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(sock, server.sockaddr)
        reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        message = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    response = wire.read_response(message)
    if message[:2] != query[:2] or not wire.answers(response, question.name, question.rdtype):
        raise wire.WireError("an answer to another question")
    if response.flags & wire.TC:
        raise wire.WireError("an answer cut short over TCP")
    return response
