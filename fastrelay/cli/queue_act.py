"""`fastrelay queue suspend|resume|flush|remove`: changing what happens to queued mail.

Each wants a selector or --all, so that a forgotten option never means the whole queue; each has --dry-run.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from fastrelay.cli.options import (
    connect,
    long_relay_options,
    relay_options,
    require_selection,
    selector_options,
    selectors_of,
)

dry_run_option = click.option("--dry-run", is_flag=True, help="Only say how much matches.")
all_option = click.option("--all", "select_all", is_flag=True, help="The whole queue, in place of selectors.")


@click.command(
    epilog="""\b
A suspension lasts until it is resumed, across restarts, and holds for mail that comes later.
Mail goes on being accepted; retries do not count while suspended, but messages still expire.

\b
Examples:
  fastrelay queue suspend --campaign spring --why "wrong link"
  fastrelay queue suspend --provider yahoo --source b
  fastrelay queue suspend --all --why "network maintenance"
"""
)
@selector_options
@all_option
@click.option("--why", metavar="TEXT", default="", help="A note for your colleagues, shown with the suspension.")
@dry_run_option
@relay_options
def suspend(
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
    select_all: bool,
    why: str,
    dry_run: bool,
    **options: Any,
) -> None:
    """Stop sending some mail until it is resumed."""
    arguments = require_selection(selectors_of(options), select_all, "suspend")
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.suspend", {**arguments, "why": why, "dry_run": dry_run})
    _report(answer, as_json, dry_run, "message", "suspended")
    suspension = answer.get("suspension") or {}
    if not as_json and not dry_run and suspension.get("id"):
        from fastrelay.cli.output import clean

        name = clean(suspension["id"])
        click.echo(f"suspension {name}; take it back with: fastrelay queue resume {name}")
    exit_if_incomplete(answer)


@click.command(
    epilog="""\b
`fastrelay status` lists the suspensions.

\b
Examples:
  fastrelay queue resume s3                       this suspension
  fastrelay queue resume --campaign spring        the suspensions with just these selectors
  fastrelay queue resume --all                    every suspension
"""
)
@click.argument("suspension", metavar="[SUSPENSION]", required=False)
@selector_options
@all_option
@dry_run_option
@relay_options
def resume(
    suspension: str | None,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
    select_all: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Take a suspension back: its mail is sent again, as limits allow."""
    selectors = selectors_of(options)
    if suspension:
        if selectors or select_all:
            raise click.UsageError("name a suspension, or selectors, or --all: not two of them")
        arguments: dict[str, Any] = {"suspension": suspension}
    else:
        arguments = require_selection(selectors, select_all, "resume")
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.resume", {**arguments, "dry_run": dry_run})
    _report(answer, as_json, dry_run, "message", "resumed")
    exit_if_incomplete(answer)


@click.command(
    epilog="""\b
Limits, suspensions and back-off still hold; only the delay of retries is skipped.

\b
Examples:
  fastrelay queue flush --domain example.com
  fastrelay queue flush --all --dry-run
"""
)
@selector_options
@all_option
@dry_run_option
@long_relay_options
def flush(
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
    select_all: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Retry now: skip the delay of the next retry."""
    arguments = require_selection(selectors_of(options), select_all, "flush")
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.flush", {**arguments, "dry_run": dry_run})
    _report(answer, as_json, dry_run, "recipient", "due now")
    exit_if_incomplete(answer)


@click.command(
    epilog="""\b
Removed recipients are counted as `removed` and logged as events; no bounce is sent. A recipient
whose message is being sent at this moment gets it. On a terminal you are asked first (--yes does
not ask).

\b
Examples:
  fastrelay queue remove k3f9ax-1c2f k3f9ax-1c30
  fastrelay queue remove --campaign spring --dry-run
  fastrelay queue remove --domain gmial.com --yes
"""
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@selector_options
@all_option
@dry_run_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@long_relay_options
def remove(
    ids: tuple[str, ...],
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
    select_all: bool,
    dry_run: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Remove mail from the queue for good."""
    selectors = selectors_of(options)
    if ids:
        if select_all:
            raise click.UsageError("--all goes alone; leave it out to remove by ID")
        arguments: dict[str, Any] = {**selectors, "ids": list(ids)}
    else:
        arguments = require_selection(selectors, select_all, "remove")
    with connect(config_path, state_dir, timeout) as relay:
        if not dry_run and not yes and not ids and sys.stdin.isatty():
            _ask(relay.call("queue.remove", {**arguments, "dry_run": True}))
        answer = relay.call("queue.remove", {**arguments, "dry_run": dry_run})
    _report(answer, as_json, dry_run, "recipient", "removed")
    exit_if_incomplete(answer)
    if ids and not answer.get("matched"):
        click.echo("fastrelay: none of these messages is in the queue", err=True)
        raise click.exceptions.Exit(1)


def _ask(foreseen: dict[str, Any]) -> None:
    """Go on only after a yes; nothing to remove needs no question."""
    from fastrelay.cli.output import plural

    matched = foreseen.get("matched", 0)
    if matched:
        click.confirm(f"Remove {plural(matched, 'recipient')} for good?", abort=True, err=True)


def exit_if_incomplete(answer: dict[str, Any]) -> None:
    """A change that not every worker carried out is a failure; what is missing was said by `_report`."""
    if answer.get("incomplete"):
        raise click.exceptions.Exit(1)


def _report(answer: dict[str, Any], as_json: bool, dry_run: bool, noun: str, done: str) -> None:
    """`12 messages suspended`, or what would be."""
    from fastrelay.cli.output import plural, print_json, warn_if_incomplete

    if as_json:
        print_json(answer)
        return
    warn_if_incomplete(answer)
    matched = int(answer.get("matched", 0))
    would = "would be " if dry_run else ""
    click.echo(f"{plural(matched, noun)} {would}{done}{' (dry run: nothing was changed)' if dry_run else ''}")
