"""The HTTP end of the metrics: GET /metrics for Prometheus, GET /healthz for load balancers.

A small HTTP/1.1 server of our own: two paths, no bodies taken, every bound named. The text is made in a thread, one
scrape at a time, so that a large scrape does not hold up the supervisor's signals and restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client.registry import CollectorRegistry

from fastrelay.metrics.collector import CONTENT_TYPE, Registry, render

log = logging.getLogger("fastrelay.metrics")

HEAD_BYTES = 16384
MAX_CONNECTIONS = 64
IDLE_SECONDS = 60.0
REQUEST_SECONDS = 10.0
WRITE_SECONDS = 30.0
_TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """health: gives None when all is well, else words on what is not."""

    def __init__(self, registry: CollectorRegistry, health: Callable[[], str | None]) -> None:
        self._registry = registry
        self._health = health
        self._server: asyncio.Server | None = None
        self._scraping = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError (port in use)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = await asyncio.start_server(self._serve, host, port, family=family, limit=HEAD_BYTES)

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens."""
        if self._server is None:
            return None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1.0)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                while await self._exchange(reader, writer):
                    pass
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it went away, was too slow, or sent no request
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._connections.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its response; whether the connection goes on."""
        async with asyncio.timeout(IDLE_SECONDS):
            start = await reader.readline()
        if not start:
            return False
        async with asyncio.timeout(REQUEST_SECONDS):
            rest = b"" if start in (b"\r\n", b"\n") else await _read_fields(reader)
        words = start.split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            self._respond(writer, HTTPStatus.BAD_REQUEST, _TEXT, b"not a request\n", keep=False)
            return False
        method, target, version = words
        keep = version == b"HTTP/1.1" and b"connection: close" not in rest.lower()
        status, kind, body = await self._answer(method, target.split(b"?")[0])
        if method == b"HEAD":
            body = b""
        self._respond(writer, status, kind, body, keep)
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()
        return keep

    async def _answer(self, method: bytes, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"
        if path == b"/metrics":
            async with self._scraping:
                if isinstance(self._registry, Registry):
                    self._registry.prepare()
                body = await asyncio.get_running_loop().run_in_executor(None, render, self._registry)
            return HTTPStatus.OK, CONTENT_TYPE, body
        if path == b"/healthz":
            trouble = self._health()
            if trouble is None:
                return HTTPStatus.OK, _TEXT, b"ok\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, trouble.encode() + b"\n"
        if path == b"/":
            return HTTPStatus.OK, _TEXT, b"fastrelay: /metrics, /healthz\n"
        return HTTPStatus.NOT_FOUND, _TEXT, b"there are /metrics and /healthz\n"

    def _respond(self, writer: asyncio.StreamWriter, status: HTTPStatus, kind: str, body: bytes, keep: bool) -> None:
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        writer.write(head.encode() + body)


async def _read_fields(reader: asyncio.StreamReader) -> bytes:
    """The header fields up to the empty line. Raises ValueError past the bound."""
    fields = b""
    while (line := await reader.readline()) not in (b"\r\n", b"\n"):
        if not line:
            raise asyncio.IncompleteReadError(fields, None)
        fields += line
        if len(fields) > HEAD_BYTES:
            raise ValueError("the header fields are too long")
    return fields
