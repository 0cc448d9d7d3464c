"""The quick MX hosts, spoken to by smtplib and by raw octets, and their account."""

import asyncio
import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastrelay.sim.account import Account, identify
from fastrelay.sim.mx import Behaviour, MxHosts, permille_of

HOST = "127.78.1.1"
CONTENT = b"X-Sim-Id: 7\r\nSubject: x\r\n\r\n.\r\n..dots\r\nlast\r\n"


@contextmanager
def serving(hosts: MxHosts, addresses: dict[str, str] | None = None) -> Iterator[MxHosts]:
    """The hosts in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(hosts.start(addresses or {HOST: "google"}), loop).result(10)
        yield hosts
    finally:
        asyncio.run_coroutine_threadsafe(hosts.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def client(hosts: MxHosts) -> smtplib.SMTP:
    return smtplib.SMTP(HOST, hosts.port, local_hostname="test.example", timeout=10)


def raw(hosts: MxHosts, *writes: bytes) -> bytes:
    """All writes at once, then QUIT; everything that came back."""
    import socket

    with socket.create_connection((HOST, hosts.port), 10) as connection:
        connection.sendall(b"".join(writes) + b"QUIT\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def codes(answer: bytes) -> list[int]:
    return [int(line[:3]) for line in answer.splitlines() if line[3:4] != b"-"]


def test_smtplib_delivers_and_content_is_unstuffed() -> None:
    with serving(MxHosts(Account(keep_contents=True))) as hosts:
        with client(hosts) as session:
            assert session.sendmail("a@s.example", ["b@r.example", "c@r.example"], CONTENT) == {}
            assert {"pipelining", "chunking", "size"} <= set(session.esmtp_features)
        assert hosts.account.contents == {b"7": CONTENT}
        assert set(hosts.account.arrivals) == {(b"7", b"b@r.example"), (b"7", b"c@r.example")}
        assert not hosts.account.violations


def test_pipelined_data_and_chunks_give_the_same_content() -> None:
    envelope = b"MAIL FROM:<a@s.example>\r\nRCPT TO:<b@r.example>\r\n"
    stuffed = CONTENT.replace(b"\r\n.", b"\r\n..")
    with serving(MxHosts(Account(keep_contents=True))) as hosts:
        chunked = [b"BDAT 5\r\n", CONTENT[:5], b"BDAT %d\r\n" % (len(CONTENT) - 5), CONTENT[5:], b"BDAT 0 LAST\r\n"]
        answer = raw(hosts, b"EHLO x\r\n", envelope, *chunked, envelope, b"DATA\r\n", stuffed + b".\r\n")
        assert codes(answer) == [220, 250, 250, 250, 250, 250, 250, 250, 250, 354, 250, 221]
        assert hosts.account.arrivals[b"7", b"b@r.example"].count == 2
        assert not hosts.account.arrivals[b"7", b"b@r.example"].altered
        assert hosts.account.duplicates == 1
        assert hosts.account.violations == ["octets pipelined behind DATA"]


def test_every_cut_of_the_stream_gives_the_same_account() -> None:
    stream = b"EHLO x\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@r.example>\r\nDATA\r\n"
    stream += CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<c@r.example>\r\n"
    stream += b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT + b"QUIT\r\n"
    for cut in range(1, len(stream)):
        hosts, session, sent = _detached()
        session.data_received(stream[:cut])
        session.data_received(stream[cut:])
        assert set(hosts.account.arrivals) == {(b"7", b"b@r.example"), (b"7", b"c@r.example")}, cut
        digests = {arrival.digest for arrival in hosts.account.arrivals.values()}
        assert digests == {identify(CONTENT)[1]}, cut
        assert codes(b"".join(sent)) == [220, 250, 250, 250, 354, 250, 250, 250, 250, 250, 221], cut


def _detached() -> tuple[MxHosts, asyncio.Protocol, list[bytes]]:
    """A session without a socket: what it writes goes into a list."""
    from fastrelay.sim.mx import _Session

    sent: list[bytes] = []

    class Wire(asyncio.Transport):
        def write(self, octets: bytes) -> None:  # type: ignore[override]
            sent.append(octets)

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

        def close(self) -> None:
            pass

        def get_extra_info(self, name: str, default: object = None) -> object:
            return ("127.0.0.1", 1)

    hosts = MxHosts()

    async def make() -> asyncio.Protocol:
        session = _Session(hosts, HOST, "google", hosts.default)
        session.connection_made(Wire())
        return session

    return hosts, asyncio.run(make()), sent


@pytest.mark.parametrize(
    ("writes", "violation"),
    [
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", "MAIL inside"),
        (b"EHLO x\r\nMAIL FROM <a@b>\r\n", "malformed"),
        (b"EHLO x\r\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\r\n", "bare CR or LF in command"),
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 6 LAST\r\na\nb\rc\n", "bare CR or LF in content"),
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\n\xe9\r\n", "octets above 127"),
        (b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nabc", "does not end with CRLF"),
        ("EHLO x\r\nMAIL FROM:<é@b>\r\n".encode(), "without SMTPUTF8"),
    ],
)
def test_breaches_of_protocol_are_noted(writes: bytes, violation: str) -> None:
    with serving(MxHosts()) as hosts:
        raw(hosts, writes)
        assert any(violation in noted for noted in hosts.account.violations), hosts.account.violations


def test_what_was_not_offered_may_not_be_used() -> None:
    with serving(MxHosts(default=Behaviour(extensions=()))) as hosts:
        raw(hosts, b"EHLO x\r\nMAIL FROM:<a@b> BODY=8BITMIME RET=HDRS\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\nBDAT 0 LAST\r\n")
        noted = " ".join(hosts.account.violations)
        for words in ("BODY=8BITMIME", "RET=HDRS", "NOTIFY=NEVER", "BDAT was not offered", "pipelined behind"):
            assert words in noted


def test_clean_mail_with_parameters_is_no_breach() -> None:
    with serving(MxHosts()) as hosts:
        body = "é\r\n".encode()
        chunk = b"BDAT %d LAST\r\n%b" % (len(body), body)
        raw(
            hosts,
            b"EHLO x\r\nMAIL FROM:<a@b> SIZE=9 BODY=8BITMIME RET=HDRS ENVID=q\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n",
            chunk,
        )
        assert hosts.account.violations == []
        assert hosts.account.messages == 1


def test_temporary_refusals_are_the_same_recipients_each_run_and_end() -> None:
    behaviour = Behaviour(tempfail_permille=300, tempfail_times=2)
    addresses = [f"r{n}@x.example" for n in range(60)]
    chosen = {each for each in addresses if permille_of(each.encode(), b"temp") < 300}
    assert 0 < len(chosen) < 60
    with serving(MxHosts(default=behaviour)) as hosts, client(hosts) as session:
        for attempt in range(3):
            refused = session.sendmail("a@s.example", addresses, CONTENT)
            assert set(refused) == (chosen if attempt < 2 else set())
        assert hosts.deferred == 2 * len(chosen)
        assert hosts.deferred_by_provider == {"google": 2 * len(chosen)}


def test_permanent_and_final_refusals() -> None:
    behaviour = Behaviour(permfail_permille=1000)
    with serving(MxHosts(default=behaviour)) as hosts, client(hosts) as session:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            session.sendmail("a@s.example", ["b@r.example"], CONTENT)
        assert refused.value.recipients["b@r.example"][0] == 550
    with serving(MxHosts(default=Behaviour(final_tempfail_permille=1000))) as hosts, client(hosts) as session:
        with pytest.raises(smtplib.SMTPDataError):
            session.sendmail("a@s.example", ["b@r.example"], CONTENT)
        session.sendmail("a@s.example", ["b@r.example"], CONTENT)
        assert hosts.account.messages == 1


def test_greylisting_asks_for_time_and_the_same_client() -> None:
    hosts = MxHosts()
    triplet = ("127.0.0.1", b"a@s", b"b@r")
    assert hosts.greylisted(*triplet, seconds=60, now=1000.0)
    assert hosts.greylisted(*triplet, seconds=60, now=1059.0)
    assert not hosts.greylisted(*triplet, seconds=60, now=1061.0)
    assert hosts.greylisted("127.0.0.2", b"a@s", b"b@r", seconds=60, now=1061.0)


def test_limits_of_recipients_messages_and_connections() -> None:
    behaviour = Behaviour(recipients_limit=2, messages_per_connection=1, connections_limit=1)
    with serving(MxHosts(default=behaviour)) as hosts, client(hosts) as session:
        refused = session.sendmail("a@s.example", ["b@r", "c@r", "d@r"], CONTENT)
        assert refused == {"d@r": (452, b"4.5.3 Too many recipients")}
        with pytest.raises(smtplib.SMTPConnectError) as greeting:
            client(hosts)
        assert greeting.value.smtp_code == 421
        assert session.docmd("MAIL FROM:<a@s>")[0] == 421


def test_behaviour_by_provider_and_address() -> None:
    other = "127.78.1.2"
    hosts = MxHosts(behaviours={"yahoo": Behaviour(permfail_permille=1000)})
    with serving(hosts, {HOST: "google", other: "yahoo"}):
        with client(hosts) as session:
            session.sendmail("a@s", ["b@r"], CONTENT)
        with smtplib.SMTP(other, hosts.port, local_hostname="t", timeout=10) as session:
            assert session.docmd("MAIL FROM:<a@s>")[0] == 250
            assert session.docmd("RCPT TO:<b@r>")[0] == 550
        assert hosts.account.by_provider == {"google": 1}


def test_identify_skips_what_a_relay_puts_in_front() -> None:
    trace = b"Received: from x by y;\r\n\tMon\r\nX-Sim-Idle: no\r\n"
    assert identify(trace + CONTENT) == identify(CONTENT)
    assert identify(CONTENT)[0] == b"7"
    assert identify(b"Message-ID: <q@x>\r\n\r\nbody\r\n")[0] == b"<q@x>"
    assert identify(b"no header")[0] == b""


def test_verdict_names_everything_that_is_wrong(tmp_path: Path) -> None:
    account = Account()
    account.add([b"once@x", b"twice@x"], CONTENT, "google")
    account.add([b"twice@x"], CONTENT, "google")
    account.add([b"altered@x"], CONTENT + b"more\r\n", "yahoo")
    account.add([b"stranger@x"], CONTENT, "yahoo")
    account.violation("something")
    digest = identify(CONTENT)[1]
    expected = [(b"7", to, digest) for to in (b"once@x", b"twice@x", b"altered@x", b"missing@x")]
    path = tmp_path / "account"
    account.write(path)
    for each in (account, Account.read(path)):
        verdict = each.verify(expected)
        assert verdict.missing == [(b"7", b"missing@x")]
        assert verdict.repeated == [(b"7", b"twice@x")]
        assert verdict.altered == [(b"7", b"altered@x")]
        assert verdict.unexpected == [(b"7", b"stranger@x")]
        assert verdict.violations == ["something"]
        assert not verdict.exactly_once
        assert each.by_provider == {"google": 3, "yahoo": 2}
        assert each.duplicates == 1
    good = Account()
    good.add([b"once@x"], CONTENT, "google")
    assert good.verify(expected[:1]).exactly_once
