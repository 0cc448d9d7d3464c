"""Files of back-off rules: what a reply of a mailbox provider means for how fast we send there.

A file has a list `rules`; each rule says which replies it is for (`providers`, `match`, `codes`, `enhanced`: all that
are given must hold) and what then happens (`actions`). config/defaults/backoff.yaml is the built-in one and explains
every key; the operator's own file (`backoff.rules` of the configuration) is tried before it. The first rule that
matches is the only one that acts.

Regular expressions are RE2's: their time is linear in the text, whatever text a host sends. Look-around and
back-references are not part of it and are refused here, as are expressions that are large beyond reason.

Known fault: names of providers are checked against the built-in ones and those that the caller knows of.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import time
from collections.abc import Collection, Sequence
from importlib import resources
from typing import Annotated, Any, Literal

import re2  # type: ignore[import-untyped]
import yaml
from msgspec import Meta

from fastrelay.config.base import Duration, PositiveDuration, Share, Struct, unit
from fastrelay.config.sending import Connections, Rate
from fastrelay.config.tree import BAD, TreeReader
from fastrelay.errors import ConfigError, ConfigProblem
from fastrelay.route.providers import OTHER, built_in

MAX_RULES = 2000
TEXT_OCTETS = 2048  # so much of a reply is held against the rules
PROGRAM_INSTRUCTIONS = 5_000  # bound of one compiled expression; a plain sentence has about as many as letters
SLOW_SECONDS = 0.005  # for one worst-case text; usual expressions take some microseconds
TRIES = 3  # the best one counts: a busy host is not the expression's fault

_RULE_NAME = re.compile(r"[a-z0-9_]{1,64}")
_CODE = re.compile(r"[45](?:[0-9]{2}|xx|[0-9]x)")
_ENHANCED = re.compile(r"[245x*]\.(?:\*|[0-9x]{1,3})\.(?:\*|[0-9x]{1,3})")
# A repeat whose whole body is a repeat: the same as one of them, and on other engines a trap.
_REPEATED_REPEAT = re.compile(r"\((?:\?:)?(?:\\.|\[[^\]]+\]|[^\\()\[\]])[+*]\??\)(?:[+*]|\{[0-9]+,\})")

RuleName = Annotated[str, Meta(extra=unit("rule_name"))]
ReplyCode = Annotated[str, Meta(extra=unit("reply_code"))]  # 421, 4xx, 45x
EnhancedPattern = Annotated[str, Meta(extra=unit("enhanced"))]  # 4.7.28, 5.7.5xx, 4.7.*
Regex = Annotated[str, Meta(extra=unit("regex"))]
ProviderName = Annotated[str, Meta(extra=unit("provider"))]


class Actions(Struct, frozen=True):
    """What a rule does. Rates, connections and suspensions are those of one source at one provider (for provider
    `other`: at one site)."""

    slow_to: Rate | None = None  # at most so fast, for `for`; then additively faster again
    slow_by_share: Share | None = None  # slower by this share of the rate of now
    connections: Connections | None = None  # at most so many, for `for`
    suspend_seconds: PositiveDuration | None = None  # nothing at all for so long
    switch_source: bool = False  # the retry goes by another source, and new mail too, for `for`
    treat_as: Literal["throttle", "block", "bad_address", "greylisting"] | None = None
    retry_after_seconds: Duration | None = None  # the recipients it refused wait at least so long
    for_seconds: PositiveDuration | None = None  # how long slow_to, connections and switch_source hold

    @property
    def slows(self) -> bool:
        """Whether it tells that we send too fast."""
        return self.slow_to is not None or self.slow_by_share is not None or self.treat_as == "throttle"


class Rule(Struct, frozen=True):
    """One rule. `source` says where it is from, `advice` what an operator does when it fires."""

    name: RuleName = ""
    providers: list[ProviderName] = []  # none given: any
    match: Regex | None = None
    codes: list[ReplyCode] = []  # none given: any 4xx or 5xx
    enhanced: EnhancedPattern | None = None
    actions: Actions = Actions()
    source: str | None = None
    advice: str | None = None

    def holds_for(self, code: int, enhanced: str) -> bool:
        """Whether the reply's code and enhanced code are ones that it names."""
        if self.codes and not any(code_matches(pattern, code) for pattern in self.codes):
            return False
        return self.enhanced is None or enhanced_matches(self.enhanced, enhanced)


class RulesFile(Struct, frozen=True):
    """The file."""

    version: int = 1
    rules: list[Rule] = []


def code_matches(pattern: str, code: int) -> bool:
    """Whether a reply code is 421, or one of 45x, or one of 4xx."""
    shown = str(code)
    return len(shown) == len(pattern) and all(p in ("x", c) for p, c in zip(pattern, shown, strict=True))


