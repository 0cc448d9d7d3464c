"""kill -9 at every step of the committer: what was told durable is there, what was delivered does not come back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.spool_account import Account, check

from fastrelay._core.commit import STEPS

CHILD = Path(__file__).parents[1] / "support" / "spool_child.py"
CRASHED = 9


def run(folder: Path, step: str, after: int, rounds: int = 8) -> tuple[int, Account]:
    child = subprocess.run(
        [sys.executable, CHILD, folder, step, str(after), str(rounds)], stdout=subprocess.PIPE, timeout=60, text=True
    )
    return child.returncode, Account(child.stdout)


def test_a_child_that_is_not_killed(tmp_path: Path) -> None:
    code, account = run(tmp_path, "-", 0)
    assert code == 0
    assert account.closed
    assert {("put", msgid) for what, msgid in account.tried if what == "put"} <= account.done
    check(tmp_path, [account])


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("step", STEPS[1:])
def test_killed_at(step: str, after: int, tmp_path: Path) -> None:
    code, account = run(tmp_path, step, after)
    assert code in (CRASHED, 0)  # 0: it passes there less often in so few rounds
    if after == 0:
        assert code == CRASHED
    check(tmp_path, [account])
    # and again from what is left
    code, again = run(tmp_path, "-", 0, 3)
    assert code == 0
    check(tmp_path, [account, again])


def test_killed_again_and_again(tmp_path: Path) -> None:
    accounts = []
    for n, step in enumerate(("commit", "done", "log_half", "content_half", "unlink", "committed")):
        code, account = run(tmp_path, step, n % 3)
        assert code in (CRASHED, 0)
        accounts.append(account)
        check(tmp_path, accounts)
