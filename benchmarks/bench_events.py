"""Event logs and webhooks: CPU a line of the tail, with and without decoding, and of posting.

    python benchmarks/bench_events.py [--lines 200000]

The logs are those of two workers: as many `accepted` as `delivered`, one line in fifty is `failed`. Figures are CPU
time of the reading process (time.process_time), so that the endpoint, a process of its own, does not count; the share
is of one core at 10,000 deliveries a second, which are 20,000 lines. Posting includes reading, the cursor's commits and
HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time

from fastrelay._core.slab import Slab
from fastrelay.clock import RealClock, iso_utc
from fastrelay.config.load import load_text
from fastrelay.feedback.desk import Desk
from fastrelay.feedback.tail import Position, Reader, decode
from fastrelay.feedback.webhooks import Webhooks

LINES_A_SECOND = 20_000
ENDPOINT = """
import asyncio
from aiohttp import web
async def take(request):
    await request.read()
    return web.Response(status=204)
async def main():
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def make_logs(folder: str, lines: int) -> int:
    """Writes the logs; gives their octets."""
    os.makedirs(folder)
    begun = time.time() - 10
    far = {
        "source": "a", "site": "mx1.example.net:25", "provider": "other", "mx_host": "mx1.example.net",
        "mx_address": "198.51.100.7",
    }  # fmt: skip
    octets = 0
    for worker in range(2):
        with open(f"{folder}/w{worker}.jsonl", "wb") as file:
            for n in range(lines // 2):
                event = "failed" if n % 50 == 49 else "delivered" if n % 2 else "accepted"
                common = {
                    "key": f"k{worker}v5ya-{n:x}", "event": event, "time": iso_utc(begun + n / 100_000),
                    "id": f"k{worker}v5ya-{n // 2:x}", "reverse_path": "news@sender.example",
                }  # fmt: skip
                who = f"joe.{n}@example.net"
                if event == "accepted":
                    rest = {"recipients": [who], "size_bytes": 10240, "client": "192.0.2.1", "helo": "app.example"}
                else:
                    code, reply = (550, "550 5.1.1 no such user") if event == "failed" else (250, "250 2.0.0 Ok")
                    said = {"code": code, "reply": reply, "queued_seconds": 0.12, "campaign": "spring"}
                    rest = {"recipient": who, "domain": "example.net", "attempt": 1, **far, **said}
                line = json.dumps(common | rest, separators=(",", ":")).encode() + b"\n"
                octets += file.write(line)
    return octets


def say(what: str, cpu: float, lines: int, seconds: float, n: int) -> None:
    each = cpu / lines
    print(
        f"{what:<44} {each * 1e6:6.2f} µs a line  {lines / seconds:>10,.0f} lines/s  "
        f"{100 * each * LINES_A_SECOND:5.1f} % of a core at 20,000 lines/s  ({n:,} events given)"
    )


def read(folder: str, lines: int, wanted: frozenset[str] | None, decoded: bool) -> None:
    reader = Reader(folder, wanted, start="begin")
    begun, cpu, n = time.perf_counter(), time.process_time(), 0
    while True:
        found = reader.read(1000)
        n += len(found)
        if decoded:
            for line in found:
                decode(line)
        if reader.idle:
            break
    names = "all" if wanted is None else ", ".join(sorted(wanted))
    words = f"tail, {names}{', decoded' if decoded else ''}"
    say(words, time.process_time() - cpu, lines, time.perf_counter() - begun, n)
    reader.close()


async def post(state: str, lines: int, port: int, name: str, settings: str) -> None:
    text = (
        f"hostname: mta.test\nstate_dir: {state}\nlisteners: {{smtp: [{{bind: '127.0.0.1:25'}}]}}\n"
        f"events: {{webhooks: [{{name: '{name}', url: 'http://127.0.0.1:{port}/', batch_wait: 0s, {settings}}}]}}\n"
    )
    path = f"{state}/slab.{name}"
    desk = Desk(load_text(text), state_dir=state, clock=RealClock(), slab=Slab(path, create=True))
    part = next(one for one in desk.parts if isinstance(one, Webhooks))
    import msgspec

    from fastrelay.feedback import webhooks

    start = msgspec.msgpack.encode(webhooks.Cursor(Position()))
    desk.store.put("cursors", f"webhook/{name}".encode(), start)
    begun, cpu = time.perf_counter(), time.process_time()
    await part.start()
    hook = part.hooks[name]
    while hook.reader is None or not hook.reader.idle or hook._oldest:
        await asyncio.sleep(0.01)
    used, seconds = time.process_time() - cpu, time.perf_counter() - begun
    say(f"posted, {name} ({settings})", used, lines, seconds, hook.taken)
    await part.close()
    desk.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=200_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as folder:
        octets = make_logs(f"{folder}/events", lines)
        print(f"{lines:,} lines, {octets / lines:.0f} octets each")
        read(f"{folder}/events", lines, frozenset(["failed", "expired", "bounced"]), True)
        read(f"{folder}/events", lines, frozenset(["delivered"]), False)
        read(f"{folder}/events", lines, frozenset(["delivered"]), True)
        read(f"{folder}/events", lines, None, False)
        read(f"{folder}/events", lines, None, True)
        endpoint = subprocess.Popen([sys.executable, "-c", ENDPOINT], stdout=subprocess.PIPE)
        try:
            assert endpoint.stdout is not None
            port = int(endpoint.stdout.readline())
            for name, settings in (
                ("fastrelay", "batch: 500"),
                ("delivered", "batch: 500, events: [delivered]"),
                ("sendgrid", "format: sendgrid, batch: 500"),
                ("listmonk", "format: listmonk, events: [failed]"),
            ):
                asyncio.run(post(folder, lines, port, name, settings))
        finally:
            endpoint.kill()
            endpoint.wait()


if __name__ == "__main__":
    main()
