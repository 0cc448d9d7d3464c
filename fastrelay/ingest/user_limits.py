"""What an authenticated user may do, over all workers: senders, rate, recipients a day, open connections.

Rates and connections are cells of the shared table, by the user's name, so they hold over all workers, across a
restart and a reload. A refusal is said at MAIL where that spares the client the rest, else at RCPT; both in words. The
unit is a recipient taken at RCPT, whether or not its message is sent in the end.

    user:NAME              rate (GCRA)
    user-connections:NAME  open connections
    user-day:NAME          recipients of the present day (UTC); the supervisor sets the cap (auth_keeper.py)

A session follows the users file: what holds is looked up at each MAIL, so a user who was removed or disabled sends
nothing more. Known faults: none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastrelay.config.sending import Assignment
from fastrelay.ingest.users import NOBODY, Account, Users

if TYPE_CHECKING:
    from fastrelay.app import App

NO_LIMIT = 2**31 - 1

GONE = b"535 5.7.8 This account was removed or has another password since; authenticate anew\r\n"
DISABLED = b"525 5.7.13 This account is disabled; ask who runs the relay\r\n"
UNKNOWN_DAY = b"450 4.7.0 What you sent today is not known yet, try again in a few seconds\r\n"
NO_SENDER = b"550 5.7.1 You may not send as %b; the relay's operator has a list of the senders of each user\r\n"
NO_FROM = (
    b"550 5.7.1 You may not send with this From or Sender field; the relay's operator has a list of your senders\r\n"
)


class Login:
    """A connection that authenticated. `verify_…` give None, or the reply that refuses."""

    __slots__ = ("_account", "_limits", "cell", "day_cell", "mail", "name")

    def __init__(self, limits: UserLimits, account: Account, mail: Assignment) -> None:
        self._limits = limits
        self._account: Account | None = account
        self.name = account.name
        self.mail = mail
        self.cell = limits.cell(b"user:", account)
        self.day_cell = limits.cell(b"user-day:", account)

    def __repr__(self) -> str:
        return f"Login({self.name!r})"

    def take_over(self, account: Account | None) -> None:
        """Another state of the users file; None: this login holds no more."""
        self._account = account

    def verify_sender(self, reverse_path: bytes) -> bytes | None:
        """At MAIL."""
        account = self._account
        if account is None:
            return GONE
        if account.user.disabled:
            return DISABLED
        if account.senders is not None and not account.senders.allows(reverse_path):
            return NO_SENDER % (_shown(reverse_path) or b"<>")
        if account.rate is not None:
            return self._limits.look(account, self.cell)
        return None

    def verify_recipient(self, mailbox: bytes) -> bytes | None:
        """At RCPT."""
        account = self._account
        if account is None or (account.rate is None and account.user.recipients_per_day is None):
            return None
        return self._limits.take(account, self.cell, self.day_cell)

    def verify_header(self, header: bytes) -> bytes | None:
        """Of a message: whom its From and Sender fields name."""
        account = self._account
        if account is None or account.senders is None or account.senders.allows_from(header):
            return None
        return NO_FROM


class UserLimits:
    """The logins of one worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._users = NOBODY
        self._cells: dict[bytes, int] = {}
        self._logins: dict[Any, Login] = {}

    def __len__(self) -> int:
        return len(self._logins)

    def cell(self, kind: bytes, account: Account) -> int:
        """The cell of an account in the shared table."""
        name = kind + account.name
        found = self._cells.get(name)
        if found is None:
            found = self._cells[name] = self._app.table.cell(name)
        return found

    def take_over(self, users: Users) -> None:
        """Another state of the file: every login follows it. One whose password is another by now holds no more."""
        old, self._users = self._users, users
        for login in self._logins.values():
            name = login.name.decode()
            before, now = old.accounts.get(name), users.accounts.get(name)
            same = before is not None and now is not None and before.secrets == now.secrets
            login.take_over(now if same else None)

    def login(self, connection: Any, account: Account, mail: Assignment) -> Login | bytes:
        """The login of a connection, or the reply that refuses it: too many are open already."""
        self.left(connection)  # who was somebody before STARTTLS
        most = account.user.connections or NO_LIMIT
        cell = self.cell(b"user-connections:", account)
        if not self._app.table.acquire(cell, self._app.slot, most):
            return b"454 4.7.0 %d connections of this user are open, which is all it may have; close some\r\n" % most
        login = self._logins[connection] = Login(self, account, mail)
        return login

    def left(self, connection: Any) -> None:
        """The connection is gone."""
        login = self._logins.pop(connection, None)
        if login is not None:
            self._app.table.release(self._cells[b"user-connections:" + login.name], self._app.slot)

    def look(self, account: Account, cell: int) -> bytes | None:
        """Whether the rate has room for a recipient now."""
        rate = account.rate
        assert rate is not None
        found = self._app.table.look(cell, self._app.clock.boottime_ns(), rate.emission_ns, rate.burst)
        return None if found > 0 else _over_rate(rate.text, -found)

    def take(self, account: Account, cell: int, day_cell: int) -> bytes | None:
        """A recipient of the day's cap and of the rate, or the reply that says which has none."""
        table = self._app.table
        period = -1
        most = account.user.recipients_per_day
        if most is not None:
            granted, period = table.cap_claim(day_cell, 1)
            if not granted and not table.cap_of(day_cell):
                return UNKNOWN_DAY
            if not granted:
                return b"450 4.7.0 All %d recipients of this day (UTC) are used; try again tomorrow\r\n" % most
        rate = account.rate
        if rate is None:
            return None
        now_ns = self._app.clock.boottime_ns()
        wait_ns = table.take(cell, now_ns, 1, rate.emission_ns, rate.burst)
        if wait_ns == 0:
            return None
        if period >= 0:
            table.cap_return(day_cell, period, 1)
        return _over_rate(rate.text, wait_ns)


def _over_rate(rate: str, wait_ns: int) -> bytes:
    seconds = min(86400, max(1, math.ceil(wait_ns / 1e9)))
    return f"450 4.7.0 Your rate of {rate} recipients is used up; try again in {seconds} seconds\r\n".encode()


def _shown(address: bytes) -> bytes:
    """An address in a reply: printable ASCII, short."""
    return bytes(c if 32 < c < 127 else 63 for c in address[:80])
