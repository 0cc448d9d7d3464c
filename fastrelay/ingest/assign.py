"""What a message is assigned: campaign, tenant, pool, class, expiry, not-before, bounce messages; and who may choose.

    by header               what the client wrote into the message (headers.py took it out)
    by sender domain        `senders` of the configuration
    by user, or listener    where the mail came in; a tenant named there is pinned

The first in this order that names a thing decides it. A pinned tenant can't be changed by the header or the sender's
domain, and a tenant may use only the pools listed for it (`tenants`). What can't be done is refused in words, at once:
mail that would wait for a pool that does not exist helps nobody.

Known faults: a not-before is a time of the wall clock; once the message is accepted, a clock that is set does not
move it before the next start.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.config.sending import Assignment
from fastrelay.config.units import format_duration, parse_duration
from fastrelay.limits.shape import DEFAULT_POOL
from fastrelay.route.rules import Rule, Rules

CLASSES = {"bulk": 0, "normal": 1, "transactional": 2}
PRIORITIES = {name.encode(): number for name, number in CLASSES.items()}
LONGEST_SECONDS = 30 * 86400  # of an expiry, and how far ahead a not-before may lie
SENDERS_CACHED = 4096
PLAIN_CACHED = 4096
NOBODY = Assignment()

# campaign, tenant, pool (empty: default), class, expiry (s; 0: of its class), not before (ms since 1970; 0: at once),
# 1: no bounce messages (Head.spare of the record)
Mail = tuple[bytes, bytes, bytes, int, int, int, int]


class Refused(Exception):
    """The message can't be taken as it asks; the text is the reply."""


