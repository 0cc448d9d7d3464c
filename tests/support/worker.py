"""One worker's App in this process, with a simulated clock and a scripted MX host on loopback.

Sockets and the disk are real, time is not: `pass_time` moves the clock and does what the timer would, so that days of
retries take milliseconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import uvloop
from support.net import free_endpoint

from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer
from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.app import App
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins

WAIT_SECONDS = 90.0  # for what sockets and threads do; only a test that fails waits so long
Reply = Callable[[str, str, "Talk"], str | None]


class Talk:
    """One connection at the scripted host."""

    def __init__(self, number: int) -> None:
        self.number = number  # from 1
        self.peer = ""
        self.messages = 0
        self.recipients: list[str] = []


class Mx:
    """An MX host. `reply(verb, argument, talk)` overrides a reply: text, "" for the usual one, None to cut the line.

    Verbs: CONNECT, EHLO, MAIL, RCPT, DATA, BODY (the final reply), RSET, QUIT.
    """

    def __init__(self, reply: Reply | None = None, extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME")) -> None:
        self.reply = reply or (lambda verb, argument, talk: "")
        self.extensions = extensions
        self.talks: list[Talk] = []
        self.accepted: list[tuple[list[str], bytes]] = []  # recipients and content, dots taken out
        self.commands: list[str] = []

    started: ClassVar[list[Mx]] = []

    async def start(self) -> str:
        self.started.append(self)
        host, _, port = free_endpoint().rpartition(":")
        self._server = await asyncio.start_server(self._serve, host, int(port), limit=1 << 20)
        return f"{host}:{port}"

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def recipients(self) -> list[str]:
        """Everybody who was delivered to, in order."""
        return [one for recipients, _ in self.accepted for one in recipients]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(len(self.talks) + 1)
        talk.peer = writer.get_extra_info("peername")[0]
        self.talks.append(talk)
        try:
            await self._talk(reader, writer, talk)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk) -> None:
        if not self._say(writer, talk, "CONNECT", "", "220 mx.test ESMTP"):
            return
        while line := await reader.readline():
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(text)
            verb, _, argument = text.partition(" ")
            verb = verb.upper()
            usual = "250 ok"
            if verb == "EHLO":
                usual = "\r\n".join(["250-mx.test", *(f"250-{one}" for one in self.extensions), "250 HELP"])
            elif verb == "MAIL":
                talk.recipients = []
            elif verb == "DATA":
                usual = "354 go on" if talk.recipients else "503 no recipient"
            elif verb == "QUIT":
                usual = "221 bye"
            said = self._say(writer, talk, verb, argument, usual)
            if not said or verb == "QUIT" or said.startswith("421"):
                return
            if verb == "RCPT" and said.startswith("2"):
                talk.recipients.append(argument.partition("<")[2].partition(">")[0])
            if verb == "DATA" and said.startswith("3") and not await self._body(reader, writer, talk):
                return

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk) -> bool:
        lines = []
        while (line := await reader.readline()) != b".\r\n":
            if not line:
                return False
            lines.append(line[1:] if line.startswith(b".") else line)
        said = self._say(writer, talk, "BODY", "", "250 stored")
        if said and said.startswith("2"):
            talk.messages += 1
            self.accepted.append((talk.recipients, b"".join(lines)))
        return bool(said)

    def _say(self, writer: asyncio.StreamWriter, talk: Talk, verb: str, argument: str, usual: str) -> str | None:
        said = self.reply(verb, argument, talk)
        if said is None:
            return None
        said = said or usual
        writer.write(said.encode() + b"\r\n")
        return said


class Client:
    """Who submitted a message directly to the engine; `replies` is what it was told."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    def stored(self, reply: bytes, now: float) -> None:
        self.replies.append(reply)


def envelope_of(
    sender: str, recipients: list[str], content: bytes, parameters: str = "", asked: dict[str, str] | None = None
) -> Any:
    """The envelope that the SMTP server machine makes of a message. `asked`: recipient → RCPT parameters."""
    asked = asked or {}
    machine = SmtpServer(b"relay.test", ServerLimits(), may_relay=True)
    machine.greeting(0.0)
    lines = [f"EHLO client.test\r\nMAIL FROM:<{sender}>{parameters}\r\n"]
    lines += [f"RCPT TO:<{one}>{asked.get(one, '')}\r\n" for one in recipients]
    machine.receive("".join(lines).encode() + b"DATA\r\n", 0.0)
    machine.receive(content.replace(b"\r\n.", b"\r\n..") + b".\r\n", 0.0)
    while (event := machine.next_event()) != MESSAGE:
        assert event, machine.take_output()
    return machine.envelope


