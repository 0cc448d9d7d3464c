"""AUTH of one worker: which mechanisms are offered, who a client is, and what it may do then.

The SMTP machine does the lines and base64 and hands on `begin` and `go_on`; the mechanisms are sasl.py, the users
users.py, what they may do user_limits.py, who has to wait guard.py. An answer goes back through
`connection.auth_challenge` or `connection.auth_done`, at once or later, always on the loop.

Passwords of PLAIN and LOGIN are hashed in a bounded pool of threads (scrypt lets go of the GIL): `auth.hashes_at_once`
at a time, `auth.hashes_waiting` in line, and from one address a quarter of that; beyond it 454. Users who were right at
their address before have a line of their own, which goes first. A password that was right is remembered for ten minutes
as an HMAC under a key that only this process has, so that a client that reconnects costs next to nothing.

Whatever is our fault is 454, never 535: clients give up on the latter. After too many failures a client waits a few
seconds without an answer, or is told 454 at once where it would be longer.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastrelay.config.sending import Assignment
from fastrelay.ingest import sasl
from fastrelay.ingest.guard import Guard, address_key
from fastrelay.ingest.suppressed import verifier
from fastrelay.ingest.user_limits import UserLimits
from fastrelay.ingest.users import NOBODY, Hash, UsersFile
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

SUCCESS = b"235 2.7.0 Authentication successful\r\n"
WRONG = b"535 5.7.8 Authentication credentials invalid\r\n"
TOO_MANY = b"421 4.7.0 Too many failed authentications, closing\r\n"
BUSY = b"454 4.7.0 Too many authentications at the moment, try again later\r\n"
TROUBLE = b"454 4.7.0 Authentication is not possible at the moment, try again later\r\n"
NOT_OFFERED = b"504 5.5.4 Mechanism not offered\r\n"
DISABLED = b"525 5.7.13 This account is disabled; ask who runs the relay\r\n"

HELD_SECONDS = 5.0  # a try that is due within so long is held back; one that is due later is told so
EARLY_SECONDS = 0.05  # a timer may fire so long before its time
FAILURES_OF_SESSION = 3
REMEMBERED = 10_000
REMEMBERED_SECONDS = 600.0
LOOK_SECONDS = 2.0  # how often the file is looked at
TOLD_AT_ONCE = 1000  # addresses and names in one report to the supervisor
SHARE_OF_ADDRESS = 4  # of the line for hashes, what one address may take: a quarter


class _Try:
    """An exchange of one connection, and the failures before it."""

    __slots__ = (
        "address",
        "closed",
        "connection",
        "failures",
        "held",
        "last",
        "machine",
        "mechanism",
        "timer",
        "users",
    )

    def __init__(self, connection: Any, address: str) -> None:
        self.connection = connection
        self.address = address
        self.mechanism = ""
        self.machine: sasl.Mechanism | None = None
        self.users = NOBODY  # those that it began with
        self.last: sasl.Proven | None = None  # proven; the client's empty answer to the last challenge is awaited
        self.held: sasl.Said | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.failures = 0
        self.closed = False


class Authenticator:
    """Of one worker; all calls on the loop. `app`: config, clock, meters, table, slot, slots."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.guard = Guard()
        self.file: UsersFile | None = None
        self.users = NOBODY
        self._error: Exception | None = None  # of the file, that was said
        self.limits = UserLimits(app)
        self._tries: dict[Any, _Try] = {}
        self._mails: dict[tuple[Assignment | None, Assignment], Assignment] = {}
        self._interned: dict[Assignment, Assignment] = {}
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._lines: tuple[deque[tuple[_Try, sasl.Password]], ...] = (deque(), deque())  # known clients, strangers
        self._waiting_of: Counter[str] = Counter()  # strangers' hashes in line, by address
        self._hashing = 0
        self._pool: ThreadPoolExecutor | None = None
        self._looked_at = float("-inf")
        self._offer: bytes | None = None
        # For the other workers: failures by address and name since the last report, and successes that are new.
        self._failed_since: Counter[tuple[str, str]] = Counter()
        self._right_since: list[tuple[str, str]] = []
        self.configure()

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Takes what matters here from the configuration, and the users; also at reload."""
        self._config = config = self._app.config.auth
        self.guard.configure(config.failures, config.failure_window_seconds, config.failure_delay_seconds)
        path = config.users
        if path is None:
            self.file = None
            self._take_over()
        elif self.file is None or self.file.path != path:
            self.file = UsersFile(path)
        if self._pool is not None and self._pool._max_workers != config.hashes_at_once:
            self._pool.shutdown(wait=False)
            self._pool = None
        self._look()
        self._offer = self._mechanisms()

    def _look(self) -> None:
        if self.file is None:
            return
        if self.file.reload_if_changed():
            self._take_over()
        elif self.file.error is not self._error and self.users is NOBODY:
            self._error = self.file.error
            log.error("%s; nobody can authenticate until it can be read", self._error)

    def _take_over(self) -> None:
        """Other users: sessions go on, and follow what holds now with their next transaction."""
        old, self.users = self.users, self.file.current if self.file is not None else NOBODY
        self._remembered.clear()
        for name, account in old.accounts.items():
            new = self.users.accounts.get(name)
            if new is None or new.secrets != account.secrets:
                self.guard.forget_user(name)
        self.limits.take_over(self.users)
        self._offer = self._mechanisms()
        for mechanism in self._config.mechanisms if self.file is not None else ():
            for result in names.AUTH_RESULTS:  # an alert on an increase must see the 0 before it
                self._app.meters.entry(names.AUTH, mechanism=mechanism, result=result)

    def _mechanisms(self) -> bytes | None:
        """What is offered where anything is; CRAM-MD5 and SCRAM only if some user can use them."""
        if self.file is None:
            return None
        users = self.users
        missing = {"CRAM-MD5": not users.with_cram_md5, "SCRAM-SHA-256": bool(users.accounts) and not users.with_scram}
        offered = [one for one in self._config.mechanisms if not missing.get(one, False)]
        return " ".join(offered).encode() or None

    def offer(self, listener: Any, tls: bool, loopback: bool) -> bytes | None:
        """The mechanisms to offer a client: b"SCRAM-SHA-256 PLAIN LOGIN"; None: no AUTH. `listener`: SmtpListener."""
        if self._offer is None or (listener is not None and listener.auth == "none"):
            return None
        if not tls and not (loopback and self._config.without_tls_on_loopback):
            return None
        return self._offer

    # -- what connections call ----------------------------------------------------------------------------------------

    def begin(self, connection: Any, mechanism: bytes, octets: bytes | None) -> None:
        """AUTH mechanism [initial response, decoded]."""
        attempt = self._tries.get(connection)
        if attempt is None:
            address = address_key(connection.client.decode("ascii", "replace"))
            attempt = self._tries[connection] = _Try(connection, address)
        self._drop(attempt)
        attempt.mechanism = mechanism.decode("ascii", "replace").upper()
        machine = self._machine(attempt.mechanism)
        if machine is None:
            attempt.mechanism = "other"
            self._end(attempt, "malformed", NOT_OFFERED)
            return
        if self.users is NOBODY:  # the file could not be read yet
            self._end(attempt, "error", TROUBLE)
            return
        attempt.machine = machine
        attempt.users = self.users
        self._said(attempt, machine.start(octets))

    def go_on(self, connection: Any, octets: bytes) -> None:
        """The answer to a challenge, decoded."""
        attempt = self._tries.get(connection)
        if attempt is None or attempt.machine is None:
            connection.auth_done(None, TROUBLE)
            return
        if attempt.last is not None:
            proven, attempt.last = attempt.last, None
            if octets:
                self._malformed(attempt)
            else:
                self._succeeded(attempt, proven.name)
            return
        self._said(attempt, attempt.machine.step(octets))

    def cancel(self, connection: Any) -> None:
        """The client broke the exchange off; the connection goes on."""
        attempt = self._tries.get(connection)
        if attempt is not None:
            if attempt.machine is not None:
                self._count(attempt, "cancelled")
            self._drop(attempt)

    def forget(self, connection: Any) -> None:
        """The connection is gone."""
        attempt = self._tries.pop(connection, None)
        if attempt is not None:
            self._drop(attempt)
            attempt.closed = True
        self.limits.left(connection)

    def _machine(self, mechanism: str) -> sasl.Mechanism | None:
        if mechanism == "PLAIN":
            return sasl.Plain()
        if mechanism == "LOGIN":
            return sasl.Login()
        if mechanism == "SCRAM-SHA-256":
            return sasl.ScramSha256(self.users.scram_of, secrets.token_urlsafe(24).encode())
        if mechanism == "CRAM-MD5":
            host = self._app.config.hostname.encode()
            stamp = int(self._app.clock.wall())
            return sasl.CramMd5(self.users.cram_md5_of, b"<%d.%d@%b>" % (secrets.randbits(64), stamp, host))
        return None

    def _drop(self, attempt: _Try) -> None:
        """Forgets an exchange, not the failures."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = attempt.held = attempt.last = attempt.machine = None

    # -- one exchange -------------------------------------------------------------------------------------------------

    def _said(self, attempt: _Try, said: sasl.Said) -> None:
        if isinstance(said, sasl.Challenge):
            attempt.connection.auth_challenge(said.octets)
        elif isinstance(said, sasl.Malformed):
            self._malformed(attempt)
        elif isinstance(said, sasl.Password):
            self._line_up(attempt, said)
        elif self._may_be_looked_at(attempt, said):
            self._judge(attempt, said)

    def _may_be_looked_at(self, attempt: _Try, said: sasl.Password | sasl.Proven | sasl.Wrong) -> bool:
        """Whether it is time. Else the try is held back for a little, or refused."""
        wait = self.guard.wait(attempt.address, said.name, self._app.clock.monotonic())
        if wait <= EARLY_SECONDS:
            return True
        if wait > HELD_SECONDS or attempt.held is not None:
            words = f"454 4.7.0 Too many failed authentications, try again in {math.ceil(wait)} seconds\r\n"
            self._end(attempt, "delayed", words.encode())
            return False
        attempt.held = said
        attempt.timer = self._later(wait, self._due, attempt, said)
        return False

    @staticmethod
    def _later(seconds: float, act: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, act, *arguments)

    def _due(self, attempt: _Try, said: sasl.Password | sasl.Proven | sasl.Wrong) -> None:
        attempt.timer = None
        self._said(attempt, said)

    def _judge(self, attempt: _Try, said: sasl.Proven | sasl.Wrong) -> None:
        if isinstance(said, sasl.Wrong):
            self._failed(attempt, said.name)
        elif said.last is not None:
            attempt.last = said
            attempt.connection.auth_challenge(said.last)
        else:
            self._succeeded(attempt, said.name)

    def _malformed(self, attempt: _Try) -> None:
        self.guard.failed_without_name(attempt.address, self._app.clock.monotonic())
        attempt.failures += 1
        reply = b"501 5.5.2 This is no message of %b\r\n" % attempt.mechanism.encode()
        self._end(attempt, "malformed", TOO_MANY if attempt.failures >= FAILURES_OF_SESSION else reply)

    def _failed(self, attempt: _Try, name: str) -> None:
        self.guard.failed(attempt.address, name, self._app.clock.monotonic())
        if len(self._failed_since) < TOLD_AT_ONCE or (attempt.address, name) in self._failed_since:
            self._failed_since[attempt.address, name] += 1
        attempt.failures += 1
        self._end(attempt, "wrong", TOO_MANY if attempt.failures >= FAILURES_OF_SESSION else WRONG)

    def _succeeded(self, attempt: _Try, name: str) -> None:
        """The password was right. What the account may do is another question."""
        account, before = self.users.accounts.get(name), attempt.users.accounts.get(name)
        if account is None or before is None or account.secrets != before.secrets:
            self._end(attempt, "error", TROUBLE)  # removed meanwhile, or the password is another
            return
        if self.guard.succeeded(attempt.address, name):
            self._right_since.append((attempt.address, name))
        if account.user.disabled:
            self._end(attempt, "disabled", DISABLED)
            return
        connection = attempt.connection
        login = self.limits.login(connection, account, self._mail(connection.mail, account.mail))
        if isinstance(login, bytes):
            self._end(attempt, "connections", login)
            return
        self._count(attempt, "ok")
        self._drop(attempt)
        self._tries.pop(connection, None)  # nobody authenticates twice
        connection.server.verify_recipient = verifier(self._app, connection, login.verify_recipient)
        connection.verify_header = login.verify_header
        connection.auth_done(login, SUCCESS)

    def _mail(self, listener: Assignment | None, own: Assignment) -> Assignment:
        """What mail of a user gets: what the users file says, then what the listener says. Always the same object for
        the same content, since the assigner goes by identity."""
        found = self._mails.get((listener, own))
        if found is None:
            keys = ("pool", "campaign", "tenant", "priority")
            mail = Assignment(**{key: getattr(own, key) or getattr(listener, key, None) for key in keys})
            found = self._mails[listener, own] = self._interned.setdefault(mail, mail)
        return found

    def _end(self, attempt: _Try, result: str, reply: bytes) -> None:
        self._count(attempt, result)
        self._drop(attempt)
        attempt.connection.auth_done(None, reply)

    def _count(self, attempt: _Try, result: str) -> None:
        self._app.meters.count(names.AUTH, mechanism=attempt.mechanism, result=result)

    # -- hashes -------------------------------------------------------------------------------------------------------

    def _line_up(self, attempt: _Try, said: sasl.Password) -> None:
        """A password waits for its turn to be hashed; of one that was right a moment ago we know it."""
        if self._is_remembered(said):
            if self._may_be_looked_at(attempt, said):
                self._succeeded(attempt, said.name)
            return
        stranger = not self.guard.was_right(attempt.address, said.name)
        line, most = self._lines[stranger], self._config.hashes_waiting
        if len(line) >= most or (stranger and self._waiting_of[attempt.address] >= max(1, most // SHARE_OF_ADDRESS)):
            self._end(attempt, "busy", BUSY)
            return
        if stranger:
            self._waiting_of[attempt.address] += 1
        line.append((attempt, said))
        self._hash_next()

    def _hash_next(self) -> None:
        while self._hashing < self._config.hashes_at_once:
            line = self._lines[0] or self._lines[1]
            if not line:
                return
            stranger = line is self._lines[1]
            attempt, said = line.popleft()
            if stranger:
                self._waiting_of[attempt.address] -= 1
                if not self._waiting_of[attempt.address]:
                    del self._waiting_of[attempt.address]
            if attempt.closed or attempt.machine is None or not self._may_be_looked_at(attempt, said):
                continue
            if self._is_remembered(said):  # others of this client were hashed meanwhile
                self._succeeded(attempt, said.name)
            else:
                self._hash(attempt, said)

    def _hash(self, attempt: _Try, said: sasl.Password) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._config.hashes_at_once, "auth")
        compared, may_fit = attempt.users.hash_of(said.name)
        loop = asyncio.get_running_loop()
        self._hashing += 1

        def done(future: Future[bool]) -> None:
            loop.call_soon_threadsafe(self._hashed, attempt, said, may_fit, future)

        try:
            self._pool.submit(Hash.fits, compared, said.password).add_done_callback(done)
        except RuntimeError:  # no thread can be started
            self._hashing -= 1
            self._app.count_error("ingest")
            self._end(attempt, "error", TROUBLE)

    def _hashed(self, attempt: _Try, said: sasl.Password, may_fit: bool, future: Future[bool]) -> None:
        self._hashing -= 1
        try:
            if not attempt.closed and attempt.machine is not None:
                self._compared(attempt, said, may_fit, future)
        finally:
            self._hash_next()

    def _compared(self, attempt: _Try, said: sasl.Password, may_fit: bool, future: Future[bool]) -> None:
        error = future.exception()
        if error is not None:
            self._app.count_error("ingest")
            log.error("a password could not be compared (%s): is there enough memory?", type(error).__name__)
            self._end(attempt, "error", TROUBLE)
        elif not (future.result() and may_fit):
            self._failed(attempt, said.name)
        else:
            if attempt.users is self.users:
                self._remember(said)
            self._succeeded(attempt, said.name)

    def _token(self, said: sasl.Password) -> bytes:
        return hmac.digest(self._key, f"{said.name}\0{said.password}".encode(), "sha256")

    def _is_remembered(self, said: sasl.Password) -> bool:
        until = self._remembered.get(self._token(said))
        return until is not None and until > self._app.clock.monotonic()

    def _remember(self, said: sasl.Password) -> None:
        token = self._token(said)
        self._remembered[token] = self._app.clock.monotonic() + REMEMBERED_SECONDS
        self._remembered.move_to_end(token)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    # -- time and the end ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """About once a second: the file, old entries, and what the other workers should know."""
        if self.file is None:
            return
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        while self._remembered and next(iter(self._remembered.values())) <= now:
            self._remembered.popitem(last=False)
        self.guard.sweep(now)
        self._tell()
        meters = self._app.meters
        meters.slab.set(meters.entry(names.AUTH_GUARD_ENTRIES), len(self.guard))
        meters.slab.set(meters.entry(names.AUTH_WAITING), len(self._lines[0]) + len(self._lines[1]))

    def _tell(self) -> None:
        """What the other workers should know, to the supervisor."""
        if not self._failed_since and not self._right_since:
            return
        failed = [[address, name, number] for (address, name), number in self._failed_since.items()]
        self._app.report({"event": "auth", "failed": failed, "right": [list(one) for one in self._right_since]})
        self._failed_since.clear()
        self._right_since.clear()

    def hear(self, failed: list[list[Any]], right: list[list[str]]) -> None:
        """What another worker saw: failures [address, name, number], successes [address, name]."""
        now = self._app.clock.monotonic()
        for address, name in right:
            self.guard.succeeded(address, name)
        for address, name, number in failed:
            self.guard.failed(address, name, now, number)

    def close(self) -> None:
        """The worker ends."""
        for line in self._lines:
            line.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def is_loopback(address: str) -> bool:
    """Whether a client at this address is on this host."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
