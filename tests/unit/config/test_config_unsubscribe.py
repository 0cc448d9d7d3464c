"""Rules about the unsubscribe page, the links that lead to it, and the lines of complaint rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrelay.config.checks import check_host
from fastrelay.config.load import load_text, parse
from fastrelay.errors import ConfigError

HEAD = "hostname: mx1.example.com\n"
LISTENER = "listeners: {smtp: [{bind: '127.0.0.1:2525'}], unsubscribe: {bind: '%s'%s}}\n"
LINK = "compose: {list_unsubscribe: 'https://news.example%s'}\n"


def found(text: str) -> list[str]:
    """Problems and warnings, each with its key."""
    try:
        problems = list(parse(HEAD + text, "test.yaml").warnings)
    except ConfigError as error:
        problems = list(error.problems)
    return [f"{one.path}: {one.problem}" for one in problems]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LISTENER % ("127.0.0.1:8025", "") + LINK % "/unsubscribe/{reference}", ""),
        (LISTENER % ("127.0.0.1:8025", "") + LINK % "/unsubscribe?r={reference}", ""),
        (LISTENER % ("127.0.0.1:8025", "") + LINK % "/u/{reference}", "compose.list_unsubscribe: does not lead to"),
        (
            LISTENER % ("127.0.0.1:8025", "") + LINK % "/unsubscribe/{id}",
            "compose.list_unsubscribe: has no {reference}",
        ),
        (LISTENER % ("127.0.0.1:8025", ""), ""),
        (
            LISTENER % ("0.0.0.0:8025", "") + LINK % "/unsubscribe/{reference}",
            "listeners.unsubscribe: is reached without",
        ),
        (
            LISTENER % ("127.0.0.1:8025", ", tls: implicit") + LINK % "/unsubscribe/{reference}",
            "listeners.unsubscribe.tls: needs a certificate",
        ),
        ("unsubscribe: {path: 'unsubscribe/'}\n", "unsubscribe.path: 'unsubscribe/' is no path"),
        ("unsubscribe: {path: '/a b?'}\n", "unsubscribe.path: '/a b?' is no path"),
        ("unsubscribe: {path: /healthz}\n", "unsubscribe.path: '/healthz' is taken"),
        ("unsubscribe: {path: /}\n", "unsubscribe.path: '/' is taken"),
        ("complaints: {warn: 0.4%}\n", "complaints.warn: is above complaints.limit"),
    ],
)
def test_rules(text: str, words: str) -> None:
    said = [one for one in found(text) if one.startswith(("compose", "listeners.uns", "unsubscribe", "complaints"))]
    assert len(said) == bool(words), said
    assert not words or said[0].startswith(words)


@pytest.mark.parametrize(
    ("name", "octets", "words"),
    [
        ("page", b"<p>{form}</p>", ""), ("done_page", b"<p>done</p>", ""), ("page", b"<p></p>", "has no {form}"),
        ("page", b"\xff{form}", "is not UTF-8"), ("done_page", b"x" * ((1 << 20) + 1), "is larger than 1 MiB"),
        ("page", None, "can't be read"),
    ],
)  # fmt: skip
def test_pages(tmp_path: Path, name: str, octets: bytes | None, words: str) -> None:
    if octets is not None:
        (tmp_path / "page.html").write_bytes(octets)
    config = load_text(HEAD + f"state_dir: {tmp_path}/state\nunsubscribe: {{{name}: {tmp_path}/page.html}}\n")
    said = [one for one in check_host(config, "test.yaml", listeners=False).problems if one.path.startswith("unsub")]
    assert [one.path for one in said] == ([f"unsubscribe.{name}"] if words else [])
    assert all(words in one.problem for one in said)
