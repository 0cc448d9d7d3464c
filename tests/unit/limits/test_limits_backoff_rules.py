"""Files of back-off rules: what they say, what is refused in them, which rule a reply fires."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.config.load import load_text
from fastrelay.feedback.classes import built_in_classes
from fastrelay.limits import matching
from fastrelay.limits.matching import RuleSet, one_line, rules_of
from fastrelay.limits.rules_file import (
    TEXT_OCTETS,
    Actions,
    Rule,
    built_in_rules,
    check_rules_file,
    code_matches,
    enhanced_matches,
    known_providers,
    load_rules,
    read_rules,
)
from fastrelay.outcome.classify import enhanced_status, judge_reply

# provider, code, text → the built-in rule that it fires, what becomes of the recipient, the reason
REPLIES = [
    ("google", 421, b"4.7.28 [192.0.2.1 15] Our system has detected an unusual rate of\n4.7.28 unsolicited mail",
     "google_unusual_rate", "deferred", "throttled"),
    ("google", 550, b"5.7.1 [192.0.2.1] Our system has detected that this message is suspicious due to the very low\n"
     b"5.7.1 reputation of the sending IP address", "google_low_reputation", "failed", "blocked"),
    ("google", 550, b"5.7.26 This mail is unauthenticated", "google_unauthenticated", "failed", "blocked"),
    ("google", 550, b"5.1.1 The email account that you tried to reach does not exist", None, "failed", "rcpt_refused"),
    ("yahoo", 421, b"4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume",
     "yahoo_tss04", "deferred", "throttled"),
    ("yahoo", 421, b"4.7.0 [TSS05] Messages temporarily deferred", "yahoo_tss05", "deferred", "throttled"),
    ("yahoo", 421, b"4.7.0 [IPTS04] Messages deferred", "yahoo_ipts", "deferred", "throttled"),
    ("yahoo", 553, b"5.7.1 [BL21] Connections will not be accepted", "yahoo_listed", "failed", "blocked"),
    ("outlook", 451, b"4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. "
     b"(S775)", "microsoft_reputation_rate", "deferred", "throttled"),
    ("outlook", 451, b"4.7.651 limited (S3114)", "microsoft_reputation_rate", "deferred", "throttled"),
    ("outlook", 451, b"4.7.652 too many concurrent connections (S3115)", "microsoft_connections", "deferred",
     "throttled"),
    ("outlook", 421, b"RP-001 exceeded the rate limit", "microsoft_rp", "deferred", "throttled"),
    ("outlook", 550, b"5.7.1 part of their network is on our block list (S3150)", "microsoft_blocked", "failed",
     "blocked"),
    ("outlook", 550, b"5.7.515 Access denied, sending domain does not meet the required authentication level",
     "microsoft_unauthenticated", "failed", "blocked"),
    ("microsoft365", 550, b"5.7.520 Message blocked", "microsoft_policy", "failed", "blocked"),
    ("microsoft365", 451, b"4.7.500 Server busy", "microsoft_policy_temporary", "deferred", "throttled"),
    ("apple", 550, b"5.7.0 Blocked - [HM08]", "apple_policy", "failed", "blocked"),
    ("apple", 550, b"5.7.1 [CS01] Message rejected", "apple_policy", "failed", "blocked"),
    ("comcast", 421, b"4.1.0 192.0.2.1 Throttled - see RL000010", "comcast_rl000010", "deferred", "throttled"),
    ("comcast", 421, b"4.1.0 RL000003", "comcast_rate", "deferred", "throttled"),
    ("comcast", 421, b"4.2.0 Throttled", "comcast_throttled", "deferred", "throttled"),
    ("gmx_webde", 421, b"gmx.net Reject due to policy restrictions.", "gmx_webde_policy", "deferred", "blocked"),
    ("orange", 421, b"Too many connections OFR004_104", "orange_connections", "deferred", "throttled"),
    ("orange", 550, b"5.2.0 Mail rejete OFR004_105", "orange_refused", "failed", "blocked"),
    ("orange", 451, b"OFR_108 refused", "orange_refused", "deferred", "blocked"),
    ("tonline", 554, b"IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help", "tonline_reputation",
     "failed", "blocked"),
    ("qq", 550, b"Ip frequency limited", "qq_frequency", "deferred", "throttled"),
    ("qq", 550, b"Domain frequency limited", "qq_frequency", "deferred", "throttled"),
    ("netease", 451, b"DT:SPM 163 smtp1", "netease_spam", "deferred", "blocked"),
    ("netease", 421, b"Too many connections", "netease_connections", "deferred", "throttled"),
    ("netease", 550, b"RP:ORQ 163", "netease_daily", "deferred", "throttled"),
    ("netease", 554, b"HL:ITC 163", "netease_daily", "deferred", "throttled"),
    ("yahoo_jp", 421, b"VS98-IP0 deferred", "yahoo_jp_vs98", "deferred", "throttled"),
    ("other", 421, b"4.7.0 rate limited due to IP reputation", "any_reputation_rate", "deferred", "throttled"),
    ("other", 451, b"temporarily deferred", "any_temporarily_deferred", "deferred", "throttled"),
    ("other", 451, b"Server busy, try later", "any_server_busy", "deferred", "throttled"),
    ("other", 421, b"4.7.0 Too many concurrent connections from you", "any_connections", "deferred", "throttled"),
    ("other", 421, b"4.7.28 Unusual rate of mail from this address", "any_rate", "deferred", "throttled"),
    ("other", 450, b"4.7.1 You have exceeded the hourly sending limit", "any_rate", "deferred", "throttled"),
    ("other", 554, b"5.7.1 blocked using zen.spamhaus.org", "any_listed", "failed", "blocked"),
    ("other", 550, b"5.7.1 Blocked: very low reputation of the sending IP address", "any_bad_reputation", "failed",
     "blocked"),
    # What is about the recipient, or about one message, stays what it is.
    ("other", 450, b"4.2.0 Greylisted, come back later", "any_greylisted", "deferred", "greylisted"),
    ("other", 451, b"4.7.1 Try again later", None, "deferred", "rcpt_refused"),
    ("other", 452, b"4.2.2 The mailbox has exceeded its storage quota", None, "deferred", "rcpt_refused"),
    ("other", 552, b"5.2.2 mailbox full, over quota", None, "failed", "rcpt_refused"),
    ("other", 452, b"4.5.3 Too many recipients", None, "deferred", "rcpt_refused"),
    ("other", 421, b"4.7.0 Enough messages on this connection", None, "deferred", "rcpt_refused"),
    ("other", 550, b"5.1.1 no such user", None, "failed", "rcpt_refused"),
    ("other", 421, b"4.3.2 closing", None, "deferred", "rcpt_refused"),
]  # fmt: skip


BUILT_IN = RuleSet(built_in_rules())


@pytest.mark.parametrize("row", REPLIES, ids=[f"{row[0]} {row[2][:30]!r}" for row in REPLIES])
def test_what_providers_say(row: tuple[str, int, bytes, str | None, str, str]) -> None:
    provider, code, text, name, kind, reason = row
    rule = BUILT_IN.find(provider, code, enhanced_status(code, text), text)
    assert (rule.name if rule else None) == name
    verdict = judge_reply(code, text, "shown", "rcpt", rule)
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert verdict.rule is rule


def test_the_built_in_rules_are_sound_and_tell_where_they_are_from() -> None:
    path = Path(matching.__file__).parent.parent / "config" / "defaults" / "backoff.yaml"
    assert check_rules_file(path) == []
    for rule in built_in_rules():
        assert rule.source, rule.name
        assert rule.advice, rule.name
    fired = {row[3] for row in REPLIES if row[3]}
    tried = {rule.name for rule in built_in_rules()}
    assert tried - fired == {
        "google_unusual_rate_text", "google_likely_unsolicited", "yahoo_deferred"
    }, "a rule without an example above"  # fmt: skip


# a rule's text, below `- name: a`, and what is said of it: the line (of the file), the path's end, words
BAD = [
    ("  match: '[x'\n  actions: {suspend: 1h}", 3, "match", "missing ]"),
    ("  match: '(?=x)y'\n  actions: {suspend: 1h}", 3, "match", "look-around"),
    ("  match: '(a)\\1'\n  actions: {suspend: 1h}", 3, "match", "back-references"),
    ("  match: '(a+)+$'\n  actions: {suspend: 1h}", 3, "match", "repeats what is repeated"),
    ("  match: '(.*)*x'\n  actions: {suspend: 1h}", 3, "match", "slow way"),
    ("  match: '([a-z]+)*!'\n  actions: {suspend: 1h}", 3, "match", "slow way"),
    ("  match: '.{999}.{999}.{999}.{999}.{999}.{999}x'\n  actions: {suspend: 1h}", 3, "match", "slow on long"),
    ("  match: 'x{5000}'\n  actions: {suspend: 1h}", 3, "match", "smaller repeats"),
    ("  match: 'x*'\n  actions: {suspend: 1h}", 3, "match", "any reply"),
    ("  match: ''\n  actions: {suspend: 1h}", 3, "match", "any reply"),
    ("  match: busy\n  providers: [gogle]\n  actions: {suspend: 1h}", 4, "providers[0]", "did you mean google"),
    ("  match: busy\n  provider: google\n  actions: {suspend: 1h}", 4, "provider", "providers"),
    ("  match: busy\n  codes: [250]\n  actions: {suspend: 1h}", 4, "codes[0]", "not a code of a refusal"),
    ("  match: busy\n  codes: 421\n  actions: {suspend: 1h}", 4, "codes", "a list"),
    ("  match: busy\n  enhanced: 4.7\n  actions: {suspend: 1h}", 4, "enhanced", "not an enhanced code"),
    ("  match: busy\n  actions: {explode: 1h}", 4, "actions.explode", "not a key we know"),
    ("  match: busy\n  actions: {suspend: soon}", 4, "actions.suspend", "not a duration"),
    ("  match: busy\n  actions: {slow_to: 0/h}", 4, "actions.slow_to", "let nothing out"),
    ("  match: busy\n  actions: {slow_to: fast}", 4, "actions.slow_to", "not a rate"),
    ("  match: busy\n  actions: {slow_by: 2}", 4, "actions.slow_by", "share"),
    ("  match: busy\n  actions: {treat_as: spam}", 4, "actions.treat_as", "throttle"),
    ("  match: busy\n  actions: {connections: 0}", 4, "actions.connections", "1 or more"),
    ("  match: busy\n  actions: {slow_to: 1/min, slow_by: 5%}", 2, "actions", "slow_to and slow_by"),
    ("  match: busy\n  actions: {for: 1h}", 2, "actions", "for how long, but not what"),
    ("  match: busy\n  actions: {suspend: 1h, for: 1h}", 2, "actions", "has for"),
    ("  match: busy\n  actions: {}", 2, "rules[0]", "does nothing"),
    ("  match: busy", 2, "rules[0]", "does nothing"),
    ("  actions: {suspend: 1h}", 2, "rules[0]", "matches every refusal"),
    ("  providers: [google]\n  actions: {suspend: 1h}", 2, "rules[0]", "matches every refusal"),
]  # fmt: skip


@pytest.mark.parametrize("row", BAD, ids=[row[0].strip().replace("\n", " ")[:60] for row in BAD])
def test_what_is_wrong_is_said_with_its_line_and_mend(row: tuple[str, int, str, str], tmp_path: Path) -> None:
    text, line, end, words = row
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n- name: a\n" + text + "\n")
    problems = check_rules_file(path)
    assert [(one.file, one.line) for one in problems] == [(str(path), line)], problems
    assert problems[0].path.endswith(end)
    assert words in str(problems[0])
    assert problems[0].mend


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules:\n- {name: a, match: x, actions: {suspend: 1h}}\n- {name: a, codes: [4xx]}", "line 2"),
        ("rules:\n- {match: x, actions: {suspend: 1h}}", "no name"),
        ("rules:\n- {name: A-b, match: x, actions: {suspend: 1h}}", "cannot name a rule"),
        ("rule: []", "did you mean `rules`"),
        ("rules: {a: b}", "wants a list"),
        ("rules: [", "not YAML"),
        ("- a", "not a section of keys"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(text: str, words: str) -> None:
    problems = read_rules(text, "f.yaml")[1]
    assert words in " ".join(map(str, problems))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    [problem] = check_rules_file(tmp_path / "none.yaml")
    assert "cannot be read" in problem.problem


def test_an_empty_file_has_no_rules() -> None:
    assert read_rules("", "f.yaml") == ([], [])


def test_providers_of_the_configuration_are_known() -> None:
    text = "rules:\n- {name: a, providers: [mine], match: x, actions: {suspend: 1h}}"
    assert read_rules(text, "f.yaml")[1]
    assert read_rules(text, "f.yaml", ["mine"])[1] == []
    assert "other" in known_providers()


def test_every_action_is_read() -> None:
    text = """
