"""Compaction: segments with little live content are copied forward, so that their files can go.

A segment is worth it when it is no longer appended to and less than `compact_below` of it is live. One round: find
the live contents of some such segments (a walk over the index in slices, in a thread), then copy them in steps of at
most STEP_BYTES: read in a thread, handed to the group commit like new content. The commit points a record to the copy
only if it still points to the original, so a message that was delivered meanwhile stays gone. When all moves are
committed nothing points into the old segment, and it is removed like any other.

A content that is damaged stays where it is, and its segment with it, until its message is removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from fastrelay._core.commit import Spool
from fastrelay._core.content import crc32c
from fastrelay._core.scan import find_contents

log = logging.getLogger(__name__)

STEP_BYTES = 1 << 20
ROUND_BYTES = 64 << 20  # live octets copied in one round, at most
PAUSE_SECONDS = 0.02  # between steps: new mail goes first

Place = tuple[int, int, int, int, int]  # message id, segment, offset, length, crc


class Compactor:
    """Copies the content of sparse segments of one spool forward."""

    def __init__(self, spool: Spool, loop: Any) -> None:
        self._spool = spool
        self._loop = loop
        self._stopped = False
        self.moved = 0
        self.damaged = 0

    def stop(self) -> None:
        """Begin no other step."""
        self._stopped = True

    def sparse(self) -> list[int]:
        """Segments worth copying, the emptiest first, as many as one round takes."""
        share = self._spool.options.compact_below
        found = sorted(
            (live_bytes, segment)
            for segment, size, live_bytes, live, active in self._spool.segments()
            if not active and live and live_bytes < share * size
        )
        chosen: list[int] = []
        total = 0
        for live_bytes, segment in found:
            if chosen and total + live_bytes > ROUND_BYTES:
                break
            chosen.append(segment)
            total += live_bytes
        return chosen

    async def run(self) -> int:
        """One round; gives how many contents were moved."""
        segments = self.sparse() if self._spool.ready and not self._spool.settle_blocked else []
        if not segments:
            return 0
        moved = 0
        places = await self._find(segments)
        while places and self._may():
            step: list[Place] = []
            total = 0
            while places and (not step or total + places[-1][3] <= STEP_BYTES):
                step.append(places.pop())
                total += step[-1][3]
            moved += await self._move(step)
            await asyncio.sleep(PAUSE_SECONDS)
        self.moved += moved
        return moved

    def _may(self) -> bool:
        return not self._stopped and self._spool.accepting

    async def _find(self, segments: list[int]) -> list[Place]:
        found: list[Place] = []
        after = 0
        while not self._stopped:
            slice_, after = await self._loop.run_in_executor(None, self._find_slice, segments, after)
            found += slice_
            if not after:
                break
        return found

    def _find_slice(self, segments: list[int], after: int) -> tuple[list[Place], int]:
        with self._spool.walking:
            if self._stopped:
                return [], 0
            return find_contents(self._spool.environment, segments, after)

    async def _move(self, places: list[Place]) -> int:
        """Copy some contents; gives how many records point to their copy now."""
        contents = await self._loop.run_in_executor(None, read_places, self._spool.path, places)
        if not self._may():
            return 0
        done = self._loop.create_future()
        results: list[bool] = []
        expected = sum(content is not None for content in contents)
        self.damaged += len(places) - expected

        def moved(result: bool) -> None:
            results.append(result)
            if len(results) == expected and not done.done():
                done.set_result(None)

        for (msgid, segment, offset, _, _), content in zip(places, contents, strict=True):
            if content is not None:
                self._spool.move_content(msgid, segment, offset, content, moved)
        if expected:
            await done
        return sum(results)


def read_places(path: str, places: list[Place]) -> list[bytes | None]:
    """The contents at some places; None for one that cannot be read, or is not what its record says."""
    files: dict[int, int] = {}
    contents: list[bytes | None] = []
    try:
        for msgid, segment, offset, length, crc in places:
            try:
                if segment not in files:
                    files[segment] = os.open(
                        os.path.join(path, "segments", f"{segment:08x}"), os.O_RDONLY | os.O_CLOEXEC
                    )
                content = os.pread(files[segment], length, offset)
            except OSError as error:
                log.warning("%s: message %x cannot be copied forward: %s", path, msgid, error)
                contents.append(None)
                continue
            contents.append(content if len(content) == length and crc32c(content) == crc else None)
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    return contents
