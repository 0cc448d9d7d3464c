"""Header fields for the relay: found whatever their case and folding, taken out, and nothing else is touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config.schema import Headers
from fastrelay.ingest.headers import HeaderNames

NAMES = HeaderNames(Headers())
BODY = b"X-Job: not a header\r\n\r\nbody\r\n"


def edit(header: bytes, names: HeaderNames = NAMES) -> tuple[dict[str, bytes], bytes] | None:
    envelope = SimpleNamespace(content=header + b"\r\n" + BODY, header_length=len(header) + 2, header=None)
    large = SimpleNamespace(content=None, header_length=len(header) + 2, header=header + b"\r\n")
    found = names.edit(envelope)
    assert found == names.edit(large)  # a large content has its header beside it
    return found


def test_no_such_field() -> None:
    assert edit(b"From: a@b.test\r\nX-Other: y\r\nSubject: X-Job: no\r\n") is None


@pytest.mark.parametrize(
    ("field", "campaign"),
    [
        (b"X-Job: spring\r\n", b"spring"),
        (b"x-jOB:spring\r\n", b"spring"),
        (b"X-Job \t: spring \r\n", b"spring"),
        (b"X-Job: spring\r\n\tsale\r\n  2026\r\n", b"spring sale 2026"),
        (b"X-Job:\r\n spring\r\n", b"spring"),
        (b"X-Fastrelay-Campaign: " + b"x" * 400 + b"\r\n", b"x" * 255),
    ],
)
def test_a_field_is_read_and_taken_out(field: bytes, campaign: bytes) -> None:
    before, after = b"From: a@b.test\r\n", b"Subject: one\r\n\ttwo\r\n"
    for header in (field + before + after, before + field + after, before + after + field):
        found = edit(header)
        assert found is not None
        assert found == ({"campaign": campaign}, before + after + b"\r\n")


def test_the_first_name_of_the_configuration_wins_over_the_order_in_the_message() -> None:
    found = edit(b"X-Job: second\r\nX-Fastrelay-Campaign: first\r\nX-Job: third\r\n")
    assert found == ({"campaign": b"first"}, b"\r\n")
    assert edit(b"X-Job: one\r\nX-Job: two\r\n") == ({"campaign": b"one"}, b"\r\n")
    assert edit(b"X-Fastrelay-Campaign:\r\nX-Job: one\r\n") == ({"campaign": b"one"}, b"\r\n")


def test_each_meaning_has_its_field() -> None:
    found = edit(
        b"X-Fastrelay-Tenant: acme\r\nX-Virtual-MTA: fast\r\nX-Fastrelay-Priority: NORMAL\r\n"
        b"X-Fastrelay-Expire: 10m\r\nX-Fastrelay-Not-Before: 2026-05-31T08:00:00Z\r\n"
    )
    assert found == (
        {
            "tenant": b"acme",
            "pool": b"fast",
            "priority": b"NORMAL",
            "expire": b"10m",
            "not_before": b"2026-05-31T08:00:00Z",
        },
        b"\r\n",
    )


def test_without_names_nothing_is_looked_for() -> None:
    none = HeaderNames(Headers(campaign=[], tenant=[], pool=[], priority=[], expire=[], not_before=[]))
    assert edit(b"X-Job: spring\r\n", none) is None


FIELD = st.tuples(
    st.sampled_from([b"From", b"X-Jobs", b"X-Job", b"Xx-Job", b"X-Fastrelay-Tenant", b"Subject"]),
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), min_size=1, max_size=3),
)


@given(st.lists(FIELD, max_size=8))
def test_everything_else_stays_octet_for_octet(fields: list[tuple[bytes, list[bytes]]]) -> None:
    ours = (b"X-Job", b"X-Fastrelay-Tenant")
    whole = [(name, name + b": " + b"\r\n ".join(lines) + b"\r\n") for name, lines in fields]
    found = edit(b"".join(octets for _, octets in whole))
    kept = b"".join(octets for name, octets in whole if name not in ours) + b"\r\n"
    if any(name in ours for name, _ in whole):
        assert found is not None
        assert found[1] == kept
    else:
        assert found is None