class Assigner:
    """Decides for one configuration. `assign` is called for messages that anything is said about."""

    def __init__(self, config: Config) -> None:
        self._pools = {DEFAULT_POOL, *config.pools}
        self._allowed = {name: frozenset(tenant.pools) for name, tenant in config.tenants.items() if tenant.pools}
        self._retry_expire = config.retry.expire_seconds
        fairness = config.fairness
        self._expire = tuple(one.expire_seconds for one in (fairness.bulk, fairness.normal, fairness.transactional))
        self._senders = list(config.senders.values())
        rules = [Rule((pattern,), action="discard") for pattern in config.senders]
        self._rules = Rules(rules, 25)
        self._by_rule = dict(zip(map(id, self._rules.rules), self._senders, strict=True))
        self._by_domain: dict[bytes, Assignment] = {}
        # By identity: hashing two structs a message costs more. Each entry holds what its key names, so that no other
        # object comes to have that identity.
        self._plain: dict[tuple[int, int], tuple[Mail | bytes, Assignment, Assignment]] = {}

    @property
    def by_sender(self) -> bool:
        """Whether the sender's domain may decide anything."""
        return bool(self._senders)

    def assign(self, fields: dict[str, bytes] | None, where: Assignment | None, sender: bytes, wall: float) -> Any:
        """What a message has (Mail), or the reply that refuses it.

        `fields`: what its header says, by meaning. `where`: of the user or listener it came by.
        """
        by_sender = self._of_sender(sender) if self._senders else NOBODY
        where = where or NOBODY
        if fields:
            try:
                return self._decide(fields, by_sender, where, wall)
            except Refused as refused:
                return refused.args[0].encode() + b"\r\n"
        key = (id(by_sender), id(where))
        known = self._plain.get(key)
        if known is not None:
            return known[0]
        mail: Mail | bytes
        try:
            mail = self._decide({}, by_sender, where, wall)
        except Refused as refused:
            mail = refused.args[0].encode() + b"\r\n"
        if len(self._plain) >= PLAIN_CACHED:
            self._plain.clear()
        self._plain[key] = (mail, by_sender, where)
        return mail

    def _of_sender(self, sender: bytes) -> Assignment:
        domain = sender[sender.rfind(b"@") + 1 :].lower()
        found = self._by_domain.get(domain)
        if found is None:
            if len(self._by_domain) >= SENDERS_CACHED:
                self._by_domain.clear()
            rule = self._rules.match(domain.decode("utf-8", "replace")) if domain else None
            found = self._by_domain[domain] = NOBODY if rule is None else self._by_rule[id(rule)]
        return found

    def _decide(self, fields: dict[str, bytes], sender: Assignment, where: Assignment, wall: float) -> Mail:
        tenant = self._tenant(fields.get("tenant"), sender, where)
        campaign = fields.get("campaign") or (sender.campaign or where.campaign or "").encode()
        pool = self._pool(fields.get("pool"), sender.pool or where.pool or DEFAULT_POOL, tenant)
        kind = PRIORITIES.get(fields.get("priority", b"").lower())
        if kind is None:
            kind = CLASSES[sender.priority or where.priority or "bulk"]
        expire = self._lifetime(fields)
        not_before_ms = self._not_before(fields, wall)
        lives = expire or self._expire[kind] or self._retry_expire
        if not_before_ms and not_before_ms >= (wall + lives) * 1000:
            raise Refused(
                "554 5.4.7 Message would expire before it may be sent: it is held until "
                f"{datetime.fromtimestamp(not_before_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ} and given up "
                f"{format_duration(lives)} after it is accepted; send it later, or let it expire later"
            )
        bounces = where.bounces if sender.bounces is None else sender.bounces
        silent = int(bounces is False)
        return campaign, tenant, b"" if pool == DEFAULT_POOL else pool.encode(), kind, expire, not_before_ms, silent

    def _tenant(self, named: bytes | None, sender: Assignment, where: Assignment) -> bytes:
        if where.tenant is None:
            return named or (sender.tenant or "").encode()
        pinned = where.tenant.encode()
        if named is not None and named != pinned:
            raise Refused(
                f"550 5.7.1 Tenant {shown(named)} is not yours: mail that comes in here is of tenant "
                f"{shown(pinned)}; leave the tenant's header field away"
            )
        return pinned

    def _pool(self, named: bytes | None, otherwise: str, tenant: bytes) -> str:
        pool = otherwise if named is None else named.decode("utf-8", "replace")
        allowed = self._allowed.get(tenant.decode("utf-8", "replace"))
        if named is None and allowed is not None and pool not in allowed:
            pool = min(allowed)
        if pool not in self._pools:
            raise Refused(
                f"550 5.7.1 Pool {shown(pool.encode())} does not exist; name one of the relay's configuration, or none"
            )
        if allowed is not None and pool not in allowed:
            raise Refused(
                f"550 5.7.1 Pool {shown(pool.encode())} is not for tenant {shown(tenant)}; it may use "
                f"{', '.join(sorted(allowed))[:200]}"
            )
        return pool

    @staticmethod
    def _lifetime(fields: dict[str, bytes]) -> int:
        """Seconds after which the message is given up; 0: nothing said."""
        value = fields.get("expire")
        if value is None:
            return 0
        try:
            seconds = parse_duration(value.decode("ascii"))
        except ValueError:
            raise Refused(
                f"550 5.6.0 Expiry {shown(value)} is not a duration; write a number and a unit, such as 10m, 4h or 3d"
            ) from None
        if not 0 < seconds <= LONGEST_SECONDS:
            raise Refused(f"550 5.6.0 Expiry {shown(value)} is not above 0 and at most 30d; write one that is")
        return max(1, round(seconds))

    @staticmethod
    def _not_before(fields: dict[str, bytes], wall: float) -> int:
        """Milliseconds since the epoch; 0: at once (nothing said, or it is past)."""
        value = fields.get("not_before")
        if value is None:
            return 0
        try:
            when = parse_time(value.decode("ascii"))
        except (ValueError, OverflowError):
            raise Refused(
                f"550 5.6.0 Not-before {shown(value)} is not a time with its zone; write it as "
                "2026-05-31T08:00:00+02:00 or Sun, 31 May 2026 08:00:00 +0200"
            ) from None
        if when > wall + LONGEST_SECONDS:
            raise Refused(f"550 5.6.0 Not-before {shown(value)} is more than 30 days ahead; send the message later")
        return int(when * 1000) if when > wall else 0


_RFC_3339 = re.compile(r"(?i)\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> float:
    """Seconds since the epoch of a time in the form of RFC 3339 or of RFC 5322; ValueError otherwise, and without a
    zone: nobody knows whose noon is meant."""
    if _RFC_3339.fullmatch(text):
        return datetime.fromisoformat(text.upper().replace("Z", "+00:00")).timestamp()
    found = parsedate_to_datetime(text)
    if found.tzinfo is None:
        raise ValueError("a time without a zone")
    return found.timestamp()


def shown(octets: bytes) -> str:
    """Octets of a client's in a reply: printable ASCII, short."""
    return bytes(c if 32 <= c < 127 else 63 for c in octets[:60]).decode("ascii")
