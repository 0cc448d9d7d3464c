"""Checks of this host and of the way out: certificate, clock, files, ports, disk, secrets, resolver, port 25."""

import asyncio
import datetime
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastrelay.clock import SimulatedClock
from fastrelay.doctor import host_check, network_check
from fastrelay.doctor.host_check import kernel_clock, sync_rate
from fastrelay.sim.dns import SERVFAIL

Clinic = Any
NOW = 1_795_000_000.0
TODAY = datetime.datetime.fromtimestamp(NOW, datetime.UTC)


# --- certificate ---


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certify(clinic: Clinic, authority: trustme.CA, *names: str, until: datetime.datetime | None = None) -> Any:
    """A certificate for the listeners; its key."""
    made = authority.issue_cert(*names, not_before=TODAY - datetime.timedelta(days=90), not_after=until)
    chain, key = clinic.folder / "chain.pem", clinic.folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems) + authority.cert_pem.bytes())
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    clinic.settings["tls"] = {"certificate": str(chain), "key": str(key)}
    return made


def test_without_a_certificate_there_is_nothing_to_say(clinic: Clinic) -> None:
    assert not clinic.look("certificate")


def test_a_certificate_in_order(clinic: Clinic, authority: trustme.CA) -> None:
    certify(clinic, authority, "mta.news.example", until=TODAY + datetime.timedelta(days=80))
    (finding,) = clinic.look("certificate")
    assert finding.severity == "ok"
    assert "mta.news.example" in finding.found


def test_a_wildcard_covers_the_name(clinic: Clinic, authority: trustme.CA) -> None:
    certify(clinic, authority, "*.news.example", until=TODAY + datetime.timedelta(days=80))
    assert not clinic.bad("certificate")


@pytest.mark.parametrize(("days", "severity", "words"), [(-1, "error", "expired"), (5, "warning", "expires in")])
def test_a_certificate_that_ends(clinic: Clinic, authority: trustme.CA, days: int, severity: str, words: str) -> None:
    certify(clinic, authority, "mta.news.example", until=TODAY + datetime.timedelta(days=days, hours=1))
    (finding,) = clinic.bad("certificate")
    assert finding.severity == severity
    assert words in finding.found


def test_a_certificate_of_another_name_is_a_warning(clinic: Clinic, authority: trustme.CA) -> None:
    certify(clinic, authority, "other.example", until=TODAY + datetime.timedelta(days=80))
    (finding,) = clinic.bad("certificate")
    assert "other.example" in finding.found


def test_a_key_of_another_certificate_is_an_error(clinic: Clinic, authority: trustme.CA) -> None:
    certify(clinic, authority, "mta.news.example", until=TODAY + datetime.timedelta(days=80))
    other = authority.issue_cert("mta.news.example")
    (clinic.folder / "key.pem").write_bytes(other.private_key_pem.bytes())
    (finding,) = clinic.bad("certificate")
    assert "belongs to another certificate" in finding.found


def test_a_chain_in_the_wrong_order_is_an_error(clinic: Clinic, authority: trustme.CA) -> None:
    certify(clinic, authority, "mta.news.example", until=TODAY + datetime.timedelta(days=80))
    chain = clinic.folder / "chain.pem"
    leaf = x509.load_pem_x509_certificates(chain.read_bytes())[0]
    chain.write_bytes(leaf.public_bytes(Encoding.PEM) + trustme.CA().cert_pem.bytes())
    (finding,) = clinic.bad("certificate")
    assert "is not issued by the next one" in finding.found


