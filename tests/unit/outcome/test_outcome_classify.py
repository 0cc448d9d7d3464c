"""The page that decides what a failure means, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.outcome.classify import AGAIN, enhanced_status, judge_error, judge_reply, too_many_recipients

# code, text → kind, enhanced. Rows of the checklist: act on the first digit; an enhanced code counts in its own class.
REPLIES = [
    (250, b"2.0.0 Ok: queued", "delivered", "2.0.0"),
    (250, b"Ok", "delivered", ""),
    (299, b"odd", "delivered", ""),
    (421, b"4.3.2 closing", "deferred", "4.3.2"),
    (421, b"closing", "deferred", ""),
    (450, b"4.2.0 Greylisted", "deferred", "4.2.0"),
    (451, b"5.7.1 a liar's code", "deferred", ""),
    (452, b"4.5.3 too many", "deferred", "4.5.3"),
    (499, b"odd", "deferred", ""),
    (521, b"5.3.2 never takes mail", "failed", "5.3.2"),
    (550, b"5.1.1 no such user", "failed", "5.1.1"),
    (550, b"4.7.1 a liar's code", "failed", ""),
    (552, b"5.2.2 mailbox full", "failed", "5.2.2"),
    (554, b"5.7.1 spam", "failed", "5.7.1"),
    (556, b"5.1.10 null MX", "failed", "5.1.10"),
    (599, b"odd", "failed", ""),
]


@pytest.mark.parametrize(("code", "text", "kind", "enhanced"), REPLIES)
def test_replies(code: int, text: bytes, kind: str, enhanced: str) -> None:
    verdict = judge_reply(code, text, "shown", "final")
    assert (verdict.kind, verdict.code, verdict.enhanced, verdict.reply) == (kind, code, enhanced, "shown")
    assert verdict.reason == ("" if kind == "delivered" else "final_refused")
    assert not verdict.possible_duplicate


@given(st.integers(200, 599), st.binary(max_size=40))
def test_the_first_digit_decides_whatever_the_text_says(code: int, text: bytes) -> None:
    kinds = {2: "delivered", 3: "deferred", 4: "deferred", 5: "failed"}
    assert judge_reply(code, text, "", "rcpt").kind == kinds[code // 100]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"5.1.1", "5.1.1"),
        (b"5.01.1 x", "5.1.1"),
        (b"5.1.1x", ""),
        (b" 5.1.1 x", ""),
        (b"5.1 x", ""),
        (b"5.1.1000 x", ""),
    ],
)
def test_enhanced_codes_stand_at_the_start(text: bytes, found: str) -> None:
    assert enhanced_status(550, text) == found


# kind of error, its status, may have arrived, on a used connection → what becomes of the recipient, flagged or not
ERRORS = [
    ("timeout", "4.4.2", False, False, "deferred", False),
    ("timeout", "4.4.2", True, True, "deferred", True),
    ("timeout", "4.4.2", False, True, "deferred", False),
    ("closed", "4.4.2", False, False, "deferred", False),
    ("closed", "4.4.2", False, True, "again", False),
    ("closed", "4.4.2", True, True, "deferred", True),
    ("protocol", "4.5.0", False, True, "deferred", False),
    ("protocol", "4.5.0", True, False, "deferred", True),
    ("local_abort", "4.3.0", False, False, "deferred", False),
    ("local_abort", "5.1.3", False, False, "failed", False),
    ("no_8bitmime", "5.6.3", False, True, "failed", False),
    ("no_smtputf8", "5.6.7", False, False, "failed", False),
    ("no_smtputf8", "5.6.9", False, False, "failed", False),
    ("size", "5.3.4", False, True, "failed", False),
]


@pytest.mark.parametrize(("kind", "status", "arrived", "reused", "outcome", "flagged"), ERRORS)
def test_ends_without_a_reply(kind: str, status: str, arrived: bool, reused: bool, outcome: str, flagged: bool) -> None:
    verdict = judge_error(kind, status, "words", may_have_arrived=arrived, reused=reused)
    assert (verdict.kind, verdict.possible_duplicate) == (outcome, flagged)
    if verdict is not AGAIN:
        assert (verdict.code, verdict.enhanced, verdict.reason, verdict.reply) == (0, status, kind, "words")


@pytest.mark.parametrize(
    ("code", "text", "accepted", "more"),
    [
        (452, b"4.5.3 too many recipients", 100, True),
        (452, b"4.3.1 disk full", 1, True),
        (452, b"4.5.3 too many recipients", 0, False),  # nobody was taken: sending on would not end
        (552, b"5.5.3 too many recipients", 100, True),
        (552, b"Too many recipients", 100, True),
        (552, b"5.2.2 mailbox full", 100, False),
        (450, b"4.2.0 greylisted", 100, False),
        (550, b"5.5.3 too many recipients", 100, False),
    ],
)
def test_too_many_recipients(code: int, text: bytes, accepted: int, more: bool) -> None:
    assert too_many_recipients(code, text, accepted) is more
