"""Mail that waits for its DKIM key (dkim.missing_key: wait), and how it is signed once the key is back.

What is on disk of such a message is its record, with FLAG_UNSIGNED and a pending block (fastrelay/ingest/pending.py)
in place of the signature. It never changes: the signature is made anew for each attempt, at the moment it is pulled,
and is nowhere but in that transaction. So there is nothing to get right when a process dies:

    accepted, key missing           the record says unsigned; at a start its recipients are looked at like here
    key is back, not yet looked at  the same: a start looks at every message with the flag before it may be ready
    signed, body at the socket      as any transaction: in-flight file, possible_duplicate; the next attempt signs again
    delivered, settled              the record is gone

No way leads from the flag to a socket but through `sign`, which gives a prefix with a signature, or None; None puts
the recipients at UNSIGNED. Without a signature such mail leaves only by the configuration: dkim.missing_key is
`unsigned`, or no key is configured for its From domain any more.

Known faults: a retry of such a message is signed again, with another time in the signature than the attempt before.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.dkim.keys import NoKey
from fastrelay.dkim.sign import Signer
from fastrelay.ingest.pending import Pending, split
from fastrelay.schedule.places import UNSIGNED
from fastrelay.spool import SpoolError

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

SLICE_MESSAGES = 2000
SAID_AGAIN_SECONDS = 600.0
MOST_SAID = 1000


class Unsigned:
    """Who waits, who may go, and the signature at the last moment."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._signer: Signer | None = None
        self._other: Signer | None = None  # hashes bodies in the other form
        self._missing_key = "wait"
        self._said: dict[str, float] = {}
        self._releasing = False
        self._again = False

    def configure(self, signer: Signer | None, missing_key: str) -> None:
        """The keys may be others now."""
        self._signer = signer
        self._other = None
        self._missing_key = missing_key

    # -- what the engine asks -----------------------------------------------------------------------------------------

    def keyless(self, m: int) -> bool:
        """Whether a message with FLAG_UNSIGNED has to wait. It never fails: what can't be told, waits."""
        app = self._app
        msgid, _, _, _, _, _, _, spool, _ = app.index.message_info(m)
        try:
            record = app.record(spool, msgid)
            if record is None:
                return False  # `pull` finds the same, and says what there is to say
            words = self.missing(record)
        except (ValueError, SpoolError):
            return False  # damaged: `pull` quarantines it
        except Exception as error:
            app.engine.cold.failed("looking for a message's key", error)
            words = "?"
        if words and spool == 0:
            app.engine.forget_hot(msgid)
        return bool(words)

    def missing(self, record: Any) -> str:
        """Why a message can't be signed now; "" where it can, or need not be."""
        if self._signer is None or self._missing_key == "unsigned":
            return ""
        return self._signer.missing(split(record.prefix)[0].from_domain or None, record.tenant)

    def sign(self, record: Any, content: bytes | None, spool: int, msgid: int) -> bytes | None:
        """The prefix to send, with its signature; None: there is no key. ValueError, OSError, SpoolError where the
        message can't be read."""
        pending, prefix = split(record.prefix)
        header = self._header(pending, record, content, spool, msgid)
        added = prefix[len(prefix) - pending.added_octets :]
        signer = self._signer_for(pending)
        signature = b""
        try:
            if signer is not None:
                wall, domain = self._app.clock.wall(), pending.from_domain or None
                signature = signer.sign(added + header, pending.body_hash, domain, record.tenant, wall)
        except NoKey as error:
            if self._missing_key != "unsigned":
                self.waits(str(error))
                return None
        if not signature:
            name = pending.from_domain.decode("ascii", "backslashreplace")
            self._say("mail of %s that waited for its DKIM key leaves unsigned, as the configuration has it now", name)
        return signature + prefix

    def _header(self, pending: Pending, record: Any, content: bytes | None, spool: int, msgid: int) -> bytes:
        if content is not None:
            return content[: pending.header_octets]
        descriptor, offset, _ = self._app.engine.spools[spool].open_content(record.raw, msgid)
        try:
            header = os.pread(descriptor, pending.header_octets, offset)
        finally:
            os.close(descriptor)
        if len(header) != pending.header_octets:
            raise ValueError("the content ends within its header")
        return header

    def _signer_for(self, pending: Pending) -> Signer | None:
        """One that hashes bodies as this one was hashed: canonicalization may have changed since."""
        signer = self._signer
        if signer is None or signer.relaxed_body == pending.relaxed_body:
            return signer
        if self._other is None:
            config = self._app.config.dkim
            header = config.canonicalization.partition("/")[0]
            body = "relaxed" if pending.relaxed_body else "simple"
            self._other = Signer(signer.keyring, msgspec.structs.replace(config, canonicalization=f"{header}/{body}"))
        return self._other

    # -- when keys change ----------------------------------------------------------------------------------------------

    def keys_changed(self) -> None:
        """Looks at all who wait, a slice at a time."""
        if self._releasing:
            self._again = True
        else:
            self._releasing = True
            self._app._spawn(self._release())

    async def _release(self) -> None:
        app = self._app
        try:
            start: int | None = 0
            released = 0
            while start is not None:
                start, found = app.index.select(start, SLICE_MESSAGES, place=UNSIGNED)
                for r in found:
                    if not self.keyless(app.index.recipient_info(r)[0]):
                        app.engine.place_ready(r, app.clock.monotonic())
                        released += 1
                app.wake_soon()
                await asyncio.sleep(0)
                if start is None and self._again:
                    self._again, start = False, 0
            if released:
                log.info("%d recipients waited for a DKIM key and can be sent to now", released)
        finally:
            self._releasing = False

    # -- words --------------------------------------------------------------------------------------------------------

    def waits(self, words: str) -> None:
        """Mail waits for a key."""
        self._say("mail waits for its DKIM signature: %s. It is signed and sent once the key is back", words)

    def _say(self, message: str, words: str) -> None:
        """The same words once in a while only."""
        now = self._app.clock.monotonic()
        if now - self._said.get(words, -SAID_AGAIN_SECONDS) < SAID_AGAIN_SECONDS:
            return
        if len(self._said) > MOST_SAID:
            self._said.clear()
        self._said[words] = now
        log.error(message, words)

    def why(self, m: int) -> str:
        """For people: what a message waits for."""
        msgid, _, _, _, _, _, _, spool, _ = self._app.index.message_info(m)
        try:
            record = self._app.record(spool, msgid)
            words = self.missing(record) if record is not None else ""
        except ValueError as error:
            return str(error)
        return words or "the key is back; it is about to go on"
