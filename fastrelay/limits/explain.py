"""What happens to mail for a domain, and why: `fastrelay explain`.

A worker answers for all (`explain`): the route, who runs the site and which line says so, every limit of every source
there with who set it and what is used of it now, and which sources could send this instant. Use is read from the shared
table, so it is that of all workers; what waits is a worker's own, and is added up (`merged`). The supervisor adds what
only the governor knows: stages of warm-up and back-offs (`with_governor`).

Looking takes nothing: no permit, no place. Pure where it can be; the worker is asked through a few attributes.

Known faults: that a worker which has the mail has none of the open connections is not seen.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastrelay.errors import FastrelayError
from fastrelay.limits.rate import Rate
from fastrelay.limits.shape import (
    DEFAULT_POOL,
    Limit,
    Shape,
    Shaper,
    place_of,
    scope_at_place,
    scope_in_words,
)
from fastrelay.limits.warmup import key_of, ramps
from fastrelay.route.names import normalize_domain, split_host
from fastrelay.route.providers import OTHER
from fastrelay.tls.policy import NORMAL

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.config.schema import Config
    from fastrelay.config.schema import Source as ConfiguredSource

SECOND_NS = 10**9


class ExplainError(FastrelayError):
    """A question that cannot be answered, in words."""


async def explain(app: App, domain: str, pool: str = "", source: str = "") -> dict[str, Any]:
    """Everything that decides when and from where mail for a domain leaves now.

    pool    the pool that the mail names; "" is the default one
    source  only this source

    Raises ExplainError for a pool or source that there is not; InvalidDomain is part of the answer.
    """
    config, now = app.config, app.clock.monotonic()
    pool = pool or DEFAULT_POOL
    members = _members(config, pool, source)
    route = await app.router.resolve(domain, now)
    told = await app.router.explain(domain, now)
    answer: dict[str, Any] = {
        "domain": told["domain"],
        "pool": pool,
        "file": config.origins.file,
        "route": told,
        "sources": [],
        "flows": _flows(config),
        "waiting": _waiting(app, domain, route.site, now),
    }
    rule = _rule_of(config, app, told["domain"])
    if rule is not None:
        told["rule"] = rule
    site = route.site
    if site is None:
        return answer
    answer["provider"] = _provider(app, site, config)
    answer["tls"] = await _tls(app, told["domain"], route, now)
    shaper = Shaper(config, app.router.sites.providers)
    answer["sources"] = [Look(app, site, pool, told).source(shaper, name) for name in members]
    return answer


async def _tls(app: App, domain: str, route: Any, now: float) -> dict[str, Any]:
    """Which TLS the hosts must have; `fastrelay tls` says more."""
    policy = await app.tls.policy(domain, route, NORMAL, now)
    return {"level": policy.level, "kind": policy.kind, "words": policy.words, "may_wait": policy.can_fail}


def _members(config: Config, pool: str, source: str) -> list[str]:
    """The sources to speak of."""
    names = [one.name for one in config.sources] or ["default"]
    pools: Mapping[str, list[str]] = config.pools or {DEFAULT_POOL: names}
    if pool not in pools:
        raise ExplainError(f"there is no pool {pool!r}; the pools are {', '.join(pools)}")
    if source and source not in names:
        raise ExplainError(f"there is no source {source!r}; the sources are {', '.join(names)}")
    if source and source not in pools[pool]:
        raise ExplainError(f"source {source!r} is not in pool {pool!r}; that has {', '.join(pools[pool])}")
    return [source] if source else list(pools[pool])


def _rule_of(config: Config, app: App, domain: str) -> dict[str, str] | None:
    """The route of the configuration that a domain falls under."""
    try:
        rule = app.router.rules.match(normalize_domain(domain))
    except ValueError:
        return None
    if rule is None:
        return None
    index = next(at for at, one in enumerate(app.router.rules.rules) if one is rule)
    return {"path": f"routes[{index}]", "origin": config.origins.of(f"routes[{index}]")}


def _provider(app: App, site: Any, config: Config) -> dict[str, Any]:
    """Who runs the site, by which suffix, and who says so."""
    hosts = [split_host(host)[0] for host in site.groups[0]]
    name, suffix, who = next(
        (found for host in hosts if (found := app.router.sites.providers.match(host))[1]), (site.provider, "", "")
    )
    origin = config.origins.of(who) if who.startswith("providers.") else who
    return {"name": name, "suffix": suffix or None, "origin": origin or "no suffix is known", "hosts": hosts}


def _flows(config: Config) -> list[dict[str, str]]:
    """The rules that are about the message, not about where it goes: by campaign or tenant."""
    return [
        {
            "campaign": rule.campaign or "",
            "tenant": rule.tenant or "",
            "value": rule.rate,
            "origin": config.origins.of(path),
        }
        for index, rule in enumerate(config.shaping)
        if (rule.campaign or rule.tenant) and rule.rate and (path := f"shaping[{index}]")
    ]


# -- what waits --------------------------------------------------------------------------------------------------------


def _waiting(app: App, domain: str, site: Any, now: float) -> dict[str, Any]:
    """This worker's mail for the domain and at its site, and its sessions there."""
    name = domain.encode()
    queued = sum(one.queued for one in app.index.domains.values() if one.name == name)
    queues = []
    for queue in app.board.sites.values() if site is not None else ():
        if queue.key == site.key:
            reason, detail, seconds = app.board.why_site(queue, now)
            queues.append(
                {
                    "pool": queue.pool_name or DEFAULT_POOL,
                    "ready": queue.ready(),
                    "sessions": len(queue.pool.sessions),
                    "reason": reason,
                    "detail": detail,
                    "until_seconds": seconds,
                }
            )
    return {"domain": queued, "queues": queues}


