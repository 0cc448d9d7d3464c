"""The part of the configuration that says how fast mail may leave: providers, shaping, warm-up, fairness.

Texts with a form of their own are kept as written here and parsed by limits/: a rate is `3000/h burst 50` (units s,
min, h, d), a number of connections `20` or `20 connections`. Every key is explained in deploy/fastrelay.example.yaml.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fastrelay.config.base import (
    Count,
    Duration,
    Name,
    PositiveDuration,
    Share,
    Struct,
    unit,
)

Rate = Annotated[str, Meta(extra=unit("rate"))]  # "3000/h burst 50"
Connections = Annotated[int, Meta(ge=1, le=100_000, extra=unit("connections"))]  # 20, or "20 connections"
Label = Annotated[str, Meta(extra=unit("label"))]  # a campaign or tenant as header fields name it; in shaping also "*"
MxSuffix = Annotated[str, Meta(extra=unit("mx_suffix"))]  # lower case, whole labels
NameOrAny = Annotated[str, Meta(extra=unit("name_or_any"))]  # a name, or "*": each on its own
TimeZone = Annotated[str, Meta(extra=unit("time_zone"))]  # an IANA name, such as Europe/Berlin
Weight = Annotated[int, Meta(ge=1, le=1000)]


class LimitSet(Struct, frozen=True):
    """What a rule may limit; None: nothing said."""

    rate: Rate | None = None  # RCPTs written, retries included
    connection_rate: Rate | None = None  # connections opened
    connections: Connections | None = None  # open at one time
    messages_per_connection: Count | None = None
    recipients_per_transaction: Count | None = None


class Provider(LimitSet, frozen=True):
    """A mailbox provider: MX suffixes added to the built-in ones (or a new provider), and limits of each source there,
    which take the place of the built-in ones key by key. The name `other` stands for each unknown site on its own."""

    suffixes: list[MxSuffix] = []


class ShapingRule(LimitSet, frozen=True):
    """A limit on what matches all the names given. A name is one counter for it; "*" is a counter for each name on
    its own; a key left away sums over all of its kind. Every counter that matches holds; of rules for the same counter
    the one that names most (limits/shape.py). A campaign or tenant has a rate only, and goes with no other name."""

    source: NameOrAny | None = None
    provider: NameOrAny | None = None
    pool: NameOrAny | None = None
    campaign: Label | None = None
    tenant: Label | None = None


class Growth(Struct, frozen=True):
    """Stages made by a rule: start, then times factor (rounded) every `every` stages until `until` is passed."""

    start: Count
    factor: Annotated[float, Meta(gt=1, le=10)] = 1.4
    every: Annotated[int, Meta(ge=1, le=30)] = 1
    until: Count = 1_000_000


class Schedule(Struct, frozen=True):
    """One of template, stages, growth. A stage is a cap of messages per `per`, held for one day."""

    template: str | None = None
    stages: list[Count] | None = None
    growth: Growth | None = None
    per: Literal["day", "hour"] | None = None  # None: the template's own, or day


class Thresholds(Struct, frozen=True):
    """Shares of the stage's attempts; None: never."""

    deferrals_share: Share | None = None
    blocks_share: Share | None = None
    bounces_share: Share | None = None
    complaints_share: Share | None = None


class HoldThresholds(Thresholds, frozen=True):
    """Beyond one of these the stage and its cap stay. A key left out has its default, one without a value: never."""

    deferrals_share: Share | None = 0.10
    blocks_share: Share | None = 0.01
    bounces_share: Share | None = 0.03
    complaints_share: Share | None = 0.001


class StepBackThresholds(Thresholds, frozen=True):
    """Beyond one of these the plan goes back by a stage."""

    deferrals_share: Share | None = 0.25
    blocks_share: Share | None = 0.05
    bounces_share: Share | None = 0.08
    complaints_share: Share | None = 0.003


class StopThresholds(Thresholds, frozen=True):
    """Beyond one of these the source sends nothing until `fastrelay warmup resume`."""

    blocks_share: Share | None = 0.30
    bounces_share: Share | None = 0.20
    complaints_share: Share | None = 0.01


class WarmupPlan(Schedule, frozen=True):
    """How a cold source gets warm. `providers`: other schedules for some of them, each counted on its own."""

    providers: dict[Name, Schedule] = {}
    time_zone: TimeZone = "UTC"
    count: Literal["sending_days", "calendar_days"] = "sending_days"
    overflow: bool = True  # to the warm sources of the pool; False: wait with reason warmup_cap
    spread_seconds: Duration = 0.0  # a day's cap is let out over so long; 0: as mail comes
    advance_at_share: Share = 0.9  # of the stage delivered, before the next one
    idle_days: Annotated[int, Meta(ge=1, le=365)] = 10  # a longer pause steps back
    minimum_messages: Count = 100  # attempts of a stage before shares count
    hold: HoldThresholds = HoldThresholds()
    step_back: StepBackThresholds = StepBackThresholds()
    stop: StopThresholds = StopThresholds()


class Class(Struct, frozen=True):
    """A priority class."""

    weight: Weight = 1
    expire_seconds: PositiveDuration | None = None  # None: retry.expire


class Fairness(Struct, frozen=True):
    """Shares inside a site. `transactional` always goes first; others share by class weight × campaign × tenant."""

    transactional: Class = Class()
    normal: Class = Class(weight=4)
    bulk: Class = Class()
    campaigns: dict[Label, Weight] = {}
    tenants: dict[Label, Weight] = {}


class Tenant(Struct, frozen=True):
    """What a tenant may use; no pools: all."""

    pools: list[Name] = []


class Assignment(Struct, frozen=True):
    """What mail gets by where it came from or who sends it, unless a header says otherwise."""

    pool: Name | None = None
    campaign: Label | None = None
    tenant: Label | None = None
    priority: Literal["transactional", "normal", "bulk"] | None = None
    bounces: bool | None = None  # False: no bounce messages, the application reads events


class Backoff(Struct, frozen=True):
    """Adaptive back-off: rules that read replies. `rules`: a file of the operator's, tried before the built-in ones."""

    enabled: bool = True
    rules: str | None = None
    built_in: bool = True
    slowest_rate: Rate = "1/min"
    recover_seconds: PositiveDuration = 3600.0
