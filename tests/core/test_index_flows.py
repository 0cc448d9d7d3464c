"""Fair shares inside a site, against a slow and obvious model of start-time fair queueing; and what they promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastrelay._core.index import Index, SiteQueue
from fastrelay._core.wheel import Wheel

SOURCES = 3
CAMPAIGNS = (b"", b"red", b"blue", b"green")
BULK, NORMAL, TRANSACTIONAL = range(3)
FLOWS_PER_SITE = 1024


class Site:
    """As much of a site as the index wants to see."""

    key = "mx.example:25"
    provider = "other"


@dataclass
class PlainFlow:
    """A flow of the model: recipients by lane (0: the common one), and when its next is due."""

    weight: float
    start: float = 0.0
    lanes: dict[int, list[int]] = field(default_factory=dict)
    parked_until: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.lanes.values()))


class FlowMachine(RuleBasedStateMachine):
    @initialize(
        classes=st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3),
        red=st.sampled_from([1, 2, 8]),
        tenant=st.sampled_from([1, 4]),
    )
    def begin(self, classes: list[int], red: int, tenant: int) -> None:
        self.index = Index(Wheel(0))
        self.index.lanes = frozenset(range(1, SOURCES + 1))
        self.site = self.index.new_site_queue(Site())
        self.weigh(classes, red, tenant)
        self.flows: dict[tuple[int, bytes, bytes], PlainFlow] = {}
        self.virtual = [0.0, 0.0]
        self.of: dict[int, tuple[tuple[int, bytes, bytes], int]] = {}
        self.now = 0
        self.msgid = 0

    def weigh(self, classes: list[int], red: int, tenant: int) -> None:
        self.classes, self.red, self.tenant = classes, red, tenant
        self.index.set_weights(classes, {b"red": red}, {b"acme": tenant})

    def weight(self, key: tuple[int, bytes, bytes]) -> float:
        kind, campaign, tenant = key
        return self.classes[kind] * (self.red if campaign == b"red" else 1) * (self.tenant if tenant == b"acme" else 1)

    @rule(
        kind=st.integers(0, 2),
        campaign=st.sampled_from(CAMPAIGNS),
        tenant=st.sampled_from([b"", b"acme"]),
        source=st.integers(0, SOURCES),
        many=st.integers(1, 4),
    )
    def arrive(self, kind: int, campaign: bytes, tenant: bytes, source: int, many: int) -> None:
        key = (kind, campaign, tenant)
        names = [self.index.name_number(name) if name else 0 for name in (campaign, tenant)]
        for _ in range(many):
            self.msgid += 1
            _, (r,) = self.index.py_add(self.msgid, 0, 1, [(0, b"a.example")], names[0], names[1], kind)
            self.index.set_source(r, source)
            self.index.py_push_site(self.site, r)
            flow = self.flows.setdefault(key, PlainFlow(self.weight(key)))
            if not flow.count:
                flow.start = max(flow.start, self.virtual[kind == TRANSACTIONAL])
            flow.lanes.setdefault(source, []).append(r)
            self.of[r] = (key, source)

    def wake(self) -> None:
        for (kind, _, _), flow in self.flows.items():
            if 0 < flow.parked_until <= self.now:
                flow.parked_until = 0
                flow.start = max(flow.start, self.virtual[kind == TRANSACTIONAL])

    @rule(source=st.integers(0, SOURCES - 1), times=st.integers(1, 6))
    def take(self, source: int, times: int) -> None:
        for _ in range(times):
            self.wake()
            lanes = (0, source + 1)
            could = {
                key: flow
                for key, flow in self.flows.items()
                if not flow.parked_until and any(flow.lanes.get(lane) for lane in lanes)
            }
            urgent = {key: flow for key, flow in could.items() if key[0] == TRANSACTIONAL}
            could = urgent or could
            r = self.index.py_take(self.site, source, self.now)
            if not could:
                assert r is None
                return
            assert r is not None
            key, lane = self.of.pop(r)
            assert key in could
            flow = could[key]
            assert flow.start == min(one.start for one in could.values())
            assert lane in lanes
            assert flow.lanes[lane].pop(0) == r
            tier = key[0] == TRANSACTIONAL
            self.virtual[tier] = max(self.virtual[tier], flow.start)
            flow.start += 1 / self.weight(key)
            self.index.py_remove(r)

    @precondition(lambda self: self.of)
    @rule(choice=st.integers(0, 1000))
    def leave(self, choice: int) -> None:
        """Removed by an operator, expired, or suspended: nothing is charged."""
        r = sorted(self.of)[choice % len(self.of)]
        key, lane = self.of.pop(r)
        self.flows[key].lanes[lane].remove(r)
        self.index.py_remove(r)

    @precondition(lambda self: self.of)
    @rule(choice=st.integers(0, 1000), front=st.booleans())
    def move_to_common(self, choice: int, front: bool) -> None:
        r = sorted(self.of)[choice % len(self.of)]
        key, lane = self.of[r]
        flow = self.flows[key]
        flow.lanes[lane].remove(r)
        self.index.py_push(self.site.common, r, front)
        if not flow.count:
            flow.start = max(flow.start, self.virtual[key[0] == TRANSACTIONAL])
        flow.lanes.setdefault(0, []).insert(0 if front else len(flow.lanes.get(0, [])), r)
        self.of[r] = (key, 0)

    @precondition(lambda self: self.of)
    @rule(choice=st.integers(0, 1000), wait=st.integers(1, 50))
    def park(self, choice: int, wait: int) -> None:
        r = sorted(self.of)[choice % len(self.of)]
        self.index.py_park(self.site, r, "a rule", self.now + wait)
        self.flows[self.of[r][0]].parked_until = self.now + wait
        assert self.index.parked_by(r) == ("a rule", self.now + wait)

    @rule(step=st.integers(1, 30))
    def pass_time(self, step: int) -> None:
        self.now += step

    @rule(classes=st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3), red=st.sampled_from([1, 2, 8]))
    def change_weights(self, classes: list[int], red: int) -> None:
        self.weigh(classes, red, self.tenant)

    @rule(lanes=st.frozensets(st.integers(1, SOURCES)))
    def lose_sources(self, lanes: frozenset[int]) -> None:
        order = list(self.site.by_source)  # lanes are released in the order in which they came to be
        self.index.lanes = lanes
        self.index.release_lanes(self.site)
        for key, flow in self.flows.items():
            moved = [r for lane in order if lane not in lanes for r in flow.lanes.get(lane, [])]
            if moved and len(moved) == flow.count:  # it was empty for a moment
                flow.start = max(flow.start, self.virtual[key[0] == TRANSACTIONAL])
            for lane in [lane for lane in flow.lanes if lane and lane not in lanes]:
                del flow.lanes[lane]
            here = flow.lanes.setdefault(0, [])
            here += moved
            for r in moved:
                self.of[r] = (key, 0)
        self.index.lanes = frozenset(range(1, SOURCES + 1))

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.site.ready() == len(self.of)
        assert self.site.urgent == sum(1 for key, _ in self.of.values() if key[0] == TRANSACTIONAL)
        for lane, queue in self.site.by_source.items():
            assert queue.count == sum(1 for _, at in self.of.values() if at == lane)
        counts = Counter(key for key, _ in self.of.values())
        told = {
            (flow.kind, self.index.name_of(flow.campaign), self.index.name_of(flow.tenant)): flow.count
            for flow in self.site.flows.values()
            if flow.count
        }
        assert told == counts


TestFlowsAgainstModel = FlowMachine.TestCase
TestFlowsAgainstModel.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def filled(
    counts: dict[bytes, int], kind: int = BULK, weights: dict[bytes, int] | None = None
) -> tuple[Index, SiteQueue]:
    index = Index(Wheel(0))
    index.set_weights([1, 4, 1], weights or {}, {})
    site = index.new_site_queue(Site())
    for campaign, count in counts.items():
        push(index, site, campaign, count, kind)
    return index, site


def push(index: Index, site: SiteQueue, campaign: bytes, count: int, kind: int = BULK) -> list[int]:
    number = index.name_number(campaign)
    made = []
    for _ in range(count):
        _, (r,) = index.py_add(1, 0, 1, [(0, b"a.example")], number, 0, kind)
        index.py_push_site(site, r)
        made.append(r)
    return made


def taken(index: Index, site: SiteQueue, count: int, source: int = 0) -> list[bytes]:
    """Campaigns in the order in which they are sent."""
    order = []
    for _ in range(count):
        r = index.py_take(site, source)
        assert r is not None
        order.append(index.message_info(index.recipient_info(r)[0])[5])
        index.py_remove(r)
    return order


@pytest.mark.parametrize(("light", "heavy"), [(1, 3), (1, 1), (2, 5), (1, 1000)])
def test_every_window_has_the_shares_of_the_weights(light: int, heavy: int) -> None:
    index, site = filled({b"light": 2000, b"heavy": 6000}, weights={b"light": light, b"heavy": heavy})
    order = taken(index, site, 4000)
    for window in (10, 40, 400, 2000):
        for start in range(0, len(order) - window, 7):
            heavies = sum(one == b"heavy" for one in order[start : start + window])
            assert abs(heavies - window * heavy / (light + heavy)) <= 2


def test_a_small_campaign_is_out_long_before_a_large_one() -> None:
    index, site = filled({b"large": 20_000})
    taken(index, site, 100)
    push(index, site, b"small", 50)
    assert taken(index, site, 102).count(b"small") >= 50


def test_transactional_goes_first_and_normal_by_its_weight() -> None:
    index, site = filled({b"newsletter": 1000})
    push(index, site, b"login", 3, TRANSACTIONAL)
    push(index, site, b"receipt", 1000, NORMAL)
    order = taken(index, site, 103)
    assert order[:3] == [b"login"] * 3
    assert 79 <= order[3:].count(b"receipt") <= 81  # 4:1


def test_retries_and_new_mail_share_and_neither_starves() -> None:
    """Retries stand in the lane of their source; a campaign that has both gets its share once."""
    index, site = filled({b"both": 300, b"new": 300})
    index.lanes = frozenset({1})
    number = index.name_number(b"both")
    for _ in range(300):
        _, (r,) = index.py_add(1, 0, 1, [(0, b"a.example")], number)
        index.set_source(r, 1)
        index.py_push_site(site, r)
    lanes, campaigns = [], []
    for _ in range(200):
        in_lane = site.by_source[1].count
        campaigns += taken(index, site, 1)
        lanes.append(site.by_source[1].count < in_lane)
    assert campaigns.count(b"both") == 100
    assert 49 <= lanes.count(True) <= 51
    assert index.py_take(site, 5) is not None  # another source has the new mail alone
    assert site.by_source[1].count == 300 - lanes.count(True)


def test_transactional_retries_come_before_everything_else() -> None:
    index, site = filled({b"newsletter": 10})
    index.lanes = frozenset({1})
    (r,) = push(index, site, b"login", 1, TRANSACTIONAL)
    index.set_source(r, 1)
    index.py_push_site(site, r)
    assert site.by_source[1].count == 1
    assert taken(index, site, 1, source=7) == [b"newsletter"]  # not for this source
    assert taken(index, site, 1) == [b"login"]


def test_a_flow_that_comes_and_goes_gets_no_more_than_its_share() -> None:
    """One message at a time, each handed in when the one before is out: it earns no turn by being empty."""
    index, site = filled({b"heavy": 1000, b"light": 1}, weights={b"heavy": 3})
    order: list[bytes] = []
    for _ in range(400):
        order += taken(index, site, 1)
        if order[-1] == b"light":
            push(index, site, b"light", 1)
    assert order.count(b"light") == 100


def test_campaigns_beyond_the_bound_share_a_flow_and_none_is_lost() -> None:
    index, site = filled({b"c%d" % n: 2 for n in range(FLOWS_PER_SITE + 200)})
    assert len(site.flows) == FLOWS_PER_SITE + 1
    push(index, site, b"login", 1, TRANSACTIONAL)
    order = taken(index, site, site.ready())
    assert order[0] == b"login"
    assert Counter(order) == {b"c%d" % n: 2 for n in range(FLOWS_PER_SITE + 200)} | {b"login": 1}
    push(index, site, b"c1", 1)
    push(index, site, b"another", 1)
    assert len(site.flows) < FLOWS_PER_SITE  # what is empty makes room


def test_empty_flows_do_not_pile_up() -> None:
    index, site = filled({b"always": 5000})
    for n in range(2000):
        push(index, site, b"day %d" % n, 1)
        taken(index, site, 2)
    assert len(site.flows) < 5


def test_a_site_that_is_given_back_has_nothing_ready() -> None:
    index, site = filled({b"x": 1})
    with pytest.raises(ValueError, match="ready"):
        index.free_site_queue(site)
    taken(index, site, 1)
    index.free_site_queue(site)
    assert not site.flows
