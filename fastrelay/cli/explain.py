"""`fastrelay explain DOMAIN`: where its mail goes, every limit on the way and who set it, who could send now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from fastrelay.cli.options import connect, relay_options

KINDS = {
    "rate": "messages",
    "connection_rate": "new connections",
    "connections": "connections",
    "messages_per_connection": "per connection",
    "recipients_per_transaction": "per message",
}
UNITS = {"messages_per_connection": "message", "recipients_per_transaction": "recipient"}
ACTIONS = {
    "fail": "is refused at once",
    "defer": "waits for the DNS",
    "discard": "is discarded",
    "reject": "is rejected",
}

EPILOG = """\b
NOW is counted over all workers. SET BY is the line of the configuration, the built-in table of
providers, or the default that the value is from.

\b
Examples:
  fastrelay explain example.com
  fastrelay explain you@example.com               of an address, the domain counts
  fastrelay explain example.com --source b        one sending address only
  fastrelay explain example.com --json | jq '.sources[] | select(.can_send | not)'

Exit codes: 0 told; 1 the relay could not say; 3 no relay is running.
"""


@click.command(epilog=EPILOG)
@click.argument("domain")
@click.option("--pool", metavar="NAME", help="As mail that names this pool.  [default: the pool `default`]")
@click.option("--source", metavar="NAME", help="Only this sending address.")
@relay_options
def explain(
    domain: str,
    pool: str | None,
    source: str | None,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show what decides when mail for DOMAIN leaves.

    Its MX hosts and who runs them, every limit with its value, its use and the line that set it,
    which sending addresses could send this instant, and why the others could not.
    """
    arguments = {"domain": _domain(domain), "pool": pool, "source": source}
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("explain", {name: value for name, value in arguments.items() if value is not None})
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
        return
    show(answer)


def _domain(text: str) -> str:
    """The domain of a domain or an address; the relay judges it."""
    domain = text.strip().strip("<>").rpartition("@")[2]
    if not domain:
        raise click.BadParameter(f"{text!r} has no domain; write one such as example.com", param_hint="DOMAIN")
    return domain


