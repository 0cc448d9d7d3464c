"""The parent's end of ``python -m fastrelay.sim``.

``async with Box(domains=500) as box:`` starts the child; ``box.nameserver`` and ``box.port`` go into a relay's
configuration, ``await box.stats()`` says what arrived so far, ``await box.account()`` fetches the exact account.

Known faults: one request at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastrelay.errors import FastrelayError
from fastrelay.sim.account import Account

MOST_ANSWER = 1 << 24
START_SECONDS = 30.0
STOP_SECONDS = 10.0


class BoxFailed(FastrelayError):
    """The simulated internet did not start, or went away."""


class Box:
    """The child process. ``behaviour`` and ``behaviours`` hold fields of ``mx.Behaviour``."""

    def __init__(
        self,
        domains: int = 500,
        *,
        subnet: str = "127.77",
        behaviour: dict[str, Any] | None = None,
        behaviours: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self._order = {
            "domains": domains,
            "subnet": subnet,
            "behaviour": behaviour or {},
            "behaviours": behaviours or {},
        }
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self.nameserver = ""
        self.port = 0
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Start the child and wait until it listens. Raises BoxFailed."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fastrelay.sim",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MOST_ANSWER,
            start_new_session=True,  # Ctrl-C is for the parent alone, who then ends this child
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                answer = await self._exchange(self._order)
        except TimeoutError:
            await self.stop()
            raise BoxFailed(f"the simulated internet did not start within {START_SECONDS:.0f} s") from None
        if "failed" in answer:
            await self.stop()
            raise BoxFailed(answer["failed"])
        ready = answer["ready"]
        self.nameserver, self.port, self.addresses = ready["nameserver"], ready["port"], ready["addresses"]

    async def stop(self) -> None:
        """End the child: by closing its input, and by its pid if it does not listen."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def __aenter__(self) -> Box:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def call(self, command: str, **arguments: Any) -> Any:
        """One request; its result. Raises BoxFailed."""
        answer = await self._exchange({"command": command, "arguments": arguments})
        if "error" in answer:
            raise BoxFailed(f"{command}: {answer['error']}")
        return answer["result"]

    async def stats(self) -> dict[str, Any]:
        """Counts so far (see ``__main__.stats``)."""
        result: dict[str, Any] = await self.call("stats")
        return result

    async def account(self) -> Account:
        """The whole account, by way of a temporary file."""
        with tempfile.TemporaryDirectory(prefix="fastrelay-account-") as folder:
            path = Path(folder) / "account"
            await self.call("write_account", path=str(path))
            return Account.read(path)

    async def _exchange(self, line: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise BoxFailed("the simulated internet is not running")
        async with self._turn:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(line).encode() + b"\n")
                await process.stdin.drain()
            answer = await process.stdout.readline()
        if not answer:
            raise BoxFailed("the simulated internet went away; its error is above")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded
