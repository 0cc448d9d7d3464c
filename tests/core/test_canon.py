"""Canonical forms of bodies and headers against dkimpy's, which are slow and obvious, and RFC 6376's examples."""

from __future__ import annotations

import hashlib
import re
import warnings
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core.canon import (
    BodyHash,
    SignedNames,
    _plain,
    body_hash,
    canonical_field,
    finished_field,
    first_domain,
    parse_fields,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dkim import select_headers
    from dkim.canonicalization import Relaxed, Simple

PIECE = 65536
FORMS = {True: Relaxed, False: Simple}
BOTH = pytest.mark.parametrize("relaxed", [True, False], ids=["relaxed", "simple"])

# Octets that matter, and runs of text that are longer than what is looked at in one step.
tokens = st.sampled_from(
    [
        b"a",
        b"bcdefgh",
        b"sixteen octets..",
        b" ",
        b"  ",
        b"\t",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b" \r\n",
        b"\r",
        b"\n",
        b"\xff",
    ]
)
bodies = st.lists(tokens, max_size=80).map(b"".join)


def expected(body: bytes, relaxed: bool) -> bytes:
    """The hash by dkimpy. A body without CRLF at its end is taken as if it had one, as it will be when it is sent."""
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    return hashlib.sha256(FORMS[relaxed].canonicalize_body(body)).digest()


def in_chunks(body: bytes, sizes: list[int], relaxed: bool) -> bytes:
    hasher = BodyHash(relaxed)
    at = 0
    for size in sizes:
        hasher.feed(body[at : at + size])
        at += size
    hasher.feed(body[at:])
    return hasher.digest()


# -- bodies -----------------------------------------------------------------------------------------------------------


@BOTH
@given(body=bodies, sizes=st.lists(st.integers(0, 20), max_size=40))
@settings(max_examples=500)
def test_any_body_in_any_chunks_has_the_hash_of_dkimpy(relaxed: bool, body: bytes, sizes: list[int]) -> None:
    assert body_hash(body, 0, relaxed) == expected(body, relaxed)
    assert in_chunks(body, sizes, relaxed) == expected(body, relaxed)


@BOTH
@given(before=st.integers(PIECE - 40, PIECE + 4), body=bodies)
@settings(max_examples=100)
def test_pieces_of_a_large_body_meet_without_a_seam(relaxed: bool, before: int, body: bytes) -> None:
    content = b"x" * before + body
    assert in_chunks(content, [], relaxed) == expected(content, relaxed)


@BOTH
def test_every_cut_of_a_body_is_the_same(relaxed: bool) -> None:
    body = b"text  \r\n \t \r\n\r\na\tb \r\r\n \r\n\r\n"
    for cut in range(len(body) + 1):
        assert in_chunks(body, [cut], relaxed) == expected(body, relaxed), cut


@BOTH
@pytest.mark.parametrize("octets", [2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_a_large_body_is_hashed_the_same_way(relaxed: bool, octets: int) -> None:
    body = (b"Some  words \t and more.  \r\n" * (octets // 25 + 1))[:octets]
    assert body_hash(body, 0, relaxed) == expected(body, relaxed)


# RFC 6376 section 3.4.3 and 3.4.4, in base64
EMPTY = {True: b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", False: b"frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="}


@BOTH
@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n\r\n", b"\r\n" * 100_000])
def test_an_empty_body(relaxed: bool, body: bytes) -> None:
    assert b64encode(body_hash(body, 0, relaxed)) == EMPTY[relaxed]
    assert b64encode(in_chunks(body, [1, 1, 1], relaxed)) == EMPTY[relaxed]


def test_a_relaxed_body_of_white_space_is_empty() -> None:
    for body in (b" \r\n", b"\t \r\n\r\n \r\n", b"  "):
        assert b64encode(body_hash(body, 0, True)) == EMPTY[True]


def test_the_example_of_the_rfc() -> None:
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert body_hash(body, 0, True) == hashlib.sha256(b" C\r\nD E\r\n").digest()
    assert body_hash(body, 0, False) == hashlib.sha256(b" C \r\nD \t E\r\n").digest()


@BOTH
def test_empty_lines_count_once_something_follows(relaxed: bool) -> None:
    body = b"a\r\n" + b"\r\n" * 100_000 + b"b\r\n"
    assert in_chunks(body, [7, PIECE, PIECE], relaxed) == expected(body, relaxed)


@BOTH
def test_a_header_is_left_out(relaxed: bool) -> None:
    assert body_hash(b"A: b\r\n\r\ntext \r\n", 8, relaxed) == expected(b"text \r\n", relaxed)
    assert body_hash(b"A: b\r\n", 6, relaxed) == expected(b"", relaxed)


def test_a_header_that_is_longer_than_the_content_is_refused() -> None:
    with pytest.raises(ValueError, match="a header of 9 octets"):
        body_hash(b"A: b\r\n\r\n", 9, True)
    with pytest.raises(ValueError, match="a header of -1"):
        body_hash(b"A: b\r\n\r\n", -1, True)


def test_a_body_that_is_complete_takes_no_more() -> None:
    hasher = BodyHash(True)
    hasher.feed(b"a")
    assert hasher.digest() == hasher.digest() == expected(b"a", True)
    with pytest.raises(ValueError, match="complete"):
        hasher.feed(b"b")


@BOTH
def test_other_threads_may_feed(relaxed: bool) -> None:
    bodies = [(b"line  %d \r\n" % number) * 30_000 for number in range(4)]

    def hashed(body: bytes) -> bytes:
        hasher = BodyHash(relaxed)
        for at in range(0, len(body), 10_000):
            hasher.feed(memoryview(body)[at : at + 10_000])
        return hasher.digest()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hashed, bodies)) == [expected(body, relaxed) for body in bodies]


@pytest.mark.parametrize("portable", [True, False], ids=["portable", "fast"])
@given(octets=bodies, folds=st.booleans())
@settings(max_examples=500)
def test_one_step_copies_what_is_plain_and_stops_at_what_is_not(portable: bool, octets: bytes, folds: bool) -> None:
    copied = _plain(octets, folds, portable)
    assert octets.startswith(copied)
    changed = re.compile(rb"\t| [ \t\r]" + (rb"|\r|\n" if folds else b""))
    first = changed.search(octets)
    place = first.start() if first else len(octets)
    assert len(copied) <= place
    assert len(copied) == place or len(octets) - len(copied) < 17


# -- header fields ----------------------------------------------------------------------------------------------------

names = st.sampled_from(
    [b"From", b"FROM", b"To", b"Subject", b"X-A", b"Received", b"DKIM-Signature", b"List-Unsubscribe"]
)
values = st.lists(
    st.sampled_from([b"a", b"Some longer text", b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t", b":", b"\xc3\xa9", b";"]),
    max_size=12,
).map(b"".join)
headers = st.lists(st.tuples(names, values), max_size=12)
asked = st.lists(st.sampled_from([b"From", b"To", b"Subject", b"x-a", b"Reply-To", b"List-Unsubscribe"]), max_size=6)


def lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b":" + value + b"\r\n" for name, value in fields)


def listed(names_of_h: bytes) -> list[bytes]:
    return [name for name in names_of_h.replace(b"\r\n ", b"").split(b":") if name]


@BOTH
@given(fields=headers, sign=asked, over=asked)
@settings(max_examples=500)
def test_the_signed_fields_are_those_of_dkimpy(
    relaxed: bool, fields: list[tuple[bytes, bytes]], sign: list[bytes], over: list[bytes]
) -> None:
    found, signed = parse_fields(lines(fields)).signed_input(SignedNames(sign, over), relaxed)
    form = FORMS[relaxed]
    canonical = form.canonicalize_headers([(name, value + b"\r\n") for name, value in fields])
    chosen = select_headers(canonical, [name.lower() for name in listed(found)])
    assert signed == b"".join(name + b":" + value for name, value in chosen)
    for name in {name.lower() for name in [*sign, *over]}:
        there = sum(one.lower() == name for one, _ in fields)
        wanted = there + (name in {one.lower() for one in over})
        assert [one.lower() for one in listed(found)].count(name) == wanted


@BOTH
@given(name=names, value=values)
def test_one_field_in_canonical_form(relaxed: bool, name: bytes, value: bytes) -> None:
    ((canonical_name, canonical_value),) = FORMS[relaxed].canonicalize_headers([(name, value + b"\r\n")])
    field = canonical_field(name + b":" + value, relaxed)
    assert field + b"\r\n" == canonical_name + b":" + canonical_value


def test_repeated_fields_are_taken_from_the_bottom_up() -> None:
    header = b"X-A: 1\r\nFrom: a@b\r\nx-a: 2\r\nX-A : 3\r\n"
    found, signed = parse_fields(header).signed_input(SignedNames([b"X-A", b"From"], [b"X-A"]), True)
    assert found == b"X-A:X-A:X-A:X-A:From"
    assert signed == b"x-a:3\r\nx-a:2\r\nx-a:1\r\nfrom:a@b\r\n"


def test_names_are_signed_once_however_often_they_are_listed() -> None:
    names_of = SignedNames([b"From", b"FROM"], [b"from", b"To"])
    assert parse_fields(b"From: a@b\r\n").signed_input(names_of, True) == (b"From:From:To", b"from:a@b\r\n")


def test_a_long_list_is_folded_behind_colons() -> None:
    every = [b"X-Field-%d" % number for number in range(40)]
    found, _ = parse_fields(b"From: a@b\r\n").signed_input(SignedNames([], every), True)
    assert all(len(line) <= 78 for line in (b" h=" + found).split(b"\r\n"))
    assert listed(found) == every


def test_more_fields_of_a_name_than_are_signed() -> None:
    found, signed = parse_fields(b"X-A: 1\r\n" * 300).signed_input(SignedNames([b"X-A"]), True)
    assert listed(found) == [b"X-A"] * 255
    assert signed == b"x-a:1\r\n" * 255


def test_fields_of_a_header() -> None:
    header = (
        b"From: a\r\n b\r\nSUBJECT : hi \r\nno field\r\n: none\r\nB\xc3\xa9: x\r\nSubject: last\r\n\r\nFrom: body\r\n"
    )
    fields = parse_fields(header)
    assert (fields.number, fields.unreadable) == (3, 3)
    assert fields.count(b"subject") == 2
    assert fields.count(b"from") == 1
    assert fields.last(b"from") == b" a\r\n b"
    assert fields.last(b"subject") == b" last"
    assert fields.last(b"to") is None


def test_a_header_without_an_end() -> None:
    assert parse_fields(b"From: a@b").last(b"from") == b" a@b"
    assert parse_fields(b"From: a@b\nTo: c\n").last(b"from") == b" a@b"
    assert parse_fields(b"").number == 0
    found, signed = parse_fields(b"From: a@b\nTo: c").signed_input(SignedNames([b"From", b"To"]), False)
    assert (found, signed) == (b"From:To", b"From: a@b\r\nTo: c\r\n")


def test_a_header_of_very_many_fields() -> None:
    header = b"a:\r\n" * 60_000
    assert parse_fields(header).count(b"a") == 60_000


def test_a_field_needs_a_colon() -> None:
    with pytest.raises(ValueError, match="colon"):
        canonical_field(b"From", True)


@given(signature=st.binary(max_size=600), before=st.integers(0, 40))
def test_a_signature_is_written_in_base64_on_lines_of_78(signature: bytes, before: int) -> None:
    field = b"DKIM-Signature: v=1;\r\n " + b"x" * before + b" b="
    finished = finished_field(field, signature)
    assert finished.startswith(field)
    assert finished.endswith(b"\r\n")
    assert finished[len(field) :].replace(b"\r\n", b"").replace(b" ", b"") == b64encode(signature)
    assert all(len(line) <= 78 for line in finished.split(b"\r\n"))
    assert all(line[:1] == b" " for line in finished.split(b"\r\n")[1:-1])


# -- whose message it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b" joe@Example.COM", b"example.com"),
        (b' "A, B <x@y>" <joe@example.com>', b"example.com"),
        (b" Jane @ Home <j@k.example>", b"k.example"),
        (b" a@one.example, b@two.example", b"one.example"),
        (b" (c@d.example) e@f.example (g)", b"f.example"),
        (b" (nested (c@d) \\) ) <e@f.example.>", b"f.example"),
        (b" <@a.example,@b.example:c@d.example>", b"d.example"),
        (b' "x@y"@Z.example', b"z.example"),
        (b" joe@\r\n folded.example", b"folded.example"),
        (b" x <y@\xc3\xa9.example>", b"\xc3\xa9.example"),
        (b" =?utf-8?q?a=40b?= <x@y.example>", b"y.example"),
        (b" x@[192.0.2.1]", b"[192.0.2.1]"),
        (b" nobody, x@y.example", b"y.example"),
        (b" Group: a@b.example;", None),
        (b" undisclosed-recipients:;", None),
        (b"", None),
        (b" joe", None),
        (b" <joe@example.com", None),
        (b" <a@b<c@d>>", None),
        (b' "never ends <a@b>', None),
        (b" (never ends <a@b>", None),
        (b" " + b"(" * 200 + b")" * 200 + b" a@b", None),
        (b" a@b\x00c.example", None),
        (b" a@", None),
    ],
)
def test_the_domain_of_an_address_field(value: bytes, domain: bytes | None) -> None:
    assert first_domain(value) == domain


def test_the_domain_of_from() -> None:
    assert parse_fields(b"To: x@y\r\nFROM: a@Ex.example\r\n").from_domain() == b"ex.example"
    assert parse_fields(b"To: x@y\r\n").from_domain() is None
    assert parse_fields(b"From: a@b\r\nfrom: a@b\r\n").from_domain() is None


@given(st.binary(max_size=60))
def test_nothing_in_an_address_field_does_harm(value: bytes) -> None:
    domain = first_domain(value)
    assert domain is None or (domain and b" " not in domain and b"\n" not in domain)


@given(st.binary(max_size=300))
def test_nothing_in_a_header_does_harm(header: bytes) -> None:
    fields = parse_fields(header)
    fields.from_domain()
    for relaxed in (True, False):
        found, signed = fields.signed_input(SignedNames([b"a", b"From"], [b"a"]), relaxed)
        assert found.startswith(b"a")
        assert len(signed) <= len(header) + 2 * fields.number
