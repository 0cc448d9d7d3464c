"""Rules of the configuration about TLS: listeners and their certificate, levels, policies, reports, smart hosts.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastrelay.config.units import parse_bind

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

PROVEN = ("verify", "implicit", "dane")  # levels at which a host proves its name
_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,255}")


def _certificate(config: Config, rules: Rules) -> None:
    """A key belongs to a certificate, and a listener with TLS needs one."""
    if not rules.sound("tls", "listeners"):
        return
    if config.tls.certificate is not None:
        return
    if config.tls.key is not None:
        rules.problem("tls.key", "is given without tls.certificate", "name the certificate too, or leave both away")
    for index, listener in enumerate(config.listeners.smtp):
        if listener.tls in ("starttls", "implicit"):
            rules.problem(
                f"listeners.smtp[{index}].tls",
                f"is {listener.tls}, but there is no certificate",
                "name one in tls.certificate, or write none",
            )


def _ports(config: Config, rules: Rules) -> None:
    """Clients know by the port how TLS begins (RFC 8314), and whoever may speak the PROXY protocol may be anybody."""
    for index, listener in enumerate(config.listeners.smtp):
        path = f"listeners.smtp[{index}]"
        if not rules.sound(path, "tls"):
            continue
        port = listener.address[1]
        if port == 465 and listener.tls != "implicit":
            rules.warn(f"{path}.tls", "is not implicit, as clients expect of port 465 (RFC 8314)", "write implicit")
        if port in (25, 587) and listener.tls == "implicit":
            rules.warn(
                f"{path}.tls",
                f"is implicit, but clients expect STARTTLS of port {port}",
                "write starttls, or use port 465",
            )
        if any(ipaddress.ip_network(one).prefixlen == 0 for one in listener.proxy_from):
            rules.warn(
                f"{path}.proxy_from",
                "lets everybody say what address they come from, and so relay",
                "name the addresses of the load balancers",
            )


def _reports(config: Config, rules: Rules) -> None:
    """Mailboxes of TLS reports stand in header fields and in RCPT. A report has to be signed (RFC 8460 section 3)."""
    reports = config.tls.outbound.reports
    for name in ("sender", "contact"):
        path, value = f"tls.outbound.reports.{name}", getattr(reports, name)
        if value is not None and rules.sound(path) and not _MAILBOX.fullmatch(value):
            rules.problem(path, f"{value!r} is no mailbox", "write it as tlsrpt@example.com")
    if reports.sender is None or not rules.sound("tls.outbound.reports.sender", "dkim"):
        return
    domain = reports.sender.rpartition("@")[2].lower()
    if not any(domain == key.domain or domain.endswith("." + key.domain) for key in config.dkim.keys if key.sign):
        rules.warn(
            "tls.outbound.reports.sender",
            f"no DKIM key signs mail from {domain}, and reports that are not signed are ignored",
            "name a key for it below dkim.keys",
        )


def _levels(config: Config, rules: Rules) -> None:
    """Levels of TLS that can't hold where they are written, or never come into play."""
    if not rules.sound("tls.outbound", "routes", "dns"):
        return
    for index, route in enumerate(config.routes):
        path = f"routes[{index}].tls"
        if route.tls is not None and route.hosts is None:
            rules.problem(path, "says how hosts are connected to, and this route has none", "leave it away")
        elif route.tls == "mta-sts":
            rules.problem(
                path,
                "MTA-STS is about the MX hosts of a domain, not about hosts that the configuration names",
                "write verify: TLS with a valid certificate for the host's name",
            )
    patterns = list(config.tls.outbound.domains)
    if "*" in patterns[:-1]:
        rules.warn(
            "tls.outbound.domains",
            f'"*" fits every domain, so that {patterns[patterns.index("*") + 1]!r} and what follows is never reached',
            'put "*" last',
        )
    levels: dict[str, str] = {"tls.outbound.level": config.tls.outbound.level}
    levels |= {f"tls.outbound.domains.{pattern}": level for pattern, level in config.tls.outbound.domains.items()}
    levels |= {f"routes[{index}].tls": route.tls or "" for index, route in enumerate(config.routes)}
    wanting = next((path for path, level in levels.items() if level == "dane"), None)
    if wanting is not None and config.dns.nameservers and not _believed(config):
        rules.warn(
            wanting,
            "is dane, and no nameserver of dns.nameservers is believed about DNSSEC, so that this mail will wait",
            "name a validating resolver on this host, or the network of yours in dns.trust_ad",
        )


def _logins(config: Config, rules: Rules) -> None:
    """AUTH at smart hosts: a name has its password, one name for the same hosts, shown to proven hosts only."""
    if not rules.sound("routes", "delivery"):
        return
    names: dict[tuple[str, ...], tuple[int, str | None, str | None]] = {}
    for index, route in enumerate(config.routes):
        path = f"routes[{index}].username"
        if (route.username is None) != (route.password_file is None):
            there, missing = (
                ("username", "password_file") if route.username is not None else ("password_file", "username")
            )
            rules.problem(f"routes[{index}].{there}", f"is given without {missing}", f"give {missing} too, or neither")
        if route.hosts is None:
            if route.username is not None:
                rules.problem(path, "is for AUTH at hosts, and this route has none", "leave it away")
            continue
        hosts = tuple(_with_port(host, config.delivery.port) for host in route.hosts)
        first = names.setdefault(hosts, (index, route.username, route.password_file))
        if first[1:] != (route.username, route.password_file):
            rules.problem(
                path,
                f"differs from that of routes[{first[0]}], which has the same hosts, and so shares connections with it",
                "write the same login in both, or give the hosts another name in one of them",
            )
        elif route.username is not None and route.tls not in PROVEN and not all(map(_is_loopback, hosts)):
            rules.problem(
                path,
                "is for hosts that have to prove who they are first, and the route does not ask for that",
                "write tls: verify, or tls: implicit for a port such as 465",
            )


def _with_port(endpoint: str, port: int) -> str:
    has_port = "]:" in endpoint or endpoint.count(":") == 1
    return endpoint if has_port else f"{endpoint}:{port}"


def _is_loopback(host: str) -> bool:
    """Whether a host with its port is an address of this host itself."""
    try:
        return ipaddress.ip_address(host.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return False


def _believed(config: Config) -> bool:
    """Whether the word of any nameserver about DNSSEC counts."""
    networks = [ipaddress.ip_network(network) for network in config.dns.trust_ad]
    addresses = [ipaddress.ip_address(parse_bind(server)[0]) for server in config.dns.nameservers]
    return any(address in network for address in addresses for network in networks)


TLS_RULES: list[Callable[[Config, Rules], None]] = [_certificate, _ports, _reports, _levels, _logins]
