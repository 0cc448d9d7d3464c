"""`fastrelay suppress add|remove|check|list|import|export|stats`: who gets no mail."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import DurationType, connect, relay_options
from fastrelay.config.feedback import Reason

COMMANDS = {
    "check": ("fastrelay.cli.suppress:check", "Whether an address is suppressed, and why."),
    "add": ("fastrelay.cli.suppress:add", "Suppress addresses or domains."),
    "remove": ("fastrelay.cli.suppress:remove", "Take addresses or domains off the list."),
    "list": ("fastrelay.cli.suppress:list_", "Show entries."),
    "import": ("fastrelay.cli.suppress:import_", "Read a CSV file, or a plain list of addresses."),
    "export": ("fastrelay.cli.suppress:export", "Write the list as CSV."),
    "stats": ("fastrelay.cli.suppress:stats", "How many entries there are, by reason."),
}

EPILOG = """\b
A recipient on the list is not sent to: it ends as `suppressed`, with an event. The relay fills
the list by itself (section `suppression` of the configuration): a hard bounce about the
recipient, soft bounces on several days, a complaint, an unsubscribe. A block or a throttle is
about us, and never suppresses anybody.

\b
An entry holds for an address, or a domain (example.com), and for mail of a scope:
  global          everybody's; the default
  tenant NAME     of this tenant
  sender DOMAIN   with this domain in From or in the reverse-path

\b
Examples:
  fastrelay suppress check joe@example.com
  fastrelay suppress add joe@example.com --source "asked by phone"
  fastrelay suppress add example.net --tenant acme --expire 30d
  fastrelay suppress remove joe@example.com
  fastrelay suppress import bounces.csv --dry-run
  fastrelay suppress export list.csv

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""
REASONS = Reason.__args__  # type: ignore[attr-defined]
IMPORT_RUN = 200_000  # rows sorted at a time: bounds memory, and puts neighbours into one commit
SLICE = 2000
SLICE_CHARACTERS = 400_000  # of a request, which may have 1 MiB
PROBLEMS_SHOWN = 20
PROBLEMS_KEPT = 1000


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def suppress() -> None:
    """The suppression list: who gets no mail, from whom, why, and until when."""


def scope_options(function: Any) -> Any:
    """--tenant, --sender, --global."""
    for option in (
        click.option("--global", "is_global", is_flag=True, help="Mail of everybody."),
        click.option("--sender", metavar="DOMAIN", help="Mail with this domain in From or in the reverse-path."),
        click.option("--tenant", metavar="NAME", help="Mail of this tenant; '' for mail without one."),
    ):
        function = option(function)
    return function


def scope_of(tenant: str | None, sender: str | None, is_global: bool) -> tuple[str | None, str | None]:
    """(scope, value); (None, None) where no option names one."""
    if (tenant is not None) + (sender is not None) + is_global > 1:
        raise click.UsageError("one of --tenant, --sender and --global")
    if tenant is not None:
        return "tenant", tenant
    if sender is not None:
        return "sender", sender
    return ("global", None) if is_global else (None, None)


def _expires(seconds: float | None) -> int:
    if seconds is None:
        return 0
    from fastrelay.clock import RealClock

    return int(RealClock().wall() + seconds)


reason_option = click.option("--reason", type=click.Choice(REASONS), help="Only, or with, this reason.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would change.")
addresses_argument = click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)


