"""The faults that MX hosts show in the field, as a table: name → script.

A ``Fault`` says what the host does at each stage of a session instead of the usual reply, for how many sessions
it does so (afterwards it is a good host), and what a careful relay makes of it in the end. ``scripted.ScriptedMx``
plays them. A test goes through ``FAULTS`` and holds the relay against ``fates`` and ``repeats``.

Stages: ``greeting EHLO HELO MAIL RCPT DATA BODY FINAL BDAT RSET QUIT IDLE``. BODY is played once ``body_after``
octets of the content were read, FINAL after the final dot or the last chunk (``BDAT LAST`` after the last chunk
only), BDAT after a chunk that is not the last, IDLE right after the reply to a whole message. A stage maps to turns,
one for each time it comes in a session. Once they are used up the host is good again, or, if the fault is played in
every session, the last turn repeats. ``USUAL`` is the usual reply.

Recipients are told apart by their local part: ``good@`` is accepted, ``later@`` and ``refused@`` are what the RCPT
stage of a fault makes of them.

With `tls` the host offers STARTTLS, and there are the stages STARTTLS (its reply), HANDSHAKE (in place of one) and TLS
(when it is done).

Known faults: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastrelay.sim.mx import EXTENSIONS

DELIVERED = frozenset({"delivered"})
FAILED = frozenset({"failed"})
EITHER = DELIVERED | FAILED

EVERY_SESSION = 1 << 30


@dataclass(frozen=True)
class Say:
    """Write these octets; ``paced``: one at a time, with the server's pause between them."""

    text: bytes
    paced: bool = False


@dataclass(frozen=True)
class Close:
    """Close the connection politely (FIN)."""


@dataclass(frozen=True)
class Reset:
    """Close the connection with RST."""


@dataclass(frozen=True)
class Mute:
    """Say nothing more, and read on until the client leaves."""


@dataclass(frozen=True)
class Flood:
    """Write ``chunk`` again and again until the client leaves; ``paced``: with the server's pause between."""

    chunk: bytes
    paced: bool = False


Step = Say | Close | Reset | Mute | Flood
Turn = tuple[Step, ...]
USUAL: Turn = ()


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    row: str  # the row of the fault table, or the rule it belongs to
    play: Mapping[str, tuple[Turn, ...]] = field(default_factory=dict)
    sessions: int = 1  # so many sessions play it, later ones are good
    fates: frozenset[str] = DELIVERED  # what may become of good@ and later@ in the end
    repeats: bool = False  # the message may arrive twice (flagged possible_duplicate)
    taken: bool = False  # the host keeps the message although its reply to it is lost
    slow: bool = False  # ends by a deadline of the client only
    extensions: tuple[bytes, ...] = EXTENSIONS
    size_limit: int = 0  # SIZE, announced when above 0
    recipients: tuple[str, ...] = ("good",)  # local parts to send to
    content_octets: int = 2_000  # a body worth sending for this fault
    body_after: int = 0  # octets of content after which BODY is played
    split: bool = False  # every reply an octet at a time
    batch: bool = False  # replies of a pipelined group in one write
    by_local_part: Mapping[str, Step] = field(default_factory=dict)  # replies to RCPT
    tls: str = ""  # STARTTLS is offered, with a certificate of this kind (certificates.Flaw)
    good_tls: str = ""  # the same, in the sessions that are good
    plain: bool = True  # mail may come in plain
    must: bool = False  # for a relay that must have TLS with this host
    implicit: bool = False  # TLS from the first octet, with the certificate of `tls`
    auth: tuple[bytes, ...] = ()  # mechanisms offered, under TLS where there is any; mail is refused without


def _say(*texts: bytes) -> Turn:
    return tuple(Say(text) for text in texts)


def _one(stage: str, *steps: Step) -> dict[str, tuple[Turn, ...]]:
    """A script of one stage with one turn."""
    return {stage: (tuple(steps),)}


REPLY_STAGES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "FINAL")
_TARPIT = b"250-" + b"a tarpit says little at a time " * 40 + b"\r\n"
_NO_BDAT = tuple(word for word in EXTENSIONS if word != b"CHUNKING")
_PLAIN = tuple(word for word in _NO_BDAT if word != b"PIPELINING")
_BIG = 400_000
_HUGE = 12_000_000  # more than the sockets' buffers hold, so that a reply can be seen to be early


