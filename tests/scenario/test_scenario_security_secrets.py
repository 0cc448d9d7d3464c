"""Security: passwords and keys are in the memory of the relay and in their own files, and nowhere else.

Nowhere: the log, event logs, the answers to every command that shows something, metrics, command lines and environments
of processes, core files, the rest of the state directory; not with a password that is wrong, either.
"""

from __future__ import annotations

import os
import re
import signal
import smtplib
import ssl
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from support.net import free_endpoint, wait_until
from support.relay import REPO, RelayProcess
from support.sink import Sink

Maker = Callable[..., RelayProcess]

PASSWORD, CRAM_PASSWORD = "correct-horse-battery-staple-47", "tunnel-marmalade-quartz-90"
WRONG_PASSWORD, HOST_PASSWORD = "almost-right-but-wrong-11", "smart-host-password-zebra-5"
SHOWN = ("status", "queue.summary", "queue.list", "queue.audit", "queue.quarantine", "metrics", "tlsrpt.show")


def cli(folder: Path, *words: str, stdin: str = "") -> str:
    """What a command prints, errors too."""
    done = subprocess.run(
        [sys.executable, "-m", "fastrelay", *words],
        input=stdin, text=True, capture_output=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


class Secrets:
    """Files that hold secrets, made as an operator makes them, and what in them nobody else may show."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        issued = authority.issue_cert("relay.test", "127.0.0.1")
        self.certificate, self.key = str(folder / "cert.pem"), str(folder / "key.pem")
        issued.cert_chain_pems[0].write_to_path(self.certificate)
        issued.private_key_pem.write_to_path(self.key)
        cli(folder, "dkim", "new", "sender.example", "--selector", "s1", "-o", str(folder / "dkim.pem"))
        self.dkim = str(folder / "dkim.pem")
        self.users = str(folder / "users")
        cli(folder, "user", "add", "news", "--file", self.users, stdin=PASSWORD + "\n")
        cli(folder, "user", "add", "cram", "--cram-md5", "--file", self.users, stdin=CRAM_PASSWORD + "\n")
        self.host_password = str(folder / "smarthost")
        Path(self.host_password).write_text(HOST_PASSWORD + "\n")
        for path in (self.key, self.users, self.host_password):
            os.chmod(path, 0o600)
        self.folder = folder

    def config(self, sink: Sink) -> dict[str, object]:
        return {
            "workers": 1,
            "tls": {"certificate": self.certificate, "key": self.key},
            "auth": {"users": self.users},
            "dkim": {"keys": [{"domain": "sender.example", "selector": "s1", "key": self.dkim}]},
            "compose": {"reference": "X-Reference"},
            "routes": [
                {"domains": ["smart.example"], "hosts": [free_endpoint()], "username": "relay",
                 "password_file": self.host_password},
                {"domains": ["*"], "hosts": [sink.endpoint]},
            ],
        }  # fmt: skip

    def words(self, state_dir: Path) -> list[bytes]:
        """Every piece of a secret that could be recognized."""
        found = [text.encode() for text in (PASSWORD, CRAM_PASSWORD, WRONG_PASSWORD, HOST_PASSWORD)]
        for path in (self.key, self.dkim):
            lines = Path(path).read_bytes().splitlines()
            found += [line for line in lines if len(line) > 40 and not line.startswith(b"-----")]
        found += re.findall(rb"[A-Za-z0-9+/=_-]{24,}", Path(self.users).read_bytes())
        octets = (state_dir / "reference.key").read_bytes()
        found += [octets, octets.strip(), octets.hex().encode(), octets.strip().hex().encode()]
        return [word for word in found if len(word) >= 16]


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return Secrets(tmp_path / "secrets")


def log_in(relay: RelayProcess, secrets: Secrets, user: str, password: str) -> bool:
    with relay.client() as client:
        context = ssl.create_default_context(cafile=secrets.ca_file)
        context.check_hostname = False  # it is called by its address
        client.starttls(context=context)
        try:
            client.login(user, password)
        except smtplib.SMTPAuthenticationError:
            return False
        client.sendmail("news@sender.example", ["b@d.example"], b"From: news@sender.example\r\nSubject: x\r\n\r\nx\r\n")
        client.sendmail("news@sender.example", ["b@smart.example"], b"From: news@sender.example\r\n\r\nx\r\n")
    return True


def assert_clean(octets: bytes, words: list[bytes], where: str) -> None:
    for word in words:
        assert word not in octets, f"{where} shows {word[:12]!r}…"


def test_secrets_are_shown_nowhere(make_relay: Maker, sink: Sink, secrets: Secrets) -> None:
    relay = make_relay(secrets.config(sink))
    assert log_in(relay, secrets, "news", PASSWORD)
    assert log_in(relay, secrets, "cram", CRAM_PASSWORD)
    assert not log_in(relay, secrets, "news", WRONG_PASSWORD)
    relay.submit(b"From: news@sender.example\r\nSubject: x\r\n\r\nx\r\n", ["b@d.example"], "news@sender.example")
    wait_until(lambda: sum("b@d.example" in message.recipients for message in sink.messages) == 3, what="mail")
    assert any(b"DKIM-Signature:" in message.content for message in sink.messages)

    words = secrets.words(relay.state_dir)
    assert len(words) > 20
    for pid in relay.pids():
        for name in ("cmdline", "environ"):
            try:
                octets = Path(f"/proc/{pid}/{name}").read_bytes()
            except PermissionError:  # not even by who runs it: it is not dumpable
                continue
            assert_clean(octets, words, f"/proc/PID/{name}")
    for command in SHOWN:
        assert_clean(repr(relay.control(command)).encode(), words, command)
    address, port = relay.metrics
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=60) as answer:
        assert_clean(answer.read(), words, "/metrics")
    for more in ([], ["--print"], ["--print", "--json"]):
        printed = cli(relay.directory, "check", "--no-host", "-c", str(relay.config_path), *more)
        assert_clean(printed.encode(), words, "check")
    listed = cli(relay.directory, "user", "list", "--file", secrets.users, "--json")
    assert_clean(listed.encode(), words, "user list")
    os.kill(relay.pid, signal.SIGHUP)
    wait_until(lambda: "the configuration was reloaded" in relay.log_text(), what="a reload")
    relay.control("queue.remove", {"all": True})
    relay.wait_drained()
    relay.stop()
    assert_clean(relay.log_path.read_bytes(), words, "the log")
    for path in relay.state_dir.rglob("*"):
        if path.is_file() and not path.is_socket() and path.name != "reference.key":
            assert_clean(path.read_bytes(), words, str(path))


def test_secrets_that_anybody_may_read_are_refused(make_relay: Maker, sink: Sink, secrets: Secrets) -> None:
    """A key or a users file that is open to others does not go unsaid."""
    for path in (secrets.dkim, secrets.users):
        os.chmod(path, 0o644)
        relay = make_relay(secrets.config(sink), start=False)
        done = subprocess.run(
            [sys.executable, "-m", "fastrelay", "check", "-c", str(relay.config_path)], capture_output=True, text=True,
            env=relay.env, check=False,
        )  # fmt: skip
        assert path in done.stdout + done.stderr
        os.chmod(path, 0o600)


def test_files_are_for_the_relay_alone(make_relay: Maker, sink: Sink, secrets: Secrets) -> None:
    """Whatever the umask of who starts it: nothing below the state directory is open to others."""
    before = os.umask(0)
    try:
        relay = make_relay(secrets.config(sink))
    finally:
        os.umask(before)
    relay.submit(b"From: a@sender.example\r\nSubject: x\r\n\r\n" + b"x\r\n" * 700_000, ["b@d.example"])  # a large file
    relay.wait_drained()
    assert relay.state_dir.stat().st_mode & 0o007 == 0
    found = list(relay.state_dir.rglob("*"))
    assert any(path.name == "reference.key" for path in found)
    for path in found:
        mode = stat.S_IMODE(path.lstat().st_mode)
        kept = 0o700 if path.is_dir() else 0o600
        assert mode & ~kept == 0, f"{path} is {mode:o}"


def test_a_crash_leaves_no_core(make_relay: Maker, sink: Sink, secrets: Secrets) -> None:
    relay = make_relay(secrets.config(sink))
    for pid in relay.pids():
        limits = Path(f"/proc/{pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0  # as of every process that is not dumpable
    old = relay.workers()
    os.kill(old[0], signal.SIGABRT)
    wait_until(lambda: relay.replaced(old), what="a new worker")
    relay.wait_ready()
    assert "killed by SIGABRT" in relay.log_text()
    places = (relay.directory, relay.state_dir, Path.cwd())
    assert not [path for place in places for path in place.glob("core*") if path.is_file()]
