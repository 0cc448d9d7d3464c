"""`fastrelay warmup status|plan|set|hold|resume|templates`: how far cold sources are, and what an operator may do."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import connect, json_option, relay_options

COMMANDS = {
    "status": ("fastrelay.cli.warmup:status", "Stages, caps, use and bad signals of each cold source."),
    "plan": ("fastrelay.cli.warmup:plan", "The stages to come, with their dates."),
    "set": ("fastrelay.cli.warmup:set_", "Go to a stage, or be done."),
    "hold": ("fastrelay.cli.warmup:hold", "Stay on the present stage until resumed."),
    "resume": ("fastrelay.cli.warmup:resume", "Go on after a hold or a stop."),
    "templates": ("fastrelay.cli.warmup:templates", "List the named schedules and where they are from."),
}

EPILOG = """\b
A source with `warmup: PLAN` sends at most its stage's cap a day (or hour); the rest leaves by
the warm sources of its pool, or waits with the reason warmup_cap. When a day is over, and at
least advance_at (90%) of the cap was delivered, it goes on to the next stage. Too many
deferrals, blocks, bounces or complaints hold it, take it one stage back, or stop it: thresholds
of the plan.

\b
KEY is a provider with a schedule of its own, or '*' for all others together.

\b
Examples:
  fastrelay warmup status
  fastrelay warmup plan b
  fastrelay warmup hold b --why "list is being cleaned"
  fastrelay warmup resume b
  fastrelay warmup set b 5 google

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no relay is running.
"""
SOURCE = click.argument("source", metavar="SOURCE")
ANY_SOURCE = click.argument("source", metavar="[SOURCE]", required=False)
KEY = click.argument("key", metavar="[KEY]", required=False)
WHY = click.option("--why", metavar="TEXT", default="", help="A note for your colleagues, shown with the status.")


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def warmup() -> None:
    """Warm-up of new sending addresses: look, hold, resume, set."""


@click.command(
    epilog="""\b
TODAY is the use of the cap, DELIVERED what counts for the next stage (of an hourly schedule:
its fullest hour). Shares are of the attempts since the last judgement that had minimum_messages
of them; `12% >10%` is above a threshold. A stage moves on at the end of a day only.

\b
States:
  running   the cap holds; moves on by itself
  held      stays on its stage: a threshold (until a day that is well) or an operator
  stopped   sends nothing until resumed
  done      warm, without a cap

\b
Examples:
  fastrelay warmup status
  fastrelay warmup status b google
  fastrelay warmup status --json | jq '.warmup[] | select(.held)'
"""
)
@ANY_SOURCE
@KEY
@relay_options
def status(
    source: str | None, key: str | None, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Show stages, caps, use and bad signals of each cold source."""
    answer = _ask("warmup.status", _chosen(source, key), config_path, state_dir, timeout)
    _show(answer, as_json, show_status)


