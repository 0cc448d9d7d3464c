"""Our signatures before the judges of others: dkimpy, opendkim, opendkim-testmsg, Mail::DKIM, rspamd; keys from a DNS.

Each message is signed by an RSA and an Ed25519 key in each of the four forms. Mail::DKIM knows no Ed25519.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.dkim_keys import ed25519_key, one_key, records_of, rsa_key, signer_for, verdicts
from support.dkim_peers import Rspamd, mail_dkim, opendkim, opendkim_testmsg
from support.net import loopback_address
from support.peers import absent
from support.served_dns import ServedDns, zone_of

from fastrelay._core.canon import body_hash, parse_fields
from fastrelay.config.security import Dkim

pytestmark = pytest.mark.interop

FORMS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")
HEADER = (
    b'From: "News, weekly" <news@news.example>\r\nTo: reader@mailbox.example\r\nSubject: Tulips  and\r\n\t bulbs \r\n'
    b"Date: Mon, 23 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@news.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain;\r\n charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX-Job:7\r\n"
    b"List-Unsubscribe: <https://news.example/u/1>,\r\n <mailto:u+1@news.example>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)
PLAIN = b"From: news@news.example\r\nDate: Mon, 23 Nov 2026 18:00:00 +0000\r\nSubject: a\r\n"
# (Of a field that RFC 5322 allows once, opendkim-testmsg and rspamd do not take two. A milter sees no white
# space before a value, so opendkim cannot verify the simple form of a field that has other than one space there.)
REPEATED = b"Received: from a by b; Mon, 23 Nov 2026 18:00:00 +0000\r\nX-Tag: 1\r\n" + PLAIN + b"X-TAG: 2  3\r\n"
CONTENTS = {
    "newsletter": HEADER
    + b"\r\n"
    + b"Dear  reader, \r\n\t\r\ntulips are \xc3\xa9l\xc3\xa9gantes.\t\r\n" * 50
    + b"\r\n\r\n",
    "empty": PLAIN + b"\r\n",
    "blank lines": PLAIN + b"\r\n\r\n \r\n\t\r\n\r\n",
    "repeated fields": REPEATED + b"\r\nHello\r\n",
    "dots": PLAIN + b"\r\n.\r\n..a\r\n. b\r\n",
}


@dataclass
class Signed:
    """The messages in files, their keys in a DNS."""

    folder: Path
    messages: dict[tuple[str, str], Path]
    records: dict[str, str]
    altered: list[Path]
    dns: ServedDns


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    keys = [one_key(folder, rsa_key(), "r1"), one_key(folder, ed25519_key(), "e1")]
    messages = {}
    for number, form in enumerate(FORMS):
        config = Dkim(keys=keys, canonicalization=form, sign_fields=[*Dkim().sign_fields, "X-Tag"])  # type: ignore[arg-type]
        signer = signer_for(config)
        for name, content in CONTENTS.items():
            fields = parse_fields(content)
            digest = body_hash(content, content.index(b"\r\n\r\n") + 4, signer.relaxed_body)
            top = signer.sign(fields, digest, fields.from_domain(), b"", time.time())
            messages[name, form] = folder / f"{name.replace(' ', '_')}.{number}"
            messages[name, form].write_bytes(top + content)
    good = messages["newsletter", "relaxed/relaxed"].read_bytes()
    altered = [folder / "altered_body", folder / "altered_subject", folder / "added_reply_to"]
    altered[0].write_bytes(good.replace(b"tulips are", b"roses are"))
    altered[1].write_bytes(good.replace(b"Subject: Tulips", b"Subject: Roses"))
    altered[2].write_bytes(good.replace(b"X-Job:7", b"Reply-To: else@where.example"))
    assert all(file.read_bytes() != good for file in altered)
    with ServedDns(zone_of(records_of(signer))) as dns:
        yield Signed(folder, messages, records_of(signer), altered, dns)


def test_dkimpy(signed: Signed) -> None:
    for file in signed.messages.values():
        assert verdicts(file.read_bytes(), signed.records, 2) == [True, True], file


def test_opendkim(signed: Signed, tmp_path: Path) -> None:
    found = opendkim(tmp_path, signed.dns, list(signed.messages.values()))
    for name, verdict in zip(signed.messages, found, strict=True):
        assert verdict == {"r1": "pass", "e1": "pass"}, name
    for verdict in opendkim(tmp_path, signed.dns, signed.altered):
        assert verdict == {"r1": "fail", "e1": "fail"}
    assert signed.dns.server.asked("r1._domainkey.news.example", "TXT")


def test_opendkim_testmsg(signed: Signed, tmp_path: Path) -> None:
    """It asks at port 53 alone, so the DNS listens there, at a loopback address of its own."""
    try:
        dns = ServedDns(signed.dns.zone, loopback_address(), 53)
    except OSError as error:
        absent(f"a test can't listen at port 53 ({error.strerror})")
    with dns:
        found = {name: opendkim_testmsg(tmp_path, dns, file) for name, file in signed.messages.items()}
        assert found == dict.fromkeys(signed.messages, "")
        assert "Bad signature" in opendkim_testmsg(tmp_path, dns, signed.altered[0])
        assert dns.server.asked("r1._domainkey.news.example", "TXT")


def test_mail_dkim(signed: Signed, tmp_path: Path) -> None:
    found = mail_dkim(tmp_path, signed.dns, list(signed.messages.values()))
    assert dict(zip(signed.messages, [one["r1"] for one in found], strict=True)) == dict.fromkeys(
        signed.messages, "pass"
    )
    assert all(one["e1"] == "pass" or "unsupported algorithm" in one["e1"] for one in found)
    for verdict in mail_dkim(tmp_path, signed.dns, signed.altered):
        assert verdict["r1"].startswith("fail")


def test_rspamd(signed: Signed, tmp_path: Path) -> None:
    with Rspamd(tmp_path / "rspamd", signed.dns) as rspamd:
        for name, file in signed.messages.items():
            assert rspamd.verdict(file) == {"r1": "pass", "e1": "pass"}, name
        for file in signed.altered:
            assert rspamd.verdict(file) == {"r1": "fail", "e1": "fail"}
