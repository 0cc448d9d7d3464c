"""The SMTP client machine before mail goes: STARTTLS, what may not survive it, AUTH, and REQUIRETLS."""

from __future__ import annotations

import base64
import hmac
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialogue import EVERYTHING, Wire, ehlo, mail, session

from fastrelay._core.client import ErrorKind, State, Tls
from fastrelay.deliver.login import Login

GREETING = b"220 mx.example ESMTP\r\n"
GO = b"220 2.0.0 go ahead\r\n"


def asked(tls: int = Tls.TLS_OFFERED, *keywords: str, **options: Any) -> Wire:
    """A session that has said STARTTLS."""
    wire = Wire(tls=tls, **options).server(GREETING).server(ehlo("STARTTLS", *keywords))
    assert wire.said() == b"EHLO me.example\r\nSTARTTLS\r\n"
    assert wire.happened() == []
    return wire


def secured(*keywords: str, verified: bool = False, tls: int = Tls.TLS_OFFERED, **options: Any) -> Wire:
    """A session under TLS, whose server offers these keywords then."""
    wire = asked(tls, **options).server(GO)
    assert wire.happened() == ["STARTTLS"]
    return wire.tls(verified).server(ehlo(*keywords))


# ---- STARTTLS


def test_tls_then_ehlo_again_then_ready() -> None:
    wire = asked()
    assert wire.machine.deadline == wire.now + 300
    wire.server(GO)
    assert wire.happened() == ["STARTTLS"]
    assert (wire.machine.state, wire.machine.deadline) == (State.STATE_HANDSHAKE, math.inf)
    assert wire.said() == b""
    wire.tls()
    assert wire.said() == b"EHLO me.example\r\n"
    wire.server(ehlo("PIPELINING", "STARTTLS"))
    assert wire.happened() == ["READY"], "STARTTLS is not said twice"
    assert (wire.machine.tls, wire.machine.tls_verified) == (True, False)
    assert wire.begin(mail(b"a@x")).said().startswith(b"MAIL FROM:")


def test_what_was_offered_in_clear_is_forgotten() -> None:
    wire = asked(Tls.TLS_OFFERED, *EVERYTHING, "AUTH PLAIN").server(GO)
    assert wire.machine.capabilities.chunking
    wire.tls()
    assert not wire.machine.capabilities.chunking
    assert wire.machine.capabilities.auth == ()
    wire.server(b"502 no\r\n").server(b"250 hello\r\n")  # HELO
    assert wire.happened() == ["STARTTLS", "READY"]
    assert not wire.machine.capabilities.esmtp


@given(injected=st.binary(min_size=1, max_size=40), cut=st.integers(0, 60))
def test_octets_behind_the_220_end_the_session(injected: bytes, cut: int) -> None:
    """In the same read, a later one, or cut anywhere: never taken for an answer (CVE-2011-0411)."""
    octets = GO + injected
    cut = min(cut, len(octets))
    wire = asked()
    wire.server(octets[:cut])
    if wire.machine.state != State.STATE_CLOSED:
        wire.server(octets[cut:])
    assert wire.happened()[-1:] == ["CLOSING"]
    assert wire.machine.starttls_injected
    assert (wire.machine.error_kind, wire.machine.tls) == (ErrorKind.ERROR_PROTOCOL, False)
    assert wire.said() == b"", "nothing is said behind it, not even QUIT"
    with pytest.raises(RuntimeError):
        wire.machine.tls_started(wire.now)


def test_a_reply_before_the_question_ends_the_session() -> None:
    """The 220 to STARTTLS that came along with the reply to EHLO is nobody's answer."""
    wire = Wire(tls=Tls.TLS_OFFERED).server(GREETING).server(ehlo("STARTTLS") + GO)
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL


def test_half_a_reply_before_the_question_ends_the_session() -> None:
    wire = Wire(tls=Tls.TLS_OFFERED).server(GREETING).server(ehlo("STARTTLS") + GO[:7]).server(GO[7:])
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL


