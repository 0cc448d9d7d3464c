"""Contents through the SMTP server machine: framing against a slow oracle, smuggling, files, discarding."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core import server

Connect = Callable[..., Any]

ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
HEADER = b"Received: from x\r\nSubject: y\r\n\r\n"
STORED = b"250 2.0.0 Stored\r\n"
ACCEPTED = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n"
BARE = b"550 5.5.2 Bare CR or LF in the message; lines end with CRLF\r\n"

texts = st.lists(
    st.sampled_from([b"\r\n", b"\r\n", b".", b"\r", b"\n", b"a: b", b"\0", b"\xc3\xa9", b"x" * 80]), max_size=40
).map(b"".join)
tidy_texts = st.lists(st.sampled_from([b"\r\n", b"\r\n", b".", b"a: b", b"\xc3\xa9", b"x" * 80]), max_size=40).map(
    b"".join
)
cuts = st.lists(st.integers(0, 10_000), max_size=6)


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(edge % (len(octets) + 1) for edge in at), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(edges)]


def is_bare(raw: bytes) -> bool:
    return re.search(rb"\r(?!\n)|(?<!\r)\n", raw) is not None


def repaired(raw: bytes) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", raw)


def expected_reply(raw: bytes, repair: bool) -> bytes:
    if is_bare(raw) and not repair:
        return BARE
    return b"550 5.6.0 NUL in the message\r\n" if b"\0" in raw else STORED


# ---- framing


@given(texts, cuts, st.booleans(), st.booleans())
@settings(max_examples=400)
def test_data_equals_the_oracle(connect: Connect, text: bytes, at: list[int], repair: bool, late: bool) -> None:
    wire = text + b"\r\n.\r\n"
    raw = b"" if wire.startswith(b".\r\n") else wire[: wire.index(b"\r\n.\r\n") + 2]
    rest = wire[len(raw) + 3 :]
    if rest:
        return  # an end within the text: what follows would be commands
    lines = [line[1:] if line.startswith(b".") else line for line in raw.split(b"\r\n")]
    content = b"\r\n".join(repaired(line) if repair else line for line in lines)
    dialogue = connect(bare_line_ends="repair" if repair else "refuse", spill_bytes=200, late=late)
    dialogue.play(cut(ENVELOPE + b"DATA\r\n" + wire + b"NOOP\r\n", at))
    reply = expected_reply(raw, repair)
    assert dialogue.output == ACCEPTED + b"354 End data with <CR><LF>.<CR><LF>\r\n" + reply + b"250 2.0.0 Ok\r\n"
    assert [message["content"] for message in dialogue.messages] == ([content] if reply == STORED else [])
    if reply == STORED:
        facts_hold(dialogue.messages[0])
        assert dialogue.messages[0]["repaired"] == is_bare(raw)


@given(st.lists(texts, min_size=1, max_size=5), cuts, st.booleans())
@settings(max_examples=300)
def test_bdat_equals_the_oracle(connect: Connect, chunks: list[bytes], at: list[int], repair: bool) -> None:
    raw = b"".join(chunks)
    script = b"".join(b"BDAT %d\r\n" % len(chunk) + chunk for chunk in chunks[:-1])
    script += b"BDAT %d LAST\r\n" % len(chunks[-1]) + chunks[-1]
    dialogue = connect(bare_line_ends="repair" if repair else "refuse", spill_bytes=200)
    dialogue.play(cut(ENVELOPE + script + b"NOOP\r\n", at))
    assert dialogue.output.endswith(b"250 2.0.0 Ok\r\n")
    if expected_reply(raw, repair) == STORED:
        assert dialogue.messages[0]["content"] == (repaired(raw) if repair else raw)
        facts_hold(dialogue.messages[0])
    else:
        assert dialogue.messages == []
    assert dialogue.output == ACCEPTED + b"".join(chunk_replies(chunks, repair)) + b"250 2.0.0 Ok\r\n"


def chunk_replies(chunks: list[bytes], repair: bool) -> list[bytes]:
    """A content is refused at the first chunk that shows why; a CR at a chunk's end may yet meet its LF."""
    raw = b""
    replies = []
    for at, chunk in enumerate(chunks, 1):
        raw += chunk
        last = at == len(chunks)
        reply = expected_reply(raw if last else raw.removesuffix(b"\r"), repair)
        if reply != STORED:
            return [*replies, reply, *[b"503 5.5.1 MAIL and a valid RCPT first\r\n"] * (len(chunks) - at)]
        octets = len(repaired(raw.removesuffix(b"\r"))) + raw.endswith(b"\r") if repair else len(raw)
        replies.append(STORED if last else b"250 2.0.0 Ok, so far %d octets\r\n" % octets)
    return replies


