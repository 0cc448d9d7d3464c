"""The timer and the service that run `fastrelay doctor` are taken by systemd, and the service is hardened."""

import re
import subprocess
from pathlib import Path

import pytest
from support.peers import require
from support.relay import REPO

pytestmark = pytest.mark.interop

UNITS = REPO / "deploy/systemd"
PROGRAM = "/opt/fastrelay/.venv/bin/fastrelay"
EXPOSURE_TENTHS = 25  # systemd-analyze security: at most 2.5 of 10


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Both units, with a program that is here."""
    for name in ("fastrelay-doctor.service", "fastrelay-doctor.timer"):
        (tmp_path / name).write_text((UNITS / name).read_text().replace(PROGRAM, "/bin/true"))
    return tmp_path


def analyze(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [require("systemd-analyze", "systemd"), *map(str, arguments)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )


def test_systemd_takes_both_units(units: Path) -> None:
    said = analyze("verify", "--man=no", units / "fastrelay-doctor.timer", units / "fastrelay-doctor.service")
    assert (said.returncode, said.stdout.strip()) == (0, "")


def test_the_service_is_hardened(units: Path) -> None:
    service = units / "fastrelay-doctor.service"
    said = analyze("security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", "--no-pager", service)
    assert said.returncode == 0, said.stdout
    assert re.search(r"Overall exposure level for fastrelay-doctor\.service: [\d.]+", said.stdout)


def test_the_service_runs_the_command_with_its_exit_codes() -> None:
    text = (UNITS / "fastrelay-doctor.service").read_text()
    assert f"ExecStart={PROGRAM} doctor -c /etc/fastrelay/fastrelay.yaml\n" in text
    assert "SuccessExitStatus=1\n" in text  # warnings; errors (2) and what could not run (3) are failures
