"""The parts of sealing and their swap at a reload."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.dkim_keys import key_file, rsa_key
from support.worker import Mx, WorkerBox, run

from fastrelay.config.checks import check_host
from fastrelay.config.security import Compose
from fastrelay.feedback.reference import KeyFileError, obtain_key

CONTENT = b"From: a@news.example\r\nTo: b@c.example\r\nSubject: x\r\n\r\nhello\r\n"


def changed(box: WorkerBox, **sections: Any) -> Any:
    return msgspec.structs.replace(box.config, **sections)


def test_nothing_configured_costs_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with WorkerBox(tmp_path / "relay", []) as box:
            assert box.app.engine.seal is None
            assert not (tmp_path / "relay" / "reference.key").exists()

    run(work)


def test_a_reload_swaps_it(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path / "relay", [await mx.start()]) as box:
            await box.accepted(["joe@a.test"], content=CONTENT)
            await box.settled()
            box.app.reload(changed(box, compose=Compose(reference="X-Ref")))
            await box.accepted(["joe@a.test"], content=CONTENT)
            await box.settled()
            key = tmp_path / "relay" / "reference.key"
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            box.app.reload(changed(box, compose=Compose()))
            assert box.app.engine.seal is None
            await box.accepted(["joe@a.test"], content=CONTENT)
            await box.settled()
            assert [b"X-Ref:" in content for _, content in mx.accepted] == [False, True, False]

    run(work)


def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with WorkerBox(tmp_path / "relay", [], compose={"add": ["date"]}) as box:
            before = box.app.engine.seal
            missing = Compose(reference="X-Ref", reference_key=str(tmp_path / "missing"))
            with pytest.raises(KeyFileError):
                box.app.reload(changed(box, compose=missing))
            assert box.app.engine.seal is before
            assert box.app.config is box.config

    run(work)


def test_references_outlive_the_right_to_read_their_key(tmp_path: Path) -> None:
    """The relay gives up root after it started."""

    async def work() -> None:
        async with WorkerBox(tmp_path / "relay", [], compose={"reference": "X-Ref"}) as box:
            (tmp_path / "relay" / "reference.key").unlink()
            box.app.reload(changed(box, compose=Compose(reference="X-Other")))
            assert not (tmp_path / "relay" / "reference.key").exists()

    run(work)


def test_a_dkim_key_that_is_missing_at_a_workers_start(tmp_path: Path) -> None:
    """A worker that was replaced goes on; `check` and the supervisor refuse a start."""

    async def work() -> None:
        file = Path(key_file(tmp_path, "s1.pem", rsa_key()))
        file.unlink()
        keys = [{"domain": "news.example", "selector": "s1", "key": str(file)}]
        async with WorkerBox(tmp_path / "relay", [], dkim={"keys": keys}) as box:
            await box.accepted(["joe@a.test"], content=CONTENT)
            assert box.places() == {"no_dkim_key": 1}
            assert box.app.sealing.keyring is not None
            assert box.app.sealing.keyring.usable == 0
            box.submit(["joe@a.test"], content=CONTENT)

    run(work)


def test_the_key_file_is_looked_at_before_a_start(tmp_path: Path) -> None:
    def problems(compose: Compose) -> list[str]:
        config = msgspec.structs.replace(box.config, compose=compose)
        return [one.problem for one in check_host(config, "f.yaml").problems if one.path == "compose.reference_key"]

    box = WorkerBox(tmp_path / "relay", [])
    own = tmp_path / "relay" / "reference.key"
    assert problems(Compose(reference="X-Ref")) == []
    own.write_text("damaged")
    assert problems(Compose()) == []
    assert "hexadecimal" in problems(Compose(reference="X-Ref"))[0]
    given = tmp_path / "given.key"
    wanted = Compose(list_unsubscribe="https://a.example/{reference}", reference_key=str(given))
    assert "can't be read" in problems(wanted)[0]
    obtain_key(str(given))
    assert problems(wanted) == []