# -- one source --------------------------------------------------------------------------------------------------------


class Look:
    """A look at one site, for one pool, from each source."""

    def __init__(self, app: App, site: Any, pool: str, route: Mapping[str, Any]) -> None:
        self._app = app
        self._site = site
        self._pool = pool
        self._place = place_of(site.provider, site.key)
        self._now_ns = app.clock.boottime_ns()
        # Cells of the table are never given back, so asking about a site without mail must not make any for it.
        self._in_use = site.provider != OTHER or any(queue.key == site.key for queue in app.board.sites.values())
        addresses = [address for host in route.get("hosts", ()) for address in host["addresses"]]
        self._families = {socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses}

    def source(self, shaper: Shaper, name: str) -> dict[str, Any]:
        """All about one source: its limits with their use, and whether it could send now."""
        site, configured = self._site, self._app.config.source(name)
        shape = shaper.shape(name, site.provider, site.key, self._pool, site.explicit)
        limits = [self._use(limit) for limit in shape.limits]
        warmup = self._warmup(configured)
        adaptive = self._adaptive(name)
        connections = self._connections(name)
        obstacles = [*self._obstacles(name), *_spent(limits, warmup, adaptive, connections)]
        return {
            "name": name,
            "address": configured.address if configured is not None else None,
            "public_address": configured.public_address if configured is not None else None,
            "can_send": not obstacles,
            "obstacles": obstacles,
            "connections": connections,
            "most_connections": self._cut_to(name),  # by a back-off; None: as limited
            "limits": limits,
            "numbers": _numbers(shape),
            "warmup": warmup,
            "adaptive": adaptive,
        }

    def _connections(self, name: str) -> int:
        """The source's open connections to the place, over all workers."""
        if not self._in_use:
            return 0
        scope = "connections:" + scope_at_place(name, self._site.provider, self._site.key)
        return self._app.table.used(self._app.table.cell(scope.encode("utf-8", "surrogateescape")))

    def _cut_to(self, name: str) -> int | None:
        """How many connections a rule about replies leaves the source here."""
        backoff = self._app.board.backoffs.get((name, self._place))
        if backoff is None or backoff.until_wall <= self._app.clock.wall():
            return None
        return backoff.connections

    def _use(self, limit: Limit) -> dict[str, Any]:
        """A limit and what is used of it now, over all workers."""
        table = self._app.table
        cell = table.cell(limit.cell) if self._in_use or " site:" not in f" {limit.scope_name}" else None
        told: dict[str, Any] = {
            "kind": limit.kind,
            "scope": limit.scope_name,
            "value": str(limit.value),
            "origin": limit.origin,
            "reason": limit.reason,
        }
        if isinstance(limit.value, Rate):
            rate = limit.value
            left = rate.burst if cell is None else table.look(cell, self._now_ns, rate.emission_ns, rate.burst)
            told |= {"burst": rate.burst, "left": max(0, left)}
            told["wait_seconds"] = round(-left / SECOND_NS, 3) if left < 0 else 0.0
        else:
            told["used"] = 0 if cell is None else table.used(cell)
        return told

    def _obstacles(self, name: str) -> list[dict[str, Any]]:
        """What keeps a source from the site, limits aside."""
        app, board = self._app, self._app.board
        found = []
        held = board.source_held(name, self._site.provider)
        if held is not None:
            found.append(_obstacle("suspended", f"suspension {held.id}: {held.why or 'no reason given'}"))
        backoff = board.backoffs.get((name, self._place))
        seconds = backoff.until_wall - app.clock.wall() if backoff is not None else 0.0
        if backoff is not None and backoff.connections is None and seconds > 0:
            found.append(_obstacle("provider_backoff", backoff.detail, seconds))
        own = app.sources.get(name)
        if own is not None and self._families and not any(own.reaches(family) for family in self._families):
            found.append(_obstacle("no_source", f"no host has an address that {own.address} reaches"))
        for queue in board.sites.values():
            if queue.key == self._site.key and own is not None:
                now = app.clock.monotonic()
                obstacle = queue.pool.choice.obstacle(own, now)
                if obstacle is not None and obstacle.reason == "no_source":
                    until = None if obstacle.until is None else obstacle.until - now
                    found.append(_obstacle("no_source", obstacle.detail, until))
                    break
        return found

    def _warmup(self, source: ConfiguredSource | None) -> dict[str, Any] | None:
        """The cap of a cold source here. A cell without a cap: the governor has not opened its day yet."""
        if source is None or source.warmup is None:
            return None
        config, table = self._app.config, self._app.table
        made = ramps(config.warmup[source.warmup])
        key = key_of(made, self._site.provider)
        cell = table.cell(f"cap:{source.name}:{key}".encode())
        cap, used = table.cap_of(cell), table.cap_used(cell)
        path = f"warmup.{source.warmup}"
        told: dict[str, Any] = {"plan": source.warmup, "key": key, "schedule": made[key].origin, "per": made[key].per}
        told["others"] = len(made) > 1  # whether some providers have a schedule of their own
        told |= {"cap": cap, "used": used, "left": max(0, cap - used), "origin": config.origins.of(path)}
        if config.warmup[source.warmup].spread_seconds:
            spread = table.cell(f"spread:{source.name}:{key}".encode())
            told["spread_wait_seconds"] = self._recorded_wait(spread)
        return told

    def _adaptive(self, name: str) -> dict[str, Any] | None:
        """The rate that was learnt from the provider's deferrals; None: there is none now."""
        if not self._in_use:
            return None
        cell = self._app.table.cell(f"adaptive:{name}:{self._place}".encode())
        emission_ns, _ = self._app.table.rate_of(cell)
        if emission_ns <= 0:
            return None
        return {"per_hour": round(3600 * SECOND_NS / emission_ns, 1), "wait_seconds": self._recorded_wait(cell)}

    def _recorded_wait(self, cell: int) -> float:
        """Seconds until a rate that the governor wrote permits the next; 0: now."""
        emission_ns, burst = self._app.table.rate_of(cell)
        if emission_ns <= 0:
            return 0.0
        left = self._app.table.look(cell, self._now_ns, emission_ns, burst)
        return round(-left / SECOND_NS, 3) if left < 0 else 0.0


