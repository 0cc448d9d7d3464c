"""What a simulated mailbox provider allows, and how it punishes: pure, its time is passed in (wall seconds).

    connected   too many connections, too quickly, or the address is blocked     421 or 554 in place of a greeting
    mail        too many messages on one connection                              421
    recipient   no such mailbox, greylisting, rates, the day's allowance, standing

A rate is kept as providers keep theirs: a token bucket, a sliding window, or a counter that starts anew with each hour
(or other period) of the wall clock; for each client address or for the provider as a whole; what was refused may count
too, so that knocking harder opens nothing.

Standing is kept for each client address. An address may send in a day what it is known for: `growth` times the most it
sent on a good day of the last `memory_days`, at least `first_day`. What it tries beyond is deferred, and a day with
much of that, or with bounces and complaints, costs standing; good days bring it back. Poor standing defers a part of
the mail, worse standing blocks all of it. So a provider of this kind punishes whoever skips the warm-up, and whoever
jumps.

Known faults: days begin at midnight UTC; complaints reach the sender's standing at once and no feedback loop.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

DAY_SECONDS = 86400.0
MOST_REMEMBERED = 1_000_000  # recipients of which a greylist or a deferral is kept
MOST_CLIENTS = 10_000  # addresses whose standing is kept; beyond it they share one

Window = Literal["bucket", "sliding", "clock"]
Scope = Literal["address", "provider"]


@dataclass(frozen=True)
class RateRule:
    """`messages` recipients in `period_seconds`; a bucket holds `burst` of them (others: no burst of its own)."""

    messages: int
    period_seconds: float
    window: Window = "bucket"
    per: Scope = "address"
    burst: int = 1
    count_refused: bool = False  # what was refused counts as well
    reply: bytes = b"421 4.7.28 Unusual rate of mail from this address; try again later"


@dataclass(frozen=True)
class StandingRules:
    """How an address gets known, and what costs it. Shares are of a day's recipients."""

    first_day: int = 500  # what an unknown address may send in a day
    growth: float = 2.0
    memory_days: int = 14
    most_a_day: int = 10_000_000
    excess_share: float = 0.2  # tried beyond the allowance; more makes a bad day
    bounces_share: float = 0.05
    complaints_share: float = 0.003
    cost: float = 0.2  # of a bad day; twice for a very bad one
    recovery: float = 0.05  # of a good day
    deferring_below: float = 0.5
    blocking_below: float = 0.2
    excess_reply: bytes = b"421 4.7.0 Too much mail from an address that we hardly know; try again later"
    deferring_reply: bytes = b"421 4.7.0 Temporarily deferred due to the reputation of your address"
    blocking_reply: bytes = b"550 5.7.1 Blocked: very low reputation of the sending IP address"


@dataclass(frozen=True)
class Outage:
    """From `begins` to `ends` (wall seconds) everything is answered with `reply`."""

    begins: float
    ends: float
    reply: bytes = b"421 4.3.2 Closed for maintenance"


@dataclass(frozen=True)
class PolicyRules:
    """Everything a provider does. Shares are from 0 to 1; 0 or empty: not at all."""

    rates: tuple[RateRule, ...] = ()
    connections: int = 0  # open from one address
    connections_reply: bytes = b"421 4.7.0 Too many connections from your address"
    connection_rate: RateRule | None = None
    messages_per_connection: int = 0
    messages_reply: bytes = b"421 4.7.0 Enough messages on this connection"
    greylist_seconds: float = 0.0
    greylist_reply: bytes = b"451 4.7.1 Greylisted; come back later"
    unknown_share: float = 0.0
    unknown_reply: bytes = b"550 5.1.1 No such mailbox here"
    deferred_share: float = 0.0  # at the first attempt of a recipient
    deferred_reply: bytes = b"451 4.3.0 Try again later"
    complaints_share: float = 0.0
    standing: StandingRules | None = None
    outages: tuple[Outage, ...] = ()


def chance_of(recipient: bytes, salt: bytes) -> float:
    """From 0 up to 1, the same in every run for one recipient and salt."""
    return zlib.crc32(salt + recipient) / 2**32


