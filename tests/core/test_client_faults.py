"""The SMTP client machine against servers that misbehave: 421, garbage and silence anywhere, and any seam."""

from __future__ import annotations

from typing import Any

import pytest
from support.dialogue import EVERYTHING, Wire, ehlo, fate, mail, session

from fastrelay._core.client import ErrorKind, Stage, State, Timeouts
from fastrelay._core.reply import Reply

LARGE = b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 5000
DATA = ("PIPELINING",)
BDAT = ("PIPELINING", "CHUNKING")

# How far a transaction with two recipients came: keywords, replies read, the stage, recipients the message may have
# reached when nothing more is read.
PLACES: dict[str, tuple[tuple[str, ...], bytes, Stage, list[bool]]] = {
    "MAIL": (DATA, b"", Stage.STAGE_MAIL, [False, False]),
    "RCPT": (DATA, b"250 s\r\n", Stage.STAGE_RCPT, [False, False]),
    "RCPT 2": (DATA, b"250 s\r\n250 a\r\n", Stage.STAGE_RCPT, [False, False]),
    "DATA": (DATA, b"250 s\r\n250 a\r\n250 b\r\n", Stage.STAGE_DATA, [False, False]),
    "dot": (DATA, b"250 s\r\n250 a\r\n550 b\r\n354 go\r\n", Stage.STAGE_FINAL, [True, False]),
    "lone dot": (DATA, b"250 s\r\n550 a\r\n550 b\r\n354 go\r\n", Stage.STAGE_FINAL, [False, False]),
    "BDAT MAIL": (BDAT, b"", Stage.STAGE_MAIL, [True, True]),
    "BDAT RCPT": (BDAT, b"250 s\r\n", Stage.STAGE_RCPT, [True, True]),
    "BDAT RCPT 2": (BDAT, b"250 s\r\n550 a\r\n", Stage.STAGE_RCPT, [False, True]),
    "BDAT": (BDAT, b"250 s\r\n250 a\r\n550 b\r\n", Stage.STAGE_FINAL, [True, False]),
    "BDAT MAIL refused": (BDAT, b"550 s\r\n", Stage.STAGE_RCPT, [False, False]),
}
places = pytest.mark.parametrize("place", list(PLACES))


def at(place: str, **options: Any) -> Wire:
    keywords, replies, _, _ = PLACES[place]
    wire = session(*keywords, **options).begin(mail(b"a@x", b"b@x"))
    for line in replies.splitlines(keepends=True):
        wire.server(line)
    wire.said()
    assert wire.happened() == []
    return wire


# ---- the end, without a reply


@places
def test_connection_lost(place: str) -> None:
    wire = at(place)
    wire.call("connection_lost")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.said() == b""
    tx = wire.finished[0]
    assert (tx.error_kind, tx.error_status) == (ErrorKind.ERROR_CLOSED, "4.4.2")
    assert "connection closed" in (tx.error or "")
    assert (tx.stage, [tx.may_have_arrived(i) for i in (0, 1)]) == PLACES[place][2:]
    assert wire.machine.state == State.STATE_CLOSED
    wire.call("connection_lost")
    assert wire.happened() == []


@places
def test_silence(place: str) -> None:
    wire = at(place)
    deadline = wire.machine.deadline
    assert wire.after(deadline - wire.now - 1).happened() == []
    assert wire.after(1).happened() == ["DONE", "CLOSING"]
    tx = wire.finished[0]
    assert (tx.error_kind, tx.error_status) == (ErrorKind.ERROR_TIMEOUT, "4.4.2")
    assert (tx.stage, [tx.may_have_arrived(i) for i in (0, 1)]) == PLACES[place][2:]


@places
@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n",
        b"\r\n",
        b"250 ok\n",
        b"250-ok\r\n550 no\r\n",
        b"150 huh\r\n",
        b"250-more\r\n" * 129,
        b"250 " + b"x" * 3000,
        b"\x00" * 5000,
        b"250ok\r\n",
    ],
)
def test_garbage_is_a_protocol_error_and_never_success(place: str, garbage: bytes) -> None:
    wire = at(place)
    wire.server(garbage + b"250 queued\r\n" * 9)
    assert wire.happened() == ["DONE", "CLOSING"]
    tx = wire.finished[0]
    assert (tx.error_kind, tx.error_status) == (ErrorKind.ERROR_PROTOCOL, "4.5.0")
    assert not tx.all_delivered
    assert tx.final_reply is None
    assert (tx.stage, [tx.may_have_arrived(i) for i in (0, 1)]) == PLACES[place][2:]


