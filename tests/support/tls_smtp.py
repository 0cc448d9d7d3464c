"""An SMTP host with STARTTLS, for those who look at its certificate; it takes no mail."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from support.net import free_endpoint
from support.tls_certificates import Certificate


def server_context(folder: Path, *chain: Certificate) -> ssl.SSLContext:
    """A server's context with a chain; the key is that of the first."""
    path = folder / f"chain-{chain[0].certificate.serial_number}.pem"
    path.write_bytes(b"".join(one.pem for one in chain) + chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


class TlsHost:
    """`async with` listens on loopback. `offers`: whether STARTTLS is; `answer`: to STARTTLS."""

    def __init__(self, context: ssl.SSLContext | None, *, implicit: bool = False, answer: str = "220 go on") -> None:
        self.context = context
        self.implicit = implicit
        self.answer = answer
        self.names: list[str | None] = []  # server names that clients asked for
        self.commands: list[str] = []
        if context is not None:
            context.sni_callback = lambda connection, name, used: self.names.append(name)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> TlsHost:
        self.address, _, port = free_endpoint().rpartition(":")
        self.port = int(port)
        context = self.context if self.implicit else None
        self._server = await asyncio.start_server(self._serve, self.address, self.port, ssl=context)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.test ESMTP\r\n")
        while line := await reader.readline():
            verb = line.decode().split()[0].upper()
            self.commands.append(verb)
            if verb == "EHLO":
                offers = "250-STARTTLS\r\n" if self.context is not None else ""
                writer.write(f"250-mx.test\r\n{offers}250 HELP\r\n".encode())
            elif verb == "STARTTLS":
                writer.write(self.answer.encode() + b"\r\n")
                if self.answer.startswith("220") and self.context is not None:
                    await writer.start_tls(self.context)
            else:
                writer.write(b"221 bye\r\n")
