"""The SMTP server machine in dialogues: what a client says, line by line, and what it hears."""

from __future__ import annotations

import gc
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastrelay._core import server

Connect = Callable[..., Any]

M = (b"MAIL FROM:<a@b.example>\r\n", b"250 2.1.0")
R = (b"RCPT TO:<c@d.example>\r\n", b"250 2.1.5")
D = (b"DATA\r\n", b"354 ")
BODY = (b"Subject: x\r\n\r\nhello\r\n.\r\n", b"250 2.0.0 Stored")

# name: settings, then (what the client says, how the reply begins). An empty reply: the machine stays silent.
DIALOGUES: dict[str, tuple[dict[str, Any], list[tuple[bytes, bytes]]]] = {
    "a message": ({}, [M, R, D, BODY, (b"QUIT\r\n", b"221 2.0.0")]),
    "verbs in any case": ({}, [(b"mail from:<a@b.example>\r\n", b"250"), (b"rCpT tO:<c@d>\r\n", b"250"), D, BODY]),
    "blanks at line ends": ({}, [(b"NOOP  \r\n", b"250"), (b"MAIL FROM:<a@b> \t\r\n", b"250"), (b"RSET \r\n", b"250")]),
    "blanks behind the colon": ({}, [(b"MAIL FROM: <a@b>\r\n", b"250"), (b"RCPT TO:  <a@b>\r\n", b"250")]),
    "small verbs": (
        {},
        [
            (b"NOOP anything\r\n", b"250 2.0.0"),
            (b"VRFY someone\r\n", b"252 2."),
            (b"VRFY\r\n", b"501 5.5.4"),
            (b"HELP\r\n", b"214 2.0.0"),
            (b"HELP MAIL\r\n", b"214 2.0.0"),
            (b"EXPN list\r\n", b"502 5.5.1"),
            (b"AUTH PLAIN AGEAYg==\r\n", b"502 5.5.1"),
            (b"STARTTLS\r\n", b"502 5.5.1"),
            (b"FROB\r\n", b"500 5.5.2"),
            (b"\r\n", b"500 5.5.2"),
            (b"MAI\r\n", b"500 5.5.2"),
            (b"NOOPS\r\n", b"500 5.5.2"),
        ],
    ),
    "HELO": (
        {"hello": False},
        [
            (b"HELO client.example\r\n", b"250 relay.example\r\n"),
            (b"MAIL FROM:<a@b> SIZE=10\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b>\r\n", b"250"),
            (b"RCPT TO:<a@b> NOTIFY=NEVER\r\n", b"555 5.5.4"),
            (b"RCPT TO:<a@b>\r\n", b"250"),
            D,
            BODY,
        ],
    ),
    "hello has no enhanced codes": (
        {"hello": False},
        [(b"EHLO\r\n", b"501 Syntax"), (b"HELO a b\r\n", b"501 Syntax"), (b"EHLO a\xc3\xbc\r\n", b"501 Syntax")],
    ),
    "hello with a literal": ({"hello": False}, [(b"EHLO [IPv6:2001:db8::1]\r\n", b"250-relay.example\r\n250-")]),
    "MAIL before hello": ({"hello": False}, [(M[0], b"503 5.5.1"), (R[0], b"503 5.5.1"), (D[0], b"503 5.5.1")]),
    "wrong order": (
        {},
        [
            (R[0], b"503 5.5.1"),
            (D[0], b"503 5.5.1"),
            M,
            (M[0], b"503 5.5.1"),
            (D[0], b"554 5.5.1"),
            R,
            (b"RSET\r\n", b"250 2.0.0"),
            (R[0], b"503 5.5.1"),
        ],
    ),
    "EHLO forgets the transaction": ({}, [M, R, (b"EHLO again.example\r\n", b"250-"), (D[0], b"503"), M, R, D, BODY]),
    "arguments where none belong": (
        {},
        [(b"RSET x\r\n", b"501 5.5.4"), (b"QUIT x\r\n", b"501 5.5.4"), M, R, (b"DATA x\r\n", b"501 5.5.4"), D, BODY],
    ),
    "null reverse-path": ({}, [(b"MAIL FROM:<>\r\n", b"250 2.1.0"), R, D, BODY]),
    "bad senders": (
        {"errors": 100},
        [
            (b"MAIL\r\n", b"501 5.5.4"),
            (b"MAIL a@b\r\n", b"501 5.5.4"),
            (b"MAIL FROM:\r\n", b"501 5.1.7"),
            (b"MAIL FROM:a@b\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@b\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@b>>\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a b@c>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@b.>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@.b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@b..c>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@-b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@b_c>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<@b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<.a@b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a.@b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a..a@b>\r\n", b"501 5.1.7"),
            (b'MAIL FROM:<"a@b>\r\n', b"501 5.1.7"),
            (b'MAIL FROM:<"a"b@c>\r\n', b"501 5.1.7"),
            (b'MAIL FROM:<"a\\"@c>\r\n', b"501 5.1.7"),
            (b"MAIL FROM:<a@[1.2.3]>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@[1.2.3.256]>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@[IPv6:1:2]>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@[x:y]>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<a@[1.2.3.4>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<@a,@b>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<@a,b:c@d>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<@a,:c@d>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<someone>\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<\xc3\xbc@b>\r\n", b"553 5.6.7"),
            (b"MAIL FROM:<a@\xc3\xbc>\r\n", b"553 5.6.7"),
            (b"MAIL FROM:<\xc3@b> SMTPUTF8\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<\xed\xa0\x80@b> SMTPUTF8\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<\xc0\xaf@b> SMTPUTF8\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<\xc2\x85@b> SMTPUTF8\r\n", b"501 5.1.7"),
            (b"MAIL FROM:<\xf4\x90\x80\x80@b> SMTPUTF8\r\n", b"501 5.1.7"),
        ],
    ),
    "lengths": (
        {},
        [
            (b"MAIL FROM:<%b@b>\r\n" % (b"a" * 65), b"501 5.1.7"),
            (b"MAIL FROM:<a@%b>\r\n" % (b"a" * 64), b"501 5.1.7"),
            (b"MAIL FROM:<a@%b>\r\n" % b".".join([b"a" * 62] * 5), b"501 5.1.7"),
            (b"MAIL FROM:<a@%bcc>\r\n" % (b"ab." * 84), b"501 5.1.7"),  # 256 of mailbox, domain under 255
            (b"MAIL FROM:<%b@%b>\r\n" % (b"a" * 64, b"b" * 63), b"250"),
            (b"RCPT TO:<a@%b>\r\n" % (b"ab." * 83 + b"c"), b"250"),  # a path of 254
            (b"RCPT TO:<a@%b>\r\n" % (b"ab." * 83 + b"cdef"), b"501 5.1.3"),  # 257
            (b"RCPT TO:<a@%b>\r\n" % (b"ab." * 83 + b"cde"), b"250"),  # 256
        ],
    ),
    "recipients of every kind": (
        {},
        [
            (b"MAIL FROM:<a@b> SMTPUTF8 BODY=8BITMIME\r\n", b"250"),
            (b'RCPT TO:<"a b\\"c"@d.example>\r\n', b"250"),
            (b"RCPT TO:<a%b!c@d.example>\r\n", b"250"),
            (b"RCPT TO:<a@[192.0.2.1]>\r\n", b"250"),
            (b"RCPT TO:<a@[IPv6:2001:db8::1]>\r\n", b"250"),
            (b"RCPT TO:<@x.example,@[1.2.3.4]:a@d.example>\r\n", b"250"),
            (b"RCPT TO:<\xce\xb4@\xce\xb4.example>\r\n", b"250"),
            (b"RCPT TO:<postmaster@d.example>\r\n", b"250"),
            (b"RCPT TO:<a=b/c+d'e@localhost>\r\n", b"250"),
            D,
            BODY,
        ],
    ),
    "bad recipients": (
        {},
        [
            M,
            (b"RCPT TO:<>\r\n", b"501 5.1.3"),
            (b"RCPT TO:<Postmaster>\r\n", b"550 5.1.3"),
            (b"RCPT TO:<someone>\r\n", b"501 5.1.3"),
            (b"RCPT TO:someone\r\n", b"501 5.1.3"),
            (b"RCPT FROM:<a@b>\r\n", b"501 5.5.4"),
            (b"RCPT\r\n", b"501 5.5.4"),
            (b"RCPT TO:<\xc3\xbc@b>\r\n", b"553 5.6.7"),
            (D[0], b"554 5.5.1"),
        ],
    ),
    "relaying denied": ({"may_relay": False}, [M, (R[0], b"550 5.7.1"), (D[0], b"554 5.5.1")]),
    "sender parameters": (
        {"errors": 100},
        [
            (b"MAIL FROM:<a@b> FOO\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> FOO=BAR\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> AUTH=<>\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> NOTIFY=NEVER\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> BODY\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=1x\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=-1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=1 SIZE=1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=99999999999999999999\r\n", b"552 5.3.4"),
            (b"MAIL FROM:<a@b> SIZE=999999999999999999999\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=104857601\r\n", b"552 5.3.4"),
            (b"MAIL FROM:<a@b> SMTPUTF8=1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> RET=ALL\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> ENVID=a+4\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> ENVID=a+4a\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> ENVID=%b\r\n" % (b"e" * 101), b"501 5.5.4"),
            (b"MAIL FROM:<a@b>SIZE=1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> =1\r\n", b"501 5.5.4"),
            (b"MAIL FROM:<a@b> SI ZE=1\r\n", b"555 5.5.4"),
            (b"MAIL FROM:<a@b> size=104857600  body=8bitmime ret=hdrs ENVID=a+2Bb\r\n", b"250"),
        ],
    ),
    "recipient parameters": (
        {"errors": 100},
        [
            M,
            (b"RCPT TO:<a@b> FOO\r\n", b"555 5.5.4"),
            (b"RCPT TO:<a@b> SIZE=1\r\n", b"555 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=SUCCESS,NEVER\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=SUCCESS,\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=DELAY,DELAY\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=NEVER NOTIFY=NEVER\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=rfc822\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=rfc822;\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=;a@b\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=rfc822;a+zz\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=rfc822;%b\r\n" % (b"o" * 494), b"501 5.5.4"),
            (b"RCPT TO:<a@b> ORCPT=utf-8;\xc3\xbc@b\r\n", b"501 5.5.4"),
            (b"RCPT TO:<a@b> NOTIFY=success,failure,delay ORCPT=rfc822;a+2Bx@b\r\n", b"250"),
            (b"RCPT TO:<d@b> NOTIFY=NEVER\r\n", b"250"),
            (b"RCPT TO:<e@b>\r\n", b"250"),
            D,
            BODY,
        ],
    ),
    "ORCPT in UTF-8": (
        {},
        [(b"MAIL FROM:<> SMTPUTF8\r\n", b"250"), (b"RCPT TO:<a@b> ORCPT=utf-8;\xc3\xbc@b\r\n", b"250"), D, BODY],
    ),
    "too many recipients": (
        {"recipients": 2, "commands": 10},
        [M, R, R, *[(R[0], b"452 4.5.3")] * 40, D, BODY, M, R, D, BODY],
    ),
    "lines": (
        {"line": 100},
        [
            (b"NOOP %b\r\n" % (b"x" * 93), b"250"),
            (b"NOOP %b\r\n" % (b"x" * 94), b"500 5.5.2"),
            (b"NOOP %b\r\n" % (b"x" * 5000), b"500 5.5.2"),
            (b"NO\rOP\r\n", b"500 5.5.2"),
            (b"NOOP\n", b""),
            (b"NOOP\r\n", b"500 5.5.2"),
            (b"NOOP\n\r\n", b"500 5.5.2"),
            (b"NOOP\r\r\n", b"500 5.5.2"),
            (b"NOOP \0\r\n", b"500 5.5.2"),
            (b"NOOP a\tb\r\n", b"500 5.5.2"),
            (b"NOOP \x7f\r\n", b"500 5.5.2"),
            (b"NOOP\r\n", b"250"),
        ],
    ),
    "an injected line end": (
        {},
        [
            (b"MAIL FROM:<a@b\r>\r\n", b"500 5.5.2"),
            (b"MAIL FROM:<a@b>\nRCPT TO:<c@d>\r\n", b"500 5.5.2"),
            (R[0], b"503"),
        ],
    ),
    "too many errors": ({"errors": 2}, [(b"A\r\n", b"500"), (b"B\r\n", b"500"), (b"C\r\n", b"421 4.7.0")]),
    "errors are forgiven for mail": (
        {"errors": 2},
        [
            (b"A\r\n", b"500"),
            (b"B\r\n", b"500"),
            M,
            R,
            D,
            BODY,
            (b"A\r\n", b"500"),
            (b"B\r\n", b"500"),
            (b"C\r\n", b"421"),
        ],
    ),
    "too many commands": (
        {"commands": 4},
        [(b"NOOP\r\n", b"250"), (b"RSET\r\n", b"250"), (b"NOOP\r\n", b"250"), (b"NOOP\r\n", b"421 4.7.0")],
    ),
    "HTTP": ({"hello": False}, [(b"GET / HTTP/1.1\r\n", b"421 4.7.0"), (b"Host: x\r\n\r\n", b"")]),
    "HTTP with a body": ({}, [(b"POST /x HTTP/1.1\r\n", b"421 4.7.0"), (M[0], b"")]),
    "TLS": ({"hello": False}, [(b"\x16\x03\x01\x02", b"421 4.7.0"), (b"\r\n", b"")]),
    "silence after QUIT": ({}, [(b"QUIT\r\n", b"221 2.0.0"), (b"NOOP\r\n", b"")]),
    "two messages": (
        {},
        [M, R, D, BODY, M, R, R, D, (b"second\r\n..\r\n.\r\n", b"250 2.0.0 Stored"), (b"NOOP\r\n", b"250")],
    ),
    "an empty message": ({}, [M, R, D, (b".\r\n", b"250 2.0.0 Stored")]),
    "commands in a content": ({}, [M, R, D, (b"QUIT\r\nRSET\r\n.\r\n", b"250 2.0.0 Stored"), (b"NOOP\r\n", b"250")]),
    "a refused message": (
        {"reply": b"451 4.3.0 No\r\n"},
        [M, R, D, (BODY[0], b"451 4.3.0"), M, R, D, (BODY[0], b"451")],
    ),
    "bare line ends in DATA": (
        {},
        [
            M,
            R,
            D,
            (b"a\n.\nb\r\n.\r\n", b"550 5.5.2"),
            (R[0], b"503"),
            M,
            R,
            D,
            (b"a\rb\r\n.\r\n", b"550 5.5.2"),
            M,
            R,
            D,
            BODY,
        ],
    ),
    "bare line ends repaired": (
        {"bare_line_ends": "repair"},
        [M, R, D, (b"a: b\n\n.\nb\rc\r\n.\r\n", b"250 2.0.0 Stored")],
    ),
    "NUL in DATA": ({}, [M, R, D, (b"a\0b\r\n.\r\n", b"550 5.6.0"), M, R, D, BODY]),
    "NUL, repairing": ({"bare_line_ends": "repair"}, [M, R, D, (b"a\0b\n\r\n.\r\n", b"550 5.6.0")]),
    "too large": (
        {"message_size": 20},
        [M, R, D, (b"x" * 30 + b"\r\n.\r\n", b"552 5.3.4"), M, R, D, (b"x" * 18 + b"\r\n.\r\n", b"250 2.0.0 Stored")],
    ),
    "header too large": (
        {"header_size": 20},
        [
            *(M, R, D, (b"A: 45678901234567\r\n\r\n.\r\n", b"552 5.3.4")),
            *(M, R, D, (b"A: 4567890123456\r\n\r\nbody\r\n.\r\n", b"250 2.0.0 Stored")),
            *(M, R, D, (b"no header but text\r\n\r\n.\r\n", b"552 5.3.4 Header")),
        ],
    ),
    "BDAT": (
        {},
        [
            *(M, R, (b"BDAT 5\r\nabc\r\n", b"250 2.0.0"), (b"BDAT 3 LAST\r\n.\r\n", b"250 2.0.0 Stored")),
            *(M, R, (b"bdat 8 last\r\n\r\n.\r\nabc", b"250 2.0.0 Stored")),
            *(
                M,
                R,
                (b"BDAT 2\r\na\r", b"250 2.0.0"),
                (b"BDAT 1\r\n\n", b"250 2.0.0"),
                (b"BDAT 0 LAST\r\n", b"250 2.0.0 S"),
            ),
            *(M, R, (b"BDAT 0 LAST\r\n", b"250 2.0.0 Stored")),
            *(M, R, (b"BDAT 3\r\na\r\n", b"250 2.0.0"), (b"RSET\r\n", b"250"), M, R, D, BODY),
        ],
    ),
    "BDAT out of order": (
        {},
        [
            (b"BDAT 6\r\nQUIT\r\n", b"503 5.5.1"),
            M,
            (b"BDAT 6 LAST\r\nQUIT\r\n", b"503 5.5.1"),
            (R[0], b"503"),
            *(M, R, (b"BDAT 3\r\na\r\n", b"250"), (D[0], b"503 5.5.1"), (R[0], b"503 5.5.1"), (M[0], b"503 5.5.1")),
            (b"BDAT 0 LAST\r\n", b"250 2.0.0 Stored"),
        ],
    ),
    "BDAT too large": (
        {"message_size": 10},
        [
            *(M, R, (b"BDAT 11 LAST\r\nQUIT\r\nQUIT!", b"552 5.3.4"), (b"BDAT 6 LAST\r\nQUIT\r\n", b"503 5.5.1")),
            *(
                M,
                R,
                (b"BDAT 6\r\nQUIT\r\n", b"250"),
                (b"BDAT 6\r\nQUIT\r\n", b"552 5.3.4"),
                (b"BDAT 1 LAST\r\nx", b"503"),
            ),
            *(M, R, (b"BDAT 10 LAST\r\n12345678\r\n", b"250 2.0.0 Stored")),
        ],
    ),
    "BDAT with a bare line end": (
        {},
        [
            *(M, R, (b"BDAT 3\r\na\nb", b"550 5.5.2"), (b"BDAT 3 LAST\r\na\r\n", b"503 5.5.1")),
            *(M, R, (b"BDAT 2\r\na\r", b"250"), (b"BDAT 1 LAST\r\nb", b"550 5.5.2")),
            *(M, R, (b"BDAT 2 LAST\r\na\r", b"550 5.5.2")),
        ],
    ),
    "BDAT of no known size": ({}, [M, R, (b"BDAT x\r\n", b"501 5.5.4"), (b"NOOP\r\n", b"")]),
    "BDAT without size": ({}, [M, R, (b"BDAT\r\n", b"501 5.5.4"), (b"NOOP\r\n", b"")]),
    "BDAT with more": ({}, [M, R, (b"BDAT 3 FIRST\r\n", b"501 5.5.4"), (b"NOOP\r\n", b"")]),
    "BDAT behind a tab": ({}, [M, R, (b"BDAT\t3\r\n", b"501 5.5.4"), (b"NOOP\r\n", b"")]),
}


