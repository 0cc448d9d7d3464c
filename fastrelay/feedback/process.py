"""The feedback process (desk.py) and its line to the supervisor.

Started by the supervisor as `python -m fastrelay.feedback.process`; it ends when it was told to, or with its
supervisor. It runs at a lower priority than the workers: what comes back can wait a little, what goes out should not.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from fastrelay._core.slab import Slab
from fastrelay.admin.channel import Child, live
from fastrelay.admin.log import start_logging
from fastrelay.admin.privileges import drop
from fastrelay.clock import RealClock
from fastrelay.config.schema import from_builtins
from fastrelay.feedback.desk import Desk

NICE = 5


class FeedbackProcess(Child):
    """Its life."""

    desk: Desk

    async def begin(self, start: dict[str, Any]) -> list[str]:
        start_logging("feedback")
        with contextlib.suppress(OSError):
            os.nice(NICE)
        slab = Slab(start["slab"])
        self.desk = Desk(from_builtins(start["config"]), state_dir=start["state_dir"], clock=RealClock(), slab=slab)
        self.desk.report = self.say
        bound = await self.desk.start()
        drop()
        return bound

    async def handle(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "ping":
                return {}
            case "reload":
                self.desk.reload(from_builtins(arguments["config"]))
                return {}
            case "reopen_logs":
                self.desk.log.reopen()
                return {}
            case "drain":
                await self.desk.close()
                return {}
        return await self.desk.command(command, arguments)


def main() -> int:
    return live(FeedbackProcess)


if __name__ == "__main__":
    sys.exit(main())
