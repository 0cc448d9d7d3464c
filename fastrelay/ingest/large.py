"""A content too large for memory, on its way to a file of its own.

Chunks are written by the loop's executor, one after the other; the connection stops reading while more than
BEHIND_BYTES wait. The file is synced by the group commit, before the record that points to it.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from fastrelay.spool import SpoolError

if TYPE_CHECKING:
    from fastrelay.app import App

BEHIND_BYTES = 512 * 1024


class LargeContent:
    """Collects chunks, writes them in order; `finish` tells the connection when all are written."""

    def __init__(self, app: App, connection: Any) -> None:
        self._app = app
        self._connection = connection
        self._file: Any = None
        self.names: Any = None  # what the header fields for us said, see HeaderNames.edit
        seal = app.engine.seal
        self.hasher: Any = seal.body_hasher() if seal is not None else None  # is fed the body
        self._header_left = -1  # octets of the header that are still to come; below 0: nothing came yet
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._writing = False
        self._envelope: Any = None
        self._error: SpoolError | None = None
        self._aborted = False
        try:
            self._file = app.own_spool.large_file()
        except OSError as error:
            self._error = SpoolError.of_os_error("large_open", error, app.own_spool.path)

    @property
    def behind(self) -> bool:
        """Whether the disk is behind the client."""
        return self._waiting_bytes > BEHIND_BYTES

    @property
    def file(self) -> Any:
        """What the spool wants to see at put_message_file."""
        return self._file

    def write(self, chunk: bytes) -> None:
        if self._error is not None:
            return
        if self._header_left < 0:
            names = self.names
            self._header_left = len(names[1]) if names is not None else self._connection.server.envelope.header_length
        self._chunks.append(chunk)
        self._waiting_bytes += len(chunk)
        self._next()

    def finish(self, envelope: Any) -> None:
        """No more chunks: once all are written, the connection's `large_written` is called."""
        self._envelope = envelope
        self._next()

    def abort(self) -> None:
        """The message is not wanted: the file goes."""
        self._aborted = True
        self._chunks.clear()
        if not self._writing:
            self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            self._file.abort()

    def _next(self) -> None:
        if self._writing:
            return
        if self._chunks and self._error is None and not self._aborted:
            chunks, self._chunks = self._chunks, []
            self._writing = True
            future = asyncio.get_running_loop().run_in_executor(None, self._write_all, chunks)
            future.add_done_callback(self._written)
        elif self._aborted:
            self._remove()
        elif self._envelope is not None:
            envelope, self._envelope = self._envelope, None
            self._connection.large_written(envelope, self._error)

    def _write_all(self, chunks: list[bytes]) -> int:
        for chunk in chunks:
            self._file.write(chunk)
            if self.hasher is not None:
                header = min(self._header_left, len(chunk))
                self._header_left -= header
                if header < len(chunk):
                    self.hasher.feed(memoryview(chunk)[header:])
        return sum(map(len, chunks))

    def _written(self, future: asyncio.Future[int]) -> None:
        self._writing = False
        try:
            self._waiting_bytes -= future.result()
        except Exception as error:
            path = self._app.own_spool.path
            own = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            self._error = error if isinstance(error, SpoolError) else SpoolError.of_os_error("large_write", own, path)
            self._chunks.clear()
            self._waiting_bytes = 0
        self._next()
        self._connection.pace()
