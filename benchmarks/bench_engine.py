"""The middle of the relay without sockets: accept → group commit → pull → settle as delivered → commit, on a spool.

The oracle does the same steps in plain Python over the same spool: record by struct, JSON by json, dicts for the queue.
Prints microseconds of CPU a message (this thread and the committer's); asserts that both settle all, and no time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import uvloop
from bench_record import encode_plain
from support.worker import WorkerBox, envelope_of

from fastrelay._core.reply import Reply

MESSAGES = 20_000
GROUP = 200
CONTENT = b"Subject: news\r\n\r\n" + b"A line of a newsletter, as long as lines are.\r\n" * 220


class Told:
    """A client that hears its 250."""

    count = 0

    def stored(self, reply: bytes, now: float) -> None:
        Told.count += 1


async def engine(folder: Path) -> float:
    async with WorkerBox(folder, ["127.0.0.1:9"]) as box:
        app, spool = box.app, box.app.own_spool
        envelope = envelope_of("news@sender.test", ["user@example.test"], CONTENT)
        app.board.pump = app.engine.cold.pump = lambda site, now: None  # nobody connects here
        await box.accepted(["first@example.test"])
        await box.until(lambda: app.board.sites)
        [site] = app.board.sites.values()
        client, tail, reply = Told(), b',"source":"a","site":"x"', Reply(250, b"2.0.0 Ok: queued")
        now = box.clock.monotonic()
        began, committed = time.thread_time(), spool.committer_seconds
        for _ in range(MESSAGES // GROUP):
            for _ in range(GROUP):
                app.engine.accept(client, envelope, b"127.0.0.1", b"Received: from x by y id ", None, now)
            spool.drain()
            while (delivery := app.engine.pull(site, 0, 100, now)) is not None:
                delivery.transaction.final_reply = reply
                app.engine.settle_delivered(delivery, tail, now)
            spool.drain()
        seconds = time.thread_time() - began + spool.committer_seconds - committed
        assert box.counters()["delivered"] == MESSAGES + 1, box.counters()
        return seconds


async def oracle(folder: Path) -> float:
    async with WorkerBox(folder, []) as box:
        spool = box.app.own_spool
        fields = (
            b"news@sender.test",
            b"",
            b"",
            b"",
            b"",
            b"127.0.0.1",
            b"client.test",
            b"Received: from x by y id 1\r\n",
        )
        domains: dict[str, deque[dict[str, Any]]] = {}
        began, committed = time.thread_time(), spool.committer_seconds
        for _ in range(MESSAGES // GROUP):
            waiting = []
            for _ in range(GROUP):
                address = b"user@example.test"
                msgid = spool.next_id()
                event = {
                    "event": "accepted",
                    "time": time.strftime("%FT%TZ", time.gmtime()),
                    "id": f"{spool.tag}-{msgid:x}",
                }
                event |= {
                    "reverse_path": "news@sender.test",
                    "recipients": [address.decode()],
                    "size_bytes": len(CONTENT),
                }
                event |= {"client": "127.0.0.1", "helo": "client.test"}
                spool.put_message(msgid, encode_plain(1, fields, [address]), CONTENT, lambda error: None)
                spool.add_accept_event(json.dumps(event).encode()[1:] + b"\n")
                waiting.append({"id": msgid, "recipient": address, "place": "accepted", "attempts": 0, "since": 0.0})
            spool.drain()
            for message in waiting:
                domain = message["recipient"].decode().rpartition("@")[2].lower()
                domains.setdefault(domain, deque()).append(message)
            for queue in domains.values():
                while queue:
                    message = queue.popleft()
                    event = {"event": "delivered", "time": time.strftime("%FT%TZ", time.gmtime())}
                    event |= {"id": f"{spool.tag}-{message['id']:x}", "reverse_path": "news@sender.test"}
                    event |= {"recipient": message["recipient"].decode(), "attempt": 1, "source": "a", "site": "x"}
                    event |= {"code": 250, "reply": "2.0.0 Ok: queued", "queued_seconds": 0}
                    spool.add_event(json.dumps(event).encode()[1:] + b"\n")
                    spool.count(1, 1)
                    spool.delete_message(message["id"], lambda error: None)
            spool.drain()
        seconds = time.thread_time() - began + spool.committer_seconds - committed
        assert spool.counters["delivered"] == MESSAGES
        return seconds


def main() -> None:
    found = {}
    for name, work in (("engine", engine), ("plain Python", oracle)):
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            began = time.perf_counter()
            cpu = runner.run(work(Path(folder)))
            found[name] = cpu / MESSAGES * 1e6
            rate = MESSAGES / (time.perf_counter() - began)
            print(f"{name:13} {found[name]:7.1f} us CPU a message, {rate:8.0f} messages/s, groups of {GROUP}")
    print(f"ratio {found['plain Python'] / found['engine']:.1f}; both write contents of {len(CONTENT)} octets")


if __name__ == "__main__":
    main()
