"""Who the relay is to the kernel: no core dumps, no way back to root, ports below 1024 and nothing else.

    harden()     first of all, supervisor and workers: umask 077, no_new_privs, no core dumps
    become()     the supervisor, started by root with run_as: user and group, of root's powers CAP_NET_BIND_SERVICE
    drop()       a worker, once its listeners are bound: nothing is left

Keys and passwords are in memory, so a process is not dumpable: no core file, and nobody but root may look into it by
/proc or ptrace. FASTRELAY_CORE_DUMPS=1 in the environment leaves cores and debuggers alone, for who looks for a bug.

CAP_NET_BIND_SERVICE stays ambient in the supervisor, since workers that are started again bind anew. Capabilities are
a thread's own, so `become` and `drop` are called before there is a second thread.

Known faults: a port below 1024 can't be bound anew by a worker that lives; listeners change with a restart anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import resource
from dataclasses import dataclass

CORE_DUMPS = "FASTRELAY_CORE_DUMPS"

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_NET_BIND_SERVICE = 10
CAPABILITIES = 64
_VERSION_3 = 0x20080522  # of capset(2): two words of 32 bits each


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Word(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group of this host; `groups` are those of the user besides."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def identity(user: str, group: str | None = None) -> Identity:
    """The identity of names (or numbers). Raises LookupError in words."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise LookupError(f"this host has no user {user!r}") from None
    gid = entry.pw_gid
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise LookupError(f"this host has no group {group!r}") from None
    return Identity(entry.pw_name, entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), entry.pw_dir)


def harden() -> None:
    """What every process of the relay wants. Raises OSError."""
    os.umask(0o077)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.environ.get(CORE_DUMPS) == "1":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_DUMPABLE, 0)


def become(who: Identity) -> None:
    """From root to a user who may bind ports below 1024, and never back. On the only thread. Raises OSError."""
    for capability in range(CAPABILITIES):
        if capability != CAP_NET_BIND_SERVICE and _prctl(PR_CAPBSET_READ, capability, fails=True) == 1:
            _prctl(PR_CAPBSET_DROP, capability, fails=True)  # refused where root has not CAP_SETPCAP: then it is moot
    may_bind = bool(permitted() & 1 << CAP_NET_BIND_SERVICE)
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    kept = 1 << CAP_NET_BIND_SERVICE if may_bind else 0
    _capset(kept, inheritable=kept)
    _prctl(PR_SET_KEEPCAPS, 0)
    if kept:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE)
    if os.environ.get(CORE_DUMPS) == "1":  # a change of user forbids it
        _prctl(PR_SET_DUMPABLE, 1)
    os.environ.update(HOME=who.home, USER=who.user, LOGNAME=who.user)


def drop() -> None:
    """All capabilities of a process that is not root's. On the only thread.

    Where a system call filter forbids capset(2), as that of our unit file does, the right to bind low ports stays with
    this process, and no program that it starts has it.
    """
    if os.geteuid() == 0 or not permitted():
        return
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, fails=True)
    with contextlib.suppress(PermissionError):
        _capset(0)


def permitted() -> int:
    """The capabilities that this thread has, a bit each."""
    with contextlib.suppress(OSError, ValueError), open("/proc/thread-self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def _prctl(option: int, *arguments: int, fails: bool = False) -> int:
    """prctl(2). Raises OSError, or with `fails` returns -1."""
    words = [ctypes.c_ulong(number) for number in (*arguments, 0, 0, 0, 0)[:4]]
    result: int = ctypes.CDLL(None, use_errno=True).prctl(option, *words)
    if result < 0 and not fails:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
    return result


def _capset(capabilities: int, inheritable: int = 0) -> None:
    """Effective and permitted capabilities of this thread. Raises OSError."""
    words = (_Word * 2)()
    for n in range(2):
        part = capabilities >> 32 * n & 0xFFFFFFFF
        words[n].effective = words[n].permitted = part
        words[n].inheritable = inheritable >> 32 * n & 0xFFFFFFFF
    header = _Header(_VERSION_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
