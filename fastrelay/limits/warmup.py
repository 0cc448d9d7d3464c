"""Warm-up schedules: from a plan of the configuration to stages. Pure; nothing here reads a clock or a file of state.

A plan (config.warmup) names a template, lists stages, or gives a growth rule, for all providers and, where it differs,
for some of them. What becomes of it is a Ramp for each *key*: a provider with a schedule of its own (in the plan or in
its template), and "*" for all others together, which share one count. A Ramp is a tuple of caps, one a stage; a stage
is held for one day, and its cap counts messages of that day, or of each of its hours.

The templates are config/defaults/warmup.yaml; each names its source. How stages follow each other is stages.py, when
days begin is days.py.

Known fault: a source's mail to providers below "*" is one count, as in all public schedules; who wants each apart
writes a schedule for each below `providers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import yaml

from fastrelay.config.sending import Growth, Schedule, WarmupPlan
from fastrelay.limits.days import DAY_SECONDS, HOUR_SECONDS

EVERY = "*"  # the key of all providers without a schedule of their own
MAX_STAGES = 1000
LARGEST_STEP = 10  # a stage more than so many times the one before is taken for a gap
LARGEST_CAP = 10**9  # what config.base.Count allows

Per = Literal["day", "hour"]
Cap = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_CAP)]
Stages = list[Cap | Annotated[list[Cap], msgspec.Meta(min_length=2, max_length=2)]]  # a list: cap, number of stages


class Band(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The factor of a growth rule below a cap; None: from there on."""

    factor: Annotated[float, msgspec.Meta(gt=1, le=10)]
    below: Cap | None = None


class BandedGrowth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Growth whose factor depends on how far it has come."""

    start: Cap
    bands: Annotated[list[Band], msgspec.Meta(min_length=1)]
    every: Annotated[int, msgspec.Meta(ge=1, le=30)] = 1
    until: Cap


class ProviderStages(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A template's stages for one provider."""

    stages: Stages


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named schedule of defaults/warmup.yaml, with its source."""

    name: str
    per: Per
    source: Annotated[str, msgspec.Meta(min_length=1)]
    note: str = ""
    stages: Stages | None = None
    growth: BandedGrowth | None = None
    providers: dict[str, ProviderStages] = {}


class TemplateTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: int
    templates: list[Template]


class Ramp(msgspec.Struct, frozen=True):
    """The stages of one key: caps (messages) per day or per hour. `origin`: the schedule that they are from."""

    caps: tuple[int, ...]
    per: Per
    origin: str

    @property
    def period_seconds(self) -> int:
        return HOUR_SECONDS if self.per == "hour" else DAY_SECONDS

    @property
    def fingerprint(self) -> str:
        """Changes with the stages; what is on disk is read with it."""
        return hashlib.sha256(f"{self.per}:{','.join(map(str, self.caps))}".encode()).hexdigest()[:16]

    def stage_at(self, cap: int) -> int:
        """The last stage (from 0) whose cap is not above `cap`; the first one if all are."""
        return max((stage for stage, own in enumerate(self.caps) if own <= cap), default=0)


class ScheduleProblem(msgspec.Struct, frozen=True):
    """What is wrong with a plan: the path below the plan (`stages[3]`), the problem, the mend."""

    path: str
    problem: str
    mend: str


@lru_cache(maxsize=1)
def templates() -> Mapping[str, Template]:
    """The named templates, by name."""
    text = (resources.files("fastrelay.config") / "defaults" / "warmup.yaml").read_text(encoding="utf-8")
    table = msgspec.convert(yaml.safe_load(text), TemplateTable)
    return {template.name: template for template in table.templates}


# --- caps ---


def expand(stages: Stages) -> tuple[int, ...]:
    """Caps of a template's stages, pairs of cap and number written out."""
    caps: list[int] = []
    for stage in stages:
        caps += [stage] if isinstance(stage, int) else [stage[0]] * stage[1]
    return tuple(caps)


def grow(growth: Growth) -> tuple[int, ...]:
    """Caps of a growth rule: start × factor^n, each held `every` stages; `until` is the last one.

    Rounded, but always at least one more than the level before. Raises ValueError at more than MAX_STAGES.
    """
    return _levels(
        growth.start, growth.every, growth.until, lambda n, cap: max(cap + 1, round(growth.start * growth.factor**n))
    )


def grow_banded(growth: BandedGrowth) -> tuple[int, ...]:
    """Caps of a growth rule whose factor depends on the cap reached."""

    def following(n: int, cap: int) -> int:
        band = next((band for band in growth.bands if band.below is None or cap < band.below), growth.bands[-1])
        return max(cap + 1, round(cap * band.factor))

    return _levels(growth.start, growth.every, growth.until, following)


def _levels(start: int, every: int, until: int, following: Callable[[int, int], int]) -> tuple[int, ...]:
    """following(n, cap): the n-th level from the one before it."""
    caps: list[int] = []
    cap, n = start, 0
    while True:
        caps += [min(cap, until)] * every
        if len(caps) > MAX_STAGES:
            raise ValueError(f"it makes more than {MAX_STAGES} stages")
        if cap >= until:
            return tuple(caps)
        n += 1
        cap = following(n, cap)


