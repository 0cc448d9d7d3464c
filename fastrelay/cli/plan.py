"""`fastrelay plan`: when a campaign will be out, by provider and source, and what holds it back.

The reckoning is limits/forecast.py; here it is given the configuration, what a running relay says of its queue and its
warm-up, and the recipients, and is shown: a table by provider, one by source, a chart, what holds, what would help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import DurationType, config_option, json_option, require_config

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.limits.forecast import Forecast, Line
    from fastrelay.limits.forecast_advice import Change
    from fastrelay.limits.forecast_build import Demand, Service, Stand

CHART_HEIGHT = 12
CHART_WIDTH = 60
RELAY_SECONDS = 10.0  # a relay that is slower to answer is left out
RELAY_RATE = 2000.0  # messages a second that one worker delivers, where nothing else holds it; on a small host
QUICK_SECONDS = 3.0  # a forecast that took longer is not run again for advice
MOST_PAIRS = 40  # lines of provider × source that are shown; --json has all

EPILOG = """\b
It takes for granted that every recipient is taken at the first attempt, that no provider slows
down and that no stage of warm-up is held: it says when the campaign is out if nothing goes wrong.
What happens if something does, `fastrelay sim` shows.

\b
A message takes 300 ms on a connection unless --message-time says otherwise, and a connection
500 ms until its first message.

\b
Examples:
  fastrelay plan --mix google=40%,yahoo=25%,other=35% --count 500000
  fastrelay plan --recipients list.csv --start 2026-12-01T08:00:00Z
  fastrelay plan --mix google=100% --count 20000 --message-time google=800ms --json
