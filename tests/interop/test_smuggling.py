"""SMTP smuggling, both ways, with the victim it was found with: Postfix as it was before smtpd_forbid_bare_newline.

A message that ends for one server and goes on for the next one carries a second message past the first one's checks.
Inwards, nothing but CRLF.CRLF ends a message for us. Outwards, whatever a client submits is one message for Postfix.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import postfix as private_postfix
from support.net import split_endpoint, wait_until
from support.peers import absent
from support.postfix import PostfixInstance
from support.rawsmtp import RawClient, codes
from support.relay import RelayProcess

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]

HELLO = [b"EHLO client.test\r\n", b"MAIL FROM:<news@sender.example>\r\n", b"RCPT TO:<b@d.example>\r\n"]
HEADER = b"From: news@sender.example\r\nSubject: outer\r\n\r\n"
SECOND = (
    b"MAIL FROM:<admin@d.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\n"
    b"From: admin@d.example\r\nSubject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)
ENDS = (b"\r\n", b"\n", b"\r")
# Everything that some server has taken for an end of data: a dot between any two line ends, and with octets in between.
SEQUENCES = [before + b"." + after for before, after in itertools.product(ENDS, ENDS)]
SEQUENCES.remove(b"\r\n.\r\n")
SEQUENCES += [
    b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\n\n.\r\n", b"\r\n. \r\n", b"\x0b.\x0b",
    b"\xc2\x85.\xc2\x85", b"\n.\n\n", b"\r\n..\n", b"\x1a", b"\r\n.\n.\r",
]  # fmt: skip
LAX = (b"\n.\n", b"\n.\r\n")  # what the victim takes for one


@pytest.fixture
def victim(open_tmp_path: Path) -> Iterator[PostfixInstance]:
    """Postfix with the defaults it had for twenty years."""
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    lax = {"smtpd_forbid_bare_newline": "no", "smtpd_forbid_unauth_pipelining": "no"}
    with PostfixInstance(open_tmp_path / "victim", domains=["d.example"], settings=lax) as postfix:
        yield postfix


def subjects(postfix: PostfixInstance) -> list[bytes]:
    """Subjects of what Postfix delivered, once it has nothing more in hand."""
    wait_until(lambda: not postfix.queued(), what="Postfix to empty its queue")
    found = []
    for mail in postfix.mail():
        header = mail.partition(b"\n\n")[0]
        found.append(next(line for line in header.split(b"\n") if line.startswith(b"Subject:")))
    return found


def behind(make_relay: Maker, victim: PostfixInstance, **smtp: str) -> RelayProcess:
    return make_relay({"routes": [{"domains": ["*"], "hosts": [victim.endpoint]}], "smtp": smtp, "workers": 1})


def hand_in(address: tuple[str, int], sequence: bytes, chunked: bool = False) -> list[int]:
    """Submits a message with a second one behind `sequence`; all reply codes from the content on."""
    content = HEADER + b"before" + sequence + SECOND[: -len(b".\r\n")]
    with RawClient(address) as client:
        assert codes(client.all(*HELLO)) == [250, 250, 250]
        if chunked:
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
        else:
            assert client.say(b"DATA\r\n").startswith(b"354")
            client.send(content + b".\r\n")
        client.send(b"QUIT\r\n")
        return codes(client.rest())


@pytest.mark.parametrize("sequence", LAX, ids=repr)
def test_the_victim_is_one(victim: PostfixInstance, sequence: bytes) -> None:
    """Handed in without us, the second message is a message: else the tests below could not fail."""
    hand_in(split_endpoint(victim.endpoint), sequence)
    assert sorted(subjects(victim)) == [b"Subject: outer", b"Subject: smuggled"]


@pytest.mark.parametrize("bare_line_ends", ["refuse", "repair"])
def test_nothing_but_the_end_of_data_ends_a_message(
    make_relay: Maker, victim: PostfixInstance, bare_line_ends: str
) -> None:
    """In and out at once: what is taken is one message for us and one for Postfix."""
    relay = behind(make_relay, victim, bare_line_ends=bare_line_ends)
    taken = 0
    for sequence in SEQUENCES:
        for chunked in (False, True):
            replies = hand_in(relay.smtp, sequence, chunked)
            assert replies[-1] == 221, (sequence, chunked, replies)
            assert len(replies) == 2, (sequence, chunked, replies)  # one for the content, one for QUIT
            assert replies[0] in (250, 550), (sequence, chunked, replies)
            if bare_line_ends == "refuse" and set(sequence.replace(b"\r\n", b"")) & {10, 13}:
                assert replies[0] == 550, (sequence, chunked)
            taken += replies[0] == 250
    assert taken
    summary = relay.wait_drained()
    assert (summary["accepted"], summary["delivered"]) == (taken, taken)
    assert subjects(victim) == [b"Subject: outer"] * taken


def test_lines_of_dots_are_content(make_relay: Maker, victim: PostfixInstance) -> None:
    """Every line that begins with a dot arrives as it was, whether it came by DATA or BDAT, and ends nothing."""
    relay = behind(make_relay, victim)
    bodies = [
        b".\r\n" + SECOND,
        b"..\r\n.\r\n...\r\n" + SECOND,
        b"x\r\n.\r\n.\r\n" + SECOND,
        b"x" * 8190 + b"\r\n.\r\n" + SECOND,
        b".",
        b"\r\n.",
        b"x\r\n.\r\nQUIT\r\n",
    ]
    for body in bodies:
        content = HEADER + body
        with RawClient(relay.smtp) as client:
            assert codes(client.all(*HELLO)) == [250, 250, 250]
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
            assert client.reply().startswith(b"250 ")
            stuffed = content.replace(b"\r\n.", b"\r\n..")
            stuffed = stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"
            assert codes(client.all(*HELLO[1:], b"DATA\r\n")) == [250, 250, 354]
            assert client.say(stuffed + b".\r\n").startswith(b"250 ")
    relay.wait_drained()
    assert subjects(victim) == [b"Subject: outer"] * (2 * len(bodies))
    came = sorted(mail.partition(b"\n\n")[2].rstrip(b"\n") for mail in victim.mail())
    assert came == sorted(body.replace(b"\r\n", b"\n").rstrip(b"\n") for body in bodies * 2)


def test_a_pipelined_transaction_behind_a_refused_content_is_its_own(
    make_relay: Maker, victim: PostfixInstance
) -> None:
    """What a client says after a true end of data is commands: no octet of the refused content is among them."""
    relay = behind(make_relay, victim)
    with RawClient(relay.smtp) as client:
        client.all(*HELLO, b"DATA\r\n")
        client.send(HEADER + b"bare\nline\r\n.\r\n" + b"".join(HELLO[1:]) + b"DATA\r\n")
        assert codes([client.reply() for _ in range(4)]) == [550, 250, 250, 354]
        assert client.say(HEADER.replace(b"outer", b"next") + b"x\r\n.\r\n").startswith(b"250 ")
    relay.wait_drained()
    assert subjects(victim) == [b"Subject: next"]
