"""Opaque references: what goes in comes out, and nothing else does."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.feedback.reference import KeyFileError, Reference, References, obtain_key, read_key

OURS = References(b"k" * 32)
OTHERS = References(b"l" * 32)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

names = st.binary(max_size=255)
recipients = st.one_of(st.none(), st.binary(min_size=1, max_size=320))
days = st.integers(0, 65535)
ids = st.builds(
    lambda tag, number: f"{tag}-{number:x}", st.text(ALPHABET, min_size=1, max_size=8), st.integers(0, 2**64 - 1)
)
limits = st.integers(1, 2000)


@given(recipients, names, names, names, days, ids, limits)
def test_what_is_left_comes_back(
    recipient: bytes | None, campaign: bytes, tenant: bytes, sender: bytes, day: int, id: str, limit: int
) -> None:
    text = OURS.make(recipient, campaign, tenant, sender, day, id, limit)
    assert re.fullmatch(r"f[a-z2-7]+", text)
    found = OURS.read(text)
    assert (found.id, found.day) == (id, day)
    whole = Reference(id, day, recipient or b"", b"", campaign, tenant, sender)
    hashed = OURS.hash_of(recipient) if recipient else b""
    assert found in (
        whole,
        Reference(id, day, recipient or b""),
        Reference(id, day, recipient_hash=hashed),
        Reference(id, day),
    )
    if len(text) > limit:
        assert found == Reference(id, day), "only what can't be left away may be too long"
    assert OURS.read(text.upper()) == found
    assert OURS.make(recipient, campaign, tenant, sender, day, id, limit) == text
    with pytest.raises(ValueError):
        OTHERS.read(text)


@given(recipients, days, ids)
def test_longer_limits_say_more(recipient: bytes | None, day: int, id: str) -> None:
    lengths = [len(OURS.make(recipient, b"c", b"t", b"s", day, id, limit)) for limit in range(1, 700, 7)]
    assert lengths == sorted(lengths)


@given(st.data())
def test_one_changed_character_is_found(data: st.DataObject) -> None:
    text = OURS.make(b"someone@example.com", b"c", b"t", b"s.example", 20000, "abcdef-12f")
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda one: one != text[at]))
    with pytest.raises(ValueError):
        OURS.read(text[:at] + other + text[at + 1 :])


@given(st.one_of(st.text(max_size=200), st.text("f" + ALPHABET, max_size=200)))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        OURS.read(text)


@given(st.data())
def test_cut_short_or_lengthened(data: st.DataObject) -> None:
    text = OURS.make(b"a@b.example", b"", b"", b"", 1, "abcdef-1")
    cut = data.draw(st.integers(0, len(text) - 1))
    for wrong in (text[:cut], text + data.draw(st.text(ALPHABET, min_size=1, max_size=8))):
        with pytest.raises(ValueError):
            OURS.read(wrong)


def test_room_in_a_local_part() -> None:
    """The lengths that the file and the rules of the configuration speak of."""
    last = f"abcdef-{2**32 - 1:x}"
    assert len(OURS.make(None, b"", b"", b"", 65535, last, 1)) == 49
    assert len(OURS.make(b"someone@a-long-domain.example", b"", b"", b"", 65535, last, 56)) == 56
    assert OURS.read(OURS.make(b"someone@a-long-domain.example", b"", b"", b"", 1, last, 56)).recipient_hash
    assert OURS.read(OURS.make(b"ab@cd.eu", b"c", b"t", b"s", 1, last, 64)).recipient == b"ab@cd.eu"


def test_the_hash_tells_recipients_apart() -> None:
    assert OURS.hash_of(b"A@b.example") == OURS.hash_of(b"a@B.example") != OURS.hash_of(b"b@b.example")
    assert OURS.hash_of(b"a@b.example") != OTHERS.hash_of(b"a@b.example")


def test_nothing_readable_in_it() -> None:
    text = OURS.make(b"aaaaaaaaaaaaaaaaaaaa@aaaaaaaaaaaaaaaaaaaaaaaaa.example", b"a" * 40, b"", b"", 1, "abcdef-1")
    assert not re.search(r"(.)\1\1\1\1", text)


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_a_key_of_another_length(key: bytes) -> None:
    with pytest.raises(ValueError):
        References(key)


# -- the key file -----------------------------------------------------------------------------------------------------


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "reference.key"
    key = obtain_key(str(path))
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert obtain_key(str(path)) == read_key(str(path)) == key
    assert os.listdir(tmp_path) == ["reference.key"]


def test_all_processes_get_the_same_key(tmp_path: Path) -> None:
    code = "import sys; from fastrelay.feedback.reference import obtain_key; print(obtain_key(sys.argv[1]).hex())"
    words = [sys.executable, "-c", code, str(tmp_path / "reference.key")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    asking = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    told = {one.communicate(timeout=120)[0] for one in asking}
    assert len(told) == 1
    assert re.fullmatch(r"[0-9a-f]{64}\n", told.pop())


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64, b"0" * 63, b"0" * 65, b"\xff" * 64])
def test_a_file_that_is_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="hexadecimal digits"):
        obtain_key(str(path))
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="can't be read"):
        read_key(str(tmp_path / "missing"))
    with pytest.raises(KeyFileError, match="can't be written"):
        obtain_key(str(tmp_path / "no" / "folder" / "reference.key"))
