"""The fault table against the client machine alone: a thin asyncio shell around SmtpClient, no queue and no policy.

A quicker and narrower judge than the running relay (test_fault_mx.py): it says what the machine makes of each fault,
with the content in memory and streamed, with and without PIPELINING and CHUNKING.
"""

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastrelay._core.client", reason="the extensions are not built")

from fastrelay._core.client import Event, SmtpClient, State
from fastrelay._core.transaction import ErrorKind, Timeouts, Transaction
from fastrelay.sim.faults import FAULTS, Fault
from fastrelay.sim.scripted import ScriptedMx

# Deadline of a request. Faults marked slow wait for it; others end long before it.
SLOW_SECONDS, PATIENT_SECONDS = 0.6, 60.0
CHUNK_OCTETS = 16 * 1024
MOST_SESSIONS = 8
# Handed over whole, a content is out of the machine's sight; larger ones are streamed, as the relay does.
LARGEST_WHOLE = 1 << 20
WHOLE = sorted(name for name, fault in FAULTS.items() if fault.content_octets <= LARGEST_WHOLE)


class Shell(asyncio.Protocol):
    """One connection and one transaction; `done` resolves to the transaction, or None if it never began."""

    def __init__(self, machine_options: dict[str, Any], seconds: float, tx: Transaction, content: bytes) -> None:
        self.loop = asyncio.get_running_loop()
        names = ("greeting", "ehlo", "mail", "rcpt", "data", "final", "rset", "quit", "block", "body", "envelope")
        timeouts = Timeouts(**dict.fromkeys(names, seconds))
        self.machine = SmtpClient(b"shell.example", self.loop.time(), timeouts=timeouts, **machine_options)
        self.tx = tx
        self.left = content
        self.begun = False
        self.done: asyncio.Future[Transaction | None] = self.loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.quitting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.pump()

    def data_received(self, octets: bytes) -> None:
        if self.machine.state != State.STATE_CLOSED and self.transport is not None:
            self.machine.progress(self.loop.time(), self.transport.get_write_buffer_size())
            self.machine.receive(octets, self.loop.time())
            self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
        self.machine.connection_lost(self.loop.time())
        self.pump()
        self.end(None)

    def end(self, tx: Transaction | None) -> None:
        if not self.done.done():
            self.done.set_result(tx)

    def pump(self) -> None:
        """Write what the machine has to say, act on its events, set its timer."""
        while (event := self.machine.next_event()) != Event.EVENT_NONE:
            self.act(event)
        out = self.machine.take_output()
        if out and self.transport is not None:
            self.transport.writelines(out)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.transport is not None and self.machine.deadline != float("inf"):
            self.timer = self.loop.call_at(self.machine.deadline + 0.001, self.late)

    def late(self) -> None:
        self.machine.tick(self.loop.time())
        self.pump()

    def act(self, event: int) -> None:
        now = self.loop.time()
        if event == Event.EVENT_READY and not self.begun:
            self.begun = True
            self.machine.begin(self.tx, now)
        elif event == Event.EVENT_READY and not self.quitting:
            self.quitting = True
            self.machine.quit(now)
        elif event == Event.EVENT_NEED_BODY:
            self.loop.call_soon(self.stream)
        elif event == Event.EVENT_DONE:
            self.machine.take_finished()
            self.finished = self.tx
        elif event in (Event.EVENT_GREETING_REFUSED, Event.EVENT_CLOSING):
            if self.transport is not None:
                self.transport.close()
            self.end(self.tx if self.begun else None)

    def stream(self) -> None:
        """The next chunk of a streamed content, one a turn of the loop."""
        if self.transport is None or self.machine.state != State.STATE_BODY:
            return
        chunk, self.left = self.left[:CHUNK_OCTETS], self.left[CHUNK_OCTETS:]
        wanted = self.machine.chunk(chunk, not self.left, self.loop.time())
        self.pump()
        if self.left and wanted:
            self.loop.call_soon(self.stream)


