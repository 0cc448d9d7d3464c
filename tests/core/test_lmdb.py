"""The LMDB binding: reading, writing, guards, and files that cannot be trusted."""

import os
import shutil
from pathlib import Path

import pytest

from fastrelay._core.lmdb import Environment, LmdbError, prepare_file


@pytest.fixture
def environment(tmp_path: Path):
    environment = Environment(str(tmp_path / "env"), ["a", "b"], map_bytes=1 << 28)
    yield environment
    environment.close()


def test_get_put_delete(environment: Environment) -> None:
    assert environment.get("a", b"key") is None
    environment.put("a", b"key", b"value")
    assert environment.get("a", b"key") == b"value"
    assert environment.get("b", b"key") is None
    environment.delete("a", b"key")
    environment.delete("a", b"key")
    assert environment.get("a", b"key") is None
    with pytest.raises(KeyError):
        environment.get("c", b"key")


def test_items_in_slices(environment: Environment) -> None:
    pairs = [(b"%05d" % n, b"value %d" % n) for n in range(2500)]
    environment.put_many("a", reversed(pairs))
    assert environment.count("a") == 2500
    found: list[tuple[bytes, bytes]] = []
    start = b""
    while part := environment.items("a", start, 700):
        found += part
        start = part[-1][0] + b"\0"
    assert found == pairs
    assert environment.items("a", b"02000", 1) == [pairs[2000]]
    assert environment.items("a", b"9") == []
    environment.delete_many("a", [key for key, _ in pairs[:2400]])
    assert environment.items("a") == pairs[2400:]


def test_write_is_all_or_nothing(environment: Environment) -> None:
    environment.put("a", b"kept", b"1")
    with pytest.raises(LmdbError) as caught:
        environment.write([("a", b"kept", None), ("b", b"new", b"1"), ("b", b"", b"an empty key is refused")])
    assert caught.value.operation == "put"
    assert not caught.value.corrupt
    assert environment.get("a", b"kept") == b"1"
    assert environment.get("b", b"new") is None


def test_what_is_written_is_there_after_opening_anew(environment: Environment) -> None:
    environment.put("b", b"large", b"x" * 100_000)
    environment.reopen()
    assert environment.get("b", b"large") == b"x" * 100_000
    assert environment.info()["map_bytes"] == 1 << 28


def test_no_environment_is_opened_twice(environment: Environment, tmp_path: Path) -> None:
    os.symlink(environment.path, tmp_path / "alias")
    for path in (environment.path, str(tmp_path / "alias")):
        with pytest.raises(LmdbError, match="has it open already"):
            Environment(path, ["a"])
    environment.put("a", b"still", b"works")
    environment.close()
    environment.close()
    second = Environment(environment.path, ["a"])
    assert second.get("a", b"still") == b"works"
    second.close()


def test_a_folder_that_was_removed_keeps_no_other_from_being_opened(tmp_path: Path) -> None:
    """File systems give the number of a removed folder to the next one."""
    folder = tmp_path / "one"
    first = Environment(str(folder), ("a",), map_bytes=1 << 20)
    shutil.rmtree(folder)
    second = Environment(str(folder), ("a",), map_bytes=1 << 20)
    with pytest.raises(LmdbError, match="has it open already"):
        Environment(str(folder), ("a",), map_bytes=1 << 20)
    second.close()
    first.close()


def test_a_closed_one_says_so(environment: Environment) -> None:
    environment.close()
    for act in (lambda: environment.get("a", b"k"), lambda: environment.put("a", b"k", b"v"), environment.info):
        with pytest.raises(LmdbError, match="closed"):
            act()


def test_a_full_map_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    environment = Environment(str(tmp_path / "small"), ["a"], map_bytes=1 << 20)
    with pytest.raises(LmdbError, match="MAP_FULL"):
        environment.put("a", b"key", bytes(2 << 20))
    environment.put("a", b"key", b"small")
    assert environment.get("a", b"key") == b"small"
    environment.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed environment of a few hundred pages."""
    environment = Environment(str(tmp_path / "filled"), ["a", "b"], map_bytes=1 << 28)
    environment.put_many("a", [(b"%06d" % n, os.urandom(300)) for n in range(3000)])
    environment.put("b", b"large", os.urandom(50_000))
    environment.delete_many("a", [b"%06d" % n for n in range(0, 3000, 3)])
    environment.close()
    return tmp_path / "filled"


def test_a_sound_file_passes(filled: Path) -> None:
    assert prepare_file(str(filled)) > 200


def test_a_file_cut_short_is_refused(filled: Path) -> None:
    path = filled / "data.mdb"
    whole = path.read_bytes()
    for length in (len(whole) - 4096, len(whole) // 2, 8192, 5000, 4096, 100):
        path.write_bytes(whole[:length])
        with pytest.raises(LmdbError) as caught:
            Environment(str(filled), ["a", "b"], map_bytes=1 << 28)
        assert caught.value.corrupt, length


def test_a_file_of_something_else_is_refused(filled: Path) -> None:
    (filled / "data.mdb").write_bytes(b"From MAILER-DAEMON" * 1000)
    with pytest.raises(LmdbError, match="no page of LMDB"):
        Environment(str(filled), ["a"], map_bytes=1 << 28)


def test_any_page_that_is_overwritten_is_found_or_harmless(filled: Path) -> None:
    """Garbage in each page in turn: refused, or (a free page) all that was there is still read."""
    path = filled / "data.mdb"
    whole = path.read_bytes()
    reference = Environment(str(filled), ["a", "b"], map_bytes=1 << 28)
    expected = reference.items("a", limit=5000), reference.items("b")
    reference.close()
    refused = 0
    whole = path.read_bytes()
    for page in range(2, len(whole) // 4096):
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 4096] = os.urandom(4096)
        path.write_bytes(damaged)
        try:
            environment = Environment(str(filled), ["a", "b"], map_bytes=1 << 28)
        except LmdbError as error:
            refused += error.corrupt
            continue
        found = environment.items("a", limit=5000)
        assert [key for key, _ in found] == [key for key, _ in expected[0]]
        environment.close()
    assert refused > 100
