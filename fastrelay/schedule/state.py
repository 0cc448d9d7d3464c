"""The state of a message: what changes while it is being delivered.

It is kept in LMDB beside the record, only for messages that need it: after a first attempt that did not deliver all of
it, for quarantined ones, and for those that owe a bounce message (fastrelay/outcome/owed.py). A message without a
state has all its recipients queued and never tried.

Known faults: none.
"""

from __future__ import annotations

import msgspec

QUEUED, DELIVERED, FAILED, EXPIRED, SUPPRESSED, REMOVED = range(6)
OUTCOMES = ("queued", "delivered", "failed", "expired", "suppressed", "removed")

POSSIBLE_DUPLICATE = 1

# Flags of a record that the cold paths ask for, as in _core/record.pxd
FLAG_UNSIGNED = 16
FLAG_VERP = 32
FLAG_REQUIRETLS = 64
FLAG_TLS_OPTIONAL = 128

REPLY_KEPT_CHARACTERS = 512


class RecipientState(msgspec.Struct, array_like=True, gc=False):
    """One recipient: `due_ms` is milliseconds since the epoch; `source` and `site` are of the last attempt.

    report      what is owed to the sender, and what was told: bits of fastrelay/outcome/owed.py
    host        the MX host that had the last word; "": none
    tried_ms    when, in milliseconds since the epoch; 0: never
    enhanced    the enhanced status code of the last word (RFC 3463), or ""
    """

    status: int = QUEUED
    flags: int = 0
    attempts: int = 0
    due_ms: int = 0
    source: str = ""
    site: str = ""
    reply: str = ""
    reason: str = ""
    report: int = 0
    host: str = ""
    tried_ms: int = 0
    enhanced: str = ""


class MessageState(msgspec.Struct, array_like=True):
    """All recipients of one message, in envelope order.

    quarantined     why it is held until an operator looks at it; empty: it is not
    crashes         how many times in a row the worker died with this message in hand
    power_mark      the spool's power-loss mark when this was written (see fastrelay/schedule/recovery.py)
    paying          id of the bounce message that pays what is owed, while its commit is awaited
    """

    recipients: list[RecipientState]
    quarantined: str = ""
    crashes: int = 0
    power_mark: int = 0
    paying: str = ""

    def encode(self) -> bytes:
        return _encoder.encode(self)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(MessageState)


def decode_state(raw: bytes) -> MessageState:
    """Raises msgspec.DecodeError where the octets are no state."""
    return _decoder.decode(raw)


def fresh_state(recipients: int) -> MessageState:
    """The state of a message that has none yet."""
    return MessageState([RecipientState() for _ in range(recipients)])
