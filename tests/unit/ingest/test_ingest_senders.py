"""Whom a user may send as: patterns against the reverse-path and the From field."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.ingest.senders import Senders, _mailboxes, from_addresses

ALLOWED = Senders(["news.example", "*.below.example", "Info@Shop.example", "bounce-*@shop.example", "müller.example"])


@pytest.mark.parametrize(
    "address",
    [
        b"anybody@news.example",
        b"Anybody@NEWS.example",
        b"a@x.below.example",
        b"a@x.y.below.example",
        b"info@shop.example",
        b"INFO@SHOP.EXAMPLE",
        b"bounce-123=a.b@shop.example",
        "a@müller.example".encode(),
        b"a@xn--mller-kva.example",
        b'"a@b"@news.example',
    ],
)
def test_allowed(address: bytes) -> None:
    assert ALLOWED.allows(address)


@pytest.mark.parametrize(
    "address",
    [
        b"",
        b"news.example",
        b"a@x.news.example",
        b"a@xnews.example",
        b"a@below.example",
        b"sales@shop.example",
        b"bounce@shop.example",
        b"info@other.example",
        b"a@news.example.",
        b"a@news.example@evil.example",
        b"a@\xff.example",
        b"a" * 320 + b"@news.example",
    ],
)
def test_not_allowed(address: bytes) -> None:
    assert not ALLOWED.allows(address)


def test_the_null_reverse_path_is_allowed_by_name_only() -> None:
    assert Senders(["<>", "news.example"]).allows(b"")
    assert not Senders(["news.example"]).allows(b"")


@pytest.mark.parametrize(
    "pattern", ["", "*", "@news.example", "a*b@news.example", "a b@news.example", "a@*", "x..y", "*@"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="; "):
        Senders([pattern])


@pytest.mark.parametrize(
    ("header", "addresses"),
    [
        (b"From: a@news.example\r\n", [b"a@news.example"]),
        (b"from :<a@news.example>\r\n", [b"a@news.example"]),
        (b'From: "Shop, Inc." <a@news.example>\r\n', [b"a@news.example"]),
        (b"From: =?utf-8?q?Shop?=\r\n\t<a@news.example>\r\n", [b"a@news.example"]),
        (b"From: a@news.example (a \\) comment), B <b@news.example>\r\n", [b"a@news.example", b"b@news.example"]),
        (b"From: a@news.example\r\nSender: s@other.example\r\n", [b"a@news.example", b"s@other.example"]),
        (b"From: a@news.example\r\nFrom: b@evil.example\r\n", [b"a@news.example", b"b@evil.example"]),
        (b"From: a@evil.example <a@news.example>\r\n", [b"a@news.example"]),
        (b"Subject: From: x@y.example\r\n", []),
        (b"Subject: x\r\n From: a@news.example\r\n", []),
        (b"Sender: s@news.example\r\n", []),
        (b"X-From: a@news.example\r\n", []),
    ],
)
def test_addresses_of_from(header: bytes, addresses: list[bytes]) -> None:
    assert from_addresses(header) == addresses


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nobody",
        b"<>",
        b"<a@b@c.example>",
        b'<"a b"@news.example>',
        b"a@news.example b@evil.example",
        b"<a@news.example> b@evil.example",
        b"<a@news.example><b@evil.example>",
        b"<<a@news.example>>",
        b"<a@news.example",
        b"a@news.example>",
        b"Group: a@news.example;",
        b"<@evil.example:a@news.example>",
        b'"a@news.example',
        b"(a@news.example",
        b"(x (y) z) a@news.example",
        b"a@news.example,",
        b", a@news.example",
        b"<a@news.example,b@evil.example>",
        b"a\0@news.example",
        b"<a(x)@news.example>",
    ],
)
def test_what_can_not_be_read_is_not_allowed(value: bytes) -> None:
    assert not Senders(["news.example"]).allows_from(b"From: " + value + b"\r\n")


def test_every_address_must_be_allowed() -> None:
    one = Senders(["news.example"])
    assert one.allows_from(b"From: a@news.example, b@news.example\r\nSubject: x\r\n")
    assert not one.allows_from(b"From: a@news.example, b@evil.example\r\n")
    assert not one.allows_from(b"From: a@news.example\r\nSender: b@evil.example\r\n")
    assert not one.allows_from(b"Subject: x\r\n")


def test_long_fields_are_read_and_not_kept() -> None:
    many = b"From: " + b",\r\n ".join(b"a%d@news.example" % number for number in range(5000)) + b"\r\n"
    _mailboxes.cache_clear()
    assert len(from_addresses(many)) == 5000
    assert from_addresses(b"Subject: x\r\n" + many + b"X: y\r\n") == from_addresses(many)
    assert _mailboxes.cache_info().currsize == 0
    assert from_addresses(b"From: a@news.example") == [b"a@news.example"]
    assert _mailboxes.cache_info().currsize == 1


PIECE = st.sampled_from(
    [b"a@news.example", b"b@evil.example", b"<", b">", b",", b'"', b"(", b")", b" ", b"\\", b":", b";"]
)


@given(st.lists(PIECE, max_size=8).map(b"".join))
def test_the_reader_of_the_standard_library_sees_no_other_address(value: bytes) -> None:
    """Whatever it finds in a field that is let through is allowed, and whatever we found it finds too."""
    field = b"From: " + value + b"\r\n"
    if not Senders(["news.example"]).allows_from(field):
        return
    parsed = message_from_bytes(field + b"\r\n", policy=policy.SMTP)["From"]
    assert [one.addr_spec for one in parsed.addresses] == [one.decode() for one in from_addresses(field)]
    assert {one.addr_spec for one in parsed.addresses} == {"a@news.example"}
