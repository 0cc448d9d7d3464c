"""Refusing suppressed recipients at RCPT (suppression.at_submission: refuse).

What is known at RCPT is the reverse-path and what the listener or the user is assigned; tenant, class and From may yet
come with the header. So only an entry that is sure to hold refuses: global, or of the reverse-path's domain, or of a
tenant that the listener or user has; and of no reason that transactional mail is spared. All others are looked at once
the message was accepted (schedule/suppressed.py), and end as suppressed there.

Known faults: a tenant that a header names in place of the listener's is not known here: where a header may change it,
the listener's tenant decides at RCPT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastrelay.feedback.suppression import Entry, SuppressionError, domain_name

if TYPE_CHECKING:
    from fastrelay.app import App

REFUSED = b"550 5.7.1 Recipient is suppressed (%s); see fastrelay suppress check\r\n"
UNKNOWN = b"451 4.3.0 The suppression list can't be read now, try again later\r\n"
Verify = Callable[[bytes], bytes | None]


def verifier(app: App, connection: Any, inner: Verify | None) -> Verify | None:
    """What a connection asks at RCPT: the suppression list where the configuration wants it, then `inner`."""
    config = app.config.suppression
    if not config.enabled or config.at_submission != "refuse":
        return inner
    spared = frozenset(config.spare_transactional)

    def verify(mailbox: bytes) -> bytes | None:
        suppression = app.engine.suppression
        if suppression is not None:
            refusal = _look_up(app, suppression, connection, mailbox, spared)
            if refusal is not None:
                return refusal
        return inner(mailbox) if inner is not None else None

    return verify


def _look_up(app: App, suppression: Any, connection: Any, mailbox: bytes, spared: frozenset[str]) -> bytes | None:
    try:
        domain = domain_name(mailbox.rpartition(b"@")[2])
    except SuppressionError:
        return None  # no domain at all: refused with the message
    try:
        entries: list[Entry] | None = suppression.find(mailbox, domain)
    except Exception as error:
        suppression.unreadable(error)
        return UNKNOWN
    if entries is None:
        return None
    wall = app.clock.wall()
    tenant = getattr(connection.mail, "tenant", None)
    for entry in entries:
        if entry.reason in spared or not entry.live(wall):
            continue
        if entry.scope == "tenant" and (tenant is None or entry.value != tenant.encode()):
            continue
        if entry.scope == "sender" and entry.value != _sender(connection.server.envelope):
            continue
        return REFUSED % entry.reason.encode()
    return None


def _sender(envelope: Any) -> bytes:
    """The domain of the reverse-path; b"" where there is none."""
    domain = envelope.reverse_path.rpartition(b"@")[2]
    try:
        return domain_name(domain) if domain else b""
    except SuppressionError:
        return b""
