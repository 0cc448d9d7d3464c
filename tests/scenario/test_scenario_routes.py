"""From a domain to the host that takes its mail: preference, dead hosts, null MX, DNS failures, one site for many."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scenario.simulation import Simulation, message, of_recipient, settled
from support.net import wait_until
from support.relay import RelayProcess

from fastrelay.sim.campaign import Message, newsletters

MakeRelay = Callable[..., RelayProcess]


def test_dead_first_mx_leads_to_the_next(net: Simulation, make_relay: MakeRelay) -> None:
    address = net.listen("backup")
    net.zone.mx("a.example", [(10, "mx1.a.example"), (20, "mx2.a.example")])
    net.dead_host("mx1.a.example")
    net.zone.address("mx2.a.example", address)
    relay = make_relay(net.relay_config())
    for number in range(50):
        relay.submit(message(number), [f"r{number}@a.example"])
    assert settled(relay)["delivered"] == 50
    delivered = [event for event in relay.events() if event["event"] == "delivered"]
    assert {event["mx_host"] for event in delivered} == {"mx2.a.example"}
    assert {event["attempt"] for event in delivered} == {1}, "a host that cannot be reached burns no attempt"


def test_better_preference_is_used_while_it_works(net: Simulation, make_relay: MakeRelay) -> None:
    net.zone.mx("a.example", [(10, "mx1.a.example"), (20, "mx2.a.example")])
    net.zone.address("mx1.a.example", net.listen("first"))
    net.zone.address("mx2.a.example", net.listen("second"))
    relay = make_relay(net.relay_config())
    for number in range(30):
        relay.submit(message(number), [f"r{number}@a.example"])
    assert settled(relay)["delivered"] == 30
    assert net.account.by_provider == {"first": 30}


def test_dns_answers_decide(net: Simulation, make_relay: MakeRelay) -> None:
    """Null MX 556 5.1.10, NXDOMAIN 5.1.2, NODATA the implicit MX, an alias is followed."""
    net.zone.null_mx("null.example")
    net.zone.address("implicit.example", net.listen("implicit"))
    net.zone.cname("alias.example", "implicit.example")
    relay = make_relay(net.relay_config())
    for number, name in enumerate(("null", "nothing", "implicit", "alias")):
        relay.submit(message(number), [f"a@{name}.example"])
    summary = settled(relay)
    assert (summary["delivered"], summary["failed"]) == (2, 2)
    events = relay.events()
    (null,) = of_recipient(events, "a@null.example")
    assert (null["event"], null["code"], null["enhanced"]) == ("failed", 556, "5.1.10")
    (nothing,) = of_recipient(events, "a@nothing.example")
    assert (nothing["event"], nothing["enhanced"]) == ("failed", "5.1.2")
    for name in ("implicit", "alias"):
        assert of_recipient(events, f"a@{name}.example")[-1]["event"] == "delivered"


KINDS = ("servfail", "timeout", "refused", "garbage", "wrong_id")


def failing_dns(net: Simulation, times: int) -> None:
    """A domain for each kind of failure of the DNS, failing so many times."""
    address = net.listen("patient")
    for kind in KINDS:
        net.zone.mx(f"{kind.replace('_', '-')}.example", [(10, "mx.patient.example")])
        net.zone.script(f"{kind.replace('_', '-')}.example", kind, "MX", times=times)
    net.zone.address("mx.patient.example", address)


def test_failing_dns_defers_and_says_so(net: Simulation, make_relay: MakeRelay) -> None:
    failing_dns(net, -1)
    relay = make_relay(net.relay_config())
    for number, kind in enumerate(KINDS):
        relay.submit(message(number), [f"a@{kind.replace('_', '-')}.example"])
    wait_until(lambda: relay.summary()["by_reason"] == {"dns": len(KINDS)}, what="five messages that wait for the DNS")
    for row in relay.control("queue.list", {})["messages"]:
        (why,) = relay.control("queue.why", {"id": row["id"]})["why"]
        assert why["reason"] == "dns"
        assert why["detail"]
    assert not [event for event in relay.events() if event["event"] != "accepted"], "no attempt is burned"
    relay.control("queue.remove", {"all": True})
    settled(relay)


@pytest.mark.slow
def test_mail_goes_on_when_the_dns_recovers(net: Simulation, make_relay: MakeRelay) -> None:
    """Slow: the resolver waits 30 s before it asks again."""
    failing_dns(net, 1)
    relay = make_relay(net.relay_config())
    for number, kind in enumerate(KINDS):
        relay.submit(message(number), [f"a@{kind.replace('_', '-')}.example"])
    assert settled(relay, 180)["delivered"] == len(KINDS)


def test_truncated_answer_is_asked_again_over_tcp(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("long.example")
    net.zone.script("long.example", "truncated", "MX")
    relay = make_relay(net.relay_config())
    relay.submit(message(1), ["a@long.example"])
    assert settled(relay)["delivered"] == 1


def test_ten_thousand_domains_with_one_set_of_hosts_are_one_site(net: Simulation, make_relay: MakeRelay) -> None:
    address = net.listen("hosting")
    net.zone.address("mx.hosting.example", address)
    domains = 10_000
    for number in range(domains):
        net.zone.mx(f"d{number}.example", [(10, "mx.hosting.example")])
    config = net.relay_config(delivery={"connections_per_site": 6, "messages_per_connection": 10_000}, workers=2)
    relay = make_relay(config)
    letter = newsletters()[0]
    net.submit(relay.smtp, (Message(number, b"a@d%d.example" % number, letter) for number in range(domains)))
    assert settled(relay, 120)["delivered"] == domains
    assert len(net.account.arrivals) == domains
    assert net.account.duplicates == 0
    assert net.hosts["hosting"].most_open <= 6
    sites = {event["site"] for event in relay.events() if event["event"] == "delivered"}
    assert len(sites) == 1


def test_limits_of_connections_and_messages_hold(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("a.example")
    limits = {"connections_per_site": 3, "messages_per_connection": 5}
    relay = make_relay(net.relay_config(delivery=limits, workers=2))
    letter = newsletters()[0]
    net.submit(relay.smtp, (Message(number, b"r%d@a.example" % number, letter) for number in range(400)))
    assert settled(relay)["delivered"] == 400
    host = net.hosts["a.example"]
    assert host.most_open <= 3
    assert host.connections >= 400 / 5


@pytest.mark.parametrize("action", ["discard", "reject"])
def test_routes_may_discard_or_reject(net: Simulation, make_relay: MakeRelay, action: str) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config(routes=[{"domains": ["*.no.example", "no.example"], "action": action}]))
    relay.submit(message(1), ["x@no.example", "x@sub.no.example", "x@a.example"])
    summary = settled(relay)
    assert len(net.account.arrivals) == 1
    assert summary["accepted"] == 3
    assert summary["delivered"] == 1
    assert summary["removed" if action == "discard" else "failed"] == 2


def test_one_message_to_many_recipients_is_grouped_by_site(net: Simulation, make_relay: MakeRelay) -> None:
    net.zone.address("mx.shared.example", net.listen("shared"))
    for name in ("one", "two"):
        net.zone.mx(f"{name}.example", [(10, "mx.shared.example")])
    net.mx("three.example")
    relay = make_relay(net.relay_config(delivery={"recipients_per_transaction": 10}))
    recipients = [f"r{number}@{name}.example" for name in ("one", "two", "three") for number in range(10)]
    relay.submit(message(1), recipients)
    assert settled(relay)["delivered"] == 30
    assert len(net.account.arrivals) == 30
    assert net.account.messages == 3, "20 recipients at one site in two transactions of 10, and one transaction more"


def test_private_hosts_are_refused_unless_configured(net: Simulation, make_relay: MakeRelay, tmp_path: Path) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config(delivery={"allow_private_hosts": False}))
    relay.submit(message(1), ["x@a.example"])
    summary = settled(relay)
    assert summary["failed"] == 1
    assert net.hosts["a.example"].connections == 0
