"""`fastrelay queue summary|list|show|why`: looking, without touching anything."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.options import connect, relay_options, selector_options, selectors_of

OUTCOMES = ("delivered", "failed", "expired", "suppressed", "removed")


@click.command(
    epilog="""\b
All counts are recipients. At every instant, accepted = queued + delivered + failed + expired +
suppressed + removed; `fastrelay queue audit` proves it.

\b
Examples:
  fastrelay queue summary
  fastrelay queue summary --json | jq .queued
"""
)
@relay_options
def summary(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Where all mail stands: accepted, delivered, failed, waiting and for what."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.summary")
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_summary(answer)


def show_summary(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import (
        LEFT,
        RIGHT,
        count,
        duration,
        print_table,
        share,
        shown_words,
        size,
        warn_if_incomplete,
    )

    warn_if_incomplete(answer)
    accepted = answer.get("accepted", 0)
    rows = [("accepted", count(accepted), "")]
    rows += [(name, count(answer.get(name, 0)), share(answer.get(name, 0), accepted)) for name in OUTCOMES]
    rows.append(("queued", count(answer.get("queued", 0)), share(answer.get("queued", 0), accepted)))
    if answer.get("quarantined"):
        rows.append(("  of them in quarantine", count(answer["quarantined"]), ""))
    print_table([("RECIPIENTS", LEFT), ("", RIGHT), ("", RIGHT)], rows)
    if answer.get("queued"):
        click.echo()
        click.echo(f"oldest queued: {duration(answer.get('oldest_seconds')) or 'unknown'}")
    if answer.get("loading"):
        click.echo("the queue is still being read after the start; counts of what waits are not whole yet")
    if answer.get("segments_bytes") is not None:
        click.echo(f"content on disk: {size(answer['segments_bytes'])}")
    for heading, key in (("WAITING FOR", "by_reason"), ("PROVIDER", "by_provider")):
        # A part may come as a bare count or as an object that has one.
        counts = {name: _queued_of(value) for name, value in (answer.get(key) or {}).items()}
        listed = sorted(((name, number) for name, number in counts.items() if number), key=lambda pair: -pair[1])
        if listed:
            click.echo()
            queued = answer.get("queued", 0)
            shown = [
                (shown_words(name) if key == "by_reason" else name, count(number), share(number, queued))
                for name, number in listed
            ]
            print_table([(heading, LEFT), ("QUEUED", RIGHT), ("", RIGHT)], shown)


def _queued_of(value: Any) -> int:
    return int(value.get("queued", 0) if isinstance(value, dict) else value)


@click.command(
    "list",
    epilog="""\b
Examples:
  fastrelay queue list
  fastrelay queue list --domain example.com --limit 1000
  fastrelay queue list --campaign spring --older-than 4h --json | jq -r '.messages[].id'
""",
)
@selector_options
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Show at most N."
)
@relay_options
def list_(
    config_path: str | None, state_dir: str | None, timeout: float, as_json: bool, limit: int, **options: Any
) -> None:
    """List queued messages, oldest first."""
    arguments = {**selectors_of(options), "limit": limit}
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.list", arguments)
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_list(answer)


def show_list(answer: dict[str, Any]) -> None:
    from fastrelay.cli.output import count, plural, warn_if_incomplete

    warn_if_incomplete(answer)
    messages = answer.get("messages", [])
    matched = answer.get("matched", len(messages))
    if not messages:
        click.echo("no queued message matches" if matched == 0 else f"{plural(matched, 'message')} match")
        return
    show_rows(messages)
    if matched > len(messages):
        click.echo()
        click.echo(f"{count(len(messages))} of {plural(matched, 'message')} shown; --limit shows more")


def show_rows(messages: list[dict[str, Any]]) -> None:
    """Messages as a table."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, duration, names, print_table, shown_words, size

    rows: list[tuple[object, ...]] = [
        (
            row.get("id", ""),
            duration(row.get("age_seconds")),
            size(row.get("size_bytes")),
            count(row.get("queued")),
            row.get("attempts", ""),
            next_attempt(row.get("next_attempt_seconds")),
            shown_words(row.get("reason") or ""),
            row.get("campaign") or "",
            sender(row.get("reverse_path")),
            names(row.get("domains") or []),
        )
        for row in messages
    ]
    columns = [("ID", LEFT), ("AGE", RIGHT), ("SIZE", RIGHT), ("RCPTS", RIGHT), ("TRIES", RIGHT), ("NEXT", RIGHT)]
    columns += [("WAITS FOR", LEFT), ("CAMPAIGN", WIDE), ("FROM", WIDE), ("DOMAINS", WIDE)]
    spare = ["SIZE", "CAMPAIGN", "TRIES", "FROM"]
    if not any(row[7] for row in rows):
        columns, rows = columns[:7] + columns[8:], [row[:7] + row[8:] for row in rows]
    print_table(columns, rows, spare)


