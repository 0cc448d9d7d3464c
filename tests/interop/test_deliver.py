"""Mail delivered to real servers, found through a real DNS server, arrives byte for byte: Postfix, Exim, aiosmtpd.

All MX hosts of one relay are asked on the same port, so each peer gets a loopback address of its own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from support import postfix as private_postfix
from support.net import free_port, loopback_address, wait_until
from support.newsletters import assert_same, corpus, name_of, without_trace
from support.peers import Exim, Knot, absent
from support.relay import RelayProcess
from support.sink import Sink

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]


@pytest.fixture
def port() -> int:
    return free_port("0.0.0.0")


def through_dns(make_relay: Maker, knot: Knot, port: int, **more: Any) -> RelayProcess:
    return make_relay({
        "dns": {"nameservers": [knot.endpoint]}, "delivery": {"port": port, "allow_private_hosts": True}, **more,
    })


def submit(relay: RelayProcess, domain: str, sent: dict[str, bytes]) -> None:
    with relay.client() as client:
        for name, content in sent.items():
            client.sendmail("news@sender.example", [f"{name}@{domain}"], content, ["BODY=8BITMIME"])


def assert_same_contents(came: list[bytes], sent: dict[str, bytes]) -> None:
    by_name = {name_of(content): content for content in came}
    assert len(came) == len(sent), "something came twice or not at all"
    for name, content in sent.items():
        assert_same(without_trace(by_name[name]), content, name)


def test_postfix(make_relay: Maker, port: int, open_tmp_path: Path) -> None:
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    sent = dict(corpus())
    address = loopback_address()
    zone = {"d.example": ["@ MX 10 mx", f"mx A {address}"]}
    taking = private_postfix.PostfixInstance(open_tmp_path, domains=["d.example"], endpoint=f"{address}:{port}")
    with Knot(open_tmp_path / "knot", zone) as knot, taking as postfix:
        relay = through_dns(make_relay, knot, port)
        submit(relay, "d.example", sent)
        summary = relay.wait_drained()
        assert summary["delivered"] == len(sent), relay.events()
        wait_until(lambda: not postfix.queued(), 60, "Postfix to empty its queue")
        came = postfix.mail()
    assert_same_contents([without_trace(content, b"\n").replace(b"\n", b"\r\n") for content in came], sent)


def test_exim(make_relay: Maker, port: int, tmp_path: Path, open_tmp_path: Path) -> None:
    sent = dict(corpus())
    address = loopback_address()
    zone = {"d.example": ["@ MX 10 mx", f"mx A {address}"]}
    with Knot(tmp_path / "knot", zone) as knot, Exim(open_tmp_path, f"{address}:{port}") as exim:
        relay = through_dns(make_relay, knot, port)
        submit(relay, "d.example", sent)
        summary = relay.wait_drained()
        assert summary["delivered"] == len(sent), relay.events()
        wait_until(lambda: exim.log_text().count("Completed") >= len(sent), 60, "Exim to store them")
        came = exim.mail()
    assert_same_contents(came, sent)


class Keeper:
    """An aiosmtpd handler that keeps what it is given."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return "250 2.0.0 kept"


@pytest.fixture
def aiosmtpd(port: int) -> Iterator[tuple[str, Keeper]]:
    keeper = Keeper()
    controller = Controller(keeper, hostname=loopback_address(), port=port, enable_SMTPUTF8=True)
    controller.start()
    yield controller.hostname, keeper
    controller.stop()


def test_aiosmtpd(make_relay: Maker, port: int, tmp_path: Path, aiosmtpd: tuple[str, Keeper]) -> None:
    address, keeper = aiosmtpd
    sent = dict(corpus())
    with Knot(tmp_path / "knot", {"d.example": ["@ MX 10 mx", f"mx A {address}"]}) as knot:
        relay = through_dns(make_relay, knot, port)
        submit(relay, "d.example", sent)
        relay.wait_drained()
    contents = [envelope.original_content for envelope in keeper.envelopes]
    assert_same_contents([content for content in contents if content is not None], sent)


def test_mx_preferences_implicit_mx_and_dead_hosts(make_relay: Maker, port: int, tmp_path: Path) -> None:
    good, other, dead = loopback_address(), loopback_address(), loopback_address()
    zones = {
        "first.example": ["@ MX 10 mx1", "@ MX 20 mx2", f"mx1 A {good}", f"mx2 A {other}"],
        "dead.example": ["@ MX 10 mx1", "@ MX 20 mx2", f"mx1 A {dead}", f"mx2 A {other}"],
        "implicit.example": [f"@ A {good}"],
        "null.example": ["@ MX 0 ."],
    }
    with (
        Knot(tmp_path / "knot", zones) as knot,
        Sink(host=good, port=port) as good_sink, Sink(host=other, port=port) as other_sink,
    ):
        relay = through_dns(make_relay, knot, port)
        for domain in (*zones, "missing.example"):
            relay.submit(b"Subject: x\r\n\r\nx\r\n", [f"r@{domain}"])
        wait_until(lambda: len(good_sink.messages) + len(other_sink.messages) >= 3, 60, "three deliveries")
        wait_until(lambda: relay.summary()["failed"] >= 1, 60, "the null MX to fail")
        events = {event["recipient"]: event for event in relay.events() if event["event"] == "failed"}
        recipients = [sorted(message.recipients[0] for message in sink.messages) for sink in (good_sink, other_sink)]
    assert recipients == [["r@first.example", "r@implicit.example"], ["r@dead.example"]]
    assert events["r@null.example"]["enhanced"] == "5.1.10"
