"""Suspensions: what an operator has stopped, kept in state/control until it is resumed.

A suspension is {"id", "selectors", "why", "since"}. It is on stable storage before the answer, and every worker gets
the whole list at its start and at each change. Ids are s1, s2, …, and are not used again.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from fastrelay.clock import Clock, iso_utc

DATABASES = ("suspensions", "meta")
MAX_SUSPENSIONS = 1000
SELECTORS = ("campaign", "tenant", "domain", "provider", "source", "older_than_seconds")
_LAST_ID = b"last_suspension"


class Store(Protocol):
    """What is needed of an LMDB environment."""

    def get(self, database: str, key: bytes) -> bytes | None: ...
    def items(self, database: str) -> list[tuple[bytes, bytes]]: ...
    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None: ...


def selectors_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The selectors among the arguments of a command."""
    return {name: arguments[name] for name in SELECTORS if arguments.get(name) is not None}


class Suspensions:
    """The list, in memory and in the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        loaded = [msgspec.json.decode(value) for _, value in store.items("suspensions")]
        self.listed: list[dict[str, Any]] = sorted(loaded, key=lambda suspension: int(suspension["id"][1:]))

    def add(self, selectors: dict[str, Any], why: str) -> dict[str, Any]:
        """Keep a new one; on stable storage when this returns. Raises ValueError when there are too many."""
        if len(self.listed) >= MAX_SUSPENSIONS:
            raise ValueError(f"there are {MAX_SUSPENSIONS} suspensions already; resume some first")
        number = int(self._store.get("meta", _LAST_ID) or b"0") + 1
        suspension = {"id": f"s{number}", "selectors": selectors, "why": why, "since": iso_utc(self._clock.wall())}
        self._store.write(
            [
                ("suspensions", str(suspension["id"]).encode(), msgspec.json.encode(suspension)),
                ("meta", _LAST_ID, str(number).encode()),
            ]
        )
        self.listed = [*self.listed, suspension]
        return suspension

    def find(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """What `queue resume` means: by id, all, or those with just these selectors. Raises ValueError if none."""
        identity = arguments.get("suspension")
        if identity is not None:
            found = [suspension for suspension in self.listed if suspension["id"] == identity]
        elif arguments.get("all"):
            return list(self.listed)
        else:
            wanted = selectors_of(arguments)
            found = [suspension for suspension in self.listed if suspension["selectors"] == wanted]
        if not found:
            there = ", ".join(suspension["id"] for suspension in self.listed[:20])
            what = f"suspension {identity}" if identity is not None else "suspension with just these selectors"
            raise ValueError(f"there is no {what}; " + (f"there are: {there}" if there else "nothing is suspended"))
        return found

    def remove(self, suspensions: list[dict[str, Any]]) -> None:
        """Forget them; on stable storage when this returns."""
        gone = {suspension["id"] for suspension in suspensions}
        self._store.write([("suspensions", identity.encode(), None) for identity in sorted(gone)])
        self.listed = [suspension for suspension in self.listed if suspension["id"] not in gone]
