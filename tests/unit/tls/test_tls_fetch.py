"""Fetching a policy over HTTPS, from a server that does what the test wants."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.net import free_endpoint
from support.tls_certificates import Certificate, make

from fastrelay.route.resolver import Answer
from fastrelay.tls.fetch import PATH, Fetcher
from fastrelay.tls.mta_sts import MAX_OCTETS, PolicyError

POLICY = "version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: 604800\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dns:
    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.asked: list[str] = []

    async def query(self, name: str, rdtype: str) -> Answer:
        self.asked.append(name)
        found = self.addresses.get(name, ()) if rdtype == "A" else ()
        return Answer("ok", found, 60) if found else Answer("nodata" if name in self.addresses else "nxdomain", ttl=60)


class PolicyHost:
    """An HTTPS server on loopback. `handler` answers; `requests` are those that came."""

    def __init__(self, folder: Path, authority: Certificate, *names: str) -> None:
        leaf = authority.issue("policy", *names, start=authority.certificate.not_valid_before_utc)
        (folder / "policy.pem").write_bytes(leaf.pem + leaf.key_pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "policy.pem")
        self.handler: Handler = self.usual
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.dns = Dns()

    @staticmethod
    async def usual(request: web.Request) -> web.StreamResponse:
        return web.Response(text=POLICY)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.host.partition(":")[0], request.path, dict(request.headers)))
        return await self.handler(request)

    async def __aenter__(self) -> PolicyHost:
        self.runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)  # type: ignore[arg-type]
        await self.runner.setup()
        host, _, port = free_endpoint().rpartition(":")
        self.port = int(port)
        self.dns.addresses["mta-sts.a.test"] = (host,)
        await web.TCPSite(self.runner, host, self.port, ssl_context=self.context).start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.runner.cleanup()


@pytest.fixture(scope="module")
def authority() -> Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return make("test CA", ca=True, start=now - day, end=now + 100 * day)


@pytest.fixture
def host(tmp_path: Path, authority: Certificate) -> PolicyHost:
    return PolicyHost(tmp_path, authority, "mta-sts.a.test")


def trusting(authority: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


def fetch(host: PolicyHost, authority: Certificate | None, domain: str = "a.test", **more: Any) -> Any:
    """The policy, or the error."""

    async def work() -> Any:
        async with host:
            context = None if authority is None else trusting(authority)
            settings = {"timeout": 60.0, "allow_private": True, "context": context, "port": host.port, **more}
            async with Fetcher(host.dns, asyncio.get_running_loop().time, **settings) as fetcher:  # type: ignore[arg-type]
                try:
                    return await fetcher.fetch(domain)
                except PolicyError as error:
                    return error

    return asyncio.run(work())


def test_policy(host: PolicyHost, authority: Certificate) -> None:
    policy = fetch(host, authority)
    assert (policy.mode, policy.mx, policy.max_age) == ("enforce", ("mx.test",), 604800)
    [(name, path, headers)] = host.requests
    assert (name, path) == ("mta-sts.a.test", PATH)
    assert headers["User-Agent"].startswith("fastrelay/")
    assert headers["Accept-Encoding"] == "identity"
    assert "mta-sts.a.test" in host.dns.asked


def test_media_type_with_parameters(host: PolicyHost, authority: Certificate) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(
            body=POLICY.replace("\n", "\r\n").encode(), headers={"Content-Type": "Text/Plain; charset=x"}
        )

    host.handler = handler
    assert fetch(host, authority).mode == "enforce"


def refused(found: Any, result: str, words: str) -> None:
    assert isinstance(found, PolicyError), found
    assert (found.result, words in str(found)) == (result, True), found


@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (lambda: web.Response(text=POLICY, status=404), "sts-policy-fetch-error", "status 404 Not Found"),
        (lambda: web.Response(text=POLICY, status=203), "sts-policy-fetch-error", "status 203"),
        (
            lambda: web.Response(text=POLICY, status=301, headers={"Location": PATH + "?again"}),
            "sts-policy-fetch-error",
            "a redirect, which is not followed",
        ),
        (lambda: web.Response(text=POLICY, content_type="text/html"), "sts-policy-fetch-error", "'text/html'"),
        (lambda: web.Response(body=POLICY.encode()), "sts-policy-fetch-error", "'application/octet-stream'"),
        (
            lambda: web.Response(body=b"x", headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
            "sts-policy-fetch-error",
            "compressed",
        ),
        (lambda: web.Response(text="hello"), "sts-policy-invalid", "a line that is no field"),
        (lambda: web.Response(text="x" * (MAX_OCTETS + 1)), "sts-policy-invalid", "larger than 65536 octets"),
    ],
)
def test_refused(
    host: PolicyHost, authority: Certificate, answer: Callable[[], web.Response], result: str, words: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer()

    host.handler = handler
    refused(fetch(host, authority), result, words)
    assert len(host.requests) == 1


def test_without_end(host: PolicyHost, authority: Certificate) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)

    host.handler = handler
    refused(fetch(host, authority), "sts-policy-invalid", "larger than")


def test_timeout(host: PolicyHost, authority: Certificate) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    host.handler = handler
    refused(fetch(host, authority, timeout=0.3), "sts-policy-fetch-error", "no answer within 0.3 s")


def test_closed_in_the_middle(host: PolicyHost, authority: Certificate) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(POLICY.encode())
        assert request.transport is not None
        request.transport.abort()
        return response

    host.handler = handler
    refused(fetch(host, authority), "sts-policy-fetch-error", "mta-sts.a.test")


def test_certificate_of_another(tmp_path: Path, authority: Certificate) -> None:
    host = PolicyHost(tmp_path, authority, "a.test", "mta-sts.b.test")
    refused(fetch(host, authority), "sts-webpki-invalid", "its certificate is refused: Hostname mismatch")
    assert host.requests == []


def test_certificate_of_an_unknown_ca(host: PolicyHost) -> None:
    """The system's CAs; those of the tests are not among them."""
    refused(fetch(host, None), "sts-webpki-invalid", "its certificate is refused")


def test_not_tls(host: PolicyHost, authority: Certificate) -> None:
    host.context = None  # type: ignore[assignment]
    refused(fetch(host, authority), "sts-webpki-invalid", "TLS failed")


def test_private_addresses(host: PolicyHost, authority: Certificate) -> None:
    """A domain must not aim the relay at its own network."""
    refused(fetch(host, authority, allow_private=False), "sts-policy-fetch-error", "allow_private_hosts")
    assert host.requests == []


def test_nobody_there(host: PolicyHost, authority: Certificate) -> None:
    refused(fetch(host, authority, port=1), "sts-policy-fetch-error", "")
    refused(fetch(host, authority, "b.test"), "sts-policy-fetch-error", "does not exist in the DNS")