def _table() -> list[Fault]:
    """All rows. What is played at the content comes twice: offered CHUNKING, and (``-dot``) without it."""
    rows = [
        *_tarpits(),
        *_lost_connections(),
        *_early_replies(),
        *_reply_forms(),
        *_greetings(),
        *_recipients(),
        *_plain_refusals(),
        *_final_replies(),
        *_reuse(),
        *_chunks(),
        *_missing_extensions(),
        *_tls(),
    ]
    rows = [replace(row, extensions=_NO_BDAT) if "DATA" in row.play else row for row in rows]
    at_content = [row for row in rows if row.extensions == EXTENSIONS and {"BODY", "FINAL"} & set(row.play)]
    return rows + [replace(row, name=f"{row.name}-dot", extensions=_NO_BDAT) for row in at_content]


def _tarpits() -> list[Fault]:
    """A deadline per request, not per read; one slow MX cannot hold a pool."""
    row = "tarpit, replies a byte at a time"
    faults = [
        Fault(f"tarpit-{stage}", row, _one(stage, Flood(_TARPIT, paced=True)), slow=True)
        for stage in ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "FINAL")
    ]
    faults += [
        Fault(f"mute-{stage}", row, _one(stage, Mute()), slow=True) for stage in ("greeting", "EHLO", "MAIL", "DATA")
    ]
    slow_success = _one("FINAL", Say(b"250 2.0.0 slow but sure\r\n", paced=True))
    return [*faults, Fault("tarpit-succeeds", row, slow_success)]


def _lost_connections() -> list[Fault]:
    """Defer what is unsettled, drop the connection, never bounce. A reply to the content that is lost may repeat."""
    row = "close mid-DATA; 421 then FIN"
    faults = []
    for stage in REPLY_STAGES:
        # in BODY the content is not complete yet, so the host cannot have kept it
        size = {"content_octets": _BIG, "body_after": 50_000} if stage == "BODY" else {}
        shared = {"repeats": stage == "FINAL", **size}
        bye = Say(b"421 4.3.2 going down\r\n")
        faults += [
            Fault(f"421-{stage}", row, _one(stage, bye, Close()), **{**shared, "repeats": False}),  # type: ignore[arg-type]
            Fault(f"close-{stage}", row, _one(stage, Close()), **shared),  # type: ignore[arg-type]
            Fault(f"reset-{stage}", row, _one(stage, Reset()), **shared),  # type: ignore[arg-type]
        ]
    return faults


def _early_replies() -> list[Fault]:
    """Stop, read it, act by its first digit."""
    row = "early 4xx/5xx while the body is going out"
    garbage, early2 = "garbage under pipelining", _one("BODY", Say(b"250 ok\r\n"), Close())
    early4, early5 = Say(b"451 4.3.0 stop\r\n"), Say(b"554 5.7.1 stop\r\n")
    shared = {"content_octets": _BIG, "body_after": 20_000}
    return [
        Fault("early-451", row, _one("BODY", early4), **shared),  # type: ignore[arg-type]
        Fault("early-451-close", row, _one("BODY", early4, Close()), **shared),  # type: ignore[arg-type]
        Fault("early-554", row, _one("BODY", early5), fates=FAILED, **shared),  # type: ignore[arg-type]
        Fault("early-554-close", row, _one("BODY", early5, Close()), fates=FAILED, **shared),  # type: ignore[arg-type]
        Fault("early-250-close", garbage, early2, content_octets=_HUGE, body_after=20_000),
    ]


