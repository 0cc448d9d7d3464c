"""Domains, host names and address literals: from what people and DNS servers write to one spelling.

Why: a domain is a key (of caches, rules, sites), so `Example.COM.`, `example.com` and its U-label form must be one
string; and whatever an MX record names ends up in a connect, a log line and a metric, so only host names pass.

Forms, used all over fastrelay/route:

    domain   "example.com" (A-labels, lower case, no final dot); an address literal "[192.0.2.1]", "[IPv6:2001:db8::1]"
    host     "mx.example.com", "192.0.2.1", "[2001:db8::1]"; in explicit routes with a port: "mx.example.com:2526"

Known faults: an A-label is taken as it is, its U-label form is not checked (the DNS decides whether it exists);
underscores are let through, as Postfix does, although RFC 5321 has none; IDNA is that of the installed `idna`
package.
"""

from __future__ import annotations

import ipaddress
import re
import socket

import idna

from fastrelay.errors import FastrelayError

# RFC 1035 section 2.3.4: 255 octets on the wire are 253 in text.
MAX_DOMAIN = 253

# RFC 1123 section 2.1, with the underscore. A last label of digits alone would read as an IPv4 address.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}\Z", re.ASCII)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class InvalidDomain(FastrelayError, ValueError):
    """Text that cannot be the domain of a mailbox.

    domain   the text, cut to 253 characters
    problem  what is wrong with it, a clause
    """

    def __init__(self, domain: str, problem: str) -> None:
        self.domain = domain[:MAX_DOMAIN]
        self.problem = problem
        super().__init__(f"{self.domain!r} is not a domain: {problem}")


def is_host_name(name: str) -> bool:
    """Whether the lower-case name (no final dot) may be asked for in the DNS and connected to."""
    return len(name) <= MAX_DOMAIN and _HOST_NAME.match(name) is not None


def normalize_domain(text: str) -> str:
    """The one spelling of a domain: A-labels (UTS46 non-transitional, IDNA 2008; RFC 5891), lower case, no final dot.

    Address literals (RFC 5321 section 4.1.3) come back with the address in its canonical form.
    Raises InvalidDomain.
    """
    if text.startswith("["):
        return literal_domain(parse_literal(text))
    if len(text) > 4 * MAX_DOMAIN:
        raise InvalidDomain(text, "longer than 253 octets")
    if text.isascii():
        name = text.lower()
        if name.endswith("."):
            name = name[:-1]
    else:
        try:
            name = idna.encode(text, uts46=True, transitional=False).decode("ascii").rstrip(".")
        except (idna.IDNAError, UnicodeError) as error:
            raise InvalidDomain(text, f"not an internationalized domain name ({error})") from None
    if not is_host_name(name):
        raise InvalidDomain(text, _what_is_wrong(name))
    return name


def _what_is_wrong(name: str) -> str:
    """Why is_host_name refuses it, for people."""
    if not name:
        return "empty"
    if len(name) > MAX_DOMAIN:
        return "longer than 253 octets"
    labels = name.split(".")
    if "" in labels:
        return "an empty label"
    if any(len(label) > 63 for label in labels):
        return "a label longer than 63 octets"
    if labels[-1].isdigit():
        return "the last label is a number; an address is written in brackets, as [192.0.2.1]"
    return "letters, digits and hyphens only, no hyphen at the ends of a label"


def parse_literal(text: str) -> IPAddress:
    """The address of an address literal: "[192.0.2.1]" or "[IPv6:2001:db8::1]". Raises InvalidDomain."""
    if not text.endswith("]") or len(text) > 64:
        raise InvalidDomain(text, "an address literal that does not end with ]")
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            if "%" in inner:
                raise InvalidDomain(text, "a zone has no meaning in an address literal")
            return ipaddress.IPv6Address(inner[5:])
        return ipaddress.IPv4Address(inner)
    except ipaddress.AddressValueError as error:
        raise InvalidDomain(text, f"not an address literal ({error})") from None


def literal_domain(address: IPAddress) -> str:
    """The address literal of an address, as a domain."""
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def literal_host(address: IPAddress) -> str:
    """The address as a host: IPv6 in brackets, so that a port can follow."""
    return str(address) if address.version == 4 else f"[{address}]"


def split_host(host: str) -> tuple[str, int]:
    """Name or bare address of a host, and its port; 0 when it carries none (RFC 3986 section 3.2 spelling)."""
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        return inner, int(rest[1:]) if rest else 0
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon else (host, 0)


def parse_endpoint(text: str, default_port: int) -> str:
    """An operator's "host", "host:port", "[address]:port" or bare address as a host with its port, in one spelling.

    Raises ValueError.
    """
    try:
        return f"{literal_host(ipaddress.ip_address(text))}:{default_port}"  # a bare address, IPv6 too
    except ValueError:
        pass
    try:
        name, port = split_host(text)
    except ValueError:
        raise ValueError(f"{text!r} is not host:port") from None
    if not 0 <= port <= 65535 or text.startswith("[") != ("]" in text):
        raise ValueError(f"{text!r} is not host:port with a port of 1 to 65535")
    if text.startswith("["):
        host = literal_host(ipaddress.ip_address(name))
    else:
        try:
            host = literal_host(ipaddress.ip_address(name))
        except ValueError:
            host = normalize_domain(name)
    return f"{host}:{port or default_port}"


def address_of(host_name: str) -> IPAddress | None:
    """The address that the name part of a host is; None when it is a name."""
    if ":" not in host_name and not host_name[-1:].isdigit():
        return None
    try:
        return ipaddress.ip_address(host_name)
    except ValueError:
        return None


def is_local_address(address: str) -> bool:
    """Whether an address belongs to this host: whether a socket can be bound to it.

    Where sockets can be bound to any address (sysctl ip_nonlocal_bind), that tells nothing, and the answer is False.
    """
    return _can_bind(address) and not _can_bind("2001:db8::1" if ":" in address else "192.0.2.1")  # documentation only


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            return True
    except OSError:
        return False


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


def is_public(address: IPAddress) -> bool:
    """Whether an MX record may send us there: global unicast, also once an embedded IPv4 address is unwrapped.

    Not public: private, loopback, link-local, multicast, unspecified, reserved, documentation and shared (RFC 6598)
    ranges.
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
    return address.is_global and not address.is_multicast
