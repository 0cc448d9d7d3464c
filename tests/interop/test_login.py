"""Real clients log in with every mechanism, under TLS, to a relay in processes of its own: swaks, msmtp, smtplib,
aiosmtplib; and its users file changes under it."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from support import tls_certificates
from support.net import free_endpoint, split_endpoint, wait_until
from support.peers import require
from support.relay import RelayProcess
from support.sink import Sink
from support.users import PASSWORD, change_user, cheap, put_user

pytestmark = pytest.mark.interop
Maker = Callable[..., RelayProcess]
CONTENT = b"From: News <news@shop.example>\r\nTo: a@d.example\r\nSubject: x\r\n\r\nhello\r\n"
FAR = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


class Place:
    """A relay with users, submission with STARTTLS and with implicit TLS, and its certificate's issuer."""

    def __init__(self, relay: RelayProcess, users: Path, ca: Path) -> None:
        self.relay = relay
        self.users = users
        self.ca = ca
        self.host, self.port = relay.smtp
        self.tls_host, self.tls_port = split_endpoint(relay.config["listeners"]["smtp"][1]["bind"])

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def counted(self) -> dict[tuple[str, str], float]:
        """fastrelay_auth_total by mechanism and result, where it is not 0."""
        rows = self.relay.control("metrics", {"names": ["fastrelay_auth_total"]})["fastrelay_auth_total"]
        return {(mechanism, result): value for (mechanism, result), value in rows if value}


