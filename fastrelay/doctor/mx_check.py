"""Checks of what comes back to a sender domain: `mx`, and the records `mta_sts` and `tls_rpt`."""

from __future__ import annotations

import asyncio

from fastrelay.doctor import reasons
from fastrelay.doctor.findings import DnsMend, Finding, Severity, listed
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.lookups import tags_of, txt_values
from fastrelay.doctor.subjects import SenderDomain
from fastrelay.route.resolver import Answer
from fastrelay.tls.mta_sts import PolicyError, allowed, record_id

MAX_HOSTS = 20  # MX hosts that are looked up


async def check_mx(look: Look, domain: SenderDomain) -> list[Finding]:
    """Where bounces go: to the domain of the reverse-path."""
    name = domain.envelope
    answer = await look.dns.query(name, "MX")
    if answer.status == "temporary":
        return [could_not_tell("mx", name, f"MX of {name}", answer)]
    if answer.status == "nxdomain":
        mend = "register the domain, or publish its MX record; the domain must exist to send mail"
        return [_finding(name, "error", f"{name} does not exist in the DNS", mend, _mx(look, name))]
    hosts = [host for _, host in answer.records]
    if "." in hosts:
        mend = "publish an MX record of a host that takes the domain's mail in place of the null MX"
        record = _mx(look, name, ("0 .",))
        return [_finding(name, "error", f"{name} takes no mail at all (null MX)", mend, record)]
    if not hosts:
        return await _without_mx(look, name)
    resolved = await asyncio.gather(*(_host_addresses(look, host) for host in hosts[:MAX_HOSTS]))
    dead = [host for host, found in zip(hosts, resolved, strict=False) if found is False]
    if dead and len(dead) == len(resolved):
        mend = f"publish an address for {dead[0]}, or correct the MX record"
        return [_finding(name, "error", f"no MX host of {name} has an address ({listed(dead)})", mend)]
    found = [Finding(check="mx", subject=name, severity="ok", found=f"bounces go to {listed(hosts, 3)}")]
    if dead:
        mend = "publish its address, or remove it from the MX records"
        found.append(_finding(name, "warning", f"the MX host {listed(dead)} has no address", mend))
    return found


def _finding(name: str, severity: Severity, found: str, mend: str, *records: DnsMend, why: str = reasons.MX) -> Finding:
    return Finding(check="mx", subject=name, severity=severity, found=found, why=why, mend=mend, records=records)


def _mx(look: Look, name: str, replaces: tuple[str, ...] = ()) -> DnsMend:
    return DnsMend(name=name, rdtype="MX", value=f"10 {look.config.hostname}.", replaces=replaces)


async def _host_addresses(look: Look, host: str) -> bool | None:
    """Whether a host has an address; None: the DNS does not say."""
    answers = await asyncio.gather(look.dns.query(host, "A"), look.dns.query(host, "AAAA"))
    if any(answer.records for answer in answers):
        return True
    return None if any(answer.status == "temporary" for answer in answers) else False


async def _without_mx(look: Look, name: str) -> list[Finding]:
    has_address = await _host_addresses(look, name)
    if has_address is None:
        return [could_not_tell("mx", name, f"the address of {name}", Answer("temporary", detail="no answer"))]
    if has_address:
        found = f"{name} has no MX record; its address record is used"
        mend = "publish an MX record of the host that takes the domain's mail, such as"
        return [_finding(name, "warning", found, mend, _mx(look, name), why=reasons.MX_FALLBACK)]
    mend = "publish an MX record of the host that takes the domain's mail, such as"
    return [_finding(name, "error", f"{name} has neither an MX nor an address record", mend, _mx(look, name))]


async def _published(look: Look, at: str, version: str) -> tuple[Answer, list[str]]:
    """The TXT answer at a name, and those of its texts that are of a policy's version."""
    answer = await look.dns.query(at, "TXT")
    if answer.status == "temporary":
        return answer, []
    return answer, [text for text in txt_values(answer) if text.replace(" ", "").startswith(f"v={version}")]


