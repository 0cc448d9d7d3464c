"""One-click unsubscribe (RFC 8058): what follows from it, and the listener's life. HTTP is unsubscribe_http.py.

    await desk.unsubscribe.take(reference, "one-click")      from a POST of a mailbox provider
                                           "page"            from the button of our page
    await desk.unsubscribe.take_mail(reference)              from a mail to the address of List-Unsubscribe

Whoever has the reference may unsubscribe its recipient, from the mail of one From domain or more
(suppression.unsubscribe_scope): no login, no cookie, no question asked twice. A reference is good for as long as its
key is: links in old mail work.

Order, and crash argument: event `unsubscribed` (its key is made of the reference), the entry of the suppression list,
then one commit behind a sync of the log; the answer comes last. Again does nothing more, and is answered alike; only
where the entry was removed since is there a new one, and an event with a key of its own.

Known faults: without aiohttp's server there is no page; it is loaded only where listeners.unsubscribe is set.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from fastrelay.feedback.complaints import digest, identity, suppress
from fastrelay.feedback.desk import Part
from fastrelay.feedback.rates import DATABASE, day_of
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.feedback.desk import Desk
    from fastrelay.feedback.match import Matcher
    from fastrelay.feedback.reference import Reference
    from fastrelay.feedback.unsubscribe_http import HttpServer

Method = Literal["one-click", "page", "mailto"]
Result = Literal["done", "repeated"]

TRIED = 10  # places in a URL at which a reference may begin


class Unsubscribe(Part):
    """A part of the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.commands = {"unsubscribe.status": self.status}
        self.server: HttpServer | None = None
        self._in_hand: dict[bytes, asyncio.Future[Result]] = {}

    def configure(self, config: Config) -> None:
        if self.server is not None:
            self.server.configure(config)

    async def start(self) -> list[str]:
        if self._desk.config.listeners.unsubscribe is None:
            return []
        from fastrelay.feedback.unsubscribe_http import HttpServer

        self.matcher  # noqa: B018 - a key that can't be had is said at the start
        self.server = HttpServer(self._desk, self)
        return [await self.server.start()]

    def second(self, now: float) -> None:
        if self.server is not None:
            self.server.second(now)

    async def close(self) -> None:
        if self.server is not None:
            await self.server.close()

    @property
    def matcher(self) -> Matcher:
        """Reads references. KeyFileError."""
        return self._desk.intake.matcher

    def find(self, text: str) -> Reference | None:
        """The reference in what stands behind the path of a URL."""
        found = self.matcher.tokens(text.encode("utf-8", "replace"), TRIED)
        return found[0] if found else None

    async def take(self, reference: Reference, method: Method) -> Result | None:
        """Unsubscribes; that is on stable storage when it returns. None: the reference does not say whom.

        OSError, FastrelayError: it may not be on stable storage, and is to be tried again.
        """
        recipient = reference.recipient
        if not recipient:
            return None
        key = digest("unsubscribe", reference.id, recipient)
        under_way = self._in_hand.get(key)
        if under_way is not None:
            await asyncio.shield(under_way)
            return "repeated"
        future = self._in_hand[key] = asyncio.get_running_loop().create_future()
        try:
            result = await self._take(reference, recipient, method, key)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else OSError("it was given up"))
            future.exception()  # where nobody waits
            raise
        finally:
            del self._in_hand[key]
        future.set_result(result)
        self._desk.meters.count(names.UNSUBSCRIBES, method=method, result=result)
        return result

    async def _take(self, reference: Reference, recipient: bytes, method: Method, key: bytes) -> Result:
        desk = self._desk
        seen = desk.store.get(DATABASE, b"c" + key) is not None
        fields = {**identity(reference, recipient), "method": method}
        if not seen:
            desk.event("unsubscribed", fields, f"u-{key.hex()}")
        added = await suppress(desk, "unsubscribe", reference, recipient, method)
        if seen and not added:
            return "repeated"
        today = day_of(desk.clock.wall())
        if seen:
            desk.event("unsubscribed", fields, f"u-{key.hex()}-{today}")
        await desk.complaints.ledger.commit([(DATABASE, b"c" + key, today.to_bytes(2, "big"))])
        return "done"

    async def take_mail(self, reference: Reference) -> Result | None:
        """By a mail to our address in List-Unsubscribe (RFC 2369)."""
        return await self.take(reference, "mailto")

    def status(self) -> dict[str, object]:
        """For the operator."""
        server = self.server
        return {"address": server.address if server is not None else None,
                "connections": server.connections if server is not None else 0}  # fmt: skip
