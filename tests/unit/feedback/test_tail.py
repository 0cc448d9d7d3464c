"""Reading the event logs: order, positions that last, files that are renamed, torn lines."""

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.events import LogWriter, make_desk

from fastrelay.clock import SimulatedClock
from fastrelay.feedback import tail as tail_module
from fastrelay.feedback.desk import Desk
from fastrelay.feedback.eventfiles import SLICE_BYTES, list_files
from fastrelay.feedback.tail import Event, Reader, decode


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def logs(tmp_path: Path, clock: SimulatedClock) -> LogWriter:
    return LogWriter(tmp_path, clock)


def keys(lines: list[bytes]) -> list[str]:
    events = [decode(line) for line in lines]
    assert all(event is not None for event in events)
    return [event.key for event in events if event is not None]


def read_all(reader: Reader, limit: int = 1000) -> list[str]:
    out: list[str] = []
    while True:
        out += keys(reader.read(limit))
        if reader.idle:
            return out


class TestReader:
    def test_all_logs_in_order_of_time(self, logs: LogWriter, clock: SimulatedClock) -> None:
        reader = Reader(str(logs.folder), start="begin")
        expected = []
        for log in ("w0", "w1", "w0", "feedback", "relay", "w1", "w0"):
            if log == "relay":
                line = logs.line("relay", "warmup").replace('"key":"relay-1",', "")
                logs.append("relay", line.encode())
                expected.append("relay-m1")
            else:
                expected.append(logs.write(log, "delivered"))
            clock.advance(1)
        assert read_all(reader) == expected
        expected = [logs.write("w1", "failed"), logs.write("w0", "failed")]
        assert sorted(read_all(reader)) == sorted(expected)
        assert read_all(reader) == []

    def test_at_the_end_only_what_comes(self, logs: LogWriter) -> None:
        logs.write("w0", "delivered")
        logs.append("w1", logs.line("w1", "delivered").encode()[:70])  # no line is whole
        reader = Reader(str(logs.folder))
        assert read_all(reader) == []
        key = logs.write("w0", "failed")
        logs.append("w1", b"\n")
        new = logs.write("w7", "failed")
        assert sorted(read_all(reader)) == sorted([key, new])

    def test_only_wanted_events(self, logs: LogWriter) -> None:
        reader = Reader(str(logs.folder), frozenset(["failed", "bounced"]), start="begin")
        logs.write("w0", "delivered", reply='","event":"failed","time":"')
        wanted = [logs.write("w0", "failed")]
        logs.write("w0", "accepted", campaign="failed")
        wanted.append(logs.write("feedback", "bounced"))
        logs.append("w0", b'{"x":"y","event":"failed","time":"2026-11-23T12:31:06.141Z"}\n')
        logs.append("w0", b'{"key":"a","b":"c","event":"failed","time":"2026-11-23T12:31:06.141Z"}\n')
        assert read_all(reader) == wanted
        assert read_all(Reader(str(logs.folder), frozenset(), start="begin")) == []

    def test_torn_lines_are_passed_over(self, logs: LogWriter) -> None:
        reader = Reader(str(logs.folder), start="begin")
        first = logs.write("w0", "delivered")
        whole = logs.line("w0", "failed").encode()
        logs.append("w0", whole[:20] + b"\n" + b"\0" * 100 + b"\n" + b"no json\n" + whole[:70] + b"\n" + whole)
        last = logs.write("w0", "delivered")
        logs.append("w0", whole[:-1])
        lines = reader.read(100)
        events = [event for event in map(decode, lines) if event is not None]
        assert [event.key for event in events] == [first, "w0-2", last]
        assert reader.read(100) == []
        logs.append("w0", b"\n")
        assert keys(reader.read(100)) == ["w0-2"]

    def test_goes_on_at_its_position(self, logs: LogWriter, clock: SimulatedClock) -> None:
        expected = []
        for _ in range(50):
            expected.append(logs.write(random.choice(["w0", "w1", "feedback"]), "delivered"))
            clock.advance(0.01)
        reader = Reader(str(logs.folder), start="begin")
        out: list[str] = []
        while found := reader.read(7):
            out += keys(found)
            position = reader.position()
            reader.close()
            reader = Reader(str(logs.folder), position=position)
        assert out == expected

    def test_files_are_renamed(self, logs: LogWriter, clock: SimulatedClock) -> None:
        """By us, and by logrotate (the number grows with age)."""
        expected, out = [], []
        reader = Reader(str(logs.folder), start="begin", wall=clock.wall)
        for turn in range(12):
            expected.append(logs.write("w0", "delivered"))
            clock.advance(1)
            if turn == 3:
                logs.rotate("w0", "20270115T080003Z")
            if turn == 6:
                out += keys(reader.read(1))
            if turn == 7:
                logs.rotate("w0", "20270115T080003Z.2")
        for name in os.listdir(logs.folder):
            os.utime(logs.folder / name, (clock.wall() - 100, clock.wall() - 100))
        out += read_all(reader)
        assert out == expected
        assert [len(sources) for sources in reader._sources.values()] == [1]  # closed files are left

    def test_logrotate_numbers(self, logs: LogWriter, clock: SimulatedClock) -> None:
        expected = []
        for at in range(4):
            expected.append(logs.write("w0", "delivered"))
            os.utime(logs.folder / "w0.jsonl", (clock.wall() + at, clock.wall() + at))
            for number in range(3, 0, -1):
                old = logs.folder / f"w0.jsonl.{number}"
                if old.exists():
                    old.rename(logs.folder / f"w0.jsonl.{number + 1}")
            if at < 3:
                logs.rotate("w0", "1")
            clock.advance(1)
        (logs.folder / "w0.jsonl.9.gz").write_bytes(b"x" * 100)
        assert [os.path.basename(one.path) for one in list_files(str(logs.folder))["w0"]] == [
            "w0.jsonl.4", "w0.jsonl.3", "w0.jsonl.2", "w0.jsonl",
        ]  # fmt: skip
        assert read_all(Reader(str(logs.folder), start="begin")) == expected

    def test_late_lines_in_a_closed_file(self, logs: LogWriter, clock: SimulatedClock) -> None:
        """A worker may finish a batch in the file that was just renamed."""
        reader = Reader(str(logs.folder), start="begin", wall=lambda: os.stat(logs.folder).st_mtime)
        expected = [logs.write("w0", "delivered")]
        logs.rotate("w0", "20270115T080003Z")
        expected.append(logs.write("w0", "delivered"))
        assert read_all(reader) == expected
        position = reader.position()
        late = logs.line("w0", "failed")
        with (logs.folder / "w0.jsonl.20270115T080003Z").open("a") as file:
            file.write(late)
        assert read_all(reader) == ["w0-3"]
        assert read_all(Reader(str(logs.folder), position=position)) == ["w0-3"]

    def test_the_file_of_a_position_is_gone(self, logs: LogWriter, clock: SimulatedClock) -> None:
        logs.write("w0", "delivered")
        reader = Reader(str(logs.folder), start="begin")
        assert len(read_all(reader)) == 1
        position = reader.position()
        logs.rotate("w0", "20270115T080001Z")
        clock.advance(10)
        expected = [logs.write("w0", "delivered")]
        os.unlink(logs.folder / "w0.jsonl.20270115T080001Z")
        again = Reader(str(logs.folder), position=position)
        assert read_all(again) == expected
        assert again.gone == 1

    def test_the_end_of_a_file_changed(self, logs: LogWriter, clock: SimulatedClock) -> None:
        """After a power loss the end of a file may be lost and written anew: nothing may be missed."""
        path = logs.folder / "w0.jsonl"
        for _ in range(5):
            logs.write("w0", "delivered")
            clock.advance(1)
        reader = Reader(str(logs.folder), start="begin")
        assert len(read_all(reader)) == 5
        position = reader.position()
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:3]) + b"\n" + b"".join(whole[3:]))
        assert "w0-5" in read_all(Reader(str(logs.folder), position=position))
        path.write_bytes(b"".join(whole[:3]))
        again = Reader(str(logs.folder), position=position)
        assert read_all(again) == []
        clock.advance(-0.0)
        assert logs.write("w0", "failed") in read_all(again)

    def test_a_clock_set_back_does_not_stop_a_log(self, logs: LogWriter, clock: SimulatedClock) -> None:
        reader = Reader(str(logs.folder), start="begin")
        expected = [logs.write("w0", "delivered")]
        clock.jump_wall(-3600)
        expected += [logs.write("w0", "delivered"), logs.write("w0", "failed")]
        assert read_all(reader) == expected

    def test_more_than_a_slice_of_each(self, logs: LogWriter, clock: SimulatedClock) -> None:
        expected = []
        for n in range(4000):
            log = "w0" if n < 3000 else random.choice(["w0", "w1", "feedback"])
            expected.append(logs.write(log, "delivered", reply="x" * 300))
            clock.advance(0.01)
        assert os.path.getsize(logs.folder / "w0.jsonl") > 3 * SLICE_BYTES
        assert read_all(Reader(str(logs.folder), start="begin"), 333) == expected

    def test_long_lines(self, logs: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = [logs.write("w0", "accepted", recipients=["a@b.example"] * 100_000), logs.write("w0", "delivered")]
        assert read_all(Reader(str(logs.folder), start="begin")) == expected
        monkeypatch.setattr("fastrelay.feedback.eventfiles.LINE_BYTES", SLICE_BYTES)
        assert read_all(Reader(str(logs.folder), start="begin")) == expected[1:]

    def test_since(self, logs: LogWriter, clock: SimulatedClock) -> None:
        logs.write("w0", "delivered")
        clock.advance(60)
        start = clock.wall()
        expected = [logs.write("w0", "delivered"), logs.write("w0", "delivered")]
        from fastrelay.clock import iso_utc

        assert read_all(Reader(str(logs.folder), start=iso_utc(start))) == expected


class TestDecode:
    def test_fields(self) -> None:
        event = decode(
            b'{"key":"k","event":"failed","time":"t","id":"i","recipient":"a@b","class":"bad_mailbox","code":550,"new":[1]}'
        )
        assert event is not None
        assert (event.class_, event.code, event.reply, event.recipient) == ("bad_mailbox", 550, "", "a@b")
        assert event.raw.startswith(b'{"key":"k"')

    def test_a_field_of_a_wrong_type_is_absent(self) -> None:
        event = decode(b'{"key":"k","event":"failed","code":"x","reply":null,"recipient":"a@b"}')
        assert event is not None
        assert (event.code, event.reply, event.recipient) == (0, "", "a@b")

    @pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"x"', b'{"key":"\xff"}', b'{"key":1', b"null"])
    def test_no_event(self, raw: bytes) -> None:
        assert decode(raw) is None


@pytest.fixture
def desk(tmp_path: Path, clock: SimulatedClock) -> Iterator[Desk]:
    made = make_desk(tmp_path, clock)
    yield made
    made.store.close()


class TestTail:
    def test_subscribers_each_at_their_own_position(self, desk: Desk, logs: LogWriter) -> None:
        one: list[Event] = []
        two: list[Event] = []
        logs.write("w0", "failed")
        desk.tail.subscribe("one", one.extend, wanted=frozenset(["failed"]))
        key = logs.write("w0", "failed")

        async def take(events: list[Event]) -> None:
            two.extend(events)

        desk.tail.subscribe("two", take, wanted=None, since="begin")
        asyncio.run(desk.tail.poll())
        assert [event.key for event in one] == [key]
        assert [event.key for event in two] == ["w0-1", key]

    def test_goes_on_after_a_restart(self, desk: Desk, logs: LogWriter, tmp_path: Path, clock: SimulatedClock) -> None:
        taken: list[Event] = []
        desk.tail.subscribe("one", taken.extend, wanted=None)
        first = logs.write("w0", "failed")
        asyncio.run(desk.tail.poll())
        desk.store.close()
        second = logs.write("w1", "failed")
        again = make_desk(tmp_path, clock)
        again.tail.subscribe("one", taken.extend, wanted=None)
        asyncio.run(again.tail.poll())
        again.store.close()
        assert [event.key for event in taken] == [first, second]

    def test_what_was_not_taken_comes_again(
        self, desk: Desk, logs: LogWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tail_module, "RETRY_SECONDS", 0.0)
        taken: list[str] = []
        failures = iter([True, True, False, False])

        async def main() -> None:
            done = asyncio.Event()

            async def take(events: list[Event]) -> None:
                if next(failures):
                    raise OSError("no")
                taken.extend(event.key for event in events)
                done.set()

            desk.tail.subscribe("one", take, wanted=None)
            expected.append(logs.write("w0", "failed"))
            await desk.tail.start()
            await done.wait()
            await desk.tail.close()

        expected: list[str] = []
        asyncio.run(main())
        assert taken == expected
        assert "given again" in caplog.text

    def test_taking_when_it_ends_counts_as_not_taken(
        self, desk: Desk, logs: LogWriter, tmp_path: Path, clock: SimulatedClock
    ) -> None:
        key = ""

        async def main() -> None:
            nonlocal key
            begun = asyncio.Event()

            async def take(events: list[Event]) -> None:
                begun.set()
                await asyncio.Event().wait()

            desk.tail.subscribe("one", take, wanted=None)
            key = logs.write("w0", "failed")
            await desk.tail.start()
            await begun.wait()
            await desk.tail.close()

        asyncio.run(main())
        desk.store.close()
        again = make_desk(tmp_path, clock)
        taken: list[Event] = []
        again.tail.subscribe("one", taken.extend, wanted=None)
        asyncio.run(again.tail.poll())
        again.store.close()
        assert [event.key for event in taken] == [key]
