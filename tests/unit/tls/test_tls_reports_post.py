"""A TLS report over HTTPS: what a stranger's address may not make us do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from fastrelay.route.resolver import Answer
from fastrelay.tls.reports import PostFailed
from fastrelay.tls.reports_post import Poster, may_speak_to


class Dns:
    """Every name is at this host."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address

    async def query(self, name: str, rdtype: str) -> Answer:
        if rdtype == "A" and self.address:
            return Answer("ok", (self.address,))
        return Answer("nodata" if self.address else "temporary", detail="" if self.address else "no server answers")


class Server:
    """An HTTPS host for reports.test."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("reports.test").configure_cert(self._context)
        self.seen: list[tuple[str, str, bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.seen.append((request.path, request.headers["Content-Type"], await request.read()))
        return web.Response(status=self.status, headers=self.headers, text="x" * 100_000)

    async def __aenter__(self) -> Server:
        self._runner = web.ServerRunner(web.Server(self.answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    def poster(self, *, private: bool = True, dns: Dns | None = None, ca_file: str | None = "") -> Poster:
        chosen = self.ca_file if ca_file == "" else ca_file
        return Poster(dns or Dns(), ca_file=chosen, private=private, agent="t")  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"https://reports.test:{self.port}/r?x=1"


def with_server(folder: Path, act: Callable[[Server], Awaitable[None]]) -> None:
    async def work() -> None:
        async with Server(folder) as server:
            await act(server)

    asyncio.run(work())


async def failure(poster: Poster, url: str) -> PostFailed:
    with pytest.raises(PostFailed) as caught:
        await poster.post(url, b"x")
    return caught.value


def test_a_report_is_taken(tmp_path: Path) -> None:
    async def act(server: Server) -> None:
        await server.poster().post(server.url, b"octets")
        assert server.seen == [("/r", "application/tlsrpt+gzip", b"octets")]

    with_server(tmp_path, act)


@pytest.mark.parametrize(
    ("status", "final"), [(500, False), (503, False), (429, False), (408, False), (404, True), (307, True), (303, True)]
)
def test_what_an_answer_means_and_no_redirect_is_followed(tmp_path: Path, status: int, final: bool) -> None:
    async def act(server: Server) -> None:
        server.status, server.headers = status, {"Location": f"https://reports.test:{server.port}/elsewhere"}
        error = await failure(server.poster(), server.url)
        assert str(error).startswith(f"answered {status}")
        assert len(str(error)) < 300
        assert error.final is final
        assert [path for path, _, _ in server.seen] == ["/r"]

    with_server(tmp_path, act)


def test_a_certificate_that_nobody_vouches_for_or_of_another_name(tmp_path: Path) -> None:
    async def act(server: Server) -> None:
        assert "certificate verify failed" in str(await failure(server.poster(ca_file=None), server.url))
        other = server.url.replace("reports.test", "other.test")
        assert "certificate" in str(await failure(server.poster(), other)).lower()
        assert server.seen == []

    with_server(tmp_path, act)


def test_private_hosts_are_not_spoken_to(tmp_path: Path) -> None:
    async def act(server: Server) -> None:
        poster = server.poster(private=False)
        assert "no public address" in str(await failure(poster, server.url))
        literal = await failure(poster, f"https://127.0.0.1:{server.port}/")
        assert literal.final
        assert "no public address" in str(literal)
        assert (await failure(poster, f"https://[::1]:{server.port}/")).final
        assert "no server answers" in str(await failure(server.poster(private=False, dns=Dns("")), server.url))
        assert server.seen == []

    with_server(tmp_path, act)


def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    async def act(server: Server) -> None:
        url = server.url
        await server._runner.cleanup()
        assert not (await failure(server.poster(), url)).final

    with_server(tmp_path, act)


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("10.0.0.1", False), ("127.0.0.1", False),
        ("169.254.169.254", False), ("::1", False), ("::ffff:10.0.0.1", False), ("fe80::1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("100.64.0.1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, fine: bool) -> None:
    assert may_speak_to(address, False) is fine
    assert may_speak_to(address, True)
