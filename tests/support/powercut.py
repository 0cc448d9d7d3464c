"""What a disk may hold after a power cut: replays recorded system calls on a model of files and folders.

A file has what was synced, and writes since, any of which may or may not have reached the disk, in pieces of a sector.
A folder has the names that were synced, and changes since, of which any first part may have. A write through O_DSYNC is
durable when the call returns; until then it is like any other.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from support.strace import Call

SECTOR = 512
WRITES = ("write", "writev", "pwrite64", "pwritev")


@dataclass
class File:
    """One file: as synced, as the page cache has it, and the writes between the two."""

    synced: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, at: int, octets: bytes, durable: bool) -> None:
        put(self.now, at, octets)
        if durable:
            put(self.synced, at, octets)
        else:
            self.writes.append((at, octets))

    def truncate(self, length: int) -> None:
        """Taken as durable at once: nothing here relies on it."""
        for octets in (self.synced, self.now):
            del octets[length:]
        self.writes = [(at, octets) for at, octets in self.writes if at < length]

    def sync(self) -> None:
        self.synced = bytearray(self.now)
        self.writes = []

    def after(self, chance: random.Random | None) -> bytes:
        """One possible content after a cut; without `chance` only what was synced."""
        found = bytearray(self.synced)
        for at, octets in self.writes if chance else ():
            assert chance is not None
            how = chance.random()
            for start in range(0, len(octets), SECTOR):
                if how < 0.4 or (how < 0.7 and chance.random() < 0.5):
                    put(found, at + start, octets[start : start + SECTOR])
        return bytes(found)


@dataclass
class Folder:
    """One folder: names as synced, as they are now, and the changes between the two."""

    synced: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[tuple[str | None, str | None, File | Folder | None]] = field(default_factory=list)

    def change(self, gone: str | None, new: str | None, node: File | Folder | None) -> None:
        self.changes.append((gone, new, node))
        apply(self.now, (gone, new, node))

    def sync(self) -> None:
        self.synced = dict(self.now)
        self.changes = []

    def after(self, chance: random.Random | None) -> dict[str, File | Folder]:
        found = dict(self.synced)
        for one in self.changes[: chance.randint(0, len(self.changes))] if chance else ():
            apply(found, one)
        return found


def put(to: bytearray, at: int, octets: bytes) -> None:
    """Write into a growing file; a hole reads as zeros."""
    if len(to) < at:
        to.extend(bytes(at - len(to)))
    to[at : at + len(octets)] = octets


def apply(names: dict[str, File | Folder], change: tuple[str | None, str | None, File | Folder | None]) -> None:
    gone, new, node = change
    if gone is not None:
        names.pop(gone, None)
    if new is not None and node is not None:
        names[new] = node


@dataclass
class Open:
    """An open descriptor."""

    path: str
    node: File | Folder | None
    flags: str
    offset: int = 0


class Disk:
    """The folder `root` as recorded calls leave it. `said`: what went to standard output."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.tree = Folder()
        self.opened: dict[int, Open] = {}
        self.said = bytearray()
        self.touched = 0  # changes that a power cut could tell apart

    def find(self, path: str) -> tuple[Folder, str] | None:
        """The folder that a path is in, and its name there; None outside of the root."""
        if not path.startswith(self.root + "/"):
            return None
        *way, name = path[len(self.root) + 1 :].split("/")
        folder = self.tree
        for part in way:
            node = folder.now.get(part)
            if not isinstance(node, Folder):
                return None
            folder = node
        return folder, name

    def path(self, call: Call, which: int) -> str:
        """Full path of an argument, relative to the descriptor before it where there is one."""
        path = os.fsdecode(call.octets[which])
        if not path.startswith("/") and call.name.endswith("at"):
            before = [word.strip() for word in call.arguments.split(",")][which * 2]
            if before.isdigit() and int(before) in self.opened:
                path = f"{self.opened[int(before)].path}/{path}"
        return os.path.normpath(path)

    def play(self, call: Call) -> None:
        """What a call that succeeded changes."""
        if call.result < 0:
            return
        act = getattr(self, f"_{call.name}", None)
        if act is not None:
            act(call)
        elif call.name in WRITES:
            self._written(call)

    def _openat(self, call: Call) -> None:
        path = self.path(call, 0)
        if path == self.root:
            self.opened[call.result] = Open(path, self.tree, "")
            return
        where = self.find(path)
        node: File | Folder | None = None
        if where is not None:
            folder, name = where
            node = folder.now.get(name)
            if node is None and "O_CREAT" in call.arguments:
                node = File()
                folder.change(None, name, node)
                self.touched += 1
            if isinstance(node, File) and "O_TRUNC" in call.arguments:
                node.truncate(0)
        self.opened[call.result] = Open(path, node, call.arguments)

    def _close(self, call: Call) -> None:
        self.opened.pop(int(call.arguments), None)

    def _dup(self, call: Call) -> None:
        if int(call.arguments.split(",")[0]) in self.opened:
            self.opened[call.result] = self.opened[int(call.arguments.split(",")[0])]

    def _fcntl(self, call: Call) -> None:
        if "F_DUPFD" in call.arguments:
            self._dup(call)

    def _lseek(self, call: Call) -> None:
        if (one := self.opened.get(int(call.arguments.split(",")[0]))) is not None:
            one.offset = call.result

    def _written(self, call: Call) -> None:
        descriptor = int(call.arguments.split(",")[0])
        octets = b"".join(call.octets)[: call.result]
        if descriptor == 1:
            self.said += octets
        one = self.opened.get(descriptor)
        if one is None or not isinstance(one.node, File):
            return
        self.touched += 1
        if call.name.startswith("pwrite"):
            at = int(call.arguments.split(",")[-1])
        else:
            at = len(one.node.now) if "O_APPEND" in one.flags else one.offset
            one.offset = at + len(octets)
        one.node.write(at, octets, "O_DSYNC" in one.flags)

    def _ftruncate(self, call: Call) -> None:
        descriptor, length = call.arguments.split(",")
        if (one := self.opened.get(int(descriptor))) is not None and isinstance(one.node, File):
            one.node.truncate(int(length))

    def _fdatasync(self, call: Call) -> None:
        one = self.opened.get(int(call.arguments))
        if one is not None and one.node is not None:
            self.touched += 1
            one.node.sync()

    _fsync = _fdatasync

    def _mkdir(self, call: Call) -> None:
        if (where := self.find(self.path(call, 0))) is not None:
            where[0].change(None, where[1], Folder())
            self.touched += 1

    def _rename(self, call: Call) -> None:
        old, new = self.find(self.path(call, 0)), self.find(self.path(call, 1))
        if old is not None and new is not None:
            assert old[0] is new[0], "only renames inside a folder are modelled"
            old[0].change(old[1], new[1], old[0].now[old[1]])
            self.touched += 1

    _renameat = _rename

    def _unlink(self, call: Call) -> None:
        if (where := self.find(self.path(call, 0))) is not None:
            where[0].change(where[1], None, None)
            self.touched += 1

    _unlinkat = _unlink

    def image(self, to: Path, chance: random.Random | None) -> None:
        """Write one possible state after a power cut to a folder; the least there can be without `chance`."""
        self._image(self.tree, to, chance)

    def _image(self, folder: Folder, to: Path, chance: random.Random | None) -> None:
        to.mkdir(exist_ok=True)
        for name, node in folder.after(chance).items():
            if isinstance(node, Folder):
                self._image(node, to / name, chance)
            elif name != "lock.mdb":  # written through a map; made anew at the opening
                (to / name).write_bytes(node.after(chance))
