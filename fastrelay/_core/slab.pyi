import os
from collections.abc import Iterable
from typing import Literal

CAPACITY: int
TEXT_BYTES: int
KINDS: dict[int, str]

class SlabError(Exception):
    path: str
    why: str
    def __init__(self, path: str, why: str) -> None: ...

class Slab:
    path: str
    writable: bool
    overflows: int
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        writable: bool = True,
        capacity: int = ...,
        text_bytes: int = ...,
    ) -> None: ...
    def __len__(self) -> int: ...
    def counter(self, name: str, /, **labels: str) -> int: ...
    def gauge(self, name: str, /, **labels: str) -> int: ...
    def histogram(self, name: str, buckets: Iterable[float], /, **labels: str) -> int: ...
    def inc(self, entry: int, n: float = 1) -> None: ...
    def set(self, entry: int, value: float) -> None: ...
    def value(self, entry: int) -> float: ...
    def observe(self, entry: int, value: float) -> None: ...
    def reset_gauges(self) -> None: ...
    def series(self, name: str) -> list[tuple[int, tuple[tuple[str, str], ...]]]: ...
    def entries(
        self,
    ) -> list[
        tuple[
            Literal["counter", "gauge", "histogram"],
            str,
            tuple[tuple[str, str], ...],
            float | tuple[float, tuple[float, ...], list[float]],
        ]
    ]: ...
