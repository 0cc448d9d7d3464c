"""`fastrelay tls DOMAIN`: what it finds out and how it shows it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tls_certificates import Certificate, make, only_signs
from support.tls_smtp import TlsHost, server_context

from fastrelay.cli import tls as command
from fastrelay.cli.group import cli
from fastrelay.clock import RealClock
from fastrelay.config.schema import from_builtins
from fastrelay.route.resolver import Answer, Nameserver
from fastrelay.tls.look import Look
from fastrelay.tls.mta_sts import Policy, PolicyError

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
DURING = {"start": NOW - DAY, "end": NOW + 90 * DAY}


class Dns:
    """A DNS of a dict; every answer is validated if `secure`."""

    def __init__(self, secure: bool = False, trusted: bool = True) -> None:
        self.records: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.failing: set[tuple[str, str]] = set()
        self.secure = secure
        server = Nameserver("127.0.0.1")
        server.trusted = trusted
        self.nameservers = [server]

    def text(self, name: str, text: str) -> None:
        self.records[name, "TXT"] = (bytes([len(text)]) + text.encode(),)

    async def query(self, name: str, rdtype: str) -> Answer:
        if (name, rdtype) in self.failing:
            return Answer("temporary", detail="127.0.0.1:53 answers SERVFAIL")
        found = self.records.get((name, rdtype))
        if found is not None:
            return Answer("ok", found, 600, self.secure)
        known = any(owner == name for owner, _ in self.records)
        return Answer("nodata" if known else "nxdomain", ttl=60, secure=self.secure)


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return make("test CA", ca=True, key_usage=only_signs(certificates=True), **DURING)


@pytest.fixture
def leaf(authority: Certificate) -> Certificate:
    return authority.issue("mx", "mx1.test", "mx2.test", **DURING)


def look(
    dns: Dns,
    *,
    policy: Policy | Exception | None = None,
    hosts: dict[str, TlsHost] | None = None,
    domain: str = "a.test",
    **config: Any,
) -> dict[str, Any]:
    """A look at a.test. Its MX hosts are mx1.test and mx2.test, or those that are given, each at its own port."""

    async def work() -> dict[str, Any]:
        if hosts:
            for name, host in hosts.items():
                await host.__aenter__()
                dns.records[name, "A"] = (host.address,)
        port = next(iter(hosts.values())).port if hosts else 25
        if hosts:
            for host in list(hosts.values())[1:]:
                assert host.port == port
        built = {"hostname": "relay.test", "delivery": {"port": port, "allow_private_hosts": bool(hosts)}, **config}
        found = Look(from_builtins(built), RealClock(), resolver=dns)  # type: ignore[arg-type]

        async def text(name: str) -> bytes:
            if isinstance(policy, Exception):
                raise policy
            assert policy is not None
            lines = ["version: STSv1", f"mode: {policy.mode}", f"max_age: {policy.max_age}"]
            return "\n".join(lines + [f"mx: {one}" for one in policy.mx]).encode()

        found._fetcher.text = text  # type: ignore[method-assign]
        try:
            return await found.look(domain, connect=bool(hosts))
        finally:
            for host in (hosts or {}).values():
                await host.__aexit__()

    dns.records.setdefault(("a.test", "MX"), ((10, "mx1.test"), (20, "mx2.test")) if not hosts else ((10, "mx1.test"),))
    for name in ("mx1.test", "mx2.test"):
        dns.records.setdefault((name, "A"), ("8.8.8.8",))
    return asyncio.run(work())


def page(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What is shown, on one line."""
    command.show(found)
    return " ".join(capsys.readouterr().out.split())


def tlsa(certificate: Certificate, usage: int = 3) -> bytes:
    return bytes((usage, 1, 1)) + hashlib.sha256(certificate.spki).digest()


# -- policies ---------------------------------------------------------------------------------------------------------


