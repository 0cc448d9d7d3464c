"""STARTTLS, AUTH and REQUIRETLS in the SMTP server machine: dialogues, however their octets are cut."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay._core import server

OK = b"235 2.7.0 Authenticated\r\n"
WRONG = b"535 5.7.8 Wrong\r\n"
EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
MESSAGE = MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"


def b64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


class Talk:
    """A connection whose shell knows one user: PLAIN with \\0me\\0secret, or LOGIN. Every word it hears is kept."""

    def __init__(self, *, late: bool = False, hello: bool = True, **settings: Any) -> None:
        limits = {key: settings.pop(key) for key in list(settings) if key in ("line", "errors", "commands")}
        self.machine = server.SmtpServer(b"relay.example", server.ServerLimits(**limits), may_relay=True)
        settings.setdefault("offer_auth", b"PLAIN LOGIN")
        for name, value in settings.items():
            setattr(self.machine, name, value)
        self.late = late
        self.waits: list[Any] = []  # with late: what the shell will say
        self.output = b""
        self.heard: list[Any] = []
        self.login: list[bytes] = []
        self.now = 1000.0
        self.machine.greeting(self.now)
        self.drain()
        if hello:
            self.say(EHLO)
        self.output = b""

    def say(self, octets: bytes) -> bytes:
        before = len(self.output)
        self.machine.receive(octets, self.now)
        self.drain()
        return self.output[before:]

    def play(self, pieces: Iterable[bytes]) -> Talk:
        for piece in pieces:
            self.say(piece)
        while self.waits:
            self.answer()
        return self

    def drain(self) -> None:
        while event := self.machine.next_event():
            if event == server.AUTH:
                self.heard.append((self.machine.auth_mechanism, self.machine.auth_octets))
                self.login = []
                self.waits.append(self.machine.auth_octets)
            elif event == server.AUTH_RESPONSE:
                self.heard.append(self.machine.auth_octets)
                self.waits.append(self.machine.auth_octets)
            elif event == server.AUTH_CANCEL:
                self.heard.append("cancelled")
                assert self.machine.user is None
            elif event == server.STARTTLS:
                self.heard.append("STARTTLS")
            elif event == server.MESSAGE:
                self.heard.append((self.machine.envelope.reverse_path, self.machine.envelope.requiretls))
                self.machine.answer(b"250 2.0.0 Stored\r\n", self.now)
            elif event == server.CLOSE:
                self.heard.append("closed")
            if self.waits and not self.late:
                self.answer()
        self.output += self.machine.take_output()

    def answer(self) -> None:
        """The shell's part of AUTH."""
        octets = self.waits.pop()
        if self.machine.auth_mechanism == b"PLAIN" and octets is None:
            self.machine.auth_challenge(b"", self.now)
        elif self.machine.auth_mechanism == b"PLAIN":
            self.judge(octets == b"\0me\0secret")
        else:
            if octets is not None:
                self.login.append(octets)
            if len(self.login) < 2:
                self.machine.auth_challenge(b"Password:" if self.login else b"Username:", self.now)
            else:
                self.judge(self.login == [b"me", b"secret"])
        self.drain()

    def judge(self, right: bool) -> None:
        self.machine.auth_done(b"me" if right else None, OK if right else WRONG, self.now)

    def result(self) -> tuple[Any, ...]:
        return self.output, self.heard, self.machine.user, self.machine.closed


PLAIN = b"AUTH PLAIN " + b64(b"\0me\0secret") + b"\r\n"
USERNAME, PASSWORD = b"334 VXNlcm5hbWU6", b"334 UGFzc3dvcmQ6"

