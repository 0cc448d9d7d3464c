"""Every fault of the table against a slow, obvious client that retries: the table says what becomes of the mail."""

import asyncio
import contextlib

import pytest

from fastrelay.sim.account import Account
from fastrelay.sim.faults import EVERY_SESSION, FAULTS, Fault
from fastrelay.sim.scripted import ScriptedMx

MOST_REPLY = 100_000
DEADLINE = 0.6  # seconds a request of the oracle may take; only faults marked slow come near it


class Deferred(Exception):
    """Try again later."""


class Failed(Exception):
    """Never try again."""


class Oracle:
    """Sends one message, one command at a time, and believes nothing that is not well formed."""

    def __init__(self, port: int, content: bytes, deadline: float) -> None:
        self.port, self.content, self.deadline = port, content, deadline

    async def send(self, recipients: list[str]) -> dict[str, str]:
        """One session. The fate of each recipient: delivered, failed, or deferred."""
        fates = dict.fromkeys(recipients, "deferred")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._transact(reader, writer, fates)
        except (Deferred, OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except Failed:
            fates = {to: "failed" if fate == "deferred" else fate for to, fate in fates.items()}
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return fates

    async def _transact(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: dict[str, str]
    ) -> None:
        if (await self._reply(reader))[0] != "2":
            raise Deferred
        hello = await self._ask(reader, writer, b"EHLO oracle.example")
        if hello[0] == "5":
            hello = await self._ask(reader, writer, b"HELO oracle.example")
        if hello[0] != "2":
            raise Deferred
        for word in hello.split("\n"):
            if word.startswith("SIZE") and int(word.split()[1]) < len(self.content):
                raise Failed
        self._judge(await self._ask(reader, writer, b"MAIL FROM:<news@oracle.example>"), "2")
        taken = []
        for to in list(fates):
            reply = await self._ask(reader, writer, b"RCPT TO:<%b>" % to.encode())
            if reply[0] == "2":
                taken.append(to)
            elif reply[0] == "5":
                fates[to] = "failed"
        if not taken:
            return
        self._judge(await self._ask(reader, writer, b"DATA"), "3")
        final = await self._body(reader, writer)
        if final[0] not in "25":
            raise Deferred
        for to in taken:
            fates[to] = "delivered" if final[0] == "2" else "failed"

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The content in pieces; a reply that comes before its end is no success."""
        early = asyncio.ensure_future(self._reply(reader))
        try:
            for at in range(0, len(self.content), 10_000):
                writer.write(self.content[at : at + 10_000].replace(b"\r\n.", b"\r\n.."))
                await writer.drain()
                await asyncio.sleep(0)
                if early.done():
                    reply = early.result()
                    if reply[0] == "5":
                        raise Failed
                    raise Deferred
            writer.write(b".\r\n")
            return await early
        finally:
            early.cancel()
            with contextlib.suppress(BaseException):
                await early

    def _judge(self, reply: str, wanted: str) -> None:
        if reply[0] == "5":
            raise Failed
        if reply[0] != wanted:
            raise Deferred

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> str:
        writer.write(line + b"\r\n")
        return await self._reply(reader)

    async def _reply(self, reader: asyncio.StreamReader) -> str:
        """One reply as "CODE text\\ntext"; Deferred when it is malformed, too long or late."""
        async with asyncio.timeout(self.deadline):
            code, texts, octets = b"", [], 0
            while True:
                try:
                    line = await reader.readuntil(b"\r\n")
                except asyncio.LimitOverrunError:
                    raise Deferred from None
                octets += len(line)
                form = line[:3].isdigit() and line[3:4] in b" -\r" and b"\x00" not in line
                if not form or line[:1] not in b"2345" or octets > MOST_REPLY or (code and line[:3] != code):
                    raise Deferred
                code = line[:3]
                texts.append(line[4:-2].decode())
                if line[3:4] != b"-":
                    return code.decode()[0] + code.decode()[1:] + " " + "\n".join(texts)


def fate_wanted(fault: Fault, local_part: str) -> frozenset[str]:
    """What may become of a recipient in the end."""
    return frozenset({"failed"}) if local_part.startswith("refused") else fault.fates


async def _play(name: str) -> None:
    fault = FAULTS[name]
    content = b"X-Sim-Id: 1\r\nSubject: x\r\n\r\n" + b"a line of text\r\n" * (fault.content_octets // 16)
    addresses = [f"{local_part}@a.example" for local_part in fault.recipients]
    fates = dict.fromkeys(addresses, "deferred")
    async with ScriptedMx(fault, pause=0.005) as mx:
        oracle = Oracle(mx.port, content, DEADLINE if fault.slow else 30.0)
        for _ in range(8):
            waiting = [to for to, fate in fates.items() if fate == "deferred"]
            if not waiting:
                break
            fates.update(await oracle.send(waiting))
        assert mx.faulty_sessions >= 1
        _hold_against_table(fault, fates, mx.account, "\n".join(mx.dialogue))


def _hold_against_table(fault: Fault, fates: dict[str, str], account: Account, dialogue: str) -> None:
    assert not account.violations, dialogue
    for to, fate in fates.items():
        assert fate in fate_wanted(fault, to), f"{to}: {fate}\n{dialogue}"
        arrival = account.arrivals.get((b"1", to.encode()))
        if fate == "delivered":
            assert arrival is not None, dialogue
            assert not arrival.altered
            assert arrival.count == 1 or fault.repeats, dialogue


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_is_played_and_survived(name: str) -> None:
    asyncio.run(_play(name))


def test_table_is_well_formed() -> None:
    stages = {"greeting", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BODY", "FINAL", "BDAT", "BDAT LAST", "RSET", "QUIT"}
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert set(fault.play) <= stages | {"IDLE", "STARTTLS", "HANDSHAKE", "TLS", "AUTH"}
        assert not {"HANDSHAKE", "TLS"} & set(fault.play) or fault.tls
        assert fault.sessions in (1, EVERY_SESSION)
        assert "BODY" not in fault.play or fault.body_after < fault.content_octets or not fault.body_after
