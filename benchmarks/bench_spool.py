"""The spool: accept and later delete messages, durably; beside a file a message, and SQLite.

Prints figures; asserts nothing.

    python benchmarks/bench_spool.py [--seconds 3] [--folder DIR] [--live 1000000]

Each message is put (10 KB, its record, its "accepted" event), committed, then deleted (with its "delivered" event
and count) and that is committed too. GROUP messages are on their way at a time, so a group commit has about as many
operations. "loop" is the processor time of the thread that runs the event loop, this benchmark's own Python callbacks
included; "committer" that of the committer. With --live, so many messages are in the spool before, and the deleted
ones are chosen at random.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tools  # noqa: F401  (makes tests/support importable)
import uvloop
from support.spool import record

from fastrelay._core.commit import Spool
from fastrelay.spool import SpoolOptions, open_spool

CONTENT = os.urandom(10_240)
RECORD = record(1, b"e" * 320)  # an envelope, a trace header and a signature, about
ACCEPTED = b'"event":"accepted",' + b'"x":"' + b"a" * 230 + b'"}\n'
DELIVERED = b'"event":"delivered",' + b'"x":"' + b"d" * 280 + b'"}\n'


class Stream:
    """Keeps GROUP messages on their way through a spool."""

    def __init__(self, spool: Spool, group: int, seconds: float, queue: list[int] | None = None) -> None:
        self.spool = spool
        self.left = group
        self.end = time.perf_counter() + seconds
        self.finished = asyncio.get_running_loop().create_future()
        self.messages = 0
        self.queue = queue
        for _ in range(group):
            self.put()

    def put(self) -> None:
        spool = self.spool
        msgid = spool.next_id()
        spool.put_message(msgid, RECORD, CONTENT, msgid)
        spool.add_accept_event(ACCEPTED)

    def on_commit(self, cookies: list[int], error: Any) -> None:
        if error is not None:
            raise error
        spool = self.spool
        running = time.perf_counter() < self.end
        for msgid in cookies:
            if msgid > 0:
                if self.queue is not None:
                    at = random.randrange(len(self.queue))
                    msgid, self.queue[at] = self.queue[at], msgid
                spool.delete_message(msgid, -msgid)
                spool.count(1, 1)
                spool.add_event(DELIVERED)
            else:
                self.messages += 1
                if running:
                    self.put()
                else:
                    self.left -= 1
        if not self.left:
            self.finished.set_result(None)


async def fill(spool: Spool, live: int, told: list[Any]) -> list[int]:
    """Have `live` messages in a spool."""
    ids: list[int] = []
    told[:] = [lambda cookies, error: ids.extend(cookies)]
    while len(ids) < live:
        wanted = min(2000, live - len(ids))
        for _ in range(wanted):
            msgid = spool.next_id()
            spool.put_message(msgid, RECORD, b"short", msgid)
        upto = len(ids) + wanted
        while len(ids) < upto:
            await asyncio.sleep(0)
    return ids


async def spool_run(folder: str, group: int, seconds: float, live: int) -> None:
    told: list[Any] = []
    path = os.path.join(folder, "w0")
    loop = asyncio.get_running_loop()
    spool = open_spool(path, loop=loop, on_commit=lambda c, e: told[0](c, e), options=SpoolOptions(reserve_bytes=0))
    log = os.open(os.path.join(folder, "w0.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    spool.set_log_fd(log)
    queue = await fill(spool, live, told) if live else None
    spool.drain_timings()
    before = spool.figures()
    loop_before, committer_before, begun = time.thread_time(), spool.committer_seconds, time.perf_counter()
    stream = Stream(spool, group, seconds, queue)
    told[:] = [stream.on_commit]
    await stream.finished
    wall = time.perf_counter() - begun
    loop_used, committer_used = time.thread_time() - loop_before, spool.committer_seconds - committer_before
    after = spool.figures()
    commits = after["commits"] - before["commits"]
    operations = after["committed_operations"] - before["committed_operations"]
    n = stream.messages
    print(
        f"spool, {group:4d} on their way{f', {live:,} live' if live else '':16s} {n / wall:9,.0f} messages/s   "
        f"loop {loop_used / n * 1e6:5.1f} us   committer {committer_used / n * 1e6:5.1f} us a message   "
        f"{operations / max(1, commits):6.1f} operations in {wall / max(1, commits) * 1e3:5.2f} ms a commit"
    )
    spool.close()
    os.close(log)


def files_run(folder: str, seconds: float) -> None:
    """A file a message: written, synced, its folder synced; later removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    n, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        path = os.path.join(folder, f"{n:x}")
        with open(path, "wb", buffering=0) as file:
            file.write(RECORD + CONTENT)
            os.fdatasync(file.fileno())
        os.fsync(descriptor)
        os.unlink(path)
        n += 1
    print_oracle("a file a message", n, time.perf_counter() - begun, time.process_time() - used)
    os.close(descriptor)


def sqlite_run(folder: str, group: int, seconds: float) -> None:
    """SQLite (WAL, synchronous=FULL), content in the row, `group` messages a transaction."""
    database = sqlite3.connect(os.path.join(folder, "sqlite"), isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE m (id INTEGER PRIMARY KEY, record BLOB, content BLOB)")
    n, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        ids = range(n, n + group)
        database.execute("BEGIN")
        database.executemany("INSERT INTO m VALUES (?, ?, ?)", ((i, RECORD, CONTENT) for i in ids))
        database.execute("COMMIT")
        database.execute("BEGIN")
        database.executemany("DELETE FROM m WHERE id = ?", ((i,) for i in ids))
        database.execute("COMMIT")
        n += group
    print_oracle(f"SQLite, groups of {group}", n, time.perf_counter() - begun, time.process_time() - used)
    database.close()


def print_oracle(name: str, n: int, wall: float, used: float) -> None:
    print(f"{name:42s} {n / wall:9,.0f} messages/s   {used / n * 1e6:6.1f} us a message")


def in_folder(base: str | None, act: Callable[[str], Any]) -> None:
    folder = tempfile.mkdtemp(prefix="bench-spool-", dir=base)
    try:
        act(folder)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", help="where to write; its file system is what is measured")
    parser.add_argument("--live", type=int, default=0)
    parser.add_argument("--groups", type=int, nargs="*", default=[20, 200, 2000])
    parser.add_argument("--only-spool", action="store_true")
    options = parser.parse_args()
    for group in options.groups:
        in_folder(
            options.folder,
            lambda folder, group=group: uvloop.run(spool_run(folder, group, options.seconds, options.live)),
        )
    if not options.only_spool:
        in_folder(options.folder, lambda folder: files_run(folder, options.seconds))
        for group in (20, 200):
            in_folder(options.folder, lambda folder, group=group: sqlite_run(folder, group, options.seconds))


if __name__ == "__main__":
    main()