# name: settings, then (what the client says, how the reply begins)
DIALOGUES: dict[str, tuple[dict[str, Any], list[tuple[bytes, bytes]]]] = {
    "PLAIN at once": ({}, [(PLAIN, b"235 2.7.0"), (MAIL, b"250"), (RCPT, b"250")]),
    "in any case": ({}, [(b"auth plain " + b64(b"\0me\0secret") + b"\r\n", b"235")]),
    "PLAIN in two steps": ({}, [(b"AUTH PLAIN\r\n", b"334 \r\n"), (b64(b"\0me\0secret") + b"\r\n", b"235")]),
    "LOGIN": (
        {},
        [(b"AUTH LOGIN\r\n", USERNAME), (b64(b"me") + b"\r\n", PASSWORD), (b64(b"secret") + b"\r\n", b"235")],
    ),
    "LOGIN with the name at once": ({}, [(b"AUTH LOGIN bWU=\r\n", PASSWORD), (b64(b"secret") + b" \r\n", b"235")]),
    "an empty initial response": ({}, [(b"AUTH LOGIN =\r\n", PASSWORD), (b"\r\n", b"535 5.7.8")]),
    "wrong, then right": ({}, [(b"AUTH PLAIN AGEAYg==\r\n", b"535 5.7.8"), (PLAIN, b"235")]),
    "cancelled": (
        {},
        [
            (b"AUTH LOGIN\r\n", USERNAME),
            (b"*\r\n", b"501 5.7.0"),
            (b"*\r\n", b"500 5.5.2"),
            (b"AUTH LOGIN bWU=\r\n", PASSWORD),
            (b"*\r\n", b"501 5.7.0"),
            (PLAIN, b"235"),
        ],
    ),
    "no base64": (
        {},
        [
            (b"AUTH PLAIN abc\r\n", b"501 5.5.2"),
            (b"AUTH PLAIN ab=c\r\n", b"501 5.5.2"),
            (b"AUTH PLAIN ==\r\n", b"501 5.5.2"),
            (b"AUTH PLAIN AGEAYg== AGEAYg==\r\n", b"501 5.5.2"),
            (b"AUTH LOGIN\r\n", USERNAME),
            (b"me\r\n", b"501 5.5.2"),
            (b"AUTH LOGIN\r\n", USERNAME),
            (b"bW\nU=\r\n", b"501 5.5.2"),
            (b"AUTH LOGIN\r\n", USERNAME),
            (b"=\r\n", b"501 5.5.2"),
            (b"NOOP\r\n", b"250"),
        ],
    ),
    "syntax": (
        {},
        [
            (b"AUTH\r\n", b"501 5.5.4"),
            (b"AUTHX\r\n", b"500 5.5.2"),
            (b"AUTH GSSAPI\r\n", b"504 5.5.4"),
            (b"AUTH PLAIN-AND-SIMPLE-AND-LONG-AS-NONE-MAY-BE\r\n", b"504 5.5.4"),
            (b"AUTH LOG\r\n", b"504 5.5.4"),
        ],
    ),
    "once": ({}, [(PLAIN, b"235"), (PLAIN, b"503 5.5.1"), (b"RSET\r\n", b"250"), (PLAIN, b"503 5.5.1")]),
    "not in a transaction": ({}, [(MAIL, b"250"), (PLAIN, b"503 5.5.1"), (b"RSET\r\n", b"250"), (PLAIN, b"235")]),
    "not before EHLO": ({"hello": False}, [(PLAIN, b"503 5.5.1"), (b"HELO x\r\n", b"250"), (PLAIN, b"503 5.5.1")]),
    "EHLO and RSET leave the user": (
        {"auth_required": True},
        [(MAIL, b"530 5.7.0"), (PLAIN, b"235"), (EHLO, b"250-"), (b"RSET\r\n", b"250"), (MAIL, b"250")],
    ),
    "not offered": ({"offer_auth": None}, [(PLAIN, b"502 5.5.1"), (b"MAIL FROM:<a@b> AUTH=<>\r\n", b"555 5.5.4")]),
    "only under TLS": (
        {"offer_auth": None, "auth_needs_tls": True, "auth_required": True, "offer_starttls": True},
        [(PLAIN, b"538 5.7.11"), (MAIL, b"530 5.7.0 STARTTLS first"), (RCPT, b"503"), (b"NOOP\r\n", b"250")],
    ),
    "AUTH= is checked and dropped": (
        {},
        [
            (b"MAIL FROM:<a@b> AUTH=<>\r\n", b"250"),
            (b"RSET\r\n", b"250"),
            (b"MAIL FROM:<a@b> AUTH=e+3Dmc2@example.com SIZE=10\r\n", b"250"),
            (b"RSET\r\n", b"250"),
            (b"MAIL FROM:<a@b> AUTH=<> AUTH=<>\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> AUTH\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> AUTH=+3d\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> AUTH=" + b"x" * 501 + b"\r\n", b"501 5.5.4"),
        ],
    ),
    "REQUIRETLS is of TLS": (
        {},
        [(b"MAIL FROM:<a@b> REQUIRETLS\r\n", b"555 5.5.4")],
    ),
    "REQUIRETLS": (
        {"tls": True},
        [
            (b"MAIL FROM:<a@b> REQUIRETLS=1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> REQUIRETLS REQUIRETLS\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> REQUIRETLS\r\n", b"250"),
            (MESSAGE[len(MAIL) :], b"250 2.1.5"),
        ],
    ),
    "STARTTLS where it does not fit": (
        {"offer_starttls": True},
        [
            (b"STARTTLS now\r\n", b"501 5.5.4"),
            (b"STARTTLSX\r\n", b"500 5.5.2"),
            (MAIL, b"250"),
            (b"STARTTLS\r\n", b"503 5.5.1"),
            (b"RSET\r\n", b"250"),
            (PLAIN, b"235"),
            (b"STARTTLS\r\n", b"503 5.5.1"),
        ],
    ),
    "STARTTLS within TLS": ({"offer_starttls": True, "tls": True}, [(b"STARTTLS\r\n", b"503 5.5.1")]),
    "STARTTLS not offered": ({}, [(b"starttls\r\n", b"502 5.5.1"), (b"STARTTLS x\r\n", b"502 5.5.1")]),
    "a line as long as may be": (
        {"line": 100},
        [
            (b"AUTH PLAIN " + b"A" * 12272 + b"\r\n", b"535"),  # 12285 octets, and base64 of zeros
            (b"AUTH PLAIN " + b"A" * 12275 + b"\r\n", b"501 5.5.2"),  # 12288, and no base64
            (b"AUTH PLAIN " + b"A" * 12276 + b"\r\n", b"500 5.5.2"),  # 12289
            (b"NOOP " + b"A" * 200 + b"\r\n", b"500 5.5.2 Line too long"),
            (b"AUTH PLAIN\r\n", b"334 "),
            (b"A" * 12284 + b"\r\n", b"535"),  # 12286
            (b"AUTH PLAIN\r\n", b"334 "),
            (b"A" * 12288 + b"\r\n", b"500 5.5.6"),
            (b"NOOP\r\n", b"250"),
        ],
    ),
    "too many errors": (
        {"errors": 3},
        [(b"AUTH PLAIN AGEAYg==\r\n", b"535 5.7.8")] * 3 + [(b"AUTH PLAIN AGEAYg==\r\n", b"421 4.7.0")],
    ),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_auth_dialogue(name: str) -> None:
    settings, steps = DIALOGUES[name]
    talk = Talk(**settings)
    for said, expected in steps:
        heard = talk.say(said)
        assert heard.startswith(expected), (said[:80], heard)


@pytest.mark.parametrize("name", DIALOGUES)
def test_auth_dialogue_cut_anywhere(name: str) -> None:
    """The same replies and events in one piece, in two pieces cut anywhere, octet by octet, and answered late."""
    settings, steps = DIALOGUES[name]
    script = b"".join(said for said, _ in steps)
    whole = Talk(**settings).play([script]).result()
    assert Talk(**settings).play([said for said, _ in steps]).result() == whole
    assert Talk(**settings).play([script[i : i + 1] for i in range(len(script))]).result() == whole
    assert Talk(late=True, **settings).play([script]).result() == whole
    step = 1 if len(script) < 3000 else 997
    for seam in range(1, len(script), step):
        assert Talk(**settings).play([script[:seam], script[seam:]]).result() == whole
        assert Talk(late=True, **settings).play([script[:seam], script[seam:]]).result() == whole


LINES = st.sampled_from(
    [
        *(
            EHLO,
            b"HELO x\r\n",
            MAIL,
            RCPT,
            MESSAGE,
            b"RSET\r\n",
            b"NOOP\r\n",
            PLAIN,
            b"AUTH PLAIN\r\n",
            b"*\r\n",
            b"\r\n",
        ),
        *(
            b"AUTH LOGIN\r\n",
            b"AUTH LOGIN bWU=\r\n",
            b"AUTH PLAIN =\r\n",
            b64(b"secret") + b"\r\n",
            b64(b"me") + b"\r\n",
        ),
        *(
            b64(b"\0me\0secret") + b"\r\n",
            b"AUTH PLAIN x\r\n",
            b"no base64\r\n",
            b"\n",
            b"AUTH",
            b" ",
            b"BDAT 3\r\n*\r\n",
        ),
        *(b"BDAT 3 LAST\r\n*\r\n", b"MAIL FROM:<a@b> AUTH=<>\r\n", b"A" * 3000 + b"\r\n", b"QUIT\r\n"),
    ]
)


@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 400), max_size=6), st.booleans(), st.booleans())
def test_whatever_is_said_seams_change_nothing(
    lines: list[bytes], seams: list[int], late: bool, required: bool
) -> None:
    script = b"".join(lines)
    cuts = sorted({min(seam, len(script)) for seam in seams})
    pieces = [script[a:b] for a, b in zip([0, *cuts], [*cuts, len(script)], strict=True)]
    whole = Talk(auth_required=required).play([script])
    cut = Talk(late=late, auth_required=required).play(pieces)
    assert cut.result() == whole.result()
    if required and whole.machine.user is None:
        assert not any(isinstance(one, tuple) and one[0] == b"a@b.example" for one in whole.heard)


