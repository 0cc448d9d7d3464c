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
from typing import TYPE_CHECKING, Any

from fastrelay._core.client import Tls
from fastrelay.metrics import names
from fastrelay.tls.client import FAILURE, STARTTLS_MISSING, ClientContext, Contexts, classify, name_with_key
from fastrelay.tls.policy import OPPORTUNISTIC, PLAIN, HostPlan

if TYPE_CHECKING:
    from fastrelay._core.session import Session
    from fastrelay.app import App

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 2.0  # for the host to answer our close_notify; the mail is settled long before


async def host_plan(app: App, site_queue: Any, target: Any) -> HostPlan:
    """What TLS a host must have now. One whose TLS was broken lately gets a plain connection, where that may be."""
    policy = getattr(site_queue, "tls", None) or OPPORTUNISTIC
    outbound = getattr(app, "tls", None)
    now = app.clock.monotonic()
    plan = _usual(app, target) if outbound is None else await outbound.host_plan(policy, target, now)
    if plan.mode == "starttls" and not plan.mandatory:
        broken = app.hosts.tls_broken(target.address, app.clock.monotonic())
        if broken is not None:
            return replace(plan, mode="plain", context=None, check=None, failure=broken[0], why=broken[1], verified="")
    return plan


def _usual(app: App, target: Any) -> HostPlan:
    """Without any policies: TLS where it is offered."""
    if app.config.tls.outbound.level == "none":
        return PLAIN
    return HostPlan("starttls", context=contexts_of(app).unverified(), server_hostname=target.host)


def contexts_of(app: App) -> Contexts:
    """The contexts of the configuration as it is now."""
    outbound = app.config.tls.outbound
    kept: tuple[Any, Contexts] | None = getattr(app, "tls_contexts", None)
    if kept is None or kept[0] is not outbound:
        kept = (outbound, Contexts(outbound))
        app.tls_contexts = kept  # type: ignore[attr-defined]
    return kept[1]


class Handshake:
    """The TLS of one connection. `failure`: RFC 8460 section 4.3 result type and words, once it has failed.

    `complaint`: the same, of a check that finds fault and is not mandatory (MTA-STS in testing mode).
    """

    __slots__ = ("_app", "complaint", "failure", "name", "plan")

    def __init__(self, app: App, plan: HostPlan, target: Any) -> None:
        self._app = app
        self.plan = plan
        self.failure: tuple[str, str] | None = None
        self.complaint: tuple[str, str] | None = None
        resume = app.config.tls.outbound.resume and plan.check is None
        name = plan.server_hostname
        self.name = name_with_key(name, target.address, target.port) if resume else name

    @property
    def wanted(self) -> int:
        """What the client machine is told (its `tls`)."""
        if self.plan.mode == "implicit":
            return Tls.TLS_IMPLICIT
        if self.plan.mode != "starttls":
            return Tls.TLS_NONE
        return Tls.TLS_REQUIRED if self.plan.mandatory else Tls.TLS_OFFERED

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
        try:
            async with asyncio.timeout(seconds):
                transport = await asyncio.get_running_loop().start_tls(
                    session.transport,
                    session,
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
        cipher = tls.cipher()
        session.tls_version = tls.version() or ""
        session.tls_verified = "" if words is not None else plan.verified
        session.tail += _tail(session.tls_version, cipher[0] if cipher else "", session.tls_verified)
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
        policy = getattr(site_queue, "tls", None) or OPPORTUNISTIC
        app.tls_reports.session(policy, site_queue, target, source_address, result, words, plan)


def _tail(version: str, cipher: str, verified: str) -> bytes:
    """What the events of a session say of its TLS."""
    text = f',"tls":"{version}","tls_cipher":"{cipher}"'
    return (text + (f',"tls_verified":"{verified}"' if verified else "")).encode()
