"""A TLS report to a web address (RFC 8460 section 5.4): one POST over HTTPS, with bounds.

The address was written by a stranger, into the DNS. So: https only, no redirects, certificates are verified, little of
the answer is read, and no host of a private or local address is spoken to (unless the relay may deliver there).

Known faults: a proxy is never used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from fastrelay.route.resolver import Resolver
from fastrelay.tls.reports import PostFailed

POST_SECONDS = 60.0
ANSWER_OCTETS = 4096
AGAIN = (408, 425, 429)  # client errors that may pass


class Forbidden(OSError):
    """The host has no address that may be spoken to."""


def may_speak_to(address: str, private: bool) -> bool:
    """Whether an address is one of the public internet (or all are allowed)."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return private or ((mapped or ip).is_global and not ip.is_multicast)


class PublicResolver(AbstractResolver):
    """Looks hosts up with our resolver, and leaves out addresses that may not be spoken to."""

    def __init__(self, resolver: Resolver, private: bool) -> None:
        self._resolver = resolver
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found: list[ResolveResult] = []
        answers = await asyncio.gather(*(self._resolver.query(host, kind) for kind in ("AAAA", "A")))
        for kind, answer in zip((socket.AF_INET6, socket.AF_INET), answers, strict=True):
            for address in answer.records:
                if may_speak_to(address, self._private):
                    found.append(_result(host, address, port, kind))
        if not found:
            words = "; ".join(answer.detail for answer in answers if answer.detail)
            raise Forbidden(0, f"{host} has no public address{': ' + words if words else ''}")
        return found

    async def close(self) -> None:
        pass


def _result(host: str, address: str, port: int, family: int) -> ResolveResult:
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST
    )


class Poster:
    """Sends reports; one session of its own for each."""

    def __init__(self, resolver: Resolver, *, ca_file: str | None, private: bool, agent: str) -> None:
        self._resolver = resolver
        self._private = private
        self._agent = agent
        self._context = ssl.create_default_context(cafile=ca_file)

    async def post(self, url: str, body: bytes) -> None:
        """Returns once the far side has taken it. Raises PostFailed."""
        host = urlsplit(url).hostname or ""
        try:
            if not may_speak_to(host, self._private):
                raise PostFailed(f"{host} is no public address", final=True)
        except ValueError:
            pass  # a name, for PublicResolver
        headers = {"Content-Type": "application/tlsrpt+gzip", "User-Agent": self._agent}
        try:
            async with (
                asyncio.timeout(POST_SECONDS),
                aiohttp.ClientSession(**self._arguments()) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                status, words = answer.status, await answer.content.read(ANSWER_OCTETS)
        except TimeoutError:
            raise PostFailed("timed out") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PostFailed(str(error) or repr(error)) from None
        if not 200 <= status < 300:
            text = words[:200].decode("ascii", "replace")
            raise PostFailed(f"answered {status} {text}".strip(), final=300 <= status < 500 and status not in AGAIN)

    def _arguments(self) -> dict[str, Any]:
        connector = aiohttp.TCPConnector(
            resolver=PublicResolver(self._resolver, self._private), ssl=self._context, use_dns_cache=False
        )
        return {"connector": connector, "trust_env": False, "max_line_size": 8190, "max_field_size": 8190}
