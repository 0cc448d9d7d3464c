"""A scenario file: which campaigns go out over how long, and how the mailbox providers of the simulation behave.

    for: 14d
    mix: {google: 40%, yahoo: 25%, other: 35%}
    campaigns:
      - {name: newsletter, count: 5000, every: 1d, times: 14}
    providers:
      google: {connections: 5, rates: [{limit: 3000/h, window: clock}], reputation: {first_day: 500}}

Strict like the configuration, with the same reader: every problem at once, by line, path and mend. What a provider is
not told to do it does by `defaults`, and what those leave open by its habit: the connections and messages per
connection of the built-in provider table.

Known faults: none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastrelay.config.base import Count, Duration, Name, PositiveDuration, Share, Size, Struct, unit
from fastrelay.config.load import _compose, _read
from fastrelay.config.tree import BAD, TreeReader
from fastrelay.errors import ConfigError
from fastrelay.limits.rate import Rate, parse_rate
from fastrelay.route.providers import OTHER, built_in_table
from fastrelay.sim import policy

RateText = Annotated[str, Meta(extra=unit("rate"))]
Reply = Annotated[str, Meta(extra=unit("reply"))]
Time = Annotated[str, Meta(extra=unit("time"))]

START = datetime(2026, 3, 2, tzinfo=UTC).timestamp()  # a Monday
MOST_RECIPIENTS = 2_000_000  # of a scenario: every message is really relayed, some thousand a second
MOST_DAYS = 400
MOST_DOMAINS = 500
MIX_SLACK = 0.005


class RateLimit(Struct, frozen=True):
    """`limit` counted over a bucket, a sliding window or a clock's hours; for each address, or for all together."""

    limit: RateText
    window: Literal["bucket", "sliding", "clock"] = "bucket"
    per: Literal["address", "provider"] = "address"
    count_refused: bool = False  # what was refused counts too: knocking harder opens nothing
    reply: Reply = "421-4.7.28 Unusual rate of mail from your address"


class Reputation(Struct, frozen=True):
    """What an address may send in a day, and what costs it standing; see policy.py."""

    first_day: Count = 500
    growth: Annotated[float, Meta(ge=1, le=100)] = 2.0
    memory_seconds: PositiveDuration = 14 * policy.DAY_SECONDS
    excess_share: Share = 0.2
    bounces_share: Share = 0.05
    complaints_share: Share = 0.003
    cost_share: Share = 0.2
    recovery_share: Share = 0.05
    excess_reply: Reply = "421 4.7.0 Too much mail from an address that we hardly know; try again later"
    deferring_reply: Reply = "421 4.7.0 Temporarily deferred due to the reputation of your address"
    blocking_reply: Reply = "550 5.7.1 Blocked: very low reputation of the sending IP address"


class Outage(Struct, frozen=True):
    """Some time in which a provider answers everything with one reply."""

    at_seconds: Duration = 0.0  # after the start
    lasts_seconds: PositiveDuration = msgspec.field(default=3600.0, name="for")
    reply: Reply = "421 4.3.2 Closed for maintenance"


class Habit(Struct, frozen=True):
    """How a provider behaves. None: see the module's text."""

    connections: Count | None = None  # open from one address
    connection_rate: RateText | None = None
    messages_per_connection: Count | None = None
    rates: list[RateLimit] | None = None
    latency_seconds: Duration | None = None  # before each reply
    greylist_seconds: Duration | None = None
    unknown_mailboxes_share: Share | None = None
    deferred_share: Share | None = None  # of recipients, at their first attempt
    complaints_share: Share | None = None
    reputation: Reputation | None = None
    outages: list[Outage] | None = None


class Campaign(Struct, frozen=True):
    """`count` recipients, submitted within `over`, `times` times `every` so often."""

    name: Name = "campaign"
    count: Count = 1000
    at_seconds: Duration = 0.0
    over_seconds: Duration = 60.0
    every_seconds: PositiveDuration = policy.DAY_SECONDS
    times: Annotated[int, Meta(ge=1, le=1000)] = 1
    size_bytes: Size = 2048
    mix: dict[Name, Share] | None = None
    priority: Literal["transactional", "normal", "bulk"] | None = None
    pool: Name | None = None
    tenant: Name | None = None


