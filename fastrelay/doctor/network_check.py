"""Checks of the way out: `resolver` (does it validate?) and `port_25` (can MX hosts be reached?).

Both ask the internet, so each knows "could not tell": a host without a way out at all is not one whose port is blocked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from fastrelay.doctor import reasons
from fastrelay.doctor.findings import Finding, Severity, listed
from fastrelay.doctor.look import Look
from fastrelay.doctor.subjects import SYSTEM, Sender
from fastrelay.route.names import is_public, split_host
from fastrelay.route.resolver import Nameserver, system_nameservers

SIGNED_ZONES = ("com", "org", "net")  # their SOA records have been signed since 2010
BROKEN_NAME = "dnssec-failed.org"  # kept with broken signatures, for tests like this one
MX_PROBES = ("gmail.com", "yahoo.com", "outlook.com")
MAX_HOSTS = 3


async def check_resolver(look: Look) -> list[Finding]:
    """The AD bit for a zone that is signed, and a refusal for one whose signatures are broken."""
    signed = await asyncio.gather(*(look.dns.query(zone, "SOA") for zone in SIGNED_ZONES))
    answers = [answer for answer in signed if answer.status != "temporary"]
    servers = look.config.dns.nameservers or system_nameservers()
    if not answers or all(answer.status != "ok" for answer in answers):
        found = f"could not tell: {listed(servers)} did not answer for {listed(SIGNED_ZONES)}"
        mend = "check the nameservers, and the way to the internet"
        return [_host("resolver", "unknown", found, "", mend)]
    if not any(answer.secure for answer in answers if answer.status == "ok"):
        dane = look.config.tls.outbound.dane
        found = f"{listed(servers)} does not validate (no AD bit for {SIGNED_ZONES[0]})"
        mend = "run a validating resolver here, such as unbound, and name it in dns.nameservers"
        return [_host("resolver", "warning" if dane else "note", found, reasons.RESOLVER, mend, "apt install unbound")]
    broken = await look.dns.query(BROKEN_NAME, "A")
    if broken.status == "ok":
        found = f"{listed(servers)} sets AD, and believes {BROKEN_NAME}, whose signatures are broken"
        return [_host("resolver", "warning", found, reasons.RESOLVER, "use a resolver that validates")]
    remote = [one for one in servers if not ipaddress.ip_address(Nameserver(one).sockaddr[0]).is_loopback]
    if remote and look.config.tls.outbound.dane:
        found = f"validates, and is not on this host ({listed(remote)})"
        mend = "run a validating resolver here, such as unbound, and name it in dns.nameservers"
        return [_host("resolver", "note", found, reasons.RESOLVER_REMOTE, mend)]
    return [_host("resolver", "ok", f"{listed(servers)} validates")]


def _host(
    check: str, severity: Severity, found: str, why: str = "", mend: str = "", *commands: str, subject: str = "host"
) -> Finding:
    return Finding(check=check, subject=subject, severity=severity, found=found, why=why, mend=mend, commands=commands)


async def check_port_25(look: Look, sender: Sender) -> list[Finding]:
    """A greeting of an MX host, from the source's own address."""
    targets, missing = await _targets(look, sender)
    port = look.config.delivery.port
    if not targets:
        found = f"could not tell: no MX host to try ({missing or 'none has an address of this family'})"
        return [_host("port_25", "unknown", found, subject=sender.label)]
    results = await asyncio.gather(
        *(_greeting(sender, address, at, look.timeout) for _, address, at in targets), return_exceptions=True
    )
    for (host, _, _), result in zip(targets, results, strict=True):
        if isinstance(result, str):
            return [_host("port_25", "ok", f"{host} greets {sender.local}", subject=sender.label)]
    problems = [_problem(host, result) for (host, _, _), result in zip(targets, results, strict=True)]
    answered = [one for one in results if isinstance(one, ConnectionRefusedError | TimeoutError)]
    if len(answered) < len(results):
        found = f"could not tell: {listed(problems)}"
        mend = f"check that this host has the address {sender.local} and a route to the internet"
        return [_host("port_25", "unknown", found, "", mend, subject=sender.label)]
    if _smart_hosts(look):
        found = f"the smart host cannot be reached: {listed(problems)}"
        return [_host("port_25", "error", found, reasons.SMART_HOST, "check it, and routes", subject=sender.label)]
    found = f"outbound port {port} seems blocked: {listed(problems)}"
    mend = "ask the hosting company to open outbound port 25, or use a smart host (routes)"
    command = f"nc -s {sender.local} -w 10 {targets[0][0]} {targets[0][2]}"
    return [_host("port_25", "error", found, reasons.PORT_25, mend, command, subject=sender.label)]


async def _targets(look: Look, sender: Sender) -> tuple[list[tuple[str, str, int]], str]:
    """(host, address, port) of a few hosts, and why there are none: smart hosts for all mail, else large providers."""
    config = look.config
    smart = _smart_hosts(look)
    hosts: list[tuple[str, int]] = []
    missing = ""
    if smart:
        hosts = [(name, at or config.delivery.port) for name, at in map(split_host, smart)]
    else:
        for answer in await asyncio.gather(*(look.dns.query(domain, "MX") for domain in MX_PROBES)):
            hosts += [(host, config.delivery.port) for _, host in answer.records[:1] if host != "."]
            missing = missing or answer.detail
    found = []
    for host, port in hosts[:MAX_HOSTS]:
        for address in await _addresses(look, host, sender.version):
            found.append((host, address, port))
            break
    return found, missing


def _smart_hosts(look: Look) -> list[str]:
    """The hosts that all mail goes to, if there are any."""
    return next((route.hosts for route in look.config.routes if "*" in route.domains and route.hosts), None) or []


async def _addresses(look: Look, host: str, version: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    answer = await look.dns.addresses(host, version)
    private = look.config.delivery.allow_private_hosts
    return [one for one in answer.records if private or is_public(ipaddress.ip_address(one))]


async def _greeting(sender: Sender, address: str, port: int, timeout: float) -> str:
    """The first line of a host; "" if it closes at once. Raises OSError, TimeoutError."""
    local = None if sender.name == SYSTEM else (sender.local, 0)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(address, port, local_addr=local, family=family, limit=4096)
        try:
            line = await reader.readline()
            writer.write(b"QUIT\r\n")
            return line.decode("latin-1").strip()
        except ValueError:  # a line longer than the limit: somebody is there
            return ""
        finally:
            writer.transport.abort()


def _problem(host: str, result: str | BaseException) -> str:
    if isinstance(result, TimeoutError):
        return f"{host} does not answer"
    if isinstance(result, OSError):
        return f"{host}: {result.strerror or result}"
    return f"{host}: {result}"
