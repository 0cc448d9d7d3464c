"""What a refusal says: its class, whether trying again can help, and whom it is about.

    found = built_in_classes().classify(550, "5.1.1", b"5.1.1 <a@b.example>: no such user", "google")
    found.reply_class, found.kind, found.about, found.rule.name       # bad_mailbox hard recipient any_no_such_user

The rules are data (config/defaults/replies.yaml, which explains each key); the first one that holds decides, and they
stand from the precise to the general: words of a provider, words that anybody uses, enhanced codes, reply codes. All
expressions are asked in one pass of one automaton (RE2::Set), whose time is linear in the text.

An enhanced code counts only where its class is the reply's first digit (RFC 2034 section 4); hosts that say
`550 4.2.2` mean either, and nobody knows which.

Known faults: text in other languages than those of the large providers falls through to the codes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Literal, get_args

import msgspec
import re2  # type: ignore[import-untyped]
import yaml

from fastrelay.config.base import Struct
from fastrelay.config.tree import BAD
from fastrelay.errors import ConfigError, ConfigProblem
from fastrelay.limits.matching import one_line
from fastrelay.limits.rules_file import (
    TEXT_OCTETS,
    EnhancedPattern,
    ProviderName,
    Regex,
    ReplyCode,
    RuleName,
    _Reader,
    code_matches,
    enhanced_matches,
    known_providers,
    regex_octets,
    regex_options,
)

ReplyClass = Literal[
    "bad_mailbox", "bad_domain", "inactive", "quota", "size", "policy", "spam_content", "reputation_block",
    "authentication", "rate", "greylist", "connection", "tls", "protocol", "relay_denied", "other",
]  # fmt: skip
Kind = Literal["hard", "soft"]
About = Literal["recipient", "us", "message"]

CLASSES: tuple[str, ...] = get_args(ReplyClass)
# Whom a class is about, unless its rule knows better. `us` is also the way between us and them: whatever says nothing
# of the recipient, so that nobody is suppressed for it.
ABOUT: dict[str, About] = {
    "bad_mailbox": "recipient", "bad_domain": "recipient", "inactive": "recipient", "quota": "recipient",
    "size": "message", "policy": "us", "spam_content": "message", "reputation_block": "us", "authentication": "us",
    "rate": "us", "greylist": "us", "connection": "us", "tls": "us", "protocol": "us", "relay_denied": "us",
    "other": "us",
}  # fmt: skip
ALWAYS_SOFT = frozenset({"rate", "greylist", "quota", "connection"})
KEPT_TEXTS = 4096

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
_REPLY = re.compile(r"(?<![\d.:\[-])([245][0-5]\d)(?:[ -]+#?([245]\.\d{1,3}\.\d{1,3})(?![\d.]*\d))?(?=[\s:;,.<(-]|$)")


class ReplyRule(Struct, frozen=True):
    """One rule; `kind` and `about` where it differs from what its class and the reply's first digit say."""

    name: RuleName = ""
    providers: list[ProviderName] = []  # none given: any
    match: Regex | None = None
    codes: list[ReplyCode] = []
    enhanced: list[EnhancedPattern] = []
    means: ReplyClass = "other"
    kind: Kind | None = None
    about: About | None = None
    source: str | None = None

    def holds_for(self, code: int, enhanced: str) -> bool:
        """Whether the reply's codes are ones that it names."""
        if self.codes and not any(code_matches(pattern, code) for pattern in self.codes):
            return False
        return not self.enhanced or any(enhanced_matches(pattern, enhanced) for pattern in self.enhanced)


class RepliesFile(Struct, frozen=True):
    """The file."""

    version: int = 1
    rules: list[ReplyRule] = []


class Classified(msgspec.Struct, frozen=True, gc=False):
    """What a reply says. `enhanced` is "" where the reply had none that counts; `rule` is None where none held."""

    reply_class: ReplyClass
    kind: Kind
    about: About
    code: int
    enhanced: str
    rule: ReplyRule | None = None

    @property
    def against_recipient(self) -> bool:
        """Whether the address is bad for good, so that it may be suppressed at once."""
        return self.kind == "hard" and self.about == "recipient"


class ReplyClasses:
    """The rules, ready to be asked."""

    def __init__(self, rules: Iterable[ReplyRule]) -> None:
        self.rules = list(rules)
        self._of_provider: dict[str, _Matcher] = {}
        self._kept: dict[tuple[str, int, str, bytes], Classified] = {}

    def classify(self, code: int, enhanced: str, text: bytes, provider: str = "other") -> Classified:
        """The class of a refusal.

        code      of the reply, 0 where nobody knows (then the enhanced code's class is taken, else a 5xx)
        enhanced  its enhanced code, or ""; one of another class than the code's is left aside
        text      as the reply has it, lines joined by a newline; the first 2048 octets count
        provider  whose host said it; `other` where nobody knows
        """
        text = text[:TEXT_OCTETS]
        key = (provider, code, enhanced, text)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT_TEXTS:
                self._kept.clear()
            found = self._kept[key] = self._classify(code, enhanced, text, provider)
        return found

    def _classify(self, code: int, enhanced: str, text: bytes, provider: str) -> Classified:
        digit = code // 100 if code else 4 if enhanced.startswith("4.") else 5
        trusted = enhanced if enhanced[:1] == str(digit) else ""
        matcher = self._of_provider.get(provider)
        if matcher is None:
            own = [rule for rule in self.rules if not rule.providers or provider in rule.providers]
            matcher = self._of_provider[provider] = _Matcher(own)
        rule = matcher.find(code or digit * 100 + 99, trusted, one_line(text, trusted))
        means: ReplyClass = rule.means if rule is not None else "other"
        kind: Kind = "soft" if digit == 4 or means in ALWAYS_SOFT else "hard"
        about = ABOUT[means]
        if rule is not None:
            kind, about = rule.kind or kind, rule.about or about
        return Classified(means, kind, about, code, trusted, rule)


