"""Explicit routes: which rule of the configuration a domain falls under. The first match wins.

Patterns: "*" (everything, address literals too), "example.com" (itself only), "*.example.com" (every domain below it,
not itself), any other pattern with * or ? as a shell glob. Exact and "*." patterns are dict look-ups, so that
thousands of them cost nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fastrelay.route.names import normalize_domain, parse_endpoint

Action = Literal["discard", "reject"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Domains and what happens to their mail: hosts ("host:port", tried in this order) or an action, not both.

    tls       the level that connections to the hosts must have (tls/policy.py); "": as for any domain
    username  whom we are at the hosts (AUTH); "": nobody
    """

    domains: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    action: Action | None = None
    tls: str = ""
    username: str = ""

    def __post_init__(self) -> None:
        if bool(self.hosts) == bool(self.action):
            raise ValueError("a route has either hosts or an action")
        if not self.domains:
            raise ValueError("a route names at least one domain")


class Rules:
    """The rules in order, indexed. Raises ValueError (InvalidDomain for a domain) if one cannot be used."""

    def __init__(self, rules: Sequence[Rule], default_port: int) -> None:
        self.rules: tuple[Rule, ...] = tuple(
            replace(rule, hosts=tuple(parse_endpoint(host, default_port) for host in rule.hosts)) for rule in rules
        )
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        self._globs: list[tuple[int, re.Pattern[str]]] = []
        self._everything = len(self.rules)
        for position, rule in enumerate(self.rules):
            for pattern in rule.domains:
                self._add(pattern, position)

    def _add(self, pattern: str, position: int) -> None:
        if pattern == "*":
            self._everything = min(self._everything, position)
        elif pattern.startswith("*.") and not set("*?") & set(pattern[2:]):
            self._below.setdefault(normalize_domain(pattern[2:]), position)
        elif set("*?") & set(pattern):
            self._globs.append((position, re.compile(fnmatch.translate(pattern.lower()))))
        else:
            self._exact.setdefault(normalize_domain(pattern), position)

    def match(self, domain: str) -> Rule | None:
        """The first rule for a normalized domain; None: by MX."""
        best = min(self._everything, self._exact.get(domain, self._everything))
        if self._below and not domain.startswith("["):
            parent = domain.partition(".")[2]
            while parent:
                best = min(best, self._below.get(parent, best))
                parent = parent.partition(".")[2]
        for position, glob in self._globs:
            if position >= best:
                break
            if glob.match(domain):
                best = position
                break
        return self.rules[best] if best < len(self.rules) else None
