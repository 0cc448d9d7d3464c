"""What `fastrelay dkim check` looks at: every key against the live DNS, and the records of keys that signed before.

The look at a key is the doctor's own (doctor/dkim_check.py); here is added until when a record must stay published.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.dkim.keys import Keyring, Slot
from fastrelay.dkim.make import record_name
from fastrelay.dkim.uses import needed_until, read_uses
from fastrelay.doctor.dkim_check import check_key
from fastrelay.doctor.findings import Finding, Report
from fastrelay.doctor.look import Look, could_not_tell
from fastrelay.doctor.lookups import Lookups, Questions, tags_of, txt_values
from fastrelay.doctor.subjects import Subjects
from fastrelay.route.resolver import Resolver
from fastrelay.tls.mta_sts import Policy, PolicyError

STILL_VERIFIED = "mail that it signed may be tried, and verified, until then; without the record it fails DMARC"


async def look_at_keys(
    config: Config, clock: Clock, domain: str | None = None, resolver: Questions | None = None
) -> Report:
    """Findings about the keys of a configuration (of one domain), and about those that its relay used before."""
    began = clock.monotonic()
    timeout = config.doctor.timeout_seconds
    resolver = resolver or Resolver(
        config.dns.nameservers, timeout=min(config.dns.timeout_seconds, timeout), tries=config.dns.tries
    )
    look = Look(config, Lookups(resolver, timeout), Subjects(), clock.wall(), timeout, fetch=_no_policy)
    keyring = Keyring(config.dkim)
    keyring.load()
    uses = read_uses(config.state_dir)
    found: list[Finding] = []
    known = set()
    for slot in keyring.slots:
        name = record_name(slot.config.selector, slot.config.domain)
        known.add(name)
        if domain is None or slot.config.domain == domain:
            found += await _configured(look, slot, uses.get(name))
    for name, used in sorted(uses.items()):
        subject = name.partition("._domainkey.")[2]
        if name not in known and (domain is None or subject == domain):
            found += await _removed(look, name, subject, used)
    await look.dns.close()
    found.sort(key=lambda finding: finding.subject)
    return Report(
        findings=found, finished=clock.wall(), took_seconds=clock.monotonic() - began, complete=domain is None
    )


async def _no_policy(domain: str) -> Policy:
    raise PolicyError("sts-policy-fetch-error", f"nobody asks for the policy of {domain} here")


async def _configured(look: Look, slot: Slot, used: float | None) -> list[Finding]:
    """A key of the configuration; of one that no longer signs, also until when it is needed."""
    found = await check_key(look, slot)
    if slot.config.sign:
        return found
    until = None if used is None else needed_until(used, look.config)
    needed = until is None or until > look.wall
    if needed:  # a record that is missing or wrong breaks mail on its way
        found = [msgspec.structs.replace(one, severity="error") if one.severity == "note" else one for one in found]
    else:
        found = [one for one in found if one.severity == "unknown"]
    name, subject = record_name(slot.config.selector, slot.config.domain), slot.config.domain
    return [*found, _retired(subject, name, until, needed, "take the key out of dkim.keys")]


def _retired(subject: str, name: str, until: float | None, needed: bool, then: str) -> Finding:
    if until is None:
        words = f"{name} no longer signs; when it last did is not known, for no relay noted it"
        mend = f"keep the record published for retry.expire and two days after it stopped to sign, then {then}"
        return Finding(check="dkim", subject=subject, severity="note", found=words, why=STILL_VERIFIED, mend=mend)
    when = f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"
    if needed:
        words = f"{name} no longer signs; its record must stay published until {when}"
        return Finding(
            check="dkim", subject=subject, severity="note", found=words, why=STILL_VERIFIED, mend=f"after that, {then}"
        )
    words = f"{name} no longer signs, and its record is not needed since {when}"
    return Finding(check="dkim", subject=subject, severity="ok", found=words)


async def _removed(look: Look, name: str, subject: str, used: float) -> list[Finding]:
    """A key that signed, and is not in the configuration any more; nothing is said once it is not needed."""
    until = needed_until(used, look.config)
    if until <= look.wall:
        return []
    answer = await look.dns.query(name, "TXT")
    if answer.status == "temporary":
        return [could_not_tell("dkim", subject, name, answer)]
    published = [text for text in txt_values(answer) if (tags_of(text) or {}).get("p")]
    found = [_retired(subject, name, until, True, "remove the record")]
    if not published:
        words = f"{name} is not published, and mail that it signed may still be on its way"
        mend = "publish its record again until then; with the key in dkim.keys, `fastrelay dkim dns` prints it"
        found.append(
            Finding(check="dkim", subject=subject, severity="error", found=words, why=STILL_VERIFIED, mend=mend)
        )
    return found
