"""A nameserver in a thread of its own, for programs that a test runs and waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from fastrelay.sim.dns import DnsServer, Zone


def txt(text: str) -> str:
    """The strings of a TXT record, as a zone wants them."""
    return " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))


def zone_of(records: Mapping[str, str]) -> Zone:
    """A zone of TXT records."""
    zone = Zone()
    for name, text in records.items():
        zone.add(name, "TXT", txt(text))
    return zone


class ServedDns:
    """Answers until `stop`. Raises OSError where the address cannot be listened at."""

    def __init__(self, zone: Zone, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = zone
        self.server = DnsServer(zone, host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result(30)
        except BaseException:
            self._end()
            raise

    @property
    def nameserver(self) -> str:
        return self.server.nameserver

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(30)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def __enter__(self) -> ServedDns:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
