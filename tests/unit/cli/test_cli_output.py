"""Durations, sizes, tables: what a person sees, and that nothing from outside reaches the terminal raw."""

import io
import os
import pty
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.cli import output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0s"),
        (0.01, "0s"),
        (0.34, "0.3s"),
        (9.94, "9.9s"),
        (41.6, "42s"),
        (60, "1m"),
        (61, "1m 1s"),
        (7500, "2h 5m"),
        (7200, "2h"),
        (86399.9, "1d"),
        (277200, "3d 5h"),
        (-5, "-5s"),
    ],
)
def test_duration(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (10444, "10.2 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
    ],
)
def test_size(octets, text):
    assert output.size(octets) == text


def test_counts():
    assert output.count(1234567) == "1,234,567"
    assert output.count(None) == ""
    assert output.plural(1, "message") == "1 message"
    assert output.plural(1200, "message") == "1,200 messages"
    assert output.share(1, 8) == "12.5%"
    assert output.share(1, 0) == ""
    assert output.names(["a", "b", "c", "d", "e"]) == "a, b, c +2"


@given(st.text())
def test_clean_leaves_nothing_that_moves_a_cursor(text):
    assert all(letter.isprintable() or ord(letter) > 0x9F for letter in output.clean(text))


def test_clean_spells_escapes_out():
    assert output.clean("250 \x1b[2J\x07ok\u202e") == r"250 \x1b[2J\x07ok\x202e"


ROWS = [["abcdef-1", "1,000", "x" * 300], ["abcdef-22", "5", "short\x1b[31m"]]
COLUMNS = [("ID", output.LEFT), ("RCPTS", output.RIGHT), ("DOMAINS", output.WIDE)]


def test_a_table_in_a_pipe_is_whole(capsys):
    output.print_table(COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ID         RCPTS  DOMAINS"
    assert lines[1] == "abcdef-1   1,000  " + "x" * 300
    assert lines[2] == r"abcdef-22      5  short\x1b[31m"


def on_terminal(monkeypatch, columns, spare=(), **environment):
    """Output of a table on a terminal of that width."""
    leader, follower = pty.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        output.print_table(COLUMNS, ROWS, spare)
        monkeypatch.undo()
    shown = b""
    try:
        while octets := os.read(leader, 65536):
            shown += octets
    except OSError:  # EIO: all was read, and the other end is closed
        pass
    os.close(leader)
    return shown.decode()


def test_a_table_on_a_terminal_fits(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = on_terminal(monkeypatch, 60)
    assert "\x1b[1m" in shown  # headings are bold
    plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(len(line) <= 60 for line in plain.splitlines())
    assert "…" in plain
    assert "abcdef-22" in plain


def test_no_color_on_a_terminal(monkeypatch):
    assert "\x1b" not in on_terminal(monkeypatch, 60, NO_COLOR="1")


def test_a_narrow_terminal_keeps_ids_whole(monkeypatch):
    assert "abcdef-22" in on_terminal(monkeypatch, 20)


def test_spare_columns_go_before_a_line_breaks(monkeypatch):
    shown = on_terminal(monkeypatch, 40, spare=["RCPTS"])
    assert "RCPTS" in shown
    shown = on_terminal(monkeypatch, 28, spare=["NONE", "RCPTS"])
    assert "RCPTS" not in shown
    assert "DOMAINS" in shown


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(20, 300), st.data())
def test_widths_fit_or_are_at_their_least(widths, room, drawn):
    wide = sorted(drawn.draw(st.sets(st.integers(0, len(widths) - 1))))
    before = list(widths)
    fits = output.fit_widths(widths, wide, room)
    assert fits == (sum(widths) <= room)
    for at, width in enumerate(widths):
        assert width == before[at] if at not in wide else min(before[at], output.NARROWEST) <= width <= before[at]
    assert fits or all(widths[at] <= output.NARROWEST for at in wide)


def test_fields_are_aligned(capsys):
    output.print_fields([("a", 1), ("longer", "x\n"), ("none", None), ("empty", ""), ("zero", 0)])
    assert capsys.readouterr().out == "a       1\nlonger  x\\x0a\nzero    0\n"


def test_json_is_json(capsys):
    output.print_json({"a": [1, "ä\x1b"]})
    import json

    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [1, "ä\x1b"]}
    assert "\x1b" not in text


def test_width_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert output.terminal_width() == output.PIPE_WIDTH
