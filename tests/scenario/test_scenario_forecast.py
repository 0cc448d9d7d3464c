"""The forecast against what then really happens: ten mixes, each through a real relay in simulated time.

Every mix is held back by something else. The recipients are few, so that a mix takes seconds; with --long each is
also run with four times as many.
"""

from dataclasses import dataclass, field, replace

import pytest

from fastrelay.config.load import load_text
from fastrelay.limits.forecast import SHARES, Demand, Service, forecast
from fastrelay.sim.run import run, split
from fastrelay.sim.scenario import parse_scenario

WITHIN = 0.05
GRAIN_SECONDS = 3.0  # the arrivals are counted by the second, and the first message takes its time
LATENCY_SECONDS = 0.2
# Of a message: MAIL, RCPT and BDAT in one group (RFC 3030); of a connection: greeting, EHLO, QUIT.
MESSAGE_SECONDS = LATENCY_SECONDS
CONNECT_SECONDS = 3 * LATENCY_SECONDS


@dataclass(frozen=True)
class Mix:
    """One campaign and what holds it. over: seconds in which it is handed in; sites: domains of each provider."""

    count: int
    shares: dict[str, float]
    config: str
    start: str = "2026-03-02T08:00:00Z"
    over: float = 0.0
    sites: int = 4
    latency: bool = False
    days: float = 12.0
    habits: dict[str, str] = field(default_factory=dict)


ONE = "sources: [{name: a, address: 192.0.2.1}]\n"
TWO = "sources: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}]\n"
POOL = """
sources:
  - {name: a, address: 192.0.2.1}
  - {name: b, address: 192.0.2.2, warmup: slow}
  - {name: c, address: 192.0.2.3, warmup: slow}
"""

MIXES = {
    "one source at its rate": Mix(
        600, {"google": 1.0}, ONE + "shaping: [{source: '*', provider: google, rate: 720/h}]\n"
    ),
    "two sources and two providers": Mix(
        1000,
        {"google": 0.6, "yahoo": 0.4},
        TWO
        + """
shaping:
  - {source: a, provider: google, rate: 600/h}
  - {source: b, provider: google, rate: 300/h}
  - {source: "*", provider: yahoo, rate: 20/min burst 10}
""",
    ),
    "a rate of a provider over all sources": Mix(
        900,
        {"google": 0.7, "outlook": 0.3},
        TWO + "shaping: [{provider: google, rate: 900/h}, {provider: outlook, rate: 10/min}]\n",
    ),
    "a rate of a source over three providers": Mix(
        1200,
        {"google": 0.5, "yahoo": 0.3, "apple": 0.2},
        TWO + "shaping: [{source: a, rate: 900/h}, {source: b, rate: 13/min}]\n",
    ),
    "a rate of the whole relay": Mix(
        1000, {"google": 0.5, "yahoo": 0.25, "other": 0.25}, TWO + "shaping: [{rate: 1200/h burst 40}]\n", sites=5
    ),
    "connections and the time that messages take": Mix(
        1500,
        {"google": 0.6, "gmx_webde": 0.4},
        TWO
        + """
shaping:
  - {source: "*", provider: google, connections: 2, messages_per_connection: 10}
  - {provider: gmx_webde, connections: 2, messages_per_connection: 20}
""",
        latency=True,
    ),
    "a cold source alone": Mix(
        1300,
        {
            "google": 0.8,
            "yahoo": 0.2,
        },  # no time to compare may fall into a night: a recipient more would move it by hours
        "sources: [{name: c, address: 192.0.2.3, warmup: slow}]\n"
        "warmup: {slow: {stages: [100, 200, 400, 800], spread: 8h}}\n",
    ),
    "a pool with two cold sources": Mix(
        2400,
        {"google": 0.6, "yahoo": 0.4},
        POOL
        + """
warmup: {slow: {stages: [60, 120, 240, 480], spread: 6h, providers: {yahoo: {stages: [40, 80, 160]}}}}
shaping: [{source: a, provider: google, rate: 60/h}, {source: a, provider: yahoo, rate: 40/h}]
""",
        start="2026-03-02T00:00:00Z",
    ),
    "many unknown sites": Mix(
        1500,
        {"other": 0.8, "google": 0.2},
        TWO + "providers: {other: {rate: 60/h}, google: {rate: 90/h}}\n",
        sites=10,
    ),
    "all of it, handed in over two hours": Mix(
        2500,
        {"google": 0.4, "yahoo": 0.2, "outlook": 0.2, "other": 0.2},
        POOL
        + """
warmup:
  slow:
    stages: [30, 60, 120]
    spread: 4h
    providers: {google: {stages: [90, 180, 360]}, yahoo: {stages: [50, 100, 200]}}
shaping:
  - {source: a, provider: google, rate: 110/h}
  - {source: a, provider: yahoo, rate: 67/h}
  - {provider: outlook, rate: 90/h burst 20}
  - {pool: default, rate: 1200/h}
providers: {other: {rate: 53/h}}
""",
        over=7200.0,
        sites=2,
    ),
}


def scenario_of(mix):
    shares = ", ".join(f"{name}: {share * 100:g}%" for name, share in mix.shares.items())
    latency = f"{int(LATENCY_SECONDS * 1000)}ms" if mix.latency else "0"
    return parse_scenario(f"""
for: {mix.days * 24:g}h
start: {mix.start}
mix: {{{shares}}}
domains: {mix.sites}
defaults: {{latency: {latency}, connections: 1000, messages_per_connection: 100000}}
campaigns: [{{name: a, count: {mix.count}, over: {mix.over:g}s, size: 600}}]
""")


def foretold(mix, config, begins):
    """The forecast of a mix, with the demands that its scenario comes to."""
    demands = [
        Demand(name, float(count), sites=mix.sites if name == "other" else 1)
        for name, count in split(mix.count, mix.shares).items()
    ]
    service = Service(MESSAGE_SECONDS, CONNECT_SECONDS) if mix.latency else Service(0.0, 0.0)
    return forecast(config, demands, begins, services={"": service}, over=mix.over, fresh=True)


def compare(mix):
    """(provider, share, forecast, reality) of each time."""
    config = load_text("hostname: relay.example\nprovider_limits: false\nretry: {expire: 30d}\n" + mix.config)
    scenario = scenario_of(mix)
    told = foretold(mix, config, scenario.begins)
    result = run(scenario, config)
    assert result.queued == 0
    assert result.stuck == 0
    lines = {**told.providers, "": told.total}
    return [
        (name, share, line.reached[share], result.reached[name][share])
        for name, line in lines.items()
        for share in SHARES
    ]


def check(mix):
    compared = compare(mix)
    shown = "\n".join(f"{name or 'all':10} {share:4.0%} {told} {real}" for name, share, told, real in compared)
    for name, share, told, real in compared:
        assert told is not None, shown
        assert real is not None, shown
        assert abs(told - real) <= max(WITHIN * real, GRAIN_SECONDS), f"{name or 'all'} {share:.0%}\n{shown}"


@pytest.mark.parametrize("name", MIXES)
def test_the_forecast_is_what_happens(name):
    check(MIXES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXES)
def test_the_forecast_is_what_happens_to_a_larger_campaign(name):
    mix = MIXES[name]
    check(replace(mix, count=4 * mix.count, days=40.0))
