"""A zone that tests write, the doctor that looks at it, and a hand that publishes what the doctor prints."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.config.load import load_text
from fastrelay.config.schema import Config
from fastrelay.doctor.findings import DnsMend, Finding, Report, quoted
from fastrelay.doctor.run import Doctor, Wish
from fastrelay.route.resolver import Answer
from fastrelay.sim.dns import SERVFAIL, Zone, canonical
from fastrelay.tls.mta_sts import Policy, PolicyError

NOW = 1_795_000_000.0  # November 2026


class ZoneResolver:
    """Answers from a Zone without sockets, in the form that resolver.Resolver gives. A scripted name is temporary."""

    def __init__(self, zone: Zone, validating: bool = False) -> None:
        self.zone = zone
        self.validating = validating
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, rdtype: str) -> Answer:
        self.asked.append((name, rdtype))
        owner = canonical(name)
        for _ in range(8):
            if self.zone.scripted(owner, rdtype) is not None:
                return Answer("temporary", detail=f"{SERVFAIL} of {owner}")
            found = self.zone.records(owner, rdtype)
            if found:
                return Answer("ok", tuple(_plain(rdtype, text) for text in found), 300, self.validating)
            alias = self.zone.records(owner, "CNAME")
            if not alias:
                break
            owner = canonical(alias[0])
        status = "nodata" if self.zone.exists(owner) else "nxdomain"
        return Answer(status, secure=self.validating)  # type: ignore[arg-type]


def _plain(rdtype: str, text: str) -> Any:
    if rdtype == "MX":
        preference, host = text.split()
        return int(preference), canonical(host) or "."
    if rdtype in ("A", "AAAA"):
        return text
    if rdtype == "PTR":
        return canonical(text)
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(rdtype), text).to_wire()


def publish(zone: Zone, name: str, text: str) -> None:
    """A TXT record, however long."""
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)] or [""]
    zone.add(name, "TXT", " ".join(quoted(piece) for piece in pieces))


def follow(zone: Zone, records: Iterable[DnsMend]) -> None:
    """Do what the doctor says: records that go are removed, the printed lines are published."""
    for record in records:
        key = (canonical(record.name), record.rdtype)
        held = zone._records.get(key, [])
        texts = [_text(record.rdtype, one) for one in held]
        missing = [old for old in record.replaces if old not in texts]
        assert not missing, f"the mend takes away what is not there: {missing} of {texts}"
        zone._records[key] = [one for one, text in zip(held, texts, strict=True) if text not in record.replaces]
        zone.version += 1
        if record.zone_lines():
            printed = " ".join(line.strip() for line in record.zone_lines())
            read = re.fullmatch(r"(\S+)\. 3600 IN (\S+) (?:\( (.*) \)|(.*))", printed)
            assert read is not None, printed
            assert (read[1], read[2]) == (record.name, record.rdtype)
            zone.add(read[1], read[2], read[3] or read[4])


def _text(rdtype: str, text: str) -> str:
    if rdtype != "TXT":
        return text
    rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text)
    return b"".join(rdata.strings).decode()


class Clinic:
    """A relay's configuration, the DNS around it, and looks at both."""

    def __init__(self, folder: Path) -> None:
        self.zone = Zone()
        self.folder = folder
        self.settings: dict[str, Any] = {
            "hostname": "mta.news.example",
            "state_dir": str(folder),
            "delivery": {"allow_private_hosts": True},
            "doctor": {"timeout": "5s"},
        }
        self.validating = False
        self.relay: dict[str, Any] = {}
        self.policy: Policy | PolicyError = Policy("testing", ("*.news.example",), 86400)

    def source(self, name: str, address: str, ehlo: str | None = None) -> None:
        """A sending address, as the outside sees it."""
        number = len(self.settings.get("sources", ())) + 1
        local = f"fd00::{number:x}" if ":" in address else f"127.0.{number // 250}.{number % 250 + 1}"
        one = {"name": name, "address": local, "public_address": address, "ehlo": ehlo or f"{name}.news.example"}
        self.settings.setdefault("sources", []).append(one)

    def config(self) -> Config:
        return load_text(json.dumps(self.settings), folder=str(self.folder))

    def report(self, *only: str, **wish: Any) -> Report:
        wished = Wish(only=only, **{key: tuple(value) for key, value in wish.items()})
        clock = SimulatedClock(start=NOW)
        resolver = ZoneResolver(self.zone, self.validating)
        return asyncio.run(Doctor(self.config(), clock, wished, resolver, self.relay, self.fetch).look())

    async def fetch(self, domain: str) -> Policy:
        """The MTA-STS policy of any domain."""
        if isinstance(self.policy, PolicyError):
            raise self.policy
        return self.policy

    def look(self, *only: str, **wish: Any) -> list[Finding]:
        """The findings of some checks."""
        return self.report(*only, **wish).findings

    def bad(self, *only: str, **wish: Any) -> list[Finding]:
        """Those that are neither good nor a note."""
        return [one for one in self.look(*only, **wish) if one.severity not in ("ok", "note")]

    def follow(self, records: Iterable[DnsMend]) -> None:
        """Publish what is printed."""
        follow(self.zone, records)

    def mend(self, check: str, rounds: int = 4) -> int:
        """Publish what is printed until nothing bad is left; how many rounds that took."""
        for number in range(rounds):
            bad = self.bad(check)
            if not bad:
                return number
            for finding in bad:
                assert finding.records, finding
                follow(self.zone, finding.records)
                break
        assert not self.bad(check), self.bad(check)
        return rounds


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """With nothing in the DNS, and no sources."""
    return Clinic(tmp_path)


@pytest.fixture
def news(clinic: Clinic) -> Clinic:
    """Two sources and the sender domain news.example."""
    clinic.source("a", "192.0.2.11")
    clinic.source("b", "192.0.2.12")
    clinic.settings["doctor"] = {"domains": ["news.example"], "timeout": "5s"}
    return clinic


@pytest.fixture
def txt() -> Callable[[Zone, str, str], None]:
    return publish


@pytest.fixture
def resolver() -> type[ZoneResolver]:
    return ZoneResolver
