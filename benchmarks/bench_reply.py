"""The reply parser against a slow, obvious one in plain Python (the oracle of its tests).

Prints figures; asserts nothing.

python benchmarks/bench_reply.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import tools  # noqa: F401  (makes tests/support importable)
from support.dialogue import read_replies_slowly

from fastrelay._core.reply import ReplyParser

SAME = b"250 2.1.5 Recipient ok\r\n" * 100
DIFFERENT = b"".join(b"250 2.0.0 Ok: queued as 4BqXyZ%04d\r\n" % i for i in range(100))
MULTILINE = b"250-mx.example at your service\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n250 CHUNKING\r\n" * 100
REFUSALS = (
    b"550-5.1.1 The email account that you tried to reach does not exist. Please try\r\n"
    b"550-5.1.1 double-checking the recipient's email address for typos or\r\n550 5.1.1 unnecessary spaces.\r\n"
) * 100


def best(act: Callable[[], object], seconds: float = 0.5) -> float:
    """Seconds, the best of several runs."""
    fastest = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        act()
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest


def main() -> None:
    parser = ReplyParser()
    for name, octets in (
        ("one line, seen before", SAME),
        ("one line, new", DIFFERENT),
        ("4 lines", MULTILINE),
        ("refusal, 3 lines", REFUSALS),
    ):
        fast = best(lambda octets=octets: parser.feed(octets)) / 100
        slow = best(lambda octets=octets: read_replies_slowly(octets)) / 100
        print(f"{name:22s} {fast * 1e9:7.0f} ns a reply   plain Python {slow * 1e9:7.0f} ns   {slow / fast:5.1f} times")
    refusal = parser.feed(REFUSALS)[0]
    print(f"text_for_log           {best(refusal.text_for_log) * 1e9:7.0f} ns")
    print(f"enhanced               {best(lambda: refusal.enhanced) * 1e9:7.0f} ns")


if __name__ == "__main__":
    main()