def test_keywords_of_ehlo() -> None:
    def keywords(**settings: Any) -> list[bytes]:
        lines = Talk(hello=False, **settings).say(EHLO).split(b"\r\n")[1:-1]
        assert all(line.startswith(b"250-") for line in lines[:-1])
        assert lines[-1].startswith(b"250 ")
        return [line[4:] for line in lines if line[4:8] in (b"STAR", b"AUTH", b"REQU")]

    assert keywords(offer_auth=None) == []
    assert keywords(offer_starttls=True) == [b"STARTTLS", b"AUTH PLAIN LOGIN"]
    assert keywords(offer_starttls=True, tls=True) == [b"AUTH PLAIN LOGIN", b"REQUIRETLS"]
    talk = Talk(offer_starttls=True)
    talk.say(PLAIN)
    again = talk.say(EHLO)
    assert b"AUTH" not in again
    assert b"STARTTLS" not in again


@pytest.mark.parametrize("injected", [b"", EHLO + MESSAGE, b"x" * 5000, b"NOOP", b"STARTTLS\r\n", b"\x16\x03\x01"])
@pytest.mark.parametrize("before", [b"", b"NOOP\r\n", MESSAGE])
def test_what_comes_behind_starttls_is_forgotten(before: bytes, injected: bytes) -> None:
    """However the octets are cut: nothing that was said before the handshake holds, or is answered, after it."""
    script = before + b"STARTTLS\r\n"
    seams = sorted({0, 1, len(script) - 2, len(script) - 1, len(script), len(script) + 1, len(script) + len(injected)})
    outcomes = set()
    for seam in seams:
        for late in (False, True):
            talk = Talk(offer_starttls=True, late=late)
            everything = script + injected
            talk.play([everything[:seam], everything[seam:]])
            assert talk.output.endswith(b"220 2.0.0 Ready to start TLS\r\n")
            assert talk.heard[-1] == "STARTTLS"
            assert talk.machine.backlog == 0
            assert talk.machine.deadline == float("inf")
            outcomes.add(talk.output)
            assert talk.say(injected) == b""
            talk.machine.tls_started(talk.now)
            talk.drain()
            assert talk.machine.helo is None
            assert talk.machine.tls
            assert talk.say(MAIL) == b"503 5.5.1 EHLO first\r\n"
            assert b"STARTTLS" not in talk.say(EHLO)
            assert talk.say(MESSAGE).endswith(b"250 2.0.0 Stored\r\n")
    assert len(outcomes) == 1


