"""MTA-STS: the record, the policy, the hosts that it names (RFC 8461)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.tls.mta_sts import (
    MAX_AGE_SECONDS,
    MAX_OCTETS,
    MAX_PATTERNS,
    PolicyError,
    allowed,
    matches,
    parse_policy,
    record_id,
    text_of,
)

SOUND = "version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: 604800\n"


def txt(*parts: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in parts)


# -- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([txt("v=STSv1; id=20160831085700Z;")], "20160831085700Z"),
        ([txt("v=STSv1;id=1")], "1"),
        ([txt("v=STSv1 ; id=1 ; ")], "1"),
        ([txt("v=STSv1; x=y; id=abc; id=def")], "abc"),
        ([txt("v=STSv1; i", "d=1;")], "1"),  # character strings are joined
        ([txt("v=spf1 -all"), txt("v=STSv1; id=1")], "1"),
        ([txt("v=STSv1; id=1"), txt("v=STSv1; id=1")], None),  # several: none (section 3.1)
        ([txt("v=STSv1; id=1"), txt("v=STSv1")], None),
        ([txt("v=STSv10; id=1")], None),
        ([txt("id=1; v=STSv1")], None),
        ([txt(" v=STSv1; id=1")], None),
        ([txt("v=stsv1; id=1")], None),
        ([txt("v=STSv1")], None),
        ([txt("v=STSv1; id=")], None),
        ([txt("v=STSv1; id=a-b")], None),
        ([txt("v=STSv1; id=" + "a" * 33)], None),
        ([txt("v=STSv1; id=" + "a" * 32)], "a" * 32),
        ([txt("v=STSv1; ID=1")], None),
        ([b"\xffv=STSv1; id=1"], None),
        ([], None),
    ],
)
def test_record(records: list[bytes], found: str | None) -> None:
    assert record_id(records) == found


def test_text_of() -> None:
    assert text_of(txt("a", "", "b")) == "ab"
    assert text_of(b"") == ""
    assert text_of(b"\x01\xe9") == "\ufffd"
    with pytest.raises(ValueError, match="cut short"):
        text_of(b"\x05abc")


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_record_can_be_read(records: list[bytes]) -> None:
    found = record_id(records)
    assert found is None or (0 < len(found) <= 32 and found.isalnum())


# -- the policy -------------------------------------------------------------------------------------------------------


def refusal(text: str | bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text.encode() if isinstance(text, str) else text)
    assert caught.value.result == "sts-policy-invalid"
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_policy(end: str) -> None:
    text = SOUND.replace("\n", end)
    policy = parse_policy(text.encode())
    assert (policy.mode, policy.mx, policy.max_age) == ("enforce", ("mx.test",), 604800)
    assert policy.lines == ("version: STSv1", "mode: enforce", "mx: mx.test", "max_age: 604800")
    assert parse_policy(text.removesuffix(end).encode()) == policy


def test_spelling() -> None:
    text = b"mx:  *.Many.Test. \nmode:testing\nmax_age :\t5\n\n \nversion: STSv1\nmx: mx.test\nnew: a: b\nmx: mx.test"
    policy = parse_policy(text)
    assert (policy.mode, policy.mx, policy.max_age) == ("testing", ("*.many.test", "mx.test"), 5)


def test_the_first_counts() -> None:
    policy = parse_policy((SOUND + "mode: none\nmax_age: 1\nversion: STSv2\n").encode())
    assert (policy.mode, policy.max_age) == ("enforce", 604800)


def test_none_needs_no_mx() -> None:
    policy = parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n")
    assert (policy.mode, policy.mx) == ("none", ())


def test_max_age_is_bounded() -> None:
    assert parse_policy(SOUND.replace("604800", "4294967295").encode()).max_age == MAX_AGE_SECONDS
    assert parse_policy(SOUND.replace("604800", "0").encode()).max_age == 0


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("version: STSv1\n", "", "no version"),
        ("STSv1", "STSv2", "version 'STSv2'"),
        ("mode: enforce\n", "", "no mode"),
        ("enforce", "Enforce", "mode 'Enforce'"),
        ("mx: mx.test\n", "", "no mx"),
        ("mx.test", "mx..test", "mx 'mx..test'"),
        ("mx.test", "a.*.test", "mx"),
        ("mx.test", "*", "mx"),
        ("mx.test", "*.*.test", "mx"),
        ("mx.test", "mx test", "mx"),
        ("mx.test", "", "mx"),
        ("mx.test", "-mx.test", "mx"),
        ("mx.test", "a." * 130 + "test", "mx"),
        ("max_age: 604800\n", "", "no max_age"),
        ("604800", "-1", "max_age '-1'"),
        ("604800", "1e3", "max_age"),
        ("604800", "99999999999", "max_age"),
        ("604800", "٣", "max_age"),
        ("version", "<html>\nversion", "a line that is no field: '<html>'"),
        ("mode", ": x\nmode", "a line that is no field"),
    ],
)
def test_invalid(was: str, now: str, words: str) -> None:
    assert was in SOUND
    assert words in refusal(SOUND.replace(was, now))


def test_bounds() -> None:
    assert "not UTF-8" in refusal(b"\xff" + SOUND.encode())
    padding = "x: " + "y" * 1000 + "\n"
    assert "larger than" in refusal(SOUND + padding * (MAX_OCTETS // 1000 + 1))
    many = "".join(f"mx: mx{number}.test\n" for number in range(MAX_PATTERNS))
    assert f"more than {MAX_PATTERNS} mx" in refusal(SOUND + many)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: (SOUND + text).encode())))
def test_anything_is_a_policy_or_an_error(octets: bytes) -> None:
    try:
        policy = parse_policy(octets)
    except PolicyError:
        return
    assert 0 <= policy.max_age <= MAX_AGE_SECONDS
    assert policy.mx or policy.mode == "none"


# -- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "host", "named"),
    [
        ("mx.test", "mx.test", True),
        ("mx.test", "MX.TEST.", True),
        ("mx.test", "a.mx.test", False),
        ("*.test", "mx.test", True),
        ("*.test", "a.mx.test", False),
        ("*.test", "test", False),
        ("*.mx.test", "mx.test", False),
        ("*.mx.test", "a.mx.test", True),
        ("*.mx.test", "amx.test", False),
    ],
)
def test_named_hosts(pattern: str, host: str, named: bool) -> None:
    assert matches(pattern, host) is named


def test_allowed() -> None:
    hosts = ["b.mx.test", "a.mx.test", "evil.test", "mx.test", "a.mx.test"]
    assert allowed(("*.mx.test",), hosts) == ("a.mx.test", "b.mx.test")
    assert allowed((), hosts) == ()
