"""Message records: the compiled layout against the same in plain Python (struct), writing and reading back.

Prints nanoseconds a record and the ratio; asserts that both say the same, and no time.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from fastrelay._core.record import Record, encode_record

HEAD = struct.Struct("<BBHIIIQQqIIHHBBBBBBH")
ROUNDS = 100_000
PREFIX = b"Received: from app.example ([127.0.0.1])\r\n\tby mta1.news.example with ESMTP id abcdef-1\r\n" + b"x" * 60
FIELDS = (b"news@sender.example", b"", b"spring", b"acme", b"default", b"127.0.0.1", b"app.example", PREFIX)


def encode_plain(accepted_ms: int, fields: tuple[bytes, ...], recipients: list[bytes]) -> bytes:
    reverse, mail, campaign, tenant, pool, client, helo, prefix = fields
    fixed = HEAD.size + sum(map(len, fields))
    head = HEAD.pack(
        1, 0, 0, len(recipients), 0, 0, 0, 0, accepted_ms, fixed, len(prefix), len(reverse), len(mail),
        len(campaign), len(tenant), len(pool), 0, len(client), 0, len(helo),
    )  # fmt: skip
    parts = [head, *fields]
    for address in recipients:
        parts += [struct.pack("<H", len(address)), address, b"\0\0"]
    return b"".join(parts)


def read_plain(raw: bytes) -> tuple[bytes, bytes, list[bytes]]:
    head = HEAD.unpack_from(raw)
    count, fixed, prefix_length, reverse_length = head[3], head[9], head[10], head[11]
    at, recipients = fixed, []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", raw, at)
        recipients.append(raw[at + 2 : at + 2 + length])
        (parameters,) = struct.unpack_from("<H", raw, at + 2 + length)
        at += 4 + length + parameters
    return raw[HEAD.size : HEAD.size + reverse_length], raw[fixed - prefix_length : fixed], recipients


def read_compiled(raw: bytes) -> tuple[bytes, bytes, list[bytes]]:
    record = Record(raw)
    return record.reverse_path, record.prefix, [address for address, _ in record.recipients()]


def nanoseconds(work: Callable[[], object], rounds: int) -> float:
    """The best of five, for each call."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, time.perf_counter() - began)
    return best / rounds * 1e9


def compare(count: int) -> None:
    recipients = [b"user%d@example%d.test" % (n, n) for n in range(count)]
    rounds = max(1000, ROUNDS // count)

    def compiled() -> bytes:
        return encode_record(1, 0, 0, *FIELDS, recipients, None)

    raw = compiled()
    assert raw == encode_plain(1, FIELDS, recipients)
    assert read_compiled(raw) == read_plain(raw)
    encoding = nanoseconds(compiled, rounds), nanoseconds(lambda: encode_plain(1, FIELDS, recipients), rounds)
    reading = nanoseconds(lambda: read_compiled(raw), rounds), nanoseconds(lambda: read_plain(raw), rounds)
    for what, (ours, plain) in (("encode", encoding), ("read", reading)):
        times = plain / ours
        print(f"{what:8} {count:4} recipients  {ours:9.0f} ns  plain Python {plain:9.0f} ns  ratio {times:5.1f}")


def main() -> None:
    compare(1)
    compare(100)


if __name__ == "__main__":
    main()