def fate(tx: Transaction | None, at: int) -> str:
    """What one recipient of a finished transaction has come to."""
    if tx is None:
        return "deferred"
    if tx.error_kind in (ErrorKind.ERROR_NO_8BITMIME, ErrorKind.ERROR_NO_SMTPUTF8, ErrorKind.ERROR_SIZE):
        return "failed"
    reply = tx.reply_for(at)
    if reply is None:
        return "deferred"
    return {2: "delivered", 5: "failed"}.get(reply.code // 100, "deferred")


async def attempt(mx: ScriptedMx, to: list[str], content: bytes, streamed: bool, seconds: float, **options: Any) -> Any:
    """One session; the fate of each recipient, and which of them may have arrived without our knowing."""
    tx = Transaction(
        b"news@shell.example",
        [each.encode() for each in to],
        None if streamed else content,
        size=len(content),
    )
    loop = asyncio.get_running_loop()
    _, shell = await loop.create_connection(lambda: Shell(options, seconds, tx, content), mx.host, mx.port)
    try:
        async with asyncio.timeout(60):
            finished = await shell.done
    finally:
        if shell.transport is not None:
            shell.transport.abort()
    doubtful = {each for at, each in enumerate(to) if finished is not None and tx.may_have_arrived(at)}
    return {each: fate(finished, at) for at, each in enumerate(to)}, doubtful


async def play(fault: Fault, streamed: bool, **options: Any) -> None:
    line = b"a line of a newsletter, which is sixty-two octets with its end\r\n"
    content = b"X-Sim-Id: 1\r\nSubject: x\r\n\r\n" + line * (fault.content_octets // len(line)) + b".\r\n..\r\n"
    addresses = [f"{local_part}@a.example" for local_part in fault.recipients]
    fates = dict.fromkeys(addresses, "deferred")
    doubtful: set[str] = set()
    async with ScriptedMx(fault, pause=0.005) as mx:
        for _ in range(MOST_SESSIONS):
            waiting = [each for each in addresses if fates[each] == "deferred"]
            if not waiting:
                break
            seconds = SLOW_SECONDS if fault.slow else PATIENT_SECONDS
            found, unsure = await attempt(mx, waiting, content, streamed, seconds, **options)
            fates.update(found)
            doubtful |= unsure
        judge(fault, fates, doubtful, mx)


def judge(fault: Fault, fates: dict[str, str], doubtful: set[str], mx: ScriptedMx) -> None:
    dialogue = "\n".join(mx.dialogue[:120])
    assert mx.account.violations == [], dialogue
    for each, came_to in fates.items():
        wanted = {"failed"} if each.startswith("refused") else fault.fates
        assert came_to in wanted, f"{each} {came_to}\n{dialogue}"
        arrival = mx.account.arrivals.get((b"1", each.encode()))
        if came_to == "delivered":
            assert arrival is not None, f"{each}: delivered, and the host never took it\n{dialogue}"
            assert not arrival.altered, dialogue
        if arrival is not None and arrival.count > 1:
            assert fault.repeats, f"arrived {arrival.count} times\n{dialogue}"
            assert each in doubtful, f"arrived {arrival.count} times, and the machine was sure it had not\n{dialogue}"


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_machine_meets_fault(name: str) -> None:
    asyncio.run(play(FAULTS[name], streamed=True))


@pytest.mark.parametrize("name", WHOLE)
def test_machine_meets_fault_with_the_content_in_memory(name: str) -> None:
    asyncio.run(play(FAULTS[name], streamed=False))


@pytest.mark.parametrize("options", [{"allow_chunking": False}, {"allow_chunking": False, "allow_pipelining": False}])
@pytest.mark.parametrize("name", sorted(name for name in WHOLE if not FAULTS[name].slow))
def test_machine_meets_fault_without_extensions(name: str, options: dict[str, bool]) -> None:
    asyncio.run(play(FAULTS[name], streamed=False, **options))
