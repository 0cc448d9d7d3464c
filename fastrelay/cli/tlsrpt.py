"""`fastrelay tlsrpt show|send`: TLS with MX hosts, counted by day and domain, and the reports on it (RFC 8460)."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import connect, relay_options

COMMANDS = {
    "show": ("fastrelay.cli.tlsrpt:show", "Counted sessions and the state of each report."),
    "send": ("fastrelay.cli.tlsrpt:send", "Send the reports of a day now."),
}

EPILOG = """\b
Every connection to an MX host is counted, by UTC day and recipient domain: as successful where
TLS was agreed on, else by what failed. A domain that publishes _smtp._tls.DOMAIN gets a report
of each day within tls.outbound.reports.delay after its end, if tls.outbound.reports.sender is
set. Counts and reports are kept for tls.outbound.reports.keep.

\b
Examples:
  fastrelay tlsrpt show
  fastrelay tlsrpt show --day 2026-11-23 --domain example.com --json
  fastrelay tlsrpt send --day 2026-11-22 --domain example.com

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""
DAY = "A UTC day, such as 2026-11-23."


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def tlsrpt() -> None:
    """TLS with MX hosts, counted by domain, and the reports on it."""


@click.command(
    epilog="""\b
STATE of a report:
  counted   nothing is sent: tls.outbound.reports.sender is not set
  waiting   its hour, or the next attempt, is to come
  sent      every address that the domain names has it, or will never take it
  none      the domain asks for no reports
  failed    no address took it within a day

\b
Examples:
  fastrelay tlsrpt show --day 2026-11-22
  fastrelay tlsrpt show --domain example.com --json | jq '.reports[].report'
"""
)
@click.option("--day", metavar="DAY", help=DAY + "  [default: all that are kept]")
@click.option("--domain", metavar="DOMAIN", help="One recipient domain; with --json, its whole report.")
@relay_options
def show(
    day: str | None, domain: str | None, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Show counted sessions and the state of each report."""
    from fastrelay.cli.output import print_json

    answer = _ask("tlsrpt.show", {"day": day, "domain": domain}, config_path, state_dir, timeout)
    if as_json:
        print_json(answer)
        return
    if not answer["reports"]:
        click.echo("nothing was counted")
    else:
        show_reports(answer["reports"], details=domain is not None)
    if answer.get("lost"):
        click.echo(f"{answer['lost']} sessions were not counted: more kinds of them than are kept")


@click.command(
    epilog="""\b
Domains whose report was sent, or that ask for none, are passed over unless --again.

\b
Examples:
  fastrelay tlsrpt send --day 2026-11-22
  fastrelay tlsrpt send --day 2026-11-22 --domain example.com --again
"""
)
@click.option("--day", metavar="DAY", required=True, help=DAY + " It must be over.")
@click.option("--domain", metavar="DOMAIN", help="Only to this domain.")
@click.option("--again", is_flag=True, help="Also what was sent before.")
@relay_options
def send(
    day: str,
    domain: str | None,
    again: bool,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Send the reports of a day now, not at their hour."""
    from fastrelay.cli.output import plural, print_json

    arguments = {"day": day, "domain": domain, "again": again or None}
    answer = _ask("tlsrpt.send", arguments, config_path, state_dir, timeout)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{plural(answer['due'], 'report')} now on the way; `fastrelay tlsrpt show` tells what becomes of them")
    if answer["passed_over"]:
        click.echo(f"{plural(answer['passed_over'], 'domain')} passed over: sent before, or none asked for (--again)")


def _ask(
    command: str, arguments: dict[str, Any], config_path: str | None, state_dir: str | None, timeout: float
) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value is not None}
    with connect(config_path, state_dir, timeout) as relay:
        answer: dict[str, Any] = relay.call(command, given)
    return answer


def show_reports(reports: list[dict[str, Any]], details: bool) -> None:
    """One line for each day and domain; for one domain also what failed, and where the report went."""
    from fastrelay.cli.output import LEFT, RIGHT, clean, count, print_table

    columns = [("DAY", LEFT), ("DOMAIN", LEFT), ("SUCCESS", RIGHT), ("FAILURE", RIGHT), ("STATE", LEFT)]
    rows = [[one["day"], one["domain"], count(one["success"]), count(one["failure"]), one["state"]] for one in reports]
    print_table(columns, rows)
    for one in reports:
        where = f"{clean(one['day'])} {clean(one['domain'])}"
        for to in one["destinations"]:
            click.echo(f"{where}: {clean(to['uri'])}: {to['state']}{_behind(to['detail'])}")
        if one["state"] in ("waiting", "failed") and one["detail"]:
            click.echo(f"{where}: {clean(one['detail'])}")
        if details:
            for line in _failures(one["report"]):
                click.echo(f"{where}: {clean(line)}")


def _behind(words: str) -> str:
    from fastrelay.cli.output import clean

    return f" ({clean(words)})" if words else ""


def _failures(report: dict[str, Any]) -> list[str]:
    """What failed, one line each."""
    lines = []
    for policy in report["policies"]:
        for failure in policy.get("failure-details", []):
            host = failure.get("receiving-mx-hostname", "no host")
            words = failure.get("failure-reason-code", "")
            lines.append(
                f"{policy['policy']['policy-type']}: {failure['result-type']} at {host}, "
                f"{failure['failed-session-count']} times{': ' + words if words else ''}"
            )
    return lines
