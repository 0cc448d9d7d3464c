"""Bounded reading of MIME messages that came from anywhere, however broken.

    message = read_message(octets)
    for part in message.walk(): part.content_type, part.field("subject"), part.text()

Nothing here raises for what a message says, and time is linear in its octets. What is read: MAX_OCTETS of a message
(its start, and MAX_END of its end), MAX_PARTS parts, MAX_DEPTH levels, MAX_FIELDS fields of MAX_FIELD_OCTETS each in a
header of MAX_HEADER_OCTETS, MAX_TEXT octets of a text. Line ends may be CRLF, LF, CR or mixed. A multipart whose
boundary is missing, is not the one that its header
names, or never ends, is read as far as can be. Transfer encodings are undone wherever they stand, also where RFC 2045
section 6.4 forbids them (message/rfc822, multipart).

Known faults: uuencoded and TNEF bodies stay as they are.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator

import msgspec

MAX_OCTETS = 4 << 20
MAX_END = 256 << 10  # of them, what is read from the end of a longer message
MAX_PARTS = 200
MAX_DEPTH = 10
MAX_FIELDS = 1000
MAX_FIELD_OCTETS = 16384
MAX_HEADER_OCTETS = 256 << 10
MAX_TEXT = 128 << 10
MAX_MENDS = 200  # lines of a header that lost the space before them
MAX_MENDED = 4096  # octets behind such a line that must have a field of a header

_BOMS = (b"\xff\xfe", b"\xfe\xff")
_CR_RUN = re.compile(rb"\r+\n")
_PART_STARTS = re.compile(rb"(?:^|\n)--[^\n]{1,200}\ncontent-", re.I)
_MESSAGE_PART = re.compile(rb"\ncontent-type:[ \t]*message/", re.I)
_FIELD = re.compile(rb"([!-9;-~]{1,80})[ \t]*:([^\n]*(?:\n[ \t]+[^\s][^\n]*)*)")
_KNOWN = re.compile(
    rb"\n(?:received|return-path|from|to|subject|date|message-id|mime-version|content-type|dkim-signature|"
    rb"auto-submitted|x-[a-z0-9-]{2,60}):",
    re.I,
)
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$&+.^_`{|}~*-]{1,64})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^;\s]*))', re.S)
_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,20})?\?([bBqQ])\?([^?]{0,2000})\?=(?:\s+(?==\?))?")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")
_HIDDEN = re.compile(r"<(style|script|title)\b", re.I)
_BREAKS = re.compile(r"<(?:br|/?p|/?div|/?tr|/?li|/?h[1-6]|/?table|hr)\b[^<>]{0,2000}>", re.I)
_TAG = re.compile(r"<(?![^<>@\s]{1,64}@[^<>\s]{1,255}>)[/!a-zA-Z][^<>]{0,4000}>")
_REFUSED_CODECS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7", "mbcs"})
_DECODED = re.compile(r"&(#\d{1,7}|#x[0-9a-fA-F]{1,6}|lt|gt|amp|quot|nbsp|apos);")
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "nbsp": " ", "apos": "'"}


class Part(msgspec.Struct):
    """A message or a part of one; `body` is as it stands in the message, with LF for line ends."""

    fields: list[tuple[str, bytes]]  # names in lower case, values unfolded
    content_type: str
    parameters: dict[str, str]
    encoding: str
    body: bytes
    parts: list[Part] = []
    depth: int = 0

    def raw(self, name: str) -> bytes:
        """The first field of a name (lower case), or b""."""
        return next((value for have, value in self.fields if have == name), b"")

    def field(self, name: str) -> str:
        """The first field of a name (lower case), its encoded words decoded; or ""."""
        return decoded_words(self.raw(name))

    def all_fields(self, name: str) -> list[str]:
        return [decoded_words(value) for have, value in self.fields if have == name]

    def has(self, name: str) -> bool:
        return any(have == name for have, _ in self.fields)

    def walk(self, into_messages: bool = True) -> Iterator[Part]:
        """This part and all below it, in order."""
        stack = [self]
        while stack:
            part = stack.pop()
            yield part
            if into_messages or part is self or not is_message(part.content_type):
                stack.extend(reversed(part.parts))

    def content(self) -> bytes:
        """The body, its transfer encoding undone."""
        return undo_encoding(self.body, self.encoding)

    def text(self) -> str:
        """The body as text; of HTML what a reader sees."""
        content = undo_encoding(self.body[: 2 * MAX_TEXT], self.encoding)[:MAX_TEXT]
        text = decode(content, self.parameters.get("charset", ""))
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return strip_html(text) if self.content_type == "text/html" else text


def is_message(content_type: str) -> bool:
    """Whether a part's body is a message with a header of its own."""
    return content_type in ("message/rfc822", "message/global")


