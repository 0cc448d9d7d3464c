"""How the command line shows things: tables, durations, sizes, JSON.

Whatever came from outside (replies, addresses, header values) passes `clean`, so that no remote host writes escape
sequences to an operator's terminal. Into a pipe, tables are as wide as they must be and have no colour.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

import click

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PIPE_WIDTH = 4000  # columns of a line where there is no terminal to fit into
GAP = 2  # spaces between columns
NARROWEST = 12  # a wide column is not cut below this

# Column kinds: how a column is aligned and what gives way when the terminal is narrow.
LEFT, RIGHT, WIDE = "left", "right", "wide"


class Styled(str):
    """A cell of a table that has a colour on a terminal."""

    style = ""

    def __new__(cls, text: object, style: str) -> Styled:
        cell = super().__new__(cls, text)
        cell.style = style
        return cell


def clean(text: object) -> str:
    """The text with control and direction characters spelled out (\\x1b), fit for a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", str(text))


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode("utf-8"))


def duration(seconds: float | None) -> str:
    """Two units at most: `2h 5m`, `3d 4h`, `41s`, `0.3s`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds % 1 and seconds >= 0.05 else f"{seconds:.0f}s"
    whole = round(seconds)
    for name, size, below, below_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size}{name} {rest}{below}" if rest else f"{whole // size}{name}"
    return f"{whole}s"


def size(octets: float | None) -> str:
    """`10.2 KiB`, `512 B`; nothing for None."""
    if octets is None:
        return ""
    if octets < 1024:
        return f"{octets:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        octets /= 1024
        if octets < 1023.95:
            return f"{octets:.1f} {unit}"
    return f"{octets / 1024:.1f} TiB"


def count(number: float | None) -> str:
    """`12,345`; nothing for None."""
    return "" if number is None else f"{number:,.0f}" if number == int(number) else f"{number:,}"


def plural(number: int, noun: str) -> str:
    """`1 message`, `12,345 messages`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def share(part: float, whole: float) -> str:
    """`12.5%`; nothing of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else ""


def names(values: Sequence[object], most: int = 3) -> str:
    """The first few of a list: `a.example, b.example +7`."""
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown} +{len(values) - most}" if len(values) > most else shown


def shown_words(name: str) -> str:
    """A key as a person reads it: `retry_backoff` → `retry backoff`."""
    return name.replace("_", " ")


def terminal_width() -> int:
    """Columns of the terminal; PIPE_WIDTH where there is none."""
    if not sys.stdout.isatty():
        return PIPE_WIDTH
    try:
        return max(20, int(os.environ.get("COLUMNS") or os.get_terminal_size().columns))
    except (OSError, ValueError):
        return 80


def print_table(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[object]],
    spare: Sequence[str] = (),
    *,
    fold: bool = False,
) -> None:
    """Rows below their headings. columns: (heading, LEFT, RIGHT or WIDE).

    On a terminal, WIDE columns are cut short until a line fits, then the `spare` ones are left out in their order; the
    others (ids, counts) stay whole, and a terminal that is too narrow even for them wraps. `fold`: what is cut short
    goes on in the next line.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Styled(clean(cell), getattr(cell, "style", "")) for cell in row] for row in rows]
    while True:
        widths = [max([len(heading), *(cell_len(row[at]) for row in cells)]) for at, (heading, _) in enumerate(columns)]
        wide = [at for at, (_, kind) in enumerate(columns) if kind == WIDE]
        if fit_widths(widths, wide, terminal_width() - GAP * (len(columns) - 1)) or not spare:
            break
        out = next((at for at, (heading, _) in enumerate(columns) if heading == spare[0]), len(columns))
        columns = [*columns[:out], *columns[out + 1 :]]
        cells = [[*row[:out], *row[out + 1 :]] for row in cells]
        spare = spare[1:]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for (heading, kind), width in zip(columns, widths, strict=True):
        justify: Literal["right", "left"] = "right" if kind == RIGHT else "left"
        table.add_column(
            heading, justify=justify, width=width, no_wrap=not fold, overflow="fold" if fold else "ellipsis"
        )
    for row in cells:
        table.add_row(*(Text(cell, style=cell.style) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(
        width=sum(widths) + GAP * len(columns),
        force_terminal=terminal,
        color_system="standard" if terminal and "NO_COLOR" not in os.environ else None,
        no_color="NO_COLOR" in os.environ,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def fit_widths(widths: list[int], wide: Sequence[int], room: int) -> bool:
    """Narrow the wide columns, the widest first, until all fit into `room` (True) or are at NARROWEST (False)."""
    while (excess := sum(widths) - room) > 0:
        able = [at for at in wide if widths[at] > NARROWEST]
        if not able:
            return False
        widest = max(able, key=lambda at: widths[at])
        others = [widths[at] for at in able if widths[at] < widths[widest]]
        level = max([NARROWEST, *others])
        same = [at for at in able if widths[at] == widths[widest]]
        cut = min(widths[widest] - level, -(-excess // len(same)))
        for at in same:
            widths[at] -= cut
    return True


def warn_if_incomplete(answer: dict[str, Any]) -> None:
    """Say on standard error which workers' part is missing in an answer."""
    for missing in answer.get("incomplete") or ():
        click.echo(f"warning: incomplete: {clean(missing)}", err=True)


def print_fields(pairs: Sequence[tuple[str, object]]) -> None:
    """`name   value` lines, the names aligned; a pair without a value is left out."""
    shown = [(name, clean(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")
