"""Opening a connection: the hosts of a site in order, until one is ready for mail.

Each host has its plan of TLS (handshake.py). Where TLS is no must and turns out to be broken, the host is asked once
more at once, in plain, and that is remembered for a while; where it is a must, the next host is tried.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from fastrelay._core.client import ErrorKind, SmtpClient, State
from fastrelay._core.session import Session
from fastrelay.deliver.handshake import Handshake, host_plan, session_options
from fastrelay.deliver.source import Source, open_socket
from fastrelay.tls.client import FAILURE, STARTTLS_MISSING
from fastrelay.tls.policy import HostPlan

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.deliver.pool import Pool
    from fastrelay.limits.gates import Passage

TAILS_KEPT = 256


@dataclass(slots=True, eq=False)
class Opening:
    """A connection on its way. `taken`: a session is ready, and its places are its own."""

    source: Source
    passage: Passage
    taken: bool = False


@dataclass(slots=True)
class ConnectFailure:
    """Why no host was ready.

    failed     hosts were tried; `codes` are those of refused greetings, 0 for anything else
    no_source  this source can't reach any address of the site
    limited    the rate of connections was used up before all hosts were tried
    no_route   none of the site's hosts has an address: `route` is the router's Failure
    tls        no host could be used, and at least one had not the TLS that it must have
    """

    kind: Literal["failed", "no_source", "limited", "no_route", "tls"]
    detail: str
    codes: set[int] = field(default_factory=set)
    route: Any = None


async def connect(app: App, pool: Pool, opening: Opening) -> ConnectFailure | None:
    """None: a session is ready. The first host was permitted by the caller; each further one takes a permit."""
    source, queue = opening.source, pool.site_queue
    targets, failure = await app.router.targets(queue.site, app.clock.monotonic())
    if failure is not None:
        return ConnectFailure("no_route", failure.text, route=failure)
    usable = [target for target in targets if source.reaches(target.family)]
    if not usable:
        family = f"source {source.name} has no address of the family that {queue.key} needs"
        return ConnectFailure("no_source", family)
    return await Attempt(app, pool, opening).any_of(app.hosts.in_order(usable, app.clock.monotonic()))


class Attempt:
    """The hosts of one connect, one after the other."""

    def __init__(self, app: App, pool: Pool, opening: Opening) -> None:
        self._app = app
        self._pool = pool
        self._opening = opening
        self._connects = 0  # made so far; the caller has the permit of the first
        self._told = ConnectFailure("failed", "")

    async def any_of(self, targets: list[Any]) -> ConnectFailure | None:
        """None: one is ready."""
        told, tls_words = self._told, ""
        for target in targets:
            plan = await host_plan(self._app, self._pool.site_queue, target)
            outcome = self._skipped(target, plan) if plan.mode == "skip" else await self._one(target, plan)
            if outcome == "ready" or self._app.draining:
                return None
            if outcome == "tls":
                tls_words = told.detail
            elif outcome != "failed":
                told.kind = "limited" if outcome == "limited" else "no_source"
                return told
        return ConnectFailure("tls", tls_words, told.codes) if tls_words else told

    def _skipped(self, target: Any, plan: HostPlan) -> str:
        handshake = Handshake(self._app, plan, target)
        handshake.failure = (plan.failure or FAILURE, plan.why)
        self._tell(handshake, None, target)
        self._app.count_connect("tls")
        self._told.detail = f"{_where(target)}: {plan.why}"
        return "tls"

    async def _one(self, target: Any, plan: HostPlan) -> str:
        """One host: ready, failed, no_source, limited, or tls, where it must have TLS and has it not."""
        outcome, handshake = await self._connect(target, plan)
        if outcome != "tls" or plan.mandatory or plan.mode != "starttls":
            return outcome
        app = self._app
        result, words = handshake.failure or (FAILURE, self._told.detail)
        until = app.clock.monotonic() + app.config.tls.outbound.remember_broken_seconds
        app.hosts.tls_failed(target.address, until, result, words)
        app.hosts.succeeded(target.address)
        plain = HostPlan("plain", failure=result, why=words, policy_type=plan.policy_type, policy_text=plan.policy_text)
        outcome, _ = await self._connect(target, plain)
        return outcome

    async def _connect(self, target: Any, plan: HostPlan) -> tuple[str, Handshake]:
        handshake = Handshake(self._app, plan, target)
        if self._connects and not self._opening.passage.connects.permit(1, self._app.clock.boottime_ns(), False):
            return "limited", handshake
        self._connects += 1
        outcome, self._told.detail, code = await self._try(target, handshake)
        self._told.codes.add(code)
        return outcome, handshake

    async def _try(self, target: Any, handshake: Handshake) -> tuple[str, str, int]:
        """One connection: ("ready", "", 0), or which failure, in words, with the code of a refusal."""
        app, source = self._app, self._opening.source
        began = app.clock.monotonic()
        try:
            sock = open_socket(source, target.family)
        except OSError as error:
            app.count_connect("error")
            return "no_source", f"source {source.name} ({source.address}) can't be used: {error.strerror}", 0
        try:
            async with asyncio.timeout(app.config.delivery.connect_timeout_seconds):
                await asyncio.get_running_loop().sock_connect(sock, (target.address, target.port))
        except (OSError, TimeoutError) as error:
            sock.close()
            words = "timed out" if isinstance(error, TimeoutError) else (error.strerror or str(error))
            app.hosts.failed(target.address, app.clock.monotonic())
            app.count_connect("timeout" if isinstance(error, TimeoutError) else connect_result(error))
            return "failed", f"connecting to {_where(target)}: {words}", 0
        except BaseException:
            sock.close()
            raise
        app.observe_connect(app.clock.monotonic() - began)
        return await self._greet(sock, target, handshake)

    async def _greet(self, sock: socket.socket, target: Any, handshake: Handshake) -> tuple[str, str, int]:
        """The connection is there: what comes of it until it is ready for mail."""
        app, pool = self._app, self._pool
        session = None
        try:
            session = new_session(app, pool, self._opening, target, handshake)
            answered = pool.await_greeting(session, self._opening)
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: cast(asyncio.BaseProtocol, session), sock=sock, **handshake.arguments()
                )
            except (OSError, ValueError) as error:
                sock.close()
                handshake.failed(error)
                handshake.end(session)
            else:
                if not session.closed:
                    app.sessions.add(session)
            result = await answered
        except BaseException:
            if session is None:
                sock.close()
            else:
                handshake.end(session) if session.client.state == State.STATE_HANDSHAKE else session.abort()
            raise
        finally:
            if session is not None:
                pool.greeted(session)
        return self._judge(session, target, handshake, result)

    def _judge(self, session: Session, target: Any, handshake: Handshake, result: str) -> tuple[str, str, int]:
        """What came of a connection; `result` is "" when it is ready for mail."""
        app, client = self._app, session.client
        if result == "":
            app.hosts.succeeded(target.address)
            app.count_connect("ok")
            self._tell(handshake, session, target)
            return "ready", "", 0
        by_tls = client.error_kind == ErrorKind.ERROR_TLS
        if by_tls or client.starttls_injected:
            kind = STARTTLS_MISSING if client.starttls_missing else FAILURE
            handshake.failure = handshake.failure or (kind, client.error or result)
            self._tell(handshake, None, target)
        app.hosts.failed(target.address, app.clock.monotonic())
        app.count_connect("tls" if by_tls else "auth" if client.error_kind == ErrorKind.ERROR_AUTH else "greeting")
        code = int(result[:3]) if result[:3].isdigit() else 0
        return "tls" if by_tls else "failed", f"{_where(target)}: {result}", code

    def _tell(self, handshake: Handshake, session: Session | None, target: Any) -> None:
        handshake.tell(session, self._pool.site_queue, target, self._opening.source.address)


def _where(target: Any) -> str:
    return f"{target.host} [{target.address}]:{target.port}"


def new_session(app: App, pool: Pool, opening: Opening, target: Any, handshake: Handshake) -> Session:
    """The shell around a client machine for a connection that was made."""
    source, queue, passage = opening.source, pool.site_queue, opening.passage
    tightest = min(passage.counters, key=lambda counter: counter.limit)
    return Session(
        SmtpClient(
            source.ehlo,
            app.clock.monotonic(),
            timeouts=app.timeouts,
            allow_chunking=app.hosts.chunking(target.address),
            **session_options(app, queue.site, handshake.plan, target),
        ),
        app.engine,
        queue,
        pool,
        source=source.number,
        source_name=source.name,
        host=target.host,
        address=target.address,
        tail=_tail(app, pool, source, target),
        messages=passage.shape.messages_per_connection,
        most=passage.shape.recipients_per_transaction,
        table=app.table,
        cell=tightest.cell,
        slot=app.slot,
        limit=tightest.limit if app.slots > 1 else 0,
        delivered_slot=app.outcome_slot("delivered", queue.provider, source.name),
        transaction_seconds=app.transaction_histogram(queue.provider),
        urgent_cells=[counter.urgent_cell for counter in passage.counters if counter.urgent_cell],
        tls=handshake,
    )


def _tail(app: App, pool: Pool, source: Source, target: Any) -> bytes:
    """The part of an event that is the same for all deliveries of a session."""
    key = (source.number, target.host, target.address)
    tail = pool.tails.get(key)
    if tail is None:
        if len(pool.tails) > TAILS_KEPT:
            pool.tails.clear()
        tail = pool.tails[key] = app.event_tail(source.name, pool.site_queue, target.host, target.address)
    return tail


def connect_result(error: OSError) -> str:
    """The word of the metric for a connect that failed."""
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "error"
