"""Dot-stuffing and unstuffing against memcpy and against plain Python. Prints figures; asserts nothing.

    python benchmarks/bench_stuffing.py [MIB]

Text: lines of 20 to 78 octets. "dotted" has a dot at the start of one line in twenty.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

from fastrelay._core.stuffing import Stuffer, Unstuffer, stuff

CHUNK = 256 * 1024


def text(octets: int, dotted: bool) -> bytes:
    chance = random.Random(1)
    lines = []
    size = 0
    while size < octets:
        line = b"newsletter text, some of it. " * 3
        line = line[: chance.randrange(20, 79)] + b"\r\n"
        if dotted and chance.random() < 0.05:
            line = b"." + line
        lines.append(line)
        size += len(line)
    return b"".join(lines)


def best(act: Callable[[], object], octets: int, seconds: float = 0.5) -> float:
    """GB/s, the best of several runs."""
    fastest = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        act()
        fastest = min(fastest, time.perf_counter() - begun)
    return octets / fastest / 1e9


def stuff_in_python(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]


def unstuff_in_python(wire: bytes) -> tuple[bytes, bool, int]:
    raw = wire[: wire.index(b"\r\n.\r\n") + 2]
    content = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n")[2:]
    bare = content.count(b"\r\n") != content.count(b"\n") or content.count(b"\r\n") != content.count(b"\r")
    return content, bare or not content.isascii() or b"\0" in content, max(map(len, content.split(b"\r\n")))


def unstuff(wire: bytes) -> bytes:
    unstuffer = Unstuffer()
    view = memoryview(wire)
    parts = []
    for at in range(0, len(wire), CHUNK):
        unstuffer.feed(view[at : at + CHUNK])
        parts.append(unstuffer.take())
    return parts[0] if len(parts) == 1 else b""


def stuff_chunks(content: bytes) -> None:
    stuffer = Stuffer()
    view = memoryview(content)
    for at in range(0, len(content), CHUNK):
        stuffer.feed(view[at : at + CHUNK])


def main() -> None:
    mib = float(sys.argv[1]) if len(sys.argv) > 1 else 16
    for name, octets in (("10 KB", 10240), (f"{mib:g} MiB", int(mib * 2**20))):
        for dotted in (False, True):
            content = text(octets, dotted)
            wire = stuff(content) + b".\r\n"
            size = len(content)
            target = bytearray(size)
            copy = best(lambda content=content, target=target: target.__setitem__(slice(None), content), size)
            print(f"{name}, {'dotted' if dotted else 'plain'}: memcpy {copy:.2f} GB/s")
            for label, act in (
                ("stuff", lambda content=content: stuff(content)),
                ("stuff, 256 KiB chunks", lambda content=content: stuff_chunks(content)),
                ("stuff, plain Python", lambda content=content: stuff_in_python(content)),
                ("unstuff with facts", lambda wire=wire: unstuff(wire)),
                ("unstuff, plain Python", lambda wire=wire: unstuff_in_python(wire)),
            ):
                rate = best(act, size)
                print(f"  {label:24s} {rate:7.2f} GB/s  {rate / copy:5.2f} of memcpy")


if __name__ == "__main__":
    main()
