"""What ``fastrelay demo`` does, without its display: a real relay, a campaign, an internet in a box, and the proof.

    demonstration = Demonstration(10_000, 500)
    async with demonstration:                 # starts DNS and MX hosts (child), then the relay (child)
        result = await demonstration.run()    # submits, waits until nothing is queued, holds the accounts together

Some recipients are refused for a while and some for good, so that retries and failures are to be seen. Everything
lies below a temporary directory. The children are ended by pid, and end by themselves if this process is killed.

Known faults: Linux only (as the relay).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastrelay.admin.client import ControlClient
from fastrelay.errors import FastrelayError
from fastrelay.sim.account import Verdict
from fastrelay.sim.box import Box
from fastrelay.sim.campaign import Campaign, newsletters
from fastrelay.sim.internet import PROVIDERS
from fastrelay.sim.mx import permille_of
from fastrelay.sim.submit import SubmissionFailed, Submitter

START_SECONDS = 60.0
STOP_SECONDS = 60.0
STALLED_SECONDS = 120.0  # without any progress; then the demonstration gives up
POLL_SECONDS = 0.2
TEMPFAIL_PERMILLE = 20
PERMFAIL_PERMILLE = 5
SOURCES = {"a": "127.0.0.11", "b": "127.0.0.12"}
PR_SET_PDEATHSIG = 1
LOG_TAIL_LINES = 30


class DemoFailed(FastrelayError):
    """The demonstration could not be carried through. ``log``: the end of the relay's log, several lines."""

    def __init__(self, problem: str, log: str = "") -> None:
        self.log = log
        super().__init__(problem)


@dataclass
class Progress:
    """What a display shows; refreshed every POLL_SECONDS."""

    seconds: float = 0.0
    accepted: int = 0
    delivered: int = 0
    deferred: int = 0  # 4xx replies so far
    failed: int = 0
    queued: int = 0
    by_provider: dict[str, dict[str, int]] = field(default_factory=dict)  # delivered, deferred, refused
    most_open: int = 0


@dataclass
class Result:
    """How it ended. Rates in messages a second, over the first 95 % of the messages (the rest are retries)."""

    messages: int
    domains: int
    octets: int
    seconds: float
    accepted_rate: float
    delivered_rate: float
    relay: dict[str, int]  # the relay's own account: accepted, delivered, failed, …
    audit_ok: bool
    by_provider: dict[str, dict[str, int]]
    by_source: dict[str, int]
    connections: int
    most_open: int
    deferred: int
    expected_delivered: int
    expected_failed: int
    missing: int
    repeated: int
    altered: int
    unexpected: int
    violations: list[str]
    workers: int
    directory: str

    @property
    def exact(self) -> bool:
        """Everything arrived once and unaltered, and both accounts agree."""
        wrong = self.missing or self.repeated or self.altered or self.unexpected or self.violations
        agreed = self.relay.get("delivered") == self.expected_delivered and self.relay.get("queued") == 0
        return not wrong and agreed and self.audit_ok and self.relay.get("failed") == self.expected_failed

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "exactly_once": self.exact}


