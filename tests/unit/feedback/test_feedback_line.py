"""The line between workers and the feedback process: frames, order, bounds, and ends that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.feedback import line
from fastrelay.feedback.line import AWAY, Frames, Inbound, Line, LineServer, frame


def run(work: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work(), 60))  # type: ignore[arg-type]


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def message(octets: bytes = b"x") -> Inbound:
    return Inbound([b"b@b.test", b"c@b.test"], b"", octets, b"192.0.2.1", 5.0)


class End:
    """A worker's end, with what it heard."""

    def __init__(self, folder: Path) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.ups = self.downs = 0
        self.line = Line(str(folder), lambda number, reply: self.answers.append((number, reply)), self._up, self._down)
        self.line.start()

    def _up(self) -> None:
        self.ups += 1

    def _down(self) -> None:
        self.downs += 1


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 20))
def test_frames_however_they_are_cut(contents: list[bytes], size: int) -> None:
    octets = b"".join(map(frame, contents))
    frames = Frames()
    found = [one for at in range(0, len(octets), size) for one in frames.feed(octets[at : at + size])]
    assert found == contents


def test_a_frame_without_end() -> None:
    with pytest.raises(ValueError, match="4294967295 octets"):
        Frames().feed(b"\xff\xff\xff\xff")


def test_messages_and_answers(tmp_path: Path) -> None:
    async def work() -> None:
        taken: list[Inbound] = []
        hold = asyncio.Event()

        async def take(one: Inbound) -> bytes:
            taken.append(one)
            if one.octets == b"slow":
                await hold.wait()
            return b"250 " + one.octets

        server = LineServer(str(tmp_path), take)
        await server.start()
        end = End(tmp_path)
        await until(lambda: end.line.up)
        end.line.send(1, message(b"slow"))
        end.line.send(2, message(b"b" * 3_000_000))
        await until(lambda: end.answers)
        assert end.answers == [(2, b"250 " + b"b" * 3_000_000)]
        assert taken[0] == message(b"slow")
        assert server.messages == 1
        hold.set()
        await until(lambda: len(end.answers) == 2)
        assert (server.messages, server.octets) == (0, 0)
        end.line.close()
        await server.close()

    run(work)


def test_the_worker_comes_first_and_the_process_comes_again(tmp_path: Path) -> None:
    async def take(one: Inbound) -> bytes:
        return b"250 ok"

    async def work() -> None:
        end = End(tmp_path)
        for turn in (1, 2):
            server = LineServer(str(tmp_path), take)
            await server.start()
            await until(lambda turn=turn: end.ups == turn)  # type: ignore[misc]
            end.line.send(turn, message())
            await until(lambda turn=turn: len(end.answers) == turn)  # type: ignore[misc]
            await server.close()
            await until(lambda turn=turn: end.downs == turn)  # type: ignore[misc]
        end.line.close()

    run(work)


def test_what_fails_is_to_be_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def take(one: Inbound) -> bytes:
        raise RuntimeError("a bug")

    async def work() -> None:
        server = LineServer(str(tmp_path), take)
        await server.start()
        end = End(tmp_path)
        await until(lambda: end.line.up)
        end.line.send(1, message())
        await until(lambda: end.answers)
        assert end.answers == [(1, AWAY)]
        end.line.close()
        await server.close()

    run(work)
    assert "a bug" in caplog.text


def test_no_more_is_read_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_MESSAGES", 3)

    async def work() -> None:
        most = 0
        hold = asyncio.Event()

        async def take(one: Inbound) -> bytes:
            nonlocal most
            most = max(most, server.messages)
            await hold.wait()
            return b"250 ok"

        server = LineServer(str(tmp_path), take)
        await server.start()
        ends = [End(tmp_path), End(tmp_path)]
        await until(lambda: all(end.line.up for end in ends))
        for number in range(20):
            for end in ends:
                end.line.send(number, message())
        await until(lambda: server.full)
        for _ in range(20):
            await asyncio.sleep(0)
        hold.set()
        await until(lambda: all(len(end.answers) == 20 for end in ends))
        assert most == 3
        for end in ends:
            end.line.close()
        await server.close()

    run(work)


def test_nonsense_on_the_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def take(one: Inbound) -> bytes:
        return b"250 ok"

    async def work() -> None:
        server = LineServer(str(tmp_path), take)
        await server.start()
        for octets in (frame(b"\xc1"), frame(b""), b"\xff\xff\xff\xff"):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / line.NAME))
            writer.write(octets)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        await server.close()

    run(work)
    assert "out of step" in caplog.text
