"""`fastrelay tls DOMAIN` before it is shown: what the relay would do, found out without one.

The same code decides as in a worker (outbound.py), over the same resolver settings; policies are fetched here and kept
nowhere. With `connect` each MX host is connected to, STARTTLS is made, and the certificate is held against the plan.

Known faults: a policy that a running relay keeps, though its record is gone, is not seen. One address of each host is
connected to.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Any

from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.route import make_router
from fastrelay.route.names import split_host
from fastrelay.route.resolver import Resolver
from fastrelay.route.router import Route, Target
from fastrelay.tls.client import Contexts, classify, describe
from fastrelay.tls.dane import HostTlsa, load_certificate, peer_chain, presented_names
from fastrelay.tls.fetch import PATH, Fetcher
from fastrelay.tls.mta_sts import PolicyError, allowed, parse_policy, text_of
from fastrelay.tls.outbound import OutboundTls
from fastrelay.tls.policy import NORMAL, HostPlan, TlsPolicy
from fastrelay.tls.sts_cache import Kept

MAX_LINE = 4096
MAX_LINES = 200
OK, WARNING, ERROR, UNKNOWN = 0, 1, 2, 3


class Look:
    """One look at one domain; as much of a worker as OutboundTls needs.

    resolver       None: that of the configuration
    context, port  see fetch.Fetcher
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        resolver: Resolver | None = None,
        context: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        self.config = config
        self.clock = clock
        self.router = make_router(
            config,
            resolver=resolver,
            own_names={config.hostname, *(one.ehlo for one in config.sources if one.ehlo)},
            own_addresses=[one.bind for one in config.listeners.smtp],
            clock=clock.monotonic,
        )
        self.tls = OutboundTls(self)  # type: ignore[arg-type]
        self._fetcher = Fetcher(
            self.router.resolver,  # type: ignore[arg-type]
            clock.monotonic,
            timeout=config.tls.outbound.policy_timeout_seconds,
            allow_private=config.delivery.allow_private_hosts,
            context=context,
            port=port,
        )
        self._sts: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what OutboundTls asks of a worker ----------------------------------------------------------------------------

    def count_error(self, where: str) -> None:
        """There is no metric here."""

    def report(self, message: dict[str, Any]) -> None:
        """A new id: the policy is fetched here, as the supervisor would."""
        task = asyncio.get_running_loop().create_task(self._fetch(str(message["domain"]), str(message["id"])))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, domain: str, identity: str) -> None:
        try:
            octets = await self._fetcher.text(domain)
            self._sts["text"] = octets.decode("utf-8", "replace")
            policy = parse_policy(octets)
        except PolicyError as error:
            self._sts |= {"error": str(error), "result": error.result}
            self.tls.sts.take([], failed=[{"domain": domain, "id": identity, "seconds": 300.0, "why": str(error)}])
            return
        self.tls.sts.take([Kept(domain, identity, policy, self.clock.wall())])

    # -- looking ------------------------------------------------------------------------------------------------------

    async def look(self, domain: str, *, connect: bool = False) -> dict[str, Any]:
        """Everything, as a dict that is fit for JSON."""
        try:
            return await self._look(domain, connect)
        finally:
            await self.tls.close()
            await self._fetcher.close()

    async def _look(self, domain: str, connect: bool) -> dict[str, Any]:
        now = self.clock.monotonic()
        route = await self.router.resolve(domain, now)
        level = self.tls.level_of(route.domain, route)
        told: dict[str, Any] = {
            "domain": route.domain,
            "level": level,
            "level_from": self._origin(route, level),
            "route": {"action": route.action, "text": route.text, "secure": route.secure, "implicit": route.implicit},
        }
        site = route.site
        if site is None:
            told |= {"hosts": [], "verdict": self._no_site(route), "exit_code": UNKNOWN}
            return told
        told["route"]["explicit"] = site.explicit
        told["route"]["trusted"] = any(server.trusted for server in self.router.resolver.nameservers)  # type: ignore[attr-defined]
        policy = await self.tls.policy(route.domain, route, NORMAL, now)
        told["policy"] = {"kind": policy.kind, "words": policy.words, "may_wait": policy.can_fail}
        told["mta_sts"] = await self._mta_sts(route)
        told["tls_rpt"] = await self._tls_rpt(route)
        described = await asyncio.gather(
            *(
                self._host(policy, route, preference, host, connect)
                for preference, group in enumerate(site.groups)
                for host in group
            )
        )
        told["hosts"] = list(described)
        told["verdict"], told["exit_code"] = verdict(policy, told)
        return told

    def _origin(self, route: Route, level: str) -> str:
        """Where the level is set."""
        if route.tls:
            return "the route of this domain"
        for pattern, of_pattern in self.config.tls.outbound.domains.items():
            if of_pattern == level and self.tls.level_of(route.domain) == level and _fits(pattern, route.domain):
                return f"tls.outbound.domains, {pattern}"
        return "tls.outbound.level"

    @staticmethod
    def _no_site(route: Route) -> str:
        words = {
            "fail": "its mail fails at once", "defer": "its mail waits for the DNS", "discard": "its mail is discarded",
            "reject": "its mail is rejected",
        }  # fmt: skip
        return f"{words.get(route.action, route.action)}: {route.text}"

    async def _mta_sts(self, route: Route) -> dict[str, Any]:
        """The record, and the policy that it announces, whether or not the relay would look at them."""
        if route.domain.startswith("["):
            return {"record": [], "url": None, "policy": None, "error": None}
        answer = await self.router.resolver.query(f"_mta-sts.{route.domain}", "TXT")
        announced = await self.tls.sts.find(route.domain, self.clock.monotonic())
        kept = self.tls.sts.policies.get(route.domain)
        told: dict[str, Any] = {
            "record": _texts(answer.records),
            "url": f"https://mta-sts.{route.domain}{PATH}",
            "policy": None,
            "error": self._sts.get("error") or (announced.why if answer.status != "nxdomain" else None) or None,
            "result": self._sts.get("result"),
            "text": self._sts.get("text"),
        }
        if answer.status in ("nodata", "nxdomain"):
            told["error"] = None
        if kept is not None:
            told["policy"] = {
                "id": kept.id, "mode": kept.policy.mode, "mx": list(kept.policy.mx), "max_age": kept.policy.max_age
            }  # fmt: skip
        return told

    async def _tls_rpt(self, route: Route) -> dict[str, Any]:
        """Where the domain wants reports (RFC 8460 section 3)."""
        if route.domain.startswith("["):
            return {"record": []}
        answer = await self.router.resolver.query(f"_smtp._tls.{route.domain}", "TXT")
        return {"record": [text for text in _texts(answer.records) if text.lower().startswith("v=tlsrptv1")]}

    # -- hosts --------------------------------------------------------------------------------------------------------

    async def _host(self, policy: TlsPolicy, route: Route, preference: int, host: str, connect: bool) -> dict[str, Any]:
        site = route.site
        assert site is not None
        now = self.clock.monotonic()
        name, own_port = split_host(host)
        port = own_port or site.port
        addresses = await self.router.addresses(host, now)
        tlsa = await self.tls.tlsa_of(host, site.port, now)
        target = next((Target(name, port, family, address) for family, address in addresses.addresses), None)
        plan = await self.tls.host_plan(policy, target or Target(name, port, 0, ""), now)
        named = self._named(route.domain, name) if not site.explicit else None
        told: dict[str, Any] = {
            "group": preference,
            "host": name,
            "port": port,
            "addresses": [address for _, address in addresses.addresses],
            "alias": addresses.alias or None,
            "secure": addresses.secure,
            "error": addresses.error,
            "tlsa": described_tlsa(tlsa, port),
            "mta_sts": named,
            "plan": described_plan(plan),
        }
        if connect and target is not None and plan.mode != "skip":
            told["connection"] = await self._connect(target, plan)
        return told

    def _named(self, domain: str, host: str) -> bool | None:
        """Whether the domain's MTA-STS policy names the host; None without a policy."""
        kept = self.tls.sts.policies.get(domain)
        if kept is None or kept.policy.mode == "none":
            return None
        return bool(allowed(kept.policy.mx, [host]))

    async def _connect(self, target: Target, plan: HostPlan) -> dict[str, Any]:
        """What comes of a connection as the relay would make it: {"ok", "words", …}."""
        seconds = self.config.delivery.connect_timeout_seconds + self.config.tls.outbound.handshake_timeout_seconds
        told: dict[str, Any] = {"address": target.address, "ok": False}
        try:
            async with asyncio.timeout(seconds):
                return told | await self._talk(target, plan)
        except ssl.SSLCertVerificationError as error:
            told["words"] = classify(error)[1]
        except TimeoutError:
            return told | {"words": f"no answer within {seconds:.0f} s"}
        except ssl.SSLError as error:
            return told | {"words": classify(error)[1]}
        except (OSError, EOFError, ValueError) as error:
            return told | {"words": getattr(error, "strerror", None) or str(error) or "the host closed the connection"}
        try:  # once more, to see whose certificate it is
            async with asyncio.timeout(seconds):
                seen = await self._talk(target, plan, Contexts(self.config.tls.outbound).unverified())
        except (OSError, EOFError, ValueError):
            return told
        return told | {key: seen[key] for key in ("version", "cipher", "certificate") if key in seen}

    async def _talk(self, target: Target, plan: HostPlan, context: ssl.SSLContext | None = None) -> dict[str, Any]:
        local = next(
            (one.address for one in self.config.sources if (":" in one.address) == (":" in target.address)), None
        )
        context = context or plan.context
        name = plan.server_hostname or None
        implicit: dict[str, Any] = {"ssl": context, "server_hostname": name or ""} if plan.mode == "implicit" else {}
        reader, writer = await asyncio.open_connection(
            target.address, target.port, limit=MAX_LINE, local_addr=(local, 0) if local else None, **implicit
        )
        try:
            await _reply(reader, "220")
            if plan.mode == "implicit":
                return self._judged(writer, plan)
            writer.write(f"EHLO {self.config.hostname}\r\n".encode())
            offers = await _reply(reader, "250")
            if plan.mode == "plain":
                return {"ok": True, "words": "TLS is not tried"}
            if not any(line[4:].strip().upper() == "STARTTLS" for line in offers):
                return {"ok": not plan.mandatory, "words": "STARTTLS is not offered"}
            writer.write(b"STARTTLS\r\n")
            await _reply(reader, "220")
            assert context is not None
            await writer.start_tls(context, server_hostname=name)
            return self._judged(writer, plan)
        finally:
            writer.transport.abort()

    def _judged(self, writer: asyncio.StreamWriter, plan: HostPlan) -> dict[str, Any]:
        """What the handshake showed, held against the plan."""
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        chain = peer_chain(tls)
        told: dict[str, Any] = {**describe(tls), "certificate": described_certificate(chain), "chain": len(chain)}
        fault = plan.check(tls) if plan.check is not None else None
        told["ok"] = fault is None or not plan.mandatory
        told["complaint"] = fault is not None
        if fault:
            told["words"] = fault
        elif plan.verified == "dane":
            told["words"] = "the certificate satisfies the TLSA records"
        elif plan.verified:
            told["words"] = "the certificate is valid for the host"
        else:
            told["words"] = "the certificate does not matter"
        return told


