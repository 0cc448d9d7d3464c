"""Rules of the configuration about `fastrelay doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

# Open to everybody: block lists refuse to answer them (as Spamhaus does, with 127.255.255.254).
_PUBLIC_RESOLVERS = {
    *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
    *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "208.67.222.222", "208.67.220.220"),
}


def check_doctor(config: Config, rules: Rules) -> None:
    """Names that are listed twice, and block lists that will not answer."""
    if not rules.sound("doctor", "dns.nameservers"):
        return
    for key, listed in (("domains", config.doctor.domains), ("block_lists", config.doctor.block_lists)):
        for index, name in enumerate(listed):
            if name in listed[:index]:
                rules.warn(f"doctor.{key}[{index}]", f"{name} is listed twice", "remove one of them")
    public = [server for server in map(_address, config.dns.nameservers) if server in _PUBLIC_RESOLVERS]
    if config.doctor.block_lists and public:
        rules.warn(
            "doctor.block_lists",
            f"will not answer the public resolver {public[0]} (dns.nameservers)",
            "run a resolver of your own, such as unbound on this host",
        )


def _address(nameserver: str) -> str:
    """The address of a nameserver, without a port."""
    if nameserver.startswith("["):
        return nameserver[1:].partition("]")[0]
    return nameserver.partition(":")[0] if nameserver.count(":") == 1 else nameserver
