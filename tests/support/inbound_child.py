"""A desk in a process of its own that takes two bounces at once, one of which ends the process that reads it.

    python inbound_child.py FOLDER    prints the replies, as far as it comes

The parser is a stand-in for one with a fault below Python: it kills the process with SIGKILL at the word POISON.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.intake import JOE, Box, run

from fastrelay.feedback import bounce

POISON = b"POISON"


def main() -> None:
    parse = bounce.parse_bounce

    def deadly(octets: bytes, **keys: Any) -> Any:
        if POISON in octets:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse(octets, **keys)

    async def work(box: Box) -> None:
        bounce.parse_bounce = deadly
        sound, poison = box.report(token=box.token(id="ab-1")), box.report(token=box.token(id="ab-2"), number=2)
        poison = box.message(poison.octets + POISON)
        for reply in asyncio.as_completed([box.intake.take(poison), box.intake.take(sound)]):
            print((await reply).decode().strip(), flush=True)
        print(len(box.events()), [event["recipient"] for event in box.events()] == [JOE], flush=True)

    run(Path(sys.argv[1]), work)


if __name__ == "__main__":
    main()
