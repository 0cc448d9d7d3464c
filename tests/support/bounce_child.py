"""A worker that owes bounce messages and is killed: python bounce_child.py FOLDER STEP AFTER.

It accepts MESSAGES messages to recipients that do not exist, lets them fail and pays what it owes, until the committer
ends the process at STEP (fastrelay._core.commit.STEPS), when it passes there for the (AFTER + 1)th time. With STEP "-"
it accepts nothing, and pays what the one before left.

In FOLDER: `accepted` has the ids that were answered with 250, `letters` what the sender's host took, as it took it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.worker import Mx, Talk, WorkerBox, run

MESSAGES = 6
SEPARATOR = b"\n=====\n"


class RecordingMx(Mx):
    """Writes down what it takes before it says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            lambda verb, argument, talk: "550 5.1.1 Nobody" if verb == "RCPT" and "bad" in argument else ""
        )
        self.path = path

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk) -> bool:
        lines = []
        while (line := await reader.readline()) != b".\r\n":
            if not line:
                return False
            lines.append(line)
        append(self.path, b"".join(lines) + SEPARATOR)
        return bool(self._say(writer, talk, "BODY", "", "250 stored"))


def append(path: Path, octets: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, octets)
    os.close(descriptor)


async def accept(box: WorkerBox, folder: Path) -> None:
    for number in range(MESSAGES):
        recipients = [f"a{number}@bad.test", f"b{number}@bad.test"][: 1 + number % 2]
        client = box.submit(recipients, sender="news@a.test")
        await box.until(lambda client=client: client.replies)  # type: ignore[misc]
        if client.replies[0].startswith(b"250"):
            append(folder / "accepted", client.replies[0].split()[-1] + b"\n")
        if number % 3 == 2:
            box.pass_time(30)


def quiet(box: WorkerBox) -> bool:
    environment: Any = box.app.own_spool.environment
    return bool(environment.count("msg") == 0)


async def work(folder: Path, step: str, after: int) -> None:
    mx = RecordingMx(folder / "letters")
    async with WorkerBox(folder / "state", [await mx.start()], bounces={"gather": 20.0}) as box:
        if step != "-":
            box.app.own_spool.crash_at(step, after)
            await accept(box, folder)
        while not quiet(box):
            box.pass_time(25)
            await box.settled()
            await asyncio.sleep(0.001)
        await box.audit()


if __name__ == "__main__":
    run(lambda: work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
