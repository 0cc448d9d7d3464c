"""What a source must pass on its way to a site: the rules of its permits, the counters of its connections.

A *passage* is all that holds for one source on its way to one place in one pool, made at its first use from the Shape
of the configuration and kept:

    gate      permits for RCPTs: every rate that matches, the adaptive rate, and for a cold source its day's cap
    connects  permits for opening connections
    counters  places for open connections

Sites of one provider share passages, so 250 sources and 30 providers make 7,500 of them at most, however many sites
there are; a passage to an unknown host goes with its site. A limit of each site on its own (connections_per_site) is
added to the shared passage by the site's pool, where no limit of more than this site is as strict. Rules with the same
cell are one object in a worker, so who waits for a rate waits in one line, whatever the site.

A reload changes rules in place (the bucket keeps what it owes) and makes passages anew. Known faults: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastrelay._core.limits import Gate, Rule
from fastrelay.limits.rate import Rate
from fastrelay.limits.shape import Limit, Shape, Shaper, place_of
from fastrelay.limits.warmup import EVERY, Ramp, key_of, ramps
from fastrelay.route.providers import OTHER, make_providers

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.deliver.connections import Counters

FLOWS_KEPT = 10_000  # campaign and tenant names come from clients


class Passage:
    """One source on its way to one place, for one pool."""

    __slots__ = ("connects", "counters", "gate", "of_each_site", "place", "shape")

    def __init__(
        self, place: str, shape: Shape, gate: Gate, connects: Gate, counters: Counters, of_each_site: bool = False
    ) -> None:
        self.place = place
        self.shape = shape
        self.gate = gate
        self.connects = connects
        self.counters = counters
        self.of_each_site = of_each_site  # whether each site has a limit of connections of its own beside


class Gates:
    """The rules and passages of one worker. `configure` begins anew; who holds an old gate may still give back."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._adaptive: frozenset[tuple[str, str]] = frozenset()
        self._rules: dict[bytes, Rule] = {}
        self._warm: frozenset[tuple[str, str]] = frozenset()

    def configure(self) -> None:
        """Takes the configuration: what is asked for from now on follows it."""
        config = self._app.config
        self.shaper = Shaper(config, make_providers(config.providers))
        self._ramps: dict[str, dict[str, Ramp]] = {name: ramps(plan) for name, plan in config.warmup.items()}
        self._passages: dict[tuple[Any, ...], Passage] = {}
        self._of_site: dict[str, set[tuple[Any, ...]]] = {}  # keys of passages by the site's key
        self._flows: dict[tuple[bytes, bytes], tuple[Rule, ...]] = {}
        caps = {
            f"cap:{source.name}:{key}".encode()
            for source in config.sources
            if source.warmup
            for key in self._ramps[source.warmup]
        }
        for name in [name for name, rule in self._rules.items() if rule.kind == "cap" and name not in caps]:
            self._rules.pop(name).close()

    def close(self) -> None:
        """The worker ends well: what is left of its blocks of caps is for others."""
        for rule in self._rules.values():
            rule.close()

    # -- passages -----------------------------------------------------------------------------------------------------

    def passage(self, site: Any, source: Any) -> Passage:
        """Of a Source to a site queue."""
        key = self._key(site, source)
        found = self._passages.get(key)
        if found is None:
            found = self._passages[key] = self._make(site, source)
            if key[-1]:
                self._of_site.setdefault(key[-1], set()).add(key)
        return found

    def of_site(self, site: Any, source: Any, shared: Passage) -> Passage:
        """A shared passage with the places that this site alone has; its pool keeps it until it is renewed."""
        shape = self.shaper.shape(source.name, site.provider, site.key, site.pool_name, site.site.explicit)
        connections = self._app.connections
        own = tuple(connections.counter(one.scope_name, value, one.origin) for one, value in _own(shape))
        return Passage(shared.place, shared.shape, shared.gate, shared.connects, shared.counters + own)

    def gate(self, site: Any, number: int) -> Gate:
        """The gate of a source (by number) to a site queue; the engine keeps it in `site.gates`."""
        return self.passage(site, self._app.source_at(number)).gate

    def _make(self, site: Any, source: Any) -> Passage:
        place = place_of(site.provider, site.key)
        shape = self.shaper.shape(source.name, site.provider, site.key, site.pool_name, site.site.explicit)
        connections = self._app.connections
        counters = {}
        for limit in shape.of("connections"):
            assert isinstance(limit.value, int)
            if _is_of_site(limit) and not own_key(site):
                continue
            counters[limit.scope_name] = connections.counter(limit.scope_name, limit.value, limit.origin)
        scope = self.place_scope(source.name, place)  # counted in any case: a back-off may limit it
        if scope not in counters:
            counters[scope] = connections.counter(scope)
        rules = [self._rate(limit) for limit in shape.of("rate")]
        if site.provider != OTHER or (source.name, place) in self._adaptive:
            rules.append(self._adaptive_rule(source.name, place))
        if self.is_cold(source, site.provider):
            rules += self._warmup_rules(source, site.provider)
        connects = [self._rate(limit) for limit in shape.of("connection_rate")]
        of_each_site = not own_key(site) and bool(_own(shape))
        return Passage(place, shape, Gate(rules), Gate(connects), tuple(counters.values()), of_each_site)

    @staticmethod
    def place_scope(source: str, place: str) -> str:
        """The scope of a source at a place, as limits/shape.py names it."""
        kind = "site" if ":" in place else "provider"
        return " ".join(f"{key}:{name.replace('%', '%25').replace(' ', '%20')}" for key, name in
                        (("source", source), (kind, place)))  # fmt: skip

    def forget(self, site: Any) -> None:
        """The site queue is gone; what counts for its site alone goes with the last queue of the site."""
        for passage in site.pool.choice.passages.values():
            self._app.connections.forget(one.scope for one in passage.counters if one.scope.endswith(site.key))
        keys = self._of_site.get(site.key, set())
        for key in [key for key in keys if key[2] == site.pool_name]:
            keys.discard(key)
            passage = self._passages.pop(key, None)
            if passage is None:
                continue
            self._app.connections.forget(one.scope for one in passage.counters if one.scope.endswith(site.key))
            if not keys:
                for rule in (*passage.gate.rules, *passage.connects.rules):
                    if rule.name.endswith(site.key.encode()) and not rule.waiters:
                        self._rules.pop(rule.name, None)
        if not keys:
            self._of_site.pop(site.key, None)

    # -- rules --------------------------------------------------------------------------------------------------------

    def _rate(self, limit: Limit) -> Rule:
        """The rule of a limit; one that was made under another configuration is changed."""
        rate = limit.value
        assert isinstance(rate, Rate)
        rule = self._rules.get(limit.cell)
        what = "connections, " if limit.kind == "connection_rate" else ""
        detail = f"{in_words(limit.scope_name)}: {what}{rate.text} ({limit.origin})"
        if rule is None:
            rule = self._rules[limit.cell] = Rule(
                self._app.table, limit.cell, rate.emission_ns, rate.burst, limit.reason, detail,
                slot=self._app.slot, origin=limit.origin,
            )  # fmt: skip
        elif (rule.emission_ns, rule.burst, rule.detail) != (rate.emission_ns, rate.burst, detail):
            rule.change(rate.emission_ns, rate.burst, detail, limit.origin, self._app.clock.boottime_ns())
        return rule

    def _governed(self, name: str, kind: str, reason: str, detail: str) -> Rule:
        """A rule whose figures the governor writes into the table."""
        cell = name.encode()
        rule = self._rules.get(cell)
        if rule is None:
            reservations = self._app.reservations if kind == "cap" else None
            rule = self._rules[cell] = Rule(
                self._app.table, cell, 0, 1, reason, detail, kind, slot=self._app.slot, reservations=reservations
            )
        return rule

    def _adaptive_rule(self, source: str, place: str) -> Rule:
        detail = f"source {source} at {place}: slowed down after replies of the provider"
        return self._governed(f"adaptive:{source}:{place}", "recorded", "provider_backoff", detail)

    def _warmup_rules(self, source: Any, provider: str) -> list[Rule]:
        """The day's cap of a cold source, and how it is spread over the day."""
        key = key_of(self._ramps[source.warmup], provider)
        said = f"source {source.name}{'' if key == EVERY else f' at {key}'}: the cap of warm-up {source.warmup!r}"
        rules = [self._governed(f"cap:{source.name}:{key}", "cap", "warmup_cap", f"{said} is used")]
        if self._app.config.warmup[source.warmup].spread_seconds:
            detail = f"{said} is spread over the day"
            rules.append(self._governed(f"spread:{source.name}:{key}", "spread", "warmup_cap", detail))
        return rules

    def is_cold(self, source: Any, provider: str) -> bool:
        """Whether a source warms up for a provider, and is not done."""
        if not source.warmup:
            return False
        return (source.name, key_of(self._ramps[source.warmup], provider)) not in self._warm

    def set_governed(self, state: dict[str, Any]) -> None:
        """The governor's view: `warmup` has a row for each source × key, `adaptive` one for each (source, place) that
        is slowed down now.

        Known providers always have an adaptive rule; a site of an unknown one gets it when it is slowed down first.
        """
        warm = frozenset((row["source"], row["key"]) for row in state.get("warmup", ()) if not row["cold"])
        adaptive = frozenset((row["source"], row["place"]) for row in state.get("adaptive", ()))
        places = {place for _, place in adaptive - self._adaptive}
        others, self._warm, self._adaptive = warm != self._warm, warm, adaptive
        if others:
            self._passages.clear()
            self._of_site.clear()
        for site in self._app.board.sites.values() if others or places else ():
            if others or site.key in places:
                for key in self._of_site.pop(site.key, ()):
                    self._passages.pop(key, None)
                site.pool.renew()

    def _key(self, site: Any, source: Any) -> tuple[Any, ...]:
        return source.number, site.provider, site.pool_name, site.site.explicit, own_key(site)

    def flow_rules(self, campaign: bytes, tenant: bytes) -> tuple[Rule, ...]:
        """The rates of a campaign and a tenant, wherever their mail goes."""
        if not self.shaper.has_flow_limits:
            return ()
        found = self._flows.get((campaign, tenant))
        if found is None:
            if len(self._flows) >= FLOWS_KEPT:
                self._forget_flows()
            names = [name.decode("utf-8", "backslashreplace") for name in (campaign, tenant)]
            limits = self.shaper.flow_limits(*names)
            found = self._flows[campaign, tenant] = tuple(self._rate(one) for one in limits if one.kind == "rate")
        return found

    def _forget_flows(self) -> None:
        gone = {rule.name: rule for rules in self._flows.values() for rule in rules if not rule.waiters}
        for name in gone:
            self._rules.pop(name, None)
        self._flows.clear()


def _is_of_site(limit: Limit) -> bool:
    return any(part.startswith("site:") for part in limit.scope_name.split(" "))


def _own(shape: Shape) -> list[tuple[Limit, int]]:
    """The limits of connections of a site on its own that could bind: none that holds for more than it is as strict."""
    limits = [(one, one.value) for one in shape.of("connections") if isinstance(one.value, int)]
    wider = [value for one, value in limits if not _is_of_site(one) and "pool:" not in one.scope_name]
    return [(one, value) for one, value in limits if _is_of_site(one) and value < min(wider, default=value + 1)]


def own_key(site: Any) -> str:
    """The site's key where its limits are its own; "" where they are its provider's."""
    return site.key if site.provider == OTHER or site.site.explicit else ""


def in_words(scope: str) -> str:
    """A scope for people: `source:a provider:google` is "source a at google"."""
    parts = [part.partition(":") for part in scope.split(" ")]
    words: list[str] = []
    for kind, _, name in parts:
        if kind in ("provider", "site") and words:
            words.append(f"at {name}")
        else:
            words.append(f"{kind} {name}" if name else f"the {kind}")
    return " ".join(words)
