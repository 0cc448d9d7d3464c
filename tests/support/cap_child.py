"""A worker that sends under a cap and is killed: python cap_child.py STATE TABLE STEP AFTER UNITS.

It uses units of the cap a:google until UNITS are used or there are no more, among other work of its spool
(STATE/spool/w0), and says on its standard output what it used: `used PERIOD N`. STEP is where the committer ends the
process (fastrelay._core.commit.STEPS), when it passes there for the (AFTER + 1)th time; "-" for never.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.spool import Box

from fastrelay._core.limits import Gate, Rule
from fastrelay._core.table import Table
from fastrelay.limits.durable import Reservations, cap_name
from fastrelay.spool import SpoolOptions

OPTIONS = SpoolOptions(map_bytes=1 << 28, reserve_bytes=0, segment_bytes=20_000, compact_seconds=1e9, spare_segments=2)
NAME = cap_name("a", "google")
SECOND = 10**9


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Child(Box):
    """Its cookies are called, as the engine does."""

    def _told(self, cookies: list, error: object) -> None:
        for cookie in cookies:
            if callable(cookie):
                cookie(error)


def main() -> None:
    state, table_path, step, after, units = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    child = Child(os.path.join(state, "spool"), OPTIONS)
    child.loop.turn_until(lambda: child.spool.ready)
    table = Table(table_path)
    rule = Rule(table, NAME, kind="cap", reservations=Reservations(child.spool))
    gate = Gate([rule])
    say("ready")
    if step != "-":
        child.spool.crash_at(step, after)
    used, denied, before = 0, 0, 0
    while used < units and denied < 3:
        got = gate.permit(min(3, units - used), SECOND, False)
        if got:
            say("used", rule.period, got)
            used, denied = used + got, 0
            continue
        denied += 1
        msgid = child.put(commit=False)
        if before:
            child.deliver(before, commit=False)
        before = msgid
        child.commit()
    say("closing")
    rule.close()
    child.close()
    say("closed")


if __name__ == "__main__":
    main()
