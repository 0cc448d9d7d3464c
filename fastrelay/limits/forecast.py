"""When a campaign will be out: the relay's limits, warm-up and queue, run forward as a fluid. Pure.

    result = forecast(config, [Demand("google", 40_000), Demand("yahoo", 20_000)], begins=wall_seconds)

The limits come from the code that the relay itself uses (shape.py), and so do the stages and days of warm-up
(stages.py, days.py). forecast_build.py makes sites, cells and bounds of them, forecast_flow.py finds the rates at a
moment, and forecast_run.py goes from event to event: a site that is out, a cap that is used up, a new day, a burst that
is over, mail that arrives. Nothing is stepped through, so 60 days cost what happens in them.

What it takes for granted: every recipient is taken at the first attempt, no provider slows down, no stage of warm-up is
held. It says when the campaign is out if nothing goes wrong; `fastrelay sim` shows what happens if something does.

Known faults: in the last moments of a site its sources share what is left as a fluid, not as whole messages. Of classes
and weights of fairness only this counts: mail queued before takes half of a site's rate while it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fastrelay.config.schema import Config
from fastrelay.limits.forecast_build import Demand, Model, Service, Stand
from fastrelay.limits.forecast_run import Runner

__all__ = ["SHARES", "Demand", "Forecast", "Line", "Service", "Stage", "Stand", "forecast"]

SHARES = (0.5, 0.9, 1.0)
ALL_OUT = 1 - 1e-7  # of a fluid, all is out
MOST_REASONS = 5

Curve = list[tuple[float, float]]  # (seconds after the start, recipients sent by then), rising


@dataclass(frozen=True)
class Line:
    """When a part of the campaign goes: seconds after the start; None: not within the horizon.

    reached  share → when
    held_by  (words, share of the waiting) with what holds it back most first
    """

    recipients: float
    sent: float
    start: float | None
    reached: dict[float, float | None]
    held_by: list[tuple[str, float]] = field(default_factory=list)
    ahead: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A source enters a stage of its warm-up (from 1; stages + 1: done), `cap` messages per period."""

    at: float
    stage: int
    cap: int | None


@dataclass
class Forecast:
    """What comes of it. `pairs` is by (provider, source), without those that send nothing."""

    begins: float
    horizon: float
    total: Line
    providers: dict[str, Line]
    sources: dict[str, Line]
    pairs: dict[tuple[str, str], Line]
    curve: Curve
    curves: dict[str, Curve]  # by provider
    warmup: dict[tuple[str, str], list[Stage]]  # by (source, key)
    stages: dict[tuple[str, str], int]  # how many there are
    limits: dict[str, str]  # cell name → words, of the limits that hold back, most first
    events: int


def forecast(
    config: Config,
    demands: Sequence[Demand],
    begins: float,
    *,
    pool: str = "",
    services: Mapping[str, Service] | None = None,
    stands: Sequence[Stand] = (),
    day_began: float | None = None,
    over: float = 0.0,
    days: float = 400.0,
    more_sources: Sequence[str] = (),
    factors: Mapping[str, float] | None = None,
    relay_rate: float | None = None,
    fresh: bool = False,
) -> Forecast:
    """The forecast of a campaign.

    begins        wall time of the start (s)
    services      how long a message and a connection take, by provider; "" for all others
    stands        where warm-up stands; a source that is not named begins at its first stage
    day_began     seconds before the start at which the open warm-up day opened; None: it opens at the start
    over          seconds over which the campaign is handed in
    days          the horizon
    more_sources  names of further warm sources in the pool, for a "what if"
    factors       cell name of a limit → factor on it, for a "what if"
    relay_rate    messages a second that the relay itself can do; None: any number
    fresh         the relay starts on a new state directory at this moment: no bucket holds a burst yet
    """
    model = Model(
        config,
        demands,
        begins,
        pool=pool,
        services=services or {},
        stands=stands,
        day_began=day_began,
        more_sources=more_sources,
        factors=factors or {},
        relay_rate=relay_rate,
    )
    if fresh:
        model.empty_buckets()
    runner = Runner(model, demands, over, days)
    runner.run()
    return _told(runner, demands)


