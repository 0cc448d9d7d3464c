"""The account of a spool after a crash: what a child said, against what is found (promises 1 to 3)."""

from __future__ import annotations

import json
from pathlib import Path

from support.spool import Box
from support.spool_child import OPTIONS, RECIPIENTS, content_of


class Account:
    """What a child said before it died."""

    def __init__(self, said: str) -> None:
        lines = [line.split() for line in said.splitlines()]
        self.tried = {(what, int(msgid)) for word, what, msgid in (x for x in lines if len(x) == 3) if word == "try"}
        self.done = {(what, int(msgid)) for word, what, msgid in (x for x in lines if len(x) == 3) if word == "done"}
        self.failed = {
            (what, int(msgid)) for word, what, msgid in (x for x in lines if len(x) == 3) if word == "failed"
        }
        self.closed = ["closed"] in lines


def check(folder: Path, accounts: list[Account]) -> None:
    """Promises 1 to 3 after a crash."""
    tried = set().union(*(account.tried for account in accounts))
    done = set().union(*(account.done for account in accounts))
    box = Box(folder, OPTIONS)
    box.loop.turn_until(lambda: box.spool.ready)
    queued = set(box.ids())
    for what, msgid in done:
        if what == "put" and ("delete", msgid) not in tried:
            assert msgid in queued, f"message {msgid} was told durable and is lost"
        if what == "delete":
            assert msgid not in queued, f"message {msgid} was told delivered and came back"
        if what == "state" and ("delete", msgid) not in tried:
            assert box.spool.get_state(msgid) == b"state %d" % msgid
    assert {("put", msgid) for msgid in queued} <= tried
    for msgid in queued:
        assert box.read(msgid) == content_of(msgid)
    counters = box.spool.counters
    assert counters["accepted"] == counters["delivered"] + RECIPIENTS * len(queued)
    box.close()
    events = check_events(box, done, queued)
    assert len([1 for event, _ in events if event == "delivered"]) * RECIPIENTS == counters["delivered"]
    assert len([1 for event, _ in events if event == "accepted"]) * RECIPIENTS == counters["accepted"]
    segments = {int(name, 16) for name in box.segment_files()}
    assert len(segments) <= len(queued) + 1


def check_events(box: Box, done: set[tuple[str, int]], queued: set[int]) -> set[tuple[str, int]]:
    """No event is missing, a key stands for one event, and lines that are no JSON are torn ones."""
    keys: dict[str, tuple[str, int]] = {}
    torn = 0
    for line in box.log_lines():
        try:
            event = json.loads(line)
        except ValueError:
            torn += 1
            continue
        said = (event["event"], event["id"])
        assert keys.setdefault(event["key"], said) == said
    assert torn <= len(keys)
    events = set(keys.values())
    assert len(events) == len(keys)
    for what, msgid in done:
        if what == "put":
            assert ("accepted", msgid) in events
        if what == "delete":
            assert ("delivered", msgid) in events
    assert {("accepted", msgid) for msgid in queued} <= events
    return events
