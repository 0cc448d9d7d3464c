"""An SMTP client that says just what a test tells it to, in the clear and over TLS. It blocks, so it wants a thread."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any

PATIENCE_SECONDS = 90.0  # only a test that fails waits so long


def trusting() -> ssl.SSLContext:
    """A context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RawClient:
    """One connection. `send` writes octets as they are, `reply` reads a whole reply, `rest` all until the end."""

    def __init__(self, endpoint: str, first: bytes = b"", source: str = "") -> None:
        host, _, port = endpoint.rpartition(":")
        bound = (source, 0) if source else None
        self.sock: socket.socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS, bound)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self.send(first)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        """Each piece is a segment of its own, as far as the system allows."""
        for piece in pieces:
            self.sock.sendall(piece)

    def reply(self) -> str:
        """One reply of one line or more; "" when the server closed."""
        lines = []
        while True:
            while b"\n" not in self._read:
                try:
                    more = self.sock.recv(65536)
                except ConnectionResetError:
                    more = b""
                if not more:
                    return ""
                self._read += more
            line, _, self._read = self._read.partition(b"\n")
            lines.append(line.rstrip(b"\r").decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    def say(self, line: bytes) -> str:
        self.send(line + b"\r\n")
        return self.reply()

    def says(self, *lines: bytes) -> list[str]:
        return [self.say(line) for line in lines]

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            while more := self.sock.recv(65536):
                self._read += more
        except (ConnectionResetError, ssl.SSLError):
            pass
        read, self._read = self._read, b""
        return read

    def tls(self, context: ssl.SSLContext | None = None, **more: Any) -> RawClient:
        """The handshake; ssl.SSLError or OSError where the server does not want it."""
        assert not self._read, self._read
        self.sock = (context or trusting()).wrap_socket(self.sock, **more)
        return self

    def message(self, content: bytes, recipients: Sequence[bytes] = (b"a@x.test",), mail: bytes = b"") -> str:
        """A whole transaction; the reply to its content."""
        replies = self.says(b"MAIL FROM:<news@a.test>" + mail, *(b"RCPT TO:<%b>" % one for one in recipients), b"DATA")
        assert [reply[0] for reply in replies] == [*("2" for _ in replies[1:]), "3"], replies
        self.send(content + b".\r\n")
        return self.reply()
