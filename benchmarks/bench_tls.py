#!/usr/bin/env python3
"""What TLS towards MX hosts costs on connections that are reused: CPU of the relay for a message, plain and under TLS.

One worker takes messages in plain and delivers them to a host that is the same program both times, in a process of its
own. The host's CPU is shown too: on a machine with few cores it takes part of what the rate could be. Prints figures,
asserts none; the exit status is 1 if something was lost.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tools
import uvloop
from support.net import free_endpoint, split_endpoint
from support.relay import RelayProcess

from fastrelay.sim.certificates import Authority

HELLO = b"250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n"


class Host(asyncio.Protocol):
    """A host that takes MAIL, RCPT, BDAT … LAST in one group, and anything else slowly."""

    taken = 0
    tls: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer, self.secure = transport, b"", transport.get_extra_info("ssl_object") is not None
        if not self.secure:
            transport.write(b"220 mx.example\r\n")

    def data_received(self, octets: bytes) -> None:
        self.buffer = self.buffer + octets if self.buffer else octets
        out = []
        while (end := self.buffer.find(b"\r\n")) >= 0:
            line = self.buffer[:end]
            verb = line[:4]
            if verb == b"BDAT":
                size = end + 2 + int(line.split()[1])
                if len(self.buffer) < size:
                    break
                self.buffer = self.buffer[size:]
                Host.taken += 1
                out.append(b"250 2.0.0 taken\r\n")
                continue
            self.buffer = self.buffer[end + 2 :]
            if verb == b"EHLO":
                out.append(HELLO + (b"250-STARTTLS\r\n" if self.tls and not self.secure else b"") + b"250 SIZE\r\n")
            elif verb == b"STAR":
                self.transport.write(b"220 go\r\n")
                asyncio.get_running_loop().create_task(self.upgrade())
            else:
                out.append(b"221 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n")
        if out:
            self.transport.write(b"".join(out))

    async def upgrade(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(self.transport, self, self.tls, server_side=True)
        self.secure = True


async def host(where: str, tls: bool) -> None:
    """The host, until its standard input ends; says how many messages it took."""
    if tls:
        Host.tls = Authority().server("mx.example")
    loop = asyncio.get_running_loop()
    await loop.create_server(Host, *split_endpoint(where))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(Host.taken, time.process_time(), flush=True)
    os._exit(0)


def measure(options: argparse.Namespace, tls: bool, directory: Path) -> dict[str, float]:
    """One run: seconds, CPU seconds of worker and host, messages."""
    where = free_endpoint()
    command = [sys.executable, __file__, "--host", where, *(["--tls"] if tls else [])]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdout.readline()
    config = {
        "workers": 1,
        "routes": [{"domains": ["*"], "hosts": [where]}],
        "delivery": {"allow_private_hosts": True, "connections_per_site": 50},
        "tls": {"outbound": {"dane": False, "mta_sts": False}},
    }
    with RelayProcess(directory, config) as relay:
        common = ("-s", "50", "-l", str(options.size))
        tools.run_source("-c", relay.endpoint, "-n", "5000", *common)  # connections are open then
        relay.wait_drained(300)
        before, began = worker_cpu(relay), time.monotonic()
        tools.run_source("-c", relay.endpoint, "-n", str(options.messages), "-b", "5000", *common)
        relay.wait_drained(600)
        seconds, cpu = time.monotonic() - began, worker_cpu(relay) - before
    peer.stdin.close()
    taken, host_cpu = peer.stdout.readline().split()
    peer.wait()
    return {"seconds": seconds, "cpu": cpu, "taken": int(taken), "host": float(host_cpu)}


def worker_cpu(relay: Any) -> float:
    """CPU seconds of the relay's processes, threads included."""
    total = 0.0
    for pid in [relay.process.pid, *children(relay.process.pid)]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> int:
    parser = argparse.ArgumentParser(description="TLS towards hosts on reused connections")
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        uvloop.run(host(options.host, options.tls))
    directory = Path(tempfile.mkdtemp(prefix="bench-tls-", dir=options.directory))
    tools.print_machine(directory)
    lost, best = 0, {False: 1e9, True: 1e9}
    try:
        for number in range(options.rounds):
            for tls in (False, True):
                found = measure(options, tls, directory / f"{number}{tls}")
                lost += found["taken"] != options.messages + 5000
                micro = found["cpu"] / options.messages * 1e6
                best[tls] = min(best[tls], micro)
                print(
                    f"{'TLS  ' if tls else 'plain'}   {options.messages / found['seconds']:7.0f} messages/s   "
                    f"relay {micro:6.1f} µs of CPU a message   host {found['host'] / found['taken'] * 1e6:6.1f} µs"
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    share = best[False] / best[True]
    print(f"best: plain {best[False]:.1f} µs, TLS {best[True]:.1f} µs: {share:.0%} of the plain rate of a core")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
