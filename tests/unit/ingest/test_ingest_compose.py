"""Fields that are added to a message, and the reverse-path of each recipient."""

from __future__ import annotations

import email
import email.policy
import email.utils
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastrelay._core.canon import parse_fields
from fastrelay._core.record import Record, encode_record
from fastrelay.config.security import Compose
from fastrelay.feedback.reference import References
from fastrelay.ingest.compose import Composer

REFERENCES = References(b"k" * 32)
WALL = 1_800_000_000.5
ID = "abcdef-1f"
JOE = b"joe@example.com"
ALL: dict[str, Any] = {
    "add": ["date", "message_id"],
    "list_unsubscribe": "https://news.example/u/{reference}?to={recipient}",
    "list_unsubscribe_mailto": "unsub+{reference}@news.example",
    "feedback_id": "{campaign}:{tenant}:news:fastrelay",
    "cfbl_address": "fbl@news.example",
    "reference": "X-Reference",
    "reverse_path": "b+{reference}@news.example",
}


def composer(**keys: Any) -> Composer:
    return Composer(Compose(**keys), "mx1.example.com", REFERENCES)


def added(
    header: bytes = b"From: News <a@news.example>\r\n\r\n",
    recipients: tuple[bytes, ...] = (JOE,),
    mail: tuple[Any, ...] = (b"spring", b"acme", b"", 0),
    sender: bytes = b"r@sender.example",
    **keys: Any,
) -> bytes:
    return composer(**(keys or ALL)).added(parse_fields(header), list(recipients), sender, mail, ID, WALL)


def read(octets: bytes) -> dict[str, str]:
    """Fields as another parser sees them."""
    message = email.message_from_bytes(octets + b"\r\n", policy=email.policy.compat32)
    return {name: re.sub(r"\r\n[ \t]", " ", value).strip() for name, value in message.items()}


