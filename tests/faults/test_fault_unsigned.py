"""A DKIM key that comes and goes while parts of the relay are killed: what is delivered is signed, and nothing is lost.

Each round mail is submitted without the key and with it, and something is killed at a random moment. A relay whose key
is missing does not start (a worker alone does), so after a kill of everything the key is put back first. Four rounds
normally, twenty with --long.
"""

from __future__ import annotations

import random
import re
import smtplib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.dkim_keys import key_file, pem, records_of, rsa_key, signer_for, verdicts
from support.net import free_endpoint, wait_until
from support.relay import RelayProcess
from support.sink import Sink

from fastrelay.config.security import Dkim, DkimKey

Maker = Callable[..., RelayProcess]
MESSAGES = 40  # of a round
PARTS = ("worker", "all")


class Key:
    """The file of the key, which comes and goes; a rename, so that nobody reads half of it."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(key_file(folder, "s1.pem", rsa_key()))
        self.dkim = Dkim(keys=[DkimKey(domain="news.example", selector="s1", key=str(self.path))])
        self.records = records_of(signer_for(self.dkim))

    def take(self) -> None:
        self.path.unlink(missing_ok=True)

    def put(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(pem(rsa_key()))
        fresh.rename(self.path)


def submit(relay: RelayProcess, numbers: list[int], accepted: set[int]) -> None:
    """As many as the relay takes; it may be killed in between."""
    try:
        with relay.client() as client:
            for number in numbers:
                content = b"From: News <a@news.example>\r\nX-Number: %d\r\n\r\nhello\r\n" % number
                client.sendmail("r@news.example", [f"u{number}@d.example"], content)
                accepted.add(number)
    except (OSError, smtplib.SMTPException):
        return


@pytest.mark.timeout(900)
def test_none_leaves_unsigned_and_none_is_lost(make_relay: Maker, tmp_path: Path, long_run: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    key, accepted = Key(tmp_path), set[int]()
    where = free_endpoint()
    host, _, port = where.rpartition(":")
    with Sink(host=host, port=int(port)) as sink:
        relay = make_relay({
            "routes": [{"domains": ["*"], "hosts": [where]}],
            "dkim": {"keys": [{"domain": "news.example", "selector": "s1", "key": str(key.path)}]},
        })  # fmt: skip
        for number in range(20 if long_run else 4):
            one_round(relay, key, rng, PARTS[number % 2], number * MESSAGES, accepted)
        key.put()
        relay.wait_drained(120)
        relay.assert_balanced()
    got = Counter(
        int(found[1]) for one in sink.messages if (found := re.search(rb"\r\nX-Number: (\d+)\r\n", one.content))
    )
    assert sum(got.values()) == len(sink.messages)
    assert accepted <= set(got), f"acknowledged and lost: {sorted(accepted - set(got))}"
    unsigned = [one.recipients for one in sink.messages if verdicts(one.content, key.records, 1) != [True]]
    assert not unsigned
    assert_flagged(relay, got)


def one_round(relay: RelayProcess, key: Key, rng: random.Random, part: str, base: int, accepted: set[int]) -> None:
    key.take()
    waits_for(relay, "no_dkim_key", base, accepted)
    submit(relay, list(range(base + 1, base + MESSAGES // 2)), accepted)
    before = relay.workers()
    if rng.random() < 0.5:  # else it is killed while it waits
        key.put()
        wait_until(lambda: relay.summary()["by_reason"].get("no_dkim_key", 0) < MESSAGES // 2 - 1, 60, "some to go")
    assert relay.kill(part, rng.randrange(2))
    if part == "worker":
        wait_until(lambda: relay.replaced(before), 60, "a new worker")
        relay.wait_ready()
        submit(relay, list(range(base + MESSAGES // 2, base + MESSAGES)), accepted)
        key.put()
    else:
        key.put()
        relay.start()
        submit(relay, list(range(base + MESSAGES // 2, base + MESSAGES)), accepted)
    relay.wait_drained(120)


def waits_for(relay: RelayProcess, reason: str, number: int, accepted: set[int]) -> None:
    """Submits until a message waits: workers look at the file every few seconds."""

    def waits() -> bool:
        submit(relay, [number], accepted)
        return bool(relay.summary()["by_reason"].get(reason))

    wait_until(waits, 60, "the relay to miss its key")


def assert_flagged(relay: RelayProcess, got: Counter[int]) -> None:
    """What came twice is flagged possible_duplicate; but for the first of each round, which was submitted several
    times."""
    events: dict[str, dict[str, Any]] = {event["key"]: event for event in relay.events()}
    flagged = {event["recipient"] for event in events.values() if event.get("possible_duplicate")}
    twice = {f"u{number}@d.example" for number, times in got.items() if times > 1 and number % MESSAGES}
    assert twice <= flagged
