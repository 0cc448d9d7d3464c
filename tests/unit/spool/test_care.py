"""Free room, the reserve, and the ballast."""

import os
from pathlib import Path

import pytest
from support.spool import Box

from fastrelay.spool import SpoolError, SpoolOptions
from fastrelay.spool.care import LOOK_SECONDS, make_ballast

HUGE = 1 << 62


@pytest.fixture
def box(tmp_path: Path):
    box = Box(
        tmp_path,
        SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, ballast=str(tmp_path / "ballast"), ballast_bytes=1 << 20),
    )
    yield box
    box.close()


def test_below_the_reserve_nothing_is_accepted_and_delivery_goes_on(box: Box) -> None:
    old = box.put()
    box.spool.housekeep(HUGE)
    assert not box.spool.accepting
    assert box.spool.refusal == "452 4.3.1 Insufficient system storage"
    with pytest.raises(SpoolError):
        box.put()
    assert box.read(old) == box.contents[old]
    box.deliver(old)
    assert not box.spool.settle_blocked
    assert box.spool.counters["delivered"] == 1
    box.spool.housekeep(0)
    assert box.spool.accepting
    box.put()


def test_the_reserve_is_looked_at_by_itself(box: Box) -> None:
    box.spool.care.reserve_bytes = HUGE
    assert box.spool.accepting
    box.loop.advance(LOOK_SECONDS)
    assert not box.spool.accepting


def test_room_and_errors_are_two_reasons(box: Box) -> None:
    box.spool.housekeep(HUGE)
    box.spool.refuse("other", "451 4.3.0 other")
    box.spool.housekeep(0)
    assert not box.spool.accepting
    assert box.spool.refusal == "451 4.3.0 other"
    box.spool.allow("other")
    assert box.spool.accepting
    assert box.spool.refusal == ""


def test_ballast_is_made_and_made_again(box: Box, tmp_path: Path) -> None:
    for _ in range(2):
        box.loop.turn_until(lambda: (tmp_path / "ballast").exists() or box.loop.advance(LOOK_SECONDS))
        status = os.stat(tmp_path / "ballast")
        assert status.st_size == 1 << 20
        assert status.st_blocks * 512 >= 1 << 20
        os.unlink(tmp_path / "ballast")
        box.loop.advance(LOOK_SECONDS)


def test_ballast_is_not_made_without_room(tmp_path: Path) -> None:
    box = Box(
        tmp_path,
        SpoolOptions(map_bytes=1 << 30, reserve_bytes=HUGE, ballast=str(tmp_path / "ballast"), ballast_bytes=1 << 20),
    )
    box.loop.advance(LOOK_SECONDS)
    box.close()
    assert not (tmp_path / "ballast").exists()


def test_ballast_in_the_making_elsewhere_is_left_alone(tmp_path: Path) -> None:
    building = tmp_path / "ballast.new"
    building.write_bytes(b"of another worker")
    assert not make_ballast(str(tmp_path / "ballast"), 4096)
    os.utime(building, (0, 0))
    assert make_ballast(str(tmp_path / "ballast"), 4096)
    assert not building.exists()


def test_ballast_that_does_not_fit_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not make_ballast(str(tmp_path / "ballast"), HUGE)
    assert os.listdir(tmp_path) == []
    assert "could not be made" in caplog.text
