"""The configuration as structs: every key, its type, its bounds and its default.

The attribute carries the unit, the YAML key does not: `Retry.first_seconds` is `retry.first`,
`Limits.message_size_bytes` is `limits.message_size`, `Retry.jitter_share` is `retry.jitter`. The rule is mechanical
(`yaml_key`). In YAML such a value is written with its unit (`10m`, `100MiB`, `10%`); in the struct and in its JSON form
it is seconds (float), octets (int) or a share from 0 to 1 (float).

A Config goes to the workers as `to_builtins(config)` and comes back with `from_builtins(…)`. Both are plain msgspec;
the checks that an operator's file needs are made once, in load.py and rules.py. Every key is explained in
deploy/fastrelay.example.yaml, and a test holds the two together.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastrelay.config.base import (
    Address,
    Bind,
    Count,
    DomainPattern,
    Duration,
    Endpoint,
    HeaderName,
    Hostname,
    Name,
    Nameserver,
    Network,
    Origins,
    Port,
    PositiveDuration,
    PositiveSize,
    Share,
    Size,
    Struct,
)
from fastrelay.config.feedback import (
    Bounces,
    Complaints,
    HttpListener,
    Inbound,
    InboundAddress,
    Reports,
    Suppression,
    Unsubscribe,
    Webhook,
)
from fastrelay.config.security import (
    Auth,
    Compose,
    Dkim,
    Doctor,
    ListenerAuth,
    ListenerTls,
    MessageChecks,
    Path,
    RunAs,
    Tls,
    TlsLevel,
)
from fastrelay.config.sending import Assignment, Backoff, Fairness, Provider, ShapingRule, Tenant, WarmupPlan
from fastrelay.config.units import parse_bind

DEFAULT_STATE_DIR = "/var/lib/fastrelay"


class Listener(Struct, frozen=True):
    """One address to listen at."""

    bind: Bind

    @property
    def address(self) -> tuple[str, int]:
        """(IP address, port)."""
        return parse_bind(self.bind)


class SmtpListener(Listener, frozen=True):
    """One address at which mail is submitted."""

    mail: Assignment = Assignment()  # its tenant is pinned: headers choose only within it
    tls: ListenerTls | None = None  # None: starttls where there is a certificate
    auth: ListenerAuth | None = None  # None: optional where there are users
    proxy_from: list[Network] = []  # load balancers that speak the PROXY protocol
    inbound: list[InboundAddress] = []  # takes bounces and complaints to these addresses, and relays nothing


class Listeners(Struct, frozen=True):
    smtp: list[SmtpListener] = msgspec.field(default_factory=lambda: [SmtpListener(bind="127.0.0.1:2525")])
    metrics: Listener | None = None
    unsubscribe: HttpListener | None = None


class Smtp(Struct, frozen=True):
    """Submission over SMTP: how far a client is trusted."""

    idle_timeout_seconds: PositiveDuration = 300.0
    data_timeout_seconds: PositiveDuration = 600.0
    commands: Count = 1000
    errors: Count = 20
    received_limit: Count = 100
    bare_line_ends: Literal["refuse", "repair"] = "refuse"
    backlog: Count = 1024


class Headers(Struct, frozen=True):
    """Header fields by which a client names a message's campaign and so on; the first one present counts."""

    campaign: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Campaign", "X-Job"])
    tenant: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Tenant"])
    pool: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Pool", "X-Virtual-MTA"])
    priority: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Priority"])
    expire: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Expire"])  # a duration: 10m
    not_before: list[HeaderName] = msgspec.field(default_factory=lambda: ["X-Fastrelay-Not-Before"])  # RFC 3339 or 5322


class Source(Struct, frozen=True):
    """A sending address: local IP address and the name in EHLO (None: the relay's hostname)."""

    name: Name
    address: Address
    ehlo: Hostname | None = None
    public_address: Address | None = None  # seen outside, where NAT translates one to one
    warmup: Name | None = None  # a plan below `warmup`; None: warm

    @property
    def seen_address(self) -> str:
        """The address that the outside sees."""
        return self.public_address or self.address


class Dns(Struct, frozen=True):
    """nameservers empty: the system's (/etc/resolv.conf). cache_size in answers, per worker."""

    nameservers: list[Nameserver] = []
    trust_ad: list[Network] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    timeout_seconds: PositiveDuration = 5.0
    tries: Annotated[int, Meta(ge=1, le=10)] = 3
    cache_size: Count = 200_000
    min_ttl_seconds: Duration = 60.0
    max_ttl_seconds: PositiveDuration = 86400.0
    negative_ttl_seconds: Duration = 300.0


class Timeouts(Struct, frozen=True):
    """How long an MX host may take for each step; the defaults are those of RFC 5321 section 4.5.3.2.

    Each is for a whole request, not for a read. The body may take body + size ÷ body_rate per second, and must
    move on within body_progress.
    """

    greeting_seconds: PositiveDuration = 300.0
    ehlo_seconds: PositiveDuration = 300.0
    mail_seconds: PositiveDuration = 300.0
    rcpt_seconds: PositiveDuration = 300.0
    data_seconds: PositiveDuration = 120.0
    body_seconds: PositiveDuration = 600.0
    body_rate_bytes: PositiveSize = 4096
    body_progress_seconds: PositiveDuration = 180.0
    final_seconds: PositiveDuration = 600.0
    rset_seconds: PositiveDuration = 60.0
    quit_seconds: PositiveDuration = 10.0


class ConnectBackoff(Struct, frozen=True):
    """How long a site is left alone after its hosts could not be reached: first, then doubled up to max."""

    first_seconds: PositiveDuration = 30.0
    max_seconds: PositiveDuration = 1800.0


