"""An endpoint for webhooks on loopback, that answers as a test says and keeps what it got."""

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web


class Got(NamedTuple):
    headers: Any
    body: bytes
    status: int

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of a batch in our own format."""
        found: list[dict[str, Any]] = json.loads(self.body)["data"]
        return found

    @property
    def keys(self) -> list[str]:
        return [event["key"] for event in self.events]


class HookServer:
    """`answer` gives a response for the number of a request, from 0, and the body; None: 204."""

    def __init__(self, answer: Callable[[int, bytes], web.Response | None] | None = None) -> None:
        self.answer = answer or (lambda number, body: None)
        self.got: list[Got] = []
        self.changed = asyncio.Event()
        self.hold: asyncio.Event | None = None  # requests wait for it
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self, context: ssl.SSLContext | None = None) -> "HookServer":
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{port}/hook"
        return self

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        response = self.answer(len(self.got), body) or web.Response(status=204)
        self.got.append(Got(request.headers.copy(), body, response.status))
        self.changed.set()
        if self.hold is not None:
            await self.hold.wait()
        return response

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until requests have come that satisfy a condition."""
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)

    @property
    def taken(self) -> list[Got]:
        return [one for one in self.got if one.status < 300]

    @property
    def keys(self) -> list[str]:
        """Keys of events that were taken, in order."""
        return [key for one in self.taken for key in one.keys]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
