"""The stub resolver: one DNS question to the configured nameservers, over UDP, then TCP when the answer is too large.

dnspython makes and reads the messages; the sockets are ours. Each query has a connected UDP socket of its own, so the
kernel picks a random port, drops answers from another address, and reports a dead nameserver at once (ICMP) instead
of after a timeout. EDNS with 1232 octets (no fragments); the AD bit is asked for and reported (RFC 6840 section 5.7).
CNAMEs are followed, also when the nameserver did not. Several answers with a wrong id or question are an attempt to
guess: the query then goes over TCP.

Bounds: `max_concurrent` queries on the wire, `max_waiting` behind them (beyond: a temporary failure at once), a
timeout per try, `tries` tries over the servers, MAX_RECORDS records of an answer, MAX_ALIASES aliases.

Known faults: an answer cut below MAX_RECORDS is not marked; /etc/resolv.conf is read once (a reload reads it again),
its options and search list are ignored, since a mail domain is always absolute.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

Status = Literal["ok", "nodata", "nxdomain", "temporary"]

EDNS_PAYLOAD = 1232  # the DNS flag day 2020 figure: fits any path without fragments
MAX_RECORDS = 100
MAX_ALIASES = 8
MAX_FORGED = 20  # answers that are not to our question before a query leaves UDP
MAX_LATENCIES = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the DNS says.

    status   "ok"; "nodata" (the name exists, this type does not); "nxdomain"; "temporary" (SERVFAIL, timeout, …)
    records  MX: (preference, exchange), lower case, no final dot, "." for the root; A, AAAA: address text;
             else dnspython's rdata
    ttl      seconds; of a negative answer by RFC 2308
    secure   the nameserver validated it (AD)
    detail   for a temporary failure: what happened, for people
    """

    status: Status
    records: tuple[Any, ...] = ()
    ttl: int = 0
    secure: bool = False
    detail: str = ""


@dataclass(slots=True)
class ResolverStats:
    """Counters since the start; `latencies` are seconds per answered try, the newest MAX_LATENCIES."""

    queries: int = 0  # tries put on the wire
    answers: int = 0
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


class _Failed(Exception):
    """A try without a usable answer; args[0] says why, for people."""