@given(cuts=st.lists(st.integers(0, 200), max_size=6), refused=st.booleans())
def test_any_cut_of_replies_is_the_same_session(cuts: list[int], refused: bool) -> None:
    wire = Wire(tls=Tls.TLS_OFFERED)
    answer = b"454 4.7.0 not\r\n" if refused else GO
    replies = [GREETING, ehlo("PIPELINING", "STARTTLS", "SIZE 1000"), answer]
    replies += [] if refused else [ehlo("CHUNKING")]
    for reply in replies:
        at = sorted({0, len(reply), *(cut for cut in cuts if cut < len(reply))})
        for begin, end in itertools.pairwise(at):
            wire.server(reply[begin:end])
        if wire.machine.state == State.STATE_HANDSHAKE:
            wire.tls()
    assert wire.machine.state == State.STATE_READY
    assert wire.machine.tls != refused
    assert wire.machine.capabilities.pipelining == refused
    assert wire.machine.starttls_missing == refused


@pytest.mark.parametrize("refusal", [b"454 4.7.0 TLS not available\r\n", b"502 5.5.1 what\r\n", b"501 no\r\n"])
def test_refused_starttls(refusal: bytes) -> None:
    """Where TLS is no must mail goes in plain, on the same session, with what it offered; else it fails."""
    wire = asked(Tls.TLS_OFFERED, "PIPELINING").server(refusal)
    assert wire.happened() == ["READY"]
    assert wire.machine.starttls_missing
    assert wire.machine.starttls_refused is not None
    assert wire.machine.capabilities.pipelining
    wire = asked(Tls.TLS_REQUIRED).server(refusal)
    assert wire.happened() == ["CLOSING"]
    assert wire.said() == b"QUIT\r\n"
    assert (wire.machine.error_kind, wire.machine.starttls_missing) == (ErrorKind.ERROR_TLS, True)
    assert "refused STARTTLS" in (wire.machine.error or "")


@pytest.mark.parametrize("hello", [ehlo("PIPELINING"), b"502 what\r\n"])
def test_starttls_not_offered(hello: bytes) -> None:
    for tls, events in ((Tls.TLS_OFFERED, ["READY"]), (Tls.TLS_REQUIRED, ["CLOSING"])):
        wire = Wire(tls=tls).server(GREETING).server(hello)
        if hello[:1] == b"5":
            wire.server(b"250 hello\r\n")
        assert wire.happened() == events
        assert wire.machine.starttls_missing
    assert wire.machine.error_kind == ErrorKind.ERROR_TLS
    assert wire.said().endswith(b"QUIT\r\n")


def test_no_tls_wanted() -> None:
    wire = session("STARTTLS")
    assert not wire.machine.starttls_missing


