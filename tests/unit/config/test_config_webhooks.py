"""Rules and host checks of events.webhooks."""

from pathlib import Path

import pytest

from fastrelay.config.checks import check_host
from fastrelay.config.load import load_text, parse
from fastrelay.errors import ConfigError

BASE = "hostname: mta.test\nstate_dir: {state}\nlisteners: {{smtp: [{{bind: '127.0.0.1:25'}}]}}\n"


def text(state: Path, *hooks: str) -> str:
    return BASE.format(state=state) + f"events: {{webhooks: [{', '.join('{' + hook + '}' for hook in hooks)}]}}\n"


GOOD = "name: app, url: 'https://app.example/hook'"


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ((GOOD, GOOD), "is the name of another one"),
        (("name: app, url: 'ftp://app.example/'",), "is no web address"),
        (("name: app, url: 'https:///hook'",), "is no web address"),
        (("name: app, url: 'https://app.example:99999/'",), "is no web address"),
        (('name: app, url: "https://app.example/\\n"',), "is no web address"),
        (("name: app, url: 'https://me:geheim@app.example/'",), "holds a user name or password"),
        ((GOOD + ", format: listmonk, events: [delivered]",), "has no word for delivered"),
        ((GOOD + ", format: postmark, secret_file: x",), "are not signed"),
        ((GOOD + ", username: me",), "needs password_file"),
        ((GOOD + ", password_file: x",), "needs username"),
        ((GOOD + ", username: 'a:b', password_file: x",), "has a colon"),
        (("name: app, url: 'http://127.0.0.1/', ca_file: x",), "means nothing without TLS"),
    ],
)
def test_problems(tmp_path: Path, hooks: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_text(text(tmp_path, *hooks))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("url", "warned"), [("http://app.example/", True), ("http://127.0.0.1:9000/", False)])
def test_plain_http_is_warned_of(tmp_path: Path, url: str, warned: bool) -> None:
    warnings = parse(text(tmp_path, f"name: app, url: '{url}'"), "x").warnings
    assert any("unencrypted" in one.problem for one in warnings) == warned


def test_files_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "bad").write_text("whsec_tooshort")
    (tmp_path / "bad").chmod(0o600)
    hooks = [
        f"name: a, url: 'https://a.example/', secret_file: {tmp_path}/open",
        f"name: b, url: 'https://a.example/', secret_file: {tmp_path}/bad",
        f"name: c, url: 'https://a.example/', secret_file: {tmp_path}/none, ca_file: {tmp_path}/bad",
    ]
    found = check_host(load_text(text(tmp_path, *hooks)), "x", listeners=False)
    problems = {one.path: one.problem for one in found.problems if one.path.startswith("events")}
    assert set(problems) == {"events.webhooks[1]", "events.webhooks[2]", "events.webhooks[2].ca_file"}
    assert "tooshort" not in str(problems)
    assert [one.path for one in found.warnings if one.path.startswith("events")] == ["events.webhooks[0].secret_file"]
