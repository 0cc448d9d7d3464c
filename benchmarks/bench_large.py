#!/usr/bin/env python3
"""A hundred large messages at once: how much memory does the relay take while 25 MiB each flow through it?

Samples the resident memory of all its processes every 20 ms from the first submission to the last delivery. "resident"
is everything (VmRSS), "own" leaves out mapped files, which are page cache that the kernel takes back at need.
Prints figures, asserts none; the exit status is 1 if something was lost, repeated or damaged.
"""

import argparse
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import tools
from support.net import free_endpoint
from support.relay import RelayProcess, memory_bytes


class MemoryWatch:
    """Samples in a thread; the largest sums over all processes of the relay, in octets."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self.resident = self.own = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            sizes = []
            for pid in self.relay.pids():
                try:
                    sizes.append(memory_bytes(pid))
                except (FileNotFoundError, ProcessLookupError):
                    continue
            self.resident = max(self.resident, sum(size.get("VmRSS", 0) for size in sizes))
            own = sum(size.get("RssAnon", 0) + size.get("RssShmem", 0) for size in sizes)
            self.own = max(self.own, own)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description="memory while large messages flow")
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--size", type=int, default=25 * 2**20)
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-large-", dir=options.directory))
    tools.print_machine(directory)
    where = free_endpoint()
    try:
        with tools.LoadSink("-V", listen=where) as sink, RelayProcess(directory, {
            "workers": int(options.workers) if options.workers.isdigit() else options.workers,
            "routes": [{"domains": ["*"], "hosts": [where]}],
            "delivery": {"allow_private_hosts": True, "connections_per_site": options.sessions},
        }) as relay:
            idle = sum(memory_bytes(pid)["VmRSS"] for pid in relay.pids())
            with MemoryWatch(relay) as watch:
                source = tools.run_source(
                    "-c", relay.endpoint, "-s", str(options.sessions), "-n", str(options.messages), "-l",
                    str(options.size), "-d", "50", "-t", "300",
                )
                report = sink.wait("unique", source["accepted"], 1800)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    octets = report["bytes"] / 2**20
    taken = source["accepted"] * options.size / 2**20 / source["seconds"]
    print(f"memory      {watch.resident / 2**20:.0f} MiB resident at most, {watch.own / 2**20:.0f} MiB own; "
          f"{idle / 2**20:.0f} MiB resident when idle")
    print(f"throughput  {octets:.0f} MiB delivered, submitted at {taken:.0f} MiB/s")
    print(f"account     accepted {source['accepted']} of {options.messages}, "
          f"lost {source['accepted'] - report['unique']}, repeated {report['duplicates']}, damaged {report['damaged']}")
    exact = source["accepted"] == options.messages == report["unique"] and not report["duplicates"] + report["damaged"]
    return int(not exact)


if __name__ == "__main__":
    sys.exit(main())
