"""The page of `fastrelay top`: a View drawn into a terminal of any size from 80×24 on. Pure: lines of rich text.

    header      where, since when, is it well
    flow        in and out with their course, the queue, workers and disk
    providers   what goes where, what comes back, what waits there and for what
    sources     beside: everything that waits, by reason
    warm-up     beside: back-offs and learnt rates

A block without rows is left out; each of the others keeps a few lines, and gets more where the terminal has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from fastrelay.cli.output import clean, duration, shown_words, size
from fastrelay.metrics.view import BackoffRow, Traffic, View, WarmupRow

COURSE = "▁▂▃▄▅▆▇█"
FULL, EMPTY, RULE, MORE = "█", "░", "─", "…"
ASCII = str.maketrans({**dict.fromkeys("▁▂▃", "."), **dict.fromkeys("▄▅▆", "o"), "▇": "O", "█": "#", "░": "-",
                       "─": "-", "…": "~"})  # fmt: skip
TOP_LINES = 5
LEAST_WIDTH, LEAST_HEIGHT = 80, 24
HISTORY = 200  # values of a course that are kept
LEAST_ROWS = 2
DEFERRED_BAD, DEFERRED_WARN = 0.3, 0.1
FAILED_BAD, FAILED_WARN = 0.08, 0.02
OLD_WARN, OLD_BAD = 86400.0, 2 * 86400.0  # seconds in the queue
NOTABLE_SHARE = 0.001
GOOD, WARN, BAD, DIM, HEAD, STRONG = "green", "yellow", "red", "bright_black", "cyan", "bold"


@dataclass(slots=True)
class Frame:
    """What stands around a view: the relay's status, the courses so far, a problem in words."""

    host: str = ""
    state: str = ""
    uptime_seconds: float | None = None
    time: str = ""
    problem: str = ""
    hint: str = "q quit"
    accepted: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)

    def note(self, view: View) -> None:
        """Add a view to the courses."""
        for course, value in ((self.accepted, view.accepted), (self.delivered, view.delivered)):
            course.append(value)
            del course[:-HISTORY]


# -- numbers ----------------------------------------------------------------------------------------------------------


def short(number: float) -> str:
    """At most six characters: `812`, `12,345`, `123k`, `1.23M`."""
    if number < 99_999.5:
        return f"{number:,.0f}"
    for unit, scale in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        value = number / scale
        if value < 999.5:
            return (
                f"{value:.0f}{unit}"
                if value >= 99.5
                else f"{value:.1f}{unit}"
                if value >= 9.95
                else f"{value:.2f}{unit}"
            )
    return f"{number:.0e}"


def per_second(number: float) -> str:
    """`1,204`, `12.3`, `0.35`; a dash for nothing."""
    if number >= 99.95:
        return short(number)
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}" if number >= 0.005 else "-"


def pace(number: float) -> str:
    """A rate in the unit that people would say it in: `12/s`, `40/min`, `300/h`."""
    if number >= 1:
        return f"{per_second(number)}/s"
    return f"{number * 60:.0f}/min" if number * 60 >= 10 else f"{number * 3600:.0f}/h"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%" if share >= 0.0005 else "-"


def course(values: Sequence[float], width: int) -> str:
    """The last values as little bars; the highest of them is full."""
    last = list(values[-width:])
    top = max(last, default=0.0)
    bars = "".join(COURSE[min(7, int(8 * value / top))] if top else COURSE[0] for value in last)
    return bars.rjust(width)


def bar(share: float, width: int) -> str:
    filled = max(0, min(width, round(share * width)))
    return FULL * filled + EMPTY * (width - filled)


def shade(value: float, warn: float, bad: float) -> str:
    return BAD if value >= bad else WARN if value >= warn else ""


# -- lines ------------------------------------------------------------------------------------------------------------

Cell = tuple[str, int, str]  # text, width (negative: flush right), style


