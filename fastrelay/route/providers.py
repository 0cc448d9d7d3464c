"""Which mailbox provider runs an MX host, and what it is known to want: a table of host name suffixes.

The built-in table is config/defaults/providers.yaml; each line names its source. The configuration (`providers`) adds
suffixes and whole providers, and takes a suffix away from a built-in provider by naming it. A suffix matches whole
labels, and the longer suffix wins: `olc.protection.outlook.com` is `outlook`, any other `protection.outlook.com` is
`microsoft365`. Routing needs only the suffixes; limits/shape.py reads the limits.

Known faults: an MX host under a name of the customer's own is `other`, whoever runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import msgspec
import yaml

from fastrelay.config.sending import Provider as ConfiguredProvider

OTHER = "other"
BUILT_IN = "built-in"

Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]{1,32}$")]
Suffix = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider wants of one source; None: no published figure. Rates are written as in the configuration."""

    rate: str | None = None
    connection_rate: str | None = None
    connections: int | None = None
    messages_per_connection: int | None = None
    recipients_per_transaction: int | None = None
    idle_seconds: float | None = None
    tls: Literal["wanted"] | None = None


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: its name (a metric label), the suffixes of its MX hosts, its limits and where they are from."""

    name: Name
    suffixes: list[Suffix]
    limits: Limits = Limits()
    source: Annotated[str, msgspec.Meta(min_length=1)]


class ProviderTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: a version that changes with every edit, limits where a provider has none of its own, providers."""

    version: int
    other: Limits
    other_source: str
    providers: list[Provider]


class Providers:
    """Suffix look-up. `of_host` costs a dict look-up per label.

    by_name  the built-in providers, with their limits
    other    limits of what has none of its own; None: no table was given
    """

    def __init__(self, providers: Iterable[Provider] = (), other: Limits | None = None) -> None:
        self.by_name: dict[str, Provider] = {}
        self.other = other
        self._by_suffix: dict[str, tuple[str, str]] = {}  # suffix: provider, and who says so
        for provider in providers:
            if provider.name in self.by_name:
                raise ValueError(f"provider {provider.name!r} is defined twice")
            self.by_name[provider.name] = provider
            for suffix in provider.suffixes:
                owner, _ = self._by_suffix.setdefault(suffix, (provider.name, BUILT_IN))
                if owner != provider.name:
                    raise ValueError(f"suffix {suffix!r} belongs to both {owner!r} and {provider.name!r}")

    def extend(self, configured: Mapping[str, ConfiguredProvider]) -> None:
        """Add the suffixes of the configuration; one that is built in changes hands."""
        for name, provider in configured.items():
            for suffix in provider.suffixes:
                self._by_suffix[suffix] = (name, f"providers.{name}")

    def match(self, host_name: str) -> tuple[str, str, str]:
        """(provider, suffix, who says so: "built-in" or a path of the configuration) of an MX host; suffix "" and
        `other` when none is known. The name is lower case, without a port."""
        suffix = host_name
        while suffix:
            found = self._by_suffix.get(suffix)
            if found is not None:
                return found[0], suffix, found[1]
            suffix = suffix.partition(".")[2]
        return OTHER, "", ""

    def of_host(self, host_name: str) -> str:
        """The provider of an MX host (lower-case name, no port); `other` when none is known."""
        return self.match(host_name)[0]

    def of_hosts(self, host_names: Sequence[str]) -> str:
        """The provider of the first host that has one. Give the best preference only: a backup does not count."""
        for host_name in host_names:
            name = self.of_host(host_name)
            if name != OTHER:
                return name
        return OTHER

    def names(self) -> set[str]:
        """Every provider that a site can have."""
        return {*self.by_name, *(name for name, _ in self._by_suffix.values()), OTHER}

    def suffixes(self, name: str) -> list[str]:
        """The suffixes of a provider."""
        return [suffix for suffix, (owner, _) in self._by_suffix.items() if owner == name]


def parse_table(text: str) -> ProviderTable:
    """A table from YAML. Raises msgspec.ValidationError or yaml.YAMLError."""
    return msgspec.convert(yaml.load(text, Loader=yaml.CSafeLoader), ProviderTable)


@lru_cache(maxsize=1)
def built_in_table() -> ProviderTable:
    """The table that comes with fastrelay."""
    text = resources.files("fastrelay.config").joinpath("defaults/providers.yaml").read_text(encoding="utf-8")
    return parse_table(text)


def built_in() -> Providers:
    """Look-up over the built-in table."""
    table = built_in_table()
    return Providers(table.providers, table.other)


def make_providers(configured: Mapping[str, ConfiguredProvider]) -> Providers:
    """Look-up over the built-in table and what the configuration adds to it."""
    providers = built_in()
    providers.extend(configured)
    return providers
