"""The metrics slab: series, growth under readers, a worker that comes back, bounds and damage."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay._core.slab import CAPACITY, Slab, SlabError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slab.0"


def values(slab: Slab) -> dict[tuple[str, tuple[tuple[str, str], ...]], object]:
    return {(name, labels): value for _, name, labels, value in slab.entries()}


def test_counters_gauges_and_histograms_are_seen_by_a_reader(path: Path) -> None:
    writer = Slab(path, create=True)
    reader = Slab(path, writable=False)
    counter = writer.counter("a_total", outcome="delivered", provider="google")
    gauge = writer.gauge("b")
    histogram = writer.histogram("c_seconds", (0.1, 1))
    writer.inc(counter)
    writer.inc(counter, 2.5)
    writer.set(gauge, 7)
    writer.inc(gauge, -3)
    for value in (0.05, 0.1, 0.5, 100):
        writer.observe(histogram, value)
    assert reader.entries() == [
        ("counter", "a_total", (("outcome", "delivered"), ("provider", "google")), 3.5),
        ("gauge", "b", (), 4.0),
        ("histogram", "c_seconds", (), (pytest.approx(100.65), (0.1, 1.0, math.inf), [2.0, 1.0, 1.0])),
    ]
    writer.inc(writer.counter("d_total"))
    assert reader.entries()[-1] == ("counter", "d_total", (), 1.0)


def test_the_order_of_labels_does_not_matter(path: Path) -> None:
    slab = Slab(path, create=True)
    assert slab.counter("a_total", x="1", y="2") == slab.counter("a_total", y="2", x="1")
    assert slab.counter("a_total", x="2", y="1") != slab.counter("a_total", x="1", y="2")


def test_a_new_worker_goes_on_counting_and_its_gauges_start_at_0(path: Path) -> None:
    first = Slab(path, create=True)
    first.inc(first.counter("a_total"), 10)
    first.set(first.gauge("g", reason="dns"), 5)
    first.observe(first.histogram("h", (1, 2)), 1.5)
    del first
    second = Slab(path)
    second.reset_gauges()
    second.inc(second.counter("a_total"))
    second.observe(second.histogram("h", (1, 2)), 1.5)
    assert values(second) == {
        ("a_total", ()): 11.0,
        ("g", (("reason", "dns"),)): 0.0,
        ("h", ()): (3.0, (1.0, 2.0, math.inf), [0.0, 2.0, 0.0]),
    }


def test_changed_buckets_are_a_new_series(path: Path) -> None:
    slab = Slab(path, create=True)
    assert slab.histogram("h", (1, 2)) != slab.histogram("h", (1, 3))


@pytest.mark.parametrize("buckets", [(), (2, 1), (1, 1)])
def test_impossible_buckets_are_refused(path: Path, buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising"):
        Slab(path, create=True).histogram("h", buckets)


@given(st.lists(st.floats(), max_size=60), st.sets(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_observations_against_an_oracle(observed: list[float], bounds: set[float]) -> None:
    path = f"/dev/shm/test_slab.{os.getpid()}"
    try:
        slab = Slab(path, create=True, capacity=100, text_bytes=4096)
        rising = sorted(bounds)
        entry = slab.histogram("h", rising)
        for value in observed:
            slab.observe(entry, value)
        _, _, _, (total, _, counts) = slab.entries()[0]
    finally:
        os.unlink(path)
    finite = [value for value in observed if math.isfinite(value)]
    below = [sum(value <= bound for value in finite) for bound in (*rising, math.inf)]
    assert [sum(counts[: n + 1]) for n in range(len(counts))] == below
    expected = 0.0
    for value in finite:
        expected += value
    assert total == expected or (math.isinf(expected) or math.isnan(expected))


def test_a_full_file_counts_in_other(path: Path) -> None:
    slab = Slab(path, create=True, capacity=64, text_bytes=1 << 16)
    for number in range(200):
        slab.inc(slab.counter("a_total", source=f"s{number}"))
    assert len(slab) <= 64
    assert slab.overflows > 0
    found = values(slab)
    assert found["a_total", (("source", "other"),)] == slab.overflows
    assert sum(found.values()) == 200


def test_full_text_counts_in_other(path: Path) -> None:
    slab = Slab(path, create=True, capacity=1000, text_bytes=2048)
    for number in range(200):
        slab.inc(slab.counter("a_total", source=f"s{number}"))
    assert sum(values(slab).values()) == 200
    assert slab.overflows > 0


def test_past_every_bound_nothing_breaks(path: Path) -> None:
    slab = Slab(path, create=True, capacity=8, text_bytes=4096)
    for number in range(50):
        slab.inc(slab.counter(f"a{number}_total"))
        slab.observe(slab.histogram(f"h{number}", (1, 2, 3)), 1)
    assert len(slab) <= 8
    slab.inc(CAPACITY * 2)
    slab.observe(CAPACITY * 2, 1)
    slab.set(0xFFFFFFFF, 1)
    assert slab.value(0xFFFFFFFF) == 0


def test_a_long_label_value_is_cut(path: Path) -> None:
    slab = Slab(path, create=True)
    slab.counter("a_total", source="x" * 100_000)
    ((_, _, labels, _),) = slab.entries()
    assert labels == (("source", "x" * 200),)


def test_observing_what_is_no_histogram_does_nothing(path: Path) -> None:
    slab = Slab(path, create=True)
    counter = slab.counter("a_total")
    slab.observe(counter, 5)
    assert slab.value(counter) == 0


def test_a_reader_does_not_write(path: Path) -> None:
    writer = Slab(path, create=True)
    entry = writer.counter("a_total")
    reader = Slab(path, writable=False)
    reader.inc(entry)
    reader.set(entry, 9)
    reader.reset_gauges()
    assert reader.counter("a_total") == entry
    with pytest.raises(SlabError, match="open for reading"):
        reader.counter("b_total")
    assert writer.value(entry) == 0


@pytest.mark.parametrize(
    "damage", [b"", b"short", b"\0" * 5000, b"FRSLAB\n\0" + b"\xff" * 6000, b"FRSLAB\n\0\x01\0\0\0" + b"\xff" * 6000]
)
def test_a_damaged_file_is_told_and_made_anew_by_create(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(SlabError, match=r"slab\.0"):
        Slab(path)
    slab = Slab(path, create=True)
    slab.inc(slab.counter("a_total"))
    assert values(Slab(path)) == {("a_total", ()): 1.0}


def test_torn_keys_are_passed_over(path: Path) -> None:
    """After a power cut a key may be zeros where its entry is not."""
    slab = Slab(path, create=True)
    slab.inc(slab.counter("a_total"))
    slab.inc(slab.counter("b_total"))
    raw = bytearray(path.read_bytes())
    at = raw.index(b'["a_total"')
    raw[at : at + 10] = bytes(10)
    path.write_bytes(raw)
    assert values(Slab(path)) == {("b_total", ()): 1.0}


@given(st.binary(max_size=600), st.integers(0, 5000))
def test_random_damage_never_crashes(junk: bytes, at: int) -> None:
    path = f"/dev/shm/test_slab_damage.{os.getpid()}"
    try:
        slab = Slab(path, create=True, capacity=60, text_bytes=2048)
        for number in range(5):
            slab.inc(slab.counter("a_total", n=str(number)))
            slab.observe(slab.histogram("h", (1, 2), n=str(number)), 1)
        del slab
        with open(path, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(at)
            file.write(junk[: max(0, size - at)])
        damaged = Slab(path, create=True)
        damaged.entries()
        damaged.reset_gauges()
        damaged.observe(damaged.histogram("h", (1, 2), n="3"), 5)
        damaged.inc(damaged.counter("a_total", n="3"))
    finally:
        os.unlink(path)


GROWER = """
import sys
from fastrelay._core.slab import Slab
slab = Slab(sys.argv[1])
for n in range(3000):
    slab.inc(slab.counter("a_total", n=str(n)), n + 1)
    slab.observe(slab.histogram("h", (1, 2), n=str(n)), 1)
"""


def test_a_reader_beside_a_growing_writer_sees_whole_entries(path: Path) -> None:
    Slab(path, create=True)
    reader = Slab(path, writable=False)
    writer = subprocess.Popen([sys.executable, "-c", GROWER, str(path)])
    rounds = 0
    while writer.poll() is None or rounds < 2:
        rounds += 1
        for kind, name, labels, value in reader.entries():
            number = int(dict(labels)["n"])
            if kind == "counter":
                assert name == "a_total"
                assert value in (0.0, number + 1)
            else:
                assert value[1] == (1.0, 2.0, math.inf)
    assert writer.returncode == 0
    assert len(reader.entries()) == 6000


def test_a_killed_writer_leaves_a_file_that_goes_on(path: Path) -> None:
    Slab(path, create=True)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", GROWER, str(path)])
        before = len(Slab(path, writable=False))
        while writer.poll() is None and len(Slab(path, writable=False)) < before + 50:
            pass
        writer.kill()
        writer.wait()
        slab = Slab(path)
        for _, _, labels, value in slab.entries():
            assert isinstance(value, tuple) or value % (int(dict(labels)["n"]) + 1) == 0
