"""What TLS a connection to an MX host must have: policies, and what follows from one for a host.

A policy belongs to a queue of a site (schedule/board.py), so it says only what matters for connecting: two domains
whose published policies come to the same share one object, one queue and its connections. Which domain published what
is the business of outbound.py.

    level          what a connection needs
    none           nothing; TLS is not tried
    opportunistic  TLS where it is offered, no look at the certificate; broken TLS means a plain connection
    required       TLS, any certificate
    verify         TLS, a certificate that a CA of ours vouches for, for the MX host's name
    mta-sts        as verify, at hosts that the domain's MTA-STS policy names
    dane           TLS, a certificate that the host's TLSA records name
    implicit       as verify, from the first octet (smart hosts)

`dane` and `sts_mode` add to opportunistic and required what the domain publishes: DANE wins over MTA-STS for a host
with usable TLSA records (RFC 8461 section 2), and MTA-STS holds at the others.

Known faults: none.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

Level = Literal["none", "opportunistic", "required", "verify", "mta-sts", "dane", "implicit"]
StsMode = Literal["", "testing", "enforce"]
PlanMode = Literal["plain", "starttls", "implicit", "skip"]

# Variants of a domain's mail (RFC 8689): as usual, REQUIRETLS, "TLS-Required: No".
NORMAL, REQUIRETLS, OPTIONAL = 0, 1, 2


@dataclass(frozen=True, slots=True, weakref_slot=True)
class TlsPolicy:
    """Interned by `intern`: equal policies are one object, to be compared by identity.

    dane        the MX answer was secure, and hosts may have TLSA records: each host is looked at
    mx          hosts of the site that the domain's MTA-STS policy allows (sorted); all others don't match it
    sts_mode    mode of that policy; "" without one
    requiretls  the message asks for it (RFC 8689 section 2)
    optional    the message waives what the domain publishes (RFC 8689 section 3)
    secure_mx   the names of the hosts can be believed: by DNSSEC, or because the operator wrote them
    key         stable and short, part of a queue's key; "" for the default
    words       for people
    """

    level: Level = "opportunistic"
    dane: bool = False
    mx: tuple[str, ...] = ()
    sts_mode: StsMode = ""
    requiretls: bool = False
    optional: bool = False
    secure_mx: bool = False
    key: str = ""
    words: str = "TLS where it is offered"

    @property
    def kind(self) -> str:
        """The word of metrics and reports: what decides over a connection."""
        if self.requiretls:
            return "requiretls"
        if self.dane:
            return "dane"
        if self.sts_mode == "enforce":
            return "mta-sts"
        if self.sts_mode == "testing" and self.level == "opportunistic":
            return "mta-sts-testing"
        return self.level

    @property
    def can_fail(self) -> bool:
        """Whether mail may have to wait for this policy (reason `tls_policy`)."""
        return self.level not in ("none", "opportunistic") or self.dane or self.sts_mode == "enforce" or self.requiretls


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What to do with one MX host.

    mode             "skip": not connected to, for `failure` and `why`
    mandatory        no mail without TLS
    context          None for plain
    server_hostname  SNI, and the name that a verifying context checks; "" for none
    check            called with the connection's SSL object after the handshake: None if all is well, else why not
    failure          RFC 8460 section 4.3 result type of a skip, or of a `check` that finds fault
    verified         by what the peer is authenticated once handshake and `check` pass: "dane", "mta-sts", "pkix", ""
    policy_type      RFC 8460 section 4.2: "tlsa", "sts" or "no-policy-found"
    policy_text      RFC 8460 policy-string where it belongs to the host (TLSA records)
    """

    mode: PlanMode
    mandatory: bool = False
    context: ssl.SSLContext | None = None
    server_hostname: str = ""
    check: Callable[[ssl.SSLObject], str | None] | None = None
    failure: str = ""
    why: str = ""
    verified: str = ""
    policy_type: str = "no-policy-found"
    policy_text: tuple[str, ...] = ()


PLAIN = HostPlan("plain", why="TLS is switched off for it")

OPPORTUNISTIC = TlsPolicy()
_interned: WeakValueDictionary[str, TlsPolicy] = WeakValueDictionary({"": OPPORTUNISTIC})


def intern(
    level: Level = "opportunistic",
    *,
    dane: bool = False,
    mx: tuple[str, ...] = (),
    sts_mode: StsMode = "",
    requiretls: bool = False,
    optional: bool = False,
    secure_mx: bool = False,
) -> TlsPolicy:
    """The one policy of that content."""
    if not requiretls:
        secure_mx = False  # nothing else asks
    if not sts_mode:
        mx = ()
    mx = tuple(sorted(mx))
    key = _key(level, dane, mx, sts_mode, requiretls, optional, secure_mx)
    policy = _interned.get(key)
    if policy is None:
        words = _words(level, dane, mx, sts_mode, requiretls, optional)
        policy = TlsPolicy(level, dane, mx, sts_mode, requiretls, optional, secure_mx, key, words)
        _interned[key] = policy
    return policy


def _key(
    level: str, dane: bool, mx: tuple[str, ...], sts_mode: str, requiretls: bool, optional: bool, secure_mx: bool
) -> str:
    parts = [] if level == "opportunistic" else [level]
    if dane:
        parts.append("tlsa")
    if sts_mode:
        digest = hashlib.blake2b(",".join(mx).encode(), digest_size=8).hexdigest()
        parts.append(f"sts-{sts_mode}:{digest}")
    if requiretls:
        parts.append("requiretls:secure" if secure_mx else "requiretls")
    if optional:
        parts.append("optional")
    return "+".join(parts)


_LEVEL_WORDS = {
    "none": "no TLS",
    "opportunistic": "TLS where it is offered",
    "required": "TLS required, with any certificate",
    "verify": "TLS required, with a valid certificate for the MX host's name",
    "mta-sts": "an MTA-STS policy is required",
    "dane": "DANE is required",
    "implicit": "TLS from the first octet, with a valid certificate for the host's name",
}


def _words(level: str, dane: bool, mx: tuple[str, ...], sts_mode: str, requiretls: bool, optional: bool) -> str:
    parts = [_LEVEL_WORDS[level]]
    if dane and level != "dane":
        parts.append("DANE at hosts with TLSA records")
    if sts_mode:
        hosts = ", ".join(mx[:3]) + (f" and {len(mx) - 3} more" if len(mx) > 3 else "")
        parts.append(f"MTA-STS ({sts_mode}) allows {hosts or 'none of the hosts'}")
    if requiretls:
        parts.append("the message has REQUIRETLS")
    if optional:
        parts.append("the message says TLS-Required: No")
    return "; ".join(parts)
