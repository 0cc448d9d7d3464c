"""Check `spf`: each source's address against the SPF record of the domains it sends for; and `helo_spf`.

The mend is the whole record, made from the one that is there: the addresses that do not pass come first in it, so that
they match before anything that asks the DNS; terms that cannot be read are left out; several records become one. Where
that would be longer than MAX_RECORD, the addresses go into records of their own, which the domain's includes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from fastrelay.doctor import reasons
from fastrelay.doctor.findings import DnsMend, Finding, listed
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.lookups import txt_values
from fastrelay.doctor.spf import SpfError, SpfResult, check_host, parse
from fastrelay.doctor.subjects import Sender, SenderDomain

MAX_RECORD = 450  # RFC 7208 section 3.4: an answer of 512 octets passes everywhere
MANY_LOOKUPS = 8

Judged = list[tuple[Sender, SpfResult]]


async def check_spf(look: Look, domain: SenderDomain) -> list[Finding]:
    """Every address that sends for a domain, in as few findings as the mends allow."""
    senders = [sender for sender in domain.senders if sender.usable]
    name = domain.envelope
    if not senders:
        found = "could not tell: no source that sends for it has an address that the outside can see"
        return [Finding(check="spf", subject=name, severity="unknown", found=found)]
    judged: Judged = [
        (sender, await check_host(look.dns, sender.address, name, helo=sender.ehlo)) for sender in senders
    ]
    answer = await look.dns.query(name, "TXT")
    records = [text for text in txt_values(answer) if _is_spf(text)]
    unknown = [(sender, result) for sender, result in judged if result.outcome == "temperror"]
    if unknown:
        return [_unknown(name, unknown)]
    failing = [(sender, result) for sender, result in judged if result.outcome != "pass"]
    if failing:
        return [_failing(name, records, failing)]
    return [_passing(name, judged), *_advice(name, records, judged)]


def _is_spf(text: str) -> bool:
    return text[:6].lower() == "v=spf1" and text[6:7] in ("", " ")


def _unknown(name: str, judged: Judged) -> Finding:
    return Finding(
        check="spf",
        subject=name,
        severity="unknown",
        found=f"could not tell for {_addresses(judged)}: {judged[0][1].words}",
        mend="look again later; receivers defer mail or see no SPF as long as the DNS does not answer",
    )


def _passing(name: str, judged: Judged) -> Finding:
    terms = dict.fromkeys(result.term for _, result in judged if result.term)
    return Finding(
        check="spf", subject=name, severity="ok", found=f"{_addresses(judged)} pass by {listed(list(terms), 3)}"
    )


def _failing(name: str, records: list[str], judged: Judged) -> Finding:
    """One error, with the record that lets all of them pass."""
    outcomes = {result.outcome for _, result in judged}
    first = judged[0][1]
    why = reasons.SPF
    if outcomes == {"none"}:
        found, mend = (
            "no SPF record",
            "publish this record; add what else sends for the domain, such as its mailbox host",
        )
    elif first.outcome == "permerror":
        found, why = f"the record is in error (permerror): {first.words}", reasons.SPF_PERMERROR
        mend = "publish this record in place of what is there, and look again"
        if "terms that ask the DNS" in first.words:
            why = reasons.SPF_LOOKUPS
            mend += (
                "; then replace includes by the addresses behind them, so that the rest of the record counts as well"
            )
    else:
        verb = "does" if len(judged) == 1 else "do"
        found = f"{_addresses(judged)} {verb} not pass: {first.outcome}, by {first.words}"
        mend = "publish this record in place of the one that is there"
    made = mended(name, records, [sender.address for sender, _ in judged])
    return Finding(check="spf", subject=name, severity="error", found=found, why=why, mend=mend, records=tuple(made))


def _advice(name: str, records: list[str], judged: Judged) -> list[Finding]:
    """What is unwise in a record that lets us pass."""
    found = []
    terms = records[0].lower().split() if records else []
    if "+all" in terms or "all" in terms:
        by_all = [sender.address for sender, result in judged if result.term.lower() in ("+all", "all")]
        found.append(
            Finding(
                check="spf",
                subject=name,
                severity="warning",
                found="the record ends in +all",
                why=reasons.SPF_OPEN,
                mend="publish this record, once every host that sends for the domain is in it",
                records=tuple(mended(name, records, by_all)),
            )
        )
    if any(term.lstrip("+-~?").partition(":")[0] == "ptr" for term in terms):
        mend = "leave it out; name the addresses (ip4, ip6)"
        found.append(
            Finding(check="spf", subject=name, severity="note", found="ptr is used", why=reasons.SPF_PTR, mend=mend)
        )
    lookups = max(result.lookups for _, result in judged)
    if lookups >= MANY_LOOKUPS:
        words = f"{lookups} terms ask the DNS before our addresses match; at most 10 may"
        mend = f"move the ip4 and ip6 terms of our addresses in front of the includes of {name}"
        found.append(
            Finding(check="spf", subject=name, severity="note", found=words, why=reasons.SPF_LOOKUPS, mend=mend)
        )
    return found


def mended(name: str, records: Sequence[str], addresses: Iterable[str]) -> list[DnsMend]:
    """The records that let the addresses pass, made from the SPF records that are there."""
    ours = address_terms(addresses)
    kept, end = _kept(name, records)
    value = " ".join(["v=spf1", *ours, *kept, *end])
    old = tuple(records)
    if len(value) <= MAX_RECORD or not ours:
        return [DnsMend(name=name, rdtype="TXT", value=value, replaces=old)]
    parts = list(_parts(ours))
    made = [
        DnsMend(name=f"_spf{at}.{name}", rdtype="TXT", value=" ".join(["v=spf1", *part, "-all"]))
        for at, part in enumerate(parts, 1)
    ]
    includes = [f"include:_spf{at}.{name}" for at in range(1, len(parts) + 1)]
    return [*made, DnsMend(name=name, rdtype="TXT", value=" ".join(["v=spf1", *includes, *kept, *end]), replaces=old)]


def _kept(name: str, records: Sequence[str]) -> tuple[list[str], list[str]]:
    """Terms of the records that can be read, and how the new record ends."""
    kept: list[str] = []
    end = ["~all"]
    redirect = ""
    for record in records:
        for word in record.split()[1:]:
            try:
                read = parse(f"v=spf1 {word}", name)
            except SpfError:
                continue
            if any(term.name == "all" for term in read.terms):
                end = [word if word[0] in "-~?" else "~all"]
            elif read.redirect:
                redirect = word
            elif word not in kept and not (word.lower().startswith("exp=") and any("exp=" in one for one in kept)):
                kept.append(word)
    if redirect and not any("all" in record.lower().split() or _has_all(record) for record in records):
        end = [redirect]
    return kept, end


def _has_all(record: str) -> bool:
    return any(word.lower().lstrip("+-~?") == "all" for word in record.split()[1:])


def _parts(terms: Sequence[str]) -> Iterable[list[str]]:
    """Terms in groups that make a record of at most MAX_RECORD octets."""
    part: list[str] = []
    size = 0
    for term in terms:
        if part and size + len(term) + 1 > MAX_RECORD - len("v=spf1 -all"):
            yield part
            part, size = [], 0
        part.append(term)
        size += len(term) + 1
    if part:
        yield part


def address_terms(addresses: Iterable[str]) -> list[str]:
    """`ip4:` and `ip6:` terms; neighbours become a network where that names no other address."""
    made = [ipaddress.ip_address(address) for address in dict.fromkeys(addresses)]
    four = ipaddress.collapse_addresses(ipaddress.IPv4Network(one) for one in made if one.version == 4)
    six = ipaddress.collapse_addresses(ipaddress.IPv6Network(one) for one in made if one.version == 6)
    return [*(f"ip4:{_shown(net)}" for net in four), *(f"ip6:{_shown(net)}" for net in six)]


def _shown(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)


def _addresses(judged: Judged) -> str:
    return listed([sender.address for sender, _ in judged])


async def check_helo_spf(look: Look, sender: Sender) -> list[Finding]:
    """SPF of the EHLO name, which counts for mail without a reverse-path."""
    if not sender.usable:
        return []
    result = await check_host(look.dns, sender.address, sender.ehlo, helo=sender.ehlo)
    subject = sender.label
    if result.outcome == "pass":
        found = f"{sender.address} passes for {sender.ehlo} by {result.term}"
        return [Finding(check="helo_spf", subject=subject, severity="ok", found=found)]
    answer = await look.dns.query(sender.ehlo, "TXT")
    if result.outcome == "temperror":
        return [could_not_tell("helo_spf", subject, f"SPF of {sender.ehlo}", answer)]
    records = [text for text in txt_values(answer) if _is_spf(text)]
    same = [one.address for one in look.subjects.senders if one.ehlo == sender.ehlo and one.usable]
    made = mended(sender.ehlo, records, same)
    if not records:  # nothing else sends by this name
        made = [DnsMend(name=one.name, rdtype="TXT", value=one.value.replace("~all", "-all")) for one in made]
    none = result.outcome == "none"
    return [
        Finding(
            check="helo_spf",
            subject=subject,
            severity="note" if none else "warning",
            found=f"{sender.ehlo} has no SPF record" if none else f"{result.outcome} for {sender.ehlo}: {result.words}",
            why=reasons.HELO_SPF,
            mend="publish this record",
            records=tuple(made),
        )
    ]