def every_dialogue(test: Any) -> Any:
    return pytest.mark.parametrize("name", DIALOGUES)(test)


@every_dialogue
def test_dialogue(connect: Connect, name: str) -> None:
    settings, steps = DIALOGUES[name]
    dialogue = connect(**settings)
    for said, expected in steps:
        heard = dialogue.say(said)
        assert heard.startswith(expected) if expected else heard == b"", (said, heard)


@every_dialogue
def test_dialogue_cut_at_every_octet(connect: Connect, name: str) -> None:
    """The same replies and messages in one piece, in two pieces cut anywhere, octet by octet, and answered late."""
    settings, steps = DIALOGUES[name]
    script = b"".join(said for said, _ in steps)
    whole = connect(**settings).play([script])
    stepwise = connect(**settings).play([said for said, _ in steps])
    assert stepwise.result() == whole.result()
    assert connect(**settings).play([script[i : i + 1] for i in range(len(script))]).result() == whole.result()
    assert connect(late=True, **settings).play([script]).result() == whole.result()
    spilling = connect(**settings, spill_bytes=8).play([script])
    assert spilling.result() == whole.result()
    step = 1 if len(script) < 3000 else 41
    for seam in range(1, len(script), step):
        assert connect(**settings).play([script[:seam], script[seam:]]).result() == whole.result()
        late = connect(late=True, spill_bytes=8, **settings).play([script[:seam], script[seam:]])
        assert late.result() == whole.result()


