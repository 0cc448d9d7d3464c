"""TLS of one connection to an MX host: what is asked for, the handshake on the open socket, and what came of it.

The plan (tls/policy.py) says what this host must have. Here it is carried out and told to metrics and TLS-RPT
(tls/reports.py); connect.py says what follows from a failure.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import msgspec

from fastrelay._core.client import Tls
from fastrelay.metrics import names
from fastrelay.tls.client import FAILURE, STARTTLS_MISSING, ClientContext, classify, describe, name_with_key
from fastrelay.tls.policy import OPPORTUNISTIC, HostPlan

if TYPE_CHECKING:
    from fastrelay._core.session import Session
    from fastrelay.app import App

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 2.0  # for the host to answer our close_notify; the mail is settled long before


async def host_plan(app: App, site_queue: Any, target: Any) -> HostPlan:
    """What TLS a host must have now. One whose TLS was broken lately gets a plain connection, where that may be."""
    plan = await app.tls.host_plan(site_queue.tls or OPPORTUNISTIC, target, app.clock.monotonic())
    if plan.mode == "starttls" and not plan.mandatory:
        broken = app.hosts.tls_broken(target.address, app.clock.monotonic())
        if broken is not None:
            return replace(plan, mode="plain", context=None, check=None, failure=broken[0], why=broken[1], verified="")
    return plan


def session_options(app: App, site: Any, plan: HostPlan, target: Any) -> dict[str, Any]:
    """What the client machine is told: about TLS, and who we are at a smart host."""
    tls = {"implicit": Tls.TLS_IMPLICIT, "starttls": Tls.TLS_OFFERED}.get(plan.mode, Tls.TLS_NONE)
    if plan.mandatory and tls == Tls.TLS_OFFERED:
        tls = Tls.TLS_REQUIRED
    loopback = target.address.startswith("127.") or target.address == "::1"
    return {"tls": tls, "login": app.logins.login(site), "auth_in_clear": loopback}


class Handshake:
    """The TLS of one connection. `failure`: RFC 8460 section 4.3 result type and words, once it has failed.

    `complaint`: the same, of a check that finds fault and is not mandatory. `fields`: what events say of the TLS.
    """

    __slots__ = ("_app", "complaint", "failure", "fields", "name", "plan")

    def __init__(self, app: App, plan: HostPlan, target: Any) -> None:
        self._app = app
        self.plan = plan
        self.failure: tuple[str, str] | None = None
        self.complaint: tuple[str, str] | None = None
        self.fields: dict[str, str] = {}
        resume = app.config.tls.outbound.resume and plan.check is None
        name = plan.server_hostname
        self.name = name_with_key(name, target.address, target.port) if resume else name

    def arguments(self) -> dict[str, Any]:
        """For create_connection, where TLS begins with the first octet."""
        if self.plan.mode != "implicit":
            return {}
        seconds = self._app.config.tls.outbound.handshake_timeout_seconds
        return {
            "ssl": self.plan.context,
            "server_hostname": self.name,
            "ssl_handshake_timeout": seconds,
            "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
        }

    async def upgrade(self, session: Session) -> None:
        """220 was said to STARTTLS: the handshake; then EHLO, or the end of the session."""
        app = self._app
        began = app.clock.monotonic()
        seconds = app.config.tls.outbound.handshake_timeout_seconds
        assert session.transport is not None
        assert self.plan.context is not None
        try:
            async with asyncio.timeout(seconds):
                transport = await asyncio.get_running_loop().start_tls(
                    session.transport,
                    cast(asyncio.BaseProtocol, session),
                    self.plan.context,
                    server_hostname=self.name,
                    ssl_handshake_timeout=2 * seconds,
                    ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                )
            tls = None if transport is None else transport.get_extra_info("ssl_object")
            if tls is None or tls.cipher() is None or session.closed:
                raise ConnectionResetError("closed by the host")
        except Exception as error:
            if not isinstance(error, (OSError, ValueError)):
                log.exception("a TLS handshake failed in the relay itself; please report this")
                app.count_error("deliver")
            self.failed(error)
            self.end(session)
            return
        except BaseException:
            self.end(session)
            raise
        app.meters.observe(names.TLS_HANDSHAKE_SECONDS, app.clock.monotonic() - began)
        try:
            session.secured(transport, app.clock.monotonic())
        except Exception as error:
            session.pool.broke(session, error)

    def failed(self, error: BaseException) -> None:
        """The handshake did not succeed."""
        self.failure = classify(error)
        if isinstance(self.plan.context, ClientContext):
            self.plan.context.forget(self.name)

    def end(self, session: Session) -> None:
        """Drops a connection whose handshake is not done: uvloop does not tell its protocol that it is lost."""
        session.client.tls_failed(self.failure[1] if self.failure else "the TLS handshake was given up")
        session.abort()
        session.connection_lost(None)

    def checked(self, session: Session, tls: ssl.SSLObject) -> bool:
        """The handshake is done (the session asks): whether the host is who it must be."""
        plan = self.plan
        words = None if plan.check is None else plan.check(tls)
        if words is not None and plan.mandatory:
            self.failure = (plan.failure or FAILURE, words)
            session.client.tls_failed(words)
            return False
        if words is not None:
            self.complaint = (plan.failure or FAILURE, words)
        seen = describe(tls)
        session.tls_version = seen["version"]
        session.tls_verified = "" if words is not None else plan.verified
        self.fields = {"tls": session.tls_version, "tls_cipher": seen["cipher"]}
        if session.tls_verified:
            self.fields["tls_verified"] = session.tls_verified
        session.tail += b"," + msgspec.json.encode(self.fields)[1:-1]
        return True

    def over(self, session: Session) -> None:
        """The session is gone: its TLS session may serve the next one."""
        context = self.plan.context
        if session.ssl is not None and isinstance(context, ClientContext):
            context.keep(self.name, session.ssl)
            session.ssl = None

    # -- counting -----------------------------------------------------------------------------------------------------

    def tell(self, session: Session | None, site_queue: Any, target: Any, source_address: str) -> None:
        """A session is ready, or TLS failed on the way: metrics, and TLS-RPT."""
        app, plan = self._app, self.plan
        ready = session is not None and session.ready
        failure = self.failure
        if failure is None and plan.mode == "plain" and plan.failure:
            failure = (plan.failure, plan.why)  # its TLS was broken lately
        elif failure is None and session is not None and session.client.starttls_missing:
            refused = session.client.starttls_refused
            said = f"STARTTLS was refused: {refused.text_for_log()}" if refused else "STARTTLS is not offered"
            failure = (STARTTLS_MISSING, said)
        tls = None if session is None else session.ssl
        if plan.mode != "plain":
            version = session.tls_version if session is not None and ready else ""
            resumed = "yes" if ready and tls is not None and tls.session_reused else "no"
            app.meters.count(
                names.TLS_HANDSHAKES,
                result=failure[0] if failure else "ok",
                version=version or "none",
                resumed=resumed,
            )
        if ready:
            kind = "plain" if tls is None else (session.tls_verified or "unverified")  # type: ignore[union-attr]
            app.meters.count(names.TLS_SESSIONS, verified=kind)
        if plan.mode == "plain" and failure is None:
            return  # TLS is switched off
        result, words = failure or self.complaint or (None, "")
        app.tls_reports.session(
            site_queue.tls or OPPORTUNISTIC, site_queue, target, source_address, result, words, plan
        )
