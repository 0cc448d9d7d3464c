"""Suppression lists as files: ours, those of other services, plain ones and broken ones."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.cli.suppress_csv import HEADER, Defaults, read_rows, seconds_of, write_rows
from fastrelay.feedback.suppress_commands import entry_of, row_of
from fastrelay.feedback.suppression import REASONS, Entry, SuppressionError


def read(octets: bytes, **defaults: Any) -> tuple[list[Any], list[tuple[int, str]], int]:
    """(rows, problems, rows that were passed over)."""
    problems: list[tuple[int, str]] = []
    over: list[None] = []
    rows = list(
        read_rows(
            io.BytesIO(octets), Defaults(**defaults), lambda *one: problems.append(one), lambda: over.append(None)
        )
    )
    return rows, problems, len(over)


def test_our_own_form() -> None:
    rows, problems, _ = read(
        b"address,scope,scope_value,reason,source,created,expires\r\n"
        b"Joe@X.example,global,,hard_bounce,bounce,2026-01-01T00:00:00Z,\r\n"
        b"@x.example,tenant,acme,manual,,,2027-01-01T00:00:00Z\r\n"
        b'"""a b""@x.example",sender,News.example,unsubscribe,"a, b",1767225600,0\r\n',
        source="import:x",
    )
    assert problems == []
    assert rows == [
        ("joe@x.example", "global", "", "hard_bounce", "bounce", 1767225600, 0),
        ("@x.example", "tenant", "acme", "manual", "import:x", 0, 1798761600),
        ('"a b"@x.example', "sender", "news.example", "unsubscribe", "a, b", 1767225600, 0),
    ]


def test_a_plain_list() -> None:
    rows, problems, _ = read(
        b"# those who asked\n\njoe@x.example\n  Mary <Mary@x.example>\nx.example\nnobody\n",
        reason="unsubscribe", scope="tenant", value="acme", expires=99,
    )  # fmt: skip
    assert [row[:4] for row in rows] == [
        ("joe@x.example", "tenant", "acme", "unsubscribe"),
        ("mary@x.example", "tenant", "acme", "unsubscribe"),
        ("@x.example", "tenant", "acme", "unsubscribe"),
    ]
    assert {row[6] for row in rows} == {99}
    assert problems == [(6, "'nobody' is no address")]


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (
            b"status,reason,email,created\n5.1.1,550 5.1.1 no such user,a@x.example,1700000000\n",
            ("hard_bounce", 1700000000),
        ),
        (b"ip,email,created\n192.0.2.1,a@x.example,1700000000\n", ("complaint", 1700000000)),
        (b"email,created\na@x.example,1700000000\n", ("manual", 1700000000)),
        (
            b'address,code,error,created_at\na@x.example,550,"no, such","Tue, 14 Nov 2023 22:13:20 UTC"\n',
            ("hard_bounce", 1700000000),
        ),
        (b"address,tags,created_at\na@x.example,*,2023-11-14 22:13:20 UTC\n", ("unsubscribe", 1700000000)),
        (b"EmailAddress,Reason,LastUpdateTime\na@x.example,BOUNCE,2023-11-14T22:13:20Z\n", ("hard_bounce", 1700000000)),
        (b"EmailAddress,Reason,LastUpdateTime\na@x.example,COMPLAINT,1700000000\n", ("complaint", 1700000000)),
        (
            b"EmailAddress,SuppressionReason,Origin,CreatedAt\na@x.example,SpamComplaint,Recipient,2023-11-14T22:13:20+00:00\n",
            ("complaint", 1700000000),
        ),
        (b"Email Address;Reason\nA@x.example;unsubscribed\n", ("unsubscribe", 0)),
        (b"\xef\xbb\xbfemail\ta\na@x.example\tb\n", ("manual", 0)),
        ("email,reason\na@x.example,spam\n".encode("utf-16"), ("complaint", 0)),
        (b"email\ra@x.example\r", ("manual", 0)),
        (b"domain\nx.example\n", ("manual", 0)),
    ],
)
def test_forms_of_others(octets: bytes, wanted: tuple[str, int]) -> None:
    rows, problems, _ = read(octets)
    assert problems == []
    (row,) = rows
    assert row[0] in ("a@x.example", "@x.example")
    assert (row[3], row[5]) == wanted


def test_of_listmonk_only_the_blocklisted() -> None:
    rows, problems, over = read(
        b"uuid,email,name,attributes,status,created_at,updated_at\n"
        b'1,a@x.example,A,"{""x"": 1}",enabled,2023-11-14T22:13:20Z,2023-11-14T22:13:20Z\n'
        b"2,b@x.example,B,{},blocklisted,2023-11-14T22:13:20Z,2023-11-14T22:13:20Z\n"
    )
    assert ([row[0] for row in rows], problems, over) == (["b@x.example"], [], 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"a@x.example,odd,,,,,", "no scope"),
        (b"a@x.example,sender,,,,,", "needs a domain"),
        (b"a@x.example,,,because,,,", "no reason"),
        (b"a@x.example,,,,,yesterday,", "no time"),
        (b"a@x.example,,,,,,1969-01-01", "1970"),
        (b"\xff@x.example\xff,,,,,,", ""),
        (b",,,manual,,,", "no address"),
        (b"x" * 600 + b"@x.example,,,,,,", "no address"),
    ],
)
def test_a_line_that_is_none_is_passed_over(line: bytes, words: str) -> None:
    header = ",".join(HEADER).encode()
    rows, problems, _ = read(header + b"\na@x.example\n" + line + b"\nb@x.example\n")
    assert [row[0] for row in rows] == ["a@x.example", "b@x.example"]
    ((number, told),) = problems
    assert number == 3
    assert words in told


def test_a_quote_without_end_and_lines_without_end() -> None:
    rows, problems, _ = read(b'email\na@x.example\n"' + b"x" * 400_000 + b"\nb@x.example\n")
    assert rows[0][0] == "a@x.example"
    assert problems
    rows, problems, _ = read(b"x" * 1_000_000)
    assert rows == []
    assert problems
    assert read(b"") == ([], [], 0)
    assert read(b"\n\n#\n") == ([], [], 0)
    assert read(b"email\n\0\n")[0] == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("never", 0), ("1700000000", 1700000000), ("1700000000123", 1700000000), ("2023-11-14", 1699920000)],
)
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["x", "-1", "9" * 30, "3000-01-01", "0001-01-01T00:00:00+23:00"])
def test_no_times(text: str) -> None:
    with pytest.raises(SuppressionError):
        seconds_of(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_octets_are_too_odd(octets: bytes) -> None:
    rows, _, _ = read(octets)
    for row in rows:
        entry_of(row)


KEYS = [b"joe@x.example", b"@x.example", b'a"b\\c@x.example', b"c, d@x.example", "ü@x.example".encode()]
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(KEYS), texts, st.sampled_from(REASONS), texts, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1)
)
def test_what_is_written_is_read_again(
    address: bytes, tenant: str, reason: str, source: str, created: int, expires: int
) -> None:
    entry = Entry(address, "tenant", tenant.strip().encode(), reason, source.strip(), created, expires)
    parts = [",".join(HEADER) + "\n"]
    write_rows(parts.append, [row_of(entry)])
    rows, problems, _ = read("".join(parts).encode())
    assert problems == []
    assert [entry_of(row) for row in rows] == [entry]
