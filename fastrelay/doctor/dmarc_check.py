"""Check `dmarc`: a policy that can be read, what our mail aligns with, and where its reports go."""

from __future__ import annotations

from fastrelay.doctor import reasons
from fastrelay.doctor.dkim_check import signing_domains
from fastrelay.doctor.dmarc import REMOVED, DnsTrouble, Policy, Walk, aligned, is_policy, tree_walk
from fastrelay.doctor.findings import DnsMend, Finding, Severity, listed
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.lookups import Questions, tags_of, txt_values
from fastrelay.doctor.spf import check_host
from fastrelay.doctor.subjects import SenderDomain
from fastrelay.route.resolver import Answer


async def check_dmarc(look: Look, domain: SenderDomain) -> list[Finding]:
    """The policy of a sender domain, as receivers see it."""
    name = domain.name
    try:
        walk = await tree_walk(look.dns, name)
        if walk.policy is None:
            return [_several(name, walk) if walk.several else await _missing(look, name)]
        found = [_present(name, walk)]
        found += [_several(name, walk)] if any(at == name for at, _ in walk.several) else []
        found += _form(walk)
        found += await _alignment(look, domain, walk, walk.policy)
        found += await _reports(look, name, walk, walk.policy)
    except DnsTrouble as trouble:
        return [could_not_tell("dmarc", name, trouble.name, Answer("temporary", detail=trouble.detail))]
    return found


def _finding(subject: str, severity: Severity, found: str, why: str, mend: str, *records: DnsMend) -> Finding:
    return Finding(check="dmarc", subject=subject, severity=severity, found=found, why=why, mend=mend, records=records)


async def _missing(look: Look, name: str) -> Finding:
    astray = [text for text in txt_values(await look.dns.query(name, "TXT")) if is_policy(text)]
    value = astray[0] if astray else f"v=DMARC1; p=none; rua=mailto:dmarc-reports@{name}"
    record = DnsMend(name=f"_dmarc.{name}", rdtype="TXT", value=value)
    if astray:
        found = f"the DMARC record lies at {name}, where nobody looks"
        return _finding(name, "error", found, reasons.DMARC, "publish it where it belongs", record)
    mend = "publish this record, with a mailbox that exists; go on to p=quarantine once the reports are clean"
    return _finding(name, "error", "no DMARC policy, neither here nor above", reasons.DMARC, mend, record)


def _several(name: str, walk: Walk) -> Finding:
    at, texts = walk.several[0]
    record = DnsMend(name=f"_dmarc.{at}", rdtype="TXT", value=texts[0], replaces=tuple(texts))
    found = f"_dmarc.{at} has {len(texts)} DMARC records"
    return _finding(name, "error", found, reasons.DMARC_SEVERAL, "keep one of them, such as", record)


def _present(name: str, walk: Walk) -> Finding:
    assert walk.policy is not None
    asked = walk.policy.policy(for_subdomain=walk.at != name)
    where = "" if walk.at == name else f", from _dmarc.{walk.at}"
    testing = ", in test (t=y)" if walk.policy.testing else ""
    return Finding(check="dmarc", subject=name, severity="ok", found=f"p={asked}{testing}{where}")


def _form(walk: Walk) -> list[Finding]:
    """What is wrong, or out of date, in the text of the record."""
    policy = walk.policy
    assert policy is not None
    old = [tag for tag in REMOVED if tag in policy.tags]
    if not policy.problems and not old:
        return []
    record = DnsMend(name=f"_dmarc.{walk.at}", rdtype="TXT", value=_cleaned(policy), replaces=(policy.text,))
    if policy.problems:
        found = f"_dmarc.{walk.at}: {'; '.join(policy.problems)}"
        return [_finding(walk.at, "warning", found, reasons.DMARC_FORM, "publish this record in its place", record)]
    found = f"_dmarc.{walk.at} has {listed(old)}, which RFC 9989 took away"
    why = "newer receivers ignore them: pct=20 is p in full; for a test there is t=y"
    return [_finding(walk.at, "note", found, why, "publish this record in its place", record)]


def _cleaned(policy: Policy) -> str:
    """The record with what can be read, p right behind v."""
    known = {"p": ("none", "quarantine", "reject"), "sp": ("none", "quarantine", "reject"), "adkim": ("r", "s")}
    known |= {"np": known["p"], "aspf": ("r", "s"), "psd": ("y", "n", "u"), "t": ("y", "n")}
    tags = {"v": "DMARC1", "p": policy.policy(for_subdomain=False)}
    for tag, value in policy.tags.items():
        if tag in REMOVED or tag in tags or (tag in known and value.lower() not in known[tag]):
            continue
        if tag in ("rua", "ruf") and "mailto:" not in value.lower():
            continue
        tags[tag] = value
    if policy.tags.get("pct") == "0" and "t" not in tags:
        tags["t"] = "y"
    return "; ".join(f"{tag}={value}" for tag, value in tags.items())


def _with(policy: Policy, **changes: str) -> str:
    """The record with some tags set."""
    tags = {**(tags_of(_cleaned(policy)) or {}), **changes}
    return "; ".join(f"{tag}={value}" for tag, value in tags.items())


