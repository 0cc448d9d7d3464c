"""The SMTP client machine: opening a session, envelopes, what a server offers, what comes after a transaction."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.dialogue import EVERYTHING, Wire, ehlo, mail, session

from fastrelay._core.client import Capabilities, ErrorKind, SmtpClient, Stage, State, Timeouts, Transaction
from fastrelay._core.reply import Reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"


# ---- opening


def test_greeting_then_ehlo_then_ready() -> None:
    wire = Wire()
    assert wire.machine.state == State.STATE_GREETING
    assert wire.machine.deadline == wire.now + 300
    wire.server(b"220-mx.example\r\n220 ready\r\n")
    assert wire.said() == b"EHLO me.example\r\n"
    wire.server(ehlo("PIPELINING", "XYZZY 1 2 3"))
    assert wire.happened() == ["READY"]
    assert wire.machine.capabilities.esmtp
    assert wire.machine.capabilities.pipelining
    assert not wire.machine.capabilities.chunking
    assert wire.machine.deadline == math.inf


@pytest.mark.parametrize("refusal", [b"500 what\r\n", b"502 no\r\n", b"550 no\r\n", b"599 no\r\n"])
def test_ehlo_refused_falls_back_to_helo(refusal: bytes) -> None:
    wire = Wire().server(b"220 old\r\n").server(refusal)
    assert wire.said() == b"EHLO me.example\r\nHELO me.example\r\n"
    wire.server(b"250-hello\r\n250 PIPELINING\r\n")
    assert wire.happened() == ["READY"]
    assert not wire.machine.capabilities.pipelining
    wire.begin(mail(mail_parameters=b" RET=HDRS"))
    assert wire.said() == b"MAIL FROM:<news@sender.example>\r\n"


@pytest.mark.parametrize(
    ("greeting", "farewell"),
    [
        (b"521 no mail here\r\n", b""),
        (b"554 no\r\n", b"QUIT\r\n"),
        (b"450 later\r\n", b"QUIT\r\n"),
        (b"599 no\r\n", b"QUIT\r\n"),
        (b"421 busy\r\n", b""),
    ],
)
def test_greeting_refused(greeting: bytes, farewell: bytes) -> None:
    wire = Wire().server(greeting)
    assert wire.said() == farewell
    assert wire.happened() == ["GREETING_REFUSED", "CLOSING"]
    assert wire.machine.last_reply is not None
    assert wire.machine.last_reply.code == int(greeting[:3])
    assert wire.machine.state == State.STATE_CLOSED
    assert wire.server(b"220 changed my mind\r\n").happened() == []


@pytest.mark.parametrize("replies", [[b"421 bye\r\n"], [b"451 later\r\n"], [b"500 no\r\n", b"550 no\r\n"]])
def test_hello_refused(replies: list[bytes]) -> None:
    wire = Wire().server(b"220 hi\r\n")
    for reply in replies:
        wire.server(reply)
    assert wire.happened() == ["GREETING_REFUSED", "CLOSING"]


@pytest.mark.parametrize("greeting", [b"354 go\r\n", b"hello\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"220 hi\n"])
def test_a_greeting_that_is_none(greeting: bytes) -> None:
    wire = Wire().server(greeting)
    assert wire.said() == b""
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL


@pytest.mark.parametrize("early", [b"220 hi\r\n250 early\r\n", b"220 hi\r\n550 early\r\n"])
def test_a_reply_before_its_command_is_nobodys(early: bytes) -> None:
    wire = Wire().server(early)
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL
    assert "before its command" in (wire.machine.error or "")


def test_the_start_of_a_reply_before_its_command_is_nobodys() -> None:
    wire = Wire().server(b"220 hi\r\n250-mx")
    assert wire.said() == b"EHLO me.example\r\n"
    wire.server(b".example\r\n250 PIPELINING\r\n")
    assert wire.happened() == ["CLOSING"]
    assert "before its command" in (wire.machine.error or "")


@pytest.mark.parametrize("name", [b"", b"a b", b"a\r\nRSET", b"\xc3\xa4.example"])
def test_an_ehlo_name_that_would_break_the_line(name: bytes) -> None:
    with pytest.raises(ValueError, match="EHLO name"):
        SmtpClient(name, 0.0)


# ---- what the server offers


def offered(*keywords: str) -> Capabilities:
    return Capabilities.from_ehlo(Reply(250, b"\n".join([b"mx.example", *(word.encode() for word in keywords)])))


def test_capabilities() -> None:
    found = offered(
        "pipelining", "CHUNKING", "SIZE 35882577", "8bitmime", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS",
        "AUTH PLAIN login", "AUTH=LOGIN CRAM-MD5", "LIMITS MAILMAX=50 rcptmax=100 RCPTDOMAINMAX=1 OTHER=9",
    )  # fmt: skip
    assert found.pipelining
    assert found.chunking
    assert found.eight_bit_mime
    assert found.smtputf8
    assert found.dsn
    assert found.enhanced
    assert found.starttls
    assert found.size
    assert found.size_limit == 35882577
    assert found.auth == ("CRAM-MD5", "LOGIN", "PLAIN")
    assert found.limits == {"mail_max": 50, "rcpt_max": 100, "rcpt_domain_max": 1}


@pytest.mark.parametrize(
    ("keyword", "limit"),
    [("SIZE", 0), ("SIZE 0", 0), ("SIZE 10", 10), ("SIZE x", 0), ("SIZE -5", 0), ("SIZE " + "9" * 400, 1 << 62)],
)
def test_size_limit(keyword: str, limit: int) -> None:
    assert offered(keyword).size
    assert offered(keyword).size_limit == limit


def test_capabilities_from_strange_lines() -> None:
    found = offered(
        "", " ", "LIMITS", "LIMITS RCPTMAX RCPTMAX=x MAILMAX=99999999999999999999", "AUTH", "AUTH=", "X=\xff"
    )
    assert found.limits == {"mail_max": 1_000_000_000, "rcpt_max": 0, "rcpt_domain_max": 0}
    assert not found.size
    assert not offered("PIPELININGS", "XPIPELINING").pipelining
    first_line_is_a_name = Capabilities.from_ehlo(Reply(250, b"PIPELINING"))
    assert not first_line_is_a_name.pipelining


def test_all_lines_of_a_long_ehlo_are_read() -> None:
    wire = Wire().server(b"220 hi\r\n").server(ehlo(*(f"X{i} {'y' * 100}" for i in range(100)), "CHUNKING"))
    assert wire.machine.capabilities.chunking
    assert wire.machine.last_reply is None


# ---- envelopes


@pytest.mark.parametrize(
    ("keywords", "fields", "expected"),
    [
        ((), {}, b"MAIL FROM:<news@sender.example>\r\n"),
        (("SIZE",), {}, b"MAIL FROM:<news@sender.example> SIZE=21\r\n"),
        (("SIZE 21",), {}, b"MAIL FROM:<news@sender.example> SIZE=21\r\n"),
        (("8BITMIME",), {}, b"MAIL FROM:<news@sender.example>\r\n"),
        (("8BITMIME",), {"eight_bit": True}, b"MAIL FROM:<news@sender.example> BODY=8BITMIME\r\n"),
        (("DSN",), {"mail_parameters": b" RET=HDRS ENVID=a"}, b"MAIL FROM:<news@sender.example> RET=HDRS ENVID=a\r\n"),
        ((), {"mail_parameters": b" RET=HDRS ENVID=a"}, b"MAIL FROM:<news@sender.example>\r\n"),
        (
            ("8BITMIME", "SMTPUTF8"),
            {"utf8_header": True},
            b"MAIL FROM:<news@sender.example> BODY=8BITMIME SMTPUTF8\r\n",
        ),
        (("8BITMIME", "SMTPUTF8"), {"utf8_address": True}, b"MAIL FROM:<news@sender.example> SMTPUTF8\r\n"),
        (
            EVERYTHING[2:],
            {"eight_bit": True, "utf8_address": True, "mail_parameters": b" RET=FULL", "size": 999},
            b"MAIL FROM:<news@sender.example> SIZE=999 BODY=8BITMIME SMTPUTF8 RET=FULL\r\n",
        ),
    ],
)
def test_mail_command(keywords: tuple[str, ...], fields: dict[str, Any], expected: bytes) -> None:
    assert session(*keywords).begin(mail(**fields)).said() == expected


def test_smtputf8_is_declared_for_an_address_that_needs_it_unasked() -> None:
    wire = session("SMTPUTF8", "8BITMIME").begin(mail("grün@one.example".encode()))
    assert wire.said() == b"MAIL FROM:<news@sender.example> SMTPUTF8\r\n"


def test_recipient_parameters_only_where_dsn_is_offered() -> None:
    fields: dict[str, Any] = {"recipient_parameters": [b" NOTIFY=NEVER", b"", b" ORCPT=rfc822;c@x"]}
    tx = mail(b"a@x", b"b@x", b"c@x", **fields)
    assert session("PIPELINING", "DSN").begin(tx).said() == (
        b"MAIL FROM:<news@sender.example>\r\nRCPT TO:<a@x> NOTIFY=NEVER\r\nRCPT TO:<b@x>\r\n"
        b"RCPT TO:<c@x> ORCPT=rfc822;c@x\r\nDATA\r\n"
    )
    assert session("PIPELINING").begin(tx).said() == (
        b"MAIL FROM:<news@sender.example>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n"
    )


def test_null_reverse_path() -> None:
    assert session().begin(Transaction(b"", [b"a@x"], b"x\r\n")).said() == b"MAIL FROM:<>\r\n"


def test_without_pipelining_one_command_at_a_time() -> None:
    wire = session("SIZE").begin(mail(b"a@x", b"b@x"))
    steps = [wire.said()]
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 queued\r\n"):
        steps.append(wire.server(reply).said())
    assert steps == [
        b"MAIL FROM:<news@sender.example> SIZE=21\r\n",
        b"RCPT TO:<a@x>\r\n",
        b"RCPT TO:<b@x>\r\n",
        b"DATA\r\n",
        CONTENT + b".\r\n",
        b"",
    ]
    assert wire.happened() == ["DONE", "READY"]
    assert wire.finished[0].all_delivered


def test_pipelining_can_be_forbidden() -> None:
    wire = session(*EVERYTHING, allow_pipelining=False, allow_chunking=False).begin(mail())
    assert wire.said() == b"MAIL FROM:<news@sender.example> SIZE=21\r\n"
    assert wire.server(b"250 ok\r\n").said() == b"RCPT TO:<a@one.example>\r\n"
    assert wire.server(b"250 ok\r\n").said() == b"DATA\r\n"


def test_without_pipelining_a_refused_mail_ends_it() -> None:
    wire = session().begin(mail())
    wire.said()
    wire.server(b"550 5.7.1 no\r\n")
    assert wire.said() == b"RSET\r\n"
    assert wire.happened() == ["DONE"]
    tx = wire.finished[0]
    assert (tx.stage, tx.mail_reply, tx.recipient_replies) == (Stage.STAGE_MAIL, Reply(550, b"5.7.1 no"), [None])
    assert tx.reply_for(0) == Reply(550, b"5.7.1 no")
    assert wire.server(b"250 reset\r\n").happened() == ["READY"]


@pytest.mark.parametrize("keywords", [(), ("CHUNKING",)])
def test_without_pipelining_no_body_when_all_recipients_are_refused(keywords: tuple[str, ...]) -> None:
    wire = session(*keywords).begin(mail(b"a@x", b"b@x"))
    for reply in (b"250 ok\r\n", b"550 no\r\n", b"451 no\r\n"):
        wire.server(reply)
    assert wire.said() == b"MAIL FROM:<news@sender.example>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRSET\r\n"
    tx = wire.finished[0]
    assert tx.stage == Stage.STAGE_RCPT
    assert [tx.reply_for(i) for i in (0, 1)] == [Reply(550, b"no"), Reply(451, b"no")]


def test_each_recipient_has_its_reply() -> None:
    wire = session("PIPELINING").begin(mail(b"a@x", b"b@x", b"c@x"))
    wire.server(b"250 s\r\n250 a\r\n452 4.5.3 too many recipients\r\n550 c\r\n354 go\r\n").server(b"250 queued\r\n")
    tx = wire.finished[0]
    assert tx.recipient_replies == [Reply(250, b"a"), Reply(452, b"4.5.3 too many recipients"), Reply(550, b"c")]
    assert [tx.reply_for(i) for i in range(3)] == [Reply(250, b"queued"), *tx.recipient_replies[1:]]
    assert not tx.all_delivered
    assert wire.happened() == ["DONE", "READY"]


@pytest.mark.parametrize(("code", "delivered"), [(250, True), (251, True), (252, True), (299, True), (450, False)])
def test_recipient_codes_go_by_their_first_digit(code: int, delivered: bool) -> None:
    wire = session("PIPELINING").begin(mail(b"a@x", b"b@x"))
    wire.server(b"250 s\r\n%d a\r\n250 b\r\n354 go\r\n" % code).server(b"250 queued\r\n")
    assert wire.finished[0].all_delivered == delivered


def test_a_thousand_recipients_in_one_group() -> None:
    recipients = [b"user%d@x" % i for i in range(1000)]
    wire = session(*EVERYTHING).begin(mail(*recipients))
    assert wire.said().count(b"RCPT TO:") == 1000
    wire.server(b"250 s\r\n" + b"250 r\r\n" * 1000 + b"250 queued\r\n")
    assert wire.finished[0].all_delivered
    assert len({id(reply) for reply in wire.finished[0].recipient_replies}) == 1


# ---- what this server cannot take, and what we must not ask


@pytest.mark.parametrize(
    ("keywords", "fields", "kind", "status"),
    [
        (("SIZE 20",), {}, "ERROR_SIZE", "5.3.4"),
        (("SMTPUTF8",), {"eight_bit": True}, "ERROR_NO_8BITMIME", "5.6.3"),
        (("8BITMIME",), {"utf8_header": True, "eight_bit": True}, "ERROR_NO_SMTPUTF8", "5.6.9"),
        (("8BITMIME",), {"utf8_header": True, "utf8_address": True}, "ERROR_NO_SMTPUTF8", "5.6.7"),
        (("SMTPUTF8",), {"utf8_address": True}, "ERROR_NO_SMTPUTF8", "5.6.7"),
    ],
)
def test_fails_here_and_the_session_stays_ready(
    keywords: tuple[str, ...], fields: dict[str, Any], kind: str, status: str
) -> None:
    wire = session("PIPELINING", *keywords).begin(mail(**fields))
    assert wire.said() == b""
    assert wire.happened() == ["DONE", "READY"]
    tx = wire.finished[0]
    assert (ErrorKind(tx.error_kind).name, tx.error_status, tx.stage) == (kind, status, Stage.STAGE_NONE)
    assert tx.error
    assert not tx.may_have_arrived(0)
    assert wire.begin(mail(size=1)).said().startswith(b"MAIL FROM:")


@pytest.mark.parametrize("octet", [b"\r", b"\n", b"\0", b"\t", b"\x7f"])
@pytest.mark.parametrize("field", ["reverse_path", "recipients", "mail_parameters", "recipient_parameters"])
def test_a_control_character_never_reaches_the_line(octet: bytes, field: str) -> None:
    tx = mail(mail_parameters=b" RET=HDRS", recipient_parameters=[b" NOTIFY=NEVER"])
    value = getattr(tx, field)
    setattr(tx, field, [value[0] + octet] if isinstance(value, list) else value + octet)
    wire = session("PIPELINING", "DSN").begin(tx)
    assert wire.said() == b""
    assert wire.finished[0].error_kind == ErrorKind.ERROR_LOCAL_ABORT


def test_our_mistakes_raise() -> None:
    wire = session("PIPELINING")
    with pytest.raises(ValueError, match="recipient"):
        wire.begin(Transaction(b"a@x", [], b""))
    with pytest.raises(ValueError, match="one entry"):
        wire.begin(mail(recipient_parameters=[]))
    with pytest.raises(TypeError, match="bytes"):
        wire.begin(Transaction(b"a@x", ["a@x"], b""))  # type: ignore[list-item]
    wire.begin(mail())
    with pytest.raises(RuntimeError, match="not ready"):
        wire.begin(mail())
    with pytest.raises(RuntimeError, match="under way"):
        wire.call("quit")


def test_a_finished_transaction_must_be_seen_before_the_next() -> None:
    wire = session("PIPELINING")
    machine = wire.machine
    machine.begin(mail(), wire.now)
    machine.take_output()
    machine.receive(b"250 s\r\n250 r\r\n354 go\r\n", wire.now)
    machine.take_output()
    machine.receive(b"250 queued\r\n", wire.now)
    with pytest.raises(RuntimeError, match="not ready"):
        machine.begin(mail(), wire.now)


# ---- after a transaction


def test_many_transactions_on_one_session() -> None:
    wire = session(*EVERYTHING)
    for i in range(1, 20):
        wire.begin(mail()).server(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.0.0 queued as %d\r\n" % i)
        assert wire.happened() == ["DONE", "READY"]
        assert wire.finished[-1].all_delivered
        assert wire.machine.transactions_done == i
    assert wire.machine.finished is None
    assert wire.call("quit") == 0
    assert wire.said().endswith(b"QUIT\r\n")
    assert wire.server(b"221 bye\r\n").happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_NONE


def test_a_transaction_can_be_tried_again() -> None:
    tx = mail()
    wire = session("PIPELINING").begin(tx).server(b"451 a\r\n503 b\r\n503 c\r\n").server(b"250 reset\r\n")
    wire.begin(tx).server(b"250 s\r\n250 r\r\n354 go\r\n").server(b"250 queued\r\n")
    assert tx.all_delivered
    assert tx.mail_reply == Reply(250, b"s")


@pytest.mark.parametrize("reply", [b"500 what\r\n", b"451 no\r\n", b"354 go\r\n", b"what\r\n"])
def test_ready_only_when_rset_was_taken(reply: bytes) -> None:
    wire = session("PIPELINING").begin(mail()).server(b"250 s\r\n550 r\r\n554 d\r\n")
    assert wire.happened() == ["DONE"]
    assert wire.machine.state == State.STATE_RESET
    wire.server(reply)
    assert wire.happened() == ["CLOSING"]
    assert wire.finished[0].error_kind == ErrorKind.ERROR_NONE


def test_quit_while_reset_is_awaited_closes() -> None:
    wire = session("PIPELINING").begin(mail()).server(b"250 s\r\n550 r\r\n554 d\r\n")
    wire.said()
    wire.call("quit")
    assert wire.happened() == ["DONE", "CLOSING"]
    assert wire.said() == b""


def test_trace_shows_the_dialogue() -> None:
    seen: list[tuple[str, bytes]] = []
    wire = session(*EVERYTHING, trace=lambda direction, line: seen.append((direction, line)))
    wire.begin(mail(prefix=b"Received: x\r\n")).server(b"250 s\r\n250-r\r\n250 r\r\n250 q\r\n")
    assert seen[:4] == [
        ("<", b"220 mx.example ESMTP"), (">", b"EHLO me.example"), ("<", b"250-mx.example"), ("<", b"250-PIPELINING"),
    ]  # fmt: skip
    assert seen[-8:] == [
        (">", b"MAIL FROM:<news@sender.example> SIZE=34"), (">", b"RCPT TO:<a@one.example>"), (">", b"BDAT 34 LAST"),
        ("-", b"34 octets of the message"), ("<", b"250 s"), ("<", b"250-r"), ("<", b"250 r"), ("<", b"250 q"),
    ]  # fmt: skip


def test_timeouts_are_configurable() -> None:
    wire = Wire(timeouts=Timeouts(greeting=7))
    assert wire.machine.deadline == wire.now + 7
    with pytest.raises(ValueError, match="body_rate"):
        Timeouts(body_rate=0)
