"""`fastrelay doctor`: what would land mail in spam, and the exact mend; for people, and for monitoring."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import config_option, json_option, require_config
from fastrelay.doctor.findings import CHECKS

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.doctor.findings import Report
    from fastrelay.doctor.run import Doctor, Wish

EXIT_COULD_NOT_RUN = 3
RELAY_SECONDS = 5.0

EPILOG = """\b
Sender domains are those of dkim.keys, senders and doctor.domains in the configuration,
or --domain.

\b
Examples:
  fastrelay doctor -c fastrelay.yaml               everything
  fastrelay doctor --domain news.example           one sender domain (and the sources)
  fastrelay doctor --only spf --only dkim          these checks alone
  fastrelay doctor --json | jq '.findings[] | select(.severity == "error")'

\b
Severities: error (mail is rejected, junked or lost), warning (it will be, or may be),
unknown (could not tell), note (could be better), ok.
Exit codes: 0 neither errors nor warnings; 1 warnings; 2 errors (or wrong usage); 3 could
not run: no sound configuration, or nothing could be looked up.

\b
Reply codes and rules are those of Google's Email sender guidelines and Gmail SMTP errors and
codes, Yahoo's Sender requirements, and Microsoft's page on 550 5.7.515.

\b
Checks: """


class NoConfiguration(click.UsageError):
    """There is no configuration to look at."""

    exit_code = EXIT_COULD_NOT_RUN


def _checks_text() -> str:
    """The names of the checks, in lines that fit."""
    import textwrap

    return textwrap.fill(", ".join(CHECKS), 88, initial_indent=" " * 8, subsequent_indent=" " * 8).strip()


@click.command(epilog=EPILOG + _checks_text().replace("\n        ", "\n  "))
@config_option
@click.option("--domain", "domains", metavar="D", multiple=True, help="Look at this sender domain; repeatable.")
@click.option("--source", "sources", metavar="S", multiple=True, help="Look at this source; repeatable.")
@click.option("--only", metavar="CHECK", multiple=True, type=click.Choice(list(CHECKS)), help="Make this check alone.")
@click.option("--quick", is_flag=True, help="Leave out block lists, connecting to MX hosts, and the disk.")
@click.option("--all", "show_all", is_flag=True, help="Show what is well, too, line by line.")
@click.option("--report/--no-report", default=True, help="Tell the running relay, for its metrics.  [default: report]")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    config_path: str | None,
    domains: tuple[str, ...],
    sources: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    show_all: bool,
    report: bool,
    as_json: bool,
) -> None:
    """Find what would land mail in spam, and the exact mend.

    Looks at each sending address (PTR, EHLO name, block lists), each sender domain (SPF, DKIM, DMARC,
    MX), TLS, and this host, by the configured nameservers, as MX hosts would. Each finding says
    what is wrong, who rejects mail because of it, and the DNS record or command that mends it.
    Nothing is changed, and no mail is sent.

    The results of a whole look go to the running relay as metrics (fastrelay_doctor_findings).
    """
    from fastrelay.cli.group import show_error
    from fastrelay.errors import ConfigError

    try:
        config = _load(_named(config_path), sources)
        wish = _wish(domains, sources, only, quick)
    except ConfigError as error:
        show_error(error, as_json)
        ctx.exit(EXIT_COULD_NOT_RUN)
    found = _look(config, wish, as_json)
    if report and found.complete:
        _tell_relay(config, found)
    if as_json:
        _show_json(found)
    else:
        from fastrelay.cli.doctor_page import show

        show(found, show_all)
    ctx.exit(found.exit_code())


def _named(config_path: str | None) -> str:
    """The configuration file; that there is none is no fault of the mail, so not the exit code of errors."""
    try:
        return require_config(config_path)
    except click.UsageError as error:
        raise NoConfiguration(error.message) from None


def _load(path: str, sources: tuple[str, ...]) -> Config:
    """The configuration. Raises ConfigError, click.UsageError."""
    from fastrelay.config.load import load

    config = load(path)
    known = [source.name for source in config.sources]
    for name in sources:
        if name not in known:
            there = f"the sources are {', '.join(known)}" if known else "the configuration has no sources"
            raise click.BadParameter(f"there is no source {name!r}; {there}", param_hint="--source")
    return config


def _wish(domains: tuple[str, ...], sources: tuple[str, ...], only: tuple[str, ...], quick: bool) -> Wish:
    from fastrelay.config.forms import normalize_hostname
    from fastrelay.doctor.run import Wish

    try:
        named = tuple(normalize_hostname(domain.removeprefix("@")) for domain in domains)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--domain") from None
    return Wish(named, sources, only, quick)


def _look(config: Config, wish: Wish, as_json: bool) -> Report:
    """Run the checks; progress on standard error where that is a terminal."""
    import asyncio

    import uvloop

    from fastrelay.clock import RealClock
    from fastrelay.doctor.run import Doctor

    made = Doctor(config, RealClock(), wish, relay=_relay_status(config))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not sys.stderr.isatty():
            return runner.run(made.look())
        return _with_progress(runner, made)


def _with_progress(runner: Any, made: Doctor) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("looking"), BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, of: int, what: str) -> None:
            bar.update(task, completed=done, total=of, description=what[:50])

        made.progress = advance
        report: Report = runner.run(made.look())
        return report


def _relay_status(config: Config) -> dict[str, Any]:
    """What the running relay says of itself; empty if there is none that answers."""
    from fastrelay.admin.client import ControlClient
    from fastrelay.errors import FastrelayError

    try:
        with ControlClient(config.state_dir, timeout_seconds=RELAY_SECONDS) as relay:
            status = relay.call("status")
            return status if isinstance(status, dict) else {}
    except FastrelayError:
        return {}


def _tell_relay(config: Config, found: Report) -> None:
    """Give the counts to the running relay; that none runs is fine."""
    from fastrelay.admin.client import ControlClient
    from fastrelay.errors import FastrelayError, NoRelay

    try:
        with ControlClient(config.state_dir, timeout_seconds=RELAY_SECONDS) as relay:
            relay.call("doctor.results", {"findings": found.by_check(), "finished": found.finished})
    except NoRelay:
        pass
    except FastrelayError as error:
        click.echo(f"warning: the relay did not take the results for its metrics: {error}", err=True)


def _show_json(found: Report) -> None:
    from fastrelay.cli.output import print_json

    listed = [
        {
            "check": one.check,
            "area": CHECKS[one.check][0],
            "subject": one.subject,
            "severity": one.severity,
            "found": one.found,
            "why": one.why,
            "mend": one.mend,
            "records": [
                {
                    "name": record.name,
                    "type": record.rdtype,
                    "value": record.value,
                    "replaces": list(record.replaces),
                    "zone": record.zone_lines(),
                }
                for record in one.records
            ],
            "commands": list(one.commands),
        }
        for one in found.findings
    ]
    print_json(
        {
            "summary": found.counts(),
            "exit_code": found.exit_code(),
            "finished": found.finished,
            "took_seconds": round(found.took_seconds, 3),
            "complete": found.complete,
            "findings": listed,
        }
    )
