"""A relay that root starts and that is root no more: what the kernel says of its processes, files and ports."""

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.net import loopback_address, wait_until
from support.other_user import way_for
from support.relay import RelayProcess
from support.sink import Sink

from fastrelay.admin.privileges import CAP_NET_BIND_SERVICE, identity

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]
USER = "nobody"
LOW_PORT = 587


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def capabilities(pid: int) -> set[int]:
    """Effective, permitted, inheritable and ambient, each as a number; of all threads."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found |= {
            int(line.split()[1], 16) for line in lines if line.startswith(("CapEff", "CapPrm", "CapInh", "CapAmb"))
        }
    return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def low_endpoint() -> str:
    """A free address with a port below 1024."""
    address = loopback_address()
    with socket.socket() as probe:
        probe.bind((address, LOW_PORT))
    return f"{address}:{LOW_PORT}"


def relay_of(folder: Path, sink: Sink, state_dir: Path) -> RelayProcess:
    return RelayProcess(
        folder,
        {
            "state_dir": str(state_dir),
            "run_as": {"user": USER},
            "listeners": {"smtp": [{"bind": low_endpoint()}]},
            "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
        },
        prefix=way_for(USER),
    )


def test_root_is_given_up_and_low_ports_stay(open_tmp_path: Path, sink: Sink) -> None:
    who = identity(USER)
    with relay_of(open_tmp_path, sink, open_tmp_path / "state") as relay:
        bind_only = 1 << CAP_NET_BIND_SERVICE
        for pid in (relay.pid, *relay.workers()):
            told = status(pid)
            assert told["Uid"].split() == [str(who.uid)] * 4
            assert told["Gid"].split() == [str(who.gid)] * 4
            assert told["NoNewPrivs"] == "1"
            assert "0" in told["Groups"].split() or told["Groups"].split() in ([], [str(who.gid)])
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0  # not dumpable: nobody but root may look into it
        assert capabilities(relay.pid) == {bind_only}
        for pid in relay.workers():
            assert capabilities(pid) == {0}
        relay.submit(b"Subject: x\r\n\r\nhello\r\n", ["b@d.example"])
        relay.wait_drained()
        assert len(sink.messages) == 1

        old = relay.workers()
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: relay.replaced(old), 60)
        relay.wait_ready()
        for _ in range(8):  # over all workers
            relay.submit(b"Subject: x\r\n\r\nhello\r\n", ["b@d.example"])
        relay.wait_drained()
        assert len(sink.messages) == 9
        for pid in relay.workers():
            assert capabilities(pid) == {0}
        assert_closed(relay.state_dir, who.uid)


def assert_closed(state_dir: Path, owner: int) -> None:
    """Everything below belongs to the relay's user, and to nobody else."""
    for path in state_dir.rglob("*"):
        found = path.lstat()
        kept = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
        assert (found.st_uid, stat.S_IMODE(found.st_mode) & ~kept) == (owner, 0), f"{path}: {found.st_mode:o}"


def test_a_state_directory_of_root_is_refused(open_tmp_path: Path, sink: Sink) -> None:
    (open_tmp_path / "state").mkdir(mode=0o700)
    relay = relay_of(open_tmp_path, sink, open_tmp_path / "state")
    process = relay.spawn()
    assert process.wait(60) == 2
    assert f"can't be read and written by user {USER} (run_as.user); give it away: chown -R {USER}" in relay.log_text()
