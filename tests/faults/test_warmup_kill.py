"""kill -9 in the middle of a warm-up day, again and again: never more than the cap reaches the other side.

A pool of one cold source and more mail than its cap. Workers, the supervisor and everything are killed at random
moments; once the shared table is lost as well, as with the power. What the sink sees written (RCPTs, retries of a cut
transaction included) is what counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from support.net import wait_until
from support.relay import RelayProcess
from support.sink import Session, Sink

CAP = 300
MAIL = 500
OUTSTANDING = CAP // 100  # what a worker may hold of the cap, unused, when it dies
WORKERS = 2
Maker = Callable[..., RelayProcess]


class Counted:
    """RCPTs that the sink was sent."""

    def __init__(self) -> None:
        self.written = 0

    def rcpt(self, session: Session, to: str) -> None:
        self.written += 1


def config_of(sink: Sink, **plan: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "sources": [{"name": "cold", "address": "127.0.0.35", "warmup": "slow"}],
        "pools": {"default": ["cold"]},
        "warmup": {"slow": {"stages": [CAP, 2 * CAP], "spread": "0s", "overflow": False, **plan}},
        "shaping": [{"rate": "100/s burst 5"}],  # slow enough to be killed in the midst of it
        "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
    }


def submit(relay: RelayProcess, count: int) -> None:
    with relay.client() as client:
        for number in range(count):
            client.sendmail("news@sender.example", [f"r{number}@d.example"], b"Subject: x\r\n\r\nhello\r\n")


def row(relay: RelayProcess) -> dict[str, Any]:
    found: dict[str, Any] = relay.control("warmup.status")["warmup"][0]
    return found


def day_is_over(relay: RelayProcess) -> bool:
    """All of the cap is claimed, and what is queued waits for the next day."""
    summary = relay.summary()
    waiting = summary["by_reason"].get("warmup_cap", 0)
    return bool(row(relay)["used"] >= CAP and summary["queued"] == waiting > 0 and not summary.get("loading"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("parts", [("worker", "all", "supervisor"), ("all", "power", "worker")])
def test_never_more_than_the_cap(make_relay: Maker, parts: tuple[str, ...]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    counted = Counted()
    with Sink({"rcpt": counted.rcpt}) as sink:
        relay = make_relay(config_of(sink))
        submit(relay, MAIL)
        for part in parts:
            goal = min(counted.written + rng.randrange(10, 60), CAP - 20)
            wait_until(lambda goal=goal: counted.written >= goal, 60, f"{goal} recipients at the sink")
            relay.kill("all" if part == "power" else part, rng.randrange(WORKERS))
            if part == "power":
                (relay.state_dir / "table").unlink()
            if part != "worker":
                relay.start()
            assert counted.written <= CAP
        wait_until(lambda: day_is_over(relay), 120, "the day's cap to be used")
        assert CAP - len(parts) * WORKERS * OUTSTANDING <= counted.written <= CAP
        assert row(relay)["stage"] == 1
        relay.kill("all")
        relay.start()
        wait_until(lambda: day_is_over(relay), 60, "the queue to be read")
        assert counted.written <= CAP
        assert relay.summary()["queued"] > 0


def test_what_an_operator_does_lasts(make_relay: Maker) -> None:
    """set, hold and resume are on stable storage when they are answered, and workers follow at once."""
    counted = Counted()
    with Sink({"rcpt": counted.rcpt}) as sink:
        relay = make_relay(config_of(sink, stages=[20, 30, 40]))
        submit(relay, 50)
        wait_until(lambda: counted.written == 20, 60, "the first stage's cap")
        relay.cli("warmup", "set", "cold", "2")
        relay.kill("all")
        relay.start()
        assert row(relay)["cap"] == 30
        wait_until(lambda: counted.written >= 30 - 2, 60, "the second stage's cap")
        told = relay.cli("warmup", "hold", "cold", "--why", "holiday").stdout
        assert "cold is held, by an operator: holiday" in told
        relay.kill("supervisor")
        relay.start()
        assert (row(relay)["state"], row(relay)["why"]) == ("held", "holiday")
        assert "3 of 3" not in relay.cli("warmup", "status").stdout
        relay.cli("warmup", "resume", "cold")
        relay.cli("warmup", "set", "cold", "done")
        wait_until(lambda: not relay.summary()["queued"], 60, "the rest, without a cap")
        acts = [event["act"] for event in relay.events() if event["event"].startswith("warmup_")]
        assert acts == ["set", "held", "resumed", "set"]
        metrics = relay.control("metrics", {"names": ["fastrelay_warmup_stage"]})
        assert metrics["fastrelay_warmup_stage"] == [[["cold", "*"], 3.0]]


def test_a_lost_store_lifts_no_cap(make_relay: Maker) -> None:
    """A state that is gone keeps the last cap, and says so; nothing is unlimited."""
    counted = Counted()
    with Sink({"rcpt": counted.rcpt}) as sink:
        relay = make_relay(config_of(sink, stages=[20, 30, 40]))
        submit(relay, 60)
        wait_until(lambda: counted.written == 20, 60, "the cap")
        relay.stop()
        for file in (relay.state_dir / "control").iterdir():
            file.unlink()
        relay.start()
        assert row(relay)["cap"] == 20
        wait_until(lambda: relay.summary()["by_reason"].get("warmup_cap") == 40, 60, "the queue to wait")
        assert counted.written == 20
        assert "missing or damaged. It goes on with its last cap, 20" in relay.log_text()