def _told(runner: Runner, demands: Sequence[Demand]) -> Forecast:
    """The result of a run."""
    model = runner.model
    by_provider: dict[str, list[Curve]] = {}
    wanted: dict[str, float] = {}
    ahead: dict[str, float] = {}
    for site, demand in zip(model.sites, demands, strict=True):
        by_provider.setdefault(site.provider, []).append(site.curve)
        wanted[site.provider] = wanted.get(site.provider, 0.0) + demand.recipients
        ahead[site.provider] = ahead.get(site.provider, 0.0) + demand.ahead
    curves = {provider: merged(found) for provider, found in by_provider.items()}
    held = {provider: _shares(runner.held_of(provider)) for provider in curves}
    whole = merged(list(curves.values()))
    everything: dict[str, float] = {}
    for provider in curves:
        for words, weight in runner.held_of(provider).items():
            everything[words] = everything.get(words, 0.0) + weight
    return Forecast(
        begins=model.begins,
        horizon=runner.horizon,
        total=_line(whole, sum(wanted.values()), _shares(everything), sum(ahead.values())),
        providers={
            provider: _line(curve, wanted[provider], held[provider], ahead[provider])
            for provider, curve in curves.items()
        },
        sources={name: _line(curve, curve[-1][1]) for name, curve in runner.source_curves().items()},
        pairs={pair: _line(curve, curve[-1][1]) for pair, curve in runner.pair_curves().items() if curve[-1][1] > 0.5},
        curve=whole,
        curves=curves,
        warmup={
            (name, track.key): [Stage(*seen) for seen in track.stages_seen]
            for track in model.tracks.values()
            for name in track.group.names
        },
        stages={
            (name, track.key): len(track.ramp.caps) for track in model.tracks.values() for name in track.group.names
        },
        limits={name: words for name, (words, _) in sorted(runner.limits.items(), key=lambda one: -one[1][1])},
        events=runner.events,
    )


def _shares(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    total = sum(weights.values())
    most = sorted(weights.items(), key=lambda one: -one[1])[:MOST_REASONS]
    return [(words, weight / total) for words, weight in most if total and weight / total > 0.001]


def _line(curve: Curve, wanted: float, held_by: list[tuple[str, float]] | None = None, ahead: float = 0.0) -> Line:
    sent = curve[-1][1]
    start = next((at for (at, before), (_, after) in pairwise(curve) if after > before), None)
    reached = {share: when(curve, wanted * min(share, ALL_OUT)) if wanted > 0 else None for share in SHARES}
    return Line(wanted, sent, start, reached, held_by or [], ahead)


def when(curve: Curve, amount: float) -> float | None:
    """When a rising curve reaches an amount; None: it does not."""
    if curve[-1][1] < amount:
        return None
    low, high = 0, len(curve) - 1
    while low < high:
        middle = (low + high) // 2
        if curve[middle][1] >= amount:
            high = middle
        else:
            low = middle + 1
    at, value = curve[low]
    if low == 0:
        return at
    before_at, before = curve[low - 1]
    return at if value <= before else before_at + (at - before_at) * (amount - before) / (value - before)


def merged(curves: Sequence[Curve]) -> Curve:
    """The sum of rising curves, as slopes that are added at each of their times."""
    if len(curves) == 1:
        return curves[0]
    slopes: dict[float, float] = {0.0: 0.0}
    jumps: dict[float, float] = {}
    for curve in curves:
        for (at, before), (until, after) in pairwise(curve):
            if until <= at:
                jumps[at] = jumps.get(at, 0.0) + after - before
                continue
            slope = (after - before) / (until - at)
            slopes[at] = slopes.get(at, 0.0) + slope
            slopes[until] = slopes.get(until, 0.0) - slope
    total: Curve = []
    slope, amount, last = 0.0, 0.0, 0.0
    for at in sorted({*slopes, *jumps}):
        amount += slope * (at - last)
        if at in jumps:
            total.append((at, amount))
            amount += jumps[at]
        slope += slopes.get(at, 0.0)
        last = at
        total.append((at, max(amount, total[-1][1] if total else 0.0)))
    return total
