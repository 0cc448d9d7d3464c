"""The middle of the relay without sockets: accept → group commit → pull → settle as delivered → commit, on a spool.

The oracle does the same steps in plain Python over the same spool: record by struct, JSON by json, dicts for the queue.
The sealed variants add header fields, check, and sign at accept; beside them stands what the bare signature operation
costs. Prints microseconds of CPU a message (this thread and the committer's); asserts that all is settled, and no time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import uvloop
from bench_record import encode_plain
from support.dkim_keys import ed25519_key, key_file, pem, rsa_key
from support.worker import WorkerBox, envelope_of

from fastrelay._core.reply import Reply
from fastrelay.admin.channel import GC_THRESHOLD
from fastrelay.dkim.keys import read_key

MESSAGES = 20_000
GROUP = 200
SIGNATURES = 2000
BODY = b"A line of a newsletter, as long as lines are.\r\n" * 220
CONTENT = b"Subject: news\r\n\r\n" + BODY
HEADER = (
    b"From: News <news@news.example.com>\r\nTo: user@example.test\r\nSubject: news\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n"
)
SHORT = HEADER + b"\r\n" + BODY
WHOLE = HEADER + b"Date: Mon, 23 Nov 2026 17:51:28 +0000\r\nMessage-ID: <1@news.example.com>\r\n\r\n" + BODY
COMPOSE = {
    "add": ["date", "message_id"], "list_unsubscribe": "https://news.example.com/u/{id}?to={recipient}",
    "feedback_id": "{campaign}:{tenant}:news:fastrelay", "cfbl_address": "fbl@news.example.com",
}  # fmt: skip
REFERENCES = COMPOSE | {
    "list_unsubscribe": "https://news.example.com/u/{reference}",
    "reference": "X-Fastrelay-Reference",
    "reverse_path": "b+{reference}@news.example.com",
}
CHECKS = [
    "from", "from_domain", "date", "message_id", "repeated_fields", "line_length", "eight_bit_header", "unsubscribe",
    "no_recipient_field",
]  # fmt: skip


class Told:
    """A client that hears its 250."""

    count = 0

    def stored(self, reply: bytes, now: float) -> None:
        Told.count += 1


def keys_in(folder: Path, *algorithms: str) -> dict[str, Any]:
    """A DKIM key of each kind."""
    made = {"rsa": rsa_key, "ed25519": ed25519_key}
    one = {"domain": "news.example.com"}
    return {"keys": [one | {"selector": name, "key": key_file(folder, name, made[name]())} for name in algorithms]}


def bare(algorithm: str) -> float:
    """Microseconds of CPU of one signature, and nothing around it."""
    private = rsa_key() if algorithm == "rsa" else ed25519_key()
    key, signed = read_key(pem(private)), b"x" * 1000
    began = time.thread_time()
    for _ in range(SIGNATURES):
        key.sign(signed)
    return (time.thread_time() - began) / SIGNATURES * 1e6


async def engine(folder: Path, content: bytes = CONTENT, **keys: Any) -> float:
    async with WorkerBox(folder / "relay", ["127.0.0.1:9"], **keys) as box:
        app, spool = box.app, box.app.own_spool
        envelope = envelope_of("news@sender.test", ["user@example.test"], content)
        app.board.pump = app.engine.cold.pump = lambda site, now: None  # nobody connects here
        await box.accepted(["first@example.test"], content=content)
        await box.until(lambda: app.board.sites)
        [site] = app.board.sites.values()
        client, tail, reply = Told(), b',"source":"a","site":"x"', Reply(250, b"2.0.0 Ok: queued")
        now = box.clock.monotonic()
        began, committed = time.thread_time(), spool.committer_seconds
        for _ in range(MESSAGES // GROUP):
            for _ in range(GROUP):
                assert (
                    app.engine.accept(client, envelope, b"127.0.0.1", b"Received: from x by y id ", None, now) is None
                )
            spool.drain()
            while (delivery := app.engine.pull(site, 0, 100, now)) is not None:
                delivery.transaction.final_reply = reply
                app.engine.settle_delivered(delivery, tail, now)
            spool.drain()
        seconds = time.thread_time() - began + spool.committer_seconds - committed
        assert box.counters()["delivered"] == MESSAGES + 1, box.counters()
        return seconds


async def sealed(folder: Path, algorithms: tuple[str, ...], content: bytes = WHOLE, **keys: Any) -> float:
    """As `engine`, signed."""
    return await engine(folder, content, dkim=keys_in(folder, *algorithms), **keys)


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
    gc.set_threshold(GC_THRESHOLD, 10, 10)  # as in a worker
    found = {}
    variants: dict[str, Callable[[Path], Coroutine[Any, Any, float]]] = {
        "engine": engine,
        "engine, whole header": partial(engine, content=WHOLE),
        "fields added": partial(engine, content=SHORT, compose=COMPOSE),
        "with references": partial(engine, content=SHORT, compose=REFERENCES),
        "checked": partial(engine, content=WHOLE, checks={"refuse": [one for one in CHECKS if one != "unsubscribe"]}),
        "signed ed25519": partial(sealed, algorithms=("ed25519",)),
        "signed rsa-2048": partial(sealed, algorithms=("rsa",)),
        "all of it, rsa": partial(
            sealed, algorithms=("rsa",), content=SHORT, compose=REFERENCES, checks={"refuse": CHECKS}
        ),
        "plain Python": oracle,
    }
    for name, work in variants.items():
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            began = time.perf_counter()
            cpu = runner.run(work(Path(folder)))
            found[name] = cpu / MESSAGES * 1e6
            rate = MESSAGES / (time.perf_counter() - began)
            print(f"{name:21} {found[name]:7.1f} us CPU a message, {rate:8.0f} messages/s, groups of {GROUP}")
    print(f"ratio {found['plain Python'] / found['engine']:.1f}; contents of {len(CONTENT)} octets")
    for name, algorithm in (("signed ed25519", "ed25519"), ("signed rsa-2048", "rsa")):
        more = found[name] - found["engine, whole header"]
        print(f"signing with {algorithm}: {more:.1f} us more, of which the bare operation is {bare(algorithm):.1f}")


if __name__ == "__main__":
    main()