def test_starttls_behind_a_message_that_waits() -> None:
    """What the machine held back is dropped as well."""
    machine = server.SmtpServer(b"relay.example", server.ServerLimits(), may_relay=True)
    machine.offer_starttls = True
    machine.greeting(1.0)
    machine.receive(EHLO + MESSAGE + b"STARTTLS\r\n" + MESSAGE, 1.0)
    assert machine.next_event() == server.MESSAGE
    machine.answer(b"250 2.0.0 Stored\r\n", 2.0)
    assert machine.next_event() == server.STARTTLS
    assert machine.next_event() == server.NONE
    assert machine.backlog == 0
    machine.tls_started(3.0)
    assert machine.take_output().endswith(b"250 2.0.0 Stored\r\n220 2.0.0 Ready to start TLS\r\n")
    assert machine.deadline == 3.0 + machine.limits.idle_seconds


def test_no_tls_any_more() -> None:
    talk = Talk(offer_starttls=True)
    talk.machine.limits.tls_refusal = b"454 4.7.0 Not now\r\n"
    assert talk.say(b"STARTTLS\r\n") == b"454 4.7.0 Not now\r\n"
    assert talk.say(b"NOOP\r\n").startswith(b"250")


def test_answers_need_a_question() -> None:
    machine = Talk(offer_starttls=True).machine
    with pytest.raises(RuntimeError, match="AUTH"):
        machine.auth_challenge(b"", 1.0)
    with pytest.raises(RuntimeError, match="AUTH"):
        machine.auth_done(None, WRONG, 1.0)
    with pytest.raises(RuntimeError, match="STARTTLS"):
        machine.tls_started(1.0)
    machine.connection_lost()
    machine.auth_challenge(b"", 1.0)
    machine.auth_done(b"me", OK, 1.0)
    machine.tls_started(1.0)
    assert (machine.user, machine.tls, machine.take_output()) == (None, False, b"")


