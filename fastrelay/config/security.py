"""The part of the configuration that makes mail believed: TLS, AUTH, DKIM, header fields, pre-flight.

Names of files are kept as written until load.py makes them absolute (`with_absolute_paths`); what is in them is read by
the parts that use them. Every key is explained in deploy/fastrelay.example.yaml.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastrelay.config.base import (
    Count,
    DomainPattern,
    Duration,
    HeaderName,
    Hostname,
    Name,
    PositiveDuration,
    Struct,
)
from fastrelay.config.sending import Label

# What a connection to an MX host must have. `mta-sts` and `dane`: such a policy must be published, else mail waits.
TlsLevel = Literal["none", "opportunistic", "required", "verify", "mta-sts", "dane"]
TlsVersion = Literal["1.2", "1.3"]
Mechanism = Literal["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"]
ListenerTls = Literal["none", "starttls", "implicit"]
ListenerAuth = Literal["none", "optional", "required"]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Template = Annotated[str, Meta(min_length=1, max_length=1000)]
Mailbox = Annotated[str, Meta(min_length=3, max_length=320)]


class TlsReports(Struct, frozen=True):
    """TLS-RPT (RFC 8460). `sender` None: what happened is counted, and nothing is sent."""

    sender: Mailbox | None = None
    organization: str | None = None  # None: the relay's hostname
    contact: Mailbox | None = None  # None: sender
    delay_seconds: Duration = 4 * 3600.0  # reports of a UTC day leave within so long after its end
    keep_seconds: PositiveDuration = 14 * 86400.0


class OutboundTls(Struct, frozen=True):
    """TLS to MX hosts. `domains`: the level of recipient domains, the first pattern that fits."""

    level: TlsLevel = "opportunistic"
    domains: dict[DomainPattern, TlsLevel] = {}
    mta_sts: bool = True
    dane: bool = True
    min_version: TlsVersion = "1.2"
    ca_file: Path | None = None  # None: the system's
    resume: bool = True
    remember_broken_seconds: Duration = 3600.0
    handshake_timeout_seconds: PositiveDuration = 30.0
    policy_timeout_seconds: PositiveDuration = 20.0  # for fetching an MTA-STS policy
    policies_cached: Count = 100_000
    reports: TlsReports = TlsReports()


class Tls(Struct, frozen=True):
    """TLS with clients (the certificate) and with MX hosts (`outbound`)."""

    certificate: Path | None = None
    key: Path | None = None  # None: in the file of the certificate
    min_version: TlsVersion = "1.2"
    handshake_timeout_seconds: PositiveDuration = 30.0
    outbound: OutboundTls = OutboundTls()


class Auth(Struct, frozen=True):
    """Authentication of clients (RFC 4954). Without `users` nobody can."""

    users: Path | None = None
    mechanisms: list[Mechanism] = msgspec.field(
        default_factory=lambda: ["SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"]  # type: ignore[arg-type]
    )
    without_tls_on_loopback: bool = False
    hashes_at_once: Annotated[int, Meta(ge=1, le=64)] = 2  # per worker
    hashes_waiting: Count = 200  # per worker; beyond it 454
    failures: Count = 5  # of an address or a user name within failure_window, before it has to wait
    failure_window_seconds: PositiveDuration = 600.0
    failure_delay_seconds: PositiveDuration = 2.0  # doubled with each further failure, up to failure_window


class DkimKey(Struct, frozen=True):
    """A key and where its public half is published: `selector._domainkey.domain`."""

    domain: Hostname
    selector: Name
    key: Path
    senders: list[DomainPattern] = []  # From domains that it signs; none: domain and its subdomains
    tenants: list[Label] = []  # mail of these tenants only; none: any
    sign: bool = True  # False: still published, no longer used


class Dkim(Struct, frozen=True):
    """DKIM signatures (RFC 6376, 8463). Every key that fits a message signs it."""

    keys: list[DkimKey] = []
    canonicalization: Literal["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] = (
        "relaxed/relaxed"
    )
    # What to do with mail whose key can't be used now; mail of a From domain without any key goes out unsigned.
    missing_key: Literal["wait", "refuse", "unsigned"] = "wait"
    sign_fields: list[HeaderName] = msgspec.field(
        default_factory=lambda: [
            *("From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References"),
            *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "List-Id", "List-Unsubscribe"),
            *("List-Unsubscribe-Post", "Feedback-ID", "CFBL-Address", "CFBL-Feedback-ID"),
        ]
    )
    oversign_fields: list[HeaderName] = msgspec.field(
        default_factory=lambda: ["From", "To", "Subject", "Date", "Message-ID", "Reply-To", "Content-Type"]
    )
    lifetime_seconds: PositiveDuration | None = None  # x=; None: none


class Compose(Struct, frozen=True):
    """What is added to messages that lack it, before they are signed; None, or not listed: nothing.

    Templates know {recipient}, {local}, {domain}, {sender_domain}, {campaign}, {tenant}, {pool}, {id}, {reference}.
    """

    add: list[Literal["date", "message_id"]] = []
    list_unsubscribe: Template | None = None  # an https URL; adds List-Unsubscribe-Post too (RFC 8058)
    list_unsubscribe_mailto: Template | None = None
    feedback_id: Template | None = None
    cfbl_address: Mailbox | None = None  # RFC 9477
    reference: HeaderName | None = None  # the field that carries our reference
    reference_key: Path | None = None  # None: state_dir/reference.key, made at the first start
    reverse_path: Template | None = None  # VERP: what MAIL FROM is, for each recipient


Check = Literal[
    "from", "from_domain", "date", "message_id", "repeated_fields", "line_length", "eight_bit_header", "unsigned",
    "unsubscribe", "no_recipient_field",
]  # fmt: skip


class MessageChecks(Struct, frozen=True):
    """What large providers would reject, found when a message is submitted."""

    refuse: list[Check] = []
    warn: list[Check] = []


class Doctor(Struct, frozen=True):
    """What `fastrelay doctor` looks at beside the configuration."""

    domains: list[Hostname] = []  # sender domains beside those of dkim.keys and senders
    block_lists: list[Hostname] = []
    timeout_seconds: PositiveDuration = 10.0


class RunAs(Struct, frozen=True):
    """Whom the relay becomes once its ports are bound, when it was started by root; None: who started it."""

    user: str | None = None
    group: str | None = None  # None: the user's own


def _absolute(name: str | None, folder: str) -> str | None:
    return None if name is None else os.path.normpath(os.path.join(folder, os.path.expanduser(name)))


def with_absolute_paths(config: Any, folder: str) -> dict[str, Any]:
    """The sections of a configuration that name files, with absolute names; relative ones start at `folder`."""
    replace = msgspec.structs.replace
    tls, outbound = config.tls, config.tls.outbound
    outbound = replace(outbound, ca_file=_absolute(outbound.ca_file, folder))
    keys = [replace(one, key=_absolute(one.key, folder)) for one in config.dkim.keys]
    routes = [replace(one, password_file=_absolute(one.password_file, folder)) for one in config.routes]
    return {
        "tls": replace(
            tls, certificate=_absolute(tls.certificate, folder), key=_absolute(tls.key, folder), outbound=outbound
        ),
        "auth": replace(config.auth, users=_absolute(config.auth.users, folder)),
        "dkim": replace(config.dkim, keys=keys),
        "compose": replace(config.compose, reference_key=_absolute(config.compose.reference_key, folder)),
        "routes": routes,
    }
