"""Which mailbox provider runs an MX host: a table of host name suffixes.

The built-in table is config/defaults/providers.yaml; each line names its source. The limits in it are what providers
are known to want; routing does not use them. A suffix matches whole labels, and the longer suffix wins:
`olc.protection.outlook.com` is `outlook`, any other `protection.outlook.com` is `microsoft365`.

Known faults: an MX host under a name of the customer's own is `other`, whoever runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Annotated, Literal

import msgspec
import yaml

OTHER = "other"

Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]{1,32}$")]
Suffix = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider wants per source address; None: no published figure, the default holds."""

    connections: int | None = None
    messages_per_connection: int | None = None
    connections_per_minute: int | None = None
    messages_per_second: float | None = None
    idle_seconds: float | None = None
    tls: Literal["wanted"] | None = None


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: its name (a metric label), the suffixes of its MX hosts, its limits and where they are from."""

    name: Name
    suffixes: list[Suffix]
    limits: Limits = Limits()
    source: Annotated[str, msgspec.Meta(min_length=1)]


class ProviderTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: a version that changes with every edit, limits of any other site, providers."""

    version: int
    other: Limits
    other_source: str
    providers: list[Provider]


class Providers:
    """Suffix look-up. `of_host` costs a dict look-up per label."""

    def __init__(self, providers: Iterable[Provider] = ()) -> None:
        self.by_name: dict[str, Provider] = {}
        self._by_suffix: dict[str, str] = {}
        for provider in providers:
            if provider.name in self.by_name:
                raise ValueError(f"provider {provider.name!r} is defined twice")
            self.by_name[provider.name] = provider
            for suffix in provider.suffixes:
                owner = self._by_suffix.setdefault(suffix, provider.name)
                if owner != provider.name:
                    raise ValueError(f"suffix {suffix!r} belongs to both {owner!r} and {provider.name!r}")

    def of_host(self, host_name: str) -> str:
        """The provider of an MX host (lower-case name, no port); `other` when none is known."""
        suffix = host_name
        while suffix:
            name = self._by_suffix.get(suffix)
            if name is not None:
                return name
            suffix = suffix.partition(".")[2]
        return OTHER

    def of_hosts(self, host_names: Sequence[str]) -> str:
        """The provider of the first host that has one. Give the best preference only: a backup does not count."""
        for host_name in host_names:
            name = self.of_host(host_name)
            if name != OTHER:
                return name
        return OTHER


def parse_table(text: str) -> ProviderTable:
    """A table from YAML. Raises msgspec.ValidationError or yaml.YAMLError."""
    return msgspec.convert(yaml.load(text, Loader=yaml.CSafeLoader), ProviderTable)


def built_in_table() -> ProviderTable:
    """The table that comes with fastrelay."""
    text = resources.files("fastrelay.config").joinpath("defaults/providers.yaml").read_text(encoding="utf-8")
    return parse_table(text)


def built_in() -> Providers:
    """Look-up over the built-in table."""
    return Providers(built_in_table().providers)
