"""What every section of the configuration is made of: the base struct, the units in attribute names, value types.

The attribute carries the unit, the YAML key does not: see schema.py.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_UNIT_SUFFIXES = ("_seconds", "_bytes", "_share")


def yaml_key(attribute: str) -> str:
    """The YAML key of a struct attribute: the attribute without its unit."""
    for suffix in _UNIT_SUFFIXES:
        if attribute.endswith(suffix):
            return attribute.removesuffix(suffix)
    return attribute


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=yaml_key):
    """Base of all sections: immutable, unknown keys refused."""


class Origins(Struct, frozen=True, eq=False):
    """Where the values of a configuration were set: filled by load.py, never by an operator.

    It says nothing about the values, so two configurations that differ only here are equal.

    file   the file's name as it was given; "" for a configuration that was not loaded
    lines  the line of each path that says how fast mail leaves (from 1)
    """

    file: str = ""
    lines: dict[str, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origins)

    def __hash__(self) -> int:
        return 0

    def of(self, path: str, key: str = "") -> str:
        """`fastrelay.yaml line 40, shaping[2]`: the line of `key` below the path, or of the path itself; `default:
        shaping[2]` where the file has neither."""
        line = self.lines.get(f"{path}.{key}") or self.lines.get(path)
        return f"{os.path.basename(self.file)} line {line}, {path}" if line else f"default: {path}"


def unit(kind: str) -> dict[str, Any]:
    """Meta.extra of a value that is written with a unit or has a form of its own."""
    return {"unit": kind}


# A duration in seconds; Positive may not be zero.
Duration = Annotated[float, Meta(ge=0, extra=unit("duration"))]
PositiveDuration = Annotated[float, Meta(gt=0, extra=unit("duration"))]
# A size in octets.
Size = Annotated[int, Meta(ge=0, extra=unit("size"))]
PositiveSize = Annotated[int, Meta(gt=0, extra=unit("size"))]
# A share, 0 to 1.
Share = Annotated[float, Meta(ge=0, le=1, extra=unit("share"))]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Port = Annotated[int, Meta(ge=1, le=65535)]
# Texts with a form of their own; load.py checks and normalizes them.
Hostname = Annotated[str, Meta(extra=unit("hostname"))]  # lower case, A-labels
Bind = Annotated[str, Meta(extra=unit("bind"))]  # "address:port", as units.format_endpoint spells it
Endpoint = Annotated[str, Meta(extra=unit("endpoint"))]  # "host:port" or "host"
Address = Annotated[str, Meta(extra=unit("address"))]  # an IP address, compressed
Nameserver = Annotated[str, Meta(extra=unit("nameserver"))]  # "address:port"
Network = Annotated[str, Meta(extra=unit("network"))]  # CIDR, compressed
DomainPattern = Annotated[str, Meta(extra=unit("domain_pattern"))]  # "example.com", "*.example.com" or "*"
HeaderName = Annotated[str, Meta(extra=unit("header_name"))]
Name = Annotated[str, Meta(extra=unit("name"))]  # of a source or pool: letters, digits, . _ -
