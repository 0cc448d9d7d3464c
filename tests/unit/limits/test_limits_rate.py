"""Rates: what is read, what is refused and how, and that a rate is never faster than written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.limits.rate import MAX_BURST_NS, MAX_PER_SECOND, PERIODS_NS, Rate, make_rate, parse_rate, period_name

SECOND_NS = 10**9


@pytest.mark.parametrize(
    ("text", "units", "period_ns", "burst", "normal"),
    [
        ("5/s", 5, SECOND_NS, 3, "5/s"),
        ("1/s", 1, SECOND_NS, 1, "1/s"),
        ("100/s", 100, SECOND_NS, 50, "100/s"),
        ("60/min", 60, 60 * SECOND_NS, 1, "60/min"),
        ("3000/h burst 50", 3000, 3600 * SECOND_NS, 50, "3000/h burst 50"),
        ("  3000 / h   burst  50 ", 3000, 3600 * SECOND_NS, 50, "3000/h burst 50"),
        ("1000000/d", 1_000_000, 86400 * SECOND_NS, 6, "1000000/d"),
        ("1/d", 1, 86400 * SECOND_NS, 1, "1/d"),
        ("5/s burst 3", 5, SECOND_NS, 3, "5/s"),
    ],
)
def test_rates(text, units, period_ns, burst, normal):
    assert parse_rate(text) == Rate(units, period_ns, burst, normal)


# text, a word of the problem, a word of the mend
REFUSED = {
    "zero": ("0/h", "nothing out", "1/d or more"),
    "burst zero": ("5/h burst 0", "burst of 0", "burst 1"),
    "no period": ("5", "no period", "5/min"),
    "minutes as m": ("5/m", "unknown period 'm'", "5/min"),
    "spelt out": ("5/hour", "unknown period", "5/h"),
    "capital": ("5/H", "unknown period", "5/h"),
    "unknown period": ("5/fortnight", "unknown period", "s, min, h and d"),
    "a fraction": ("0.5/s", "'0.5'", "30/min for 0.5/s"),
    "thousands": ("3,000/h", "'3,000'", "whole number"),
    "several periods": ("5/10s", "period of 10s", "one period"),
    "burst without a number": ("5/s burst", "behind it", "burst 50"),
    "something behind": ("5/s per source", "behind it", "burst 50"),
    "a month of burst": ("1/d burst 1000", "more than a month", "smaller burst"),
    "absurd": ("2000000/s", "more than 1000000 a second", "leave the limit out"),
    "a word": ("fast", "not a rate", "3000/h"),
    "empty": ("", "not a rate", "3000/h"),
    "negative": ("-5/h", "not a rate", "3000/h"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    text, problem, mend = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        parse_rate(text)
    told, _, mended = str(caught.value).rpartition("; ")
    assert problem in told
    assert mend in mended


rates = st.builds(
    make_rate, st.integers(1, MAX_PER_SECOND), st.sampled_from(list(PERIODS_NS)), st.none() | st.integers(1, 1000)
)


@given(rates)
def test_never_faster_than_written(rate):
    assert rate.emission_ns * rate.units >= rate.period_ns
    assert (rate.emission_ns - 1) * rate.units < rate.period_ns  # and as fast as whole nanoseconds allow
    assert rate.burst >= 1


@given(rates)
def test_the_text_reads_back(rate):
    if (rate.burst - 1) * rate.emission_ns <= MAX_BURST_NS:
        assert parse_rate(rate.text) == rate
        assert parse_rate(str(rate)).text == rate.text


@given(rates)
def test_the_default_burst_is_half_a_second(rate):
    plain = make_rate(rate.units, period_name(rate.period_ns))
    assert plain.burst == max(1, -(-rate.units * SECOND_NS // (2 * rate.period_ns)))
    assert plain.burst <= max(1.0, plain.per_second / 2 + 1)


def test_per_hour():
    assert parse_rate("3000/h").per_hour == pytest.approx(3000)
    assert parse_rate("2/s").per_hour == pytest.approx(7200)


@given(st.text(alphabet="0123456789/ smhdin.burst-,", max_size=20))
def test_any_text_is_read_or_refused_in_words(text):
    rate, words = None, ""
    try:
        rate = parse_rate(text)
    except ValueError as error:
        words = str(error)
    if rate is None:
        assert re.fullmatch(r"(?s).+; .+", words)
    else:
        assert rate.units > 0
        assert (rate.burst - 1) * rate.emission_ns <= MAX_BURST_NS