def facts_hold(message: dict[str, Any]) -> None:
    content = message["content"]
    end = (b"\r\n" + content).find(b"\r\n\r\n")
    header = content[: end + 2] if end >= 0 else content
    assert message["content_length"] == len(content)
    assert message["header"] == header
    assert message["header_length"] == len(header)
    assert message["longest_line"] == max(map(len, content.split(b"\r\n")))
    assert message["eight_bit"] == (not content.isascii())
    assert message["eight_bit_header"] == (not header.isascii())
    assert message["received_count"] == sum(line.lower().startswith(b"received:") for line in header.split(b"\r\n"))


@given(tidy_texts)
def test_data_and_bdat_give_the_same_content(connect: Connect, text: bytes) -> None:
    text += b"\r\n"
    stuffed = b"".join(b"." + line if line.startswith(b".") else line for line in re.findall(rb"[^\n]*\n", text))
    data = connect().play([ENVELOPE + b"DATA\r\n" + stuffed + b".\r\n"])
    bdat = connect().play([ENVELOPE + b"BDAT %d LAST\r\n" % len(text) + text])
    assert data.messages == bdat.messages
    assert data.messages[0]["content"] == text


# ---- smuggling (CVE-2023-51764, -51765, -51766)

SMUGGLING = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\r\n",
    b"\r\n..\r\n",
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n.\n\r\n",
    b"\n\n.\n\n",
    b"\r\r.\r\r",
    b"\n\r.\n\r",
    b"\r\0\n.\r\n",
    b"\x0b.\x0b",
    b"\x85.\x85",
]


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("sequence", SMUGGLING)
def test_no_other_sequence_ends_data(connect: Connect, sequence: bytes, repair: bool) -> None:
    smuggled = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nsmuggled"
    script = ENVELOPE + b"DATA\r\n" + HEADER + b"text" + sequence + smuggled + b"\r\n.\r\nNOOP\r\n"
    settings = {"bare_line_ends": "repair" if repair else "refuse"}
    whole = connect(**settings).play([script])
    assert whole.output.count(b"354") == 1
    assert whole.output.endswith(b"250 2.0.0 Ok\r\n")
    assert len(whole.messages) <= 1
    for message in whole.messages:
        assert message["reverse_path"] == b"a@b.example"
        assert message["content"].endswith(smuggled + b"\r\n")
        assert not is_bare(message["content"])
    if is_bare(sequence) and not repair:
        assert BARE in whole.output
    for seam in range(len(script)):
        assert connect(**settings).play([script[:seam], script[seam:]]).result() == whole.result()


# ---- contents that do not stay in memory


def spooled(dialogue: Any, content: bytes, size: int) -> None:
    for at in range(0, len(content), size):
        dialogue.say(content[at : at + size])


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
def test_a_large_content_goes_out_in_chunks(connect: Connect, verb: str) -> None:
    chance = random.Random(7)
    body = b"".join(b".line %d \xe2\x82\xac\r\n" % chance.randrange(10**9) for _ in range(60_000))
    content = HEADER + body
    stuffed = HEADER + body.replace(b".line", b"..line")
    dialogue = connect(spill_bytes=100_000)
    if verb == "DATA":
        dialogue.say(ENVELOPE + b"DATA\r\n")
        spooled(dialogue, stuffed + b".\r\n", 50_000)
    else:
        dialogue.say(ENVELOPE)
        for at in range(0, len(content), 300_000):
            part = content[at : at + 300_000]
            last = b" LAST" if at + 300_000 >= len(content) else b""
            spooled(dialogue, b"BDAT %d%b\r\n" % (len(part), last) + part, 50_000)
    assert dialogue.output.endswith(STORED)
    assert dialogue.messages[0]["content"] == content
    assert dialogue.messages[0]["header"] == HEADER
    facts_hold(dialogue.messages[0])
    assert dialogue.discarded == 0