rules:
- name: all_of_it
  providers: [qq]
  match: 'limited'
  codes: [4xx, 550]
  enhanced: 4.7.*
  actions: {slow_to: 30/min, connections: 2, for: 90m, suspend: 2h, switch_source: yes, treat_as: block,
            retry_after: 10m}
- {name: by_half, match: x, actions: {slow_by: 50%}}
"""
    rules, problems = read_rules(text, "f.yaml")
    assert problems == []
    assert rules[0].actions == Actions(
        slow_to="30/min", connections=2, for_seconds=5400.0, suspend_seconds=7200.0, switch_source=True,
        treat_as="block", retry_after_seconds=600.0,
    )  # fmt: skip
    assert rules[1].actions.slow_by_share == 0.5
    assert rules[1].actions.slows
    assert not Actions(suspend_seconds=5.0).slows


@pytest.mark.parametrize(
    ("pattern", "code", "fits"),
    [("421", 421, True), ("42x", 429, True), ("4xx", 499, True), ("4xx", 500, False), ("421", 422, False)],
)
def test_codes(pattern: str, code: int, fits: bool) -> None:
    assert code_matches(pattern, code) is fits


@pytest.mark.parametrize(
    ("pattern", "enhanced", "fits"),
    [
        ("4.7.28", "4.7.28", True),
        ("4.7.28", "4.7.2", False),
        ("4.7.28", "4.7.280", False),
        ("5.7.5xx", "5.7.515", True),
        ("5.7.5xx", "5.7.51", False),
        ("5.7.5xx", "5.7.615", False),
        ("4.7.*", "4.7.1", True),
        ("4.*.*", "4.2.2", True),
        ("x.7.1", "5.7.1", True),
        ("4.7.*", "", False),
    ],
)
def test_enhanced_codes(pattern: str, enhanced: str, fits: bool) -> None:
    assert enhanced_matches(pattern, enhanced) is fits


# -- matching ---------------------------------------------------------------------------------------------------------


def rule(name: str, match: str | None = None, **keys: object) -> Rule:
    return Rule(name=name, match=match, actions=Actions(suspend_seconds=60.0), **keys)  # type: ignore[arg-type]


def test_the_first_rule_that_matches_is_the_only_one() -> None:
    rules = RuleSet(
        [rule("a", "later", codes=["45x"]), rule("b", "later"), rule("c", enhanced="4.*.*"), rule("d", "l")]
    )
    assert rules.find("other", 450, "4.2.0", b"later").name == "a"  # type: ignore[union-attr]
    assert rules.find("other", 421, "4.2.0", b"LATER").name == "b"  # type: ignore[union-attr]
    assert rules.find("other", 421, "4.2.0", b"x").name == "c"  # type: ignore[union-attr]
    assert rules.find("other", 421, "", b"hello").name == "d"  # type: ignore[union-attr]
    assert rules.find("other", 421, "", b"x") is None
    assert rules.find("other", 250, "", b"later") is None
    assert RuleSet().find("other", 421, "", b"later") is None


@pytest.mark.parametrize(
    ("code", "text", "fired"),
    [
        (421, b"Please try again slower", "class_rate"),
        (451, b"4.7.1 Greylisted, come back later", "class_greylist"),
        (452, b"4.5.3 too many recipients", None),  # in one transaction: said of the message, not of how fast it comes
        (550, b"5.1.1 no such user", None),
    ],
)
def test_a_class_fires_where_no_rule_has_the_words(code: int, text: bytes, fired: str | None) -> None:
    enhanced = enhanced_status(code, text)
    said = built_in_classes().classify(code, enhanced, text, "other", b"")
    found = RuleSet(by_class=True).for_class(code, enhanced, said)
    assert (found and found.name) == fired


def test_a_rule_is_for_its_providers() -> None:
    rules = RuleSet([rule("a", "x", providers=["google", "yahoo"]), rule("b", "x")])
    assert rules.find("yahoo", 421, "", b"x").name == "a"  # type: ignore[union-attr]
    assert rules.find("qq", 421, "", b"x").name == "b"  # type: ignore[union-attr]


def test_only_the_first_octets_count() -> None:
    rules = RuleSet([rule("a", "busy")])
    assert rules.find("other", 421, "", b"x" * (TEXT_OCTETS - 4) + b"busy") is not None
    assert rules.find("other", 421, "", b"x" * (TEXT_OCTETS - 3) + b"busy") is None


def test_octets_that_are_no_text_are_matched() -> None:
    rules = RuleSet([rule("a", "b.sy"), rule("b", "späm")])
    assert rules.find("other", 421, "", b"b\xffsy").name == "a"  # type: ignore[union-attr]
    assert rules.find("other", 421, "", "späm".encode()).name == "b"  # type: ignore[union-attr]


def test_lines_of_a_reply_are_one_text() -> None:
    assert (
        one_line(b"4.7.28 unusual rate\n4.7.28 of mail\r\n4.7.29 x", "4.7.28")
        == b"4.7.28 unusual rate of mail 4.7.29 x"
    )
    assert one_line(b"unusual rate\nof mail", "") == b"unusual rate of mail"
    assert one_line(b"4.7.1 a\nb", "") == b"4.7.1 a b"


def test_what_was_found_is_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "KEPT_TEXTS", 10)
    rules = RuleSet([rule("a", "7$")])
    for number in range(100):
        found = rules.find("other", 421, "", b"%d" % number)
        assert (found is not None) == (number % 10 == 7)
        assert len(rules._kept) <= 10


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(400, 599), st.sampled_from(["google", "qq", "other"]))
def test_no_reply_breaks_the_matching(text: bytes, code: int, provider: str) -> None:
    BUILT_IN.find(provider, code, enhanced_status(code, text), text)


def test_hostile_texts_take_linear_time() -> None:
    """Not a matter of speed but of form: backtracking would take longer than the universe for these."""
    rules = RuleSet([rule(f"r{n}", match) for n, match in enumerate((r"(x+x+)+y", r"(a|aa)+$b", r"(.*a){20}z"))])
    for text in (b"x" * TEXT_OCTETS, b"a" * TEXT_OCTETS, b"ab" * TEXT_OCTETS):
        assert rules.find("other", 421, "", text) is None


def test_an_operators_rules_come_first_and_replace_those_of_their_name(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "rules:\n- {name: any_rate, match: throttl, actions: {suspend: 1m}}\n"
        "- {name: mine, match: 'unusual rate', actions: {suspend: 2m}}\n"
    )
    config = load_text(f"hostname: mta.news.example\nbackoff: {{rules: {path}}}\n")
    rules = rules_of(config)
    assert [one.name for one in rules.rules[:2]] == ["any_rate", "mine"]
    assert sum(one.name == "any_rate" for one in rules.rules) == 1
    assert rules.find("google", 421, "4.7.28", b"4.7.28 unusual rate").name == "mine"  # type: ignore[union-attr]
    assert rules.by_name["any_rate"].actions.suspend_seconds == 60.0
    alone = rules_of(load_text(f"hostname: mta.news.example\nbackoff: {{rules: {path}, built_in: no}}\n"))
    assert [one.name for one in alone.rules] == ["any_rate", "mine"]
    assert rules_of(load_text("hostname: mta.news.example\nbackoff: {enabled: no}\n")).rules == []
    assert load_rules(path)[1].name == "mine"


def test_a_file_that_broke_since_it_was_checked_leaves_the_built_in_rules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("rules:\n- {name: mine, match: x, actions: {suspend: 2m}}\n")
    config = load_text(f"hostname: mta.news.example\nbackoff: {{rules: {path}, built_in: no}}\n")
    path.write_text("rules: [")
    assert len(rules_of(config).rules) == len(built_in_rules())
    assert "the built-in ones hold" in caplog.text


def test_the_configuration_is_refused_with_a_broken_rules_file(tmp_path: Path) -> None:
    from fastrelay.errors import ConfigError

    path = tmp_path / "own.yaml"
    path.write_text("rules:\n- {name: mine, match: '(x', actions: {suspend: 2m}}\n")
    with pytest.raises(ConfigError) as caught:
        load_text(f"hostname: mta.news.example\nbackoff: {{rules: {path}}}\n")
    assert f"{path}:2: rules[0].match" in str(caught.value)


def test_a_hundred_rules_are_asked_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what a look-up costs; asserts only that it finds what it should."""
    rules = RuleSet([rule(f"r{n}", f"code {n:03d} .* of (ip|domain)") for n in range(100)])
    texts = [b"4.7.0 the code %03d was seen %d of ip" % (n % 120, n) for n in range(2000)]
    began = time.perf_counter()
    found = [rules.find("other", 421, "4.7.0", text) for text in texts]
    spent = (time.perf_counter() - began) / len(texts)
    assert [one is not None for one in found] == [n % 120 < 100 for n in range(2000)]
    with capsys.disabled():
        print(f"\n100 rules, texts never seen before: {spent * 1e6:.1f} µs each")
