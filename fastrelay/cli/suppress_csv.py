"""Suppression lists as files: CSV in, of our own or as other services export it, and plain lists of addresses; CSV out.

Columns are known by their names in the first line; without such a line the first column is the address:

    address, email, email address, recipient, emailaddress       the address, or a domain (also as @domain)
    domain                                                        a domain
    scope, scope_value, reason, source, created, expires          ours; what is missing is as the command line has it

Of other services (their exports as of 2026), where our names are missing:

    SendGrid    bounces (status, reason, email, created), spam reports (ip, email, created), unsubscribes
    Mailgun     bounces (address, code, error, created_at), complaints, unsubscribes (address, tags, created_at)
    Amazon SES  EmailAddress, Reason (BOUNCE, COMPLAINT), LastUpdateTime
    Postmark    EmailAddress, SuppressionReason (HardBounce, SpamComplaint, ManualSuppression), CreatedAt
    listmonk    subscribers (uuid, email, name, attributes, status, …): those that are blocklisted, and no others

UTF-8 (with or without a mark at its start) or UTF-16 with one; comma, semicolon or tab. A line that can't be read is a
problem with its number, and is passed over. Memory is bounded whatever the file holds.

Known faults: times without a zone are taken as UTC. A quote that is never closed takes the rest of a file with it up to
128 KiB, which is then one problem.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import BinaryIO

from fastrelay.feedback.suppress_commands import Row
from fastrelay.feedback.suppression import (
    REASON_NUMBER,
    SuppressionError,
    address_key,
    scope_value,
    shown,
)

HEADER = ("address", "scope", "scope_value", "reason", "source", "created", "expires")
LINE_OCTETS = 128 * 1024
_ADDRESS = frozenset({"address", "email", "emailaddress", "email_address", "e_mail", "recipient", "domain"})
_CREATED = ("created", "created_at", "createdat", "lastupdatetime", "date", "timestamp")
_REASONS = {
    "bounce": "hard_bounce", "bounced": "hard_bounce", "hardbounce": "hard_bounce", "hard": "hard_bounce",
    "cleaned": "hard_bounce", "invalid": "hard_bounce", "softbounce": "soft_bounces", "soft": "soft_bounces",
    "soft_bounce": "soft_bounces", "spamcomplaint": "complaint", "spam": "complaint", "complaints": "complaint",
    "spam_report": "complaint", "spamreport": "complaint", "unsubscribed": "unsubscribe", "unsub": "unsubscribe",
    "manualsuppression": "manual", "blocklisted": "manual", "blacklisted": "manual",
}  # fmt: skip


@dataclass(slots=True)
class Defaults:
    """What the command line says for rows that do not."""

    scope: str = "global"
    value: str = ""
    reason: str = ""
    source: str = ""
    expires: int = 0


@dataclass(slots=True)
class Columns:
    """What stands where in the rows of a file."""

    address: int = 0
    named: dict[str, int] = field(default_factory=dict)
    reason: str = ""  # of all rows, as the file's form has it
    only_status: str = ""  # rows with another status are passed over
    of_domains: bool = False


class NotWanted(Exception):
    """A row that is not about somebody to be suppressed."""


def lines_of(file: BinaryIO) -> Iterator[str]:
    """The lines of a file as text; octets that are no UTF-8 are kept as surrogates."""
    start = file.read(4)
    encoding, errors = "utf-8", "surrogateescape"
    if start.startswith(codecs.BOM_UTF8):
        start = start[3:]
    elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, errors = "utf-16", "replace"
    text = io.TextIOWrapper(io.BufferedReader(_Joined(start, file)), encoding=encoding, errors=errors, newline=None)
    while line := text.readline(LINE_OCTETS):
        yield line


class _Joined(io.RawIOBase):
    """A file whose first octets were read already."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        octets = self._start or self._rest.read(len(buffer))
        octets, self._start = octets[: len(buffer)], octets[len(buffer) :] if self._start else b""
        buffer[: len(octets)] = octets
        return len(octets)