class _Matcher:
    """The rules for one provider."""

    def __init__(self, rules: Sequence[ReplyRule]) -> None:
        self._rules = rules
        self._places: list[int] = []  # of the set's expressions among the rules
        self._by_codes: dict[tuple[int, str], int] = {}  # the first rule without words; bounded by what codes there are
        self._set = re2.Set.SearchSet(regex_options())
        for at, rule in enumerate(rules):
            if rule.match is not None:
                self._set.Add(regex_octets(rule.match))
                self._places.append(at)
        if self._places:
            self._set.Compile()

    def find(self, code: int, enhanced: str, text: bytes) -> ReplyRule | None:
        hits = sorted(self._places[at] for at in self._set.Match(text) or ()) if self._places and text else ()
        worded = next((at for at in hits if self._rules[at].holds_for(code, enhanced)), len(self._rules))
        at = min(worded, self._coded(code, enhanced))
        return self._rules[at] if at < len(self._rules) else None

    def _coded(self, code: int, enhanced: str) -> int:
        at = self._by_codes.get((code, enhanced))
        if at is None:
            if len(self._by_codes) >= KEPT_TEXTS:
                self._by_codes.clear()
            holds = (
                at for at, rule in enumerate(self._rules) if rule.match is None and rule.holds_for(code, enhanced)
            )
            at = self._by_codes[code, enhanced] = next(holds, len(self._rules))
        return at


def parse_reply(text: str) -> tuple[int, str]:
    """The code and the enhanced code in a line of a log, a bounce or a reply: (0, "") where it has neither.

    The reply may stand behind other words: `smtp;550 5.1.1 …`, `host mx.example said: 550-5.1.1 …`, `… (#5.1.1)`. An
    enhanced code that follows the code counts, else the first one in the text of the code's class, else the first.
    """
    text = text[:TEXT_OCTETS]
    code, enhanced = 0, ""
    found = _REPLY.search(text)
    if found is not None:
        code, enhanced = int(found[1]), found[2] or ""
    if not enhanced:
        others = [shown[0] for shown in _ENHANCED.finditer(text)]
        enhanced = next((shown for shown in others if not code or shown[0] == str(code // 100)), "")
    return code, normal_status(enhanced)


def normal_status(status: str) -> str:
    """`5.01.001` as `5.1.1`."""
    parts = status.split(".")
    return ".".join(str(int(part)) for part in parts) if len(parts) == 3 else ""


# -- reading ----------------------------------------------------------------------------------------------------------


def read_replies(text: str, name: str, *, timed: bool = True) -> tuple[list[ReplyRule], list[ConfigProblem]]:
    """The rules in a text that came from the file `name`, and everything that is wrong with them.

    timed   try how long expressions take (what was checked before need not be)
    """
    from fastrelay.config import load  # only here: the configuration's own rules look at this package

    reader = _Reader(name, known_providers(), timed)
    try:
        node = load._compose(text, name)
    except ConfigError as error:
        return [], list(error.problems)
    found: Any = reader.read(node, RepliesFile, "")
    rules: list[ReplyRule] = found.rules if found is not BAD else []
    _check_each(rules, node, reader)
    return rules, sorted(reader.problems, key=lambda problem: problem.line)


def _check_each(rules: Sequence[ReplyRule], node: yaml.Node, reader: Any) -> None:
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        path = f"rules[{number}]"
        line = reader.lines.get(path, 1)
        if not rule.name or rule.name in seen:
            reader.problem(path, line, "has no name of its own", "add name: with a short one that no other rule has")
        seen.add(rule.name)
        if rule.match is None and not rule.codes and not rule.enhanced:
            reader.problem(path, line, "matches every refusal", "add match, codes or enhanced")
        if not rule.source:
            reader.problem(path, line, "does not say where it is from", "add source:")


@functools.cache
def built_in_replies() -> tuple[ReplyRule, ...]:
    """The rules that come with fastrelay (held by a test to be without problems)."""
    text = resources.files("fastrelay.config").joinpath("defaults/replies.yaml").read_text(encoding="utf-8")
    return tuple(read_replies(text, "defaults/replies.yaml", timed=False)[0])


@functools.cache
def built_in_classes() -> ReplyClasses:
    """The built-in rules, ready to be asked."""
    return ReplyClasses(built_in_replies())