def test_everything_that_is_missing() -> None:
    octets = added()
    fields = read(octets)
    assert list(fields) == [
        "Date", "Message-ID", "CFBL-Address", "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID", "X-Reference",
    ]  # fmt: skip
    assert email.utils.parsedate_to_datetime(fields["Date"]).timestamp() == int(WALL)
    assert re.fullmatch(r"<abcdef-1f\.[0-9a-f]+@news\.example>", fields["Message-ID"])
    assert fields["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert fields["Feedback-ID"] == "spring:acme:news:fastrelay"
    assert fields["CFBL-Address"] == "fbl@news.example; report=arf"
    mailto, url = re.fullmatch(
        r"<mailto:unsub\+([a-z0-9]+)@news\.example>, <https://news\.example/u/([a-z0-9]+)\?to=joe%40example\.com>",
        fields["List-Unsubscribe"],
    ).groups()  # type: ignore[union-attr]
    for text in (mailto, url, fields["X-Reference"]):
        found = REFERENCES.read(text)
        assert (found.id, found.day) == (ID, int(WALL // 86400))
    assert len(f"unsub+{mailto}") <= 64
    whole = REFERENCES.read(url)
    assert (whole.recipient, whole.campaign, whole.tenant, whole.sender_domain) == (
        JOE, b"spring", b"acme", b"news.example",
    )  # fmt: skip
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))


@pytest.mark.parametrize(
    "field",
    [b"Date: x", b"message-id: <a@b>", b"LIST-UNSUBSCRIBE: <https://x.example>", b"Feedback-ID: x", b"CFBL-Address: x",
     b"X-Reference: y"],
)  # fmt: skip
def test_a_field_that_is_there_is_left_alone(field: bytes) -> None:
    name = field.partition(b":")[0].lower()
    fields = parse_fields(added(field + b"\r\nFrom: a@news.example\r\n\r\n"))
    assert fields.count(name) == 0
    assert fields.number == 6 - (name == b"list-unsubscribe")
    if name == b"list-unsubscribe":
        assert fields.count(b"list-unsubscribe-post") == 0, "their URL may not take a POST"


def test_their_one_click_is_not_said_twice() -> None:
    fields = parse_fields(added(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nFrom: a@b.example\r\n\r\n"))
    assert (fields.count(b"list-unsubscribe"), fields.count(b"list-unsubscribe-post")) == (1, 0)


def test_nothing_that_was_not_asked_for() -> None:
    assert added(add=[], cfbl_address="fbl@news.example") == b"CFBL-Address: fbl@news.example; report=arf\r\n"
    assert read(added(add=["date"])).keys() == {"Date"}
    assert added(sender=b"x@y.example", add=[]) == b""


def test_several_recipients_get_no_link_that_could_unsubscribe_none_of_them() -> None:
    config = {"list_unsubscribe": "https://news.example/u/{reference}", "list_unsubscribe_mailto": None}
    assert "List-Unsubscribe" not in read(added(recipients=(JOE, b"ann@example.com"), **config))
    assert "List-Unsubscribe" in read(added(recipients=(JOE,), **config))
    every = {**config, "list_unsubscribe": "https://news.example/u/{campaign}"}
    assert "https" in read(added(recipients=(JOE, b"ann@example.com"), **every))["List-Unsubscribe"]


def test_several_recipients_get_nothing_that_names_one() -> None:
    octets = added(recipients=(JOE, b"ann@example.com"))
    fields = read(octets)
    assert "https" not in fields["List-Unsubscribe"]
    assert "List-Unsubscribe-Post" not in fields
    assert REFERENCES.read(fields["X-Reference"]).recipient == b""
    assert b"joe" not in octets
    assert b"ann" not in octets
    only = added(recipients=(JOE, b"ann@example.com"), list_unsubscribe="https://a.example/{local}")
    assert only == b""


def test_transactional_mail_has_nothing_to_unsubscribe_from() -> None:
    assert "List-Unsubscribe" not in read(added(mail=(b"", b"", b"", 2)))
    assert "List-Unsubscribe" in read(added(mail=(b"", b"", b"", 1)))


@pytest.mark.parametrize(
    ("header", "domain"),
    [
        (b"From: a@News.Example\r\n\r\n", "news.example"),
        (b"From: a@b.example, c@d.example\r\n\r\n", "b.example"),
        (b"From: a@b.example\r\nFrom: c@d.example\r\n\r\n", "mx1.example.com"),
        (b"\r\n", "mx1.example.com"),
        ("From: a@exämple.example\r\n\r\n".encode(), "mx1.example.com"),
        (b"From: a@[192.0.2.1]\r\n\r\n", "mx1.example.com"),
    ],
)
def test_the_right_hand_side_of_a_message_id(header: bytes, domain: str) -> None:
    made = read(added(header, add=["message_id"]))["Message-ID"]
    assert made.endswith(f"@{domain}>")


def test_message_ids_are_unique() -> None:
    one = composer(add=["message_id"])
    fields = parse_fields(b"\r\n")
    made = {one.added(fields, [JOE], b"", (b"", b"", b"", 0), f"abcdef-{n:x}", WALL) for n in range(100)}
    assert len(made) == 100


names = st.binary(max_size=80)


@given(names, names, st.binary(min_size=1, max_size=80), st.binary(max_size=80))
@example(b"a\r\nX-Evil: 1\r\n\r\nbody", b"\r\n\r\n", b"a\r\nBcc: x@y.example", b"\n.\r\n")
@example("ä".encode(), b"\xff", "jö@exämple.example".encode(), b"<>;")
def test_no_value_adds_a_field(campaign: bytes, tenant: bytes, recipient: bytes, reverse_path: bytes) -> None:
    keys = ALL | {"list_unsubscribe_mailto": "mailto:u+{local}@n.example?subject={campaign}&x={domain}"}
    octets = added(recipients=(recipient,), mail=(campaign, tenant, b"", 0), sender=reverse_path, **keys)
    assert octets.isascii()
    assert parse_fields(octets).number == 7
    assert parse_fields(octets).unreadable == 0
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", octets)
    fields = read(octets)
    assert len(fields) == 7
    assert fields["Feedback-ID"].count(":") == 3
    assert fields["List-Unsubscribe"].count("<") == fields["List-Unsubscribe"].count(">") == 2


def test_what_would_not_fit_on_a_line_is_left_out() -> None:
    recipient = b"%" * 300 + b"@example.com"  # three times as long in a URL
    assert "List-Unsubscribe" not in read(added(recipients=(recipient,), list_unsubscribe="https://a.example/{recipient}"
                                                + "x" * 100))  # fmt: skip


# -- VERP -------------------------------------------------------------------------------------------------------------


def record(reverse_path: bytes = b"news@sender.example", recipient: bytes = JOE) -> Record:
    return Record(
        encode_record(
            int(WALL * 1000), 32, 0, reverse_path, b"", b"spring", b"acme", b"", b"", b"", b"", [recipient], None
        )
    )


def test_a_reverse_path_of_its_own() -> None:
    one = composer(reverse_path="bounces+{local}={domain}@news.example")
    assert one.verp
    assert one.reverse_path(record(), JOE, ID) == b"bounces+joe=example.com@news.example"
    path = composer(reverse_path="b+{reference}@news.example").reverse_path(record(), JOE, ID)
    assert path is not None
    found = REFERENCES.read(path.decode().removeprefix("b+").removesuffix("@news.example"))
    assert (found.id, found.day) == (ID, int(WALL // 86400))
    assert found.recipient_hash == REFERENCES.hash_of(JOE)
    assert not composer(add=["date"]).verp
    assert composer(add=["date"]).reverse_path(record(), JOE, ID) is None


def test_a_retry_has_the_same() -> None:
    one = composer(reverse_path="b+{reference}@news.example")
    assert one.reverse_path(record(), JOE, ID) == one.reverse_path(record(), JOE, ID)


def test_what_can_be_none_falls_back() -> None:
    one = composer(reverse_path="bounces+{local}={domain}@news.example")
    assert one.reverse_path(record(), b"x" * 60 + b"@example.com", ID) is None


@given(st.binary(min_size=1, max_size=70))
@example(b'"a b\\"c"@x.example')
@example(b".")
@example("jö@exämple.example".encode())
@example(b"a\r\nRCPT TO:<x@y.example>")
def test_a_reverse_path_is_a_mailbox_or_none(recipient: bytes) -> None:
    for template in ("b+{recipient}@news.example", "{local}@news.example", "b+{reference}@news.example"):
        path = composer(reverse_path=template).reverse_path(record(), recipient, ID)
        if path is not None:
            assert not re.search(rb'[\x00-\x20\x7f<>()\[\]:;,\\"]', path)
            local, _, domain = path.rpartition(b"@")
            assert domain == b"news.example"
            assert 0 < len(local) <= 64
            assert b"@" not in local