@click.command(
    epilog="""\b
An address is a mailbox, or a domain as example.com: that holds for all of its mailboxes, not
for its subdomains. An entry of the same scope and reason is replaced. With the answer, the
entries are on stable storage and hold for all mail that is sent from then on.

\b
Examples:
  fastrelay suppress add joe@example.com mary@example.com
  fastrelay suppress add example.net --sender news.example.com --reason unsubscribe
"""
)
@addresses_argument
@scope_options
@click.option("--reason", type=click.Choice(REASONS), default="manual", show_default=True, help="Why.")
@click.option("--source", metavar="TEXT", default="", help="A note on where it came from, at most 100 characters.")
@click.option("--expire", "expire", metavar="TIME", type=DurationType(), help="How long it holds.  [default: for ever]")
@dry_run_option
@relay_options
def add(
    addresses: tuple[str, ...], tenant: str | None, sender: str | None, is_global: bool, reason: str, source: str,
    expire: float | None, dry_run: bool, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Suppress addresses or domains."""
    from fastrelay.cli.output import plural, print_json

    scope, value = scope_of(tenant, sender, is_global)
    source, expires = source[:100] or "operator", _expires(expire)
    rows = [[address, scope or "global", value or "", reason, source, 0, expires] for address in addresses]
    total = {"new": 0, "changed": 0, "same": 0}
    problems: list[tuple[str, str]] = []
    with connect(config_path, state_dir, timeout) as relay:
        for at in range(0, len(rows), SLICE):
            answer = relay.call("suppress.put", {"rows": rows[at : at + SLICE], "dry_run": dry_run})
            for name in total:
                total[name] += answer[name]
            problems += [(addresses[at + number], words) for number, words in answer["problems"]]
    if as_json:
        print_json({**total, "problems": [{"address": address, "problem": words} for address, words in problems]})
    else:
        click.echo(f"{'would be ' if dry_run else ''}new: {plural(total['new'], 'entry').replace('entrys', 'entries')}")
        click.echo(f"changed: {total['changed']}; as before: {total['same']}")
        _show_problems(problems)
    if problems:
        sys.exit(1)


def _show_problems(problems: list[tuple[str, str]]) -> None:
    from fastrelay.cli.output import clean

    for where, words in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{clean(where)}: {clean(words)}", err=True)
    if len(problems) > PROBLEMS_SHOWN:
        click.echo(f"and {len(problems) - PROBLEMS_SHOWN} more", err=True)


@click.command(
    epilog="""\b
Without options, everything that the list has of these addresses goes. A domain's entry goes only
where the domain itself is named.

\b
Examples:
  fastrelay suppress remove joe@example.com
  fastrelay suppress remove joe@example.com --reason soft_bounces
  fastrelay suppress remove example.net --tenant acme
"""
)
@addresses_argument
@scope_options
@reason_option
@dry_run_option
@relay_options
def remove(
    addresses: tuple[str, ...], tenant: str | None, sender: str | None, is_global: bool, reason: str | None,
    dry_run: bool, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Take addresses or domains off the list."""
    from fastrelay.cli.output import print_json

    scope, value = scope_of(tenant, sender, is_global)
    arguments = {"scope": scope, "value": value, "reason": reason, "dry_run": dry_run}
    removed: list[dict[str, Any]] = []
    with connect(config_path, state_dir, timeout) as relay:
        for at in range(0, len(addresses), 1000):
            answer = relay.call("suppress.remove", {"addresses": list(addresses[at : at + 1000]), **arguments})
            removed += answer["entries"]
    if as_json:
        print_json({"removed": len(removed), "entries": removed})
        return
    for one in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {_words(one)}")
    if not removed:
        click.echo("the list has nothing of it")


def _words(entry: dict[str, Any]) -> str:
    """An entry in a line."""
    from fastrelay.cli.output import clean
    from fastrelay.cli.suppress_csv import time_of

    whose = "" if entry["scope"] == "global" else f" for {entry['scope']} {entry['scope_value'] or '(none)'}"
    source = f", {entry['source']}" if entry["source"] else ""
    until = f", until {time_of(entry['expires'])}" if entry["expires"] else ""
    over = " (expired)" if entry.get("expired") else ""
    return clean(
        f"{entry['address']}{whose}: {entry['reason']}{source}, since {time_of(entry['created'])}{until}{over}"
    )


@click.command(
    epilog="""\b
Whose mail is asked about: with --tenant and --sender, of that tenant and sender; without them,
only entries of the scope global are sure to stop it, and the others are shown.

\b
Examples:
  fastrelay suppress check joe@example.com
  fastrelay suppress check joe@example.com --tenant acme --sender news.example.com --json
"""
)
@click.argument("address", metavar="ADDRESS")
@click.option("--tenant", metavar="NAME", help="The tenant whose mail it would be; '' for none.")
@click.option("--sender", metavar="DOMAIN", help="The domain of From or of the reverse-path.")
@click.option("--transactional", is_flag=True, help="Mail of the class transactional.")
@relay_options
def check(
    address: str, tenant: str | None, sender: str | None, transactional: bool, config_path: str | None,
    state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Whether an address is suppressed, and why."""
    from fastrelay.cli.output import clean, print_json

    arguments = {"address": address, "tenant": tenant, "sender": sender, "transactional": transactional}
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("suppress.check", arguments)
    if as_json:
        print_json(answer)
        return
    by = answer["by"]
    state = "suppressed" if answer["suppressed"] else "not suppressed"
    if not answer["enabled"]:
        state += ", and suppression.enabled is off"
    click.echo(clean(f"{answer['address']} is {state}" + (f": {by['reason']}" if by else "")))
    for one in answer["entries"]:
        click.echo(f"  {_words(one)}")


@click.command(
    name="list",
    epilog="""\b
Examples:
  fastrelay suppress list --reason complaint
  fastrelay suppress list --domain example.com --limit 1000
""",
)
@click.option("--domain", metavar="DOMAIN", help="Addresses of this domain, and itself.")
@scope_options
@reason_option
@click.option("--limit", metavar="N", type=click.IntRange(1), default=50, show_default=True, help="Entries at most.")
@relay_options
def list_(
    domain: str | None, tenant: str | None, sender: str | None, is_global: bool, reason: str | None, limit: int,
    config_path: str | None, state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Show entries, in order of their addresses."""
    from fastrelay.cli.output import print_json

    scope, value = scope_of(tenant, sender, is_global)
    wanted = {"domain": domain, "scope": scope, "value": value, "reason": reason}
    found: list[dict[str, Any]] = []
    more = False
    with connect(config_path, state_dir, timeout) as relay:
        for rows in _pages(relay, wanted):
            found += [_entry(row) for row in rows[: limit - len(found) + 1]]
            if len(found) > limit:
                more = True
                break
    found = found[:limit]
    if as_json:
        print_json({"entries": found, "more": more})
        return
    for one in found:
        click.echo(_words(one))
    if more:
        click.echo("… and more (--limit)", err=True)
    if not found:
        click.echo("no entries")


def _entry(row: list[Any]) -> dict[str, Any]:
    names = ("address", "scope", "scope_value", "reason", "source", "created", "expires")
    return dict(zip(names, row, strict=True))


def _pages(relay: Any, wanted: dict[str, Any]) -> Iterator[list[list[Any]]]:
    """All rows that match, a slice at a time."""
    start: str | None = ""
    while start is not None:
        answer = relay.call("suppress.list", {**wanted, "start": start, "limit": 5000})
        yield answer["rows"]
        start = answer["next"]


@click.command(
    name="import",
    epilog="""\b
The first line names the columns: address, and any of scope, scope_value, reason, source, created,
expires; or it is an address already (a plain list). Exports of SendGrid, Mailgun, Amazon SES,
Postmark and listmonk are known by their columns; of listmonk's subscribers only the blocklisted
ones are taken. What a row does not say is as the options have it.

\b
An entry of the same address, scope and reason is replaced. Lines that can't be read are told by
number and passed over. An import that was cut is done again from the start: what is in already
stays as it is.

\b
Examples:
  fastrelay suppress import list.csv
  fastrelay suppress import unsubscribed.txt --reason unsubscribe --sender news.example.com
  zcat old.csv.gz | fastrelay suppress import - --source "old system" --dry-run
""",
)
@click.argument("file", metavar="FILE|-")
@scope_options
@click.option("--reason", type=click.Choice(REASONS), help="Of rows that name none.  [default: as the file has it]")
@click.option("--source", metavar="TEXT", default="", help="Of rows that name none.  [default: import:FILE]")
@click.option("--expire", metavar="TIME", type=DurationType(), help="How long rows hold that do not say it.")
@dry_run_option
@relay_options
def import_(
    file: str, tenant: str | None, sender: str | None, is_global: bool, reason: str | None, source: str,
    expire: float | None, dry_run: bool, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Read a CSV file, or a plain list of addresses."""
    from fastrelay.cli.output import count, print_json
    from fastrelay.cli.suppress_csv import Defaults

    scope, value = scope_of(tenant, sender, is_global)
    name = "stdin" if file == "-" else os.path.basename(file)
    defaults = Defaults(
        scope or "global", value or "", reason or "", (source or f"import:{name}")[:100], _expires(expire)
    )
    with connect(config_path, state_dir, timeout) as relay, _opened(file) as octets:
        job = Import(relay, dry_run, progress=not as_json and sys.stderr.isatty())
        job.read(octets, defaults)
        if not dry_run and job.total["new"] + job.total["changed"]:
            relay.call("suppress.imported", {"source": defaults.source, **_part(job.total, "new", "changed")})
    if as_json:
        problems = [{"line": line, "problem": words} for line, words in job.problems]
        print_json({**job.total, "passed_over": job.passed_over, "bad": job.bad, "problems": problems})
    else:
        words = "would be new" if dry_run else "new"
        total = job.total
        click.echo(
            f"{count(job.rows)} rows: {count(total['new'])} {words}, {count(total['changed'])} changed, "
            f"{count(total['same'])} as before"
        )
        if job.passed_over:
            click.echo(f"{count(job.passed_over)} rows of others, passed over")
        if job.bad:
            click.echo(f"{count(job.bad)} lines can't be read:", err=True)
            _show_problems([(f"line {line}", words) for line, words in job.problems])
    if job.bad:
        sys.exit(1)


def _part(of: dict[str, int], *names: str) -> dict[str, int]:
    return {name: of[name] for name in names}


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return open(file, "rb")
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None


class Import:
    """Rows on their way: sorted in runs, sent in slices."""

    def __init__(self, relay: Any, dry_run: bool, progress: bool) -> None:
        self._relay = relay
        self._dry_run = dry_run
        self._progress = progress
        self.rows = self.bad = self.passed_over = 0
        self.total = {"new": 0, "changed": 0, "same": 0}
        self.problems: list[tuple[int, str]] = []

    def read(self, octets: BinaryIO, defaults: Any) -> None:
        """All of a file."""
        from fastrelay.cli.suppress_csv import read_rows

        run = []
        for one in read_rows(octets, defaults, self._problem, self._passed_over):
            run.append(one)
            if len(run) >= IMPORT_RUN:
                self._send(run)
                run = []
        self._send(run)
        if self._progress:
            click.echo(err=True)

    def _problem(self, line: int, words: str) -> None:
        self.bad += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((line, words))

    def _passed_over(self) -> None:
        self.passed_over += 1

    def _send(self, run: list[Any]) -> None:
        run.sort()
        part: list[Any] = []
        characters = 0
        for one in run:
            part.append(one)
            characters += len(one[0]) + len(one[2]) + len(one[4])
            if len(part) >= SLICE or characters >= SLICE_CHARACTERS:
                self._slice(part)
                part, characters = [], 0
        if part:
            self._slice(part)

    def _slice(self, part: list[Any]) -> None:
        answer = self._relay.call("suppress.put", {"rows": part, "dry_run": self._dry_run, "events": False})
        for name in self.total:
            self.total[name] += answer[name]
        self.rows += len(part)
        for number, words in answer["problems"]:
            self._problem(0, f"{part[number][0]}: {words}")
        if self._progress:
            click.echo(f"\r{self.rows:,} rows", nl=False, err=True)


@click.command(
    epilog="""\b
The file has the columns that `fastrelay suppress import` reads. A FILE that is there is replaced
once the new one is complete.

\b
Examples:
  fastrelay suppress export list.csv
  fastrelay suppress export - --reason unsubscribe | wc -l
"""
)
@click.argument("file", metavar="FILE|-")
@click.option("--domain", metavar="DOMAIN", help="Addresses of this domain, and itself.")
@scope_options
@reason_option
@relay_options
def export(
    file: str, domain: str | None, tenant: str | None, sender: str | None, is_global: bool, reason: str | None,
    config_path: str | None, state_dir: str | None, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Write the list as CSV."""
    from fastrelay.cli.output import count, print_json
    from fastrelay.cli.suppress_csv import HEADER, write_rows

    scope, value = scope_of(tenant, sender, is_global)
    wanted = {"domain": domain, "scope": scope, "value": value, "reason": reason}
    partial = f"{file}.partial"
    rows = 0
    with connect(config_path, state_dir, timeout) as relay:
        try:
            out = sys.stdout if file == "-" else open(partial, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        except OSError as error:
            raise click.UsageError(f"{partial}: {error.strerror}") from None
        try:
            out.write(",".join(HEADER) + "\n")
            for page in _pages(relay, wanted):
                write_rows(out.write, [tuple(one) for one in page])
                rows += len(page)
            out.flush()
        finally:
            if file != "-":
                out.close()
    if file == "-":
        return
    os.replace(partial, file)
    if as_json:
        print_json({"rows": rows, "file": file})
    else:
        click.echo(f"{count(rows)} entries in {file}")


@click.command(
    epilog="""\b
The store holds more than the list: positions in the event logs, rates, reports.

\b
Examples:
  fastrelay suppress stats
  fastrelay suppress stats --json
"""
)
@relay_options
def stats(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """How many entries there are, by reason."""
    from fastrelay.cli.output import count, print_fields, print_json, size

    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("suppress.stats")
    if as_json:
        print_json(answer)
        return
    print_fields(
        [
            ("entries", f"{count(answer['entries'])} (at most {count(answer['most_entries'])})"),
            *((f"  {reason}", count(n)) for reason, n in answer["by_reason"].items()),
            ("addresses", count(answer["addresses"])),
            ("soft bounces counted", count(answer["counted_soft_bounces"])),
            ("store", size(answer["store_bytes"])),
            ("in use", "yes" if answer["enabled"] else "no (suppression.enabled)"),
        ]
    )
