"""What would change a forecast: a few "what if"s, each reckoned by another run. Pure.

    one more warm source, like those there are        (where a warm source is held by a limit of its own)
    the limit that holds most, doubled                (where a provider would bear it, an operator must judge)
    begin later, once warm-up is further              (said, not run: caps grow by themselves)

Known faults: only one thing is changed at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastrelay.config.schema import Config
from fastrelay.limits.forecast import Forecast
from fastrelay.limits.forecast_build import Demand

WORTH_SHARE = 0.9  # of the time: a change that does less is not worth a line
MOST_CHANGES = 3
NEW_SOURCE = "one more"


@dataclass(frozen=True)
class Change:
    """A change, and when all would be out with it (seconds after the start; None: not within the horizon)."""

    words: str
    done: float | None
    before: float | None

    @property
    def saves(self) -> float:
        """The share of the time that it saves; 1 where it makes an end of what had none."""
        if self.done is None:
            return 0.0
        return 1.0 if self.before is None else 1 - self.done / self.before if self.before else 0.0


Run = Callable[[Sequence[str], Mapping[str, float]], Forecast]


def changes(config: Config, pool: str, told: Forecast, limits: Mapping[str, str], run: Run) -> list[Change]:
    """The changes that help most, best first.

    limits  cell name of each limit that holds back → its words
    run     a forecast with further warm sources and factors on limits
    """
    before = told.total.reached[1.0]
    found = []
    if told.total.held_by:
        sources = {source.name: source for source in config.sources}
        names = config.pools.get(pool) or list(sources)
        cold = [name for name in names if name in sources and sources[name].warmup]
        what = "a warm source" if len(cold) == len(names) and names else "one more warm source"
        more = run([NEW_SOURCE], {})
        found.append(Change(f"{what} in the pool", more.total.reached[1.0], before))
    for name, words in list(limits.items())[: MOST_CHANGES - 1]:
        doubled = run([], {name: 2.0})
        found.append(Change(f"twice the limit of {words}", doubled.total.reached[1.0], before))
    worth = [change for change in found if change.saves >= 1 - WORTH_SHARE]
    return sorted(worth, key=lambda change: -change.saves)[:MOST_CHANGES]


def outlasting(told: Forecast, demands: Sequence[Demand], expire_seconds: float, over: float) -> dict[str, float]:
    """Providers whose last recipients wait longer than the retry.expire of the configuration: seconds of the wait.

    What is not out within the horizon waits longer than that.
    """
    late = {}
    for provider, line in told.providers.items():
        last = line.reached[1.0]
        waits = (told.horizon if last is None else last) - over
        if line.recipients and waits > expire_seconds:
            late[provider] = waits
    return late
