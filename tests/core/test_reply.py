"""Replies and their parser: tables, bounds, every seam, and a slow oracle."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialogue import read_replies_slowly

from fastrelay._core.reply import Reply, ReplyParser

LINE = b"250 2.1.5 Recipient ok\r\n"


def parse(*pieces: bytes) -> tuple[list[Reply], ReplyParser]:
    parser = ReplyParser()
    return [reply for piece in pieces for reply in parser.feed(piece)], parser


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"250 ok\r\n", [Reply(250, b"ok")]),
        (b"250\r\n", [Reply(250, b"")]),
        (b"250 \r\n", [Reply(250, b"")]),
        (b"250-a\r\n250-\r\n250 c\r\n", [Reply(250, b"a\n\nc")]),
        (b"250-a\r\n250\r\n", [Reply(250, b"a\n")]),
        (b"250 a\r\n550 b\r\n", [Reply(250, b"a"), Reply(550, b"b")]),
        (b"299 odd code\r\n", [Reply(299, b"odd code")]),
        (b"559 odd code\r\n", [Reply(559, b"odd code")]),
        (b"250  two spaces - and dash\r\n", [Reply(250, b" two spaces - and dash")]),
        (b"250 a\rb\r\r\n", [Reply(250, b"a\rb\r")]),
        (b"250 \xff\x00\x1b\r\n", [Reply(250, b"\xff\x00\x1b")]),
    ],
)
def test_well_formed(octets: bytes, expected: list[Reply]) -> None:
    replies, parser = parse(octets)
    assert replies == expected
    assert parser.error is None
    assert not parser.pending


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"250 ok\n", "CRLF"),
        (b"\n", "CRLF"),
        (b"\r\n", "reply code"),
        (b"25\r\n", "reply code"),
        (b"hello\r\n", "reply code"),
        (b"150 no\r\n", "reply code"),
        (b"650 no\r\n", "reply code"),
        (b"2x0 no\r\n", "reply code"),
        (b" 250 ok\r\n", "reply code"),
        (b"2500 ok\r\n", "hyphen"),
        (b"250_ok\r\n", "hyphen"),
        (b"250\tok\r\n", "hyphen"),
        (b"250-a\r\n251 b\r\n", "250 and 251"),
        (b"250-a\r\n550 b\r\n", "250 and 550"),
        (b"250-a\r\nhello\r\n", "reply code"),
        (b"\xef\xbb\xbf250 ok\r\n", "reply code"),
    ],
)
def test_garbage(octets: bytes, words: str) -> None:
    replies, parser = parse(octets, LINE)
    assert replies == []
    assert parser.error is not None
    assert words in parser.error


def test_garbage_behind_a_reply_leaves_the_reply() -> None:
    replies, parser = parse(LINE + b"nonsense\r\n" + LINE)
    assert replies == [Reply(250, b"2.1.5 Recipient ok")]
    assert parser.error is not None


def test_line_of_2048_octets_passes_and_one_more_does_not() -> None:
    longest = b"250 " + b"x" * 2042 + b"\r\n"
    assert len(longest) == 2048
    for at in (2048, 1, 2047):
        replies, parser = parse(longest[:at], longest[at:])
        assert [(reply.code, len(reply.text)) for reply in replies] == [(250, 512)]
        replies, parser = parse(b"250 x" + longest[4 : at + 4], longest[at + 4 :])
        assert replies == []
        assert "2048" in (parser.error or "")


def test_endless_line_is_an_error_before_its_end() -> None:
    _, parser = parse(b"250 " + b"x" * 2044)
    assert parser.error is None
    assert parser.pending
    parser.feed(b"x")
    assert "2048" in (parser.error or "")


def test_128_lines_pass_and_one_more_does_not() -> None:
    replies, parser = parse(b"250-x\r\n" * 127 + b"250 x\r\n")
    assert len(replies) == 1
    assert len(replies[0].lines) == 128
    replies, parser = parse(b"250-x\r\n" * 128 + b"250 x\r\n")
    assert replies == []
    assert "128 lines" in (parser.error or "")


def test_total_of_64_kib() -> None:
    line = b"250-" + b"x" * 1018 + b"\r\n"
    assert len(line) == 1024
    last = b"250 " + b"x" * 1018 + b"\r\n"
    assert len(parse(line * 63 + last)[0]) == 1
    replies, parser = parse(line * 63 + last.replace(b" ", b" y"))
    assert replies == []
    assert "65536" in (parser.error or "")


def test_text_limit_bounds_what_is_kept() -> None:
    octets = b"250-" + b"a" * 300 + b"\r\n250-" + b"b" * 300 + b"\r\n250 " + b"c" * 300 + b"\r\n"
    assert parse(octets)[0][0].text == b"a" * 300 + b"\n" + b"b" * 211
    parser = ReplyParser()
    parser.text_limit = 700
    assert len(parser.feed(octets)[0].text) == 700


def test_the_same_line_gives_the_same_object_and_another_does_not() -> None:
    parser = ReplyParser()
    first, second = parser.feed(LINE + LINE)
    assert first is second
    third, fourth, fifth = parser.feed(b"251 2.1.5 Recipient ok\r\n" + LINE + b"250 2.1.5 Recipient oh\r\n")
    assert [reply.code for reply in (third, fourth, fifth)] == [251, 250, 250]
    assert fifth.text == b"2.1.5 Recipient oh"


@pytest.mark.parametrize("octets", [b"250 " + b"x" * 400 + b"\r\n", b"250-" + b"x" * 400 + b"\r\n250 x\r\n"])
def test_the_total_is_of_one_reply(octets: bytes) -> None:
    assert len(parse(octets * 400)[0]) == 400


def test_each_reply_is_counted_from_nothing() -> None:
    parser = ReplyParser()
    for i in range(200):
        assert len(parser.feed(LINE * 40)) == 40
        (reply,) = parser.feed(b"250-" + b"x" * 400 + b"\r\n250-y\r\n250 %03d\r\n" % i)
        assert reply.text == b"x" * 400 + b"\ny\n%03d" % i
        (reply,) = parser.feed(b"250 " + b"x" * 400 + b"%03d\r\n" % i)
        assert len(reply.text) == 403
    assert parser.error is None


@pytest.mark.parametrize(
    ("code", "text", "enhanced"),
    [
        (250, b"2.1.0 ok", "2.1.0"),
        (250, b"2.1.0", "2.1.0"),
        (550, b"5.7.511 denied\n5.7.511 more", "5.7.511"),
        (550, b"5.1.1\nmore", "5.1.1"),
        (450, b"5.7.1 class belies the code", None),
        (550, b"4.7.1 class belies the code", None),
        (550, b"5.7 too short", None),
        (550, b"5.7.1.1 too long", None),
        (550, b"5.7.1234 too many digits", None),
        (550, b"55.7.1 too many digits", None),
        (550, b"5..1 no", None),
        (550, b"5.7. no", None),
        (550, b"5.7.1: no", None),
        (550, b"#5.7.1 no", None),
        (550, b" 5.7.1 no", None),
        (550, b"no", None),
        (550, b"", None),
    ],
)
def test_enhanced_status_code(code: int, text: bytes, enhanced: str | None) -> None:
    assert Reply(code, text).enhanced == enhanced


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"", "250"),
        (b"ok", "250 ok"),
        (b"a\nb", "250 a b"),
        (b"\x1b[31mred\x07\x00\x7f", "250 \\x1b[31mred\\x07\\x00\\x7f"),
        (b"a\rb\tc", "250 a\\x0db\\x09c"),
        ("grün\nok".encode(), "250 grün ok"),
        (b"\xff\xfe", "250 \\xff\\xfe"),
        ("\x85\u2028\u202e".encode(), "250 \\x85\\u2028\\u202e"),
    ],
)
def test_text_for_log(text: bytes, shown: str) -> None:
    assert Reply(250, text).text_for_log() == shown


def test_text_for_log_is_bounded() -> None:
    assert Reply(250, b"x" * 100_000).text_for_log() == "250 " + "x" * 512
    assert len(Reply(250, b"\xff" * 100_000).text_for_log()) == 4 + 512 * 4


@pytest.mark.parametrize("code", [-1, 0, 199, 600, 1000])
def test_a_code_out_of_range_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="200 to 599"):
        Reply(code)


def test_equality_and_hash() -> None:
    assert Reply(250, b"a") == Reply(250, b"a")
    assert Reply(250, b"a") != Reply(251, b"a")
    assert Reply(250, b"a") != Reply(250, b"b")
    assert Reply(250, b"a") != "250 a"
    assert len({Reply(250, b"a"), Reply(250, b"a")}) == 1
    assert repr(Reply(250, b"a")) == "Reply(250, b'a')"
    assert Reply(451).digit == 4


# Good lines are frequent, and so are the seams where one octet is wrong.
good = st.tuples(
    st.sampled_from([b"250", b"250", b"550", b"354", b"421"]),
    st.sampled_from([b" ", b"-", b"-"]),
    st.binary(max_size=6),
).map(lambda parts: b"".join(parts).replace(b"\n", b"") + b"\r\n")
wild = st.sampled_from([b"250", b"2", b" ", b"-", b"\r", b"\n", b"\r\n", b"x", b"250 " + b"y" * 2040, b"250-\r\n" * 60])
streams = st.lists(st.one_of(good, good, good, wild), max_size=30).map(b"".join)


@given(octets=streams, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_against_the_oracle(octets: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    pieces = [octets[start:end] for start, end in itertools.pairwise(bounds)]
    replies, parser = parse(*pieces)
    expected, broken, pending = read_replies_slowly(octets)
    assert replies == expected
    assert (parser.error is not None) == broken
    if not broken:
        assert parser.pending == pending


@given(octets=streams)
def test_an_octet_at_a_time(octets: bytes) -> None:
    replies, parser = parse(*(octets[i : i + 1] for i in range(len(octets))))
    whole, once = parse(octets)
    assert replies == whole
    assert parser.error == once.error