def _none_published(check: str, name: str, at: str, answer: Answer) -> Finding:
    if answer.status == "temporary":
        return could_not_tell(check, name, at, answer)
    return Finding(check=check, subject=name, severity="ok", found="none published (it is a choice)")


async def check_mta_sts(look: Look, domain: SenderDomain) -> list[Finding]:
    """The domain's MTA-STS record (RFC 8461 section 3.1) and its policy host; that there is none is fine."""
    name = domain.envelope
    at = f"_mta-sts.{name}"
    answer, texts = await _published(look, at, "STSv1")
    if not texts:
        return [_none_published("mta_sts", name, at, answer)]
    if record_id(answer.records) is None:
        record = DnsMend(name=at, rdtype="TXT", value=f"v=STSv1; id={int(look.wall)}", replaces=tuple(texts))
        found = f"{at} has {len(texts)} records" if len(texts) > 1 else f"{at} has no id that can be used"
        return [
            Finding(
                check="mta_sts", subject=name, severity="warning", found=found, why=reasons.MTA_STS,
                mend="publish this record in place of what is there", records=(record,),
            )
        ]  # fmt: skip
    host = f"mta-sts.{name}"
    if await _host_addresses(look, host) is False:
        found = f"{at} is published, and its policy host {host} has no address"
        mend = f"let https://{host}/.well-known/mta-sts.txt answer with the policy, or remove the record"
        return [_sts(name, "warning", found, mend)]
    return [await _policy(look, name)]


async def _policy(look: Look, name: str) -> Finding:
    """The policy itself (RFC 8461 section 3.2): it can be had, and names the hosts that take the domain's mail."""
    try:
        policy = await look.fetch(name)
    except PolicyError as error:
        mend = "let it answer with a policy, or remove the record; senders take it for none, or go on with an old one"
        return _sts(name, "warning", f"the policy cannot be used: {error}", mend)
    mx = await look.dns.query(name, "MX")
    hosts = [host for _, host in mx.records if host != "."]
    named = allowed(policy.mx, hosts)
    missing = [host for host in hosts if host not in named]
    if missing and policy.mode != "none":
        severity: Severity = "error" if policy.mode == "enforce" else "warning"
        lines = ", ".join(f"mx: {host}" for host in missing)
        mend = f"add to the policy: {lines}; then change the id in _mta-sts.{name}"
        return _sts(name, severity, f"the policy (mode {policy.mode}) does not name {listed(missing)}", mend)
    names = f", names {listed(named)}" if named else ""
    return Finding(check="mta_sts", subject=name, severity="ok", found=f"published, mode {policy.mode}{names}")


def _sts(name: str, severity: Severity, found: str, mend: str) -> Finding:
    return Finding(check="mta_sts", subject=name, severity=severity, found=found, why=reasons.MTA_STS, mend=mend)


async def check_tls_rpt(look: Look, domain: SenderDomain) -> list[Finding]:
    """The domain's TLS-RPT record (RFC 8460 section 3); that there is none is fine."""
    name = domain.envelope
    at = f"_smtp._tls.{name}"
    answer, texts = await _published(look, at, "TLSRPTv1")
    if not texts:
        return [_none_published("tls_rpt", name, at, answer)]
    rua = (tags_of(texts[0]) or {}).get("rua", "")
    if len(texts) > 1 or not all(one.strip().startswith(("mailto:", "https:")) for one in rua.split(",")):
        value = f"v=TLSRPTv1; rua=mailto:tls-reports@{name}"
        record = DnsMend(name=at, rdtype="TXT", value=value, replaces=tuple(texts))
        found = f"{at} has {len(texts)} records" if len(texts) > 1 else f"{at} has no rua that can be used"
        return [
            Finding(
                check="tls_rpt", subject=name, severity="warning", found=found, why=reasons.TLS_RPT,
                mend="publish this record in place of what is there, with a mailbox that exists", records=(record,),
            )
        ]  # fmt: skip
    return [Finding(check="tls_rpt", subject=name, severity="ok", found=f"reports go to {rua}")]
