"""TLS with real clients: posttls-finger judges our STARTTLS, openssl and smtplib implicit TLS, swaks both and PROXY."""

import os
import re
import signal
import smtplib
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trustme
from support.net import free_endpoint, split_endpoint, wait_until
from support.newsletters import assert_same, corpus, name_of
from support.peers import require
from support.relay import RelayProcess
from support.sink import Sink

pytestmark = pytest.mark.interop

BODY = b"Subject: x\r\n\r\nhello\r\n"


class Secured:
    """A relay with listeners of each kind, its certificate and the authority that signed it."""

    def __init__(self, folder: Path, make: Callable[..., RelayProcess], sink: Sink, workers: int = 2) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.authority.cert_pem.bytes())
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.renew()
        self.binds = {kind: free_endpoint() for kind in ("starttls", "implicit", "proxied")}
        smtp = [
            {"bind": self.binds["starttls"]},
            {"bind": self.binds["implicit"], "tls": "implicit"},
            {"bind": self.binds["proxied"], "tls": "implicit", "proxy_from": ["127.0.0.0/8"]},
        ]
        config = {
            "workers": workers,
            "listeners": {"smtp": smtp, "metrics": {"bind": free_endpoint()}},
            "tls": {"certificate": str(self.certificate), "key": str(self.key)},
            "relay_networks": ["127.0.0.0/8", "198.51.100.0/24"],
            "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
        }
        self.relay = make(config)

    def renew(self) -> None:
        leaf = self.authority.issue_cert("relay.test")
        for path, octets in (
            (self.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
            (self.key, leaf.private_key_pem.bytes()),
        ):
            path.with_suffix(".new").write_bytes(octets)
            path.with_suffix(".new").chmod(0o600)
            os.replace(path.with_suffix(".new"), path)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def serial(self) -> str:
        """Of the certificate that a client sees at the moment."""
        host, port = split_endpoint(self.binds["implicit"])
        context = self.context()
        context.check_hostname = False
        with smtplib.SMTP_SSL(host, port, local_hostname="client.test", timeout=60, context=context) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return str((client.sock.getpeercert() or {})["serialNumber"])

    def loaded(self) -> int:
        """How often a worker has taken a new certificate over."""
        return self.relay.log_text().count("the certificate was loaded")

    def metrics(self) -> dict[str, float]:
        bind = self.relay.config["listeners"]["metrics"]["bind"]
        with urllib.request.urlopen(f"http://{bind}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = (re.fullmatch(r"(fastrelay_\S+) (\S+)", line) for line in text.splitlines())
        return {one[1]: float(one[2]) for one in found if one}


@pytest.fixture
def secured(make_relay: Callable[..., RelayProcess], sink: Sink, tmp_path: Path) -> Secured:
    return Secured(tmp_path, make_relay, sink)


def ask(*words: str, env: Mapping[str, str] | None = None, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, input=said, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **(env or {})}
    )


def finger(secured: Secured, *words: str) -> str:
    """What posttls-finger says of our STARTTLS."""
    program = require("posttls-finger", "postfix")
    config = secured.folder / "postfix"
    config.mkdir()
    (config / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = finger.test\n")
    host, port = split_endpoint(secured.binds["starttls"])
    common = ("-l", "secure", "-L", "summary,certmatch", "-F", str(secured.ca_file))
    done = ask(program, *common, *words, f"[{host}]:{port}", "relay.test", env={"MAIL_CONFIG": str(config)})
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"Verified TLS connection established to {host}" in said
    return said


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_posttls_finger(secured: Secured, version: str) -> None:
    """Postfix's own judgement at the level "secure": chain, name, protocol; and what is offered afterwards."""
    said = finger(secured, "-p", version)
    assert f": {version} with cipher" in said
    before, _, after = said.partition("Ready to start TLS")
    assert "250-STARTTLS" in before
    assert "250-STARTTLS" not in after
    assert "250-REQUIRETLS" in after


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_session_is_resumed(
    make_relay: Callable[..., RelayProcess], sink: Sink, tmp_path: Path, version: str
) -> None:
    """By a ticket of the same worker; posttls-finger comes a second time."""
    secured = Secured(tmp_path, make_relay, sink, workers=1)
    assert "Reusing old session" in finger(secured, "-p", version, "-r", "1")


@pytest.mark.parametrize("kind", ["implicit", "starttls"])
def test_openssl_s_client(secured: Secured, kind: str) -> None:
    openssl = require("openssl")
    start = ("-starttls", "smtp") if kind == "starttls" else ()
    common = ("-connect", secured.binds[kind], *start, "-CAfile", str(secured.ca_file), "-ign_eof")
    script = "EHLO client.test\r\nQUIT\r\n"
    done = ask(openssl, "s_client", *common, "-verify_return_error", "-verify_hostname", "relay.test", said=script)
    assert done.returncode == 0, done.stderr
    assert "Verification: OK" in done.stdout
    assert "TLSv1.3" in done.stdout
    assert "250-REQUIRETLS" in done.stdout
    assert "221 2.0.0" in done.stdout
    assert "Compression: NONE" in done.stdout
    for refused in (("-tls1_1",), ("-tls1_2", "-cipher", "AES128-SHA"), ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA")):
        done = ask(openssl, "s_client", *common, *refused, said="")
        assert done.returncode != 0, done.stdout
        assert "Cipher is (NONE)" in done.stdout


def test_swaks(secured: Secured, sink: Sink) -> None:
    swaks = require("swaks")
    if ask("perl", "-MNet::SSLeay", "-e", "1").returncode:
        require("libnet-ssleay-perl")
    common = ("--from", "news@sender.example", "--to", "a@d.example", "--helo", "client.test", "--suppress-data")
    for kind, how in (("starttls", ("--tls",)), ("implicit", ("--tls-on-connect",))):
        host, port = split_endpoint(secured.binds[kind])
        done = ask(swaks, "--server", host, "--port", str(port), *common, *how)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "TLSv1.3" in done.stdout
    wait_until(lambda: len(sink.messages) == 2, what="two messages")
    for message in sink.messages:
        assert re.search(rb"\(using TLSv1\.3 with cipher \S+\)\s+by relay\.test with ESMTPS id", message.content)


def test_smtplib_over_implicit_tls(secured: Secured, sink: Sink) -> None:
    """Contents of every kind, byte for byte; the name and the chain are verified."""
    sent = dict(corpus())
    host, port = split_endpoint(secured.binds["implicit"])
    context = secured.context()
    context.check_hostname = False  # it would look for the address
    with smtplib.SMTP_SSL(host, port, local_hostname="client.test", timeout=60, context=context) as client:
        for name, content in sent.items():
            client.sendmail("news@sender.example", [f"{name}@d.example"], content, ["BODY=8BITMIME"])
    wait_until(lambda: len(sink.messages) == len(sent), what="all messages")
    came = {name_of(message.content): message for message in sink.messages}
    for name, content in sent.items():
        assert_same(came[name].without_trace(), content, name)
    events = [event for event in secured.relay.events() if event["event"] == "accepted"]
    assert {event["tls"] for event in events} == {"TLSv1.3"}


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_balancer_in_front(secured: Secured, sink: Sink, version: str) -> None:
    """swaks plays the balancer: header, then TLS, then SMTP."""
    swaks = require("swaks")
    host, port = split_endpoint(secured.binds["proxied"])
    done = ask(
        swaks, "--server", host, "--port", str(port), "--tls-on-connect", "--from", "news@sender.example", "--to",
        "a@d.example", "--helo", "client.test", "--proxy-version", version, "--proxy-family",
        "TCP4" if version == "1" else "AF_INET", "--proxy-source", "198.51.100.9", "--proxy-source-port", "4000",
        "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "465", "--proxy-protocol", "STREAM",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: sink.messages, what="the message")
    assert b"client.test ([198.51.100.9])" in sink.messages[0].content


def test_the_certificate_changes_under_way(secured: Secured, sink: Sink) -> None:
    """By itself and at SIGHUP; a broken one changes nothing; sessions go on."""
    host, port = split_endpoint(secured.binds["starttls"])
    context = secured.context()
    context.check_hostname = False
    with smtplib.SMTP(host, port, local_hostname="client.test", timeout=60) as client:
        client.starttls(context=context)
        serials = [secured.serial()]
        secured.renew()
        wait_until(lambda: secured.loaded() >= 2, what="the new certificate, by itself, in both workers")
        serials.append(secured.serial())
        secured.renew()
        secured.relay.signal(signal.SIGHUP)
        wait_until(lambda: "configuration was reloaded" in secured.relay.log_text(), what="both workers to reload")
        serials.append(secured.serial())
        assert len(set(serials)) == 3
        client.sendmail("news@sender.example", ["a@d.example"], BODY)
    wait_until(lambda: sink.messages, what="the message of the old session")
    secured.key.write_bytes(b"nonsense")
    wait_until(lambda: secured.metrics()["fastrelay_tls_certificate_broken"], what="the broken key to be seen")
    assert secured.serial()
    assert "so the one before it stays in use: tls.key: " in secured.relay.log_text()
    secured.relay.signal(signal.SIGHUP)
    wait_until(lambda: "the new configuration is refused" in secured.relay.log_text(), what="the reload to be refused")
    assert secured.serial()
    checked = secured.relay.cli("check", check=False)
    assert checked.returncode == 2
    assert "tls.key" in checked.stdout + checked.stderr
    secured.renew()
    wait_until(lambda: not secured.metrics()["fastrelay_tls_certificate_broken"], what="a sound one")
    assert secured.metrics()["fastrelay_tls_certificate_expiry_timestamp_seconds"] > 1_800_000_000


def test_a_relay_does_not_start_without_its_certificate(
    make_relay: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay({"tls": {"certificate": str(tmp_path / "none.pem")}}, start=False)
    done = relay.cli("check", check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "tls.certificate" in done.stdout + done.stderr
    assert "can't be read (No such file or directory)" in done.stdout + done.stderr
    done = relay.cli("run", check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "tls.certificate" in done.stdout + done.stderr
