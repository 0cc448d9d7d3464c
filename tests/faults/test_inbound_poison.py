"""A message that kills the process which reads it: it is set aside after some deaths, and other mail has its effect."""

import signal
import subprocess
import sys
from pathlib import Path

from fastrelay.feedback.suspects import DEATHS, FOLDER, READING, SUSPECTS, UNREAD

CHILD = Path(__file__).parents[1] / "support" / "inbound_child.py"


def take_both(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHILD), str(folder)], capture_output=True, timeout=120, check=False, text=True
    )


def test_a_message_that_kills_its_reader(tmp_path: Path) -> None:
    for death in range(DEATHS):
        done = take_both(tmp_path)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "250" not in done.stdout or death > 0, "at first they are read together, and nothing is answered"
    assert not list((tmp_path / FOLDER / UNREAD).iterdir())
    done = take_both(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["250 2.0.0 Ok", "250 2.0.0 Ok", "1 True"]
    [kept] = (tmp_path / FOLDER / UNREAD).iterdir()
    assert kept.read_bytes().endswith(b"POISON")
    assert "kept in" in done.stderr
    assert (tmp_path / FOLDER / SUSPECTS).read_text() == "", "both are settled"
    assert (tmp_path / FOLDER / READING).read_bytes()[:1] == b"\0"
    kept.unlink()
    done = take_both(tmp_path)
    assert done.returncode == 0, "it was seen: tried again, it is not read again"
    assert not list((tmp_path / FOLDER / UNREAD).iterdir())
