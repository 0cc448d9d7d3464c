"""The forecast: fair rates against their definition, campaigns whose end can be reckoned by hand, mixes and lists."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.config.load import load_text
from fastrelay.limits.forecast import Demand, Service, Stand, forecast, merged, when
from fastrelay.limits.forecast_advice import changes, outlasting
from fastrelay.limits.forecast_flow import Bound, Cell, Site, components, solve
from fastrelay.limits.forecast_mix import (
    MixError,
    demands_of,
    demands_of_mix,
    parse_mix,
    read_domains,
    resolve,
)
from fastrelay.route.providers import built_in
from fastrelay.route.router import Route
from fastrelay.route.site import Sites

MONDAY = 1_772_409_600.0  # midnight UTC
HOUR, DAY = 3600.0, 86400.0
QUICK = {"": Service(0.0, 0.0)}


def config(text):
    return load_text("hostname: relay.example\nprovider_limits: false\n" + text)


TWO = config("""
sources: [{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}]
shaping:
  - {source: a, provider: google, rate: 3600/h}
  - {source: b, provider: google, rate: 1800/h}
  - {provider: yahoo, rate: 3600/h}
""")


def run(given_config, demands, begins=MONDAY, **more):
    return forecast(given_config, demands, begins, services=QUICK, **more)


# -- rates ------------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """Cells, each with a limit of its own, and bounds over some of them."""
    owns = draw(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
    bounds = draw(
        st.lists(
            st.tuples(
                st.floats(0.1, 200),
                st.dictionaries(st.integers(0, len(owns) - 1), st.floats(0.1, 3), min_size=1, max_size=8),
            ),
            max_size=5,
        )
    )
    return owns, bounds


@settings(max_examples=300, deadline=None)
@given(problems())
def test_rates_keep_every_bound_and_none_could_be_faster(problem):
    owns, described = problem
    site = Site(0, "google")
    site.backlog = 1000.0
    cells = [Cell(site, n) for n in range(len(owns))]
    for cell, own in zip(cells, owns, strict=True):
        cell.own = own
    bounds = []
    for rate, members in described:
        bound = Bound("rate", "", rate)
        for number, coefficient in members.items():
            bound.add(cells[number], coefficient)
        bounds.append(bound)
    rates = {}
    for component in {id(one): one for one in components(cells, bounds).values()}.values():
        rates |= {id(cell): rate for cell, rate, _ in solve(component)}
    uses = []
    for bound in bounds:
        use = sum(rates[id(cell)] * part for cell, part in zip(bound.cells, bound.coefficients, strict=True))
        assert use <= bound.rate * 1.001 + 1e-6
        uses.append((bound, use))
    for cell, own in zip(cells, owns, strict=True):
        held = rates[id(cell)] >= own * 0.999
        held = held or any(cell in bound.cells and use >= bound.rate * 0.98 for bound, use in uses)
        assert held, (rates[id(cell)], own)


def test_a_shared_rate_is_shared_equally_but_for_who_wants_less():
    site = Site(0, "google")
    site.backlog = 1.0
    cells = [Cell(site, n) for n in range(3)]
    for cell, own in zip(cells, (1.0, 50.0, 50.0), strict=True):
        cell.own = own
    bound = Bound("rate", "", 11.0)
    for cell in cells:
        bound.add(cell)
    component = components(cells, [bound])[id(cells[0])]
    assert [rate for _, rate, _ in solve(component)] == [1.0, 5.0, 5.0]


def test_a_cell_without_mail_gets_nothing():
    site, empty = Site(0, "google"), Site(1, "yahoo")
    site.backlog = 1.0
    cells = [Cell(site, 0), Cell(empty, 0)]
    bound = Bound("rate", "", 10.0)
    for cell in cells:
        bound.add(cell)
    found = {id(cell): rate for cell, rate, _ in solve(components(cells, [bound])[id(cells[0])])}
    assert found[id(cells[0])] == 10.0
    assert found[id(cells[1])] == 0.0


# -- whole campaigns --------------------------------------------------------------------------------------------------


def test_two_sources_at_their_rates():
    told = run(TWO, [Demand("google", 5400)])
    line = told.providers["google"]
    assert line.reached[1.0] == pytest.approx(HOUR, rel=0.01)
    assert line.reached[0.5] == pytest.approx(HOUR / 2, rel=0.01)
    assert told.sources["a"].sent == pytest.approx(3600, rel=0.01)
    assert told.pairs["google", "b"].sent == pytest.approx(1800, rel=0.01)
    words, share = line.held_by[0]
    assert "google: 3600/h" in words or "google: 1800/h" in words
    assert share == pytest.approx(0.5, abs=0.02)


def test_a_rate_of_a_provider_is_for_all_sources_together():
    told = run(TWO, [Demand("yahoo", 7200), Demand("google", 5400)])
    assert told.providers["yahoo"].reached[1.0] == pytest.approx(2 * HOUR, rel=0.01)
    assert told.total.reached[1.0] == pytest.approx(2 * HOUR, rel=0.01)
    assert told.total.reached[0.5] == pytest.approx(6300 / 2.5, rel=0.01)


def test_a_rate_of_a_source_is_shared_by_providers():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
shaping: [{source: a, rate: 7200/h}]
""")
    told = run(one, [Demand("google", 3600), Demand("yahoo", 10_800)])
    assert told.providers["google"].reached[1.0] == pytest.approx(HOUR, rel=0.01)
    assert told.providers["yahoo"].reached[1.0] == pytest.approx(2 * HOUR, rel=0.01)


