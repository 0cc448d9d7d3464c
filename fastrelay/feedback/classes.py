"""What a refusal says: its class, whether trying again can help, and whom it is about.

    found = built_in_classes().classify(550, "5.1.1", b"5.1.1 <a@b.example>: no such user", "google")
    found.reply_class, found.kind, found.about, found.rule.name       # bad_mailbox hard recipient any_no_such_user

The rules are data (config/defaults/replies.yaml, which explains each key); the first one that holds decides, and they
stand from the precise to the general: words of a provider, words that anybody uses, enhanced codes, reply codes. The
expressions are asked by a few automata (RE2::Set), whose time is linear in the text.

An enhanced code counts only where its class is the reply's first digit (RFC 2034 section 4); hosts that say
`550 4.2.2` mean either, and nobody knows which. Addresses in a reply are no words: nobody is a spammer for the reply
`<spam@example.com>: user unknown`.

An operator's own file (`replies` of the configuration) is tried before the built-in rules.

Known faults: text in other languages than those of the large providers falls through to the codes.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import re2  # type: ignore[import-untyped]
import yaml

from fastrelay.config.base import Struct
from fastrelay.config.tree import BAD
from fastrelay.errors import ConfigError, ConfigProblem
from fastrelay.limits.matching import one_line
from fastrelay.limits.rules_file import (
    MAX_RULES,
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

if TYPE_CHECKING:
    from fastrelay.config.schema import Config

log = logging.getLogger(__name__)

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
KINDS: tuple[str, ...] = get_args(Kind)
KEPT_TEXTS = 4096
TEXT_OCTETS = 1024  # so much of a reply is held against the rules; what it means it says at its beginning
SET_GAPS = 22
NO_WORDS = b"a@b"  # stands for an address

_GAP = re.compile(r"[].]\*|\}")
_ADDRESS = re.compile(rb"[^\s<>()\[\]:;,\"'=@]+@[^\s<>()\[\];,\"']+")
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

    def holds_for(self, code: int, enhanced: str, provider: str) -> bool:
        """Whether provider and codes are ones that it names."""
        if self.providers and provider not in self.providers:
            return False
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
        self._sets = _sets(self.rules)
        # The first rule without words, by provider and codes; and what texts mean that came lately.
        self._coded_kept: dict[tuple[str, int, str], int] = {}
        self._kept: dict[tuple[str, int, str, bytes], Classified] = {}

    def classify(
        self, code: int, enhanced: str, text: bytes, provider: str = "other", recipient: bytes = b""
    ) -> Classified:
        """The class of a refusal.

        code       of the reply, 0 where nobody knows (then the enhanced code's class is taken, else a 5xx)
        enhanced   its enhanced code, or ""; one of another class than the code's is left aside
        text       as the reply has it, lines joined by a newline; the first 1024 octets count
        provider   whose host said it; `other` where nobody knows
        recipient  whom it is about, where that is known: replies that differ in it alone are looked at once
        """
        text = text[:TEXT_OCTETS]
        if recipient:
            text = text.replace(recipient, NO_WORDS)
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
        if b"@" in text:
            text = _ADDRESS.sub(NO_WORDS, text)
        rule = self._find(code or digit * 100 + 99, trusted, one_line(text, trusted), provider)
        means: ReplyClass = rule.means if rule is not None else "other"
        kind: Kind = "soft" if digit == 4 or means in ALWAYS_SOFT else "hard"
        about = ABOUT[means]
        if rule is not None:
            kind, about = rule.kind or kind, rule.about or about
        return Classified(means, kind, about, code, trusted, rule)

    def _find(self, code: int, enhanced: str, text: bytes, provider: str) -> ReplyRule | None:
        best = self._coded(code, enhanced, provider)
        for places, expressions in self._sets if text else ():
            if best < places[0]:
                break
            for hit in expressions.Match(text) or ():
                at = places[hit]
                if at < best and self.rules[at].holds_for(code, enhanced, provider):
                    best = at
        return self.rules[best] if best < len(self.rules) else None

    def _coded(self, code: int, enhanced: str, provider: str) -> int:
        """The place of the first rule without words that holds."""
        key = (provider, code, enhanced)
        at = self._coded_kept.get(key)
        if at is None:
            if len(self._coded_kept) >= KEPT_TEXTS:
                self._coded_kept.clear()
            holds = (
                at
                for at, rule in enumerate(self.rules)
                if rule.match is None and rule.holds_for(code, enhanced, provider)
            )
            at = self._coded_kept[key] = next(holds, len(self.rules))
        return at


def _sets(rules: Sequence[ReplyRule]) -> list[tuple[list[int], Any]]:
    """Automata of the rules' expressions, in their order: the places of each one's rules, and the automaton.

    What a gap in an expression (`.*`, `[^.]*`) may still be waiting for multiplies the states of an automaton, so each
    has SET_GAPS at most. All rules in one: 5 ms for a hostile text; in five: 0.5 ms, and 4 µs more for a usual one.
    """
    found: list[tuple[list[int], Any]] = []
    room = 0
    for at, rule in enumerate(rules):
        if rule.match is None:
            continue
        gaps = len(_GAP.findall(rule.match))
        if not found or gaps > room:
            found.append(([], re2.Set.SearchSet(regex_options())))
            room = SET_GAPS
        found[-1][1].Add(regex_octets(rule.match))
        found[-1][0].append(at)
        room -= gaps
    for _, expressions in found:
        expressions.Compile()
    return found


class ConfiguredClasses:
    """The rules of a configuration that may change: the operator's, then the built-in ones."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config_of = config
        self._config: Config | None = None
        self._classes: ReplyClasses | None = None

    def classify(
        self, code: int, enhanced: str, text: bytes, provider: str = "other", recipient: bytes = b""
    ) -> Classified:
        """As ReplyClasses.classify."""
        return self.now().classify(code, enhanced, text, provider, recipient)

    def now(self) -> ReplyClasses:
        """The rules that hold now."""
        config = self._config_of()
        if config is not self._config or self._classes is None:
            self._classes = classes_of(config)
            self._config = config
        return self._classes


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


def read_replies(
    text: str, name: str, providers: Collection[str] = (), *, timed: bool = True, sourced: bool = True
) -> tuple[list[ReplyRule], list[ConfigProblem]]:
    """The rules in a text that came from the file `name`, and everything that is wrong with them.

    providers  names of the configuration's own providers, beside the built-in ones
    timed      try how long expressions take (what was checked before need not be)
    sourced    each rule has to say where it is from
    """
    from fastrelay.config import load  # only here: the configuration's own rules look at this package

    reader = _Reader(name, known_providers() | set(providers), timed)
    try:
        node = load._compose(text, name)
    except ConfigError as error:
        return [], list(error.problems)
    found: Any = reader.read(node, RepliesFile, "")
    rules: list[ReplyRule] = found.rules if found is not BAD else []
    _check_each(rules, reader, sourced)
    return rules, sorted(reader.problems, key=lambda problem: problem.line)


def _check_each(rules: Sequence[ReplyRule], reader: Any, sourced: bool) -> None:
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        path = f"rules[{number}]"
        line = reader.lines.get(path, 1)
        if not rule.name or rule.name in seen:
            reader.problem(path, line, "has no name of its own", "add name: with a short one that no other rule has")
        seen.add(rule.name)
        if rule.match is None and not rule.codes and not rule.enhanced:
            reader.problem(path, line, "matches every refusal", "add match, codes or enhanced")
        if sourced and not rule.source:
            reader.problem(path, line, "does not say where it is from", "add source:")
    if len(rules) > MAX_RULES:
        reader.problem("rules", 1, f"are more than {MAX_RULES}", "join some: match: 'one|another'")


def load_replies(path: str, providers: Collection[str] = (), *, timed: bool = True) -> list[ReplyRule]:
    """The rules of an operator's file. Raises ConfigError."""
    from fastrelay.config import load  # as in read_replies

    rules, problems = read_replies(load._read(path), path, providers, timed=timed, sourced=False)
    if problems:
        raise ConfigError(problems)
    return rules


def check_replies_file(path: str, providers: Collection[str] = ()) -> list[ConfigProblem]:
    """Everything that is wrong with an operator's file, in the order of its lines; [] where it can be used."""
    try:
        load_replies(path, providers)
    except ConfigError as error:
        return list(error.problems)
    return []


def classes_of(config: Config) -> ReplyClasses:
    """The rules of a configuration. A rule of the operator's takes the place of the built-in one of that name.

    A file that has become unusable since it was checked is said in the log, and the built-in rules hold alone.
    """
    if config.replies is None:
        return built_in_classes()
    try:
        own = load_replies(os.fspath(config.replies), config.providers, timed=False)
    except ConfigError as error:
        for problem in error.problems:
            log.error("%s", problem)
        log.error("the rules of `replies` can't be used; the built-in ones hold. Mend the file and reload")
        return built_in_classes()
    names = {rule.name for rule in own}
    return ReplyClasses([*own, *(rule for rule in built_in_replies() if rule.name not in names)])


@functools.cache
def built_in_replies() -> tuple[ReplyRule, ...]:
    """The rules that come with fastrelay (a test holds them to be without problems, so none is looked for)."""
    text = resources.files("fastrelay.config").joinpath("defaults/replies.yaml").read_text(encoding="utf-8")
    return tuple(msgspec.convert(yaml.load(text, yaml.CBaseLoader), RepliesFile, strict=False).rules)


@functools.cache
def built_in_classes() -> ReplyClasses:
    """The built-in rules, ready to be asked."""
    return ReplyClasses(built_in_replies())
