"""`fastrelay demo`: a real relay, a campaign and an internet in a box, with a live display.

The work is in sim/demonstration.py; here it is shown: bars and a table by provider while it runs (plain lines once a
second into a pipe), then where everything went, the rate, and the commands for a relay that does real work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import json_option

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from fastrelay.sim.demonstration import Demonstration, Result

EXIT_INEXACT = 1
EXIT_INTERRUPTED = 130
REFRESHES_PER_SECOND = 5
PLAIN_SECONDS = 1.0  # between two lines when the output is no terminal
BAR_WIDTH = 40

EPILOG = """\b
What it does: writes a configuration into a temporary directory, starts a DNS server and 24 MX hosts of twelve
providers on loopback addresses, starts `fastrelay run`, submits 30 newsletters over SMTP, waits until the queue is
empty, and compares what arrived with what was sent, octet by octet. Two recipients in a hundred are refused at
the first try, and five in a thousand for good. Nothing leaves this host, and nothing is left behind.

\b
Examples:
  fastrelay demo
  fastrelay demo --messages 100000 --workers 2
  fastrelay demo --keep --json

Exit codes: 0 every message arrived exactly once; 1 not so; 130 interrupted.
"""


def _workers(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return value
    if value.isdigit() and 1 <= int(value) <= 256:
        return int(value)
    raise click.BadParameter("a number from 1 to 256, or auto")


@click.command(epilog=EPILOG)
@click.option("--messages", metavar="N", type=click.IntRange(1, 10_000_000), default=10_000, show_default=True)
@click.option("--domains", metavar="N", type=click.IntRange(1, 100_000), default=500, show_default=True)
@click.option("--workers", metavar="N", callback=_workers, default="auto", show_default=True, help="Worker processes.")
@click.option("--trouble/--no-trouble", default=True, help="Let MX hosts refuse some recipients.  [default: trouble]")
@click.option("--keep", is_flag=True, help="Keep the temporary directory: configuration, spool, event logs.")
@json_option
@click.pass_context
def demo(
    ctx: click.Context, messages: int, domains: int, workers: int | str, trouble: bool, keep: bool, as_json: bool
) -> None:
    """Relay a campaign to an internet in a box, and prove where everything went."""
    from fastrelay.cli.output import clean
    from fastrelay.sim.demonstration import DemoFailed, Demonstration

    show = Demonstration(messages, domains, workers=workers, trouble=trouble, keep=keep)
    try:
        result = _run(_json(show) if as_json else _shown(show))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted; the relay and the MX hosts are stopped", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    except DemoFailed as error:
        for line in error.log.splitlines():
            click.echo(f"  | {clean(line)}", err=True)
        raise
    if keep and not as_json:
        click.echo(f"  Kept: {show.directory}\n")
    ctx.exit(0 if result.exact else EXIT_INEXACT)


def _run(work: Any) -> Result:
    """On uvloop; Ctrl-C and SIGTERM cancel the work, whose context managers then end the children."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: Result = runner.run(_until_terminated(work))
        return result


async def _until_terminated(work: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


async def _json(show: Demonstration) -> Result:
    from fastrelay.cli.output import print_json

    async with show:
        result = await show.run()
    print_json(result.as_json())
    return result


async def _shown(show: Demonstration) -> Result:
    from rich.console import Console

    console = Console(highlight=False)
    campaign = show.campaign
    console.print(
        f"\n  [bold]fastrelay demo[/]: {len(campaign):,} messages, 30 newsletters, "
        f"{campaign.domains:,} domains at {len(campaign.providers())} providers\n"
    )
    show.on_step = lambda words: console.print(f"  [dim]{_STEPS.get(words, words)}[/]")
    async with show:
        console.print(f"  [dim]the relay takes mail at {show.smtp}[/]\n")
        running = asyncio.create_task(show.run())
        try:
            await _follow(show, running, console)
            result = await running
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await running
    for part in summary(result):
        console.print(part, soft_wrap=isinstance(part, str))  # commands must stay on one line to be pasted
    return result


_STEPS = {
    "DNS and MX hosts": "starting a DNS server and the MX hosts …",
    "relay": "starting fastrelay run …",
    "check": "comparing what arrived with what was sent …\n",
}


async def _follow(show: Demonstration, running: asyncio.Task[Result], console: Console) -> None:
    """Show the progress until the run is over."""
    if not console.is_terminal:
        while not running.done():
            await asyncio.wait([running], timeout=PLAIN_SECONDS)
            progress = show.progress
            console.print(
                f"  {progress.seconds:5.1f} s  accepted {progress.accepted:,}  delivered {progress.delivered:,}  "
                f"failed {progress.failed:,}  queued {progress.queued:,}"
            )
        return
    from rich.live import Live

    with Live(_display(show), console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True) as live:
        while not running.done():
            await asyncio.wait([running], timeout=1 / REFRESHES_PER_SECOND)
            live.update(_display(show))


def _display(show: Demonstration) -> RenderableType:
    """Bars and the table by provider, as of now."""
    from rich.console import Group
    from rich.table import Table

    progress, total = show.progress, len(show.campaign)
    rate = progress.delivered / progress.seconds if progress.seconds else 0.0
    bars = Table.grid(padding=(0, 2))
    for words, count, colour in (
        ("accepted", progress.accepted, "cyan"),
        ("delivered", progress.delivered, "green"),
    ):
        bars.add_row(f"  {words}", _bar(count, total, colour), f"{count:,}")
    status = (
        f"  {progress.seconds:.1f} s   [bold]{rate:,.0f}[/] delivered a second   {progress.queued:,} queued   "
        f"{progress.deferred:,} deferred   {progress.failed:,} failed\n"
    )
    return Group(bars, "", status, _provider_table(progress.by_provider))


def _bar(count: int, total: int, colour: str) -> RenderableType:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=total, completed=min(count, total), width=BAR_WIDTH, complete_style=colour)


