"""SPF: check_host of RFC 7208, all of it, over the doctor's look-ups.

Why its own: the doctor must say which term decided, what it counted, and where a record breaks, and asks the configured
nameservers, concurrently; pyspf (the test oracle) blocks, keeps its resolver in a global, and does not import where
warnings are errors.

Known faults: `exp=` is parsed and not fetched (nobody reads the explanation here); the time limit is the caller's.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from typing import Literal

from fastrelay.doctor.lookups import Questions, txt_octets
from fastrelay.route.resolver import Answer

Outcome = Literal["none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 7208 section 4.6.4
MAX_LOOKUPS = 10
MAX_VOID = 2
MAX_HOSTS = 10
MAX_NAME = 253

_QUALIFIERS: dict[str, Outcome] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_MECHANISM = re.compile(r"(?P<sign>[-+~?]?)(?P<name>[a-z][a-z0-9_.-]*)(?P<rest>.*)\Z", re.IGNORECASE | re.DOTALL)
_MODIFIER = re.compile(r"(?P<name>[a-z][a-z0-9_.-]*)=(?P<value>.*)\Z", re.IGNORECASE | re.DOTALL)
_DUAL_CIDR = re.compile(r"(?P<spec>.*?)(?:/(?P<four>0|[1-9][0-9]?))?(?://(?P<six>0|[1-9][0-9]{0,2}))?\Z", re.DOTALL)
_MACRO = re.compile(
    r"%(?:\{(?P<letter>[a-z])(?P<digits>[0-9]*)(?P<reverse>r?)(?P<cut>[-.+,/_=]*)\}|(?P<sign>[%_-]))", re.I
)
_TOP_LABEL = re.compile(r"\.(?:[a-z0-9-]*[a-z][a-z0-9-]*|[a-z0-9]+-[a-z0-9-]*)\.?\Z", re.IGNORECASE)


class SpfError(Exception):
    """A record that cannot be used (permerror), or a DNS that does not answer (temperror).

    domain  whose record it is; term  the term at fault, "" if it is the record as a whole
    """

    def __init__(self, outcome: Outcome, words: str, domain: str = "", term: str = "") -> None:
        super().__init__(words)
        self.outcome = outcome
        self.words = words
        self.domain = domain
        self.term = term


@dataclass(frozen=True, slots=True)
class Term:
    """A mechanism. cidr: prefix lengths for IPv4 and IPv6."""

    text: str
    outcome: Outcome
    name: str
    spec: str = ""
    cidr: tuple[int, int] = (32, 128)


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read: its mechanisms in order, its redirect."""

    text: str
    terms: tuple[Term, ...]
    redirect: str = ""


@dataclass(slots=True)
class SpfResult:
    """What check_host says.

    words    why, a clause
    domain   whose record decided; term  the term that did
    lookups  terms that asked the DNS; void  those without an answer
    """

    outcome: Outcome
    words: str = ""
    domain: str = ""
    term: str = ""
    lookups: int = 0
    void: int = 0


def parse(text: str, domain: str = "") -> Record:
    """A record. Raises SpfError (permerror) for whatever is wrong with its form."""
    terms: list[Term] = []
    modifiers: dict[str, str] = {}
    if not text.isascii() or any(not 0x20 <= ord(character) < 0x7F for character in text):
        raise SpfError("permerror", "the record has characters that are not plain ASCII", domain)
    for word in text.split(" ")[1:]:
        if not word:
            continue
        modifier = _MODIFIER.match(word)
        if modifier is None:
            terms.append(_mechanism(word, domain))
            continue
        name, value = modifier["name"].lower(), modifier["value"]
        if name in ("redirect", "exp"):
            if name in modifiers:
                raise SpfError("permerror", f"{name}= is there twice", domain, word)
            _check_spec(value, domain, word)
        else:
            _check_macros(value, domain, word)
        modifiers[name] = value
    return Record(text, tuple(terms), modifiers.get("redirect", ""))


def _mechanism(word: str, domain: str) -> Term:
    found = _MECHANISM.match(word)
    if found is None:
        raise SpfError("permerror", f"{word!r} is no term", domain, word)
    name, rest = found["name"].lower(), found["rest"]
    outcome = _QUALIFIERS[found["sign"] or "+"]
    if name == "all":
        if rest:
            raise SpfError("permerror", f"{word!r}: all takes nothing behind it", domain, word)
        return Term(word, outcome, name)
    if name in ("ip4", "ip6"):
        return Term(word, outcome, name, _network(name, rest, domain, word))
    if name in ("include", "exists", "ptr"):
        if not rest and name == "ptr":
            return Term(word, outcome, name)
        _check_spec(rest[1:] if rest[:1] == ":" else "", domain, word)
        return Term(word, outcome, name, rest[1:])
    if name in ("a", "mx"):
        return _address_term(word, outcome, name, rest, domain)
    raise SpfError("permerror", f"{word!r} is no mechanism of SPF", domain, word)


