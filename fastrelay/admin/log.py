"""The log of the relay's processes: plain lines for people on standard error.

    2026-11-23T09:05:00.250Z info  supervisor: worker 0 is ready (pid 4711)

Time (UTC), level, who, what. What happened to mail is not here but in the event logs. A line at warning level or above
says what the operator can do.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from fastrelay.clock import iso_utc

_LEVELS = {"DEBUG": "debug", "INFO": "info ", "WARNING": "warn ", "ERROR": "error", "CRITICAL": "error"}


class _LineFormatter(logging.Formatter):
    """One line a record; further lines (a traceback) are indented."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self.who = who

    def format(self, record: logging.LogRecord) -> str:
        words = record.getMessage()
        if record.exc_info:
            words = f"{words}\n{self.formatException(record.exc_info)}"
        words = words.replace("\r", "\\r").replace("\n", "\n    ")
        level = _LEVELS.get(record.levelname, record.levelname.lower())
        return f"{iso_utc(record.created)} {level} {self.who}: {words}"


def start_logging(who: str, stream: TextIO | None = None) -> logging.Logger:
    """The logger "fastrelay" of this process, writing to standard error. `who`: "supervisor" or "worker 0"."""
    logger = logging.getLogger("fastrelay")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_LineFormatter(who))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
