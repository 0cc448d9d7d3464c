"""Who a campaign goes to: from a list of recipients, or shares by provider, to the demands of a forecast.

    google=40%,yahoo=25%,other=35%     shares of --count
    reader@gmail.com                   addresses or domains, one a line; of a CSV the first column

A domain's provider is known from a short table of the large free-mail domains, from the configuration's routes, or from
its MX records, asked for the largest domains only; what is left is `other`. Domains of `other` are sites of their own,
the large ones each, the rest in classes of about the same size.

Known faults: business domains at Google or Microsoft are known by their MX only; with look-ups switched off, or beyond
their bound, they count as `other`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.config.units import parse_share
from fastrelay.limits.forecast_build import Demand
from fastrelay.route import InvalidDomain, make_router, normalize_domain
from fastrelay.route.providers import OTHER, built_in_table

MOST_DOMAINS = 2_000_000  # of a list; beyond it domains are counted together
MOST_LINE = 4096  # octets
LOOKUPS = 2_000  # of the largest domains
LOOKUPS_AT_ONCE = 64
SITES_ALONE = 20  # of `other`, each on its own; the rest in classes
OTHERS_PER_SITE = 50  # recipients of one unknown domain, where a mix does not tell
SLACK_SHARE = 0.005

# The domains under which free mailboxes are given out, by provider: public knowledge, not looked up.
FREE_MAIL = {
    "google": ("gmail.com", "googlemail.com"),
    "yahoo": ("yahoo.com", "ymail.com", "rocketmail.com", "aol.com", "aim.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de",
              "yahoo.it", "yahoo.es", "yahoo.ca", "yahoo.com.br", "yahoo.co.in", "yahoo.in"),
    "outlook": ("outlook.com", "hotmail.com", "live.com", "msn.com", "outlook.de", "outlook.fr", "hotmail.co.uk",
                "hotmail.fr", "hotmail.de", "hotmail.it", "hotmail.es", "live.co.uk", "live.fr", "live.de", "live.nl"),
    "apple": ("icloud.com", "me.com", "mac.com"),
    "comcast": ("comcast.net",),
    "gmx_webde": ("gmx.de", "gmx.net", "gmx.at", "gmx.ch", "gmx.com", "web.de"),
    "orange": ("orange.fr", "wanadoo.fr"),
    "tonline": ("t-online.de",),
    "qq": ("qq.com", "foxmail.com"),
    "netease": ("163.com", "126.com", "yeah.net"),
    "yahoo_jp": ("yahoo.co.jp",),
    "mailru": ("mail.ru", "bk.ru", "inbox.ru", "list.ru"),
    "yandex": ("yandex.ru", "yandex.com", "ya.ru"),
    "seznam": ("seznam.cz", "email.cz"),
}  # fmt: skip
_BY_DOMAIN = {domain: provider for provider, domains in FREE_MAIL.items() for domain in domains}
_PLAIN = re.compile(rb"[a-z0-9.-]{1,253}").fullmatch
_DOMAIN = re.compile(rb"[^\s,;\"'<>()]+")


class MixError(ValueError):
    """A mix or a list that cannot be read, "problem; mend"."""


@dataclass
class Recipients:
    """What a list came to. `unknown`: recipients whose domain's provider was not looked up or not found."""

    total: int = 0
    domains: int = 0
    skipped: int = 0  # lines without an address or a domain
    by_provider: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)  # of `other`: recipients by site (or domain)
    unreachable: int = 0  # recipients of domains that have no mail service at all
    unknown: int = 0
    looked_up: int = 0


def known_providers(config: Config) -> list[str]:
    """Every name that a mix may use."""
    return [*dict.fromkeys([*(one.name for one in built_in_table().providers), *config.providers, OTHER])]


def parse_mix(text: str, config: Config) -> dict[str, float]:
    """Shares by provider of `google=40%,yahoo=25%`; a rest goes to `other`. Raises MixError."""
    shares: dict[str, float] = {}
    known = known_providers(config)
    for part in text.split(","):
        name, equals, share = (word.strip() for word in part.partition("="))
        if not equals:
            raise MixError(f"{part.strip()!r} has no share; write google=40%,yahoo=25%")
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, 1)
            raise MixError(f"{name!r} is no provider; " + (f"did you mean {close[0]}?" if close else ", ".join(known)))
        if name in shares:
            raise MixError(f"{name} is given twice; keep one of them")
        try:
            shares[name] = parse_share(share)
        except ValueError as error:
            raise MixError(str(error)) from None
    total = sum(shares.values())
    if total > 1 + SLACK_SHARE:
        raise MixError(f"the shares add up to {total * 100:g}%; make them 100% in all")
    if total < 1 - SLACK_SHARE:
        shares[OTHER] = shares.get(OTHER, 0.0) + 1 - total
    return shares