def test_chunks_are_large_and_the_first_holds_the_beginning(connect: Connect) -> None:
    machine = connect(spill_bytes=100_000).machine
    machine.receive(ENVELOPE + b"DATA\r\n" + HEADER, 0.0)
    sizes = []
    for _ in range(200):
        machine.receive(b"x" * 998 + b"\r\n", 0.0)
        while machine.next_event() == server.SPILL:
            chunk = machine.take_chunk()
            sizes.append(len(chunk))
            assert chunk.startswith(HEADER) == (len(sizes) == 1)
    assert sizes[0] > 100_000
    assert len(sizes) == 2
    assert all(size >= 65_536 for size in sizes)
    assert machine.take_chunk() == b""


def test_backlog_counts_chunks_not_fetched(connect: Connect) -> None:
    machine = connect(spill_bytes=1000).machine
    machine.receive(ENVELOPE + b"DATA\r\n" + HEADER + b"x" * 200_000, 0.0)
    assert machine.backlog == 200_000 + len(HEADER)
    assert machine.next_event() == machine.next_event() == server.SPILL
    assert len(machine.take_chunk()) == 200_000 + len(HEADER)
    assert (machine.backlog, machine.next_event()) == (0, server.NONE)


def test_a_content_of_just_the_bound_stays_in_memory(connect: Connect) -> None:
    for extra, spilled in ((0, False), (1, True)):
        machine = connect(spill_bytes=1000).machine
        machine.receive(ENVELOPE + b"BDAT %d LAST\r\n\r\n" % (1000 + extra) + b"x" * (998 + extra), 0.0)
        assert machine.envelope.spilled == spilled
        assert (machine.envelope.content is None) == spilled


def test_a_long_header_is_not_spilled_before_it_ends(connect: Connect) -> None:
    header = b"A: " + b"x" * 5000 + b"\r\n\r\n"
    dialogue = connect(spill_bytes=100)
    dialogue.play(cut(ENVELOPE + b"DATA\r\n" + header + b"y" * 100_000 + b"\r\n.\r\n", [200, 3000, 9000]))
    assert dialogue.messages[0]["header"] == header
    assert dialogue.messages[0]["content"] == header + b"y" * 100_000 + b"\r\n"


@pytest.mark.parametrize(
    ("ending", "reply"),
    [
        (b"bare\n\r\n.\r\n", b"550 5.5.2"),
        (b"\0\r\n.\r\n", b"550 5.6.0"),
        (b"z" * 900_000 + b"\r\n.\r\n", b"552 5.3.4"),
    ],
)
def test_a_spilled_content_that_is_refused_is_discarded(connect: Connect, ending: bytes, reply: bytes) -> None:
    dialogue = connect(spill_bytes=1000, message_size=1_000_000)
    dialogue.say(ENVELOPE + b"DATA\r\n" + HEADER + b"x" * 200_000 + b"\r\n")
    assert dialogue.spilled
    heard = dialogue.say(ending)
    assert heard.startswith(reply)
    assert (dialogue.discarded, dialogue.spilled, dialogue.messages) == (1, [], [])
    dialogue.say(ENVELOPE + b"DATA\r\nsmall\r\n.\r\n")
    assert [message["content"] for message in dialogue.messages] == [b"small\r\n"]
    assert dialogue.discarded == 1


