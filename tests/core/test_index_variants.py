"""What the index keeps of a record's flags: variants of a domain, and the place of mail that waits for its key."""

from __future__ import annotations

import itertools

import pytest

from fastrelay._core.index import PLACE_NAMES, Index, variant_of
from fastrelay._core.wheel import Wheel
from fastrelay.schedule import places
from fastrelay.schedule.state import FLAG_REQUIRETLS, FLAG_TLS_OPTIONAL, FLAG_UNSIGNED, FLAG_VERP


def test_variants_are_domains_of_their_own() -> None:
    index = Index(Wheel(0))
    keys = list(itertools.product((b"a.test", b"b.test"), (b"", b"pool"), (0, 1, 2)))
    domains = [index.domain(*key) for key in keys]
    assert len({domain.number for domain in domains}) == len(keys)
    assert [(domain.name, domain.pool, domain.variant) for domain in domains] == keys
    assert [index.domain(*key) for key in keys] == domains
    assert index.domain(b"a.test") is domains[0]
    assert index.forget_idle_domains(0) == len(keys)
    assert index.domains == {}


@pytest.mark.parametrize(
    ("flags", "variant"),
    [(0, 0), (15, 0), (FLAG_UNSIGNED | FLAG_VERP, 0), (FLAG_REQUIRETLS, 1), (FLAG_TLS_OPTIONAL, 2), (255, 1)],
)
def test_which_variant_flags_ask_for(flags: int, variant: int) -> None:
    assert variant_of(flags) == variant


@pytest.mark.parametrize(
    ("flags", "kept"),
    [(0, 0), (FLAG_VERP, 2), (FLAG_UNSIGNED, 4), (FLAG_UNSIGNED | FLAG_VERP, 6), (7, 0), (15, 8), (192, 0)],
)
def test_what_is_kept_of_them(flags: int, kept: int) -> None:
    index = Index(Wheel(0))
    m, _ = index.py_add(1, 0, 10, [(0, b"a.test")], variant=variant_of(flags), flags=flags)
    info = index.message_info(m)
    assert info is not None
    assert info[8] == kept


def test_places_are_named_alike() -> None:
    assert len(PLACE_NAMES) == len(places.SHOWN) == places.SUPPRESSION + 1
    assert PLACE_NAMES[places.UNSIGNED] == places.SHOWN[places.UNSIGNED] == "no_dkim_key"
    index = Index(Wheel(0))
    _, [r] = index.py_add(1, 0, 10, [(0, b"a.test")])
    index.py_place(r, places.UNSIGNED)
    assert {name: n for name, n in index.place_counts().items() if n} == {"no_dkim_key": 1}
    assert index.select(0, 10, place=places.UNSIGNED)[1] == [r]
    assert index.py_remove(r)
    assert not any(index.place_counts().values())
