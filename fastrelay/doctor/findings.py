"""What the doctor finds: one Finding for each thing that was looked at, with the exact mend where something is wrong.

A mend is a record of the DNS (`DnsMend`: what to publish, and in place of what), a command, or words. Tests apply the
records to a zone and look again, so a printed record is one that helps.

The JSON form of a Report is what scripts read: keys are added, never renamed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

Severity = Literal["ok", "note", "unknown", "warning", "error"]
Area = Literal["source", "domain", "tls", "relay", "host"]

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "unknown", "warning", "error")  # from good to bad

# Every check, in the order of the output: its area, and what it is about.
CHECKS: dict[str, tuple[Area, str]] = {
    "address": ("source", "the address that the outside sees"),
    "ptr": ("source", "reverse DNS, confirmed by the forward DNS"),
    "ehlo": ("source", "the name in EHLO"),
    "helo_spf": ("source", "SPF of the name in EHLO"),
    "block_lists": ("source", "DNS block lists"),
    "port_25": ("source", "outbound connections to MX hosts"),
    "spf": ("domain", "SPF of the sender domain"),
    "dkim": ("domain", "DKIM keys: published, ours, and a signature that verifies"),
    "dmarc": ("domain", "DMARC policy, and what it aligns with"),
    "mx": ("domain", "where bounces of the domain go"),
    "mta_sts": ("domain", "MTA-STS record of the sender domain"),
    "tls_rpt": ("domain", "TLS-RPT record of the sender domain"),
    "certificate": ("tls", "the certificate of our listeners"),
    "outbound_tls": ("relay", "TLS with MX hosts"),
    "unsubscribe": ("relay", "one-click unsubscribing"),
    "resolver": ("host", "does the resolver validate DNSSEC?"),
    "clock": ("host", "is the clock set?"),
    "open_files": ("host", "open files for the configured connections"),
    "port_range": ("host", "local ports for the configured connections"),
    "disk": ("host", "the disk of the spool: kind, room, syncs a second"),
    "secrets": ("host", "modes and owners of files that hold secrets"),
}
# Checks that --quick leaves out: they connect to others, or keep the disk busy for a moment.
SLOW_CHECKS = ("block_lists", "port_25", "disk")

# Checks that are nothing but questions to the DNS.
DNS_CHECKS = ("ptr", "ehlo", "helo_spf", "block_lists", "spf", "dmarc", "mx", "mta_sts", "tls_rpt")

SHOWN_LINE = 90  # octets of a record in one line of the output
SHOWN_OCTETS = 72  # of a long TXT record in one string of the output; several strings make the same record
RECORD_TTL = 3600


class DnsMend(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish (or only to remove, where `value` is empty).

    value     presentation form without quotes for TXT, else as in a zone file
    replaces  values of records at this name and type that must go
    """

    name: str
    rdtype: str
    value: str
    replaces: tuple[str, ...] = ()

    def zone_lines(self) -> list[str]:
        """The record as a zone file has it; a long TXT in several strings, within brackets. Nothing to publish: []."""
        if not self.value:
            return []
        head = f"{self.name}. {RECORD_TTL} IN {self.rdtype}"
        if self.rdtype != "TXT":
            return [f"{head} {self.value}"]
        if len(head) + len(self.value) <= SHOWN_LINE:
            return [f"{head} {quoted(self.value)}"]
        pieces = [self.value[at : at + SHOWN_OCTETS] for at in range(0, len(self.value), SHOWN_OCTETS)]
        return [f"{head} (", *(f"    {quoted(piece)}" for piece in pieces), ")"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    subject   the domain, `source NAME`, `host`, …
    found     what was found, a clause
    why       why it matters: who rejects or junks mail because of it, and who says so
    mend      what to do, a clause; may be ""
    records   to be published in the DNS
    commands  to be run on this host
    """

    check: str
    subject: str
    severity: Severity
    found: str
    why: str = ""
    mend: str = ""
    records: tuple[DnsMend, ...] = ()
    commands: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All findings of one look."""

    findings: list[Finding]
    finished: float  # seconds since 1970
    took_seconds: float
    complete: bool  # every check of every source and domain, so that metrics may be made of it

    def counts(self) -> dict[str, int]:
        """Findings by severity, those without any as 0."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in reversed(SEVERITIES)}

    def by_check(self) -> dict[str, dict[str, int]]:
        """Findings by check and severity, for the metrics."""
        counted: dict[str, dict[str, int]] = {}
        for finding in self.findings:
            row = counted.setdefault(finding.check, dict.fromkeys(SEVERITIES, 0))
            row[finding.severity] += 1
        return counted

    def exit_code(self) -> int:
        """0 all is well, 1 warnings, 2 errors, 3 nothing could be looked up in the DNS."""
        counts = self.counts()
        if counts["error"]:
            return 2
        asked = [one for one in self.findings if one.check in DNS_CHECKS]
        if asked and all(one.severity == "unknown" for one in asked):
            return 3
        return 1 if counts["warning"] else 0


def quoted(text: str) -> str:
    """A character-string as zone files write it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def listed(values: Sequence[object], most: int = 4) -> str:
    """`a, b and c`; more than `most`: `a, b, c, d and 6 more`."""
    texts = [str(value) for value in values]
    if len(texts) > most:
        return ", ".join(texts[:most]) + f" and {len(texts) - most} more"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
