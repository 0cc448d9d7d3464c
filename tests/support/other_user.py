"""A way for another user to the program: interpreter and checkout may lie below a folder that is root's alone.

`way_for(user)` gives a prefix for a command: nothing where the user can run the program as it is, else unshare(1) with
a mount name space in which the closed folder above the program is open, and holds nothing else.
"""

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

SCRIPT = """
set -e
mount --make-rprivate /
closed=$1; shift
hold=$(mktemp -d)
n=0
while [ "$1" != -- ]; do
  mkdir "$hold/$n"; mount --bind "$1" "$hold/$n"
  eval "path$n=\\$1"; n=$((n + 1)); shift
done
shift
mount -t tmpfs -o mode=755 none "$closed"
i=0
while [ "$i" -lt "$n" ]; do
  eval "path=\\$path$i"
  mkdir -p "$path"; mount --move "$hold/$i" "$path"
  rmdir "$hold/$i"
  i=$((i + 1))
done
rmdir "$hold"
cd /
exec "$@"
"""


def way_for(user: str) -> list[str]:
    """The prefix; skips the test where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if _runs([], user):
        return []
    closed = _closed_above(Path(sys.executable).resolve(), REPO)
    needed = sorted({str(path) for path in (Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPO)})
    within = [path for path in needed if closed is not None and path.startswith(f"{closed}/")]
    if closed is None or not within:
        pytest.skip(f"user {user} can't run {sys.executable}, for a reason that is not a closed folder")
    script = Path(tempfile.gettempdir()) / f"fastrelay-way-{os.getpid()}.sh"
    script.write_text(SCRIPT)
    atexit.register(script.unlink, missing_ok=True)
    prefix = ["unshare", "-m", "sh", str(script), closed, *within, "--"]
    if not _runs(prefix, user):
        pytest.skip(f"user {user} can't run {sys.executable} below {closed}, and no mount name space can be made")
    return prefix


def _closed_above(*paths: Path) -> str | None:
    """The topmost folder above one of the paths that others may not enter."""
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return None


def _runs(prefix: list[str], user: str) -> bool:
    become = f"import os, pwd; u = pwd.getpwnam({user!r}); os.setgid(u.pw_gid); os.setuid(u.pw_uid)"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [*prefix, sys.executable, "-c", f"{become}; import fastrelay.worker"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
