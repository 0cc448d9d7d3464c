"""The simulator: a real relay among providers that allow, defer, forget and punish, in simulated time."""

import pytest

from fastrelay.config.load import load_text
from fastrelay.sim.report import advice, as_json, of_provider
from fastrelay.sim.run import run, split
from fastrelay.sim.scenario import parse_scenario

HOUR, DAY = 3600.0, 86400.0
QUIET = "hostname: relay.example\nprovider_limits: false\n"
ONE = QUIET + "sources: [{name: a, address: 192.0.2.1}]\n"
PLAN = """
warmup: {slow: {stages: [40, 80, 160, 320], spread: 2h, minimum_messages: 20}}
"""
COLD = QUIET + "sources: [{name: a, address: 192.0.2.1, warmup: slow}]\nretry: {expire: 10d}\n" + PLAN
POOL = (
    QUIET
    + "sources: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2, warmup: slow}]\n"
    + "shaping: [{source: a, provider: google, rate: 100/h}, {source: a, provider: yahoo, rate: 100/h}]\n"
    + PLAN.replace("spread: 2h", "spread: 0")
)


ROOM = "defaults: {connections: 1000, messages_per_connection: 10000}\n"  # a story is about one limit at a time


def simulated(config, scenario):
    """(result, scenario, configuration)"""
    parsed, loaded = parse_scenario(ROOM + scenario), load_text(config)
    result = run(parsed, loaded)
    assert result.stuck == 0
    return result, parsed, loaded


def test_greylisting_costs_its_time_and_the_retry_comes_from_the_same_address():
    two = QUIET + "sources: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}]\nretry: {first: 6m}\n"
    result, _, _ = simulated(
        two,
        "for: 1d\nmix: {google: 100%}\ncampaigns: [{name: a, count: 60, over: 0}]\n"
        "providers: {google: {greylist: 5m}}\n",
    )
    assert of_provider(result, "google").delivered == 60
    assert result.refusals["google"]["greylist"] == 60
    assert 300 <= result.reached["google"][1.0] < 600


def test_an_outage_is_sat_out():
    result, _, _ = simulated(
        ONE,
        "for: 1d\nmix: {google: 50%, yahoo: 50%}\ncampaigns: [{name: a, count: 40, over: 0}]\n"
        "providers: {google: {outages: [{at: 0s, for: 3h}]}}\n",
    )
    assert result.queued == 0
    assert result.reached["yahoo"][1.0] < 10
    assert 3 * HOUR <= result.first["google"] < 5 * HOUR
    assert of_provider(result, "google").failed == 0


def test_what_a_provider_refuses_for_good_is_failed_and_told():
    result, scenario, config = simulated(
        ONE,
        "for: 1d\nmix: {google: 100%}\ncampaigns: [{name: a, count: 200, over: 0}]\n"
        "providers: {google: {unknown_mailboxes: 25%}}\n",
    )
    outcomes = of_provider(result, "google")
    assert outcomes.delivered + outcomes.failed == 200
    assert 30 < outcomes.failed < 70
    assert result.replies["google"]["550 5.1.1 No such mailbox here"] == outcomes.failed
    told = as_json(result, scenario, config)
    assert told["providers"]["google"]["failed"] == outcomes.failed
    assert told["queued_at_the_end"] == 0


SUSPICIOUS = """
for: 5d
mix: {google: 100%}
campaigns: [{name: daily, count: 100, over: 10m, every: 1d, times: 3, at: 1h}]
providers: {google: {reputation: {first_day: 50, growth: 2}}}
"""


def test_who_skips_warm_up_is_punished():
    result, scenario, config = simulated(ONE, SUSPICIOUS.replace("for: 5d", "for: 30h"))
    assert result.refusals["google"]["allowance"] > 30
    assert result.standings["google", "a"]["score"] < 0.9
    words = " ".join(advice(result, scenario, config))
    assert "give the source a warm-up plan" in words


def test_who_warms_up_is_not():
    result, scenario, config = simulated(COLD, SUSPICIOUS)
    assert result.refusals["google"].total() == 0
    assert result.standings["google", "a"]["score"] == 1.0
    assert result.waited["google"]["warmup_cap"] > 0
    assert advice(result, scenario, config)
    (row,) = result.warmup
    assert row["stage"] >= 3


def test_no_day_of_warm_up_exceeds_its_cap_and_the_rest_overflows():
    scenario = parse_scenario(
        ROOM + "for: 4d\nmix: {google: 60%, yahoo: 40%}\n"
        "campaigns: [{name: daily, count: 300, over: 1h, every: 1d, times: 3, at: 8h}]\n"
    )
    days: dict[int, int] = {}

    def note(world):
        inner = world._accepted

        def accepted(provider, client, recipients):
            if world.sources.get(client) == "b":
                day = int((world.clock.wall() - scenario.begins) // DAY)
                days[day] = days.get(day, 0) + recipients
            inner(provider, client, recipients)

        world.hosts.on_accepted = accepted

    result = run(scenario, load_text(POOL), on_world=note)
    assert result.queued == 0
    assert sum(outcomes.delivered for outcomes in result.outcomes.values()) == 900
    assert [days.get(day, 0) <= cap for day, cap in enumerate((40, 80, 160, 320))] == [True] * 4
    assert (days[0], days[1]) == (40, 80)
    assert result.reached[""][1.0] < 3 * DAY
    assert any(event["event"] == "warmup_stage" for event in result.happened)


def test_a_rate_in_simulated_time_is_the_rate_of_the_configuration():
    result, _, _ = simulated(
        ONE + "shaping: [{provider: google, rate: 90/h}]\n",
        "for: 1d\nmix: {google: 100%}\ncampaigns: [{name: a, count: 180, over: 0}]\n"
        "providers: {google: {rates: [{limit: 90/h, window: sliding}, {limit: 2/min burst 2}]}}\n",
    )
    assert result.refusals["google"].total() == 0
    assert result.reached["google"][1.0] == pytest.approx(2 * HOUR, rel=0.02)


def test_latency_and_connections_hold_back_as_they_would():
    result, _, _ = simulated(
        ONE + "shaping: [{source: a, provider: google, connections: 1}]\n",
        "for: 1d\nmix: {google: 100%}\ncampaigns: [{name: a, count: 200, over: 0}]\n"
        "providers: {google: {latency: 500ms, connections: 1}}\n",
    )
    assert result.refusals["google"].total() == 0
    assert 100 <= result.reached["google"][1.0] <= 200


def test_a_host_that_says_nothing_does_not_stop_the_clock():
    scenario = parse_scenario(
        ROOM + "for: 30m\nmix: {google: 50%, yahoo: 50%}\ncampaigns: [{name: a, count: 10, over: 0}]\n"
        "providers: {google: {latency: 100d}}\n"
    )
    result = run(scenario, load_text(ONE))
    assert result.reached["yahoo"][1.0] < 10
    assert result.queued == 5
    assert result.seconds == pytest.approx(1800)


def test_recipients_are_split_exactly():
    assert split(10, {"a": 0.25, "b": 0.25, "c": 0.5}) == {"a": 3, "b": 2, "c": 5}
    assert sum(split(1001, {"a": 0.333, "b": 0.333, "c": 0.334}).values()) == 1001