@every_dialogue
def test_every_reply_is_well_formed(connect: Connect, name: str) -> None:
    """Each line ends with CRLF, is short enough, and an enhanced code agrees with the reply code (RFC 2034)."""
    settings, steps = DIALOGUES[name]
    heard = connect(**settings).play([b"".join(said for said, _ in steps)]).output
    assert heard.endswith(b"\r\n") or heard == b""
    for line in heard.split(b"\r\n")[:-1]:
        assert len(line) <= 510
        match = re.fullmatch(rb"([2345])\d\d([ -])(?:([245])\.\d\.\d )?[ -~]*", line)
        assert match, line
        if match[3]:
            assert match[1] == match[3]


def test_greeting_and_hello(connect: Connect) -> None:
    machine = server.SmtpServer(b"relay.example", server.ServerLimits(message_size=1000, recipients=7), may_relay=True)
    machine.greeting(0.0)
    assert machine.take_output() == b"220 relay.example ESMTP fastrelay\r\n"
    machine.receive(b"EHLO client.example\r\n", 0.0)
    assert machine.take_output().split(b"\r\n") == [
        b"250-relay.example",
        b"250-PIPELINING",
        b"250-SIZE 1000",
        b"250-8BITMIME",
        b"250-SMTPUTF8",
        b"250-CHUNKING",
        b"250-DSN",
        b"250-ENHANCEDSTATUSCODES",
        b"250 LIMITS RCPTMAX=7",
        b"",
    ]
    assert machine.take_output() == b""


