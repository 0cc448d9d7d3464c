"""What the configuration says about DKIM, and the look at key files before a start."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dkim_keys import key_file, rsa_key

from fastrelay.config.checks import check_host
from fastrelay.config.load import Document, parse
from fastrelay.errors import ConfigError

BASE = "hostname: relay.news.example\nlisteners: {smtp: [{bind: 127.0.0.1:2525}]}\nrelay_networks: [127.0.0.0/8]\n"


def document(text: str) -> Document:
    return parse(BASE + text, "relay.yaml", "/nowhere")


def key(selector: str = "s1", domain: str = "news.example", more: str = "") -> str:
    return f"{{domain: {domain}, selector: {selector}, key: k.pem{more}}}"


def keys(*texts: str) -> str:
    return f"dkim: {{keys: [{', '.join(texts)}]}}\n"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        document(text)
    return [f"{problem.path}: {problem.problem}" for problem in found.value.problems]


def warnings_of(text: str) -> list[str]:
    return [f"{problem.path}: {problem.problem}" for problem in document(text).warnings if "dkim" in problem.path]


def test_two_live_selectors_are_fine() -> None:
    assert warnings_of(keys(key("s1"), key("s2"), key("e1", more=", sign: false"))) == []


def test_a_place_in_the_dns_is_taken_once() -> None:
    assert faults(keys(key("s1"), key("S1"))) == [
        "dkim.keys[1].selector: S1._domainkey.news.example is also the place of dkim.keys[0]"
    ]
    assert warnings_of(keys(key("s1"), key("s1", "other.example"))) == []


@pytest.mark.parametrize("selector", ["a_b", "a-", "a..b", "a.", "x" * 64])
def test_a_selector_can_stand_in_the_dns(selector: str) -> None:
    assert "cannot stand in the DNS" in faults(keys(key(f'"{selector}"')))[0]


@pytest.mark.parametrize("selector", ["a", "2026", "fr2026.eu", "a-b", "x" * 63])
def test_selectors(selector: str) -> None:
    assert warnings_of(keys(key(f'"{selector}"'))) == []


def test_a_signature_that_does_not_count_for_dmarc_is_warned_of() -> None:
    (warning,) = warnings_of(keys(key(more=', senders: [news.example, "*.shop.example", "*"]')))
    assert warning.startswith("dkim.keys[0].senders[1]: *.shop.example is not within news.example")
    both = keys(key(more=', senders: ["*.shop.example"]'), key("s2", "shop.example"))
    assert warnings_of(both) == []


@pytest.mark.parametrize("name", ["sign_fields", "oversign_fields"])
@pytest.mark.parametrize("field", ["Received", "DKIM-Signature", "bcc"])
def test_fields_that_change_on_the_way_are_not_signed(name: str, field: str) -> None:
    assert faults(f"dkim: {{{name}: [From, {field}]}}\n") == [
        f"dkim.{name}[1]: {field} fields are added or removed on the way, and the signature would break"
    ]


def test_from_is_signed() -> None:
    assert "lacks From" in faults("dkim: {sign_fields: [To], oversign_fields: [Subject]}\n")[0]
    assert warnings_of("dkim: {sign_fields: [To], oversign_fields: [from]}\n") == []


def test_a_signature_that_ends_before_the_last_attempt_is_warned_of() -> None:
    (warning,) = warnings_of("retry: {expire: 2d}\ndkim: {lifetime: 1d}\n")
    assert "is 1d, but mail may be tried for 2d" in warning
    assert warnings_of("retry: {expire: 2d}\ndkim: {lifetime: 7d}\n") == []


def of_host(tmp_path: Path, file: str) -> tuple[list[str], list[str]]:
    text = f"state_dir: {tmp_path}\ndkim:\n  keys:\n    - {{domain: news.example, selector: s1, key: {file}}}\n"
    made = parse(BASE + text, "relay.yaml")
    found = check_host(made.config, made.file, made.lines, listeners=False)
    return [str(one) for one in found.problems], [str(one) for one in found.warnings if "dkim" in one.path]


def test_a_start_is_refused_without_a_key(tmp_path: Path) -> None:
    problems, _ = of_host(tmp_path, str(tmp_path / "none.pem"))
    assert problems == [
        f"relay.yaml:7: dkim.keys[0].key: {tmp_path}/none.pem cannot be read (No such file or directory); "
        "make one (fastrelay dkim new), or correct the name"
    ]


def test_a_start_with_a_key(tmp_path: Path) -> None:
    assert of_host(tmp_path, key_file(tmp_path, "k.pem", rsa_key())) == ([], [])
    problems, warned = of_host(tmp_path, key_file(tmp_path, "short.pem", rsa_key(1024)))
    assert (problems, len(warned)) == ([], 1)
