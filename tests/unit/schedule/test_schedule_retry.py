"""When a deferred recipient is tried again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config.schema import Retry, from_builtins
from fastrelay.schedule.retry import retry_delay_seconds


def rules(**keys: object) -> Retry:
    return from_builtins({"hostname": "a.test", "retry": keys}).retry


@pytest.mark.parametrize(
    ("attempts", "delay"),
    [(1, 600), (2, 1200), (3, 2400), (4, 4800), (5, 9600), (6, 14400), (7, 14400), (65535, 14400)],
)
def test_delays_double_up_to_the_longest(attempts: int, delay: float) -> None:
    assert retry_delay_seconds(rules(jitter=0.0), attempts, random.Random(1)) == delay


@given(st.integers(1, 65535), st.integers())
def test_jitter_stays_within_its_share(attempts: int, seed: int) -> None:
    exact = retry_delay_seconds(rules(jitter=0.0), attempts, random.Random(seed))
    delay = retry_delay_seconds(rules(jitter=0.1), attempts, random.Random(seed))
    assert 0.9 * exact <= delay <= 1.1 * exact


def test_jitter_spreads() -> None:
    rng = random.Random(1)
    assert len({retry_delay_seconds(rules(), 1, rng) for _ in range(100)}) > 90