def free_port(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """In the child before exec: SIGTERM when the parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Demonstration:
    """One run; an asynchronous context manager that leaves nothing running behind."""

    def __init__(
        self,
        messages: int = 10_000,
        domains: int = 500,
        *,
        workers: int | str = "auto",
        trouble: bool = True,
        connections: int = 20,
        keep: bool = False,
    ) -> None:
        self.campaign = Campaign(messages, domains)
        self.workers = workers
        self.trouble = trouble
        self.keep = keep
        self.directory = Path()
        self.progress = Progress()
        self.on_step: Callable[[str], None] = lambda words: None
        permille = {"tempfail_permille": TEMPFAIL_PERMILLE, "permfail_permille": PERMFAIL_PERMILLE}
        self.box = Box(domains, behaviour=permille if trouble else {})
        self._connections = connections
        self._relay: subprocess.Popen[bytes] | None = None
        self._submitter: Submitter | None = None
        self._marks: list[tuple[float, int, int]] = []  # (seconds, accepted, fates known to the MX hosts)
        self._smtp = ("127.0.0.1", 0)

    # life

    async def __aenter__(self) -> Demonstration:
        self.directory = Path(tempfile.mkdtemp(prefix="fastrelay-demo-"))
        try:
            newsletters(self.campaign.seed)  # made (and remembered) before the clock runs
            self.on_step("DNS and MX hosts")
            await self.box.start()
            self.on_step("relay")
            await self._start_relay()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the relay, then the box; remove the directory unless it is to be kept."""
        try:
            await self._stop_relay()
        finally:
            await self.box.stop()
            if not self.keep:
                shutil.rmtree(self.directory, ignore_errors=True)

    def config(self) -> dict[str, Any]:
        """The relay's configuration. Only the DNS server, the port and private addresses differ from a real one."""
        return {
            "hostname": "mta1.demo.example",
            "state_dir": "./state",
            "workers": self.workers,
            "listeners": {"smtp": [{"bind": self.smtp}]},
            "relay_networks": ["127.0.0.0/8"],
            "sources": [
                {"name": name, "address": address, "ehlo": f"{name}.mta1.demo.example"}
                for name, address in SOURCES.items()
            ],
            "pools": {"default": list(SOURCES)},
            "dns": {"nameservers": [self.box.nameserver]},
            "delivery": {"port": self.box.port, "allow_private_hosts": True},
            "provider_limits": False,  # it shows how fast the relay can be; real providers want it slower
            "retry": {"first": "2s", "factor": 1.5, "max": "10s", "expire": "4d", "jitter": "10%"},
            "spool": {"reserve": "64MiB", "ballast": "16MiB"},
            "bounces": {"send": False},  # its newsletter reads events
        }

    @property
    def smtp(self) -> str:
        """Where the relay takes mail."""
        return f"{self._smtp[0]}:{self._smtp[1]}"

    @property
    def config_path(self) -> Path:
        return self.directory / "fastrelay.yaml"

    @property
    def log_path(self) -> Path:
        return self.directory / "relay.log"

    async def _start_relay(self) -> None:
        self._smtp = ("127.0.0.1", free_port("127.0.0.1"))
        self.config_path.write_text(yaml.safe_dump(self.config(), sort_keys=False))
        with self.log_path.open("ab") as log:
            self._relay = subprocess.Popen(
                [sys.executable, "-m", "fastrelay", "run", "-c", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        loop = asyncio.get_running_loop()
        end = loop.time() + START_SECONDS
        while not await asyncio.to_thread(self._ready):
            if self._relay.poll() is not None:
                status = self._relay.returncode
                raise self._failed(f"the relay exited with status {status} at start")
            if loop.time() > end:
                raise self._failed(f"the relay was not ready after {START_SECONDS:.0f} s")
            await asyncio.sleep(0.05)

    def _ready(self) -> bool:
        """Whether the relay answers a command and greets a client."""
        try:
            with ControlClient(str(self.directory / "state"), 10.0) as relay:
                relay.call("status")
            with socket.create_connection(self._smtp, 10.0) as connection:
                greeted = connection.recv(512)[:3] == b"220"
                connection.sendall(b"QUIT\r\n")
                connection.recv(512)
                return greeted
        except (FastrelayError, OSError):
            return False

    async def _stop_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is None or relay.poll() is not None:
            return
        relay.terminate()
        try:
            await asyncio.to_thread(relay.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(relay.pid, signal.SIGKILL)  # its own session: the supervisor and its workers
            await asyncio.to_thread(relay.wait)

    def log_tail(self) -> str:
        """The end of the relay's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])

    def _failed(self, problem: str) -> DemoFailed:
        return DemoFailed(f"{problem}; the end of the relay's log is above", self.log_tail())

    # the run

    async def run(self) -> Result:
        """Submit everything, wait until nothing is queued, and hold the accounts together. Raises DemoFailed."""
        self._submitter = Submitter(*self._smtp, connections=self._connections)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        submission = asyncio.create_task(self._submitter.run(self.campaign))
        try:
            await self._watch(submission, begun)
            await submission
        except SubmissionFailed as error:
            raise self._failed(str(error)) from error
        finally:
            submission.cancel()
            with contextlib.suppress(asyncio.CancelledError, SubmissionFailed):
                await submission
        return await self._result()

    async def _watch(self, submission: asyncio.Task[Any], begun: float) -> None:
        """Refresh the progress until the submission is over and nothing is queued."""
        loop = asyncio.get_running_loop()
        moved, last = loop.time(), (-1, -1, -1)
        while True:
            over = submission.done()
            summary = await asyncio.to_thread(self._summary)
            await self._refresh(summary, loop.time() - begun)
            if over and (submission.exception() is not None or not summary["queued"]):
                return
            now = (self.progress.accepted, self.progress.delivered, self.progress.deferred)
            if now != last:
                moved, last = loop.time(), now
            if loop.time() - moved > STALLED_SECONDS:
                raise self._failed(f"nothing moved for {STALLED_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    def _summary(self) -> dict[str, Any]:
        try:
            with ControlClient(str(self.directory / "state")) as relay:
                summary: dict[str, Any] = relay.call("queue.summary")
                return summary
        except FastrelayError as error:
            raise self._failed(str(error)) from error

    async def _refresh(self, summary: dict[str, Any], seconds: float) -> None:
        stats = await self.box.stats()
        progress, submitter = self.progress, self._submitter
        progress.seconds = seconds
        progress.accepted = submitter.progress.accepted if submitter else 0
        progress.delivered = stats["delivered"]
        progress.deferred = stats["deferred"]
        progress.failed = summary["failed"]
        progress.queued = summary["queued"]
        progress.most_open = stats["most_open"]
        progress.by_provider = by_provider(self.campaign, stats)
        self._marks.append((seconds, progress.accepted, progress.delivered + stats["refused"]))

    def _rate(self, column: int) -> float:
        """Messages a second over the first 95 %: between the polls around that point, interpolated."""
        goal = len(self.campaign) * 0.95
        before = (0.0, 0, 0)
        for mark in self._marks:
            if mark[column] >= goal:
                share = (goal - before[column]) / max(1, mark[column] - before[column])
                return goal / max(1e-3, before[0] + share * (mark[0] - before[0]))
            before = mark
        return 0.0

    async def _result(self) -> Result:
        self.on_step("check")
        account = await self.box.account()
        verdict = await asyncio.to_thread(account.verify, _Wanted(self))
        summary = await asyncio.to_thread(self._summary)
        audit = await asyncio.to_thread(self._audit)
        stats = await self.box.stats()
        assert self._submitter is not None
        fates = ("accepted", "queued", "delivered", "failed", "expired", "suppressed", "removed")
        names = {address: name for name, address in SOURCES.items()}
        return Result(
            messages=len(self.campaign),
            domains=self.campaign.domains,
            octets=self._submitter.progress.octets,
            seconds=self.progress.seconds,
            accepted_rate=self._rate(1),
            delivered_rate=self._rate(2),
            relay={fate: int(summary[fate]) for fate in fates},
            audit_ok=audit,
            by_provider=by_provider(self.campaign, stats),
            by_source={names.get(client, client): count for client, count in sorted(stats["by_client"].items())},
            connections=stats["connections"],
            most_open=stats["most_open"],
            deferred=stats["deferred"],
            expected_delivered=verdict.expected,
            expected_failed=len(self.campaign) - verdict.expected,
            **self._faults(verdict),
            workers=len(os.sched_getaffinity(0)) if self.workers == "auto" else int(self.workers),
            directory=str(self.directory) if self.keep else "",
        )

    def _faults(self, verdict: Verdict) -> dict[str, Any]:
        return {
            "missing": len(verdict.missing),
            "repeated": len(verdict.repeated),
            "altered": len(verdict.altered),
            "unexpected": len(verdict.unexpected),
            "violations": verdict.violations,
        }

    def _audit(self) -> bool:
        with ControlClient(str(self.directory / "state")) as relay:
            return bool(relay.call("queue.audit")["ok"])

    def will_fail(self, recipient: bytes) -> bool:
        """Whether the MX hosts refuse this recipient for good."""
        return self.trouble and permille_of(recipient, b"perm") < PERMFAIL_PERMILLE


class _Wanted:
    """What must arrive: the campaign without the recipients who are refused for good."""

    def __init__(self, demonstration: Demonstration) -> None:
        self._demonstration = demonstration

    def __iter__(self) -> Any:
        demonstration = self._demonstration
        return (each.expected() for each in demonstration.campaign if not demonstration.will_fail(each.recipient))


def by_provider(campaign: Campaign, stats: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Per provider: messages for it, delivered, 4xx and 5xx replies; in the order of internet.PROVIDERS."""
    messages = campaign.providers()
    return {
        name: {
            "messages": messages[name],
            "delivered": stats["by_provider"].get(name, 0),
            "deferred": stats["deferred_by_provider"].get(name, 0),
            "refused": stats["refused_by_provider"].get(name, 0),
        }
        for name in (provider.name for provider in PROVIDERS)
        if name in messages
    }
