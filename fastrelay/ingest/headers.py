"""Header fields by which a client says what a message is (campaign, tenant, pool, priority, expiry, not-before).

They are removed on the way; assign.py decides what they mean. `TLS-Required: No` (RFC 8689 section 5) is a client's
word, too, but for everybody on the way: it is heard, and stays.
"""

from __future__ import annotations

import re
from typing import Any

from fastrelay.config.schema import Headers

NAME_OCTETS = 255
TLS_REQUIRED = b"tls-required"
TLS_OPTIONAL = ("tls_optional", 0)
MEANINGS = ("campaign", "tenant", "pool", "priority", "expire", "not_before")


class HeaderNames:
    """Finds and cuts the configured fields. Called once a message, so it looks before it works."""

    def __init__(self, headers: Headers) -> None:
        self._meaning: dict[bytes, tuple[str, int]] = {}
        for meaning in MEANINGS:
            for rank, name in enumerate(getattr(headers, meaning)):
                self._meaning[name.lower().encode()] = (meaning, rank)
        self.names = [*self._meaning, TLS_REQUIRED]
        # A field with its folded lines (RFC 5322 section 2.2.3), at the start of the header or behind a line end.
        names = b"|".join(re.escape(name) for name in self.names)
        self._fields = re.compile(rb"(?im)^(" + names + rb")[ \t]*:((?:[^\r\n]|\r\n[ \t])*)\r\n")

    def edit(self, envelope: Any) -> tuple[dict[str, bytes], bytes] | None:
        """({meaning: what is said}, header without those fields), or None where the header has none.

        `tls_optional` is among the meanings where the header says `TLS-Required: No`.
        """
        content = envelope.content
        if content is not None:
            found = self._fields.search(content, 0, envelope.header_length)
        else:
            content = envelope.header
            found = self._fields.search(content)
        if found is None:
            return None
        header = content[: envelope.header_length]
        best: dict[str, tuple[int, bytes]] = {}
        for field in self._fields.finditer(header):
            meaning, rank = self._meaning.get(field[1].lower(), TLS_OPTIONAL)
            value = b" ".join(field[2].split())[:NAME_OCTETS]
            if meaning == "tls_optional" and value.lower() != b"no":
                continue
            if value and (meaning not in best or rank < best[meaning][0]):
                best[meaning] = (rank, value)
        chosen = {meaning: value for meaning, (_, value) in best.items()}
        return chosen, self._fields.sub(self._cut, header)

    def _cut(self, field: re.Match[bytes]) -> bytes:
        """What stays of a field."""
        return b"" if field[1].lower() in self._meaning else field[0]
