"""What people see of a worker's queue: summary, rows, one message whole, why it waits, the audit."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from fastrelay._core.record import Record
from fastrelay._core.scan import Scan
from fastrelay.ingest.pending import split
from fastrelay.limits.shape import DEFAULT_POOL
from fastrelay.schedule.places import DNS, QUARANTINED, READY, RETRY, SHOWN, SUPPRESSION, SUSPENDED, UNSIGNED
from fastrelay.schedule.state import (
    FLAG_REQUIRETLS,
    FLAG_TLS_OPTIONAL,
    FLAG_UNSIGNED,
    FLAG_VERP,
    OUTCOMES,
    POSSIBLE_DUPLICATE,
    QUEUED,
    MessageState,
    decode_state,
)

if TYPE_CHECKING:
    from fastrelay.app import App

COUNTERS = ("accepted", "delivered", "failed", "expired", "suppressed", "removed")
AUDIT_SLICE = 2000
AUDIT_PAUSE_SECONDS = 0.05
AUDIT_TRIES = 10  # for a quiet moment; under load the difference then shows what moved meanwhile
AUDIT_MOST_MESSAGES = 100_000  # beyond it one try: counting them takes longer than any quiet moment
EVERY_MESSAGE = 2**64 - 1
DOMAINS_SHOWN = 10
LIMITS = ("rate_limit", "warmup_cap", "provider_backoff")
CLASSES = ("bulk", "normal", "transactional")


def shown(octets: bytes) -> str:
    """Octets of an address for people; what is no UTF-8 is escaped."""
    return octets.decode("utf-8", "backslashreplace")


def _asked_of_tls(flags: int) -> str | None:
    """What a message asks of TLS (RFC 8689), by the flags of its record."""
    return "REQUIRETLS" if flags & FLAG_REQUIRETLS else "TLS-Required: No" if flags & FLAG_TLS_OPTIONAL else None


class Viewer:
    """Reads; changes nothing."""

    def __init__(self, app: App) -> None:
        self._app = app

    # -- all ----------------------------------------------------------------------------------------------------------

    def counters(self, spool: Any) -> dict[str, int]:
        """The durable counters of a spool, by name."""
        return {name: spool.counters[name] for name in COUNTERS}

    def summary(self) -> dict[str, Any]:
        app = self._app
        now = app.clock.monotonic()
        total: dict[str, Any] = dict.fromkeys(COUNTERS, 0)
        for spool in app.engine.spools:
            for name, n in self.counters(spool).items():
                total[name] += n
        # By the counters on disk: an outcome counts once it is committed, and until then its recipient is in flight.
        total["queued"] = total["accepted"] - sum(total[name] for name in COUNTERS[1:])
        total["queued_messages"] = app.index.queued_messages
        total["by_reason"] = app.board.by_reason(now)
        settling = total["queued"] - app.index.queued_recipients
        if settling > 0 and not app.recovery.loading:
            total["by_reason"]["in_flight"] = total["by_reason"].get("in_flight", 0) + settling
        total["quarantined"] = total["by_reason"].get("quarantined", 0)
        oldest = app.index.oldest_accepted_ms()
        total["oldest_seconds"] = 0.0 if oldest is None else round(max(0.0, now - oldest / 1000), 1)
        providers: dict[str, int] = {}
        for domain in app.index.domains.values():
            if domain.queued:
                name = domain.site.provider if domain.site is not None else "unknown"
                providers[name] = providers.get(name, 0) + domain.queued
        total["by_provider"] = providers
        total["segments_bytes"] = app.spool_usage()["bytes"]
        total["workers_loading"] = int(app.recovery.loading > 0)
        return total

    def status(self) -> dict[str, Any]:
        app = self._app
        return {
            "slot": app.slot,
            "pid": os.getpid(),
            "smtp_connections": app.listener.load,
            "delivery_connections": len(app.sessions),
            "queued": app.index.queued_recipients,
            "loading": app.recovery.loading > 0,
            "accepting": bool(app.own_spool.accepting),
            "refusal": app.own_spool.refusal,
            "unhealthy": app.own_spool.unhealthy,
            "sites": len(app.board.sites),
            "index_bytes": app.index.memory_bytes(),
            "hot_cache_bytes": app.engine.hot_bytes,
        }

    async def audit(self) -> dict[str, Any]:
        """Counts what every record says and holds it against the counters (promise 2)."""
        app = self._app
        rows = []
        for number, spool in enumerate(app.engine.spools):
            for _ in range(AUDIT_TRIES):
                before = self.counters(spool)
                counted = await self._count_queued(spool)
                after = self.counters(spool)
                difference = after["accepted"] - sum(after[name] for name in COUNTERS[1:]) - counted
                if (before == after and not difference) or app.index.queued_messages > AUDIT_MOST_MESSAGES:
                    break  # nothing moved meanwhile, or too much to wait for a quiet moment
                # A commit is on disk a moment before it is counted; a difference that is one stays.
                await asyncio.sleep(AUDIT_PAUSE_SECONDS)
            ended = sum(after[name] for name in COUNTERS[1:])
            queued = after["accepted"] - ended
            rows.append(
                {
                    "slot": app.slot,
                    "spool": os.path.basename(spool.path),
                    **after,
                    "queued": queued,
                    "queued_counted": counted,
                    "difference": queued - counted,
                    "unreadable_records": app.recovery.unreadable_records if number == 0 else 0,
                }
            )
        return {"ok": all(row["difference"] == 0 for row in rows), "workers": rows}

    async def _count_queued(self, spool: Any) -> int:
        """Queued recipients by the records and states on disk."""
        scan = Scan(spool.environment, EVERY_MESSAGE)
        counted = 0
        try:
            while True:
                scan.renew()
                some = scan.slice(AUDIT_SLICE)
                for _, record, state in some:
                    if state is None:
                        counted += int.from_bytes(record[4:8], "little")
                    else:
                        counted += sum(1 for one in decode_state(state).recipients if one.status == QUEUED)
                if len(some) < AUDIT_SLICE:
                    return counted
                await asyncio.sleep(0)
        finally:
            scan.close()

    # -- one ----------------------------------------------------------------------------------------------------------

    def state(self, m: int) -> MessageState:
        """The newest state of a queued message."""
        msgid, _, _, total, _, _, _, spool, _ = self._app.index.message_info(m)
        return self._app.settler.states.get(spool, msgid, total)

    def row(self, m: int) -> dict[str, Any]:
        """A message as a line of a table."""
        app = self._app
        now = app.clock.monotonic()
        msgid, accepted_at_ms, queued, _, size, campaign, tenant, spool, _ = app.index.message_info(m)
        record = app.record(spool, msgid)
        recipients = app.index.recipients_of(m)
        infos = [app.index.recipient_info(r) for r in recipients]
        waits = [due for r in recipients if (due := app.index.due_in_ms(r, int(now * 1000))) is not None]
        domains = list(dict.fromkeys(shown(info[2].name) for info in infos))
        return {
            "id": app.engine.message_id(msgid, spool),
            "queued": queued,
            "size_bytes": size,
            "age_seconds": round(max(0.0, now - accepted_at_ms / 1000), 1),
            "reverse_path": shown(record.reverse_path) if record is not None else "?",
            "campaign": shown(campaign) or None,
            "tenant": shown(tenant) or None,
            "domains": domains[:DOMAINS_SHOWN],
            "attempts": max((info[4] for info in infos), default=0),
            "next_attempt_seconds": round(min(waits) / 1000, 1) if waits else None,
            "reason": self._reason(recipients[0], infos[0], now) if infos else "in_flight",
        }

    def _reason(self, r: int, info: tuple[Any, ...], now: float) -> str:
        place, attempts = info[3], info[4]
        if place == READY and info[2].site is not None:
            parked = self._app.index.parked_by(r)
            return str(parked[0].reason) if parked else self._app.board.site_reason(info[2].site, now)
        return "not_before" if place == RETRY and not attempts else SHOWN[place]

    def full(self, m: int) -> dict[str, Any]:
        """A message whole."""
        app = self._app
        now = app.clock.monotonic()
        msgid, _, _, _, _, _, _, spool, _ = app.index.message_info(m)
        raw = app.engine.spools[spool].get_record(msgid)
        record = Record(raw) if raw is not None else None
        state = self.state(m)
        queued = {app.index.recipient_info(r)[1]: r for r in app.index.recipients_of(m)}
        recipients = []
        for number, one in enumerate(state.recipients):
            shown_one: dict[str, Any] = {
                "address": shown(record.recipient(number)[0]) if record is not None else "?",
                "state": OUTCOMES[one.status],
                "attempts": one.attempts,
                "last_reply": one.reply or None,
                "source": one.source or None,
                "site": one.site or None,
                "possible_duplicate": bool(one.flags & POSSIBLE_DUPLICATE),
            }
            if record is not None and record.flags & FLAG_VERP:
                path = app.sealing.reverse_path(record, record.recipient(number)[0], spool, msgid)
                shown_one["mail_from"] = shown(path) if path is not None else None
            if number in queued:
                r = queued[number]
                due = app.index.due_in_ms(r, int(now * 1000))
                info = app.index.recipient_info(r)
                shown_one["next_attempt_seconds"] = None if due is None else round(due / 1000, 1)
                shown_one["reason"] = self._reason(r, info, now)
                shown_one["site"] = shown_one["site"] or (info[2].site.key if info[2].site is not None else None)
                shown_one["possible_duplicate"] = bool(info[6] & POSSIBLE_DUPLICATE)
            recipients.append(shown_one)
        told = self.row(m) | {"recipients": recipients, "quarantined": state.quarantined or None}
        told["priority"] = CLASSES[app.index.priority_of(m)]
        told["expires_seconds"] = round(app.engine.expires_in_ms(m, now) / 1000, 1)
        if record is not None:
            told["pool"] = shown(record.pool) or DEFAULT_POOL
            told["trace"] = shown(split(record.prefix)[1] if record.flags & FLAG_UNSIGNED else record.prefix)
            told["tls"] = _asked_of_tls(record.flags)
            told["segment"] = None if record.segment == 0xFFFFFFFF else record.segment
            told["client"] = shown(record.client)
            accepted = time.gmtime(record.accepted_ms / 1000)
            told["accepted"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", accepted)
        return told

    def why(self, m: int) -> list[dict[str, Any]]:
        """For each queued recipient: reason, a sentence, and until when."""
        app = self._app
        now = app.clock.monotonic()
        msgid, _, _, _, _, _, _, spool, _ = app.index.message_info(m)
        record = app.record(spool, msgid)
        state = self.state(m)
        out = []
        for r in app.index.recipients_of(m):
            info = app.index.recipient_info(r)
            reason, detail, until = self._why_one(r, info, state, now)
            address = shown(record.recipient(info[1])[0]) if record is not None else "?"
            out.append({"recipient": address, "reason": reason, "detail": detail, "until_seconds": until})
        return out

    def _why_one(self, r: int, info: tuple[Any, ...], state: MessageState, now: float) -> tuple[str, str, float | None]:
        app = self._app
        domain, place = info[2], info[3]
        one = state.recipients[info[1]]
        if place == RETRY:
            seconds = (app.index.due_in_ms(r, int(now * 1000)) or 0) / 1000
            if not info[4]:
                return "not_before", "it is not to be sent before its time", round(seconds, 1)
            return "retry_backoff", f"deferred {info[4]} times, last: {one.reply or 'no reply'}", round(seconds, 1)
        if place == DNS:
            waits = max(0.0, domain.wait_until - now)
            looked_up = f"the route and the TLS policy of {shown(domain.name)} are being looked up"
            return "dns", domain.wait_detail or looked_up, round(waits, 1)
        if place == SUSPENDED:
            held = app.board.suspension_of(r)
            why = f"held by suspension {held.id}: {held.why or 'no reason given'}" if held else "being resumed"
            return "suspended", why, None
        if place == SUPPRESSION:
            return "suppression", "the suppression list can't be read; see the relay's log", None
        if place == UNSIGNED:
            return "no_dkim_key", app.sealing.unsigned.why(info[0]), None
        if place == QUARANTINED:
            return "quarantined", state.quarantined or "set aside", None
        if place != READY:
            return "in_flight", "being sent at this moment", None
        site = domain.site
        if site is None:
            return "dns", "its route is about to be looked up again", None
        boot_ns = app.clock.boottime_ns()
        parked = app.index.parked_by(r)
        if parked is not None:
            rule, until_ns = parked
            return rule.reason, str(rule.detail), round(max(0.0, (until_ns - boot_ns) / 1e9), 1)
        reason, detail, until = app.board.why_site(site, now)
        if until is None and site.denied_until_ns and reason in LIMITS:
            until = round(max(0.0, (site.denied_until_ns - boot_ns) / 1e9), 1)
        return reason, detail, until
