"""`fastrelay top`: what the relay does, live in a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import DurationType, connect, relay_options
from fastrelay.clock import RealClock, iso_utc
from fastrelay.errors import ControlError, ControlLost, NoRelay

if TYPE_CHECKING:
    from fastrelay.admin.client import ControlClient
    from fastrelay.cli.top_page import Frame
    from fastrelay.metrics.view import Reading, View

EPILOG = """\b
Examples:
  fastrelay top
  fastrelay top --once                       one page, for a ticket or a log
  fastrelay top --json | jq .outcomes        a line every two seconds

In it: q quits. Rates are means over the last seconds. A provider's `for` is what most of its
mail waits for; `fastrelay queue why ID` explains one message, `fastrelay explain DOMAIN` the limits.

\b
Exit codes: 0 done; 1 the relay does not answer; 3 none runs.
"""

INTERVAL_SECONDS = 2.0
LEAST_INTERVAL_SECONDS = 0.2
SMOOTH_SECONDS = 6.0  # rates are means over about so long
KEY_SECONDS = 0.1
WIDTH, HEIGHT = 80, 24  # where there is no terminal to ask


@click.command(epilog=EPILOG)
@click.option(
    "--interval",
    metavar="TIME",
    type=DurationType(),
    default=INTERVAL_SECONDS,
    help="Between two readings.  [default: 2s]",
)
@click.option("--once", is_flag=True, help="Print one page and end; so does output that is no terminal.")
@relay_options
def top(
    interval: float, once: bool, config_path: str | None, state_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Watch rates, providers, sources, warm-up and waits, live."""
    interval = max(LEAST_INTERVAL_SECONDS, interval)
    with connect(config_path, state_dir, timeout) as relay:
        watch = Watch(relay)
        watch.look()
        if as_json:
            print_lines(watch, interval, once)
        elif once or not sys.stdout.isatty():
            pause(min(interval, 1.0) if once else interval)
            print_page(watch)
        else:
            show(watch, interval)


class Watch:
    """Asks the relay, and remembers what rates are made of."""

    def __init__(self, relay: ControlClient) -> None:
        from fastrelay.cli.top_page import Frame

        self._relay = relay
        self._clock = RealClock()
        self._readings: deque[Reading] = deque()
        self.frame: Frame = Frame(host=socket.gethostname())

    def look(self) -> View | None:
        """Another reading; the view, once there are two. Raises NoRelay, ControlError, ControlLost."""
        from fastrelay.metrics.view import WANTED, Reading, view

        status = self._relay.call("status")
        values = self._relay.call("metrics", {"names": [metric.name for metric in WANTED]})
        reading = Reading(self._clock.monotonic(), values)
        self.frame.state = str(status.get("state", ""))
        self.frame.uptime_seconds = status.get("uptime_seconds")
        self.frame.time = time.strftime("%H:%M:%S", time.localtime(self._clock.wall()))
        before = self._before(reading)
        self._readings.append(reading)
        if before is None:
            return None
        found = view(before, reading)
        self.frame.note(found)
        return found

    def _before(self, reading: Reading) -> Reading | None:
        """The reading that rates are taken from; older ones are dropped."""
        while len(self._readings) > 1 and reading.now - self._readings[1].now >= SMOOTH_SECONDS:
            self._readings.popleft()
        return self._readings[0] if self._readings else None

    def wall(self) -> str:
        return iso_utc(self._clock.wall())


def pause(seconds: float) -> None:
    """Between readings of a command that takes no keys."""
    select.select([], [], [], seconds)


def print_lines(watch: Watch, interval: float, once: bool) -> None:
    """JSON: an indented object with --once, else a line for each reading until somebody ends it."""
    import msgspec

    from fastrelay.cli.output import print_json

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            pause(min(interval, 1.0) if once else interval)
            found = watch.look()
            if found is None:
                continue
            shown = {"time": watch.wall(), "state": watch.frame.state, **msgspec.to_builtins(found)}
            if once:
                print_json(shown)
                return
            click.echo(msgspec.json.encode(shown).decode())


def print_page(watch: Watch) -> None:
    """One page, as tall as it must be, without escape sequences where the output is no terminal."""
    from rich.console import Console

    from fastrelay.cli.output import terminal_width
    from fastrelay.cli.top_page import heights_wanted, in_ascii, page

    found = watch.look()
    if found is None:
        return
    watch.frame.hint = ""
    console = Console(highlight=False, markup=False, emoji=False, no_color="NO_COLOR" in os.environ)
    width = max(WIDTH, terminal_width()) if sys.stdout.isatty() else WIDTH
    blocks = speaks_blocks(console.encoding)
    for text in page(found, watch.frame, width, heights_wanted(found)):
        text = text if blocks else in_ascii(text)
        if sys.stdout.isatty():
            console.print(text, no_wrap=True, crop=False, overflow="ignore")
        else:
            click.echo(text.plain.rstrip())


def speaks_blocks(encoding: str) -> bool:
    """Whether the terminal has the characters that bars are made of."""
    try:
        "█░▁…".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# -- live -------------------------------------------------------------------------------------------------------------


def show(watch: Watch, interval: float) -> None:
    """Until q, Ctrl-C or Ctrl-D. A relay that goes away is waited for; the last page stays."""
    from rich.console import Console, Group
    from rich.live import Live

    from fastrelay.cli.top_page import in_ascii, page

    console = Console(highlight=False, markup=False, emoji=False)
    blocks = speaks_blocks(console.encoding)
    watch.frame.hint = f"q quit   every {interval:g} s, rates over {max(interval, SMOOTH_SECONDS):g} s"
    found: View | None = None
    size: os.terminal_size | None = None
    due = time_now() + min(interval, 0.5)
    with keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while not (pressed() & {"q", "Q", "\x03", "\x04"}):
            if time_now() >= due:
                due = time_now() + interval
                found, size = look_or_say(watch) or found, None
            if size != (size := os.terminal_size(console.size)) and found is not None:
                lines = page(found, watch.frame, *size)
                live.update(Group(*(line if blocks else in_ascii(line) for line in lines)), refresh=True)


def look_or_say(watch: Watch) -> View | None:
    """A view; or what is wrong goes to the footer."""
    try:
        found = watch.look()
    except (NoRelay, ControlLost, ControlError) as error:
        watch.frame.problem = f"trying again, q quits: {error}"
        return None
    watch.frame.problem = ""
    return found


def time_now() -> float:
    return RealClock().monotonic()


def no_keys() -> set[str]:
    pause(KEY_SECONDS)
    return set()


@contextlib.contextmanager
def keys() -> Iterator[Any]:
    """A function that waits KEY_SECONDS at most and gives the keys that were pressed, as a set.

    The terminal gives keys without Return and without showing them; it gets its manners back at the end. Ctrl-C is
    remembered beside being raised: where Python can only ignore an exception (a finalizer), it is a key all the same.
    """
    import signal
    import termios
    import tty

    if not sys.stdin.isatty():
        yield no_keys
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    interrupts: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    def pressed() -> set[str]:
        if interrupts:
            return {"\x03"}
        ready, _, _ = select.select([descriptor], [], [], KEY_SECONDS)
        if not ready:
            return set()
        octets = os.read(descriptor, 64)
        return set(octets.decode("utf-8", "replace")) or {"\x04"}  # the terminal went away

    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        tty.setcbreak(descriptor)
        with contextlib.suppress(KeyboardInterrupt):
            yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