async def _reply(reader: asyncio.StreamReader, code: str) -> list[str]:
    """The lines of a reply. Raises ValueError where it is another."""
    lines = []
    for _ in range(MAX_LINES):
        line = (await reader.readuntil(b"\n")).decode("utf-8", "replace").rstrip("\r\n")
        lines.append(line)
        if line[3:4] != "-":
            break
    if not lines[-1].startswith(code):
        raise ValueError(f"it answers {lines[-1][:200]!r}")
    return lines


def _fits(pattern: str, domain: str) -> bool:
    return pattern in ("*", domain) or (pattern.startswith("*.") and domain.endswith(pattern[1:]))


def _texts(records: tuple[Any, ...]) -> list[str]:
    texts = []
    for rdata in records:
        try:
            texts.append(text_of(rdata))
        except ValueError:
            texts.append("(a record that is cut short)")
    return texts


def described_tlsa(found: HostTlsa, port: int) -> dict[str, Any]:
    """TLSA records for people and programs."""
    return {
        "name": f"_{port}._tcp.{found.base}" if found.base else None,
        "state": found.state,
        "why": found.why or None,
        "records": [
            {"text": record.text, "meaning": record.meaning, "flaw": record.flaw or None} for record in found.records
        ],
    }


def described_plan(plan: HostPlan) -> dict[str, Any]:
    return {
        "mode": plan.mode,
        "mandatory": plan.mandatory,
        "verified": plan.verified or None,
        "failure": plan.failure if plan.mode == "skip" else None,
        "why": plan.why,
    }


