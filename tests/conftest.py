"""What all tests share: --long, the check that no process is left behind, fixtures for relays, sinks and load tools."""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from support.net import free_endpoint
from support.relay import RelayProcess, alive, descendants
from support.sink import Sink

PR_SET_CHILD_SUBREAPER = 36


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run soaks, long fuzzing and many rounds")


def pytest_configure(config: pytest.Config) -> None:
    """Orphans of killed relays come to us rather than to init, so that a leak can be seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # No timing decides a test: a loaded machine is no failure. The same examples every time, so that a run says what
    # changed in the code; --long looks for new ones.
    hypothesis.settings.register_profile(
        "fastrelay",
        deadline=None,
        derandomize=not config.getoption("--long"),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("fastrelay")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="slow: runs with --long")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether --long was given: tests that repeat may then repeat more often."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="module", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail the module if a process started during it still lives; it is killed first.

    Per module, since fixtures of that scope may keep a process for several tests.
    """
    before = set(descendants(os.getpid()))
    yield
    end = time.monotonic() + 5
    while True:
        left = [pid for pid in descendants(os.getpid()) if pid not in before and alive(pid)]
        if not left or time.monotonic() > end:
            break
        time.sleep(0.05)
    names = {pid: _command_line(pid) for pid in left}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    _reap_orphans(before)
    assert not names, f"processes left behind: {names}"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def _reap_orphans(known: set[int]) -> None:
    for pid in descendants(os.getpid()):
        if pid not in known and not alive(pid):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


@pytest.fixture
def endpoint() -> str:
    """A free "ADDR:PORT" on a loopback address of its own."""
    return free_endpoint()


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """Like tmp_path, but other users may enter it, as servers that give up root need; pytest closes its own to them."""
    path = Path(tempfile.mkdtemp(prefix="fastrelay-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder where a sync costs nothing: the images are many, and only their content matters."""
    base = Path("/dev/shm")
    if not base.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="fastrelay-powercut-", dir=base))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A sink that accepts everything; `messages` holds it."""
    with Sink() as running:
        yield running


@pytest.fixture
def make_relay(tmp_path: Path) -> Iterator[Callable[..., RelayProcess]]:
    """Call it with a configuration for a started relay; all are stopped at the end, and their accounts must balance."""
    started: list[RelayProcess] = []

    def make(config: Mapping[str, Any] | None = None, *, start: bool = True, **details: Any) -> RelayProcess:
        relay = RelayProcess(tmp_path / f"relay{len(started)}", config, **details)
        started.append(relay)
        return relay.start() if start else relay

    yield make
    try:
        for relay in started:
            if relay.process is not None and relay.process.poll() is None:
                relay.assert_balanced()
                relay.stop()
    finally:
        for relay in started:
            relay.kill("all")
            print(f"---- end of {relay.log_path}\n{relay.log_tail(30)}")


@pytest.fixture(scope="session")
def load_tools() -> Any:
    """The module benchmarks/tools.py, with the C source and sink compiled."""
    import tools

    tools.build("source")
    tools.build("sink")
    return tools
