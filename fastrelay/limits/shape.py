"""Which limits hold for mail of a source at a site, and who set each: pure, from the configuration alone.

A limit counts in a *scope*: what it counts together. `scope_name` is the scope's stable name, and names its cell in the
shared table, so workers, restarts and reloads mean the same counter by it:

    relay                             all mail
    source:a                          one source
    provider:google                   one provider, over all sources; for an unknown host `site:KEY` instead
    source:a provider:google          one source at one provider
    pool:x  campaign:x  tenant:x      as they say; parts are joined by a space, in this order

Who may set a limit, for each scope and each key (rate, connections …) on its own:

1. a rule of `shaping`, or an entry of `providers` (which is a rule for source "*" at that provider). Of several for one
   scope, the one that names more wins over those with "*" (`source: a` over `source: "*"`); of equals the stricter.
2. the built-in table, for each source at each provider, where `provider_limits` is on, no rule of 1 for a source at a
   provider says it, and the site is not a smart host of the operator's.
3. `delivery`, which always holds beside the others: connections in all and of a source to one site, messages per
   connection, recipients per transaction.

Every scope that matches holds, so more rules never make anything faster, except that a rule of 1 takes the place of
one with "*" or of the built-in table.

Known faults: none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.config.sending import LimitSet
from fastrelay.limits.rate import Rate, make_rate, parse_rate, period_name
from fastrelay.route.providers import OTHER, Limits, Providers

SCOPE_KEYS = ("source", "provider", "pool", "campaign", "tenant")
RATES = ("rate", "connection_rate")
CELL_KEYS = (*RATES, "connections")  # counted in a cell each; the other keys of a LimitSet are plain numbers
REASONS = {"rate": "rate_limit", "connection_rate": "rate_limit", "connections": "connection_limit"}
CELL_PREFIX = {"rate": "rate:", "connection_rate": "connect:", "connections": "connections:"}
DEFAULT_POOL = "default"
ANY = "*"
_SITE = "\0"  # in place of a site's key, which no name has inside


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that holds.

    kind        "rate" (RCPTs written), "connection_rate" (connections opened), "connections" (open at one time)
    scope_name  what it counts together; see above
    value       a Rate, or for connections a number
    reason      what mail waits for that it denies: "rate_limit", "connection_limit"
    origin      who set it: "fastrelay.yaml line 40, shaping[2]", "built-in: google", "default: delivery.connections"
    """

    kind: str
    scope_name: str
    value: Rate | int
    reason: str
    origin: str

    @property
    def cell(self) -> bytes:
        """The name of its cell in the shared table."""
        return (CELL_PREFIX[self.kind] + self.scope_name).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Shape:
    """All that holds for one source at one site, whatever the message."""

    limits: tuple[Limit, ...]
    messages_per_connection: int
    recipients_per_transaction: int
    messages_origin: str = ""
    recipients_origin: str = ""

    def of(self, kind: str) -> list[Limit]:
        """The limits of one kind."""
        return [limit for limit in self.limits if limit.kind == kind]


@dataclass(frozen=True, slots=True)
class _Said:
    """A value that someone set for a scope: `names` is how many of its keys are named and not "*"."""

    value: Any
    origin: str
    names: int


def place_of(provider: str, site_key: str) -> str:
    """What a provider's limits count by: its name, or the site where the provider is not known."""
    return site_key if provider == OTHER else provider


def scope_at_place(source: str, provider: str, site_key: str) -> str:
    """The scope of one source at one place, as limits of a source at a provider name it."""
    place = f"site:{_escaped(site_key)}" if provider == OTHER else f"provider:{_escaped(provider)}"
    return f"source:{_escaped(source)} {place}"


def scope_in_words(scope: str) -> str:
    """A scope for people: `source:a provider:google` is "source a at google"."""
    if scope == "relay":
        return "all mail"
    words: list[str] = []
    for part in scope.split(" "):
        kind, _, name = part.partition(":")
        name = name.replace("%20", " ").replace("%25", "%")
        if kind in ("provider", "site"):
            words.append(f"at {name}" if words else f"all mail to {name}")
        else:
            words.append(f"in pool {name}" if kind == "pool" and words else f"{kind} {name}")
    return " ".join(words)


