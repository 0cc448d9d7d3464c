"""The control commands as one worker answers them; the supervisor asks all workers and merges (merge.py)."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from fastrelay.admin.send import send_test_message
from fastrelay.admin.view import Viewer
from fastrelay.config.schema import from_builtins
from fastrelay.errors import FastrelayError
from fastrelay.ingest.inject import inject
from fastrelay.limits.explain import explain
from fastrelay.schedule.places import DNS, IN_FLIGHT, LOADING, READY, RETRY, UNPLACED
from fastrelay.schedule.state import REMOVED
from fastrelay.schedule.suspension import Selector
from fastrelay.tls.sts_cache import kept_of

if TYPE_CHECKING:
    from fastrelay.app import App

SLICE_MESSAGES = 5_000  # looked at before the loop gets its turn
SLICE_ENDED = 500
LISTED_AT_MOST = 10_000

# A selected recipient across a wait: its number in the index (used again once it is done), spool, message id, position.
Key = tuple[int, int, int, int]


class CommandError(FastrelayError):
    """A request that can't be answered, in words."""


class Commands:
    """One method a command; names as in the control protocol."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._viewer = Viewer(app)

    async def handle(self, command: str, arguments: dict[str, Any]) -> Any:
        """Raises CommandError and ValueError in words for the operator."""
        method = getattr(self, "on_" + command.replace(".", "_"), None)
        if method is None:
            raise CommandError(f"unknown command {command!r}")
        result = method(**arguments)
        return await result if asyncio.iscoroutine(result) else result

    @staticmethod
    def on_ping() -> dict[str, Any]:
        """The loop turns."""
        return {}

    # -- selecting ----------------------------------------------------------------------------------------------------

    async def _matching(self, selectors: dict[str, Any], place: int = -1) -> list[Key]:
        """The queued recipients that match."""
        app = self._app
        arguments = Selector.of(selectors).arguments(app.index, app.source_numbers, app.clock.monotonic())
        if arguments is None:
            return []
        start: int | None = 0
        found: list[Key] = []
        while start is not None:
            start, some = app.index.select(start, SLICE_MESSAGES, place=place, **arguments)
            found += [self._key(r) for r in some]
            await asyncio.sleep(0)
        return found

    def _key(self, r: int) -> Key:
        index = self._app.index
        m, number, *_ = index.recipient_info(r)
        msgid, _, _, _, _, _, _, spool, _ = index.message_info(m)
        return r, spool, msgid, number

    def _still(self, key: Key) -> tuple[int, Any, int] | None:
        """(message, Domain, place) of a recipient that was selected, or None: it is done, and its number another's."""
        r, spool, msgid, number = key
        index = self._app.index
        m, current, domain, place, *_ = index.recipient_info(r)
        info = index.message_info(m)
        if info is None or (info[0], info[7], current) != (msgid, spool, number):
            return None
        return m, domain, place

    def _find(self, id: str) -> int:
        """The message of an id as people see it."""
        app = self._app
        tag, _, number = id.partition("-")
        for spool, own in enumerate(app.engine.tags):
            if own.decode() == tag:
                try:
                    found = app.index.find(int(number, 16), spool)
                except (ValueError, OverflowError):
                    break
                if found is not None:
                    return int(found)
        raise CommandError(f"no such message in the queue: {id}. It is done (see the event log) or was never here")

    def _recipients(self, ids: list[str]) -> list[Key]:
        """The queued recipients of messages by id; those that another worker has are passed over."""
        found: list[Key] = []
        for id in ids:
            try:
                found += [self._key(r) for r in self._app.index.recipients_of(self._find(id))]
            except CommandError:
                continue
        return found

    # -- looking ------------------------------------------------------------------------------------------------------

    def on_queue_summary(self) -> dict[str, Any]:
        return self._viewer.summary()

    async def on_queue_list(self, limit: int = 100, **selectors: Any) -> dict[str, Any]:
        found = await self._matching(selectors)
        messages = {(spool, msgid): key for key in reversed(found) for _, spool, msgid, _ in [key]}
        rows: list[dict[str, Any]] = []
        for key in reversed(messages.values()):
            if len(rows) >= min(limit, LISTED_AT_MOST):
                break
            still = self._still(key)
            if still is not None:
                rows.append(self._viewer.row(still[0]))
        return {"messages": rows, "matched": len(messages)}

    def on_queue_show(self, id: str) -> dict[str, Any]:
        return {"message": self._viewer.full(self._find(id))}

    def on_queue_why(self, id: str) -> dict[str, Any]:
        return {"id": id, "why": self._viewer.why(self._find(id))}

    async def on_queue_audit(self) -> dict[str, Any]:
        return await self._viewer.audit()

    def on_queue_quarantine(self) -> dict[str, Any]:
        rows = []
        for m in self._app.quarantine.listed():
            rows.append(self._viewer.row(m) | {"why": self._viewer.state(m).quarantined})
        return {"messages": rows}

    async def on_explain(self, domain: str, pool: str = "", source: str = "") -> dict[str, Any]:
        return await explain(self._app, domain, pool, source)

    def on_status(self) -> dict[str, Any]:
        return self._viewer.status()

    # -- acting -------------------------------------------------------------------------------------------------------

    def on_queue_release(self, id: str) -> dict[str, Any]:
        released = self._app.quarantine.release(self._find(id))
        if not released:
            raise CommandError(f"message {id} is not quarantined")
        return {"released": released}

    async def on_queue_flush(
        self, ids: list[str] | None = None, dry_run: bool = False, all: bool = False, **selectors: Any
    ) -> dict[str, Any]:
        """Retries now: what waits for its next attempt, for DNS, or for a site that backs off."""
        app = self._app
        found = self._recipients(ids) if ids else await self._matching(selectors)
        matched = 0
        asked = set()
        for key in found:
            still = self._still(key)
            if still is None or still[2] not in (RETRY, DNS, READY):
                continue
            matched += 1
            if dry_run:
                continue
            _, domain, place = still
            if place == RETRY:
                app.engine.place_ready(key[0], app.clock.monotonic())
            elif place == DNS and domain.number not in asked:
                asked.add(domain.number)
                domain.wait_until = 0.0
                app.board.unrouted(domain)
            if domain.site is not None:
                domain.site.backoff_until = 0.0
                app.engine.wake(domain.site)
            if matched % SLICE_ENDED == 0:
                await asyncio.sleep(0)
        app.wake_soon()
        return {"matched": matched}

    async def on_queue_remove(
        self, ids: list[str] | None = None, dry_run: bool = False, all: bool = False, **selectors: Any
    ) -> dict[str, Any]:
        """Ends recipients as `removed`. What is being sent at this moment is left alone."""
        app = self._app
        found = self._recipients(ids) if ids else await self._matching(selectors)
        matched = 0
        for key in found:
            still = self._still(key)
            if still is None or still[2] in (UNPLACED, IN_FLIGHT, LOADING):
                continue
            matched += 1
            if not dry_run:
                app.settler.finish(key[0], REMOVED, reason="removed_by_operator")
                if matched % SLICE_ENDED == 0:
                    await asyncio.sleep(0)
        return {"matched": matched}

    def on_suspensions(self, suspensions: list[dict[str, Any]]) -> dict[str, Any]:
        self._app.board.set_suspensions(suspensions)
        return {}

    def on_limits(self, limits: dict[str, Any]) -> dict[str, Any]:
        self._app.set_limits(limits)
        return {}

    def on_mta_sts(self, policies: Any = (), gone: Any = (), failed: Any = ()) -> dict[str, Any]:
        """What the supervisor found out about MTA-STS policies (tls/store.py)."""
        self._app.tls.sts.take(kept_of(policies), gone, failed)
        return {}

    async def on_send(self, to: str, source: str | None = None, trace: bool = False, **more: Any) -> dict[str, Any]:
        return await send_test_message(self._app, to, source=source, reverse_path=more.get("from") or "")

    async def on_inject(
        self, reverse_path: str, recipients: list[str], content: str, tenant: str = "", campaign: str = ""
    ) -> dict[str, Any]:
        """Mail of the supervisor's own; `content` is in base64. Answered once it is on stable storage."""
        to = [one.encode() for one in recipients]
        octets = base64.b64decode(content)
        names = {"tenant": tenant.encode(), "campaign": campaign.encode()}
        return {"id": await inject(self._app, reverse_path.encode(), to, octets, **names)}

    # -- life ---------------------------------------------------------------------------------------------------------

    def on_reload(self, config: dict[str, Any], **more: Any) -> dict[str, Any]:
        self._app.reload(from_builtins(config))
        return {}

    def on_auth_news(self, failed: list[list[Any]], right: list[list[str]]) -> dict[str, Any]:
        self._app.listener.auth.hear(failed, right)
        return {}

    def on_reopen_logs(self) -> dict[str, Any]:
        if self._app.event_log is not None:
            self._app.event_log.reopen()
        return {}

    async def on_drain(self, seconds: float | None = None, **more: Any) -> dict[str, Any]:
        await self._app.drain(seconds if seconds is not None else self._app.config.drain_timeout_seconds)
        return {}