def _reply_forms() -> list[Fault]:
    """Replies that are cut, joined, malformed or without an end."""
    split, garbage = "reply split anywhere, several in one packet", "garbage under pipelining"
    mixed, endless = "mixed codes in one multi-line reply", "endless or oversize reply"
    lines = b"".join(b"250-line %d\r\n" % n for n in range(100)) + b"250 done\r\n"
    return [
        Fault("split-replies", split, sessions=EVERY_SESSION, split=True),
        Fault("batched-replies", split, sessions=EVERY_SESSION, batch=True),
        Fault("many-lines", split, {"MAIL": (_say(lines),), "FINAL": (_say(lines),)}, sessions=EVERY_SESSION),
        Fault("garbage-final", garbage, _one("FINAL", Say(b"@#!%\r\n250 2.0.0 ok\r\n")), repeats=True, taken=True),
        Fault("garbage-MAIL", garbage, _one("MAIL", Say(b"\x00\xff\xfegarbage\r\n250 2.1.0 ok\r\n"))),
        Fault("garbage-greeting", garbage, _one("greeting", Say(b"SSH-2.0-OpenSSH_9.2\r\n"))),
        Fault("extra-reply-RCPT", garbage, _one("RCPT", Say(b"250 2.1.5 ok\r\n250 2.1.5 ok\r\n")), repeats=True),
        Fault("no-such-code", garbage, _one("MAIL", Say(b"999 strange\r\n"))),
        Fault("code-099", garbage, _one("MAIL", Say(b"099 strange\r\n"))),
        Fault("code-1xx", garbage, _one("MAIL", Say(b"150 wait\r\n250 2.1.0 ok\r\n"))),
        Fault("nul-in-reply", garbage, _one("MAIL", Say(b"250 2.1.0 o\x00k\r\n")), repeats=True),
        Fault("reply-bare-lf", garbage, _one("MAIL", Say(b"250 2.1.0 ok\n")), repeats=True, slow=True),
        Fault("unasked-reply-DATA", garbage, _one("DATA", Say(b"354 go\r\n250 2.0.0 taken already\r\n")), repeats=True),
        Fault("250-for-DATA", garbage, _one("DATA", Say(b"250 2.0.0 ok\r\n")), slow=True),
        Fault("354-for-MAIL", garbage, _one("MAIL", Say(b"354 go ahead\r\n"))),
        Fault("354-for-FINAL", garbage, _one("FINAL", Say(b"354 more\r\n")), repeats=True),
        Fault("mixed-codes-MAIL", mixed, _one("MAIL", Say(b"250-ok\r\n550 no\r\n")), repeats=True),
        Fault("mixed-codes-FINAL", mixed, _one("FINAL", Say(b"250-ok\r\n554 no\r\n")), repeats=True),
        Fault("mixed-codes-EHLO", mixed, _one("EHLO", Say(b"250-mx\r\n450-PIPELINING\r\n250 SIZE\r\n"))),
        Fault("endless-reply", endless, _one("MAIL", Flood(b"250-and so on\r\n" * 100))),
        Fault("endless-line", endless, _one("EHLO", Flood(b"x" * 4096))),
        Fault("endless-greeting", endless, _one("greeting", Flood(b"220-welcome\r\n" * 100))),
        Fault("oversize-reply", endless, _one("MAIL", Say(b"250-" + b"y" * 300_000 + b"\r\n250 ok\r\n")), repeats=True),
        Fault("unknown-2xx", "act on the first digit", {"FINAL": (_say(b"299 fine\r\n"),)}, sessions=EVERY_SESSION),
        Fault("unknown-4xx", "act on the first digit", _one("RCPT", Say(b"499 later\r\n"))),
        Fault("unknown-5xx", "act on the first digit", _one("RCPT", Say(b"599 never\r\n")), fates=FAILED),
        Fault("code-only", "act on the first digit", {"MAIL": (_say(b"250\r\n"),)}, sessions=EVERY_SESSION),
        Fault("lying-enhanced", "class digit equals reply digit", _one("RCPT", Say(b"450 5.1.1 who knows\r\n"))),
    ]


def _greetings() -> list[Fault]:
    """Hosts that do not want us, or do not know EHLO."""
    row = "refused greeting, no EHLO"
    unknown = Say(b"502 5.5.1 unknown command\r\n")
    return [
        Fault("greeting-554", row, _one("greeting", Say(b"554 5.7.1 no service for you\r\n")), fates=EITHER),
        Fault("greeting-521", row, _one("greeting", Say(b"521 5.3.2 never takes mail\r\n"), Close()), fates=EITHER),
        Fault("greeting-450", row, _one("greeting", Say(b"450 4.3.2 busy\r\n"))),
        Fault("no-EHLO", row, _one("EHLO", unknown), sessions=EVERY_SESSION),
        Fault("no-EHLO-close", row, {"EHLO": ((unknown, Close()),)}),
        Fault(
            "EHLO-554", row, {"EHLO": (_say(b"554 5.7.1 no\r\n"),), "HELO": (_say(b"554 5.7.1 no\r\n"),)}, fates=EITHER
        ),
        Fault("EHLO-451", row, _one("EHLO", Say(b"451 4.3.0 later\r\n"))),
    ]


