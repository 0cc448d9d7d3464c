"""Checks of a source's names: `address`, `ptr`, `ehlo`, and `block_lists`."""

from __future__ import annotations

import asyncio
import ipaddress
import re

from fastrelay.doctor import reasons
from fastrelay.doctor.findings import DnsMend, Finding, listed
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.subjects import SYSTEM, Sender
from fastrelay.route.names import is_public
from fastrelay.route.resolver import Answer

MAX_POINTERS = 10  # PTR names that are confirmed; receivers look at few (RFC 7208 section 4.6.4 has the same bound)

_GENERIC = re.compile(r"dyn|dhcp|dial|dsl|pool|ppp|cable|client|customer|broadband|static|rev\b", re.IGNORECASE)


async def check_address(look: Look, sender: Sender) -> list[Finding]:
    """Whether the source's address is one that the outside sees."""
    public = is_public(ipaddress.ip_address(sender.address))
    where = sender.address if sender.address == sender.local else f"{sender.address} (here {sender.local})"
    if public:
        return [Finding(check="address", subject=sender.label, severity="ok", found=f"sends from {where}")]
    if look.config.delivery.allow_private_hosts:
        found = f"{where} is not a public address; delivery.allow_private_hosts says that this is a private network"
        return [Finding(check="address", subject=sender.label, severity="note", found=found)]
    key = "sources" if sender.name == SYSTEM else f"source {sender.name!r}"
    found = f"{where} is not a public address, so nothing else of this source can be checked"
    mend = f"write the address that the outside sees as public_address of {key}"
    if sender.name == SYSTEM:
        found = f"without `sources` the system sends from {sender.address}, which is not a public address"
        mend = f"name a source in the configuration: {{name: a, address: {sender.address}, public_address: …}}"
    return [
        Finding(check="address", subject=sender.label, severity="error", found=found, why=reasons.ADDRESS, mend=mend)
    ]


async def check_ptr(look: Look, sender: Sender) -> list[Finding]:
    """Reverse DNS of the address, and that a name of it resolves back."""
    if not sender.usable:
        return []
    subject = sender.label
    answer = await look.dns.pointers(sender.address)
    if answer.status == "temporary":
        return [could_not_tell("ptr", subject, f"PTR of {sender.address}", answer)]
    names = [str(name) for name in answer.records[:MAX_POINTERS]]
    if not names:
        return [
            _ptr_error(
                sender, f"{sender.address} has no PTR record", forward_too=await _resolves(look, sender) is False
            )
        ]
    forward = await asyncio.gather(*(look.dns.addresses(name, sender.version) for name in names))
    confirmed = [name for name, found in zip(names, forward, strict=True) if _has(found, sender.address)]
    if confirmed:
        return [_ptr_fine(sender, names, confirmed)]
    if any(found.status == "temporary" for found in forward):
        broken = next(found for found in forward if found.status == "temporary")
        return [could_not_tell("ptr", subject, f"the address of {listed(names)}", broken)]
    return [_forward_error(sender, names[0])]


def _ptr_fine(sender: Sender, names: list[str], confirmed: list[str]) -> Finding:
    found = f"{sender.address} ↔ {confirmed[0]}"
    octets = sender.address.replace(":", ".").split(".")
    generic = _GENERIC.search(confirmed[0]) and sum(octet in confirmed[0] for octet in octets) >= 3
    if generic and confirmed[0] != sender.ehlo:
        return Finding(
            check="ptr",
            subject=sender.label,
            severity="warning",
            found=f"{found}, a name that looks like a home connection",
            why=reasons.PTR_GENERIC,
            mend="ask whoever runs the network of the address to set",
            records=(_pointer(sender, sender.ehlo, tuple(f"{name}." for name in names)),),
        )
    return Finding(check="ptr", subject=sender.label, severity="ok", found=found)


def _ptr_error(sender: Sender, found: str, forward_too: bool) -> Finding:
    records = [_pointer(sender, sender.ehlo)]
    if forward_too:
        records.append(_forward(sender, sender.ehlo))
    return Finding(
        check="ptr",
        subject=sender.label,
        severity="error",
        found=found,
        why=reasons.PTR,
        mend="ask whoever runs the network of the address (mostly a form of the hosting company) to set",
        records=tuple(records),
    )


def _forward_error(sender: Sender, name: str) -> Finding:
    return Finding(
        check="ptr",
        subject=sender.label,
        severity="error",
        found=f"{sender.address} → {name}, which does not resolve back to {sender.address}",
        why=reasons.PTR,
        mend="publish this record",
        records=(_forward(sender, name),),
    )


