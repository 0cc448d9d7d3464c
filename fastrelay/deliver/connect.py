"""Opening a connection: the hosts of a site in order, until one is ready for mail."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from fastrelay._core.client import SmtpClient
from fastrelay._core.session import Session
from fastrelay.deliver.source import Source, open_socket

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
    """

    kind: Literal["failed", "no_source", "limited", "no_route"]
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
    told = ConnectFailure("failed", "")
    for number, target in enumerate(app.hosts.in_order(usable, app.clock.monotonic())):
        if number and not opening.passage.connects.permit(1, app.clock.boottime_ns(), False):
            return ConnectFailure("limited", told.detail)
        outcome, told.detail, code = await _try(app, pool, opening, target)
        told.codes.add(code)
        if outcome == "ready" or app.draining:
            return None
        if outcome == "no_source":
            return ConnectFailure("no_source", told.detail)
    return told


async def _try(app: App, pool: Pool, opening: Opening, target: Any) -> tuple[str, str, int]:
    """One address: ("ready", …) or why not, in words, with the code of a refusal."""
    loop = asyncio.get_running_loop()
    source = opening.source
    began = app.clock.monotonic()
    where = f"{target.host} [{target.address}]:{target.port}"
    try:
        sock = open_socket(source, target.family)
    except OSError as error:
        app.count_connect("error")
        return "no_source", f"source {source.name} ({source.address}) can't be used: {error.strerror}", 0
    session: Session | None = None
    try:
        async with asyncio.timeout(app.config.delivery.connect_timeout_seconds):
            await loop.sock_connect(sock, (target.address, target.port))
        session = new_session(app, pool, opening, target)
        answered = pool.await_greeting(session, opening)
        await loop.create_connection(lambda: cast(asyncio.BaseProtocol, session), sock=sock)
        if not session.closed:
            app.sessions.add(session)
        app.observe_connect(app.clock.monotonic() - began)
        result = await answered
    except (OSError, TimeoutError) as error:
        sock.close()
        words = "timed out" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        app.hosts.failed(target.address, app.clock.monotonic())
        app.count_connect("timeout" if isinstance(error, TimeoutError) else connect_result(error))
        return "failed", f"connecting to {where}: {words}", 0
    except BaseException:
        if session is None:
            sock.close()
        else:
            session.abort()
        raise
    finally:
        if session is not None:
            pool.greeted(session)
    if result == "":
        app.hosts.succeeded(target.address)
        app.count_connect("ok")
        return "ready", "", 0
    app.hosts.failed(target.address, app.clock.monotonic())
    app.count_connect("greeting")
    return "failed", f"{where}: {result}", int(result[:3]) if result[:3].isdigit() else 0


def new_session(app: App, pool: Pool, opening: Opening, target: Any) -> Session:
    """The shell around a client machine for a connection that was made."""
    source, queue, passage = opening.source, pool.site_queue, opening.passage
    tightest = min(passage.counters, key=lambda counter: counter.limit)
    return Session(
        SmtpClient(
            source.ehlo,
            app.clock.monotonic(),
            timeouts=app.timeouts,
            allow_chunking=app.hosts.chunking(target.address),
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
