"""What a simulation came to, for a program and in words: totals, what held, what providers think, advice. Pure.

Known faults: advice is of a few kinds only; it reads what happened, and tries nothing out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.sim.run import Outcomes, Result
from fastrelay.sim.scenario import Scenario

MANY_DEFERRED_SHARE = 0.1  # of attempts
SOME_BLOCKED_SHARE = 0.01
POOR_SCORE = 0.5
MOST_EVENTS = 200
# What a provider held against us → what to do about it.
_ADVICE = {
    "rate": "it wants a lower rate of each address: set `rate` for this provider in `shaping` or `providers`",
    "connections": "it wants fewer connections: set `connections` for this provider",
    "connection_rate": "it wants fewer new connections: set `connection_rate` for this provider",
    "messages_per_connection": "it wants fewer messages on a connection: set `messages_per_connection`",
    "allowance": "it does not know the address well enough: give the source a warm-up plan, or a slower one",
    "standing": "the address has lost standing: send less, to readers who want it, for some days",
    "blocked": "the address is blocked: stop sending from it there, and find out why",
}


def as_json(result: Result, scenario: Scenario, config: Config) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "simulated_seconds": round(result.seconds, 3),
        "real_seconds": round(result.real_seconds, 3),
        "submitted": sum(result.submitted.values()),
        "refused_at_submission": result.refused,
        "queued_at_the_end": result.queued,
        "providers": {name: provider_json(result, name) for name in sorted(result.submitted)},
        "pairs": [
            {"provider": provider, "source": source, **_outcomes_json(outcomes), **_standing(result, provider, source)}
            for (provider, source), outcomes in sorted(result.outcomes.items())
        ],
        "out_seconds": _reached(result, ""),
        "warmup": result.warmup,
        "events": result.happened[:MOST_EVENTS],
        "advice": advice(result, scenario, config),
    }


def provider_json(result: Result, name: str) -> dict[str, Any]:
    """One provider."""
    outcomes = of_provider(result, name)
    return {
        "submitted": result.submitted.get(name, 0),
        **_outcomes_json(outcomes),
        "blocked": result.refusals.get(name, Counter())["blocked"],
        "first_seconds": result.first.get(name),
        "out_seconds": _reached(result, name),
        "waited_for": held_by(result, name),
        "refusals": dict(result.refusals.get(name, {})),
        "replies": dict(result.replies.get(name, {})),
    }


def of_provider(result: Result, name: str) -> Outcomes:
    """The sum over its sources."""
    total = Outcomes()
    for (provider, _), outcomes in result.outcomes.items():
        if provider == name:
            for field in Outcomes.__dataclass_fields__:
                setattr(total, field, getattr(total, field) + getattr(outcomes, field))
    return total


def held_by(result: Result, name: str) -> dict[str, float]:
    """Reasons of waiting with their shares, most first; without being on the way."""
    waited = Counter(result.waited.get(name, {}))
    waited.pop("ready", None)
    total = waited.total()
    return {reason: round(weight / total, 4) for reason, weight in waited.most_common() if total}


def advice(result: Result, scenario: Scenario, config: Config) -> list[str]:
    """What to change before the first real campaign."""
    found = []
    cold = {source.name for source in config.sources if source.warmup}
    for name in sorted(result.submitted):
        outcomes = of_provider(result, name)
        attempts = outcomes.delivered + outcomes.deferred + outcomes.failed
        refusals = result.refusals.get(name, Counter())
        for why, count in refusals.most_common():
            bound = SOME_BLOCKED_SHARE if why in ("blocked", "standing", "allowance") else MANY_DEFERRED_SHARE
            if why in _ADVICE and attempts and count / attempts > bound:
                found.append(f"{name}: {count / attempts:.0%} of attempts met its limit ({why}); {_ADVICE[why]}")
        if outcomes.expired:
            found.append(f"{name}: {outcomes.expired:,} recipients expired; raise retry.expire, or send fewer a day")
    for (provider, source), standing in sorted(result.standings.items()):
        if standing["score"] < POOR_SCORE and source not in cold:
            found.append(f"{provider} thinks poorly of {source} at the end; a warm-up plan would have held it back")
    for row in result.warmup:
        if row.get("held"):
            at = "" if row["key"] == "*" else f" at {row['key']}"
            words = f"{row['state']} at stage {row['stage']} of {row['stages']} ({row['why']})"
            found.append(f"warm-up of {row['source']}{at} ends {words}: mend that, or widen the threshold of its plan")
    if result.queued:
        found.append(
            f"{result.queued:,} recipients were still queued at the end; `for` a longer time shows when they go"
        )
    if result.refused:
        found.append(
            f"{result.refused:,} messages were refused for good when they were handed in; check pools and tenants"
        )
    return list(dict.fromkeys(found)) or ["nothing to change: no provider objected"]


def _outcomes_json(outcomes: Outcomes) -> dict[str, int]:
    return {field: getattr(outcomes, field) for field in Outcomes.__dataclass_fields__}


def _standing(result: Result, provider: str, source: str) -> dict[str, Any]:
    standing = result.standings.get((provider, source))
    return {"standing": standing} if standing is not None else {}


def _reached(result: Result, name: str) -> dict[str, float | None]:
    return {f"{share * 100:.0f}": at for share, at in result.reached.get(name, {}).items()}