def test_a_burst_comes_first_and_once():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
shaping: [{provider: google, rate: 3600/h burst 1001}]
""")
    told = run(one, [Demand("google", 4600)])
    assert told.total.reached[1.0] == pytest.approx(HOUR, rel=0.01)
    assert told.total.reached[0.5] == pytest.approx(1300, rel=0.01)


def test_connections_let_out_what_a_message_takes_on_them():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
shaping: [{source: "*", provider: google, connections: 4, messages_per_connection: 10}]
""")
    told = forecast(one, [Demand("google", 4000)], MONDAY, services={"google": Service(0.4, 1.0)})
    assert told.total.reached[1.0] == pytest.approx(4000 * 0.5 / 4, rel=0.01)
    assert "4 connections" in told.total.held_by[0][0]


def test_a_rate_of_connections_counts_by_what_one_carries():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
shaping: [{source: "*", provider: google, connection_rate: 6/min, messages_per_connection: 20}]
""")
    told = run(one, [Demand("google", 7200)])
    assert told.total.reached[1.0] == pytest.approx(HOUR, rel=0.01)


def test_unknown_sites_each_have_their_own_limit():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
providers: {other: {rate: 3600/h}}
""")
    told = run(one, [Demand("other", 36_000, sites=10), Demand("other", 3600, site_key="big.example:25")])
    assert told.providers["other"].reached[1.0] == pytest.approx(HOUR, rel=0.01)
    assert told.providers["other"].reached[0.5] == pytest.approx(HOUR / 2, rel=0.01)


def test_mail_that_is_queued_already_takes_half_while_it_lasts():
    told = run(TWO, [Demand("yahoo", 3600, ahead=1800)])
    # An hour of both together at half the rate, then what is left of the campaign alone.
    assert told.total.reached[0.5] == pytest.approx(HOUR, rel=0.01)
    assert told.total.reached[1.0] == pytest.approx(1.5 * HOUR, rel=0.01)


def test_a_campaign_that_comes_over_some_time():
    told = run(TWO, [Demand("yahoo", 1800)], over=HOUR)
    assert told.total.reached[1.0] == pytest.approx(HOUR, rel=0.03)


def test_what_is_not_out_within_the_horizon():
    told = run(TWO, [Demand("yahoo", 3600 * 24 * 3)], days=2)
    assert told.total.reached[0.5] == pytest.approx(1.5 * DAY, rel=0.01)
    assert told.total.reached[1.0] is None
    assert outlasting(told, [], expire_seconds=DAY, over=0.0) == {"yahoo": 2 * DAY}


# -- warm-up ----------------------------------------------------------------------------------------------------------

COLD = config("""
sources: [{name: c, address: 192.0.2.3, warmup: slow}]
warmup: {slow: {stages: [100, 200, 400, 800], spread: 0}}
""")


def test_stages_follow_each_other_at_midnight():
    told = run(COLD, [Demand("google", 700)], begins=MONDAY)
    assert told.total.reached[0.5] == pytest.approx(2 * DAY, abs=60)
    assert told.total.reached[1.0] == pytest.approx(2 * DAY, abs=60)
    assert [(one.stage, one.cap) for one in told.warmup["c", "*"]] == [(1, 100), (2, 200), (3, 400)]
    assert "warm-up cap" in told.total.held_by[0][0]


