"""`fastrelay events tail|status|replay`: the event logs, and the webhooks that they are posted to."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import DurationType, connect, relay_options
from fastrelay.config.feedback import EventName

if TYPE_CHECKING:
    from fastrelay.feedback.tail import Event, Reader

COMMANDS = {
    "tail": ("fastrelay.cli.events:tail", "Show what happened, and what happens."),
    "status": ("fastrelay.cli.events:status", "Show the webhooks, and how far each is behind."),
    "replay": ("fastrelay.cli.events:replay", "Post the events of a time to a webhook once more."),
}

EPILOG = """\b
Events are lines of JSON in events/ of the state directory, and posted to the webhooks of the
configuration (events.webhooks). Each has a key; what is told twice has the same key twice.

\b
Examples:
  fastrelay events tail -f --event failed --event bounced
  fastrelay events tail --recipient joe@example.com --since 2d
  fastrelay events status
  fastrelay events replay --from 2026-11-23T08:00:00Z --to 2026-11-23T09:00:00Z --webhook app

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""
NAMES = EventName.__args__  # type: ignore[attr-defined]
POLL_SECONDS = 0.25
LINES = 1000  # read at a time


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def events() -> None:
    """What happened to mail: event logs and webhooks."""


@click.command(
    epilog="""\b
Reads the files; no relay need be running. With --json the lines are printed as they are.

\b
Examples:
  fastrelay events tail -f
  fastrelay events tail -n 100 --event deferred --campaign spring
  fastrelay events tail --since 7d --recipient joe@example.com --json | jq .reply
"""
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "lines", metavar="N", type=click.IntRange(0), default=20, help="At most so many.  [default: 20]")
@click.option("--since", metavar="TIME", type=DurationType(), default="1h", help="How far back to look.  [default: 1h]")
@click.option("--event", "event_names", multiple=True, metavar="EVENT", help="Only such events; may be repeated.")
@click.option("--recipient", metavar="ADDRESS", help="Only about this recipient.")
@click.option("--campaign", metavar="NAME", help="Only mail of this campaign.")
@click.option("--tenant", metavar="NAME", help="Only mail of this tenant.")
@click.option("--id", "message_id", metavar="ID", help="Only this message.")
@relay_options
def tail(
    follow: bool,
    lines: int,
    since: float,
    event_names: tuple[str, ...],
    recipient: str | None,
    campaign: str | None,
    tenant: str | None,
    message_id: str | None,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show events of the last hour, in order; with -f also what comes."""
    from fastrelay.clock import RealClock, iso_utc
    from fastrelay.feedback.tail import FOLDER, Reader

    folder = os.path.join(connect(config_path, state_dir, timeout).state_dir, FOLDER)
    wanted = frozenset(event_names) if event_names else None
    for name in event_names:
        if not name.isascii() or not name.replace("_", "").islower() or not name.replace("_", "").isalpha():
            raise click.UsageError(f"{name!r} is no event; the events of mail are {', '.join(NAMES)}")
    reader = Reader(folder, wanted, start=iso_utc(RealClock().wall() - since))
    chosen = Chosen(recipient, campaign, tenant, message_id)
    show = _show_line if as_json else _show_words
    try:
        last: deque[tuple[bytes, Event]] = deque(maxlen=lines)
        last.extend(found for found in _until_idle(reader, chosen))
        for raw, event in last:
            show(raw, event)
        while follow:
            for raw, event in _until_idle(reader, chosen):
                show(raw, event)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        reader.close()


class Chosen:
    """Which events are to be shown."""

    def __init__(self, recipient: str | None, campaign: str | None, tenant: str | None, message_id: str | None) -> None:
        self.recipient = recipient.lower() if recipient is not None else None
        self.campaign, self.tenant, self.id = campaign, tenant, message_id
        self._octets = self.recipient.encode() if self.recipient and self.recipient.isascii() else b""

    def may(self, raw: bytes) -> bool:
        """Whether it is worth a decoding."""
        return not self._octets or self._octets in raw.lower()

    def __call__(self, event: Event) -> bool:
        if self.recipient is not None and self.recipient not in (
            one.lower() for one in (event.recipient, *event.recipients)
        ):
            return False
        return all(
            wanted is None or wanted == found
            for wanted, found in ((self.campaign, event.campaign), (self.tenant, event.tenant), (self.id, event.id))
        )


def _until_idle(reader: Reader, chosen: Chosen) -> Iterator[tuple[bytes, Event]]:
    from fastrelay.feedback.tail import decode

    while True:
        for raw in reader.read(LINES):
            event = decode(raw) if chosen.may(raw) else None
            if event is not None and chosen(event):
                yield raw, event
        if reader.idle:
            return


def _show_line(raw: bytes, event: Event) -> None:
    # Names and replies of strangers are in it, but escaped: a line has no control characters.
    click.echo(raw.decode("utf-8", "replace"))


def _show_words(raw: bytes, event: Event) -> None:
    """One line: when, what, who, and what was said."""
    import msgspec

    from fastrelay.cli.output import clean

    who = event.recipient or ", ".join(event.recipients[:3]) + (" …" if len(event.recipients) > 3 else "")
    if not who:
        fields = msgspec.json.decode(raw)
        who = " ".join(
            f"{name}={value}" for name, value in fields.items() if name not in ("event", "time", "id", "key")
        )
    said = event.reply or event.reason or event.method or event.feedback_type or event.action
    notes = [one for one in (event.class_, event.source, event.provider, event.campaign) if one]
    words = f"{event.time}  {event.event:<12} {who}"
    if said:
        words += f"  {said}"
    if notes:
        words += f"  [{' '.join(notes)}]"
    click.echo(clean(words))


@click.command(
    epilog="""\b
STATE: ok; failing (tried again, events are kept until give_up); off (410 Gone, or a secret that
can't be used: mend it, then reload). BEHIND counts events that were not taken yet.

\b
Examples:
  fastrelay events status
  fastrelay events status --json | jq '.webhooks[].lag_seconds'
"""
)
@relay_options
def status(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Show the webhooks, and how far each is behind."""
    from fastrelay.cli.output import LEFT, RIGHT, clean, count, duration, print_json, print_table

    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("events.status", {})
    if as_json:
        print_json(answer)
        return
    if not answer["webhooks"]:
        click.echo("no webhook is configured (events.webhooks)")
        return
    columns = [
        ("WEBHOOK", LEFT), ("FORMAT", LEFT), ("STATE", LEFT), ("TAKEN", RIGHT), ("DROPPED", RIGHT), ("BEHIND", RIGHT),
        ("AGE", RIGHT), ("NEXT TRY", RIGHT),
    ]  # fmt: skip
    rows = [
        [
            one["name"], one["format"], one["state"], count(one["taken"]), count(one["dropped"]),
            ("≥ " if one["lag_events_least"] else "") + count(one["lag_events"]), duration(one["lag_seconds"]),
            duration(one["next_attempt_seconds"]),
        ]
        for one in answer["webhooks"]
    ]  # fmt: skip
    print_table(columns, rows)
    for one in answer["webhooks"]:
        if one["problem"]:
            click.echo(clean(f"{one['name']}: {one['problem']}"))
        if one["replay"]:
            click.echo(clean(f"{one['name']}: {_progress(one['replay'])}"))


def _progress(replay: dict[str, Any]) -> str:
    from fastrelay.cli.output import plural

    state = replay["error"] or ("done" if replay["done"] else "under way")
    return f"replay from {replay['from']} to {replay['to']}: {plural(replay['events'], 'event')} taken, {state}"


@click.command(
    epilog="""\b
Events that were posted before have the same keys. A replay goes on beside what is new, and ends
with the relay; Ctrl-C ends the waiting, not the replay.

\b
Examples:
  fastrelay events replay --from 2026-11-23T08:00:00Z
  fastrelay events replay --from 2026-11-22 --to 2026-11-23 --webhook app --no-wait
"""
)
@click.option("--from", "start", metavar="TIME", required=True, help="Events from then on: 2026-11-23T08:00:00Z, UTC.")
@click.option("--to", "end", metavar="TIME", help="Events before then.  [default: now]")
@click.option("--webhook", metavar="NAME", help="Only to this webhook.  [default: to all]")
@click.option("--no-wait", is_flag=True, help="Don't wait until it is done.")
@relay_options
def replay(
    start: str,
    end: str | None,
    webhook: str | None,
    no_wait: bool,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Post the events of a time to a webhook once more."""
    from fastrelay.cli.output import clean, print_json

    arguments = {"start": start, "end": end, "webhook": webhook}
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("events.replay", {name: value for name, value in arguments.items() if value is not None})
        replays: dict[str, Any] = answer["webhooks"]
        if not no_wait:
            replays = _wait(lambda: relay.call("events.status", {}), list(replays))
    if as_json:
        print_json({"webhooks": replays})
    else:
        for name, one in replays.items():
            click.echo(clean(f"{name}: {_progress(one)}"))
    if any(one["error"] for one in replays.values()):
        raise SystemExit(1)


def _wait(ask: Callable[[], dict[str, Any]], names: list[str]) -> dict[str, Any]:
    while True:
        found = {one["name"]: one["replay"] for one in ask()["webhooks"] if one["name"] in names and one["replay"]}
        if all(one["done"] for one in found.values()):
            return found
        time.sleep(POLL_SECONDS)
