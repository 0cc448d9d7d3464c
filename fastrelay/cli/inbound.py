"""`fastrelay inbound status`: what came in at inbound addresses, and what it was."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import connect, relay_options

COMMANDS = {"status": ("fastrelay.cli.inbound:status", "How much came in, of what kind, and about mail of ours.")}
# What stands in the way of a bounce being about mail of ours.
WHY = {
    "reference": "without a reference of ours (not our mail, or sent without one: compose.reference, reverse_path)",
    "recipient": "with a reference of ours, and about nobody whom we sent to",
    "old": "about mail that is too old",
}

EPILOG = """\b
Bounces, complaints and reports come in by SMTP at the listeners that have `inbound` addresses.
Where mail comes from is proven by references of ours alone, in the reverse-path
(compose.reverse_path) or in a header field (compose.reference).

\b
Examples:
  fastrelay inbound status
  fastrelay inbound status --json | jq .kinds.bounce

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def inbound() -> None:
    """Mail that comes back: bounces, complaints, reports."""


@click.command(epilog=EPILOG)
@relay_options
def status(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Show what came in since the feedback process started."""
    from fastrelay.cli.output import print_json

    with connect(config_path, state_dir, timeout) as relay:
        answer: dict[str, Any] = relay.call("inbound.status", {})
    if as_json:
        print_json(answer)
    else:
        show(answer)


def show(answer: dict[str, Any]) -> None:
    """A line for each kind."""
    from fastrelay.cli.output import LEFT, RIGHT, count, print_table

    if not answer["listening"]:
        click.echo("no listener takes mail in: see listeners.smtp[].inbound")
        return
    kinds = sorted(answer["kinds"].items(), key=lambda one: -one[1]["messages"])
    if kinds:
        rows = [[kind, count(row["messages"]), count(row["matched"])] for kind, row in kinds]
        print_table([("KIND", LEFT), ("MESSAGES", RIGHT), ("ABOUT OUR MAIL", RIGHT)], rows)
    else:
        click.echo("nothing came in yet")
    for why, n in sorted(answer["unmatched"].items()):
        click.echo(f"{count(n)} {'bounce' if n == 1 else 'bounces'} {WHY.get(why, why)}")
    if n := answer.get("set_aside"):  # a relay before this command has none
        of_it = "message that ended its reader is" if n == 1 else "messages that ended their reader are"
        click.echo(f"{count(n)} {of_it} kept in {answer['set_aside_folder']}: look at them, report and remove them")
    if answer["in_hand"]:
        click.echo(f"in hand: {count(answer['in_hand'])}")
