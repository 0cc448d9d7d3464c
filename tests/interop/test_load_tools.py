"""The load source and sink of benchmarks/ are measured against plain Python before anything is measured with them."""

import re
import socket
from pathlib import Path
from typing import Any

from support.net import free_endpoint, free_port, has_ipv6, split_endpoint
from support.sink import Received, Session, Sink


def fnv1a(octets: bytes) -> int:
    """64-bit FNV-1a, the hash of X-Bench-Sum."""
    value = 0xCBF29CE484222325
    for octet in octets:
        value = (value ^ octet) * 0x100000001B3 % 2**64
    return value


def bench_message(number: int, body: bytes) -> bytes:
    return b"Subject: x\r\nX-Bench-Id: %d\r\nX-Bench-Sum: %016x\r\n\r\n%b" % (number, fnv1a(body), body)


def stuffed(content: bytes) -> bytes:
    return (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def by_data(number: int, body: bytes) -> bytes:
    return b"MAIL FROM:<a@b>\r\nRCPT TO:<u%d.0@x>\r\nDATA\r\n%b" % (number, stuffed(bench_message(number, body)))


def by_bdat(number: int, body: bytes) -> bytes:
    content = bench_message(number, body)
    return b"MAIL FROM:<a@b>\r\nRCPT TO:<u%d.0@x>\r\nBDAT 7\r\n%bBDAT %d LAST\r\n%b" % (
        number, content[:7], len(content) - 7, content[7:],
    )


class Talk:
    """A connection to the C sink."""

    def __init__(self, endpoint: str) -> None:
        self.socket = socket.create_connection(split_endpoint(endpoint), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.socket.makefile("rb")
        assert self.lines.readline().startswith(b"220")

    def replies(self, count: int) -> list[bytes]:
        return [self.lines.readline()[:3] for _ in range(count)]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_sink_counts_the_same_wherever_the_stream_is_cut(load_tools: Any, tmp_path: Path) -> None:
    body = b".dot\r\n\r\n..\r\nx\r\n.\r\ny\r\n"
    where = free_endpoint()
    number = 0
    with load_tools.LoadSink("-V", listen=where, directory=tmp_path) as sink:
        talk = Talk(where)
        for form in (by_data, by_bdat):
            for cut in range(1, len(form(0, body))):
                stream = form(number, body)
                talk.socket.sendall(stream[:cut])
                talk.socket.sendall(stream[cut:])
                assert talk.replies(4)[-1] == b"250"
                number += 1
        for octet in (stream := by_data(number, body)):
            talk.socket.sendall(bytes([octet]))
        assert talk.replies(4) == [b"250", b"250", b"354", b"250"], stream
        number += 1
        talk.close()
        result = sink.stop()
    assert (result["unique"], result["duplicates"], result["damaged"]) == (number, 0, 0)
    assert sink.account[:number] == b"\1" * number
    assert not any(sink.account[number:])


def test_sink_notices_repeats_damage_and_strangers(load_tools: Any, tmp_path: Path) -> None:
    where = free_endpoint()
    with load_tools.LoadSink("-V", listen=where, directory=tmp_path) as sink:
        talk = Talk(where)
        for stream in (
            by_data(5, b"good\r\n"), by_data(5, b"good\r\n"), by_data(6, b"bare\rCR\r\n"), by_data(7, b"bare\nLF\r\n"),
            by_data(8, b"changed\r\n").replace(b"changed", b"chAnged"),
            by_data(9, b"stranger\r\n").replace(b"X-Bench-Id", b"X-Other-Id"),
        ):
            talk.socket.sendall(stream)
            assert talk.replies(4)[-1] == b"250"
        talk.close()
        result = sink.stop()
    assert (result["deliveries"], result["unique"], result["duplicates"]) == (6, 4, 1)
    assert (result["damaged"], result["foreign"]) == (3, 1)
    assert sink.account[5:9] == b"\2\1\1\1"


def test_source_messages_arrive_as_they_say(load_tools: Any) -> None:
    with Sink() as sink:
        report = load_tools.run_source("-c", sink.endpoint, "-s", "3", "-n", "40", "-r", "2", "-d", "4", "-m", "7")
    assert report["accepted"] == 40
    assert not sink.violations
    assert sorted(number(message) for message in sink.messages) == list(range(40))
    for message in sink.messages:
        assert message.recipients == [f"u{number(message)}.{r}@d{number(message) % 4}.example" for r in range(2)]
        claimed = re.search(rb"X-Bench-Sum: ([0-9a-f]{16})\r\n", message.content)
        assert claimed is not None
        assert fnv1a(message.content.partition(b"\r\n\r\n")[2]) == int(claimed[1], 16)
        assert 10_000 < len(message.content) < 10_500


def number(message: Received) -> int:
    found = re.search(rb"X-Bench-Id: (\d+)\r\n", message.content)
    assert found is not None
    return int(found[1])


def test_source_accounts_for_every_fate(load_tools: Any, tmp_path: Path) -> None:
    def final(session: Session, content: str) -> str | None:
        found = re.search(r"X-Bench-Id: (\d+)", content)
        assert found is not None
        return {0: None, 1: "550 5.7.1 no", 2: "<close>"}[int(found[1]) % 3]

    path = tmp_path / "account"
    with Sink({"final": final}) as sink:
        report = load_tools.run_source("-c", sink.endpoint, "-s", "4", "-n", "60", "-k", "-a", str(path))
    assert (report["accepted"], report["refused"], report["unknown"]) == (20, 20, 20)
    assert path.read_bytes() == bytes([1, 2, 3] * 20)


def test_source_to_sink_over_ipv6_and_many_addresses(load_tools: Any, tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    listen = [f"127.9.0.250-127.9.1.5:{port}"]
    if has_ipv6():
        listen.append(f"[::1]:{port}")
    with load_tools.LoadSink("-V", "-w", "3", listen=listen, directory=tmp_path) as sink:
        targets = [word for where in ("127.9.0.255", "127.9.1.0") for word in ("-c", f"{where}:{port}")]
        if has_ipv6():
            targets += ["-c", f"[::1]:{port}"]
        report = load_tools.run_source(*targets, "-s", "6", "-n", "300", "-r", "3", "-R", "2000")
        result = sink.stop()
    assert report["accepted"] == 300
    assert (result["messages"], result["unique"], result["damaged"], result["connections"]) == (300, 900, 0, 6)
