"""From the spool folders of a worker to its queue, at start (DESIGN section 4, the table of states).

    what was found                                   what happens
    record, no state                                 queued; flagged possible_duplicate if the host lost power since
    record with a state                              as the state says; with a bounce message owed and nobody queued it
                                                     stays until that is paid (fastrelay/outcome/owed.py)
    id in the in-flight file, same boot              exactly its recipients go again, flagged; two crashes in a row
                                                     with the message in hand: quarantined
    in-flight file of another boot                   every recipient already due is flagged (the power mark)
    a record that can't be read                      counted, named in the log, left alone

The power mark of a spool is the first message id after the last power loss, kept in `meta`. A state
remembers the mark it was written under, so a message is flagged once and not for ever. What was in flight stays in its
old slots until the flag is on disk, so a crash during recovery forgets nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay._core.index import variant_of
from fastrelay._core.inflight import SLOTS, Inflight
from fastrelay._core.record import Record
from fastrelay.outcome.owed import MESSAGE_OWES, owes
from fastrelay.schedule.places import QUARANTINED
from fastrelay.schedule.state import POSSIBLE_DUPLICATE, QUEUED, MessageState, decode_state, fresh_state
from fastrelay.spool import SpoolCorrupt, SpoolOptions, open_spool, set_aside

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

SLICE_MESSAGES = 2000  # loaded before the loop gets its turn: under 10 ms
CRASHES_TO_QUARANTINE = 2
SPARE_SEGMENTS = 2
POWER_MARK = b"relay.power_mark"
# The in-flight file, see _core/inflight.pyx
SLOTS_AT, SLOT_BYTES, SLOT_RECIPIENTS = 4096, 32, 11
MOST_SLOTS = 1 << 19
MOST_FAILURES = 10_000  # of a scan that goes on behind the message it failed at
MOST_RECIPIENTS = 1000  # of a transaction, see _core/engine.pyx


class Recovery:
    """Opens spools and loads them in slices."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.loading = 0
        self.unreadable_records = 0

    def open(self, folder: str) -> int:
        """Opens a spool folder and gives its number in the engine. Raises SpoolCorrupt, SpoolFormat, OSError."""
        app = self._app
        path = os.path.join(app.state_dir, "spool", folder)
        spool = self._open_or_set_aside(path, folder == f"w{app.slot}")
        inflight = self._inflight(os.path.join(path, "inflight"))
        number: int = app.engine.add_spool(spool, inflight, spool.tag)
        mark = int.from_bytes(spool.environment.get("meta", POWER_MARK) or b"", "big")
        if inflight.power_lost:
            mark = spool.next_id()
            spool.environment.put("meta", POWER_MARK, mark.to_bytes(8, "big"))
            log.warning(
                "%s: the host lost power; mail that was due is flagged possible_duplicate when it is sent", path
            )
        app.power_marks.append(mark)
        suspects = dict(inflight.list_all())
        if not suspects:
            inflight.clear_old()
        app.suspects.append(suspects)
        self.loading += 1
        return number

    def _open_or_set_aside(self, path: str, own: bool) -> Any:
        """A worker whose own spool is damaged sets it aside, says so, and goes on with an empty one."""
        try:
            return self._open_spool(path)
        except SpoolCorrupt as error:
            if not own:
                raise
            aside = set_aside(path, error.problem, now=self._app.clock.wall())
            self._app.count_error("spool")
            log.error(
                "the spool %s is damaged (%s). It was set aside as %s, with instructions in README.txt there; mail "
                "that was queued in it is not sent until you act. This worker goes on with an empty spool",
                path, error.problem, aside,
            )  # fmt: skip
            return self._open_spool(path)

    def _open_spool(self, path: str) -> Any:
        app = self._app
        spool_config = app.config.spool
        return open_spool(
            path,
            loop=asyncio.get_running_loop(),
            on_commit=app.engine.on_commit,
            options=SpoolOptions(
                segment_bytes=spool_config.segment_size_bytes,
                map_bytes=spool_config.map_size_bytes,
                reserve_bytes=spool_config.reserve_bytes,
                ballast=os.path.join(app.state_dir, "ballast"),
                ballast_bytes=spool_config.ballast_bytes,
                compact_below=spool_config.compact_below_share,
                spare_segments=SPARE_SEGMENTS,
            ),
        )

    def _inflight(self, path: str) -> Inflight:
        """The in-flight file, with room for a transaction on every connection and as many that wait for their commit;
        never smaller than it was, for its slots may tell of a crash."""
        app = self._app
        a_transaction = -(-min(app.config.delivery.recipients_per_transaction, MOST_RECIPIENTS) // SLOT_RECIPIENTS)
        slots = max(SLOTS, min(2 * app.connection_limit * a_transaction, MOST_SLOTS))
        with contextlib.suppress(FileNotFoundError):
            slots = max(slots, (os.path.getsize(path) - SLOTS_AT) // SLOT_BYTES)
        return Inflight(path, boot_id=app.clock.boot_id(), slots=slots)

    async def load(self, number: int) -> None:
        """Fills the index from a spool, in slices between which mail already flows."""
        app = self._app
        scan = app.engine.spools[number].scan()
        suspects = app.suspects[number]
        try:
            more, failures = True, 0
            while more:
                now = app.clock.monotonic()
                try:
                    more = app.engine.load_slice(scan, number, SLICE_MESSAGES, suspects, app.power_marks[number], now)
                except Exception:
                    log.exception("a message could not be loaded from the spool; it is left there. Please report this")
                    app.count_error("spool")
                    self.unreadable_records += 1
                    failures += 1
                    more = failures < MOST_FAILURES
                app.engine.wake_dirty(now)
                await asyncio.sleep(0)
        finally:
            scan.close()
        self._forget_old_slots(number)
        self.loading -= 1

    def _forget_old_slots(self, number: int) -> None:
        """Every message that was in flight is flagged by now, or was settled; once that is on disk, so are they."""
        if not self._app.suspects[number]:
            return
        self._app.suspects[number] = {}
        inflight = self._app.engine.inflights[number]

        def on_disk(error: Exception | None) -> None:
            if error is None:
                inflight.clear_old()

        self._app.engine.spools[number].put_meta(b"suspects_flagged", b"1", on_disk)

    def load_one(
        self,
        spool: int,
        msgid: int,
        raw: bytes,
        state_raw: bytes | None,
        doubtful: list[int] | None,
        accepted_at_ms: int,
    ) -> None:
        """A message with a state, or one that was in flight."""
        app = self._app
        try:
            record = Record(raw)
            addresses = record.recipients()
            state = decode_state(state_raw) if state_raw is not None else fresh_state(record.count)
            if len(state.recipients) != len(addresses):
                raise ValueError("its state has another number of recipients")
        except (ValueError, msgspec.MsgspecError):
            app.engine.cold.bad_record(spool, msgid)
            return
        mark = app.power_marks[spool]
        if doubtful is not None and not any(self._queued(state, number) for number in doubtful):
            doubtful = None  # all of it was settled: only the slot had no time to be cleared
        changed = app.owed.found(spool, msgid, state)
        power_lost = msgid < mark and state.power_mark < mark
        if doubtful is not None:
            state.crashes += 1
            changed = True
            if state.crashes >= CRASHES_TO_QUARANTINE and not state.quarantined:
                state.quarantined = f"in hand at {state.crashes} crashes in a row"
                log.error(
                    "message %s was in hand at %d crashes in a row: quarantined. See fastrelay queue quarantine list",
                    app.engine.message_id(msgid, spool), state.crashes,
                )  # fmt: skip
        wall_ms, now_ms = int(app.clock.wall() * 1000), int(app.clock.monotonic() * 1000)
        queued = []
        variant = variant_of(record.flags)
        for number, one in enumerate(state.recipients):
            if one.status != QUEUED:
                continue
            if (doubtful is not None and number in doubtful) or (power_lost and one.due_ms <= wall_ms):
                one.flags |= POSSIBLE_DUPLICATE
            address = addresses[number][0]
            name = address[address.rfind(b"@") + 1 :].lower()
            domain = app.board.domain_for(name, record.pool, variant)
            queued.append((number, domain.name if domain is not None else b"invalid"))
        if not queued and owes(state):
            if changed:
                app.settler.states.put(spool, msgid, state)
            return
        if not queued and changed:  # its bounce message is on its way
            app.engine.spools[spool].delete_message(msgid, None)
            return
        if not queued:
            log.error("message %s has no queued recipient left; deleted", app.engine.message_id(msgid, spool))
            app.engine.spools[spool].delete_message(msgid, None)
            return
        index = app.index
        campaign = index.name_number(record.campaign) if record.campaign else 0
        tenant = index.name_number(record.tenant) if record.tenant else 0
        size = record.length + len(record.prefix)
        m, recipients = index.py_add(
            msgid, accepted_at_ms, size, queued, campaign, tenant, record.priority, spool, record.expire_seconds,
            record.pool, variant, record.flags,
        )  # fmt: skip
        index.set_recipients(m, record.count)
        if owes(state):
            index.set_message_flag(m, MESSAGE_OWES, True)
        for (number, _), r in zip(queued, recipients, strict=True):
            due_ms = max(state.recipients[number].due_ms, record.not_before_ms)
            self._place(r, state.recipients[number], due_ms, state.quarantined, wall_ms, now_ms)
        if state.quarantined:
            app.quarantine.count(m)
        if changed:
            app.settler.states.put(spool, msgid, state)

    @staticmethod
    def _queued(state: MessageState, number: int) -> bool:
        return number < len(state.recipients) and state.recipients[number].status == QUEUED

    def _place(self, r: int, one: Any, due_ms: int, quarantined: str, wall_ms: int, now_ms: int) -> None:
        app = self._app
        index = app.index
        index.set_attempts(r, one.attempts)
        if one.flags & POSSIBLE_DUPLICATE:
            index.flag_possible_duplicate(r, True)
        if one.source in app.source_numbers:
            index.set_source(r, app.source_numbers[one.source] + 1)
        if quarantined:
            index.py_place(r, QUARANTINED)
            return
        wait_ms = due_ms - wall_ms
        if one.attempts:  # a clock that was set back holds no retry for ever
            wait_ms = min(wait_ms, int(app.config.retry.max_seconds * 1500))
        if wait_ms > 0:
            index.py_defer(r, now_ms + wait_ms)
        else:
            app.engine.place_ready(r, now_ms / 1000)
