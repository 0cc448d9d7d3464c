"""`fastrelay suppress …` in the feedback process: what operators do with the suppression list.

Long work comes in slices, one command each (`suppress.put`, `suppress.list`), so that the loop goes on between them,
and so that an import or an export that was cut is simply done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.feedback.desk import DeskError, Part
from fastrelay.feedback.suppress_rules import Suppression
from fastrelay.feedback.suppression import (
    ENTRIES,
    REASON_NUMBER,
    Change,
    Entry,
    SuppressionError,
    address_key,
    scope_value,
    shown,
)

if TYPE_CHECKING:
    from fastrelay.feedback.desk import Desk

ROWS = 5000  # of one command, in or out
SCANNED = 5000  # addresses looked at by one `suppress.list`
PROBLEMS = 100  # told of one command
ONE_BY_ONE = 1000  # addresses of one add or remove

# address, scope, its value, reason, source, created, expires (seconds since 1970; created 0: now, or as it was)
Row = tuple[str, str, str, str, str, int, int]


class SuppressCommands(Part):
    """Answers for the list."""

    def __init__(self, desk: Desk, suppression: Suppression) -> None:
        self._desk = desk
        self._suppression = suppression
        self.commands: Mapping[str, Callable[..., Any]] = {
            "suppress.put": self.put,
            "suppress.imported": self.imported,
            "suppress.remove": self.remove,
            "suppress.check": self.check,
            "suppress.list": self.page,
            "suppress.stats": self.stats,
        }

    # -- in -----------------------------------------------------------------------------------------------------------

    async def put(self, rows: list[Any], dry_run: bool = False, events: bool = True) -> dict[str, Any]:
        """Puts rows in, in place of the same entries. {"new", "changed", "same", "problems": [[number, words], …]}.

        On stable storage when it answers. With an error of the list (full, or it can't be written) nothing of these
        rows is in.
        """
        entries, problems = self._entries(rows)
        now = int(self._desk.clock.wall())
        async with self._suppression.changing:
            change = Change(self._suppression.list, now)
            told = [entry for entry in entries if change.add(entry, replace=True)]
            result = {"new": change.new, "changed": change.altered, "same": len(entries) - change.new - change.altered}
            if not dry_run:
                if events and told:
                    for entry in told:
                        self._suppression.tell("added", msgspec.structs.replace(entry, created=entry.created or now))
                    await self._desk.sync_events()
                change.commit()
                self._suppression.count()
        return {**result, "problems": problems[:PROBLEMS], "bad": len(problems)}

    def _entries(self, rows: list[Any]) -> tuple[list[Entry], list[tuple[int, str]]]:
        if not isinstance(rows, list) or len(rows) > ROWS:
            raise DeskError(f"rows: a list of at most {ROWS}")
        entries, problems = [], []
        for number, row in enumerate(rows):
            try:
                entries.append(entry_of(msgspec.convert(row, Row)))
            except (SuppressionError, msgspec.ValidationError) as error:
                problems.append((number, str(error)))
        return entries, problems

    async def imported(self, source: str, new: int, changed: int) -> dict[str, Any]:
        """An import is done: one event for all of it."""
        fields = {"action": "imported", "source": str(source)[:100], "entries": int(new) + int(changed)}
        self._desk.event("suppression", fields)
        await self._desk.sync_events()
        return {}

    # -- out ----------------------------------------------------------------------------------------------------------

    async def remove(
        self, addresses: list[str], scope: str | None = None, value: str | None = None, reason: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Takes out what the list has of addresses and domains, or of it what is of a scope and for a reason."""
        if not isinstance(addresses, list) or len(addresses) > ONE_BY_ONE:
            raise DeskError(f"addresses: a list of at most {ONE_BY_ONE}")
        found = []
        for address in addresses:
            entries = self._suppression.list.entries(address_key(_octets(address)))
            found += [entry for entry in entries if _matches(entry, scope, value, reason)]
        if not dry_run:
            found = await self._suppression.take_out(found)
        return {"removed": len(found), "entries": [self._told(entry) for entry in found]}

    # -- looking ------------------------------------------------------------------------------------------------------

    def check(
        self, address: str, tenant: str | None = None, sender: str | None = None, transactional: bool = False
    ) -> dict[str, Any]:
        """The entries of an address and its domain; and which one stops mail of a tenant and a sender, as far as these
        are given: an entry of another tenant or sender stops nothing, one of a tenant where none is given may."""
        key = address_key(_octets(address))
        entries = self._suppression.list.entries(key)
        domain = key[key.rfind(b"@") :]
        if domain != key:
            entries = entries + self._suppression.list.entries(domain)
        wall = self._desk.clock.wall()
        spared = self._desk.config.suppression.spare_transactional if transactional else []
        live = [one for one in entries if one.live(wall) and one.reason not in spared]
        names = {"tenant": tenant, "sender": sender}
        whose = {"global": b""} | {
            scope: scope_value(scope, _octets(name)) for scope, name in names.items() if name is not None
        }
        stops = next((one for one in live if whose.get(one.scope) == one.value), None)
        return {
            "address": shown(key),
            "enabled": self._desk.config.suppression.enabled,
            "suppressed": stops is not None,
            "by": None if stops is None else self._told(stops),
            "entries": [self._told(one) for one in entries],
        }

    def page(
        self, start: str = "", limit: int = ROWS, scope: str | None = None, value: str | None = None,
        reason: str | None = None, domain: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Entries in order of their addresses, from `start` on: {"rows": […], "next": … or None}. There may be fewer
        than `limit`, even none, and more to come."""
        if not isinstance(limit, int) or not 1 <= limit <= ROWS:
            raise DeskError(f"limit: 1 to {ROWS}")
        if domain is not None:
            domain = "@" + address_key(_octets(domain))[1:].decode()
        rows = []
        at = _octets(start)
        keys = min(SCANNED, limit)
        entries, following = self._suppression.list.page(at, keys)
        for entry in entries:
            if domain is not None and not entry.address.endswith(domain.encode()):
                continue
            if _matches(entry, scope, value, reason):
                rows.append(row_of(entry))
        return {"rows": rows, "next": None if following is None else following.decode("utf-8", "surrogateescape")}

    def stats(self) -> dict[str, Any]:
        """How many entries there are, and how much room they take."""
        suppression = self._suppression
        return {
            "entries": suppression.list.total,
            "by_reason": suppression.list.by_reason(),
            "addresses": self._desk.store.count(ENTRIES),
            "counted_soft_bounces": self._desk.store.count("soft"),
            "most_entries": suppression.list.most,
            "enabled": self._desk.config.suppression.enabled,
            "store_bytes": self._desk.store.info()["used_bytes"],
        }

    def _told(self, entry: Entry) -> dict[str, Any]:
        return {
            "address": shown(entry.address),
            "scope": entry.scope,
            "scope_value": entry.value.decode("utf-8", "backslashreplace"),
            "reason": entry.reason,
            "source": entry.source,
            "created": entry.created,
            "expires": entry.expires,
            "expired": not entry.live(self._desk.clock.wall()),
        }


def entry_of(row: Row) -> Entry:
    """The entry of a row. SuppressionError, in words."""
    address, scope, value, reason, source, created, expires = row
    if reason not in REASON_NUMBER:
        raise SuppressionError(f"{reason[:100]!r} is no reason: {', '.join(REASON_NUMBER)}")
    if created < 0 or expires < 0:
        raise SuppressionError("a time before 1970")
    return Entry(
        address_key(_octets(address)), scope, scope_value(scope, _octets(value)), reason, source, created, expires
    )


def row_of(entry: Entry) -> Row:
    """The row of an entry: `entry_of` gives it back."""
    value = entry.value.decode("utf-8", "surrogateescape")
    return (shown(entry.address), entry.scope, value, entry.reason, entry.source, entry.created, entry.expires)


def _matches(entry: Entry, scope: str | None, value: str | None, reason: str | None) -> bool:
    if scope is not None and entry.scope != scope:
        return False
    if scope is not None and value is not None and entry.value != scope_value(scope, _octets(value)):
        return False
    return reason is None or entry.reason == reason


def _octets(text: str) -> bytes:
    if not isinstance(text, str):
        raise DeskError("an address or name is text")
    return text.encode("utf-8", "surrogateescape")
