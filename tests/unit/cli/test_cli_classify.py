"""`fastrelay classify` with the rules of a configuration, and what `fastrelay check` says of a faulty file of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPLY = "554 5.7.1 Geht hier nicht"
RULES = """\
version: 1
rules:
  - name: here_not
    match: "geht hier nicht"
    means: bad_mailbox
    about: recipient
  - name: of_ours
    providers: [ours]
    match: "not today"
    means: greylist
    source: their postmaster told us
"""
CONFIG = """\
hostname: relay.test
listeners: {smtp: [{bind: "127.0.0.1:2525"}]}
replies: replies.yaml
providers:
  ours: {suffixes: [mx.ours.example]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with rules of its own, in a folder that is not the current one."""
    (tmp_path / "replies.yaml").write_text(RULES)
    (tmp_path / "some.yaml").write_text(CONFIG)
    return tmp_path / "some.yaml"


def told(fastrelay: Any, *words: object) -> dict[str, Any]:
    result = fastrelay("classify", "--json", *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_own_rules_come_first(fastrelay, config: Path) -> None:
    assert told(fastrelay, REPLY)["class"] != "bad_mailbox", "no rule of ours holds for it"
    answer = told(fastrelay, "-c", config, REPLY)
    assert (answer["class"], answer["about"], answer["against_recipient"]) == ("bad_mailbox", "recipient", True)
    assert (answer["rule"]["name"], answer["rule"]["file"]) == ("here_not", str(config.parent / "replies.yaml"))
    shown = [line.split(maxsplit=1) for line in fastrelay("classify", "-c", config, REPLY).output.splitlines()]
    assert ["file", str(config.parent / "replies.yaml")] in shown
    assert ["words", "Geht hier nicht"] in shown


def test_built_in_rules_follow(fastrelay, config: Path) -> None:
    for options in ((), ("-c", config)):
        answer = told(fastrelay, *options, "550 5.1.1 <a@b.example>: user unknown")
        assert (answer["class"], answer["rule"]["file"]) == ("bad_mailbox", "built-in")


def test_a_rule_in_place_of_a_built_in_one_is_of_the_own_file(fastrelay, config: Path) -> None:
    name = told(fastrelay, "550 5.1.1 <a@b.example>: user unknown")["rule"]["name"]
    (config.parent / "replies.yaml").write_text(f"rules:\n  - {{name: {name}, codes: [550], means: policy}}\n")
    answer = told(fastrelay, "-c", config, "550 5.1.1 <a@b.example>: user unknown")
    assert (answer["class"], answer["rule"]["name"]) == ("policy", name)
    assert answer["rule"]["file"] == str(config.parent / "replies.yaml")


def test_no_rule_has_no_file(fastrelay) -> None:
    answer = told(fastrelay, "nothing of the kind")
    assert (answer["class"], answer["rule"]) == ("other", None)


def test_providers_of_the_configuration(fastrelay, config: Path) -> None:
    answer = told(fastrelay, "-c", config, "--provider", "ours", "450 not today")
    assert (answer["class"], answer["provider"]) == ("greylist", "ours")
    assert answer["rule"]["source"] == "their postmaster told us"
    assert told(fastrelay, "-c", config, "450 not today")["rule"] != answer["rule"]
    result = fastrelay("classify", "--provider", "ours", "450 not today")
    assert result.exit_code == 2
    assert "google" in result.output


def test_the_default_configuration(fastrelay, config: Path) -> None:
    """The one in the current folder counts, and the environment names one too."""
    Path("fastrelay.yaml").write_text(CONFIG.replace("replies.yaml", str(config.parent / "replies.yaml")))
    assert told(fastrelay, REPLY)["class"] == "bad_mailbox"
    Path("fastrelay.yaml").unlink()
    assert told(fastrelay, REPLY)["class"] != "bad_mailbox"


def test_named_by_the_environment(fastrelay, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRELAY_CONFIG", str(config))
    assert told(fastrelay, REPLY)["class"] == "bad_mailbox"


def test_a_default_one_that_may_not_be_read_is_left_aside(fastrelay, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("fastrelay.yaml").write_text("not: [read")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != "fastrelay.yaml" and real(path, mode))
    assert told(fastrelay, "550 5.1.1 user unknown")["class"] == "bad_mailbox"


@pytest.mark.parametrize("absent", [True, False])
def test_a_named_one_must_be_usable(fastrelay, config: Path, absent: bool) -> None:
    named = config
    if absent:
        named = config.parent / "none.yaml"
    else:
        (config.parent / "replies.yaml").write_text("rules:\n  - name: empty\n")
    result = fastrelay("classify", "--json", "-c", named, REPLY)
    assert result.exit_code == 2
    [problem] = json.loads(result.output)["problems"]
    assert problem["file"] == str(named if absent else config.parent / "replies.yaml")


FAULTS = [
    (5, "means: bad_mailbox", "means: bad_mailbx", "means"),
    (4, '"geht hier nicht"', '"geht (hier"\n    codes: [554]', "match"),
    (8, "[ours]", "[theirs]", "providers"),
    (6, "about: recipient", "abuot: recipient", "abuot"),
    (7, "name: of_ours", "name: here_not", "rules[1]"),
]


@pytest.mark.parametrize(("line", "sound", "faulty", "words"), FAULTS, ids=[fault[3] for fault in FAULTS])
def test_check_tells_the_line_of_a_fault(
    fastrelay, config: Path, line: int, sound: str, faulty: str, words: str
) -> None:
    rules = config.parent / "replies.yaml"
    assert fastrelay("check", "--no-host", "-c", config).exit_code == 0
    rules.write_text(RULES.replace(sound, faulty))
    result = fastrelay("check", "--no-host", "-c", config)
    assert result.exit_code == 2
    [finding] = [one for one in result.stderr.splitlines() if one.startswith(f"{rules}:")]
    assert finding.startswith(f"{rules}:{line}: ")
    assert words in finding
    result = fastrelay("check", "--no-host", "--json", "-c", config)
    assert [(one["file"], one["line"]) for one in json.loads(result.stdout)["errors"]] == [(str(rules), line)]


def test_check_tells_all_faults_of_the_file(fastrelay, config: Path) -> None:
    rules = config.parent / "replies.yaml"
    rules.write_text(RULES.replace("means: bad_mailbox", "means: bad").replace("[ours]", "[theirs]"))
    errors = json.loads(fastrelay("check", "--no-host", "--json", "-c", config).stdout)["errors"]
    assert [(one["file"], one["line"]) for one in errors] == [(str(rules), 5), (str(rules), 8)]


def test_check_of_a_file_that_is_absent_or_no_yaml(fastrelay, config: Path) -> None:
    rules = config.parent / "replies.yaml"
    rules.write_text("rules:\n  - name: a\n  match: [\n")
    [error] = json.loads(fastrelay("check", "--no-host", "--json", "-c", config).stdout)["errors"]
    assert (error["file"], error["line"] > 1) == (str(rules), True)
    rules.unlink()
    [error] = json.loads(fastrelay("check", "--no-host", "--json", "-c", config).stdout)["errors"]
    assert (error["file"], error["line"], error["path"]) == (str(config), 3, "replies")
