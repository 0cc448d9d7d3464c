"""How many bounce messages a core reads in a second. Prints figures; asserts nothing.

    python benchmarks/bench_bounce.py [SECONDS]

The samples of the tests (tests/support/bounces.py), each with a copy of our message of 10 KiB behind it, by how they
are read: machine-readable reports, formats of text, what is no bounce. CPU time of the process, with classification.
Then what the worst messages cost, once each: a million recipients, a header, parts and levels without end, a long text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import tools  # noqa: F401  (puts tests/ on the path)
from support.bounces import COPY, SAMPLES

from fastrelay.feedback.bounce import parse_bounce
from fastrelay.feedback.classes import built_in_classes

LINE = "Some words about tulips and their bulbs, and how deep to plant them.\n"


def measure(name: str, messages: Sequence[bytes], seconds: float) -> None:
    for message in messages:
        parse_bounce(message)
    count, begin = 0, time.process_time()
    while (taken := time.process_time() - begin) < seconds:
        for message in messages:
            parse_bounce(message)
        count += len(messages)
    size = sum(map(len, messages)) / len(messages) / 1024
    print(
        f"{name:<24}{len(messages):>5} messages of {size:5.1f} KiB{count / taken:>10,.0f}/s"
        f"{taken / count * 1e6:>9.0f} µs"
    )


HEAD = b"From: MAILER-DAEMON@far.example\nSubject: Undelivered Mail Returned to Sender\n"
REPORT = HEAD + b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n"
LARGE = 10 << 20


def worst_messages() -> dict[str, bytes]:
    recipient = b"Final-Recipient: rfc822;r%07d@far.example\nAction: failed\nStatus: 5.1.1\n\n"
    level = b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n"
    return {
        "a million recipients": REPORT + b"".join(recipient % number for number in range(1_000_000)),
        "no line is a field": REPORT + b"> \n" * (LARGE // 3),
        "a header of 10 MiB": HEAD + b"X-A: b\n" * (LARGE // 7),
        "parts in 10 MiB": HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * (LARGE // 7),
        "a thousand levels": HEAD + b"".join(level % (number, number) for number in range(1000)),
        "addresses in 10 MiB": HEAD + b"\n" + b"<a@far.example>: 550 5.1.1 unknown\n" * (LARGE // 35),
        "HTML in 10 MiB": HEAD + b"Content-Type: text/html\n\n" + b"<style><p><" * (LARGE // 11),
    }


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    copy = (COPY + "\nHello\n" + LINE * 150).encode()
    whole = {name: sample[0].replace(COPY.encode(), copy) for name, sample in SAMPLES.items()}
    reports = [message for message in whole.values() if b"multipart/report" in message]
    texts = [whole[name] for name, sample in SAMPLES.items() if sample[2] and b"multipart/report" not in sample[0]]
    others = [whole[name] for name, sample in SAMPLES.items() if not sample[2]]
    measure("reports (RFC 3464)", reports, seconds)
    measure("formats of text", texts, seconds)
    measure("no bounces", others, seconds)
    measure("all", list(whole.values()), seconds)
    for name, message in worst_messages().items():
        begin = time.process_time()
        parse_bounce(message)
        print(f"{name:<24}{len(message) / (1 << 20):>21.1f} MiB{(time.process_time() - begin) * 1e3:>19.0f} ms")
    classes, count, begin = built_in_classes(), 0, time.process_time()
    while (taken := time.process_time() - begin) < seconds:
        classes.classify(
            550, "5.1.1", b"5.1.1 <reader%d@far.example>: Recipient address rejected: User unknown" % count
        )
        count += 1
    print(f"{'class of a new text':<24}{count / taken:>38,.0f}/s{taken / count * 1e6:>9.1f} µs")


if __name__ == "__main__":
    main()
