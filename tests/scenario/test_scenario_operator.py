"""What an operator does to a running relay: suspend, flush, remove, reload, stop and start again."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from scenario.simulation import FATES, Simulation, fates, message, of_recipient, settled
from support.net import wait_until
from support.relay import RelayProcess

from fastrelay.sim.campaign import Campaign, Message, newsletters
from fastrelay.sim.mx import Behaviour
from fastrelay.sim.submit import Submission

MakeRelay = Callable[..., RelayProcess]


def ids(relay: RelayProcess) -> list[str]:
    return [row["id"] for row in relay.control("queue.list", {"limit": 1000})["messages"]]


def test_suspension_holds_and_survives_a_restart(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("hold.example")
    net.mx("go.example")
    relay = make_relay(net.relay_config())
    suspended = relay.control("queue.suspend", {"domain": "hold.example", "why": "their request"})
    assert suspended["suspension"]["id"]
    for number in range(10):
        relay.submit(message(number), [f"r{number}@hold.example", f"r{number}@go.example"])
    wait_until(lambda: relay.summary()["delivered"] == 10, what="the other domain's mail")
    relay.stop()
    relay.start()
    assert relay.summary()["queued"] == 10
    why = relay.control("queue.why", {"id": ids(relay)[0]})["why"]
    assert [each["reason"] for each in why] == ["suspended"]
    assert "their request" in why[0]["detail"]
    assert net.hosts["hold.example"].account.by_provider.get("hold.example") is None
    resumed = relay.control("queue.resume", {"domain": "hold.example"})
    assert resumed["matched"] >= 1
    settled(relay)
    assert net.account.by_provider == {"hold.example": 10, "go.example": 10}
    assert net.account.duplicates == 0


def test_suspending_by_campaign_and_dry_run(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config())
    relay.control("queue.suspend", {"campaign": "spring", "why": "wrong link"})
    for number, campaign in enumerate(("spring", "summer", "spring")):
        relay.submit(b"X-Fastrelay-Campaign: %b\r\n" % campaign.encode() + message(number), [f"r{number}@a.example"])
    wait_until(lambda: relay.summary()["delivered"] == 1, what="the campaign that goes on")
    tried = relay.control("queue.remove", {"campaign": "spring", "dry_run": True})
    assert tried["matched"] == 2
    assert relay.summary()["queued"] == 2
    assert relay.control("queue.remove", {"campaign": "spring"})["matched"] == 2
    summary = settled(relay)
    assert (summary["removed"], summary["delivered"]) == (2, 1)
    removed = [event for event in relay.events() if event["event"] == "removed"]
    assert {event["campaign"] for event in removed} == {"spring"}


def test_flush_sends_what_waits_for_a_retry(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("later.example", Behaviour(tempfail_permille=1000, tempfail_times=1))
    relay = make_relay(net.relay_config(retry={"first": "1h", "max": "1h"}))
    for number in range(5):
        relay.submit(message(number), [f"r{number}@later.example"])
    wait_until(lambda: relay.summary()["by_reason"].get("retry_backoff") == 5, what="five messages in back-off")
    assert relay.control("queue.flush", {"domain": "nothing.example"})["matched"] == 0
    assert relay.control("queue.flush", {"domain": "later.example"})["matched"] == 5
    assert settled(relay)["delivered"] == 5


def test_commands_without_a_selector_need_all(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config())
    for command in ("queue.flush", "queue.remove", "queue.suspend"):
        refused = False
        try:
            relay.control(command, {})
        except AssertionError:
            refused = True
        assert refused, command


def test_reload_changes_routes_and_keeps_the_old_configuration_on_error(net: Simulation, make_relay: MakeRelay) -> None:
    old, new = net.listen("old"), net.listen("new")

    def to(address: str) -> list[dict[str, Any]]:
        return [{"domains": ["*"], "hosts": [f"{address}:{net.port}"]}]

    relay = make_relay(net.relay_config(routes=to(old)))
    relay.submit(message(1), ["a@x.example"])
    settled(relay)
    relay.configure({"routes": to(new)})
    os.kill(relay.pid, signal.SIGHUP)
    number = 1

    def arrives_at_new() -> bool:
        nonlocal number
        number += 1
        relay.submit(message(number), ["a@x.example"])
        settled(relay)
        return net.account.by_provider.get("new", 0) > 0

    wait_until(arrives_at_new, what="the new route")
    good = relay.config_path.read_text()
    relay.config_path.write_text(good + "no_such_key: 1\n")
    os.kill(relay.pid, signal.SIGHUP)
    wait_until(lambda: "no_such_key" in relay.log_text(), what="the complaint in the log")
    before = net.account.by_provider["new"]
    relay.submit(message(1000), ["a@x.example"])
    settled(relay)
    assert net.account.by_provider["new"] == before + 1
    assert len(relay.workers()) == 2
    relay.config_path.write_text(good)


def test_stop_under_load_loses_and_repeats_nothing(net: Simulation, make_relay: MakeRelay) -> None:
    """SIGTERM in the middle of a campaign drains; the next start delivers the rest."""
    net.mx("a.example", Behaviour(latency_seconds=0.01))
    relay = make_relay(net.relay_config(workers=2))
    letter = newsletters()[0]
    messages = [Message(number, b"r%d@a.example" % number, letter) for number in range(1500)]
    submitted: list[Submission] = []
    submission = threading.Thread(target=lambda: submitted.append(net.submit(relay.smtp, messages)))
    submission.start()
    for _ in range(3):
        before = net.account.messages
        wait_until(lambda before=before: net.account.messages >= min(before + 200, 1500), what="some deliveries")
        assert relay.stop() == 0
        relay.start()
    submission.join(60)
    assert not submission.is_alive()
    settled(relay)
    verdict = net.account.verify([each.expected() for each in messages])
    assert not verdict.missing, verdict
    assert not verdict.altered, verdict
    finals = fates(relay.events())
    assert {len(kinds) for kinds in finals.values()} == {1}
    flagged = {event["recipient"].encode() for event in relay.events() if event.get("possible_duplicate")}
    handed_in_twice = {b"r%d@a.example" % number for number in submitted[0].doubtful}
    unexplained = {pair[1] for pair in verdict.repeated} - flagged - handed_in_twice
    assert not unexplained, "a recipient arrived twice, and nothing says it might have"


def test_account_balances_at_any_instant(net: Simulation, make_relay: MakeRelay) -> None:
    """Promise 2, asked for again and again while mail moves."""
    net.mx("a.example", Behaviour(tempfail_permille=200, permfail_permille=100))
    relay = make_relay(net.relay_config(workers=2))
    letter = newsletters()[0]
    messages = [Message(number, b"r%d@a.example" % number, letter) for number in range(2000)]
    submission = threading.Thread(target=lambda: net.submit(relay.smtp, messages))
    submission.start()
    try:
        asked = 0
        while submission.is_alive() or relay.summary()["queued"]:
            summary = relay.summary()
            total = summary["queued"] + sum(summary[fate] for fate in FATES)
            assert summary["accepted"] == total, f"after {asked} balanced ones: {summary}"
            asked += 1
    finally:
        submission.join(60)
    assert settled(relay)["delivered"] == len(net.account.arrivals)


def test_list_show_and_why_agree(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("later.example", Behaviour(tempfail_permille=1000, tempfail_times=10**6))
    relay = make_relay(net.relay_config(retry={"first": "1h", "max": "1h"}))
    relay.submit(b"X-Fastrelay-Campaign: c1\r\nX-Fastrelay-Tenant: t1\r\n" + message(1), ["a@later.example"])
    wait_until(lambda: relay.summary()["by_reason"].get("retry_backoff") == 1, what="the back-off")
    (row,) = relay.control("queue.list", {"campaign": "c1", "tenant": "t1"})["messages"]
    assert row["queued"] == 1
    assert row["domains"] == ["later.example"]
    assert row["reverse_path"] == "news@sender.example"
    assert row["attempts"] == 1
    assert 3000 < row["next_attempt_seconds"] < 4200
    shown = relay.control("queue.show", {"id": row["id"]})["message"]
    (recipient,) = shown["recipients"]
    assert recipient["address"] == "a@later.example"
    assert "451" in recipient["last_reply"]
    assert shown["trace"].startswith("Received:")
    assert relay.control("queue.list", {"campaign": "other"})["messages"] == []
    relay.control("queue.remove", {"ids": [row["id"]]})
    assert settled(relay)["removed"] == 1
    assert of_recipient(relay.events(), "a@later.example", "removed")


def test_small_campaign_is_not_stuck_behind_a_large_one(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("a.example", Behaviour(latency_seconds=0.005))
    config = net.relay_config(workers=1, delivery={"connections_per_site": 1, "messages_per_connection": 10_000})
    relay = make_relay(config)
    relay.control("queue.suspend", {"domain": "a.example", "why": "collect first"})
    big = Campaign(1200, 1)
    letter = newsletters()[4]
    net.submit(relay.smtp, (Message(each.number, b"big%d@a.example" % each.number, letter) for each in big))
    for number in range(5):
        relay.submit(b"X-Fastrelay-Campaign: small\r\n" + message(10_000 + number), [f"small{number}@a.example"])
    relay.control("queue.resume", {"domain": "a.example"})
    settled(relay)
    order = [recipient for _, recipient in net.account.arrivals]
    last_small = max(at for at, recipient in enumerate(order) if recipient.startswith(b"small"))
    assert last_small < len(order) * 3 // 4, f"the small campaign ended at place {last_small} of {len(order)}"
