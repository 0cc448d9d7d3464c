"""The internet of a scenario, in this process and in simulated time: DNS, MX hosts with policies, and domains.

    world = World(scenario, config, clock)
    await world.start()
    config = world.relay_config(config, folder)     # the user's own, its addresses on loopback
    ...                                             # a relay sends; whoever drives the clock runs world.timetable

Each provider has MX hosts whose names its suffix in the provider table recognises, and domains under `.example`; hosts
of `other` are the domain's own. Sources get loopback addresses, so a provider tells them apart as it does outside.

Known faults: IPv4 only; TLS is not simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from fastrelay.clock import Clock
from fastrelay.config.schema import Config, Listeners, SmtpListener
from fastrelay.errors import ConfigError, ConfigProblem
from fastrelay.route.providers import OTHER, built_in_table
from fastrelay.sim.dns import DnsServer, Zone
from fastrelay.sim.mx import Behaviour, MxHosts
from fastrelay.sim.policy import Provider
from fastrelay.sim.scenario import Manner, Scenario, manner_of
from fastrelay.sim.timetable import Timetable

HOSTS_PER_PROVIDER = 2
SPOOL_MAP_BYTES = 1 << 30
FIRST_SOURCE = (127, 64)
MX_SUBNETS = tuple(f"127.{number}" for number in range(80, 120))


class Arrivals:
    """When how many recipients arrived, by provider and client address, in slots of `seconds`."""

    def __init__(self, begins: float, seconds: float = 1.0) -> None:
        self.begins = begins
        self.seconds = seconds
        self.slots: dict[tuple[str, str], Counter[int]] = {}

    def note(self, provider: str, client: str, recipients: int, now: float) -> None:
        """So many recipients arrived at wall time `now`."""
        slots = self.slots.setdefault((provider, client), Counter())
        slots[int((now - self.begins) / self.seconds)] += recipients

    def total(self, provider: str | None = None, client: str | None = None) -> int:
        """How many arrived at a provider (None: any), from a client (None: any)."""
        return sum(sum(slots.values()) for slots in self._matching(provider, client))

    def reached(self, share: float, of: int, provider: str | None = None, client: str | None = None) -> float | None:
        """Seconds after the beginning at which `share` of `of` recipients had arrived; None: they never had."""
        merged: Counter[int] = Counter()
        for slots in self._matching(provider, client):
            merged.update(slots)
        wanted, arrived = share * of, 0
        for slot in sorted(merged):
            arrived += merged[slot]
            if arrived >= wanted - 1e-9:
                return (slot + 1) * self.seconds
        return None

    def _matching(self, provider: str | None, client: str | None) -> list[Counter[int]]:
        return [
            slots
            for (at, by), slots in self.slots.items()
            if (provider is None or at == provider) and (client is None or by == client)
        ]


class World:
    """Everything outside the relay."""

    def __init__(self, scenario: Scenario, config: Config, clock: Clock, slot_seconds: float = 1.0) -> None:
        """Raises ConfigError for a provider that neither the built-in table nor the configuration knows."""
        self.scenario = scenario
        self.clock = clock
        self.timetable = Timetable(clock)
        self.zone = Zone(ttl=86400)
        self.dns = DnsServer(self.zone)
        self.names = scenario.used_providers()
        self.source_addresses = _source_addresses(config)
        self.sources = {address: name for name, address in self.source_addresses.items()}  # by client address
        self.manners: dict[str, Manner] = {name: manner_of(scenario, name) for name in self.names}
        self._known = {
            self.source_addresses[name]: volume
            for name, volume in scenario.known.items()
            if name in self.source_addresses
        }
        self.policies = {name: Provider(manner.rules, self._known) for name, manner in self.manners.items()}
        self.policies_of_others: dict[str, Provider] = {}  # by address
        self.arrivals = Arrivals(clock.wall(), slot_seconds)
        self.domains: dict[str, list[str]] = {}
        self._addresses = self._build(_suffixes(config))
        self.hosts = MxHosts(
            behaviours={name: Behaviour(latency_seconds=manner.latency) for name, manner in self.manners.items()},
            policies=self.policies | self.policies_of_others,
            clock=clock,
            timetable=self.timetable,
            on_accepted=self._accepted,
        )

    def _build(self, suffixes: Mapping[str, str]) -> dict[str, str]:
        """The zone; the provider of each MX host's address."""
        problems = [
            ConfigProblem("scenario", 0, f"mix.{name}", "is no provider", _mend(name, suffixes))
            for name in self.names
            if name != OTHER and name not in suffixes
        ]
        if problems:
            raise ConfigError(problems)
        addresses: dict[str, str] = {}
        for number, name in enumerate(self.names):
            subnet = f"{MX_SUBNETS[number % len(MX_SUBNETS)]}.{number // len(MX_SUBNETS)}"
            hosts = [f"{subnet}.{host + 1}" for host in range(HOSTS_PER_PROVIDER)]
            self.domains[name] = [
                f"{name.replace('_', '-').lower()}{at:04d}.example" for at in range(self.scenario.domains)
            ]
            if name == OTHER:
                addresses |= self._build_others(subnet)
                continue
            addresses |= dict.fromkeys(hosts, name)
            names = [f"mx{host + 1}.simulated.{suffixes[name]}" for host in range(HOSTS_PER_PROVIDER)]
            for host, address in zip(names, hosts, strict=True):
                self.zone.address(host, address)
            for domain in self.domains[name]:
                self.zone.mx(domain, [(10, host) for host in names])
        return addresses

    def _build_others(self, subnet: str) -> dict[str, str]:
        """Each domain of `other` is a provider of its own: its host, its address, its memory."""
        base = subnet.rpartition(".")[0]
        addresses = {}
        for number, domain in enumerate(self.domains[OTHER]):
            address = f"{base}.{100 + number // 250}.{number % 250 + 1}"
            addresses[address] = OTHER
            self.zone.mx(domain, [(10, f"mx.{domain}")])
            self.zone.address(f"mx.{domain}", address)
            self.policies_of_others[address] = Provider(self.manners[OTHER].rules, self._known)
        return addresses

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await self.dns.start()
        await self.hosts.start(self._addresses)

    def memories(self, provider: str) -> list[Provider]:
        """What a provider remembers; of `other`, what each of its hosts does."""
        return list(self.policies_of_others.values()) if provider == OTHER else [self.policies[provider]]

    async def stop(self) -> None:
        await self.hosts.stop()
        await self.dns.stop()

    def _accepted(self, provider: str, client: str, recipients: int) -> None:
        self.arrivals.note(provider, client, recipients, self.clock.wall())

    def relay_config(self, config: Config, folder: str) -> Config:
        """The user's configuration with addresses, DNS and ports of this world, its state in `folder`."""
        replace = msgspec.structs.replace
        sources = [
            replace(source, address=self.source_addresses[source.name], public_address=None)
            for source in config.sources
        ]
        return replace(
            config,
            state_dir=folder,
            workers=1,
            listeners=Listeners(smtp=[SmtpListener(bind="127.0.0.1:0")], metrics=None),
            sources=sources,
            routes=[route for route in config.routes if not route.hosts],
            dns=replace(config.dns, nameservers=[self.dns.nameserver], min_ttl_seconds=3600.0),
            delivery=replace(config.delivery, port=self.hosts.port, allow_private_hosts=True, prefer_ipv6=False),
            spool=replace(config.spool, reserve_bytes=0, ballast_bytes=0, map_size_bytes=SPOOL_MAP_BYTES),
        )


def _source_addresses(config: Config) -> dict[str, str]:
    """A loopback address for each source."""
    first, second = FIRST_SOURCE
    return {
        source.name: f"{first}.{second}.{number // 250}.{number % 250 + 1}"
        for number, source in enumerate(config.sources)
    }


def _suffixes(config: Config) -> dict[str, str]:
    """One MX suffix of each provider; the configuration's own ones first."""
    suffixes = {one.name: one.suffixes[0] for one in built_in_table().providers if one.suffixes}
    return suffixes | {name: one.suffixes[0] for name, one in config.providers.items() if one.suffixes}


def _mend(name: str, suffixes: Mapping[str, str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, [*suffixes, OTHER], 1)
    if close:
        return f"did you mean `{close[0]}`?"
    return "name one of the built-in table or of `providers` in the configuration, or `other`"
