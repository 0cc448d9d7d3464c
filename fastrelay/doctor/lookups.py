"""DNS look-ups of one run: each question once, all of them bounded, each with a deadline.

The look-ups go through route/resolver.py to the configured nameservers, so the doctor sees what the relay sees. A
question that is asked by several checks at once is one query; answers are kept for the run.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Protocol

from fastrelay.route.resolver import Answer

MAX_KEPT = 50_000


class Questions(Protocol):
    """What is needed of a resolver."""

    async def query(self, name: str, rdtype: str) -> Answer:
        """See resolver.Resolver.query."""


class Lookups:
    """Answers of one run. deadline: seconds for one question, all tries together."""

    def __init__(self, resolver: Questions, deadline: float) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._known: dict[tuple[str, str], asyncio.Task[Answer]] = {}

    async def query(self, name: str, rdtype: str) -> Answer:
        """See resolver.Resolver.query; a question without an answer in time is a temporary failure."""
        key = (name.lower().rstrip("."), rdtype)
        task = self._known.get(key)
        if task is None:
            if len(self._known) >= MAX_KEPT:
                return Answer("temporary", detail="too many DNS look-ups in one run")
            task = asyncio.ensure_future(self._ask(*key))
            self._known[key] = task
        return await asyncio.shield(task)

    async def _ask(self, name: str, rdtype: str) -> Answer:
        try:
            async with asyncio.timeout(self._deadline):
                return await self._resolver.query(name, rdtype)
        except TimeoutError:
            return Answer("temporary", detail=f"no answer within {self._deadline:g} s")

    async def addresses(self, name: str, version: int) -> Answer:
        """A or AAAA records of a name."""
        return await self.query(name, "A" if version == 4 else "AAAA")

    async def pointers(self, address: str) -> Answer:
        """PTR records of an address."""
        return await self.query(ipaddress.ip_address(address).reverse_pointer, "PTR")

    async def close(self) -> None:
        """End what is still under way."""
        pending = [task for task in self._known.values() if not task.done()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def txt_octets(rdata: bytes) -> bytes:
    """The character-strings of a TXT record, joined (RFC 7208 section 3.3, RFC 6376 section 3.6.2.2)."""
    joined = bytearray()
    position = 0
    while position < len(rdata):
        length = rdata[position]
        joined += rdata[position + 1 : position + 1 + length]
        position += 1 + length
    return bytes(joined)


def txt_values(answer: Answer) -> list[str]:
    """The TXT records of an answer as texts; octets that are not ASCII become U+FFFD."""
    return [txt_octets(rdata).decode("ascii", "replace") for rdata in answer.records]


def tags_of(text: str) -> dict[str, str] | None:
    """A tag list (`v=DMARC1; p=none`), names in lower case, the first of a name counts; None: it is none."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            return None
        tags.setdefault(name.strip().lower(), value.strip())
    return tags