def _recipients() -> list[Fault]:
    """Replies recipient by recipient."""
    row, lone = "RCPT-by-RCPT mixed replies", "all RCPT refused yet 354: a lone dot"
    later, refused = Say(b"450 4.2.1 later\r\n"), Say(b"550 5.1.1 unknown\r\n")
    by_name: dict[str, Step] = {"later": later, "refused": refused}
    many = tuple(f"good{n}" for n in range(7))
    limit = {"RCPT": (USUAL, USUAL, _say(b"452 4.5.3 too many recipients\r\n"))}
    limit5 = {"RCPT": (USUAL, USUAL, *[_say(b"552 5.5.3 too many recipients\r\n")] * 5)}
    all_refused = {"DATA": (_say(b"354 go\r\n"),), "FINAL": (_say(b"554 5.5.1 no valid recipients\r\n"),)}
    taken_lone = {"DATA": (_say(b"354 go\r\n"),), "FINAL": (_say(b"250 2.0.0 took nothing\r\n"),)}
    shared = {"recipients": ("refused", "refused2"), "by_local_part": {"refused": refused}, "sessions": EVERY_SESSION}
    return [
        Fault("rcpt-mixed", row, recipients=("good", "later", "refused"), by_local_part=by_name),
        Fault("rcpt-452-after-2", "452 too many recipients", limit, sessions=EVERY_SESSION, recipients=many),
        Fault("rcpt-552-after-2", "552 too many recipients", limit5, recipients=many, fates=EITHER),
        Fault("rcpt-all-refused", lone, **shared),  # type: ignore[arg-type]
        Fault("rcpt-all-refused-354", lone, all_refused, **shared),  # type: ignore[arg-type]
        Fault("rcpt-all-refused-354-250", lone, taken_lone, **shared),  # type: ignore[arg-type]
        Fault("rcpt-all-later-354", lone, all_refused, by_local_part={"good": later}),
    ]


def _plain_refusals() -> list[Fault]:
    """4xx defers, 5xx fails, at each stage."""
    row = "act on the first digit"
    faults = []
    for stage in ("MAIL", "RCPT", "DATA", "FINAL"):
        faults.append(Fault(f"451-{stage}", row, _one(stage, Say(b"451 4.3.0 later\r\n"))))
        faults.append(Fault(f"554-{stage}", row, _one(stage, Say(b"554 5.7.1 never\r\n")), fates=FAILED))
    return faults


def _final_replies() -> list[Fault]:
    """The host took the message and we never hear of it (RFC 1047)."""
    row = "final reply lost"
    shared = {"repeats": True, "taken": True}
    return [
        Fault("final-lost-close", row, _one("FINAL", Close()), **shared),  # type: ignore[arg-type]
        Fault("final-lost-reset", row, _one("FINAL", Reset()), **shared),  # type: ignore[arg-type]
        Fault("final-lost-mute", row, _one("FINAL", Mute()), slow=True, **shared),  # type: ignore[arg-type]
        Fault("final-half-reply", row, _one("FINAL", Say(b"250 2.0.0 o"), Close()), **shared),  # type: ignore[arg-type]
    ]


def _reuse() -> list[Fault]:
    """A session is released only when clean."""
    row = "reuse before RSET's reply; failed send without RSET"
    mail = _say(b"451 4.3.0 later\r\n")
    return [
        Fault("rset-502", row, {"MAIL": (mail,), "RSET": (_say(b"502 5.5.1 what\r\n"),)}),
        Fault("rset-421", row, {"MAIL": (mail,), "RSET": ((Say(b"421 4.3.2 bye\r\n"), Close()),)}),
        Fault("rset-close", row, {"MAIL": (mail,), "RSET": ((Close(),),)}),
        Fault("rset-mute", row, {"MAIL": (mail,), "RSET": ((Mute(),),)}, slow=True),
        Fault("idle-421", "421 may come unasked", _one("IDLE", Say(b"421 4.4.2 idle\r\n"), Close())),
        Fault("idle-close", "connection dropped with no code", _one("IDLE", Close())),
        Fault("idle-reset", "connection dropped with no code", _one("IDLE", Reset())),
        Fault("idle-250", "garbage under pipelining", _one("IDLE", Say(b"250 2.0.0 once more\r\n")), repeats=True),
        Fault("quit-close", row, _one("QUIT", Close()), sessions=EVERY_SESSION),
        Fault("quit-mute", row, _one("QUIT", Mute()), slow=True),
    ]


def _chunks() -> list[Fault]:
    """CHUNKING that is offered and then not kept."""
    row = "never mix DATA and BDAT; read a refused chunk's octets"
    refused = _say(b"502 5.5.1 no BDAT here\r\n")
    return [
        Fault("bdat-502", row, {"BDAT": (refused,), "BDAT LAST": (refused,)}, fates=EITHER),
        Fault("bdat-451", row, {"BDAT LAST": (_say(b"451 4.3.0 later\r\n"),)}),
        Fault("bdat-554", row, {"BDAT LAST": (_say(b"554 5.7.1 never\r\n"),)}, fates=EITHER),
        Fault("bdat-421", row, {"BDAT LAST": ((Say(b"421 4.3.2 bye\r\n"), Close()),)}),
        Fault("bdat-big-554", row, {"BDAT": (_say(b"554 5.7.1 never\r\n"),)}, fates=EITHER, content_octets=_BIG),
        Fault("bdat-big-close", row, {"BDAT": ((Close(),),)}, content_octets=_BIG),
    ]