def demands_of_mix(shares: Mapping[str, float], count: int, sites: int | None = None) -> list[Demand]:
    """What a mix comes to. sites: unknown domains; None: one for OTHERS_PER_SITE recipients."""
    found = []
    for provider, share in shares.items():
        amount = count * share
        if provider == OTHER:
            found.append(Demand(OTHER, amount, sites=sites or max(1, round(amount / OTHERS_PER_SITE))))
        elif amount:
            found.append(Demand(provider, amount))
    return found


def read_domains(lines: Iterable[bytes]) -> tuple[Counter[str], int]:
    """(recipients by domain, lines without one) of addresses or domains; blank lines and comments are passed over."""
    counts: Counter[bytes] = Counter()
    skipped = 0
    first = True
    for line in lines:
        line = line.strip()
        if not line or line[:1] == b"#":
            continue
        domain = line.partition(b",")[0].rpartition(b"@")[2].lower()
        if not _PLAIN(domain):
            match = _DOMAIN.search(line[:MOST_LINE])
            domain = match.group().rpartition(b"@")[2].lower() if match else b""
        if b"." not in domain:
            skipped += not first  # the first one may be a heading
            first = False
            continue
        first = False
        if domain in counts or len(counts) < MOST_DOMAINS:
            counts[domain] += 1
        else:
            counts[b"other.invalid"] += 1
    found: Counter[str] = Counter()
    for domain, number in counts.items():
        try:
            found[normalize_domain(domain.decode("utf-8", "replace"))] += number
        except InvalidDomain:
            skipped += number
    return found, skipped


async def resolve(
    domains: Counter[str],
    config: Config,
    *,
    lookups: int = LOOKUPS,
    router: Any = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> Recipients:
    """Finds each domain's provider: by table, by the relay's router for the largest ones, else `other`."""
    found = Recipients(total=domains.total(), domains=len(domains))
    to_ask: list[tuple[str, int]] = []
    for domain, number in domains.most_common():
        provider = _BY_DOMAIN.get(domain)
        if provider is not None:
            found.by_provider[provider] += number
        elif len(to_ask) < lookups:
            to_ask.append((domain, number))
        else:
            found.by_provider[OTHER] += number
            found.sites[domain] += number
            found.unknown += number
    if to_ask:
        router = router or make_router(config)
        gate = asyncio.Semaphore(LOOKUPS_AT_ONCE)

        async def ask(domain: str, number: int) -> None:
            async with gate:
                _note(found, domain, number, await router.resolve(domain, 0.0))
            found.looked_up += 1
            if on_progress is not None:
                on_progress(found.looked_up, len(to_ask))

        await asyncio.gather(*(ask(domain, number) for domain, number in to_ask))
    return found


def _note(found: Recipients, domain: str, number: int, route: Any) -> None:
    if route.action == "site":
        found.by_provider[route.site.provider] += number
        if route.site.provider == OTHER:
            found.sites[route.site.key] += number
    elif route.action == "defer":
        found.by_provider[OTHER] += number
        found.sites[domain] += number
        found.unknown += number
    else:
        found.unreachable += number


def demands_of(found: Recipients) -> list[Demand]:
    """What a list comes to: one site for each known provider, those of `other` by size."""
    demands = [
        Demand(provider, float(number)) for provider, number in found.by_provider.most_common() if provider != OTHER
    ]
    listed = found.sites.most_common()
    demands += [Demand(OTHER, float(number), site_key=key) for key, number in listed[:SITES_ALONE]]
    classes: dict[int, list[int]] = {}
    for _, number in listed[SITES_ALONE:]:
        classes.setdefault(number.bit_length(), []).append(number)
    demands += [Demand(OTHER, float(sum(numbers)), sites=len(numbers)) for numbers in classes.values()]
    return demands
