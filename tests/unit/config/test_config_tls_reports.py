"""Rules about TLS reports: mailboxes that may stand in header fields, and a key that signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrelay.config.load import load_document
from fastrelay.errors import ConfigError

BASE = "hostname: relay.test\nlisteners: {smtp: [{bind: 127.0.0.1:2525}]}\n"


def document(folder: Path, text: str):  # type: ignore[no-untyped-def]
    path = folder / "relay.yaml"
    path.write_text(BASE + text)
    return load_document(path)


@pytest.mark.parametrize(
    "value", ['"a@b.test\\r\\nX: y"', "nobody", '"<a@b.test>"', "a b@c.test", "ü@b.test", "a@ü.test"]
)
@pytest.mark.parametrize("key", ["sender", "contact"])
def test_a_mailbox_is_one(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="is no mailbox"):
        document(tmp_path, f"tls: {{outbound: {{reports: {{{key}: {value}}}}}}}\n")


def test_reports_that_nobody_signs_are_warned_of(tmp_path: Path) -> None:
    text = "tls: {outbound: {reports: {sender: tls@mail.b.test}}}\n"
    assert any("no DKIM key signs mail from mail.b.test" in str(one) for one in document(tmp_path, text).warnings)
    signed = text + "dkim: {keys: [{domain: b.test, selector: s, key: k.pem}]}\n"
    assert not any("DKIM key" in str(one) for one in document(tmp_path, signed).warnings)