def _provider_table(by_provider: dict[str, dict[str, int]]) -> Table:
    """messages, delivered, deferred and refused by provider."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=True)
    table.add_column("provider")
    for column in ("messages", "delivered", "deferred once", "no such mailbox"):
        table.add_column(column, justify="right")
    for name, counts in by_provider.items():
        done = counts["delivered"] + counts["refused"] >= counts["messages"]
        table.add_row(
            name,
            f"{counts['messages']:,}",
            f"[green]{counts['delivered']:,}[/]" if done else f"{counts['delivered']:,}",
            f"{counts['deferred']:,}" if counts["deferred"] else "",
            f"{counts['refused']:,}" if counts["refused"] else "",
        )
    return table


def summary(result: Result) -> Iterator[RenderableType]:
    """The end: where everything went, the rate, the proof, and what to do next."""
    from fastrelay.cli.output import plural

    yield "  [bold]Where everything went[/]"
    yield _provider_table(result.by_provider)
    mebibytes = result.octets / 2**20
    yield (
        f"  {result.messages:,} messages ({mebibytes:,.0f} MiB) in {result.seconds:.1f} s with "
        f"{plural(result.workers, 'worker')}: accepted at [bold]{result.accepted_rate:,.0f}[/], "
        f"delivered at [bold]{result.delivered_rate:,.0f}[/] a second"
    )
    sources = ", ".join(f"{name} {count:,}" for name, count in result.by_source.items())
    yield f"  {result.connections:,} connections, {result.most_open:,} at once; by sending address: {sources}\n"
    yield from _proof(result)
    yield from _next_commands()


def _proof(result: Result) -> Iterator[str]:
    relay = result.relay
    if result.exact:
        yield f"  [green]✔[/] {relay['delivered']:,} arrived exactly once, every octet as it was submitted"
        if relay["failed"]:
            yield f"  [green]✔[/] {relay['failed']:,} refused for good by their MX host, recorded as failed"
        if result.deferred:
            yield f"  [green]✔[/] {result.deferred:,} refused at first, retried and delivered"
        yield "  [green]✔[/] the relay's own account agrees: accepted = delivered + failed, nothing queued\n"
        return
    yield "  [red]✘ the accounts do not agree[/]"
    yield f"    the relay says: {', '.join(f'{name} {count:,}' for name, count in relay.items())}"
    yield f"    expected: delivered {result.expected_delivered:,}, failed {result.expected_failed:,}"
    for words in ("missing", "repeated", "altered", "unexpected"):
        if getattr(result, words):
            yield f"    {words}: {getattr(result, words):,}"
    for violation in result.violations[:5]:
        yield f"    against the protocol: {violation}".replace("[", "\\[")
    yield "    please report this, with what `fastrelay demo --keep` leaves behind\n"


def _next_commands() -> Iterator[str]:
    """How to go on, in words that can be pasted where the user stands."""
    example = Path(__file__).resolve().parents[2] / "deploy" / "fastrelay.example.yaml"
    command = _own_command()
    yield "  [bold]To run it for real[/]"
    if example.exists():
        yield f"    cp {_near(example)} fastrelay.yaml     [dim]# then set hostname, sources, relay_networks[/]"
    else:
        yield "    [dim]# write fastrelay.yaml; deploy/fastrelay.example.yaml in the source explains every key[/]"
    for words, remark in (
        ("check -c fastrelay.yaml", "is the configuration sound, does this host have the addresses?"),
        ("run -c fastrelay.yaml", "the relay; point your newsletter application at its SMTP listener"),
        ("send -c fastrelay.yaml --to you@example.com --trace", "one test message, the whole dialogue shown"),
        ("queue summary -c fastrelay.yaml", "where all mail stands"),
    ):
        yield f"    {command} {words}     [dim]# {remark}[/]"
    yield ""


def _own_command() -> str:
    """How this command was called, if that can be called again from here."""
    called = Path(sys.argv[0])
    if called.name != "fastrelay":
        return "fastrelay"
    return _near(called) if not called.is_absolute() or Path.cwd() in called.parents else str(called)


def _near(path: Path) -> str:
    """The path as seen from the working directory, if that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)
