"""Mail delivered under TLS to real servers arrives byte for byte: Postfix, and Exim with CHUNKING."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import postfix as private_postfix
from support.net import free_port, loopback_address, wait_until
from support.newsletters import assert_same, corpus, name_of, without_trace
from support.peers import Exim, absent
from support.relay import RelayProcess
from support.served_dns import ServedDns

from fastrelay.sim.certificates import Authority, Flaw
from fastrelay.sim.dns import Zone

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]
HOST = "mx.d.example"


class Scene:
    """A zone with one MX host, its certificate, and a relay that knows the CA."""

    def __init__(self, folder: Path, make_relay: Maker) -> None:
        self.address = loopback_address()
        self.folder = folder
        self._make_relay = make_relay
        self._authority = Authority()
        zone = Zone()
        zone.mx("d.example", [(10, HOST)])
        zone.address(HOST, self.address)
        self.dns = ServedDns(zone)
        self.sent = dict(corpus())

    def certificate(self, flaw: Flaw = "good") -> Path:
        path = self.folder / "host.pem"
        path.write_bytes(self._authority.issue(HOST, flaw))
        path.chmod(0o644)  # for a test's key; Exim reads it as another user
        return path

    def relay(self, endpoint: str, level: str, **more: Any) -> RelayProcess:
        ca_file = self._authority.write(str(self.folder / "ca.pem"))
        return self._make_relay({
            "dns": {"nameservers": [self.dns.nameserver], "min_ttl": "0s"},
            "delivery": {
                "port": int(endpoint.rpartition(":")[2]), "allow_private_hosts": True,
                "connect_backoff": {"first": "200ms", "max": "1s"}, "idle_timeout": "1s",
            },
            "tls": {"outbound": {"level": level, "ca_file": ca_file}}, **more,
        })  # fmt: skip

    def submit(self, relay: RelayProcess) -> None:
        with relay.client() as client:
            for name, content in self.sent.items():
                client.sendmail("news@sender.example", [f"{name}@d.example"], content, ["BODY=8BITMIME"])

    def delivered(self, relay: RelayProcess) -> list[dict[str, Any]]:
        """Their events, once all are delivered."""
        assert relay.wait_drained()["delivered"] == len(self.sent), relay.events()
        return [event for event in relay.events() if event["event"] == "delivered"]

    def assert_came(self, came: list[bytes]) -> None:
        by_name = {name_of(content): content for content in came}
        assert len(came) == len(self.sent), "something came twice or not at all"
        for name, content in self.sent.items():
            assert_same(without_trace(by_name[name]), content, name)


@pytest.fixture
def scene(open_tmp_path: Path, make_relay: Maker) -> Iterator[Scene]:
    scene = Scene(open_tmp_path, make_relay)
    yield scene
    scene.dns.stop()


def postfix_of(scene: Scene, flaw: Flaw = "good", **settings: str) -> private_postfix.PostfixInstance:
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    certificate = str(scene.certificate(flaw))
    tls = {"smtpd_tls_chain_files": certificate, "smtpd_tls_security_level": "may", "smtpd_tls_loglevel": "1"}
    endpoint = f"{scene.address}:{free_port(scene.address)}"
    return private_postfix.PostfixInstance(
        scene.folder / "postfix", domains=["d.example"], endpoint=endpoint, settings=tls | settings
    )


@pytest.mark.parametrize(("level", "verified"), [("opportunistic", None), ("verify", "pkix")])
@pytest.mark.parametrize("protocols", [">=TLSv1.3", "TLSv1.2"])
def test_postfix(scene: Scene, level: str, verified: str | None, protocols: str) -> None:
    with postfix_of(scene, smtpd_tls_protocols=protocols) as postfix:
        relay = scene.relay(postfix.endpoint, level)
        scene.submit(relay)
        events = scene.delivered(relay)
        assert {event["tls"] for event in events} == {protocols.lstrip(">=")}
        assert {event.get("tls_verified") for event in events} == {verified}
        wait_until(lambda: not postfix.queued(), 60, "Postfix to empty its queue")
        came, log = postfix.mail(), postfix.log_path.read_text()
    scene.assert_came([without_trace(content, b"\n").replace(b"\n", b"\r\n") for content in came])
    assert "TLS connection established" in log
    assert "SSL_accept error" not in log


def all_gone(log: str) -> bool:
    """Whether every session in Postfix's log is over."""
    return log.count("]: connect from") == log.count("]: disconnect from")


def test_postfix_that_requires_tls_and_logs_a_lost_connection_as_none(scene: Scene) -> None:
    """Mail in plain would be refused; a session ends by QUIT and close_notify, not by a cut."""
    with postfix_of(scene, smtpd_tls_security_level="encrypt") as postfix:
        relay = scene.relay(postfix.endpoint, "opportunistic")
        scene.submit(relay)
        scene.delivered(relay)
        wait_until(lambda: all_gone(postfix.log_path.read_text()), 60, "the idle sessions to end")
        log = postfix.log_path.read_text()
    assert "lost connection" not in log, log


def test_a_certificate_that_does_not_hold(scene: Scene) -> None:
    """Nothing reaches the host, the reason has a name, and the mail waits."""
    with postfix_of(scene, "wrong-name") as postfix:
        relay = scene.relay(postfix.endpoint, "verify")
        relay.submit(b"Subject: x\r\n\r\nx\r\n", ["r@d.example"])
        wait_until(lambda: relay.summary()["by_reason"].get("tls_policy") == 1, 60, "the mail to wait for its policy")
        assert not postfix.mail()
        assert "MAIL FROM" not in postfix.log_path.read_text()


def test_exim_with_chunking(scene: Scene) -> None:
    with Exim(scene.folder / "exim", f"{scene.address}:{free_port(scene.address)}", scene.certificate()) as exim:
        relay = scene.relay(exim.endpoint, "verify")
        scene.submit(relay)
        events = scene.delivered(relay)
        assert {event["tls_verified"] for event in events} == {"pkix"}
        wait_until(lambda: exim.log_text().count("Completed") >= len(scene.sent), 60, "Exim to store them")
        came, log = exim.mail(), exim.log_text()
    scene.assert_came(came)
    assert " X=TLS1.3" in log
    assert " K " in log, "CHUNKING was not used"
