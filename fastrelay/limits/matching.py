"""Which rule a reply fires: all expressions of a provider's rules in one automaton, asked once for each new text.

A reply is looked at only where it is a refusal. The automaton (RE2::Set) tells every expression that matches in one
pass over the text, so a hundred rules cost what one costs; of these the first in the order of the files counts. What
was found is kept for texts that come again, as most do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import re2  # type: ignore[import-untyped]

from fastrelay.config.schema import Config
from fastrelay.errors import ConfigError
from fastrelay.limits.rules_file import (
    TEXT_OCTETS,
    Actions,
    Rule,
    built_in_rules,
    load_rules,
    regex_octets,
    regex_options,
)

if TYPE_CHECKING:
    from fastrelay.feedback.classes import Classified

log = logging.getLogger(__name__)

KEPT_TEXTS = 4096

# What a refusal about us means where no rule has its words: the class of the reply (feedback/classes.py) → a rule. None
# of them orders more than the adaptive rate learns from, and only a 4xx is acted on but for blocks, which are counted.
_BY_CLASS = {"rate": "throttle", "greylist": "greylisting", "reputation_block": "block"}
CLASS_RULES: dict[str, Rule] = {
    name: Rule(
        name=f"class_{name}",
        actions=Actions(treat_as=treat_as),  # type: ignore[arg-type]
        source=f"replies of the class {name}, as `fastrelay classify` tells it",
    )
    for name, treat_as in _BY_CLASS.items()
}


class RuleSet:
    """Rules in the order in which they are tried."""

    def __init__(self, rules: Iterable[Rule] = (), *, by_class: bool = False) -> None:
        self.rules = list(rules)
        self._by_class = CLASS_RULES if by_class else {}
        self.by_name: dict[str, Rule] = {}
        for rule in self.rules:
            self.by_name.setdefault(rule.name, rule)
        for rule in self._by_class.values():
            self.by_name.setdefault(rule.name, rule)
        self._of_provider: dict[str, _Matcher] = {}
        self._kept: dict[tuple[str, int, str, bytes], Rule | None] = {}

    def for_class(self, code: int, enhanced: str, said: Classified) -> Rule | None:
        """The rule for a reply whose words no rule has. Too many recipients in one transaction (RFC 3463 X.5.3) are no
        reason to send more slowly.
        """
        if enhanced.endswith(".5.3"):
            return None
        if said.about != "us" or (code >= 500 and said.reply_class != "reputation_block"):
            return None
        return self._by_class.get(said.reply_class)

    def find(self, provider: str, code: int, enhanced: str, text: bytes) -> Rule | None:
        """The first rule that a reply of a provider fires. `text`: as the reply has it, lines joined by a newline."""
        if not self.rules or code < 400:
            return None
        text = text[:TEXT_OCTETS]
        key = (provider, code, enhanced, text)
        try:
            return self._kept[key]
        except KeyError:
            pass
        matcher = self._of_provider.get(provider)
        if matcher is None:
            own = [rule for rule in self.rules if not rule.providers or provider in rule.providers]
            matcher = self._of_provider[provider] = _Matcher(own)
        found = matcher.find(code, enhanced, one_line(text, enhanced))
        if len(self._kept) >= KEPT_TEXTS:
            self._kept.clear()
        self._kept[key] = found
        return found


class _Matcher:
    """The rules for one provider."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._without = [at for at, rule in enumerate(rules) if rule.match is None]
        self._places: list[int] = []  # of the set's expressions among the rules
        self._set = None
        matches = [(at, rule.match) for at, rule in enumerate(rules) if rule.match is not None]
        if matches:
            self._set = re2.Set.SearchSet(regex_options())
            for at, match in matches:
                self._set.Add(regex_octets(match))
                self._places.append(at)
            self._set.Compile()

    def find(self, code: int, enhanced: str, text: bytes) -> Rule | None:
        hits = [self._places[at] for at in self._set.Match(text) or ()] if self._set is not None else []
        for at in sorted([*hits, *self._without]):
            if self._rules[at].holds_for(code, enhanced):
                return self._rules[at]
        return None


def one_line(text: bytes, enhanced: str) -> bytes:
    """The text of a reply with its lines joined by spaces, and an enhanced code that each of them repeats only once."""
    if b"\n" not in text:
        return text
    lines = text.replace(b"\r", b"").split(b"\n")
    code = enhanced.encode() + b" "
    if enhanced and lines[0].startswith(code):
        lines[1:] = [line.removeprefix(code) for line in lines[1:]]
    return b" ".join(line.strip() for line in lines)


def rules_of(config: Config) -> RuleSet:
    """The rules of a configuration: the operator's, then the built-in ones.

    A file that has become unusable since it was checked is said in the log, and the built-in rules hold instead.
    """
    backoff = config.backoff
    if not backoff.enabled:
        return RuleSet()
    own: list[Rule] = []
    built_in = backoff.built_in
    if backoff.rules is not None:
        try:
            own = load_rules(backoff.rules, config.providers, timed=False)
        except ConfigError as error:
            for problem in error.problems:
                log.error("%s", problem)
            log.error("the rules of backoff.rules can't be used; the built-in ones hold. Mend the file and reload")
            built_in = True
    names = {rule.name for rule in own}
    if not built_in:
        return RuleSet(own)
    return RuleSet([*own, *(rule for rule in built_in_rules() if rule.name not in names)], by_class=True)
