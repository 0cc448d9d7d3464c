"""Which lines the suppression rules are given: none too few, whatever stands where, and hardly one too many."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.feedback import needed
from fastrelay.feedback.eventfiles import Wanted
from fastrelay.feedback.needed import FAILURES, RENEW_SECONDS, Known, Needed
from fastrelay.feedback.suppression import address_key


def line(name: str, recipient: str, **more: str) -> bytes:
    """As the engine writes it."""
    fields = {
        "key": "k-0", "event": name, "time": "2026-11-24T08:00:00.000Z", "id": "k", "reverse_path": "news@a.example",
        **more, "recipient": recipient, "domain": recipient.rpartition("@")[2], "attempt": 1,
    }  # fmt: skip
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def given_of(wanted: Wanted, octets: bytes) -> list[tuple[str, str]]:
    found = [json.loads(one.raw) for one in wanted.lines("worker0", octets, 0)]
    return [(one["event"], one["recipient"]) for one in found]


def test_deliveries_to_others_are_left_out() -> None:
    known = Known(none=True)
    known.add(address_key(b"Joe@Example.com"))
    slices = Needed(known)
    assert given_of(slices, line("delivered", "ann@example.com") + line("delivered", "bob@example.com")) == []
    assert ("delivered", "joe@EXAMPLE.com") in given_of(slices, line("delivered", "joe@EXAMPLE.com"))


def test_a_failure_makes_its_recipient_known_at_once() -> None:
    slices = Needed(Known(none=True))
    both = line("failed", "joe@example.com") + line("delivered", "joe@example.com")
    assert given_of(slices, both) == [("failed", "joe@example.com"), ("delivered", "joe@example.com")]
    assert given_of(slices, line("delivered", "joe@example.com", mail_from="x@b.example")) != []
    assert given_of(slices, line("expired", "ann@example.com")) == [("expired", "ann@example.com")]


@pytest.mark.parametrize(
    ("failed", "delivered"),
    [
        ("j\u00f6e@example.com", "j\u00f6e@example.com"),
        ("joe@xn--grten-ira.example", "joe@g\u00e4rten.example"),
        ("joe@g\u00e4rten.example", "joe@XN--grten-ira.example"),
        ('"joe doe"@example.com', '"joe\\ doe"@example.com'),
        ('"joe"@example.com', "joe@example.com"),
        ("joe@example.com", '"joe"@example.com'),
        ("joe@[127.0.0.1]", "joe@[127.0.0.1]"),
    ],
)
def test_other_spellings_of_an_address(failed: str, delivered: str) -> None:
    slices = Needed(Known(none=True))
    given_of(slices, line("failed", failed))
    assert ("delivered", delivered) in given_of(slices, line("delivered", delivered))


def test_what_is_in_the_store_and_not_yet_walked_over() -> None:
    known = Known(none=False)
    slices = Needed(known)
    assert given_of(slices, line("delivered", "joe@example.com")) != []
    known.walked(b"joe@example.com")
    known.walk_is_over(0.0)
    assert given_of(slices, line("delivered", "ann@example.com")) == []
    assert given_of(slices, line("delivered", "joe@example.com")) != []


def test_what_was_added_outlives_one_renewal_and_no_more() -> None:
    known = Known(none=True)
    known.walk_is_over(0.0)
    known.add(b"joe@example.com")
    for now, there in ((RENEW_SECONDS - 1, True), (RENEW_SECONDS, True), (2 * RENEW_SECONDS, False)):
        known.walk_is_over(now)  # read and not yet counted, and then a delivery cleared it
        assert known.any_of([b"Joe@example.com"]) is there


def test_too_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "KNOWN_ADDRESSES", 3)
    known = Known(none=True)
    for n in range(4):
        known.add(b"r%d@example.com" % n)
    assert known.all
    slices = Needed(known)
    assert given_of(slices, line("delivered", "ann@example.com")) != []
    known.walked(b"r1@example.com")
    known.walk_is_over(0.0)
    assert not known.all
    assert given_of(slices, line("delivered", "ann@example.com")) == []
    for n in range(5):
        known.walked(b"w%d@example.com" % n)
    known.walk_is_over(RENEW_SECONDS)
    assert known.all


ADDRESSES = st.sampled_from(
    ["joe@a.example", "JOE@a.example", "ann@a.example", '"joe"@a.example', "j\u00f6e@g\u00e4rten.example", "no address"]
)


@given(st.lists(st.lists(st.tuples(st.sampled_from(["failed", "expired", "delivered", "deferred"]), ADDRESSES))))
def test_nothing_is_missing_that_the_rules_would_act_on(slices: list[list[tuple[str, str]]]) -> None:
    """Against all lines: each failure, and each delivery behind a failure of the same address, in order."""
    reader, seen = Needed(Known(none=True)), set[str]()
    for one in slices:
        got = iter(given_of(reader, b"".join(line(*event) for event in one)))
        for name, recipient in one:
            key = recipient.lower().replace('"', "")
            if name in FAILURES:
                seen.add(key)
            if name in FAILURES or (name == "delivered" and key in seen and "@" in key):
                assert (name, recipient) in got  # goes on from the last one that was found
