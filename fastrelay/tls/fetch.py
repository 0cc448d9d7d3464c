"""Fetching an MTA-STS policy over HTTPS (RFC 8461 section 3.3).

The names of the policy host are looked up with the relay's own resolver, and a private address is not connected to
unless delivery.allow_private_hosts: a domain chooses where its policy host points, so it could aim the relay at its own
network otherwise. No redirects, no proxies, no cookies; the certificate must be valid for mta-sts.DOMAIN by the
system's CAs; 64 KiB and one timeout for everything.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from fastrelay import __version__
from fastrelay.route.addresses import AddressBook
from fastrelay.tls.mta_sts import MAX_OCTETS, Policy, PolicyError, parse_policy

if TYPE_CHECKING:
    from fastrelay.route.resolver import Resolver

PATH = "/.well-known/mta-sts.txt"
NAMES_KEPT = 1000


class _Names(AbstractResolver):
    """Look-ups of policy hosts for aiohttp."""

    def __init__(self, book: AddressBook, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._book.addresses(host, self._now())
        if not found.addresses:
            raise OSError(None, found.error or f"host {host} has no address")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=address_family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address_family, address in found.addresses
            if family in (socket.AF_UNSPEC, address_family)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Fetcher:
    """Fetches policies; `async with` or `close`.

    timeout  seconds for one policy, from the look-up to the last octet
    context  TLS; None: the system's CAs. `port`: that of HTTPS. Both are for tests, and no configuration sets them
    """

    def __init__(
        self,
        resolver: Resolver,
        now: Callable[[], float],
        *,
        timeout: float,
        allow_private: bool = False,
        context: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        book = AddressBook(resolver, allow_private=allow_private, cache_size=NAMES_KEPT, clock=now)
        self._names = _Names(book, now)
        self._context = context
        self._timeout = timeout
        self._port = port
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._context = self._context or ssl.create_default_context()
            connector = aiohttp.TCPConnector(
                resolver=self._names, use_dns_cache=False, ssl=self._context, force_close=True, limit=0
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": f"fastrelay/{__version__}", "Accept-Encoding": "identity"},
            )
        return self._session

    async def fetch(self, domain: str) -> Policy:
        """The policy of a domain. Raises PolicyError."""
        return parse_policy(await self.text(domain))

    async def text(self, domain: str) -> bytes:
        """The octets of the policy of a domain. Raises PolicyError."""
        port = "" if self._port == 443 else f":{self._port}"
        url = f"https://mta-sts.{domain}{port}{PATH}"
        try:
            async with asyncio.timeout(self._timeout):
                async with self._client().get(url, allow_redirects=False) as answer:
                    return await self._body(answer)
        except TimeoutError:
            raise _no_policy(url, f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise PolicyError("sts-webpki-invalid", f"{url}: {_tls_words(error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _no_policy(url, _words(error)) from None

    @staticmethod
    async def _body(answer: aiohttp.ClientResponse) -> bytes:
        url = str(answer.url)
        if answer.status != 200:
            what = "a redirect, which is not followed" if 300 <= answer.status < 400 else (answer.reason or "")
            raise _no_policy(url, f"status {answer.status} {what}".strip())
        if answer.content_type != "text/plain":
            raise _no_policy(url, f"its type is {answer.content_type[:60]!r} instead of text/plain")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _no_policy(url, "it is compressed, which was not asked for")
        octets = bytearray()
        async for chunk in answer.content.iter_any():
            octets += chunk
            if len(octets) > MAX_OCTETS:
                raise PolicyError("sts-policy-invalid", f"{url}: larger than {MAX_OCTETS} octets")
        return bytes(octets)

    async def close(self) -> None:
        """End what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()


def _no_policy(url: str, words: str) -> PolicyError:
    return PolicyError("sts-policy-fetch-error", f"{url}: {words}")


def _words(error: BaseException) -> str:
    inner = getattr(error, "os_error", None) or error
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _tls_words(error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    inner: Any = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    verify = getattr(inner, "verify_message", "")
    return f"its certificate is refused: {verify.rstrip('.')}" if verify else f"TLS failed: {_words(inner)}"
