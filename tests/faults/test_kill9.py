"""kill -9 of a worker, of the supervisor alone and of everything, at random points under load.

What the source was told is accepted must reach the sink; what reaches it twice must be flagged `possible_duplicate`
in the event log; what was refused must not reach it. Six rounds normally, fifty with --long. A kill leaves the
page cache, so nothing here proves an fsync (tests/faults/test_spool_* do).
"""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.net import free_endpoint, wait_until
from support.relay import RelayProcess, alive
from support.sink import HANG, Sink

NEVER, ACCEPTED, REFUSED, UNKNOWN = range(4)
MESSAGES = 2500
CONNECTIONS = 10
PARTS = ("worker", "supervisor", "all")
Maker = Callable[..., RelayProcess]


def round_of_kill(relay: RelayProcess, load_tools: Any, part: str, rng: random.Random, base: int, path: Path) -> bytes:
    """Load the relay, kill the part at a random moment, start again what is gone, and drain; the source's account."""
    source = load_tools.start_source(
        "-c", relay.endpoint, "-s", "20", "-n", str(MESSAGES), "-b", str(base), "-l", str(rng.choice((2000, 10_000))),
        "-d", "7", "-k", "-t", "60", "-a", str(path), "-R", "2500",
    )
    before = relay.summary()["delivered"]
    wait_until(lambda: relay.summary()["delivered"] > before + rng.randrange(MESSAGES * 3 // 4), 60, "some deliveries")
    victims = relay.kill(part, rng.randrange(2))
    assert victims, "nothing was there to kill"
    if part != "worker":
        relay.start()
    load_tools.finish_source(source, 180)
    relay.wait_drained(120)
    return path.read_bytes()


def bench_id(event: dict[str, Any]) -> int:
    return int(event["reverse_path"].partition("@")[0].removeprefix("news-"))


def assert_exact(told: bytes, counted: bytes, relay: RelayProcess, kills: int) -> None:
    """Promises 1 to 3, by the source's account, the sink's and the event log."""
    lost = [number for number, fate in enumerate(told) if fate == ACCEPTED and not counted[number]]
    assert not lost, f"{len(lost)} acknowledged messages were lost: {lost[:10]}"
    leaked = [number for number, fate in enumerate(told) if fate in (REFUSED, NEVER) and counted[number]]
    assert not leaked, f"{len(leaked)} refused messages were delivered: {leaked[:10]}"
    events = {event["key"]: event for event in relay.events()}
    flagged = {bench_id(event) for event in events.values() if event.get("possible_duplicate")}
    repeated = {number for number in range(len(told)) if counted[number] > 1}
    assert repeated <= flagged, f"repeated without a flag: {sorted(repeated - flagged)[:10]}"
    assert len(flagged) <= kills * 2 * CONNECTIONS * 7, "more is flagged than can have been in flight"
    delivered = Counter(bench_id(event) for event in events.values() if event["event"] == "delivered")
    assert {number for number in range(len(told)) if counted[number]} == set(delivered)
    assert set(delivered.values()) == {1}, "a recipient has two fates"
    accepted = Counter(bench_id(event) for event in events.values() if event["event"] == "accepted")
    assert set(accepted) == set(delivered)
    summary = relay.assert_balanced()
    assert summary["delivered"] == summary["accepted"] == len(delivered)


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost(make_relay: Maker, load_tools: Any, tmp_path: Path, long_run: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    rounds = 51 if long_run else 6
    where = free_endpoint()
    options = ("-V", "-d", "10", "-M", str(rounds * MESSAGES))
    with load_tools.LoadSink(*options, listen=where, directory=tmp_path) as sink:
        relay = make_relay({
            "routes": [{"domains": ["*"], "hosts": [where]}],
            "delivery": {"allow_private_hosts": True, "connections_per_site": CONNECTIONS},
        })
        told = b""
        for number in range(rounds):
            part = PARTS[number % len(PARTS)]
            told += round_of_kill(relay, load_tools, part, rng, number * MESSAGES, tmp_path / "told")
        result = sink.stop()
    fates = Counter(told)
    words = ("never", "accepted", "refused", "unknown")
    told_as = ", ".join(f"{word} {fates[fate]}" for fate, word in enumerate(words))
    print(f"{told_as}; repeated {result['duplicates']}")
    assert not result["damaged"]
    assert fates[ACCEPTED] > rounds * MESSAGES // 3, "too little was accepted to prove anything"
    assert_exact(told, sink.account, relay, rounds)


def test_killed_worker_is_replaced(make_relay: Maker, load_tools: Any, tmp_path: Path) -> None:
    where = free_endpoint()
    with load_tools.LoadSink(listen=where, directory=tmp_path):
        relay = make_relay({"routes": [{"domains": ["*"], "hosts": [where]}]})
        before = relay.workers()
        assert len(before) == 2
        relay.kill("worker", 1)
        wait_until(lambda: relay.replaced(before), 60, "a new worker")
        status = relay.control("status")
        assert sum(worker["restarts"] for worker in status["workers"]) == 1
        report = load_tools.run_source("-c", relay.endpoint, "-s", "20", "-n", "500", "-k")
        assert report["accepted"] + report["unknown"] == 500
        relay.wait_drained()


def test_supervisor_takes_its_workers_along(make_relay: Maker) -> None:
    relay = make_relay()
    everything = relay.pids()
    relay.kill("supervisor")
    assert not any(alive(pid) for pid in everything)
    relay.start()
    assert relay.control("queue.audit")["ok"]


def bodies_in_hand(sink: Sink, wanted: int) -> bool:
    """Whether so many sessions have had a whole content."""
    return sum(bool(session.content) for session in sink.sessions) >= wanted


def test_message_in_hand_at_two_crashes_is_quarantined(make_relay: Maker) -> None:
    """Promise 5: what was in flight when the relay died twice in a row waits for an operator."""
    hanging = True
    with Sink({"final": lambda session, content: HANG if hanging else None}) as sink:
        relay = make_relay({"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]})
        relay.submit(b"Subject: poison\r\n\r\nx\r\n", ["r@d.example"])
        for attempt in (1, 2):
            in_hand = partial(bodies_in_hand, sink, attempt)
            wait_until(in_hand, 30, "its body")
            relay.kill("all")
            relay.start()
        listed = wait_until(lambda: relay.control("queue.quarantine")["messages"], 30, "the quarantine")
        assert isinstance(listed, list)
        assert len(listed) == 1
        summary = relay.assert_balanced()
        assert (summary["queued"], summary["by_reason"]["quarantined"]) == (1, 1)
        why = relay.control("queue.why", {"id": listed[0]["id"]})
        assert why["why"][0]["reason"] == "quarantined"
        hanging = False
        relay.control("queue.release", {"id": listed[0]["id"]})
        relay.wait_drained()
        delivered = [event for event in relay.events() if event["event"] == "delivered"]
        assert [event["recipient"] for event in delivered] == ["r@d.example"]
        assert delivered[0]["possible_duplicate"] is True
