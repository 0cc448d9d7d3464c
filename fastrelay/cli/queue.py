"""`fastrelay queue`: the group of commands on queued mail."""

from __future__ import annotations

import click

from fastrelay.cli.group import LazyGroup

COMMANDS = {
    "summary": ("fastrelay.cli.queue_view:summary", "Where all mail stands: accepted, delivered, failed, waiting."),
    "list": ("fastrelay.cli.queue_view:list_", "List queued messages."),
    "show": ("fastrelay.cli.queue_view:show", "Show one message: recipients, attempts, last replies."),
    "why": ("fastrelay.cli.queue_view:why", "Say what a message waits for."),
    "suspend": ("fastrelay.cli.queue_act:suspend", "Stop sending some mail until it is resumed."),
    "resume": ("fastrelay.cli.queue_act:resume", "Take a suspension back."),
    "flush": ("fastrelay.cli.queue_act:flush", "Retry now."),
    "remove": ("fastrelay.cli.queue_act:remove", "Remove mail from the queue for good."),
    "audit": ("fastrelay.cli.queue_care:audit", "Prove that every accepted recipient is accounted for."),
    "quarantine": ("fastrelay.cli.queue_care:quarantine", "List and release messages that were set aside."),
}

EPILOG = """\b
list, suspend, resume, flush and remove take selectors; a message must match all that are given:
  --campaign --tenant --domain --provider --source --older-than

\b
Examples:
  fastrelay queue summary
  fastrelay queue list --provider google --older-than 2h
  fastrelay queue suspend --campaign spring --why "wrong link"
  fastrelay queue remove --campaign spring --dry-run

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def queue() -> None:
    """Look at queued mail; suspend, resume, flush, remove."""
