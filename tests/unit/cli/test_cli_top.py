"""`fastrelay top`: the page at every size, once, as JSON, and live in a pseudo-terminal."""

import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from support.relay import REPO

from fastrelay.cli import top_page
from fastrelay.cli.top_page import Frame, course, heights, pace, page, per_second, percent, short
from fastrelay.metrics import names
from fastrelay.metrics.view import Reading, View, view

STATUS = {"state": "running", "uptime_seconds": 11520.0, "workers": []}
PROVIDERS = {
    "google": 600.0,
    "yahoo": 200.0,
    "outlook": 90.0,
    "apple": 30.0,
    "comcast": 8.0,
    "orange": 2.5,
    "other": 0.2,
    "qq": 0.1,
    "netease": 0.1,
    "mailru": 0.1,
}


def values(times: float) -> dict[str, list[list[Any]]]:
    """A relay at work: counters after so many seconds of it."""
    rows: dict[str, list[list[Any]]] = {}

    def put(metric: names.Metric, n: float, *labels: str) -> None:
        rows.setdefault(metric.name, []).append([list(labels), n])

    put(names.ACCEPTED_RECIPIENTS, 1200 * times)
    for provider, rate in PROVIDERS.items():
        put(names.OUTCOMES_TOTAL, rate * times, "delivered", provider, "a")
        put(names.OUTCOMES_TOTAL, rate * times * (0.5 if provider == "yahoo" else 0.01), "deferred", provider, "a")
        put(names.DELIVERY_CONNECTIONS, 5, provider, "a", "busy")
        put(names.WAITING_RECIPIENTS, 1000 * rate, provider, "rate_limit")
    put(names.OUTCOMES_TOTAL, 40 * times, "failed", "google", "b")
    for reason, n in (("rate_limit", 930_700), ("retry_backoff", 40_123), ("warmup_cap", 900), ("ready", 7)):
        put(names.QUEUE_RECIPIENTS, n, reason)
    put(names.QUEUE_OLDEST_SECONDS, 7380)
    put(names.QUEUE_LIMIT, 10_000_000)
    for source, key, cap, used, held in (("new", "google", 10_000, 4120, 0), ("newer", "*", 500, 200, 1)):
        put(names.WARMUP_CAP, cap, source, key)
        put(names.WARMUP_USED, used, source, key)
        put(names.WARMUP_STAGE, 6, source, key)
        put(names.WARMUP_STAGES, 28, source, key)
        put(names.WARMUP_TO_GO, 22, source, key)
        put(names.WARMUP_HELD, held, source, key)
    put(names.BACKOFF_ACTIVE, 1, "b", "yahoo")
    put(names.ADAPTIVE_RATE, 0.5, "a", "outlook")
    for worker in "01":
        put(names.WORKER_UP, 1, worker)
        put(names.WORKER_CPU_SECONDS, 0.8 * times, worker)
        put(names.WORKER_RSS_BYTES, 2e8, worker)
    put(names.DISK_FREE_BYTES, 2e11)
    put(names.DISK_SIZE_BYTES, 4e11)
    return rows


def busy() -> View:
    return view(Reading(0.0, values(0)), Reading(1.0, values(1)))


def idle() -> View:
    return view(Reading(0.0, {}), Reading(1.0, {}))


def drawn(found: View, width: int, height: int, **frame: Any) -> list[str]:
    return [text.plain for text in page(found, Frame(host="mta1.test", state="running", **frame), width, height)]


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 79, 80, 81, 100, 120, 200])
@pytest.mark.parametrize("height", [5, 23, 24, 25, 30, 60])
@pytest.mark.parametrize("found", [busy(), idle()], ids=["busy", "idle"])
def test_the_page_fills_the_terminal_exactly(found: View, width: int, height: int) -> None:
    lines = drawn(found, width, height)
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}


def test_everything_is_there_at_80_by_24() -> None:
    text = "\n".join(drawn(busy(), 80, 24))
    flow = ("mta1.test", "2/2 workers", "1,200/s", "972k", "empty in", "q quit")
    rows = ("google", "yahoo", "rate limit", "4,120/10,000", "held", "stopped", "30/min")
    for words in (*flow, "PROVIDER", "SOURCE", "WAITS FOR", "WARM-UP", "BACK-OFF", *rows):
        assert words in text, words


def test_what_does_not_fit_is_counted() -> None:
    text = "\n".join(drawn(busy(), 80, 24))
    shown = sum(f"\n {provider} " in text for provider in PROVIDERS)
    assert 0 < shown < len(PROVIDERS)
    assert f" … {len(PROVIDERS) - shown} more" in text
    text = "\n".join(drawn(busy(), 80, 60))
    assert "more" not in text
    assert sum(f"\n {provider} " in text for provider in PROVIDERS) == len(PROVIDERS)


def test_an_idle_relay_has_no_empty_blocks() -> None:
    text = "\n".join(drawn(idle(), 80, 24))
    assert "PROVIDER" not in text
    assert "WARM-UP" not in text
    assert "queued 0" in text


def test_a_problem_takes_the_place_of_the_hint() -> None:
    last = drawn(busy(), 80, 24, problem="no relay runs\x1b[2J")[-1]
    assert last.strip() == r"no relay runs\x1b[2J"


def test_names_from_outside_cannot_write_to_the_terminal() -> None:
    rows = {names.WAITING_RECIPIENTS.name: [[["ev\x1b]0;x\x07il", "ready"], 5]]}
    text = "\n".join(drawn(view(Reading(0.0, {}), Reading(1.0, rows)), 80, 24))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_ascii_for_terminals_without_blocks() -> None:
    lines = page(busy(), Frame(delivered=[1.0, 5.0, 9.0]), 80, 24)
    assert all(top_page.in_ascii(line).plain.isascii() for line in lines)


