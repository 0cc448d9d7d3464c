"""The HTTP end of the metrics: its two paths, and clients that do not behave."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from fastrelay.metrics.server import HEAD_BYTES, MAX_CONNECTIONS, MetricsServer


class One(Collector):
    def collect(self):
        yield GaugeMetricFamily("fastrelay_one", "One.", 1)


class Server:
    def __init__(self) -> None:
        self.trouble: str | None = None
        made = CollectorRegistry()
        made.register(One())
        self.server = MetricsServer(made, lambda: self.trouble)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.server.address is not None
        return await asyncio.open_connection(*self.server.address)

    async def exchange(self, octets: bytes) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(octets)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass

    async def get(self, path: str, method: str = "GET") -> tuple[int, bytes, bytes]:
        """(status, head, body)"""
        answer = await self.exchange(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head, body


def run(story: Callable[[Server], Awaitable[None]]) -> None:
    async def main() -> None:
        server = Server()
        await server.server.start("127.0.0.1", 0)
        try:
            await story(server)
        finally:
            await server.server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_metrics() -> None:
    async def story(server: Server) -> None:
        status, head, body = await server.get("/metrics?name=x")
        assert status == 200
        assert b"Content-Type: text/plain; version=0.0.4" in head
        assert b"fastrelay_one 1.0\n" in body
        assert f"Content-Length: {len(body)}".encode() in head

    run(story)


def test_health() -> None:
    async def story(server: Server) -> None:
        assert (await server.get("/healthz"))[::2] == (200, b"ok\n")
        server.trouble = "worker 1 is restarting"
        assert (await server.get("/healthz"))[::2] == (503, b"worker 1 is restarting\n")

    run(story)


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 200), ("/metric", "GET", 404), ("/metrics", "POST", 405)]
)
def test_other_requests(path: str, method: str, status: int) -> None:
    async def story(server: Server) -> None:
        assert (await server.get(path, method))[0] == status

    run(story)


def test_head_has_no_body() -> None:
    async def story(server: Server) -> None:
        assert (await server.get("/metrics", "HEAD"))[::2] == (200, b"")

    run(story)


def test_a_connection_goes_on() -> None:
    async def story(server: Server) -> None:
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await server.exchange(request * 2 + b"GET /healthz HTTP/1.0\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b"Connection: keep-alive") == 2

    run(story)


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n\r\n",
        b"\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics SPDY/3\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(octets: bytes) -> None:
    async def story(server: Server) -> None:
        assert (await server.exchange(octets)).startswith(b"HTTP/1.1 400 ")
        assert (await server.get("/healthz"))[0] == 200

    run(story)


@pytest.mark.parametrize(
    "octets",
    [
        b"GET /" + b"x" * 2 * HEAD_BYTES,
        b"GET / HTTP/1.1\r\n" + b"X-Field: y\r\n" * HEAD_BYTES,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 3 * HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_requests_have_a_bound(octets: bytes) -> None:
    async def story(server: Server) -> None:
        assert await server.exchange(octets) == b""
        assert (await server.get("/healthz"))[0] == 200

    run(story)


def test_connections_have_a_bound() -> None:
    async def story(server: Server) -> None:
        idle = [await server.connect() for _ in range(MAX_CONNECTIONS)]
        for reader, writer in idle:
            writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert await server.exchange(b"GET /healthz HTTP/1.0\r\n\r\n") == b""
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()

    run(story)
