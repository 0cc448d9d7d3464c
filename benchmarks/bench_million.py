#!/usr/bin/env python3
"""What a long queue costs: memory, restart, and each delivery, with a million messages waiting for a dead site.

1. A small queue (--small messages) is built against a sink that is not there; then the sink comes: CPU per delivery.
2. The same with --messages. Between: memory of the workers (RssAnon + RssShmem; LMDB's mapped file is page cache).
3. SIGTERM, start again with the sink there: seconds from the start of the process to the first delivery, and CPU time
   per delivery of the first --small deliveries, against step 1.

Prints figures, asserts none of them; the exit status is 1 if something was lost or repeated (with --drain, which
delivers the whole queue).
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tools
from support.net import free_endpoint, wait_until
from support.relay import RelayProcess


def config(sink: str, workers: str) -> dict[str, Any]:
    return {
        "workers": int(workers) if workers.isdigit() else workers,
        "routes": [{"domains": ["*"], "hosts": [sink]}],
        "delivery": {
            "allow_private_hosts": True, "connections_per_site": 50, "connect_backoff": {"first": "1s", "max": "2s"},
        },
        "retry": {"first": "1s", "max": "2s", "expire": "1d"},
    }


def fill(relay: RelayProcess, options: argparse.Namespace, messages: int) -> dict[str, Any]:
    return tools.run_source(
        "-c", relay.endpoint, "-s", "50", "-n", str(messages), "-l", str(options.size), "-d", str(options.domains)
    )


def delivery_cost(relay: RelayProcess, sink: tools.LoadSink, messages: int) -> dict[str, float]:
    """CPU time and rate over the deliveries after the first thousand, until `messages` are through."""
    first = sink.wait("unique", min(1000, messages // 10), 600)
    spent, began = relay.cpu_seconds(), time.monotonic()
    last = sink.wait("unique", messages, 1800)
    count = last["unique"] - first["unique"]
    return {"us": (relay.cpu_seconds() - spent) / count * 1e6, "rate": count / (time.monotonic() - began)}


def small_queue(directory: Path, options: argparse.Namespace) -> dict[str, float]:
    where = free_endpoint()
    with RelayProcess(directory, config(where, options.workers)) as relay:
        fill(relay, options, options.small)
        with tools.LoadSink(listen=where) as sink:
            return delivery_cost(relay, sink, options.small)


def worker_memory(relay: RelayProcess) -> float:
    return relay.unshared_bytes() / 2**20


def long_queue(directory: Path, options: argparse.Namespace, small: dict[str, float]) -> int:
    where = free_endpoint()
    relay = RelayProcess(directory, config(where, options.workers)).start()
    try:
        before = worker_memory(relay)
        filled = fill(relay, options, options.messages)
        print(f"accepted    {filled['accepted']} messages of {options.size} octets at {filled['rate']:.0f}/s, "
              f"p99 {filled['ms_p99']:.1f} ms, nothing delivered", flush=True)
        time.sleep(5)
        after = worker_memory(relay)
        print(f"memory      {after:.0f} MiB over all workers (RssAnon + RssShmem), {before:.0f} MiB when empty: "
              f"{(after - before) * 2**20 / filled['accepted']:.0f} octets a message", flush=True)
        relay.stop(120)
        with tools.LoadSink("-M", str(options.messages), listen=where) as sink:
            began = time.monotonic()
            relay.spawn()
            first = sink.wait("unique", 1, 300)
            print(f"restart     {first['first_ack'] - began:.2f} s from start to the first delivery")
            relay.wait_ready()
            long = delivery_cost(relay, sink, options.small)
            print(f"delivery    {long['us']:.0f} us of CPU each, {long['rate']:.0f}/s with the long queue; "
                  f"{small['us']:.0f} us, {small['rate']:.0f}/s with a queue of {options.small}; "
                  f"ratio {long['us'] / small['us']:.2f} (CPU), {small['rate'] / long['rate']:.2f} (time)")
            print(f"memory      {worker_memory(relay):.0f} MiB after the restart")
            return drain(relay, sink, filled["accepted"]) if options.drain else 0
    finally:
        if options.drain or relay.process is None:
            relay.stop(120)
        else:
            relay.kill("all")


def drain(relay: RelayProcess, sink: tools.LoadSink, accepted: int) -> int:
    report = sink.wait("unique", accepted, 3600)
    wait_until(lambda: not relay.summary()["queued"], 60, "the summary to say so")
    print(f"drained     at {report['rate']:.0f}/s; lost {accepted - report['unique']}, repeated {report['duplicates']}")
    return int(accepted != report["unique"] or report["duplicates"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="the cost of a million queued messages")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=2_048)
    parser.add_argument("--domains", type=int, default=500)
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--drain", action="store_true", help="deliver everything and account for it")
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-million-", dir=options.directory))
    tools.print_machine(directory)
    try:
        return long_queue(directory / "long", options, small_queue(directory / "small", options))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