def _numbers(shape: Shape) -> list[dict[str, Any]]:
    """The limits that are plain numbers."""
    return [
        {"kind": "messages_per_connection", "value": shape.messages_per_connection, "origin": shape.messages_origin},
        {
            "kind": "recipients_per_transaction",
            "value": shape.recipients_per_transaction,
            "origin": shape.recipients_origin,
        },
    ]


def _obstacle(reason: str, detail: str, seconds: float | None = None) -> dict[str, Any]:
    return {"reason": reason, "detail": detail, "until_seconds": None if seconds is None else round(seconds, 3)}


def _spent(
    limits: Iterable[Mapping[str, Any]],
    warmup: Mapping[str, Any] | None,
    adaptive: Mapping[str, Any] | None,
    connections: int,
) -> list[dict[str, Any]]:
    """Limits that deny at this instant. Where connections are open, it is no obstacle that there may be no more."""
    found = []
    for limit in limits:
        if limit.get("wait_seconds"):
            if limit["kind"] == "rate" or not connections:
                what = "" if limit["kind"] == "rate" else "new connections, "
                words = f"{scope_in_words(limit['scope'])}: {what}{limit['value']}"
                found.append(_obstacle(limit["reason"], words, limit["wait_seconds"]))
        elif limit["kind"] == "connections" and limit["used"] >= int(limit["value"]) and not connections:
            words = f"{scope_in_words(limit['scope'])}: all {limit['value']} connections are open"
            found.append(_obstacle(limit["reason"], words))
    if warmup is not None and not warmup["left"]:
        said = f"the cap of {warmup['cap']} a {warmup['per']} is used" if warmup["cap"] else "no day is open yet"
        found.append(_obstacle("warmup_cap", f"plan {warmup['plan']}: {said}"))
    elif warmup is not None and warmup.get("spread_wait_seconds"):
        words = f"plan {warmup['plan']}: the day's cap is spread over the day"
        found.append(_obstacle("warmup_cap", words, warmup["spread_wait_seconds"]))
    if adaptive is not None and adaptive["wait_seconds"]:
        words = f"slowed down to {adaptive['per_hour']:,.0f} an hour by its replies"
        found.append(_obstacle("provider_backoff", words, adaptive["wait_seconds"]))
    return found