@pytest.mark.parametrize("answer", [b"354 go\r\n", b"no reply\r\n"])
def test_senseless_answers_end_the_session(answer: bytes) -> None:
    wire = asked().server(answer)
    assert wire.happened() == ["CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_PROTOCOL


def test_what_breaks_before_tls_stands_is_trouble_with_tls() -> None:
    """The words tell; the kind lets mail go in plain where that may be."""
    wire = asked()
    wire.call("connection_lost")
    assert wire.machine.error_kind == ErrorKind.ERROR_TLS
    wire = asked().after(300)
    assert wire.machine.error_kind == ErrorKind.ERROR_TLS
    assert wire.machine.error == "timed out waiting for the reply to STARTTLS"
    wire = asked().server(b"421 4.3.2 bye\r\n")
    assert (wire.happened(), wire.machine.error_kind) == (["CLOSING"], ErrorKind.ERROR_TLS)
    wire = asked().server(GO)
    wire.machine.tls_failed("the certificate has expired")
    assert (wire.machine.error_kind, wire.machine.error) == (ErrorKind.ERROR_TLS, "the certificate has expired")
    wire = asked().server(GO)
    wire.tls()
    wire.call("connection_lost")
    assert wire.machine.error_kind == ErrorKind.ERROR_TLS
    wire = secured("PIPELINING")
    wire.call("connection_lost")
    assert wire.machine.error_kind == ErrorKind.ERROR_CLOSED


def test_a_server_that_refuses_ehlo_under_tls() -> None:
    wire = asked().server(GO)
    wire.tls()
    wire.server(b"421 4.3.2 not now\r\n")
    assert wire.happened() == ["STARTTLS", "GREETING_REFUSED", "CLOSING"]


def test_implicit_tls_comes_before_the_greeting() -> None:
    wire = Wire(tls=Tls.TLS_IMPLICIT)
    assert (wire.machine.state, wire.machine.deadline) == (State.STATE_HANDSHAKE, math.inf)
    wire.tls()
    assert (wire.said(), wire.machine.deadline) == (b"", wire.now + 300)
    wire.server(GREETING)
    assert wire.said() == b"EHLO me.example\r\n"
    wire.server(ehlo("STARTTLS"))
    assert wire.happened() == ["READY"]
    assert wire.machine.tls


def test_implicit_tls_reads_nothing_in_clear() -> None:
    wire = Wire(tls=Tls.TLS_IMPLICIT).server(GREETING)
    assert wire.happened() == ["CLOSING"]
    assert wire.said() == b""


def test_tls_that_nobody_asked_for() -> None:
    wire = session("STARTTLS")
    with pytest.raises(RuntimeError):
        wire.machine.tls_started(wire.now)


def test_trace_tells_of_tls() -> None:
    lines: list[tuple[str, bytes]] = []
    wire = asked(trace=lambda way, line: lines.append((way, line))).server(GO)
    wire.tls()
    assert lines[-4:-1] == [(">", b"STARTTLS"), ("<", b"220 2.0.0 go ahead"), ("-", b"TLS stands")]


# ---- AUTH


class Checked:
    """A server that knows mechanisms as RFC 4616, RFC 2195 and (LOGIN) use have them; who logged in."""

    user, password = "us\u00e9r", b"pass\xc3\xa9 word"

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def line(self) -> bytes:
        said = self.wire.said()
        assert said.endswith(b"\r\n")
        assert said.count(b"\r\n") == 1
        return said[:-2]

    def asks(self, challenge: bytes) -> bytes:
        self.wire.server(b"334 " + base64.b64encode(challenge) + b"\r\n")
        return base64.b64decode(self.line(), validate=True)


def login(*mechanisms: str, verified: bool = True, **options: Any) -> Checked:
    wire = asked(login=Login(Checked.user, Checked.password), **options).server(GO)
    wire.tls(verified).server(ehlo(f"AUTH {' '.join(mechanisms)}" if mechanisms else "PIPELINING"))
    said = wire.said()
    assert said.startswith(b"EHLO me.example\r\n")
    wire.sent = said.removeprefix(b"EHLO me.example\r\n")
    return Checked(wire)


def test_auth_plain() -> None:
    server = login("CRAM-MD5", "LOGIN", "PLAIN")
    command, mechanism, response = server.line().split(b" ")
    assert (command, mechanism) == (b"AUTH", b"PLAIN")
    assert base64.b64decode(response).split(b"\0") == [b"", Checked.user.encode(), Checked.password]
    assert server.wire.machine.deadline == server.wire.now + 300
    server.wire.server(b"235 2.7.0 welcome\r\n")
    assert server.wire.happened() == ["STARTTLS", "READY"]


def test_auth_plain_with_a_long_password_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checked, "password", b"x" * 400)
    server = login("PLAIN")
    assert server.line() == b"AUTH PLAIN"
    assert server.asks(b"").split(b"\0") == [b"", Checked.user.encode(), b"x" * 400]


def test_auth_login() -> None:
    server = login("LOGIN", "CRAM-MD5")
    assert server.line() == b"AUTH LOGIN"
    assert server.asks(b"Username:") == Checked.user.encode()
    assert server.asks(b"Password:") == Checked.password
    server.wire.server(b"235 2.7.0 welcome\r\n")
    assert server.wire.happened() == ["STARTTLS", "READY"]


def test_auth_cram_md5() -> None:
    server = login("CRAM-MD5", "GSSAPI")
    assert server.line() == b"AUTH CRAM-MD5"
    challenge = b"<1896.697170952@postoffice.example>"
    user, digest = server.asks(challenge).rsplit(b" ", 1)
    assert user == Checked.user.encode()
    assert digest == hmac.new(Checked.password, challenge, "md5").hexdigest().encode()


def test_cram_md5_as_in_rfc_2195() -> None:
    exchange = Login("tim", b"tanstaaftanstaaf")
    assert exchange.begin(("CRAM-MD5",)) == b"AUTH CRAM-MD5"
    challenge = b"PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"
    assert exchange.respond(challenge) == b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    assert exchange.respond(challenge) is None


@pytest.mark.parametrize("offered", [(), ("GSSAPI", "SCRAM-SHA-256")])
def test_no_mechanism_of_ours(offered: tuple[str, ...]) -> None:
    server = login(*offered)
    assert server.wire.said() == b"QUIT\r\n"
    assert server.wire.happened() == ["STARTTLS", "CLOSING"]
    assert server.wire.machine.error_kind == ErrorKind.ERROR_AUTH


def test_no_password() -> None:
    assert Login("user", None).begin(("PLAIN", "LOGIN", "CRAM-MD5")) is None


