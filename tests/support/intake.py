"""A desk with all its parts and a simulated clock, and mail that comes back to it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from support.reports import delivery_report

from fastrelay._core.slab import Slab
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config, SmtpListener
from fastrelay.config.security import Compose
from fastrelay.feedback.desk import Desk
from fastrelay.feedback.line import Inbound
from fastrelay.metrics import names

JOE = "joe@far.example"
DAY = 86400


def configuration(**compose: Any) -> Config:
    made = Compose(
        reverse_path="b+{reference}@b.test",
        reference="X-Ref",
        list_unsubscribe_mailto="un+{reference}@b.test",
        **compose,
    )
    listeners = [SmtpListener(bind="127.0.0.1:2525", inbound=["*@b.test"])]
    config = Config(hostname="relay.test", compose=made)
    return msgspec.structs.replace(config, listeners=msgspec.structs.replace(config.listeners, smtp=listeners))


class Box:
    """A desk whose parts are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.makedirs(folder / "events", exist_ok=True)
        self.clock = SimulatedClock()
        slab = Slab(str(folder / "slab"), create=not (folder / "slab").exists())
        self.desk = Desk(configuration(), state_dir=str(folder), clock=self.clock, slab=slab)
        self.intake = self.desk.intake
        self.references = self.intake.matcher.references

    async def __aenter__(self) -> Box:
        await self.desk.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.desk.close()

    def token(self, recipient: str = JOE, *, age: int = 0, id: str = "ab-1f", limit: int = 400) -> str:
        day = int(self.clock.wall() // DAY) - age
        return self.references.make(recipient.encode(), b"c1", b"t1", b"news.example", day, id, limit)

    def report(self, recipient: str = JOE, *, token: str | None = None, to: str = "b@b.test", **keys: Any) -> Inbound:
        """A bounce about a message that has the reference in its header."""
        token = self.token() if token is None else token
        returned = f"X-Ref: {token}\r\nFrom: News <a@news.example>\r\nTo: {JOE}\r\nSubject: x\r\n\r\nhello\r\n".encode()
        return self.message(delivery_report(returned, recipient, to=to, **keys), to)

    def message(self, octets: bytes, to: str = "b@b.test") -> Inbound:
        return Inbound([to.encode()], b"", octets, b"192.0.2.1", self.clock.wall())

    def events(self, name: str = "bounced") -> list[dict[str, Any]]:
        lines = (self.folder / "events" / "feedback.jsonl").read_bytes().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def suppressed(self) -> list[tuple[str, str]]:
        return [(event["recipient"], event["reason"]) for event in self.events("suppression")]

    def counted(self, kind: str, matched: str) -> float:
        meters = self.desk.meters
        return meters.slab.value(meters.entry(names.INBOUND_MESSAGES, kind=kind, matched=matched))


def run(folder: Path, work: Callable[[Box], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Box(folder) as box:
            await asyncio.wait_for(work(box), 60)  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
