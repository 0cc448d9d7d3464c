"""Rules of the configuration about DKIM, what is added to messages, message checks, `fastrelay doctor`.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastrelay.config.compose_rules import COMPOSE_RULES
from fastrelay.config.doctor_rules import check_doctor
from fastrelay.config.units import format_duration

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

_SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE)
# Fields that change on the way, or that the relay itself adds above the signature.
_NEVER_SIGNED = {"received", "return-path", "dkim-signature", "bcc", "resent-bcc", "authentication-results"}


def selector_fault(selector: str) -> bool:
    """Whether this cannot be a selector: labels of letters, digits and hyphens (RFC 6376 section 3.1)."""
    return not _SELECTOR.fullmatch(selector) or max(map(len, selector.split("."))) > 63


def _dkim_keys(config: Config, rules: Rules) -> None:
    if not rules.sound("dkim.keys"):
        return
    taken: dict[tuple[str, str], int] = {}
    for index, key in enumerate(config.dkim.keys):
        path = f"dkim.keys[{index}]"
        if selector_fault(key.selector):
            rules.problem(
                f"{path}.selector",
                f"{key.selector!r} cannot stand in the DNS as a selector",
                "write letters, digits and hyphens, such as fr2026",
            )
        place = key.domain, key.selector.lower()
        if place in taken:
            rules.problem(
                f"{path}.selector",
                f"{key.selector}._domainkey.{key.domain} is also the place of dkim.keys[{taken[place]}]",
                "give each key a selector of its own",
            )
        taken.setdefault(place, index)
        _dkim_alignment(config, rules, index)


def _dkim_alignment(config: Config, rules: Rules, index: int) -> None:
    """A signature counts for DMARC where d= and the From domain are within one organization: warn where none can."""
    keys = config.dkim.keys
    for place, pattern in enumerate(keys[index].senders):
        sender = pattern.removeprefix("*.")
        if sender != "*" and not any(_related(sender, key.domain) for key in keys if key.sign):
            rules.warn(
                f"dkim.keys[{index}].senders[{place}]",
                f"{pattern} is not within {keys[index].domain}, so its signature does not count for DMARC",
                f"add a key of {sender}",
            )


def _related(one: str, other: str) -> bool:
    """Whether one domain is the other, or within it."""
    return one == other or one.endswith("." + other) or other.endswith("." + one)


def _dkim_fields(config: Config, rules: Rules) -> None:
    if not rules.sound("dkim.sign_fields", "dkim.oversign_fields"):
        return
    dkim = config.dkim
    for name, listed in (("sign_fields", dkim.sign_fields), ("oversign_fields", dkim.oversign_fields)):
        for index, field in enumerate(listed):
            if field.lower() in _NEVER_SIGNED:
                rules.problem(
                    f"dkim.{name}[{index}]",
                    f"{field} fields are added or removed on the way, and the signature would break",
                    "remove it",
                )
    if "from" not in {field.lower() for field in (*dkim.sign_fields, *dkim.oversign_fields)}:
        rules.problem("dkim.sign_fields", "lacks From, which every signature must cover (RFC 6376)", "add From")


def _dkim_lifetime(config: Config, rules: Rules) -> None:
    lifetime = config.dkim.lifetime_seconds
    if lifetime is None or not rules.sound("dkim.lifetime", "retry"):
        return
    fairness = config.fairness
    of_classes = [one.expire_seconds or 0 for one in (fairness.bulk, fairness.normal, fairness.transactional)]
    longest = max(config.retry.expire_seconds, *of_classes)
    if lifetime < longest:
        rules.warn(
            "dkim.lifetime",
            f"is {format_duration(lifetime)}, but mail may be tried for {format_duration(longest)}; its signature "
            "would be out of date",
            f"write {format_duration(longest + 86400)} or more, or leave it out",
        )


DKIM_RULES: list[Callable[[Config, Rules], None]] = [
    _dkim_keys,
    _dkim_fields,
    _dkim_lifetime,
    *COMPOSE_RULES,
    check_doctor,
]