def test_after_the_last_stage_there_is_no_cap():
    told = run(COLD, [Demand("google", 50_000)], begins=MONDAY)
    assert told.total.reached[1.0] == pytest.approx(4 * DAY, abs=120)
    assert told.warmup["c", "*"][-1].cap is None


def test_a_stage_that_was_reached_before():
    told = run(COLD, [Demand("google", 700)], stands=[Stand("c", "*", 2, used=300)])
    assert told.total.reached[1.0] == pytest.approx(DAY, abs=60)
    assert told.warmup["c", "*"][0].stage == 3


def test_a_stage_that_is_held_stays():
    told = run(COLD, [Demand("google", 300)], stands=[Stand("c", "*", 0, state="held")])
    assert told.total.reached[1.0] == pytest.approx(2 * DAY, abs=60)
    told = run(COLD, [Demand("google", 300)], stands=[Stand("c", "*", 0, state="stopped")], days=5)
    assert told.total.sent == 0


def test_a_cap_that_is_spread():
    spread = config("""
sources: [{name: c, address: 192.0.2.3, warmup: slow}]
warmup: {slow: {stages: [1000, 1000, 1000], spread: 10h}}
""")
    told = run(spread, [Demand("google", 1000)], begins=MONDAY)
    assert told.total.reached[1.0] == pytest.approx(10 * HOUR, rel=0.03)
    assert told.total.reached[0.5] == pytest.approx(5 * HOUR, rel=0.03)


def test_a_provider_with_stages_of_its_own():
    own = config("""
sources: [{name: c, address: 192.0.2.3, warmup: slow}]
warmup: {slow: {stages: [100, 200], spread: 0, providers: {google: {stages: [10, 20, 40]}}}}
""")
    told = run(own, [Demand("google", 30), Demand("yahoo", 100)])
    assert told.providers["yahoo"].reached[1.0] == pytest.approx(0, abs=10)
    assert told.providers["google"].reached[1.0] == pytest.approx(DAY, abs=60)


def test_cold_and_warm_sources_go_together():
    both = config("""
sources: [{name: a, address: 192.0.2.1}, {name: c, address: 192.0.2.3, warmup: slow}]
warmup: {slow: {stages: [100, 200], spread: 0}}
shaping: [{source: a, rate: 360/h}]
""")
    told = run(both, [Demand("google", 820)])
    assert told.total.reached[1.0] == pytest.approx(2 * HOUR, rel=0.02)
    assert told.sources["c"].sent == pytest.approx(100, abs=1)


def test_where_nothing_may_overflow_warm_sources_wait():
    strict = config("""
sources: [{name: a, address: 192.0.2.1}, {name: c, address: 192.0.2.3, warmup: slow}]
warmup: {slow: {stages: [100, 200], spread: 0, overflow: false}}
""")
    told = run(strict, [Demand("google", 1000)])
    assert told.sources["c"].sent >= 300
    assert told.total.reached[0.5] == pytest.approx(2 * DAY, abs=60)
    assert told.total.reached[1.0] == pytest.approx(2 * DAY, abs=60)
    assert "warm-up cap of source c" in told.total.held_by[0][0]


def test_sources_that_nothing_tells_apart_are_reckoned_together_and_shown_apart():
    many = config(
        "sources:\n" + "".join(f"  - {{name: s{n}, address: 192.0.2.{n + 1}}}\n" for n in range(20)) + "shaping:\n"
        "  - {source: '*', provider: google, rate: 360/h}\n  - {source: s7, provider: google, rate: 36/h}\n"
    )
    told = run(many, [Demand("google", 19 * 360 + 36)])
    assert told.total.reached[1.0] == pytest.approx(HOUR, rel=0.01)
    assert told.sources["s3"].sent == pytest.approx(360, rel=0.01)
    assert told.sources["s7"].sent == pytest.approx(36, rel=0.01)
    assert len(told.sources) == 20


# -- what would help --------------------------------------------------------------------------------------------------


