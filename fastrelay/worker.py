"""A worker process: the relay of one slot, and its line to the supervisor.

Started by the supervisor as `python -m fastrelay.worker`; the first line on its control channel is the start message.
It ends when it was told to drain, or with its supervisor (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import sys
from typing import Any

from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.admin.channel import Child, live
from fastrelay.admin.commands import Commands
from fastrelay.admin.log import start_logging
from fastrelay.admin.privileges import drop
from fastrelay.app import App
from fastrelay.clock import RealClock
from fastrelay.config.schema import from_builtins
from fastrelay.tls.sts_cache import kept_of


class Worker(Child):
    """One worker's life."""

    app: App | None = None

    async def begin(self, start: dict[str, Any]) -> list[str]:
        start_logging(f"worker {start['slot']}")
        self.app = App(
            from_builtins(start["config"]),
            state_dir=start["state_dir"],
            slot=start["slot"],
            slots=start["slots"],
            clock=RealClock(),
            table=Table(start["table"]),
            slab=Slab(start["slab"]),
        )
        self.app.report = self.say
        self.app.on_bound = drop
        self.app.set_limits(start.get("limits", {}))
        self.app.tls.sts.take(kept_of(start.get("mta_sts", [])))
        self._commands = Commands(self.app)
        return await self.app.start(start.get("orphans", []), start.get("suspensions", []))

    async def handle(self, command: str, arguments: dict[str, Any]) -> Any:
        return await self._commands.handle(command, arguments)


def main() -> int:
    return live(Worker)


if __name__ == "__main__":
    sys.exit(main())