def _address_term(word: str, outcome: Outcome, name: str, rest: str, domain: str) -> Term:
    parts = _DUAL_CIDR.match(rest)
    assert parts is not None  # every part is optional
    four, six = int(parts["four"] or 32), int(parts["six"] or 128)
    if four > 32 or six > 128:
        raise SpfError("permerror", f"{word!r}: a prefix length that is too large", domain, word)
    spec = parts["spec"]
    if spec:
        if spec[0] != ":":
            raise SpfError("permerror", f"{word!r} cannot be read", domain, word)
        _check_spec(spec[1:], domain, word)
    cidr = (four if parts["four"] is not None else 32, six if parts["six"] is not None else 128)
    return Term(word, outcome, name, spec[1:], cidr)


def _network(name: str, rest: str, domain: str, word: str) -> str:
    """The network of ip4: or ip6:."""
    text, slash, length = rest[1:].partition("/")
    try:
        if rest[:1] != ":" or (slash and (not length.isdigit() or str(int(length)) != length)):
            raise ValueError
        made: ipaddress.IPv4Network | ipaddress.IPv6Network
        made = (ipaddress.IPv4Network if name == "ip4" else ipaddress.IPv6Network)(rest[1:], strict=False)
        if "%" in text:
            raise ValueError
    except ValueError:
        raise SpfError("permerror", f"{word!r} is not an IPv{name[2]} address or network", domain, word) from None
    return str(made)


def _check_macros(text: str, domain: str, word: str) -> None:
    """Every % begins a macro that there is."""
    if "%" in _MACRO.sub("", text):
        raise SpfError("permerror", f"{word!r}: a % that begins no macro", domain, word)
    for macro in _MACRO.finditer(text):
        letter = (macro["letter"] or "s").lower()
        if letter not in "slodiphvcrt" or macro["digits"] == "0" * max(1, len(macro["digits"])):
            raise SpfError("permerror", f"{word!r}: there is no macro {macro[0]}", domain, word)


def _check_spec(text: str, domain: str, word: str) -> None:
    """A domain-spec: not empty, and ends in a label or a macro (section 7.1)."""
    _check_macros(text, domain, word)
    last = list(_MACRO.finditer(text))
    if any((macro["letter"] or "").lower() in ("c", "r", "t") for macro in last if macro["letter"]):
        raise SpfError("permerror", f"{word!r}: a macro that is for explanations only", domain, word)
    ends_in_macro = bool(last) and last[-1].end() == len(text)
    if not text or not (ends_in_macro or _TOP_LABEL.search(text)):
        raise SpfError("permerror", f"{word!r} names no domain", domain, word)