@click.command(
    epilog="""\b
Dates hold if every day sends at least advance_at of the cap, and none is held.

\b
Examples:
  fastrelay warmup plan
  fastrelay warmup plan b --json | jq -r '.warmup[0].warm_on'
"""
)
@ANY_SOURCE
@KEY
@relay_options
def plan(
    source: str | None, key: str | None, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Show the stages to come, with their dates."""
    answer = _ask("warmup.plan", _chosen(source, key), config_path, state_dir, timeout)
    _show(answer, as_json, show_plan)


@click.command(
    "set",
    epilog="""\b
STAGE is a number from 1, or `done`: warm from now on. The stage's cap holds at once; what was
sent today stays counted. Without KEY, for each schedule of the source.

\b
Examples:
  fastrelay warmup set b 1                        begin again
  fastrelay warmup set b 5 google                 only mail to google
  fastrelay warmup set b done
""",
)
@SOURCE
@click.argument("stage", metavar="STAGE")
@KEY
@WHY
@relay_options
def set_(
    source: str,
    stage: str,
    key: str | None,
    why: str,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Go to a stage, or be done. On stable storage, and in force, when this returns."""
    if stage != "done" and not stage.isdecimal():
        raise click.BadParameter(f"{stage!r} is not a number from 1, nor done", param_hint="STAGE")
    arguments = {**_chosen(source, key), "stage": int(stage) if stage != "done" else stage, "why": why}
    _show(_ask("warmup.set", arguments, config_path, state_dir, timeout), as_json, show_status)


@click.command(
    epilog="""\b
Mail goes on up to the stage's cap; to send nothing: `fastrelay queue suspend --source SOURCE`.
Bad signals still take it back or stop it. Without KEY, for each schedule of the source.

\b
Examples:
  fastrelay warmup hold b --why "list is being cleaned"
  fastrelay warmup hold b google
"""
)
@SOURCE
@KEY
@WHY
@relay_options
def hold(
    source: str,
    key: str | None,
    why: str,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Stay on the present stage until resumed. On stable storage when this returns."""
    arguments = {**_chosen(source, key), "why": why}
    _show(_ask("warmup.hold", arguments, config_path, state_dir, timeout), as_json, show_status)


@click.command(
    epilog="""\b
What went wrong so far is forgotten: the shares begin anew. The stage stays the present one;
`fastrelay warmup set` goes to another. Without KEY, for each schedule that is held or stopped.

\b
Examples:
  fastrelay warmup resume b
  fastrelay warmup resume b google
"""
)
@SOURCE
@KEY
@WHY
@relay_options
def resume(
    source: str,
    key: str | None,
    why: str,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Go on after a hold or a stop. On stable storage when this returns."""
    arguments = {**_chosen(source, key), "why": why}
    _show(_ask("warmup.resume", arguments, config_path, state_dir, timeout), as_json, show_status)


@click.command(
    epilog="""\b
Examples:
  fastrelay warmup templates
  fastrelay warmup templates sendgrid
"""
)
@click.argument("name", metavar="[NAME]", required=False)
@json_option
def templates(name: str | None, as_json: bool) -> None:
    """List the named schedules, or the stages of one. No relay is needed."""
    from fastrelay.cli.output import print_json
    from fastrelay.limits.warmup import templates as known

    if name is not None and name not in known():
        raise click.UsageError(f"no template {name!r}; the templates are {', '.join(known())}")
    shown = [_template(one) for one in known().values() if name in (None, one.name)]
    if as_json:
        print_json({"templates": shown})
    elif name is None:
        show_templates(shown)
    else:
        show_template(shown[0])


def _template(template: Any) -> dict[str, Any]:
    from fastrelay.config.sending import WarmupPlan
    from fastrelay.limits.warmup import ramps

    made = ramps(WarmupPlan(template=template.name))
    return {
        "name": template.name,
        "per": template.per,
        "source": template.source,
        "note": template.note,
        "stages": {key: list(ramp.caps) for key, ramp in made.items()},
    }


# --- asking ---


def _chosen(source: str | None, key: str | None) -> dict[str, Any]:
    return {"source": source, "provider": key}


def _ask(
    command: str, arguments: dict[str, Any], config_path: str | None, state_dir: str | None, timeout: float
) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value not in (None, "")}
    with connect(config_path, state_dir, timeout) as relay:
        answer: dict[str, Any] = relay.call(command, given)
    return answer


def _show(answer: dict[str, Any], as_json: bool, show: Any) -> None:
    from fastrelay.cli.output import print_json, warn_if_incomplete

    if as_json:
        print_json(answer)
        return
    warn_if_incomplete(answer)
    if answer.get("warmup"):
        show(answer["warmup"])
    else:
        click.echo("no source has a warm-up plan; give one with `warmup: PLAN` below the source")


# --- showing ---


def show_status(rows: list[dict[str, Any]]) -> None:
    """One line for each source × key, then words on those that do not simply run."""
    from fastrelay.cli.output import LEFT, RIGHT, clean, plural, print_table

    columns = [
        ("SOURCE", LEFT),
        ("KEY", LEFT),
        ("STATE", LEFT),
        ("STAGE", RIGHT),
        ("CAP", RIGHT),
        ("TODAY", RIGHT),
        ("DELIVERED", RIGHT),
        ("DEFERRED", RIGHT),
        ("BLOCKED", RIGHT),
        ("BOUNCED", RIGHT),
        ("COMPLAINTS", RIGHT),
        ("DAYS LEFT", RIGHT),
    ]
    print_table(columns, [_status_cells(row) for row in rows], spare=("COMPLAINTS", "BOUNCED", "BLOCKED", "DELIVERED"))
    for row in rows:
        name = f"{row['source']}{'' if row['key'] == '*' else ' ' + row['key']}"
        who = ", by an operator" if row.get("by_operator") else ""
        if row["state"] in ("held", "stopped"):
            click.echo(f"{clean(name)} is {row['state']}{who}: {clean(row['why'])}")
        elif row["state"] == "running" and row.get("why"):
            click.echo(f"{clean(name)}: {clean(row['why'])}")
        verdict = row.get("verdict")
        if verdict and row["state"] != "stopped":
            act = _VERDICTS.get(verdict["act"], verdict["act"])
            judged = plural(row["attempts_judged"], "attempt")
            click.echo(
                f"{clean(name)}: as it stands, {act} at the end of the day: {clean(verdict['why'])}, of {judged}"
            )
    days = {row.get("day") for row in rows if row["state"] != "done"}
    if len(days) == 1:
        click.echo(f"day: {clean(days.pop())}")


_VERDICTS = {"hold": "it is held", "step_back": "it goes one stage back", "stop": "it stops"}


def _status_cells(row: dict[str, Any]) -> list[str]:
    from fastrelay.cli.output import count

    done = row["state"] == "done"
    per = "/h" if row["per"] == "hour" else "/d"
    shares = row.get("shares") or {}
    return [
        row["source"],
        row["key"],
        row["state"],
        f"{row['stage']} of {row['stages']}",
        "" if done else f"{count(row['cap'])}{per}",
        "" if done else count(row["used"]),
        "" if done else f"{count(row.get('delivered_counts'))} of {count(row.get('needed'))}",
        *("" if done else _share_cell(shares.get(name)) for name in ("deferrals", "blocks", "bounces", "complaints")),
        "" if done else count(row["days_left"]),
    ]


def _share_cell(share: dict[str, Any] | None) -> str:
    """`1.2%`, and the worst threshold that it is above."""
    if not share:
        return ""
    value = share["share"]
    text = f"{value * 100:.3g}%"
    above = [share[act] for act in ("hold", "step_back", "stop") if share[act] is not None and value > share[act]]
    return f"{text} >{above[-1] * 100:.3g}%" if above else text


def show_plan(rows: list[dict[str, Any]]) -> None:
    """The days to come of each source × key; stages in a row with the same cap are one line."""
    from fastrelay.cli.output import LEFT, RIGHT, clean, count, print_table

    for number, row in enumerate(rows):
        if number:
            click.echo()
        key = "" if row["key"] == "*" else f" at {row['key']}"
        click.echo(f"{clean(row['source'])}{clean(key)}: plan {clean(row['plan'])} ({clean(row['schedule'])})")
        if not row["ahead"]:
            click.echo("  done: the source is warm")
            continue
        cells = [
            (
                first["date"],
                f"{first['stage']}" if first is last else f"{first['stage']} to {last['stage']}",
                f"{count(first['cap'])} per {row['per']}",
            )
            for first, last in _same_caps(row["ahead"])
        ]
        print_table([("  FROM", LEFT), ("STAGE", RIGHT), ("CAP", RIGHT)], [(f"  {a}", b, c) for a, b, c in cells])
        click.echo(f"  warm on {row['warm_on']}, if each day sends enough and is well ({clean(row['time_zone'])})")
        if row["held"]:
            click.echo(f"  but it is {row['state']}: {clean(row['why'])}")


def _same_caps(ahead: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """First and last of each run of stages with one cap."""
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for stage in ahead:
        if runs and runs[-1][0]["cap"] == stage["cap"]:
            runs[-1] = (runs[-1][0], stage)
        else:
            runs.append((stage, stage))
    return runs


def show_templates(shown: list[dict[str, Any]]) -> None:
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, print_table

    rows = [
        (
            one["name"],
            f"{count(one['stages']['*'][0])} to {count(one['stages']['*'][-1])} per {one['per']}",
            len(one["stages"]["*"]),
            ", ".join(key for key in one["stages"] if key != "*") or "all alike",
            one["source"],
        )
        for one in shown
    ]
    columns = [("TEMPLATE", LEFT), ("CAPS", RIGHT), ("STAGES", RIGHT), ("OWN SCHEDULES", LEFT), ("SOURCE", WIDE)]
    print_table(columns, rows)


def show_template(one: dict[str, Any]) -> None:
    from fastrelay.cli.output import count

    click.echo(f"{one['name']}: messages per {one['per']}, a stage a day")
    click.echo(f"source: {one['source']}")
    if one["note"]:
        click.echo(f"note: {one['note']}")
    for key, caps in one["stages"].items():
        click.echo()
        click.echo(f"{'all providers' if len(one['stages']) == 1 else 'all others' if key == '*' else key}:")
        click.echo("  " + ", ".join(count(cap) for cap in caps))