# -- putting answers together ------------------------------------------------------------------------------------------


def merged(results: Sequence[dict[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One answer of all workers': that of one which has mail for the site, with what waits in any of them."""
    answer = dict(next((result for result in results if result["waiting"]["queues"]), results[0]))
    queues: dict[str, dict[str, Any]] = {}
    for result in results:
        for queue in result["waiting"]["queues"]:
            known = queues.get(queue["pool"])
            if known is None:
                queues[queue["pool"]] = dict(queue)
                continue
            known["ready"] += queue["ready"]
            known["sessions"] += queue["sessions"]
            if known["reason"] == "ready" and queue["reason"] != "ready":
                known |= {key: queue[key] for key in ("reason", "detail", "until_seconds")}
    domain = sum(result["waiting"]["domain"] for result in results)
    answer["waiting"] = {"domain": domain, "queues": list(queues.values())}
    return answer


def with_governor(
    answer: dict[str, Any], warmup: Iterable[Mapping[str, Any]], describe: Callable[[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """The answer with what the governor knows of its sources at the place.

    warmup    its rows of warm-up: stage, state, days to go
    describe  what it knows of (source, place) by replies: rules that fired, what they ordered, the rate that it learnt
    """
    if "provider" not in answer:
        return answer
    place = place_of(answer["provider"]["name"], answer["route"]["site"])
    rows = {(row["source"], row["key"]): row for row in warmup}
    for source in answer["sources"]:
        plan = source["warmup"]
        row = rows.get((source["name"], plan["key"])) if plan is not None else None
        if plan is not None and row is not None:
            plan |= {key: row.get(key) for key in ("stage", "stages", "state", "why", "days_left", "cold")}
            if row.get("cold") is False:  # done: it has no cap any more
                source["obstacles"] = [one for one in source["obstacles"] if one["reason"] != "warmup_cap"]
                source["can_send"] = not source["obstacles"]
        source["replies"] = describe(source["name"], place)
    return answer