class Evaluation:
    """check_host for one address, sender and EHLO name (RFC 7208 section 4)."""

    def __init__(self, dns: Questions, address: str, sender: str, helo: str) -> None:
        made = ipaddress.ip_address(address)
        mapped = made.ipv4_mapped if isinstance(made, ipaddress.IPv6Address) else None
        self.address: Address = mapped or made
        self.sender = sender if "@" in sender else f"postmaster@{sender}"
        self.helo = helo
        self.lookups = 0
        self.void = 0
        self._dns = dns
        self._verified: list[str] | None = None

    async def check(self, domain: str) -> SpfResult:
        """The result for a domain; never raises for what the DNS says."""
        try:
            result = await self._check_host(domain.lower().rstrip("."))
        except SpfError as error:
            result = SpfResult(error.outcome, error.words, error.domain or domain, error.term)
        result.lookups, result.void = self.lookups, self.void
        return result

    async def _check_host(self, domain: str) -> SpfResult:
        record = await self._record(domain)
        if record is None:
            return SpfResult("none", f"{domain} has no SPF record", domain)
        for term in record.terms:
            if await self._matches(term, domain):
                return SpfResult(term.outcome, f"{term.text} in the record of {domain}", domain, term.text)
        has_all = any(term.name == "all" for term in record.terms)
        if not record.redirect or has_all:
            return SpfResult("neutral", f"nothing in the record of {domain} matches", domain)
        self._count(domain, f"redirect={record.redirect}")
        target = await self._expand(record.redirect, domain)
        result = await self._check_host(target)
        if result.outcome == "none":
            raise SpfError(
                "permerror", f"redirect={target}: no SPF record there", domain, f"redirect={record.redirect}"
            )
        return result

    async def _record(self, domain: str) -> Record | None:
        """The record of a domain; None: there is none. Raises SpfError."""
        labels = domain.split(".")
        if len(domain) > MAX_NAME or len(labels) < 2 or not all(0 < len(label) < 64 for label in labels):
            return None
        answer = await self._ask(domain, "TXT", domain, "")
        texts = [txt_octets(rdata) for rdata in answer.records]
        found = [text for text in texts if text[:6].lower() == b"v=spf1" and text[6:7] in (b"", b" ")]
        if not found:
            return None
        if len(found) > 1:
            raise SpfError("permerror", f"{domain} has {len(found)} SPF records", domain)
        return parse(found[0].decode("latin-1"), domain)

    async def _matches(self, term: Term, domain: str) -> bool:
        """Whether a mechanism matches. Raises SpfError."""
        if term.name == "all":
            return True
        if term.name in ("ip4", "ip6"):
            return self.address in ipaddress.ip_network(term.spec)
        self._count(domain, term.text)
        target = await self._expand(term.spec, domain) if term.spec else domain
        if term.name == "include":
            return await self._include(term, target, domain)
        if term.name == "exists":
            return bool(self._not_void(await self._ask(target, "A", domain, term.text), domain, term).records)
        if term.name == "ptr":
            self._not_void(await self._dns.query(self.address.reverse_pointer, "PTR"), domain, term)
            return any(_is_within(name, target) for name in await self._names())
        if term.name == "a":
            return self._in(self._not_void(await self._addresses(target, domain, term.text), domain, term), term)
        hosts = self._not_void(await self._ask(target, "MX", domain, term.text), domain, term).records
        if len(hosts) > MAX_HOSTS:
            raise SpfError("permerror", f"{target} has more than {MAX_HOSTS} MX hosts", domain, term.text)
        for _, host in hosts:
            if self._in(self._not_void(await self._addresses(host, domain, term.text), domain, term), term):
                return True
        return False

    async def _include(self, term: Term, target: str, domain: str) -> bool:
        result = await self._check_host(target)
        if result.outcome == "none":
            raise SpfError("permerror", f"{term.text}: {target} has no SPF record", domain, term.text)
        return result.outcome == "pass"

    async def _addresses(self, host: str, domain: str, term: str) -> Answer:
        return await self._ask(host, "A" if self.address.version == 4 else "AAAA", domain, term)

    def _in(self, answer: Answer, term: Term) -> bool:
        length = term.cidr[0 if self.address.version == 4 else 1]
        return any(self.address in ipaddress.ip_network(f"{found}/{length}", strict=False) for found in answer.records)

    async def _names(self) -> list[str]:
        """Names of the address that resolve to it (section 5.5); errors of the DNS mean none."""
        if self._verified is None:
            pointers = await self._dns.query(self.address.reverse_pointer, "PTR")
            self._verified = []
            for name in pointers.records[:MAX_HOSTS]:
                forward = await self._dns.query(str(name), "A" if self.address.version == 4 else "AAAA")
                if str(self.address) in forward.records:
                    self._verified.append(str(name))
        return self._verified

    async def _ask(self, name: str, rdtype: str, domain: str, term: str) -> Answer:
        answer = await self._dns.query(name, rdtype)
        if answer.status == "temporary":
            raise SpfError("temperror", f"{rdtype} of {name} cannot be looked up ({answer.detail})", domain, term)
        return answer

    def _count(self, domain: str, term: str) -> None:
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise SpfError("permerror", f"more than {MAX_LOOKUPS} terms that ask the DNS (at {term})", domain, term)

    def _not_void(self, answer: Answer, domain: str, term: Term) -> Answer:
        if not answer.records:
            self.void += 1
            if self.void > MAX_VOID:
                words = f"more than {MAX_VOID} terms whose names are not in the DNS (at {term.text})"
                raise SpfError("permerror", words, domain, term.text)
        return answer

    # --- macros (section 7) ---

    async def _expand(self, spec: str, domain: str) -> str:
        """A domain-spec as a name, at most 253 octets: labels are cut off at its left."""
        pieces: list[str] = []
        position = 0
        for macro in _MACRO.finditer(spec):
            pieces += [spec[position : macro.start()], await self._macro(macro, domain)]
            position = macro.end()
        name = "".join([*pieces, spec[position:]]).rstrip(".")
        while len(name) > MAX_NAME:
            name = name.partition(".")[2]
        return name

    async def _macro(self, macro: re.Match[str], domain: str) -> str:
        if macro["sign"]:
            return {"%": "%", "_": " ", "-": "%20"}[macro["sign"]]
        letter = macro["letter"]
        value = await self._letter(letter.lower(), domain)
        if macro["cut"] or macro["digits"] or macro["reverse"]:
            parts = re.split(f"[{re.escape(macro['cut'] or '.')}]", value)
            if macro["reverse"]:
                parts.reverse()
            value = ".".join(parts[-int(macro["digits"]) :] if macro["digits"] else parts)
        return urllib.parse.quote(value, safe="-._~") if letter.isupper() else value

    async def _letter(self, letter: str, domain: str) -> str:
        local, _, of = self.sender.rpartition("@")
        if letter == "i":
            return str(self.address) if self.address.version == 4 else ".".join(self.address.exploded.replace(":", ""))
        if letter == "p":
            names = await self._names()
            within = [name for name in names if _is_within(name, domain)]
            return next(iter([name for name in within if name == domain] or within or names), "unknown")
        known = {"s": self.sender, "l": local, "o": of, "d": domain, "h": self.helo}
        return known.get(letter, "in-addr" if self.address.version == 4 else "ip6")


def _is_within(name: str, domain: str) -> bool:
    name, domain = name.lower(), domain.lower()
    return name == domain or name.endswith("." + domain)


async def check_host(dns: Questions, address: str, domain: str, sender: str = "", helo: str = "") -> SpfResult:
    """SPF's answer for mail from `address` whose reverse-path (or EHLO name) has this domain (RFC 7208 section 4)."""
    return await Evaluation(dns, address, sender or f"postmaster@{domain}", helo or domain).check(domain)
