"""`fastrelay queue audit|quarantine`: is every recipient accounted for, and what was set aside."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.options import connect, long_relay_options, relay_options
from fastrelay.cli.queue_view import OUTCOMES, sender

HEADINGS = {"queued_counted": "QUEUED", "difference": "DIFF"}


@click.command(
    epilog="""\b
Each worker counts its stored recipients and compares: accepted = queued + delivered + failed +
expired + suppressed + removed. It reads the whole queue and does not stop the relay.

\b
Example:
  fastrelay queue audit || mail -s "fastrelay: audit failed" ops@example.com

Exit codes: 0 every recipient is accounted for; 1 a difference was found; 3 no relay is running.
"""
)
@long_relay_options
@click.pass_context
def audit(ctx: click.Context, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Prove that every accepted recipient is accounted for."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.audit")
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_audit(answer)
    ctx.exit(0 if answer.get("ok") else 1)


def show_audit(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import RIGHT, count, print_table, warn_if_incomplete

    warn_if_incomplete(answer)
    numbers = ("accepted", "queued_counted", *OUTCOMES, "difference")
    workers = answer.get("workers", [])
    rows = [[worker.get("slot", ""), *(count(worker.get(name, 0)) for name in numbers)] for worker in workers]
    if len(workers) > 1:
        rows.append(["all", *(count(sum(worker.get(name, 0) for worker in workers)) for name in numbers)])
    headings = ("WORKER", *(HEADINGS.get(name, name.upper()) for name in numbers))
    print_table([(heading, RIGHT) for heading in headings], rows)
    click.echo()
    if answer.get("ok"):
        click.echo("every accepted recipient is accounted for")
    else:
        click.echo("NOT every accepted recipient is accounted for; keep the state directory and report it")


@click.group(
    epilog="""\b
A message is set aside when it was in hand at two crashes in a row, or when its stored content is
damaged. It counts as queued, and is not sent until it is released.

\b
Examples:
  fastrelay queue quarantine list
  fastrelay queue show ID
  fastrelay queue quarantine release ID
  fastrelay queue remove ID
"""
)
def quarantine() -> None:
    """List and release messages that were set aside."""


@quarantine.command("list")
@relay_options
def quarantine_list(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """List messages in quarantine, and why they are there."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.quarantine")
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_quarantine(answer)


def show_quarantine(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import (
        LEFT,
        RIGHT,
        WIDE,
        count,
        duration,
        print_table,
        shown_words,
        size,
        warn_if_incomplete,
    )

    warn_if_incomplete(answer)
    messages = answer.get("messages", [])
    if not messages:
        click.echo("no message is in quarantine")
        return
    rows = [
        (
            row.get("id", ""),
            duration(row.get("age_seconds")),
            size(row.get("size_bytes")),
            count(row.get("queued")),
            sender(row.get("reverse_path")),
            row.get("why") or shown_words(row.get("reason") or ""),
        )
        for row in messages
    ]
    print_table([("ID", LEFT), ("AGE", RIGHT), ("SIZE", RIGHT), ("RCPTS", RIGHT), ("FROM", WIDE), ("WHY", WIDE)], rows)


@quarantine.command("release")
@click.argument("message_id", metavar="ID")
@relay_options
def quarantine_release(
    message_id: str, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Let a message go on its way again."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.release", {"id": message_id})
    from fastrelay.cli.output import clean, print_json

    if as_json:
        print_json(answer)
    else:
        click.echo(f"{clean(message_id)} is released; `fastrelay queue why {clean(message_id)}` follows it")
