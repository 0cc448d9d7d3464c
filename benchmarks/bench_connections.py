#!/usr/bin/env python3
"""Five thousand connections to five thousand MX hosts that answer after 200 ms: are all busy, and what does one cost?

Each domain dN.bench.example has one MX host with a loopback address of its own (found through the simulated DNS
server), and one connection is allowed per site. The sink answers each command late and offers neither PIPELINING nor
CHUNKING, so a connection takes at least 800 ms for a message and the backlog keeps all of them in use.
Memory per connection: RssAnon + RssShmem of all workers with all connections busy, less the same with the same queue
and no connection. Prints figures, asserts none; the exit status is 1 if something was lost or repeated.
"""

import argparse
import asyncio
import ipaddress
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import tools
from support.net import free_port
from support.relay import RelayProcess

FIRST = ipaddress.IPv4Address("127.1.0.1")


class Dns:
    """The simulated DNS server with one MX host per domain, in a thread of its own."""

    def __init__(self, hosts: int) -> None:
        from fastrelay.sim.dns import DnsServer, Zone

        zone = Zone()
        for number in range(hosts):
            zone.mx(f"d{number}.bench.example", [(10, f"mx{number}.bench.example")])
            zone.address(f"mx{number}.bench.example", str(FIRST + number))
        self.server = DnsServer(zone)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(30)
        return self.server.nameserver

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def measure(relay: RelayProcess, sink: tools.LoadSink, options: argparse.Namespace) -> int:
    messages = options.hosts * options.messages_per_host
    relay.control("queue.suspend", {"selectors": {}, "all": True, "why": "benchmark: fill first"})
    filled = tools.run_source(
        "-c", relay.endpoint, "-s", "50", "-n", str(messages), "-l", "2048", "-d", str(options.hosts),
        "-z", "bench.example",
    )
    time.sleep(3)
    quiet = relay.unshared_bytes()
    print(f"queued      {filled['accepted']} messages for {options.hosts} hosts; "
          f"workers take {quiet / 2**20:.0f} MiB", flush=True)
    relay.control("queue.resume", {"selectors": {}, "all": True})
    busiest, memory, most = 0, 0, 0
    end = time.monotonic() + 600
    while time.monotonic() < end:
        report = sink.report()
        most, busiest = max(most, report["live"]), max(busiest, report["busiest"])
        if report["live"] >= options.hosts * 0.98:
            memory = max(memory, relay.unshared_bytes())
        if report["unique"] >= filled["accepted"]:
            break
        time.sleep(0.2)
    print(f"connections {most} open at once, {busiest} of them waiting for an answer at once, of {options.hosts} hosts")
    if memory:
        each = (memory - quiet) / 1024 / options.hosts
        print(f"memory      {each:.1f} KiB a connection ({memory / 2**20:.0f} MiB in all)")
    else:
        print("memory      not measured: never were 98 % of the hosts connected at once")
    possible = options.hosts * 1000 / (4 * options.delay)
    print(f"rate        {report['rate']:.0f} deliveries/s; with four answers a message {possible:.0f}/s are possible")
    print(f"account     lost {filled['accepted'] - report['unique']}, repeated {report['duplicates']}")
    return int(filled["accepted"] != report["unique"] or report["duplicates"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="thousands of connections to slow MX hosts")
    parser.add_argument("--hosts", type=int, default=5000)
    parser.add_argument("--messages-per-host", type=int, default=20)
    parser.add_argument("--delay", type=int, default=200, help="milliseconds before each answer")
    parser.add_argument("--workers", default="auto")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-connections-"))
    tools.print_machine(directory)
    port = free_port("0.0.0.0")
    listen = f"{FIRST}-{FIRST + options.hosts - 1}:{port}"
    try:
        late = tools.LoadSink("-P", "-C", "-d", str(options.delay), listen=listen)
        with Dns(options.hosts) as nameserver, late as sink:
            relay = RelayProcess(directory, {
                "workers": int(options.workers) if options.workers.isdigit() else options.workers,
                "dns": {"nameservers": [nameserver]},
                "delivery": {"port": port, "allow_private_hosts": True, "connections_per_site": 1},
            })
            with relay:
                return measure(relay, sink, options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
