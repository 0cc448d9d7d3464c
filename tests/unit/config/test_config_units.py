"""Durations, sizes, shares and endpoints: what is read, what is refused, and that formatting reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("10m", 600.0),
        ("4h", 14400.0),
        ("3d", 259200.0),
        ("1w", 604800.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5 h", 5400.0),
        (" 5s ", 5.0),
    ],
)
def test_duration(text, seconds):
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "1.5"])
def test_duration_needs_a_unit(text):
    with pytest.raises(ValueError, match=f"has no unit; write {text}s"):
        units.parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "ten minutes", "-5s", "5s5", "5 s m", "1e3s", "٣s", "5s;"])
def test_not_a_duration(text):
    with pytest.raises(ValueError, match="; "):
        units.parse_duration(text)


def test_unknown_duration_unit():
    with pytest.raises(ValueError, match="unknown unit 'y'"):
        units.parse_duration("2y")


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1B", 1),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1kB", 1000),
        ("100MiB", 104857600),
        ("1.5 GiB", 1610612736),
        ("2TB", 2 * 10**12),
    ],
)
def test_size(text, octets):
    assert units.parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "MiB", "10 Mi B", "-1MiB", "10Mb it", "1,5MiB", "10QiB", "0x10"])
def test_not_a_size(text):
    with pytest.raises(ValueError, match="; "):
        units.parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("10%", 0.1), ("12.5 %", 0.125), ("100%", 1.0)])
def test_share(text, share):
    assert units.parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["10", "0.1", "101%", "-1%", "%", "ten%"])
def test_not_a_share(text):
    with pytest.raises(ValueError, match="; "):
        units.parse_share(text)


@pytest.mark.parametrize(("text", "n"), [("20", 20), ("20 connections", 20), (" 1 connection ", 1), ("0", 0)])
def test_connections(text, n):
    assert units.parse_connections(text) == n


@pytest.mark.parametrize("text", ["", "connections", "-1", "1.5", "20 messages", "20connections", "10000000000"])
def test_not_connections(text):
    with pytest.raises(ValueError, match="; "):
        units.parse_connections(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:25", ("127.0.0.1", 25)),
        ("[::1]:25", ("::1", 25)),
        ("mx.example:2525", ("mx.example", 2525)),
        (":25", ("", 25)),
    ],
)
def test_endpoint(text, endpoint):
    assert units.parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "127.0.0.1", "::1:25", "[::1]", "[::1:25", "a:b", "a:65536", "a:-1", "a:", "a:²"])
def test_not_an_endpoint(text):
    with pytest.raises(ValueError, match="; "):
        units.parse_endpoint(text)


def test_bind_takes_addresses_only():
    assert units.parse_bind("*:25") == ("0.0.0.0", 25)
    assert units.parse_bind("[0:0::1]:25") == ("::1", 25)
    with pytest.raises(ValueError, match="not an IP address"):
        units.parse_bind("localhost:25")


@given(st.integers(0, 10**12))
def test_durations_read_back(milliseconds):
    assert round(units.parse_duration(units.format_duration(milliseconds / 1000)) * 1000) == milliseconds


@given(st.integers(0, 2**50))
def test_sizes_read_back(octets):
    assert units.parse_size(units.format_size(octets)) == octets


@given(st.integers(0, 10000))
def test_shares_read_back(hundredths):
    assert units.parse_share(units.format_share(hundredths / 10000)) == pytest.approx(hundredths / 10000)


@given(st.one_of(st.ip_addresses(), st.just("mx.example")), st.integers(0, 65535))
def test_endpoints_read_back(host, port):
    assert units.parse_endpoint(units.format_endpoint(str(host), port)) == (str(host), port)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_in_words(text):
    for parse in (units.parse_duration, units.parse_size, units.parse_share, units.parse_endpoint, units.parse_bind):
        try:
            parse(text)
        except ValueError as error:
            problem, _, mend = str(error).rpartition("; ")
            assert problem
            assert mend
