"""From a plan of the configuration to stages: templates, lists, growth rules, and what is refused."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config.sending import Growth, Schedule, Thresholds, WarmupPlan
from fastrelay.limits.warmup import (
    LARGEST_STEP,
    MAX_STAGES,
    Ramp,
    ScheduleProblem,
    grow,
    key_of,
    problems,
    ramps,
    templates,
)

# The figures as published, written down a second time: a slip in the YAML shows here.
SPARKPOST = (
    "200 500 1000 2000 5000 10000 20000 40000 50000 75000 100000 150000 200000 250000 325000 400000 500000 600000 "
    "750000 1000000 1250000 1750000 2000000 3000000 4250000 5000000 6000000 7500000 10000000"
)
SENDGRID = (
    "20 28 39 55 77 108 151 211 295 413 579 810 1000 1587 2222 3111 4356 6098 8583 11953 16734 23427 32798 45917 64284 "
    "89998 125997 176395 246953 345735 484029 677640 948696 1328175 1859444 2603222 3644511 5102316 7143242 10000539 "
    "14000754 19601056"
)


def caps(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def named(name: str, **more: Any) -> dict[str, Ramp]:
    return ramps(WarmupPlan(template=name, **more))


def test_every_template_has_a_source_and_is_sound() -> None:
    assert set(templates()) == {"sparkpost", "sendgrid", "responsys", "copernica", "ipost", "momentum"}
    for name, template in templates().items():
        assert template.source
        assert problems(WarmupPlan(template=name)) == []
        for ramp in named(name).values():
            assert list(ramp.caps) == sorted(ramp.caps)
            assert ramp.caps[0] > 0
            assert all(after <= before * LARGEST_STEP for before, after in zip(ramp.caps, ramp.caps[1:], strict=False))


def test_sparkpost() -> None:
    made = named("sparkpost")
    assert list(made) == ["*"]
    assert (made["*"].caps, made["*"].per) == (caps(SPARKPOST), "day")


def test_sendgrid_counts_by_the_hour() -> None:
    ramp = named("sendgrid")["*"]
    assert (ramp.caps, ramp.per, ramp.period_seconds) == (caps(SENDGRID), "hour", 3600)


def test_responsys_differs_by_provider() -> None:
    made = named("responsys")
    assert made["*"].caps == made["google"].caps == (10000,) * 5 + (12500,) * 2
    assert made["outlook"].caps == (7500,) * 3 + (10000,) * 2 + (15000,) * 2
    assert made["yahoo"].caps == (5000,) * 3 + (7500,) * 2 + (10000,) * 2


def test_copernica_holds_levels() -> None:
    wanted: tuple[int, ...] = ()
    for cap, days in ((10, 5), (20, 5), (40, 5), (80, 4), (160, 4), (250, 4), (333, 3), (500, 2), (1000, 1)):
        wanted += (cap * 1000,) * days
    assert named("copernica")["*"].caps == wanted


def test_ipost_grows_by_bands_and_holds_three_days() -> None:
    made = named("ipost")["*"].caps
    assert made[::3] == made[1::3] == made[2::3]
    levels = made[::3]
    assert levels[:8] == (1000, 2000, 4000, 8000, 16000, 32000, 64000, 96000)
    for before, after in pairwise(levels):
        bound = 2 if before < 50_000 else 1.5 if before < 100_000 else 1.2 if before < 250_000 else 1.1
        assert after <= round(before * bound)
    assert levels[-1] == 1_000_000


def test_momentum_follows_the_age_of_the_address() -> None:
    made = named("momentum")
    assert made["*"].caps == (*[round(day * 50000 / 24) for day in range(1, 29)], 100_000)
    assert made["google"].caps == made["outlook"].caps == (10_000,) * 14 + (100_000,)
    assert {ramp.per for ramp in made.values()} == {"hour"}


def test_keys() -> None:
    made = named("responsys")
    assert [key_of(made, provider) for provider in ("yahoo", "gmx_webde", "other")] == ["yahoo", "*", "*"]


def test_a_plan_has_schedules_of_its_own_for_some_providers() -> None:
    plan = WarmupPlan(
        stages=[10, 20],
        per="hour",
        providers={
            "google": Schedule(stages=[5]),
            "yahoo": Schedule(template="responsys"),
            "apple": Schedule(template="responsys", per="hour"),
            "comcast": Schedule(growth=Growth(start=2, factor=2, until=8), per="day"),
        },
    )
    made = ramps(plan)
    assert list(made) == ["*", "google", "yahoo", "apple", "comcast"]
    assert (made["*"].caps, made["*"].per) == ((10, 20), "hour")
    assert (made["google"].caps, made["google"].per) == ((5,), "hour")
    assert (made["yahoo"].caps[0], made["yahoo"].per) == (5000, "day")  # the template knows yahoo
    assert (made["apple"].caps[0], made["apple"].per) == (10000, "hour")
    assert (made["comcast"].caps, made["comcast"].per) == ((2, 4, 8), "day")


def test_own_schedules_take_the_place_of_the_templates() -> None:
    made = named("responsys", providers={"yahoo": Schedule(stages=[7])})
    assert made["yahoo"].caps == (7,)
    assert made["google"].caps[0] == 10000


def test_growth() -> None:
    assert grow(Growth(start=20, factor=1.4, until=110)) == (20, 28, 39, 55, 77, 108, 110)
    assert grow(Growth(start=1000, factor=2, every=2, until=3000)) == (1000, 1000, 2000, 2000, 3000, 3000)
    assert grow(Growth(start=1, factor=1.1, until=4)) == (1, 2, 3, 4)  # rounding does not keep it from growing
    assert grow(Growth(start=5, until=5)) == (5,)


@given(
    start=st.integers(1, 10_000),
    factor=st.floats(1.05, 10, allow_nan=False),
    every=st.integers(1, 5),
    until=st.integers(1, 10**9),
)
def test_growth_of_any_rule(start: int, factor: float, every: int, until: int) -> None:
    rule = Growth(start=start, factor=factor, every=every, until=until)
    found = problems(WarmupPlan(growth=rule))
    if found:
        assert until < start or "1000 stages" in found[0].problem
        return
    made = grow(rule)
    assert len(made) <= MAX_STAGES
    assert (made[0], made[-1]) == (start, until)
    levels = made[::every]
    assert all(before < after for before, after in pairwise(levels))
    assert all(after <= before * factor + 1 + before * 0.5 for before, after in pairwise(levels))


@pytest.mark.parametrize(
    ("plan", "path", "problem"),
    [
        (WarmupPlan(), "", "has no schedule"),
        (WarmupPlan(template="sparkpost", stages=[1]), "", "has template and stages"),
        (WarmupPlan(template="sparkpots"), "template", "there is no template 'sparkpots'"),
        (WarmupPlan(stages=[]), "stages", "has no stage"),
        (WarmupPlan(stages=[200, 500, 300]), "stages[2]", "300 is less than the 500 before it"),
        (WarmupPlan(stages=[200, 500, 50000]), "stages[2]", "there is a gap"),
        (WarmupPlan(stages=[1] * 1001), "stages", "has 1001 stages"),
        (WarmupPlan(growth=Growth(start=10, until=5)), "growth.until", "5 is below the start, 10"),
        (WarmupPlan(growth=Growth(start=1, factor=1.001)), "growth", "more than 1000 stages"),
        (WarmupPlan(stages=[1], providers={"google": Schedule()}), "providers.google", "has no schedule"),
        (
            WarmupPlan(stages=[1], providers={"google": Schedule(template="x")}),
            "providers.google.template",
            "no template",
        ),
        (
            WarmupPlan(stages=[1], hold=Thresholds(deferrals_share=0.3)),
            "step_back.deferrals",
            "0.25 is not above hold.deferrals, 0.3",
        ),
        (
            WarmupPlan(stages=[1], stop=Thresholds(blocks_share=0.05)),
            "stop.blocks",
            "not above step_back.blocks",
        ),
    ],
)
def test_refused(plan: WarmupPlan, path: str, problem: str) -> None:
    found = problems(plan)
    assert [one.path for one in found] == [path]
    assert problem in found[0].problem
    assert found[0].mend
    with pytest.raises(ValueError, match="; "):
        ramps(plan)


def test_a_misspelt_template_is_guessed() -> None:
    assert problems(WarmupPlan(template="sparkpots"))[0].mend == "did you mean sparkpost?"
    assert "sendgrid" in problems(WarmupPlan(template="zzz"))[0].mend


def test_problems_of_all_parts_are_told_at_once() -> None:
    plan = WarmupPlan(stages=[5, 4, 3], providers={"google": Schedule(stages=[])})
    assert [problem.path for problem in problems(plan)] == ["stages[1]", "stages[2]", "providers.google.stages"]
    assert isinstance(problems(plan)[0], ScheduleProblem)


def test_fingerprint_changes_with_what_counts() -> None:
    ramp = Ramp((1, 2), "day", "stages")
    assert ramp.fingerprint == Ramp((1, 2), "day", "template x").fingerprint
    others = (Ramp((1, 3), "day", ""), Ramp((1, 2), "hour", ""), Ramp((12,), "day", ""))
    assert ramp.fingerprint not in {other.fingerprint for other in others}


def test_stage_at_is_never_above_the_cap() -> None:
    ramp = Ramp((10, 10, 20, 40), "day", "")
    assert [ramp.stage_at(cap) for cap in (1, 10, 19, 20, 39, 40, 1000)] == [0, 1, 1, 2, 2, 3, 3]


def test_the_table_refuses_what_it_does_not_know() -> None:
    from fastrelay.limits.warmup import TemplateTable

    row = {"name": "x", "per": "week", "source": "s", "stages": [1]}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"version": 1, "templates": [row]}, TemplateTable)
