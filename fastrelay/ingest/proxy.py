"""The PROXY protocol, versions 1 and 2: a load balancer says in a header whom a connection comes from.

`ProxyHeader` is a parser without a socket: it takes octets and tells how many of them were the header's, never more.
`read_header` feeds it from a socket with MSG_PEEK and then reads just those, so that whatever follows (a TLS handshake,
SMTP) is still unread. Strict: a header is either sound to the last octet, or the connection is refused.

Source: haproxy.org/download/2.9/doc/proxy-protocol.txt. LOCAL (version 2), UNKNOWN (version 1) and address families
other than TCP over IPv4 and IPv6 give no client: the connection counts as the balancer's own, and may not relay.

Known faults: TLVs of version 2 are skipped, so a checksum among them is not compared.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = 16  # octets of a version 2 header before the addresses
LONGEST_V1 = 107  # octets with CRLF
LONGEST_V2 = FIXED + 2048  # senders keep to 536; TLVs of some clouds do not
HEADER_SECONDS = 10.0

_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP(?P<version>[46]) (?P<client>[0-9A-Fa-f.:]+) (?P<server>[0-9A-Fa-f.:]+)"
    rb" (?P<client_port>0|[1-9]\d{0,4}) (?P<server_port>0|[1-9]\d{0,4}))\r\n"
)
_ADDRESSES = {0x11: (12, 4), 0x21: (36, 16)}  # family and protocol: octets of both ends, of one address
_NO_CLIENT = (0x00, 0x31)  # unspecified, Unix stream


class ProxyFault(ValueError):
    """It is no sound header; the text says why."""


class ProxyHeader:
    """One header. `done`, then `client`: the address as text, or None where the balancer names nobody."""

    def __init__(self) -> None:
        self.done = False
        self.client: str | None = None
        self._octets = bytearray()

    def feed(self, octets: bytes) -> int:
        """Takes what is the header's from the start of `octets`; gives how many those are: all, until it is done.

        Raises ProxyFault.
        """
        if self.done or not octets:
            return 0
        first = self._octets[0] if self._octets else octets[0]
        if first == SIGNATURE[0]:
            return self._feed_v2(octets)
        return self._feed_v1(octets)

    # -- version 1: a line --------------------------------------------------------------------------------------------

    def _feed_v1(self, octets: bytes) -> int:
        end = octets.find(b"\n")
        used = len(octets) if end < 0 else end + 1
        self._octets += octets[:used]
        start = bytes(self._octets[:6])
        if not b"PROXY ".startswith(start):
            raise ProxyFault("it does not begin with a PROXY header")
        if len(self._octets) > LONGEST_V1 or (end < 0 and len(self._octets) == LONGEST_V1):
            raise ProxyFault("its PROXY line is too long")
        if end >= 0:
            self._read_v1()
        return used

    def _read_v1(self) -> None:
        found = _V1.fullmatch(self._octets)
        if found is None:
            raise ProxyFault("its PROXY line is malformed")
        if found["version"] is not None:
            kind = ipaddress.IPv4Address if found["version"] == b"4" else ipaddress.IPv6Address
            try:
                client = kind(found["client"].decode("ascii"))
                kind(found["server"].decode("ascii"))
            except ValueError:
                raise ProxyFault("an address in its PROXY line is malformed") from None
            if max(int(found["client_port"]), int(found["server_port"])) > 65535:
                raise ProxyFault("a port in its PROXY line is above 65535")
            self.client = _text(client)
        self.done = True

    # -- version 2: binary --------------------------------------------------------------------------------------------

    def _feed_v2(self, octets: bytes) -> int:
        used = 0
        while not self.done and used < len(octets):
            piece = octets[used : used + self._wanted_v2() - len(self._octets)]
            self._octets += piece
            used += len(piece)
            if not SIGNATURE.startswith(bytes(self._octets[: len(SIGNATURE)])):
                raise ProxyFault("it does not begin with a PROXY header")
            if len(self._octets) >= FIXED and len(self._octets) == self._wanted_v2():
                self._read_v2()
        return used

    def _wanted_v2(self) -> int:
        """Octets of the header in all, as far as it is known."""
        if len(self._octets) < FIXED:
            return FIXED
        wanted = FIXED + int.from_bytes(self._octets[14:16], "big")
        if wanted > LONGEST_V2:
            raise ProxyFault(f"its PROXY header has {wanted} octets")
        return wanted

    def _read_v2(self) -> None:
        version, family = self._octets[12], self._octets[13]
        if version not in (0x20, 0x21):
            raise ProxyFault(f"its PROXY header has version and command 0x{version:02x}")
        if version == 0x21 and family not in _NO_CLIENT:
            if family not in _ADDRESSES:
                raise ProxyFault(f"its PROXY header has the address family 0x{family:02x}")
            both, one = _ADDRESSES[family]
            if len(self._octets) < FIXED + both:
                raise ProxyFault("its PROXY header is too short for its addresses")
            self.client = _text(ipaddress.ip_address(bytes(self._octets[FIXED : FIXED + one])))
        self.done = True


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


async def read_header(sock: socket.socket, seconds: float = HEADER_SECONDS) -> ProxyHeader:
    """Reads the header from a non-blocking socket and nothing behind it.

    Raises ProxyFault, TimeoutError, OSError (the balancer went).
    """
    header = ProxyHeader()
    async with asyncio.timeout(seconds):
        while not header.done:
            try:
                seen = sock.recv(LONGEST_V2, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                await _readable(sock)
                continue
            if not seen:
                raise ConnectionResetError("closed before its PROXY header was complete")
            left = header.feed(seen)
            while left:
                left -= len(sock.recv(left))
    return header


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock.fileno())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