async def _alignment(look: Look, domain: SenderDomain, walk: Walk, policy: Policy) -> list[Finding]:
    """What our mail would show for the domain: the d= of its signatures, and the domain of its reverse-path."""
    name, dns = domain.name, look.dns
    signing = signing_domains(look.config, name)
    dkim = [one for one in signing if await aligned(dns, walk, name, one, policy.adkim)]
    spf_fits = await aligned(dns, walk, name, domain.envelope, policy.aspf)
    spf = spf_fits and await _spf_passes(look, domain)
    if dkim and spf:
        found = f"DKIM (d={dkim[0]}) and SPF (reverse-path in {domain.envelope}) align"
        return [Finding(check="dmarc", subject=name, severity="ok", found=found)]
    parts = [_dkim_words(dkim, signing, policy), _spf_words(spf_fits, spf, domain, policy)]
    changes = {}
    if not dkim and signing and policy.adkim == "s" and await _any_aligned(dns, walk, name, signing):
        changes["adkim"] = "r"
    if not spf_fits and policy.aspf == "s" and await aligned(dns, walk, name, domain.envelope, "r"):
        changes["aspf"] = "r"
    records = []
    if changes:
        value = _with(policy, **changes)
        records = [DnsMend(name=f"_dmarc.{walk.at}", rdtype="TXT", value=value, replaces=(policy.text,))]
    mend = "publish this record in place of the one that is there" if changes else _mend(name, bool(dkim), domain)
    severity: Severity = "warning" if dkim or spf else "error"
    why = reasons.DMARC_ONE_LEG if dkim or spf else reasons.DMARC_ALIGNED
    found = "; ".join(parts)
    commands = () if dkim or changes else (f"fastrelay dkim new {name}",)
    made = _finding(name, severity, found, why, mend, *records)
    return [made] if not commands else [_with_commands(made, commands)]


def _with_commands(finding: Finding, commands: tuple[str, ...]) -> Finding:
    import msgspec

    return msgspec.structs.replace(finding, commands=commands)


async def _any_aligned(dns: Questions, walk: Walk, name: str, others: list[str]) -> bool:
    return any([await aligned(dns, walk, name, one, "r") for one in others])


async def _spf_passes(look: Look, domain: SenderDomain) -> bool:
    """Whether every source passes; nobody to ask for counts as passing."""
    usable = [sender for sender in domain.senders if sender.usable]
    results = [await check_host(look.dns, one.address, domain.envelope, helo=one.ehlo) for one in usable]
    return all(result.outcome in ("pass", "temperror") for result in results)


def _dkim_words(dkim: list[str], signing: list[str], policy: Policy) -> str:
    if dkim:
        return f"DKIM aligns (d={dkim[0]})"
    if not signing:
        return "no key signs mail from this domain"
    strict = ", and adkim=s wants the same domain" if policy.adkim == "s" else ""
    return f"DKIM does not align (d={listed(signing)}{strict})"


def _spf_words(fits: bool, passes: bool, domain: SenderDomain, policy: Policy) -> str:
    if passes:
        return "SPF aligns"
    if fits:
        return "SPF would align, and does not pass"
    strict = ", and aspf=s wants the same domain" if policy.aspf == "s" else ""
    return f"SPF does not align (reverse-path in {domain.envelope}{strict})"


def _mend(name: str, dkim: bool, domain: SenderDomain) -> str:
    if not dkim:
        return f"sign mail from {name}: make a key with d={name} and name it in dkim.keys"
    if domain.envelope != name:
        return f"let compose.reverse_path end in {name} or a domain below it, or mend its SPF record"
    return f"do what SPF of {domain.envelope} asks for"


async def _reports(look: Look, name: str, walk: Walk, policy: Policy) -> list[Finding]:
    """Where aggregate reports go, and whether that domain agrees (RFC 9990)."""
    at = walk.at
    if not policy.reports_to:
        value = _with(policy, rua=f"mailto:dmarc-reports@{at}")
        record = DnsMend(name=f"_dmarc.{at}", rdtype="TXT", value=value, replaces=(policy.text,))
        mend = "publish this record in its place, with a mailbox that exists"
        return [_finding(name, "warning", "nobody gets its reports (no rua)", reasons.DMARC_RUA, mend, record)]
    found = []
    for mailbox, domain in policy.reports_to:
        if domain == at or (await tree_walk(look.dns, domain)).organization == walk.organization:
            continue
        consent = f"{at}._report._dmarc.{domain}"
        answer = await look.dns.query(consent, "TXT")
        if answer.status == "temporary":
            found.append(could_not_tell("dmarc", name, consent, answer))
        elif not any(text.replace(" ", "").startswith("v=DMARC1") for text in txt_values(answer)):
            record = DnsMend(name=consent, rdtype="TXT", value="v=DMARC1")
            words = f"reports go to {mailbox}, and {domain} does not say that it takes them"
            mend = f"let {domain} publish this record, or use a mailbox in {at}"
            found.append(_finding(name, "warning", words, reasons.DMARC_RUA_OUTSIDE, mend, record))
    return found