def line(cells: Sequence[Cell], width: int) -> Text:
    """Cells side by side, cut and padded to their widths; the whole to `width`."""
    text = Text()
    for content, wide, style in cells:
        room = abs(wide)
        content = clean(content)
        if cell_len(content) > room:
            content = set_cell_size(content, room - 1) + MORE if room > 1 else content[:room]
        pad = " " * (room - cell_len(content))
        text.append(pad + content if wide < 0 else content + pad, style or None)
    return cut(text, width)


def cut(text: Text, width: int) -> Text:
    text.truncate(width, pad=True)
    return text


@dataclass(slots=True)
class Block:
    """A heading and rows. `draw` gives the cells of one row."""

    heading: list[Cell]
    rows: Sequence[object]
    draw: Callable[[object], list[Cell]]

    def lines(self, width: int, height: int) -> list[Text]:
        """The heading and as many rows as fit; the last line says how many do not."""
        made = [line([(text, wide, HEAD) for text, wide, _ in self.heading], width)]
        room = height - 1
        fits = len(self.rows) if len(self.rows) <= room else max(0, room - 1)
        made += [line(self.draw(row), width) for row in self.rows[:fits]]
        if fits < len(self.rows):
            made.append(line([(f" {MORE} {len(self.rows) - fits} more", width, DIM)], width))
        return made + [Text(" " * width) for _ in range(height - len(made))]


def providers_block(view: View, width: int) -> Block:
    rest = width - 62

    def draw(row: object) -> list[Cell]:
        assert isinstance(row, Traffic)
        return [
            (f" {row.name}", 14, STRONG if row.attempts else ""),
            (per_second(row.delivered), -7, GOOD if row.delivered else DIM),
            (percent(row.deferred_share), -9, shade(row.deferred_share, DEFERRED_WARN, DEFERRED_BAD)),
            (percent(row.failed_share), -8, shade(row.failed_share, FAILED_WARN, FAILED_BAD)),
            (per_second(row.blocks), -9, BAD if row.blocks else ""),
            (str(row.connections or "-"), -6, ""),
            (short(row.waits) if row.waits else "-", -9, ""),
            (f" {shown_words(row.reason)}" if row.reason != "ready" else " ready", rest, reason_style(row.reason)),
        ]

    heading = [(" PROVIDER", 14, ""), ("out/s", -7, ""), ("deferred", -9, ""), ("failed", -8, ""), ("blocks/s", -9, ""),
               ("conns", -6, ""), ("waiting", -9, ""), (" for", rest, "")]  # fmt: skip
    return Block(heading, view.providers, draw)


def reason_style(reason: str) -> str:
    """Waits that are meant to be are calm; the others want a look."""
    if reason in ("ready", "in_flight", "retry_backoff", "not_before"):
        return ""
    return WARN if reason in ("rate_limit", "warmup_cap", "connection_limit") else BAD


def sources_block(view: View, width: int) -> Block:
    name = width - 24

    def draw(row: object) -> list[Cell]:
        assert isinstance(row, Traffic)
        return [
            (f" {row.name}", name, STRONG if row.attempts else ""),
            (per_second(row.delivered), -9, GOOD if row.delivered else DIM),
            (percent(row.deferred_share), -9, shade(row.deferred_share, DEFERRED_WARN, DEFERRED_BAD)),
            (str(row.connections or "-"), -6, ""),
        ]

    return Block(
        [(" SOURCE", name, ""), ("out/s", -9, ""), ("deferred", -9, ""), ("conns", -6, "")], view.sources, draw
    )


def waits_block(view: View, width: int) -> Block:
    rest = max(0, width - 30)

    def draw(row: object) -> list[Cell]:
        assert isinstance(row, tuple)
        reason, n = row
        part = f" {bar(n / view.queued, max(1, rest - 2))}" if view.queued and rest > 3 else ""
        return [(f" {shown_words(reason)}", 18, reason_style(reason)), (short(n), -12, ""), (part, rest, DIM)]

    return Block([(" WAITS FOR", 18, ""), ("recipients", -12, ""), ("", rest, "")], list(view.reasons.items()), draw)


