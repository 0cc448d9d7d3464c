"""The metrics slab against prometheus-client, and what a scrape costs. Prints figures; asserts nothing.

python benchmarks/bench_slab.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["PROMETHEUS_DISABLE_CREATED_SERIES"] = "true"

from prometheus_client import CollectorRegistry, Counter, Histogram

from fastrelay._core.slab import Slab
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts, SlabCollector, registry, render

CALLS = 300_000


def per_call(act: Callable[[], object], calls: int = CALLS) -> float:
    """ns, the best of three."""
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter_ns()
        for _ in range(calls):
            act()
        best = min(best, (time.perf_counter_ns() - begun) / calls)
    return best


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        slab = Slab(Path(folder) / "slab.0", create=True)
        counter = names.OUTCOMES_TOTAL.entry(slab, outcome="delivered", provider="google", source="a")
        histogram = names.TRANSACTION_SECONDS.entry(slab, provider="google")
        theirs = CollectorRegistry()
        child = Counter("a", "A.", ["outcome", "provider", "source"], registry=theirs).labels(
            "delivered", "google", "a"
        )
        their_histogram = Histogram("b", "B.", ["p"], buckets=names.SECONDS_TRANSACTION, registry=theirs).labels(
            "google"
        )
        print("ns a call from Python          slab   prometheus-client (one process, no file)")
        print(f"  count                    {per_call(lambda: slab.inc(counter)):8.0f}{per_call(child.inc):8.0f}")
        print(
            f"  observe, 16 buckets      {per_call(lambda: slab.observe(histogram, 0.3)):8.0f}"
            f"{per_call(lambda: their_histogram.observe(0.3)):8.0f}"
        )
        find = per_call(
            lambda: names.OUTCOMES_TOTAL.entry(slab, outcome="delivered", provider="google", source="a"), 20_000
        )
        print(f"  find a series by labels  {find:8.0f}")
        scrapes(Path(folder))


def scrapes(folder: Path) -> None:
    """The cross product of 250 sources × 30 providers × 6 outcomes, in two slabs."""
    slabs = [Slab(folder / f"big.{slot}", create=True) for slot in range(2)]
    for source in range(250):
        for provider in range(30):
            for outcome in names.OUTCOMES:
                labels = {"outcome": outcome, "provider": f"p{provider}", "source": f"s{source}"}
                for slab in slabs:
                    slab.inc(names.OUTCOMES_TOTAL.entry(slab, **labels))
    made = registry(SlabCollector(lambda: [(slab, True) for slab in slabs], Facts))
    render(made)
    begun = time.perf_counter()
    text = render(made)
    print(
        f"scrape of 2 slabs of {len(slabs[0]):,} entries: {time.perf_counter() - begun:.2f} s, {len(text) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
