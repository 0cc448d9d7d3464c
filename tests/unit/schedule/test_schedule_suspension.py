"""Selectors and suspensions: what they match."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay._core.index import Index
from fastrelay._core.wheel import Wheel
from fastrelay.schedule.suspension import Selector, Suspension

SOURCES = {"a": 0, "b": 1}
NOW = 1000.0


def queue() -> tuple[Index, dict[str, int]]:
    """Four recipients by a short name: campaign, domain, source, age in seconds."""
    index = Index(Wheel(0))
    numbers = {}
    for msgid, (name, campaign, domain, source, age) in enumerate(
        [
            ("x", b"spring", b"one.test", 1, 10),
            ("y", b"spring", b"two.test", 0, 100),
            ("z", b"", b"one.test", 2, 100),
            ("w", b"autumn", b"two.test", 0, 10),
        ],
        start=1,
    ):
        number = index.name_number(campaign) if campaign else 0
        _, (r,) = index.py_add(msgid, int((NOW - age) * 1000), 1, [(0, domain)], number)
        index.set_source(r, source)
        numbers[name] = r
    index.domain(b"one.test").site = index.new_site_queue(SimpleNamespace(key="mx.one.test:25", provider="google"))
    return index, numbers


CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "wxyz"),
    ({"campaign": "spring"}, "xy"),
    ({"campaign": "winter"}, ""),
    ({"domain": "ONE.test"}, "xz"),
    ({"domain": "three.test"}, ""),
    ({"provider": "google"}, "xz"),
    ({"provider": "yahoo"}, ""),
    ({"source": "a"}, "x"),
    ({"source": "b"}, "z"),
    ({"source": "nobody"}, ""),
    ({"older_than_seconds": 50}, "yz"),
    ({"older_than_seconds": 5000}, ""),
    ({"campaign": "spring", "domain": "one.test"}, "x"),
    ({"campaign": "spring", "domain": "one.test", "older_than_seconds": 50}, ""),
]


@pytest.mark.parametrize(("selectors", "names"), CASES)
def test_selectors_find_what_matches(selectors: dict[str, Any], names: str) -> None:
    index, numbers = queue()
    arguments = Selector.of(selectors).arguments(index, SOURCES, NOW)
    found = [] if arguments is None else index.select(0, 100, **arguments)[1]
    assert sorted(found) == sorted(numbers[name] for name in names)


@pytest.mark.parametrize(("selectors", "names"), CASES)
def test_suspensions_hold_the_same(selectors: dict[str, Any], names: str) -> None:
    index, numbers = queue()
    suspension = Suspension.of({"id": "s", "selectors": selectors, "why": ""}, index, SOURCES)
    held = "".join(name for name, r in sorted(numbers.items()) if suspension.holds(index, r, NOW))
    if selectors.get("source"):
        assert suspension.of_source
        assert held == ""  # the source is held, the mail goes by others
    else:
        assert held == names


def test_a_source_with_mail_named_holds_that_mail_from_that_source() -> None:
    index, numbers = queue()
    suspension = Suspension.of({"id": "s", "selectors": {"source": "a", "campaign": "spring"}}, index, SOURCES)
    assert not suspension.of_source
    assert suspension.holds(index, numbers["x"], NOW)  # prefers it
    assert not suspension.holds(index, numbers["y"], NOW)  # goes by any
    assert suspension.holds(index, numbers["y"], NOW, 0)  # would go by it now
    assert not suspension.holds(index, numbers["y"], NOW, 1)
    assert not suspension.holds(index, numbers["w"], NOW, 0)


@pytest.mark.parametrize(
    ("selectors", "source", "provider", "held"),
    [
        ({"source": "a"}, "a", "google", True),
        ({"source": "a"}, "b", "google", False),
        ({"source": "a", "provider": "google"}, "a", "google", True),
        ({"source": "a", "provider": "google"}, "a", "yahoo", False),
        ({"source": "a", "campaign": "spring"}, "a", "google", False),
        ({"provider": "google"}, "a", "google", False),
    ],
)
def test_which_sources_are_held(selectors: dict[str, Any], source: str, provider: str, held: bool) -> None:
    index, _ = queue()
    suspension = Suspension.of({"id": "s", "selectors": selectors}, index, SOURCES)
    assert suspension.holds_source(source, provider) is held


def test_unknown_selectors_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown selector 'colour'"):
        Selector.of({"colour": "red"})


def test_a_selector_of_nothing_is_empty() -> None:
    assert Selector.of({"campaign": None}).empty
    assert not Selector.of({"campaign": ""}).empty