def warmup_block(view: View, width: int) -> Block:
    rest = max(6, width - 46)

    def draw(row: object) -> list[Cell]:
        assert isinstance(row, WarmupRow)
        return [
            (f" {row.source}", 11, STRONG),
            (row.key, 9, ""),
            (f"{row.stage}/{row.stages}", -6, BAD if row.held else ""),
            (" held" if row.held else f" {bar(row.used / row.cap, rest - 1)}", rest, BAD if row.held else GOOD),
            (f"{short(row.used)}/{short(row.cap)}", -14, ""),
            (f"{row.days_left}d", -6, ""),
        ]

    heading = [(" WARM-UP", 11, ""), ("for", 9, ""), ("stage", -6, ""), ("", rest, ""), ("used/cap", -14, ""),
               ("to go", -6, "")]  # fmt: skip
    return Block(heading, view.warmup, draw)


def backoffs_block(view: View, width: int) -> Block:
    name = max(7, width - 20)

    def draw(row: object) -> list[Cell]:
        assert isinstance(row, BackoffRow)
        what, style = ("stopped", BAD) if row.active else ("cut" if row.rate is None else pace(row.rate), WARN)
        return [(f" {row.source}", name, ""), (row.provider, width - name - 8, ""), (what, -8, style)]

    return Block([(" BACK-OFF", width, "")], view.backoffs, draw)


# -- the page ---------------------------------------------------------------------------------------------------------


