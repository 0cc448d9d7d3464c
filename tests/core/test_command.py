"""Mailboxes against the grammar of RFC 5321 section 4.1.2, spelled out as a regular expression."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core.command import mailbox_fault

ATOM = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\U0010ffff]+"
LABEL = r"[A-Za-z0-9\x80-\U0010ffff](?:[A-Za-z0-9\-\x80-\U0010ffff]*[A-Za-z0-9\x80-\U0010ffff])?"
QUOTED = r'"(?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*"'
MAILBOX = re.compile(rf"({ATOM}(?:\.{ATOM})*|{QUOTED})@({LABEL}(?:\.{LABEL})*|\[[^\]]*\])")

mailboxes = st.lists(
    st.sampled_from(["a", "b1", *'-_..@@"\\ []ü\x80€%!<>(,:\x7f\n', "192.0.2.1", "IPv6:", "::1", "x" * 30]),
    max_size=12,
).map("".join)
likely = st.tuples(mailboxes, st.sampled_from(["", "a", "a.b", '"a b"']), st.just("@"), mailboxes).map("".join)


def is_mailbox(text: str) -> bool:
    match = MAILBOX.fullmatch(text)
    if not match or any(char < " " or "\x7f" <= char < "\xa0" for char in text):
        return False
    local, domain = (part.encode() for part in match.groups())
    if domain.startswith(b"["):
        try:
            literal = domain[1:-1].decode()
            if literal[:5].upper() == "IPV6:":
                ipaddress.IPv6Address(literal[5:])
            else:
                ipaddress.IPv4Address(literal)
        except ValueError:
            return False
    labels_fit = all(len(label) <= 63 or label[0] > 127 for label in domain.split(b"."))
    return len(local) <= 64 and len(domain) <= 255 and len(text.encode()) <= 254 and labels_fit


@given(mailboxes | likely)
@settings(max_examples=600)
def test_mailboxes_equal_the_grammar(text: str) -> None:
    assert (mailbox_fault(text.encode(), True) is None) == is_mailbox(text)
    assert (mailbox_fault(text.encode(), False) is None) == (is_mailbox(text) and text.isascii())


@given(st.binary(max_size=6))
@settings(max_examples=600)
def test_local_parts_of_broken_utf8_are_refused(octets: bytes) -> None:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        assert mailbox_fault(b"a" + octets + b"@b.example", True) is not None
    else:
        assert (mailbox_fault(b"a" + octets + b"@b.example", True) is None) == is_mailbox(f"a{text}@b.example")


@pytest.mark.parametrize(
    ("mailbox", "fault"),
    [
        (b"a@b.example", None),
        (b"someone", "has no domain"),
        (b"a@b@c", "not a mailbox"),
        (b"a" * 65 + b"@b", "longer"),
        (b"a@" + b"b" * 64, "longer"),
        (b"a@" + b"b." * 130 + b"c", "longer"),
        ("ü@b".encode(), "SMTPUTF8"),
    ],
)
def test_faults_are_told(mailbox: bytes, fault: str | None) -> None:
    told = mailbox_fault(mailbox)
    assert told is None if fault is None else fault in told
