"""The SMTP client machine: bodies by DATA and BDAT, whole and streamed, refused early, given up, and timed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialogue import mail, session

from fastrelay._core.client import ErrorKind, Stage, State
from fastrelay._core.reply import Reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 5000
ENVELOPE = b"MAIL FROM:<news@sender.example>\r\nRCPT TO:<a@one.example>\r\n"
GO = b"250 s\r\n250 r\r\n354 go\r\n"


# ---- DATA


@pytest.mark.parametrize(
    ("prefix", "content", "wired"),
    [
        (b"", b"hello\r\n", b"hello\r\n.\r\n"),
        (b"", b"hello", b"hello\r\n.\r\n"),
        (b"", b"hello\r", b"hello\r\r\n.\r\n"),
        (b"", b"", b".\r\n"),
        (b"", b".", b"..\r\n.\r\n"),
        (b"", b".\r\n.\r\n", b"..\r\n..\r\n.\r\n"),
        (b"A: b\r\n", b"C: d\r\n\r\n.x\r\n", b"A: b\r\nC: d\r\n\r\n..x\r\n.\r\n"),
        (b"A: b\r\n", b".x\r\n", b"A: b\r\n..x\r\n.\r\n"),
        (b".A: b\r\n", b"", b"..A: b\r\n.\r\n"),
        (b"A: b", b".x\r\n", b"A: b.x\r\n.\r\n"),
        (b"A: b\r", b"\n.x\r\n", b"A: b\r\n..x\r\n.\r\n"),
    ],
)
def test_data_is_stuffed_and_ended(prefix: bytes, content: bytes, wired: bytes) -> None:
    wire = session("PIPELINING").begin(mail(content=content, prefix=prefix))
    assert wire.said() == ENVELOPE + b"DATA\r\n"
    assert wire.server(GO).said() == wired
    assert wire.server(b"250 queued\r\n").happened() == ["DONE", "READY"]
    assert wire.finished[0].all_delivered


def test_the_content_object_is_not_copied() -> None:
    for keywords, replies in ((("PIPELINING",), GO), (("PIPELINING", "CHUNKING"), b"")):
        machine = session(*keywords).machine
        machine.begin(mail(content=CONTENT), 0.0)
        out = machine.take_output()
        if replies:
            machine.receive(replies, 0.0)
            out = machine.take_output()
        assert any(piece is CONTENT for piece in out)


def test_data_waits_for_its_go_ahead_and_nothing_follows_the_dot() -> None:
    wire = session("PIPELINING").begin(mail())
    tx_seen_body = wire.said()
    assert CONTENT not in tx_seen_body
    wire.server(b"250 s\r\n250 r\r\n")
    assert wire.said() == b""
    wire.server(b"354 go\r\n")
    assert wire.said().endswith(b"\r\n.\r\n")
    assert wire.happened() == []


@pytest.mark.parametrize("code", [350, 354, 399])
def test_any_3xx_is_the_go_ahead(code: int) -> None:
    wire = session("PIPELINING").begin(mail()).server(b"250 s\r\n250 r\r\n%d go\r\n" % code).server(b"299 ok\r\n")
    assert wire.finished[0].all_delivered


def test_all_recipients_refused_yet_354_sends_a_lone_dot() -> None:
    wire = session("PIPELINING").begin(mail(b"a@x", b"b@x"))
    wire.said()
    wire.server(b"250 s\r\n550 a\r\n451 b\r\n354 go\r\n")
    assert wire.said() == b".\r\n"
    assert wire.happened() == []
    wire.server(b"554 no valid recipients\r\n")
    assert wire.said() == b"RSET\r\n"
    tx = wire.finished[0]
    assert (tx.stage, tx.final_reply, tx.body_began) == (Stage.STAGE_RCPT, None, False)
    assert [tx.reply_for(i) for i in (0, 1)] == [Reply(550, b"a"), Reply(451, b"b")]
    assert wire.server(b"250 reset\r\n").happened() == ["DONE", "READY"]


def test_even_250_to_the_lone_dot_delivers_nothing() -> None:
    wire = session("PIPELINING").begin(mail()).server(b"250 s\r\n550 a\r\n354 go\r\n").server(b"250 thanks\r\n")
    tx = wire.finished[0]
    assert not tx.all_delivered
    assert tx.reply_for(0) == Reply(550, b"a")
    assert not tx.may_have_arrived(0)


@pytest.mark.parametrize("keywords", [("PIPELINING",), ("PIPELINING", "CHUNKING")])
def test_a_refused_mail_decides_for_all(keywords: tuple[str, ...]) -> None:
    wire = session(*keywords).begin(mail(b"a@x", b"b@x")).server(b"451 4.7.0 s\r\n503 a\r\n503 b\r\n503 body\r\n")
    tx = wire.finished[0]
    assert (tx.stage, tx.final_reply) == (Stage.STAGE_MAIL, None)
    assert [tx.reply_for(i) for i in (0, 1)] == [Reply(451, b"4.7.0 s")] * 2
    assert wire.said().endswith(b"RSET\r\n")


def test_nothing_is_sent_behind_a_refused_mail_though_recipients_were_taken() -> None:
    wire = session("PIPELINING").begin(mail())
    wire.said()
    assert wire.server(b"550 s\r\n250 a\r\n354 go\r\n").said() == b".\r\n"
    wire.server(b"554 no\r\n")
    assert wire.finished[0].reply_for(0) == Reply(550, b"s")
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=LARGE))
    wire.said()
    assert wire.server(b"550 s\r\n250 a\r\n").said() == b"RSET\r\n"


def test_data_refused_keeps_the_reply() -> None:
    wire = session("PIPELINING").begin(mail()).server(b"250 s\r\n250 a\r\n451 later\r\n")
    tx = wire.finished[0]
    assert (tx.stage, tx.reply_for(0), tx.body_began) == (Stage.STAGE_DATA, Reply(451, b"later"), False)
    assert wire.said().endswith(b"DATA\r\nRSET\r\n")


@pytest.mark.parametrize("keywords", [("PIPELINING",), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize("final", [b"554 5.7.1 spam\r\n", b"451 4.3.0 later\r\n"])
def test_the_message_refused(keywords: tuple[str, ...], final: bytes) -> None:
    wire = session(*keywords).begin(mail())
    wire.server(GO if len(keywords) == 1 else b"250 s\r\n250 r\r\n").server(final)
    tx = wire.finished[0]
    assert (tx.stage, tx.all_delivered) == (Stage.STAGE_FINAL, False)
    assert tx.reply_for(0) == Reply(int(final[:3]), final[4:-2])
    assert wire.said().endswith(b"RSET\r\n")
    assert wire.server(b"250 reset\r\n").happened() == ["DONE", "READY"]


# ---- BDAT


def test_a_small_content_goes_with_its_envelope() -> None:
    tx = mail(content=b".x", prefix=b"A: b\r\n\r\n")
    wire = session("PIPELINING", "CHUNKING").begin(tx)
    assert wire.said() == ENVELOPE + b"BDAT 10 LAST\r\nA: b\r\n\r\n.x"
    assert tx.body_complete
    wire.server(b"250 s\r\n250 r\r\n250 queued\r\n")
    assert tx.all_delivered
    assert wire.happened() == ["DONE", "READY"]


def test_bdat_without_pipelining() -> None:
    wire = session("CHUNKING").begin(mail())
    steps = [wire.said()] + [wire.server(b"250 ok\r\n").said() for _ in range(3)]
    assert steps[2:] == [b"BDAT 21 LAST\r\n" + CONTENT, b""]
    assert wire.finished[0].all_delivered


def test_chunking_can_be_forbidden() -> None:
    assert session("PIPELINING", "CHUNKING", allow_chunking=False).begin(mail()).said().endswith(b"DATA\r\n")


def test_a_large_content_waits_for_the_envelope() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=LARGE))
    assert wire.said() == ENVELOPE
    assert wire.server(b"250 s\r\n250 r\r\n").said() == b"BDAT %d LAST\r\n" % len(LARGE) + LARGE
    wire.server(b"250 queued\r\n")
    assert wire.finished[0].all_delivered


def test_a_large_content_is_not_sent_for_nobody() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=LARGE)).server(b"250 s\r\n550 r\r\n")
    assert wire.said() == ENVELOPE + b"RSET\r\n"


def test_pipelined_bdat_all_refused_is_read_in_step() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(b"a@x", b"b@x"))
    wire.server(b"250 s\r\n550 a\r\n550 b\r\n")
    assert wire.happened() == []
    wire.server(b"554 no recipients\r\n")
    tx = wire.finished[0]
    assert (tx.stage, tx.final_reply) == (Stage.STAGE_RCPT, None)
    assert wire.said().endswith(b"RSET\r\n")
    assert wire.server(b"250 reset\r\n").happened() == ["DONE", "READY"]


def test_a_server_that_parses_a_refused_chunk_is_left() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail())
    wire.server(b"250 s\r\n550 a\r\n503 bdat\r\n500 Subject?\r\n500 ?\r\n500 hello?\r\n")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].reply_for(0) == Reply(550, b"a")


@pytest.mark.parametrize("code", [500, 501, 502, 504])
@pytest.mark.parametrize("content", [CONTENT, LARGE, None])
def test_chunking_that_is_offered_and_not_understood_is_no_verdict(code: int, content: bytes | None) -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=content, size=len(LARGE)), [b"one", b"two"])
    wire.server(b"250 s\r\n250 a\r\n").server(b"%d what is BDAT?\r\n" % code)
    assert wire.happened()[-2:] == ["DONE", "CLOSING"]
    tx = wire.finished[0]
    assert (tx.error_kind, tx.reply_for(0), tx.may_have_arrived(0)) == (ErrorKind.ERROR_PROTOCOL, None, False)
    assert wire.machine.chunking_broken


def test_503_to_bdat_is_not_that() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail()).server(b"250 s\r\n250 a\r\n503 no\r\n")
    assert wire.finished[0].reply_for(0) == Reply(503, b"no")
    assert not wire.machine.chunking_broken


def test_2xx_to_a_body_whose_mail_was_refused_is_no_success() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail()).server(b"550 s\r\n250 r\r\n250 queued\r\n")
    tx = wire.finished[0]
    assert tx.error_kind == ErrorKind.ERROR_PROTOCOL
    assert not tx.all_delivered
    assert wire.happened() == ["DONE", "CLOSING"]


# ---- streamed bodies


def test_streamed_data() -> None:
    tx = mail(content=None, prefix=b"A: b\r\n\r\n", size=100)
    wire = session("PIPELINING").begin(tx, [b".one\r", b"\n.two", b"\r\n", b".", b""])
    wire.said()
    assert wire.server(GO).said() == b"A: b\r\n\r\n..one\r\n..two\r\n..\r\n.\r\n"
    wire.server(b"250 queued\r\n")
    assert tx.all_delivered


def test_streamed_bdat() -> None:
    tx = mail(content=None, prefix=b"A: b\r\n\r\n", size=100)
    wire = session("PIPELINING", "CHUNKING").begin(tx, [b".one", b"", b"two\r\n", b"three"])
    assert wire.said() == ENVELOPE
    wire.server(b"250 s\r\n250 r\r\n")
    assert wire.said() == b"BDAT 12\r\nA: b\r\n\r\n.oneBDAT 5\r\ntwo\r\nBDAT 5 LAST\r\nthree"
    assert wire.server(b"250 a\r\n250 b\r\n").happened().count("DONE") == 0
    wire.server(b"250 queued\r\n")
    assert tx.all_delivered
    assert wire.happened() == ["DONE", "READY"]


def test_a_chunk_that_was_not_asked_for() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99), [b"x"] * 9)
    assert not wire.call_chunk(b"y", last=False)
    wire.server(b"250 s\r\n250 r\r\n")
    with pytest.raises(RuntimeError, match="asked for"):
        wire.call_chunk(b"y", last=False)
    with pytest.raises(ValueError, match="size"):
        mail(content=None)


def test_a_chunk_may_be_given_before_its_event_is_taken() -> None:
    machine = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=9)).machine
    machine.receive(b"250 s\r\n250 r\r\n", 0.0)
    assert machine.chunk(b"one", True, 0.0)
    assert machine.next_event() == 0


def test_an_answer_before_its_chunk_was_handed_out_is_no_answer() -> None:
    tx = mail(content=None, size=9)
    wire = session("PIPELINING", "CHUNKING").begin(tx).server(b"250 s\r\n250 r\r\n")
    wire.machine.chunk(b"one", False, wire.now)
    wire.server(b"250 one\r\n")
    assert tx.error_kind == ErrorKind.ERROR_PROTOCOL


def test_an_empty_last_chunk() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=3), [b"one", b""])
    wire.server(b"250 s\r\n250 r\r\n")
    assert wire.said().endswith(b"BDAT 3\r\noneBDAT 0 LAST\r\n")


def test_no_more_than_eight_chunks_are_unanswered() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99), [b"x"] * 20)
    wire.server(b"250 s\r\n250 r\r\n")
    assert wire.said().count(b"BDAT") == 8
    wire.server(b"250 a\r\n" * 3)
    assert wire.said().count(b"BDAT") == 3
    for _ in range(12):
        wire.server(b"250 a\r\n")
    assert wire.said().count(b"BDAT") == 9
    assert wire.server(b"250 a\r\n" * 4).happened().count("DONE") == 0
    assert wire.server(b"250 queued\r\n").finished[0].all_delivered


@pytest.mark.parametrize("refusal", [b"552 5.3.4 too big\r\n", b"452 4.3.1 full\r\n"])
def test_streamed_data_refused_early_is_never_ended_with_a_dot(refusal: bytes) -> None:
    wire = session("PIPELINING").begin(mail(content=None, size=99))
    wire.server(GO)
    assert wire.happened() == ["NEED_BODY"]
    assert wire.call_chunk(b"one\r\n", last=False)
    wire.server(refusal)
    assert wire.happened() == ["NEED_BODY", "DONE", "CLOSING"]
    assert not wire.call_chunk(b"two\r\n", last=True)
    assert wire.said().endswith(b"one\r\n")
    tx = wire.finished[0]
    assert (tx.stage, tx.reply_for(0), tx.body_complete) == (
        Stage.STAGE_BODY,
        Reply(int(refusal[:3]), refusal[4:-2]),
        False,
    )


def test_early_refusal_with_the_end_not_handed_out() -> None:
    wire = session("PIPELINING").begin(mail(content=None, size=99)).server(GO)
    wire.machine.chunk(b"one\r\n", True, wire.now)
    wire.said()
    wire.server(b"552 too big\r\n")
    assert wire.said() == b""
    assert wire.happened() == ["NEED_BODY", "DONE", "CLOSING"]
    assert wire.finished[0].reply_for(0) == Reply(552, b"too big")


@pytest.mark.parametrize("reply", [b"250 thanks\r\n", b"354 go on\r\n", b"hm\r\n"])
def test_a_reply_in_the_middle_of_data_that_is_no_refusal(reply: bytes) -> None:
    wire = session("PIPELINING").begin(mail(content=None, size=99)).server(GO)
    wire.call_chunk(b"one\r\n", last=False)
    wire.server(reply)
    tx = wire.finished[0]
    assert (tx.error_kind, tx.stage, tx.final_reply) == (ErrorKind.ERROR_PROTOCOL, Stage.STAGE_BODY, None)
    assert not tx.may_have_arrived(0)


def test_a_reply_in_the_middle_of_bdat_with_no_chunk_unanswered() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99)).server(b"250 s\r\n250 r\r\n")
    wire.server(b"250 what\r\n")
    assert wire.finished[0].error_kind == ErrorKind.ERROR_PROTOCOL


def test_a_refused_chunk_stops_the_rest_and_is_read_in_step() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99), [b"x"] * 20)
    wire.server(b"250 s\r\n250 r\r\n").server(b"250 first\r\n")
    wire.server(b"552 5.3.4 too big\r\n")
    assert wire.said().count(b"BDAT") == 9
    assert "DONE" not in wire.happened()
    wire.server(b"503 x\r\n" * 6)
    assert wire.said() == b""
    wire.server(b"503 x\r\n")
    assert wire.said() == b"RSET\r\n"
    tx = wire.finished[0]
    assert (tx.stage, tx.reply_for(0)) == (Stage.STAGE_BODY, Reply(552, b"5.3.4 too big"))
    assert wire.server(b"250 reset\r\n").happened() == ["DONE", "READY"]
    assert wire.begin(mail()).said().startswith(b"MAIL")


def test_no_chunk_is_asked_for_behind_a_refused_one() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99), [b"x"] * 20)
    wire.server(b"250 s\r\n250 r\r\n")
    wire.happened()
    wire.server(b"250 first\r\n552 5.3.4 too big\r\n")
    assert wire.happened() == []


def test_2xx_to_the_last_chunk_behind_a_refused_one_is_no_success() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=9), [b"x", b"y"])
    wire.server(b"250 s\r\n250 r\r\n").server(b"451 no\r\n").server(b"250 queued\r\n")
    tx = wire.finished[0]
    assert tx.error_kind == ErrorKind.ERROR_PROTOCOL
    assert tx.reply_for(0) == Reply(451, b"no")
    assert not tx.all_delivered


def test_giving_up_in_data_closes_without_a_dot() -> None:
    wire = session("PIPELINING").begin(mail(content=None, size=99)).server(GO)
    wire.call_chunk(b"one\r\n", last=False)
    wire.said()
    wire.call("abort_body")
    assert wire.said() == b""
    assert wire.happened()[-2:] == ["DONE", "CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_LOCAL_ABORT
    assert not wire.finished[0].may_have_arrived(0)


@pytest.mark.parametrize("chunks", [0, 2])
def test_giving_up_in_bdat_keeps_the_session(chunks: int) -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99)).server(b"250 s\r\n250 r\r\n")
    for _ in range(chunks):
        wire.call_chunk(b"one\r\n", last=False)
    wire.call("abort_body")
    wire.server(b"250 ok\r\n" * chunks)
    assert wire.said().endswith(b"RSET\r\n")
    assert wire.server(b"250 reset\r\n").happened()[-2:] == ["DONE", "READY"]
    tx = wire.finished[0]
    assert (tx.error_kind, tx.error_status) == (ErrorKind.ERROR_LOCAL_ABORT, "4.3.0")
    assert not tx.may_have_arrived(0)


def test_giving_up_is_the_reason_whatever_comes_after() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=None, size=99)).server(b"250 s\r\n250 r\r\n")
    wire.call_chunk(b"one\r\n", last=False)
    wire.call("abort_body")
    wire.call("connection_lost")
    assert wire.finished[0].error_kind == ErrorKind.ERROR_LOCAL_ABORT


def test_giving_up_outside_a_body() -> None:
    wire = session("PIPELINING")
    wire.call("abort_body")
    assert wire.happened() == []
    wire.begin(mail(content=None, size=1))
    wire.call("abort_body")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_LOCAL_ABORT


pieces = st.lists(
    st.sampled_from([b"", b".", b"a", b"\r\n", b"\r\n.", b"\r", b"\n", b"x" * 300]), min_size=1, max_size=8
)


@given(pieces=pieces, prefix=st.sampled_from([b"", b"A: b\r\n\r\n"]))
def test_streamed_is_as_whole(pieces: list[bytes], prefix: bytes) -> None:
    content = b"".join(pieces)
    whole = session("PIPELINING").begin(mail(content=content, prefix=prefix)).server(GO)
    streamed = session("PIPELINING").begin(mail(content=None, prefix=prefix, size=9), pieces).server(GO)
    assert streamed.said() == whole.said()
    chunked = session("PIPELINING", "CHUNKING").begin(mail(content=None, prefix=prefix, size=9), pieces)
    chunked.said()
    chunked.server(b"250 s\r\n250 r\r\n")
    chunks = chunks_of(chunked.said())
    assert b"".join(chunks) == prefix + content
    assert chunked.server(b"250 ok\r\n" * len(chunks)).finished[0].all_delivered


def chunks_of(sent: bytes) -> list[bytes]:
    chunks = []
    last = False
    while sent:
        assert not last
        command, _, rest = sent.partition(b"\r\n")
        octets = int(command.split()[1])
        last = command.endswith(b" LAST")
        chunks.append(rest[:octets])
        sent = rest[octets:]
    assert last
    return chunks


# ---- how long a body may take


def test_a_small_body_has_the_final_timeout() -> None:
    wire = session("PIPELINING").begin(mail()).server(GO)
    assert wire.machine.deadline == wire.now + 600


def test_a_large_body_needs_progress_and_has_a_total() -> None:
    size = 4096 * 1000
    wire = session("PIPELINING").begin(mail(content=b"x\r\n" * 100_000, size=size)).server(GO)
    start = wire.now
    assert wire.machine.deadline == start + 180
    for step in range(1, 17):
        wire.now = start + 100 * step
        wire.machine.progress(wire.now, size - step)
        assert wire.machine.deadline == min(wire.now + 180, start + 600 + 1000)
    wire.machine.progress(wire.now, size - 16)
    assert wire.machine.deadline == start + 1600
    wire.after(0)
    assert wire.happened()[-2:] == ["DONE", "CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_TIMEOUT


def test_no_progress_is_no_progress() -> None:
    wire = session("PIPELINING").begin(mail(content=LARGE)).server(GO)
    start = wire.now
    wire.machine.progress(start, 5000)
    for step in range(1, 180):
        wire.now = start + step
        wire.machine.progress(wire.now, 5000)
    assert wire.machine.deadline == start + 180


def test_drained_starts_the_wait_for_the_reply() -> None:
    wire = session("PIPELINING", "CHUNKING").begin(mail(content=LARGE)).server(b"250 s\r\n250 r\r\n")
    wire.after(100)
    wire.machine.progress(wire.now)
    assert wire.machine.deadline == wire.now + 600
    wire.now += 50
    wire.machine.progress(wire.now)
    assert wire.machine.deadline == wire.now + 550
    assert wire.machine.state == State.STATE_FINAL


def test_a_large_data_body_refused_before_it_drained_closes() -> None:
    wire = session("PIPELINING").begin(mail(content=LARGE)).server(GO)
    wire.machine.progress(wire.now, 50_000)
    wire.server(b"552 too big\r\n")
    assert wire.happened()[-2:] == ["DONE", "CLOSING"]
    assert wire.finished[0].reply_for(0) == Reply(552, b"too big")
    wire = session("PIPELINING").begin(mail(content=LARGE)).server(GO)
    wire.machine.progress(wire.now)
    wire.server(b"552 too big\r\n")
    assert wire.said().endswith(b"RSET\r\n")
