"""Security: nobody relays through us who may not, whatever he writes into an address or says of his own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.net import free_endpoint, split_endpoint
from support.rawsmtp import RawClient, codes
from support.relay import RelayProcess
from support.sink import Sink

Maker = Callable[..., RelayProcess]

INSIDE, OUTSIDE = "127.0.0.1", "127.66.6.6"
BALANCER = "127.66.6.7"
HELLO = b"EHLO client.test\r\n"
CONTENT = b"Subject: x\r\n\r\nx\r\n.\r\n"
# What has opened relays: ways to write a mailbox elsewhere so that it looks like one here, or like none at all.
TRICKS = [
    b"<victim@other.example>",
    b"<victim%other.example@relay.test>",
    b"<victim%other.example>",
    b"<victim%other.example@[127.0.0.1]>",
    b"<@relay.test:victim@other.example>",
    b"<@relay.test,@second.example:victim@other.example>",
    b'<"victim@other.example"@relay.test>',
    b'<"victim@other.example">',
    b'<"victim%other.example"@relay.test>',
    b"<victim@other.example@relay.test>",
    b"<other.example!victim>",
    b"<relay.test!other.example!victim>",
    b"<other.example!victim@relay.test>",
    b"<victim@[192.0.2.1]>",
    b"<victim@localhost>",
    b"<victim@relay.test>",
    b"<victim>",
    b"<postmaster@other.example>",
    b"<postmaster>",
    b"<>",
    b"<victim@other.example> ORCPT=rfc822;me@relay.test",
    b"victim@other.example",
    b'"victim"@other.example',
    b"<victim@OTHER.example.>",
]


def relay_of(make_relay: Maker, sink: Sink, **keys: object) -> RelayProcess:
    settings = {"relay_networks": [f"{INSIDE}/32"], "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]}
    return make_relay({**settings, "workers": 1, "smtp": {"errors": 1000}, **keys})


@pytest.mark.parametrize("sender", [b"<news@relay.test>", b"<>", b"<victim@other.example>", b"<root@localhost>"])
def test_no_way_to_write_an_address_relays_for_a_stranger(make_relay: Maker, sink: Sink, sender: bytes) -> None:
    relay = relay_of(make_relay, sink)
    with RawClient(relay.smtp, OUTSIDE) as client:
        client.say(HELLO)
        for trick in TRICKS:
            client.say(b"MAIL FROM:" + sender + b"\r\n")
            [code] = codes(client.say(b"RCPT TO:" + trick + b"\r\n"))
            assert code in (501, 550), trick
            [code] = codes(client.say(b"DATA\r\n"))
            assert code in (503, 554), trick
            client.say(b"RSET\r\n")
    assert relay.summary()["accepted"] == 0
    assert not sink.messages


def test_for_a_client_of_ours_an_address_means_its_domain_and_nothing_within(make_relay: Maker, sink: Sink) -> None:
    """No percent hack, no bang path, no source route: what is left of the last @ is the far side's to read."""
    relay = relay_of(make_relay, sink)
    meant = {
        b"<victim%other.example@d.example>": "victim%other.example@d.example",
        b'<"victim@other.example"@d.example>': '"victim@other.example"@d.example',
        b"<other.example!victim@d.example>": "other.example!victim@d.example",
        b"<@first.example,@second.example:b@d.example>": "b@d.example",
    }
    with RawClient(relay.smtp, INSIDE) as client:
        client.say(HELLO)
        for path in meant:
            assert codes(
                client.all(b"MAIL FROM:<news@relay.test>\r\n", b"RCPT TO:" + path + b"\r\n", b"DATA\r\n", CONTENT)
            ) == [250, 250, 354, 250], path
    relay.wait_drained()
    assert sorted(to for message in sink.messages for to in message.recipients) == sorted(meant.values())
    domains = {event["recipient"].rpartition("@")[2] for event in relay.events() if event["event"] == "delivered"}
    assert domains == {"d.example"}


def test_saying_that_one_is_somebody_else_does_not_help(make_relay: Maker, sink: Sink) -> None:
    """PROXY from who is no balancer, XCLIENT, XFORWARD, a HELO name or literal of ours."""
    relay = relay_of(make_relay, sink)
    for claim in (
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 25\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x19\0\x19",
        b"XCLIENT ADDR=127.0.0.1 LOGIN=admin\r\n",
        b"XFORWARD ADDR=127.0.0.1\r\n",
        b"EHLO [127.0.0.1]\r\n",
        b"EHLO relay.test\r\n",
        b"EHLO localhost\r\n",
    ):
        with RawClient(relay.smtp, OUTSIDE) as client:
            client.send(claim + HELLO + b"MAIL FROM:<a@relay.test> AUTH=admin\r\nRCPT TO:<b@d.example>\r\nQUIT\r\n")
            said = client.rest()
        assert b" 2.1.5 " not in said, claim
    assert relay.summary()["accepted"] == 0


def test_behind_a_balancer_the_client_counts(make_relay: Maker, sink: Sink) -> None:
    """A balancer's own address is among relay_networks here, and still a stranger behind it does not relay."""
    bind = free_endpoint()
    listeners = {"smtp": [{"bind": free_endpoint()}, {"bind": bind, "proxy_from": [f"{BALANCER}/32"]}]}
    relay_of(make_relay, sink, listeners=listeners, relay_networks=[f"{INSIDE}/32", f"{BALANCER}/32"])

    def rcpt(source: str, header: bytes) -> bytes:
        with RawClient(split_endpoint(bind), source, greeting=False) as client:
            client.send(header + HELLO + b"MAIL FROM:<a@relay.test>\r\nRCPT TO:<b@d.example>\r\nQUIT\r\n")
            return client.rest()

    ours = b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 25\r\n"
    theirs = b"PROXY TCP4 198.51.100.1 127.0.0.1 1000 25\r\n"
    assert b" 2.1.5 " in rcpt(BALANCER, ours)
    assert b"550 5.7.1" in rcpt(BALANCER, theirs)
    assert b" 2.1.5 " not in rcpt(BALANCER, b"PROXY UNKNOWN\r\n")
    assert b" 2.1.5 " not in rcpt(BALANCER, b"")  # no header
    assert b" 2.1.5 " not in rcpt(BALANCER, theirs + ours)  # a second one is the client's
    assert b" 2.1.5 " not in rcpt(OUTSIDE, ours)  # not from a balancer
