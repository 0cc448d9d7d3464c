"""A child of the supervisor on its control channel: the start message in, requests answered, events told unasked.

The first line is {"start": …}; then {"id", "command", "arguments"} in, {"id", "result"} or {"id", "error"} out, several
at a time. A child tells {"event": "ready"}, "failed" with words, "drained", and whatever its parts report.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from fastrelay.admin.child import CONTROL_FD, die_with_parent
from fastrelay.admin.privileges import harden
from fastrelay.errors import FastrelayError

log = logging.getLogger("fastrelay.child")

LINE_BYTES = 64 * 1024 * 1024
GC_THRESHOLD = 5_000  # container objects; the hot path makes no cycles, but each connect makes some


class Child:
    """One child's life. Subclasses say what it is: `begin` and `handle`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._over = asyncio.Event()

    async def begin(self, start: dict[str, Any]) -> list[str]:
        """Starts by the start message; gives the addresses it listens at. What it raises the operator hears."""
        raise NotImplementedError

    async def handle(self, command: str, arguments: dict[str, Any]) -> Any:
        """The result of a request. FastrelayError, OSError, ValueError and KeyError are answers in words."""
        raise NotImplementedError

    async def run(self) -> int:
        """Until drained; the exit status."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._channel, limit=LINE_BYTES)
        first = await self._reader.readline()
        if not first:
            return 1
        try:
            bound = await self.begin(msgspec.json.decode(first)["start"])
        except (FastrelayError, OSError, ValueError) as error:
            self.say({"event": "failed", "error": words_of(error)})
            with contextlib.suppress(OSError):
                await self._writer.drain()
            return 2
        self.say({"event": "ready", "listening": bound})
        listening = asyncio.create_task(self._serve())
        await self._over.wait()
        listening.cancel()
        with contextlib.suppress(OSError):
            await self._writer.drain()
        return 0

    def say(self, message: dict[str, Any]) -> None:
        """Tells the supervisor."""
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _serve(self) -> None:
        """Requests of the supervisor, several at a time."""
        running: set[asyncio.Task[None]] = set()
        while line := await self._reader.readline():
            request = msgspec.json.decode(line)
            task = asyncio.create_task(self._answer(request))
            running.add(task)
            task.add_done_callback(running.discard)
        self._over.set()  # the supervisor is gone; the kernel will say the same

    async def _answer(self, request: dict[str, Any]) -> None:
        number, command, arguments = request["id"], request["command"], request.get("arguments") or {}
        try:
            result = await self.handle(command, arguments)
        except (FastrelayError, OSError, ValueError, KeyError) as error:
            self.say({"id": number, "error": words_of(error)})
            return
        except Exception as error:
            log.exception("command %s failed in the relay itself; please report this", command)
            self.say({"id": number, "error": f"error inside the relay: {error!r}; see its log"})
            return
        self.say({"id": number, "result": result})
        if command == "drain":
            self.say({"event": "drained"})
            self._over.set()


def words_of(error: BaseException) -> str:
    """An error for an operator."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyError):
        return f"missing argument {error}"
    return str(error) or repr(error)


def live(kind: Callable[[socket.socket], Child]) -> int:
    """The whole life of a child process; its exit status."""
    harden()
    die_with_parent()
    channel = socket.socket(fileno=int(os.environ[CONTROL_FD]))
    channel.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(GC_THRESHOLD, 10, 10)

    async def run() -> int:
        return await kind(channel).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
