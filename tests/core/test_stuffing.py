"""Dot-stuffing against slow, obvious oracles: whole contents, every seam, and everything that must not end DATA."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core.stuffing import Stuffer, Unstuffer, _masks, stuff

CRLF = b"\r\n"

# Octets that matter are frequent, so that short texts meet every corner; long runs make blocks of 64 plain.
octets = st.lists(
    st.sampled_from([b"\r\n", b"\r\n", b".", b"\r", b"\n", b"a", b"\0", b"\xc3", b"x" * 61, b"y" * 70]), max_size=60
).map(b"".join)
tidy = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"x" * 61, b"y" * 200]), max_size=60).map(b"".join)


def stuffed_slowly(content: bytes) -> bytes:
    return CRLF.join(b"." + line if line.startswith(b".") else line for line in content.split(CRLF))


@dataclass
class Reading:
    content: bytes
    consumed: int
    bare: bool
    eight_bit: bool
    nul: bool
    longest_line: int
    header_length: int


def facts_slowly(raw: bytes, content: bytes, consumed: int) -> Reading:
    empty_line = (CRLF + content).find(CRLF + CRLF)
    header_length = empty_line + 2 if empty_line >= 0 else 0
    return Reading(
        content,
        consumed,
        bare=re.search(rb"\r(?!\n)|(?<!\r)\n", raw) is not None,
        eight_bit=any(octet > 127 for octet in raw),
        nul=b"\0" in raw,
        longest_line=max(len(line) for line in content.split(CRLF)),
        header_length=header_length,
    )


def repaired_slowly(line: bytes) -> bytes:
    return line.replace(b"\r", b"\n").replace(b"\n", CRLF)


def unstuffed_slowly(wire: bytes, repair: bool) -> Reading:
    """`wire` holds an end of DATA."""
    if wire.startswith(b".\r\n"):
        return facts_slowly(b"", b"", 3)
    raw = wire[: wire.index(b"\r\n.\r\n") + 2]
    lines = [line[1:] if line.startswith(b".") else line for line in raw.split(CRLF)]
    if repair:
        lines = [repaired_slowly(line) for line in lines]
    return facts_slowly(raw, CRLF.join(lines), len(raw) + 3)


def read(unstuffer: Unstuffer, chunks: list[bytes]) -> Reading:
    consumed = 0
    for chunk in chunks:
        consumed += unstuffer.feed(chunk)
    content = unstuffer.take()
    assert len(content) == unstuffer.length
    return Reading(
        content,
        consumed,
        unstuffer.bare,
        unstuffer.eight_bit,
        unstuffer.nul,
        unstuffer.longest_line,
        unstuffer.header_length,
    )


def cut(text: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(text) + 1) for at in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


# ---- stuff, Stuffer


@pytest.mark.parametrize(
    ("content", "stuffed"),
    [
        (b"", b""),
        (b".", b".."),
        (b"..", b"..."),
        (b"a\r\n.\r\nb", b"a\r\n..\r\nb"),
        (b"\r\n.", b"\r\n.."),
        (b"a\n.b", b"a\n.b"),
        (b"a\r.b", b"a\r.b"),
        (b"a.b\r\nc.\r\n", b"a.b\r\nc.\r\n"),
    ],
)
def test_stuff_puts_a_dot_before_each_dot_at_a_line_start(content: bytes, stuffed: bytes) -> None:
    assert stuff(content) == stuffed
    assert stuff(bytearray(content)) == stuffed


def test_content_without_a_dot_at_a_line_start_is_not_copied() -> None:
    content = b"Subject: x\r\n\r\nhello. world...\r\n" * 100
    assert stuff(content) is content
    assert Stuffer().feed(content) is content


def test_stuff_remembers_more_dots_than_its_first_pass_holds() -> None:
    content = b".line\r\n" * 5000
    assert stuff(content) == stuffed_slowly(content)


@given(octets)
def test_stuff_equals_the_oracle(content: bytes) -> None:
    assert stuff(content) == stuffed_slowly(content)


@given(octets, st.lists(st.integers(0, 5000), max_size=8))
def test_a_stream_stuffs_like_the_whole(content: bytes, cuts: list[int]) -> None:
    stuffer = Stuffer()
    assert b"".join(map(stuffer.feed, cut(content, cuts))) == stuffed_slowly(content)


@pytest.mark.parametrize(
    ("content", "end"),
    [(b"", b".\r\n"), (b"a\r\n", b".\r\n"), (b"a", b"\r\n.\r\n"), (b"a\n", b"\r\n.\r\n"), (b"a\r", b"\r\n.\r\n")],
)
def test_finish_adds_the_missing_line_end(content: bytes, end: bytes) -> None:
    for seam in range(len(content) + 1):
        stuffer = Stuffer()
        stuffer.feed(content[:seam])
        stuffer.feed(content[seam:])
        assert stuffer.finish() == end
        assert stuffer.feed(b".") == b".."  # as new


@given(tidy)
def test_what_was_stuffed_comes_back(content: bytes) -> None:
    stuffer = Stuffer()
    wire = stuffer.feed(content) + stuffer.finish()
    unstuffer = Unstuffer()
    assert unstuffer.feed(wire + b"QUIT\r\n") == len(wire)
    assert unstuffer.ended
    assert unstuffer.take() == content + (b"" if content == b"" or content.endswith(CRLF) else CRLF)


# ---- Unstuffer


@given(octets, st.lists(st.integers(0, 5000), max_size=8), st.booleans())
@settings(max_examples=500)
def test_unstuffer_equals_the_oracle(text: bytes, cuts: list[int], repair: bool) -> None:
    wire = text + b"\r\n.\r\nMAIL FROM:<\xff\0\n>\r\n"
    unstuffer = Unstuffer(repair=repair)
    assert read(unstuffer, cut(wire, cuts)) == unstuffed_slowly(wire, repair)
    assert unstuffer.ended


@given(octets, st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_chunks_are_taken_as_they_are(text: bytes, cuts: list[int], repair: bool) -> None:
    unstuffer = Unstuffer(dots=False, repair=repair)
    for chunk in cut(text, cuts):
        assert unstuffer.feed(chunk) == len(chunk)
    unstuffer.finish()
    content = CRLF.join(map(repaired_slowly, text.split(CRLF))) if repair else text
    assert read(unstuffer, []) == facts_slowly(text, content, 0)
    assert not unstuffer.ended


SMUGGLING = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\n",
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n..\r\n",
    b"\r\n.\r\r\n",
    b"\r\n.\n\r\n",
    b"\n\n.\n\n",
    b"\r\r.\r\r",
    b"\n\r.\n\r",
    b"\r\n\xc2\x85.\r\n",
    b"\x0b.\x0b",
    b"\x85.\x85",
]


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("sequence", SMUGGLING)
def test_only_crlf_dot_crlf_ends_data(sequence: bytes, repair: bool) -> None:
    wire = b"a: b\r\n\r\nx" + sequence + b"MAIL FROM:<smuggled@example.org>\r\nRCPT"
    for seam in range(len(wire) + 1):
        unstuffer = Unstuffer(repair=repair)
        assert unstuffer.feed(wire[:seam]) == seam
        assert unstuffer.feed(wire[seam:]) == len(wire) - seam
        assert not unstuffer.ended
        content = unstuffer.take()
        assert b"MAIL FROM:<smuggled@example.org>\r\nRCPT" in content
        if repair:
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)
            # What goes on to the next host cannot end early there either, however it takes its line ends.
            sent = stuff(content)
            assert not re.search(rb"[\r\n]\.[\r\n]", sent)


def test_a_content_that_is_discarded_is_still_counted_and_ends() -> None:
    unstuffer = Unstuffer()
    unstuffer.feed(b"abc\r\n")
    unstuffer.discard = True
    assert unstuffer.feed(b"defg\r\n.\r\nX") == 9
    assert (unstuffer.ended, unstuffer.length, unstuffer.take()) == (True, 11, b"abc\r\n")


@given(st.binary(min_size=64, max_size=64), octets)
def test_both_scans_give_the_same_masks(random: bytes, text: bytes) -> None:
    for block in (random, (text + b"z" * 64)[:64]):
        masks = tuple(
            sum(1 << k for k, octet in enumerate(block) if wanted(octet))
            for wanted in (
                lambda octet: octet == 10,
                lambda octet: octet == 13,
                lambda octet: octet == 46,
                lambda octet: octet > 127,
                lambda octet: octet == 0,
            )
        )
        assert _masks(block, True) == masks
        assert _masks(block, False) == masks