def test_envelope_of_a_message(connect: Connect) -> None:
    dialogue = connect()
    dialogue.play(
        [
            b"MAIL FROM:<a@b.example> SIZE=200 BODY=8BITMIME RET=hdrs ENVID=QQ314159 SMTPUTF8\r\n"
            b"RCPT TO:<@x.example:c@d.example>  NOTIFY=FAILURE   ORCPT=rfc822;c@d.example\r\n"
            b"RCPT TO:<e@f.example>\r\nDATA\r\n"
            b"Received: one\r\nreceived: two\r\n three\r\nX-Received: no\r\nSubject: caf\xc3\xa9\r\n\r\n"
            b"Received: not this\r\n..\r\n.\r\n"
        ]
    )
    header = b"Received: one\r\nreceived: two\r\n three\r\nX-Received: no\r\nSubject: caf\xc3\xa9\r\n\r\n"
    content = header + b"Received: not this\r\n.\r\n"
    assert dialogue.messages == [
        {
            "reverse_path": b"a@b.example",
            "recipients": [b"c@d.example", b"e@f.example"],
            "recipient_parameters": [b" NOTIFY=FAILURE ORCPT=rfc822;c@d.example", None],
            "ret": b"HDRS",
            "envid": b"QQ314159",
            "body": b"8BITMIME",
            "smtputf8": True,
            "size_declared": 200,
            "helo": b"client.example",
            "esmtp": True,
            "content": content,
            "content_length": len(content),
            "header": header,
            "header_length": len(header),
            "longest_line": 18,
            "received_count": 2,
            "eight_bit": True,
            "eight_bit_header": True,
            "repaired": False,
        }
    ]


