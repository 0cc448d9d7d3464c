"""The line between workers and the feedback process: state/feedback.sock, by which mail that came back is handed over.

Frames both ways: four octets of length (big-endian), then msgpack. Worker: [number, message]. Feedback process:
[number, reply], in any order, as soon as what follows from the message is on stable storage. A worker that hears no
answer (the line broke, or it took too long) has the client told to try again; no message is ever sent twice by itself.

Bounds: a frame has MOST_FRAME octets; the process reads on only while less than MOST_OCTETS and MOST_MESSAGES of all
lines are in hand, so a worker that is faster fills its own buffers, which have bounds too (ingest/inbound.py).

Known faults: none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec

log = logging.getLogger("fastrelay.feedback")

NAME = "feedback.sock"  # in the state directory
MOST_FRAME = 1 << 30  # octets; message_size is far below
MOST_OCTETS = 64 << 20  # in hand of the feedback process, over all lines; one message may be larger
MOST_MESSAGES = 1000
RETRY_SECONDS = 0.5  # between two attempts to reach the feedback process
AWAY = b"451 4.3.0 This can't be read at the moment, try again later\r\n"
_LENGTH = struct.Struct(">I")


class Inbound(msgspec.Struct, array_like=True, frozen=True):
    """A message that came in by SMTP at an inbound address. Mailboxes without brackets; `received_at`: wall seconds."""

    recipients: list[bytes]
    reverse_path: bytes
    octets: bytes
    client: bytes = b""
    received_at: float = 0.0


class Handed(msgspec.Struct, array_like=True):
    """A message on the line."""

    number: int
    message: Inbound


class Answer(msgspec.Struct, array_like=True):
    """The reply to one."""

    number: int
    reply: bytes


def frame(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


class Frames:
    """Cuts a stream into frames. ValueError for one that is too long."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, octets: bytes) -> list[bytes]:
        self._kept += octets
        found = []
        start, end = 0, len(self._kept)
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(self._kept, start)
            if length > MOST_FRAME:
                raise ValueError(f"a frame of {length} octets")
            if end - start - 4 < length:
                break
            found.append(bytes(memoryview(self._kept)[start + 4 : start + 4 + length]))
            start += 4 + length
        if start:
            del self._kept[:start]
        return found


def _folder(state_dir: str) -> int:
    return os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _address(folder: int) -> str:
    """A path that keeps within the 107 octets that such an address may have."""
    return f"/proc/self/fd/{folder}/{NAME}"


# -- the feedback process ---------------------------------------------------------------------------------------------


class LineServer:
    """Takes messages of the workers; `take` gives the reply to each."""

    def __init__(self, state_dir: str, take: Callable[[Inbound], Awaitable[bytes]]) -> None:
        self._state_dir = state_dir
        self._take = take
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._running: set[asyncio.Task[None]] = set()
        self.octets = 0
        self.messages = 0

    async def start(self) -> None:
        """Listens. OSError."""
        folder = _folder(self._state_dir)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(NAME, dir_fd=folder)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            listening.bind(_address(folder))
            os.chmod(NAME, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Link(self), sock=listening)

    async def close(self) -> None:
        """No new messages; those in hand are answered to nobody."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._state_dir, NAME))
        for task in list(self._running):
            task.cancel()
        for link in list(self._links):
            link.abort()

    @property
    def full(self) -> bool:
        return self.octets >= MOST_OCTETS or self.messages >= MOST_MESSAGES

    def begin(self, link: _Link, content: bytes) -> None:
        """A frame came. msgspec.DecodeError."""
        handed = msgspec.msgpack.decode(content, type=Handed)
        size = len(content)
        self.octets += size
        self.messages += 1
        task = asyncio.get_running_loop().create_task(self._answer(link, handed, size))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, link: _Link, handed: Handed, size: int) -> None:
        try:
            reply = await self._take(handed.message)
        except Exception:
            log.exception("a message that came back could not be handled; please report this")
            reply = AWAY
        finally:
            self.octets -= size
            self.messages -= 1
        link.write(frame(msgspec.msgpack.encode(Answer(handed.number, reply))))
        if not self.full:
            for one in self._links:
                one.go_on()


class _Link(asyncio.Protocol):
    """A worker at the other end."""

    def __init__(self, server: LineServer) -> None:
        self._server = server
        self._frames = Frames()
        self._waiting: list[bytes] = []  # of the last read, while the server is full
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._server._links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._server._links.discard(self)

    def data_received(self, octets: bytes) -> None:
        try:
            self._waiting += self._frames.feed(octets)
        except ValueError as error:
            log.error("the line of a worker is out of step (%s); please report this", error)
            self.abort()
            return
        self.go_on()

    def go_on(self) -> None:
        """Begins with what was read, as far as there is room, and reads on if there is more."""
        try:
            while self._waiting and not self._server.full:
                self._server.begin(self, self._waiting.pop(0))
        except msgspec.DecodeError as error:
            log.error("the line of a worker is out of step (%s); please report this", error)
            self.abort()
            return
        pause = bool(self._waiting) or self._server.full
        if self._transport is not None and pause != self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def write(self, octets: bytes) -> None:
        if self._transport is not None:
            self._transport.write(octets)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


# -- a worker ---------------------------------------------------------------------------------------------------------


class Line:
    """A worker's end. Connects by itself, again and again.

    `on_answer(number, reply)`; `on_up()` once it is there; `on_down()` when it broke: what was sent is not answered.
    """

    def __init__(
        self,
        state_dir: str,
        on_answer: Callable[[int, bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._state_dir = state_dir
        self._on_answer = on_answer
        self._on_up = on_up
        self._on_down = on_down
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        return self._transport is not None

    def start(self) -> None:
        """Begins to connect, unless it does."""
        if self._task is None and self._transport is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            while True:
                try:
                    await self._connect_once()
                    return
                except OSError:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._task = None

    async def _connect_once(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            folder = _folder(self._state_dir)
            try:
                link.connect(_address(folder))  # at once, or an error: BlockingIOError where the backlog is full
            finally:
                os.close(folder)
            await asyncio.get_running_loop().create_unix_connection(lambda: _WorkerEnd(self), sock=link)
        except BaseException:
            link.close()
            raise

    def send(self, number: int, message: Inbound) -> None:
        """Only while it is up."""
        assert self._transport is not None
        self._transport.write(frame(msgspec.msgpack.encode(Handed(number, message))))

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()


class _WorkerEnd(asyncio.Protocol):
    def __init__(self, line: Line) -> None:
        self._line = line
        self._frames = Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._line._transport = transport  # type: ignore[assignment]
        self._line._on_up()

    def connection_lost(self, error: Exception | None) -> None:
        self._line._transport = None
        self._line._on_down()
        self._line.start()

    def data_received(self, octets: bytes) -> None:
        for content in self._frames.feed(octets):
            answer = msgspec.msgpack.decode(content, type=Answer)
            self._line._on_answer(answer.number, answer.reply)
