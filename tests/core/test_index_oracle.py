"""The queue in memory against a slow, obvious model: every recipient is in one place, and the counts add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastrelay._core.index import PLACE_NAMES, Index
from fastrelay._core.wheel import Wheel

UNPLACED, READY, RETRY, DNS, IN_FLIGHT, SUSPENDED, QUARANTINED, LOADING = range(8)
DOMAINS = [b"one.example", b"two.example", b"three.example"]
SOURCES = 3


class Site:
    """As much of a site as the index wants to see."""

    def __init__(self, key: str, provider: str = "other") -> None:
        self.key = key
        self.provider = provider


@dataclass
class Held:
    """A recipient of the model."""

    msgid: int
    number: int
    domain: bytes
    campaign: bytes = b""
    place: int = UNPLACED
    source: int = 0
    due_ms: int = 0
    queue: str | None = None


@dataclass
class Model:
    """Recipients by their number in the index, and queues as plain lists."""

    recipients: dict[int, Held] = field(default_factory=dict)
    queues: dict[str, list[int]] = field(default_factory=dict)

    def out(self, r: int) -> Held:
        held = self.recipients[r]
        if held.queue is not None:
            self.queues[held.queue].remove(r)
            held.queue = None
        return held

    def put(self, r: int, queue: str, place: int, front: bool = False) -> None:
        held = self.out(r)
        held.queue, held.place = queue, place
        self.queues.setdefault(queue, []).insert(0 if front else len(self.queues.get(queue, [])), r)


class IndexMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now_ms = 5_000
        self.wheel = Wheel(self.now_ms)
        self.index = Index(self.wheel)
        self.index.lanes = frozenset(range(1, SOURCES + 1))
        self.site = self.index.new_site_queue(Site("site"))
        self.model = Model()
        self.messages: dict[int, int] = {}
        self.next_id = 1

    def some(self, choice: int) -> int:
        held = sorted(self.model.recipients)
        return held[choice % len(held)]

    @rule(
        domains=st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=5), campaign=st.sampled_from([b"", b"x", b"y"])
    )
    def add(self, domains: list[bytes], campaign: bytes) -> None:
        msgid, self.next_id = self.next_id, self.next_id + 1
        number = self.index.name_number(campaign) if campaign else 0
        m, numbers = self.index.py_add(msgid, self.now_ms, 100, list(enumerate(domains)), number)
        self.messages[msgid] = m
        for r, (position, domain) in zip(numbers, enumerate(domains), strict=True):
            assert r not in self.model.recipients
            self.model.recipients[r] = Held(msgid, position, domain, campaign)

    @precondition(lambda self: self.model.recipients)
    @rule(choice=st.integers(0, 1000), front=st.booleans())
    def wait_for_dns(self, choice: int, front: bool) -> None:
        r = self.some(choice)
        domain = self.model.recipients[r].domain
        self.index.py_push(self.index.domain(domain).pending, r, front)
        self.model.put(r, f"dns {domain.decode()}", DNS, front)

    @precondition(lambda self: self.model.recipients)
    @rule(choice=st.integers(0, 1000), source=st.integers(0, SOURCES))
    def make_ready(self, choice: int, source: int) -> None:
        r = self.some(choice)
        self.index.set_source(r, source)
        self.model.recipients[r].source = source
        self.index.py_push_site(self.site, r)
        self.model.put(r, self.queue_name(r, source), READY)

    def queue_name(self, r: int, source: int) -> str:
        return f"lane {source} {self.model.recipients[r].campaign.decode()}"

    @rule(source=st.integers(0, SOURCES))
    def pop(self, source: int) -> None:
        """Whose turn it is, test_index_flows.py says; here: it is the first of its campaign in the lane."""
        lane = self.site.by_source.get(source) if source else self.site.common
        r = self.index.py_pop(lane) if lane is not None else None
        queues = [queue for name, queue in self.model.queues.items() if name.startswith(f"lane {source} ")]
        heads = [queue[0] for queue in queues if queue]
        assert r in heads if heads else r is None
        if r is not None:
            self.model.out(r).place = UNPLACED

    @precondition(lambda self: self.model.recipients)
    @rule(choice=st.integers(0, 1000), delay=st.integers(0, 100_000))
    def defer(self, choice: int, delay: int) -> None:
        r = self.some(choice)
        self.index.py_defer(r, self.now_ms + delay)
        held = self.model.out(r)
        held.place, held.due_ms = RETRY, self.now_ms + delay

    @rule(step=st.integers(0, 60_000))
    def let_time_pass(self, step: int) -> None:
        self.now_ms += step
        due = set(self.wheel.advance(self.now_ms, 10_000))
        for r, held in self.model.recipients.items():
            if held.place == RETRY and held.due_ms <= self.now_ms - 100:
                assert r in due  # at most one tick late
            if r in due:
                assert held.place == RETRY
                assert held.due_ms <= self.now_ms
        for r in due:  # as the engine does: the wheel has let go of it
            self.index.py_place(r, UNPLACED)
            self.model.recipients[r].place = UNPLACED

    @precondition(lambda self: self.model.recipients)
    @rule(choice=st.integers(0, 1000), place=st.sampled_from([IN_FLIGHT, SUSPENDED, QUARANTINED, LOADING]))
    def hold(self, choice: int, place: int) -> None:
        r = self.some(choice)
        self.index.py_place(r, place)
        self.model.out(r).place = place

    @precondition(lambda self: self.model.recipients)
    @rule(choice=st.integers(0, 1000))
    def remove(self, choice: int) -> None:
        r = self.some(choice)
        gone = self.index.py_remove(r)
        msgid = self.model.out(r).msgid
        del self.model.recipients[r]
        last = all(held.msgid != msgid for held in self.model.recipients.values())
        assert gone == last
        if last:
            del self.messages[msgid]

    @rule(lanes=st.frozensets(st.integers(1, SOURCES)))
    def change_the_pool(self, lanes: frozenset[int]) -> None:
        self.index.lanes = lanes
        self.index.release_lanes(self.site)
        for source in range(1, SOURCES + 1):
            for name, queue in list(self.model.queues.items()):
                for r in list(queue) if name.startswith(f"lane {source} ") and source not in lanes else ():
                    self.model.put(r, self.queue_name(r, 0), READY)
        self.index.lanes = frozenset(range(1, SOURCES + 1))

    @rule(slice_messages=st.integers(1, 4), place=st.integers(-1, 7), domain=st.sampled_from([None, *DOMAINS]))
    def select(self, slice_messages: int, place: int, domain: bytes | None) -> None:
        wanted = None if domain is None else {self.index.domain(domain).number}
        start: int | None = 0
        found: list[int] = []
        while start is not None:
            start, some = self.index.select(start, slice_messages, place=place, domains=wanted)
            found += some
        assert sorted(found) == sorted(
            r
            for r, held in self.model.recipients.items()
            if place in (-1, held.place) and domain in (None, held.domain)
        )

    @rule()
    def forget_domains(self) -> None:
        self.index.forget_idle_domains(0)
        in_use = {held.domain for held in self.model.recipients.values()}
        assert set(self.index.domains) == in_use

    @invariant()
    def the_counts_add_up(self) -> None:
        counts = dict.fromkeys(PLACE_NAMES, 0)
        for held in self.model.recipients.values():
            counts[PLACE_NAMES[held.place]] += 1
        told = self.index.place_counts()
        told["retry_backoff"] += told.pop("not_before")  # never tried, as all of them here
        assert told == counts
        assert self.index.queued_recipients == len(self.model.recipients) == sum(counts.values())
        assert self.index.queued_messages == len(self.messages)
        assert self.site.ready() == counts["ready"]
        assert len(self.wheel) == counts["retry_backoff"]

    @invariant()
    def every_recipient_is_what_it_was(self) -> None:
        for r, held in self.model.recipients.items():
            m, number, domain, place, _, source, _ = self.index.recipient_info(r)
            assert (m, number, domain.name, place) == (self.messages[held.msgid], held.number, held.domain, held.place)
            assert source == held.source
        for msgid, m in self.messages.items():
            own = sorted((h.number, r) for r, h in self.model.recipients.items() if h.msgid == msgid)
            assert self.index.recipients_of(m) == [r for _, r in own]
            assert self.index.find(msgid) == m
            assert self.index.message_info(m)[2] == len(own)


TestIndexAgainstModel = IndexMachine.TestCase
TestIndexAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_names_beyond_the_bound_share_one() -> None:
    index = Index(Wheel(0))
    numbers = {index.name_number(b"%d" % i) for i in range(65_540)}
    assert len(numbers) == 65_536
    assert index.name_of(index.name_number(b"new")) == b"(other)"
    assert index.name_of(index.name_number(b"17")) == b"17"


def test_a_queue_that_is_not_empty_is_not_given_back() -> None:
    index = Index(Wheel(0))
    queue = index.new_queue(READY)
    _, (r,) = index.py_add(1, 0, 1, [(0, b"a.example")])
    index.py_push(queue, r)
    with pytest.raises(ValueError, match="not empty"):
        index.free_queue(queue)
    assert index.py_pop(queue) == r
    index.free_queue(queue)


def test_an_age_from_before_this_boot_selects_only_what_is_older() -> None:
    index = Index(Wheel(0))
    _, (old,) = index.py_add(1, -5_000, 1, [(0, b"a.example")])
    index.py_add(2, 3_000, 1, [(0, b"a.example")])
    assert index.select(0, 10, -4_000) == (None, [old])
    assert index.select(0, 10, -6_000) == (None, [])
    assert len(index.select(0, 10)[1]) == 2


def test_a_million_recipients_fit_the_bound_per_recipient() -> None:
    index = Index(Wheel(0))
    for msgid in range(1, 70_001):
        index.py_add(msgid, 0, 1, [(0, b"a.example")])
    assert index.memory_bytes() <= 2 * 65_536 * (48 + 32)
    assert index.oldest_accepted_ms() == 0
