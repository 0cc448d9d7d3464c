"""The supervisor's part of AUTH: news for other workers, one line for a burst, the day's recipients of a user."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.users import PASSWORD, change_user, cheap, drop_user, put_user

from fastrelay._core.lmdb import Environment
from fastrelay._core.table import Table
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.ingest import auth_keeper as module
from fastrelay.ingest.auth_keeper import DATABASES, AuthKeeper

DAY = 86400


class Box:
    """A keeper, its table and its store."""

    def __init__(self, folder: Path, clock: SimulatedClock | None = None, **keys: Any) -> None:
        self.folder = folder
        self.users = folder / "users"
        self.clock = clock or SimulatedClock(start=20_000 * DAY + 3600.0)
        self.table = Table.create(
            folder / "table", slots=2, boot_id=self.clock.boot_id(), now_ns=self.clock.boottime_ns(), capacity=1024
        )
        self.store = Environment(str(folder / "control"), DATABASES, map_bytes=1 << 24)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.told: list[tuple[int, dict[str, Any]]] = []
        config = from_builtins({"hostname": "relay.test", "auth": {"users": str(self.users), "failures": 5, **keys}})
        self.keeper = AuthKeeper(
            config, self.table, self.store, self.clock,
            event=lambda name, fields: self.events.append((name, fields)),
            tell=lambda slot, news: self.told.append((slot, news)),
        )  # fmt: skip

    def failed(self, *rows: tuple[str, str, int]) -> None:
        self.keeper.report(1, {"event": "auth", "failed": [list(row) for row in rows], "right": []})

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.keeper.tick()

    def used(self, name: str = "shop") -> tuple[int, int, int]:
        """Day, cap and what is used of it."""
        cell = self.table.cell(f"user-day:{name}".encode())
        return self.table.cap_period(cell), self.table.cap_of(cell), self.table.cap_used(cell)

    def claim(self, n: int, name: str = "shop") -> int:
        granted: int = self.table.cap_claim(self.table.cell(f"user-day:{name}".encode()), n)[0]
        return granted

    def restarted(self, *, boot: bool = False) -> Box:
        """The next start, after a good end."""
        self.keeper.save()
        self.store.close()
        if boot:
            self.clock.reboot()
        return Box(self.folder, self.clock)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    cheap(monkeypatch)
    put_user(tmp_path / "users", "shop", recipients_per_day=100)
    put_user(tmp_path / "users", "crm")
    return Box(tmp_path)


# -- guessing ---------------------------------------------------------------------------------------------------------


def test_news_go_to_the_others(box: Box) -> None:
    box.keeper.report(1, {"event": "auth", "failed": [["192.0.2.1", "shop", 2]], "right": [["192.0.2.2", "crm"]]})
    assert box.told == [(1, {"failed": [["192.0.2.1", "shop", 2]], "right": [["192.0.2.2", "crm"]]})]
    assert not box.events


def test_a_burst_is_one_line_at_its_begin_and_one_event_at_its_end(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            box.failed(("192.0.2.1", "my secret passphrase", 1))
            box.later(1)
    assert len(caplog.records) == 1
    assert "5 failed authentications from 192.0.2.1" in caplog.text
    assert box.events == [("auth_guessing", {"address": "192.0.2.1", "failures": 5})]
    box.later(601)
    assert box.events[1:] == [("auth_guessing_over", {"address": "192.0.2.1", "failures": 1000, "seconds": 999})]
    assert "passphrase" not in caplog.text + str(box.events)


def test_guessing_at_a_user_from_many_addresses_is_a_burst_too(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10):
        box.failed((f"192.0.2.{number}", "shop", 1))
    assert box.events == [("auth_guessing", {"user": "shop", "failures": 5})]
    assert "as user shop" in caplog.text


def test_too_few_failures_are_no_burst(box: Box) -> None:
    box.failed(("192.0.2.1", "shop", 4))
    box.later(601)
    box.failed(("192.0.2.1", "shop", 4))
    box.later(601)
    assert not box.events


def test_bursts_beyond_a_number_are_counted(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BURSTS", 3)
    for number in range(10):
        box.failed((f"192.0.2.{number}", "nobody", 4))
        box.failed((f"192.0.2.{number}", "nobody", 4))
        box.failed((f"192.0.2.{number}", "nobody", 4))
    assert [fields["address"] for _, fields in box.events] == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]
    box.later(601)
    assert [fields.get("not_said") for name, fields in box.events if name == "auth_guessing_over"] == [7, None, None]
    box.failed(("192.0.2.9", "nobody", 5))
    assert box.events[-1][0] == "auth_guessing"


def test_what_is_counted_is_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED", 50)
    for number in range(200):
        box.failed((f"192.0.2.{number}", "nobody", 5))
    assert len(box.keeper._bursts) == 50
    assert sum(name == "auth_guessing_over" for name, _ in box.events) == 150


# -- the day ----------------------------------------------------------------------------------------------------------


def test_the_cap_of_a_day_is_set_and_begins_anew_at_midnight(box: Box) -> None:
    assert box.claim(1) == 0
    box.keeper.tick()
    assert box.used() == (20_000, 100, 0)
    assert box.claim(70) == 70
    assert box.claim(70) == 30
    box.later(22 * 3600)
    assert box.used() == (20_000, 100, 100)
    box.later(3600)
    assert box.used() == (20_001, 100, 0)


def test_another_cap_holds_at_once_and_none_is_none(box: Box) -> None:
    box.keeper.tick()
    box.claim(60)
    change_user(box.users, "shop", recipients_per_day=50)
    box.later(module.LOOK_SECONDS)
    assert box.used() == (20_000, 50, 60)
    assert box.claim(1) == 0
    change_user(box.users, "shop", recipients_per_day=61)
    box.later(module.LOOK_SECONDS)
    assert box.claim(5) == 1
    change_user(box.users, "shop", recipients_per_day=None)
    box.later(module.SAVE_SECONDS)
    assert not box.keeper._limited


@pytest.mark.parametrize("boot", [False, True])
def test_what_was_used_lasts(box: Box, boot: bool) -> None:
    box.keeper.tick()
    box.claim(60)
    again = box.restarted(boot=boot)
    again.keeper.tick()
    assert again.used() == (20_000, 100, 60)
    tomorrow = again.restarted(boot=boot)
    tomorrow.later(DAY)
    assert tomorrow.used() == (20_001, 100, 0)


def test_a_power_loss_forgets_a_few_seconds_at_most(box: Box) -> None:
    box.keeper.tick()
    box.claim(60)
    box.later(module.SAVE_SECONDS)
    box.claim(10)
    box.store.close()
    box.clock.reboot()
    again = Box(box.folder, box.clock)
    again.keeper.tick()
    assert again.used() == (20_000, 100, 60)


def test_a_clock_that_is_set_back_gives_nothing_anew(box: Box) -> None:
    box.keeper.tick()
    box.claim(100)
    box.clock.jump_wall(-3 * DAY)
    box.later(1)
    assert box.used() == (20_000, 100, 100)
    again = box.restarted(boot=True)
    again.keeper.tick()
    assert again.claim(1) == 0


def test_users_that_are_gone_are_forgotten(box: Box) -> None:
    box.keeper.tick()
    box.claim(1)
    box.later(module.SAVE_SECONDS)
    assert [name for name, _ in box.store.items("auth_days")] == [b"shop"]
    put_user(box.users, "other", recipients_per_day=5)
    drop_user(box.users, "shop")
    box.later(module.SAVE_SECONDS)
    assert [name for name, _ in box.store.items("auth_days")] == [b"other"]


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_broken_file_is_said_once(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    good = box.users.read_text()
    box.users.write_text(good + "{\n")
    for _ in range(5):
        box.later(module.LOOK_SECONDS)
    assert caplog.text.count("is not JSON") == 1
    assert caplog.text.count("the users stay as they were") == 1
    box.users.write_text(good)
    with caplog.at_level(logging.INFO):
        box.later(module.LOOK_SECONDS)
    assert "is sound again" in caplog.text
    assert PASSWORD not in caplog.text


def test_without_users_there_is_nothing_to_do(box: Box) -> None:
    box.keeper.reload(from_builtins({"hostname": "relay.test"}))
    box.later(10)
    box.failed(("192.0.2.1", "shop", 9))
    assert [name for name, _ in box.events] == ["auth_guessing"]
