"""The suppression list's storage: spelling, packing, and a dict as its oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrelay._core.lmdb import Environment, LmdbError, ReadOnly
from fastrelay.feedback import suppression
from fastrelay.feedback.suppression import (
    ENTRIES,
    NAMES,
    REASONS,
    SCOPES,
    Entry,
    Lookup,
    Numbers,
    SuppressionError,
    SuppressionList,
    address_key,
    scope_value,
    shown,
    unpack,
)

MAP = 1 << 26


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(str(tmp_path / "feedback"), (ENTRIES, NAMES), map_bytes=MAP)
    yield environment
    environment.close()


# -- spelling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Joe@Example.COM", b"joe@example.com"),
        (" joe@example.com. ", b"joe@example.com"),
        ("joe+news@example.com", b"joe+news@example.com"),
        ('"Joe"@example.com', b"joe@example.com"),
        ('"Joe Doe"@example.com', b"joe doe@example.com"),
        ('"a\\"b"@example.com', b'a"b@example.com'),
        ("joe@Bücher.example", b"joe@xn--bcher-kva.example"),
        ("JÖE@example.com", "jöe@example.com".encode()),
        ("example.com", b"@example.com"),
        ("@Example.com", b"@example.com"),
        ("joe@[192.0.2.1]", b"joe@[192.0.2.1]"),
        ("joe@[IPv6:2001:DB8::1]", b"joe@[ipv6:2001:db8::1]"),
    ],
)
def test_one_spelling(text: str, key: bytes) -> None:
    assert address_key(text.encode()) == key
    assert address_key(shown(key).encode()) == key


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "joe", "joe@", "joe@exa mple.com", "a@b@example.com", "joe doe@example.com", "joe@example..com"),
        *(
            "<joe@example.com>",
            "joe\n@example.com",
            '"joe\x00"@example.com',
            "x" * 600 + "@example.com",
            '""@example.com',
        ),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SuppressionError):
        address_key(text.encode())


@pytest.mark.parametrize(
    ("scope", "value", "spelt"),
    [
        ("global", b"", b""),
        ("tenant", b"Acme", b"Acme"),
        ("tenant", b"", b""),
        ("sender", b"News.Example", b"news.example"),
    ],
)
def test_values_of_scopes(scope: str, value: bytes, spelt: bytes) -> None:
    assert scope_value(scope, value) == spelt


@pytest.mark.parametrize(
    ("scope", "value"),
    [("global", b"x"), ("sender", b""), ("sender", b"no domain"), ("all", b""), ("tenant", b"x" * 256)],
)
def test_values_that_fit_no_scope(scope: str, value: bytes) -> None:
    with pytest.raises(SuppressionError):
        scope_value(scope, value)


# -- storage ----------------------------------------------------------------------------------------------------------


def entry(address: str = "joe@example.com", scope: str = "global", value: bytes = b"", reason: str = "manual",
          source: str = "", created: int = 1000, expires: int = 0) -> Entry:  # fmt: skip
    return Entry(address.encode(), scope, value, reason, source, created, expires)


def test_what_was_put_in_is_found_anew(store: Environment) -> None:
    entries = [
        entry(),
        entry(scope="tenant", value=b"acme", reason="complaint", source="arf:google", expires=5000),
        entry(scope="tenant", value=b"", reason="complaint"),
        entry(scope="sender", value=b"news.example", reason="unsubscribe", source="ü" * 100),
    ]
    assert SuppressionList(store, 100).add(entries) == entries
    again = SuppressionList(store, 100)
    assert again.entries(b"joe@example.com") == entries
    assert again.total == 4
    assert again.by_reason() == {
        "hard_bounce": 0, "soft_bounces": 0, "complaint": 2, "unsubscribe": 1, "manual": 1,
    }  # fmt: skip


def test_the_same_again_lasts_longer_or_is_replaced(store: Environment) -> None:
    kept = SuppressionList(store, 100)
    assert kept.add([entry(expires=5000, source="first")])
    assert kept.add([entry(expires=4000, created=2000)]) == []
    assert kept.entries(b"joe@example.com")[0].expires == 5000
    assert kept.add([entry(expires=0, created=2000, source="second")])
    assert kept.entries(b"joe@example.com") == [entry(source="second")]  # since when stays
    assert kept.add([entry(expires=9000, created=2000)]) == []
    assert kept.add([entry(expires=9000, created=2000)], replace=True)
    assert kept.entries(b"joe@example.com") == [entry(expires=9000, created=2000)]
    assert kept.total == 1


def test_a_full_list_takes_nothing_of_a_change(store: Environment) -> None:
    kept = SuppressionList(store, 2)
    kept.add([entry("a@b.example")])
    with pytest.raises(SuppressionError, match=r"suppression\.entries is 2"):
        kept.add([entry("b@b.example"), entry("c@b.example")])
    assert kept.total == 1
    assert kept.entries(b"b@b.example") == []
    assert kept.add([entry("a@b.example", expires=7)], replace=True)  # nothing more than before


def test_more_names_than_there_are_numbers(store: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "MOST_NAMES", 3)
    monkeypatch.setattr(suppression, "MOST_SOURCES", 2)
    kept = SuppressionList(store, 100)
    entries = [
        entry(f"j{number}@example.com", "tenant", b"tenant%d" % number, source=f"source{number}") for number in range(6)
    ]
    kept.add(entries)
    again = SuppressionList(store, 100)
    assert [again.entries(one.address) for one in entries] == [[one] for one in entries]
    assert store.count(NAMES) == 3 + 1


@pytest.mark.parametrize(
    "packed", [b"\0", b"\0\0\0\0", b"\x20\1\0\0\0", b"\x00\1\0\0\0\xff\xff", b"\x87\1\0\0\0\x05ab"]
)
def test_damage_is_said(store: Environment, packed: bytes) -> None:
    with pytest.raises(SuppressionError, match="damaged"):
        unpack(b"joe@example.com", packed, Numbers(store))


def test_pages(store: Environment) -> None:
    kept = SuppressionList(store, 100)
    entries = sorted([entry(f"j{number:02}@example.com") for number in range(10)], key=lambda one: one.address)
    kept.add(entries)
    found: list[Entry] = []
    start: bytes | None = b""
    while start is not None:
        page, start = kept.page(start, 3)
        assert len(page) <= 3
        found += page
    assert found == entries


def test_another_process_reads_the_newest_commit(tmp_path: Path) -> None:
    """A reader of its own folder here: the same file in one process is for nobody."""
    environment = Environment(str(tmp_path / "feedback"), (ENTRIES, NAMES), map_bytes=MAP)
    SuppressionList(environment, 10).add([entry(scope="tenant", value=b"acme"), entry("@bad.example")])
    environment.close()
    reader = ReadOnly(str(tmp_path / "feedback"), (ENTRIES, NAMES), map_bytes=MAP)
    lookup = Lookup(reader)
    assert lookup.find(b"Joe@Example.com", b"example.com") == [entry(scope="tenant", value=b"acme")]
    assert lookup.find(b"x@bad.example", b"bad.example") == [entry("@bad.example")]
    assert lookup.find(b"mary@example.com", b"example.com") is None
    assert reader.count(ENTRIES) == 2
    assert reader.get(ENTRIES, b"nobody") is None
    reader.close()
    reader.close()
    with pytest.raises(LmdbError, match="closed"):
        lookup.find(b"joe@example.com", b"example.com")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LmdbError):
        ReadOnly(str(tmp_path / "none"), (ENTRIES, NAMES))
    environment = Environment(str(tmp_path / "other"), ("other",), map_bytes=MAP)
    environment.close()
    with pytest.raises(LmdbError, match="suppression"):
        ReadOnly(str(tmp_path / "other"), (ENTRIES, NAMES), map_bytes=MAP)


def test_an_address_and_its_domain_are_both_found(store: Environment) -> None:
    kept = SuppressionList(store, 10)
    kept.add([entry(), entry("@example.com", reason="complaint")])
    assert kept.lookup.find(b'"JOE"@example.com', b"example.com") == [
        entry(),
        entry("@example.com", reason="complaint"),
    ]
    assert kept.lookup.find(b"mary@example.com", b"example.com") == [entry("@example.com", reason="complaint")]
    assert kept.lookup.find(b"joe@sub.example.com", b"sub.example.com") is None


# -- against a dict --------------------------------------------------------------------------------------------------

addresses = st.sampled_from(["a@x.example", "b@x.example", "@x.example", "ü@y.example", "c d@z.example", "@z.example"])
values = st.sampled_from([b"", b"acme", b"other", b"x" * 255])
one_entry = st.builds(
    lambda address, scope, value, reason, source, created, expires: Entry(
        address.encode(), scope, b"" if scope == "global" else value, reason, source, created, expires
    ),
    addresses, st.sampled_from(SCOPES), values, st.sampled_from(REASONS), st.sampled_from(["", "bounce", "arf:ü"]),
    st.integers(1, 2**32 - 1), st.one_of(st.just(0), st.integers(1, 2**32 - 1)),
)  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(["add", "replace", "remove"]), st.lists(one_entry, min_size=1, max_size=6)), max_size=12
)


def expected(oracle: dict[Any, Entry], what: str, entries: list[Entry]) -> None:
    for one in entries:
        key = (one.address, *one.identity)
        former = oracle.get(key)
        if what == "remove":
            oracle.pop(key, None)
        elif former is None or what == "replace":
            oracle[key] = one
        elif former.expires and (not one.expires or one.expires > former.expires):
            oracle[key] = Entry(*key[:1], one.scope, one.value, one.reason, one.source,
                                min(former.created, one.created), one.expires)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_it_is_a_dict_that_lasts(tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, list[Entry]]]) -> None:
    path = str(tmp_path_factory.mktemp("list") / "feedback")
    store = Environment(path, (ENTRIES, NAMES), map_bytes=MAP)
    try:
        kept = SuppressionList(store, 1000)
        oracle: dict[Any, Entry] = {}
        for what, entries in done:
            expected(oracle, what, entries)
            if what == "remove":
                kept.remove(entries)
            else:
                kept.add(entries, replace=what == "replace")
        for one in (kept, SuppressionList(store, 1000)):
            found, following = one.page(b"", 1000)
            assert following is None
            assert {(entry.address, *entry.identity): entry for entry in found} == oracle
            assert one.total == len(found) == len(oracle)
            for reason, n in one.by_reason().items():
                assert n == sum(entry.reason == reason for entry in found)
    finally:
        store.close()
