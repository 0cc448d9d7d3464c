"""`fastrelay queue show`: reverse-paths of each recipient, what a message asks of TLS, a key it waits for."""

from __future__ import annotations

import pytest

from fastrelay.cli.queue_view import show_message


def test_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_message({
        "id": "abcdef-1", "reverse_path": "news@a.example", "queued": 2, "reason": "no_dkim_key", "tls": "REQUIRETLS",
        "trace": "Received: x\r\nDate: y\r\n",
        "recipients": [
            {"address": "joe@b.example", "state": "queued", "mail_from": "b+joe\x1b@a.example", "reason": "dns"},
            {"address": "ann@b.example", "state": "queued", "mail_from": None},
        ],
    })  # fmt: skip
    out = capsys.readouterr().out
    assert "REQUIRETLS" in out
    assert "no dkim key" in out
    assert "MAIL FROM of each:\n  joe@b.example: b+joe" in out
    assert "\x1b" not in out
    assert "ann@b.example:" not in out


def test_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_message({"id": "abcdef-1", "recipients": [{"address": "joe@b.example", "state": "queued"}]})
    out = capsys.readouterr().out
    assert "MAIL FROM" not in out
    assert "TLS" not in out