def test_verify_recipient_may_refuse(connect: Connect) -> None:
    dialogue = connect()
    dialogue.machine.verify_recipient = lambda address: b"550 5.1.1 Unknown\r\n" if address == b"no@d.example" else None
    dialogue.say(M[0])
    assert dialogue.say(b"RCPT TO:<no@d.example>\r\n") == b"550 5.1.1 Unknown\r\n"
    assert dialogue.say(R[0]) == b"250 2.1.5 Ok\r\n"
    assert dialogue.machine.envelope.recipients == [b"c@d.example"]


@pytest.mark.parametrize("held", [False, True])
def test_verify_recipient_cannot_call_the_machine(connect: Connect, held: bool) -> None:
    dialogue = connect(late=held)
    if held:
        dialogue.say(M[0] + R[0] + D[0] + BODY[0])
        dialogue.say(M[0] + R[0] + b"NOOP\r\n")

    def act(address: bytes) -> None:
        for call in (lambda: dialogue.machine.receive(b"NOOP\r\n", 1.0), dialogue.machine.reset_session):
            with pytest.raises(RuntimeError, match="verify_recipient"):
                call()
        dialogue.machine.connection_lost()

    dialogue.machine.verify_recipient = act
    if held:
        dialogue.machine.answer(b"250 2.0.0 Stored\r\n", 1.0)
    else:
        dialogue.say(M[0] + R[0] + b"NOOP\r\n")
    assert dialogue.machine.closed
    assert dialogue.machine.backlog == 0