class Nameserver:
    """Where to ask: "address:port", "[address]:port" or an address (port 53). Raises ValueError."""

    __slots__ = ("family", "name", "sockaddr")

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

    timeout  seconds per try (UDP and, after truncation, TCP together); on the wire a query ends within tries × timeout
    timer    for latencies only; the loop's clock by default
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        tries: int = 3,
        max_concurrent: int = 200,
        max_waiting: int = 20_000,
        timer: Callable[[], float] | None = None,
    ) -> None:
        self.nameservers = tuple(Nameserver(text) for text in (nameservers or system_nameservers()))
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
            question = dns.name.from_text(name, dns.name.root)
            wanted = dns.rdatatype.from_text(rdtype)
        except (dns.exception.DNSException, ValueError) as error:
            return Answer("nxdomain", detail=f"not a DNS name ({error})")
        self.waiting += 1
        try:
            async with self._places:
                return await self._follow(question, wanted)
        finally:
            self.waiting -= 1

    async def _follow(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Ask; ask on where a nameserver left an alias unfollowed."""
        ttl = 1 << 31
        for _ in range(MAX_ALIASES):
            try:
                message = await self._ask(name, rdtype)
                chain = message.resolve_chaining()
            except _Failed as failure:
                return Answer("temporary", detail=str(failure))
            except dns.exception.DNSException as error:
                self.stats.servfail += 1
                return Answer("temporary", detail=f"the answer makes no sense: {type(error).__name__} {error}")
            ttl = min(ttl, int(chain.minimum_ttl))
            secure = bool(message.flags & dns.flags.AD)
            if chain.answer is not None:
                self.stats.answers += 1
                return Answer("ok", _plain_records(chain.answer, rdtype), ttl, secure)
            if message.rcode() == dns.rcode.NXDOMAIN:
                self.stats.nxdomain += 1
                return Answer("nxdomain", (), ttl, secure)
            if not chain.cnames or message.authority:
                self.stats.nodata += 1
                return Answer("nodata", (), ttl, secure)
            ttl = min(int(rrset.ttl) for rrset in chain.cnames)
            name = chain.canonical_name
        return Answer("temporary", detail=f"more than {MAX_ALIASES} aliases (CNAME)")

    async def _ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.message.QueryMessage:
        """One answer with NOERROR or NXDOMAIN, from whichever server gives one first. Raises _Failed."""
        problems: list[str] = []
        edns = True
        for attempt in range(max(self.tries, 1)):
            position = (self._preferred + attempt) % len(self.nameservers)
            server = self.nameservers[position]
            try:
                message = await self._try(server, name, rdtype, edns)
            except _Failed as failure:
                problems.append(f"{server.name} {failure}")
                continue
            rcode = message.rcode()
            if rcode == dns.rcode.NOERROR and not message.answer and not message.flags & (dns.flags.AA | dns.flags.RA):
                # A referral is no answer; taken for "no such record" it would fail mail for good.
                problems.append(f"{server.name} does not recurse")
                continue
            if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self._preferred = position
                return message
            self.stats.servfail += 1
            problems.append(f"{server.name} answers {dns.rcode.to_text(rcode)}")
            if rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
                edns = False  # RFC 6891 section 7: a server without EDNS
        raise _Failed("; ".join(dict.fromkeys(problems)))

    async def _try(
        self, server: Nameserver, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, edns: bool
    ) -> dns.message.QueryMessage:
        """One question to one server, within the timeout. Raises _Failed."""
        query = dns.message.make_query(name, rdtype, use_edns=0 if edns else False, payload=EDNS_PAYLOAD)
        query.flags |= dns.flags.AD
        timer = self._timer or asyncio.get_running_loop().time
        began = timer()
        self.stats.queries += 1
        try:
            async with asyncio.timeout(self.timeout):
                message = await _over_udp(server, query, self.stats)
                if message is None:
                    self.stats.tcp += 1
                    message = await _over_tcp(server, query)
        except TimeoutError:
            self.stats.timeouts += 1
            raise _Failed(f"does not answer within {self.timeout:g} s") from None
        except OSError as error:
            self.stats.network_errors += 1
            raise _Failed(f"cannot be reached ({error.strerror or error})") from None
        except (EOFError, dns.exception.DNSException, ValueError) as error:
            self.stats.servfail += 1
            raise _Failed(f"answers what cannot be read ({type(error).__name__})") from None
        self.stats.latencies.append(timer() - began)
        if not isinstance(message, dns.message.QueryMessage):
            raise _Failed("answers with another operation than a query")
        return message


def _plain_records(rrset: Any, rdtype: dns.rdatatype.RdataType) -> tuple[Any, ...]:
    """Records without dnspython's objects, at most MAX_RECORDS; of MX the best ones."""
    if rdtype == dns.rdatatype.MX:
        best = sorted(rrset, key=lambda record: record.preference)[:MAX_RECORDS]
        return tuple((record.preference, record.exchange.to_text(omit_final_dot=True).lower()) for record in best)
    records = tuple(rrset)[:MAX_RECORDS]
    if rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        return tuple(record.address for record in records)
    return records


class _UdpQuestion:
    """Reads datagrams until one answers the question: `done` gets the message, or None for "ask over TCP"."""

    def __init__(self, sock: socket.socket, query: dns.message.Message, stats: ResolverStats) -> None:
        self.sock = sock
        self.query = query
        self.stats = stats
        self.forged = 0
        self.done: asyncio.Future[dns.message.Message | None] = asyncio.get_running_loop().create_future()

    def readable(self) -> None:
        """Called by the loop; takes a bounded number of datagrams a turn."""
        for _ in range(8):
            if self.done.done():
                return
            try:
                wire = self.sock.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.done.set_exception(error)
                return
            self._datagram(wire)

    def _datagram(self, wire: bytes) -> None:
        if len(wire) < 12 or wire[:2] != self.query.id.to_bytes(2, "big"):
            self._not_ours()
            return
        if wire[2] & 0x02:  # TC: whatever is in it, TCP has it whole
            self.done.set_result(None)
            return
        try:
            message = dns.message.from_wire(wire, ignore_trailing=True)
        except Exception:  # the parser's errors are many; all mean the same
            self._not_ours()
            return
        if self.query.is_response(message):
            self.done.set_result(message)
        else:
            self._not_ours()

    def _not_ours(self) -> None:
        self.stats.forged += 1
        self.forged += 1
        if self.forged >= MAX_FORGED:
            self.done.set_result(None)


async def _over_udp(server: Nameserver, query: dns.message.Message, stats: ResolverStats) -> dns.message.Message | None:
    """The answer; None if it was truncated or UDP cannot be trusted. Raises OSError."""
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(server.sockaddr)
        sock.send(query.to_wire())
        question = _UdpQuestion(sock, query, stats)
        loop.add_reader(sock.fileno(), question.readable)
        try:
            return await question.done
        finally:
            loop.remove_reader(sock.fileno())


async def _over_tcp(server: Nameserver, query: dns.message.Message) -> dns.message.Message:
    """The answer over TCP (RFC 7766). Raises OSError, EOFError, DNSException or ValueError."""
    sock = socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(sock, server.sockaddr)
        reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        wire = query.to_wire()
        writer.write(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        message = dns.message.from_wire(await reader.readexactly(length), ignore_trailing=True)
    finally:
        writer.transport.abort()
    if not query.is_response(message):
        raise ValueError("an answer to another question")
    return message
