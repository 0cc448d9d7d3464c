"""What can go wrong with a spool, with fields; each says what the operator can do, or what the client is told."""

from __future__ import annotations

import errno

from fastrelay.errors import FastrelayError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, -30792)  # -30792: LMDB's MDB_MAP_FULL
REPLY_NO_ROOM = "452 4.3.1 Insufficient system storage"
REPLY_UNHEALTHY = "451 4.3.0 Local error in mail storage, try again later"
REPLY_BUSY = "451 4.3.2 The mail system is busy, try again later"


class SpoolError(FastrelayError):
    """A step of the spool failed.

    operation  which step, as "content_sync" or "commit"
    code       errno, or LMDB's own negative number
    path       the spool folder
    accept     whether messages that were to be accepted are lost to the client's care (nothing of them was kept)
    reply      what the client gets: 452 when there is no room, 451 else
    """

    def __init__(self, operation: str, code: int, path: str, *, accept: bool) -> None:
        from fastrelay._core.lmdb import describe

        self.operation = operation
        self.code = code
        self.path = path
        self.accept = accept
        super().__init__(f"{path}: {operation}: {describe(code)}")

    @property
    def reply(self) -> str:
        if self.code in NO_ROOM:
            return REPLY_NO_ROOM
        return REPLY_BUSY if self.code == errno.EAGAIN else REPLY_UNHEALTHY

    def smtp_reply(self) -> str:
        """The same as `reply`."""
        return self.reply

    @classmethod
    def of_os_error(cls, operation: str, error: OSError, path: str = "") -> SpoolError:
        """What an OSError at writing a content means for the client."""
        return cls(operation, error.errno or errno.EIO, path or str(error.filename or ""), accept=True)


class DamagedContent(FastrelayError):
    """The stored content of one message cannot be read, or is not what was stored.

    path     the spool folder
    problem  where, and what is wrong
    msgid    the message, 0 when the reader did not say
    moved    the place is gone: the record was an old one, and get_record() may give a new place
    """

    def __init__(self, path: str, problem: str, msgid: int = 0, *, moved: bool = False) -> None:
        self.moved = moved
        self.path = path
        self.problem = problem
        self.msgid = msgid
        super().__init__(f"{path}: {problem}" + (f" (message {msgid:x})" if msgid else ""))


class SpoolCorrupt(FastrelayError):
    """A spool folder whose index cannot be trusted. `path`: the folder; `problem`: what was found."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"{path}: the index is damaged ({problem}); move the folder away, a new one is made at the next start, "
            "and mail in the damaged one is not sent until it is repaired"
        )


class SpoolFormat(FastrelayError):
    """A spool folder of a format that this version does not read. `found` and `known`: the versions."""

    def __init__(self, path: str, found: str, known: str) -> None:
        self.path = path
        self.found = found
        self.known = known
        super().__init__(
            f"{path}: spool format {found!r}, but this version reads format {known}: run the fastrelay that wrote it"
        )
