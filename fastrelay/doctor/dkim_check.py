"""Check `dkim`: each configured key is published and equal to ours, a signature made with it verifies through the DNS,
and every sender domain has a key that signs its mail.

The verifier is dkimpy, an implementation that shares nothing with ours; it sees the record that our look-up found.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from email.utils import formatdate

import msgspec

from fastrelay.config.schema import Config
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring, PrivateKey, Slot
from fastrelay.dkim.sign import Signer, patterns
from fastrelay.doctor import reasons
from fastrelay.doctor.findings import DnsMend, Finding, Severity
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.lookups import tags_of, txt_values
from fastrelay.doctor.subjects import SenderDomain, pattern_matches

GOOD_BITS = 2048
BODY = b"A message that is signed and verified, and never sent.\r\n"


def signing_domains(config: Config, domain: str) -> list[str]:
    """The d= of the signatures that mail from a domain gets, of any tenant."""
    fitting = [key for key in config.dkim.keys if key.sign and fits(key, domain)]
    return list(dict.fromkeys(key.domain for key in fitting))


def fits(key: DkimKey, domain: str) -> bool:
    """Whether a key is for mail from a domain."""
    return any(pattern_matches(pattern, domain) for pattern in patterns(key))


async def check_dkim(look: Look, domain: SenderDomain) -> list[Finding]:
    """Whether mail from a sender domain gets a signature at all."""
    name = domain.name
    if signing_domains(look.config, name):
        return []  # the keys have findings of their own
    return [
        Finding(
            check="dkim",
            subject=name,
            severity="error",
            found=f"no key signs mail from {name}",
            why=reasons.DKIM,
            mend="make a key, publish the record that this prints, and name the key in dkim.keys",
            commands=(f"fastrelay dkim new {name}",),
        )
    ]


async def check_key(look: Look, slot: Slot) -> list[Finding]:
    """One configured key: at hand, published, equal, and verified by somebody else's code."""
    one, subject = slot.config, slot.config.domain
    where = f"{one.selector}._domainkey.{one.domain}"
    key = slot.key
    if key is None:
        trouble = slot.trouble
        if os.path.exists(one.key) and not os.access(one.key, os.R_OK):
            hidden = f"could not tell: {one.key} cannot be read by this user"
            return [_finding(subject, "unknown", hidden, "", "run the doctor as the relay's user, or as root")]
        return [
            _finding(
                subject,
                "error" if one.sign else "warning",
                f"{one.key} {trouble.problem if trouble else 'cannot be read'}",
                "mail that it should sign waits (no_dkim_key), or leaves as dkim.missing_key says",
                trouble.mend if trouble else "",
            )
        ]
    answer = await look.dns.query(where, "TXT")
    if answer.status == "temporary":
        return [could_not_tell("dkim", subject, where, answer)]
    texts = txt_values(answer)
    fault = _fault(where, texts, key)
    if fault is not None:
        severity: Severity = ("warning" if _spare(look.config, slot) else "error") if one.sign else "note"
        record = DnsMend(name=where, rdtype="TXT", value=key.record, replaces=tuple(texts))
        mend = "publish this record in place of what is there" if texts else "publish this record"
        return [_finding(subject, severity, fault, reasons.DKIM_KEY if texts else reasons.DKIM, mend, record)]
    found = _advice(where, texts[0], key, subject)
    if one.sign:
        verdict = await asyncio.to_thread(verify, look.config.dkim, one, texts[0], look.wall)
        if verdict:
            mend = "please report this: the record is right, and the signature is not"
            return [*found, _finding(subject, "error", f"{where}: {verdict}", reasons.DKIM_KEY, mend)]
    signs = "signs, and verifies" if one.sign else "published still, no longer signs"
    good = f"selector {one.selector} ({key.algorithm} {key.bits} bits) {signs}"
    return [Finding(check="dkim", subject=subject, severity="ok", found=good), *found]