class Scenario(Struct, frozen=True):
    """A whole scenario. `known`: recipients a day that providers know a source for already (reputation)."""

    lasts_seconds: PositiveDuration = msgspec.field(default=7 * policy.DAY_SECONDS, name="for")
    start: Time = ""  # 2026-03-02T08:00:00Z; "": a Monday, midnight UTC
    mix: dict[Name, Share] = msgspec.field(
        default_factory=lambda: {"google": 0.4, "yahoo": 0.2, "outlook": 0.2, OTHER: 0.2}
    )
    domains: Annotated[int, Meta(ge=1, le=MOST_DOMAINS)] = 20  # of each provider
    seed: int = 1
    defaults: Habit = Habit()
    providers: dict[Name, Habit] = {}
    known: dict[Name, Annotated[int, Meta(ge=0, le=10**9)]] = {}
    campaigns: list[Campaign] = []

    @property
    def begins(self) -> float:
        """Wall time of the start, in seconds."""
        return parse_start(self.start) if self.start else START

    @property
    def recipients(self) -> int:
        """How many are submitted until the end."""
        return sum(
            campaign.count
            for campaign in self.campaigns
            for turn in range(campaign.times)
            if campaign.at_seconds + turn * campaign.every_seconds < self.lasts_seconds
        )

    def used_providers(self) -> list[str]:
        """Every provider that mail goes to, in a stable order."""
        mixes = [campaign.mix if campaign.mix is not None else self.mix for campaign in self.campaigns] or [self.mix]
        return sorted({name for mix in mixes for name, share in mix.items() if share})


@dataclass(frozen=True)
class Manner:
    """A habit with everything decided: the policy, and the latency in seconds."""

    rules: policy.PolicyRules
    latency: float


def parse_start(text: str) -> float:
    """Wall seconds of an RFC 3339 time. Raises ValueError, "problem; mend"."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write it as 2026-03-02T08:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _checked(text: str) -> str:
    """The text of a time that can be read."""
    parse_start(text)
    return text


def _parse_reply(text: str) -> str:
    """One reply; a multi-line one is written as the lines that the host sends."""
    lines = text.strip("\n").split("\n")
    for line in lines:
        if len(line) < 4 or not line[:3].isdigit() or line[0] not in "45" or line[3] not in " -":
            raise ValueError(f"{line!r} is no refusal; write a code from 400 to 599 and words, such as 421 4.7.0 Later")
    # Written on one line, `421-4.7.28 …` is how providers' pages quote it: the only line is the last one.
    lines = [f"{line[:3]}-{line[4:]}" for line in lines[:-1]] + [f"{lines[-1][:3]} {lines[-1][4:]}"]
    return "\r\n".join(lines)


class _Reader(TreeReader):
    """The configuration's reader, with the forms that only a scenario has."""

    def read_scalar(self, node: Any, kind: Any, meta: Any, path: str) -> Any:
        form = (meta.extra or {}).get("unit") if meta is not None else None
        parse = {"rate": lambda text: parse_rate(text).text, "reply": _parse_reply, "time": _checked}.get(form or "")
        if parse is None:
            return super().read_scalar(node, kind, meta, path)
        try:
            return parse(str(node.value))
        except ValueError as error:
            return self.value_fault(node, path, error)


def load_scenario(path: str | os.PathLike[str]) -> Scenario:
    """The scenario in a file. Raises ConfigError."""
    name = os.fspath(path)
    return parse_scenario(_read(name), name)


def parse_scenario(text: str, name: str = "<scenario>") -> Scenario:
    """The scenario in a text. Raises ConfigError."""
    reader = _Reader(name)
    scenario = reader.read(_compose(text, name), Scenario, "")
    if scenario is not BAD:
        _check(scenario, reader)
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda problem: problem.line))
    return scenario  # type: ignore[no-any-return]