def enhanced_matches(pattern: str, enhanced: str) -> bool:
    """Whether an enhanced code fits, part by part: `*` is any number, each x in `5xx` a digit."""
    wanted, found = pattern.split("."), enhanced.split(".")
    return len(found) == 3 and all(
        want == "*" or (len(want) == len(have) and all(w in ("x", h) for w, h in zip(want, have, strict=True)))
        for want, have in zip(wanted, found, strict=True)
    )


def regex_options() -> Any:
    """Octets, either case, a dot is any octet; linear time within bounded memory."""
    options = re2.Options()
    options.case_sensitive = False
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = 32 << 20
    return options


def regex_octets(match: str) -> bytes:
    """An expression as the engine gets it: replies are octets, mostly ASCII, else UTF-8."""
    return match.encode("utf-8")


# -- reading ----------------------------------------------------------------------------------------------------------


def _rule_name(text: str) -> str:
    if not _RULE_NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot name a rule; use up to 64 of a-z, 0-9 and _ (it becomes a metric's label)")
    return text


def _reply_code(text: str) -> str:
    folded = text.lower()
    if not _CODE.fullmatch(folded):
        raise ValueError(f"{text!r} is not a code of a refusal; write one such as 421, 45x, 4xx or 5xx")
    return folded


def _enhanced(text: str) -> str:
    folded = text.lower()
    if not _ENHANCED.fullmatch(folded):
        raise ValueError(f"{text!r} is not an enhanced code; write one such as 4.7.28, 5.7.5xx or 4.7.*")
    return folded


def _regex(text: str) -> str:
    """Sound, and quick on any text. Raises ValueError, "problem; mend"."""
    _check_form(text)
    compiled = re2.compile(regex_octets(text), regex_options())
    if compiled.programsize > PROGRAM_INSTRUCTIONS or slowest_seconds(compiled, text) > SLOW_SECONDS:
        raise ValueError(f"{_short(text)!r} is slow on long replies; make repeats shorter, such as .* for .{{500}}")
    return text


def _check_form(text: str) -> str:
    """What does not depend on how long it takes."""
    found = _REPEATED_REPEAT.search(text)
    if found is not None:
        raise ValueError(f"{found[0]!r} repeats what is repeated already, a slow way to say it; keep one of the two")
    try:
        compiled = re2.compile(regex_octets(text), regex_options())
    except re2.error as error:
        words = error.args[0] if error.args else b""
        words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        raise ValueError(f"{text!r} is not a regular expression we can use ({words}); {_regex_mend(words)}") from None
    if compiled.search(b"") is not None:
        raise ValueError(f"{text!r} matches any reply, even an empty one; write words of the reply it is for")
    return text


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _regex_mend(words: str) -> str:
    if "perl operator" in words:
        return "leave (?= (?! (?<= (?<! out: look-around is not part of RE2 syntax"
    if "escape" in words:
        return "back-references and \\Z are not part of RE2 syntax; double no backslash inside single quotes"
    if "repetition" in words or "memory" in words or "too large" in words:
        return "use smaller repeats, such as .* for .{2000}"
    return "close every ( and [, and put \\ before those that are meant literally"


def slowest_seconds(compiled: Any, text: str) -> float:
    """The time of one search in the worst of some hostile texts of the longest size, the best of a few tries."""
    letters = "".join(dict.fromkeys(re.sub(r"\W", "", text)))[:8] or "a"
    texts = [
        (letters[0] * TEXT_OCTETS).encode("utf-8")[:TEXT_OCTETS],
        (letters * TEXT_OCTETS).encode("utf-8")[:TEXT_OCTETS],
        _mixed(letters[:2] if len(letters) > 1 else letters + "b"),
    ]
    return max(min(_timed(compiled, each) for _ in range(TRIES)) for each in texts)


def _mixed(two: str) -> bytes:
    """Two letters in an order without a pattern, the worst for an engine that remembers where it was."""
    state, letters = 1, []
    for _ in range(TEXT_OCTETS):
        state = (state * 1103515245 + 12345) % 2**31
        letters.append(two[state >> 16 & 1])
    return "".join(letters).encode("utf-8")[:TEXT_OCTETS]


def _timed(compiled: Any, text: bytes) -> float:
    began = time.thread_time()
    compiled.search(text)
    return time.thread_time() - began


_TEXTS = {"rule_name": _rule_name, "reply_code": _reply_code, "enhanced": _enhanced, "regex": _regex}


class _Reader(TreeReader):
    """The configuration's reader with the forms of rules."""

    def __init__(self, file: str, providers: Collection[str], timed: bool) -> None:
        super().__init__(file)
        self._providers = providers
        self._texts = _TEXTS if timed else {**_TEXTS, "regex": _check_form}

    def read_scalar(self, node: yaml.ScalarNode, kind: Any, meta: Meta | None, path: str) -> Any:
        form = (meta.extra or {}).get("unit") if meta else None
        if form == "provider":
            return self._provider(node, path)
        if form not in self._texts:
            return super().read_scalar(node, kind, meta, path)
        try:
            return self._texts[form](str(node.value))
        except ValueError as error:
            return self.value_fault(node, path, error)

    def _provider(self, node: yaml.ScalarNode, path: str) -> Any:
        name = str(node.value)
        if name in self._providers:
            return name
        close = difflib.get_close_matches(name, sorted(self._providers), 1)
        mend = f"did you mean {close[0]}?" if close else f"the providers are {', '.join(sorted(self._providers))}"
        return self.fault(node, path, f"{name!r} is not a provider we know", mend)


def known_providers() -> set[str]:
    """The built-in providers, and `other`."""
    return {*built_in().by_name, OTHER}


def read_rules(
    text: str, name: str, providers: Collection[str] | None = None, *, timed: bool = True
) -> tuple[list[Rule], list[ConfigProblem]]:
    """The rules in a text that came from the file `name`, and everything that is wrong with them.

    providers  names of the configuration's own providers, beside the built-in ones
    timed      try how long expressions take (what was checked before need not be)
    """
    # Only here: the configuration's own rules look at this module.
    from fastrelay.config import load

    reader = _Reader(name, known_providers() | set(providers or ()), timed)
    try:
        node = load._compose(text, name)
    except ConfigError as error:
        return [], list(error.problems)
    found = reader.read(node, RulesFile, "")
    rules = found.rules if found is not BAD else []
    _check_each(rules, node, reader)
    return rules, sorted(reader.problems, key=lambda problem: problem.line)


def _check_each(rules: Sequence[Rule], node: yaml.Node, reader: _Reader) -> None:
    """What concerns more than one key. `rules` may lack those that are at fault, so the places come from the tree."""
    seen: dict[str, int] = {}
    for path, keys, line in _places(node):
        name = keys.get("name")
        if name is None:
            reader.problem(path, line, "has no name", "add name: with a short one; events and metrics use it")
        elif name.value in seen:
            reader.problem(
                f"{path}.name", name.start_mark.line + 1,
                f"{name.value!r} is also the name of the rule in line {seen[name.value]}", "give each its own",
            )  # fmt: skip
        else:
            seen[name.value] = line
        if not {"match", "codes", "enhanced"} & set(keys):
            reader.problem(path, line, "matches every refusal", "add match, codes or enhanced")
        actions = keys.get("actions")
        if not isinstance(actions, yaml.MappingNode) or not actions.value:
            reader.problem(path, line, "does nothing", "add actions:, such as {slow_to: 1/min, for: 30m}")
        else:
            _check_actions({str(key.value) for key, _ in actions.value}, f"{path}.actions", line, reader)
    if len(rules) > MAX_RULES:
        reader.problem("rules", 1, f"are more than {MAX_RULES}", "join some: match: 'one|another'")


def _check_actions(keys: set[str], path: str, line: int, reader: _Reader) -> None:
    if {"slow_to", "slow_by"} <= keys:
        reader.problem(path, line, "has slow_to and slow_by", "keep one of them")
    if keys == {"for"}:
        reader.problem(path, line, "says for how long, but not what", "add slow_to, connections or switch_source")
    elif "for" in keys and not {"slow_to", "slow_by", "connections", "switch_source"} & keys:
        reader.problem(path, line, "has for, which suspend and treat_as do not use", "write suspend: with the duration")


def _places(node: yaml.Node) -> list[tuple[str, dict[str, Any], int]]:
    """Each rule of the tree: its path, its keys and its line."""
    found = []
    for key, value in node.value:
        if key.value == "rules" and isinstance(value, yaml.SequenceNode):
            for number, rule in enumerate(value.value):
                if isinstance(rule, yaml.MappingNode):
                    keys = {str(each.value): child for each, child in rule.value}
                    found.append((f"rules[{number}]", keys, rule.start_mark.line + 1))
    return found


def check_rules_file(path: str | os.PathLike[str], providers: Collection[str] | None = None) -> list[ConfigProblem]:
    """Everything that is wrong with a file of rules, in the order of its lines; [] where it can be used."""
    try:
        load_rules(path, providers)
    except ConfigError as error:
        return list(error.problems)
    return []


def load_rules(
    path: str | os.PathLike[str], providers: Collection[str] | None = None, *, timed: bool = True
) -> list[Rule]:
    """The rules of a file. Raises ConfigError."""
    from fastrelay.config import load  # as in read_rules

    name = os.fspath(path)
    rules, problems = read_rules(load._read(name), name, providers, timed=timed)
    if problems:
        raise ConfigError(problems)
    return rules


@functools.cache
def built_in_rules() -> tuple[Rule, ...]:
    """The rules that come with fastrelay (held by a test to be without problems)."""
    text = resources.files("fastrelay.config").joinpath("defaults/backoff.yaml").read_text(encoding="utf-8")
    return tuple(read_rules(text, "defaults/backoff.yaml", timed=False)[0])
