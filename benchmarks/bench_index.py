"""The queue in memory against dicts and deques of plain Python: time and memory of a queued recipient.

Each side runs in a child process of its own, so that memory is its own. Prints; asserts no time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque

MESSAGES = 300_000


class Site:
    key = "mx.example.test:25"
    provider = "other"


def rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def compiled() -> dict[str, float]:
    from fastrelay._core.index import Index
    from fastrelay._core.wheel import Wheel

    index = Index(Wheel(0))
    site = index.new_site_queue(Site())
    before = rss_bytes()
    began = time.perf_counter()
    recipients = [index.py_add(n, 0, 10_000, [(0, b"example.test")])[1][0] for n in range(1, MESSAGES + 1)]
    added = time.perf_counter()
    for r in recipients:
        index.py_push_site(site, r)
    pushed = time.perf_counter()
    del recipients
    used = rss_bytes() - before
    while (r := index.py_pop(site.common)) is not None:
        index.py_defer(r, 600_000)
    deferred = time.perf_counter()
    index.select(0, MESSAGES, place=2)
    selected = time.perf_counter()
    return times(began, added, pushed, deferred, selected, used)


def plain() -> dict[str, float]:
    import heapq

    messages: dict[int, dict[str, object]] = {}
    ready: deque[dict[str, object]] = deque()
    heap: list[tuple[int, int, dict[str, object]]] = []
    before = rss_bytes()
    began = time.perf_counter()
    for n in range(1, MESSAGES + 1):
        recipient = {
            "message": n,
            "number": 0,
            "domain": "example.test",
            "place": "unplaced",
            "attempts": 0,
            "source": 0,
        }
        messages[n] = {"accepted": 0, "size": 10_000, "recipients": [recipient], "campaign": 0, "tenant": 0}
    added = time.perf_counter()
    for message in messages.values():
        for recipient in message["recipients"]:  # type: ignore[attr-defined]
            recipient["place"] = "ready"
            ready.append(recipient)
    pushed = time.perf_counter()
    used = rss_bytes() - before
    count = 0
    while ready:
        recipient = ready.popleft()
        recipient["place"] = "retry"
        count += 1
        heapq.heappush(heap, (600_000, count, recipient))
    deferred = time.perf_counter()
    [r for m in messages.values() for r in m["recipients"] if r["place"] == "retry"]  # type: ignore[attr-defined]
    selected = time.perf_counter()
    return times(began, added, pushed, deferred, selected, used)


def times(began: float, added: float, pushed: float, deferred: float, selected: float, used: int) -> dict[str, float]:
    steps = {"add": added - began, "make ready": pushed - added, "pop and defer": deferred - pushed}
    steps["select"] = selected - deferred
    return {f"{name} ns": seconds / MESSAGES * 1e9 for name, seconds in steps.items()} | {"octets": used / MESSAGES}


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps({"compiled": compiled, "plain": plain}[sys.argv[1]]()))
        return
    ours, theirs = (
        json.loads(subprocess.run([sys.executable, __file__, side], check=True, capture_output=True).stdout)
        for side in ("compiled", "plain")
    )
    print(f"{MESSAGES} messages of one recipient; for each, called from Python")
    for name, value in ours.items():
        print(
            f"{name:18} {value:8.0f}   plain Python {theirs[name]:8.0f}   ratio {theirs[name] / max(value, 1e-9):5.1f}"
        )


if __name__ == "__main__":
    main()
