"""Event logs and a feedback desk for tests, without a relay."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastrelay._core.slab import Slab
from fastrelay.clock import SimulatedClock, iso_utc
from fastrelay.config.load import load_text
from fastrelay.feedback.desk import Desk

CONFIG = "hostname: mta.test\nstate_dir: {state}\nlisteners: {{smtp: [{{bind: '127.0.0.1:0'}}]}}\n"


class LogWriter:
    """Writes event logs below a state directory, as the relay does."""

    def __init__(self, state: Path, clock: SimulatedClock) -> None:
        self.folder = state / "events"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = clock
        self.numbers: dict[str, int] = {}

    def line(self, log: str, event: str, **fields: Any) -> str:
        """The line of an event, with the next key of its log."""
        n = self.numbers[log] = self.numbers.get(log, 0) + 1
        common = {"key": f"{log}-{n:x}", "event": event, "time": iso_utc(self.clock.wall()), "id": f"{log}-m{n:x}"}
        return json.dumps(common | fields, separators=(",", ":")) + "\n"

    def write(self, log: str, event: str, **fields: Any) -> str:
        """Appends an event, and gives its key."""
        line = self.line(log, event, **fields)
        self.append(log, line.encode())
        return str(json.loads(line)["key"])

    def append(self, log: str, octets: bytes) -> None:
        with (self.folder / f"{log}.jsonl").open("ab") as file:
            file.write(octets)

    def rotate(self, log: str, suffix: str) -> None:
        os.rename(self.folder / f"{log}.jsonl", self.folder / f"{log}.jsonl.{suffix}")


def make_desk(state: Path, clock: SimulatedClock, more: str = "", change: Callable[[str], str] | None = None) -> Desk:
    """A desk that was not started. `more`: further YAML of the configuration."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / "slab.feedback"
    slab = Slab(path, create=not path.exists())
    return Desk(load_text(CONFIG.format(state=state) + more), state_dir=str(state), clock=clock, slab=slab)
