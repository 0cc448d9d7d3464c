"""Our bounce messages at real servers: Postfix takes one from the null reverse-path and keeps it whole."""

import email
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import postfix as private_postfix
from support.net import wait_until
from support.peers import absent
from support.relay import RelayProcess
from support.sink import Sink

from fastrelay.feedback.bounce import parse_bounce

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]
CONTENT = b"From: news@d.example\r\nSubject: Spring sale\r\n\r\nhello\r\n"


def said(content: bytes) -> Any:
    [one] = parse_bounce(content).recipients
    return one.address, one.action, one.status, one.code, one.diagnostic, one.original_recipient


def test_postfix(make_relay: Maker, open_tmp_path: Path) -> None:
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    with Sink({"rcpt": lambda session, to: "550 5.1.1 No such user" if "@bad" in to else None}) as sink:
        taking = private_postfix.PostfixInstance(open_tmp_path, domains=["d.example"])
        with taking as postfix:
            routes = [
                {"domains": ["bad.example"], "hosts": [sink.endpoint]},
                {"domains": ["d.example"], "hosts": [postfix.endpoint]},
            ]
            relay = make_relay({"routes": routes, "bounces": {"gather": "1s"}})
            with relay.client() as client:
                client.ehlo()
                client.mail("news@d.example", ["ENVID=E1", "RET=HDRS"])
                assert client.rcpt("nobody@bad.example", ["ORCPT=rfc822;nobody@bad.example"])[0] == 250
                assert client.data(CONTENT)[0] == 250
            wait_until(lambda: postfix.mail(), 60, "our bounce message at Postfix")
            ours = postfix.mail()[0]
            relay.wait_drained()
            assert ours.startswith(b"Return-Path: <>\n")
            assert email.message_from_bytes(ours).get_content_type() == "multipart/report"
            assert said(ours) == (
                "nobody@bad.example", "failed", "5.1.1", 550, "550 5.1.1 No such user", "nobody@bad.example",
            )  # fmt: skip
            found = parse_bounce(ours)
            assert (found.what, found.original.envelope_id, found.original.subject) == ("bounce", "E1", "Spring sale")
