"""The pending block: what a record keeps of a message whose signature is still to be made.

It stands where the DKIM-Signature fields would, at the start of the record's prefix, under FLAG_UNSIGNED. Delivery
cuts it off and puts the signature there, at each attempt (fastrelay/schedule/unsigned.py); nothing on disk changes.

    0   version (1), body in relaxed form (1), length of the block (2), of the added fields (4), of the header (4)
    12  SHA-256 of the canonical body (32)
    44  the From domain

The fields that were added on our side stand at the end of the prefix, behind Received, and are signed together with the
header of the content.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 1
_HEAD = struct.Struct("<BBHII32s")
FROM_DOMAIN_OCTETS = 255


@dataclass(frozen=True, slots=True)
class Pending:
    """`header_octets`: of the content's header, with the empty line; `added_octets`: at the end of the prefix."""

    body_hash: bytes
    relaxed_body: bool
    header_octets: int
    added_octets: int
    from_domain: bytes

    def encode(self) -> bytes:
        domain = self.from_domain[:FROM_DOMAIN_OCTETS]
        size = _HEAD.size + len(domain)
        head = _HEAD.pack(VERSION, self.relaxed_body, size, self.added_octets, self.header_octets, self.body_hash)
        return head + domain


def split(prefix: bytes) -> tuple[Pending, bytes]:
    """The block, and the prefix behind it. ValueError where it is none."""
    try:
        version, relaxed, size, added, header, body_hash = _HEAD.unpack_from(prefix)
    except struct.error:
        raise ValueError("the block of a message that waits for its signature is cut short") from None
    if version != VERSION or not _HEAD.size <= size <= len(prefix) or added > len(prefix) - size:
        raise ValueError("the block of a message that waits for its signature can't be read")
    return Pending(body_hash, bool(relaxed), header, added, prefix[_HEAD.size : size]), prefix[size:]
