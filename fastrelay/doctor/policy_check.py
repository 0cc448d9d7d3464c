"""Checks of the configuration against what large providers want of bulk mail: `outbound_tls`, `unsubscribe`."""

from __future__ import annotations

from fastrelay.doctor import reasons
from fastrelay.doctor.findings import Finding
from fastrelay.doctor.look import Look

SUBJECT = "configuration"


async def check_outbound_tls(look: Look) -> list[Finding]:
    """Whether TLS is used with MX hosts at all, and how old a TLS is taken."""
    outbound = look.config.tls.outbound
    without = [pattern for pattern, level in outbound.domains.items() if level == "none"]
    if outbound.level == "none":
        return [
            Finding(
                check="outbound_tls",
                subject=SUBJECT,
                severity="error",
                found="mail goes out without TLS (tls.outbound.level is none)",
                why=reasons.OUTBOUND_TLS,
                mend="write `level: opportunistic`, or leave it out",
            )
        ]
    shown = f", and {outbound.level} but for {', '.join(without[:5])}" if without else f", {outbound.level}"
    return [
        Finding(
            check="outbound_tls",
            subject=SUBJECT,
            severity="note" if without else "ok",
            found=f"TLS {outbound.min_version} or newer{shown}",
            why=reasons.OUTBOUND_TLS if without else "",
        )
    ]


async def check_unsubscribe(look: Look) -> list[Finding]:
    """Whether somebody sees to one-click unsubscribing (RFC 8058): the relay adds it, or at least looks for it."""
    compose, checks = look.config.compose, look.config.checks
    if compose.list_unsubscribe:
        found = "List-Unsubscribe and List-Unsubscribe-Post are added where they are missing"
        return [Finding(check="unsubscribe", subject=SUBJECT, severity="ok", found=found)]
    if "unsubscribe" in checks.refuse or "unsubscribe" in checks.warn:
        found = "bulk mail without List-Unsubscribe is found when it is submitted"
        return [Finding(check="unsubscribe", subject=SUBJECT, severity="ok", found=found)]
    return [
        Finding(
            check="unsubscribe",
            subject=SUBJECT,
            severity="note",
            found="List-Unsubscribe is neither added nor looked for here; it is up to the application",
            why=reasons.UNSUBSCRIBE,
            mend="set compose.list_unsubscribe, or `checks: {warn: [unsubscribe]}` to see mail that lacks it",
        )
    ]