def test_nothing_is_accepted_while_the_limits_say_so(connect: Connect) -> None:
    dialogue = connect()
    dialogue.machine.limits.refusal = b"452 4.3.1 Disk full\r\n"
    assert dialogue.say(M[0]) == b"452 4.3.1 Disk full\r\n"
    dialogue.machine.limits.refusal = None
    assert dialogue.say(M[0]) == b"250 2.1.0 Ok\r\n"


# ---- events, answers, time


def test_what_follows_a_message_waits_for_its_answer(connect: Connect) -> None:
    dialogue = connect(late=True)
    transaction = b"".join(said for said, _ in (M, R, D, BODY))
    dialogue.say(transaction * 3 + b"NOOP\r\n")
    for left in (2, 1, 0):
        assert dialogue.machine.waiting
        assert dialogue.machine.backlog == left * len(transaction) + len(b"NOOP\r\n")
        dialogue.machine.answer(b"250 2.0.0 Stored\r\n", 1.0)
        dialogue.drain(answer=False)
    assert dialogue.machine.messages == 3
    assert dialogue.machine.backlog == 0
    assert dialogue.output.endswith(b"250 2.0.0 Stored\r\n250 2.0.0 Ok\r\n")


def test_what_is_held_back_is_bounded(connect: Connect) -> None:
    dialogue = connect(late=True)
    dialogue.say(b"".join(said for said, _ in (M, R, D, BODY)))
    while not dialogue.closed:
        dialogue.say(b"x" * 100_000)
        assert dialogue.machine.backlog <= 1 << 20
    assert dialogue.output.endswith(b"421 4.3.0 relay.example Too much sent ahead\r\n")
    assert len(dialogue.messages) == 1
    dialogue.machine.answer(b"250 2.0.0 Stored\r\n", 1.0)  # the message is the shell's all the same
    assert dialogue.machine.take_output() == b""