@pytest.fixture
def place(make_relay: Maker, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    cheap(monkeypatch)
    starttls, implicit = free_endpoint(), free_endpoint()
    hosts = [split_endpoint(one)[0] for one in (starttls, implicit)]
    ca = tls_certificates.make("test ca", ca=True, end=FAR, key_usage=tls_certificates.only_signs(certificates=True))
    leaf = ca.issue("relay.test", "relay.test", *hosts, end=FAR)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    key = tmp_path / "relay.pem"
    key.touch(0o600)
    key.write_bytes(leaf.pem + leaf.key_pem)
    users = tmp_path / "users"
    put_user(users, "shop", cram_md5=True, senders=["shop.example"])
    relay = make_relay(
        {
            "listeners": {"smtp": [{"bind": starttls}, {"bind": implicit, "tls": "implicit"}]},
            "routes": [{"domains": ["*"], "hosts": [sink.endpoint]}],
            "relay_networks": [],
            "tls": {"certificate": str(key)},
            "auth": {"users": str(users), "failures": 100_000},
        }
    )
    return Place(relay, users, tmp_path / "ca.pem")


def arrived(sink: Sink, number: int, protocol: str = "ESMTPSA") -> None:
    wait_until(lambda: len(sink.messages) >= number, 60, f"{number} messages, {len(sink.messages)} came")
    assert len(sink.messages) == number
    for message in sink.messages:
        assert re.search(rb" with (\S+) id ", message.content)[1].decode() == protocol  # type: ignore[index]


def run(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def swaks(place: Place, mechanism: str, *more: str, password: str = PASSWORD) -> subprocess.CompletedProcess[bytes]:
    return run(
        require("swaks"), "--server", place.host, "--port", str(place.port), "--helo", "swaks.test", "--auth",
        mechanism, "--auth-user", "shop", "--auth-password", password, "--from", "news@shop.example", "--to",
        "a@d.example", "--header", "From: news@shop.example", *more,
    )  # fmt: skip


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks(place: Place, sink: Sink, mechanism: str) -> None:
    perl = run("perl", "-MNet::SSLeay", "-e", "1")
    if perl.returncode:
        require("Net::SSLeay", "libnet-ssleay-perl")
    done = swaks(place, mechanism, "--tls")
    assert done.returncode == 0, done.stdout
    assert b" 235 2.7.0 Authentication successful" in done.stdout
    implicit = ["--tls-on-connect", "--server", place.tls_host, "--port", str(place.tls_port)]
    assert swaks(place, mechanism, *implicit).returncode == 0
    arrived(sink, 2)
    refused = swaks(place, mechanism, "--tls", password="a guess of mine")
    assert refused.returncode == 28, refused.stdout  # no authentication
    assert b" 535 5.7.8 " in refused.stdout
    plain = swaks(place, mechanism)  # AUTH is not offered without TLS
    assert plain.returncode == 28, plain.stdout
    assert b"250-AUTH" not in plain.stdout
    assert place.counted() == {(mechanism, "ok"): 2, (mechanism, "wrong"): 1}


MSMTP = """\
account test
host {host}
port {port}
tls on
tls_starttls {starttls}
tls_trust_file {ca}
tls_host_override relay.test
auth {mechanism}
user shop
password "{password}"
from news@shop.example
domain msmtp.test
"""


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram-md5", "scram-sha-256"])
@pytest.mark.parametrize("starttls", [True, False], ids=["starttls", "implicit"])
def test_msmtp(place: Place, sink: Sink, tmp_path: Path, mechanism: str, starttls: bool) -> None:
    msmtp = require("msmtp")
    host, port = (place.host, place.port) if starttls else (place.tls_host, place.tls_port)

    def sent(password: str) -> subprocess.CompletedProcess[bytes]:
        config = tmp_path / "msmtprc"
        config.touch(0o600)
        config.write_text(
            MSMTP.format(
                host=host, port=port, starttls="on" if starttls else "off", ca=place.ca, mechanism=mechanism,
                password=password,
            )
        )  # fmt: skip
        return run(msmtp, "-C", str(config), "-a", "test", "a@d.example", stdin=CONTENT.replace(b"\r\n", b"\n"))

    done = sent(PASSWORD)
    assert done.returncode == 0, done.stderr
    arrived(sink, 1)
    refused = sent("a guess of mine")
    assert refused.returncode == 77, refused.stderr  # EX_NOPERM
    assert b"535" in refused.stderr
    assert place.counted() == {(mechanism.upper(), "ok"): 1, (mechanism.upper(), "wrong"): 1}


def test_smtplib(place: Place, sink: Sink) -> None:
    with smtplib.SMTP(place.host, place.port, timeout=60) as client:
        client.starttls(context=place.context())
        client.login("shop", PASSWORD)
        client.sendmail("news@shop.example", ["a@d.example"], CONTENT)
        with pytest.raises(smtplib.SMTPSenderRefused, match="You may not send as"):
            client.sendmail("ceo@bank.example", ["a@d.example"], CONTENT)
    with smtplib.SMTP_SSL(place.tls_host, place.tls_port, timeout=60, context=place.context()) as client:
        client.login("shop", PASSWORD)
        client.sendmail("news@shop.example", ["a@d.example"], CONTENT)
    arrived(sink, 2)


def test_aiosmtplib_with_many_connections_that_log_in_at_once(place: Place, sink: Sink) -> None:
    async def one() -> None:
        async with aiosmtplib.SMTP(
            hostname=place.tls_host, port=place.tls_port, timeout=120, use_tls=True, tls_context=place.context(),
            username="shop", password=PASSWORD,
        ) as client:  # fmt: skip
            await client.sendmail("news@shop.example", ["a@d.example"], CONTENT)

    async def together() -> None:
        await asyncio.gather(*(one() for _ in range(30)))

    asyncio.run(together())
    arrived(sink, 30)


def test_the_users_file_changes_under_a_running_relay(place: Place, sink: Sink) -> None:
    def login(name: str, password: str = PASSWORD) -> int:
        with smtplib.SMTP_SSL(place.tls_host, place.tls_port, timeout=60, context=place.context()) as client:
            try:
                return client.login(name, password)[0]
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code

    def everywhere(name: str, code: int, password: str = PASSWORD) -> None:
        """Both workers say so: enough connections in a row that neither was left out."""
        row = 0

        def enough() -> bool:
            nonlocal row
            row = row + 1 if login(name, password) == code else 0
            return row >= 12

        wait_until(enough, 90, f"{name} to get {code}")

    session = smtplib.SMTP_SSL(place.tls_host, place.tls_port, timeout=60, context=place.context())
    session.login("shop", PASSWORD)
    made = place.relay.cli("user", "add", "crm", "--generate", "--json")
    password = json.loads(made.stdout)["password"]
    everywhere("crm", 235, password)
    place.relay.cli("user", "set", "shop", "--disable")
    everywhere("shop", 525)
    with pytest.raises(smtplib.SMTPSenderRefused, match="disabled"):
        session.sendmail("news@shop.example", ["a@d.example"], CONTENT)
    assert session.noop()[0] == 250
    place.users.write_text("{broken\n")
    place.relay.signal(1)  # SIGHUP: the configuration is refused as a whole, and so is the file
    wait_until(lambda: "is not JSON" in place.relay.log_path.read_text(), 60, "the relay to say what is wrong")
    assert login("crm", password) == 235
    session.close()
    assert not sink.messages
    log = place.relay.log_path.read_text()
    assert PASSWORD not in log
    assert password not in log


def test_guessing_is_said_once_and_slowed_in_all_workers(
    make_relay: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch)
    users = tmp_path / "users"
    put_user(users, "shop")
    relay = make_relay(
        {"auth": {"users": str(users), "without_tls_on_loopback": True, "failures": 5, "failure_delay": "10m"}}
    )

    def guess() -> int:
        with smtplib.SMTP(*relay.smtp, timeout=60) as client:
            client.ehlo()
            client.user, client.password = "shop", "a guess of mine"
            try:
                return client.auth("PLAIN", client.auth_plain)[0]
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code

    row = 0

    def refused_everywhere() -> bool:
        nonlocal row
        row = row + 1 if guess() == 454 else 0
        return row >= 12

    wait_until(refused_everywhere, 90, "both workers to refuse")
    events = relay.state_dir / "events" / "relay.jsonl"

    def said() -> list[dict[str, Any]]:
        lines = events.read_text().splitlines() if events.exists() else []
        return [one for one in map(json.loads, lines) if one["event"].startswith("auth_")]

    wait_until(lambda: len(said()) >= 2, 60, "the events")
    kinds = {tuple(sorted(set(one) - {"event", "time", "id", "failures"})) for one in said()}
    assert len(said()) == 2
    assert kinds == {("address",), ("user",)}
    log = relay.log_path.read_text()
    assert log.count("failed authentications from") == 1
    assert "a guess" not in log + events.read_text()


def test_users_change_while_clients_log_in(place: Place) -> None:
    """Two writers at once lose nothing."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fastrelay", "user", "add", f"u{number}", "--generate", "--file", str(place.users)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=place.relay.env,
        )
        for number in range(6)
    ]  # fmt: skip
    change_user(place.users, "shop", note="changed meanwhile")
    for process in processes:
        _, words = process.communicate(timeout=120)
        assert process.returncode == 0, words
    listed = json.loads(place.relay.cli("user", "list", "--json").stdout)["users"]
    assert sorted(one["name"] for one in listed) == ["shop", *(f"u{number}" for number in range(6))]
    assert next(one for one in listed if one["name"] == "shop")["note"] == "changed meanwhile"
    assert place.users.stat().st_mode & 0o777 == 0o600
    assert not list(place.users.parent.glob("*.new"))
