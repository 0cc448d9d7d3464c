"""Which message of ours something is about: what a reference proves, and what it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config.security import Compose
from fastrelay.feedback.match import OLDEST_DAYS, Matcher, Proof, Purposes, classic_verp
from fastrelay.feedback.reference import References

TODAY = 20_780
REFERENCES = References(b"k" * 32)
OTHERS = References(b"o" * 32)
JOE = b"joe@far.example"


def matcher(today: int = TODAY) -> Matcher:
    return Matcher(REFERENCES, lambda: today)


def token(recipient: bytes | None = JOE, day: int = TODAY, limit: int = 400, id: str = "ab-1f") -> str:
    return REFERENCES.make(recipient, b"c1", b"t1", b"news.example", day, id, limit)


def short(recipient: bytes = JOE) -> str:
    """A reference with a hash alone."""
    made = token(recipient, limit=56)
    assert REFERENCES.read(made).recipient_hash
    return made


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["{}", "b+{}", "B+{}", "b{}", "b-{}-x", "x.{}=y", "{}+more"])
def test_a_reference_in_a_local_part(around: str) -> None:
    local = around.format(short()).encode()
    for mailbox in (local + b"@bounces.test", local.upper() + b"@BOUNCES.TEST"):
        [proof] = matcher().proofs([mailbox])
        assert (proof.reference.id, proof.how) == ("ab-1f", "verp")


@pytest.mark.parametrize(
    "mailbox",
    [
        b"b@bounces.test",
        b"b+joe=far.example@bounces.test",
        b"b+" + OTHERS.make(JOE, b"", b"", b"", TODAY, "ab-1").encode() + b"@bounces.test",
        b"b+f" + b"a" * 60 + b"@bounces.test",
        b"@" + short().encode() + b".bounces.test",
    ],
)
def test_what_proves_nothing(mailbox: bytes) -> None:
    assert matcher().proofs([mailbox]) == []


def test_a_changed_reference_proves_nothing() -> None:
    made = short()
    for at in range(len(made)):
        other = made[:at] + ("a" if made[at] != "a" else "b") + made[at + 1 :]
        assert matcher().proofs([f"b+{other}@b.test".encode()], other) == []


def test_the_field_in_what_came_back() -> None:
    [proof] = matcher().proofs([b"b@bounces.test"], f" {token().upper()}\r\n")
    assert (proof.reference.recipient, proof.how) == (JOE, "reference")


def test_a_day_to_come_is_none_of_ours() -> None:
    assert matcher().read(token(day=TODAY + 1)) is not None, "clocks of hosts differ"
    assert matcher().read(token(day=TODAY + 2)) is None


def test_old_ones() -> None:
    reference = matcher().read(token(day=TODAY - OLDEST_DAYS))
    assert reference is not None
    assert not matcher().is_old(reference)
    assert matcher(TODAY + 1).is_old(reference)
    assert matcher(TODAY + 1).read(token(day=TODAY - OLDEST_DAYS)) is not None, "complaints come late"


def test_the_number_of_tries_is_bounded() -> None:
    assert matcher().tokens(b"f" * 1000, most=0) == []
    text = b" ".join([b"f" + b"a" * 30] * 50 + [token().encode()])
    assert matcher().tokens(text, most=50) == []
    assert len(matcher().tokens(text, most=51)) == 1


# -- matching ---------------------------------------------------------------------------------------------------------


def proof(text: str, how: str = "verp") -> Proof:
    reference = matcher().read(text)
    assert reference is not None
    return Proof(reference, how)  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [token(), short()], ids=["recipient", "hash"])
def test_the_recipient_that_was_sent_to(made: str) -> None:
    [found] = matcher().match([proof(made)], ["ann@far.example", "Joe@Far.example"])
    assert found.recipient.lower() == JOE
    assert found.agrees
    assert found.at == 1


def test_another_recipient_is_not_blamed() -> None:
    """A forwarder's address, or an invented one."""
    [found] = matcher().match([proof(token())], ["victim@other.example"])
    assert (found.recipient, found.agrees, found.at) == (JOE, False, 0)
    assert matcher().match([proof(short())], ["victim@other.example"]) == []
    [found] = matcher().match([proof(token())], ["victim@other.example", "ann@other.example"])
    assert found.at == -1, "of two nobody knows which it is"


