"""Streaming of a body that is too large for memory: from its file to the machine, a chunk at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from fastrelay._core.content import crc32c
from fastrelay.spool import DamagedContent

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


class BodyReader:
    """Reads a content from its file, in order, and checks it against the record at its end. Used off the loop."""

    def __init__(self, spool: Any, raw: bytes, msgid: int) -> None:
        self.fd, self._offset, self._left = spool.open_content(raw, msgid)
        self._expected = int.from_bytes(raw[12:16], "little")
        self._crc = 0
        self._path = spool.path
        self._msgid = msgid

    def read(self, most: int) -> tuple[bytes, bool]:
        """The next octets, and whether they are the last. DamagedContent where they are not what was stored."""
        octets = os.pread(self.fd, min(most, self._left), self._offset)
        self._offset += len(octets)
        self._left -= len(octets)
        self._crc = crc32c(octets, self._crc)
        if not octets and self._left:
            raise DamagedContent(self._path, "the content ends too early", self._msgid)
        if not self._left and self._crc != self._expected:
            raise DamagedContent(self._path, "the content is not what was stored (checksum)", self._msgid)
        return octets, not self._left


async def stream_body(app: App, session: Any) -> None:
    """Reads, checks and hands on; a content that does not match its checksum is never sent to its end."""
    delivery = session.delivery
    if delivery is None:
        return
    loop = asyncio.get_running_loop()
    spool = app.engine.spools[delivery.spool]
    try:
        body = await loop.run_in_executor(None, BodyReader, spool, delivery.record.raw, delivery.msgid)
    except Exception as error:
        session.streaming = False
        if session.delivery is delivery:
            app.poisoned(delivery, error)
            session.abort()
        return
    try:
        while session.delivery is delivery and not session.closed:
            if session.paused or not session.wanted:
                session.resumed = loop.create_future()
                await session.resumed
                continue
            octets, last = await loop.run_in_executor(None, body.read, CHUNK_BYTES)
            if session.delivery is not delivery or session.closed or not session.chunk(octets, last) or last:
                return
    except Exception as error:
        name = app.engine.message_id(delivery.msgid, delivery.spool)
        log.error("content of message %s can't be read: %s", name, error)
        if session.delivery is delivery:
            app.poisoned(delivery, error)
            session.abort()
    finally:
        os.close(body.fd)
        session.streaming = False
        if session.wanted and not session.closed and session.delivery is not None and session.delivery is not delivery:
            session.streaming = True  # the next transaction asked while this one was still being read
            session.pool.stream(session)
