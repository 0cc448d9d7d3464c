"""`fastrelay bounce parse FILE`: what bounce messages say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import json_option

if TYPE_CHECKING:
    from fastrelay.feedback.bounce_types import Bounce

MAX_MESSAGE_OCTETS = 64 << 20
COMMANDS = {"parse": ("fastrelay.cli.bounce:parse", "Who was not reached, why, and about which message.")}

EPILOG = """\b
FILE is a message, a mailbox file (mbox), a folder of messages (maildir), or `-` for
standard input. With --json, each message is one line (JSON Lines).

\b
Examples:
  fastrelay bounce parse returned.eml
  fastrelay bounce parse --json ~/Maildir | jq -r '.recipients[].address'

Exit codes: 0 all were read; 1 a file can't be read; 2 wrong usage.
"""


GROUP_EPILOG = """\b
Example:
  fastrelay bounce parse returned.eml
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=GROUP_EPILOG)
def bounce() -> None:
    """Read bounce messages."""


@click.command(epilog=EPILOG)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--recipient", metavar="ADDRESS", default="", help="Whom the address it came to stands for (VERP).")
@click.option("--reference-field", metavar="NAME", default=None, help="Field of ours that tells which mail it was.")
@json_option
def parse(files: tuple[str, ...], recipient: str, reference_field: str | None, as_json: bool) -> None:
    """Tell what the messages in FILE are, whom they are about, and why."""
    from fastrelay.feedback.bounce import REFERENCE_FIELD, parse_bounce

    failed = False
    for file in files:
        try:
            for name, octets in messages_in(file):
                found = parse_bounce(
                    octets, verp_recipient=recipient, reference_field=reference_field or REFERENCE_FIELD
                )
                (show_json if as_json else show)(name, found)
        except OSError as error:
            failed = True
            click.echo(f"fastrelay: {file} can't be read: {os.strerror(error.errno or 0)}", err=True)
    if failed:
        click.get_current_context().exit(1)


def messages_in(file: str) -> Iterator[tuple[str, bytes]]:
    """Each message of a file, a folder or standard input, with a name for it. Raises OSError."""
    if file == "-":
        yield from split_mailbox("-", sys.stdin.buffer.read(MAX_MESSAGE_OCTETS))
        return
    if os.path.isdir(file):
        for folder, folders, names in os.walk(file):
            folders[:] = sorted(name for name in folders if name != "tmp")
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not name.startswith((".", "dovecot")):
                    with open(path, "rb") as stream:
                        yield path, stream.read(MAX_MESSAGE_OCTETS)
        return
    with open(file, "rb") as stream:
        start = stream.read(5)
        if start == b"From ":
            stream.seek(0)
            yield from split_stream(file, stream)
        else:
            yield file, start + stream.read(MAX_MESSAGE_OCTETS)


def split_mailbox(name: str, octets: bytes) -> Iterator[tuple[str, bytes]]:
    """The messages of a mailbox in memory; anything else is one message."""
    if not octets.startswith(b"From "):
        yield name, octets
        return
    import io

    yield from split_stream(name, io.BytesIO(octets))


def split_stream(name: str, stream: object) -> Iterator[tuple[str, bytes]]:
    """The messages of a mailbox file: each begins with a line `From …` behind an empty line."""
    lines: list[bytes] = []
    count, size, empty = 0, 0, True
    for line in stream:  # type: ignore[attr-defined]
        if empty and line.startswith(b"From ") and lines:
            count += 1
            yield f"{name}:{count}", b"".join(lines)
            lines, size = [], 0
        empty = not line.strip()
        size += len(line)
        if size <= MAX_MESSAGE_OCTETS:
            lines.append(line)
    if lines:
        count += 1
        yield (f"{name}:{count}" if count > 1 else name), b"".join(lines)


def show_json(name: str, found: Bounce) -> None:
    import msgspec

    click.echo(msgspec.json.encode({"file": name, **found.as_json()}).decode("utf-8"))


def show(name: str, found: Bounce) -> None:
    """One message for a person."""
    from fastrelay.cli.output import print_fields

    original = found.original
    pairs: list[tuple[str, object]] = [
        ("file", name),
        ("what", found.what),
        ("form", found.form),
        ("reporting mta", found.reporting_mta),
        ("subject", found.subject),
    ]
    for recipient in found.recipients:
        of_class = " ".join(
            part
            for part in (recipient.reply_class, recipient.kind, recipient.about and f"about {recipient.about}")
            if part
        )
        pairs += [
            ("recipient", recipient.address or f"({recipient.final_recipient})"),
            ("  action", recipient.action),
            ("  status", recipient.status),
            ("  class", of_class),
            ("  rule", recipient.rule),
            ("  diagnostic", recipient.diagnostic),
        ]
    pairs += [
        ("original", original.message_id),
        ("  subject", original.subject),
        ("  reference", original.reference),
        ("  envelope id", original.envelope_id),
        ("  verp", original.verp_recipient),
    ]
    print_fields(pairs)
    click.echo()
