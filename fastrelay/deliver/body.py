"""Streaming of a body that is too large for memory: from its file to the machine, a chunk at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


async def stream_body(app: App, session: Any) -> None:
    """Reads, checks and hands on; a content that does not match its checksum is never sent to its end."""
    delivery = session.delivery
    if delivery is None:
        return
    loop = asyncio.get_running_loop()
    spool = app.engine.spools[delivery.spool]
    try:
        body = await loop.run_in_executor(None, spool.open_body, delivery.record.raw)
    except Exception as error:
        app.damaged(delivery.message, error)
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
        log.error("content of message %s can't be read: %s", app.engine.message_id(delivery.msgid, delivery.spool), error)
        app.poisoned(delivery, error)
        session.abort()
    finally:
        session.streaming = False
        os.close(body.fd)
