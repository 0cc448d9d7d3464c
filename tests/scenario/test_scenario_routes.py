"""From a domain to the host that takes its mail: preference, dead hosts, null MX, DNS failures, one site for many."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scenario.simulation import Simulation, message, of_recipient
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
    assert relay.wait_drained()["delivered"] == 50
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
    assert relay.wait_drained()["delivered"] == 30
    assert net.account.by_provider == {"first": 30}


def test_dns_answers_decide(net: Simulation, make_relay: MakeRelay) -> None:
    """Null MX 556 5.1.10, NXDOMAIN 5.1.2, NODATA the implicit MX, SERVFAIL and silence a deferral that ends."""
    address = net.listen("implicit")
    net.zone.null_mx("null.example")
    net.zone.address("implicit.example", address)
    net.zone.cname("alias.example", "implicit.example")
    for number, kind in enumerate(("servfail", "timeout", "refused")):
        net.zone.mx(f"{kind}.example", [(10, f"mx{number}.example")])
        net.zone.address(f"mx{number}.example", address)
        net.zone.script(f"{kind}.example", kind, "MX", times=2)
    relay = make_relay(net.relay_config())
    names = ("null", "nothing", "implicit", "alias", "servfail", "timeout", "refused")
    for number, name in enumerate(names):
        relay.submit(message(number), [f"a@{name}.example"])
    summary = relay.wait_drained()
    assert (summary["delivered"], summary["failed"]) == (5, 2)
    events = relay.events()
    (null,) = of_recipient(events, "a@null.example")
    assert (null["event"], null["code"], null["enhanced"]) == ("failed", 556, "5.1.10")
    (nothing,) = of_recipient(events, "a@nothing.example")
    assert (nothing["event"], nothing["enhanced"]) == ("failed", "5.1.2")
    for name in ("implicit", "alias", "servfail", "timeout", "refused"):
        assert of_recipient(events, f"a@{name}.example")[-1]["event"] == "delivered"
    assert net.hosts["implicit"].connections >= 1


def test_truncated_answer_is_asked_again_over_tcp(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("long.example")
    net.zone.script("long.example", "truncated", "MX")
    relay = make_relay(net.relay_config())
    relay.submit(message(1), ["a@long.example"])
    assert relay.wait_drained()["delivered"] == 1


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
    assert relay.wait_drained(120)["delivered"] == domains
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
    assert relay.wait_drained()["delivered"] == 400
    host = net.hosts["a.example"]
    assert host.most_open <= 3
    assert host.connections >= 400 / 5


@pytest.mark.parametrize("action", ["discard", "reject"])
def test_routes_may_discard_or_reject(net: Simulation, make_relay: MakeRelay, action: str) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config(routes=[{"domains": ["*.no.example", "no.example"], "action": action}]))
    relay.submit(message(1), ["x@no.example", "x@sub.no.example", "x@a.example"])
    summary = relay.wait_drained()
    assert len(net.account.arrivals) == 1
    assert summary["accepted"] == 3
    assert summary["delivered"] == (3 if action == "discard" else 1)
    assert summary["failed"] == (0 if action == "discard" else 2)


def test_one_message_to_many_recipients_is_grouped_by_site(net: Simulation, make_relay: MakeRelay) -> None:
    net.zone.address("mx.shared.example", net.listen("shared"))
    for name in ("one", "two"):
        net.zone.mx(f"{name}.example", [(10, "mx.shared.example")])
    net.mx("three.example")
    relay = make_relay(net.relay_config(delivery={"recipients_per_transaction": 10}))
    recipients = [f"r{number}@{name}.example" for name in ("one", "two", "three") for number in range(10)]
    relay.submit(message(1), recipients)
    assert relay.wait_drained()["delivered"] == 30
    assert len(net.account.arrivals) == 30
    assert net.account.messages == 3, "20 recipients at one site in two transactions of 10, and one transaction more"


def test_private_hosts_are_refused_unless_configured(net: Simulation, make_relay: MakeRelay, tmp_path: Path) -> None:
    net.mx("a.example")
    relay = make_relay(net.relay_config(delivery={"allow_private_hosts": False}))
    relay.submit(message(1), ["x@a.example"])
    summary = relay.wait_drained()
    assert summary["failed"] == 1
    assert net.hosts["a.example"].connections == 0
