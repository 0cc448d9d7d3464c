"""kill -9 in the middle of a warm-up day, of a whole relay: its cold address never sends more than the day's cap.

A worker is killed, then everything, then everything with the shared table lost, as after a power cut. What the far side
counts of the cold address stays within the cap, and it is nearly all used: each worker that was killed may lose what it
had reserved, one unit of so small a cap, and what it had in hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support.net import loopback_address, wait_until
from support.relay import RelayProcess
from support.sink import Session, Sink

CAP = 60
ROUNDS = ("worker", "all", "lost table", "worker")
BATCH = 25
Maker = Callable[..., RelayProcess]


class Counted:
    """RCPTs by the address they came from."""

    def __init__(self) -> None:
        self.by_peer: Counter[str] = Counter()

    def rcpt(self, session: Session, _words: str) -> str | None:
        self.by_peer[session.peer.rpartition(":")[0] or session.peer] += 1
        return None

    @property
    def total(self) -> int:
        return sum(self.by_peer.values())


def submit(relay: RelayProcess, count: int, base: int) -> None:
    """Messages of one recipient, over two sessions: both workers may get some."""
    for half in range(2):
        with relay.client() as client:
            for number in range(base + half, base + count, 2):
                client.sendmail("news@sender.example", [f"r{number}@d.example"], b"Subject: x\r\n\r\nhello\r\n")


def cut(relay: RelayProcess, how: str) -> None:
    """Kill, lose, start again."""
    if how == "worker":
        before = relay.workers()
        relay.kill("worker", 0)
        wait_until(lambda before=before: relay.replaced(before), 60, "a new worker")
        return
    relay.kill("all")
    if how == "lost table":
        (relay.state_dir / "table").unlink()
    relay.start()


@pytest.mark.timeout(600)
def test_a_day_with_kills_stays_within_its_cap(make_relay: Maker) -> None:
    cold, warm = loopback_address(), loopback_address()
    counted = Counted()
    with Sink({"rcpt": counted.rcpt}) as sink:
        config: dict[str, Any] = {
            "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
            "sources": [{"name": "cold", "address": cold, "warmup": "slow"}, {"name": "warm", "address": warm}],
            "pools": {"default": ["cold", "warm"]},
            "warmup": {"slow": {"stages": [CAP, 10 * CAP], "spread": 0}},
        }
        relay = make_relay(config)
        sent = 0
        for how in ROUNDS:
            before = counted.total
            submit(relay, BATCH, sent)
            sent += BATCH
            wait_until(lambda before=before: counted.total >= before + BATCH // 3, 60, "some deliveries")
            cut(relay, how)
        submit(relay, BATCH, sent)
        sent += BATCH
        relay.wait_drained(120)
        assert counted.by_peer[cold] <= CAP
        assert counted.by_peer[cold] >= CAP - len(ROUNDS) * 2 - BATCH // 2
        assert counted.by_peer[warm] >= sent - CAP
        assert counted.total >= sent
        relay.assert_balanced()