def _missing_extensions() -> list[Fault]:
    """Hosts without this or that extension: served all the same."""
    row = "extensions not offered"
    shared = {"sessions": EVERY_SESSION}
    return [
        Fault("no-pipelining", row, extensions=_PLAIN, **shared),  # type: ignore[arg-type]
        Fault("no-chunking", row, extensions=_NO_BDAT, **shared),  # type: ignore[arg-type]
        Fault("no-extensions", row, extensions=(), **shared),  # type: ignore[arg-type]
        Fault("size-too-small", row, size_limit=1_000, content_octets=5_000, fates=FAILED, **shared),  # type: ignore[arg-type]
    ]


def _tls() -> list[Fault]:
    """STARTTLS that is refused, broken or abused. Mail goes in plain if need be; where TLS is a must it waits.

    `plain` False: TLS works, or is a must, or what is said looks like an attack, so that plain would be wrong.
    """
    row, bad, abused = "STARTTLS refused or broken: plain", "any certificate will do", "octets behind the 220: abort"
    good: dict[str, Any] = {"tls": "good", "good_tls": "good"}
    refused = Say(b"454 4.7.0 TLS not available\r\n")
    faults = [
        Fault("tls", bad, sessions=EVERY_SESSION, tls="good", plain=False),
        *[
            Fault(f"tls-{flaw}", bad, sessions=EVERY_SESSION, tls=flaw, plain=False)
            for flaw in ("wrong-name", "expired", "self-signed")
        ],
        Fault("starttls-454", row, {"STARTTLS": ((refused,),)}, sessions=EVERY_SESSION, tls="good"),
        Fault("starttls-502", row, _one("STARTTLS", Say(b"502 5.5.1 what\r\n")), **good),
        Fault("starttls-421", row, _one("STARTTLS", Say(b"421 4.3.2 bye\r\n"), Close()), **good),
        Fault("starttls-454-close", row, _one("STARTTLS", refused, Close()), **good),
        Fault("starttls-354", "garbage under pipelining", _one("STARTTLS", Say(b"354 go\r\n")), **good),
        Fault("starttls-injected", abused, _one("STARTTLS", Say(b"220 go\r\n250 PIPELINING\r\n")), plain=False, **good),
        Fault("starttls-injected-later", abused, _one("HANDSHAKE", Say(b"250 PIPELINING\r\n")), **good),
        Fault("tls-EHLO-421", row, {"EHLO": (USUAL, (Say(b"421 4.3.2 bye\r\n"), Close()))}, **good),
        Fault("tls-MAIL-reset", "close mid-DATA; 421 then FIN", _one("MAIL", Reset()), plain=False, **good),
        Fault(
            "tls-final-lost", "final reply lost", _one("FINAL", Reset()), repeats=True, taken=True, plain=False, **good
        ),
        Fault("tls-no-pipelining", bad, sessions=EVERY_SESSION, extensions=_PLAIN, tls="good", plain=False),
        Fault("tls-split-replies", bad, sessions=EVERY_SESSION, split=True, tls="good", plain=False),
        Fault("tls-big", bad, sessions=EVERY_SESSION, content_octets=_BIG, tls="good", plain=False),
        Fault("tls-huge", bad, sessions=EVERY_SESSION, content_octets=_HUGE, tls="good", plain=False),
    ]
    for stage in ("STARTTLS", "HANDSHAKE", "TLS"):
        faults += [
            Fault(f"close-{stage}", row, _one(stage, Close()), **good),
            Fault(f"reset-{stage}", row, _one(stage, Reset()), **good),
            Fault(f"mute-{stage}", row, _one(stage, Mute()), slow=True, **good),
        ]
    garbage = _one("HANDSHAKE", Say(b"\x15\x03\x01\x00\x02\x02\x28" * 20), Close())
    faults.append(Fault("garbage-HANDSHAKE", row, garbage, **good))
    waits = "STARTTLS refused or broken where TLS is a must: waits"
    must = [replace(one, name=f"must-{one.name}", row=waits, must=True, plain=False) for one in faults if one.good_tls]
    none = Fault("must-no-STARTTLS", waits, good_tls="good", must=True, plain=False)
    return [*faults, *must, none]


FAULTS: dict[str, Fault] = {fault.name: fault for fault in _table()}