def _spare(config: Config, slot: Slot) -> bool:
    """Whether this is the Ed25519 half of a double signature: few receivers verify it yet, all verify the other."""
    if slot.key is None or slot.key.algorithm != "ed25519":
        return False
    ring = Keyring(config.dkim)
    ring.load()
    others = [one for one in ring.slots if one.config.domain == slot.config.domain and one.config.sign]
    return any(one.key is not None and one.key.algorithm == "rsa" for one in others)


def _finding(subject: str, severity: Severity, found: str, why: str, mend: str, *records: DnsMend) -> Finding:
    return Finding(check="dkim", subject=subject, severity=severity, found=found, why=why, mend=mend, records=records)


def _fault(where: str, texts: list[str], key: PrivateKey) -> str | None:
    """What is wrong with the records at the name of a key; None: they are right."""
    if not texts:
        return f"{where} is not published"
    if len(texts) > 1:
        return f"{where} has {len(texts)} records, of which receivers take any"
    tags = tags_of(texts[0])
    if tags is None or "p" not in tags or tags.get("v", "DKIM1") != "DKIM1":
        return f"{where} is no DKIM record"
    if not tags["p"]:
        return f"{where} is revoked (p= is empty)"
    if tags.get("k", "rsa").lower() != key.algorithm:
        return f"{where} says k={tags.get('k', 'rsa')}, and ours is an {key.algorithm} key"
    try:
        published = base64.b64decode("".join(tags["p"].split()), validate=True)
    except (binascii.Error, ValueError):
        return f"{where} has a p= that is not base64"
    if published != key.public:
        return f"{where} publishes another key than ours"
    if "h" in tags and "sha256" not in [one.strip().lower() for one in tags["h"].split(":")]:
        return f"{where} has h={tags['h']}, which leaves SHA-256 out"
    if "s" in tags and not {"*", "email"} & {one.strip().lower() for one in tags["s"].split(":")}:
        return f"{where} has s={tags['s']}, which leaves mail out"
    return None


def _advice(where: str, text: str, key: PrivateKey, subject: str) -> list[Finding]:
    found = []
    flags = [one.strip().lower() for one in (tags_of(text) or {}).get("t", "").split(":")]
    if "y" in flags:
        record = DnsMend(name=where, rdtype="TXT", value=key.record, replaces=(text,))
        words = f"{where} is in test (t=y)"
        found.append(_finding(subject, "warning", words, reasons.DKIM_TEST, "publish this record in its place", record))
    if key.algorithm == "rsa" and key.bits < GOOD_BITS:
        words = f"{where} is an RSA key of {key.bits} bits"
        mend = "make a new key of 2048 bits with a new selector, publish it, and sign with both for a while"
        made = _finding(subject, "warning", words, reasons.DKIM_SIZE, mend)
        found.append(msgspec.structs.replace(made, commands=(f"fastrelay dkim new {subject}",)))
    return found


def verify(dkim_config: Dkim, key: DkimKey, record: str, wall: float) -> str:
    """Sign a probe with one key and let dkimpy verify it against the record; "" if it does, else words."""
    import dkim  # type: ignore[import-untyped]

    from fastrelay._core.canon import body_hash

    alone = msgspec.structs.replace(key, sign=True, senders=[], tenants=[])
    keyring = Keyring(msgspec.structs.replace(dkim_config, keys=[alone]))
    keyring.load()
    signer = Signer(keyring, msgspec.structs.replace(dkim_config, keys=[alone]))
    header = (
        f"From: doctor@{key.domain}\r\nTo: doctor@{key.domain}\r\nSubject: a probe\r\n"
        f"Date: {formatdate(wall)}\r\nMessage-ID: <probe@{key.domain}>\r\n"
    ).encode()
    content = header + b"\r\n" + BODY
    hashed = body_hash(content, len(content) - len(BODY), signer.relaxed_body)
    fields = signer.sign(header, hashed, key.domain.encode(), b"", wall)
    published = record.encode("ascii", "replace")
    try:
        good = dkim.verify(fields + content, dnsfunc=lambda name, timeout=5: published)
    except dkim.DKIMException as error:
        return f"a signature does not verify with dkimpy ({error})"
    return "" if good else "a signature does not verify with dkimpy"