@pytest.mark.parametrize("text", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_no_certificate_is_an_error(clinic: Clinic, text: bytes) -> None:
    (clinic.folder / "chain.pem").write_bytes(text)
    clinic.settings["tls"] = {"certificate": str(clinic.folder / "chain.pem")}
    assert [finding.severity for finding in clinic.bad("certificate")] == ["error"]


# --- clock, files, ports ---


def test_the_kernel_tells_of_its_clock() -> None:
    state = kernel_clock()
    assert state is None or (isinstance(state[0], bool) and state[1] >= 0)


@pytest.mark.parametrize(
    ("state", "severity"),
    [((True, 20_000), "ok"), ((False, 16_000_000), "warning"), ((True, 9_000_000), "warning"), (None, "unknown")],
)
def test_what_the_kernel_says_of_the_clock(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, state: Any, severity: str
) -> None:
    monkeypatch.setattr(host_check, "kernel_clock", lambda: state)
    assert [finding.severity for finding in clinic.look("clock")] == [severity]


def test_open_files_are_those_of_the_running_relay() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert host_check.open_files_limit(os.getpid()) == hard
    assert host_check.open_files_limit(None) == hard


@pytest.mark.parametrize(("limit", "severity"), [(-1, "ok"), (276, "ok"), (275, "warning")])
def test_open_files_for_every_connection(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, limit: int, severity: str
) -> None:
    monkeypatch.setattr(host_check, "open_files_limit", lambda pid: limit)
    clinic.settings["limits"] = {"smtp_connections": 10}
    clinic.settings["delivery"]["connections"] = 10
    assert [finding.severity for finding in clinic.look("open_files")] == [severity]


@pytest.mark.parametrize(
    ("text", "connections", "severity"),
    [("1024\t65535\n", 10_000, "ok"), ("32768 33000", 10_000, "warning"), ("nonsense", 10, "unknown")],
)
def test_local_ports(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, text: str, connections: int, severity: str
) -> None:
    ports, reserved = clinic.folder / "range", clinic.folder / "reserved"
    ports.write_text(text)
    reserved.write_text("2525\n")
    monkeypatch.setattr(host_check, "PORT_RANGE", str(ports))
    monkeypatch.setattr(host_check, "RESERVED_PORTS", str(reserved))
    clinic.settings["delivery"]["connections"] = connections
    (finding,) = clinic.look("port_range")
    assert finding.severity == severity


def test_a_listener_within_the_local_ports_is_a_note(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    ports, reserved = clinic.folder / "range", clinic.folder / "reserved"
    ports.write_text("1024 65535")
    reserved.write_text("9125-9126\n")
    monkeypatch.setattr(host_check, "PORT_RANGE", str(ports))
    monkeypatch.setattr(host_check, "RESERVED_PORTS", str(reserved))
    (finding,) = clinic.look("port_range")
    assert finding.commands == ("sysctl -w net.ipv4.ip_local_reserved_ports=2525,9125,9126",)


# --- disk ---


def test_syncs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimulatedClock(monotonic=0.0)
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        clock.advance(1 / 16)

    monkeypatch.setattr(os, "fdatasync", sync)
    assert sync_rate(str(tmp_path), clock, seconds=0.5) == 16
    assert len(synced) == 9  # the first is not measured
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rate", "severity"), [(5000.0, "ok"), (50.0, "warning"), (3.0, "error")])
def test_a_slow_disk_is_said(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, rate: float, severity: str) -> None:
    monkeypatch.setattr(host_check, "sync_rate", lambda folder, clock: rate)
    monkeypatch.setattr(host_check, "file_system_type", lambda path: "ext4")
    clinic.settings["spool"] = {"reserve": "1MiB", "ballast": "1MiB"}
    assert [finding.severity for finding in clinic.look("disk")] == [severity]


@pytest.mark.parametrize(("kind", "severity"), [("tmpfs", "error"), ("nfs4", "error"), ("xfs", "ok")])
def test_the_kind_of_disk(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, kind: str, severity: str) -> None:
    monkeypatch.setattr(host_check, "sync_rate", lambda folder, clock: 5000.0)
    monkeypatch.setattr(host_check, "file_system_type", lambda path: kind)
    clinic.settings["spool"] = {"reserve": "1MiB", "ballast": "1MiB"}
    assert clinic.look("disk")[0].severity == severity


def test_little_room_is_said(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "sync_rate", lambda folder, clock: 5000.0)
    monkeypatch.setattr(host_check, "file_system_type", lambda path: "ext4")
    clinic.settings["spool"] = {"reserve": "900000GiB"}
    assert [finding.severity for finding in clinic.bad("disk")] == ["error"]


# --- secrets ---


@pytest.mark.parametrize(("mode", "severity"), [(0o600, "ok"), (0o640, "ok"), (0o644, "error"), (0o660, "error")])
def test_who_may_read_secrets(clinic: Clinic, mode: int, severity: str) -> None:
    path = clinic.folder / "users"
    path.write_text("")
    path.chmod(mode)
    clinic.settings["auth"] = {"users": str(path)}
    clinic.settings["tls"] = {}
    (finding,) = clinic.look("secrets")
    assert finding.severity == severity
    assert severity == "ok" or finding.commands == (f"chmod 0600 {path}",)


def test_a_secret_that_is_not_there_is_a_warning(clinic: Clinic) -> None:
    clinic.settings["auth"] = {"users": str(clinic.folder / "nobody")}
    assert [finding.severity for finding in clinic.look("secrets")] == ["warning"]


# --- resolver ---


@pytest.mark.parametrize("validating", [True, False])
def test_does_the_resolver_validate(clinic: Clinic, validating: bool) -> None:
    clinic.settings["dns"] = {"nameservers": ["127.0.0.1"]}
    for zone in network_check.SIGNED_ZONES:
        clinic.zone.add(zone, "SOA", "ns.example. hostmaster.example. 1 2 3 4 5")
    clinic.zone.script(network_check.BROKEN_NAME, SERVFAIL)
    clinic.validating = validating
    assert [finding.severity for finding in clinic.look("resolver")] == ["ok" if validating else "warning"]


def test_a_resolver_that_sets_ad_and_believes_anything_is_a_warning(clinic: Clinic) -> None:
    clinic.settings["dns"] = {"nameservers": ["127.0.0.1"]}
    clinic.zone.add("com", "SOA", "ns.example. hostmaster.example. 1 2 3 4 5")
    clinic.zone.address(network_check.BROKEN_NAME, "192.0.2.1")
    clinic.validating = True
    (finding,) = clinic.look("resolver")
    assert (finding.severity, network_check.BROKEN_NAME in finding.found) == ("warning", True)


def test_a_validating_resolver_elsewhere_is_a_note(clinic: Clinic) -> None:
    clinic.settings["dns"] = {"nameservers": ["192.0.2.53"]}
    clinic.zone.add("com", "SOA", "ns.example. hostmaster.example. 1 2 3 4 5")
    clinic.zone.script(network_check.BROKEN_NAME, SERVFAIL)
    clinic.validating = True
    assert [finding.severity for finding in clinic.look("resolver")] == ["note"]


def test_without_internet_nothing_is_said_of_the_resolver(clinic: Clinic) -> None:
    for zone in network_check.SIGNED_ZONES:
        clinic.zone.script(zone, SERVFAIL)
    (finding,) = clinic.look("resolver")
    assert (finding.severity, finding.found.startswith("could not tell")) == ("unknown", True)


# --- port 25 ---


class Greeter:
    """Greets and waits for the other side to go."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.peers: list[str] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                link, peer = self.socket.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            with link:
                link.sendall(b"220 mx ESMTP\r\n")
                link.settimeout(30)
                try:
                    link.recv(100)
                except OSError:
                    pass

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(30)


@pytest.fixture
def greeter() -> Iterator[Greeter]:
    made = Greeter()
    yield made
    made.close()


def test_an_mx_host_that_greets_is_enough(clinic: Clinic, greeter: Greeter) -> None:
    clinic.source("a", "192.0.2.11")
    clinic.settings["delivery"]["port"] = greeter.port
    clinic.zone.mx("gmail.com", [(5, "mx.gmail.example")])
    clinic.zone.address("mx.gmail.example", "127.0.0.1")
    (finding,) = clinic.look("port_25")
    assert finding.severity == "ok"
    assert greeter.peers == ["127.0.0.2"]  # the source's own address


def test_a_smart_host_is_tried_in_place_of_mx_hosts(clinic: Clinic, greeter: Greeter) -> None:
    clinic.source("a", "192.0.2.11")
    clinic.settings["routes"] = [{"domains": ["*"], "hosts": [f"127.0.0.1:{greeter.port}"]}]
    assert [finding.severity for finding in clinic.look("port_25")] == ["ok"]


def test_a_smart_host_that_is_not_there_is_an_error(clinic: Clinic) -> None:
    clinic.source("a", "192.0.2.11")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        clinic.settings["routes"] = [{"domains": ["*"], "hosts": [f"127.0.0.1:{closed.getsockname()[1]}"]}]
    (finding,) = clinic.look("port_25")
    assert finding.severity == "error"
    assert "smart host" in finding.found


def test_a_port_where_nobody_answers_seems_blocked(clinic: Clinic) -> None:
    clinic.source("a", "192.0.2.11")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        clinic.settings["delivery"]["port"] = closed.getsockname()[1]
    clinic.zone.mx("gmail.com", [(5, "mx.gmail.example")])
    clinic.zone.address("mx.gmail.example", "127.0.0.1")
    (finding,) = clinic.look("port_25")
    assert (finding.severity, finding.found.startswith("outbound port")) == ("error", True)


def test_silence_seems_blocked_too(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silence(*arguments: Any, **options: Any) -> Any:
        raise TimeoutError

    monkeypatch.setattr(asyncio, "open_connection", silence)
    clinic.source("a", "192.0.2.11")
    clinic.zone.mx("gmail.com", [(5, "mx.gmail.example")])
    clinic.zone.address("mx.gmail.example", "127.0.0.1")
    assert [finding.severity for finding in clinic.look("port_25")] == ["error"]


def test_without_mx_hosts_to_try_nothing_is_said(clinic: Clinic) -> None:
    clinic.source("a", "192.0.2.11")
    assert [finding.severity for finding in clinic.look("port_25")] == ["unknown"]


def test_an_address_that_is_not_here_is_no_blocked_port(clinic: Clinic, greeter: Greeter) -> None:
    clinic.source("a", "192.0.2.11")
    clinic.settings["sources"][0]["address"] = "203.0.113.77"
    clinic.settings["delivery"]["port"] = greeter.port
    clinic.zone.mx("gmail.com", [(5, "mx.gmail.example")])
    clinic.zone.address("mx.gmail.example", "127.0.0.1")
    assert [finding.severity for finding in clinic.look("port_25")] == ["unknown"]
