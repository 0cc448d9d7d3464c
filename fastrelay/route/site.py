"""Sites: the set of MX hosts that mail is queued for, one object per distinct set.

Ten thousand domains with the same MX hosts are one Site, so they share a queue, connections and limits. The identity
of a site is its preference groups in canonical form (lower case, sorted inside a group, a host only in its best
group) and its port. Equal hosts are shuffled per connection (RFC 5321 section 5.1), never in the identity.

A site named by the operator (`routes: hosts`) is explicit: its hosts carry their ports, are tried in the order given
(a group each), and may be private addresses.

Interning holds sites weakly: a site lives as long as a route or a queue refers to it, so the table needs no bound of
its own.

Known faults: two sites whose MX hosts are the same machines under different names are two sites.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

from fastrelay.route.names import split_host
from fastrelay.route.providers import Providers

Groups = tuple[tuple[str, ...], ...]

# A key goes into events and metrics of bounded size: beyond this many characters, the first host, a count and a digest.
MAX_KEY = 160
# An MX set is bounded: beyond this many hosts the best ones are kept.
MAX_HOSTS = 50


class Site:
    """A set of MX hosts. Compared by identity; `key` is stable across restarts and unique.

    groups    hosts by preference, best first; see names.py for how a host is written
    port      TCP port; explicit hosts carry their own
    provider  who runs it; a reload may change that
    explicit  named by the operator
    username  whom we are there (AUTH), of an explicit site; "": nobody. Each user is a site of its own, so that no mail
              goes by the sessions of another
    """

    __slots__ = ("__weakref__", "explicit", "groups", "key", "port", "provider", "username")

    def __init__(
        self, key: str, groups: Groups, port: int, provider: str, explicit: bool, username: str = ""
    ) -> None:
        self.key = key
        self.groups = groups
        self.port = port
        self.provider = provider
        self.explicit = explicit
        self.username = username

    def __repr__(self) -> str:
        return f"<Site {self.key} {self.provider}>"

    def order(self, rng: random.Random) -> list[str]:
        """The hosts in the order to try them now: by preference, equals shuffled (RFC 5321 section 5.1)."""
        hosts: list[str] = []
        for group in self.groups:
            hosts += group if len(group) == 1 else rng.sample(group, len(group))
        return hosts


def group_by_preference(records: Iterable[tuple[int, str]]) -> Groups:
    """Canonical groups of MX records (preference, host): at most MAX_HOSTS, each host once, in its best group."""
    best: dict[str, int] = {}
    for preference, host in records:
        if preference < best.get(host, 1 << 16):
            best[host] = preference
    groups: dict[int, list[str]] = {}
    for preference, host in sorted((preference, host) for host, preference in best.items())[:MAX_HOSTS]:
        groups.setdefault(preference, []).append(host)
    return tuple(tuple(hosts) for hosts in groups.values())


def site_key(groups: Groups, port: int, explicit: bool, username: str = "") -> str:
    """The name of a site, at most MAX_KEY characters: "mx1.test,mx2.test;backup.test:25", "hosts=127.0.0.1:2526",
    "hosts=us@smtp.test:587"."""
    text = ";".join(",".join(group) for group in groups)
    if username:
        text = f"{username}@{text}"
    key = f"hosts={text}" if explicit else f"{text}:{port}"
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    more = sum(map(len, groups)) - 1
    return f"{'hosts=' if explicit else ''}{groups[0][0][:100]}+{more}~{digest}:{port}"


class Sites:
    """The one Site of each set of MX hosts."""

    def __init__(self, providers: Providers) -> None:
        self.providers = providers
        self._sites: WeakValueDictionary[tuple[Groups, int, bool, str], Site] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._sites)

    def of_mx(self, records: Sequence[tuple[int, str]], port: int) -> Site:
        """The site of MX records (preference, host); at least one."""
        return self._intern(group_by_preference(records), port, False)

    def of_hosts(self, hosts: Sequence[str], port: int, username: str = "") -> Site:
        """The explicit site of hosts that the operator named, each with its port, in the order to try them, and whom we
        are there."""
        return self._intern(tuple((host,) for host in dict.fromkeys(hosts)), port, True, username)

    def use(self, providers: Providers) -> None:
        """Another table of providers, also for the sites there are."""
        self.providers = providers
        for site in list(self._sites.values()):
            site.provider = self._provider(site.groups)

    def _provider(self, groups: Groups) -> str:
        return self.providers.of_hosts([split_host(host)[0] for host in groups[0]])

    def _intern(self, groups: Groups, port: int, explicit: bool, username: str = "") -> Site:
        identity = (groups, port, explicit, username)
        site = self._sites.get(identity)
        if site is None:
            key = site_key(groups, port, explicit, username)
            site = Site(key, groups, port, self._provider(groups), explicit, username)
            self._sites[identity] = site
        return site