@pytest.mark.parametrize("command", [b"RSET\r\n", b"EHLO x\r\n", b"QUIT\r\n", b"BDAT x\r\n", b"BDAT 9999999\r\n"])
def test_chunks_of_an_abandoned_transaction_are_discarded(connect: Connect, command: bytes) -> None:
    dialogue = connect(spill_bytes=1000, message_size=1_000_000)
    dialogue.say(ENVELOPE + b"BDAT 200000\r\n\r\n" + b"x" * 199_998)
    assert dialogue.spilled
    dialogue.say(command)
    assert (dialogue.discarded, dialogue.spilled) == (1, [])


def test_chunks_nobody_fetched_need_no_discarding(connect: Connect) -> None:
    machine = connect(spill_bytes=1000).machine
    machine.receive(ENVELOPE + b"BDAT 200000\r\n\r\n" + b"x" * 199_998 + b"RSET\r\n", 0.0)
    assert machine.next_event() == server.NONE
    assert machine.backlog == 0


def test_timeout_within_a_spilled_content_discards_it(connect: Connect) -> None:
    dialogue = connect(spill_bytes=1000)
    dialogue.say(ENVELOPE + b"DATA\r\n\r\n" + b"x" * 200_000)
    assert dialogue.machine.tick(1e9)
    dialogue.drain(answer=False)
    assert (dialogue.discarded, dialogue.closed) == (1, True)


def test_a_message_that_waits_keeps_its_chunks_when_the_connection_goes(connect: Connect) -> None:
    machine = connect(spill_bytes=1000).machine
    machine.receive(ENVELOPE + b"BDAT 2002 LAST\r\n\r\n" + b"x" * 2000, 0.0)
    machine.connection_lost()
    assert machine.next_event() == server.SPILL
    assert len(machine.take_chunk()) == 2002
    assert machine.next_event() == server.MESSAGE


def growth(program: str) -> int:
    """KiB by which a fresh process grows, at its highest, while `program` calls feed()."""
    whole = f"""
import resource
from fastrelay._core import server
machine = server.SmtpServer(b"relay.example", server.ServerLimits(message_size=1 << 30), may_relay=True)
machine.greeting(0.0)
machine.receive(b"EHLO x\\r\\nMAIL FROM:<>\\r\\nRCPT TO:<c@d.example>\\r\\n", 0.0)
block = (b"x" * 76 + b"\\r\\n") * 3000
def feed(times):
    for _ in range(times):
        machine.receive(block, 0.0)
        while machine.next_event() == server.SPILL:
            machine.take_chunk()
def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{program}
"""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    # A sanitizer keeps freed memory aside; not here.
    environment["ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:detect_leaks=0"
    return int(subprocess.run([sys.executable, "-c", whole], env=environment, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("header", [r"b'A: b\r\n\r\n'", r"b'A: b\r\n\r\n\n'"], ids=["taken", "refused"])
def test_memory_stays_flat(header: str) -> None:
    """200 MiB of content pass through, to a file or to be refused."""
    program = f"""
machine.receive(b"DATA\\r\\n" + {header}, 0.0)
feed(10)
before = highest()
feed(900)
print(highest() - before)
machine.receive(b"\\r\\n.\\r\\n", 0.0)
assert machine.waiting or machine.take_output().endswith(b"CRLF\\r\\n")
"""
    assert growth(program) < 8 << 10


def test_a_line_without_end_costs_no_memory() -> None:
    program = """
block = block.replace(b"\\r\\n", b"")
feed(10)
before = highest()
feed(900)
print(highest() - before)
machine.take_output()
machine.receive(b"\\r\\n", 0.0)
assert machine.take_output() == b"500 5.5.2 Line too long\\r\\n"
"""
    assert growth(program) < 8 << 10


def test_long_lines_pass_and_are_told(connect: Connect) -> None:
    dialogue = connect()
    dialogue.say(ENVELOPE + b"DATA\r\n" + HEADER + b"x" * 5000 + b"\r\n.\r\n")
    assert dialogue.messages[0]["longest_line"] == 5000
    assert dialogue.messages[0]["content"] == HEADER + b"x" * 5000 + b"\r\n"
