"""Small things that are done to folders."""

from __future__ import annotations

import os


def sync_folder(path: str) -> None:
    """fsync of a folder: names made or removed in it are durable then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
