"""What the kernel says of processes that gave up root: each test is a child process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastrelay.admin import statedir
from fastrelay.admin.privileges import CAP_NET_BIND_SERVICE, CORE_DUMPS, Identity, identity
from fastrelay.config.schema import Config, from_builtins
from fastrelay.errors import HostError

REPO = Path(__file__).resolve().parents[3]
BIND_ONLY = 1 << CAP_NET_BIND_SERVICE
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

PRELUDE = """
import ctypes, os, resource, socket, subprocess, sys
from fastrelay.admin.privileges import become, drop, harden, identity, permitted
def status(name):
    with open("/proc/thread-self/status") as lines:
        return next(line.split(None, 1)[1].strip() for line in lines if line.startswith(name + ":"))
def prctl(option): return ctypes.CDLL(None).prctl(option, 0, 0, 0, 0)
"""


def child(code: str, **environ: str) -> list[str]:
    """The lines that a child prints."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **environ}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_a_process_leaves_no_core_and_gains_nothing() -> None:
    told = child(
        "harden()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), prctl(3), status('NoNewPrivs'))\n"
        "print(oct(os.umask(0)))"
    )
    assert told == ["(0, 0) 0 1", "0o77"]


def test_core_dumps_can_be_asked_for() -> None:
    before = child("print(resource.getrlimit(resource.RLIMIT_CORE))")
    told = child("harden(); print(resource.getrlimit(resource.RLIMIT_CORE)); print(prctl(3))", **{CORE_DUMPS: "1"})
    assert told == [*before, "1"]


BECOME = """
who = identity("nobody")
become(who)
print(status("Uid").split(), status("Gid").split(), status("Groups"))
print(*(int(status(name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")))
"""


@needs_root
def test_root_becomes_a_user_who_may_bind_low_ports_only() -> None:
    who = identity("nobody")
    told = child(BECOME)
    assert told[0].startswith(f"{[str(who.uid)] * 4} {[str(who.gid)] * 4}")
    assert told[1].split() == [str(BIND_ONLY)] * 5


@needs_root
def test_there_is_no_way_back() -> None:
    code = """
become(identity("nobody"))
for act in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chown("/etc/passwd", 0, 0)):
    try:
        act()
    except PermissionError:
        print("refused")
try:
    open("/etc/shadow")
except PermissionError:
    print("refused")
"""
    assert child(code) == ["refused"] * 4


@needs_root
def test_a_port_below_1024_can_be_bound_until_all_is_dropped() -> None:
    code = """
become(identity("nobody"))
address = "127.0.0.%d" % (2 + os.getpid() % 250)
def bind(port):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
bind(1019)
drop()
print(permitted(), int(status("CapAmb"), 16))
if int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()) > 1019:
    try:
        bind(1019)
    except PermissionError:
        print("refused")
else:
    print("refused")
"""
    assert child(code) == ["0 0", "refused"]


@needs_root
def test_what_a_child_inherits_is_the_one_capability() -> None:
    code = """
become(identity("nobody"))
subprocess.run(["/bin/grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"], cwd="/")
"""
    told = child("harden()\n" + code)
    assert told == [f"CapEff:\t{BIND_ONLY:016x}", "NoNewPrivs:\t1"]


@needs_root
def test_a_filter_that_forbids_capset_is_lived_with() -> None:
    code = """
from fastrelay.admin import privileges
become(identity("nobody"))
def forbidden(*rest, **more):
    raise PermissionError(1, "capset")
privileges._capset = forbidden
drop()
print(status("CapAmb"))
"""
    assert child(code) == ["0" * 16]


def test_drop_leaves_root_alone() -> None:
    if os.geteuid() == 0:
        assert child("before = permitted(); drop(); print(permitted() == before)") == ["True"]
    else:
        assert child("drop(); print(permitted())") == ["0"]


def test_names_and_numbers_and_those_that_are_not_there() -> None:
    nobody = identity("nobody")
    assert identity(str(nobody.uid)) == nobody
    assert identity("nobody", "0").gid == 0
    assert isinstance(nobody, Identity)
    with pytest.raises(LookupError, match="no user 'no-such-user'"):
        identity("no-such-user")
    with pytest.raises(LookupError, match="no group 'no-such-group'"):
        identity("nobody", "no-such-group")


def config(state_dir: Path, **run_as: str) -> Config:
    return from_builtins({"hostname": "relay.test", "state_dir": str(state_dir), "run_as": run_as})


@needs_root
def test_a_state_directory_that_is_made_belongs_to_the_user(tmp_path: Path) -> None:
    who = identity("nobody")
    statedir.make_state_dir(config(tmp_path / "a" / "b"), who)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (who.uid, who.gid)
        assert folder.stat().st_mode & 0o007 == 0


@needs_root
def test_a_state_directory_that_is_roots_is_refused_in_words(open_tmp_path: Path) -> None:
    (open_tmp_path / "state").mkdir(mode=0o700)
    theirs = open_tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "lock").write_text("")
    (theirs / "lock").chmod(0o600)
    os.chown(theirs, identity("nobody").uid, -1)
    code = """
from fastrelay.admin import statedir
from fastrelay.config.schema import from_builtins
from fastrelay.errors import HostError
statedir._usable = lambda path, mode: True
config = from_builtins({"hostname": "relay.test", "state_dir": %r})
try:
    statedir.take_state_dir(config, "x.yaml", identity("nobody"))
except HostError as error:
    print(error)
"""
    for folder in (open_tmp_path / "state", theirs):
        [told] = child(code % str(folder))
        assert told == (
            f"x.yaml: state_dir: {folder} or what is in it can't be read and written by user nobody (run_as.user); "
            f"give it away: chown -R nobody {folder}"
        )


def test_a_user_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    named = config(tmp_path, user="no-such-user")
    if os.geteuid() != 0:
        assert statedir.identity_of(named, "x.yaml") is None
        return
    with pytest.raises(HostError, match="no user 'no-such-user'; create it"):
        statedir.identity_of(named, "x.yaml")


def test_without_run_as_nobody_is_become(tmp_path: Path) -> None:
    assert statedir.identity_of(config(tmp_path), "x.yaml") is None
