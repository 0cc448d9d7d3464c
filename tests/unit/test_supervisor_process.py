"""The supervisor as a process of its own: signals, kill -9, a second relay on the same state directory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.net import free_endpoint, wait_until

from fastrelay.admin.client import ControlClient
from fastrelay.errors import NoRelay

REPO = Path(__file__).resolve().parents[2]
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
CODE = """
import sys
from fastrelay.cli import group
from fastrelay import supervisor
supervisor.run.__kwdefaults__["worker_command"] = [sys.executable, sys.argv.pop(1)]
group.cli()
"""
Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "relay.yaml"
    settings = {
        "hostname": "mta.example",
        "state_dir": str(tmp_path / "state"),
        "workers": 2,
        "listeners": {"smtp": [{"bind": free_endpoint()}]},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def start(config_path: Path) -> Iterator[Start]:
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(FAKE_WORKER), "run", "-c", str(config_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPO,
            env={**os.environ, "FAKE_WORKER_DIR": str(config_path.parent), "PYTHONPATH": str(REPO)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def status(config_path: Path) -> dict:
    with ControlClient(str(config_path.parent / "state")) as relay:
        return relay.call("status")


def running(config_path: Path) -> bool:
    try:
        return status(config_path)["state"] == "running"
    except NoRelay:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers(config_path: Path) -> list[int]:
    return [worker["pid"] for worker in status(config_path)["workers"]]


def test_signals(start: Start, config_path: Path) -> None:
    relay = start()
    wait_until(lambda: running(config_path), what="the relay")
    pids = workers(config_path)
    relay.send_signal(signal.SIGUSR1)
    seen = config_path.parent / "seen.0"
    wait_until(lambda: seen.exists() and "reopen_logs" in seen.read_text(), what="USR1")
    relay.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload" in seen.read_text(), what="HUP")
    relay.send_signal(signal.SIGTERM)
    _, words = relay.communicate(timeout=60)
    assert relay.returncode == 0
    assert [json.loads(line)["command"] for line in seen.read_text().splitlines()] == ["reopen_logs", "reload", "drain"]
    assert not any(alive(pid) for pid in pids)
    assert "is ready: 2 workers, SMTP at 127.0.0.1:2525" in words
    assert "stopped" in words
    assert str(config_path.parent / "state") in words
    for line in words.splitlines():
        at, level, who, _ = line.split(maxsplit=3)
        assert time.strptime(at, "%Y-%m-%dT%H:%M:%S." + at[20:])
        assert level in ("info", "warn", "error")
        assert who == "supervisor:"


def test_a_second_interrupt_ends_all_now(start: Start, config_path: Path) -> None:
    (config_path.parent / "stubborn").touch()
    relay = start()
    wait_until(lambda: running(config_path), what="the relay")
    relay.send_signal(signal.SIGINT)
    wait_until(lambda: (config_path.parent / "seen.1").exists(), what="the drain")
    wait_until(lambda: (config_path.parent / "seen.0").exists(), what="the drain")
    relay.send_signal(signal.SIGINT)
    relay.communicate(timeout=60)
    assert relay.returncode == 0


def test_a_supervisor_that_is_killed_takes_its_workers_along_and_another_may_start(
    start: Start, config_path: Path
) -> None:
    for _ in range(3):
        relay = start()
        wait_until(lambda: running(config_path), what="the relay")
        pids = workers(config_path)
        relay.kill()
        relay.communicate()
        wait_until(lambda pids=pids: not any(alive(pid) for pid in pids), what="the end of the workers")
    relay = start()  # nothing waits for the workers here: the lock does
    wait_until(lambda: running(config_path), what="the relay")
    relay.kill()
    relay.communicate()
    relay = start()
    wait_until(lambda: running(config_path), what="the next relay")
    relay.send_signal(signal.SIGTERM)
    relay.communicate(timeout=60)
    assert relay.returncode == 0


def test_a_second_relay_on_the_same_state_directory_is_refused(start: Start, config_path: Path) -> None:
    relay = start()
    wait_until(lambda: running(config_path), what="the relay")
    second = start()
    _, words = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"held by process {relay.pid}" in words
    assert running(config_path)


def test_a_worker_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from fastrelay.admin.child import die_with_parent; die_with_parent(1); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_words_of_a_worker_that_cannot_start_reach_the_operator(start: Start, config_path: Path) -> None:
    (config_path.parent / "fail").write_text("port 25 is in use")
    relay = start()
    _, words = relay.communicate(timeout=60)
    assert relay.returncode == 2
    last = words.splitlines()[-1]
    assert last.startswith(str(config_path))
    assert last.endswith(": port 25 is in use")