# --- plans ---


def ramps(plan: WarmupPlan) -> dict[str, Ramp]:
    """The ramp of each key of a plan, "*" first. Raises ValueError where `problems` finds something."""
    found = problems(plan)
    if found:
        raise ValueError(f"{found[0].path}: {found[0].problem}; {found[0].mend}")
    made = {EVERY: ramp_of(plan)}
    if plan.template is not None:
        template = templates()[plan.template]
        for provider, own in template.providers.items():
            made[provider] = Ramp(expand(own.stages), plan.per or template.per, f"template {template.name}: {provider}")
    for provider, schedule in plan.providers.items():
        made[provider] = ramp_of(schedule, provider, plan.per if schedule.template is None else None)
    return made


def ramp_of(schedule: Schedule, provider: str | None = None, per: Per | None = None) -> Ramp:
    """The ramp of one schedule, for a provider that the template may know. `per`: where the schedule says none."""
    if schedule.template is not None:
        template = templates()[schedule.template]
        own = template.providers.get(provider) if provider is not None else None
        if own is not None:
            return Ramp(expand(own.stages), schedule.per or template.per, f"template {template.name}: {provider}")
        caps = expand(template.stages) if template.stages is not None else ()
        if template.growth is not None:
            caps = grow_banded(template.growth)
        return Ramp(caps, schedule.per or template.per, f"template {template.name}")
    chosen = schedule.per or per or "day"
    if schedule.growth is not None:
        return Ramp(grow(schedule.growth), chosen, "growth")
    return Ramp(tuple(schedule.stages or ()), chosen, "stages")


def key_of(made: Mapping[str, Ramp], provider: str) -> str:
    """The key that counts mail to a provider."""
    return provider if provider in made else EVERY


# --- what `fastrelay check` refuses ---


def problems(plan: WarmupPlan) -> list[ScheduleProblem]:
    """What is wrong with a plan, in the order of the plan."""
    found = list(_schedule_problems(plan, ""))
    for provider, schedule in plan.providers.items():
        found += _schedule_problems(schedule, f"providers.{provider}.")
    for name in ("deferrals_share", "blocks_share", "bounces_share", "complaints_share"):
        found += _threshold_problems(plan, name)
    return found


def _schedule_problems(schedule: Schedule, path: str) -> Iterator[ScheduleProblem]:
    given = [name for name in ("template", "stages", "growth") if getattr(schedule, name) is not None]
    here = path.removesuffix(".")
    if len(given) != 1:
        problem = f"has {' and '.join(given)}" if given else "has no schedule"
        yield ScheduleProblem(here, problem, "give exactly one of template, stages and growth")
        return
    if schedule.template is not None and schedule.template not in templates():
        close = get_close_matches(schedule.template, list(templates()), 1)
        mend = f"did you mean {close[0]}?" if close else f"the templates are {', '.join(templates())}"
        yield ScheduleProblem(f"{path}template", f"there is no template {schedule.template!r}", mend)
    elif schedule.stages is not None:
        yield from _stage_problems(schedule.stages, path)
    elif schedule.growth is not None:
        yield from _growth_problems(schedule.growth, path)


def _stage_problems(stages: list[int], path: str) -> Iterator[ScheduleProblem]:
    if not stages:
        yield ScheduleProblem(f"{path}stages", "has no stage", "list a cap for each stage, such as [200, 500, 1000]")
    if len(stages) > MAX_STAGES:
        yield ScheduleProblem(f"{path}stages", f"has {len(stages)} stages", f"list at most {MAX_STAGES}")
    for at in range(1, len(stages)):
        before, cap = stages[at - 1], stages[at]
        where = f"{path}stages[{at}]"
        if cap < before:
            yield ScheduleProblem(
                where, f"{cap} is less than the {before} before it", "write caps that do not fall; is a digit missing?"
            )
        elif cap > before * LARGEST_STEP:
            yield ScheduleProblem(
                where,
                f"there is a gap: {cap} is more than {LARGEST_STEP} times the {before} before it",
                "put stages between them",
            )


def _growth_problems(growth: Growth, path: str) -> Iterator[ScheduleProblem]:
    if growth.until < growth.start:
        yield ScheduleProblem(
            f"{path}growth.until", f"{growth.until} is below the start, {growth.start}", "write a larger number"
        )
        return
    try:
        grow(growth)
    except ValueError as error:
        yield ScheduleProblem(f"{path}growth", str(error), "write a larger factor, or a smaller `every` or `until`")


def _threshold_problems(plan: WarmupPlan, name: str) -> Iterator[ScheduleProblem]:
    """A worse act needs a higher threshold, or the milder one would never come."""
    order = ("hold", "step_back", "stop")
    given = [(act, value) for act in order if (value := getattr(getattr(plan, act), name)) is not None]
    for (milder, low), (worse, high) in pairwise(given):
        if high <= low:
            key = name.removesuffix("_share")
            yield ScheduleProblem(
                f"{worse}.{key}",
                f"{high:.4g} is not above {milder}.{key}, {low:.4g}, so {milder} would never come about",
                f"write more than {low * 100:.4g}%",
            )
