"""A spool on a disk of a few MiB that fills up: full_disk.py FOLDER, where FOLDER is that disk. Says what it saw."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.spool import Box

from fastrelay.spool import SpoolOptions

BALLAST_BYTES = 2 << 20
MESSAGE = os.urandom(20_000)


def fill(folder: Path) -> int:
    """Take every octet that is left; gives how many."""
    taken = 0
    descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 16, 4096, 1):
        while True:
            try:
                taken += os.write(descriptor, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
    os.fsync(descriptor)
    os.close(descriptor)
    return taken


def main() -> None:
    folder = Path(sys.argv[1])
    options = SpoolOptions(
        map_bytes=1 << 28,
        reserve_bytes=0,
        segment_bytes=200_000,
        ballast=str(folder / "ballast"),
        ballast_bytes=BALLAST_BYTES,
    )
    box = Box(folder, options)
    box.loop.turn_until(lambda: (folder / "ballast").exists() or box.loop.advance(1.0))

    # the reserve: nothing is accepted, before anything fails
    box.put(MESSAGE)
    box.spool.housekeep(1 << 40)
    assert box.spool.refusal.startswith("452 4.3.1"), box.spool.refusal
    box.spool.housekeep(0)
    assert box.spool.accepting

    # without a reserve: accepts until the disk is full, then 452; what was accepted is all there
    accepted: list[int] = []
    while True:
        box.told.clear()
        msgid = box.put(MESSAGE)
        if box.told[0][1] is not None:
            error = box.told[0][1]
            break
        accepted.append(msgid)
    assert error.code in (errno.ENOSPC, errno.EIO), error
    assert error.reply.startswith("452"), error.reply
    assert len(accepted) > 50
    print("accepted", len(accepted))

    # not an octet left: settles take the ballast, and get through
    print("filled", fill(folder))
    settled = 0
    for msgid in accepted[:40]:
        box.deliver(msgid, commit=False)
        if not box.commit():
            break
        settled += 1
        fill(folder)
    print("settled", settled, "ballast", (folder / "ballast").exists(), box.spool.unhealthy)
    assert settled == 40 or (settled and not (folder / "ballast").exists())

    # room again: everything goes on
    os.unlink(folder / "filler")
    for _ in range(5):
        box.loop.advance(2.0)
        box.commit()
    assert not box.spool.settle_blocked, box.spool.unhealthy
    assert box.spool.accepting, box.spool.refusal
    for msgid in accepted[:40]:
        assert box.spool.get_record(msgid) is None or msgid in accepted[settled + 1 :]
    for msgid in accepted[40:]:
        assert box.read(msgid) == MESSAGE
    box.deliver(accepted[-1])
    assert box.read(box.put(b"small")) == b"small"
    counters = box.spool.counters
    box.reopen()
    assert box.spool.counters == counters
    assert counters["accepted"] - counters["delivered"] == len(box.ids())
    box.close()
    events = {}
    for line in box.log_lines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off when the disk was full; it stands again, whole, further down
        events[event["key"]] = event["event"]
    assert list(events.values()).count("delivered") == counters["delivered"]
    assert list(events.values()).count("accepted") == counters["accepted"]
    print("fine")


if __name__ == "__main__":
    main()