def described_certificate(chain: list[bytes]) -> dict[str, Any] | None:
    """The peer's own certificate."""
    if not chain:
        return None
    try:
        certificate = load_certificate(chain[0])
        return {
            "names": presented_names(certificate)[:20],
            "issuer": certificate.issuer.rfc4514_string()[:200],
            "from": _day(certificate.not_valid_before_utc),
            "until": _day(certificate.not_valid_after_utc),
        }
    except Exception as error:
        return {"names": [], "issuer": f"a certificate that can't be read ({error})", "from": "", "until": ""}


def _day(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d")


def verdict(policy: TlsPolicy, told: dict[str, Any]) -> tuple[str, int]:
    """One sentence and the exit code."""
    hosts = told["hosts"]
    usable = [one for one in hosts if one["plan"]["mode"] != "skip" and not one["error"]]
    tried = [one for one in usable if "connection" in one]
    working = [one for one in usable if "connection" not in one or one["connection"]["ok"]]
    ways = sorted({one["plan"]["verified"] or "" for one in working})
    if not usable:
        if any(one["plan"]["mode"] == "skip" for one in hosts):
            return "its mail waits (tls_policy): no host has the TLS that it must have", ERROR
        return "its mail waits: no host has an address that can be used", ERROR
    if not working:
        return "its mail waits: no host that was connected to can be used", ERROR
    names = {"dane": "DANE", "mta-sts": "MTA-STS", "pkix": "a CA"}
    if ways == [""]:
        sentence = {
            "plain": "its mail goes out without TLS",
            "starttls": "its mail goes out with TLS where it is offered, and nobody is authenticated",
        }[working[0]["plan"]["mode"]]
        if all(one["plan"]["mandatory"] for one in working):
            sentence = "its mail goes out with TLS only, and nobody is authenticated"
    else:
        by = ", ".join(names[way] for way in ways if way)
        sentence = f"its mail goes out with TLS, the hosts authenticated by {by}"
        if "" in ways:
            sentence += " (not all of them)"
    problems = len(working) < len(hosts) or (told["mta_sts"]["error"] is not None) or _testing_would_fail(told)
    if tried and len(working) == len(hosts) and not problems:
        sentence += "; all hosts were connected to"
    return sentence, WARNING if problems else OK


def _testing_would_fail(told: dict[str, Any]) -> bool:
    policy = told["mta_sts"]["policy"]
    if policy is None or policy["mode"] != "testing":
        return False
    return any(one["mta_sts"] is False or one.get("connection", {}).get("complaint") for one in told["hosts"])