def read_message(octets: bytes, messages: bool = True) -> Part:
    """The tree of a message. A line `From …` of a mailbox file before it is left out.

    messages   whether messages in it are read, too; else only the header of each
    """
    if len(octets) > MAX_OCTETS:  # some put the report behind our message
        octets = octets[: MAX_OCTETS - MAX_END] + b"\n" + octets[-MAX_END:]
    if octets.startswith(_BOMS):
        octets = decode(octets, "utf-16").encode("utf-8", "replace")
    octets = octets.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in octets:
        octets = octets.replace(b"\x00", b"")  # also makes ASCII in UTF-16 legible
    octets = one_line_end(octets).lstrip(b" \t\n")
    if octets.startswith((b"From ", b">From ")):
        octets = octets.partition(b"\n")[2]
    return _Reader(messages).read(octets, 0, "text/plain")


def one_line_end(octets: bytes) -> bytes:
    """With LF for CRLF, CR and CR CR LF."""
    if b"\r" not in octets:
        return octets
    if b"\r\r\n" in octets:
        octets = _CR_RUN.sub(b"\n", octets)
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_fields(
    octets: bytes, at: int = 0, most: int = MAX_FIELDS, mend: int = 0
) -> tuple[list[tuple[str, bytes]], int]:
    """The fields of `octets` from `at` on, `most` of them, and where what follows begins (behind the empty line).

    mend   how many lines that lost the space before them may be taken for continuations
    """
    fields: list[tuple[str, bytes]] = []
    end = min(len(octets), at + MAX_HEADER_OCTETS)
    while at < end:
        match = _FIELD.match(octets, at, end)
        if match is not None:
            name, value = match.groups()
            if len(value) > MAX_FIELD_OCTETS:
                value = value[:MAX_FIELD_OCTETS]
            if b"\n" in value:
                value = b" ".join(map(bytes.strip, value.split(b"\n")))
            if len(fields) < most:
                fields.append((name.lower().decode("ascii"), value.strip()))
            at = match.end() + 1
            continue
        stop = octets.find(b"\n", at)
        stop = stop if stop >= 0 else len(octets)
        line = octets[at : min(stop, at + MAX_FIELD_OCTETS)]
        if not line.strip():
            return fields, min(stop + 1, len(octets))
        if line[:1] not in b" \t" and not line.startswith((b"From ", b">From ")):
            if not mend or not fields or not _goes_on(fields[-1][1], octets[stop : stop + MAX_MENDED]):
                return fields, at  # no header any more
            mend -= 1
            if len(fields[-1][1]) < MAX_FIELD_OCTETS:
                fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip())
        at = stop + 1
    return fields, min(at, len(octets))


def _goes_on(value: bytes, ahead: bytes) -> bool:
    """Whether a header goes on behind a line that is no field: the field before it is not finished, or others of a
    message's header follow before the next empty line."""
    return value.endswith(b";") or _KNOWN.search(ahead.partition(b"\n\n")[0]) is not None


class _Reader:
    def __init__(self, messages: bool) -> None:
        self.messages = messages
        self.parts = 0
        self.decoded = 0  # octets that undoing of encodings made

    def read(self, octets: bytes, depth: int, default: str, below: bool = True) -> Part:
        self.parts += 1
        fields, start = read_fields(octets, mend=MAX_MENDS)
        content_type, encoding = default, ""
        parameters: dict[str, str] = {}
        for name, value in reversed(fields):  # the first one counts
            if name == "content-type":
                content_type, parameters = parse_content_type(value.decode("utf-8", "replace"), default)
            elif name == "content-transfer-encoding":
                words = value.decode("latin-1").lower().split()
                encoding = words[0] if words else ""
        part = Part(fields, content_type, parameters, encoding, octets[start:], depth=depth)
        if below and depth < MAX_DEPTH and self.parts < MAX_PARTS:
            self._read_below(part)
        return part

    def _read_below(self, part: Part) -> None:
        multipart = part.content_type.startswith("multipart/")
        if not multipart and not is_message(part.content_type):
            if part.depth or part.raw("content-type") or not _has_parts(part.body[:65536]):
                return
            multipart = True  # the header lost its Content-Type on the way
        body = part.body
        if part.encoding in ("base64", "quoted-printable") and self.decoded < MAX_OCTETS:
            undone = one_line_end(undo_encoding(body, part.encoding))
            if not multipart or b"\n--" in undone or undone.startswith(b"--"):
                self.decoded += len(undone)
                body = undone
        if not multipart:
            below = self.messages or part.depth == 0
            part.parts.append(self.read(body.lstrip(b"\n"), part.depth + 1, "text/plain", below))
            return
        default = "message/rfc822" if part.content_type == "multipart/digest" else "text/plain"
        for piece in split_parts(body, part.parameters.get("boundary", ""), MAX_PARTS - self.parts):
            if self.parts >= MAX_PARTS:
                return
            part.parts.append(self.read(piece, part.depth + 1, default))


def _has_parts(body: bytes) -> bool:
    """Whether a body is that of a multipart with a message or a report in it."""
    return _MESSAGE_PART.search(body) is not None and _PART_STARTS.search(body) is not None


