"""Does the doctor see whether a resolver validates? Asked of Unbound, which does, and of Knot, which does not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.signed_dns import SignedDns

from fastrelay.clock import RealClock
from fastrelay.config.load import load_text
from fastrelay.doctor import network_check
from fastrelay.doctor.findings import Finding
from fastrelay.doctor.run import Doctor, Wish

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedDns]:
    zones = {"test": "", "insecure.test": "", "bogus.test": "x IN A 192.0.2.1\n"}
    with SignedDns(tmp_path_factory.mktemp("dns"), zones) as running:
        yield running


def look(nameserver: str, folder: Path) -> Finding:
    text = f"""
hostname: mta.test
state_dir: {folder}
dns: {{nameservers: ["{nameserver}"], timeout: 20s}}
doctor: {{timeout: 60s}}
"""
    report = asyncio.run(Doctor(load_text(text), RealClock(), Wish(only=("resolver",))).look())
    (finding,) = report.findings
    return finding


@pytest.fixture(autouse=True)
def zones_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "SIGNED_ZONES", ("test",))
    monkeypatch.setattr(network_check, "BROKEN_NAME", "x.bogus.test")


def test_a_resolver_that_validates(signed: SignedDns, tmp_path: Path) -> None:
    finding = look(signed.nameserver, tmp_path)
    assert (finding.severity, "validates" in finding.found) == ("ok", True), finding


def test_a_nameserver_that_does_not(signed: SignedDns, tmp_path: Path) -> None:
    finding = look(signed.authority, tmp_path)
    assert (finding.severity, "does not validate" in finding.found) == ("warning", True), finding


def test_a_zone_without_signatures_tells_nothing_good(
    signed: SignedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_check, "SIGNED_ZONES", ("insecure.test",))
    assert look(signed.nameserver, tmp_path).severity == "warning"


def test_a_resolver_that_believes_broken_signatures_is_found(
    signed: SignedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_check, "BROKEN_NAME", "ns.test")  # stands for one that should not be answered
    finding = look(signed.nameserver, tmp_path)
    assert (finding.severity, "believes" in finding.found) == ("warning", True), finding
