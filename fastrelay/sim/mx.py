"""MX hosts: many listening addresses in one process, quick, strict, and exact in their account.

The protocol works on bytes and answers a whole pipelined group with one write; some thousand messages a second
pass through one thread. It offers what a large provider offers (PIPELINING, CHUNKING, 8BITMIME, SIZE, SMTPUTF8,
DSN, ENHANCEDSTATUSCODES), and it notes in the account whatever a client does against the protocol: bare CR or LF,
octets above 127 without BODY=8BITMIME, commands pipelined where that was not offered, parameters
that were not offered. Refusals, greylisting and latency are set by a ``Behaviour``; who is refused is chosen by
hashing the recipient, so a run can be repeated. Rates, connection limits and reputations are a ``policy.Provider``'s.

With a simulated clock and a timetable, policies and latency follow that clock: whoever drives it runs the timetable.

Known faults: no STARTTLS and no AUTH; a body is held in memory until it is complete (``SIZE`` bounds it).
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastrelay.clock import Clock, RealClock
from fastrelay.sim.account import Account
from fastrelay.sim.policy import Provider
from fastrelay.sim.timetable import Timetable

EXTENSIONS = (b"PIPELINING", b"8BITMIME", b"CHUNKING", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES")
LONGEST_COMMAND = 16 * 1024  # octets of one command line
LONGEST_LINE = 998  # octets of one line of content without its CRLF (RFC 5322 §2.1.1)
MOST_UNREAD_REPLIES = 1 << 20  # octets of replies a client may leave unread before it is dropped
MOST_GREYLISTED = 1_000_000

_PATH = re.compile(rb"^(MAIL FROM|RCPT TO):[ ]?<([^>]*)>(?: (.*))?$", re.IGNORECASE)
_KNOWN_MAIL = {b"SIZE": None, b"BODY": b"8BITMIME", b"SMTPUTF8": b"SMTPUTF8", b"RET": b"DSN", b"ENVID": b"DSN"}
_KNOWN_RCPT = {b"NOTIFY": b"DSN", b"ORCPT": b"DSN"}


@dataclass(frozen=True)
class Behaviour:
    """How an MX host treats its clients. Shares are in thousandths of all recipients, chosen by hash."""

    extensions: tuple[bytes, ...] = EXTENSIONS
    size_limit: int = 150 * 1024 * 1024  # octets; announced as SIZE when above 0
    tempfail_permille: int = 0  # answered 451 at RCPT, the first ``tempfail_times`` times
    tempfail_times: int = 1
    permfail_permille: int = 0  # answered 550 5.1.1 at RCPT, always
    final_tempfail_permille: int = 0  # answered 451 after the final dot, the first ``tempfail_times`` times
    greylist_seconds: float = 0.0  # 451 until so long after the first attempt of (client, reverse-path, recipient)
    latency_seconds: float = 0.0  # before each group of replies
    recipients_limit: int = 0  # 452 beyond so many in one transaction; 0: none
    messages_per_connection: int = 0  # 421 to the MAIL beyond; 0: no limit
    connections_limit: int = 0  # 421 as greeting beyond; 0: no limit


def permille_of(recipient: bytes, salt: bytes) -> int:
    """0..999, the same in every run for one recipient and salt."""
    return zlib.crc32(salt + recipient) % 1000


class MxHosts:
    """MX hosts on several loopback addresses and one port, sharing an account.

    ``behaviours`` maps provider names to behaviours; providers that are not in it behave as ``default``.
    """

    def __init__(
        self,
        account: Account | None = None,
        default: Behaviour | None = None,
        behaviours: Mapping[str, Behaviour] | None = None,
        *,
        policies: Mapping[str, Provider] | None = None,
        clock: Clock | None = None,
        timetable: Timetable | None = None,
        on_accepted: Callable[[str, str, int], object] | None = None,
    ) -> None:
        """``policies`` by address or provider; an address comes first. ``on_accepted(provider, client, recipients)``
        is called for each message taken. Without a timetable, latency is real."""
        self.policies = dict(policies or {})
        self.clock = clock or RealClock()
        self.timetable = timetable
        self.on_accepted = on_accepted
        self.withheld = 0  # sessions that wait for a late reply of ours
        self.account = account if account is not None else Account()
        self.default = default or Behaviour()
        self.behaviours = dict(behaviours or {})
        self.port = 0
        self.connections = 0  # accepted in all
        self.open_by_address: dict[str, int] = {}
        self.most_open = 0
        self.deferred = 0  # 4xx replies to RCPT or the final dot
        self.refused = 0  # 5xx replies to RCPT
        self.deferred_by_provider: dict[str, int] = {}
        self.refused_by_provider: dict[str, int] = {}
        self.overlong = 0  # messages with a line beyond 998 octets: the submitter's doing, so no violation
        self.by_client: dict[str, int] = {}  # messages by the client's address
        self._servers: list[asyncio.Server] = []
        self._open: set[_Session] = set()
        self._refusals: dict[tuple[bytes, bytes], int] = {}
        self._greylist: dict[tuple[str, bytes, bytes], float] = {}

    async def start(self, addresses: Mapping[str, str], port: int = 0) -> None:
        """Listen on each address (mapped to its provider's name), all on one port. Raises OSError."""
        attempts = 1 if port else 20
        for attempt in range(attempts):
            try:
                await self._listen(addresses, port)
                return
            except OSError:
                await self.stop()
                if attempt == attempts - 1:
                    raise

    async def _listen(self, addresses: Mapping[str, str], port: int) -> None:
        loop = asyncio.get_running_loop()
        self.port = port
        for address, provider in addresses.items():
            behaviour = self.behaviours.get(provider, self.default)
            server = await loop.create_server(
                lambda address=address, provider=provider, behaviour=behaviour: _Session(  # type: ignore[misc]
                    self, address, provider, behaviour
                ),
                address,
                self.port,
                backlog=4096,
            )
            self._servers.append(server)
            self.port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listeners and every session."""
        for session in list(self._open):
            session.abort()
        for server in self._servers:
            server.close()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def call_later(self, seconds: float, callback: Callable[..., Any], *arguments: Any) -> None:
        """Call back later, by the clock that these hosts follow."""
        if self.timetable is None:
            asyncio.get_running_loop().call_later(seconds, callback, *arguments)
        else:
            self.timetable.call_later(seconds, callback, *arguments)

    def refusals_so_far(self, kind: bytes, recipient: bytes) -> int:
        """How often this recipient was refused so far; counts one more."""
        times = self._refusals.get((kind, recipient), 0)
        self._refusals[kind, recipient] = times + 1
        return times

    def count_refusal(self, reply: bytes, provider: str) -> None:
        """Count a 4xx or 5xx to a recipient or message."""
        if reply[:1] == b"5":
            self.refused += 1
            self.refused_by_provider[provider] = self.refused_by_provider.get(provider, 0) + 1
        else:
            self.deferred += 1
            self.deferred_by_provider[provider] = self.deferred_by_provider.get(provider, 0) + 1

    def greylisted(self, client: str, reverse_path: bytes, recipient: bytes, seconds: float, now: float) -> bool:
        """Whether this triplet must still wait. ``now`` is monotonic time."""
        if len(self._greylist) > MOST_GREYLISTED:
            self._greylist.clear()
        first = self._greylist.setdefault((client, reverse_path, recipient), now)
        return now - first < seconds


class _Session(asyncio.Protocol):
    """One client. ``_read`` is the function that goes on with the buffer: commands, DATA or a chunk."""

    def __init__(self, hosts: MxHosts, address: str, provider: str, behaviour: Behaviour) -> None:
        self._hosts = hosts
        self._address = address
        self._provider = provider
        self._behaviour = behaviour
        self._policy = hosts.policies.get(address) or hosts.policies.get(provider)
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._buffer = bytearray()
        self._scanned = 0  # octets of the buffer already searched for the end of DATA
        self._read = self._read_command
        self._replies: list[bytes] = []
        self._closing = False
        self._messages = 0
        self._chunk_left = 0
        self._chunk_last = False
        self._chunk_refused = False
        self._chunks = bytearray()
        self._reset()

    def _reset(self) -> None:
        """Forget the mail transaction."""
        self._reverse_path: bytes | None = None
        self._recipients: list[bytes] = []
        self._eight_bit = False
        self._utf8 = False
        self._bdat_begun = False
        self._chunks.clear()

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._client = transport.get_extra_info("peername")[0]
        hosts = self._hosts
        hosts.connections += 1
        hosts._open.add(self)
        opened = hosts.open_by_address.get(self._address, 0) + 1
        hosts.open_by_address[self._address] = opened
        hosts.most_open = max(hosts.most_open, len(hosts._open))
        refusal = self._policy.connected(self._client, hosts.clock.wall()) if self._policy is not None else None
        self._counted = self._policy is not None
        if self._behaviour.connections_limit and opened > self._behaviour.connections_limit:
            refusal = b"421 4.7.0 Too many connections from you"
        if refusal is not None:
            self._say(refusal + b"\r\n")
            self._closing = True
        else:
            self._say(b"220 %b ESMTP sim\r\n" % self._provider.encode())
        self._flush()

    def _count_out(self) -> None:
        """Hosts count a connection until they have read its QUIT, or said 421."""
        if self._counted and self._policy is not None:
            self._counted = False
            self._policy.closed(self._client)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hosts._open.discard(self)
        self._hosts.open_by_address[self._address] -= 1
        self._count_out()
        self._transport = None

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, octets: bytes) -> None:
        self._buffer += octets
        while self._read() and not self._closing:
            pass
        self._flush()

    def _say(self, reply: bytes) -> None:
        self._replies.append(reply)

    def _flush(self) -> None:
        if self._replies:
            replies = b"".join(self._replies)
            self._replies.clear()
            if self._closing:
                self._count_out()
            if self._behaviour.latency_seconds:
                self._hosts.withheld += 1
                self._hosts.call_later(self._behaviour.latency_seconds, self._write_late, replies, self._closing)
                return
            self._write(replies, self._closing)

    def _write_late(self, replies: bytes, close: bool) -> None:
        self._hosts.withheld -= 1
        self._write(replies, close)

    def _write(self, replies: bytes, close: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(replies)
        if close:
            transport.close()
        elif transport.get_write_buffer_size() > MOST_UNREAD_REPLIES:
            transport.abort()

    # commands

    def _read_command(self) -> bool:
        """Act on one command; False when more octets are needed."""
        buffer = self._buffer
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > LONGEST_COMMAND:
                self._say(b"500 5.5.2 Line too long\r\n")
                self._closing = True
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        if b"\n" in line or b"\r" in line:
            self._hosts.account.violation(f"bare CR or LF in command {line[:80]!r}")
        verb = line[:4].upper()
        act = _COMMANDS.get(verb)
        if act is None:
            self._say(b"500 5.5.1 Command not recognised\r\n")
            return True
        act(self, line)
        if buffer and b"PIPELINING" not in self._behaviour.extensions and self._read == self._read_command:
            self._hosts.account.violation(f"pipelined behind {verb!r}, which was not offered")
        return True

    def _on_ehlo(self, line: bytes) -> None:
        self._reset()
        name = self._provider.encode()
        extensions = list(self._behaviour.extensions)
        if self._behaviour.size_limit:
            extensions.append(b"SIZE %d" % self._behaviour.size_limit)
        if line[:4].upper() == b"HELO":
            extensions = []
        lines = [name, *extensions]
        text = b"".join(b"250-%b\r\n" % each for each in lines[:-1]) + b"250 %b\r\n" % lines[-1]
        self._say(text)

    def _on_mail(self, line: bytes) -> None:
        behaviour = self._behaviour
        if behaviour.messages_per_connection and self._messages >= behaviour.messages_per_connection:
            self._say(b"421 4.7.0 Enough messages on this connection\r\n")
            self._closing = True
            return
        refusal = self._policy.mail(self._messages) if self._policy is not None else None
        if refusal is not None:
            self._turn_away(refusal)
            return
        if self._reverse_path is not None:
            self._hosts.account.violation("MAIL inside a mail transaction")
            self._say(b"503 5.5.1 Nested MAIL\r\n")
            return
        found = _PATH.match(line)
        if found is None:
            self._hosts.account.violation(f"malformed {line[:80]!r}")
            self._say(b"501 5.5.4 Malformed MAIL\r\n")
            return
        parameters = self._parameters(found.group(3), _KNOWN_MAIL)
        self._eight_bit = parameters.get(b"BODY") == b"8BITMIME"
        self._utf8 = b"SMTPUTF8" in parameters
        size = parameters.get(b"SIZE", b"0")
        if behaviour.size_limit and size.isdigit() and int(size) > behaviour.size_limit:
            self._say(b"552 5.3.4 Message too big\r\n")
            return
        self._reverse_path = found.group(2)
        self._check_utf8(self._reverse_path)
        self._say(b"250 2.1.0 OK\r\n")

    def _parameters(self, text: bytes | None, known: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
        """ESMTP parameters, each held against what was offered."""
        parameters: dict[bytes, bytes] = {}
        for word in (text or b"").split():
            keyword, _, value = word.partition(b"=")
            keyword = keyword.upper()
            parameters[keyword] = value
            needs = known.get(keyword, b"?")
            if needs is not None and needs not in self._behaviour.extensions:
                self._hosts.account.violation(f"parameter {word!r} was not offered")
        return parameters

    def _check_utf8(self, path: bytes) -> None:
        if not path.isascii() and not self._utf8:
            self._hosts.account.violation(f"address {path!r} without SMTPUTF8")

    def _on_rcpt(self, line: bytes) -> None:
        found = _PATH.match(line)
        if found is None or self._reverse_path is None:
            if self._reverse_path is not None:
                self._hosts.account.violation(f"malformed {line[:80]!r}")
            self._say(b"503 5.5.1 MAIL first\r\n")
            return
        recipient = found.group(2)
        if found.group(3):
            self._parameters(found.group(3), _KNOWN_RCPT)
        self._check_utf8(recipient)
        refusal = self._refusal(recipient)
        if refusal is None:
            self._recipients.append(recipient)
            self._say(b"250 2.1.5 OK\r\n")
            return
        self._hosts.count_refusal(refusal, self._provider)
        self._turn_away(refusal.removesuffix(b"\r\n"))

    def _turn_away(self, reply: bytes) -> None:
        """A refusal; 421 ends the session (RFC 5321 section 3.8)."""
        self._say(reply + b"\r\n")
        if reply[:3] == b"421":
            self._closing = True

    def _refusal(self, recipient: bytes) -> bytes | None:
        """Why this recipient is not taken now, as a reply; None when it is."""
        behaviour, hosts = self._behaviour, self._hosts
        if behaviour.recipients_limit and len(self._recipients) >= behaviour.recipients_limit:
            return b"452 4.5.3 Too many recipients\r\n"
        if behaviour.permfail_permille and permille_of(recipient, b"perm") < behaviour.permfail_permille:
            return b"550 5.1.1 No such mailbox here\r\n"
        if (
            behaviour.tempfail_permille
            and permille_of(recipient, b"temp") < behaviour.tempfail_permille
            and hosts.refusals_so_far(b"rcpt", recipient) < behaviour.tempfail_times
        ):
            return b"451 4.7.1 Try again later\r\n"
        if behaviour.greylist_seconds and hosts.greylisted(
            self._client, self._reverse_path or b"", recipient, behaviour.greylist_seconds, hosts.clock.monotonic()
        ):
            return b"451 4.7.1 Greylisted, come back\r\n"
        if self._policy is not None:
            return self._policy.recipient(self._client, self._reverse_path or b"", recipient, hosts.clock.wall())
        return None

    def _on_data(self, line: bytes) -> None:
        if self._bdat_begun:
            self._hosts.account.violation("DATA after BDAT")
        if not self._recipients:
            self._say(b"554 5.5.1 No valid recipients\r\n")
            return
        if self._buffer:
            self._hosts.account.violation("octets pipelined behind DATA")
        self._say(b"354 Go ahead\r\n")
        self._scanned = 0
        self._read = self._read_data

    def _on_bdat(self, line: bytes) -> None:
        words = line.split()
        if len(words) < 2 or not words[1].isdigit():
            self._hosts.account.violation(f"malformed {line[:80]!r}")
            self._say(b"501 5.5.4 Malformed BDAT\r\n")
            self._closing = True
            return
        self._chunk_left = int(words[1])
        self._chunk_last = len(words) > 2 and words[2].upper() == b"LAST"
        self._chunk_refused = not self._recipients
        if b"CHUNKING" not in self._behaviour.extensions:
            self._hosts.account.violation("BDAT was not offered")
        self._bdat_begun = True
        self._read = self._read_chunk

    def _on_rset(self, line: bytes) -> None:
        self._reset()
        self._say(b"250 2.0.0 OK\r\n")

    def _on_noop(self, line: bytes) -> None:
        self._say(b"250 2.0.0 OK\r\n")

    def _on_quit(self, line: bytes) -> None:
        self._say(b"221 2.0.0 Bye\r\n")
        self._closing = True

    # content

    def _read_data(self) -> bool:
        """Look for the final dot from where the last search ended."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            content, used = b"", 3
        else:
            end = buffer.find(b"\r\n.\r\n", self._scanned)
            if end < 0:
                self._scanned = max(0, len(buffer) - 4)
                if len(buffer) > self._behaviour.size_limit * 2:
                    self.abort()
                return False
            content, used = bytes(buffer[: end + 2]), end + 5
            if content[:1] == b".":
                content = content[1:]
            content = content.replace(b"\r\n.", b"\r\n")
        del buffer[:used]
        self._read = self._read_command
        self._finish(content)
        return True

    def _read_chunk(self) -> bool:
        """Take the octets of one BDAT chunk (RFC 3030); a refused chunk's octets are read and dropped."""
        taken = min(self._chunk_left, len(self._buffer))
        if taken == self._chunk_left and self._chunk_last and not self._chunks:
            content = bytes(self._buffer[:taken])
        else:
            if not self._chunk_refused:
                self._chunks += self._buffer[:taken]
            content = b""
        del self._buffer[:taken]
        self._chunk_left -= taken
        if self._chunk_left:
            return False
        self._read = self._read_command
        if self._chunk_refused:
            self._say(b"554 5.5.1 No valid recipients\r\n")
            if self._chunk_last:
                self._reset()
        elif self._chunk_last:
            self._finish(content or bytes(self._chunks))
        else:
            self._say(b"250 2.0.0 %d octets taken\r\n" % len(self._chunks))
        return True

    def _finish(self, content: bytes) -> None:
        """The whole message is here: judge it, enter it in the account, answer."""
        self._check_content(content)
        hosts, behaviour = self._hosts, self._behaviour
        self._messages += 1
        first = self._recipients[0]
        if (
            behaviour.final_tempfail_permille
            and permille_of(first, b"final") < behaviour.final_tempfail_permille
            and hosts.refusals_so_far(b"final", first) < behaviour.tempfail_times
        ):
            hosts.count_refusal(b"451", self._provider)
            self._say(b"451 4.3.0 Cannot store that now\r\n")
        else:
            hosts.account.add(self._recipients, content, self._provider)
            hosts.by_client[self._client] = hosts.by_client.get(self._client, 0) + 1
            if hosts.on_accepted is not None:
                hosts.on_accepted(self._provider, self._client, len(self._recipients))
            if self._policy is not None:
                for recipient in self._recipients:
                    self._policy.delivered(self._client, recipient, hosts.clock.wall())
            self._say(b"250 2.0.0 Taken as %d\r\n" % hosts.account.messages)
        self._reset()

    def _check_content(self, content: bytes) -> None:
        """Note what no relay may send (RFC 5321 §2.3.8, RFC 6152, line length)."""
        account = self._hosts.account
        lines = content.split(b"\r\n")
        if content.count(b"\n") != len(lines) - 1 or content.count(b"\r") != len(lines) - 1:
            account.violation("bare CR or LF in content")
        if not content.isascii() and not self._eight_bit:
            account.violation("octets above 127 without BODY=8BITMIME")
        if content and not content.endswith(b"\r\n"):
            account.violation("content does not end with CRLF")
        if len(content) > LONGEST_LINE and max(map(len, lines)) > LONGEST_LINE:
            self._hosts.overlong += 1


_COMMANDS = {
    b"EHLO": _Session._on_ehlo,
    b"HELO": _Session._on_ehlo,
    b"MAIL": _Session._on_mail,
    b"RCPT": _Session._on_rcpt,
    b"DATA": _Session._on_data,
    b"BDAT": _Session._on_bdat,
    b"RSET": _Session._on_rset,
    b"NOOP": _Session._on_noop,
    b"QUIT": _Session._on_quit,
}
