"""Seal: fields, checks and signature together; mail whose key is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dkim_keys import key_file, records_of, rsa_key, verdicts
from support.worker import envelope_of

from fastrelay._core.canon import body_hash
from fastrelay.config.security import Compose, Dkim, DkimKey, MessageChecks
from fastrelay.dkim.keys import Keyring
from fastrelay.dkim.sign import Signer
from fastrelay.feedback.reference import References
from fastrelay.ingest.checks import Checks
from fastrelay.ingest.compose import Composer
from fastrelay.ingest.pending import Pending, split
from fastrelay.ingest.seal import NOT_HASHED, LargeBody, Seal
from fastrelay.schedule.state import FLAG_UNSIGNED, FLAG_VERP

CONTENT = b"From: News <a@news.example>\r\nTo: joe@example.com\r\nSubject: x\r\n\r\nhello\r\n.dot\r\n\r\n"
RECEIVED = b"Received: from x by y id 1;\r\n\tMon, 23 Nov 2026 17:51:28 +0000\r\n"
MAIL = (b"", b"", b"", 0)
WALL = 1_750_000_000.0  # dkimpy takes no signature of the future


class Box:
    """A Seal with one key, whose file may go away."""

    def __init__(self, folder: Path, missing_key: str = "wait", **keys: Any) -> None:
        self.file = Path(key_file(folder, "s1.pem", rsa_key()))
        config = Dkim(keys=[DkimKey(domain="news.example", selector="s1", key=str(self.file))], **keys)
        self.keyring = Keyring(config)
        assert self.keyring.load() == []
        self.signer = Signer(self.keyring, config)
        self.records = records_of(self.signer)
        compose = Compose(add=["date", "message_id"], reference="X-Ref", reverse_path="b+{reference}@news.example")
        composer = Composer(compose, "mx1.example", References(b"k" * 32))
        self.counted: list[tuple[str, str]] = []
        checks = Checks(MessageChecks(refuse=["line_length"], warn=["unsubscribe"]), self._count)
        self.waited: list[str] = []
        self.seal = Seal(composer, checks, self.signer, missing_key, self.waited.append)

    def _count(self, check: str, action: str) -> None:
        self.counted.append((check, action))

    def lose_key(self) -> None:
        self.file.unlink()
        assert self.keyring.reload_if_changed()

    def sealed(self, content: bytes = CONTENT, sender: str = "r@sender.example") -> Any:
        envelope = envelope_of(sender, ["joe@example.com"], content)
        header = content[: envelope.header_length]
        return self.seal.seal(envelope, header, content, None, MAIL, "abcdef-1", WALL)


@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
def test_signature_covers_what_was_added(tmp_path: Path, form: str) -> None:
    box = Box(tmp_path, canonicalization=form)
    top, bottom, flags, warnings = box.sealed()
    assert flags == FLAG_VERP
    assert json.loads(warnings) == ["unsubscribe"]
    assert box.counted == [("unsubscribe", "warn")]
    assert bottom.startswith(b"Date: ")
    assert verdicts(top + RECEIVED + bottom + CONTENT, box.records, 1) == [True]
    assert verdicts(top + RECEIVED + bottom.replace(b"Date: ", b"Date: X") + CONTENT, box.records, 1) == [False]


def test_the_null_reverse_path_has_no_verp(tmp_path: Path) -> None:
    assert Box(tmp_path).sealed(sender="")[2] == 0


def test_other_senders_are_not_signed(tmp_path: Path) -> None:
    top, bottom, flags, _ = Box(tmp_path).sealed(CONTENT.replace(b"news.example", b"other.example"))
    assert (top, flags) == (b"", FLAG_VERP)
    assert bottom


def test_a_check_refuses(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.sealed(CONTENT + b"x" * 999 + b"\r\n").startswith(b"550 5.6.104 ")
    assert box.counted == [("line_length", "refuse")]


def test_a_large_content_is_hashed_on_its_way(tmp_path: Path) -> None:
    box = Box(tmp_path)
    hasher = box.seal.body_hasher()
    envelope = envelope_of("r@sender.example", ["joe@example.com"], CONTENT)
    header = CONTENT[: envelope.header_length]
    hasher.feed(CONTENT[envelope.header_length :])  # type: ignore[union-attr]
    top, bottom, _, _ = box.seal.seal(envelope, header, None, hasher, MAIL, "abcdef-1", WALL)
    assert verdicts(top + RECEIVED + bottom + CONTENT, box.records, 1) == [True]
    assert box.seal.seal(envelope, header, None, None, MAIL, "abcdef-1", WALL) == NOT_HASHED
    simple = LargeBody(False)  # begun before a reload
    assert box.seal.seal(envelope, header, None, simple, MAIL, "abcdef-1", WALL) == NOT_HASHED


# -- without a key ----------------------------------------------------------------------------------------------------


def test_it_waits(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.lose_key()
    top, bottom, flags, _ = box.sealed()
    assert flags == FLAG_UNSIGNED | FLAG_VERP
    assert "s1._domainkey.news.example" in box.waited[0]
    pending, rest = split(top + RECEIVED + bottom)
    assert rest == RECEIVED + bottom
    header_octets = CONTENT.index(b"\r\n\r\n") + 4
    assert pending == Pending(
        body_hash(CONTENT, header_octets, True), True, header_octets, len(bottom), b"news.example"
    )


def test_it_is_refused(tmp_path: Path) -> None:
    box = Box(tmp_path, "refuse")
    box.lose_key()
    assert box.sealed().startswith(b"451 4.7.5 ")
    assert box.waited == []


def test_it_leaves_unsigned_where_that_is_chosen(tmp_path: Path) -> None:
    box = Box(tmp_path, "unsigned")
    box.lose_key()
    top, _, flags, _ = box.sealed()
    assert (top, flags) == (b"", FLAG_VERP)


# -- the block --------------------------------------------------------------------------------------------------------


@given(
    st.binary(min_size=32, max_size=32), st.booleans(), st.integers(0, 2**32 - 1), st.binary(max_size=200),
    st.binary(max_size=255), st.binary(max_size=200),
)  # fmt: skip
def test_a_block_comes_back(
    digest: bytes, relaxed: bool, header: int, added: bytes, domain: bytes, received: bytes
) -> None:
    pending = Pending(digest, relaxed, header, len(added), domain)
    assert split(pending.encode() + received + added) == (pending, received + added)


@given(st.binary(max_size=100))
def test_anything_else_is_no_block(octets: bytes) -> None:
    try:
        pending, rest = split(octets)
    except ValueError:
        return
    assert pending.encode() + rest == octets[:1] + bytes((pending.relaxed_body,)) + octets[2:]


def test_blocks_that_claim_too_much() -> None:
    whole = Pending(b"h" * 32, True, 10, 5, b"news.example").encode()
    for wrong in (b"", whole[:20], whole[:-1], b"Received: from x by y\r\n" * 3, b"\2" + whole[1:] + b"12345", whole):
        with pytest.raises(ValueError):
            split(wrong)
    assert split(whole + b"12345")[1] == b"12345"
