"""DMARC: reading a policy record, and finding the one for a domain by the tree walk (RFC 9989, which obsoletes 7489).

The walk asks _dmarc.DOMAIN, then each parent, and takes the place of the public suffix list; `psd` stops it. A name
with several records counts as one without. `pct`, `rf` and `ri` are no tags any more; a receiver that still follows RFC
7489 knows neither `psd`, `np` nor `t`, and looks only at the domain and at its organizational domain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fastrelay.doctor.lookups import Questions, tags_of, txt_values

MAX_QUERIES = 8  # RFC 9989 section 4.10
POLICIES = ("none", "quarantine", "reject")
REMOVED = ("pct", "rf", "ri")

_VERSION = re.compile(r"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_REPORT = re.compile(r"mailto:([^@\s,!]+)@([^@\s,!?]+)", re.IGNORECASE)


class DnsTrouble(Exception):
    """The DNS did not say: `name`, `detail`."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Policy:
    """A DMARC record. problems: what a receiver ignores in it, clauses."""

    text: str
    tags: dict[str, str]
    problems: tuple[str, ...] = ()

    @property
    def adkim(self) -> str:
        return self._one_of("adkim", ("r", "s"), "r")

    @property
    def aspf(self) -> str:
        return self._one_of("aspf", ("r", "s"), "r")

    @property
    def psd(self) -> str:
        return self._one_of("psd", ("y", "n", "u"), "u")

    @property
    def testing(self) -> bool:
        return self._one_of("t", ("y", "n"), "n") == "y"

    def policy(self, for_subdomain: bool) -> str:
        """What is asked for: `p`, or `sp` for a domain below the one that has the record."""
        if for_subdomain and self.tags.get("sp", "").lower() in POLICIES:
            return self.tags["sp"].lower()
        return self._one_of("p", POLICIES, "none")

    @property
    def reports_to(self) -> list[tuple[str, str]]:
        """(mailbox, its domain) of rua."""
        found = _REPORT.findall(self.tags.get("rua", ""))
        return [(f"{local}@{domain}", domain.lower().rstrip(".")) for local, domain in found]

    def _one_of(self, tag: str, known: tuple[str, ...], default: str) -> str:
        value = self.tags.get(tag, default).lower()
        return value if value in known else default


def is_policy(text: str) -> bool:
    """Whether a TXT record is meant as a policy: anything else at the name is passed over."""
    return _VERSION.match(text) is not None


def read_policy(text: str) -> Policy:
    """The policy in a record for which is_policy holds."""
    tags = tags_of(text)
    if tags is None:
        parts = [part for part in text.split(";") if "=" in part]
        return Policy(text, tags_of(";".join(parts)) or {}, ("a part of it has no `=`",))
    problems = []
    for tag in ("p", "sp", "np"):
        if tag in tags and tags[tag].lower() not in POLICIES:
            problems.append(f"{tag}={tags[tag]} is no policy (none, quarantine or reject)")
    for tag, known in (("adkim", "rs"), ("aspf", "rs"), ("psd", "ynu"), ("t", "yn")):
        if tag in tags and (len(tags[tag]) != 1 or tags[tag].lower() not in known):
            problems.append(f"{tag}={tags[tag]} is not one of {', '.join(known)}")
    if "p" not in tags:
        problems.append("p is missing, which counts as p=none, or as no policy at all with older receivers")
    for tag in ("rua", "ruf"):
        if tag in tags and not _REPORT.search(tags[tag]):
            problems.append(f"{tag}={tags[tag]} names no mailto: address")
    return Policy(text, tags, tuple(problems))


@dataclass(slots=True)
class Walk:
    """What the tree walk from a domain found.

    organization  the organizational domain
    policy, at    the policy that holds for the domain, and the name that has it; None: no policy
    several       (name, texts) of names with several records, which count as none
    """

    organization: str
    policy: Policy | None = None
    at: str = ""
    several: list[tuple[str, list[str]]] = field(default_factory=list)


def names_to_ask(domain: str) -> list[str]:
    """The domain and its parents in the order of the walk: itself, then at most seven labels, down to one."""
    labels = domain.split(".")
    parents = [labels[at:] for at in range(1, len(labels))]
    return [".".join(one) for one in [labels, *(one for one in parents if len(one) < MAX_QUERIES)]]


async def tree_walk(dns: Questions, domain: str) -> Walk:
    """Find the policy and the organizational domain of a domain. Raises DnsTrouble."""
    walk = Walk(domain)
    found: dict[str, Policy] = {}
    for name in names_to_ask(domain):
        answer = await dns.query(f"_dmarc.{name}", "TXT")
        if answer.status == "temporary":
            raise DnsTrouble(f"_dmarc.{name}", answer.detail)
        texts = [text for text in txt_values(answer) if is_policy(text)]
        if len(texts) > 1:
            walk.several.append((name, texts))
        if len(texts) != 1:
            continue
        found[name] = read_policy(texts[0])
        if found[name].psd != "u":  # y or n: this is the border
            break
    walk.organization = _organization(domain, found)
    for name in (domain, walk.organization, *(name for name, policy in found.items() if policy.psd == "y")):
        if name in found:
            walk.policy, walk.at = found[name], name
            break
    return walk


def _organization(domain: str, found: dict[str, Policy]) -> str:
    """RFC 9989 section 4.10.2, from the records of the walk, the longest name first."""
    for name, policy in found.items():
        if policy.psd == "n":
            return name
        if policy.psd == "y" and name != domain:
            return ".".join(domain.split(".")[-len(name.split(".")) - 1 :])
    return min(found, key=lambda name: name.count("."), default=domain)


async def aligned(dns: Questions, walk: Walk, domain: str, other: str, mode: str) -> bool:
    """Whether an authenticated domain fits the From domain. mode: "s" the same, "r" the same organization."""
    if domain == other:
        return True
    if mode == "s":
        return False
    return (await tree_walk(dns, other)).organization == walk.organization
