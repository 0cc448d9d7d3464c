"""What the doctor looks at: sending addresses, sender domains, and which addresses may send for which domain.

Sender domains are those of dkim.keys (and the plain names among their `senders`), of `senders`, of doctor.domains, and
what the command line names. A pattern such as *.shop.example names no domain that could be looked up; it is reported.

Which sources send for a domain follows the configuration: the pool that `senders` gives its mail; else the pools that
its tenant may use; else every source that a pool holds, since a header field may name any pool.

Known faults: an application's own reverse-path is taken to lie in the From domain (compose.reverse_path is known); the
pools of listeners and users are not told apart by domain.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field

from fastrelay.config.schema import Config
from fastrelay.route.names import is_public

SYSTEM = "system"  # the source where the configuration has none: the system chooses


@dataclass(frozen=True, slots=True)
class Sender:
    """A sending address. address: what the outside sees; usable: that can be looked up there."""

    name: str
    local: str
    address: str
    ehlo: str
    usable: bool

    @property
    def label(self) -> str:
        return f"source {self.name}"

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version


@dataclass(frozen=True, slots=True)
class SenderDomain:
    """A sender domain.

    envelope  domain of the reverse-path that its mail leaves with
    senders   who may send for it
    """

    name: str
    envelope: str
    senders: tuple[Sender, ...]


@dataclass(slots=True)
class Subjects:
    """What one run looks at; `left_out`: patterns of domains that cannot be looked up."""

    senders: list[Sender] = field(default_factory=list)
    domains: list[SenderDomain] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def subjects_of(config: Config, domains: tuple[str, ...] = (), sources: tuple[str, ...] = ()) -> Subjects:
    """The subjects of a configuration; domains and sources that are named narrow it down."""
    found = Subjects()
    everyone = all_senders(config)
    found.senders = [sender for sender in everyone if not sources or sender.name in sources]
    known, found.left_out = ([*domains], []) if domains else sender_domains(config)
    for name in dict.fromkeys(known):
        sending = senders_of(config, name, everyone)
        chosen = tuple(sender for sender in sending if not sources or sender.name in sources)
        found.domains.append(SenderDomain(name, envelope_domain(config, name), chosen))
    return found


def all_senders(config: Config) -> list[Sender]:
    """Every source of the configuration; without any, the address that the system would choose."""
    private = config.delivery.allow_private_hosts
    if config.sources:
        return [
            Sender(
                one.name, one.address, one.seen_address, one.ehlo or config.hostname, _usable(one.seen_address, private)
            )
            for one in config.sources
        ]
    address = system_address()
    if address is None:
        return []
    return [Sender(SYSTEM, address, address, config.hostname, _usable(address, private))]


def _usable(address: str, private: bool) -> bool:
    return private or is_public(ipaddress.ip_address(address))


def system_address() -> str | None:
    """The local address that the system takes for IPv4 connections to the outside; None: it has no route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 25))  # a route is chosen; nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return None


def sender_domains(config: Config) -> tuple[list[str], list[str]]:
    """Sender domains of a configuration, and the patterns that name none."""
    patterns = [*(key.domain for key in config.dkim.keys)]
    for key in config.dkim.keys:
        patterns += key.senders
    patterns += [*config.senders, *config.doctor.domains]
    named = [pattern for pattern in dict.fromkeys(patterns) if "*" not in pattern]
    wild = [pattern for pattern in dict.fromkeys(patterns) if "*" in pattern and pattern != "*"]
    # A pattern of which a domain is known, or the one above, is looked at through it.
    return named, [
        pattern
        for pattern in wild
        if pattern.removeprefix("*.") not in named and not any(pattern_matches(pattern, name) for name in named)
    ]


def senders_of(config: Config, domain: str, everyone: list[Sender]) -> list[Sender]:
    """The sources whose mail may come from a sender domain."""
    if not config.sources:
        return everyone
    assignment = next((one for pattern, one in config.senders.items() if pattern_matches(pattern, domain)), None)
    pools: list[str] = []
    if assignment is not None and assignment.pool:
        pools = [assignment.pool]
    elif assignment is not None and assignment.tenant in config.tenants:
        pools = config.tenants[assignment.tenant].pools
    chosen = [name for pool in pools or config.pools for name in config.pools.get(pool, [])]
    return [sender for sender in everyone if sender.name in chosen]


def pattern_matches(pattern: str, domain: str) -> bool:
    """Whether a domain fits example.com, *.example.com (all below it, not itself) or "*"."""
    if pattern == "*" or pattern == domain:
        return True
    return pattern.startswith("*.") and domain.endswith(pattern[1:])


def envelope_domain(config: Config, domain: str) -> str:
    """The domain of the reverse-path: the application's own, unless compose.reverse_path makes another."""
    template = config.compose.reverse_path
    if template is None:
        return domain
    return template.rpartition("@")[2].strip().lower()
