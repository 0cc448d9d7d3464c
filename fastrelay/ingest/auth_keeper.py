"""The supervisor's part of AUTH: what one worker learnt of guessing is told to the others, bursts are said once, and
each user's recipients of the day are counted across restarts.

Workers report failures and new successes once a second. A burst begins when an address, or a user who exists, has had
`auth.failures` within `auth.failure_window`; it is over when nothing came for so long. Each is one line in the log and
two events (`auth_guessing`, `auth_guessing_over`) in state/events/relay.jsonl, at most BURSTS at a time; how many more
there were stands in the next event. Names of users who do not exist are said nowhere: people type passwords there.

The day of `recipients_per_day` is that of UTC. The cap is a cell of the shared table; what is used of it is written to
state/control every few seconds.

Known faults: what was counted in the last SAVE_SECONDS before a power loss is not known any more. A day that the wall
clock went through in a jump is over.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fastrelay.ingest.users import NOBODY, UsersFile

if TYPE_CHECKING:
    from fastrelay._core.table import Table
    from fastrelay.clock import Clock
    from fastrelay.config.schema import Config

log = logging.getLogger(__name__)

EVENT = "auth"
DATABASES = ("auth_days",)
DAY_SECONDS = 86400
LOOK_SECONDS = 2.0
SAVE_SECONDS = 5.0
BURSTS = 100
COUNTED = 20_000


class Store(Protocol):
    """What is needed of an LMDB environment."""

    def items(self, database: str) -> list[tuple[bytes, bytes]]: ...
    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None: ...


class _Burst:
    """Failures of one address or user."""

    __slots__ = ("began", "failures", "last", "said")

    def __init__(self, now: float) -> None:
        self.began = self.last = now
        self.failures = 0
        self.said = False


class AuthKeeper:
    """One per supervisor; `tick` about once a second.

    event   writes an event that belongs to no message
    tell    gives a worker's news to all workers but one: (slot number, news)
    """

    def __init__(
        self,
        config: Config,
        table: Table,
        store: Store,
        clock: Clock,
        *,
        event: Callable[[str, dict[str, Any]], None],
        tell: Callable[[int, dict[str, Any]], None],
    ) -> None:
        self._table = table
        self._store = store
        self._clock = clock
        self._event = event
        self._tell = tell
        self._file: UsersFile | None = None
        self._looked_at = self._saved_at = float("-inf")
        self._error = ""
        self._bursts: OrderedDict[tuple[str, str], _Burst] = OrderedDict()
        self._said = self._unsaid = 0  # bursts
        self._saved = {name: _read(value) for name, value in store.items("auth_days")}
        self._limited: dict[bytes, tuple[int, int]] = {}  # user → cell, cap
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Another configuration, and the users file anew."""
        self._config = config.auth
        path = config.auth.users
        if path is None:
            self._file = None
        elif self._file is None or self._file.path != path:
            self._file = UsersFile(path)
        self._look()

    def _look(self) -> None:
        """The file, if it changed: which users have a limit for a day, and whether it is sound."""
        if self._file is None:
            self._limited = {}
            return
        if self._file.reload_if_changed():
            if self._error:
                log.info("%s is sound again", self._file.path)
            self._error = ""
            self._limited = {
                account.name: (self._table.cell(b"user-day:" + account.name), account.user.recipients_per_day)
                for account in self._file.current.accounts.values()
                if account.user.recipients_per_day is not None
            }
        elif self._file.error is not None and str(self._file.error) != self._error:
            self._error = str(self._file.error)
            for problem in self._file.error.problems:
                log.error("%s", problem)
            log.error("%s is not taken over; the users stay as they were", self._file.path)

    # -- what workers report ------------------------------------------------------------------------------------------

    def report(self, slot: int, message: dict[str, Any]) -> None:
        """A worker's news: `failed` [address, name, number], `right` [address, name]."""
        news = {"failed": message.get("failed", []), "right": message.get("right", [])}
        self._tell(slot, news)
        now = self._clock.monotonic()
        known = (self._file.current if self._file is not None else NOBODY).accounts
        for address, name, number in news["failed"]:
            self._count(("address", address), number, now)
            if name in known:
                self._count(("user", name), number, now)

    def _count(self, key: tuple[str, str], number: int, now: float) -> None:
        burst = self._bursts.get(key)
        if burst is None:
            burst = self._bursts[key] = _Burst(now)
            if len(self._bursts) > COUNTED:
                self._over(*self._bursts.popitem(last=False))
        self._bursts.move_to_end(key)
        burst.failures += number
        burst.last = now
        if burst.failures < self._config.failures or burst.said:
            return
        if self._said >= BURSTS:
            self._unsaid += burst.failures - number < self._config.failures
            return
        burst.said = True
        self._said += 1
        kind, name = key
        self._event("auth_guessing", {kind: name, "failures": burst.failures})
        words = f"from {name}" if kind == "address" else f"as user {name}"
        log.warning(
            "%d failed authentications %s: further ones are slowed; if it is a client of yours, mend its password",
            burst.failures,
            words,
        )

    def _over(self, key: tuple[str, str], burst: _Burst) -> None:
        if not burst.said:
            return
        self._said -= 1
        kind, name = key
        more = {"not_said": self._unsaid} if self._unsaid else {}
        self._unsaid = 0
        seconds = round(burst.last - burst.began)
        self._event("auth_guessing_over", {kind: name, "failures": burst.failures, "seconds": seconds, **more})

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Bursts that are over, the users file, the day's caps."""
        now = self._clock.monotonic()
        window = self._config.failure_window_seconds
        while self._bursts and now - next(iter(self._bursts.values())).last > window:
            self._over(*self._bursts.popitem(last=False))
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        if self._limited:
            self._set_caps()
            if now - self._saved_at >= SAVE_SECONDS:
                self._saved_at = now
                self.save()

    def _set_caps(self) -> None:
        table = self._table
        today = int(self._clock.wall() // DAY_SECONDS)
        for name, (cell, cap) in self._limited.items():
            period = table.cap_period(cell)
            if not period and name in self._saved:  # the table is another, after a boot
                table.set_used(cell, *self._saved[name])
                period = table.cap_period(cell)
            day = max(today, period)  # where the wall clock was set back, the day that began goes on
            if period != day or table.cap_of(cell) != cap:
                table.set_cap(cell, day, cap)

    def save(self) -> None:
        """Writes down what is used of today, where that is new."""
        changes: list[tuple[str, bytes, bytes | None]] = []
        for name, (cell, _) in self._limited.items():
            state = (self._table.cap_period(cell), self._table.cap_used(cell))
            if self._saved.get(name) != state:
                self._saved[name] = state
                changes.append(("auth_days", name, b"%d %d" % state))
        for name in [name for name in self._saved if name not in self._limited]:
            del self._saved[name]
            changes.append(("auth_days", name, None))
        if changes:
            self._store.write(changes)


def _read(value: bytes) -> tuple[int, int]:
    """A day and what was used in it, as `save` writes them."""
    day, _, used = value.partition(b" ")
    return int(day), int(used)