def test_nothing_published(capsys: pytest.CaptureFixture[str]) -> None:
    found = look(Dns())
    assert found["exit_code"] == 0
    assert found["policy"]["kind"] == "opportunistic"
    assert [one["plan"]["mode"] for one in found["hosts"]] == ["starttls", "starttls"]
    shown = page(found, capsys)
    assert shown.startswith(
        "a.test: its mail goes out with TLS where it is offered, and nobody is authenticated level "
    )
    assert "MTA-STS no record, so no policy" in shown
    assert "TLS-RPT no record" in shown
    assert "not secured by DNSSEC, so there is no DANE" in shown


def test_mta_sts(capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns()
    dns.text("_mta-sts.a.test", "v=STSv1; id=7")
    dns.text("_smtp._tls.a.test", "v=TLSRPTv1; rua=mailto:tls@a.test")
    found = look(dns, policy=Policy("enforce", ("mx1.test",), 604800))
    assert found["exit_code"] == 1  # one host is passed over
    assert found["policy"]["kind"] == "mta-sts"
    assert found["mta_sts"]["policy"] == {"id": "7", "mode": "enforce", "mx": ["mx1.test"], "max_age": 604800}
    assert [one["mta_sts"] for one in found["hosts"]] == [True, False]
    assert [one["plan"]["verified"] for one in found["hosts"]] == ["mta-sts", None]
    shown = page(found, capsys)
    assert "authenticated by MTA-STS" in shown
    assert "✗ mx2.test:25 passed over (validation-failure)" in shown
    assert "the MTA-STS policy does not name mx2.test" in shown
    assert "v=TLSRPTv1; rua=mailto:tls@a.test" in shown
    assert look(dns, policy=Policy("enforce", ("*.test",), 604800))["exit_code"] == 0
    assert look(dns, policy=Policy("enforce", ("other.test",), 604800))["exit_code"] == 2
    testing = look(dns, policy=Policy("testing", ("mx1.test",), 604800))
    assert (testing["exit_code"], testing["policy"]["kind"]) == (1, "mta-sts-testing")
    assert "testing: what fails is reported" in page(testing, capsys)


def test_a_policy_that_cannot_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns()
    dns.text("_mta-sts.a.test", "v=STSv1; id=7")
    found = look(dns, policy=PolicyError("sts-webpki-invalid", "its certificate is refused"))
    assert (found["exit_code"], found["mta_sts"]["result"]) == (1, "sts-webpki-invalid")
    assert "its certificate is refused" in page(found, capsys)
    assert look(dns, policy=PolicyError("x", "y"), tls={"outbound": {"level": "mta-sts"}})["exit_code"] == 2


def test_dane(leaf: Certificate, capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns(secure=True)
    dns.records["_25._tcp.mx1.test", "TLSA"] = (tlsa(leaf), bytes((1, 1, 1)) + bytes(32))
    dns.failing.add(("_25._tcp.mx2.test", "TLSA"))
    found = look(dns)
    assert (found["exit_code"], found["policy"]["kind"]) == (1, "dane")
    assert [one["plan"]["mode"] for one in found["hosts"]] == ["starttls", "skip"]
    shown = page(found, capsys)
    assert "secured by DNSSEC, so TLSA records of the hosts count" in shown
    assert "✓ mx1.test:25 TLS, authenticated by DANE" in shown
    assert "the server's own public key (SHA-256); names and dates do not matter" in shown
    assert "usage 1 (PKIX-EE) means nothing for SMTP" in shown
    assert "✗ mx2.test:25 passed over (dnssec-invalid)" in shown


def test_a_nameserver_that_is_not_believed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "dns.trust_ad" in page(look(Dns(trusted=False)), capsys)


@pytest.mark.parametrize(
    ("settings", "where", "words", "code"),
    [
        ({"level": "none"}, "tls.outbound.level", "without TLS", 0),
        ({"level": "required"}, "tls.outbound.level", "with TLS only", 0),
        ({"domains": {"*.b.test": "none", "a.test": "verify"}}, "tls.outbound.domains, a.test", "by a CA", 0),
        ({"level": "dane"}, "tls.outbound.level", "its mail waits (tls_policy)", 2),
    ],
)
def test_levels(
    settings: dict[str, Any], where: str, words: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = look(Dns(), tls={"outbound": settings})
    assert (found["level_from"], found["exit_code"]) == (where, code)
    assert words in page(found, capsys)


def test_routes(capsys: pytest.CaptureFixture[str]) -> None:
    smart = [{"domains": ["*"], "hosts": ["192.0.2.1:465"], "tls": "implicit"}]
    found = look(Dns(), routes=smart)
    assert found["level_from"] == "the route of this domain"
    shown = page(found, capsys)
    assert "the hosts are named by the configuration" in shown
    assert "TLS from the first octet, authenticated by a CA" in shown
    found = look(Dns(), routes=[{"domains": ["*"], "action": "discard"}])
    assert found["exit_code"] == 3
    assert "its mail is discarded" in page(found, capsys)


def test_no_route(capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns()
    assert look(dns, domain="nowhere.test")["exit_code"] == 3
    dns.failing.add(("b.test", "MX"))
    found = look(dns, domain="b.test")
    assert found["exit_code"] == 3
    assert "its mail waits for the DNS" in page(found, capsys)
    assert "not a domain" in page(look(dns, domain="a_b c"), capsys) or found["hosts"] == []


def test_host_without_address() -> None:
    dns = Dns()
    dns.records["a.test", "MX"] = ((10, "gone.test"),)
    found = look(dns)
    assert (found["exit_code"], found["hosts"][0]["addresses"]) == (2, [])


# -- connecting -------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path: Path, leaf: Certificate, authority: Certificate) -> Callable[..., TlsHost]:
    return lambda *chain, **more: TlsHost(server_context(tmp_path, *(chain or (leaf, authority))), **more)


def connected(found: dict[str, Any]) -> dict[str, Any]:
    [host] = found["hosts"]
    connection: dict[str, Any] = host["connection"]
    return connection


def test_connect(one: Callable[..., TlsHost], capsys: pytest.CaptureFixture[str]) -> None:
    host = one()
    found = look(Dns(), hosts={"mx1.test": host})
    connection = connected(found)
    assert (found["exit_code"], connection["ok"]) == (0, True)
    assert connection["version"].startswith("TLSv1.")
    assert connection["certificate"]["names"] == ["mx1.test", "mx2.test"]
    assert host.names == ["mx1.test"]
    assert host.commands == ["EHLO", "STARTTLS"]
    shown = page(found, capsys)
    assert "the certificate does not matter" in shown
    assert "certificate for mx1.test, mx2.test; until" in shown
    assert "all hosts were connected to" in shown


def test_connect_with_dane(one: Callable[..., TlsHost], leaf: Certificate, authority: Certificate) -> None:
    for certificate, usage, fine in [(leaf, 3, True), (authority, 2, True), (authority, 3, False), (leaf, 2, False)]:
        dns = Dns(secure=True)
        host = one()

        async def query(
            name: str, rdtype: str, original: Any = dns.query, octets: bytes = tlsa(certificate, usage)
        ) -> Answer:
            if rdtype == "TLSA" and name.endswith("._tcp.mx1.test"):
                return Answer("ok", (octets,), 600, True)
            return await original(name, rdtype)  # type: ignore[no-any-return]

        dns.query = query  # type: ignore[method-assign]
        found = look(dns, hosts={"mx1.test": host})
        assert connected(found)["ok"] is fine, (usage, connected(found))
        assert found["exit_code"] == (0 if fine else 2)


def test_connect_with_a_ca(
    one: Callable[..., TlsHost], tmp_path: Path, leaf: Certificate, authority: Certificate
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    outbound = {"level": "verify", "ca_file": str(tmp_path / "ca.pem")}
    found = look(Dns(), hosts={"mx1.test": one()}, tls={"outbound": outbound})
    assert (found["exit_code"], connected(found)["words"]) == (0, "the certificate is valid for the host")
    other = authority.issue("x", "other.test", **DURING)
    found = look(Dns(), hosts={"mx1.test": one(other)}, tls={"outbound": outbound})
    assert found["exit_code"] == 2
    assert "Hostname mismatch" in connected(found)["words"]
    assert connected(found)["certificate"]["names"] == ["other.test"]  # whose it is


def test_connect_under_a_policy_in_testing_mode(
    one: Callable[..., TlsHost], tmp_path: Path, authority: Certificate
) -> None:
    """Mail goes out, and what enforce mode would refuse is a warning."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    outbound = {"ca_file": str(tmp_path / "ca.pem")}
    for name, code in [("mx1.test", 0), ("other.test", 1)]:
        dns = Dns()
        dns.text("_mta-sts.a.test", "v=STSv1; id=7")
        host = one(authority.issue("x", name, **DURING))
        policy = Policy("testing", ("mx1.test",), 604800)
        found = look(dns, hosts={"mx1.test": host}, policy=policy, tls={"outbound": outbound})
        assert (found["exit_code"], connected(found)["ok"]) == (code, True), found
        assert ("not for mx1.test" in connected(found)["words"]) is (code == 1)


def test_connect_to_hosts_without_tls(one: Callable[..., TlsHost], tmp_path: Path) -> None:
    for level, code in [("opportunistic", 0), ("required", 2)]:
        found = look(Dns(), hosts={"mx1.test": TlsHost(None)}, tls={"outbound": {"level": level}})
        assert (found["exit_code"], connected(found)["words"]) == (code, "STARTTLS is not offered")
    found = look(Dns(), hosts={"mx1.test": one(answer="454 no")})
    assert connected(found)["words"] == "it answers '454 no'"
    found = look(Dns(), hosts={"mx1.test": TlsHost(None)}, tls={"outbound": {"level": "none"}})
    assert connected(found)["words"] == "TLS is not tried"


def test_nobody_there() -> None:
    class Nobody(TlsHost):
        async def __aenter__(self) -> TlsHost:
            await super().__aenter__()
            await super().__aexit__()
            return self

        async def __aexit__(self, *error: object) -> None:
            pass

    found = look(Dns(), hosts={"mx1.test": Nobody(None)})
    assert connected(found)["ok"] is False
    assert found["exit_code"] == 2


def test_implicit(one: Callable[..., TlsHost], tmp_path: Path, authority: Certificate) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    host = one(implicit=True)

    async def work() -> dict[str, Any]:
        async with host:
            dns = Dns()
            dns.records["mx1.test", "A"] = (host.address,)
            routes = [{"domains": ["*"], "hosts": [f"mx1.test:{host.port}"], "tls": "implicit"}]
            config = {"hostname": "relay.test", "routes": routes}
            outbound = {"ca_file": str(tmp_path / "ca.pem")}
            built = from_builtins(config | {"tls": {"outbound": outbound}})
            return await Look(built, RealClock(), resolver=dns).look("a.test", connect=True)  # type: ignore[arg-type]

    found = asyncio.run(work())
    assert (found["exit_code"], connected(found)["ok"]) == (0, True)
    assert host.commands == []


# -- the command ------------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def instead(config: Any, domain: str, connect: bool) -> dict[str, Any]:
        asked.append((domain, connect))
        return look(Dns())

    monkeypatch.setattr(command, "_look", instead)
    (tmp_path / "fastrelay.yaml").write_text(f"hostname: relay.test\nstate_dir: {tmp_path}\n")
    arguments = ["tls", "-c", str(tmp_path / "fastrelay.yaml")]
    told = CliRunner().invoke(cli, [*arguments, "<you@a.test>", "--connect", "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["domain"] == "a.test"
    told = CliRunner().invoke(cli, [*arguments, "a.test"])
    assert told.stdout.startswith("a.test: ")
    assert asked == [("a.test", True), ("a.test", False)]
    assert CliRunner().invoke(cli, [*arguments, "you@"]).exit_code == 2
    (tmp_path / "fastrelay.yaml").write_text("hostname: [")
    assert CliRunner().invoke(cli, [*arguments, "a.test"]).exit_code == 3


def test_what_others_wrote_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns()
    dns.text("_smtp._tls.a.test", "v=TLSRPTv1; \x1b[2J")
    assert "\x1b" not in page(look(dns), capsys)


def test_help() -> None:
    assert "Exit codes" in CliRunner().invoke(cli, ["tls", "--help"]).stdout
