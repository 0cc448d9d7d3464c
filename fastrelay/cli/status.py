"""`fastrelay status`: the relay that runs, and its workers."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.options import connect, relay_options

EPILOG = """\b
Examples:
  fastrelay status
  fastrelay status --json | jq '.workers[].restarts'

Exit codes: 0 a relay runs; 1 it does not answer; 3 none runs.
"""


@click.command(epilog=EPILOG)
@relay_options
def status(config_path: str | None, state_dir: str | None, timeout: float, as_json: bool) -> None:
    """Show the running relay and its workers."""
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("status")
        folder = relay.state_dir
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
        return
    show(answer, folder)


def show(answer: dict[str, Any], folder: str) -> None:
    from fastrelay.cli.output import duration, print_fields

    print_fields(
        [
            ("version", answer.get("version")),
            ("state", answer.get("state")),
            ("uptime", duration(answer.get("uptime_seconds"))),
            ("process", answer.get("pid")),
            ("state directory", answer.get("state_dir", folder)),
            ("configuration", answer.get("config_path")),
            ("metrics", answer.get("metrics")),
            ("last reload", "refused; the old configuration goes on" if answer.get("last_reload_ok") is False else ""),
            ("listening", ", ".join(str(place) for place in answer.get("listening", []))),
        ]
    )
    if answer.get("workers"):
        click.echo()
        show_workers(answer["workers"])
    if answer.get("suspensions"):
        click.echo()
        show_suspensions(answer["suspensions"])


def show_workers(workers: list[dict[str, Any]]) -> None:
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, duration, print_table

    rows = [
        (
            worker.get("slot", ""),
            worker.get("pid") or "",
            worker.get("state", ""),
            duration(worker.get("uptime_seconds")),
            worker.get("restarts", 0),
            worker.get("error") or "",
        )
        for worker in workers
    ]
    columns = [("WORKER", RIGHT), ("PID", RIGHT), ("STATE", LEFT), ("UPTIME", RIGHT), ("RESTARTS", RIGHT)]
    if any(row[-1] for row in rows):
        print_table([*columns, ("ERROR", WIDE)], rows)
    else:
        print_table(columns, [row[:-1] for row in rows])


def show_suspensions(suspensions: list[dict[str, Any]]) -> None:
    from fastrelay.cli.output import LEFT, WIDE, print_table

    rows = [
        (
            suspension.get("id", ""),
            selectors_text(suspension.get("selectors", {})),
            suspension.get("since", ""),
            suspension.get("why") or "",
        )
        for suspension in suspensions
    ]
    print_table([("SUSPENSION", LEFT), ("WHAT", WIDE), ("SINCE", LEFT), ("WHY", WIDE)], rows)


def selectors_text(selectors: dict[str, Any]) -> str:
    """`campaign spring, domain example.com`; `everything` without any."""
    from fastrelay.cli.output import duration

    parts = []
    for name, value in selectors.items():
        if name == "older_than_seconds":
            parts.append(f"older than {duration(value)}")
        elif name != "all" and value is not None:
            parts.append(f"{name} {value}")
    return ", ".join(parts) or "everything"