def test_by_a_hash_the_header_tells_the_recipient() -> None:
    [found] = matcher().match([proof(short())], ["joe@elsewhere.example"], ["list@x.example", "joe@far.example"])
    assert (found.recipient, found.agrees, found.at) == (JOE, False, 0)


def test_a_reference_without_recipient_proves_nothing_of_anybody() -> None:
    made = token(None)
    assert matcher().match([proof(made)], ["joe@far.example"], ["joe@far.example"]) == []


def test_the_fullest_reference_of_a_message_tells_who_it_was() -> None:
    both = [proof(short()), proof(token(), "reference")]
    for proofs in (both, both[::-1]):
        [found] = matcher().match(proofs, ["joe@far.example"])
        assert found.reference.campaign == b"c1"
        assert found.how == "verp"


def test_two_messages() -> None:
    proofs = [proof(token()), proof(token(b"ann@far.example", id="ab-2"))]
    found = matcher().match(proofs, ["ann@far.example", "joe@far.example", "joe@far.example"])
    assert sorted((one.recipient, one.at, one.agrees) for one in found) == [
        (b"ann@far.example", 0, True),
        (JOE, 1, True),
    ]


@given(st.binary(max_size=200), st.lists(st.text(max_size=40), max_size=5))
def test_nothing_makes_it_fail(octets: bytes, reported: list[str]) -> None:
    one = matcher()
    one.match([proof(token()), proof(short())], reported, reported)
    one.proofs([octets], octets.decode("latin-1"))
    classic_verp(octets)


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mailbox", "recipient"),
    [
        (b"b+joe=far.example@bounces.test", "joe@far.example"),
        (b"b-joe=far.example@bounces.test", "joe@far.example"),
        (b"b+joe+tag=far.example@bounces.test", "joe+tag@far.example"),
        (b"b+a=b=far.example@bounces.test", "a=b@far.example"),
        (b"my-b+mary-ann=far.example@bounces.test", "mary-ann@far.example"),
        (b"b-mary-ann=far.example@bounces.test", ""),
        (b"b+joe@bounces.test", ""),
        (b"b@bounces.test", ""),
        (b"b+joe=@bounces.test", ""),
        (b"b+joe=nodot@bounces.test", ""),
    ],
)
def test_classic_verp(mailbox: bytes, recipient: str) -> None:
    assert classic_verp(mailbox) == recipient


def test_the_address_of_list_unsubscribe() -> None:
    purposes = Purposes(
        Compose(
            list_unsubscribe_mailto="mailto:un+{reference}@news.example?subject=x", reverse_path="b+{reference}@b.test"
        )
    )
    assert purposes.is_unsubscribe([b"un+fabc@news.example"])
    assert purposes.is_unsubscribe([b"UN+FABC@News.Example"])
    assert not purposes.is_unsubscribe([b"un@news.example"])
    assert not purposes.is_unsubscribe([b"b+fabc@b.test"])
    assert not Purposes(Compose()).is_unsubscribe([b"un@news.example"])
    plain = Purposes(Compose(list_unsubscribe_mailto="un@news.example?subject={reference}"))
    assert plain.is_unsubscribe([b"un@news.example"])


def test_an_address_for_both_is_for_bounces() -> None:
    both = "x+{reference}@news.example"
    purposes = Purposes(Compose(list_unsubscribe_mailto=both, reverse_path=both))
    assert not purposes.is_unsubscribe([b"x+fabc@news.example"])