"""


class ServiceType(click.ParamType):
    """`google=800ms`, or `300ms` for all providers."""

    name = "service"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        provider, _, text = str(value).rpartition("=")
        return provider.strip(), DurationType().convert(text.strip(), param, ctx)


def _start(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from fastrelay.sim.scenario import parse_start

    try:
        return parse_start(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=EPILOG)
@click.option(
    "--recipients",
    metavar="FILE",
    type=click.File("rb"),
    help="Addresses or domains, one a line, or a CSV; - reads standard input.",
)
@click.option("--mix", metavar="SHARES", help="Shares by provider: google=40%,yahoo=25%; the rest is other.")
@click.option("--count", metavar="N", type=click.IntRange(1, 10**9), help="Recipients (with --mix).")
@click.option(
    "--start", metavar="TIME", callback=_start, help="When it is handed in: 2026-12-01T08:00:00Z.  [default: now]"
)
@click.option(
    "--over", metavar="TIME", type=DurationType(), default=0.0, help="Handed in over so long.  [default: at once]"
)
@click.option("--pool", metavar="NAME", default="default", show_default=True, help="The pool that sends it.")
@click.option(
    "--sites",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    help="Domains of `other` in a mix.  [default: one for 50 recipients]",
)
@click.option(
    "--message-time",
    "times",
    metavar="[PROVIDER=]TIME",
    type=ServiceType(),
    multiple=True,
    help="How long a message takes on a connection.",
)
@click.option("--days", metavar="N", type=click.IntRange(1, 400), default=90, show_default=True, help="Look so far.")
@click.option(
    "--lookups",
    metavar="N",
    type=click.IntRange(0, 100_000),
    default=2000,
    show_default=True,
    help="Domains of a list whose MX is asked for, the largest first.",
)
@click.option("--offline", is_flag=True, help="Do not ask a running relay for its queue and warm-up.")
@config_option
@json_option
@click.pass_context
def plan(ctx: click.Context, config_path: str | None, as_json: bool, **options: Any) -> None:
    """Forecast when a campaign will be out, and what holds it back."""
    from fastrelay.config.load import load

    if (options["recipients"] is None) == (options["mix"] is None):
        raise click.UsageError("give --recipients FILE, or --mix with --count")
    if options["mix"] is not None and options["count"] is None:
        raise click.UsageError("--mix wants --count N, the number of recipients")
    config = load(require_config(config_path))
    if config.pools and options["pool"] not in config.pools:
        raise click.UsageError(f"there is no pool {options['pool']!r}; the pools are {', '.join(config.pools)}")
    work = Work(config, options, quiet=as_json)
    work.reckon()
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(work.as_json())
    else:
        work.show()


class Work:
    """One forecast, from the options to what is shown."""

    def __init__(self, config: Config, options: Mapping[str, Any], quiet: bool) -> None:
        self.config = config
        self.pool: str = options["pool"]
        self.over: float = options["over"]
        self.days: int = options["days"]
        self._options = options
        self._quiet = quiet
        self.notes: list[str] = []
        self.told: Forecast
        self.changes: list[Change] = []
        self.late: dict[str, float] = {}

    def reckon(self) -> None:
        from fastrelay.clock import RealClock
        from fastrelay.limits.forecast_advice import changes, outlasting

        demands = self._demands()
        clock = RealClock()
        now = clock.wall()
        begins = self._options["start"] or now
        stands, ahead, day_began = self._state(now, begins)
        demands = with_ahead(demands, ahead)
        services = self._services()

        def run(more: Sequence[str], factors: Mapping[str, float]) -> Forecast:
            from fastrelay.limits.forecast import forecast

            return forecast(
                self.config, demands, begins, pool=self.pool, services=services, stands=stands, day_began=day_began,
                over=self.over, days=self.days, more_sources=more, factors=factors,
                relay_rate=RELAY_RATE * self.config.worker_count,
            )  # fmt: skip

        began = clock.monotonic()
        self.told = run([], {})
        self.late = outlasting(self.told, demands, self.config.retry.expire_seconds, self.over)
        if clock.monotonic() - began < QUICK_SECONDS:
            self.changes = changes(self.config, self.pool, self.told, self.told.limits, run)

    # -- what goes in -------------------------------------------------------------------------------------------------

    def _demands(self) -> list[Demand]:
        from fastrelay.limits import forecast_mix as mix

        if self._options["mix"] is not None:
            try:
                shares = mix.parse_mix(self._options["mix"], self.config)
            except mix.MixError as error:
                raise click.BadParameter(str(error), param_hint="--mix") from None
            return mix.demands_of_mix(shares, self._options["count"], self._options["sites"])
        import uvloop

        domains, skipped = mix.read_domains(self._options["recipients"])
        if not domains:
            raise click.BadParameter("it has no address and no domain; write one a line", param_hint="--recipients")
        found = uvloop.run(
            mix.resolve(domains, self.config, lookups=self._options["lookups"], on_progress=self._progress())
        )
        if skipped:
            self.notes.append(f"{skipped:,} lines have no address and no domain")
        if found.unreachable:
            self.notes.append(f"{found.unreachable:,} recipients are at domains without mail; they would fail at once")
        if found.unknown:
            self.notes.append(f"{found.unknown:,} recipients are at domains that were not looked up: taken as other")
        return mix.demands_of(found)

    def _progress(self) -> Callable[[int, int], None] | None:
        if self._quiet or not sys.stderr.isatty():
            return None

        def show(done: int, of: int) -> None:
            if done % 50 == 0 or done == of:
                end = "\n" if done == of else ""
                click.echo(f"\rlooking up MX hosts: {done:,} of {of:,} domains{end}", nl=False, err=True)

        return show

    def _services(self) -> dict[str, Service]:
        from fastrelay.limits.forecast_build import CONNECT_SECONDS, Service

        return {provider: Service(seconds, CONNECT_SECONDS) for provider, seconds in self._options["times"]}

    def _state(self, now: float, begins: float) -> tuple[list[Stand], dict[str, int], float | None]:
        """Where warm-up stands and what is queued, by the running relay; else as a relay that starts anew."""
        cold = [source.name for source in self.config.sources if source.warmup]
        asked = None if self._options["offline"] else ask_relay(self.config.state_dir)
        if asked is None:
            if cold:
                self.notes.append(
                    "no running relay was asked: every cold source begins at its first stage, and nothing is queued"
                )
            return [], {}, None
        stands, ahead = asked
        if sum(ahead.values()):
            self.notes.append(f"{sum(ahead.values()):,} recipients are queued before it")
        if begins > now + 3600 and stands:
            self.notes.append("warm-up is taken as it stands now, not as it will at the start")
        # A running relay opened its day at midnight.
        return stands, ahead, begins % 86400.0

    # -- what comes out -----------------------------------------------------------------------------------------------

    def show(self) -> None:
        from fastrelay.cli.output import duration, plural

        told = self.told
        count = plural(round(told.total.recipients), "recipient")
        click.echo(f"{count} from pool {self.pool}, handed in at {_clock(told.begins)}")
        click.echo()
        self._show_lines("PROVIDER", {**told.providers, "all": told.total})
        sources = {name: line for name, line in told.sources.items() if line.sent > 0.5}
        if len(sources) > 1:
            click.echo()
            self._show_lines("SOURCE", sources)
        if 1 < len(told.pairs) <= MOST_PAIRS and len(sources) > 1:
            click.echo()
            self._show_lines("PROVIDER, SOURCE", {f"{at}, {by}": line for (at, by), line in told.pairs.items()})
        click.echo()
        for line in chart(told):
            click.echo(line)
        self._show_reasons()
        for change in self.changes:
            done = "all out" if change.done is None else f"all out after {duration(change.done)}"
            click.echo(f"what would help: {change.words}: {done} ({change.saves:.0%} sooner)")
        for note in self.notes:
            click.echo(f"note: {note}")
        expire = duration(self.config.retry.expire_seconds)
        for provider, waits in self.late.items():
            words = f"the last recipients at {provider} wait {duration(waits)}, longer than retry.expire ({expire})"
            click.echo(f"warning: {words}: they would end as expired; raise it, or send fewer", err=True)

    def _show_lines(self, heading: str, lines: Mapping[str, Line]) -> None:
        from fastrelay.cli.output import LEFT, RIGHT, count, print_table

        columns = [(heading, LEFT), ("RECIPIENTS", RIGHT), ("STARTS", RIGHT)]
        columns += [(f"{share:.0%} OUT", RIGHT) for share in (0.5, 0.9, 1.0)]
        rows = [
            (
                name,
                count(round(line.recipients)),
                _after(line.start),
                *(_after(line.reached[share]) for share in (0.5, 0.9, 1.0)),
            )
            for name, line in lines.items()
        ]
        print_table(columns, rows)

    def _show_reasons(self) -> None:
        from fastrelay.cli.output import clean

        shown = False
        for provider, line in self.told.providers.items():
            last = line.reached[1.0]
            if not line.held_by or (last is not None and last < 60):
                continue
            for words, share in line.held_by[:2]:
                shown = True
                click.echo(clean(f"held back at {provider}: {share:.0%} by {words}"))
        for (source, key), seen in sorted(self.told.warmup.items())[:MOST_PAIRS]:
            if len(seen) > 1:
                stages = self.told.stages[source, key]
                last_stage = seen[-1]
                at = "" if key == "*" else f" at {key}"
                ends = "warm" if last_stage.cap is None else f"stage {last_stage.stage} of {stages}"
                shown = True
                click.echo(clean(f"warm-up of {source}{at}: stage {seen[0].stage}, {ends} {_after(last_stage.at)}"))
        if shown:
            click.echo()

    def as_json(self) -> dict[str, Any]:
        told = self.told
        return {
            "begins": told.begins,
            "begins_time": _clock(told.begins),
            "pool": self.pool,
            "total": _json_line(told.total),
            "providers": {name: _json_line(line) for name, line in told.providers.items()},
            "sources": {name: _json_line(line) for name, line in told.sources.items()},
            "pairs": [
                {"provider": provider, "source": source, **_json_line(line)}
                for (provider, source), line in told.pairs.items()
            ],
            "curve": [[at, amount] for at, amount in told.curve],
            "warmup": [
                {
                    "source": source,
                    "key": key,
                    "stages": told.stages[source, key],
                    "entered": [{"seconds": one.at, "stage": one.stage, "cap": one.cap} for one in seen],
                }
                for (source, key), seen in told.warmup.items()
            ],
            "changes": [
                {"words": change.words, "all_out_seconds": change.done, "saves": change.saves}
                for change in self.changes
            ],
            "outlasting_expire": self.late,
            "notes": self.notes,
        }


def ask_relay(state_dir: str) -> tuple[list[Stand], dict[str, int]] | None:
    """Warm-up and queue by provider of the relay that runs there; None where none answers."""
    from fastrelay.admin.client import ControlClient
    from fastrelay.errors import FastrelayError
    from fastrelay.limits.forecast_build import Stand

    try:
        with ControlClient(state_dir, timeout_seconds=RELAY_SECONDS) as relay:
            if not relay.answers():
                return None
            summary = relay.call("queue.summary")
            rows = relay.call("warmup.status")["warmup"]
    except (FastrelayError, OSError, KeyError):
        return None
    stands = [
        Stand(
            row["source"],
            row["key"],
            row["stage"] - 1 if row["cold"] or row["state"] == "stopped" else row["stages"],
            row["used"],
            row["state"],
        )
        for row in rows
    ]
    queued = {
        name: int(value.get("queued", 0) if isinstance(value, dict) else value)
        for name, value in (summary.get("by_provider") or {}).items()
    }
    return stands, queued


def with_ahead(demands: Sequence[Demand], ahead: Mapping[str, int]) -> list[Demand]:
    """The demands with what is queued before them, shared among the sites of a provider by size."""
    from dataclasses import replace

    totals: dict[str, float] = {}
    for demand in demands:
        totals[demand.provider] = totals.get(demand.provider, 0.0) + demand.recipients
    found = [
        replace(one, ahead=ahead.get(one.provider, 0) * one.recipients / totals[one.provider])
        if totals[one.provider]
        else one
        for one in demands
    ]
    return found


# -- words and pictures ----------------------------------------------------------------------------------------------


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _after(seconds: float | None) -> str:
    """`at once`, `after 2h 5m`, `not in time`."""
    from fastrelay.cli.output import duration

    if seconds is None:
        return "not in time"
    return "at once" if seconds < 1 else f"after {duration(seconds)}"


def _json_line(line: Line) -> dict[str, Any]:
    return {
        "recipients": round(line.recipients, 1),
        "sent": round(line.sent, 1),
        "ahead": round(line.ahead, 1),
        "start_seconds": line.start,
        "out_seconds": {f"{share * 100:.0f}": at for share, at in line.reached.items()},
        "held_by": [{"words": words, "share": round(share, 4)} for words, share in line.held_by],
    }


_BLOCKS = " ▁▂▃▄▅▆▇█"


def chart(told: Forecast, width: int = CHART_WIDTH, height: int = CHART_HEIGHT) -> list[str]:
    """The share that is out, over time, as lines of a picture in block characters."""
    from fastrelay.cli.output import duration

    last = told.total.reached[1.0]
    until = told.curve[-1][0] if last is None else last
    if until < 1 or not told.total.recipients:
        return []
    shares = [amount_at(told.curve, until * (at + 1) / width) / told.total.recipients for at in range(width)]
    lines = []
    for row in range(height, 0, -1):
        cells = "".join(_BLOCKS[max(0, min(8, round((share * height - row + 1) * 8)))] for share in shares)
        label = f"{row / height:4.0%}" if row in (height, height // 2) else "    "
        lines.append(f"{label} │{cells}")
    lines.append(f"     └{'─' * width}")
    middle, end = duration(until / 2), duration(until)
    lines.append(f"      0{middle:^{width - 2}}{end}")
    return [*lines, ""]


def amount_at(curve: Sequence[tuple[float, float]], at: float) -> float:
    """What a rising curve has reached at a time."""
    from bisect import bisect_right

    after = bisect_right(curve, at, key=lambda point: point[0])
    if after == 0:
        return 0.0
    if after == len(curve):
        return curve[-1][1]
    (left, low), (right, high) = curve[after - 1], curve[after]
    return high if right <= left else low + (high - low) * (at - left) / (right - left)
