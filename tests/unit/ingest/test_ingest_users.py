"""The users file: what is stored of a password, what is wrong in which line, writing that loses nothing."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.users import PASSWORD, change_user, cheap, drop_user, put_user

from fastrelay.config.sending import Assignment
from fastrelay.errors import ConfigError
from fastrelay.ingest import users
from fastrelay.ingest.users import Hash, User, UsersFile, parse_users, read_hash, read_scram, read_users


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    put_user(path, "shop")
    put_user(path, "crm", cram_md5=True, mail=Assignment(pool="slow", tenant="acme"), rate="3000/h burst 50")
    return path


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_the_vector_of_rfc_7914() -> None:
    """Section 12: scrypt(P="pleaseletmein", S="SodiumChloride", N=16384, r=8, p=1, dkLen=64)."""
    digest = bytes.fromhex(
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
    )
    one = Hash(14, 8, 1, b"SodiumChloride", digest)
    assert one.fits("pleaseletmein")
    assert not one.fits("pleaseletmein ")


def test_scram_keys_of_rfc_7677() -> None:
    """They are what PostgreSQL would store for the password of section 3."""
    keys = users.scram_keys("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    stored, server = base64.b64encode(keys.stored_key).decode(), base64.b64encode(keys.server_key).decode()
    text = f"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}"
    assert text.endswith("$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")
    assert read_scram(text).server_key == keys.server_key


def test_what_is_stored_fits_the_password_and_does_not_hold_it() -> None:
    stored = users.secrets_of(PASSWORD, cram_md5=False)
    assert stored["cram_md5"] is None
    assert PASSWORD not in str(stored)
    assert read_hash(stored["scrypt"] or "").fits(PASSWORD)
    assert users.secrets_of(PASSWORD, cram_md5=False) != stored  # another salt
    assert users.secrets_of(PASSWORD, cram_md5=True)["cram_md5"] == PASSWORD


def test_passwords_are_prepared_before_they_are_stored() -> None:
    stored = users.secrets_of("passwo\u00add\u2168\u00a0x", cram_md5=True)
    assert stored["cram_md5"] == "passwodIX x"
    assert read_hash(stored["scrypt"] or "").fits("passwodIX x")


@pytest.mark.parametrize("password", ["", "tiny pw", "with\ttab......", "a" * 513, "\u0627...........1"])
def test_passwords_that_are_none(password: str) -> None:
    with pytest.raises(ValueError) as caught:
        users.secrets_of(password, cram_md5=False)
    assert not password or password not in str(caught.value)


def test_generated_passwords_are_long_and_never_the_same() -> None:
    made = {users.generated_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 24 and one.isalnum() for one in made)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_user_is_read_as_it_was_written(file: Path) -> None:
    found = read_users(str(file))
    assert list(found.accounts) == ["shop", "crm"]
    crm = found.accounts["crm"]
    assert crm.mail == Assignment(pool="slow", tenant="acme")
    assert crm.rate is not None
    assert crm.rate.text == "3000/h burst 50"
    assert (found.with_cram_md5, found.with_scram) == (True, True)
    fits, may = found.hash_of("shop")
    assert may
    assert fits.fits(PASSWORD)


def test_nobody_costs_what_a_user_costs(file: Path) -> None:
    found = read_users(str(file))
    real, _ = found.hash_of("shop")
    made_up, may = found.hash_of("nobody")
    assert not may
    assert made_up.cost == real.cost
    assert len(made_up.salt) == len(real.salt)
    assert len(made_up.digest) == len(real.digest)
    assert found.scram_of("nobody").iterations == found.scram_of("shop").iterations
    assert found.cram_md5_of("nobody") != found.cram_md5_of("nobody2")
    assert found.cram_md5_of("shop") != PASSWORD.encode()


LINE = '{"name":"x","scrypt":"%s"}'
GOOD = "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0$" + base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "Expected `object`"),
        ('{"nonsense":1}', "unknown field `nonsense`"),
        ('{"name":"x","password":"hush hush"}', "unknown field `password`"),
        ('{"scrypt":"hush"}', "missing required field `name`"),
        ('{"name":"a b"}', "is not a user's name"),
        ('{"name":""}', "is not a user's name"),
        ('{"name":"x","connections":0}', "at connections"),
        ('{"name":"x","recipients_per_day":-1}', "at recipients_per_day"),
        ('{"name":"x","rate":"10"}', "rate: '10' has no period"),
        ('{"name":"x","senders":["*"]}', "senders: '*'"),
        ('{"name":"x","mail":{"pool":"a b"}}', "mail: 'a b' is not a name"),
        ('{"name":"x","mail":{"priority":"urgent"}}', "at mail.priority"),
        (LINE % "hush", "scrypt: is not $scrypt$"),
        (LINE % GOOD.replace("ln=4", "ln=30"), "too much memory"),
        (LINE % GOOD.replace("ln=4", "ln=18").replace("r=8", "r=32"), "too much memory"),
        (LINE % GOOD.replace("c2FsdHNhbHRzYWx0", "c2Fs"), "strange length"),
        (LINE % GOOD.replace("c2FsdHNhbHRzYWx0", "c2Fsd"), "base64"),
        ('{"name":"x","scram_sha_256":"hush"}', "scram_sha_256: is not SCRAM-SHA-256$"),
        ('{"name":"x","scram_sha_256":"SCRAM-SHA-256$1:c2FsdHNhbHRzYWx0$aA==:aA=="}', "1 iterations"),
        ('{"name":"x","scram_sha_256":"SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$aA==:aA=="}', "strange length"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_without_secrets(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_users(["# a comment", "", line, '{"name":"fine"}'], "users")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == ("users", 3)
    assert words in f"{problem.problem}; {problem.mend}"
    assert problem.mend
    assert "hush" not in str(caught.value)


def test_a_good_line_stays_good() -> None:
    assert parse_users([LINE % GOOD], "users").accounts["x"].hash is not None


def test_all_problems_come_at_once_and_doubles_are_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_users(['{"name":"a"}', '{"name":"a"}', "{"], "users")
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert "also in line 1" in caught.value.problems[0].problem


@given(st.text(max_size=200))
def test_no_line_breaks_the_reader(line: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_users([line], "users")


@pytest.mark.parametrize(
    ("octets", "words"),
    [(None, "cannot be read"), (b"\xff\n", "not UTF-8"), (b" " * (users.MAX_FILE_BYTES + 1), "larger than 16 MiB")],
)
def test_a_file_that_is_none(tmp_path: Path, octets: bytes | None, words: str) -> None:
    path = tmp_path / "users"
    if octets is not None:
        path.write_bytes(octets)
    with pytest.raises(ConfigError, match=words):
        read_users(str(path))


def test_made_up_salts_of_a_file_that_people_wrote_are_stable(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if "made_up_salts" not in line]
    one, other = parse_users(lines, "users"), parse_users(lines, "users")
    assert one.scram_of("nobody").salt == other.scram_of("nobody").salt


def test_modes(file: Path) -> None:
    assert users.mode_problem(str(file)) is None
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        assert f"{mode:04o}" in (users.mode_problem(str(file)) or "")
    assert users.mode_problem(str(file) + "x") is None


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_for_its_owner_alone_and_says_what_it_holds(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert "THE PASSWORD ITSELF" in text
    assert text.count(PASSWORD) == 1  # crm's, for CRAM-MD5


def test_other_lines_stay_as_they_are(file: Path) -> None:
    file.write_text(file.read_text() + '\n# of the sales team\n{"name": "sales",   "note": "by hand"}\n')
    before = file.read_text().splitlines()
    change_user(file, "shop", note="new")
    after = file.read_text().splitlines()
    assert [line for line in before if '"shop"' not in line] == [line for line in after if '"shop"' not in line]
    assert [index for index, line in enumerate(before) if '"shop"' in line] == [
        index for index, line in enumerate(after) if '"shop"' in line
    ]
    drop_user(file, "sales")
    assert "# of the sales team" in file.read_text()
    assert "by hand" not in file.read_text()


def test_the_password_that_is_made_anew_takes_the_clear_one_along(file: Path) -> None:
    put_user(file, "crm", password="another one")
    assert PASSWORD not in file.read_text()


def test_notes_of_all_characters_are_read_back(file: Path) -> None:
    for note in ("a\u2028b\x85c", "a\nb\r\n", '"}{', "\ud7ff"):
        change_user(file, "shop", note=note)
        assert read_users(str(file)).accounts["shop"].user.note == note


def test_a_broken_file_is_not_written(file: Path) -> None:
    file.write_text(file.read_text() + "{\n")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="users:7: is not JSON"):
        put_user(file, "third")
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["users"]


def test_a_change_that_would_break_it_is_not_written(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ConfigError):
        change_user(file, "shop", rate="fast")
    assert file.read_bytes() == before


def test_what_a_link_names_is_replaced_not_the_link(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to(file)
    put_user(link, "third")
    assert link.is_symlink()
    assert "third" in read_users(str(file)).accounts


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(users.os, "rename", broken)
        with pytest.raises(ConfigError, match="No space left"):
            put_user(file, "third")
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["users"]


def test_two_writers_lose_nothing(file: Path) -> None:
    def add(start: int) -> None:
        for number in range(start, start + 10):
            put_user(file, f"u{number}")

    threads = [threading.Thread(target=add, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_users(str(file)).accounts) == 32


# -- the file as a process knows it -----------------------------------------------------------------------------------


def test_a_process_sees_changes_and_keeps_the_last_good_state(file: Path) -> None:
    known = UsersFile(str(file))
    assert known.reload_if_changed()
    assert not known.reload_if_changed()
    first = known.current
    good = file.read_bytes()
    file.write_bytes(b"{\n")
    assert not known.reload_if_changed()
    assert known.error is not None
    assert known.current is first
    os.unlink(file)
    assert not known.reload_if_changed()
    assert "cannot be read" in str(known.error)
    file.write_bytes(good)
    assert known.reload_if_changed()
    assert known.error is None
    assert known.current is not first


def test_a_reload_reads_only_the_lines_that_are_new(file: Path) -> None:
    known = UsersFile(str(file))
    known.reload_if_changed()
    before = known.current.accounts
    change_user(file, "shop", note="changed")
    drop_user(file, "crm")
    put_user(file, "third")
    known.reload_if_changed()
    after = known.current.accounts
    assert list(after) == ["shop", "third"]
    assert after["shop"].user.note == "changed"
    put_user(file, "fourth")
    known.reload_if_changed()
    assert known.current.accounts["shop"] is after["shop"] is not before["shop"]
    file.write_text(file.read_text() + file.read_text().splitlines()[-1] + "\n")
    known.reload_if_changed()
    assert "also in line" in str(known.error)


def test_what_is_shown_of_a_user_has_no_secret() -> None:
    user = User(name="x", cram_md5="hush hush", scrypt="s3cret", scram_sha_256="s3cret", note="n")
    shown = msgspec.json.encode(user.public()).decode()
    assert "hush" not in shown
    assert "s3cret" not in shown
    assert user.public()["mechanisms"] == ["SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"]
    assert "hush" not in repr(user) + repr([user]) + f"{user}"
