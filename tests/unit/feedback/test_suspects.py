"""Which message may be guilty of a death, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.intake import Box, run

from fastrelay.cli import inbound
from fastrelay.feedback import suspects as module
from fastrelay.feedback.intake import TAKEN, digest_of
from fastrelay.feedback.line import AWAY
from fastrelay.feedback.suspects import DEATHS, FOLDER, SUSPECTS, Suspects

ONE, TWO = b"1" * 16, b"2" * 16


def opened(folder: Path) -> Suspects:
    made = Suspects(str(folder / FOLDER))
    made.open()
    return made


def test_what_is_read_at_a_death_is_suspect(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.begin([ONE])
    first.end()
    first.begin([ONE, TWO])
    first.close()
    second = opened(tmp_path)
    assert (second.deaths(ONE), second.deaths(TWO)) == (1, 1)
    second.clear(TWO)
    second.begin([ONE])
    second.close()
    third = opened(tmp_path)
    assert (third.deaths(ONE), third.deaths(TWO)) == (2, 0)
    third.close()
    fourth = opened(tmp_path)
    assert fourth.deaths(ONE) == 2, "a death at other times says nothing"
    fourth.close()


def test_no_more_names_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SUSPECTS", 3)
    names = [bytes([n]) * 16 for n in range(5)]
    for group in (names[:2], names[2:]):
        made = opened(tmp_path)
        made.begin(group)
        made.close()
    made = opened(tmp_path)
    assert [made.deaths(name) for name in names] == [0, 0, 1, 1, 1]
    made.close()


@pytest.mark.parametrize("content", ["00 x\n", "zz 1\n", "0011"])
def test_a_damaged_list(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    opened(tmp_path).close()
    (tmp_path / FOLDER / SUSPECTS).write_text(content)
    opened(tmp_path).close()
    assert "damaged" in caplog.text


def test_set_aside_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(box: Box) -> None:
        monkeypatch.setattr(module, "MOST_UNREAD", 1)
        monkeypatch.setattr(box.intake, "_what", lambda message: pytest.fail("it is not read"))
        first, second = box.report(number=1), box.report(number=2)
        box.intake._suspects._deaths = {digest_of(first): DEATHS, digest_of(second): DEATHS}
        assert await box.intake.take(first) == TAKEN
        assert await box.intake.take(first) == TAKEN, "seen"
        assert await box.intake.take(second) == AWAY, "there is no room, and nothing is lost"
        status = box.intake.status()
        [kept] = Path(status["set_aside_folder"]).iterdir()
        assert kept.read_bytes() == first.octets
        inbound.show(json.loads(json.dumps(status)))
        assert f"1 message that ended its reader is kept in {kept.parent}" in capsys.readouterr().out
        kept.unlink()
        assert await box.intake.take(second) == TAKEN

    run(tmp_path, work)
