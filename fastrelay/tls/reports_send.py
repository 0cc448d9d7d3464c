"""TLS reports on their way (RFC 8460): in the supervisor, which days are over, whom to ask, what was sent.

A report of a day and domain has an entry in the LMDB `control`, key YYYYMMDD NUL domain:

    waiting   its hour, or the next attempt, is to come
    sent      each of its destinations has it, or will never take it
    none      the domain asks for no reports
    failed    no destination took it within a day

A destination is marked as done after the queue (or the web host) has the report: a crash in between sends it again,
under the same report-id, by which its reader can tell. Marked before, a crash would lose it, and nobody could tell.
Its hour follows from day and domain, so nothing need be kept before it comes.

Known faults: reports leave only while the relay runs; a domain's record is read when the report is due.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from fastrelay import __version__
from fastrelay._core.lmdb import LmdbError
from fastrelay.admin.workers import WorkerRefused
from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.route import make_resolver
from fastrelay.route.resolver import Resolver
from fastrelay.tls import reports_build as build
from fastrelay.tls.mta_sts import PolicyError
from fastrelay.tls.reports import DATABASES, DETAIL_OCTETS, EVENT, DayCounts, PostFailed, Row, Store, day_of

__all__ = ["COMMANDS", "DATABASES", "EVENT", "Reports"]

log = logging.getLogger("fastrelay.tls")

COMMANDS = ("tlsrpt.show", "tlsrpt.send")
DAY_SECONDS = 86_400.0
GIVE_UP_SECONDS = DAY_SECONDS  # after the first attempt
FIRST_RETRY_SECONDS = 300.0
LAST_RETRY_SECONDS = 4 * 3600.0
AT_ONCE = 8
LISTED_AT_MOST = 1000
SLICE = 500
NO_POLICY_TEXT: tuple[list[str], list[str]] | None = None

Inject = Callable[[str, list[str], bytes], Awaitable[str]]  # reverse-path, recipients, content → id


class ReportError(FastrelayError):
    """A command that cannot be carried out, in words."""


class Destination(msgspec.Struct):
    """One URI of a domain's record. state: waiting, sent, failed."""

    state: str = "waiting"
    detail: str = ""
    at: float = 0.0  # wall time of the last attempt


class Entry(msgspec.Struct):
    """What is kept of a report; see the top. Times are wall times."""

    state: str = "waiting"
    detail: str = ""
    attempts: int = 0
    first: float = 0.0
    next: float = 0.0
    destinations: dict[str, Destination] = {}