def test_what_follows_auth_waits_for_its_answer() -> None:
    talk = Talk(late=True, auth_required=True)
    assert talk.say(PLAIN + MAIL) == b""
    assert talk.machine.backlog == len(MAIL)
    assert talk.machine.deadline == talk.now + talk.machine.limits.idle_seconds
    assert not talk.machine.waiting
    talk.play([])
    assert talk.output == OK + b"250 2.1.0 Ok\r\n"
    assert talk.machine.deadline == talk.now + talk.machine.limits.idle_seconds


def test_a_response_has_a_deadline() -> None:
    talk = Talk()
    talk.say(b"AUTH LOGIN\r\n")
    due = talk.now + talk.machine.limits.idle_seconds
    assert talk.machine.deadline == due
    talk.now += 200
    talk.say(b"b")  # an octet at a time does not move it
    assert talk.machine.deadline == due
    assert talk.machine.tick(due)
    talk.drain()
    assert talk.output.endswith(b"421 4.4.2 relay.example Timeout, closing\r\n")


def test_a_shell_that_never_answers_holds_nobody_for_ever() -> None:
    talk = Talk(late=True)
    talk.say(PLAIN)
    assert talk.machine.tick(talk.machine.deadline)
    talk.drain()
    assert talk.output == b"421 4.4.2 relay.example Timeout, closing\r\n"
    talk.play([])  # too late
    assert talk.machine.user is None


def test_421_to_auth_closes() -> None:
    talk = Talk(late=True)
    talk.say(PLAIN + MAIL)
    talk.machine.auth_done(None, b"421 4.7.0 Too many failures\r\n", talk.now)
    talk.drain()
    assert talk.output == b"421 4.7.0 Too many failures\r\n"
    assert talk.machine.closed


@pytest.mark.parametrize("where", ["response", "judged", "handshake"])
def test_shutdown_in_the_middle(where: str) -> None:
    talk = Talk(late=True, offer_starttls=True)
    if where == "handshake":
        talk.say(b"STARTTLS\r\n")
    else:
        talk.say(b"AUTH LOGIN\r\n")
        if where == "response":
            talk.answer()
    before = len(talk.output)
    talk.machine.shutdown(talk.now)
    talk.drain()
    if where == "response":
        assert talk.machine.closed
    else:  # nothing can be said in the middle of a handshake, and an answer is on its way
        assert talk.output[before:] == b""
        assert not talk.machine.closed
        if where == "handshake":
            talk.machine.tls_started(talk.now)
            talk.drain()
        else:
            talk.answer()
            talk.say(b"bWU=\r\n")
        assert talk.machine.closed
    assert talk.output.endswith(b"421 4.3.2 relay.example Shutting down\r\n")


def test_verify_sender_may_refuse() -> None:
    talk = Talk()
    asked: list[bytes] = []
    answers = [b"550 5.7.1 Not yours\r\n", b"450 4.7.0 Later\r\n", None]

    def verify(reverse_path: bytes) -> bytes | None:
        asked.append(reverse_path)
        return answers[len(asked) - 1]

    talk.machine.verify_sender = verify
    assert talk.say(b"MAIL FROM:<broken\r\n").startswith(b"501")
    assert talk.say(MAIL) == answers[0]
    assert talk.say(RCPT).startswith(b"503")
    assert talk.say(MAIL) == answers[1]
    assert talk.say(b"MAIL FROM:<>\r\n").startswith(b"250")
    assert asked == [b"a@b.example", b"a@b.example", b""]


def test_what_was_decoded_is_not_kept() -> None:
    talk = Talk()
    talk.say(PLAIN)
    assert talk.machine.auth_octets is None
    talk = Talk(late=True)
    talk.say(PLAIN)
    talk.machine.connection_lost()
    assert talk.machine.auth_octets is None


def test_relaying_is_said_to_need_auth() -> None:
    talk = Talk()
    talk.machine.may_relay = False
    talk.say(MAIL)
    assert talk.say(RCPT) == b"550 5.7.1 Relaying denied without AUTH\r\n"
