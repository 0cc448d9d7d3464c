"""Delivery reports (RFC 3464, RFC 6533) read exactly: the groups, and of each recipient its address, action, status.

Real reports break the rules, so this one reads what was meant: groups without an empty line between them, empty lines
within a group, addresses without a type, angle brackets, comments, a status with words behind it, no action.

Known faults: X.400 addresses stay as they are, in `final_recipient` alone.
"""

from __future__ import annotations

import re

from fastrelay.feedback.bounce_mime import Part, decode, one_line_end, read_fields
from fastrelay.feedback.bounce_types import BouncedRecipient, as_reported, plausible

MAX_RECIPIENTS = 1000  # of one report
MAX_STEPS = 20 * MAX_RECIPIENTS  # fields of one report; groups and lines that are no field
MAX_REPORT_OCTETS = 1 << 20
MAX_TEXT = 2048  # characters of a diagnostic that are kept

_RECIPIENT_FIELDS = frozenset({"final-recipient", "original-recipient", "x-actual-recipient", "x-final-recipient"})
_OUTCOME = frozenset({"action", "status", "diagnostic-code"})
_ABOUT = _RECIPIENT_FIELDS | _OUTCOME
_BEGINS = _RECIPIENT_FIELDS | {"action", "status"}
_OF_RECIPIENT = _ABOUT | {"remote-mta", "last-attempt-date", "will-retry-until", "final-log-id"}
_OF_MESSAGE = frozenset({"reporting-mta", "original-envelope-id", "arrival-date", "original-message-id"})
_OF_MESSAGES = frozenset({"received", "message-id", "return-path", "dkim-signature", "mime-version", "x-mailer"})
_LOOKS_LIKE_ONE = re.compile(rb"^(?:final|original)-recipient[ \t]*:", re.I | re.M)
_SHIFTED = re.compile(rb"^([ \t>|]{1,20})(?:final|original)-recipient[ \t]*:", re.I | re.M)  # quoted or indented
_HAS_OUTCOME = re.compile(rb"^(?:action|status|diagnostic-code|reporting-mta)[ \t]*:", re.I | re.M)
_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
_TYPE = re.compile(
    r"^\s*(rfc-?822|utf-?8|local|x-local|smtp|x400|x\.400|unknown|system|dns|[a-z][a-z0-9-]{0,30})\s*;\s*", re.I
)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_ACTIONS = (
    ("fail", "failed"), ("delay", "delayed"), ("defer", "delayed"), ("deliver", "delivered"), ("relay", "relayed"),
    ("expan", "expanded"), ("error", "failed"), ("reject", "failed"), ("bounce", "failed"), ("expire", "failed"),
    ("not delivered", "failed"), ("undeliver", "failed"),
)  # fmt: skip
_BY_CLASS = {"5": "failed", "4": "delayed", "2": "delivered"}

Group = list[tuple[str, str]]
Fields = dict[str, str]


def is_declared(part: Part) -> bool:
    """Whether a part is a delivery report by its type: `message/global-delivery-status`, `xdelivery-status` …"""
    return part.content_type.endswith(("delivery-status", "delivery_status")) and not part.parts


def is_report(part: Part) -> bool:
    """Whether a part is a delivery report, whatever its type says."""
    if is_declared(part):
        return True
    if part.parts or part.content_type.startswith(("image/", "text/html", "message/")):
        return False
    if part.content_type not in ("text/plain", "text/rfc822-headers") or part.encoding == "base64":
        start = part.content()[:20000]
    else:
        start = part.body[:20000]
    return _LOOKS_LIKE_ONE.search(start) is not None and _HAS_OUTCOME.search(start) is not None


def groups_of(part: Part) -> list[Group]:
    """The groups of fields in a report; lines that are no fields are left out."""
    octets = part.content()[:MAX_REPORT_OCTETS]
    charset = part.parameters.get("charset", "")
    if b"\x00" in octets:  # UTF-16, which has no lines before it is decoded
        named = charset.lower().startswith("utf-") or not octets.startswith((b"\xff\xfe", b"\xfe\xff"))
        octets = decode(octets, charset if named else "utf-16").replace("\x00", "").encode("utf-8", "replace")
        charset = "utf-8"
    octets = one_line_end(octets)
    # Some programs give the report a type whose body has a header of its own, which is then its first group.
    if part.parts and not _LOOKS_LIKE_ONE.search(octets):
        octets = b"\n\n".join(below.body for below in part.parts)
    if (prefix := _SHIFTED.search(octets)) is not None and not _LOOKS_LIKE_ONE.search(octets):
        octets = (b"\n" + octets).replace(b"\n" + prefix[1], b"\n").replace(b"\n" + prefix[1].rstrip() + b"\n", b"\n\n")
    groups: list[Group] = []
    at = fields_in_all = 0
    for _ in range(MAX_STEPS):
        if at >= len(octets) or fields_in_all >= MAX_STEPS:
            break
        fields, next_at = read_fields(octets, at, MAX_STEPS)
        if fields:
            groups.append([(name, decode(value, charset)) for name, value in fields])
            fields_in_all += len(fields)
        if next_at == at or (not fields and octets[at:next_at].strip()):  # a line that is no field
            end = octets.find(b"\n", at)
            next_at = max(next_at, end + 1 if end >= 0 else len(octets))
        at = next_at
    return groups


