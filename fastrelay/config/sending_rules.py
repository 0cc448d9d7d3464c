"""Rules between the keys that say how fast mail may leave: providers, shaping, warm-up, back-off, who may use what.

As in rules.py: each is a small function over the Config, and silent about a part that has a problem already. Warm-up
plans and files of back-off rules are judged where they are understood, in limits/.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from fastrelay.config.schema import Config
from fastrelay.config.sending import Assignment, LimitSet, ShapingRule
from fastrelay.config.units import format_duration

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules

ANY = "*"
LIMIT_KEYS = LimitSet.__struct_fields__
SCOPE_KEYS = ("source", "provider", "pool", "campaign", "tenant")
OF_MESSAGES = ("campaign", "tenant")
DAY_SECONDS = 86400
# What delivery bounds for every place: a limit of a source at a provider above it says nothing.
BOUNDS = {
    "connections": "connections_per_site",
    "messages_per_connection": "messages_per_connection",
    "recipients_per_transaction": "recipients_per_transaction",
}


def _mend(name: str, known: Collection[str], kind: str, none: str) -> str:
    """What to write for a name that is not known."""
    close = difflib.get_close_matches(name, sorted(known), 1)
    if close:
        return f"did you mean `{close[0]}`?"
    shown = sorted(known)
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    return f"the {kind} are {', '.join(shown[:12])}{more}" if known else none


def _source_names(config: Config) -> list[str]:
    return [source.name for source in config.sources] or ["default"]


def _pool_names(config: Config) -> list[str]:
    return list(config.pools) or ["default"]


def _provider_names(config: Config) -> set[str]:
    from fastrelay.route.providers import make_providers  # the route package is more than a check of retry needs

    return make_providers(config.providers).names() | set(config.providers)


# --- addresses ---


def _public_addresses(config: Config, rules: Rules) -> None:
    """Each source has an address of its own as seen outside."""
    if not rules.sound("sources"):
        return
    seen: dict[str, str] = {}
    for index, source in enumerate(config.sources):
        path = f"sources[{index}].public_address"
        public = source.public_address
        if public is not None:
            inside, outside = ipaddress.ip_address(source.address), ipaddress.ip_address(public)
            if inside.version != outside.version:
                rules.problem(
                    path,
                    f"is IPv{outside.version}, and the source's address is IPv{inside.version}",
                    "write the address that the outside sees in its place, or leave it out",
                )
            elif outside.is_unspecified or outside.is_multicast or outside.is_loopback:
                rules.problem(path, f"{public} is seen by nobody outside", "write a public address, or leave it out")
            elif outside.is_private and not inside.is_loopback and public != source.address:
                rules.warn(path, f"{public} is a private address", "write the one that NAT puts in its place")
        if source.seen_address in seen and public is not None:
            rules.problem(
                path,
                f"the outside sees {public} for {seen[source.seen_address]} as well",
                "keep one source for each public address; providers and limits count by it",
            )
        seen.setdefault(source.seen_address, f"sources[{index}]")


# --- providers ---


def _providers(config: Config, rules: Rules) -> None:
    """Suffixes once, names known or with suffixes."""
    if not rules.sound("providers"):
        return
    from fastrelay.route.providers import OTHER, built_in

    table = built_in()
    taken: dict[str, str] = {}
    for name, provider in config.providers.items():
        path = f"providers.{name}"
        if name == OTHER and provider.suffixes:
            rules.problem(
                f"{path}.suffixes",
                "other is every host that no suffix names",
                "move the suffixes to a provider with a name of its own",
            )
        elif name not in table.by_name and name != OTHER and not provider.suffixes:
            mend = _mend(name, table.by_name, "built-in ones", "")
            rules.problem(path, "has no suffixes and is not built in", f"add suffixes: [mx.example]; or {mend}")
        elif not provider.suffixes and not any(getattr(provider, key) is not None for key in LIMIT_KEYS):
            rules.warn(path, "says nothing", "add suffixes or limits, or remove it")
        for index, suffix in enumerate(provider.suffixes):
            where = f"{path}.suffixes[{index}]"
            if suffix in taken:
                whose = "here" if taken[suffix] == name else f"for {taken[suffix]}"
                rules.problem(where, f"{suffix} is also listed {whose}", "keep it once; an MX host has one provider")
            elif suffix in table.suffixes(name):
                rules.warn(where, f"{suffix} belongs to {name} by the built-in table already", "remove it")
            taken.setdefault(suffix, name)


def _above_delivery(config: Config, rules: Rules) -> None:
    """Limits that say nothing, as delivery has a lower one for every site."""
    if not rules.sound("providers", "shaping", "delivery"):
        return
    said: list[tuple[str, LimitSet, bool]] = [
        (f"providers.{name}", provider, True) for name, provider in config.providers.items()
    ]
    for index, rule in enumerate(config.shaping):
        said.append((f"shaping[{index}]", rule, rule.source is not None and rule.provider is not None))
    for path, limits, at_place in said:
        for key, bound in BOUNDS.items():
            value, most = getattr(limits, key), getattr(config.delivery, bound)
            if value is not None and value > most and (at_place or key != "connections"):
                rules.warn(
                    f"{path}.{key}",
                    f"{value} is more than delivery.{bound} ({most}), which holds everywhere",
                    f"raise delivery.{bound} as well, or lower this",
                )
        if limits.connections is not None and limits.connections > config.delivery.connections:
            rules.warn(
                f"{path}.connections",
                f"{limits.connections} is more than all connections together ({config.delivery.connections})",
                "raise delivery.connections as well, or lower this",
            )


# --- shaping ---


def _shaping(config: Config, rules: Rules) -> None:
    """Names that exist, limits that can be counted, one limit for one scope."""
    if not rules.sound("shaping"):
        return
    known = {"source": _source_names(config), "pool": _pool_names(config), "provider": sorted(_provider_names(config))}
    for index, rule in enumerate(config.shaping):
        path = f"shaping[{index}]"
        _names(config, rules, path, rule, known)
        _countable(rules, path, rule)
        if all(getattr(rule, key) is None for key in LIMIT_KEYS):
            rules.problem(path, "limits nothing", "add rate, connection_rate, connections, or remove the rule")
        _matches_something(config, rules, path, rule)
    _once(config, rules)


def _names(config: Config, rules: Rules, path: str, rule: ShapingRule, known: Mapping[str, Collection[str]]) -> None:
    """Names of a rule that nothing else knows."""
    for key, names in known.items():
        name, section = getattr(rule, key), f"{key}s"
        if name is not None and name != ANY and name not in names and rules.sound(section):
            kind = "sending address" if key == "source" else key
            mend = _mend(name, names, section, f"add it to {section}")
            rules.problem(f"{path}.{key}", f"{name!r} is not a {kind} we know", mend)
    if rule.tenant not in (None, ANY):
        _tenant(config, rules, f"{path}.tenant", rule.tenant)


def _countable(rules: Rules, path: str, rule: ShapingRule) -> None:
    """A campaign and a tenant belong to a message, a connection serves many."""
    whose = [key for key in OF_MESSAGES if getattr(rule, key) is not None]
    if not whose:
        return
    by = " and ".join(whose)
    for key in LIMIT_KEYS:
        if key != "rate" and getattr(rule, key) is not None:
            rules.problem(
                f"{path}.{key}",
                f"cannot be by {by}, as a connection carries mail of several",
                f"limit the {by} by rate, and {key} by source, provider or pool",
            )
    for key in ("source", "provider", "pool"):
        if getattr(rule, key) is not None:
            rules.problem(
                f"{path}.{key}",
                f"cannot go with {by}, which is counted wherever its mail goes",
                f"leave {key} out, or make two rules",
            )


def _matches_something(config: Config, rules: Rules, path: str, rule: ShapingRule) -> None:
    if rule.source in (None, ANY) or rule.pool in (None, ANY) or not rules.sound("pools", "sources"):
        return
    members = config.pools.get(rule.pool or "")
    if members is not None and rule.source in _source_names(config) and rule.source not in members:
        rules.warn(path, f"matches nothing, as source {rule.source!r} is not in pool {rule.pool!r}", "remove it")


def _once(config: Config, rules: Rules) -> None:
    """Two limits of one kind for one scope: which one was meant?"""
    from fastrelay.route.providers import OTHER

    taken: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    for path, limits, scope in _scopes(config, OTHER):
        for key in LIMIT_KEYS:
            if getattr(limits, key) is None:
                continue
            other = taken.setdefault((key, scope), path)
            if other != path:
                rules.problem(
                    f"{path}.{key}",
                    f"{other} limits {key} for the same {_in_words(scope)} (line {rules.line(f'{other}.{key}')})",
                    "keep one of them",
                )


def _scopes(config: Config, other: str) -> Iterator[tuple[str, LimitSet, frozenset[tuple[str, str]]]]:
    """Each set of limits with its path and the names that it is for. An entry of `providers` is for each source."""
    for name, provider in config.providers.items():
        if name != other:
            yield f"providers.{name}", provider, frozenset({("source", ANY), ("provider", name)})
    for index, rule in enumerate(config.shaping):
        scope = {(key, name) for key in SCOPE_KEYS if (name := getattr(rule, key)) is not None}
        yield f"shaping[{index}]", rule, frozenset(scope)


def _in_words(scope: Collection[tuple[str, str]]) -> str:
    parts = sorted(scope, key=lambda part: SCOPE_KEYS.index(part[0]))
    return " at ".join(f"{key} {name}" for key, name in parts) or "whole relay"


# --- warm-up ---


def _warmup(config: Config, rules: Rules) -> None:
    """Plans that can be followed."""
    from fastrelay.limits.warmup import problems

    used = {source.warmup for source in config.sources}
    for name, plan in config.warmup.items():
        path = f"warmup.{name}"
        if not rules.sound(path):
            continue
        for found in problems(plan):
            rules.problem(f"{path}.{found.path}" if found.path else path, found.problem, found.mend)
        for provider in plan.providers:
            if rules.sound("providers") and provider not in (known := _provider_names(config)):
                mend = _mend(provider, known, "providers", "")
                rules.problem(f"{path}.providers.{provider}", f"{provider!r} is not a provider we know", mend)
        if plan.spread_seconds > DAY_SECONDS:
            rules.problem(
                f"{path}.spread",
                f"is {format_duration(plan.spread_seconds)}, longer than the day whose cap it spreads",
                "write 24h or less, or 0 to send at once",
            )
        if name not in used and rules.sound("sources"):
            rules.warn(path, "is used by no source", f"write warmup: {name} at a source, or remove it")


def _cold_sources(config: Config, rules: Rules) -> None:
    """Sources with a plan that exists; pools with something to overflow to."""
    if not rules.sound("sources", "warmup"):
        return
    plans = {}
    for index, source in enumerate(config.sources):
        if source.warmup is None:
            continue
        plan = plans[source.name] = config.warmup.get(source.warmup)
        if plan is None:
            none = f"add it: warmup: {{{source.warmup}: {{template: sparkpost}}}}"
            rules.problem(
                f"sources[{index}].warmup",
                f"there is no warm-up plan {source.warmup!r}",
                _mend(source.warmup, config.warmup, "plans", none),
            )
    if not rules.sound("pools"):
        return
    pools: Mapping[str, list[str]] = config.pools or {"default": _source_names(config)}
    for pool, members in pools.items():
        overflowing = [name for name in members if (plan := plans.get(name)) is not None and plan.overflow]
        if members and overflowing and all(plans.get(name) is not None for name in members):
            rules.warn(
                f"pools.{pool}" if config.pools else "sources",
                f"every source of pool {pool!r} is cold, so there is none to overflow to; mail above the caps waits",
                "add a warm source to the pool, or write overflow: false in the plan",
            )


# --- who may use what ---


def _tenant(config: Config, rules: Rules, path: str, tenant: str) -> None:
    """A tenant that is not listed, where there is a list."""
    if config.tenants and tenant not in config.tenants and rules.sound("tenants"):
        mend = _mend(tenant, config.tenants, "tenants", "")
        rules.warn(path, f"tenant {tenant!r} is not listed below tenants, so it may use every pool", mend)


def _pool(config: Config, rules: Rules, path: str, pool: str) -> bool:
    """Whether a pool exists; a problem where it does not."""
    known = _pool_names(config)
    if pool in known or not rules.sound("pools"):
        return True
    rules.problem(path, f"{pool!r} is not a pool", _mend(pool, known, "pools", "add it below pools"))
    return False


def _tenants(config: Config, rules: Rules) -> None:
    if not rules.sound("tenants"):
        return
    for name, tenant in config.tenants.items():
        for index, pool in enumerate(tenant.pools):
            path = f"tenants.{name}.pools[{index}]"
            if _pool(config, rules, path, pool) and pool in tenant.pools[:index]:
                rules.problem(path, f"{pool!r} is listed twice", "keep one of them")


def _assignments(config: Config, rules: Rules) -> None:
    """What mail gets by listener or by sender."""
    if not rules.sound("listeners", "senders"):
        return
    named: list[tuple[str, Assignment]] = [
        (f"listeners.smtp[{index}].mail", listener.mail) for index, listener in enumerate(config.listeners.smtp)
    ]
    seen: list[str] = []
    for pattern, assignment in config.senders.items():
        hidden = next((earlier for earlier in seen if _covers(earlier, pattern)), None)
        if hidden is not None:
            rules.warn(
                f"senders.{pattern}",
                f"is already matched by {hidden} in line {rules.line(f'senders.{hidden}')}, and the first match wins",
                "move it up",
            )
        seen.append(pattern)
        if assignment == Assignment():
            mend = "add pool, campaign, tenant, priority or bounces, or remove it"
            rules.warn(f"senders.{pattern}", "says nothing", mend)
        named.append((f"senders.{pattern}", assignment))
    for path, assignment in named:
        if assignment.tenant is not None:
            _tenant(config, rules, f"{path}.tenant", assignment.tenant)
        if assignment.pool is None or not _pool(config, rules, f"{path}.pool", assignment.pool):
            continue
        tenant = config.tenants.get(assignment.tenant or "")
        if tenant is not None and tenant.pools and assignment.pool not in tenant.pools and rules.sound("tenants"):
            rules.problem(
                f"{path}.pool",
                f"tenant {assignment.tenant!r} may not use pool {assignment.pool!r}",
                f"add it to tenants.{assignment.tenant}.pools, or write one of {', '.join(tenant.pools)}",
            )


def _covers(pattern: str, other: str) -> bool:
    """Whether a domain pattern matches all that another one does."""
    return pattern == "*" or (pattern.startswith("*.") and other.endswith(pattern[1:]))


def _fairness(config: Config, rules: Rules) -> None:
    if not rules.sound("fairness"):
        return
    if config.fairness.transactional.weight != 1:
        rules.warn(
            "fairness.transactional.weight", "says nothing, as transactional mail always goes first", "leave it out"
        )
    for tenant in config.fairness.tenants:
        _tenant(config, rules, f"fairness.tenants.{tenant}", tenant)


# --- back-off ---


def rules_path(config: Config, folder: str) -> str | None:
    """The path of the operator's file of back-off rules; a relative one starts at the configuration's folder."""
    name = config.backoff.rules
    return None if name is None else os.path.normpath(os.path.join(folder, os.path.expanduser(name)))


def check_backoff_rules(config: Config, rules: Rules, folder: str) -> None:
    """The operator's file of back-off rules: its problems are told with its own name and lines."""
    path = rules_path(config, folder)
    backoff = config.backoff
    if not rules.sound("backoff"):
        return
    if path is not None and not os.path.isfile(path):
        rules.problem("backoff.rules", f"{path} is not a file", "write the path of a file of rules, or leave it out")
    elif path is not None:
        from fastrelay.limits.rules_file import check_rules_file

        rules.reader.problems += check_rules_file(path, _provider_names(config))
    elif backoff.enabled and not backoff.built_in:
        rules.warn(
            "backoff.built_in", "without rules nothing is read out of replies", "name a file of rules, or leave it on"
        )


SENDING_RULES: list[Callable[[Config, Rules], None]] = [
    _public_addresses,
    _providers,
    _above_delivery,
    _shaping,
    _warmup,
    _cold_sources,
    _tenants,
    _assignments,
    _fairness,
]
