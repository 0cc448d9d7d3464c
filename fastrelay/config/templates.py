"""Templates of the configuration (`compose`): text with {placeholders}, and how values are escaped where they land.

What a client chose (addresses, campaign, tenant) never gets a meaning of its own there:

    url      percent-encoded, all but the unreserved characters (RFC 3986 section 2.3)
    local    of a mailbox (RFC 5322 atext): `@` becomes `=`, as VERP has it, other octets `=XX`
    mailto   as in `local`, and percent-encoded (RFC 6068)
    token    of a Feedback-ID: what is not a letter, digit or one of . - _ = + becomes `_`

So no value can add a field, a parameter, another address or a part.

Known faults: a value that was escaped with `=XX` can't be told from one that had those characters; use {reference}
where it must be read back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import quote

from fastrelay.config.security import Compose

PLACEHOLDERS = (
    "recipient", "local", "domain", "sender_domain", "campaign", "tenant", "pool", "id", "reference",
)  # fmt: skip
OF_RECIPIENT = frozenset({"recipient", "local", "domain"})
SAFE = frozenset({"id", "reference"})  # made by us, of letters, digits and hyphens

Context = Literal["url", "local", "mailto", "token"]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NO_ATEXT = re.compile(rb"[^A-Za-z0-9!#$&'*+/=?^_`{|}~.\x80-\xff-]")  # `%` is left out: some take it for a route
_NO_TOKEN = re.compile(rb"[^A-Za-z0-9._=+-]")
_MAILTO_SAFE = "@:+!$'()*,-._~"


def _hexadecimal(found: re.Match[bytes]) -> bytes:
    return b"=%02X" % found[0][0]


def local_text(value: bytes) -> bytes:
    """A value within a local part. UTF-8 stays: it comes from a recipient that has it, so SMTPUTF8 is asked for
    anyway."""
    made = _NO_ATEXT.sub(_hexadecimal, value.replace(b"@", b"="))
    return made.replace(b"..", b".=2E") if b".." in made else made


@functools.lru_cache(maxsize=1024)
def _url(value: bytes) -> str:
    return quote(value, safe="")


def _local(value: bytes) -> str:
    return local_text(value).decode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1024)
def _mailto(value: bytes) -> str:
    return quote(local_text(value), safe=_MAILTO_SAFE)


@functools.lru_cache(maxsize=1024)
def _token(value: bytes) -> str:
    return _NO_TOKEN.sub(b"_", value).decode("ascii")


_ESCAPES: dict[Context, Callable[[bytes], str]] = {"url": _url, "local": _local, "mailto": _mailto, "token": _token}


class Template:
    """A template for one context. `names`: the placeholders in it; `literal`: how many characters are not."""

    __slots__ = ("_escape", "_parts", "literal", "names")

    def __init__(self, text: str, context: Context) -> None:
        parts = _PLACEHOLDER.split(text)  # literal, name, literal, name, …, literal
        self._escape = _ESCAPES[context]
        self._parts: list[tuple[str, str | None]] = []
        for place, part in enumerate(parts):
            if place % 2:
                self._parts.append(("", part))
            elif part:
                self._parts.append((part, None))
        self.names = frozenset(parts[1::2])
        self.literal = sum(len(part) for part in parts[::2])

    @property
    def per_recipient(self) -> bool:
        """Whether it says something else for each recipient."""
        return not self.names.isdisjoint(OF_RECIPIENT)

    def fill(self, values: Mapping[str, bytes]) -> str:
        """The text. KeyError where a value is missing."""
        escape = self._escape
        return "".join(
            [
                literal if name is None else values[name].decode() if name in SAFE else escape(values[name])
                for literal, name in self._parts
            ]
        )


def names_in(text: str) -> frozenset[str]:
    """The placeholders in a template."""
    return frozenset(_PLACEHOLDER.findall(text))


def plain(text: str) -> str:
    """A template with a letter for each placeholder: what its form is checked by."""
    return _PLACEHOLDER.sub("x", text)


def uses_reference(compose: Compose) -> bool:
    """Whether anything that is composed has our reference in it."""
    templates = (
        compose.list_unsubscribe, compose.list_unsubscribe_mailto, compose.feedback_id, compose.reverse_path,
    )  # fmt: skip
    return compose.reference is not None or any("reference" in names_in(one) for one in templates if one)


def faults(text: str) -> list[str]:
    """What is wrong with the placeholders of a template, in words."""
    found = [
        f"{{{name}}} is no placeholder; there are {', '.join(f'{{{one}}}' for one in PLACEHOLDERS)}"
        for name in _PLACEHOLDER.findall(text)
        if name not in PLACEHOLDERS
    ]
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        found.append("a brace stands alone")
    return found