@pytest.mark.parametrize("place", [place for place in PLACES if place != "DATA"])
def test_3xx_where_none_belongs(place: str) -> None:
    wire = at(place).server(b"354 go\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_PROTOCOL


def test_2xx_to_data_is_a_protocol_error() -> None:
    wire = at("DATA").server(b"250 ok\r\n")
    assert wire.said() == b""
    assert wire.finished[0].error_kind == ErrorKind.ERROR_PROTOCOL


def test_replies_off_by_one_are_noticed_at_data() -> None:
    wire = session(*DATA).begin(mail()).server(b"250 s\r\n250 r\r\n250 twice\r\n354 go\r\n")
    assert wire.finished[0].error_kind == ErrorKind.ERROR_PROTOCOL
    wire = session(*DATA).begin(mail(b"a@x", b"b@x")).server(b"250 s\r\n250 a\r\n354 go\r\n")
    assert wire.finished[0].error_kind == ErrorKind.ERROR_PROTOCOL


# ---- 421


@places
def test_421_anywhere(place: str) -> None:
    wire = at(place).server(b"421 4.3.2 going down\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.said() == b""
    shutdown = Reply(421, b"4.3.2 going down")
    tx = wire.finished[0]
    assert tx.error_kind == ErrorKind.ERROR_CLOSED
    assert "421 4.3.2 going down" in (tx.error or "")
    assert wire.machine.last_reply == shutdown
    if place.endswith("MAIL"):
        assert tx.mail_reply == shutdown
    elif "RCPT" in place:
        assert tx.recipient_replies[1 if "2" in place else 0] == shutdown
    elif place in ("DATA", "dot", "BDAT"):
        assert tx.reply_for(0) == shutdown
        assert not tx.may_have_arrived(0)
    assert not tx.all_delivered


def test_421_unasked() -> None:
    wire = session(*DATA).server(b"421 4.4.2 idle too long\r\n")
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_CLOSED
    assert wire.machine.last_reply == Reply(421, b"4.4.2 idle too long")


def test_421_behind_the_final_reply() -> None:
    wire = at("BDAT").server(b"250 queued\r\n421 enough\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].reply_for(0) == Reply(250, b"queued")
    assert wire.finished[0].error_kind == ErrorKind.ERROR_NONE


def test_421_behind_354() -> None:
    wire = at("DATA").server(b"354 go\r\n421 sorry\r\n")
    assert wire.said() == b""
    tx = wire.finished[0]
    assert (tx.error_kind, tx.body_began, tx.reply_for(0)) == (ErrorKind.ERROR_CLOSED, False, Reply(421, b"sorry"))


def test_421_to_rset_and_to_quit() -> None:
    wire = session(*DATA).begin(mail()).server(b"250 s\r\n550 r\r\n554 d\r\n").server(b"421 bye\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_NONE
    wire = session(*DATA)
    wire.call("quit")
    wire.server(b"421 bye\r\n")
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_NONE


def test_421_while_a_large_body_goes_out() -> None:
    for keywords, replies in ((DATA, b"250 s\r\n250 r\r\n354 go\r\n"), (BDAT, b"250 s\r\n250 r\r\n")):
        wire = session(*keywords).begin(mail(content=None, size=99), [b"one"]).server(replies)
        wire.server(b"421 4.7.0 go away\r\n")
        assert wire.happened()[-2:] == ["DONE", "CLOSING"]
        assert wire.finished[0].reply_for(0) == Reply(421, b"4.7.0 go away")


# ---- replies that nobody asked for


@pytest.mark.parametrize("extra", [b"250 again\r\n", b"550 no\r\n", b"354 go\r\n", b"hm\r\n"])
def test_an_extra_reply_ends_the_session(extra: bytes) -> None:
    wire = session(*BDAT).begin(mail()).server(b"250 s\r\n250 r\r\n250 queued\r\n" + extra)
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].all_delivered
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL
    wire = session(*BDAT).server(extra)
    assert wire.happened() == ["CLOSING"]


@pytest.mark.parametrize("extra", [b"250 early\r\n", b"552 early\r\n"])
def test_an_answer_before_the_body_was_sent_is_no_answer(extra: bytes) -> None:
    wire = at("DATA").server(b"354 go\r\n" + extra)
    assert wire.said() == b""
    tx = wire.finished[0]
    assert (tx.error_kind, tx.final_reply, tx.body_complete) == (ErrorKind.ERROR_PROTOCOL, None, False)


def test_an_answer_before_the_pipelined_body_was_handed_out_is_no_answer() -> None:
    machine = session(*BDAT).machine
    tx = mail()
    machine.begin(tx, 0.0)
    machine.receive(b"250 s\r\n250 r\r\n250 queued\r\n", 0.0)
    assert machine.take_output() == []
    assert tx.error_kind == ErrorKind.ERROR_PROTOCOL
    assert not tx.body_began


def test_the_start_of_a_reply_before_a_transaction_stops_it_unsent() -> None:
    wire = session(*BDAT).server(b"250 o")
    assert wire.happened() == []
    wire.begin(mail())
    assert wire.said() == b""
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].stage == Stage.STAGE_NONE


def test_the_start_of_a_reply_before_rset_is_not_its_answer() -> None:
    wire = session(*DATA).begin(mail()).server(b"250 s\r\n550 r\r\n554 d\r\n250 res")
    wire.server(b"et\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert "before its command" in (wire.machine.error or "")


# ---- deadlines


def test_a_deadline_is_per_request_and_not_per_read() -> None:
    wire = session(*DATA).begin(mail(b"a@x", b"b@x"))
    start = wire.now
    for octet in b"250 slow reply":
        wire.after(20).server(bytes([octet]))
        assert wire.machine.deadline == start + 300
    assert wire.happened() == []
    wire.server(b"\r\n")
    assert wire.machine.deadline == wire.now + 300
    for _ in range(15):
        wire.after(20).server(b"2")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].error == "timed out waiting for the reply to RCPT"


def test_a_tarpit_of_recipients_has_a_total() -> None:
    wire = session(*DATA).begin(mail(*(b"user%d@x" % i for i in range(100))))
    start = wire.now
    wire.server(b"250 s\r\n")
    while not wire.happened():
        wire.after(200).server(b"250 r\r\n")
    assert wire.now - start <= 1800 + 200
    assert wire.finished[0].error_kind == ErrorKind.ERROR_TIMEOUT
    assert wire.finished[0].recipient_replies[5] == Reply(250, b"r")
    assert wire.finished[0].recipient_replies[50] is None


@pytest.mark.parametrize(
    ("place", "seconds"),
    [("MAIL", 11), ("RCPT", 12), ("DATA", 13), ("dot", 14), ("BDAT", 14)],
)
def test_each_wait_has_its_timeout(place: str, seconds: float) -> None:
    wire = at(place, timeouts=Timeouts(mail=11, rcpt=12, data=13, final=14))
    assert wire.machine.deadline == wire.now + seconds


def test_silence_outside_a_transaction() -> None:
    wire = Wire()
    assert wire.after(300).happened() == ["CLOSING"]
    assert wire.machine.error == "timed out waiting for the greeting"
    wire = Wire().server(b"220 hi\r\n").after(300)
    assert wire.machine.error == "timed out waiting for the reply to EHLO"
    wire = session(*DATA)
    assert wire.after(1e9).happened() == []
    wire.call("quit")
    assert wire.after(20).happened() == ["CLOSING"]
    wire = session(*DATA).begin(mail()).server(b"250 s\r\n550 r\r\n554 d\r\n").after(20)
    assert wire.happened() == ["DONE", "CLOSING"]


# ---- any seam gives the same result

SCRIPTS: dict[str, tuple[tuple[str, ...], list[bytes], dict[str, Any]]] = {
    "BDAT": (EVERYTHING, [b"250 2.1.0 s\r\n250 2.1.5 a\r\n250 2.1.5 b\r\n250 2.0.0 queued\r\n"], {}),
    "DATA": (DATA, [b"250 s\r\n250 a\r\n250 b\r\n354 go\r\n", b"250 queued\r\n"], {}),
    "in step": ((), [b"250 s\r\n", b"250-a\r\n250 a\r\n", b"250 b\r\n", b"354 go\r\n", b"250 queued\r\n"], {}),
    "452": (DATA, [b"250 s\r\n250 a\r\n452 4.5.3 b\r\n354 go\r\n", b"250 queued\r\n"], {}),
    "all refused, 354": (DATA, [b"250 s\r\n550 a\r\n550 b\r\n354 go\r\n", b"554 none\r\n", b"250 reset\r\n"], {}),
    "all refused, BDAT": (EVERYTHING, [b"250 s\r\n550-a\r\n550 a\r\n550 b\r\n554 none\r\n", b"250 reset\r\n"], {}),
    "MAIL refused": (EVERYTHING, [b"451 s\r\n503 a\r\n503 b\r\n503 x\r\n", b"250 reset\r\n"], {}),
    "refused": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n554 5.7.1 spam\r\n", b"250 reset\r\n"], {}),
    "no RSET": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n554 spam\r\n", b"500 what\r\n"], {}),
    "421 at RCPT": (DATA, [b"250 s\r\n421 4.3.2 bye\r\n"], {}),
    "421 at the end": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n421 bye\r\n"], {}),
    "421 unasked": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n250 queued\r\n421 bye\r\n"], {}),
    "extra": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n250 queued\r\n250 extra\r\n"], {}),
    "mixed": (EVERYTHING, [b"250 s\r\n250-a\r\n550 a\r\n250 b\r\n250 queued\r\n"], {}),
    "garbage": (DATA, [b"250 s\r\ngarbage\r\n250 b\r\n354 go\r\n250 queued\r\n"], {}),
    "bare LF": (DATA, [b"250 s\r\n250 a\n250 b\r\n354 go\r\n"], {}),
    "endless": (DATA, [b"250 s\r\n250-" + b"x" * 2100], {}),
    "large BDAT": (EVERYTHING, [b"250 s\r\n250 a\r\n250 b\r\n", b"250 queued\r\n"], {"content": LARGE}),
    "streamed": (BDAT, [b"250 s\r\n250 a\r\n250 b\r\n", b"250 1\r\n250 2\r\n250 3\r\n"], {"content": None, "size": 9}),
    "streamed DATA": (DATA, [b"250 s\r\n250 a\r\n250 b\r\n354 go\r\n", b"250 q\r\n"], {"content": None, "size": 9}),
    "streamed, refused": (
        BDAT,
        [b"250 s\r\n250 a\r\n250 b\r\n", b"250 1\r\n552 2\r\n503 3\r\n", b"250 reset\r\n"],
        {"content": None, "size": 9},
    ),
}


def play(name: str, cut: int | None, octet_by_octet: bool = False) -> tuple[Any, ...]:
    """One session with one transaction, the server's octets cut at `cut`; all that can be seen of it."""
    keywords, steps, fields = SCRIPTS[name]
    wire = Wire()
    for step in [b"220-mx\r\n220 mx\r\n", ehlo(*keywords), None, *steps]:
        if step is None:
            wire.begin(mail(b"a@x", b"b@x", **fields), [b"one\r\n", b".two\r\n", b"three"])
        elif octet_by_octet:
            for i in range(len(step)):
                wire.server(step[i : i + 1])
        elif cut is not None and cut < len(step):
            wire.server(step[:cut]).server(step[cut:])
            cut = None
        else:
            wire.server(step)
            cut = cut - len(step) if cut is not None else None
    if wire.machine.state not in (State.STATE_READY, State.STATE_CLOSED):
        wire.events.append("waiting")
    events = ["CLOSING" if event == "READY CLOSING" else event for event in wire.events]
    while "READY" in events[:-1] and events[-1] == "CLOSING" and events[-2] == "READY":
        del events[-2]  # ready for as long as the seam lasted
    return (wire.said(), events, [fate(tx) for tx in wire.finished], wire.machine.state, wire.machine.error)


def opening(name: str) -> int:
    return len(b"220-mx\r\n220 mx\r\n") + len(ehlo(*SCRIPTS[name][0]))


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_a_cut_at_every_octet_changes_nothing(name: str) -> None:
    whole = play(name, None)
    assert "DONE" in whole[1]
    total = opening(name) + sum(len(step) for step in SCRIPTS[name][1])
    for cut in range(1, total):
        assert play(name, cut) == whole, cut


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_an_octet_at_a_time_changes_nothing(name: str) -> None:
    assert play(name, None, octet_by_octet=True) == play(name, None)


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_a_connection_lost_at_every_octet_delivers_nothing_unheard(name: str) -> None:
    keywords, steps, fields = SCRIPTS[name]
    total = sum(len(step) for step in steps)
    for cut in range(total):
        wire = session(*keywords).begin(mail(b"a@x", b"b@x", **fields), [b"one\r\n", b".two\r\n", b"three"])
        left = cut
        for step in steps:
            wire.server(step[:left])
            left -= min(left, len(step))
            if left == 0:
                break
        wire.call("connection_lost")
        tx = wire.finished[0]
        assert len(wire.finished) == 1
        for i in (0, 1):
            reply = tx.reply_for(i)
            assert (reply is not None) or tx.error_kind != ErrorKind.ERROR_NONE
            if reply is not None and reply.digit == 2:
                assert cut >= len(b"".join(steps)) - len(steps[-1])
