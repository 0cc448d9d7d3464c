"""`fastrelay complaints` against a fake relay, and `fastrelay complaint parse` of files."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fastrelay.cli.group import cli
from fastrelay.feedback.reference import References

ANSWER: dict[str, Any] = {
    "window_seconds": 604800.0, "warn_share": 0.001, "limit_share": 0.003, "least_delivered": 1000,
    "rates": [
        {"by": "all", "name": "", "delivered": 20_000, "complaints": 15, "share": 0.00075},
        {"by": "source", "name": "a", "delivered": 12_000, "complaints": 14, "share": 14 / 12_000},
        {"by": "campaign", "name": "evil\x1b[2J", "delivered": 2000, "complaints": 7, "share": 0.0035},
        {"by": "campaign", "name": "small", "delivered": 10, "complaints": 1, "share": None},
        {"by": "sender", "name": "news.example", "delivered": 20_000, "complaints": 15, "share": 0.00075},
    ],
}  # fmt: skip
KEY = bytes(range(32))
REFERENCE = References(KEY).make(b"reader@far.example", b"autumn", b"", b"news.example", 20_000, "t-1")
COMPLAINT = (
    "From: fbl@far.example\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
    "--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\n\n"
    f"--b\nContent-Type: message/rfc822\n\nX-Fastrelay-Reference: {REFERENCE}\nFrom: a@news.example\n\nWords\n--b--\n"
)


def test_rates(ask, fake_relay) -> None:
    fake_relay.answers["complaints.rates"] = ANSWER
    result = ask("complaints", "--most", "50")
    assert result.exit_code == 0
    assert fake_relay.arguments == {"most": 50}
    lines = [line.split() for line in result.output.splitlines()]
    assert ["all", "mail", "20,000", "15", "0.075%"] in lines
    assert ["a", "12,000", "14", "0.117%", "warn"] in lines
    assert ["small", "10", "1"] in lines
    assert "\x1b" not in result.output
    assert "0.350%" in result.output
    assert "limit" in result.output
    assert "FROM DOMAIN" in result.output


def test_rates_of_one_kind_and_json(ask, fake_relay) -> None:
    fake_relay.answers["complaints.rates"] = ANSWER
    assert json.loads(ask("complaints", "--by", "campaign", "--json").output) == ANSWER
    assert fake_relay.arguments == {"by": "campaign", "most": 10}
    fake_relay.answers["complaints.rates"] = {**ANSWER, "rates": []}
    assert "nobody complained" in ask("complaints").output
    assert ask("complaints", "--by", "colour").exit_code == 2


def test_parse(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_text(COMPLAINT)
    (tmp_path / "two.eml").write_text("From: a@b.example\nSubject: hello\n\nWords\n")
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    files = [str(tmp_path / name) for name in ("one.eml", "two.eml")]
    result = CliRunner().invoke(cli, ["complaint", "parse", "--json", "--key", str(tmp_path / "key"), *files])
    assert result.exit_code == 0
    first, second = map(json.loads, result.output.splitlines())
    assert (first["complaint"], first["kind"], first["references"]) == (True, "complaint", [REFERENCE])
    assert first["about"][0]["recipient"] == "reader@far.example"
    assert second == {"file": files[1], "complaint": False}
    result = CliRunner().invoke(cli, ["complaint", "parse", *files, str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "no complaint" in result.output
    assert "can't be read" in result.output
