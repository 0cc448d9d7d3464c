"""Rules between keys: what no single type can say.

Each rule is a small function over the Config; it notes problems through `Rules`, which knows the lines, and stays
silent about a part that already has a problem. Warnings are for what is legal but unwise.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Callable

from fastrelay.config.auth_rules import AUTH_RULES
from fastrelay.config.dkim_rules import DKIM_RULES
from fastrelay.config.feedback import HttpListener
from fastrelay.config.feedback_rules import FEEDBACK_RULES, check_replies
from fastrelay.config.schema import Config, Headers, Listener
from fastrelay.config.sending_rules import SENDING_RULES, check_backoff_rules
from fastrelay.config.tls_rules import TLS_RULES
from fastrelay.config.tree import TreeReader
from fastrelay.config.units import format_duration, format_size, parse_bind
from fastrelay.errors import ConfigProblem


class Rules:
    """The notebook of the rules: problems go to the reader, warnings stay here."""

    def __init__(self, reader: TreeReader) -> None:
        self.reader = reader
        self.warnings: list[ConfigProblem] = []
        self.faulty = [problem.path for problem in reader.problems]

    def sound(self, *paths: str) -> bool:
        """True if nothing at, below or above these paths is wrong already."""
        return not any(_related(path, fault) for path in paths for fault in self.faulty)

    def line(self, path: str) -> int:
        """The line of a path, or of the nearest section around it that the file has; 0 if none."""
        while path:
            if path in self.reader.lines:
                return self.reader.lines[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return 0

    def problem(self, path: str, problem: str, mend: str) -> None:
        self.reader.problem(path, self.line(path), problem, mend)

    def warn(self, path: str, problem: str, mend: str) -> None:
        self.warnings.append(ConfigProblem(self.reader.file, self.line(path), path, problem, mend))


def _related(path: str, other: str) -> bool:
    """True if one path is the other, or within it."""
    short, long = sorted((path, other), key=len)
    return long == short or (long.startswith(short) and (not short or long[len(short)] in ".["))


def check_rules(config: Config, reader: TreeReader, folder: str) -> list[ConfigProblem]:
    """Run all rules; problems are added to the reader, warnings returned. Relative paths start at `folder`."""
    rules = Rules(reader)
    for rule in (*RULES, *SENDING_RULES, *TLS_RULES, *AUTH_RULES, *DKIM_RULES, *FEEDBACK_RULES):
        rule(config, rules)
    check_backoff_rules(config, rules, folder)
    check_replies(config, rules, folder)
    return rules.warnings


def _listeners(config: Config, rules: Rules) -> None:
    if not rules.sound("listeners"):
        return
    taken: dict[tuple[str, int], str] = {}
    listeners = config.listeners.smtp
    named: list[tuple[str, Listener | HttpListener]] = [
        (f"listeners.smtp[{index}]", one) for index, one in enumerate(listeners)
    ]
    if config.listeners.metrics is not None:
        named.append(("listeners.metrics", config.listeners.metrics))
    if config.listeners.unsubscribe is not None:
        named.append(("listeners.unsubscribe", config.listeners.unsubscribe))
    for path, listener in named:
        host, port = parse_bind(listener.bind)
        if port == 0:
            continue
        for (other_host, other_port), other in taken.items():
            if port == other_port and _overlap(host, other_host):
                rules.problem(
                    f"{path}.bind",
                    f"listens at {listener.bind} as {other} does",
                    "give each listener a port of its own",
                )
                break
        taken.setdefault((host, port), path)
    if not config.listeners.smtp:
        rules.warn(
            "listeners.smtp", "is empty, so nothing can be submitted", 'add one, such as {bind: "127.0.0.1:2525"}'
        )


def _overlap(one: str, other: str) -> bool:
    a, b = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified)


def _sources(config: Config, rules: Rules) -> None:
    names: dict[str, str] = {}
    addresses: dict[str, str] = {}
    for index, source in enumerate(config.sources):
        path = f"sources[{index}]"
        if not rules.sound("sources"):
            return
        if source.name in names:
            rules.problem(
                f"{path}.name",
                f"{source.name!r} is also the name of {names[source.name]}",
                "give each source a name of its own",
            )
        if source.address in addresses:
            rules.problem(
                f"{path}.address",
                f"{source.address} is also the address of {addresses[source.address]}",
                "keep one of them; limits count by source",
            )
        address = ipaddress.ip_address(source.address)
        if address.is_unspecified or address.is_multicast:
            rules.problem(
                f"{path}.address",
                f"{source.address} cannot be sent from",
                "write an address of this host, or leave sources out for the system's choice",
            )
        names.setdefault(source.name, path)
        addresses.setdefault(source.address, path)


def _pools(config: Config, rules: Rules) -> None:
    if not rules.sound("pools", "sources"):
        return
    known = [source.name for source in config.sources]
    for pool, members in config.pools.items():
        if not members:
            rules.problem(
                f"pools.{pool}", "is empty", f"name at least one source: {pool}: [{known[0] if known else 'a'}]"
            )
        for index, member in enumerate(members):
            if member not in known:
                close = difflib.get_close_matches(member, known, 1)
                mend = (
                    f"did you mean `{close[0]}`?"
                    if close
                    else f"the sources are {', '.join(known)}"
                    if known
                    else "add it under sources"
                )
                rules.problem(f"pools.{pool}[{index}]", f"{member!r} is not a source", mend)
            elif member in members[:index]:
                rules.problem(f"pools.{pool}[{index}]", f"{member!r} is in this pool twice", "keep one of them")
    if config.pools and "default" not in config.pools:
        rules.problem(
            "pools",
            "has no pool `default`, which mail without a pool uses",
            f"add default: [{known[0] if known else 'a'}]",
        )


def _unused_sources(config: Config, rules: Rules) -> None:
    if not config.pools or not rules.sound("pools", "sources"):
        return
    used = {member for members in config.pools.values() for member in members}
    for index, source in enumerate(config.sources):
        if source.name not in used:
            rules.warn(
                f"sources[{index}]",
                f"source {source.name!r} is in no pool, so nothing is sent from it",
                "add it to a pool",
            )


def _versions(config: Config, rules: Rules) -> None:
    """IPv4 against IPv6: a pool must be able to reach the hosts it is sent to."""
    if not rules.sound("sources", "pools", "routes"):
        return
    versions = {source.name: ipaddress.ip_address(source.address).version for source in config.sources}
    for pool, members in config.pools.items():
        if members and {versions.get(member) for member in members} == {6}:
            rules.warn(
                f"pools.{pool}",
                "has IPv6 addresses only; most MX hosts have only IPv4",
                "add a source with an IPv4 address",
            )
    for index, route in enumerate(config.routes):
        wanted = {_literal_version(host) for host in route.hosts or []}
        if config.sources and len(wanted) == 1 and None not in wanted and not wanted & set(versions.values()):
            version = wanted.pop()
            rules.problem(
                f"routes[{index}].hosts",
                f"has IPv{version} hosts only, and no source has an IPv{version} address",
                f"add a source with an IPv{version} address, or a host that the sources reach",
            )


def _literal_version(endpoint: str) -> int | None:
    """4 or 6 of an address literal with or without port, None of a name."""
    host = endpoint[1:].partition("]")[0] if endpoint.startswith("[") else endpoint.partition(":")[0]
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _routes(config: Config, rules: Rules) -> None:
    if not rules.sound("routes"):
        return
    seen: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        path = f"routes[{index}]"
        if not route.domains:
            rules.problem(f"{path}.domains", "is empty", 'write the domains, or ["*"] for all')
        if route.hosts is not None and route.action is not None:
            rules.problem(
                path, "has both hosts and action", "keep one: hosts to send there, or action to discard or reject"
            )
        if route.hosts is None and route.action is None:
            rules.problem(
                path, "has neither hosts nor action", 'add hosts: ["host:port"], or action: discard or reject'
            )
        if route.hosts is not None and not route.hosts:
            rules.problem(f"{path}.hosts", "is empty", 'name at least one, such as "127.0.0.1:2526"')
        for place, domain in enumerate(route.domains):
            hidden = seen.get(domain, seen.get("*"))
            if hidden is not None and hidden != index:
                rules.warn(
                    f"{path}.domains[{place}]",
                    f"{domain} is already matched by routes[{hidden}], and the first match wins",
                    "remove it, or move this route up",
                )
            seen.setdefault(domain, index)


def _retry(config: Config, rules: Rules) -> None:
    if not rules.sound("retry"):
        return
    retry = config.retry
    if retry.first_seconds > retry.max_seconds:
        rules.problem(
            "retry.first",
            f"is {format_duration(retry.first_seconds)}, longer than max ({format_duration(retry.max_seconds)})",
            "make first the shorter, or raise max",
        )
    first, expire = format_duration(retry.first_seconds), format_duration(retry.expire_seconds)
    if retry.expire_seconds < retry.first_seconds * (1 + retry.jitter_share):
        rules.problem(
            "retry.expire",
            f"is {expire}, too short for even one retry (first is {first})",
            "make expire several times first; RFC 5321 says 4 to 5 days",
        )
    elif retry.expire_seconds < 3600:
        rules.warn(
            "retry.expire",
            f"is {format_duration(retry.expire_seconds)}; a short outage at a provider fails mail",
            "4 to 5 days are usual",
        )


def _backoff(config: Config, rules: Rules) -> None:
    backoff = config.delivery.connect_backoff
    if rules.sound("delivery.connect_backoff") and backoff.first_seconds > backoff.max_seconds:
        rules.problem(
            "delivery.connect_backoff.first",
            f"is longer than max ({format_duration(backoff.max_seconds)})",
            "make first the shorter, or raise max",
        )


def _dns(config: Config, rules: Rules) -> None:
    if rules.sound("dns") and config.dns.min_ttl_seconds > config.dns.max_ttl_seconds:
        rules.problem(
            "dns.min_ttl",
            f"is longer than max_ttl ({format_duration(config.dns.max_ttl_seconds)})",
            "make min_ttl the shorter",
        )
    for index, nameserver in enumerate(config.dns.nameservers):
        if rules.sound("dns") and nameserver in config.dns.nameservers[:index]:
            rules.problem(f"dns.nameservers[{index}]", f"{nameserver} is listed twice", "keep one of them")


def _delivery(config: Config, rules: Rules) -> None:
    delivery = config.delivery
    if rules.sound("delivery") and delivery.connections_per_site > delivery.connections:
        rules.problem(
            "delivery.connections_per_site",
            f"is more than all connections together (delivery.connections: {delivery.connections})",
            "lower it, or raise delivery.connections",
        )


def _spool(config: Config, rules: Rules) -> None:
    if not rules.sound("spool", "limits"):
        return
    spool, limits = config.spool, config.limits
    if spool.large_message_bytes > spool.segment_size_bytes:
        rules.problem(
            "spool.large_message",
            f"is more than segment_size ({format_size(spool.segment_size_bytes)})",
            "make it at most a quarter of segment_size",
        )
    if spool.segment_size_bytes < 2**20:
        rules.problem(
            "spool.segment_size",
            f"is {format_size(spool.segment_size_bytes)}, too small to hold messages",
            "write 1MiB or more; 64MiB is usual",
        )
    if spool.map_size_bytes < 64 * 2**20:
        rules.problem(
            "spool.map_size",
            f"is {format_size(spool.map_size_bytes)}, too small for a queue",
            "write 64MiB or more; the file is sparse, 64GiB costs nothing",
        )
    elif spool.map_size_bytes % 4096:
        rules.problem("spool.map_size", "is not a multiple of 4096", "write it in MiB or GiB")
    if limits.message_size_bytes > 2**31:
        rules.problem(
            "limits.message_size",
            f"is {format_size(limits.message_size_bytes)}, more than a message may have",
            "write 2GiB or less",
        )
    if limits.message_size_bytes < 64 * 1024:
        rules.warn(
            "limits.message_size",
            f"is {format_size(limits.message_size_bytes)}; RFC 5321 wants at least 64KiB",
            "raise it",
        )
    if limits.recipients_per_message < 100:
        rules.warn("limits.recipients_per_message", "is below the 100 that RFC 5321 wants", "raise it")


def _networks(config: Config, rules: Rules) -> None:
    if not rules.sound("relay_networks"):
        return
    for index, network in enumerate(config.relay_networks):
        parsed = ipaddress.ip_network(network)
        if parsed.prefixlen == 0:
            rules.warn(
                f"relay_networks[{index}]",
                f"{network} lets the whole world relay",
                "name your own networks; an open relay is listed within hours",
            )
        elif not parsed.is_private and parsed.prefixlen < (16 if parsed.version == 4 else 32):
            rules.warn(
                f"relay_networks[{index}]",
                f"{network} lets a large part of the public internet relay",
                "name only your own networks",
            )
    if not config.relay_networks and config.listeners.smtp and config.auth.users is None:
        rules.warn(
            "relay_networks", "is empty, so every recipient is refused", 'name who may relay, such as "127.0.0.0/8"'
        )


# Fields that a message is made of; the fields that name a campaign and so on are removed on the way.
_NEEDED_FIELDS = {
    *("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references"),
    *("received", "return-path", "mime-version", "dkim-signature", "list-unsubscribe", "list-unsubscribe-post"),
}


def _headers(config: Config, rules: Rules) -> None:
    if not rules.sound("headers"):
        return
    taken: dict[str, str] = {}
    for meaning in Headers.__struct_fields__:
        for index, name in enumerate(getattr(config.headers, meaning)):
            path, folded = f"headers.{meaning}[{index}]", name.lower()
            if folded in _NEEDED_FIELDS or folded.startswith("content-"):
                rules.problem(
                    path, f"{name} is part of the message, but such fields are removed", "use one of your own"
                )
            elif folded in taken:
                rules.problem(path, f"{name} also stands for {taken[folded]}", "keep it in one of the lists")
            taken.setdefault(folded, meaning)


def _hostname(config: Config, rules: Rules) -> None:
    if rules.sound("hostname") and "." not in config.hostname:
        rules.warn(
            "hostname",
            f"{config.hostname} is not a full name; many providers refuse it in EHLO",
            "write the name that reverse DNS gives",
        )


def _state_dir(config: Config, rules: Rules) -> None:
    if rules.sound("state_dir") and os.path.isabs(config.state_dir) and os.path.normpath(config.state_dir) == "/":
        rules.problem(
            "state_dir", "is the root of the file system", "write a folder of its own, such as /var/lib/fastrelay"
        )


RULES: list[Callable[[Config, Rules], None]] = [
    _hostname,
    _state_dir,
    _listeners,
    _networks,
    _headers,
    _sources,
    _pools,
    _unused_sources,
    _versions,
    _dns,
    _delivery,
    _backoff,
    _routes,
    _retry,
    _spool,
]
