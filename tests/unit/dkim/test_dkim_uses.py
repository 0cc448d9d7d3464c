"""Until when the record of an old key must stay published: notes of the supervisor, and what is made of them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.config.load import load_text
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.uses import FILE, KeyUses, needed_until, read_uses

DAY = 86400.0


def dkim(*selectors: str, old: tuple[str, ...] = ()) -> Dkim:
    keys = [DkimKey(domain="news.example", selector=one, key="k", sign=one not in old) for one in (*selectors, *old)]
    return Dkim(keys=keys)


def name(selector: str) -> str:
    return f"{selector}._domainkey.news.example"


def test_keys_that_sign_are_noted(tmp_path: Path) -> None:
    clock = SimulatedClock()
    uses = KeyUses(str(tmp_path), clock)
    uses.note(dkim("a", old=("b",)))
    assert read_uses(str(tmp_path)) == {name("a"): clock.wall()}


def test_a_rotation(tmp_path: Path) -> None:
    clock = SimulatedClock()
    uses = KeyUses(str(tmp_path), clock)
    uses.note(dkim("a"))
    clock.advance(10 * DAY)
    uses.note(dkim("a"), dkim("b", old=("a",)))  # a reload
    changed = clock.wall()
    clock.advance(DAY)
    uses.note(dkim("b", old=("a",)))
    assert read_uses(str(tmp_path)) == {name("a"): changed, name("b"): clock.wall()}


def test_another_relay_goes_on_from_the_file(tmp_path: Path) -> None:
    clock = SimulatedClock()
    KeyUses(str(tmp_path), clock).note(dkim("a"))
    before = clock.wall()
    clock.advance(DAY)
    KeyUses(str(tmp_path), clock).note(dkim("b"))
    assert read_uses(str(tmp_path)) == {name("a"): before, name("b"): clock.wall()}


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    clock = SimulatedClock()
    KeyUses(str(tmp_path), clock).note(dkim("a"))
    clock.advance(401 * DAY)
    KeyUses(str(tmp_path), clock).note(dkim("b"))
    assert list(read_uses(str(tmp_path))) == [name("b")]


def test_without_keys_there_is_no_file(tmp_path: Path) -> None:
    KeyUses(str(tmp_path), SimulatedClock()).note(Dkim(), Dkim())
    assert list(tmp_path.iterdir()) == []
    assert read_uses(str(tmp_path)) == {}


def test_a_broken_file_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[")
    assert read_uses(str(tmp_path)) == {}
    KeyUses(str(tmp_path), SimulatedClock()).note(dkim("a"))
    assert list(read_uses(str(tmp_path))) == [name("a")]


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        KeyUses(str(tmp_path / "none"), SimulatedClock()).note(dkim("a"))
    assert "cannot be written (No such file or directory)" in caplog.text


def test_it_is_noted_at_the_end_too(tmp_path: Path) -> None:
    clock = SimulatedClock()
    uses = KeyUses(str(tmp_path), clock)

    async def relay() -> None:
        task = asyncio.ensure_future(uses.keep(lambda: dkim("a")))
        await asyncio.sleep(0)
        clock.advance(600)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(relay())
    assert read_uses(str(tmp_path)) == {name("a"): clock.wall()}


def test_how_long_a_record_is_needed() -> None:
    config = load_text("hostname: a.example\nretry: {expire: 3d}\nfairness: {normal: {expire: 4d}}\n")
    assert needed_until(1000.0, config) == 1000.0 + 3600 + 4 * DAY + 2 * DAY
