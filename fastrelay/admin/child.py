"""A worker's tie to its supervisor: it dies with it.

A supervisor that is killed with -9 can tell nobody. So each worker asks the kernel for SIGKILL at the death of its
parent, and then looks whether the parent is already gone. A state directory so never has two relays.
"""

from __future__ import annotations

import ctypes
import os
import signal

# Set by the supervisor for its workers.
SUPERVISOR_PID = "FASTRELAY_SUPERVISOR_PID"
CONTROL_FD = "FASTRELAY_CONTROL_FD"
LOCK_FD = "FASTRELAY_LOCK_FD"

_PR_SET_PDEATHSIG = 1


def die_with_parent(expected_ppid: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies; to be called first of all, on the main thread.

    expected_ppid  the parent's pid; None: what the supervisor wrote into the environment, else who is parent now
    Raises OSError if the kernel refuses. Ends the process at once (status 1) if the parent is gone already.
    """
    if expected_ppid is None:
        expected_ppid = int(os.environ.get(SUPERVISOR_PID, os.getppid()))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != expected_ppid:
        os._exit(1)
