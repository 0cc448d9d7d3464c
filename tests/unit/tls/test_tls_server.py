"""The certificate that clients see: what is wrong with it in words, and how a new one is taken over."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fastrelay._core.slab import Slab
from fastrelay.clock import SimulatedClock
from fastrelay.config.checks import check_host
from fastrelay.config.load import load_text, parse
from fastrelay.config.security import Tls
from fastrelay.errors import ConfigError
from fastrelay.metrics import names
from fastrelay.metrics.meters import Meters
from fastrelay.tls.server import CertificateFault, ServerTls, handshake_result, load

WALL = 1_800_000_000.0
DAY = 86400.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Files:
    """A certificate and a key on disk, replaced as an operator does."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.authority = authority
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.tls = Tls(certificate=str(self.certificate), key=str(self.key))
        self.write(self.issue())

    def issue(self, name: str = "relay.test", **more: Any) -> trustme.LeafCert:
        return self.authority.issue_cert(name, **more)

    def write(self, leaf: trustme.LeafCert, key: trustme.LeafCert | None = None) -> None:
        self.put(self.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.put(self.key, (key or leaf).private_key_pem.bytes())

    @staticmethod
    def put(path: Path, octets: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(octets)
        new.chmod(0o600)
        os.replace(new, path)


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


def when(wall: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC)


def fault(tls: Tls, wall: float = WALL) -> CertificateFault:
    with pytest.raises(CertificateFault) as found:
        load(tls, wall)
    assert found.value.mend
    return found.value


def test_a_sound_certificate(files: Files) -> None:
    end = when(WALL + 90 * DAY)
    files.write(files.issue(not_after=end))
    loaded = load(files.tls, WALL)
    assert loaded.expires == end.replace(microsecond=0).timestamp()
    assert loaded.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (
        load(Tls(files.tls.certificate, files.tls.key, "1.3"), WALL).context.minimum_version is ssl.TLSVersion.TLSv1_3
    )
    old = {cipher["name"] for cipher in loaded.context.get_ciphers() if cipher["protocol"] == "TLSv1.2"}
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in old)


def test_key_in_the_file_of_the_certificate(files: Files) -> None:
    leaf = files.issue()
    files.put(files.certificate, leaf.private_key_and_cert_chain_pem.bytes())
    assert load(Tls(files.tls.certificate), WALL).context
    files.put(files.certificate, leaf.cert_chain_pems[0].bytes())
    assert fault(Tls(files.tls.certificate)).key == "tls.certificate"


def test_what_is_wrong_is_said(files: Files) -> None:
    files.write(files.issue(), key=files.issue("other.test"))
    found = fault(files.tls)
    assert (found.key, "is not that of the certificate" in found.problem) == ("tls.key", True)

    files.write(files.issue(not_after=when(WALL - DAY)))
    found = fault(files.tls)
    assert (found.key, "has expired, on 2027-01-14" in found.problem) == ("tls.certificate", True)

    files.write(files.issue(not_before=when(WALL + DAY), not_after=when(WALL + 9 * DAY)))
    assert "is not valid before" in fault(files.tls).problem

    files.write(files.issue())
    files.put(files.key, b"nonsense")
    found = fault(files.tls)
    assert (found.key, "no usable key" in found.problem) == ("tls.key", True)

    files.key.unlink()
    found = fault(files.tls)
    assert (found.key, "can't be read (No such file or directory)" in found.problem) == ("tls.key", True)

    files.put(files.certificate, b"nonsense")
    found = fault(files.tls)
    assert (found.key, "no certificate in PEM" in found.problem) == ("tls.certificate", True)

    files.certificate.unlink()
    assert "No such file" in fault(files.tls).problem


def test_a_key_with_a_passphrase_asks_nobody(files: Files) -> None:
    key = rsa.generate_private_key(65537, 2048)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    files.put(files.key, encrypted)
    assert "is encrypted" in fault(files.tls).problem


# -- one worker's ------------------------------------------------------------------------------------------------------


class Box:
    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock(start=WALL)
        self.meters = Meters(Slab(folder / "slab", create=True))
        self.tls = ServerTls(SimpleNamespace(clock=self.clock, meters=self.meters))  # type: ignore[arg-type]

    def looks(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(6)
            self.tls.look(self.clock.monotonic())

    def gauge(self, metric: names.Metric) -> float:
        return {name: value for kind, name, _, value in self.meters.slab.entries() if kind == "gauge"}[metric.name]


def test_a_new_file_is_taken_over(tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    box = Box(tmp_path)
    box.tls.configure(files.tls)
    first = box.tls.context
    assert first is not None
    box.looks(3)
    assert box.tls.context is first
    files.write(files.issue(not_after=when(WALL + 30 * DAY)))
    box.looks()  # it may be half of a change
    assert box.tls.context is first
    box.looks()
    assert box.tls.context is not first
    assert box.gauge(names.TLS_CERTIFICATE_EXPIRY) == WALL + 30 * DAY
    assert "valid until 2027-02-14" in caplog.text
    second = box.tls.context
    box.looks(3)
    assert box.tls.context is second


def test_a_broken_file_leaves_the_old_one(tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    box = Box(tmp_path)
    box.tls.configure(files.tls)
    first, expiry = box.tls.context, box.gauge(names.TLS_CERTIFICATE_EXPIRY)
    files.write(files.issue(), key=files.issue("other.test"))
    box.looks(5)
    assert box.tls.context is first
    assert box.gauge(names.TLS_CERTIFICATE_BROKEN) == 1
    assert box.gauge(names.TLS_CERTIFICATE_EXPIRY) == expiry
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert said[0].startswith("the new certificate can't be used, so the one before it stays in use: tls.key: ")
    files.key.unlink()
    box.looks(3)
    assert box.tls.context is first
    files.write(files.issue())
    box.looks(2)
    assert box.tls.context is not first
    assert box.gauge(names.TLS_CERTIFICATE_BROKEN) == 0


def test_a_reload_reads_at_once(tmp_path: Path, files: Files) -> None:
    box = Box(tmp_path)
    box.tls.configure(files.tls)
    first = box.tls.context
    files.write(files.issue())
    box.tls.configure(files.tls)
    assert box.tls.context is not first
    second = box.tls.context
    files.certificate.unlink()
    box.tls.configure(files.tls)
    assert box.tls.context is second
    box.tls.configure(Tls())
    box.looks(2)
    assert box.tls.context is second


def test_a_start_needs_a_sound_one(tmp_path: Path, files: Files) -> None:
    files.key.unlink()
    with pytest.raises(CertificateFault, match=r"tls.key: .*can't be read"):
        Box(tmp_path).tls.configure(files.tls)


@pytest.mark.parametrize(
    ("reason", "word"),
    [("SSLV3_ALERT_BAD_CERTIFICATE", "alert"), ("NO_SHARED_CIPHER", "protocol"), ("", "protocol")],
)
def test_words_for_handshakes(reason: str, word: str) -> None:
    error = ssl.SSLError(1, "x")
    error.reason = reason
    assert handshake_result(error) == word
    assert handshake_result(None) == "ok"
    assert handshake_result(ConnectionResetError()) == "lost"
    assert handshake_result(ConnectionAbortedError("too long")) == "timeout"


# -- `fastrelay check` -------------------------------------------------------------------------------------------------


def text_of(folder: Path, listener: str, tls: str = "", more: str = "") -> str:
    return (
        f"hostname: a.example\nstate_dir: {folder}\nlisteners:\n  smtp:\n    - {{bind: {listener}}}\n"
        f"tls: {{{tls}}}\n{more}"
    )


def test_the_host_check_names_key_and_line(tmp_path: Path, files: Files) -> None:
    document = parse(
        f"hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: []}}\ntls:\n"
        f"  certificate: {files.certificate}\n  key: {files.key}\n",
        "relay.yaml",
    )
    assert check_host(document.config, document.file, document.lines).problems == []
    files.write(files.issue(), key=files.issue())
    (problem,) = check_host(document.config, document.file, document.lines).problems
    assert (problem.path, problem.line) == ("tls.key", 6)


def test_the_host_check_warns(tmp_path: Path, files: Files) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=5)
    files.write(files.issue(not_after=soon))
    files.key.chmod(0o644)
    text = f"hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: []}}\n"
    config = load_text(f"{text}tls: {{certificate: {files.certificate}, key: {files.key}}}\n")
    found = {warning.path: warning for warning in check_host(config, "x").warnings}
    assert "expires in" in found["tls.certificate"].problem
    assert "every user of this host may read it" in found["tls.key"].problem
    assert found["tls.key"].mend == f"chmod o= {files.key}"


@pytest.mark.parametrize(
    ("listener", "tls", "path"),
    [
        ('"127.0.0.1:2525", tls: starttls', "", "listeners.smtp[0].tls"),
        ('"127.0.0.1:465", tls: implicit', "", "listeners.smtp[0].tls"),
        ('"127.0.0.1:2525"', "key: /k.pem", "tls.key"),
    ],
)
def test_tls_needs_a_certificate(tmp_path: Path, listener: str, tls: str, path: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_text(text_of(tmp_path, listener, tls))
    assert [problem.path for problem in found.value.problems] == [path]


@pytest.mark.parametrize(
    ("listener", "path"),
    [
        ('"127.0.0.1:465"', "listeners.smtp[0].tls"),
        ('"127.0.0.1:587", tls: implicit', "listeners.smtp[0].tls"),
        ('"127.0.0.1:2525", proxy_from: ["0.0.0.0/0"]', "listeners.smtp[0].proxy_from"),
        ('"127.0.0.1:587", tls: starttls', None),
        ('"127.0.0.1:465", tls: implicit, proxy_from: ["10.0.0.0/8"]', None),
    ],
)
def test_what_is_unwise_is_said(tmp_path: Path, listener: str, path: str | None) -> None:
    warnings = parse(text_of(tmp_path, listener, "certificate: /c.pem"), "x").warnings
    assert [warning.path for warning in warnings] == ([] if path is None else [path])