class WorkerBox:
    """An App on a state directory; `async with` starts and drains it. A second box on the folder is the next start."""

    def __init__(
        self,
        folder: Path,
        hosts: list[str],
        clock: SimulatedClock | None = None,
        slot: int = 0,
        slots: int = 1,
        **keys: Any,
    ) -> None:
        self.folder = folder
        self.clock = clock or SimulatedClock()
        routes = [{"domains": ["*"], "hosts": hosts}] if hosts else []
        built: dict[str, Any] = {
            "hostname": "relay.test",
            "state_dir": str(folder),
            "listeners": {"smtp": [{"bind": free_endpoint()}]},
            "routes": routes,
            "spool": {"reserve": 0, "ballast": 0, "map_size": 1 << 28},
            "retry": {"jitter": 0.0},
            "bounces": {"send": False},  # a test that is about them says so
        }
        self.config = from_builtins(built | keys)
        folder.mkdir(exist_ok=True)
        table, slab = folder / "table", folder / f"slab.{slot}"
        if not table.exists():
            Table.create(table, slots=slots, boot_id=self.clock.boot_id(), now_ns=self.clock.boottime_ns())
        self.table = Table(table)
        self.app = App(
            self.config,
            state_dir=str(folder),
            slot=slot,
            slots=slots,
            clock=self.clock,
            table=self.table,
            slab=Slab(slab, create=not slab.exists()),
        )

    started: ClassVar[list[WorkerBox]] = []

    async def start(self) -> WorkerBox:
        """Starts it and waits until its spool is loaded."""
        self.started.append(self)
        await self.app.start([], [])
        await self.until(lambda: not self.app.recovery.loading)
        return self

    async def __aenter__(self) -> WorkerBox:
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        if self.app._timer is not None:
            await self.app.drain(0.0)
            self.app._timer = None

    async def crash(self) -> None:
        """The worker dies: nothing is settled that is not on disk already. (What was submitted is committed first.)"""
        app = self.app
        app._timer.cancel()  # type: ignore[union-attr]
        app._timer = None
        app.draining = True
        for spool in app.engine.spools:
            spool.close()
        inflight_files = [Path(one.path) for one in app.engine.inflights]
        slots = [path.read_bytes() for path in inflight_files]
        for queue in app.board.sites.values():
            await queue.pool.cancel()
        for session in list(app.sessions):
            session.engine.cold.settle = session.engine.cold.unsettled = lambda *rest: None
            session.abort()
        app.listener.stop_listening()
        await self.until(lambda: not app.sessions)
        for inflight in app.engine.inflights:
            inflight.close()
        for path, octets in zip(inflight_files, slots, strict=True):
            path.write_bytes(octets)
        app.event_log.close()  # type: ignore[union-attr]

    def tick(self) -> None:
        """What the timer does ten times a second."""
        if self.app._timer is not None:
            self.app._timer.cancel()
            self.app._tick()

    def pass_time(self, seconds: float) -> None:
        """Moves the clock; a timer tick sees it."""
        self.clock.advance(seconds)
        self.tick()
        if seconds >= 1:
            self.app._second(self.clock.monotonic())

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Turns of the loop until something holds that sockets or threads bring about."""
        end = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not (value := condition()):
            assert asyncio.get_running_loop().time() < end, f"it never came; places: {self.places()}"
            await asyncio.sleep(0.001)
        return value

    def submit(
        self, recipients: list[str], content: bytes = b"Subject: x\r\n\r\nhello\r\n", sender: str = "news@a.test"
    ) -> Client:
        """Accepts a message; the reply comes with the commit."""
        client = Client()
        envelope = envelope_of(sender, recipients, content)
        refusal = self.app.engine.accept(
            client, envelope, b"127.0.0.1", b"Received: test id ", None, self.clock.monotonic()
        )
        if refusal is not None:
            client.replies.append(refusal)
        return client

    async def accepted(self, recipients: list[str], **more: Any) -> str:
        """Accepts a message and waits until it is on disk; its id."""
        client = self.submit(recipients, **more)
        await self.until(lambda: client.replies)
        assert client.replies[0].startswith(b"250 "), client.replies
        return client.replies[0].split()[-1].decode()

    def places(self) -> dict[str, int]:
        """Where queued recipients are, without the places where none is."""
        return {place: n for place, n in self.app.index.place_counts().items() if n}

    async def settled(self) -> None:
        """Until nothing is on its way: everything waits for time or an operator, or is done and on disk."""
        moving = {"unplaced", "ready", "dns", "in_flight", "loading"}
        await self.until(lambda: not moving & set(self.places()))
        self.app.own_spool.drain()
        await self.until(lambda: self.counters()["queued"] == self.app.index.queued_recipients)

    async def hang_up(self) -> None:
        """Lets the idle connections to hosts end."""
        await self.until(lambda: all(session.idle for session in self.app.sessions))
        self.pass_time(self.config.delivery.idle_timeout_seconds + 1)
        await self.until(lambda: not self.app.sessions)

    def reasons(self) -> dict[str, int]:
        """What queued recipients wait for."""
        return dict(self.app.board.by_reason(self.clock.monotonic()))

    def counters(self) -> dict[str, int]:
        """Durable counters, with what follows of them for the queue."""
        counters = dict(self.app.own_spool.counters)
        counters["queued"] = 2 * counters["accepted"] - sum(counters.values())
        return counters

    def events(self) -> list[dict[str, Any]]:
        """The event log, oldest first."""
        path = self.folder / "events" / f"w{self.app.slot}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    async def audit(self) -> None:
        """Promise 2: what is on disk adds up."""
        told = await self.app_viewer().audit()
        assert told["ok"], told

    def app_viewer(self) -> Any:
        from fastrelay.admin.view import Viewer

        return Viewer(self.app)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Runs a test's coroutine on the loop that workers use. What a failed test left open is closed."""

    async def and_close() -> None:
        try:
            await work()
        finally:
            for box in WorkerBox.started:
                if box.app._timer is not None:
                    await box.app.close()
            WorkerBox.started.clear()
            for mx in Mx.started:  # a server that is left open would keep the loop from closing
                await mx.stop()
            Mx.started.clear()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(and_close())
