"""A worker dies at any step of a group commit while it owes bounce messages: each message's sender has exactly one."""

import email
import email.policy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[1] / "support" / "bounce_child.py"
SEPARATOR = b"\n=====\n"
# Where, and when it passes there for the so-many-th time: between them all of accept, failure, payment and delivery
POINTS = [
    ("content_write", 8), ("content_sync", 9), ("begin", 7), ("put", 8), ("commit", 6), ("commit", 9), ("commit", 11),
    ("committed", 8), ("log_write", 9), ("done", 6), ("done", 9), ("done", 11),
]  # fmt: skip


def run_child(folder: Path, step: str, after: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(CHILD), str(folder), step, str(after)], capture_output=True, timeout=300, check=False
    )


def letters(folder: Path) -> dict[str, set[str]]:
    """Message id → the bounce messages that tell of it. One that was in hand at the crash may have come twice."""
    found: dict[str, set[str]] = defaultdict(set)
    path = folder / "letters"
    for octets in (path.read_bytes() if path.exists() else b"").split(SEPARATOR)[:-1]:
        message = email.message_from_bytes(octets, policy=email.policy.default)
        groups = list(message.walk())
        [log_id] = {str(group["Final-Log-ID"]) for group in groups if group["Final-Log-ID"]}
        found[log_id].add(str(message["Message-ID"]))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("step", "after"), POINTS)
def test_one_bounce_message_for_each(step: str, after: int, tmp_path: Path) -> None:
    first = run_child(tmp_path, step, after)
    assert b"Traceback" not in first.stderr, first.stderr.decode()
    second = run_child(tmp_path, "-", 0)
    assert second.returncode == 0, second.stderr.decode()
    told = letters(tmp_path)
    path = tmp_path / "accepted"
    accepted = set(path.read_text().split()) if path.exists() else set()
    assert accepted <= set(told), f"nobody was told of {sorted(accepted - set(told))}"
    assert all(len(one) == 1 for one in told.values()), f"told twice: {told}"
    assert first.returncode != 0 or len(told) == len(accepted)
