#!/usr/bin/env python3
"""How long a client waits for its 250 when the relay is half loaded.

First the greatest rate is measured (50 sessions, as fast as it goes), then half of it is offered steadily for
--seconds. Latency counts from the moment a message was due, so a stall of the relay shows in every message it held up.
Prints figures, asserts none; the exit status is 1 if something was lost or repeated.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import tools
from support.net import free_endpoint
from support.relay import RelayProcess


def main() -> int:
    parser = argparse.ArgumentParser(description="submission latency at half load")
    parser.add_argument("--messages", type=int, default=60_000, help="messages for finding the greatest rate")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0, help="offer this rate instead of half the greatest")
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-latency-", dir=options.directory))
    tools.print_machine(directory)
    where = free_endpoint()
    common = ("-s", str(options.sessions), "-l", str(options.size))
    try:
        with tools.LoadSink(listen=where) as sink, RelayProcess(directory, {
            "workers": int(options.workers) if options.workers.isdigit() else options.workers,
            "routes": [{"domains": ["*"], "hosts": [where]}],
            "delivery": {"allow_private_hosts": True, "connections_per_site": 50},
        }) as relay:
            full = tools.run_source("-c", relay.endpoint, "-n", str(options.messages), *common)
            report = sink.wait("unique", full["accepted"], 600)
            rate = options.rate or report["rate"] / 2
            half = tools.run_source(
                "-c", relay.endpoint, "-n", str(int(rate * options.seconds)), "-R", f"{rate:.0f}", "-b",
                str(options.messages), *common,
            )
            accepted = full["accepted"] + half["accepted"]
            report = sink.wait("unique", accepted, 600)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for name, figures in (("full load", full), ("half load", half)):
        steps = [f"{step} {figures['ms_' + step]:.2f} ms" for step in ("p50", "p90", "p99", "p999", "max")]
        print(f"{name}   {figures['rate']:7.0f} messages/s   {'   '.join(steps)}")
    print(f"account     lost {accepted - report['unique']}, repeated {report['duplicates']}")
    return int(accepted != report["unique"] or report["duplicates"] > 0)


if __name__ == "__main__":
    sys.exit(main())
