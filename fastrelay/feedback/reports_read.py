"""Reports of others about our domains, read: DMARC aggregate reports (RFC 7489, 9990) and TLS reports (RFC 8460).

    if looks_like_report(octets): found = read_report(octets, Bounds(size=50 << 20, records=100_000))

A report comes as a message with an attachment, as its body, or as a file: XML or JSON, plain, gzip or zip. What it says
is not trusted, and neither is its packing: octets are counted while they are unpacked (a bomb ends at the bound), a zip
has MAX_FILES at most, packing within packing ends at MAX_NESTED, XML has no DTD and no entities of its own and at most
MAX_DEPTH levels. Rows are summed as they are read; the KEPT_ROWS largest are kept, the others in one row without a
source.

RFC 9990 has a namespace, `np`, `testing` and `discovery_method` where RFC 7489 had `pct`; what is read here is the same
in both. Reports of the years before have other namespaces or none: names are looked at without.

Known faults: of a message only the first 4 MiB count (bounce_mime.py), so a larger report is refused as cut off.
"""

from __future__ import annotations

import ipaddress
import re
import zipfile
import zlib
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Literal
from xml.parsers import expat

import msgspec

from fastrelay.errors import FastrelayError
from fastrelay.feedback.bounce_mime import Part, read_message, undo_encoding

MAX_FILES = 20  # of a zip
MAX_NESTED = 3  # packings within each other
MAX_DEPTH = 16  # of elements
MAX_TEXT = 2048  # characters of an element
MAX_NAME = 253
MAX_COUNT = 10**12
KEPT_ROWS = 2000
MAX_POLICIES = 1000  # of a TLS report
HEAD_OCTETS = 65536
OTHERS = ""  # the source of what the rows beyond KEPT_ROWS had

_NAMED = re.compile(rb"name\*?\s*=\s*\"?[^\"\r\n;]{0,300}![^\"\r\n;]{1,300}![0-9]{6,12}![0-9]{6,12}", re.I)
_KINDS = re.compile(rb"application/(?:tlsrpt|dmarc)|report-type\s*=\s*\"?tlsrpt|^tls-report-domain:", re.I | re.M)
_SUBJECT = re.compile(rb"^subject:(?:[^\n]|\n[ \t])*report[ _]domain:", re.I | re.M)
_DOMAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PACKED = (b"\x1f\x8b", b"PK\x03\x04")
_TYPES = re.compile(
    r"application/(.*gzip|(x-)?zip.*|.*xml|octet-stream|.*json|.*tlsrpt.*|.*dmarc.*|x-compressed)|text/xml"
)

ReportKind = Literal["dmarc", "tls"]


class ReportRefused(FastrelayError):
    """What was given is no report that can be used; in words."""


class Bounds(msgspec.Struct, frozen=True):
    """What a report may take: octets when unpacked, and records."""

    size: int = 50 << 20
    records: int = 100_000


class DmarcRow(msgspec.Struct, array_like=True):
    """Messages of one sending address that fared alike; `dkim` and `spf`: passed, and aligned with the From domain."""

    source: str
    header_from: str
    disposition: str
    dkim: bool
    spf: bool
    count: int


class TlsRow(msgspec.Struct, array_like=True):
    """Sessions that ended alike: `result` is a result type of RFC 8460 section 4.3, or `ok`."""

    result: str
    count: int
    policy: str = ""
    mx: str = ""
    source: str = ""


class Report(msgspec.Struct):
    """One report. Times are seconds since the epoch."""

    kind: ReportKind
    org: str
    id: str
    begin: int
    end: int
    domain: str
    policy: str = ""
    dmarc: list[DmarcRow] = []
    tls: list[TlsRow] = []


# -- is it one? -------------------------------------------------------------------------------------------------------


def looks_like_report(octets: bytes) -> bool:
    """Whether a message says of itself that it has a report (cheap; what it has then decides)."""
    head = octets[:HEAD_OCTETS]
    return any(words.search(head) is not None for words in (_KINDS, _NAMED, _SUBJECT))


