"""The part of the configuration that closes the loop: bounces out and in, complaints, suppression, events for others.

Every key is explained in deploy/fastrelay.example.yaml.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastrelay.config.base import (
    Bind,
    Count,
    Duration,
    Name,
    Network,
    PositiveDuration,
    PositiveSize,
    Share,
    Struct,
)
from fastrelay.config.security import Mailbox, Path
from fastrelay.config.sending import Rate
from fastrelay.config.units import parse_bind

# bounces@example.com (also with +extension, and as VERP writes it), or *@bounces.example.com
InboundAddress = Annotated[str, Meta(min_length=3, max_length=320)]
Scope = Literal["global", "tenant", "sender"]
Reason = Literal["hard_bounce", "soft_bounces", "complaint", "unsubscribe", "manual"]
EventName = Literal[
    "accepted", "delivered", "deferred", "failed", "expired", "suppressed", "removed", "bounced", "complained",
    "unsubscribed", "suppression",
]  # fmt: skip
WebhookFormat = Literal["fastrelay", "listmonk", "sendgrid", "postmark"]
Url = Annotated[str, Meta(min_length=8, max_length=2000)]


class HttpListener(Struct, frozen=True):
    """One address at which the unsubscribe page is served. `tls` None: implicit where there is a certificate."""

    bind: Bind
    tls: Literal["none", "implicit"] | None = None
    proxy_from: list[Network] = []  # whose X-Forwarded-For is believed

    @property
    def address(self) -> tuple[str, int]:
        """(IP address, port)."""
        return parse_bind(self.bind)


class Inbound(Struct, frozen=True):
    """Mail that comes back, at the listeners that have `inbound` addresses."""

    message_size_bytes: PositiveSize = 10 * 2**20
    processing_timeout_seconds: PositiveDuration = 60.0  # then 451: the sender tries again
    connections: Count = 200  # over all workers


class Bounces(Struct, frozen=True):
    """Bounce messages of ours (RFC 3464), to the reverse-path."""

    send: bool = True
    address: Mailbox | None = None  # From:; None: mailer-daemon@ the relay's hostname
    gather_seconds: Duration = 60.0  # what befalls recipients of a message within so long is told in one
    delay_seconds: PositiveDuration | None = 4 * 3600.0  # a warning after so long in the queue; None: never
    warn_unasked: bool = False  # also where the client did not ask (NOTIFY)
    success: bool = True  # NOTIFY=SUCCESS is honoured
    content: Literal["headers", "full"] = "headers"  # where the client does not say (RET)
    content_size_bytes: PositiveSize = 256 * 2**10  # of RET=FULL; a larger message comes back as its header
    rate: Rate = "50/s burst 1000"  # those beyond wait


class Suppression(Struct, frozen=True):
    """The suppression list and the rules that fill it. Scopes: whose mail an entry stops."""

    enabled: bool = True
    hard_bounces: bool = True
    soft_bounces: Annotated[int, Meta(ge=0, le=1000)] = 5  # so many within soft_window, on as many days; 0: never
    soft_window_seconds: PositiveDuration = 30 * 86400.0
    complaints: bool = True
    unsubscribes: bool = True
    bounce_scope: Scope = "global"
    complaint_scope: Scope = "tenant"
    unsubscribe_scope: Scope = "sender"
    hard_expire_seconds: PositiveDuration | None = None  # None: never
    soft_expire_seconds: PositiveDuration | None = 90 * 86400.0
    complaint_expire_seconds: PositiveDuration | None = None
    unsubscribe_expire_seconds: PositiveDuration | None = None
    spare_transactional: list[Reason] = msgspec.field(default_factory=lambda: ["unsubscribe"])  # type: ignore[arg-type]
    at_submission: Literal["accept", "refuse"] = "accept"  # accept: ends as suppressed, with an event; refuse: 550
    entries: Count = 20_000_000


class Unsubscribe(Struct, frozen=True):
    """One-click unsubscribe (RFC 8058), served at listeners.unsubscribe."""

    path: Annotated[str, Meta(min_length=1, max_length=200)] = "/unsubscribe/"  # the reference follows
    page: Path | None = None  # an HTML file with {form}; None: the built-in page
    done_page: Path | None = None
    requests_per_minute: Count = 600  # of one address
    connections: Count = 1000


class Complaints(Struct, frozen=True):
    """Complaint rates: complaints of a day's mail by its deliveries."""

    warn_share: Share = 0.001
    limit_share: Share = 0.003
    window_seconds: PositiveDuration = 7 * 86400.0
    least_delivered: Count = 1000  # below it a rate says nothing
    campaigns: Count = 200  # and From domains: the busiest have a series of their own


class Webhook(Struct, frozen=True):
    """Where events are posted. Empty `events`: all that the format has a word for."""

    name: Name
    url: Url
    format: WebhookFormat = "fastrelay"
    events: list[EventName] = []
    tenants: list[str] = []  # mail of these tenants only; none: all
    secret_file: Path | None = None  # fastrelay: whsec_…; sendgrid: an EC private key (PEM)
    username: str | None = None  # Basic authentication
    password_file: Path | None = None
    ca_file: Path | None = None  # None: the system's
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 500
    batch_wait_seconds: Duration = 1.0
    timeout_seconds: PositiveDuration = 30.0
    retry_max_seconds: PositiveDuration = 600.0
    give_up_seconds: PositiveDuration = 3 * 86400.0  # an event that is older is dropped, and counted


class Reports(Struct, frozen=True):
    """DMARC and TLS reports of others about our domains."""

    keep_seconds: PositiveDuration = 90 * 86400.0
    size_bytes: PositiveSize = 50 * 2**20  # of one, unpacked
    records: Count = 100_000  # of one


def _absolute(name: str | None, folder: str) -> str | None:
    return None if name is None else os.path.normpath(os.path.join(folder, os.path.expanduser(name)))


def with_absolute_feedback_paths(config: Any, folder: str) -> dict[str, Any]:
    """The sections here that name files, with absolute names; relative ones start at `folder`."""
    replace = msgspec.structs.replace
    page, done = config.unsubscribe.page, config.unsubscribe.done_page
    hooks = [
        replace(
            one,
            secret_file=_absolute(one.secret_file, folder),
            password_file=_absolute(one.password_file, folder),
            ca_file=_absolute(one.ca_file, folder),
        )
        for one in config.events.webhooks
    ]
    return {
        "unsubscribe": replace(
            config.unsubscribe, page=_absolute(page, folder), done_page=_absolute(done, folder)
        ),
        "events": replace(config.events, webhooks=hooks),
        "replies": _absolute(config.replies, folder),
    }


