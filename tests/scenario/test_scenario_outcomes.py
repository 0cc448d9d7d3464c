"""What becomes of a recipient: retried, failed, expired, greylisted; and what the events say about it."""

import time
from collections.abc import Callable

import pytest
from scenario.simulation import Simulation, fates, message, of_recipient, settled
from support.net import wait_until
from support.relay import RelayProcess

from fastrelay.sim.mx import Behaviour

MakeRelay = Callable[..., RelayProcess]


def test_temporary_refusals_are_retried_until_delivered(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("later.example", Behaviour(tempfail_permille=1000, tempfail_times=3))
    relay = make_relay(net.relay_config())
    for number in range(20):
        relay.submit(message(number), [f"r{number}@later.example"])
    summary = settled(relay)
    assert (summary["delivered"], summary["failed"]) == (20, 0)
    events = relay.events()
    for number in range(20):
        mine = of_recipient(events, f"r{number}@later.example")
        assert [event["event"] for event in mine] == ["deferred"] * 3 + ["delivered"]
        assert [event["attempt"] for event in mine] == [1, 2, 3, 4]
        assert mine[0]["code"] == 451
        assert mine[0]["enhanced"] == "4.7.1"
        assert mine[0]["site"]
    assert net.account.duplicates == 0
    assert net.account.violations == []


def test_temporary_refusal_of_the_content(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("later.example", Behaviour(final_tempfail_permille=1000, tempfail_times=2))
    relay = make_relay(net.relay_config())
    relay.submit(message(1), ["a@later.example", "b@later.example"])
    assert settled(relay)["delivered"] == 2
    assert {kinds.count("delivered") for kinds in fates(relay.events()).values()} == {1}
    assert {pair[1]: arrival.count for pair, arrival in net.account.arrivals.items()} == {
        b"a@later.example": 1,
        b"b@later.example": 1,
    }


def test_permanent_refusal_fails_at_once(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("never.example", Behaviour(permfail_permille=1000))
    relay = make_relay(net.relay_config())
    relay.submit(message(1), ["nobody@never.example"])
    summary = settled(relay)
    assert (summary["delivered"], summary["failed"]) == (0, 1)
    (event,) = of_recipient(relay.events(), "nobody@never.example")
    assert event["event"] == "failed"
    assert (event["code"], event["enhanced"]) == (550, "5.1.1")
    assert "No such mailbox" in event["reply"]
    assert event["mx_host"] == "mx.never.example"
    assert net.hosts["never.example"].refused == 1


def test_mixed_recipients_of_one_message(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("mixed.example", Behaviour(permfail_permille=300, tempfail_permille=500))
    relay = make_relay(net.relay_config())
    recipients = [f"r{number}@mixed.example" for number in range(40)]
    relay.submit(message(1), recipients)
    summary = settled(relay)
    host = net.hosts["mixed.example"]
    assert summary["delivered"] + summary["failed"] == 40
    assert summary["failed"] == host.refused > 0
    assert host.deferred > 0
    assert len(net.account.arrivals) == summary["delivered"]
    assert net.account.duplicates == 0
    assert all(len(kinds) == 1 for kinds in fates(relay.events()).values())


def test_greylisting_is_passed_from_the_same_address(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("grey.example", Behaviour(greylist_seconds=1.0))
    sources = [{"name": name, "address": f"127.0.0.{at}"} for at, name in enumerate("abcd", 41)]
    relay = make_relay(net.relay_config(sources=sources, pools={"default": list("abcd")}))
    for number in range(12):
        relay.submit(message(number), [f"r{number}@grey.example"])
    assert settled(relay)["delivered"] == 12
    events = relay.events()
    for number in range(12):
        mine = of_recipient(events, f"r{number}@grey.example")
        assert mine[0]["event"] == "deferred"
        assert mine[-1]["event"] == "delivered"
        assert {event["source"] for event in mine} == {mine[0]["source"]}, "a greylisted recipient changed its source"


def test_expiry_ends_retries(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("never.example", Behaviour(tempfail_permille=1000, tempfail_times=10**6))
    relay = make_relay(net.relay_config(retry={"expire": "2s"}))
    relay.submit(message(1), ["a@never.example"])
    summary = settled(relay)
    assert summary["expired"] == 1
    mine = of_recipient(relay.events(), "a@never.example")
    assert [event["event"] for event in mine[:-1]] == ["deferred"] * (len(mine) - 1)
    assert mine[-1]["event"] == "expired"
    assert mine[-1]["code"] == 451, "an expired recipient says what its last reply was"
    assert len(mine) > 2


def test_extensions_the_host_lacks(net: Simulation, make_relay: MakeRelay) -> None:
    """8-bit content to a host without 8BITMIME fails 5.6.3; an address that needs SMTPUTF8 fails 5.6.7."""
    net.mx("old.example", Behaviour(extensions=(b"PIPELINING",)))
    relay = make_relay(net.relay_config())
    with relay.client() as client:
        client.ehlo()
        client.mail("news@sender.example", ["BODY=8BITMIME"])
        client.rcpt("eight@old.example")
        client.data(message(1, "Grüße\r\n".encode()))
        client.docmd("MAIL FROM:<news@sender.example> SMTPUTF8")
        client.send("RCPT TO:<grüße@old.example>\r\n".encode())
        assert client.getreply()[0] == 250
        client.data(message(2))
    relay.submit(message(3), ["plain@old.example"])
    summary = settled(relay)
    assert (summary["delivered"], summary["failed"]) == (1, 2)
    failed = {event["recipient"]: event["enhanced"] for event in relay.events() if event["event"] == "failed"}
    assert failed == {"eight@old.example": "5.6.3", "grüße@old.example": "5.6.7"}
    assert net.account.violations == []


def test_message_larger_than_the_host_takes(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("small.example", Behaviour(size_limit=10_000))
    relay = make_relay(net.relay_config())
    relay.submit(message(1, b"x" * 70 + b"\r\n") * 1, ["fits@small.example"])
    relay.submit(message(2, (b"x" * 70 + b"\r\n") * 300), ["large@small.example"])
    summary = settled(relay)
    assert (summary["delivered"], summary["failed"]) == (1, 1)
    (event,) = of_recipient(relay.events(), "large@small.example")
    assert event["event"] == "failed"
    assert str(event["enhanced"]).startswith("5.")


def test_every_wait_says_why(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("later.example", Behaviour(tempfail_permille=1000, tempfail_times=10**6))
    net.mx("hold.example")
    net.zone.script("dns.example", "servfail")
    retry = {"first": "1h", "max": "1h"}
    relay = make_relay(net.relay_config(retry=retry))
    relay.control("queue.suspend", {"domain": "hold.example", "why": "test"})
    relay.submit(message(1), ["a@later.example"])
    relay.submit(message(2), ["a@hold.example"])
    relay.submit(message(3), ["a@dns.example"])
    reasons = {"later.example": "retry_backoff", "hold.example": "suspended", "dns.example": "dns"}

    def explained() -> bool:
        found = {}
        for row in relay.control("queue.list", {})["messages"]:
            (why,) = relay.control("queue.why", {"id": row["id"]})["why"]
            assert why["detail"]
            found[row["domains"][0]] = why["reason"]
        return found == reasons

    wait_until(explained, 30, f"reasons {reasons}")
    summary = relay.summary()
    assert summary["queued"] == 3
    assert sum(summary["by_reason"].values()) == 3
    relay.control("queue.remove", {"all": True})
    assert settled(relay)["removed"] == 3


@pytest.mark.slow
def test_mail_in_back_off_outlives_the_sweep(net: Simulation, make_relay: MakeRelay) -> None:
    """Slow: the sweep for expired mail runs every 30 s. A host may be up for less than retry.expire when it does."""
    net.mx("later.example", Behaviour(tempfail_permille=1000, tempfail_times=10**6))
    relay = make_relay(net.relay_config(retry={"first": "1h", "max": "1h", "expire": "5000d"}))
    for number in range(5):
        relay.submit(message(number), [f"r{number}@later.example"])
    wait_until(lambda: relay.summary()["by_reason"].get("retry_backoff") == 5, what="five messages in back-off")
    time.sleep(40)
    summary = relay.summary()
    assert (summary["queued"], summary["expired"]) == (5, 0)
    relay.control("queue.remove", {"all": True})
    settled(relay)