class Reports:
    """The supervisor's part: counts, reports, commands."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        inject: Inject,
        *,
        published: build.Published = lambda domain: NO_POLICY_TEXT,
        event: Callable[[str, dict[str, Any]], None] = lambda name, fields: None,
        resolver: Resolver | None = None,
        poster: Any = None,
    ) -> None:
        self.config = config
        self.counts = DayCounts(store, clock)
        self.published = published
        self.results: Counter[str] = Counter()  # reports by how they ended, since the start
        self._store = store
        self._clock = clock
        self._inject = inject
        self._event = event
        self._given = (resolver, poster)
        self._due: list[tuple[float, str, str]] = []  # a heap: wall time, day, domain
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._planned = ""  # every day before this one is planned
        self._planning: asyncio.Task[None] | None = None
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Takes a configuration; also at a reload."""
        had_sender = self.config.tls.outbound.reports.sender is not None
        self.config = config
        self._settings = config.tls.outbound.reports
        resolver, poster = self._given
        self._resolver = resolver or make_resolver(config)
        self._poster = poster
        if not had_sender:
            self._planned = ""  # days that were only counted so far

    def watching(self, fetch: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
        """Fetches an MTA-STS policy by `fetch`; one that can't be had is counted (RFC 8460 section 4.3.2.2)."""

        async def watched(domain: str) -> Any:
            try:
                return await fetch(domain)
            except PolicyError as error:
                words = str(error)[:DETAIL_OCTETS]
                self.counts.add(domain, Row("sts", [], 0, 1, [[error.result, "", "", "", words, 1]]))
                raise

        return watched

    @property
    def waiting(self) -> int:
        """Reports whose hour, or next attempt, is to come."""
        return len(self._due) + len(self._running)

    # --- time ---

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self.tick()
            except Exception:
                log.exception("TLS reports: a tick failed; please report this")
            await asyncio.sleep(1.0)

    def tick(self) -> None:
        """About once a second."""
        self.counts.tick(self._clock.monotonic())
        wall = self._clock.wall()
        if self._planned != day_of(wall) and self._planning is None:
            self._planning = asyncio.get_running_loop().create_task(self._plan(day_of(wall)))
            self._planning.add_done_callback(self._on_planned)
        while self._due and self._due[0][0] <= wall and len(self._running) < AT_ONCE:
            _, day, domain = heapq.heappop(self._due)
            if (day, domain) not in self._running:
                task = asyncio.get_running_loop().create_task(self._send(day, domain))
                self._running[day, domain] = task
                task.add_done_callback(self._on_sent(day, domain))

    def _on_planned(self, task: asyncio.Task[None]) -> None:
        self._planning = None
        if not task.cancelled() and task.exception() is not None:
            self._planned = day_of(self._clock.wall())  # tomorrow again, rather than each second
            log.error("TLS reports can't be planned: %s", task.exception())

    def _on_sent(self, day: str, domain: str) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            self._running.pop((day, domain), None)
            if not task.cancelled() and task.exception() is not None:
                log.error(
                    "the TLS report of %s for %s failed; it is tried again", day, domain, exc_info=task.exception()
                )
                heapq.heappush(self._due, (self._clock.wall() + LAST_RETRY_SECONDS, day, domain))

        return done

    async def _plan(self, today: str) -> None:
        """Sets the hour of each report of a day that is over, and forgets what is older than `keep`."""
        self.counts.write()
        oldest = day_of(self._clock.wall() - self._settings.keep_seconds)
        due: list[tuple[float, str, str]] = []
        for day in self.counts.days():
            if day < oldest:
                await self._forget(day)
            elif day < today and self._settings.sender is not None:
                async for domain in self._domains(day):
                    entry = self.entry(day, domain)
                    if entry is None:
                        due.append((self.hour(day, domain), day, domain))
                    elif entry.state == "waiting":
                        due.append((entry.next, day, domain))
        heapq.heapify(due)
        self._due = due
        self._planned = today

    async def _domains(self, day: str) -> Any:
        """The domains with counts of a day, each once; other work gets its turn in between."""
        last = ""
        for number, (domain, _) in enumerate(self.counts.rows(day)):
            if domain != last:
                last = domain
                yield domain
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)

    async def _forget(self, day: str) -> None:
        for database in DATABASES:
            while True:
                found = self._store.items(database, day.encode(), SLICE)
                keys = [key for key, _ in found if key[:8] == day.encode()]
                if not keys:
                    break
                self._store.write([(database, key, None) for key in keys])
                await asyncio.sleep(0)

    def hour(self, day: str, domain: str) -> float:
        """When the report of a day leaves: a moment within `delay` after its end that day and domain decide, so that
        not all relays report at midnight."""
        _, end = build.date_range(day)
        digest = hashlib.blake2b(f"{day} {domain} {self.config.hostname}".encode(), digest_size=8).digest()
        return end.timestamp() + 1 + self._settings.delay_seconds * (int.from_bytes(digest) / 2**64)

    async def close(self) -> None:
        """What is counted goes to disk; reports on their way are left to the next start."""
        tasks = [*self._running.values(), *([self._planning] if self._planning else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.counts.write()

    # --- one report ---

    def entry(self, day: str, domain: str) -> Entry | None:
        raw = self._store.get("tls_reports", f"{day}\0{domain}".encode())
        return None if raw is None else msgspec.json.decode(raw, type=Entry)

    def _keep(self, day: str, domain: str, entry: Entry) -> None:
        self._store.write([("tls_reports", f"{day}\0{domain}".encode(), msgspec.json.encode(entry))])

    async def _send(self, day: str, domain: str) -> None:
        """One attempt, for each destination that has not got it."""
        if self._settings.sender is None:
            return
        entry = self.entry(day, domain) or Entry(destinations={})
        rows = [row for _, row in self.counts.rows(day, domain)]
        if not rows or entry.state != "waiting":
            return
        wall = self._clock.wall()
        entry.first = entry.first or wall
        entry.attempts += 1
        if not entry.destinations:
            await self._ask(domain, entry)
        built = self.built(day, domain, rows)
        for uri, one in entry.destinations.items():
            if one.state == "waiting":
                await self._give(day, domain, built, uri, one)
                self._keep(day, domain, entry)
        self._judge(entry)
        if entry.state == "waiting":
            heapq.heappush(self._due, (entry.next, day, domain))
        self._keep(day, domain, entry)
        self._tell(day, domain, entry)

    async def _ask(self, domain: str, entry: Entry) -> None:
        """Where the domain wants its reports (RFC 8460 section 3)."""
        answer = await self._resolver.query(f"_smtp._tls.{domain}", "TXT")
        if answer.status == "temporary":
            entry.detail = f"its TLS-RPT record can't be looked up: {answer.detail}"
            return
        uris = build.destinations(build.txt_text(record) for record in answer.records)
        entry.destinations = {uri: Destination() for uri in uris}
        if not uris:
            entry.state, entry.detail = "none", "the domain asks for no reports"

    def reporter(self) -> build.Reporter:
        """Who reports, by the configuration."""
        settings, hostname = self._settings, self.config.hostname
        sender = settings.sender or f"postmaster@{hostname}"
        return build.Reporter(settings.organization or hostname, hostname, settings.contact or sender, sender)

    def built(self, day: str, domain: str, rows: Iterable[Row]) -> dict[str, Any]:
        return build.report(day, domain, rows, self.reporter(), self.published)

    async def _give(self, day: str, domain: str, built: dict[str, Any], uri: str, one: Destination) -> None:
        """The report to one destination."""
        kind, where = build.destination(uri) or ("", uri)
        one.at = self._clock.wall()
        who = self.reporter()
        try:
            if kind == "mailto":
                content = build.mail(day, domain, built, where, who, one.at)
                one.detail = "queued as " + await self._inject(who.sender, [where], content)
            else:
                await self._post(where, build.packed(built))
                one.detail = ""
            one.state = "sent"
        except PostFailed as error:
            one.detail, one.state = str(error), "failed" if error.final else "waiting"
        except WorkerRefused as error:
            one.detail, one.state = error.words, "failed" if error.words[:1] == "5" else "waiting"
        except FastrelayError as error:
            one.detail = str(error)

    async def _post(self, url: str, body: bytes) -> None:
        """Raises PostFailed."""
        if self._poster is None:
            from fastrelay.tls.reports_post import Poster  # aiohttp, which few relays need

            config = self.config
            try:
                self._poster = Poster(
                    self._resolver,
                    ca_file=config.tls.outbound.ca_file,
                    private=config.delivery.allow_private_hosts,
                    agent=f"fastrelay/{__version__}",
                )
            except OSError as error:  # the file of certificates
                raise PostFailed(f"{config.tls.outbound.ca_file}: {error}") from None
        await self._poster.post(url, body)

    def _judge(self, entry: Entry) -> None:
        """What an entry is after an attempt, and when the next one is."""
        states = {one.state for one in entry.destinations.values()}
        wall = self._clock.wall()
        if entry.state == "none":
            return
        if states and "waiting" not in states:
            entry.state = "sent" if "sent" in states else "failed"
        elif wall - entry.first >= GIVE_UP_SECONDS:
            entry.state = "sent" if "sent" in states else "failed"
            for one in entry.destinations.values():
                one.state = "failed" if one.state == "waiting" else one.state
        else:
            entry.next = wall + min(FIRST_RETRY_SECONDS * 2.0 ** (entry.attempts - 1), LAST_RETRY_SECONDS)

    def _tell(self, day: str, domain: str, entry: Entry) -> None:
        """Log, event and counter of an attempt."""
        if entry.state in ("none", "waiting"):
            self.results["none"] += entry.state == "none"
            return
        self.results[entry.state] += 1
        told = {uri: {"state": one.state, "detail": one.detail} for uri, one in entry.destinations.items()}
        self._event("tls_report", {"day": day, "domain": domain, "state": entry.state, "destinations": told})
        if entry.state == "failed":
            words = "; ".join(f"{uri}: {one.detail}" for uri, one in entry.destinations.items()) or entry.detail
            log.warning("the TLS report of %s for %s was not taken: %.500s", day, domain, words)

    # --- commands ---

    def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Raises ReportError."""
        day = arguments.get("day")
        if day is not None:
            day = str(day).replace("-", "")
            try:
                build.date_range(day)
            except ValueError:
                raise ReportError(f"{arguments['day']!r} is no day; write it as 2026-11-23") from None
        if name == "tlsrpt.show":
            return self._show(day, arguments.get("domain"))
        return self._send_now(day, arguments.get("domain"), bool(arguments.get("again")))

    def _show(self, day: str | None, domain: str | None) -> dict[str, Any]:
        try:
            self.counts.write()
        except LmdbError as error:
            raise ReportError(str(error)) from None
        days = self.counts.days()
        chosen = [day] if day is not None else days
        told: list[dict[str, Any]] = []
        for one in reversed(chosen):
            grouped: dict[str, list[Row]] = {}
            for name, row in self.counts.rows(one, domain or ""):
                if name not in grouped and len(told) + len(grouped) >= LISTED_AT_MOST:
                    break
                grouped.setdefault(name, []).append(row)
            told += [self._described(one, name, rows, domain is not None) for name, rows in grouped.items()]
        return {"days": days, "reports": told, "lost": self.counts.lost, "sender": self._settings.sender}

    def _described(self, day: str, domain: str, rows: list[Row], whole: bool) -> dict[str, Any]:
        entry = self.entry(day, domain)
        told: dict[str, Any] = {
            "day": f"{day[:4]}-{day[4:6]}-{day[6:]}",
            "domain": domain,
            "success": sum(row.success for row in rows),
            "failure": sum(row.failure for row in rows),
            "state": entry.state if entry is not None else "waiting" if self._settings.sender else "counted",
            "detail": entry.detail if entry is not None else "",
            "destinations": [] if entry is None else [
                {"uri": uri, "state": one.state, "detail": one.detail} for uri, one in entry.destinations.items()
            ],
        }  # fmt: skip
        return {**told, "report": self.built(day, domain, rows)} if whole else told

    def _send_now(self, day: str | None, domain: str | None, again: bool) -> dict[str, Any]:
        """Makes the reports of a day due now."""
        if day is None:
            raise ReportError("tlsrpt.send wants a day")
        if self._settings.sender is None:
            raise ReportError("no report is sent: tls.outbound.reports.sender is not set")
        if day >= day_of(self._clock.wall()):
            raise ReportError("that day (UTC) is not over; its counts are not complete")
        names = dict.fromkeys(name for name, _ in self.counts.rows(day, domain or ""))
        if not names:
            raise ReportError("nothing was counted on that day" + (f" for {domain}" if domain else ""))
        chosen = []
        for name in names:
            entry = self.entry(day, name)
            if (day, name) in self._running or (entry is not None and entry.state != "waiting" and not again):
                continue
            if entry is not None and entry.state != "waiting":
                self._keep(day, name, Entry(destinations={}))
            chosen.append(name)
        self._due = [one for one in self._due if one[1] != day or one[2] not in chosen]
        self._due += [(0.0, day, name) for name in chosen]
        heapq.heapify(self._due)
        return {"due": len(chosen), "passed_over": len(names) - len(chosen)}