def groups_of(view: View, width: int) -> list[list[tuple[Block, int]]]:
    """Blocks with their widths, those side by side together; those with nothing to say left out."""
    left = max(40, width // 2)
    wide = max(53, width - 48)
    groups: list[list[tuple[Block, int]]] = [
        [(providers_block(view, width), width)],
        [(sources_block(view, left), left), (waits_block(view, width - left), width - left)],
        [(warmup_block(view, wide), wide), (backoffs_block(view, width - wide), width - wide)],
    ]
    return [group for group in groups if any(block.rows for block, _ in group)]


def lines_of(group: list[tuple[Block, int]]) -> int:
    """Lines that a group wants."""
    return 1 + max(len(block.rows) for block, _ in group)


def heights_wanted(view: View) -> int:
    """Lines of a page on which everything stands."""
    groups = groups_of(view, 80)
    return TOP_LINES + sum(lines_of(group) + 1 for group in groups)


def page(view: View, frame: Frame, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of `width` columns; below 80×24, as much as fits of the page for that."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        whole = page(view, frame, max(width, LEAST_WIDTH), max(height, LEAST_HEIGHT))
        return [cut(text, width) for text in (*whole[: height - 1], whole[-1])]
    lines = [header(view, frame, width), *flow(view, frame, width), Text(" " * width)]
    groups = groups_of(view, width)
    room_for_rows = height - TOP_LINES - max(0, len(groups) - 1) - 1
    for group, room in zip(groups, heights([lines_of(group) for group in groups], room_for_rows), strict=True):
        columns = [block.lines(wide, room) if block.rows else blank(wide, room) for block, wide in group]
        lines += [Text.assemble(*parts) for parts in zip(*columns, strict=True)]
        lines.append(Text(" " * width))
    lines = lines[: height - 1]
    lines += [Text(" " * width) for _ in range(height - 1 - len(lines))]
    return [*lines, footer(frame, width)]


def blank(width: int, height: int) -> list[Text]:
    return [Text(" " * width) for _ in range(height)]


def heights(needs: Sequence[int], room: int) -> list[int]:
    """Lines for each block: a few each, then one after the other until they have what they need or nothing is left."""
    given = [min(need, LEAST_ROWS + 1) for need in needs]
    left = room - sum(given)
    while left > 0 and any(have < need for have, need in zip(given, needs, strict=True)):
        for at, need in enumerate(needs):
            if left > 0 and given[at] < need:
                given[at] += 1
                left -= 1
    return given


def header(view: View, frame: Frame, width: int) -> Text:
    up = sum(worker.up for worker in view.workers)
    well = up == len(view.workers) and frame.state == "running"
    words = [f" fastrelay  {clean(frame.host)}", clean(frame.state), f"{up}/{len(view.workers)} workers"]
    if frame.uptime_seconds is not None:
        words.append(f"up {duration(frame.uptime_seconds)}")
    left = "   ".join(words)
    right = f"{frame.time} "
    text = set_cell_size(left, max(0, width - cell_len(right))) + right
    return Text(set_cell_size(text, width), style="reverse" if well else f"reverse {BAD}")


def rate_cells(name: str, rate: float, values: Sequence[float], wide: int, style: str) -> list[Cell]:
    """A rate and its course."""
    number = (per_second(rate), -8, f"{STRONG} {style}")
    return [(name, 5, HEAD), number, ("/s ", 3, DIM), (course(values, wide), wide, style)]


def flow(view: View, frame: Frame, width: int) -> list[Text]:
    """In and out, the queue, the processes."""
    wide = max(8, width - 65)
    deferred, failed, oldest = view.deferred_share, view.failed_share, view.oldest_seconds if view.queued else 0.0
    share = view.queued / view.queue_limit if view.queue_limit else 0.0
    full = f" ({percent(share)} full)" if share >= NOTABLE_SHARE else ""
    empty = f"empty in {duration(view.drain_seconds)}" if view.drain_seconds is not None and view.queued else ""
    first: list[Cell] = [
        *rate_cells(" in", view.accepted, frame.accepted, wide, HEAD),
        ("   queued ", 10, HEAD),
        (short(view.queued) + full, 18, STRONG),
        ("oldest ", 7, HEAD),
        (duration(oldest) if view.queued else "-", 11, shade(oldest, OLD_WARN, OLD_BAD)),
    ]
    second: list[Cell] = [
        *rate_cells(" out", view.delivered, frame.delivered, wide, GOOD),
        ("   deferred ", 12, HEAD),
        (percent(deferred), 7, shade(deferred, DEFERRED_WARN, DEFERRED_BAD)),
        ("failed ", 7, HEAD),
        (percent(failed), 6, shade(failed, FAILED_WARN, FAILED_BAD)),
        (empty, max(0, width - wide - 48), ""),
    ]
    return [line(first, width), line(second, width), processes(view, width)]


def processes(view: View, width: int) -> Text:
    cpu = sum(worker.cpu for worker in view.workers)
    restarts = sum(worker.restarts for worker in view.workers)
    text = Text(" cpu", style=HEAD)
    for worker in view.workers[: max(1, (width - 60) // 5)]:
        text.append(f" {percent(worker.cpu) if worker.up else 'down':>4}", "" if worker.up else BAD)
    if len(view.workers) > 1:
        text.append(f" = {cpu:.1f} cores", DIM)
    parts = [
        ("memory", size(sum(worker.rss_bytes for worker in view.workers)), ""),
        ("disk free", size(view.disk_free_bytes), shade(-_free(view), -0.1, -0.02)),
        ("clients", short(view.sessions), ""),
    ]
    trouble = [
        ("restarts", str(restarts), WARN) if restarts else None,
        ("late", f"{view.loop_lag_seconds:.1f}s", WARN) if view.loop_lag_seconds >= 0.5 else None,
        ("spools out of order", str(view.spools_unhealthy), BAD) if view.spools_unhealthy else None,
        ("refusing mail", str(view.workers_refusing), BAD) if view.workers_refusing else None,
    ]
    for name, value, style in [*(one for one in trouble if one), *parts]:
        text.append(f"   {name} ", HEAD)
        text.append(value, style)
    return cut(text, width)


def _free(view: View) -> float:
    return view.disk_free_bytes / view.disk_size_bytes if view.disk_size_bytes else 1.0


def footer(frame: Frame, width: int) -> Text:
    if frame.problem:
        return line([(f" {frame.problem}", width, f"reverse {BAD}")], width)
    return line([(f" {frame.hint}", width, DIM)], width)


def in_ascii(text: Text) -> Text:
    """The same for a terminal that has no block characters."""
    plain = Text(text.plain.translate(ASCII), style=text.style)
    plain.spans = list(text.spans)
    return plain
