"""MTA-STS (RFC 8461): the record that announces a policy, the policy's text, and which MX hosts it names.

Fetching is fetch.py's business, keeping store.py's.

Known faults: a policy whose max_age is short is kept no longer than it says, so that it is fetched each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

Mode = Literal["enforce", "testing", "none"]

MAX_OCTETS = 64 * 1024  # of a policy, RFC 8461 section 3.3
MAX_AGE_SECONDS = 31_557_600  # RFC 8461 section 3.2
MAX_PATTERNS = 100
MAX_PATTERN = 253

_RECORD = re.compile(r"v=STSv1[ \t]*(?:;|\Z)")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


class PolicyError(Exception):
    """A policy that can't be had or used. `result`: the RFC 8460 section 4.3.2.2 result type."""

    def __init__(self, result: str, words: str) -> None:
        self.result = result
        super().__init__(words)


class Policy(msgspec.Struct, frozen=True):
    """A policy as it was published.

    mode     "none": the domain has none any more
    mx       patterns, lower case: host names, of which the first label may be "*"
    max_age  seconds for which it may be kept
    lines    its text, for reports (RFC 8460 section 4.2, policy-string)
    """

    mode: Mode
    mx: tuple[str, ...]
    max_age: int
    lines: tuple[str, ...] = ()


def text_of(rdata: bytes) -> str:
    """The text of a TXT record: its character strings, joined (RFC 1035 section 3.3.14). ValueError if it is cut."""
    parts = []
    position = 0
    while position < len(rdata):
        length = rdata[position]
        part = rdata[position + 1 : position + 1 + length]
        if len(part) != length:
            raise ValueError("a TXT record that is cut short")
        parts.append(part)
        position += 1 + length
    return b"".join(parts).decode("ascii", "replace")


def record_id(records: Iterable[bytes]) -> str | None:
    """The id in the TXT records at _mta-sts.DOMAIN; None: the domain has no policy (RFC 8461 section 3.1).

    Records of other kinds are passed over; more than one of this kind, or one that is not sound, count as none.
    """
    found = []
    for rdata in records:
        try:
            text = text_of(rdata)
        except ValueError:
            continue
        if _RECORD.match(text):
            found.append(text)
    if len(found) != 1:
        return None
    fields = [part.strip(" \t") for part in found[0].split(";")]
    for field in fields[1:]:
        name, equals, value = field.partition("=")
        if name == "id" and equals:
            return value if _ID.match(value) else None
    return None


def parse_policy(octets: bytes) -> Policy:
    """A policy (RFC 8461 section 3.2); lines end with CRLF or LF, in any order. Raises PolicyError.

    Unknown fields are passed over; of a field that may stand once the first counts.
    """
    if len(octets) > MAX_OCTETS:
        raise _invalid(f"larger than {MAX_OCTETS} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("not UTF-8") from None
    once: dict[str, str] = {}
    patterns: dict[str, None] = {}
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(" \t"), value.strip(" \t")
        if not colon or not name:
            raise _invalid(f"a line that is no field: {line[:60]!r}")
        if name == "mx":
            patterns[_pattern(value)] = None
        else:
            once.setdefault(name, value)
        if name in ("version", "mode", "mx", "max_age"):
            lines.append(f"{name}: {value}")
    return _policy(once, tuple(patterns), tuple(lines))


def _policy(once: dict[str, str], patterns: tuple[str, ...], lines: tuple[str, ...]) -> Policy:
    if once.get("version") != "STSv1":
        raise _invalid(f"version {once['version'][:20]!r}" if "version" in once else "no version")
    mode = once.get("mode")
    if mode not in ("enforce", "testing", "none"):
        raise _invalid(f"mode {mode[:20]!r}" if mode else "no mode")
    age = once.get("max_age", "")
    if not age.isascii() or not age.isdigit() or len(age) > 10:
        raise _invalid(f"max_age {age[:20]!r}" if age else "no max_age")
    if mode != "none" and not patterns:
        raise _invalid("no mx")
    if len(patterns) > MAX_PATTERNS:
        raise _invalid(f"more than {MAX_PATTERNS} mx")
    return Policy(mode, patterns, min(int(age), MAX_AGE_SECONDS), lines)  # type: ignore[arg-type]


def _pattern(value: str) -> str:
    """A pattern in its one spelling. Raises PolicyError."""
    name = value.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > MAX_PATTERN or not all(map(_LABEL.match, labels)):
        raise _invalid(f"mx {value[:60]!r}")
    return name


def _invalid(what: str) -> PolicyError:
    return PolicyError("sts-policy-invalid", f"the policy is not valid: {what}")


def matches(pattern: str, host: str) -> bool:
    """Whether a pattern names an MX host: a wildcard stands for one whole label (RFC 8461 section 4.1)."""
    host = host.lower().removesuffix(".")
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:]
    return pattern == host


def allowed(patterns: Sequence[str], hosts: Iterable[str]) -> tuple[str, ...]:
    """Those of the hosts that a policy names, sorted."""
    return tuple(sorted({host for host in hosts if any(matches(pattern, host) for pattern in patterns)}))
