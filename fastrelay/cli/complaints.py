"""`fastrelay complaints`: complaint rates against the lines of mailbox providers; `fastrelay complaint parse`: what
single ones say."""

from __future__ import annotations

import os
from typing import Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import connect, json_option, relay_options

COMMANDS = {"parse": ("fastrelay.cli.complaints:parse", "Who complained, about which mail, as a report says.")}
BY = ("all", "source", "provider", "campaign", "sender")
HEADINGS = {"sender": "FROM DOMAIN"}

GROUP_EPILOG = """\b
Example:
  fastrelay complaint parse returned.eml
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=GROUP_EPILOG)
def complaint() -> None:
    """Read complaints (feedback reports)."""


@click.command(
    epilog="""\b
A rate is complaints about the mail of some days (complaints.window) by its deliveries; a
complaint counts for the day on which the mail was sent. With fewer deliveries than
complaints.least_delivered there is none. LINE: warn or limit, where the rate is above
complaints.warn (0.1 %) or complaints.limit (0.3 %): Google and Yahoo want it below 0.1 %, and
junk or refuse mail of senders above 0.3 %. Google sends no reports: it tells its rates in
Postmaster Tools only.

\b
Examples:
  fastrelay complaints
  fastrelay complaints --by campaign --most 50
  fastrelay complaints --json | jq '.rates[] | select(.share > .001)'

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""
)
@click.option("--by", type=click.Choice(BY), help="One kind.  [default: all kinds]")
@click.option(
    "--most", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Names of a kind, the busiest."
)
@relay_options
def complaints(
    by: str | None, most: int, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Show complaint rates by source, provider, campaign and From domain."""
    from fastrelay.cli.output import print_json

    with connect(config_path, state_dir, timeout) as relay:
        answer: dict[str, Any] = relay.call("complaints.rates", {"by": by, "most": most} if by else {"most": most})
    if as_json:
        print_json(answer)
        return
    show_rates(answer)


def show_rates(answer: dict[str, Any]) -> None:
    """A table for each kind."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, duration, print_table

    click.echo(f"mail of the last {duration(answer['window_seconds'])}")
    for kind in BY:
        found = [row for row in answer["rates"] if row["by"] == kind]
        if not found:
            continue
        columns = [(HEADINGS.get(kind, kind.upper()), WIDE), ("DELIVERED", RIGHT), ("COMPLAINTS", RIGHT),
                   ("RATE", RIGHT), ("LINE", LEFT)]  # fmt: skip
        click.echo()
        print_table(
            columns,
            [
                [row["name"] or "all mail", count(row["delivered"]), count(row["complaints"]), percent(row["share"]),
                 line_of(row["share"], answer)] for row in found
            ],
        )  # fmt: skip
    if not answer["rates"]:
        click.echo("nothing was delivered, and nobody complained")


def percent(share: float | None) -> str:
    """As fine as the lines are; nothing where there is none."""
    return "" if share is None else f"{100 * share:.3f}%"


def line_of(share: float | None, answer: dict[str, Any]) -> str:
    """Which line a rate is above."""
    if share is None or share <= answer["warn_share"]:
        return ""
    return "limit" if share > answer["limit_share"] else "warn"


@click.command(
    epilog="""\b
FILE is a message, a mailbox file (mbox), a folder of messages (maildir), or `-` for
standard input. With --json, each message is one line (JSON Lines).

\b
Examples:
  fastrelay complaint parse complaint.eml
  fastrelay complaint parse --json ~/Maildir | jq -r 'select(.kind) | .feedback_type'

Exit codes: 0 all were read; 1 a file can't be read; 2 wrong usage.
"""
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--reference-field", metavar="NAME", default="", help="Field of ours that tells which mail it was.")
@click.option(
    "--key", metavar="FILE", default=None, help="The key of our references (reference.key), to read what they say."
)
@json_option
def parse(files: tuple[str, ...], reference_field: str, key: str | None, as_json: bool) -> None:
    """Tell what complaints in FILE say. Other messages are no complaint."""
    from fastrelay.cli.bounce import messages_in
    from fastrelay.feedback.arf import parse as parse_complaint

    references = _references(key)
    failed = False
    for file in files:
        try:
            for name, octets in messages_in(file):
                found = parse_complaint(octets, reference_field)
                told = {} if found is None else found.as_json()
                about = [] if found is None else [one for text in found.references if (one := _read(references, text))]
                (show_json if as_json else show)(name, told, about)
        except OSError as error:
            failed = True
            click.echo(f"fastrelay: {file} can't be read: {os.strerror(error.errno or 0)}", err=True)
    if failed:
        click.get_current_context().exit(1)


def _references(path: str | None) -> Any:
    if path is None:
        return None
    from fastrelay.feedback.reference import References, read_key

    return References(read_key(path))


def _read(references: Any, text: str) -> dict[str, Any] | None:
    """What a reference says, for a person."""
    if references is None:
        return None
    from datetime import UTC, datetime

    try:
        found = references.read(text)
    except ValueError:
        return None
    told = {name: getattr(found, name).decode("utf-8", "replace")
            for name in ("recipient", "campaign", "tenant", "sender_domain")}  # fmt: skip
    day = datetime.fromtimestamp(found.day * 86400, UTC).date().isoformat()
    return {"id": found.id, "day": day, **{name: value for name, value in told.items() if value}}


def show_json(name: str, told: dict[str, Any], about: list[dict[str, Any]]) -> None:
    import msgspec

    line = {"file": name, "complaint": bool(told), **told, **({"about": about} if about else {})}
    click.echo(msgspec.json.encode(line).decode("utf-8"))


def show(name: str, told: dict[str, Any], about: list[dict[str, Any]]) -> None:
    """One message for a person."""
    from fastrelay.cli.output import print_fields

    if not told:
        print_fields([("file", name), ("kind", "no complaint")])
        click.echo()
        return
    names = (
        "kind", "feedback_type", "form", "reporter", "user_agent", "sender", "recipients", "redacted", "reverse_path",
        "source_ip", "arrival_date", "incidents", "message_id", "subject", "references",
    )  # fmt: skip
    pairs: list[tuple[str, object]] = [("file", name)]
    for one in names:
        value = told.get(one)
        shown = ", ".join(value) if isinstance(value, list) else value
        pairs.append((one.replace("_", " "), "" if shown in (None, False) else shown))
    for one_about in about:
        pairs += [(f"about {key}".replace("_", " "), value) for key, value in one_about.items()]
    print_fields(pairs)
    click.echo()
