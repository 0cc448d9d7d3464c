"""Texts with a form of their own: host names, addresses, endpoints, networks, patterns; checked and normalized.

Each function takes the text as written and returns it as the rest of fastrelay uses it, or raises ValueError
whose text is "problem; mend".
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import zoneinfo
from collections.abc import Callable

import idna

from fastrelay.config.units import format_endpoint, parse_bind, parse_endpoint
from fastrelay.limits.rate import parse_rate

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")


def normalize_hostname(text: str) -> str:
    """A host or domain name in lower-case A-labels, without a final dot. Raises ValueError, "problem; mend"."""
    name = text.rstrip(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{text!r} is not a domain name ({error}); write it as in DNS") from None
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is not a domain name; write it as in DNS, such as mta1.news.example")
    return name


def _hostname(text: str) -> str:
    name = normalize_hostname(text)
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{text!r} is an address, not a name; write the name that its reverse DNS gives")
    if "_" in name:
        raise ValueError(f"{text!r} has an underscore, which host names may not have; use a hyphen")
    return name


def _bind(text: str) -> str:
    return format_endpoint(*parse_bind(text))


def _endpoint(text: str) -> str:
    """`host`, `host:port`, `address`, `address:port` or `[IPv6 address]:port`; a bare host gets no port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        pass
    if ":" not in text:
        return _host_or_address(text)
    host, port = parse_endpoint(text)
    if port == 0:
        raise ValueError(f"{text!r} has port 0; write the port of the host, such as {host}:25")
    return format_endpoint(_host_or_address(host), port)


def _host_or_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = normalize_hostname(host)
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{host!r} is not an IPv4 address; write four numbers from 0 to 255, or a host name")
    return name


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if "/" in text:
        raise ValueError(f"{text!r} is a network; write one address")
    raise ValueError(
        f"{text!r} is not an IP address; write one such as 192.0.2.11 or 2001:db8::11, without port or brackets"
    )


def _nameserver(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return format_endpoint(str(address), 53)
    host, port = parse_endpoint(text) if ":" in text else (text, 53)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{host!r} is not an IP address; write nameservers as addresses, such as 127.0.0.1:53"
        ) from None
    if port == 0:
        raise ValueError(f"{text!r} has port 0; leave the port away for 53")
    return format_endpoint(str(address), port)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            fixed = ipaddress.ip_network(text, strict=False)
            host = text.partition("/")[0]
            raise ValueError(
                f"{text!r} has bits set beyond its prefix; write {fixed} for the network or {host} for the host"
            ) from None
    raise ValueError(f"{text!r} is not a network; write it as address/prefix, such as 10.0.0.0/8 or ::1/128")


def _domain_pattern(text: str) -> str:
    if text == "*":
        return text
    if text.startswith("@"):
        raise ValueError(f"{text!r} starts with @; write the domain alone, {text[1:]}")
    if text.startswith("."):
        raise ValueError(f"{text!r} starts with a dot; write *{text} for all subdomains")
    prefix, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if rest.startswith("[") and rest.endswith("]") and not prefix:
        return rest.lower()
    if "*" in rest:
        raise ValueError(f"{text!r} has a * inside; only * and *.domain are patterns")
    return prefix + normalize_hostname(rest)


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a header field name; write it without the colon, such as X-Job")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a name; use up to 64 letters, digits, dots, hyphens and underscores")
    return text


def _name_or_any(text: str) -> str:
    return text if text == "*" else _name(text)


def _label(text: str) -> str:
    """A campaign or tenant as a header field may name it: spaces folded, at most 255 octets."""
    folded = " ".join(text.split())
    if not folded or len(folded.encode("utf-8", "surrogateescape")) > 255 or not folded.isprintable():
        raise ValueError(f"{text!r} cannot name a campaign or tenant; write 1 to 255 printable octets")
    return folded


def _rate(text: str) -> str:
    return parse_rate(text).text


def _mx_suffix(text: str) -> str:
    """The end of an MX host's name in whole labels; at least two, as one would take in a whole top-level domain."""
    if text.startswith(("*.", ".")):
        bare = text.lstrip("*.")
        raise ValueError(f"{text!r} starts with a dot or star; write {bare}, it covers all below it")
    suffix = _hostname(text)
    if "." not in suffix:
        raise ValueError(f"{text!r} is a whole top-level domain; write the end of the hosts' names, such as mx.example")
    return suffix


def _time_zone(text: str) -> str:
    """A zone that this host knows. UTC needs no time zone database."""
    if text.upper() == "UTC":
        return "UTC"
    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        pass
    except KeyError:
        pass
    else:
        return text
    known = zoneinfo.available_timezones()
    if not known:
        raise ValueError(f"{text!r} cannot be looked up, this host has no time zones; install tzdata, or write UTC")
    close = difflib.get_close_matches(text, known, 1)
    mend = f"did you mean {close[0]}?" if close else "write an IANA name, such as Europe/Berlin or UTC"
    raise ValueError(f"{text!r} is not a time zone; {mend}")


TEXTS: dict[str, Callable[[str], str]] = {
    "hostname": _hostname,
    "bind": _bind,
    "endpoint": _endpoint,
    "address": _address,
    "nameserver": _nameserver,
    "network": _network,
    "domain_pattern": _domain_pattern,
    "header_name": _header_name,
    "name": _name,
    "name_or_any": _name_or_any,
    "label": _label,
    "rate": _rate,
    "mx_suffix": _mx_suffix,
    "time_zone": _time_zone,
}

# Keys that people write for ours; difflib finds misspellings, not synonyms.
SYNONYMS = {
    "interval": "first",
    "initial": "first",
    "max_age": "expire",
    "lifetime": "expire",
    "threads": "workers",
    "processes": "workers",
    "ip": "address",
    "helo": "ehlo",
    "id": "name",
    "host": "hosts",
    "domain": "domains",
    "smarthost": "hosts",
    "relayhost": "routes",
    "mynetworks": "relay_networks",
    "myhostname": "hostname",
    "servers": "nameservers",
    "resolvers": "nameservers",
    "listen": "bind",
    "data_dir": "state_dir",
    "spool_dir": "state_dir",
    "queue_directory": "state_dir",
    "external_address": "public_address",
    "nat_address": "public_address",
    "timezone": "time_zone",
    "tz": "time_zone",
    "mx": "suffixes",
    "max_connections": "connections",
    "max_smtp_out": "connections",
    "connection_limit": "connections",
    "max_msg_per_connection": "messages_per_connection",
    "max_msg_rate": "rate",
    "max_message_rate": "rate",
    "message_rate": "rate",
    "max_connection_rate": "connection_rate",
    "max_rcpt_per_message": "recipients_per_transaction",
    "schedule": "stages",
    "days": "stages",
    "vmta": "source",
    "ip_pool": "pool",
    "customer": "tenant",
    "job": "campaign",
    "traffic_shaping": "shaping",
    "warm_up": "warmup",
}
# Mends for keys that must be given.
MISSING = {
    "hostname": "add hostname: with this host's full name, as its reverse DNS gives it, such as mta1.news.example",
    "bind": 'add bind: with an address and a port, such as "127.0.0.1:2525"',
    "domains": 'add domains: with a list, such as ["example.com", "*.example.com"] or ["*"]',
    "name": "add name: with a short name of your choice; pools and commands use it",
    "address": "add address: with an IP address of this host",
    "start": "add start: with the cap of the first stage, such as 1000",
}