def read_report(octets: bytes, bounds: Bounds) -> Report:
    """The report in a message or a file. Raises ReportRefused."""
    start = octets[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if octets.startswith(_PACKED) or start.startswith((b"<", b"{")):
        return _read_document(octets, bounds, 0)
    refused: ReportRefused | None = None
    for part in read_message(octets).walk():
        if part.parts or not _may_have(part):
            continue
        content = undo_encoding(part.body, part.encoding)
        if not content.strip():
            continue
        try:
            return _read_document(content, bounds, 0)
        except ReportRefused as error:
            refused = refused or error
    raise refused or ReportRefused("no report is in it: neither XML nor JSON, gzip or zip is attached")


def _may_have(part: Part) -> bool:
    if _TYPES.fullmatch(part.content_type):
        return True
    content = undo_encoding(part.body[:200], part.encoding if part.encoding != "base64" else "")
    return (part.encoding == "base64" and part.body.startswith((b"H4sI", b"UEsDB"))) or _is_xml(content)


def _is_xml(content: bytes) -> bool:
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?xml", b"<feedback"))


def _read_document(content: bytes, bounds: Bounds, nested: int) -> Report:
    if content.startswith(_PACKED):
        if nested >= MAX_NESTED:
            raise ReportRefused("it is packed again and again")
        unpacked = unzip(content, bounds.size) if content.startswith(b"PK") else gunzip(content, bounds.size)
        return _read_document(unpacked, bounds, nested + 1)
    if len(content) > bounds.size:
        raise ReportRefused(f"it is larger than {bounds.size} octets (reports.size)")
    text = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        return read_tls(content, bounds)
    if text.startswith(b"<") or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return read_dmarc(content, bounds)
    raise ReportRefused("what is attached is neither XML nor JSON")


def gunzip(packed: bytes, most: int) -> bytes:
    """A gzip file with any number of members, up to so many octets. Raises ReportRefused."""
    found, size = [], 0
    while packed[:2] == b"\x1f\x8b":
        machine = zlib.decompressobj(31)
        try:
            found.append(machine.decompress(packed, most - size + 1))
        except zlib.error as error:
            raise ReportRefused(f"its gzip is damaged ({error})") from None
        size += len(found[-1])
        if size > most:
            raise ReportRefused(f"it unpacks to more than {most} octets (reports.size)")
        if not machine.eof:
            raise ReportRefused("its gzip is cut off")
        packed = machine.unused_data
        if len(found) >= MAX_FILES:
            break
    return b"".join(found)


def unzip(packed: bytes, most: int) -> bytes:
    """The first file of a zip that may be a report, up to so many octets. Raises ReportRefused."""
    if packed.count(b"PK\x01\x02") > MAX_FILES:
        raise ReportRefused(f"its zip has more than {MAX_FILES} files")
    try:
        with zipfile.ZipFile(BytesIO(packed)) as archive:
            names = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX")]
            if not names:
                raise ReportRefused("its zip is empty")
            wanted = [one for one in names if one.filename.lower().endswith((".xml", ".json", ".gz"))]
            entry = (wanted or names)[0]
            if entry.flag_bits & 1:
                raise ReportRefused("its zip has a password")
            with archive.open(entry) as stream:
                content = stream.read(most + 1)
    except ReportRefused:
        raise
    except Exception as error:  # zipfile raises many kinds for what is damaged
        raise ReportRefused(f"its zip is damaged ({error})") from None
    if len(content) > most:
        raise ReportRefused(f"it unpacks to more than {most} octets (reports.size)")
    return content


# -- DMARC ------------------------------------------------------------------------------------------------------------


class _Stop(Exception):
    """Ends a parse, in words."""


class _DmarcReader:
    """Handlers of expat. Elements are known by their names alone, below `feedback`."""

    def __init__(self, records: int) -> None:
        self._most = records
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0
        self._record: dict[str, str] = {}
        self.records = 0
        self.fields: dict[str, str] = {}
        self.rows: dict[tuple[str, str, str, bool, bool], int] = {}

    def start(self, name: str, attributes: Any) -> None:
        if len(self._path) >= MAX_DEPTH:
            raise _Stop(f"its elements are more than {MAX_DEPTH} deep")
        name = name.rpartition(":")[2]
        if not self._path and name != "feedback":
            raise _Stop(f"it is XML, but no DMARC report (its root is {name[:40]})")
        self._path.append(name)
        self._text.clear()
        self._length = 0
        if self._path == ["feedback", "record"]:
            self.records += 1
            if self.records > self._most:
                raise _Stop(f"it has more than {self._most} records (reports.records)")
            self._record = {}

    def characters(self, text: str) -> None:
        self._length += len(text)
        if self._length <= MAX_TEXT:
            self._text.append(text)

    def end(self, name: str) -> None:
        path = self._path
        text = "".join(self._text).strip()
        self._text.clear()
        if path[1:2] == ["record"]:
            if len(path) == 2:
                self._row()
            elif path[2] in ("row", "identifiers", "identities"):
                self._record.setdefault(path[-1], text)
        elif len(path) > 2:
            self.fields.setdefault("/".join(path[1:])[:100], text)
        path.pop()

    def _row(self) -> None:
        of = self._record
        try:
            source = str(ipaddress.ip_address(of.get("source_ip", "").strip("[]")))
        except ValueError:
            raise _Stop(f"record {self.records} has no address that sent") from None
        count = _count(of.get("count", "1"))
        if count is None:
            raise _Stop(f"record {self.records} has no count")
        disposition = of.get("disposition", "none").lower()
        key = (
            source,
            _domain(of.get("header_from", "")),
            disposition if disposition in ("none", "pass", "quarantine", "reject") else "none",
            of.get("dkim", "").lower() == "pass",
            of.get("spf", "").lower() == "pass",
        )
        self.rows[key] = min(MAX_COUNT, self.rows.get(key, 0) + count)


def read_dmarc(content: bytes, bounds: Bounds) -> Report:
    """An aggregate report. Raises ReportRefused."""
    reader = _DmarcReader(bounds.records)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _no_doctype
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(content, True)
    except _Stop as error:
        raise ReportRefused(str(error)) from None
    except expat.ExpatError as error:
        raise ReportRefused(f"its XML is damaged ({error})") from None
    except (LookupError, UnicodeError, ValueError) as error:
        raise ReportRefused(f"its XML can't be read ({error})") from None
    of = reader.fields
    domain = _domain(of.get("policy_published/domain", ""))
    begin, end = (_count(of.get(f"report_metadata/date_range/{name}", "")) for name in ("begin", "end"))
    if not domain or begin is None or end is None or end < begin:
        raise ReportRefused("it names no domain, or no time")
    rows = [DmarcRow(*key, count) for key, count in reader.rows.items()]
    return Report(
        "dmarc", _short(of.get("report_metadata/org_name", "")) or "unknown",
        _short(of.get("report_metadata/report_id", "")), begin, end, domain,
        policy=_short(of.get("policy_published/p", ""))[:20], dmarc=_largest(rows),
    )  # fmt: skip


def _no_doctype(*arguments: Any) -> None:
    raise _Stop("its XML has a DTD; reports have none")


def _largest(rows: list[DmarcRow]) -> list[DmarcRow]:
    """The rows to keep: the largest, and the others without their source."""
    if len(rows) <= KEPT_ROWS:
        return rows
    rows.sort(key=lambda row: -row.count)
    sums: dict[tuple[str, bool, bool], int] = {}
    for row in rows[KEPT_ROWS:]:
        key = (row.disposition, row.dkim, row.spf)
        sums[key] = min(MAX_COUNT, sums.get(key, 0) + row.count)
    return rows[:KEPT_ROWS] + [DmarcRow(OTHERS, "", *key, count) for key, count in sums.items()]


# -- TLS --------------------------------------------------------------------------------------------------------------


class _Tls(msgspec.Struct, rename="kebab"):
    """RFC 8460 section 4.4, as far as it is looked at."""


class _DateRange(_Tls, rename="kebab"):
    start_datetime: str = ""
    end_datetime: str = ""


class _Policy(_Tls, rename="kebab"):
    policy_type: str = ""
    policy_domain: str = ""


class _Summary(_Tls, rename="kebab"):
    total_successful_session_count: int = 0
    total_failure_session_count: int = 0


class _Failure(_Tls, rename="kebab"):
    result_type: str = ""
    failed_session_count: int = 0
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = None


class _PolicyResult(_Tls, rename="kebab"):
    policy: _Policy = msgspec.field(default_factory=_Policy)
    summary: _Summary = msgspec.field(default_factory=_Summary)
    failure_details: list[_Failure] | None = None


class _TlsReport(_Tls, rename="kebab"):
    date_range: _DateRange
    policies: list[_PolicyResult]
    organization_name: str = ""
    report_id: str = ""


def read_tls(content: bytes, bounds: Bounds) -> Report:
    """A TLS report. Raises ReportRefused."""
    try:
        found = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=_TlsReport, strict=False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ReportRefused(f"its JSON is no TLS report ({error})") from None
    begin, end = _moment(found.date_range.start_datetime), _moment(found.date_range.end_datetime)
    domain = next((name for one in found.policies if (name := _domain(one.policy.policy_domain))), "")
    if begin is None or end is None or end < begin or not domain:
        raise ReportRefused("it names no domain, or no time")
    if len(found.policies) > MAX_POLICIES:
        raise ReportRefused(f"it has more than {MAX_POLICIES} policies")
    sums: dict[tuple[str, str, str, str], int] = {}
    records = 0
    for one in found.policies:
        policy = _word(one.policy.policy_type)
        _add(sums, ("ok", policy, "", ""), one.summary.total_successful_session_count)
        told = 0
        for failure in one.failure_details or ():
            records += 1
            if records > bounds.records:
                raise ReportRefused(f"it has more than {bounds.records} records (reports.records)")
            source, mx = failure.sending_mta_ip or "", _domain(failure.receiving_mx_hostname or "")
            _add(sums, (_word(failure.result_type) or "unknown", policy, mx, source[:45]), failure.failed_session_count)
            told += max(0, failure.failed_session_count)
        _add(sums, ("unknown", policy, "", ""), one.summary.total_failure_session_count - told)
    rows = [TlsRow(key[0], count, *key[1:]) for key, count in sums.items()]
    rows.sort(key=lambda row: -row.count)
    org = _short(found.organization_name) or "unknown"
    return Report("tls", org, _short(found.report_id), begin, end, domain, tls=rows[:KEPT_ROWS])


def _add(sums: dict[tuple[str, str, str, str], int], key: tuple[str, str, str, str], count: int) -> None:
    if count > 0:
        sums[key] = min(MAX_COUNT, sums.get(key, 0) + min(count, MAX_COUNT))


# -- values -----------------------------------------------------------------------------------------------------------


def _short(text: str) -> str:
    """A name for people: printable, on one line."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_NAME]).strip()


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "", text[:60].lower())


def _domain(text: str) -> str:
    text = text.strip().rstrip(".").lower()
    return text if len(text) <= MAX_NAME and _DOMAIN.fullmatch(text) else ""


def _count(text: str) -> int | None:
    """A whole number, also where it was written as 3.0."""
    found = re.fullmatch(r"\s*(\d{1,15})(?:\.0*)?\s*", text, re.A)
    return None if found is None else min(int(found[1]), MAX_COUNT)


def _moment(text: str) -> int | None:
    """Seconds since the epoch of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text.strip()[:40].replace("Z", "+00:00").replace("z", "+00:00"))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
