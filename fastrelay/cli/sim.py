"""`fastrelay sim`: a configuration, really relaying, against simulated providers in simulated time.

The work is in sim/run.py; here its progress and its report are shown.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import DurationType, config_option, json_option, require_config

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.sim.run import Progress, Result
    from fastrelay.sim.scenario import Scenario

EPILOG = """\b
What it does: reads the scenario (which campaigns, to which providers, how these behave), starts
DNS and MX hosts on loopback addresses, and runs one worker with your configuration: its sources
(mapped to loopback), pools, limits, warm-up, back-off and retries. Time is simulated: the clock
goes to the next event as soon as the sockets are quiet. Nothing leaves this host. Routes to hosts
of your own are left out.

\b
Scenarios to start from: deploy/scenarios/first-campaign.yaml, pool-with-two-cold-addresses.yaml,
angry-provider.yaml.

\b
Examples:
  fastrelay sim deploy/scenarios/first-campaign.yaml -c fastrelay.yaml
  fastrelay sim scenario.yaml --for 30d --json
"""


@click.command(epilog=EPILOG)
@click.argument("scenario_path", metavar="SCENARIO.yaml", type=click.Path())
@click.option("--for", "lasts", metavar="TIME", type=DurationType(), help="Simulate so long, in place of the file's.")
@config_option
@json_option
@click.pass_context
def sim(ctx: click.Context, scenario_path: str, config_path: str | None, as_json: bool, lasts: float | None) -> None:
    """Run your configuration against simulated providers, in simulated time."""
    import msgspec

    from fastrelay.config.load import load
    from fastrelay.sim.run import run
    from fastrelay.sim.scenario import load_scenario

    scenario = load_scenario(scenario_path)
    if lasts is not None:
        if lasts <= 0:
            raise click.BadParameter("a time above 0", param_hint="--for")
        scenario = msgspec.structs.replace(scenario, lasts_seconds=lasts)
    config = load(require_config(config_path))
    try:
        result = run(scenario, config, None if as_json else _progress())
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        ctx.exit(130)
    if as_json:
        from fastrelay.cli.output import print_json
        from fastrelay.sim.report import as_json as report

        print_json(report(result, scenario, config))
    else:
        show(result, scenario, config)


def _progress() -> Any:
    """Shows how far it is, on a terminal."""
    if not sys.stderr.isatty():
        return None
    from fastrelay.cli.output import duration

    def show_progress(progress: Progress) -> None:
        words = (
            f"day {progress.simulated / 86400:.1f} of {duration(progress.of)}, {progress.submitted:,} handed in, "
            f"{progress.delivered:,} delivered, {progress.queued:,} queued"
        )
        click.echo(f"\r{words:<100}", nl=False, err=True)

    return show_progress


def show(result: Result, scenario: Scenario, config: Config) -> None:
    """The report for a person."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, clean, count, duration, print_table, shown_words
    from fastrelay.sim.report import advice, held_by, of_provider

    if sys.stderr.isatty():
        click.echo(f"\r{'':<100}\r", nl=False, err=True)
    click.echo(
        f"{count(sum(result.submitted.values()))} recipients in {duration(result.seconds)} of simulated time "
        f"({duration(result.real_seconds)} of real time)"
    )
    click.echo()
    columns = [("PROVIDER", LEFT), ("RECIPIENTS", RIGHT), ("DELIVERED", RIGHT), ("DEFERRED", RIGHT), ("FAILED", RIGHT)]
    columns += [("BLOCKED", RIGHT), ("EXPIRED", RIGHT), ("50% OUT", RIGHT), ("100% OUT", RIGHT), ("WAITED FOR", WIDE)]
    rows = []
    for name in sorted(result.submitted):
        outcomes = of_provider(result, name)
        held = ", ".join(f"{shown_words(why)} {share:.0%}" for why, share in held_by(result, name).items())
        reached = result.reached.get(name, {})
        refusals = result.refusals.get(name)
        rows.append(
            (
                name,
                count(result.submitted[name]),
                count(outcomes.delivered),
                count(outcomes.deferred),
                count(outcomes.failed),
                count(refusals["blocked"] if refusals is not None else 0),
                count(outcomes.expired),
                duration(reached.get(0.5)) or "–",
                duration(reached.get(1.0)) or "–",
                held,
            )
        )
    print_table(columns, rows)
    _show_pairs(result)
    if result.warmup:
        click.echo()
        print_table(
            [("WARM-UP", LEFT), ("FOR", LEFT), ("STAGE", RIGHT), ("CAP", RIGHT), ("STATE", LEFT), ("WHY", WIDE)],
            [
                (row["source"], row["key"], f"{row['stage']} of {row['stages']}", row["cap"], row["state"], row["why"])
                for row in result.warmup
            ],
        )
    click.echo()
    for name, replies in sorted(result.replies.items()):
        for reply, times in list(replies.items())[:3]:
            click.echo(clean(f"{name} said {times:,} times: {reply}"))
    click.echo()
    for words in advice(result, scenario, config):
        click.echo(clean(f"advice: {words}"))


def _show_pairs(result: Result) -> None:
    from fastrelay.cli.output import LEFT, RIGHT, count, print_table

    rows = []
    for (provider, source), outcomes in sorted(result.outcomes.items()):
        standing = result.standings.get((provider, source))
        if not source:
            continue
        rows.append(
            (
                provider,
                source,
                count(outcomes.delivered),
                count(outcomes.deferred),
                count(outcomes.failed),
                f"{standing['score']:.2f}" if standing else "",
                count(int(standing["allowance"])) if standing else "",
            )
        )
    if rows:
        click.echo()
        columns = [("PROVIDER", LEFT), ("SOURCE", LEFT), ("DELIVERED", RIGHT), ("DEFERRED", RIGHT), ("FAILED", RIGHT)]
        print_table([*columns, ("REPUTATION", RIGHT), ("MAY SEND A DAY", RIGHT)], rows)
