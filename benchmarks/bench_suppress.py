"""The suppression list: what a million entries cost on disk and in memory, a look-up, and an import.

    python benchmarks/bench_suppress.py [--entries 1000000] [--import-file]

Look-ups are measured over the Python call that the engine makes (Suppressed.find → Lookup.find), in a process of its
own that opened the list for reading as a worker does: of addresses that are not on the list (nearly all), and of some
that are. Memory is the growth of that process's resident set after a look at every entry: pages of the file, which
workers share. The import is that of `fastrelay suppress import`, from the file through parsing, sorting and the
feedback process's commits, without the sockets between them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from fastrelay._core.lmdb import Environment, ReadOnly
from fastrelay._core.slab import Slab
from fastrelay.cli.suppress import Import
from fastrelay.cli.suppress_csv import Defaults
from fastrelay.clock import RealClock
from fastrelay.config.schema import from_builtins
from fastrelay.feedback.desk import DATABASES, MAP_BYTES, STORE, Desk
from fastrelay.feedback.suppression import ENTRIES, NAMES, Lookup

FIRST = ("anna", "ben", "carla", "dmitri", "elena", "farid", "grace", "hiro", "ines", "johannes", "katarzyna", "li")
LAST = ("smith", "mueller", "garcia", "kowalska", "tanaka", "oconnor", "vandenberg", "rossi", "ivanova", "nguyen")
DOMAINS = ("gmail.com",) * 35 + ("yahoo.com",) * 10 + ("hotmail.com",) * 10 + ("outlook.com",) * 8 + ("icloud.com",) * 5
SCOPES = (("global", ""),) * 5 + (("tenant", "acme-shop"), ("tenant", "city-press"), ("sender", "news.example.com"))
REASONS = ("hard_bounce",) * 6 + ("unsubscribe",) * 3 + ("complaint",)


def address(number: int) -> str:
    rng = random.Random(number)
    local = f"{rng.choice(FIRST)}.{rng.choice(LAST)}{rng.randrange(10**5)}"
    domain = rng.choice(DOMAINS) if rng.random() < 0.7 else f"mail{rng.randrange(40_000)}.example.org"
    return f"{local}{number % 7}@{domain}"


def make_file(path: str, entries: int) -> None:
    with open(path, "w") as file:
        file.write("address,scope,scope_value,reason,source,created,expires\n")
        for number in range(entries):
            scope, value = SCOPES[number % len(SCOPES)]
            reason = REASONS[number % len(REASONS)]
            expires = "2027-06-01T00:00:00Z" if number % 10 == 0 else ""
            file.write(f"{address(number)},{scope},{value},{reason},bounce,{1_700_000_000 + number},{expires}\n")


class Direct:
    """The control socket's place: each call is carried out at once."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self._loop = loop
        self.seconds = 0.0

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        before = time.perf_counter()
        answer = self._loop.run_until_complete(self._desk.command(command, arguments))
        self.seconds += time.perf_counter() - before
        return answer


def import_all(state: str, path: str) -> None:
    """In a process of its own."""
    os.makedirs(os.path.join(state, "events"), exist_ok=True)
    slab = Slab(os.path.join(state, "slab"), create=True)
    config = from_builtins({"hostname": "relay.example.org"})
    loop = asyncio.new_event_loop()
    desk = Desk(config, state_dir=state, clock=RealClock(), slab=slab)
    desk.log.open()
    direct = Direct(desk, loop)
    job = Import(direct, False, progress=False)
    began, cpu = time.perf_counter(), time.process_time()
    with open(path, "rb") as file:
        job.read(file, Defaults(source="import:bench"))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    rate = job.rows / seconds
    print(f"import           {job.rows:,} rows in {seconds:.1f} s: {rate:,.0f}/s ({cpu:.1f} s of CPU)")
    print(f"  of it the feedback process {direct.seconds:.1f} s; new {job.total['new']:,}, bad {job.bad}")
    print(f"  memory           {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most")


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def look_up(state: str, entries: int) -> None:
    """In a process of its own, as a worker."""
    reader = ReadOnly(os.path.join(state, STORE), (ENTRIES, NAMES), map_bytes=MAP_BYTES)
    lookup = Lookup(reader)
    rng = random.Random(7)
    absent = [f"nobody{rng.randrange(10**9)}@{rng.choice(DOMAINS)}".encode() for _ in range(200_000)]
    present = [address(rng.randrange(entries)).encode() for _ in range(200_000)]
    before = rss_bytes()
    for number in range(entries):
        one = address(number).encode()
        lookup.find(one, one[one.find(b"@") + 1 :])
    print(f"memory           {(rss_bytes() - before) / 1e6:.1f} MB more resident once every entry was looked at")
    for name, addresses in (("not on the list", absent), ("on the list", present)):
        pairs = [(one, one[one.find(b"@") + 1 :]) for one in addresses]
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for one, domain in pairs:
                lookup.find(one, domain)
            best = min(best, (time.perf_counter() - began) / len(pairs))
        print(f"look-up          {best * 1e6:.2f} µs, {name}")


def sizes(state: str) -> None:
    with_entries = Environment(os.path.join(state, STORE), DATABASES, map_bytes=MAP_BYTES)
    print(
        f"on disk          {with_entries.info()['used_bytes'] / 1e6:.1f} MB, {with_entries.count(ENTRIES):,} addresses"
    )
    with_entries.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of the suppression list.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--folder", default=None, help="where to put the files; by default a temporary one")
    parser.add_argument("--step", choices=("import", "again", "look-up"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "look-up":
        look_up(arguments.folder, arguments.entries)
        return 0
    if arguments.step:
        import_all(arguments.folder, os.path.join(arguments.folder, "list.csv"))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        make_file(os.path.join(folder, "list.csv"), arguments.entries)
        for step in ("import", "again", "look-up"):
            command = [
                sys.executable,
                __file__,
                "--entries",
                str(arguments.entries),
                "--folder",
                folder,
                "--step",
                step,
            ]
            subprocess.run(command, check=True)
            if step != "look-up":
                sizes(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