async def _resolves(look: Look, sender: Sender) -> bool:
    return _has(await look.dns.addresses(sender.ehlo, sender.version), sender.address)


def _pointer(sender: Sender, name: str, replaces: tuple[str, ...] = ()) -> DnsMend:
    reverse = ipaddress.ip_address(sender.address).reverse_pointer
    return DnsMend(name=reverse, rdtype="PTR", value=f"{name}.", replaces=replaces)


def _forward(sender: Sender, name: str) -> DnsMend:
    return DnsMend(name=name, rdtype="A" if sender.version == 4 else "AAAA", value=sender.address)


def _has(answer: Answer, address: str) -> bool:
    wanted = ipaddress.ip_address(address)
    return any(ipaddress.ip_address(found) == wanted for found in answer.records)


async def check_ehlo(look: Look, sender: Sender) -> list[Finding]:
    """The EHLO name: resolves, to this address, and is what the PTR record says."""
    if not sender.usable:
        return []
    subject = sender.label
    answer, pointers = await asyncio.gather(
        look.dns.addresses(sender.ehlo, sender.version), look.dns.pointers(sender.address)
    )
    if answer.status == "temporary":
        return [could_not_tell("ehlo", subject, f"the address of {sender.ehlo}", answer)]
    if not _has(answer, sender.address):
        others = f" (it has {listed(answer.records)})" if answer.records else ""
        return [
            Finding(
                check="ehlo",
                subject=subject,
                severity="warning" if answer.records else "error",
                found=f"the EHLO name {sender.ehlo} does not resolve to {sender.address}{others}",
                why=reasons.EHLO,
                mend="publish this record, or give the source a name of its own with `ehlo`",
                records=(_forward(sender, sender.ehlo),),
            )
        ]
    names = [str(name) for name in pointers.records]
    if names and sender.ehlo not in names:
        found = f"the EHLO name {sender.ehlo} is not the PTR name {listed(names)}"
        mend = f"set the PTR record to {sender.ehlo}, or `ehlo: {names[0]}` for this source"
        record = _pointer(sender, sender.ehlo, tuple(f"{name}." for name in names))
        return [
            Finding(
                check="ehlo", subject=subject, severity="note", found=found, why=reasons.EHLO_PTR, mend=mend,
                records=(record,),
            )
        ]  # fmt: skip
    found = f"{sender.ehlo} resolves to {sender.address}"
    return [Finding(check="ehlo", subject=subject, severity="ok", found=found)]


async def check_block_lists(look: Look, sender: Sender) -> list[Finding]:
    """The address in the configured block lists (RFC 5782)."""
    if not sender.usable:
        return []
    lists = look.config.doctor.block_lists
    found = await asyncio.gather(*(_listed(look, sender, one) for one in lists))
    return list(found)


async def _listed(look: Look, sender: Sender, block_list: str) -> Finding:
    subject = sender.label
    reverse = ipaddress.ip_address(sender.address).reverse_pointer
    name = reverse.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa") + f".{block_list}"
    answer = await look.dns.query(name, "A")
    if answer.status == "temporary":
        return could_not_tell("block_lists", subject, name, answer)
    codes = [str(code) for code in answer.records]
    refused = [code for code in codes if code.startswith("127.255.255.")]
    if refused:
        return Finding(
            check="block_lists",
            subject=subject,
            severity="unknown",
            found=f"could not tell: {block_list} refuses to answer this resolver ({refused[0]})",
            why=reasons.BLOCK_LIST_REFUSED,
            mend="ask from a resolver of your own (dns.nameservers), not a public one, or get a key from the list",
        )
    strange = [code for code in codes if not code.startswith("127.")]
    if strange:
        return Finding(
            check="block_lists",
            subject=subject,
            severity="unknown",
            found=f"could not tell: {block_list} answers {listed(strange)}, which no block list does",
            mend="check its name in doctor.block_lists; a list that was closed may answer for every address",
        )
    if codes:
        texts = await look.dns.query(name, "TXT")
        words = _words(texts)
        return Finding(
            check="block_lists",
            subject=subject,
            severity="error",
            found=f"{sender.address} is listed by {block_list} ({listed(codes)}){words}",
            why=reasons.BLOCK_LIST,
            mend="stop what got it listed, then ask the list for removal; until then take the source out of its pool",
        )
    return Finding(check="block_lists", subject=subject, severity="ok", found=f"not listed by {block_list}")


def _words(answer: Answer) -> str:
    from fastrelay.doctor.lookups import txt_values

    texts = txt_values(answer)
    return f": {texts[0][:200]}" if texts else ""
