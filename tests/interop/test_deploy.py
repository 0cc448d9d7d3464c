"""What deploy/ ships is taken by the programs it is for: promtool, systemd-analyze, logrotate, `fastrelay check`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.net import wait_until
from support.peers import require
from support.relay import REPO, RelayProcess

pytestmark = pytest.mark.interop

DEPLOY = REPO / "deploy"
EXPOSURE_TENTHS = 20  # systemd-analyze security: below 2.0 of 10
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))


def run(*command: str | Path, directory: Path = REPO, status: int = 0) -> str:
    """What a program printed; it must end with this status."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=directory, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPO), "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
    )  # fmt: skip
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


# -- example configurations -------------------------------------------------------------------------------------------


def test_there_are_three_examples() -> None:
    assert [path.stem for path in EXAMPLES] == ["many-tenants", "one-address", "two-cold-addresses"]


@pytest.mark.parametrize("path", [*EXAMPLES, DEPLOY / "fastrelay.example.yaml"], ids=lambda path: path.stem)
def test_an_example_configuration_is_sound(path: Path) -> None:
    said = run(sys.executable, "-m", "fastrelay", "check", "--no-host", "-c", path)
    assert "sound" in said
    assert "warning" not in said


def test_an_example_with_a_mistake_is_refused(tmp_path: Path) -> None:
    """So that the test above can fail."""
    broken = tmp_path / "broken.yaml"
    broken.write_text((DEPLOY / "examples/two-cold-addresses.yaml").read_text().replace("sparkpost", "sparkplug"))
    assert "sparkplug" in run(sys.executable, "-m", "fastrelay", "check", "--no-host", "-c", broken, status=2)


# -- Prometheus -------------------------------------------------------------------------------------------------------


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    promtool = require("promtool", "prometheus")
    folder = DEPLOY / "prometheus"
    assert "SUCCESS: prometheus.yml is valid" in run(promtool, "check", "config", "prometheus.yml", directory=folder)


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool = require("promtool", "prometheus")
    for path in sorted((DEPLOY / "prometheus/tests").glob("*.yaml")):
        run(promtool, "test", "rules", path.name, directory=path.parent)


def test_promtool_notices_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    promtool = require("promtool", "prometheus")
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
    rules = tmp_path / "prometheus/alert.rules.yml"
    rules.write_text(rules.read_text().replace("fastrelay_warmup_held == 1", "fastrelay_warmup_held == 2"))
    tests = tmp_path / "prometheus/tests/alerts.yaml"
    chosen = yaml.safe_load(tests.read_text())
    chosen["tests"] = [one for one in chosen["tests"] if one["name"] == "FastrelayWarmupHeld"]
    tests.write_text(yaml.safe_dump(chosen))
    said = run(promtool, "test", "rules", "alerts.yaml", directory=tests.parent, status=1)
    assert "FastrelayWarmupHeld" in said


# -- systemd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit file with a program that is here."""
    text = (DEPLOY / "systemd/fastrelay.service").read_text()
    assert text.count("/opt/fastrelay/.venv/bin/fastrelay") == 2
    path = tmp_path / "fastrelay.service"
    path.write_text(text.replace("/opt/fastrelay/.venv/bin/fastrelay", "/bin/true"))
    return path


def test_the_unit_is_sound(unit: Path) -> None:
    assert run(require("systemd-analyze", "systemd"), "verify", "--man=no", unit).strip() == ""


def test_the_unit_is_hardened(unit: Path) -> None:
    analyze = require("systemd-analyze", "systemd")
    said = run(analyze, "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for fastrelay\.service: ([\d.]+)", said)
    assert exposure is not None, said
    print(f"exposure {exposure[1]}")


def test_a_unit_without_hardening_is_not(unit: Path) -> None:
    analyze = require("systemd-analyze", "systemd")
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet", "#").replace("SystemCallFilter", "#"))
    run(analyze, "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", "--no-pager", unit, status=1)


# -- logrotate --------------------------------------------------------------------------------------------------------


def test_logrotate_takes_the_event_logs_and_none_is_lost(tmp_path: Path) -> None:
    """The shipped file with another path, user and process; the relay goes on in new files."""
    logrotate = require("logrotate")
    with RelayProcess(tmp_path, {"routes": [{"domains": ["*"], "action": "discard"}]}) as relay:
        text = (DEPLOY / "logrotate/fastrelay").read_text()
        changes = {
            "/var/lib/fastrelay/events": str(relay.state_dir / "events"),
            "    su fastrelay fastrelay\n": "",
            "systemctl kill --signal=USR1 --kill-whom=main fastrelay.service": f"kill -USR1 {relay.pid}",
        }
        for shipped, here in changes.items():
            assert shipped in text
            text = text.replace(shipped, here)
        path = tmp_path / "logrotate.conf"
        path.write_text(text)
        path.chmod(0o644)
        for number in range(3):
            relay.submit(b"Subject: x\r\n\r\nhello\r\n", [f"r{number}@d.example"])
        wait_until(lambda: ended(relay) == 3, 60, "three events of the old files")
        run(logrotate, "--force", "--state", tmp_path / "logrotate.state", path)
        relay.submit(b"Subject: x\r\n\r\nhello\r\n", ["r3@d.example"])
        wait_until(lambda: ended(relay) == 4, 60, "the event after rotating")
        wait_until(lambda: list((relay.state_dir / "events").glob("*.jsonl")), 60, "a new file")
        assert list((relay.state_dir / "events").glob("*.jsonl.1"))


def ended(relay: RelayProcess) -> int:
    """Recipients whose end is in the event logs, rotated ones too."""
    return len({event["key"] for event in relay.events() if event["event"] == "removed"})
