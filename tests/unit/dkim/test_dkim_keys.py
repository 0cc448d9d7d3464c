"""Keys in files: which can be used, what is said of others, and that changes are seen."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.dkim_keys import ed25519_key, key_file, pem, rsa_key

from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim import keys
from fastrelay.dkim.keys import FILES_A_LOOK, Keyring, UnusableKey, read_key


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_rsa_keys(form: PrivateFormat, bits: int) -> None:
    key = read_key(pem(rsa_key(bits), form))
    assert (key.algorithm, key.bits) == ("rsa", bits)
    assert key.public == rsa_key(bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.record.startswith("v=DKIM1; k=rsa; p=MI")


def test_ed25519_keys() -> None:
    key = read_key(pem(ed25519_key()))
    assert (key.algorithm, key.bits, len(key.public)) == ("ed25519", 256, 32)
    assert key.record.startswith("v=DKIM1; k=ed25519; p=")


def damaged() -> bytes:
    """An RSA key whose parts do not belong together."""
    mine, other = rsa_key(1024).private_numbers(), rsa_key(1024, 1).private_numbers()
    numbers = RSAPrivateNumbers(mine.p, mine.q, other.d, other.dmp1, other.dmq1, mine.iqmp, mine.public_numbers)
    return pem(numbers.private_key(unsafe_skip_rsa_key_validation=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not a PEM file"),
        (b"v=DKIM1; p=abc", "is not a PEM file"),
        (pem(rsa_key(1024), password=b"secret"), "is encrypted"),
        (pem(rsa_key(1024), PrivateFormat.TraditionalOpenSSL, password=b"secret"), "is encrypted"),
        (
            rsa_key(1024).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "has no private key",
        ),
        (pem(rsa_key(2048))[:900] + b"\n-----END PRIVATE KEY-----\n", "is damaged"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "is damaged"),
        (
            ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "neither RSA nor Ed25519",
        ),
        (damaged(), "is damaged"),
    ],
)
def test_what_is_no_key(text: bytes, words: str) -> None:
    with pytest.raises(UnusableKey, match=words):
        read_key(text)


def test_keys_that_verifiers_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.dkim.keys.LEAST_BITS", 1025)
    with pytest.raises(UnusableKey, match="of 1024 bits, and verifiers ignore those below"):
        read_key(pem(rsa_key(1024)))
    monkeypatch.setattr("fastrelay.dkim.keys.MOST_BITS", 2047)
    with pytest.raises(UnusableKey, match="of 2048 bits, and verifiers need not take"):
        read_key(pem(rsa_key(2048)))


# -- files ------------------------------------------------------------------------------------------------------------


def keyring(*files: str, sign: bool = True) -> Keyring:
    listed = [DkimKey(domain="news.example", selector=f"s{n}", key=file, sign=sign) for n, file in enumerate(files)]
    return Keyring(Dkim(keys=listed))


def words(ring: Keyring) -> list[str]:
    return [f"{problem.path}: {problem.problem}" for problem in ring.problems if not problem.warning]


def test_a_good_file(tmp_path: Path) -> None:
    ring = keyring(key_file(tmp_path, "key", rsa_key()))
    assert ring.load() == []
    assert ring.usable == 1


def test_a_missing_file(tmp_path: Path) -> None:
    ring = keyring(key_file(tmp_path, "key", rsa_key()), str(tmp_path / "none.pem"))
    ring.load()
    assert words(ring) == [f"dkim.keys[1].key: {tmp_path}/none.pem cannot be read (No such file or directory)"]
    assert ring.usable == 1


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    ring = keyring(str(tmp_path))
    ring.load()
    assert "Is a directory" in words(ring)[0]


def test_a_device_is_not_read(tmp_path: Path) -> None:
    ring = keyring("/dev/zero")
    ring.load()
    assert "is not a file" in words(ring)[0]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: str, mode: str) -> None:
        raise PermissionError(errno.EACCES, "", file)

    monkeypatch.setattr(keys, "open", refuse, raising=False)  # root may read everything
    ring = keyring(key_file(tmp_path, "key", rsa_key()))
    ring.load()
    assert "Permission denied" in words(ring)[0]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_modes_that_keep_the_key(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, "key", rsa_key())
    os.chmod(file, mode)
    assert keyring(file).load() == []


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666, 0o602])
def test_modes_that_give_the_key_away(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, "key", rsa_key())
    os.chmod(file, mode)
    ring = keyring(file)
    (problem,) = ring.load()
    assert not problem.warning
    assert f"mode {mode:04o}" in problem.problem
    assert f"chmod 0600 {file}" in problem.mend
    assert ring.usable == 1  # at run time mail is signed nevertheless


def test_a_short_key_is_warned_of(tmp_path: Path) -> None:
    (problem,) = keyring(key_file(tmp_path, "key", rsa_key(1024))).load()
    assert problem.warning
    assert "1024 bits" in problem.problem


def test_a_missing_key_that_does_not_sign_is_a_warning(tmp_path: Path) -> None:
    (problem,) = keyring(str(tmp_path / "none"), sign=False).load()
    assert problem.warning


# -- changes ----------------------------------------------------------------------------------------------------------


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = key_file(tmp_path, "key", rsa_key())
    ring = keyring(file)
    ring.load()
    before, generation = ring.slots[0].key, ring.generation
    assert not ring.reload_if_changed()
    assert ring.slots[0].key is before
    os.replace(key_file(tmp_path, "new", rsa_key(2048, 1)), file)
    assert ring.reload_if_changed()
    assert ring.slots[0].key is not None
    assert ring.slots[0].key.public != before.public
    assert ring.generation == generation + 1
    assert not ring.reload_if_changed()


def test_a_file_that_goes_and_comes_back(tmp_path: Path) -> None:
    file = Path(key_file(tmp_path, "key", rsa_key()))
    ring = keyring(str(file))
    ring.load()
    file.unlink()
    assert ring.reload_if_changed()
    assert ring.usable == 0
    assert "No such file" in words(ring)[0]
    assert not ring.reload_if_changed()
    key_file(tmp_path, "key", rsa_key())
    assert ring.reload_if_changed()
    assert (ring.usable, words(ring)) == (1, [])


def test_a_file_that_is_mended(tmp_path: Path) -> None:
    file = Path(key_file(tmp_path, "key", rsa_key()))
    file.write_bytes(b"half")
    ring = keyring(str(file))
    ring.load()
    assert "is not a PEM file" in words(ring)[0]
    assert not ring.reload_if_changed()
    file.write_bytes(pem(rsa_key()))
    assert ring.reload_if_changed()
    assert ring.usable == 1


def test_one_look_at_many_keys_is_bounded(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.pem" for number in range(FILES_A_LOOK + 50)]
    ring = keyring(*map(str, files))
    ring.load()
    key_file(tmp_path, files[-1].name, ed25519_key())
    assert not ring.reload_if_changed()
    assert ring.reload_if_changed()
    assert ring.usable == 1


def test_no_keys(tmp_path: Path) -> None:
    ring = keyring()
    assert ring.load() == []
    assert not ring.reload_if_changed()