def test_what_would_help():
    one = config("""
sources: [{name: a, address: 192.0.2.1}]
shaping: [{source: "*", provider: google, rate: 3600/h}]
""")
    demands = [Demand("google", 7200)]

    def again(more, factors):
        return run(one, demands, more_sources=more, factors=factors)

    told = again([], {})
    found = changes(one, "default", told, told.limits, again)
    assert [change.saves for change in found] == [pytest.approx(0.5, abs=0.01)] * 2
    assert "one more warm source" in found[0].words + found[1].words
    assert "twice the limit of source a at google: 3600/h" in found[0].words + found[1].words


# -- curves -----------------------------------------------------------------------------------------------------------


def test_curves_are_added():
    curve = merged([[(0.0, 0.0), (10.0, 100.0)], [(0.0, 0.0), (5.0, 0.0), (5.0, 20.0), (15.0, 30.0)]])
    assert when(curve, 50.0) == pytest.approx(5.0)
    assert curve[-1] == (15.0, pytest.approx(130.0))
    assert when(curve, 131.0) is None
    assert [amount for _, amount in curve] == sorted(amount for _, amount in curve)


# -- who gets it ------------------------------------------------------------------------------------------------------


def test_a_mix():
    shares = parse_mix("google=40%, yahoo = 25%", TWO)
    assert shares == {"google": 0.4, "yahoo": 0.25, "other": pytest.approx(0.35)}
    demands = demands_of_mix(shares, 10_000)
    assert [(one.provider, one.recipients) for one in demands[:2]] == [("google", 4000), ("yahoo", 2500)]
    assert demands[2].sites == 70
    assert demands_of_mix(shares, 10_000, sites=3)[2].sites == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("google", "has no share; write google=40%"),
        ("googel=40%", "did you mean google?"),
        ("google=40", "is not a share"),
        ("google=70%,yahoo=40%", "add up to 110%"),
        ("google=20%,google=30%", "given twice"),
    ],
)
def test_mixes_that_are_none(text, words):
    with pytest.raises(MixError, match=words):
        parse_mix(text, TWO)


def test_a_list_of_recipients():
    lines = [
        b"email,name\n",
        b"Ann@Gmail.com,Ann\n",
        b'"bob@gmail.com";Bob\n',
        b"# a remark\n",
        b"\n",
        b"b\xc3\xbccher.example\r\n",
        b"carl@web.de",
        b"nothing\n",
    ]
    domains, skipped = read_domains(lines)
    assert domains == {"gmail.com": 2, "xn--bcher-kva.example": 1, "web.de": 1}
    assert skipped == 1


class Routes:
    """A router that knows some domains."""

    def __init__(self):
        self.sites = Sites(built_in())
        self.asked = []

    async def resolve(self, domain, now):
        self.asked.append(domain)
        if domain.startswith("gone"):
            return Route(domain, "fail", None, 550, "5.1.2")
        if domain.startswith("slow"):
            return Route(domain, "defer", None, 451, "4.4.3")
        host = "aspmx.l.google.com" if domain.startswith("firm") else f"mx.{domain}"
        return Route(domain, "site", self.sites.of_mx([(10, host)], 25))


def test_providers_are_found_by_table_and_by_mx():
    domains = Counter({"gmail.com": 50, "firm1.example": 9, "small.example": 8, "gone.example": 7, "slow.example": 6,
                       "late.example": 5})  # fmt: skip
    router, seen = Routes(), []
    found = asyncio.run(
        resolve(domains, TWO, lookups=4, router=router, on_progress=lambda done, of: seen.append((done, of)))
    )
    assert router.asked == ["firm1.example", "small.example", "gone.example", "slow.example"]
    assert found.by_provider == {"google": 59, "other": 19}
    assert (found.unreachable, found.unknown, found.looked_up) == (7, 11, 4)
    assert seen[-1] == (4, 4)
    demands = demands_of(found)
    assert sum(one.recipients for one in demands) == 78
    assert {one.site_key for one in demands} == {"", "mx.small.example:25", "slow.example", "late.example"}


def test_many_small_sites_become_classes():
    domains = Counter({f"d{n}.example": 1 + n % 3 for n in range(1000)})
    found = asyncio.run(resolve(domains, TWO, lookups=0, router=Routes()))
    demands = demands_of(found)
    assert len(demands) < 30
    assert sum(one.recipients for one in demands) == domains.total()
    assert sum(one.sites for one in demands) == 1000