def read_report(part: Part) -> tuple[Group, list[BouncedRecipient]]:
    """The fields about the message, and the recipients, of a report.

    A report without any address, but with an outcome, has one recipient without address.
    """
    message: Group = []
    collected: list[Fields] = []
    loose: Fields = {}  # an outcome that stands before any recipient
    for group in groups_of(part):
        names = {name for name, _ in group}
        if names & _OF_MESSAGES and not names & {"final-recipient", "reporting-mta"}:
            if collected:
                break  # a copy of our message goes on where the report ended
            continue
        if not names & _RECIPIENT_FIELDS:
            if not names & _OUTCOME:
                message.extend(group)
                continue
            target = collected[-1] if collected else loose
            for name, value in group:
                if name in _OF_RECIPIENT:
                    target.setdefault(name, value)
                else:
                    message.append((name, value))
            continue
        pieces = split_recipients(group)
        if collected and not collected[-1].keys() & (_OUTCOME | pieces[0].keys()):
            collected[-1].update(pieces.pop(0))  # it had an address only; this group goes on with it
        collected += pieces[: MAX_RECIPIENTS - len(collected)]
        message += [field for field in group if field[0] in _OF_MESSAGE]
        if len(collected) >= MAX_RECIPIENTS:
            break
    if not collected and loose:
        collected.append({})
    return message, [read_recipient({**loose, **fields} if loose else fields) for fields in collected]


def split_recipients(group: Group) -> list[Fields]:
    """The recipients in a group: several, where no empty line stands between them. Each begins where a field comes
    again that the one before it has."""
    pieces: list[Fields] = [{}]
    for name, value in group:
        current = pieces[-1]
        if name in current and name in _BEGINS and current.keys() & _RECIPIENT_FIELDS:
            current = {}
            pieces.append(current)
        current.setdefault(name, value)
    if len(pieces) > 1 and not pieces[-1].keys() & _RECIPIENT_FIELDS:
        last = pieces.pop()  # a field that was given twice
        for name, value in last.items():
            pieces[-1].setdefault(name, value)
    return pieces


def read_recipient(fields: Fields) -> BouncedRecipient:
    """One recipient from the fields of its group."""
    final = address_of(fields.get("final-recipient", "") or fields.get("x-final-recipient", ""))
    original = address_of(fields.get("original-recipient", ""))
    if "+" in original and "@" in final and _XTEXT.sub(_from_xtext, original).lower() == final.lower():
        original = final  # who reports left it in the encoding of ORCPT (RFC 3461 section 4)
    actual = address_of(fields.get("x-actual-recipient", ""))
    address = next((each for each in (original, final, actual) if plausible(each) or as_reported(each)), "")
    kind, diagnostic = typed(fields.get("diagnostic-code", ""))
    status = status_of(fields.get("status", "")) or status_of(diagnostic)
    return BouncedRecipient(
        address=address,
        action=action_of(fields.get("action", ""), status),
        status=status,
        diagnostic=diagnostic[:MAX_TEXT],
        diagnostic_type=kind,
        final_recipient=final,
        original_recipient=original,
        remote_mta=typed(fields.get("remote-mta", ""))[1][:255],
        will_retry_until=fields.get("will-retry-until", "")[:80],
    )


def typed(value: str) -> tuple[str, str]:
    """`smtp; 550 …` → ("smtp", "550 …"); without a type, ("", the value)."""
    found = _TYPE.match(value)
    if found is None:
        return "", value.strip()
    return found[1].lower(), value[found.end() :].strip()


def address_of(value: str) -> str:
    """The address in a recipient field, without its type, brackets and comments."""
    _, text = typed(value)
    text = _HEX.sub(_unescaped, text[:1000]).strip()
    if "<" in text:
        inner = text.partition("<")[2].partition(">")[0].strip()
        text = inner or text.replace("<", "").replace(">", "").strip()
    if not text.startswith('"'):
        text = text.partition(" (")[0].partition("(")[0].strip() if "@" in text.partition("(")[0] else text
        words = text.split()
        text = next((word for word in words if "@" in word), words[0] if words else "")
    if text.startswith("@") and ":" in text:  # a source route (RFC 5321 appendix C)
        text = text.partition(":")[2]
    text = text.removeprefix("mailto:").removeprefix("rfc822;").removeprefix("SMTP:").strip(" ,;:'<>")
    return text[:512].removesuffix(".")


def _unescaped(match: re.Match[str]) -> str:
    """RFC 6533 section 3: \\x{HEX} of a utf-8-addr-xtext."""
    number = int(match[1], 16)
    return chr(number) if 0x20 < number < 0xD800 or 0xE000 <= number < 0x110000 else match[0]


def _from_xtext(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def status_of(value: str) -> str:
    """The status code in a field, or ""."""
    found = _STATUS.search(value[:MAX_TEXT])
    return f"{found[1]}.{int(found[2])}.{int(found[3])}" if found else ""


def action_of(value: str, status: str) -> str:
    """The action: the word of RFC 3464 section 2.3.3 that is meant, else what the status's class says."""
    word = value.strip().lower()
    for start, action in _ACTIONS:
        if word.startswith(start):
            return action
    return _BY_CLASS.get(status[:1], "failed")
