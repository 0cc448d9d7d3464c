"""What holds mail or sources back: an operator's suspensions with their selectors, and the governor's back-offs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Selector:
    """All parts must match; None: any. Names are as clients and the configuration spell them."""

    campaign: str | None = None
    tenant: str | None = None
    domain: str | None = None
    provider: str | None = None
    source: str | None = None
    older_than_seconds: float | None = None

    @classmethod
    def of(cls, described: dict[str, Any]) -> Selector:
        """Of its JSON form. ValueError for unknown keys."""
        unknown = set(described) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown selector {sorted(unknown)[0]!r}")
        return cls(**{key: value for key, value in described.items() if value is not None})

    @property
    def empty(self) -> bool:
        return all(getattr(self, name) is None for name in self.__dataclass_fields__)

    def domains(self, index: Any) -> set[int] | None:
        """Numbers of the domains that match by name and provider; None: all."""
        if self.domain is None and self.provider is None:
            return None
        wanted = None if self.domain is None else self.domain.lower().encode()
        return {
            domain.number
            for domain in index.domains.values()
            if (wanted is None or domain.name == wanted) and self._provider_matches(domain)
        }

    def _provider_matches(self, domain: Any) -> bool:
        if self.provider is None:
            return True
        return domain.site is not None and domain.site.provider == self.provider

    def arguments(self, index: Any, sources: dict[str, int], now: float) -> dict[str, Any] | None:
        """Keyword arguments for Index.select; None where nothing can match."""
        found: dict[str, Any] = {"domains": self.domains(index)}
        for key, value in (("campaign", self.campaign), ("tenant", self.tenant)):
            if value is not None:
                number = index.names.get(value.encode())
                if number is None:
                    return None
                found[key] = number
        if self.source is not None:
            if self.source not in sources:
                return None
            found["source"] = sources[self.source] + 1
        if self.older_than_seconds is not None:
            found["accepted_before_ms"] = int((now - self.older_than_seconds) * 1000)
        return found


@dataclass(frozen=True, slots=True)
class Suspension:
    """What an operator holds."""

    id: str
    selector: Selector
    why: str
    sources: dict[str, int]

    @classmethod
    def of(cls, described: dict[str, Any], index: Any, sources: dict[str, int]) -> Suspension:
        return cls(described["id"], Selector.of(described.get("selectors", {})), described.get("why", ""), sources)

    @property
    def of_source(self) -> bool:
        """Whether it names a source and no mail: then it holds the source, and the mail goes by others."""
        wanted = self.selector
        mail = (wanted.campaign, wanted.tenant, wanted.domain, wanted.older_than_seconds)
        return wanted.source is not None and all(part is None for part in mail)

    def holds_source(self, source: str, provider: str) -> bool:
        """Whether a source sends nothing to sites of a provider."""
        return self.of_source and self.selector.source == source and self.selector.provider in (None, provider)

    def holds(self, index: Any, r: int, now: float, session_source: int = -1) -> bool:
        """Whether a queued recipient matches. `session_source`: the number of the source that would take it now."""
        if self.of_source:
            return False
        m, _, domain, _, _, source, _ = index.recipient_info(r)
        _, accepted_at_ms, _, _, _, campaign, tenant, _, _ = index.message_info(m)
        wanted = self.selector
        if wanted.campaign is not None and campaign != wanted.campaign.encode():
            return False
        if wanted.tenant is not None and tenant != wanted.tenant.encode():
            return False
        if wanted.domain is not None and domain.name != wanted.domain.lower().encode():
            return False
        if not wanted._provider_matches(domain):
            return False
        if wanted.source is not None:
            number = self.sources.get(wanted.source)
            if number is None or number not in (source - 1, session_source):
                return False
        return wanted.older_than_seconds is None or now - accepted_at_ms / 1000 > wanted.older_than_seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """What a rule about replies ordered for a source at a place (a provider, or the site of an unknown one).

    Without `connections` the source sends nothing there until `until_wall` (seconds since 1970); with it, over so many
    connections at most.
    """

    id: str
    source: str
    place: str
    until_wall: float
    rule: str
    why: str
    connections: int | None = None

    @classmethod
    def of(cls, described: dict[str, Any]) -> Backoff:
        """Of its JSON form; keys that are not ours are left out."""
        return cls(**{name: described[name] for name in cls.__dataclass_fields__ if name in described})

    def same(self, other: Backoff) -> bool:
        """Whether another holds the same, however long."""
        return (self.id, self.rule, self.connections) == (other.id, other.rule, other.connections)

    def stricter_than(self, other: Backoff) -> bool:
        """Of two for one source and place: which holds more, then which holds longer."""
        mine, others = self.connections or 0, other.connections or 0
        return (mine, -self.until_wall) < (others, -other.until_wall)

    @property
    def detail(self) -> str:
        """For people: the rule, and the reply that it saw."""
        held = "sends nothing" if self.connections is None else f"uses at most {self.connections} connections"
        return f"source {self.source} at {self.place} {held}: rule {self.rule}: {self.why}"
