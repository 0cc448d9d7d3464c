"""A worker process: the relay of one slot, and its line to the supervisor.

Started by the supervisor as `python -m fastrelay.worker`; the first line on its control channel is the start message.
It ends when it was told to drain, or with its supervisor (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
from typing import Any

import msgspec
import uvloop

from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.admin.child import CONTROL_FD, die_with_parent
from fastrelay.admin.commands import Commands
from fastrelay.admin.log import start_logging
from fastrelay.admin.privileges import drop, harden
from fastrelay.app import App
from fastrelay.clock import RealClock
from fastrelay.config.schema import from_builtins
from fastrelay.errors import FastrelayError
from fastrelay.tls.sts_cache import kept_of

log = logging.getLogger("fastrelay.worker")

LINE_BYTES = 64 * 1024 * 1024
GC_THRESHOLD = 5_000  # container objects; the hot path makes no cycles, but each connect makes some


class Worker:
    """One worker's life."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.app: App | None = None
        self._over = asyncio.Event()

    async def run(self) -> int:
        """Until drained; the exit status."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._channel, limit=LINE_BYTES)
        first = await self._reader.readline()
        if not first:
            return 1
        start = msgspec.json.decode(first)["start"]
        start_logging(f"worker {start['slot']}")
        try:
            bound = await self._start(start)
        except (FastrelayError, OSError, ValueError) as error:
            self._say({"event": "failed", "error": words_of(error)})
            with contextlib.suppress(OSError):
                await self._writer.drain()
            return 2
        self._say({"event": "ready", "listening": bound})
        listening = asyncio.create_task(self._serve())
        await self._over.wait()
        listening.cancel()
        with contextlib.suppress(OSError):
            await self._writer.drain()
        return 0

    async def _start(self, start: dict[str, Any]) -> list[str]:
        config = from_builtins(start["config"])
        slot, slots = start["slot"], start["slots"]
        self.app = App(
            config,
            state_dir=start["state_dir"],
            slot=slot,
            slots=slots,
            clock=RealClock(),
            table=Table(start["table"]),
            slab=Slab(start["slab"]),
        )
        self.app.report = self._say
        self.app.on_bound = drop
        self.app.set_limits(start.get("limits", {}))
        self.app.tls.sts.take(kept_of(start.get("mta_sts", [])))
        self._commands = Commands(self.app)
        return await self.app.start(start.get("orphans", []), start.get("suspensions", []))

    def _say(self, message: dict[str, Any]) -> None:
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
            result = await self._commands.handle(command, arguments)
        except (FastrelayError, OSError, ValueError, KeyError) as error:
            self._say({"id": number, "error": words_of(error)})
            return
        except Exception as error:
            log.exception("command %s failed in the relay itself; please report this", command)
            self._say({"id": number, "error": f"error inside the relay: {error!r}; see its log"})
            return
        self._say({"id": number, "result": result})
        if command == "drain":
            self._say({"event": "drained"})
            self._over.set()


def words_of(error: BaseException) -> str:
    """An error for an operator."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyError):
        return f"missing argument {error}"
    return str(error) or repr(error)


def main() -> int:
    harden()
    die_with_parent()
    channel = socket.socket(fileno=int(os.environ[CONTROL_FD]))
    channel.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(GC_THRESHOLD, 10, 10)

    async def live() -> int:
        return await Worker(channel).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(live())


if __name__ == "__main__":
    sys.exit(main())
