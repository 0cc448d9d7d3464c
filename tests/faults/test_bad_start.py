"""Bad input at the start: each is refused with a sentence that names the thing and what to do, and nothing is lost."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.net import split_endpoint, wait_until
from support.relay import RelayProcess
from support.sink import Sink

Maker = Callable[..., RelayProcess]


def refused(relay: RelayProcess, seconds: float = 60.0) -> str:
    """Start the relay, which must give up by itself with a status that is not 0; what it said."""
    process = relay.spawn()
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        relay.kill("all")
        pytest.fail(f"it did not refuse to start\n{relay.log_tail()}")
    relay.process = None
    said = relay.log_text()
    assert status not in (0, None)
    assert "Traceback" not in said, said
    return said


def test_state_directory_that_cannot_be_made(make_relay: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = refused(make_relay({"state_dir": str(tmp_path / "file" / "state")}, start=False))
    assert str(tmp_path / "file") in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_state_directory_that_cannot_be_read(make_relay: Maker, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o000)
    said = refused(make_relay({"state_dir": str(state)}, start=False))
    assert str(state) in said


def test_smtp_port_in_use(make_relay: Maker) -> None:
    relay = make_relay(start=False)
    with socket.socket() as taken:
        taken.bind(relay.smtp)
        taken.listen()
        said = refused(relay)
    assert f"port {relay.smtp[1]} at {relay.smtp[0]} is in use" in said


def test_metrics_port_in_use(make_relay: Maker) -> None:
    relay = make_relay(start=False)
    with socket.socket() as taken:
        taken.bind(relay.metrics)
        taken.listen()
        said = refused(relay)
    assert f"port {relay.metrics[1]} at {relay.metrics[0]} is in use" in said


def test_unknown_key(make_relay: Maker) -> None:
    relay = make_relay({"delivery": {"conections_per_site": 5}}, start=False)
    said = refused(relay)
    assert "conections_per_site" in said
    assert "connections_per_site" in said, "the mend: the key that was meant"
    assert str(relay.config_path) in said
    done = relay.cli("check", check=False)
    assert done.returncode == 2
    assert "conections_per_site" in done.stderr + done.stdout


def test_source_address_this_host_does_not_have(make_relay: Maker) -> None:
    relay = make_relay({"sources": [{"name": "far", "address": "192.0.2.77", "ehlo": "far.test"}]}, start=False)
    said = refused(relay)
    assert "192.0.2.77" in said
    assert "far" in said


def test_second_relay_on_the_same_state_directory(make_relay: Maker, sink: Sink) -> None:
    first = make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]})
    second = make_relay({"state_dir": first.config["state_dir"]}, start=False)
    said = refused(second)
    assert first.config["state_dir"] in said
    first.submit(b"Subject: x\r\n\r\nx\r\n", ["r@d.example"])
    wait_until(lambda: sink.messages, 30, "the first relay to go on")


def test_start_is_refused_while_somebody_holds_the_lock(make_relay: Maker) -> None:
    """Workers inherit the lock, so one that outlived its supervisor would hold it like this."""
    relay = make_relay()
    state = Path(relay.config["state_dir"])
    relay.stop()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(state / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        said = refused(relay)
        other.communicate(b"")
    assert str(state) in said
    with (state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_corrupt_lmdb_of_one_worker_is_set_aside_and_the_other_goes_on(make_relay: Maker, sink: Sink) -> None:
    relay = make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]})
    for number in range(4):
        relay.submit(b"Subject: x\r\n\r\nx\r\n", [f"r{number}@d.example"])
    relay.wait_drained()
    relay.stop()
    state = Path(relay.config["state_dir"])
    (damaged,) = (state / "spool" / "w1" / "lmdb").glob("data.mdb")
    with damaged.open("r+b") as file:
        file.write(os.urandom(16384))
    relay.start()
    said = relay.log_text()
    assert "w1" in said
    before = len(sink.messages)
    for number in range(6):
        relay.submit(b"Subject: x\r\n\r\nx\r\n", [f"again{number}@d.example"])
    wait_until(lambda: len(sink.messages) == before + 6, 30, "deliveries after the damage")


def test_port_is_named_when_two_listeners_are_the_same(make_relay: Maker) -> None:
    relay = make_relay(start=False)
    host, port = split_endpoint(relay.endpoint)
    relay.configure({"listeners": {"smtp": [{"bind": relay.endpoint}, {"bind": relay.endpoint}]}})
    said = refused(relay)
    assert f"{host}:{port}" in said
