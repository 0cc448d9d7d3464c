"""Until when the record of a key must stay published after the key stopped to sign.

What it is: mail that was signed with a key may wait for its last attempt as long as `retry.expire` allows, and
receivers may verify it some time later, so its record is needed so long. The supervisor notes which keys sign: at the
start, at each reload (for the old configuration and the new one), every hour and at the end, in
state_dir/dkim_keys.json. Nothing is noted per message: a key counts as used while the configuration has it sign.

Known faults: after a crash the last hour is not noted, so an hour is added to all. A message may ask for a longer life
than `retry.expire` in a header field of its own; that is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

import msgspec

from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.config.security import Dkim
from fastrelay.dkim.make import record_name

log = logging.getLogger(__name__)

FILE = "dkim_keys.json"
NOTE_SECONDS = 3600.0
VERIFIED_SECONDS = 2 * 86400.0  # how long after its delivery a receiver may still verify a message
FORGOTTEN_SECONDS = 400 * 86400.0  # a key that has not signed for so long is dropped from the file
KEYS_NOTED = 100_000


def read_uses(state_dir: str) -> dict[str, float]:
    """When each key was last known to be used, in seconds since 1970, by the name of its record; empty if unknown."""
    try:
        with open(os.path.join(state_dir, FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        return {}


def needed_until(used: float, config: Config) -> float:
    """Until when the record of a key that was last used then must be there, in seconds since 1970."""
    fairness = config.fairness
    lives = [one.expire_seconds or 0.0 for one in (fairness.bulk, fairness.normal, fairness.transactional)]
    return used + NOTE_SECONDS + max(config.retry.expire_seconds, *lives) + VERIFIED_SECONDS


class KeyUses:
    """The supervisor's notes."""

    def __init__(self, state_dir: str, clock: Clock) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._uses: dict[str, float] | None = None

    def note(self, *configs: Dkim) -> None:
        """These configurations sign now. Without any key nothing is read or written."""
        if not any(config.keys for config in configs):
            return
        now = self._clock.wall()
        if self._uses is None:
            self._uses = read_uses(self._state_dir)
        for config in configs:
            for key in config.keys:
                if key.sign and len(self._uses) < KEYS_NOTED:
                    self._uses[record_name(key.selector, key.domain)] = now
        self._uses = {name: at for name, at in self._uses.items() if at > now - FORGOTTEN_SECONDS}
        try:
            self._write(msgspec.json.encode(self._uses))
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): `fastrelay dkim check` won't know until when old keys must stay published",
                os.path.join(self._state_dir, FILE),
                error.strerror,
            )

    def _write(self, octets: bytes) -> None:
        """The whole file, or the old one: a file beside it that takes its name."""
        path = os.path.join(self._state_dir, FILE)
        descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(octets)
                out.flush()
                os.fsync(descriptor)
            os.replace(path + ".new", path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path + ".new")
            raise

    async def keep(self, config: Callable[[], Dkim]) -> None:
        """Note what signs, every hour, until cancelled, and then once more."""
        try:
            while True:
                self.note(config())
                await asyncio.sleep(NOTE_SECONDS)
        finally:
            self.note(config())