def _check(scenario: Scenario, reader: TreeReader) -> None:
    """Rules over several keys."""

    def problem(path: str, words: str, mend: str) -> None:
        reader.problem(path, _line(reader, path), words, mend)

    if not scenario.campaigns and "campaigns" not in reader.lines:
        problem("campaigns", "is missing", "add campaigns: with a list, such as - {name: newsletter, count: 5000}")
    if scenario.lasts_seconds > MOST_DAYS * policy.DAY_SECONDS:
        problem("for", f"is longer than {MOST_DAYS} days", "write a shorter time")
    _check_mix(scenario.mix, "mix", problem)
    names = set()
    for at, campaign in enumerate(scenario.campaigns):
        if campaign.mix is not None:
            _check_mix(campaign.mix, f"campaigns[{at}].mix", problem)
        if campaign.name in names:
            problem(f"campaigns[{at}].name", f"{campaign.name!r} is used twice", "give each campaign its own name")
        names.add(campaign.name)
        if campaign.at_seconds >= scenario.lasts_seconds:
            problem(f"campaigns[{at}].at", "is after the end of the scenario", "write an earlier time or a longer for")
    if scenario.recipients > MOST_RECIPIENTS:
        words = f"come to {scenario.recipients:,} recipients, all of which would really be relayed"
        problem("campaigns", words, f"write smaller counts, {MOST_RECIPIENTS:,} in all; fastrelay plan has no bound")
    used = set(scenario.used_providers())
    for name in scenario.providers:
        if name not in used:
            problem(f"providers.{name}", "gets no mail by any mix", "add it to a mix, or leave it out")


def _line(reader: TreeReader, path: str) -> int:
    return reader.lines.get(path, reader.lines.get(path.rpartition(".")[0], 0))


def _check_mix(mix: dict[str, float], path: str, problem: Any) -> None:
    total = sum(mix.values())
    if abs(total - 1) > MIX_SLACK:
        problem(path, f"adds up to {total * 100:g}%, not to 100%", "change a share, or add `other` with the rest")


# -- from words to policies ------------------------------------------------------------------------------------------


def _rate_rule(text: str, **fields: Any) -> policy.RateRule:
    rate: Rate = parse_rate(text)
    return policy.RateRule(rate.units, rate.period_ns / 1e9, burst=rate.burst, **fields)


def manner_of(scenario: Scenario, provider: str) -> Manner:
    """What one provider does, all told."""
    table = built_in_table()
    known = next((one.limits for one in table.providers if one.name == provider), table.other)
    own = scenario.providers.get(provider, Habit())

    def said(key: str, default: Any) -> Any:
        value = getattr(own, key)
        if value is None:
            value = getattr(scenario.defaults, key)
        return default if value is None else value

    rates = tuple(
        _rate_rule(one.limit, window=one.window, per=one.per, count_refused=one.count_refused, reply=one.reply.encode())
        for one in said("rates", [])
    )
    connecting = said("connection_rate", None)
    begins = scenario.begins
    rules = policy.PolicyRules(
        rates=rates,
        connections=said("connections", known.connections or table.other.connections or 0),
        connection_rate=None
        if connecting is None
        else _rate_rule(connecting, reply=b"421 4.7.0 Too many new connections from your address"),
        messages_per_connection=said("messages_per_connection", known.messages_per_connection or 0),
        greylist_seconds=said("greylist_seconds", 0.0),
        unknown_share=said("unknown_mailboxes_share", 0.0),
        deferred_share=said("deferred_share", 0.0),
        complaints_share=said("complaints_share", 0.0),
        standing=_standing(said("reputation", None)),
        outages=tuple(
            policy.Outage(begins + one.at_seconds, begins + one.at_seconds + one.lasts_seconds, one.reply.encode())
            for one in said("outages", [])
        ),
    )
    return Manner(rules, said("latency_seconds", 0.0))


def _standing(reputation: Reputation | None) -> policy.StandingRules | None:
    if reputation is None:
        return None
    return policy.StandingRules(
        first_day=reputation.first_day,
        growth=reputation.growth,
        memory_days=max(1, round(reputation.memory_seconds / policy.DAY_SECONDS)),
        excess_share=reputation.excess_share,
        bounces_share=reputation.bounces_share,
        complaints_share=reputation.complaints_share,
        cost=reputation.cost_share,
        recovery=reputation.recovery_share,
        excess_reply=reputation.excess_reply.encode(),
        deferring_reply=reputation.deferring_reply.encode(),
        blocking_reply=reputation.blocking_reply.encode(),
    )