def test_trouble_is_said() -> None:
    found = busy()
    found.spools_unhealthy, found.workers_refusing, found.loop_lag_seconds = 1, 2, 1.5
    text = "\n".join(drawn(found, 120, 24))
    for words in ("spools out of order 1", "refusing mail 2", "late 1.5s"):
        assert words in text


# -- its parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (7, "7"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_499, "999k"),
        (999_600, "1.00M"),
        (12_345_678, "12.3M"),
        (3e9, "3.00G"),
        (5e12, "5e+12"),
    ],
)
def test_short(number: float, words: str) -> None:
    assert short(number) == words
    assert len(words) <= 6


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "-"), (0.004, "-"), (0.35, "0.35"), (9.994, "9.99"), (12.34, "12.3"), (99.94, "99.9"), (1204, "1,204")],
)
def test_per_second(number: float, words: str) -> None:
    assert per_second(number) == words


@pytest.mark.parametrize(("number", "words"), [(12.0, "12.0/s"), (0.5, "30/min"), (0.1, "360/h"), (1 / 3600, "1/h")])
def test_pace(number: float, words: str) -> None:
    assert pace(number) == words


@pytest.mark.parametrize(
    ("share", "words"), [(0, "-"), (0.0004, "-"), (0.001, "0.1%"), (0.099, "9.9%"), (0.5, "50%"), (1, "100%")]
)
def test_percent(share: float, words: str) -> None:
    assert percent(share) == words


def test_course() -> None:
    assert course([], 4) == "    "
    assert course([0.0, 0.0], 4) == "  ▁▁"
    assert course([9.0, 0.0, 5.0, 10.0], 3) == "▁▅█"


@pytest.mark.parametrize(
    ("needs", "room", "given"),
    [([], 9, []), ([4], 9, [4]), ([9], 4, [4]), ([9, 9], 9, [5, 4]), ([2, 20], 12, [2, 10]), ([9, 9, 9], 9, [3, 3, 3])],
)
def test_heights(needs: list[int], room: int, given: list[int]) -> None:
    assert heights(needs, room) == given


def test_the_course_is_bounded() -> None:
    frame, found = Frame(), busy()
    for _ in range(2 * top_page.HISTORY):
        frame.note(found)
    assert len(frame.accepted) == len(frame.delivered) == top_page.HISTORY


# -- the command ------------------------------------------------------------------------------------------------------


def test_once(ask, fake_relay) -> None:
    fake_relay.answers = {"status": STATUS, "metrics": [values(0), values(1)]}
    result = ask("top", "--once", "--interval", "200ms")
    assert result.exit_code == 0
    assert "google" in result.output
    assert "\x1b" not in result.output
    assert "q quit" not in result.output
    asked = [one["arguments"]["names"] for one in fake_relay.requests if one["command"] == "metrics"]
    assert len(asked) == 2
    assert "fastrelay_outcomes_total" in asked[0]


def test_json(ask, fake_relay) -> None:
    fake_relay.answers = {"status": STATUS, "metrics": [values(0), values(1)]}
    found = json.loads(ask("top", "--once", "--json", "--interval", "200ms").output)
    assert found["state"] == "running"
    assert found["queued"] == 971_730
    assert [row["name"] for row in found["providers"]][:2] == ["google", "yahoo"]
    assert found["warmup"][0]["held"] is True
    assert found["reasons"]["warmup_cap"] == 900


def test_a_relay_that_knows_no_metrics(ask, fake_relay) -> None:
    fake_relay.answers = {"status": STATUS, "metrics": "there is no command 'metrics'"}
    result = ask("top", "--once")
    assert result.exit_code == 1
    assert "there is no command" in result.output


class Terminal:
    """`fastrelay top` in a pseudo-terminal of 80×24."""

    def __init__(self, state_dir: Path) -> None:
        self.ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(REPO), "LANG": "C.UTF-8"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FASTRELAY_CONFIG"):
            env.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastrelay", "top", "--interval", "300ms", "--state-dir", str(state_dir)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        self.shown = b""

    def see(self, words: bytes, seconds: float = 60.0) -> None:
        """Read until it shows these words."""
        end = time.monotonic() + seconds
        start = len(self.shown)
        while words not in self.shown[start:]:
            assert time.monotonic() < end, self.shown[-4000:]
            if select.select([self.ours], [], [], 0.5)[0]:
                self.shown += os.read(self.ours, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> int:
        """The exit status; what it still writes is read, so that it can end."""
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end
            if select.select([self.ours], [], [], 0.1)[0]:
                self.shown += os.read(self.ours, 65536)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal(fake_relay):
    fake_relay.answers = {"status": STATUS, "metrics": values(1)}
    terminal = Terminal(fake_relay.state_dir)
    yield terminal
    terminal.close()


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"], ids=["q", "Q", "Ctrl-C"])
def test_live_until_a_key(terminal: Terminal, key: bytes) -> None:
    terminal.see(b"PROVIDER")
    terminal.press(key)
    assert terminal.end() == 0
    assert b"\x1b[?1049l" in terminal.shown  # back from the other screen
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_live_a_relay_that_goes_away_is_waited_for(terminal: Terminal, fake_relay) -> None:
    terminal.see(b"PROVIDER")
    fake_relay.answers["status"] = b""  # it closes the connection
    terminal.see(b"trying again")
    terminal.press(b"q")
    assert terminal.end() == 0