def test_an_answer_needs_a_message(connect: Connect) -> None:
    with pytest.raises(RuntimeError):
        connect().machine.answer(b"250 2.0.0 Ok\r\n", 1.0)


def test_early_talker() -> None:
    machine = server.SmtpServer(b"relay.example", server.ServerLimits(), may_relay=True)
    machine.receive(b"EHLO client.example\r\nNO", 0.0)
    assert machine.take_output() == b""
    assert machine.early_talker
    machine.greeting(0.0)
    assert machine.take_output().startswith(b"220 relay.example ESMTP fastrelay\r\n250-relay.example\r\n")
    machine.receive(b"OP\r\n", 0.0)
    assert machine.take_output() == b"250 2.0.0 Ok\r\n"


def test_refuse_instead_of_the_greeting() -> None:
    machine = server.SmtpServer(b"relay.example", server.ServerLimits(), may_relay=True)
    machine.refuse(b"421 4.3.2 Too many connections\r\n")
    assert machine.take_output() == b"421 4.3.2 Too many connections\r\n"
    assert (machine.next_event(), machine.next_event(), machine.closed) == (server.CLOSE, server.NONE, True)


def test_idle_deadline_is_moved_by_whole_commands_only(connect: Connect) -> None:
    machine = connect(idle_seconds=300).machine
    machine.receive(b"NOOP\r\n", 2000.0)
    assert machine.deadline == 2300.0
    machine.receive(b"NO", 2200.0)
    assert machine.deadline == 2300.0
    assert not machine.tick(2299.9)
    assert machine.tick(2300.0)
    assert machine.take_output() == b"250 2.0.0 Ok\r\n421 4.4.2 relay.example Timeout, closing\r\n"
    assert machine.next_event() == server.CLOSE
    assert machine.deadline == math.inf
    assert not machine.tick(9999.0)


def test_content_deadlines(connect: Connect) -> None:
    machine = connect(data_seconds=180, body_seconds=600, body_rate=100).machine
    machine.receive(M[0] + R[0] + D[0], 0.0)
    assert machine.deadline == 180.0
    machine.receive(b"x" * 1000, 100.0)
    assert machine.deadline == 280.0
    machine.receive(b"x", 605.0)
    assert machine.deadline == 600.0 + 1001 / 100  # drip feeding does not help
    machine.receive(b"\r\n.\r\n", 606.0)
    assert machine.next_event() == server.MESSAGE
    assert machine.deadline == math.inf
    machine.answer(b"250 2.0.0 Ok\r\n", 700.0)
    assert machine.deadline == 1000.0


