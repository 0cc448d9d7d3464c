"""Runs a scenario: the user's configuration, really relaying, against simulated providers in simulated time.

    result = await run(scenario, config, on_progress=…)

Campaigns are submitted as the scenario says, the governor of limits (warm-up, back-off) lives as it does in the
supervisor, and the clock goes from event to event (relay.py). What comes out is read from where an operator would read
it: the event log, the reasons of waiting, and the providers' own memory of each address.

Known faults: one worker, and a spool in memory, so what the disk allows is not seen. A source that has no address in
the configuration (none at all there) is one address to the providers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.sim.governing import Governing
from fastrelay.sim.relay import SimulatedRelay
from fastrelay.sim.scenario import Campaign, Scenario
from fastrelay.sim.world import World

SENDER = b"bounces@news.sender.example"
CHUNK = 200  # messages handed in at one moment
RESUBMIT_SECONDS = 5.0
SAMPLE_SECONDS = 60.0
PROGRESS_SECONDS = 0.25  # of real time
MEMORY_FOLDER = "/dev/shm"
SPARE_BYTES = 2 << 30  # of it, or the spool goes to the disk
MOST_REPLIES = 20
OPEN_FILES = 65_536


class SimulationFailed(FastrelayError):
    """The simulation could not be carried through."""


@dataclass
class Outcomes:
    """What became of attempts, of one provider and source."""

    delivered: int = 0
    deferred: int = 0
    failed: int = 0
    expired: int = 0


@dataclass
class Result:
    """What came of it. Times in seconds after the start; shares of the recipients that were submitted."""

    seconds: float  # simulated
    real_seconds: float
    submitted: dict[str, int]  # by provider
    refused: int  # submissions that the relay would not take
    outcomes: dict[tuple[str, str], Outcomes]  # by (provider, source)
    reached: dict[str, dict[float, float | None]]  # by provider and "": share → when
    first: dict[str, float]  # when the first recipient left, by provider and ""
    waited: dict[str, Counter[str]]  # by provider: recipient-seconds by reason
    replies: dict[str, Counter[str]]  # by provider: refusals as events have them
    refusals: dict[str, Counter[str]]  # by provider: what the provider held against us
    standings: dict[tuple[str, str], dict[str, float]]  # by (provider, source)
    queued: int
    warmup: list[dict[str, object]] = field(default_factory=list)
    happened: list[dict[str, object]] = field(default_factory=list)  # events of the governor
    begins: float = 0.0  # wall time
    steps: int = 0
    stuck: int = 0


@dataclass
class Progress:
    """For a display."""

    simulated: float = 0.0
    of: float = 0.0
    submitted: int = 0
    delivered: int = 0
    queued: int = 0


class Run:
    """One run. `folder` is emptied afterwards by whoever made it."""

    def __init__(self, scenario: Scenario, config: Config, folder: Path, slot_seconds: float = 1.0) -> None:
        self.scenario = scenario
        self.clock = SimulatedClock(start=scenario.begins)
        self.world = World(scenario, config, self.clock, slot_seconds)
        self.progress = Progress(of=scenario.lasts_seconds)
        self.submitted: Counter[str] = Counter()
        self.refused = 0
        self.waited: dict[str, Counter[str]] = {}
        self._config = config
        self._folder = folder
        self._rng = random.Random(scenario.seed)
        self._number = 0
        self._turns: Counter[str] = Counter()  # of the domains of each provider
        self._to_come = 0
        self._began = self.clock.monotonic()

    async def live(self, on_progress: Callable[[Progress], object] | None = None) -> Result:
        """From the start to the end of the scenario, or until all is sent."""
        real = time.monotonic()
        await self.world.start()
        try:
            config = self.world.relay_config(self._config, str(self._folder))
            self.relay = SimulatedRelay(config, self.clock, self._folder, self.world)
            self.governing = Governing(self.relay, self.world.timetable)
            self.governing.begin()
            try:
                async with self.relay:
                    self.governing.start()
                    self._plan_campaigns()
                    self.relay.every(SAMPLE_SECONDS, self._sample)
                    await self._go_on(on_progress)
                    return self._result(time.monotonic() - real)
            finally:
                self.governing.close()
        finally:
            await self.world.stop()

    async def _go_on(self, on_progress: Callable[[Progress], object] | None) -> None:
        shown = time.monotonic()
        end = self._began + self.scenario.lasts_seconds

        def over() -> bool:
            nonlocal shown
            if on_progress is not None and time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                self._refresh()
                on_progress(self.progress)
            return not self._to_come and not self.relay.app.index.queued_recipients

        await self.relay.run_until(end, over)

    def _refresh(self) -> None:
        progress = self.progress
        progress.simulated = self.clock.monotonic() - self._began
        progress.submitted = self.submitted.total()
        progress.delivered = self.world.arrivals.total()
        progress.queued = self.relay.app.index.queued_recipients

    # -- handing in ---------------------------------------------------------------------------------------------------

    def _plan_campaigns(self) -> None:
        """Puts every chunk of every campaign into the timetable."""
        for campaign in self.scenario.campaigns:
            for turn in range(campaign.times):
                begins = campaign.at_seconds + turn * campaign.every_seconds
                if begins >= self.scenario.lasts_seconds:
                    break
                recipients = self._recipients(campaign)
                chunks = max(1, -(-campaign.count // CHUNK))
                for at in range(chunks):
                    when = self._began + begins + campaign.over_seconds * at / chunks
                    least, most = campaign.count * at // chunks, campaign.count * (at + 1) // chunks
                    self._to_come += most - least
                    self.world.timetable.call_at(when, self._hand_in, campaign, recipients, most - least)

    def _recipients(self, campaign: Campaign) -> Iterator[str]:
        """The providers of a campaign's recipients in a mixed order, each exactly as often as its share says."""
        mix = campaign.mix if campaign.mix is not None else self.scenario.mix
        counts = split(campaign.count, mix)
        providers = [name for name, count in counts.items() for _ in range(count)]
        self._rng.shuffle(providers)
        return iter(providers)

    def _hand_in(self, campaign: Campaign, providers: Iterator[str], count: int) -> None:
        for _ in range(count):
            self._submit(campaign, next(providers))

    def _submit(self, campaign: Campaign, provider: str) -> None:
        self._number += 1
        domains = self.world.domains[provider]
        recipient = f"reader{self._number}@{domains[self._turns[provider] % len(domains)]}".encode()
        self._turns[provider] += 1
        self._offer(provider, recipient, self._content(campaign, recipient))

    def _offer(self, provider: str, recipient: bytes, content: bytes) -> None:
        """Hands one message in; a refusal for now is tried again."""

        def answered(reply: bytes) -> None:
            if reply[:1] == b"2":
                self._to_come -= 1
                self.submitted[provider] += 1
            elif reply[:1] == b"4":
                self.world.timetable.call_later(RESUBMIT_SECONDS, self._offer, provider, recipient, content)
            else:
                self._to_come -= 1
                self.refused += 1

        self.relay.submit([recipient], content, SENDER, answered)

    def _content(self, campaign: Campaign, recipient: bytes) -> bytes:
        """A message of about the campaign's size, with the headers that name its campaign, pool and so on."""
        names = self._config.headers
        said = {
            names.campaign[0] if names.campaign else "": campaign.name,
            names.pool[0] if names.pool else "": campaign.pool,
            names.tenant[0] if names.tenant else "": campaign.tenant,
            names.priority[0] if names.priority else "": campaign.priority,
        }
        lines = [f"{name}: {value}".encode() for name, value in said.items() if name and value]
        lines += [b"X-Sim-Id: %d" % self._number, b"From: <news@sender.example>", b"To: <%b>" % recipient]
        head = b"\r\n".join([*lines, b"Subject: simulated", b"", b""])
        body = b"x" * 70 + b"\r\n"
        return head + body * max(1, (campaign.size_bytes - len(head)) // len(body))

    # -- looking ------------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """What mail waits for now, weighted with the time since the last look."""
        board, now = self.relay.app.board, self.clock.monotonic()
        for site in board.sites.values():
            ready = site.ready()
            if ready:
                waited = self.waited.setdefault(site.provider, Counter())
                waited[board.site_reason(site, now)] += round(ready * SAMPLE_SECONDS)
        retrying = self.relay.app.index.place_counts().get("retry_backoff", 0)
        if retrying:
            self.waited.setdefault("", Counter())["retry_backoff"] += round(retrying * SAMPLE_SECONDS)

    def _result(self, real_seconds: float) -> Result:
        self._refresh()
        world, arrivals = self.world, self.world.arrivals
        outcomes, replies = self._read_events()
        total = self.submitted.total()
        shares = (0.5, 0.9, 1.0)
        reached = {
            name: {share: arrivals.reached(share, self.submitted[name], name) for share in shares}
            for name in world.names
        }
        reached[""] = {share: arrivals.reached(share, total) for share in shares}
        first = {name: arrivals.reached(0.0, 1, name) or 0.0 for name in world.names}
        first[""] = arrivals.reached(0.0, 1) or 0.0
        refusals = {
            name: sum((memory.refusals for memory in world.memories(name)), Counter[str]()) for name in world.names
        }
        return Result(
            seconds=self.clock.monotonic() - self._began,
            real_seconds=real_seconds,
            submitted=dict(self.submitted),
            refused=self.refused,
            outcomes=outcomes,
            reached=reached,
            first=first,
            waited=self.waited,
            replies=replies,
            refusals=refusals,
            standings=self._standings(),
            queued=self.relay.app.index.queued_recipients,
            warmup=self.governing.status(),
            happened=self.governing.happened,
            begins=self.scenario.begins,
            steps=self.relay.steps,
            stuck=self.relay.stuck,
        )

    def _standings(self) -> dict[tuple[str, str], dict[str, float]]:
        """What each provider thinks of each source at the end; of `other`, the worst of its hosts."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        now = self.clock.wall()
        for name in self.world.names:
            for memory in self.world.memories(name):
                if memory.rules.standing is None:
                    continue
                for client in list(memory.standings):
                    standing = memory.standing_of(client, now)
                    key = (name, self.world.sources.get(client, client))
                    if standing is None or (key in found and found[key]["score"] <= standing.score):
                        continue
                    found[key] = {
                        "score": standing.score,
                        "allowance": standing.allowance(memory.rules.standing),
                        "bad_days": standing.bad_days,
                    }
        return found

    def _read_events(self) -> tuple[dict[tuple[str, str], Outcomes], dict[str, Counter[str]]]:
        """Outcomes and refusals, from the relay's own event log."""
        outcomes: dict[tuple[str, str], Outcomes] = {}
        replies: dict[str, Counter[str]] = {}
        self.relay.app.own_spool.drain()
        for path in sorted((self._folder / "events").glob("w*.jsonl*")):
            with path.open("rb") as lines:
                for line in lines:
                    event = _Event.read(line)
                    if event is None or event.event not in Outcomes.__dataclass_fields__:
                        continue
                    found = outcomes.setdefault((event.provider or "", event.source or ""), Outcomes())
                    setattr(found, event.event, getattr(found, event.event) + 1)
                    if event.event in ("deferred", "failed") and event.reply:
                        replies.setdefault(event.provider or "", Counter())[event.reply[:200]] += 1
        return outcomes, {name: Counter(dict(found.most_common(MOST_REPLIES))) for name, found in replies.items()}


class _Event(msgspec.Struct):
    """The fields of a line of the event log that count here."""

    event: str = ""
    provider: str | None = None
    source: str | None = None
    reply: str | None = None

    @staticmethod
    def read(line: bytes) -> _Event | None:
        try:
            return _EVENTS.decode(line)
        except msgspec.DecodeError:
            return None


_EVENTS = msgspec.json.Decoder(_Event)


def split(count: int, mix: dict[str, float]) -> dict[str, int]:
    """`count` by shares, in whole numbers that add up to it (largest remainders)."""
    total = sum(mix.values())
    exact = {name: count * share / total for name, share in mix.items()}
    counts = {name: int(value) for name, value in exact.items()}
    rest = count - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:rest]:
        counts[name] += 1
    return counts


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A folder for a relay's state: in memory where there is room, since the disk's time is real and not simulated."""
    place = None
    with contextlib.suppress(OSError):
        room = os.statvfs(MEMORY_FOLDER)
        if room.f_bavail * room.f_frsize > SPARE_BYTES and os.access(MEMORY_FOLDER, os.W_OK):
            place = MEMORY_FOLDER
    with tempfile.TemporaryDirectory(prefix="fastrelay-sim-", dir=place) as folder:
        yield Path(folder)


@contextlib.contextmanager
def quiet_logging(level: int = logging.CRITICAL) -> Iterator[None]:
    """The relay's own log is about hosts that do not exist; only what is our fault is shown."""
    logger = logging.getLogger("fastrelay")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _until_terminated(one: Run, on_progress: Callable[[Progress], object] | None) -> Result:
    """SIGTERM ends it as Ctrl-C does: its folder in memory must not stay."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await one.live(on_progress)


def run(
    scenario: Scenario,
    config: Config,
    on_progress: Callable[[Progress], object] | None = None,
    slot_seconds: float = 1.0,
    on_world: Callable[[World], object] | None = None,
) -> Result:
    """Runs a scenario from beginning to end; `on_world` may look at its hosts first. Raises ConfigError,
    SimulationFailed."""
    import uvloop

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY and hard < OPEN_FILES else OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with quiet_logging(), working_folder() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        one = Run(scenario, config, folder, slot_seconds)
        if on_world is not None:
            on_world(one.world)
        try:
            return runner.run(_until_terminated(one, on_progress))
        except OSError as error:
            raise SimulationFailed(f"the simulated hosts could not be set up: {error}") from error
