"""Settlement of every transaction that is not a plain delivery to all of its recipients.

In one batch of the spool: the new state (or the deletion) of the message, what is owed to its sender (owed.py), the
counters and the events; then the timers. The plain case is in the engine (_core/engine.pyx), in the same order.

Crash argument: until the batch is committed the in-flight slots of the transaction stay set, so whatever the MX host
may have taken goes again flagged possible_duplicate; after it, the state on disk has the outcome. A recipient that is
due again is put into the wheel before the commit: if the commit fails, the worker starts no transaction until it
succeeds (settle_blocked), so nothing acts on an outcome that is not on disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastrelay._core.transaction import ErrorKind, Stage
from fastrelay.feedback.classes import Classified, ConfiguredClasses
from fastrelay.limits.reactions import Reactions, retry_seconds
from fastrelay.outcome.classify import (
    AGAIN,
    Verdict,
    class_fields,
    enhanced_status,
    given_up,
    judge_error,
    judge_reply,
    too_many_recipients,
)
from fastrelay.outcome.owed import MESSAGE_OWES, OWED, owes
from fastrelay.schedule.places import IN_FLIGHT, QUARANTINED
from fastrelay.schedule.retry import retry_delay_seconds
from fastrelay.schedule.state import (
    DELIVERED,
    EXPIRED,
    FAILED,
    FLAG_VERP,
    POSSIBLE_DUPLICATE,
    QUEUED,
    REMOVED,
    REPLY_KEPT_CHARACTERS,
    SUPPRESSED,
    MessageState,
    RecipientState,
    decode_state,
    fresh_state,
)

if TYPE_CHECKING:
    from fastrelay.app import App

PREFERS_SOURCE_SECONDS = 86400  # greylisting wants the same address again, but not for ever

ERROR_WORDS = {int(kind): kind.name.removeprefix("ERROR_").lower() for kind in ErrorKind}
STAGE_WORDS = {int(stage): stage.name.removeprefix("STAGE_").lower() for stage in Stage}
COUNTERS = {DELIVERED: 1, FAILED: 2, EXPIRED: 3, SUPPRESSED: 4, REMOVED: 5}
EVENT_NAMES = {
    DELIVERED: "delivered", FAILED: "failed", EXPIRED: "expired", SUPPRESSED: "suppressed", REMOVED: "removed",
}  # fmt: skip


class States:
    """States of messages that are changing: read from the spool once, kept until the last change is on disk."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._kept: dict[tuple[int, int], tuple[MessageState, list[int]]] = {}

    def get(self, spool: int, msgid: int, recipients: int) -> MessageState:
        """The newest state, committed or not."""
        kept = self._kept.get((spool, msgid))
        if kept is not None:
            return kept[0]
        raw = self._app.engine.spools[spool].get_state(msgid)
        return fresh_state(recipients) if raw is None else decode_state(raw)

    def put(
        self,
        spool: int,
        msgid: int,
        state: MessageState,
        delivery: Any = None,
        on_disk: Callable[[], object] | None = None,
    ) -> None:
        """Writes a state with the next batch; once it is on disk `delivery` is released and `on_disk` called."""
        state.power_mark = self._app.power_marks[spool]
        key = (spool, msgid)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (state, [0])
        kept[1][0] += 1

        def written(error: Exception | None) -> None:
            kept[1][0] -= 1
            if kept[1][0] == 0 and self._kept.get(key) is kept:
                del self._kept[key]
            if delivery is not None:
                self._app.engine.released(delivery)
            if on_disk is not None:
                on_disk()

        self._app.engine.spools[spool].put_state(msgid, state.encode(), written)

    def forget(self, spool: int, msgid: int) -> None:
        """The message is gone."""
        self._kept.pop((spool, msgid), None)


