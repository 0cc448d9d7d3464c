"""TLS reports of a running relay: what was counted reaches the domains that ask, whatever their own policy says."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.net import free_endpoint, loopback_address, split_endpoint, wait_until
from support.policy_host import PolicyHost, StsRelay
from support.relay import REPO
from support.served_dns import ServedDns
from support.sink import Sink
from support.tls_certificates import make

from fastrelay._core.lmdb import Environment
from fastrelay.clock import RealClock
from fastrelay.sim.dns import Zone
from fastrelay.tls.reports import DATABASES, DayCounts, Row, day_of

pytestmark = pytest.mark.interop
DAY_SECONDS = 86_400.0
MAP_BYTES = 256 * 2**20
SENDER = "tlsrpt@relay.test"


class Yesterday(RealClock):
    def wall(self) -> float:  # type: ignore[override]
        return time.time() - DAY_SECONDS


def new_key(path: Path) -> str:
    """A DKIM key, made as an operator makes it."""
    command = [sys.executable, "-m", "fastrelay", "dkim", "new", "relay.test", "--selector", "s1", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPO)})
    return str(path)


def count_yesterday(state_dir: Path, domains: list[str]) -> None:
    """What a relay has on disk that ran the day before."""
    state_dir.mkdir(parents=True, exist_ok=True)
    environment = Environment(str(state_dir / "control"), DATABASES, map_bytes=MAP_BYTES)
    counts = DayCounts(environment, Yesterday())
    for domain in domains:
        failed = ["certificate-host-mismatch", "mx.test", "192.0.2.1", "198.51.100.1", "words", 3]
        counts.add(domain, Row("sts", [], 40, 3, [failed]))
    counts.write()
    environment.close()


def test_reports_reach_whoever_asks_and_a_failing_policy_is_no_obstacle(tmp_path: Path) -> None:
    authority = make("test CA", ca=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    domains = ["plain.test", "strict.test", "silent.test"]
    zone = Zone(ttl=1, negative_ttl=1)
    https = PolicyHost(tmp_path, authority, domains)
    endpoint = free_endpoint()
    address, port = split_endpoint(endpoint)
    zone.address("mx.test", address)
    for domain in domains:
        zone.mx(domain, [(10, "mx.test")])
        zone.address(f"mta-sts.{domain}", https.address)
    for domain in domains[:2]:
        zone.add(f"_smtp._tls.{domain}", "TXT", f'"v=TLSRPTv1; rua=mailto:reports@{domain}"')
    zone.add("_mta-sts.strict.test", "TXT", '"v=STSv1; id=1"')
    https.publish("strict.test", "enforce", "another.test")  # its MX is not allowed: mail has to wait
    count_yesterday(tmp_path / "relay" / "state", domains)
    config = {
        "workers": 1,
        "delivery": {"port": port, "allow_private_hosts": True},
        "dkim": {"keys": [{"domain": "relay.test", "selector": "s1", "key": new_key(tmp_path / "dkim.pem")}]},
        "tls": {"outbound": {"ca_file": str(tmp_path / "ca.pem"), "reports": {"sender": SENDER, "delay": "0s"}}},
    }
    with Sink(host=address, port=port) as sink, ServedDns(zone, loopback_address()) as dns, https:
        relay = StsRelay(tmp_path / "relay", {**config, "dns": {"nameservers": [dns.nameserver]}})
        relay.https, relay.authority = https, tmp_path / "ca.pem"
        with relay:
            relay.submit(b"Subject: x\r\n\r\nx\r\n", ["a@strict.test"])
            wait_until(lambda: relay.summary()["by_reason"].get("tls_policy") == 1, what="mail that waits")
            wait_until(lambda: len(sink.messages) == 2, what="the reports")
            reports = {message.recipients[0]: message for message in sink.messages}
            assert sorted(reports) == ["reports@plain.test", "reports@strict.test"]
            states = {
                one["domain"]: one["state"] for one in relay.control("tlsrpt.show", {"day": yesterday()})["reports"]
            }
            assert states == {"plain.test": "sent", "strict.test": "sent", "silent.test": "none"}
            today = wait_until(lambda: counted(relay, "strict.test"), what="today's counts")
            relay.control("queue.remove", {"all": True})
        with relay:  # a restart sends nothing again
            relay.submit(b"Subject: x\r\n\r\nx\r\n", ["a@plain.test"])
            wait_until(lambda: len(sink.messages) == 3, what="mail")
            assert sink.messages[2].recipients == ["a@plain.test"]
            assert relay.control("tlsrpt.show", {"day": yesterday()})["reports"][0]["state"] == "sent"
    message = email.message_from_bytes(reports["reports@strict.test"].content, policy=email.policy.default)
    assert message["TLS-Report-Domain"] == "strict.test"
    assert message["From"] == SENDER
    assert "d=relay.test" in message["DKIM-Signature"]
    assert reports["reports@strict.test"].reverse_path == SENDER
    [_, attached] = message.iter_parts()
    told = json.loads(gzip.decompress(attached.get_content()))
    assert told["contact-info"] == SENDER
    [policy] = told["policies"]
    assert policy["summary"] == {"total-successful-session-count": 40, "total-failure-session-count": 3}
    assert policy["failure-details"][0]["result-type"] == "certificate-host-mismatch"
    assert today


def yesterday() -> str:
    return day_of(Yesterday().wall())


def counted(relay: StsRelay, domain: str) -> object:
    """Today's failures of a domain: the host that its policy does not name."""
    answer = relay.control("tlsrpt.show", {"domain": domain})["reports"]
    return [one for one in answer if one["day"].replace("-", "") != yesterday() and one["failure"]]