def show(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import warn_if_incomplete

    warn_if_incomplete(answer)
    show_route(answer)
    if answer.get("sources"):
        click.echo()
        show_limits(answer["sources"], answer["file"])
        click.echo()
        show_sources(answer["sources"])
        show_flows(answer.get("flows") or (), answer["file"])
        show_warmup(answer["sources"], answer["file"])
        show_replies(answer["sources"])


# --- where it goes ---


def show_route(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import print_fields

    route, provider = answer["route"], answer.get("provider")
    rule = route.get("rule")
    by = f"by {rule['origin']}" if rule else "by its address" if route.get("implicit") else "by MX"
    fields: list[tuple[str, object]] = [("domain", answer["domain"])]
    if provider is None:
        what = ACTIONS.get(route["action"], route["action"])
        reply = f" ({route['reply']} {route.get('text', '')})" if route.get("reply") else ""
        fields += [("mail for it", f"{what}{reply}"), ("set by", rule["origin"] if rule else "")]
    else:
        suffix = (
            f"by MX suffix {provider['suffix']} ({provider['origin']})" if provider["suffix"] else "no suffix known"
        )
        fields += [
            ("provider", f"{provider['name']}, {suffix}"),
            ("route", f"{by}{_known_for(route)}"),
            ("site", route["site"]),
        ]
        fields += [
            ("MX hosts" if at == 0 and not rule else "hosts" if at == 0 else "", _host(host, len(route["hosts"])))
            for at, host in enumerate(route["hosts"])
        ]
    tls = answer.get("tls")
    if tls is not None:
        fields.append(("TLS", f"{tls['words']} (`fastrelay tls {answer['domain']}` says more)"))
    fields += [("pool", answer["pool"]), ("waiting", waiting(answer["waiting"])), ("configuration", answer["file"])]
    print_fields(fields)


def _known_for(route: dict[str, Any]) -> str:
    from fastrelay.cli.output import duration

    seconds = route.get("ttl_seconds")
    stale = "; the DNS cannot say now, so the last answer is used" if route.get("stale") else ""
    return "" if seconds is None else f", asked again in {duration(seconds)}{stale}"


def _host(host: dict[str, Any], hosts: int) -> str:
    """`1. mx1.example  192.0.2.1, 192.0.2.2`: the number is the turn in which it is tried, equals have the same."""
    from fastrelay.cli.output import names

    turn = f"{host['group'] + 1}. " if hosts > 1 else ""
    return f"{turn}{host['host']}  {names(host['addresses'], 4) or host.get('error') or 'no address'}"


def waiting(told: dict[str, Any]) -> str:
    """What waits for the domain and at its site."""
    from fastrelay.cli.output import duration, plural, shown_words

    parts = [f"{plural(told['domain'], 'recipient')} of this domain" if told["domain"] else "nothing of this domain"]
    for queue in told["queues"]:
        if not queue["ready"] and not queue["sessions"]:
            continue
        waits = queue["ready"] and queue["reason"] != "ready"
        why = f", {shown_words(queue['reason'])}" if waits else ""
        until = f" for {duration(queue['until_seconds'])}" if queue.get("until_seconds") else ""
        sessions = plural(queue["sessions"], "connection")
        parts.append(
            f"{plural(queue['ready'], 'recipient')} for the site in pool {queue['pool']} ({sessions}{why}{until})"
        )
    return "; ".join(parts)


# --- limits ---


def _line(origin: str, file: str) -> str:
    """Who set a value, without the name of the file, which stands above."""
    return origin.replace(f"{os.path.basename(file)} ", "") if file else origin


def show_limits(sources: Sequence[dict[str, Any]], file: str) -> None:
    """One line a limit; those that are alike for several sources share one."""
    from fastrelay.cli.output import LEFT, WIDE, print_table

    alike: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    for source in sources:
        for limit in (*source["limits"], *source["numbers"]):
            scope = _scope(limit.get("scope", ""), source["name"] if len(sources) > 1 else "")
            key = (limit["kind"], scope, str(limit["value"]), limit["origin"])
            alike.setdefault(key, []).append((source["name"], limit))
    rows = []
    order = list(KINDS)
    for (kind, scope, value, origin), ones in sorted(
        alike.items(), key=lambda pair: (order.index(pair[0][0]), _narrowness(pair[0][1]), pair[0][1])
    ):
        several = "each source" in scope
        if several and len(ones) < len(sources):
            scope = scope.replace("each source", _of(name for name, _ in ones))
        if not scope and len(ones) < len(sources):
            scope = _of(name for name, _ in ones)
        rows.append((KINDS[kind], scope, _value(kind, value), _use(ones, several), _line(origin, file)))
    columns = [("LIMIT", LEFT), ("COUNTED FOR", WIDE), ("VALUE", LEFT), ("NOW", LEFT), ("SET BY", WIDE)]
    print_table(columns, rows, fold=True)


def _value(kind: str, value: str) -> str:
    """A plain number has its unit behind it."""
    from fastrelay.cli.output import plural

    return plural(int(value), UNITS[kind]) if kind in UNITS else value


def _narrowness(scope: str) -> int:
    """All mail comes first, one source at one place last."""
    return 0 if scope == "all mail" else len(scope.split(" at "))


def _of(sources: Any) -> str:
    from fastrelay.cli.output import names

    listed = list(sources)
    return f"source {listed[0]}" if len(listed) == 1 else f"each of {names(listed)}"


def _scope(scope: str, source: str) -> str:
    """`source:a provider:google` → `each source at google`; `source` is the name that stands for each."""
    if scope == "relay":
        return "all mail"
    words = []
    for part in scope.split():
        kind, _, name = part.partition(":")
        name = name.replace("%20", " ").replace("%25", "%")
        if kind == "source":
            words.append("each source" if name == source else f"source {name}")
        elif kind == "site":
            words.append("at this site")
        elif kind == "provider":
            words.append(f"at {name}" if words else f"all mail to {name}")
        else:
            words.append(f"in pool {name}" if words else f"pool {name}")
    return " ".join(words)


def _soon(seconds: float) -> str:
    """A duration that is not `0s`."""
    from fastrelay.cli.output import duration

    return duration(seconds) if seconds >= 0.05 else "0.1s"


def _use(ones: Sequence[tuple[str, dict[str, Any]]], several: bool) -> str:
    """What is used of a limit now: of several sources, that of the one with the least left."""
    from fastrelay.cli.output import count

    kind = ones[0][1]["kind"]
    if kind == "connections":
        name, limit = max(ones, key=lambda one: one[1]["used"])
        shown = f"{count(limit['used'])} open"
        used = limit["used"]
    elif "wait_seconds" in ones[0][1]:
        name, limit = max(ones, key=lambda one: (one[1]["wait_seconds"], -one[1]["left"]))
        used = limit["burst"] - limit["left"]
        if limit["wait_seconds"]:
            shown = f"next in {_soon(limit['wait_seconds'])}"
        else:
            shown = f"{count(limit['left'])} at once" if limit["left"] > 1 else "1 now"
    else:
        return ""
    return f"{shown} ({name})" if several and len(ones) > 1 and used else shown


# --- sources ---


def show_sources(sources: Sequence[dict[str, Any]]) -> None:
    """Which could send this instant, and why not the others."""
    from fastrelay.cli.output import LEFT, WIDE, Styled, print_table, shown_words

    rows: list[tuple[object, ...]] = []
    for source in sorted(sources, key=lambda one: not one["can_send"]):
        address = source["address"] or "the system's choice"
        if source.get("public_address"):
            address = f"{address}, seen as {source['public_address']}"
        if source["can_send"]:
            rows.append((source["name"], address, Styled("yes", "green"), _open_to(source)))
            continue
        waits = [one["until_seconds"] for one in source["obstacles"]]
        known = [wait for wait in waits if wait is not None]
        when = f"in {_soon(max(known))}" if len(known) == len(waits) else "no"
        for at, one in enumerate(source["obstacles"]):
            why = f"{shown_words(one['reason'])}: {one['detail']}"
            head = (source["name"], address, Styled(when, "red" if when == "no" else "yellow"))
            rows.append((*(head if at == 0 else ("", "", "")), why))
    print_table([("SOURCE", LEFT), ("ADDRESS", WIDE), ("CAN SEND", LEFT), ("WHY", WIDE)], rows, fold=True)


def _open_to(source: dict[str, Any]) -> str:
    """What a source that can send has: the tightest of its rates, in words."""
    from fastrelay.cli.output import count, plural

    parts = []
    if source.get("connections"):
        parts.append(f"over {plural(source['connections'], 'connection')}")
    if source.get("most_connections") is not None:
        parts.append(f"over {plural(source['most_connections'], 'connection')} at most, by its replies")
    plan = source.get("warmup")
    if plan is not None and plan.get("cold") is not False:
        parts.append(f"{count(plan['left'])} left of today's cap")
    adaptive = source.get("adaptive")
    if adaptive is not None:
        parts.append(f"slowed down to {count(round(adaptive['per_hour']))} an hour by its replies")
    return "; ".join(parts)


def show_flows(flows: Sequence[dict[str, Any]], file: str) -> None:
    """Limits that depend on the message."""
    from fastrelay.cli.output import LEFT, WIDE, print_table

    rows = []
    for flow in flows:
        parts = [(key, flow[key]) for key in ("campaign", "tenant") if flow[key]]
        words = " of ".join(f"each {key}" if name == "*" else f"{key} {name}" for key, name in parts)
        rows.append((words, flow["value"], _line(flow["origin"], file)))
    if rows:
        click.echo()
        print_table([("MESSAGES OF", WIDE), ("VALUE", LEFT), ("SET BY", WIDE)], rows, fold=True)


def show_warmup(sources: Sequence[dict[str, Any]], file: str) -> None:
    """The stage of each cold source."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, print_table

    cold = [(source["name"], source["warmup"]) for source in sources if source.get("warmup") is not None]
    if not cold:
        return
    rows = []
    for name, plan in cold:
        stage = f"{plan['stage']} of {plan['stages']}" if plan.get("stage") is not None else ""
        state = plan.get("state") or ""
        why = f"{state}: {plan['why']}" if plan.get("why") else state
        others = "mail to all others" if plan.get("others") else "all mail"
        counted = others if plan["key"] == "*" else f"mail to {plan['key']}"
        used, cap = (count(plan["used"]), count(plan["cap"])) if plan.get("cold") is not False else ("", "none")
        rows.append(
            (name, plan["plan"], counted, stage, used, f"{cap} a {plan['per']}", why, _line(plan["origin"], file))
        )
    click.echo()
    print_table(
        [
            *(("WARM-UP", LEFT), ("PLAN", LEFT), ("COUNTS", LEFT), ("STAGE", LEFT), ("USED", RIGHT), ("CAP", RIGHT)),
            *(("STATE", WIDE), ("SET BY", WIDE)),
        ],
        rows,
        fold=True,
    )


def show_replies(sources: Sequence[dict[str, Any]]) -> None:
    """What rules have read out of replies, and what they ordered."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, clean, duration, print_table, shown_words

    rows: list[tuple[object, ...]] = []
    advice: dict[str, None] = {}
    for source in sources:
        told = source.get("replies") or {}
        last = told.get("last_rule")
        for hold in told.get("holds", ()):
            rows.append((source["name"], hold["rule"], hold["words"], duration(hold["ends_in_seconds"]), hold["why"]))
        if last is not None and not told.get("holds"):
            rows.append((source["name"], last["rule"], "over", "", last.get("reply") or ""))
        if last is not None and last.get("advice"):
            advice[f"{shown_words(last['rule'])}: {last['advice']}"] = None
    if rows:
        click.echo()
        print_table(
            [("REPLIES", LEFT), ("RULE", LEFT), ("ORDERS", WIDE), ("FOR", RIGHT), ("AFTER", WIDE)], rows, fold=True
        )
    for words in advice:
        click.echo(f"advice on {clean(words)}")