class Delivery(Struct, frozen=True):
    port: Port = 25
    allow_private_hosts: bool = False
    connections: Count = 10_000
    connections_per_site: Count = 10
    messages_per_connection: Count = 100
    recipients_per_transaction: Count = 100
    addresses_per_host: Count = 5
    prefer_ipv6: bool = False
    idle_timeout_seconds: Duration = 5.0
    connect_timeout_seconds: PositiveDuration = 30.0
    connect_backoff: ConnectBackoff = ConnectBackoff()
    timeouts: Timeouts = Timeouts()
    hot_cache_bytes: Size = 64 * 2**20


class Route(Struct, frozen=True):
    """Where mail for some domains goes instead of their MX hosts: hosts (tried in order) or an action."""

    domains: list[DomainPattern]
    hosts: list[Endpoint] | None = None
    action: Literal["discard", "reject"] | None = None
    tls: TlsLevel | Literal["implicit"] | None = None  # None: tls.outbound; implicit: TLS from the start, verified
    username: str | None = None  # for AUTH at the hosts; only under verified TLS, or on loopback
    password_file: Path | None = None


class Retry(Struct, frozen=True):
    """Delay of the n-th retry: min(first · factor^(n-1), max), up to ± jitter of it. Given up after expire."""

    first_seconds: PositiveDuration = 600.0
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_seconds: PositiveDuration = 4 * 3600.0
    expire_seconds: PositiveDuration = 3 * 86400.0
    jitter_share: Share = 0.1


class Limits(Struct, frozen=True):
    """Bounds on what is taken in; queued_recipients and smtp_connections over all workers together."""

    message_size_bytes: PositiveSize = 100 * 2**20
    recipients_per_message: Annotated[int, Meta(ge=1, le=65_000)] = 1000
    smtp_connections: Count = 2000
    queued_recipients: Count = 10_000_000


class Spool(Struct, frozen=True):
    """The store of one worker. With less than reserve of free disk, mail is refused (452)."""

    segment_size_bytes: PositiveSize = 64 * 2**20
    large_message_bytes: PositiveSize = 1 * 2**20
    reserve_bytes: Size = 512 * 2**20
    ballast_bytes: Size = 64 * 2**20
    map_size_bytes: PositiveSize = 64 * 2**30
    compact_below_share: Share = 0.3


class Events(Struct, frozen=True):
    """The event log: a new file after rotate_size or rotate_age, old ones deleted after keep; and who is told."""

    keep_seconds: PositiveDuration = 14 * 86400.0
    rotate_size_bytes: PositiveSize = 256 * 2**20
    rotate_age_seconds: PositiveDuration = 86400.0
    webhooks: list[Webhook] = []


class Config(Struct, frozen=True):
    """A whole configuration. `state_dir` is absolute once loaded (a relative one starts at the file's folder)."""

    hostname: Hostname
    state_dir: str = DEFAULT_STATE_DIR
    workers: Annotated[int, Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    drain_timeout_seconds: Duration = 30.0
    listeners: Listeners = msgspec.field(default_factory=Listeners)
    relay_networks: list[Network] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    smtp: Smtp = Smtp()
    headers: Headers = msgspec.field(default_factory=Headers)
    sources: list[Source] = []
    pools: dict[Name, list[Name]] = {}
    providers: dict[Name, Provider] = {}
    provider_limits: bool = True  # the built-in table's limits hold where nothing else is said
    shaping: list[ShapingRule] = []
    warmup: dict[Name, WarmupPlan] = {}
    backoff: Backoff = Backoff()
    fairness: Fairness = Fairness()
    tenants: dict[Name, Tenant] = {}
    senders: dict[DomainPattern, Assignment] = {}  # by domain of the reverse-path
    tls: Tls = Tls()
    auth: Auth = msgspec.field(default_factory=Auth)
    dkim: Dkim = msgspec.field(default_factory=Dkim)
    compose: Compose = Compose()
    checks: MessageChecks = MessageChecks()
    doctor: Doctor = Doctor()
    run_as: RunAs = RunAs()
    dns: Dns = msgspec.field(default_factory=Dns)
    delivery: Delivery = Delivery()
    routes: list[Route] = []
    retry: Retry = Retry()
    limits: Limits = Limits()
    spool: Spool = Spool()
    events: Events = Events()
    replies: Path | None = None  # reply classes of the operator's, tried before the built-in ones
    bounces: Bounces = Bounces()
    inbound: Inbound = Inbound()
    suppression: Suppression = msgspec.field(default_factory=Suppression)
    unsubscribe: Unsubscribe = Unsubscribe()
    complaints: Complaints = Complaints()
    reports: Reports = Reports()
    origins: Origins = Origins()  # no key of the file

    @property
    def worker_count(self) -> int:
        """Number of workers; `auto` is one per core that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    def source(self, name: str) -> Source | None:
        """The source of that name."""
        return next((source for source in self.sources if source.name == name), None)

    @property
    def control_socket(self) -> str:
        """Path of the supervisor's control socket."""
        return os.path.join(self.state_dir, "control.sock")


def to_builtins(config: Config) -> dict[str, Any]:
    """The JSON form of a configuration (YAML keys; seconds, octets and shares as numbers)."""
    built: dict[str, Any] = msgspec.to_builtins(config)
    return built


def from_builtins(built: dict[str, Any]) -> Config:
    """The configuration of its JSON form. Raises msgspec.ValidationError; no operator's file comes this way."""
    return msgspec.convert(built, Config)