class Meter:
    """One counter of a RateRule."""

    def __init__(self, rule: RateRule) -> None:
        self._rule = rule
        self._tokens = float(rule.burst)
        self._at = -1.0
        self._taken: deque[float] = deque()
        self._window = -1
        self._count = 0

    def take(self, now: float) -> bool:
        """Whether one more is allowed at `now`; counts it."""
        return {"bucket": self._bucket, "sliding": self._sliding, "clock": self._clock}[self._rule.window](now)

    def _bucket(self, now: float) -> bool:
        rule = self._rule
        if self._at >= 0:
            filled = self._tokens + (now - self._at) * rule.messages / rule.period_seconds
            self._tokens = min(float(rule.burst), filled)
        self._at = now
        # One part in a million is forgiven: a sender that keeps the rate exactly must not fail by rounding.
        if self._tokens >= 1 - 1e-6:
            self._tokens -= 1
            return True
        if rule.count_refused:
            self._tokens = max(-float(rule.burst), self._tokens - 1)
        return False

    def _sliding(self, now: float) -> bool:
        rule, taken = self._rule, self._taken
        while taken and taken[0] <= now - rule.period_seconds:
            taken.popleft()
        allowed = len(taken) < rule.messages
        if allowed or rule.count_refused:
            taken.append(now)
            if len(taken) > rule.messages * 2:
                taken.popleft()
        return allowed

    def _clock(self, now: float) -> bool:
        rule = self._rule
        window = int(now // rule.period_seconds)
        if window != self._window:
            self._window, self._count = window, 0
        allowed = self._count < rule.messages
        if allowed or rule.count_refused:
            self._count += 1
        return allowed


@dataclass
class Standing:
    """What a provider thinks of one address. `score` is from 0 to 1; the counts are today's."""

    score: float = 1.0
    day: int = -1
    history: deque[int] = field(default_factory=deque)  # recipients taken on each day that was not bad
    taken: int = 0
    excess: int = 0
    bounces: int = 0
    complaints: int = 0
    bad_days: int = 0
    known_volume: int = 0  # what it was known for before the simulation began

    def allowance(self, rules: StandingRules) -> int:
        """Recipients it may send today."""
        best = max((self.known_volume, *self.history))
        return min(rules.most_a_day, max(rules.first_day, round(best * rules.growth)))

    def advance(self, rules: StandingRules, day: int) -> None:
        """Judges the days that are over."""
        while 0 <= self.day < day:
            self._judge(rules)
            self.taken = self.excess = self.bounces = self.complaints = 0
            self.day += 1
        self.day = day

    def _judge(self, rules: StandingRules) -> None:
        tried = self.taken + self.excess
        if not tried:  # what is not seen is forgotten in the end
            self.score = min(1.0, self.score + rules.recovery)
            return
        most = max(
            self.excess / tried / max(rules.excess_share, 1e-9),
            self.bounces / tried / max(rules.bounces_share, 1e-9),
            self.complaints / tried / max(rules.complaints_share, 1e-9),
        )
        if most > 1:
            self.bad_days += 1
            self.score = max(0.0, self.score - rules.cost * (2 if most > 3 else 1))
            return
        self.score = min(1.0, self.score + rules.recovery)
        self.history.append(self.taken)
        while len(self.history) > rules.memory_days:
            self.history.popleft()


class Provider:
    """One provider: its rules, and what it remembers. `now` is wall time in seconds."""

    def __init__(self, rules: PolicyRules, known: dict[str, int] | None = None) -> None:
        """`known`: recipients a day that client addresses are known for already."""
        self.rules = rules
        self.open: Counter[str] = Counter()
        self.most_open = 0
        self.refusals: Counter[str] = Counter()  # by what held: rate, connections, standing, greylist, …
        self.complaints = 0
        self.standings: dict[str, Standing] = {}
        self._known = known or {}
        self._meters: dict[tuple[int, str], Meter] = {}
        self._first_seen: dict[tuple[str, bytes, bytes], float] = {}
        self._deferred_once: set[bytes] = set()

    # -- what a session asks -----------------------------------------------------------------------------------------

    def connected(self, client: str, now: float) -> bytes | None:
        """A connection was opened: why it is refused, or None."""
        rules = self.rules
        self.open[client] += 1
        self.most_open = max(self.most_open, self.open[client])
        outage = self._outage(now)
        if outage is not None:
            return self._refuse("outage", outage)
        if rules.connections and self.open[client] > rules.connections:
            return self._refuse("connections", rules.connections_reply)
        rate = rules.connection_rate
        if rate is not None and not self._meter(-1, rate, client).take(now):
            return self._refuse("connection_rate", rate.reply)
        return None

    def closed(self, client: str) -> None:
        """A connection is over."""
        self.open[client] -= 1

    def mail(self, messages: int) -> bytes | None:
        """A message begins, after so many on this connection."""
        most = self.rules.messages_per_connection
        if most and messages >= most:
            return self._refuse("messages_per_connection", self.rules.messages_reply)
        return None

    def recipient(self, client: str, reverse_path: bytes, recipient: bytes, now: float) -> bytes | None:
        """Why a recipient is not taken, or None: it is then counted."""
        rules = self.rules
        outage = self._outage(now)
        if outage is not None:
            return self._refuse("outage", outage)
        standing = self._standing(client, now)
        if standing is not None and rules.standing is not None and standing.score < rules.standing.blocking_below:
            standing.excess += 1
            return self._refuse("blocked", rules.standing.blocking_reply)
        if rules.unknown_share and chance_of(recipient, b"unknown") < rules.unknown_share:
            if standing is not None:
                standing.bounces += 1
            return self._refuse("unknown", rules.unknown_reply)
        if rules.greylist_seconds and self._greylisted((client, reverse_path, recipient), now):
            return self._refuse("greylist", rules.greylist_reply)
        over = next((rule for at, rule in enumerate(rules.rates) if not self._meter(at, rule, client).take(now)), None)
        if over is not None:
            return self._refuse("rate", over.reply)
        if standing is not None and rules.standing is not None:
            held = self._held(standing, rules.standing, recipient)
            if held is not None:
                return held
        if self._defers(recipient):
            return self._refuse("deferred", rules.deferred_reply)
        if standing is not None:
            standing.taken += 1
        return None

    def delivered(self, client: str, recipient: bytes, now: float) -> None:
        """A message reached a mailbox, whose reader may complain."""
        if self.rules.complaints_share and chance_of(recipient, b"complaint") < self.rules.complaints_share:
            self.complaints += 1
            standing = self._standing(client, now)
            if standing is not None:
                standing.complaints += 1

    # -- what it keeps ------------------------------------------------------------------------------------------------

    def standing_of(self, client: str, now: float) -> Standing | None:
        """For a report: the standing of an address, if standings are kept and it was seen."""
        if client not in self.standings:
            return None
        return self._standing(client, now)

    def _refuse(self, why: str, reply: bytes) -> bytes:
        self.refusals[why] += 1
        return reply

    def _outage(self, now: float) -> bytes | None:
        return next((one.reply for one in self.rules.outages if one.begins <= now < one.ends), None)

    def _meter(self, number: int, rule: RateRule, client: str) -> Meter:
        key = (number, client if rule.per == "address" else "")
        meter = self._meters.get(key)
        if meter is None:
            if len(self._meters) >= MOST_CLIENTS:
                key = (number, "")
            meter = self._meters.setdefault(key, Meter(rule))
        return meter

    def _standing(self, client: str, now: float) -> Standing | None:
        rules = self.rules.standing
        if rules is None:
            return None
        standing = self.standings.get(client)
        if standing is None:
            if len(self.standings) >= MOST_CLIENTS:
                client = ""
            fresh = Standing(known_volume=self._known.get(client, 0))
            standing = self.standings.setdefault(client, fresh)
        standing.advance(rules, int(now // DAY_SECONDS))
        return standing

    def _greylisted(self, triplet: tuple[str, bytes, bytes], now: float) -> bool:
        if len(self._first_seen) > MOST_REMEMBERED:
            self._first_seen.clear()
        return now - self._first_seen.setdefault(triplet, now) < self.rules.greylist_seconds

    def _defers(self, recipient: bytes) -> bool:
        """Whether this recipient is one of those that are put off, and was not yet."""
        share = self.rules.deferred_share
        if not share or recipient in self._deferred_once or chance_of(recipient, b"deferred") >= share:
            return False
        if len(self._deferred_once) < MOST_REMEMBERED:
            self._deferred_once.add(recipient)
            return True
        return False

    def _held(self, standing: Standing, rules: StandingRules, recipient: bytes) -> bytes | None:
        """What its standing costs one recipient."""
        if standing.taken >= standing.allowance(rules):
            standing.excess += 1
            return self._refuse("allowance", rules.excess_reply)
        if standing.score < rules.deferring_below:
            # Chosen anew each day: the same recipient may pass tomorrow.
            salt = b"standing%d" % standing.day
            if chance_of(recipient, salt) > standing.score / rules.deferring_below:
                return self._refuse("standing", rules.deferring_reply)
        return None
