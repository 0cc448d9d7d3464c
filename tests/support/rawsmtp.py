"""An SMTP client that says just the octets it is given, and reads what comes back; for what no polite client says.

    with RawClient(address, source="127.0.0.9") as client:
        client.say(b"EHLO x\\r\\n")          # all replies that are due, as lines
        client.send(b"DATA\\r\\n")           # no waiting
        client.rest()                       # until the server closes

A server that says nothing for SECONDS fails the test; nothing is concluded from how long an answer took.
"""

from __future__ import annotations

import re
import socket
from typing import Any

SECONDS = 60.0
_REPLY = re.compile(rb"(?:\d{3}-[^\r\n]*\r\n)*\d{3}(?: [^\r\n]*)?\r\n")


class RawClient:
    """One connection."""

    def __init__(self, address: tuple[str, int], source: str | None = None, greeting: bool = True) -> None:
        bound: Any = (source, 0) if source else None
        self.socket = socket.create_connection(address, SECONDS, bound)
        self.unread = b""
        self.closed = False
        self.greeting = self.reply() if greeting else b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> None:
        """Writes; a server that has closed already is no error, its last words can still be read."""
        try:
            self.socket.sendall(octets)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def reply(self) -> bytes:
        """The next whole reply; b"" where the server has closed."""
        while True:
            found = _REPLY.match(self.unread)
            if found:
                self.unread = self.unread[found.end() :]
                return found[0]
            if not self._read():
                return b""

    def _read(self) -> bool:
        try:
            octets = self.socket.recv(65536)
        except ConnectionResetError:
            octets = b""
        self.unread += octets
        self.closed = self.closed or not octets
        return bool(octets)

    def say(self, octets: bytes) -> bytes:
        """Writes, and gives the next reply."""
        self.send(octets)
        return self.reply()

    def all(self, *commands: bytes) -> list[bytes]:
        """Each command with its reply, one after the other; ends early where the server closes."""
        replies = []
        for command in commands:
            replies.append(self.say(command))
            if not replies[-1]:
                break
        return replies

    def rest(self) -> bytes:
        """What is said until the server closes."""
        while self._read():
            pass
        rest, self.unread = self.unread, b""
        return rest


def codes(replies: bytes | list[bytes]) -> list[int]:
    """The reply codes, one for each whole reply."""
    octets = replies if isinstance(replies, bytes) else b"".join(replies)
    return [int(found[0].rsplit(b"\r\n", 2)[-2][:3]) for found in _REPLY.finditer(octets)]
