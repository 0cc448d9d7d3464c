"""The files of the event log: begun, rotated, reopened, removed."""

import os
import threading
from pathlib import Path

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.spool.eventlog import EventLog

DAY = 86400.0


class Case:
    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock()
        self.given: list[int] = []
        self.path = folder / "events" / "w0.jsonl"
        self.log = self.made()
        self.log.open()

    def made(self) -> EventLog:
        return EventLog(
            str(self.path),
            set_log_fd=self.given.append,
            clock=self.clock,
            rotate_bytes=1000,
            rotate_seconds=DAY,
            keep_seconds=3 * DAY,
        )

    def write(self, line: bytes) -> None:
        os.write(self.log.fd, line)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path.parent))

    def tick(self) -> None:
        self.log.tick()
        for thread in threading.enumerate():
            if thread.name == "event-log":
                thread.join()


@pytest.fixture
def case(tmp_path: Path):
    case = Case(tmp_path)
    yield case
    case.log.close()


def test_begins_a_file_and_tells_the_spool(case: Case) -> None:
    assert case.names() == ["w0.jsonl"]
    assert case.given == [case.log.fd]


def test_rotates_by_size(case: Case) -> None:
    case.write(b"x" * 999 + b"\n")
    case.tick()
    assert len(case.names()) == 2
    assert case.given[-1] == case.log.fd
    assert os.fstat(case.log.fd).st_size == 0
    assert case.names()[1].startswith("w0.jsonl.20")


def test_rotates_by_age_and_not_when_empty(case: Case) -> None:
    case.clock.advance(2 * DAY)
    case.tick()
    assert case.names() == ["w0.jsonl"]
    case.write(b"{}\n")
    case.tick()
    assert len(case.names()) == 2


def test_age_counts_from_the_first_line_across_restarts(case: Case) -> None:
    begun = case.clock.wall()
    case.write(b'{"key":"a-1","event":"accepted","time":"%s"}\n' % iso(begun - DAY - 1))
    case.log.close()
    case.log = case.made()
    case.log.open()
    case.tick()
    assert len(case.names()) == 2


def test_two_rotations_in_a_second_have_two_names(case: Case) -> None:
    for _ in range(3):
        case.write(b"x" * 1000)
        case.tick()
    assert len(case.names()) == 4


def test_old_files_are_removed_and_others_not(case: Case) -> None:
    for name in (
        "w0.jsonl.20200101T000000Z",
        "w0.jsonl.20200101T000000Z.2",
        "w0.jsonl.note",
        "w1.jsonl.20200101T000000Z",
    ):
        (case.path.parent / name).write_text("")
    case.write(b"x" * 1000)
    case.tick()
    assert len(case.names()) == 4
    assert "w0.jsonl.note" in case.names()
    assert "w1.jsonl.20200101T000000Z" in case.names()


def test_reopen_after_another_program_renamed_the_file(case: Case) -> None:
    os.rename(case.path, case.path.with_name("elsewhere"))
    case.log.reopen()
    case.write(b"{}\n")
    assert case.names() == ["elsewhere", "w0.jsonl"]
    assert case.path.read_bytes() == b"{}\n"
    assert len(case.given) == 2


def test_an_unfinished_line_is_ended_at_the_opening(case: Case) -> None:
    case.write(b'{}\n{"key":"a-2","ev')
    case.log.reopen()
    case.log.reopen()
    case.write(b"{}\n")
    assert case.path.read_bytes() == b'{}\n{"key":"a-2","ev\n{}\n'


def test_descriptors_do_not_pile_up(case: Case) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        case.write(b"x" * 1000)
        case.tick()
        case.log.reopen()
    assert len(os.listdir("/proc/self/fd")) == before


def test_rotation_that_fails_goes_on_in_the_same_file(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    os.rename(case.path, case.path.with_name("elsewhere"))
    case.write(b"x" * 1000)
    case.tick()
    assert "could not be rotated" in caplog.text
    assert case.log.fd >= 0


def iso(wall: float) -> bytes:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