def split_parts(body: bytes, boundary: str, most: int) -> list[bytes]:
    """The parts of a multipart body. A boundary that does not occur is guessed from the first line like one."""
    wanted = boundary.encode("utf-8", "replace").rstrip()
    places = _boundaries(body, wanted, most) if wanted else []
    if not places:
        guess = re.search(rb"(?:^|\n)--([^\s-][^\n]{0,200}|-+[^\s-][^\n]{0,200})\nContent-", body[:65536], re.I)
        places = _boundaries(body, guess[1].rstrip(), most) if guess else []
    pieces = []
    for number, (_, start, last) in enumerate(places):
        if last:
            break
        end = places[number + 1][0] if number + 1 < len(places) else len(body)
        pieces.append(body[start:end])
    return pieces


def _boundaries(body: bytes, boundary: bytes, most: int) -> list[tuple[int, int, bool]]:
    """Where each delimiter line begins, where what follows it begins, whether it is the closing one."""
    delimiter = b"--" + boundary
    found: list[tuple[int, int, bool]] = []
    at = 0
    while len(found) <= most:
        at = body.find(delimiter, at)
        if at < 0:
            break
        end = body.find(b"\n", at)
        if end < 0:
            end = len(body)
        rest = body[at + len(delimiter) : min(end, at + len(delimiter) + 80)].strip()
        if (at == 0 or body[at - 1] == 0x0A) and rest in (b"", b"--"):
            found.append((max(at - 1, 0), min(end + 1, len(body)), rest == b"--"))
        at = end
    return found


def parse_content_type(value: str, default: str = "text/plain") -> tuple[str, dict[str, str]]:
    """The type in lower case, and its parameters (the first one of a name counts)."""
    kind, _, _ = value.partition(";")
    kind = kind.strip().lower().split("(")[0].strip()
    if "/" not in kind or " " in kind:
        kind = {"text": "text/plain", "multipart": "multipart/mixed"}.get(kind, default)
    parameters: dict[str, str] = {}
    for match in _PARAMETER.finditer(value[:4096]):
        name, text = match[1].lower(), match[2] if match[2] is not None else match[3]
        parameters.setdefault(name.rstrip("*").removesuffix("*0"), text.replace("\\", "") if match[2] else text)
    return kind, parameters


def undo_encoding(body: bytes, encoding: str) -> bytes:
    """The octets behind base64 or quoted-printable; others as they stand."""
    if encoding == "base64":
        kept = _NOT_BASE64.sub(b"", body).split(b"=", 1)[0]
        kept = kept[: len(kept) - (len(kept) % 4 == 1)]
        return binascii.a2b_base64(kept + b"=" * (-len(kept) % 4))
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    return body


def decode(octets: bytes, charset: str) -> str:
    """Text in whatever character set; octets that are none become U+FFFD. Never raises."""
    charset = charset.strip().strip("'\"").lower()[:40]
    if charset and charset not in ("us-ascii", "utf-8", "ascii", "unknown-8bit", "x-unknown", "utf8"):
        try:
            codec = codecs.lookup(charset)
            wide = codec.name.startswith(("utf-16", "utf-32"))  # said of ASCII now and then
            if codec.name.replace("_", "-") not in _REFUSED_CODECS and (not wide or b"\x00" in octets):
                return octets.decode(codec.name, "replace")
        except (LookupError, ValueError):
            pass
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        # Cut in the middle of a character is still UTF-8.
        whole = error.start >= len(octets) - 3 and error.start > 0
        return octets.decode("utf-8", "replace") if whole or charset.startswith("utf") else octets.decode("latin-1")


def decoded_words(value: bytes) -> str:
    """A field's value with its encoded words (RFC 2047) decoded."""
    text = decode(value, "")
    if "=?" not in text:
        return text

    def word(match: re.Match[str]) -> str:
        octets = match[3].encode("utf-8", "replace")
        if match[2] in "bB":
            return decode(undo_encoding(octets, "base64"), match[1])
        return decode(binascii.a2b_qp(octets, header=True), match[1])

    return _WORD.sub(word, text)


def strip_html(text: str) -> str:
    """What a reader of HTML sees, roughly; addresses in angle brackets stay."""
    text = _TAG.sub("", _BREAKS.sub("\n", _without_hidden(text)))

    def entity(match: re.Match[str]) -> str:
        name = match[1]
        if name[0] != "#":
            return _ENTITIES[name]
        number = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
        return chr(number) if 0 < number < 0xD800 or 0xE000 <= number < 0x110000 else "\ufffd"

    return _DECODED.sub(entity, text)


def _without_hidden(text: str) -> str:
    """Without style sheets, scripts and the title; linear, also where none of them ends."""
    kept, at = [], 0
    folded = text.lower() if text.isascii() else text
    while (found := _HIDDEN.search(text, at)) is not None:
        end = folded.find("</" + found[1].lower(), found.end())
        if end < 0:
            break
        kept.append(text[at : found.start()])
        close = text.find(">", end)
        at = close + 1 if close >= 0 else len(text)
    kept.append(text[at:])
    return "".join(kept)
