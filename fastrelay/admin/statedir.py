"""The state directory at a start: made if need be, taken by the user that the relay becomes, and held.

Known faults: what another user left deep below the state directory is found by whoever opens it first, not here.
"""

from __future__ import annotations

import os
import sys

from fastrelay.admin.lock import StateLock
from fastrelay.admin.privileges import Identity, become, identity
from fastrelay.config.checks import check_host
from fastrelay.config.schema import Config
from fastrelay.errors import ConfigProblem, HostError

PACKAGE = os.path.dirname(os.path.dirname(__file__))


def make_state_dir(config: Config, who: Identity | None) -> None:
    """Make the state directory if need be, for the user that the relay becomes. Raises OSError."""
    missing = []
    path = config.state_dir
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder, 0o750)
        if who is not None:
            os.chown(folder, who.uid, who.gid)


def take_state_dir(config: Config, config_path: str, who: Identity | None = None) -> StateLock:
    """Make the state directory if need be, become `who`, and hold it. Raises StateHeld, HostError."""
    try:
        make_state_dir(config, who)
        if who is not None:
            become(who)
            _require_access(config, config_path, who)
        return StateLock(config.state_dir)
    except OSError as error:
        findings = check_host(config, config_path, listeners=False)
        problem = ConfigProblem(config_path, 0, "state_dir", f"{config.state_dir}: {error.strerror}", "mend it")
        raise HostError([found for found in findings.problems if found.path == "state_dir"] or [problem]) from error


def _require_access(config: Config, config_path: str, who: Identity) -> None:
    """What was root's may be closed to the user that the relay became. Raises HostError."""
    user = f"user {who.user} (run_as.user)"
    if not _usable(sys.executable, os.X_OK) or not _usable(PACKAGE, os.R_OK):
        problem = f"{user} can't run {sys.executable}, or not read {PACKAGE}"
        mend = "install both where that user may read them, such as below /opt"
        raise HostError([ConfigProblem(config_path, 0, "run_as.user", problem, mend)])
    if not os.access(config.state_dir, os.R_OK | os.W_OK | os.X_OK) or _others_within(config.state_dir):
        problem = f"{config.state_dir} or what is in it can't be read and written by {user}"
        mend = f"give it away: chown -R {who.user} {config.state_dir}"
        raise HostError([ConfigProblem(config_path, 0, "state_dir", problem, mend)])


def _usable(path: str, mode: int) -> bool:
    """Whether this user may do that with a file; the folders above it count."""
    return os.access(path, mode)


def _others_within(folder: str) -> bool:
    """Whether something just below a folder can't be used by this user: an earlier relay ran as another."""
    with os.scandir(folder) as entries:
        return any(not os.access(entry.path, os.R_OK | os.W_OK, follow_symlinks=False) for entry in entries)


def identity_of(config: Config, config_path: str) -> Identity | None:
    """Whom the relay becomes: None where it stays who it is. Raises HostError."""
    if config.run_as.user is None or os.geteuid() != 0:
        return None
    try:
        return identity(config.run_as.user, config.run_as.group)
    except LookupError as error:
        problem = ConfigProblem(config_path, 0, "run_as", str(error), "create it, or name another")
        raise HostError([problem]) from None
