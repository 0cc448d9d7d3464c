"""Events posted to applications: webhooks, each from a cursor of its own that lasts.

One batch of a webhook is under way at a time, so events of one recipient come in order. What a batch reaches to is
written down before it is posted: after a crash the same events are posted with the same webhook-id. A batch that failed
is posted again after ever longer (RETRY_SECONDS, doubled up to retry_max, a third of it at random; Retry-After is
honoured), until it is taken or its events are older than give_up. In memory there is one batch a webhook, and
mail never waits: this is another process, and it reads files.

    2xx                     taken
    410                     switched off until the configuration is reloaded, which is said
    400, 413, 422           an event that is posted alone is left out after POISON_TRIES; of several, half are posted
                            (413)
    all else                tried again

A replay posts the events of a time once more, between batches; it ends with the process.

Known faults: the filter of `tenants` decodes every line. Events that were left in a position older than `keep` of the
events are lost; that is said, and counted in `gone`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time as _time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from fastrelay.clock import iso_utc
from fastrelay.config.feedback import Webhook
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.feedback.desk import Desk, DeskError, Part
from fastrelay.feedback.hook_formats import FORMATS, Request
from fastrelay.feedback.hook_post import Answer, Poster, Secrets, read_secrets
from fastrelay.feedback.tail import DATABASE, POLL_SECONDS, Position, Reader
from fastrelay.metrics import names

log = logging.getLogger("fastrelay.webhooks")

RETRY_SECONDS = 1.0
JITTER = 1 / 3
SINGLE_BATCH = 50  # of formats that post one event a request: so many may be posted twice after a crash
BATCH_BYTES = 4 << 20
READ_LINES = 200
POISON_TRIES = 5
POISON_STATUS = (400, 413, 422)
SAY_SECONDS = 3600.0  # between warnings of the same kind
SAVE_SECONDS = 5.0  # between saves of a cursor that only passed unwanted events
COUNT_BYTES = 256 << 20  # read to count what is behind
REPLAY_EVENTS = 10_000_000
NEW_SECONDS = 30.0


class Cursor(msgspec.Struct):
    """What is kept of a webhook. `until`: how far the batch reaches that was posted last."""

    position: Position
    until: Position | None = None


class _Tenant(msgspec.Struct):
    tenant: str | None = ""
    scope: str | None = ""
    scope_value: str | None = ""


_tenant = msgspec.json.Decoder(_Tenant)


class Replay:
    """The events of a time, posted once more."""

    def __init__(self, start: str, end: str) -> None:
        self.start, self.end = start, end
        self.events = 0
        self.done = False
        self.error = ""
        self.task: asyncio.Task[None] | None = None

    def view(self) -> dict[str, Any]:
        return {"from": self.start, "to": self.end, "events": self.events, "done": self.done, "error": self.error}


class Hook:
    """One webhook."""

    def __init__(self, desk: Desk, config: Webhook, secrets: Secrets, problem: str = "") -> None:
        self.desk = desk
        self.config = config
        self.poster = Poster(config, secrets)
        self.problem = problem  # why it is switched off; "" where it is not
        self.error = ""  # of the last attempt
        self.failures = 0
        self.next_at: float | None = None  # monotonic; of the next attempt
        self.taken = 0
        self.dropped = 0
        self.replay: Replay | None = None
        self._format = FORMATS[config.format]
        self.wanted = frozenset(config.events) & self._format.words if config.events else self._format.words
        self._limit = min(config.batch, SINGLE_BATCH) if self._format.single else config.batch
        self._oldest = ""  # time of the oldest event that is not taken
        self._said_at: dict[str, float] = {}
        self._saved_at = 0.0
        self._posting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._key = f"webhook/{config.name}".encode()
        self._rng = random.Random()
        for reason in names.WEBHOOK_DROPS:  # a counter that is first seen high has no rate
            desk.meters.count(names.WEBHOOK_DROPPED, 0, webhook=config.name, reason=reason)
        self.reader: Reader | None = None

    # -- its life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A webhook that is new begins with what comes now (and came while the relay started)."""
        if self._load() is None:
            self._save(Cursor(Position(since=iso_utc(self.desk.clock.wall() - NEW_SECONDS))))
        if not self.problem:
            self._task = asyncio.ensure_future(self._go_on())

    async def end(self) -> None:
        """What is under way is posted again when it goes on."""
        replay = None if self.replay is None else self.replay.task
        tasks = [task for task in (self._task, replay) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = None
        await self.poster.close()
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def _load(self) -> Cursor | None:
        raw = self.desk.store.get(DATABASE, self._key)
        return None if raw is None else msgspec.msgpack.decode(raw, type=Cursor)

    def _save(self, cursor: Cursor) -> None:
        self._saved_at = self.desk.clock.monotonic()
        self.desk.store.put(DATABASE, self._key, msgspec.msgpack.encode(cursor))

    def _reader(self, position: Position | None, until: Position | None = None, start: str = "end") -> Reader:
        return Reader(self.desk.tail.folder, self.wanted, position, start, self.desk.clock.wall, until)

    async def _go_on(self) -> None:
        while True:
            try:
                await self._run()
            except Exception:
                self.failures += 1
                wait = self._wait(None)
                log.exception("webhook %s: it goes on in %.0f s; please report this", self.config.name, wait)
                if self.reader is not None:
                    self.reader.close()
                await asyncio.sleep(wait)

    async def _run(self) -> None:
        """Goes on where the cursor is: first with the batch that was under way, as it was."""
        cursor = self._load()
        assert cursor is not None
        if cursor.until is not None:
            lines = await self._again(cursor)
            await self._deliver(lines)
            cursor = Cursor(cursor.until)
            self._save(cursor)
        self.reader = self._reader(cursor.position)
        position = cursor.position
        while True:
            lines = await self._next(position)
            until = self.reader.position()
            self._save(Cursor(position, until))  # and so says that the one before was taken
            await self._deliver(lines)
            position = until
            if self.reader.idle:
                self._save(Cursor(position))

    # -- batches ------------------------------------------------------------------------------------------------------

    async def _again(self, cursor: Cursor) -> list[bytes]:
        """The batch that was under way."""
        reader = self._reader(cursor.position, cursor.until)
        lines: list[bytes] = []
        try:
            while True:
                lines += self._of_tenants(reader.read(READ_LINES))
                if reader.idle:
                    return lines
                await asyncio.sleep(0)
        finally:
            reader.close()

    async def _next(self, position: Position) -> list[bytes]:
        """The next events: as many as there are, but no more than `batch`; the first waits `batch_wait` for others."""
        assert self.reader is not None
        reader, clock = self.reader, self.desk.clock
        lines: list[bytes] = []
        octets, first_at = 0, 0.0
        while len(lines) < self._limit and octets < BATCH_BYTES:
            found = self._of_tenants(reader.read(min(READ_LINES, self._limit - len(lines))))
            if found and not lines:
                first_at = clock.monotonic()
            lines += found
            octets += sum(map(len, found))
            if not reader.idle:
                await asyncio.sleep(0)
                continue
            if not lines:
                self._oldest = ""
                if reader.moved and clock.monotonic() - self._saved_at >= SAVE_SECONDS:
                    self._save(Cursor(reader.position()))
                await asyncio.sleep(POLL_SECONDS)
                continue
            left = first_at + self.config.batch_wait_seconds - clock.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, POLL_SECONDS))
        return lines

    def _of_tenants(self, lines: list[bytes]) -> list[bytes]:
        wanted = self.config.tenants
        return [line for line in lines if _is_of(line, wanted)] if wanted and lines else lines

    # -- posting ------------------------------------------------------------------------------------------------------

    async def _deliver(self, lines: list[bytes]) -> None:
        """Returns once all of them are taken, or too old."""
        pending = [lines]
        while pending:
            part = pending.pop(0)
            if not self._format.single:
                rest = await self._post_batch(part)
                pending = [one for one in rest if one] + pending
                continue
            for line in part:
                await self._post_batch([line])

    async def _post_batch(self, lines: list[bytes], replay: Replay | None = None) -> list[list[bytes]]:
        """Posts one request until it is taken. Gives the halves to post instead, where it is too large."""
        tries = 0
        while True:
            if replay is None:
                lines = self._young(lines)
                self._oldest = time_of(lines[0]) if lines else ""
            requests = self._format.requests(lines)
            if not requests:
                return []
            request = requests[0]
            if self.problem:
                await self._switched_off(replay)
            async with self._posting:
                answer = await self.poster.post(request, self.desk.clock.wall())
            self.desk.meters.count(names.WEBHOOK_REQUESTS, webhook=self.config.name, result=answer.result)
            if answer.result == "ok":
                self._took(request, replay)
                return []
            tries += 1
            if answer.status == 413 and len(lines) > 1:
                return [lines[: len(lines) // 2], lines[len(lines) // 2 :]]
            if answer.status in POISON_STATUS and len(lines) == 1 and tries >= POISON_TRIES:
                self._drop(1, "refused", f"an event was refused {tries} times and is left out: {answer.words}")
                return []
            await self._after_failure(answer)

    def _took(self, request: Request, replay: Replay | None) -> None:
        if self.failures:
            log.info("webhook %s: takes events again", self.config.name)
        self.failures, self.error, self.next_at = 0, "", None
        self.taken += request.events
        self.desk.meters.count(names.WEBHOOK_EVENTS, request.events, webhook=self.config.name)
        if replay is not None:
            replay.events += request.events

    async def _switched_off(self, replay: Replay | None) -> None:
        if replay is not None:
            raise DeskError(self.problem)
        await asyncio.Event().wait()  # until it is ended

    async def _after_failure(self, answer: Answer) -> None:
        self.failures += 1
        self.error = answer.words
        if answer.result == "gone":
            self.problem = "it answered 410 Gone and is switched off until the configuration is reloaded"
            log.error("webhook %s: %s", self.config.name, self.problem)
            return
        wait = self._wait(answer.retry_after)
        self._say("failed", f"{answer.words}; events are kept, and it is tried again (next in {wait:.0f} s)")
        self.next_at = self.desk.clock.monotonic() + wait
        await asyncio.sleep(wait)

    def _wait(self, retry_after: float | None) -> float:
        most = self.config.retry_max_seconds
        wait = min(most, RETRY_SECONDS * 2.0 ** min(self.failures - 1, 30))
        wait *= 1 - JITTER * self._rng.random()
        if retry_after is not None:
            wait = max(wait, min(retry_after, self.config.give_up_seconds))
        return wait

    def _young(self, lines: list[bytes]) -> list[bytes]:
        """Those that are not too old to be posted."""
        limit = iso_utc(self.desk.clock.wall() - self.config.give_up_seconds)
        young = [line for line in lines if time_of(line) >= limit]
        if len(young) < len(lines):
            why = self.error or "not posted in time"
            words = f"events older than {self.config.give_up_seconds:.0f} s are dropped ({why})"
            self._drop(len(lines) - len(young), "too_old", words)
        return young

    def _drop(self, n: int, reason: str, words: str) -> None:
        self.dropped += n
        self.desk.meters.count(names.WEBHOOK_DROPPED, n, webhook=self.config.name, reason=reason)
        self._say(reason, words)

    def _say(self, kind: str, words: str) -> None:
        """A warning, once in SAY_SECONDS."""
        now = self.desk.clock.monotonic()
        said_at = self._said_at.get(kind)
        if said_at is None or now - said_at >= SAY_SECONDS:
            self._said_at[kind] = now
            log.warning("webhook %s: %s", self.config.name, words)

    # -- replay -------------------------------------------------------------------------------------------------------

    def start_replay(self, start: str, end: str) -> Replay:
        """Posts the events of a time once more. DeskError."""
        if self.problem:
            raise DeskError(f"webhook {self.config.name}: {self.problem}")
        if self.replay is not None and not self.replay.done:
            raise DeskError(f"webhook {self.config.name} replays events already; see fastrelay events status")
        self.replay = Replay(start, end)
        self.replay.task = asyncio.ensure_future(self._replay(self.replay))
        return self.replay

    async def _replay(self, replay: Replay) -> None:
        reader = self._reader(None, start=replay.start)
        try:
            while replay.events < REPLAY_EVENTS:
                lines = reader.read(min(READ_LINES, self._limit))
                over = any(time_of(line) >= replay.end for line in lines)
                lines = [line for line in self._of_tenants(lines) if replay.start <= time_of(line) < replay.end]
                pending = [[line] for line in lines] if self._format.single else [lines] if lines else []
                while pending:
                    pending = await self._post_batch(pending.pop(0), replay) + pending
                if over or reader.idle:
                    break
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            replay.error = "it was stopped"
            raise
        except DeskError as error:
            replay.error = str(error)
        except Exception as error:
            log.exception("webhook %s: the replay ended", self.config.name)
            replay.error = str(error)
        finally:
            replay.done = True
            reader.close()

    # -- looking at it ------------------------------------------------------------------------------------------------

    def lag_seconds(self) -> float:
        """How old the oldest event is that was not taken."""
        return max(0.0, self.desk.clock.wall() - _seconds(self._oldest)) if self._oldest else 0.0

    def lag_bytes(self) -> int:
        return self.reader.lag_bytes if self.reader is not None else 0

    def count_behind(self, position: Position) -> tuple[int, bool]:
        """How many events stand behind a position, and whether that is all (COUNT_BYTES are read). Runs in a thread."""
        reader = self._reader(position)
        n = octets = 0
        try:
            while octets < COUNT_BYTES:
                lines = self._of_tenants(reader.read(10_000))
                n += len(lines)
                octets += sum(map(len, lines)) + 1000
                if reader.idle:
                    return n, True
        finally:
            reader.close()
        return n, False

    def position(self) -> Position:
        """Behind what was taken."""
        cursor = self._load()
        assert cursor is not None
        return cursor.position

    def view(self) -> dict[str, Any]:
        now = self.desk.clock.monotonic()
        return {
            "name": self.config.name,
            "url": self.config.url,
            "format": self.config.format,
            "events": sorted(self.wanted),
            "state": "off" if self.problem else "failing" if self.failures else "ok",
            "problem": self.problem or self.error,
            "failures": self.failures,
            "next_attempt_seconds": round(max(0.0, self.next_at - now), 1) if self.next_at is not None else None,
            "taken": self.taken,
            "dropped": self.dropped,
            "lag_seconds": round(self.lag_seconds(), 1),
            "lag_bytes": self.lag_bytes(),
            "gone": self.reader.gone if self.reader is not None else 0,
            "replay": self.replay.view() if self.replay is not None else None,
        }


def time_of(line: bytes) -> str:
    """The time of a line, as it stands there."""
    at = line.find(b'","time":"')
    if at < 0:
        return ""
    end = line.find(b'"', at + 10)
    return line[at + 10 : end].decode("ascii", "replace")


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return _time.time()


def _is_of(line: bytes, tenants: list[str]) -> bool:
    try:
        found = _tenant.decode(line)
    except msgspec.DecodeError:
        return False
    return found.tenant in tenants or (found.scope == "tenant" and found.scope_value in tenants)


def parse_time(text: str) -> str:
    """A time of the command line as events have it. DeskError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise DeskError(f"{text!r} is no time; write 2026-11-23T09:00:00Z") from None
    return iso_utc((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


class Webhooks(Part):
    """All webhooks of the configuration."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.hooks: dict[str, Hook] = {}
        self._changes: asyncio.Task[None] | None = None
        self.commands: dict[str, Callable[..., Any]] = {"events.status": self.status, "events.replay": self.replay}

    async def start(self) -> list[str]:
        for config in self._desk.config.events.webhooks:
            self._add(config, None)
        return []

    def configure(self, config: Config) -> None:
        """Webhooks that changed, or were switched off, begin anew where they were."""
        before = self._changes

        async def change() -> None:
            if before is not None:
                await asyncio.wait([before])
            await self._change(config)

        self._changes = asyncio.ensure_future(change())

    async def _change(self, config: Config) -> None:
        new = {one.name: one for one in config.events.webhooks}
        former = {}
        for name, hook in list(self.hooks.items()):
            if new.get(name) == hook.config and not hook.problem and hook.poster.secrets == _secrets_or(hook):
                continue
            former[name] = hook
            del self.hooks[name]
            await hook.end()
            self._gauges(hook, 0.0, 0)
        for name, one in new.items():
            if name not in self.hooks:
                self._add(one, former.get(name))

    def _add(self, config: Webhook, former: Hook | None) -> None:
        secrets, problem = Secrets(), ""
        try:
            secrets = read_secrets(config)
        except (OSError, UnicodeDecodeError, FastrelayError) as error:
            same = former is not None and (
                (former.config.secret_file, former.config.password_file, former.config.format)
                == (config.secret_file, config.password_file, config.format)
            )
            why = error.strerror if isinstance(error, OSError) else str(error)
            if same and former is not None and not former.problem:
                secrets = former.poster.secrets  # after a start as root they may be out of reach
                log.warning("webhook %s: its secret can't be read (%s); the one from before is used", config.name, why)
            else:
                problem = f"its secret_file or password_file can't be used: {why}"
                log.error("webhook %s is switched off until a reload: %s", config.name, problem)
        hook = self.hooks[config.name] = Hook(self._desk, config, secrets, problem)
        hook.begin()

    def second(self, now: float) -> None:
        for hook in self.hooks.values():
            self._gauges(hook, hook.lag_seconds(), hook.lag_bytes())

    def _gauges(self, hook: Hook, seconds: float, octets: int) -> None:
        meters = self._desk.meters
        name = hook.config.name
        meters.slab.set(meters.entry(names.WEBHOOK_LAG_SECONDS, webhook=name), seconds)
        meters.slab.set(meters.entry(names.WEBHOOK_LAG_BYTES, webhook=name), octets)

    async def close(self) -> None:
        if self._changes is not None:
            await asyncio.wait([self._changes])
        for hook in self.hooks.values():
            await hook.end()

    # -- commands -----------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Every webhook: what it has taken, how far it is behind, what is wrong."""
        views = []
        loop = asyncio.get_running_loop()
        for hook in list(self.hooks.values()):
            behind, whole = await loop.run_in_executor(None, hook.count_behind, hook.position())
            views.append({**hook.view(), "lag_events": behind, "lag_events_least": not whole})
        return {"webhooks": views}

    def replay(self, start: str, end: str | None = None, webhook: str | None = None) -> dict[str, Any]:
        """Posts the events of a time once more, to one webhook or all. DeskError."""
        begin = parse_time(start)
        stop = parse_time(end) if end is not None else iso_utc(self._desk.clock.wall())
        if begin >= stop:
            raise DeskError("that time ends before it begins")
        if webhook is not None and webhook not in self.hooks:
            known = ", ".join(self.hooks) or "none is configured"
            raise DeskError(f"there is no webhook {webhook!r}; there are: {known}")
        chosen = [self.hooks[webhook]] if webhook is not None else list(self.hooks.values())
        if not chosen:
            raise DeskError("no webhook is configured (events.webhooks)")
        return {"webhooks": {hook.config.name: hook.start_replay(begin, stop).view() for hook in chosen}}


def _secrets_or(hook: Hook) -> Secrets:
    """The secrets as the files are now; the ones in use where they can't be read."""
    try:
        found = read_secrets(hook.config)
    except (OSError, UnicodeDecodeError, FastrelayError):
        return hook.poster.secrets
    former = hook.poster.secrets.key
    if found.key is not None and former is not None and found.key.private_numbers() == former.private_numbers():
        found.key = former
    return found