class Shaper:
    """The limits of one configuration."""

    def __init__(self, config: Config, providers: Providers) -> None:
        self._delivery = config.delivery
        self._origins = config.origins
        self._providers = providers if config.provider_limits else None
        self._built_in: dict[str, dict[str, _Said]] = {}
        self._shapes: dict[tuple[str, str, str, bool], Shape] = {}  # bounded by sources × providers × pools
        # key: scope keys: (name or "*" of each): what was said. Only what some rule says is in it.
        self._rules: dict[str, dict[tuple[str, ...], dict[tuple[str, ...], list[_Said]]]] = {}
        for name, provider in config.providers.items():
            # For `other` this is each unknown site on its own, which only the empty name says.
            named = {"source": ANY, "provider": "" if name == OTHER else name}
            self._add(provider, named, f"providers.{name}")
        for index, rule in enumerate(config.shaping):
            written = {key: name for key in SCOPE_KEYS if (name := getattr(rule, key)) is not None}
            self._add(rule, written, f"shaping[{index}]")

    def _add(self, limits: LimitSet, written: Mapping[str, str], path: str) -> None:
        keys, names = tuple(written), tuple(written.values())
        for key, value in said_by(limits):
            said = _Said(value, self._origins.of(path, key), sum(name != ANY for name in names))
            self._rules.setdefault(key, {}).setdefault(keys, {}).setdefault(names, []).append(said)

    # -- asking -------------------------------------------------------------------------------------------------------

    def shape(self, source: str, provider: str, site_key: str, pool: str, smart_host: bool) -> Shape:
        """What holds for a source at a site. `pool` "" is the default pool; `smart_host`: a route's hosts, not MX."""
        known = self._shapes.get((source, provider, pool, smart_host))
        if known is None:
            known = self._shape_anywhere(source, provider, pool or DEFAULT_POOL, smart_host)
            self._shapes[source, provider, pool, smart_host] = known
        name = _escaped(site_key)
        limits = tuple(
            replace(limit, scope_name=limit.scope_name.replace(_SITE, name)) if _SITE in limit.scope_name else limit
            for limit in known.limits
        )
        return replace(known, limits=limits)

    def _shape_anywhere(self, source: str, provider: str, pool: str, smart_host: bool) -> Shape:
        """The shape at any site of a provider: where a scope names the site, _SITE stands for its key."""
        here = {"source": source, "provider": provider, "pool": pool}
        at_place = _scope_name(here, ("source", "provider"), (ANY, ANY))
        at_site = f"source:{_escaped(source)} site:{_SITE}"
        built_in = {} if smart_host else self._built_in_of(provider)
        limits: list[Limit] = []
        for key in CELL_KEYS:
            scopes = self._scopes(key, here)
            if key in built_in:
                scopes.setdefault(at_place, built_in[key])
            if key == "connections":
                _also(scopes, "relay", self._of_delivery("connections"))
                _also(scopes, at_site, self._of_delivery("connections_per_site"))
            limits += [Limit(key, scope, said.value, REASONS[key], said.origin) for scope, said in scopes.items()]
        messages = self._least("messages_per_connection", here, at_place, built_in)
        recipients = self._least("recipients_per_transaction", here, at_place, built_in)
        return Shape(tuple(limits), messages.value, recipients.value, messages.origin, recipients.origin)

    def flow_limits(self, campaign: str, tenant: str) -> list[Limit]:
        """What holds for a message of a campaign and tenant wherever it goes; "" is none, which no rule matches."""
        here = {key: name for key, name in (("campaign", campaign), ("tenant", tenant)) if name}
        return [
            Limit(key, scope, said.value, REASONS[key], said.origin)
            for key in CELL_KEYS
            for scope, said in self._scopes(key, here).items()
            if scope != "relay"
        ]

    @property
    def has_flow_limits(self) -> bool:
        """Whether any rule is for campaigns or tenants."""
        return any({"campaign", "tenant"} & set(keys) for by_keys in self._rules.values() for keys in by_keys)

    # -- finding ------------------------------------------------------------------------------------------------------

    def _scopes(self, key: str, here: Mapping[str, str]) -> dict[str, _Said]:
        """What rules say for each scope that matches: the one that names most, of equals the stricter."""
        found: dict[str, list[_Said]] = {}
        for keys, by_names in self._rules.get(key, {}).items():
            if not all(part in here for part in keys):
                continue
            for names in product(*(_spellings(part, here[part]) for part in keys)):
                for said in by_names.get(names, ()):
                    found.setdefault(_scope_name(here, keys, names), []).append(said)
        return {scope: _strictest(_naming_most(all_said)) for scope, all_said in found.items()}

    def _least(self, key: str, here: Mapping[str, str], at_place: str, built_in: Mapping[str, _Said]) -> _Said:
        """The least of the plain numbers that hold."""
        scopes = self._scopes(key, here)
        if key in built_in:
            scopes.setdefault(at_place, built_in[key])
        return min([*scopes.values(), self._of_delivery(key)], key=lambda said: said.value)

    def _of_delivery(self, key: str) -> _Said:
        return _Said(getattr(self._delivery, key), self._origins.of(f"delivery.{key}"), 0)

    def _built_in_of(self, provider: str) -> dict[str, _Said]:
        """What the built-in table says of a source at a provider; a provider without a figure has that of `other`."""
        if self._providers is None:
            return {}
        known = self._built_in.get(provider)
        if known is None:
            table = self._providers.by_name.get(provider)
            own = said_by(table.limits) if table is not None else ()
            other = said_by(self._providers.other) if self._providers.other is not None else ()
            # At unknown hosts connections and the plain numbers are those of `delivery`.
            kept = ((key, value) for key, value in other if provider != OTHER or key in RATES)
            known = {key: _Said(value, "built-in: any provider", 0) for key, value in kept}
            known |= {key: _Said(value, f"built-in: {provider}", 0) for key, value in own}
            self._built_in[provider] = known
        return known


