"""Scenario files: what they mean, and what is refused with line, path and mend."""

from pathlib import Path

import pytest

from fastrelay.errors import ConfigError
from fastrelay.sim.scenario import START, load_scenario, manner_of, parse_scenario

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "scenarios"

GOOD = """
for: 14d
start: 2026-03-02T08:00:00Z
mix: {google: 40%, other: 60%}
defaults: {latency: 100ms, unknown_mailboxes: 1%}
providers:
  google:
    connections: 3
    greylist: 10m
    rates:
      - {limit: 3000/h burst 5, window: clock, count_refused: true, reply: "421-4.7.28 Slow down"}
    reputation: {first_day: 200}
    outages: [{at: 1d, for: 2h}]
campaigns:
  - {name: a, count: 100, every: 1d, times: 20, at: 1h}
"""


def test_a_scenario_is_read():
    scenario = parse_scenario(GOOD)
    assert scenario.lasts_seconds == 14 * 86400
    assert scenario.begins == START + 8 * 3600
    assert scenario.recipients == 14 * 100  # six of its turns come after the end
    assert scenario.used_providers() == ["google", "other"]
    google = manner_of(scenario, "google")
    assert google.latency == 0.1
    assert google.rules.connections == 3
    assert google.rules.messages_per_connection == 50  # the built-in table's
    assert google.rules.unknown_share == 0.01
    (rate,) = google.rules.rates
    assert (rate.messages, rate.period_seconds, rate.window, rate.burst) == (3000, 3600.0, "clock", 5)
    assert rate.count_refused
    assert rate.reply == b"421 4.7.28 Slow down"
    assert google.rules.standing.first_day == 200
    assert google.rules.outages[0].begins == scenario.begins + 86400
    assert google.rules.outages[0].ends == scenario.begins + 86400 + 7200
    other = manner_of(scenario, "other")
    assert other.rules.connections == 10
    assert not other.rules.greylist_seconds


def test_a_reply_of_several_lines():
    text = GOOD.replace('"421-4.7.28 Slow down"', '"421-4.7.28 Slow\\n421 4.7.28 down"')
    (rate,) = manner_of(parse_scenario(text), "google").rules.rates
    assert rate.reply == b"421-4.7.28 Slow\r\n421 4.7.28 down"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_sound(path):
    scenario = load_scenario(path)
    assert scenario.recipients >= 1000
    for name in scenario.used_providers():
        manner_of(scenario, name)


def test_there_are_three_examples():
    assert len(list(FOLDER.glob("*.yaml"))) == 3


@pytest.mark.parametrize(
    ("change", "line", "path", "words"),
    [
        (("for: 14d", "for: 14"), 2, "for", "has no unit"),
        (("for: 14d", "for: 900d"), 2, "for", "longer than 400 days"),
        (("for: 14d", "four: 14d"), 2, "four", "did you mean `for`?"),
        (("2026-03-02T08:00:00Z", "monday"), 3, "start", "is no time; write it as 2026-03-02T08:00:00Z"),
        (("google: 40%", "google: 50%"), 4, "mix", "adds up to 110%"),
        (("latency: 100ms", "latency: fast"), 5, "defaults.latency", "is not a duration"),
        (("connections: 3", "conections: 3"), 8, "providers.google.conections", "did you mean `connections`?"),
        (("limit: 3000/h burst 5", "limit: 3000"), 11, "providers.google.rates[0].limit", "has no period"),
        (("limit: 3000/h burst 5", "limit: 0/h"), 11, "providers.google.rates[0].limit", "would let nothing out"),
        (("window: clock", "window: moon"), 11, "providers.google.rates[0].window", "wants bucket or sliding or clock"),
        (("421-4.7.28 Slow", "220 Slow"), 11, "providers.google.rates[0].reply", "is no refusal"),
        (("google: 40%, other: 60%", "other: 100%"), 7, "providers.google", "gets no mail by any mix"),
        (("at: 1h", "at: 20d"), 15, "campaigns[0].at", "after the end of the scenario"),
        (("count: 100,", "count: 10000000,"), 14, "campaigns", "all of which would really be relayed"),
        (("count: 100,", "count: none,"), 15, "campaigns[0].count", "wants a whole number"),
        (("campaigns:", "compaigns:"), 14, "compaigns", "did you mean `campaigns`?"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_mistakes(change, line, path, words):
    with pytest.raises(ConfigError) as caught:
        parse_scenario(GOOD.replace(*change), "s.yaml")
    problem = next(problem for problem in caught.value.problems if problem.path == path)
    assert words in str(problem)
    assert problem.line == line
    assert problem.mend


def test_no_campaign():
    with pytest.raises(ConfigError, match="campaigns: is missing; add campaigns:"):
        parse_scenario("for: 1d\n")


def test_a_name_used_twice():
    text = GOOD + "  - {name: a, count: 5}\n"
    with pytest.raises(ConfigError, match=r"campaigns\[1\].name: 'a' is used twice"):
        parse_scenario(text)