def test_deadline_within_bdat(connect: Connect) -> None:
    machine = connect().machine
    machine.receive(M[0] + R[0] + b"BDAT 10\r\n123", 1.0)
    assert machine.deadline == 181.0
    machine.receive(b"4567890", 5.0)
    assert machine.deadline == 305.0


def test_shutdown_between_transactions(connect: Connect) -> None:
    dialogue = connect()
    dialogue.machine.shutdown(1.0)
    dialogue.drain(answer=False)
    assert dialogue.output == b"421 4.3.2 relay.example Shutting down\r\n"
    assert dialogue.closed


def test_shutdown_lets_a_transaction_finish(connect: Connect) -> None:
    dialogue = connect(late=True)
    dialogue.say(M[0] + R[0])
    dialogue.machine.shutdown(1.0)
    dialogue.say(D[0] + BODY[0] + M[0])
    dialogue.drain(answer=True)
    assert dialogue.output.endswith(b"250 2.0.0 Stored\r\n421 4.3.2 relay.example Shutting down\r\n")
    assert len(dialogue.messages) == 1
    assert dialogue.closed


def test_shutdown_after_an_aborted_transaction(connect: Connect) -> None:
    dialogue = connect()
    dialogue.say(M[0])
    dialogue.machine.shutdown(1.0)
    assert dialogue.say(b"RSET\r\n") == b"250 2.0.0 Ok\r\n421 4.3.2 relay.example Shutting down\r\n"
    assert dialogue.closed
    assert dialogue.say(M[0]) == b""


def test_reset_session_forgets_everything(connect: Connect) -> None:
    dialogue = connect()
    dialogue.say(M[0] + R[0] + b"RCPT TO:<injected")
    dialogue.machine.reset_session()
    assert dialogue.machine.helo is None
    assert dialogue.machine.envelope is None
    assert dialogue.say(M[0]) == b"503 5.5.1 EHLO first\r\n"
    assert dialogue.say(b"EHLO client.example\r\n").startswith(b"250-")


def test_a_lost_connection_needs_no_more(connect: Connect) -> None:
    dialogue = connect(late=True)
    transaction = M[0] + R[0] + D[0] + BODY[0]
    dialogue.say(transaction + transaction + b"NOOP\r\n")
    machine = dialogue.machine
    machine.answer(b"250 2.0.0 Stored\r\n", 1.0)
    dialogue.drain(answer=False)
    assert machine.backlog == len(b"NOOP\r\n")
    machine.connection_lost()
    assert machine.closed
    machine.answer(b"250 2.0.0 Stored\r\n", 2.0)
    machine.receive(b"NOOP\r\n", 2.0)
    assert (machine.next_event(), machine.take_output(), machine.backlog) == (server.NONE, b"", 0)


def test_connections_leave_nothing_behind(connect: Connect) -> None:
    """Objects of the allocator, before and after many connections of every kind of end."""

    def rounds(number: int) -> int:
        for _ in range(number):
            for ending in (BODY[0], b"bare\n\r\n.\r\n", b"x" * 5000, b"\r\n" + b"x" * 5000 + b"\r\n.\r\n"):
                dialogue = connect(spill_bytes=2000)
                dialogue.say(M[0] + R[0] + D[0])
                dialogue.say(ending)
                dialogue.say(b"NO")
                dialogue.machine.connection_lost()
            dialogue = connect(late=True)
            dialogue.say(M[0] + R[0] + b"BDAT 5000\r\n" + b"x" * 5000 + b"RSET\r\n" + b"NOOP" * 1000)
        del dialogue
        gc.collect()
        return sys.getallocatedblocks()

    before = rounds(20)
    assert rounds(300) - before < 200


def test_wrong_option_is_named() -> None:
    with pytest.raises(ValueError, match="bare_line_ends"):
        server.SmtpServer(b"x", server.ServerLimits(), may_relay=True, bare_line_ends="ignore")
