"""Complaint rates: windows, bounds, what lasts, and what is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay.config.feedback import Complaints
from fastrelay.feedback import rates as made
from fastrelay.feedback.eventfiles import Wanted
from fastrelay.feedback.rates import Rates
from fastrelay.feedback.tail import Event, decode

TODAY = 20_000  # 2024-10-04
CONFIG = Complaints(least_delivered=10, campaigns=3)


@pytest.fixture
def store(tmp_path: Path):
    environment = Environment(str(tmp_path / "feedback"), ["rates"], map_bytes=1 << 28)
    yield environment
    environment.close()


def delivered(campaign: str = "c", n: int = 1, *, day: str = "2024-10-04", **fields: str) -> list[Event]:
    common = {"time": f"{day}T10:00:00.000Z", "source": "a", "provider": "p", "domain": "far.example",
              "reverse_path": "b@News.example"} | fields  # fmt: skip
    return [Event(event="delivered", campaign=campaign, **common) for _ in range(n)]


def test_the_window(store: Environment) -> None:
    rates = Rates(store, CONFIG, TODAY)
    for day, n in (("2024-10-04", 1), ("2024-09-28", 2), ("2024-09-27", 4), ("2024-10-06", 8), ("nonsense!!", 16)):
        rates.delivered(delivered(n=n, day=day))
    assert rates.window()["all", ""] == (3, 0)
    rates.flush(0.0, TODAY + 1)
    assert rates.window()["all", ""] == (1, 0)


def test_it_lasts(store: Environment) -> None:
    rates = Rates(store, CONFIG, TODAY)
    rates.delivered(delivered(n=20, sender_domain="from.example"))
    rates.complained(TODAY, "a", "p", "c", "from.example")
    rates.complained(TODAY - 30, "a", "p", "c", "from.example")
    before = rates.window()
    assert before["sender", "from.example"] == (20, 1)
    rates.flush(0.0, TODAY)
    again = Rates(store, CONFIG, TODAY)
    assert again.window() == before
    assert again.provider_of("far.example") == "p"
    assert again.source_of(TODAY, "p", 12345) == "a"
    assert Rates(store, CONFIG, TODAY - 30).window()["all", ""] == (0, 1)


def test_a_write_that_fails_is_tried_again(store: Environment) -> None:
    class Full:
        def __getattr__(self, name: str):
            return getattr(store, name)

        def put_many(self, database: str, pairs) -> None:
            raise LmdbError("put", 28, "x")

    rates = Rates(store, CONFIG, TODAY)
    rates.delivered(delivered(n=3))
    whole, rates._store = rates._store, Full()
    with pytest.raises(LmdbError):
        rates.flush(0.0, TODAY)
    rates._store = whole
    rates.flush(1.0, TODAY)
    assert Rates(store, CONFIG, TODAY).window()["campaign", "c"] == (3, 0)


def test_only_the_busiest_are_told(store: Environment) -> None:
    rates = Rates(store, CONFIG, TODAY)
    for number in range(1, 7):
        rates.delivered(delivered(f"c{number}", number * 10))
    rows = [row[:4] for row in rates.told() if row[0] == "campaign"]
    assert rows == [
        ["campaign", "c6", 60, 0], ["campaign", "c5", 50, 0], ["campaign", "c4", 40, 0], ["campaign", "other", 60, 0]
    ]  # fmt: skip
    assert [row.name for row in rates.rows("campaign")] == ["c6", "c5", "c4", "c3", "c2", "c1"]


def test_few_deliveries_make_no_rate(store: Environment) -> None:
    rates = Rates(store, CONFIG, TODAY)
    rates.delivered(delivered(n=9))
    rates.complained(TODAY, "a", "p", "c", "")
    assert rates.rows("all")[0].share is None
    rates.delivered(delivered(n=1))
    assert rates.rows("all")[0].share == 0.1


def test_names_of_a_day_are_bounded(store: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "NAMES_OF_DAY", 5)
    rates = Rates(store, CONFIG, TODAY)
    for number in range(50):
        rates.delivered(delivered(f"c{number}" + "x" * 900))
    names = rates.rows("campaign")
    assert len(names) == 6
    assert sum(row.delivered for row in names) == 50
    rates.flush(0.0, TODAY)
    assert Rates(store, CONFIG, TODAY).window() == rates.window()


def test_domains_are_bounded(store: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "DOMAINS", 10)
    rates = Rates(store, CONFIG, TODAY)
    rates.delivered([one for n in range(50) for one in delivered(domain=f"d{n}.example")])
    assert len(rates._providers) == 10
    rates.flush(0.0, TODAY)
    assert len(rates._providers) == 5


def test_what_is_old_goes(store: Environment) -> None:
    old, kept = (TODAY - 91).to_bytes(2, "big"), (TODAY - 90).to_bytes(2, "big")
    store.put_many(
        "rates", [(b"d" + old + b"a", bytes(16)), (b"d" + kept + b"a", bytes(16)), (b"cx", old), (b"cy", kept)]
    )
    rates = Rates(store, CONFIG, TODAY)
    rates.flush(0.0, TODAY)
    assert [key for key, _ in store.items("rates")] == [b"cy", b"d" + kept + b"a", b"p"]


def line(number: int, more: str = "", recipient: str = "x@far.example", path: str = "b@News.example") -> bytes:
    """A delivery as the engine writes it."""
    campaign = f',"campaign":"c{number % 3}"' if number % 4 else ""
    return (
        f'{{"key":"w0-{number:x}","event":"delivered","time":"2024-10-0{1 + number % 4}T08:00:00.000Z",'
        f'"id":"t-{number}","reverse_path":"{path}","recipient":"{recipient}","domain":"far.example","attempt":1,'
        f'"source":"s{number % 2}","site":"mx.far.example","provider":"p{number % 3}",'
        f'"mx_host":"mx1.far.example","mx_address":"192.0.2.1:25",'
        f'"code":250,"enhanced":"2.0.0","reply":"2.0.0 Ok","queued_seconds":1.25{campaign},"tenant":"shop"{more}}}\n'
    ).encode()


ODD = {
    "escapes": line(1, recipient=r"\"a b\"@far.example"),
    "a null path": line(2, path=""),
    "more fields": line(3, ',"possible_duplicate":true'),
    "another order": (
        b'{"key":"w0-9","event":"delivered","time":"2024-10-04T08:00:00.000Z","campaign":"c1","source":"s1"}\n'
    ),
    "another event": line(4).replace(b'"delivered"', b'"deferred"'),
    "torn": line(5)[:200] + b"\n",
    "a reply that looks like an event": line(6).replace(
        b"2.0.0 Ok", rb"\",\"event\":\"delivered\",\"time\":\"2024-10-04"
    ),
}


@pytest.mark.parametrize("name", ["none", *ODD])
def test_slices_count_as_lines_do(store: Environment, name: str) -> None:
    octets = b"".join(line(number) for number in range(40)) + ODD.get(name, b"") + line(41)
    fast, slow = Rates(store, CONFIG, TODAY), Rates(store, CONFIG, TODAY)
    assert made.Slices(fast).lines("w0", octets, 0) == []
    slow.delivered([one for raw in Wanted({"delivered"}).lines("w0", octets, 0) if (one := decode(raw.raw))])
    assert fast.window() == slow.window()
    assert fast.window()["all", ""][0] >= 41
    assert fast.provider_of("far.example")


def test_the_usual_slice_needs_no_line(store: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "decode", None)
    rates = Rates(store, CONFIG, TODAY)
    made.Slices(rates).lines("w0", b"".join(line(number) for number in range(10)) + ODD["more fields"], 0)
    assert rates.window()["all", ""] == (11, 0)