def read_rows(
    file: BinaryIO, defaults: Defaults, problem: Callable[[int, str], None], passed_over: Callable[[], None]
) -> Iterator[Row]:
    """The rows of a file; a line that is none goes to `problem` (its number from 1, what is wrong with it)."""
    number = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for line in lines_of(file):
            number += 1
            yield line.replace("\0", "")

    lines = counted()
    columns: Columns | None = None
    for first in lines:
        if first.strip() and not first.startswith("#"):
            break
    else:
        return
    delimiter = max(",;\t", key=first.count) if any(mark in first for mark in ",;\t") else ","
    reader = csv.reader(_chain(first, lines), delimiter=delimiter, skipinitialspace=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem(number, str(error))
            continue
        if not any(cells) or cells[0].startswith("#"):
            continue
        if columns is None:
            columns = columns_of(cells)
            if columns is not None:
                continue
            columns = Columns()
        try:
            yield row(cells, columns, defaults)
        except NotWanted:
            passed_over()
        except SuppressionError as error:
            problem(number, str(error))


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def columns_of(cells: list[str]) -> Columns | None:
    """The columns that a first line names; None where it is a row already."""
    names = [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in cells]
    if any("@" in name for name in names):
        return None
    address = next((at for at, name in enumerate(names) if name in _ADDRESS), None)
    if address is None:
        return None
    columns = Columns(address, of_domains=names[address] == "domain")
    at = {name: number for number, name in enumerate(names)}
    columns.named = {name: at[name] for name in HEADER[1:] if name in at}
    created = next((at[name] for name in _CREATED if name in at), None)
    if created is not None:
        columns.named["created"] = created
    if "suppressionreason" in at:
        columns.named["reason"] = at["suppressionreason"]
    if {"status", "reason", "email"} <= at.keys() or {"address", "code", "error"} <= at.keys():
        columns.reason = "hard_bounce"  # SendGrid, Mailgun: the reason is the reply
        columns.named.pop("reason", None)
    elif {"ip", "email", "created"} == at.keys():
        columns.reason = "complaint"
    elif {"address", "tags"} <= at.keys():
        columns.reason = "unsubscribe"
    elif {"uuid", "email", "status"} <= at.keys():
        columns.only_status = "blocklisted"
        columns.named = {"status": at["status"]}
    return columns


def row(cells: list[str], columns: Columns, defaults: Defaults) -> Row:
    """One row. SuppressionError in words; NotWanted."""

    def cell(name: str) -> str:
        at = columns.named.get(name)
        return cells[at].strip() if at is not None and at < len(cells) else ""

    if columns.only_status and cell("status").lower() != columns.only_status:
        raise NotWanted
    if columns.address >= len(cells):
        raise SuppressionError("no address")
    text = cells[columns.address].strip()
    if text.endswith(">") and "<" in text:
        text = text[text.rfind("<") + 1 : -1]
    if "@" not in text and ("." not in text or " " in text):
        raise SuppressionError(f"{text[:100]!r} is no address" if text else "no address")
    if columns.of_domains and "@" not in text:
        text = "@" + text
    address = shown(address_key(_octets(text)))
    scope = cell("scope").lower() or defaults.scope
    value = cell("scope_value") or ("" if cell("scope") else defaults.value)
    value = scope_value(scope, _octets(value)).decode("utf-8", "surrogateescape")
    reason = defaults.reason or columns.reason or "manual"
    told = cell("reason").lower()
    if told:
        reason = _REASONS.get(told, told)
        if reason not in REASON_NUMBER:
            raise SuppressionError(f"{told[:60]!r} is no reason: {', '.join(REASON_NUMBER)}")
    created, expires = seconds_of(cell("created")), seconds_of(cell("expires")) or defaults.expires
    return (address, scope, value, reason, cell("source")[:100] or defaults.source, created, expires)


def seconds_of(text: str) -> int:
    """Seconds since 1970 of a time; 0 where there is none. SuppressionError."""
    if not text or text in ("0", "never", "-"):
        return 0
    if text.isdigit():
        seconds = int(text[:20])
        seconds = seconds // 1000 if seconds > 1 << 33 else seconds
    else:
        try:
            time = datetime.fromisoformat(text.removesuffix(" UTC"))
        except ValueError:
            try:
                time = parsedate_to_datetime(text)
            except (ValueError, TypeError, IndexError):
                raise SuppressionError(f"{text[:60]!r} is no time") from None
        try:
            seconds = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            raise SuppressionError(f"{text[:60]!r} is no time") from None
    if not 0 <= seconds < 2**32:
        raise SuppressionError(f"{text[:60]!r} lies before 1970 or after 2105")
    return seconds


def time_of(seconds: int) -> str:
    """A time for people and files; "" for none."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def write_rows(write: Callable[[str], object], rows: list[Row]) -> None:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for *front, created, expires in rows:
        writer.writerow([*front, time_of(created), time_of(expires)])
    write(text.getvalue())


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
