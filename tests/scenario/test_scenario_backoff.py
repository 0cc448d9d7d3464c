"""A provider that defers above a rate that nobody told us: the relay finds it, and stays just below."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastrelay.config.load import load_text
from fastrelay.config.schema import Config
from fastrelay.sim.run import Run, quiet_logging
from fastrelay.sim.scenario import parse_scenario

PER_HOUR = 300
LEARNING_HOURS = 6


def config() -> Config:
    return load_text(
        """
hostname: mta.news.example
sources: [{name: a, address: 192.0.2.11}]
retry: {first: 20m, expire: 3d}
"""
    )


def slots_of(run: Run, provider: str) -> dict[int, int]:
    """Recipients taken by the provider, by second."""
    taken: dict[int, int] = {}
    for (at, _), slots in run.world.arrivals.slots.items():
        if at == provider:
            for second, number in slots.items():
                taken[second] = taken.get(second, 0) + number
    return taken


@pytest.mark.parametrize(("provider", "window"), [("google", "clock"), ("google", "bucket"), ("other", "sliding")])
def test_the_rate_of_a_provider_is_found(provider: str, window: str, tmp_path: Path) -> None:
    hours = LEARNING_HOURS + 6
    scenario = parse_scenario(
        f"""
for: {hours}h
mix: {{{provider}: 100%}}
domains: 1
providers:
  {provider}: {{rates: [{{limit: {PER_HOUR}/h burst 10, reply: "421-4.7.28 Unusual rate of mail", window: {window}}}]}}
campaigns: [{{name: big, count: {int(PER_HOUR * hours * 1.3)}, over: 1m, size: 0}}]
"""
    )
    run = Run(scenario, config(), tmp_path)
    refused: dict[int, int] = {}
    [policy] = run.world.memories(provider)

    async def live() -> Any:
        def note() -> None:
            refused[int((run.clock.monotonic() - run._began) / 3600)] = policy.refusals["rate"]
            run.world.timetable.call_later(600, note)

        run.world.timetable.call_later(1, note)
        return await run.live()

    with quiet_logging(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(live())
    taken = slots_of(run, provider)
    late = sum(n for second, n in taken.items() if second >= LEARNING_HOURS * 3600)
    rate = late / (hours - LEARNING_HOURS)
    in_vain = policy.refusals["rate"] - refused[LEARNING_HOURS - 1]
    print(f"{provider}, {window}: {rate / PER_HOUR:.3f} of the rate, {in_vain / max(1, late + in_vain):.4f} in vain")
    assert result.queued > 0
    assert 0.9 <= rate / PER_HOUR <= 1.01
    assert in_vain < 0.01 * (late + in_vain)
    fired = [event for event in result.happened if event["event"] == "rule_fired"]
    assert fired
    assert {event["rule"] for event in fired} == {"google_unusual_rate" if provider == "google" else "any_rate"}
    [place] = {event["place"] for event in fired}
    assert (place == "google") is (provider == "google")


def test_a_suspension_by_a_rule_rests_for_its_time_and_then_begins_slowly(tmp_path: Path) -> None:
    scenario = parse_scenario(
        """
for: 12h
mix: {yahoo: 100%}
domains: 2
providers:
  yahoo:
    rates: [{limit: 200/h, window: clock, reply: "421 4.7.0 [TSS04] Messages temporarily deferred"}]
campaigns: [{name: one, count: 300, over: 1m, size: 0}]
"""
    )
    run = Run(scenario, config(), tmp_path)
    with quiet_logging(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run.live())
    assert result.queued == 0
    taken = slots_of(run, "yahoo")
    assert sum(taken.values()) == 300
    first_hour = sum(n for second, n in taken.items() if second < 3600)
    assert first_hour == 200
    assert not [second for second in taken if 3600 <= second < 7200]  # the two hours that yahoo_tss04 asks for
    after = [second for second in taken if second >= 7200]
    assert sum(taken[second] for second in after if second < min(after) + 60) <= 3  # not all at once
    assert result.waited["yahoo"]["provider_backoff"] > 0
    told = [(event["event"], event.get("rule"), event.get("order")) for event in result.happened]
    assert told[0] == ("rule_fired", "yahoo_tss04", None)
    assert ("backoff_ended", "yahoo_tss04", "suspend") in told
