"""What it costs to tell the class of a reply: one that came before, one that differs in its recipient, a new one, a
hostile one; and what the rules cost to load. Prints figures; asserts nothing.

    python benchmarks/bench_classes.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from fastrelay.feedback.classes import ReplyClasses, built_in_replies

TEXT = b"5.1.1 <%s>: Recipient address rejected: User unknown in virtual mailbox table"
WORDS = b"mailbox full user is not over quota unknown host rejected spam due to policy message too large".split()


def microseconds(act: Callable[[int], object], rounds: int) -> float:
    """Of processor time, for one of `rounds` calls."""
    began = time.thread_time()
    for number in range(rounds):
        act(number)
    return (time.thread_time() - began) / rounds * 1e6


def main() -> None:
    began = time.thread_time()
    rules = built_in_replies()
    read = time.thread_time()
    classes = ReplyClasses(rules)
    classes.classify(550, "5.1.1", b"5.1.1 user unknown")
    made = time.thread_time()
    print(f"{len(rules)} rules: read in {1e3 * (read - began):.1f} ms, ready in {1e3 * (made - read):.1f} ms more")
    rng = random.Random(1)
    people = [b"user%d@example.com" % number for number in range(4000)]
    queued = [b"5.7.1 Message rejected as spam, id %x" % rng.getrandbits(64) for _ in people]
    hostile = [b" ".join(rng.choices(WORDS, k=400)) for _ in range(200)]
    noise = [rng.randbytes(2048) for _ in range(200)]
    cases: Sequence[tuple[str, Callable[[int], object], int]] = (
        ("the same text again", lambda n: classes.classify(550, "5.1.1", TEXT % b"a@b", "google"), 20000),
        ("the same but for its recipient", lambda n: classes.classify(
            550, "5.1.1", TEXT % people[n], "other", people[n]), 4000),
        ("new: another address in it", lambda n: classes.classify(550, "5.1.1", TEXT % people[n], "yahoo"), 4000),
        ("new: another queue id in it", lambda n: classes.classify(550, "5.7.1", queued[n]), 4000),
        ("new: words in disorder, 1 KiB", lambda n: classes.classify(550, "", hostile[n]), 200),
        ("new: noise, 1 KiB", lambda n: classes.classify(550, "", noise[n]), 200),
    )  # fmt: skip
    for words, act, rounds in cases:
        print(f"{words:34} {microseconds(act, rounds):8.2f} us")


if __name__ == "__main__":
    main()