def said_by(limits: LimitSet | Limits) -> Iterator[tuple[str, Any]]:
    """Each key of a set of limits that is given, rates parsed."""
    for key in LimitSet.__struct_fields__:
        value = getattr(limits, key)
        if value is not None:
            yield key, parse_rate(value) if key in RATES else value


def _spellings(key: str, name: str) -> tuple[str, ...]:
    """How a rule may speak of a name: by itself, by "*", and of unknown sites each on its own by ""."""
    return (name, "", ANY) if key == "provider" and name == OTHER else (name, ANY)


def _scope_name(here: Mapping[str, str], keys: Iterable[str], names: Iterable[str]) -> str:
    """The name of a scope; _SITE stands for the site's key.

    An unknown host counts by its site, unless the rule names the provider `other`.
    """
    parts = []
    for key, name in zip(keys, names, strict=True):
        if key == "provider" and here[key] == OTHER and name != OTHER:
            parts.append(f"site:{_SITE}")
        else:
            parts.append(f"{key}:{_escaped(here[key])}")
    return " ".join(parts) or "relay"


def _escaped(name: str) -> str:
    """A name without spaces, so that no client can make up the name of another scope."""
    return name.replace("%", "%25").replace(" ", "%20")


def _naming_most(said: list[_Said]) -> list[_Said]:
    most = max(one.names for one in said)
    return [one for one in said if one.names == most]


def _strictest(said: list[_Said]) -> _Said:
    """What keeps to all of them: the least number; the slowest rate with the least burst."""
    if len(said) == 1:
        return said[0]
    if not isinstance(said[0].value, Rate):
        return min(said, key=lambda one: one.value)
    slowest = max(said, key=lambda one: (one.value.emission_ns, -one.value.burst))
    shortest = min(said, key=lambda one: one.value.burst)
    if slowest.value.burst == shortest.value.burst:
        return slowest
    rate = make_rate(slowest.value.units, period_name(slowest.value.period_ns), shortest.value.burst)
    return _Said(rate, f"{slowest.origin}; burst: {shortest.origin}", slowest.names)


def _also(scopes: dict[str, _Said], scope: str, said: _Said) -> None:
    """A number that holds beside what rules say of the same scope."""
    scopes[scope] = min(scopes.get(scope, said), said, key=lambda one: one.value)
