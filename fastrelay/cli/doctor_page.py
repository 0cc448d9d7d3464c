"""How `fastrelay doctor` looks on a terminal: findings by subject, the mend ready to be copied, a summary line.

Words are folded to the width of the terminal (100 columns at most); records and commands are not, so that they can be
copied as they are (long TXT records come in several strings, which is the same record). What is well takes one line
per subject unless all is asked for.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from fastrelay.cli.output import clean, duration, plural, terminal_width

if TYPE_CHECKING:
    from fastrelay.doctor.findings import DnsMend, Finding, Report

WIDEST = 100
CHECK_COLUMN = 12
INDENT = 2 + 2 + CHECK_COLUMN + 1  # margin, mark, name of the check, gap

MARKS = {"ok": "✓", "note": "·", "unknown": "?", "warning": "!", "error": "✗"}
COLOURS = {"ok": "green", "note": "cyan", "unknown": "magenta", "warning": "yellow", "error": "red"}
TITLES = {"source": "", "domain": "sender domain ", "tls": "", "relay": "", "host": ""}


def show(report: Report, show_all: bool) -> None:
    """The findings, then the summary line."""
    from fastrelay.doctor.findings import CHECKS

    for (area, subject), group in groupby(report.findings, key=lambda one: (CHECKS[one.check][0], one.subject)):
        click.echo(styled(clean(f"{TITLES[area]}{subject}"), bold=True))
        show_subject(list(group), show_all)
        click.echo()
    click.echo(summary(report))


def show_subject(findings: Sequence[Finding], show_all: bool) -> None:
    """What is well in one line, everything else in full."""
    well = list(dict.fromkeys(one.check for one in findings if one.severity == "ok"))
    bad = {one.check for one in findings if one.severity not in ("ok",)}
    clear = [check for check in well if check not in bad]
    if not show_all:
        findings = [one for one in findings if one.severity != "ok" or one.check in bad]
    for finding in findings:
        show_finding(finding)
    if clear and not show_all:
        lines = folded(", ".join(words(check) for check in clear), INDENT - CHECK_COLUMN - 1)
        mark = styled(MARKS["ok"], fg=COLOURS["ok"])
        click.echo(f"  {mark} " + "\n".join(lines).lstrip())


def show_finding(finding: Finding) -> None:
    """One finding: what, why, and the mend."""
    colour = COLOURS[finding.severity]
    lines = folded(clean(finding.found), INDENT)
    head = styled(f"{MARKS[finding.severity]} {words(finding.check):<{CHECK_COLUMN}}", fg=colour)
    click.echo(f"  {head} {lines[0].lstrip()}")
    for line in lines[1:]:
        click.echo(line)
    if finding.severity == "ok":
        return
    if finding.why:
        for line in folded(f"why: {finding.why}", INDENT):
            click.echo(styled(line, dim=True))
    if finding.mend:
        ends = ":" if finding.records or finding.commands else ""
        for line in folded(f"mend: {clean(finding.mend)}{ends}", INDENT):
            click.echo(line)
    for line in mend_lines(finding.records, finding.commands):
        click.echo("    " + styled(line, fg="green"))


def mend_lines(records: Iterable[DnsMend], commands: Iterable[str]) -> list[str]:
    """Records in the form of a zone file, with what goes as a comment; commands behind a $."""
    lines = []
    for record in records:
        # What is replaced is said only where several records become one, or none: else it is plain.
        gone = record.replaces if len(record.replaces) > 1 or not record.value else ()
        lines += [clean(f"; remove {old[:70]}{'…' if len(old) > 70 else ''}") for old in gone if old != record.value]
        lines += [clean(line) for line in record.zone_lines()]
    return lines + [f"$ {clean(command)}" for command in commands]


def summary(report: Report) -> str:
    """`2 errors, 1 warning, 3 notes, 14 ok, in 1.2s`."""
    parts = []
    for severity, number in report.counts().items():
        if not number:
            continue
        text = plural(number, severity) if severity in ("error", "warning", "note") else f"{number} {words(severity)}"
        parts.append(styled(text, fg=COLOURS[severity], bold=severity in ("error", "warning")))
    return f"{', '.join(parts) or 'nothing to look at'}, in {duration(report.took_seconds)}"


def words(name: str) -> str:
    """A check as people read it."""
    known = {"unknown": "could not tell", "ptr": "PTR", "ehlo": "EHLO", "helo_spf": "EHLO SPF", "spf": "SPF"}
    known |= {
        "dkim": "DKIM",
        "dmarc": "DMARC",
        "mx": "MX",
        "mta_sts": "MTA-STS",
        "tls_rpt": "TLS-RPT",
        "outbound_tls": "outbound TLS",
    }
    return known.get(name, name.replace("_", " "))


def folded(text: str, indent: int) -> list[str]:
    """Lines of a text, indented; at least one."""
    width = min(WIDEST, terminal_width())
    made = textwrap.wrap(
        text,
        max(indent + 20, width),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return made or [" " * indent]


def styled(text: str, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """The text in colour, where standard output is a terminal that has some."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return click.style(text, fg=fg, bold=bold or None, dim=dim or None)
