"""What failures mean for a site, when no one message is at fault.

    no host has the TLS that it must have   the site backs off in the same way, reason tls_policy
    no host could be used                   by this source nor by the next ones (SOURCES_TRIED): the site backs off,
                                            connect_backoff, twice as long each time
    one source can't use any, others can    the source is passed over for a while
    every host says 521                     the site never takes mail: what is queued fails (RFC 7504)
    sessions are closed before anything     after FRUITLESS_SESSIONS in a row the site backs off in the same way, one
    succeeded in them (421 at MAIL, cut)    session at a time tries again, and what it had in hand burns no attempt

Known faults: sessions that are opened at the same time burn an attempt each before the first of them is over.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastrelay._core.transaction import ErrorKind
from fastrelay.deliver.connect import ConnectFailure
from fastrelay.deliver.source import Source

if TYPE_CHECKING:
    from fastrelay._core.session import Session
    from fastrelay.app import App
    from fastrelay.deliver.pool import Pool

log = logging.getLogger(__name__)

HOST_NEVER_TAKES_MAIL = 521  # RFC 7504
UNFIT_SECONDS = 60.0  # a source that can't send to this site is passed over for so long
SOURCES_TRIED = 3  # so many sources in a row that reach no host mean that nobody does
FRUITLESS_SESSIONS = 3
CUT = frozenset({ErrorKind.ERROR_TIMEOUT, ErrorKind.ERROR_CLOSED, ErrorKind.ERROR_PROTOCOL})


class Trouble:
    """The failures of one site, as one pool sees them."""

    def __init__(self, app: App, pool: Pool) -> None:
        self._app = app
        self._pool = pool
        self.failures = 0  # connects in a row that reached no host
        self.fruitless = 0  # sessions in a row in which nothing succeeded
        self._failed: set[int] = set()  # sources that reached no host since the last one that did
        self._cut: set[Any] = set()  # sessions that were closed inside a transaction
        self._pause_until = 0.0  # no further sessions beside those that work

    # -- connecting -------------------------------------------------------------------------------------------------

    def most_wanted(self, connections: int, now: float) -> int:
        """How many connections to have on their way: while sessions are fruitless only one, to see if that is over."""
        if self.fruitless < FRUITLESS_SESSIONS:
            return connections
        if any(map(self._succeeded, self._pool.sessions)):
            return 0 if self._pause_until > now else connections
        return min(connections, 1 - len(self._pool.sessions))

    def connected(self) -> None:
        """A session is ready for mail. While sessions are fruitless that alone is no good sign."""
        self._failed.clear()
        if self.fruitless < FRUITLESS_SESSIONS:
            self._over()

    def _over(self) -> None:
        """The site takes mail."""
        queue = self._pool.site_queue
        self.failures = 0
        queue.backoff_until = 0.0
        queue.reason, queue.detail = "ready", ""

    def connecting_failed(self, source: Source, failure: ConnectFailure) -> None:
        """No session came of it. With other sessions open the site is still reachable: no back-off then."""
        if failure.kind == "no_route":
            self._no_route(failure.route)
        elif failure.kind == "no_source":
            self._pass_over(source, failure.detail)
        elif failure.kind == "limited":
            self._look_again()
        elif failure.kind == "tls":
            if not self._pool.sessions:
                self.back_off(failure.detail, "tls_policy")
        elif failure.codes == {HOST_NEVER_TAKES_MAIL} and not self._pool.sessions:
            self._fail_ready(HOST_NEVER_TAKES_MAIL, "5.3.2", failure.detail, "host_refuses_mail")
        else:
            self._unreached(source, failure.detail)

    def _unreached(self, source: Source, detail: str) -> None:
        """No host took this source. Whether it is the source's fault or the site's, other sources tell."""
        if self._pool.sessions:
            if source.number not in {session.source for session in self._pool.sessions}:
                self._pass_over(source, detail)
            return
        self._failed.add(source.number)
        usable = self._pool.choice.usable(self._app.clock.monotonic())
        others = [one for one in usable if one.number not in self._failed]
        if others and len(self._failed) < SOURCES_TRIED:
            self._pass_over(source, detail)
            return
        self._pool.choice.fit_again(self._failed)
        self._failed.clear()
        self.back_off(detail)

    def _no_route(self, failure: Any) -> None:
        """None of the site's hosts has an address."""
        self._app.count_connect("unreachable")
        if failure.action == "fail":
            self._fail_ready(failure.code, failure.enhanced, failure.text, "unroutable")
            return
        self.back_off(failure.text)

    def _pass_over(self, source: Source, why: str) -> None:
        """This source can't send to this site: the others do, if there are any."""
        if self._pool.choice.pass_over(source, self._app.clock.monotonic() + UNFIT_SECONDS, why):
            log.warning("site %s: %s", self._pool.site_queue.key, why)
        self._look_again()

    def _look_again(self) -> None:
        self._app.engine.wake(self._pool.site_queue)
        self._app.wake_soon()

    def _fail_ready(self, code: int, enhanced: str, words: str, reason: str) -> None:
        self._app.fail_ready(self._pool.site_queue, code, enhanced, words, reason)

    def back_off(self, detail: str, reason: str = "connect_backoff") -> None:
        """The site is left alone for a while."""
        queue, bounds = self._pool.site_queue, self._app.config.delivery.connect_backoff
        now = self._app.clock.monotonic()
        if queue.backoff_until > now:
            return
        delay = min(bounds.max_seconds, bounds.first_seconds * 2 ** min(self.failures, 32))
        self.failures += 1
        queue.backoff_until = now + delay
        queue.reason, queue.detail = reason, detail
        self._app.wake_later(queue, queue.backoff_until)
        level = logging.WARNING if self.failures == 1 else logging.INFO
        what = "gets no mail without the TLS it must have" if reason == "tls_policy" else "can't be reached"
        log.log(level, "site %s %s, next try in %.0f s: %s", queue.key, what, delay, detail)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def excuses(self, session: Session, tx: Any) -> bool:
        """Whether a transaction that ended burns no attempt: the session was closed before anything of it was sent,
        as others before it were."""
        if tx.error_kind not in CUT:
            return False
        self._cut.add(session)
        return self.fruitless >= FRUITLESS_SESSIONS and not tx.body_began and not self._succeeded(session)

    def _succeeded(self, session: Session) -> bool:
        """Whether the host answered a transaction of this session to its end."""
        return bool(session.client.transactions_done > (session in self._cut))

    def session_over(self, session: Session) -> None:
        """A session that was ready for mail is gone."""
        succeeded, client = self._succeeded(session), session.client
        self._cut.discard(session)
        if succeeded:
            if self.fruitless >= FRUITLESS_SESSIONS:
                self._over()
            self.fruitless = 0
        elif client.error_kind in CUT:
            self.fruitless += 1
            if self.fruitless >= FRUITLESS_SESSIONS:
                host = f"{session.host} [{session.address}]"
                words = f"{host} closed {self.fruitless} sessions before a message was sent: {client.error}"
                self._no_use(words)

    def _no_use(self, words: str) -> None:
        """One more fruitless session: those that work go on alone; without any the site backs off."""
        if not any(map(self._succeeded, self._pool.sessions)):
            self.back_off(words)
            return
        self._pause_until = self._app.clock.monotonic() + self._app.config.delivery.connect_backoff.first_seconds
        self._app.wake_later(self._pool.site_queue, self._pause_until)
