"""Users files for tests: cheap hashes, one password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastrelay.ingest import users

PASSWORD = "correct horse"


def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost nothing; what is stored says so, so a relay in another process reads it like any other."""
    monkeypatch.setattr(users, "SCRYPT_LN", 4)
    monkeypatch.setattr(users, "SCRAM_ITERATIONS", 4096)


def put_user(path: Path, name: str, *, password: str = PASSWORD, cram_md5: bool = False, **keys: Any) -> None:
    """Adds a user, or puts another in the place of the old one."""
    made = users.User(**{"name": name, **users.secrets_of(password, cram_md5), **keys})
    users.edit_users(str(path), lambda lines: users.with_user(lines, made))


def change_user(path: Path, name: str, **keys: Any) -> None:
    """Changes a user, and leaves the password."""
    import msgspec

    def change(lines: list[str]) -> list[str]:
        old = users.find_user(lines, name)
        assert old is not None
        return users.with_user(lines, msgspec.structs.replace(old, **keys))

    users.edit_users(str(path), change)


def drop_user(path: Path, name: str) -> None:
    users.edit_users(str(path), lambda lines: users.without_user(lines, name))