@pytest.mark.parametrize("refusal", [b"535 5.7.8 wrong\r\n", b"454 4.7.0 later\r\n", b"250 2.0.0 fine\r\n"])
def test_refused_credentials(refusal: bytes) -> None:
    server = login("PLAIN")
    server.line()
    server.wire.server(refusal)
    if refusal[:1] == b"2":
        assert server.wire.happened() == ["STARTTLS", "READY"]
        return
    assert server.wire.happened() == ["STARTTLS", "CLOSING"]
    assert server.wire.said() == b"QUIT\r\n"
    assert server.wire.machine.error_kind == ErrorKind.ERROR_AUTH
    assert refusal[4:9].decode() in (server.wire.machine.error or "")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_server_that_never_stops_asking(mechanism: str) -> None:
    wire = login(mechanism).wire
    for _ in range(4):
        wire.server(b"334 PDE+\r\n")
    assert wire.happened() == ["STARTTLS", "CLOSING"]
    assert wire.machine.error_kind == ErrorKind.ERROR_AUTH


def test_a_challenge_that_is_no_base64() -> None:
    wire = login("CRAM-MD5").wire.server(b"334 @@@\r\n")
    assert wire.machine.error_kind == ErrorKind.ERROR_AUTH


def test_credentials_are_shown_to_nobody_unknown() -> None:
    """Neither in clear nor under TLS with a certificate that nobody looked at; on loopback they may be."""
    wire = login("PLAIN", verified=False).wire
    assert wire.said() == b"QUIT\r\n"
    assert wire.machine.error_kind == ErrorKind.ERROR_AUTH
    for tls in (Tls.TLS_NONE, Tls.TLS_OFFERED):
        wire = Wire(tls=tls, login=Login("us", b"secret")).server(GREETING).server(ehlo("AUTH PLAIN"))
        assert wire.said() == b"EHLO me.example\r\nQUIT\r\n"
    wire = Wire(login=Login("us", b"secret"), auth_in_clear=True).server(GREETING).server(ehlo("AUTH PLAIN"))
    assert wire.said().startswith(b"EHLO me.example\r\nAUTH PLAIN ")


def test_no_secret_in_a_trace() -> None:
    lines: list[bytes] = []
    server = login("LOGIN", trace=lambda way, line: lines.append(line))
    server.line()
    server.asks(b"Username:")
    server.asks(b"Password:")
    server.wire.server(b"235 2.7.0 welcome\r\n")
    shown = b"\n".join(lines)
    assert b"AUTH LOGIN" in shown
    assert base64.b64encode(Checked.password) not in shown
    assert base64.b64encode(Checked.user.encode()) not in shown


# ---- REQUIRETLS (RFC 8689)


def test_requiretls() -> None:
    wire = secured("PIPELINING", "REQUIRETLS", "SIZE", verified=True)
    wire.said()
    assert wire.machine.capabilities.requiretls
    wire.begin(mail(b"a@x", requiretls=True))
    assert wire.said().splitlines()[0].endswith(b" REQUIRETLS")
    wire.server(b"250 s\r\n250 r\r\n354 go\r\n")
    assert wire.machine.state == State.STATE_FINAL


@pytest.mark.parametrize(
    ("keywords", "verified"), [(("REQUIRETLS",), False), (("PIPELINING",), True), (("PIPELINING",), False)]
)
def test_requiretls_fails_where_it_cannot_be_kept(keywords: tuple[str, ...], verified: bool) -> None:
    wire = secured(*keywords, verified=verified)
    wire.said()
    wire.begin(mail(b"a@x", requiretls=True))
    assert wire.said() == b""
    tx = wire.finished[0]
    assert (tx.error_kind, tx.error_status) == (ErrorKind.ERROR_NO_REQUIRETLS, "5.7.30")
    assert not tx.rcpt_written
    wire.begin(mail(b"a@x"))
    assert wire.said().startswith(b"MAIL FROM:<news@sender.example>")


def test_requiretls_in_clear() -> None:
    """A server that offers it in clear does not know what it says."""
    wire = session("REQUIRETLS").begin(mail(b"a@x", requiretls=True))
    assert wire.finished[0].error_status == "5.7.30"


def test_mail_without_it_does_not_say_it() -> None:
    wire = secured("REQUIRETLS", verified=True)
    wire.said()
    assert b"REQUIRETLS" not in wire.begin(mail(b"a@x")).said()