def next_attempt(seconds: float | None) -> str:
    """`5m`, `now`, or nothing."""
    from fastrelay.cli.output import duration

    if seconds is None:
        return ""
    return "now" if seconds <= 0 else duration(seconds)


def sender(reverse_path: str | None) -> str:
    """A reverse-path; the null one is `<>`."""
    return "" if reverse_path is None else reverse_path or "<>"


@click.command(
    epilog="""\b
Example:
  fastrelay queue show k3f9ax-1c2f
"""
)
@click.argument("message_id", metavar="ID")
@relay_options
def show(message_id: str, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Show one queued message: recipients, attempts, last replies."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.show", {"id": message_id})
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_message(answer["message"])


def show_message(message: dict[str, Any]) -> None:
    from fastrelay.cli.output import clean, count, print_fields, shown_words, size

    print_fields(
        [
            ("message", message.get("id")),
            ("from", sender(message.get("reverse_path"))),
            ("campaign", message.get("campaign")),
            ("tenant", message.get("tenant")),
            ("size", size(message.get("size_bytes"))),
            ("client", message.get("client")),
            ("accepted", accepted_at(message)),
            ("queued", count(message.get("queued"))),
            ("waits for", shown_words(message.get("reason") or "")),
            ("next attempt", next_attempt(message.get("next_attempt_seconds"))),
            ("quarantined", message.get("quarantined")),
            ("asks of TLS", message.get("tls")),
            ("segment", message.get("segment")),
        ]
    )
    if message.get("trace"):
        click.echo()
        click.echo("Header fields added:")
        for line in str(message["trace"]).splitlines():
            click.echo(f"  {clean(line.expandtabs(4))}")
    recipients = message.get("recipients", [])
    if not recipients:
        return
    click.echo()
    show_recipients(recipients)
    paths = [(person.get("address", ""), person["mail_from"]) for person in recipients if person.get("mail_from")]
    if paths:
        click.echo()
        click.echo("MAIL FROM of each:")
        for address, path in paths:
            click.echo(f"  {clean(address)}: {clean(path)}")
    replies = [(person.get("address", ""), person["last_reply"]) for person in recipients if person.get("last_reply")]
    if replies:
        click.echo()
        click.echo("Last replies:")
        for address, reply in replies:
            click.echo(f"  {clean(address)}")
            for line in str(reply).splitlines():
                click.echo(f"    {clean(line)}")


def accepted_at(message: dict[str, Any]) -> str:
    """`2026-11-20T10:00:00Z (2h 5m ago)`, as far as it is known."""
    from fastrelay.cli.output import duration

    ago = f"{duration(message['age_seconds'])} ago" if "age_seconds" in message else ""
    at = message.get("accepted")
    return f"{at} ({ago})" if at and ago else str(at or ago)


def show_recipients(recipients: list[dict[str, Any]]) -> None:
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, print_table, shown_words

    rows = [
        (
            person.get("address", ""),
            str(person.get("state", "")) + (" (possible duplicate)" if person.get("possible_duplicate") else ""),
            person.get("attempts", ""),
            next_attempt(person.get("next_attempt_seconds")),
            shown_words(person.get("reason") or ""),
            person.get("source") or "",
            person.get("site") or "",
        )
        for person in recipients
    ]
    columns = [("RECIPIENT", WIDE), ("STATE", LEFT), ("TRIES", RIGHT), ("NEXT", RIGHT), ("WAITS FOR", LEFT)]
    print_table([*columns, ("SOURCE", LEFT), ("SITE", WIDE)], rows, ["SITE", "SOURCE"])


@click.command(
    epilog="""\b
Example:
  fastrelay queue why k3f9ax-1c2f
"""
)
@click.argument("message_id", metavar="ID")
@relay_options
def why(message_id: str, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Say what a message waits for, and until when."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("queue.why", {"id": message_id})
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show_why(answer)


def show_why(answer: dict[str, Any]) -> None:
    """Recipients that wait for the same thing stand together."""
    from fastrelay.cli.output import clean, count, duration, shown_words

    together: dict[tuple[str, str, str], list[str]] = {}
    for row in answer.get("why", []):
        until = row.get("until_seconds")
        wait = duration(until) if until is not None and until > 0 else ""
        key = (str(row.get("reason") or ""), str(row.get("detail") or ""), wait)
        together.setdefault(key, []).append(str(row.get("recipient", "")))
    if not together:
        click.echo(f"{clean(answer.get('id', 'the message'))} waits for nothing: no recipient is queued")
    for number, ((reason, detail, wait), recipients) in enumerate(together.items()):
        if number:
            click.echo()
        more = f" (for {wait} more)" if wait else ""
        click.echo(f"{clean(shown_words(reason))}{more}")
        if detail:
            click.echo(f"  {clean(detail)}")
        for recipient in recipients[:10]:
            click.echo(f"    {clean(recipient)}")
        if len(recipients) > 10:
            click.echo(f"    and {count(len(recipients) - 10)} more")
