"""Durations, sizes, shares and addresses as people write them in the configuration, and back.

Parsing is strict: a duration needs its unit (`30s`, never `30`), because a bare number is read as seconds by one person
and as minutes by the next. Every parser raises ValueError whose text is "problem; mend", for the configuration
loader and the command line to show.
"""

from __future__ import annotations

import ipaddress
import re

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE_BY_FOLDED = {unit.lower(): factor for unit, factor in SIZE_UNITS.items()}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)")
_DURATION = re.compile(r"[0-9]+(?:\.[0-9]+)?\s*[a-z]+(?:\s*[0-9]+(?:\.[0-9]+)?\s*[a-z]+)*")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_CONNECTIONS = re.compile(r"([0-9]{1,9})(?:\s+connections?)?")
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def parse_duration(text: str) -> float:
    """Seconds in `10m`, `1h30m`, `1.5 h` or `0`."""
    folded = text.strip()
    if folded == "0":
        return 0.0
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", folded):
        raise ValueError(f"{folded} has no unit; write {folded}s, {folded}m, {folded}h or {folded}d")
    if not _DURATION.fullmatch(folded):
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 30s, 10m, 4h, 3d or 1h30m")
    seconds = 0.0
    for number, unit in _DURATION_PART.findall(folded):
        if unit not in DURATION_UNITS:
            raise ValueError(f"{text!r} has the unknown unit {unit!r}; the units are ms, s, m, h, d and w")
        seconds += float(number) * DURATION_UNITS[unit]
    return seconds


def parse_size(text: str) -> int:
    """Octets in `100MiB`, `1.5 GB`, `64KiB` or `4096`."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 64KiB, 100MiB or 2GiB")
    number, unit = match.groups()
    factor = _SIZE_BY_FOLDED.get(unit.lower())
    if factor is None:
        raise ValueError(
            f"{text!r} has the unknown unit {unit!r}; the units are B, KiB, MiB, GiB, TiB, kB, MB, GB and TB"
        )
    return round(float(number) * factor) if "." in number else int(number) * factor


def parse_share(text: str) -> float:
    """A share between 0 and 1 of `10%`."""
    match = _SHARE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a share; write a percentage, such as 10%")
    share = float(match.group(1)) / 100
    if share > 1:
        raise ValueError(f"{text} is more than 100%; write a percentage between 0% and 100%")
    return share


def parse_connections(text: str) -> int:
    """The number of `20` or `20 connections`."""
    match = _CONNECTIONS.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a number of connections; write a whole number, such as 20")
    return int(match.group(1))


def parse_endpoint(text: str) -> tuple[str, int]:
    """(host, port) of `127.0.0.1:25`, `[::1]:25` or `mx.example:25`; the host without brackets, maybe empty."""
    if text.startswith("["):
        host, bracket, port = text[1:].rpartition("]:")
        if not bracket:
            raise ValueError(f"{text!r} has no port; write [address]:port, such as [::1]:2525")
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port; write address:port, such as {text or '127.0.0.1'}:2525")
        if ":" in host:
            raise ValueError(f"{text!r} is not clear; write IPv6 addresses in brackets, such as [::1]:2525")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port; write a number from 0 to 65535")
    return host, int(port)


def parse_bind(text: str) -> tuple[str, int]:
    """(IP address, port) to listen at. `*:25`, `:25`: every IPv4 address; `[::]:25`: every IPv6 one."""
    host, port = parse_endpoint(text)
    if host in ("", "*"):
        return "0.0.0.0", port
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        raise ValueError(
            f"{host!r} is not an IP address; listeners are bound to addresses, such as 127.0.0.1:2525 or [::1]:2525"
        ) from None


def format_endpoint(host: str, port: int) -> str:
    """`127.0.0.1:25` or `[::1]:25`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def format_duration(seconds: float) -> str:
    """The shortest exact spelling that parse_duration reads back: 5400 → `1h30m`, 0.25 → `250ms`."""
    if seconds == 0:
        return "0"
    milliseconds = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, milliseconds = divmod(milliseconds, round(DURATION_UNITS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def format_size(octets: int) -> str:
    """The shortest exact spelling that parse_size reads back: 104857600 → `100MiB`, 1000 → `1000B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if octets and octets % SIZE_UNITS[unit] == 0:
            return f"{octets // SIZE_UNITS[unit]}{unit}"
    return f"{octets}B"


def format_share(share: float) -> str:
    """0.1 → `10%`."""
    return f"{share * 100:.10g}%"
