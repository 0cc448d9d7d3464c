"""Other mail systems take our mail and send it back by themselves: the bounce is known, told and believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import peers
from support import postfix as private_postfix
from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import RelayProcess

CONTENT = b"From: News <a@news.example>\r\nTo: joe@d.example\r\nSubject: x\r\nX-Fastrelay-Campaign: c1\r\n\r\nhello\r\n"


def configuration(peer: str, inbound: str, reverse_path: str | None) -> dict[str, Any]:
    return {
        "suppression": {"enabled": True},
        "listeners": {
            "smtp": [{"bind": free_endpoint()}, {"bind": inbound, "inbound": ["*@bounces.example"]}],
            "metrics": {"bind": free_endpoint()},
        },
        "compose": {"reverse_path": reverse_path, "reference": "X-Fastrelay-Reference"},
        "routes": [{"domains": ["*"], "hosts": [peer]}],
    }


def told(relay: RelayProcess, name: str) -> list[dict[str, Any]]:
    path = relay.state_dir / "events" / "feedback.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def check_bounced(relay: RelayProcess, matched: str) -> None:
    """Submits a message, and waits for what comes of it."""
    relay.submit(CONTENT, ["joe@d.example"], "news@bounces.example")
    wait_until(lambda: told(relay, "bounced"), 120, "the bounce")
    [event] = told(relay, "bounced")
    assert event["recipient"] == "joe@d.example"
    assert event["campaign"] == "c1"
    assert event["class"] == "bad_mailbox"
    assert (event["kind"], event["matched"]) == ("hard", matched)
    wait_until(lambda: told(relay, "suppression"), 60, "the suppression")
    [entry] = told(relay, "suppression")
    assert (entry["recipient"], entry["reason"]) == ("joe@d.example", "hard_bounce")


@pytest.mark.parametrize("reverse_path", ["b+{reference}@bounces.example", None], ids=["verp", "reference"])
def test_postfix_bounces(
    make_relay: Callable[..., RelayProcess], open_tmp_path: Path, reverse_path: str | None
) -> None:
    """It takes the mail, and finds out later that there is no such user."""
    reason = private_postfix.missing()
    if reason:
        peers.absent(reason)
    inbound = free_endpoint()
    settings = {
        "virtual_transport": "error:5.1.1 User unknown in our table", "smtpd_reject_unlisted_recipient": "no",
        "smtp_tls_security_level": "none",
    }  # fmt: skip
    with private_postfix.PostfixInstance(
        open_tmp_path, domains=["d.example"], relay_to=inbound, settings=settings
    ) as postfix:
        relay = make_relay(configuration(postfix.endpoint, inbound, reverse_path))
        check_bounced(relay, "verp" if reverse_path else "reference")
        wait_until(lambda: not postfix.queued(), 60, "Postfix to have heard 250")


def test_exim_bounces(
    make_relay: Callable[..., RelayProcess], open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbound = free_endpoint()
    host, port = split_endpoint(inbound)
    begin, rest = peers.EXIM.split("begin routers\n")
    retry = "begin retry\n" + rest.split("begin retry\n")[1]
    routers = (
        "begin routers\nnobody:\n  driver = redirect\n  domains = d.example\n  data = :fail: no such user here\n"
        f"  allow_fail\nback:\n  driver = manualroute\n  route_list = * {host}\n  self = send\n  transport = back\n"
        f"begin transports\nback:\n  driver = smtp\n  port = {port}\n  allow_localhost\n  hosts_avoid_tls = *\n"
    )
    monkeypatch.setattr(peers, "EXIM", begin + routers + retry)
    with peers.Exim(open_tmp_path) as exim:
        relay = make_relay(configuration(exim.endpoint, inbound, "b+{reference}@bounces.example"))
        check_bounced(relay, "verp")