class Settler:
    """Turns transactions and operators' commands into outcomes."""

    def __init__(self, app: App, rng: random.Random | None = None) -> None:
        self._app = app
        self._rng = rng or random.Random()
        self.states = States(app)
        self.reactions = Reactions(app)
        self.classes = ConfiguredClasses(lambda: app.config)

    # -- after a transaction --------------------------------------------------------------------------------------

    def settle(self, delivery: Any, session: Any, now: float) -> None:
        """Every recipient of a delivery gets its verdict, in one batch."""
        verdicts = self._verdicts(delivery.transaction, session)
        self._react(verdicts, session)
        self.apply(delivery, verdicts, session, now)

    def _react(self, verdicts: list[Verdict], session: Any) -> None:
        """Back-off rules that replies of a transaction fired, each once for all of its recipients."""
        fired: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            if verdict.rule is not None:
                fired.setdefault(verdict.rule.name, []).append(verdict)
        for group in fired.values():
            first = group[0]
            assert first.rule is not None
            text = first.reply[4:].encode("utf-8", "backslashreplace")
            self.reactions.fired(
                first.rule, session.source_name, session.site, first.code, first.enhanced, text, len(group)
            )

    def _verdicts(self, tx: Any, session: Any) -> list[Verdict]:
        if session.pool.trouble.excuses(session, tx):
            return [AGAIN] * len(tx.recipients)
        verdicts = []
        accepted = 0
        for i in range(len(tx.recipients)):
            reply = tx.reply_for(i)
            own = tx.recipient_replies[i] if tx.recipient_replies else None
            if reply is own and own is not None and too_many_recipients(own.code, own.text, accepted):
                verdicts.append(AGAIN)
                continue
            if own is not None and own.code // 100 == 2:
                accepted += 1
            if reply is not None:
                stage = "mail" if reply is tx.mail_reply else "rcpt" if reply is own else STAGE_WORDS[tx.stage]
                rule = said = None
                if reply.code >= 400:
                    enhanced = enhanced_status(reply.code, reply.text)
                    said = self.classes.classify(
                        reply.code,
                        enhanced,
                        reply.text,
                        session.site.provider,
                        tx.recipients[i] if reply is own else b"",
                    )
                    rule = self.reactions.rule_for(session.site, reply.code, enhanced, reply.text, said)
                verdicts.append(judge_reply(reply.code, reply.text, reply.text_for_log(), stage, rule, said))
            else:
                verdicts.append(
                    judge_error(
                        ERROR_WORDS[tx.error_kind],
                        tx.error_status or "4.4.2",
                        tx.error or "connection lost",
                        may_have_arrived=tx.may_have_arrived(i),
                        # The transaction at hand is counted by now.
                        reused=session.client.transactions_done > 1 and tx.mail_reply is None,
                    )
                )
        return verdicts

    def apply(self, delivery: Any, verdicts: list[Verdict], session: Any, now: float) -> None:
        """Outcome, events and timers for the recipients of a delivery. `session` names the attempt's far side."""
        index = self._app.engine.index
        again = [r for r, verdict in zip(delivery.recipients, verdicts, strict=True) if verdict.kind == "again"]
        rest = [(r, v) for r, v in zip(delivery.recipients, verdicts, strict=True) if v.kind != "again"]
        if rest:
            _, _, queued, total, *_ = index.message_info(delivery.message)
            state = self.states.get(delivery.spool, delivery.msgid, total)
            final = 0
            delays: dict[int, float] = {}  # recipients of one attempt are due together, and go in one transaction again
            for r, verdict in rest:
                final += self._settle_one(delivery, r, verdict, state.recipients, session, now, delays)
            state.crashes = 0
            self._write(delivery, state, gone=final == queued)
        else:
            self._app.engine.released(delivery)
        site = session.site
        held = bool(again) and self._app.quarantine.held(delivery.message)
        for r in reversed(again):
            if held:
                index.py_place(r, QUARANTINED)
            else:
                index.py_push(site.common, r, True)
        if again:
            self._app.engine.wake(site)
        for r, verdict in rest:
            if verdict.kind != "deferred":
                index.py_remove(r)
            self._app.count_outcome(verdict.kind, site.provider, session.source_name)
            self._app.count_refusal_class(verdict.kind, verdict.said, site.provider)

    def unsettled(self, delivery: Any) -> None:
        """A bug of ours kept a transaction from being settled: its recipients are held, so that none is sent twice."""
        index = self._app.engine.index
        info = index.message_info(delivery.message)
        if info is None or info[0] != delivery.msgid:
            return
        for r in delivery.recipients:
            m, _, _, place, *_ = index.recipient_info(r)
            if m == delivery.message and place == IN_FLIGHT:
                index.flag_possible_duplicate(r, delivery.transaction.body_complete)
                index.py_place(r, QUARANTINED)
        self._app.quarantine.unsettled(delivery)

    def _settle_one(
        self,
        delivery: Any,
        r: int,
        verdict: Verdict,
        states: list[RecipientState],
        session: Any,
        now: float,
        delays: dict[int, float],
    ) -> bool:
        """State and event of one recipient, and its timer where it is deferred. True: it is final."""
        app = self._app
        _, number, domain, _, _, _, flags = app.engine.index.recipient_info(r)
        state = states[number]
        attempts = app.engine.index.count_attempt(r)
        state.attempts = attempts
        state.source = session.source_name
        state.site = session.site.key
        state.reply = verdict.reply[:REPLY_KEPT_CHARACTERS]
        state.reason = verdict.reason
        state.host, state.enhanced = session.host, verdict.enhanced
        state.tried_ms = int(app.clock.wall() * 1000)
        if verdict.possible_duplicate:
            flags |= POSSIBLE_DUPLICATE
            app.engine.index.flag_possible_duplicate(r, True)
        state.flags = flags
        fields = self._fields(delivery, number, domain, attempts, now)
        fields |= {
            "source": session.source_name, "site": session.site.key, "provider": session.site.provider,
            "mx_host": session.host, "mx_address": session.address, "code": verdict.code or None,
            "enhanced": verdict.enhanced or None, "reply": state.reply, "reason": verdict.reason or None,
        }  # fmt: skip
        if session.tls is not None:
            fields |= session.tls.fields
        if flags & POSSIBLE_DUPLICATE:
            fields["possible_duplicate"] = True
        if verdict.rule is not None:
            fields["rule"] = verdict.rule.name
        fields |= class_fields(verdict.said)
        if verdict.kind == "deferred":
            delay = delays.setdefault(attempts, retry_delay_seconds(app.config.retry, attempts, self._rng))
            delay = retry_seconds(delay, verdict.rule)
            state.status = QUEUED
            state.due_ms = int((app.clock.wall() + delay) * 1000)
            young = fields["queued_seconds"] < PREFERS_SOURCE_SECONDS
            stays = young and not (verdict.rule is not None and verdict.rule.actions.switch_source)
            app.engine.index.set_source(r, session.source + 1 if stays else 0)
            if app.quarantine.held(delivery.message):
                app.engine.index.py_place(r, QUARANTINED)
            else:
                app.engine.index.py_defer(r, int((now + delay) * 1000))
            fields["next_attempt_seconds"] = round(delay, 3)
        else:
            state.status = DELIVERED if verdict.kind == "delivered" else FAILED
            app.owed.note(delivery.record, number, state, peer_reports=session.client.capabilities.dsn)
            app.engine.count(delivery.spool, COUNTERS[state.status], 1)
        if delivery.record.flags & FLAG_VERP:
            fields["mail_from"] = text(delivery.transaction.reverse_path)
        present = {key: value for key, value in fields.items() if value is not None}
        app.engine.event(verdict.kind, delivery.spool, delivery.msgid, present)
        return verdict.kind != "deferred"

    def _fields(self, delivery: Any, number: int, domain: Any, attempt: int, now: float) -> dict[str, Any]:
        info = self._app.engine.index.message_info(delivery.message)
        address = delivery.record.recipient(number)[0]
        fields: dict[str, Any] = {
            "reverse_path": text(delivery.record.reverse_path),
            "recipient": text(address),
            "domain": text(domain.name),
            "attempt": attempt,
            "queued_seconds": round(max(0.0, now - info[1] / 1000), 3),
        }
        if info[5]:
            fields["campaign"] = text(info[5])
        if info[6]:
            fields["tenant"] = text(info[6])
        return fields

    def _write(self, delivery: Any, state: MessageState, *, gone: bool) -> None:
        """The message's new state, or its deletion where no recipient is left."""
        self._conclude(delivery.spool, delivery.msgid, delivery.message, state, delivery, gone=gone)
        if delivery.spool == 0:
            self._app.engine.forget_hot(delivery.msgid)

    def _conclude(
        self, spool: int, msgid: int, m: int, state: MessageState, delivery: Any = None, *, gone: bool
    ) -> None:
        """A message that nobody is queued of (`gone`) is deleted, unless it owes a bounce message."""
        app = self._app
        owing = owes(state)
        if gone:
            app.quarantine.gone(m)
        elif owing:
            app.index.set_message_flag(m, MESSAGE_OWES, True)
        if gone and not owing:
            app.engine.spools[spool].delete_message(msgid, delivery)
            self.states.forget(spool, msgid)
            return
        self.states.put(spool, msgid, state, delivery)
        if owing:
            app.owed.add(spool, msgid)

    def settle_part(self, delivery: Any, last: bool) -> None:
        """Recipients of a message were delivered (their events are written), and others are still queued, or (`last`)
        there may be a report to be sent."""
        engine = self._app.engine
        _, _, _, total, *_ = engine.index.message_info(delivery.message)
        state = self.states.get(delivery.spool, delivery.msgid, total)
        for r in delivery.recipients:
            number = engine.index.recipient_info(r)[1]
            mine = state.recipients[number]
            mine.status = DELIVERED
            mine.attempts += 1
            mine.source, mine.site = delivery.session.source_name, delivery.session.site.key
            self._note_delivered(delivery, number, mine)
        state.crashes = 0
        self._conclude(delivery.spool, delivery.msgid, delivery.message, state, delivery, gone=last)
        if last and delivery.spool == 0:
            engine.forget_hot(delivery.msgid)

    def _note_delivered(self, delivery: Any, number: int, mine: RecipientState) -> None:
        """Whether a report of it is owed, and what it would say."""
        session, final = delivery.session, delivery.transaction.final_reply
        self._app.owed.note(delivery.record, number, mine, peer_reports=session.client.capabilities.dsn)
        if mine.report & OWED:
            mine.host, mine.tried_ms = session.host, int(self._app.clock.wall() * 1000)
            if final is not None:
                mine.reply, mine.enhanced = (
                    final.text_for_log()[:REPLY_KEPT_CHARACTERS],
                    enhanced_status(final.code, final.text),
                )

    # -- without a transaction ------------------------------------------------------------------------------------

    def finish(
        self, r: int, status: int, *, reason: str, reply: str = "", code: int = 0, enhanced: str = "",
        more: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Ends one queued recipient without sending: failed by its route, expired, suppressed, removed or discarded.
        `more`: fields of its event."""
        app = self._app
        engine = app.engine
        m, number, domain, _, attempts, _, flags = engine.index.recipient_info(r)
        msgid, _, queued, total, _, _, _, spool, _ = engine.index.message_info(m)
        record = self._record(spool, msgid)
        state = self.states.get(spool, msgid, total)
        mine = state.recipients[number]
        fields: dict[str, Any] = {"domain": text(domain.name), "reason": reason}
        if record is not None:
            held = Held(spool, msgid, m, record)
            fields = self._fields(held, number, domain, attempts, app.clock.monotonic()) | fields
        provider = domain.site.provider if domain.site is not None else "other"
        fields |= {"provider": provider, "code": code or None, "enhanced": enhanced or None, **(more or {})}
        fields["reply"] = reply or mine.reply or None
        fields["source"] = mine.source or None
        fields["site"] = mine.site or None
        if not code and mine.reply[:3].isdigit():  # what the last attempt was answered
            fields["code"] = int(mine.reply[:3])
            fields["enhanced"] = enhanced_status(fields["code"], mine.reply[4:].encode()) or None
        said = self._said_of_ended(status, fields)
        fields |= class_fields(said)
        if flags & POSSIBLE_DUPLICATE:
            fields["possible_duplicate"] = True
        mine.status = status
        if reply:  # ours
            mine.reply, mine.enhanced, mine.host = reply[:REPLY_KEPT_CHARACTERS], enhanced, ""
        if record is not None:
            app.owed.note(record, number, mine)
        engine.count(spool, COUNTERS[status], 1)
        engine.event(EVENT_NAMES[status], spool, msgid, {k: v for k, v in fields.items() if v is not None})
        app.count_outcome(EVENT_NAMES[status], provider, mine.source)
        app.count_refusal_class(EVENT_NAMES[status], said, provider)
        self._conclude(spool, msgid, m, state, gone=queued == 1)
        if queued == 1 and spool == 0:
            engine.forget_hot(msgid)
        engine.index.py_remove(r)

    def _said_of_ended(self, status: int, fields: dict[str, Any]) -> Classified | None:
        """The class of a recipient that failed by its route, or expired; None for what an operator did."""
        if status not in (FAILED, EXPIRED):
            return None
        said = None
        if fields["code"]:
            reply = fields["reply"] or ""
            words = reply[4:] if reply[:3].isdigit() else reply
            said = self.classes.classify(
                fields["code"], fields["enhanced"] or "", words.encode("utf-8", "backslashreplace"), fields["provider"]
            )
        return said if status == FAILED else given_up(said)

    def _record(self, spool: int, msgid: int) -> Any:
        """The record, or None where it is gone or damaged: an operator can end such a message all the same."""
        try:
            return self._app.record(spool, msgid)
        except ValueError:
            return None


class Held:
    """A message in hand that is in no transaction; what `_fields` needs to know of it."""

    def __init__(self, spool: int, msgid: int, message: int, record: Any) -> None:
        self.spool = spool
        self.msgid = msgid
        self.message = message
        self.record = record


def text(octets: bytes) -> str:
    """Octets of an address or name for JSON."""
    return octets.decode("utf-8", "backslashreplace")
