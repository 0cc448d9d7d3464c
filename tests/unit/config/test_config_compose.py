"""Templates, and the rules about `compose` and `checks`."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastrelay.config.load import load_text, parse
from fastrelay.config.templates import Template, faults, local_text
from fastrelay.errors import ConfigError

GOOD = """\
hostname: mx1.example.com
compose:
  add: [date, message_id]
  list_unsubscribe: https://news.example/u/{reference}?to={recipient}
  list_unsubscribe_mailto: mailto:unsubscribe+{reference}@news.example?subject={campaign}
  feedback_id: "{campaign}:{tenant}:news:fastrelay"
  cfbl_address: fbl@news.example
  reference: X-Fastrelay-Reference
  reverse_path: b+{reference}@news.example
checks: {refuse: [from, date], warn: [unsubscribe]}
"""


def load(name: str, value: str) -> list[str]:
    """Problems and warnings of a configuration with one key of `compose` set."""
    text = f"hostname: mx1.example.com\ncompose:\n  {name}: {value}\n"
    try:
        found = list(parse(text, "test.yaml").warnings)
    except ConfigError as error:
        found = list(error.problems)
    return [f"{one.path}: {one.problem}" for one in found]


def test_all_of_it() -> None:
    compose = load_text(GOOD).compose
    assert compose.add == ["date", "message_id"]
    assert compose.reverse_path == "b+{reference}@news.example"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("list_unsubscribe", "'https://a.example/{recipent}'", "no placeholder"),
        ("list_unsubscribe", "'https://a.example/{recipient'", "brace"),
        ("list_unsubscribe", "'https://a.example/}{reference}'", "brace"),
        ("list_unsubscribe", "'http://a.example/{reference}'", "https"),
        ("list_unsubscribe", "'mailto:u@a.example'", "https"),
        ("list_unsubscribe", "'https://{domain}/{reference}'", "host name"),
        ("list_unsubscribe", "'https://u:{reference}@a.example/'", "host name"),
        ("list_unsubscribe", "'https:///{reference}'", "host name"),
        ("list_unsubscribe", "'https://a.example/a b{reference}'", "character"),
        ("list_unsubscribe", "'https://a.example/>{reference}'", "character"),
        ("list_unsubscribe", "'https://a.exämple/{reference}'", "character"),
        ("list_unsubscribe", '"https://a.example/\\r\\nX: {reference}"', "character"),
        ("list_unsubscribe_mailto", "'unsubscribe'", "domain"),
        ("list_unsubscribe_mailto", "'u@{domain}'", "domain"),
        ("list_unsubscribe_mailto", "'u@a.example?subject=x'", "mailto URL"),
        ("list_unsubscribe_mailto", "'a b@a.example'", "local part"),
        ("list_unsubscribe_mailto", "'<u@a.example>'", "domain"),
        ("list_unsubscribe_mailto", "'unsubscribe-me-now+{reference}@a.example'", "characters for the reference"),
        ("feedback_id", "'a:b:c:d:sender'", "5 parts"),
        ("feedback_id", "'a:{recipient}:sender'", "differs for each"),
        ("feedback_id", "'{reference}:sender'", "differs for each"),
        ("feedback_id", "'a:{tenant}'", "sender id"),
        ("feedback_id", "'a:b:'", "sender id"),
        ("feedback_id", "'a b:c:sender'", "character"),
        ("cfbl_address", "'nobody'", "domain"),
        ("cfbl_address", "'f+{id}@a.example'", "placeholder"),
        ("reference", "From", "meaning of its own"),
        ("reference", "DKIM-Signature", "meaning of its own"),
        ("reverse_path", "'bounces'", "domain"),
        ("reverse_path", "'b+{reference}@{domain}'", "domain"),
        ("reverse_path", "'.b{reference}@a.example'", "local part"),
        ("reverse_path", f"'{'b' * 65}@a.example'", "longer than 64"),
        ("reverse_path", "'bounces-of-mine-{reference}@a.example'", "characters for the reference"),
    ],
)  # fmt: skip
def test_problems(name: str, value: str, problem: str) -> None:
    found = load(name, value)
    assert len(found) == 1, found
    assert found[0].startswith(f"compose.{name}: ")
    assert problem in found[0]


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("list_unsubscribe", "'https://a.example/u'", "same for every recipient"),
        ("list_unsubscribe", "'https://a.example/u?{reference}#x'", "fragment"),
        ("reverse_path", "'bounces@a.example'", "same for every recipient"),
        ("reverse_path", "'bounces-{reference}-x@a.example'", "tell the recipients of one"),
    ],
)
def test_warnings(name: str, value: str, warning: str) -> None:
    found = load(name, value)
    assert load_text(f"hostname: a.example\ncompose:\n  {name}: {value}\n")
    assert len(found) == 1, found
    assert warning in found[0]


def test_one_click_has_to_be_signed() -> None:
    text = GOOD + "dkim: {keys: [{domain: a.example, selector: s, key: /k}], sign_fields: [From, Subject]}\n"
    assert any("one-click" in one.problem for one in parse(text, "test.yaml").warnings)


def test_checks_twice_and_without_keys() -> None:
    text = "hostname: a.example\nchecks: {refuse: [unsigned, from], warn: [from]}\n"
    assert [one.path for one in parse(text, "test.yaml").warnings] == ["checks.warn", "checks.refuse"]


def test_a_check_that_is_not_known() -> None:
    with pytest.raises(ConfigError, match=r"checks\.refuse"):
        load_text("hostname: a.example\nchecks: {refuse: [spam]}\n")


# -- templates --------------------------------------------------------------------------------------------------------

values = st.binary(max_size=60)


@given(values)
@example(b"\r\nX-Evil: 1")
@example("ä@ö.example".encode())
def test_in_a_url_a_value_stays_a_value(value: bytes) -> None:
    made = Template("https://a.example/u/{recipient}/{campaign}?x={tenant}&y=1", "url").fill(
        {"recipient": value, "campaign": value, "tenant": value}
    )
    assert re.fullmatch(r"[A-Za-z0-9._~:/?&=%-]*", made)
    split = urlsplit(made)
    assert (split.netloc, split.query.count("&"), split.path.count("/")) == ("a.example", 1, 3)
    assert unquote(split.path, errors="surrogateescape").encode("utf-8", "surrogateescape") == b"/u/%b/%b" % (
        value, value,
    )  # fmt: skip


@given(values)
@example(b"a..b")
@example(b".")
def test_in_a_local_part_a_value_is_atext(value: bytes) -> None:
    made = local_text(value)
    assert not re.search(rb'[\x00-\x20\x7f@<>()\[\]:;,\\"%]', made)
    assert b".." not in made


def test_verp_is_as_people_know_it() -> None:
    template = Template("bounces+{local}={domain}", "local")
    assert template.fill({"local": b"jane.doe", "domain": b"example.com"}) == "bounces+jane.doe=example.com"
    assert Template("b+{recipient}", "local").fill({"recipient": b'"a b"@c.example'}) == "b+=22a=20b=22=c.example"


@given(values)
def test_in_a_token_a_value_adds_no_part(value: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._=+-]*:x", Template("{campaign}:x", "token").fill({"campaign": value}))


@given(values)
def test_in_a_mailto_a_value_adds_no_field(value: bytes) -> None:
    made = Template("{campaign}", "mailto").fill({"campaign": value})
    assert not re.search(r"[\s<>?&#\"]", made)
    assert made.isascii()


def test_faults_are_named() -> None:
    assert faults("{recipient} and {reference}") == []
    assert "{x} is no placeholder" in faults("{x}")[0]
    assert faults("{{recipient}}") == ["a brace stands alone"]
    assert faults("{}")[0].startswith("{} is no placeholder")
