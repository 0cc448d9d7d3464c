"""`fastrelay doctor` against a real nameserver: what it prints is pasted into the zone file, as an operator would, and
looked at again. And what it finds becomes metrics of a running relay."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.net import wait_until
from support.peers import Knot
from support.relay import REPO, RelayProcess

pytestmark = pytest.mark.interop

CHECKS = ("ptr", "ehlo", "helo_spf", "spf", "dkim", "dmarc", "mx")
ROUNDS = 4


def run_doctor(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fastrelay", "doctor", "-c", str(config), *arguments]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=240, check=False)


def configuration(folder: Path, nameserver: str) -> Path:
    """Two sources and a domain with a key."""
    private = rsa.generate_private_key(65537, 2048)
    key = folder / "key.pem"
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    settings = {
        "hostname": "mta.news.example",
        "state_dir": str(folder / "state"),
        "delivery": {"allow_private_hosts": True},
        "sources": [
            {"name": "a", "address": "127.0.0.2", "public_address": "192.0.2.11", "ehlo": "a.news.example"},
            {"name": "b", "address": "127.0.0.3", "public_address": "192.0.2.12", "ehlo": "b.news.example"},
        ],
        "dkim": {"keys": [{"domain": "news.example", "selector": "fr2026", "key": str(key)}]},
        "doctor": {"timeout": "60s"},
        "dns": {"nameservers": [nameserver], "timeout": "20s"},
    }
    path = folder / "relay.yaml"
    path.write_text(json.dumps(settings))
    return path


def pasted(page: str) -> list[str]:
    """What the page offers for the zone file; comments say what goes."""
    lines = [line[4:] for line in page.splitlines() if line.startswith("    ") and not line.startswith(" " * 12)]
    return [line for line in lines if line and not line.startswith("$ ")]


def test_what_the_page_prints_can_be_pasted_into_a_zone_file(tmp_path: Path) -> None:
    forward = ["mta.news A 192.0.2.1"]
    reverse: list[str] = []
    seen: list[str] = []
    for number in range(ROUNDS):
        zones = {"example": forward, "in-addr.arpa": reverse}
        with Knot(tmp_path / f"knot{number}", zones) as knot:
            config = configuration(tmp_path, knot.endpoint) if number == 0 else point(tmp_path, knot.endpoint)
            result = run_doctor(config, *(word for check in CHECKS for word in ("--only", check)))
        assert result.stderr == ""
        if result.returncode == 0 and number:
            break
        lines = pasted(result.stdout)
        assert lines, result.stdout
        assert not set(lines) & {line for line in seen if " IN " in line and "(" not in line}, result.stdout
        seen += lines
        forward += [line for line in lines if ".arpa." not in line]
        reverse += [line for line in lines if ".arpa." in line]
    assert result.returncode == 0, result.stdout
    assert "\u2717" not in result.stdout
    assert sum("fr2026._domainkey.news.example." in line for line in seen) == 1


def point(folder: Path, nameserver: str) -> Path:
    """The configuration with another nameserver."""
    path = folder / "relay.yaml"
    settings = json.loads(path.read_text())
    settings["dns"]["nameservers"] = [nameserver]
    path.write_text(json.dumps(settings))
    return path


def series(relay: RelayProcess, name: str) -> dict[str, float]:
    """Series of a metric, by what stands between the braces."""
    host, port = relay.metrics
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.removeprefix(name) for line in lines if line.startswith((name + "{", name + " "))]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in found}


def test_findings_become_metrics_of_the_running_relay(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "doctor": {"domains": ["news.example"], "timeout": "2s"},
        "dns": {"nameservers": ["127.0.0.1:1"], "timeout": "1s", "tries": 1},
        "sources": [{"name": "a", "address": "127.0.0.2"}],
    }
    with RelayProcess(tmp_path, changes) as relay:
        assert series(relay, "fastrelay_doctor_run_timestamp_seconds") == {"": 0.0}
        run_doctor(relay.config_path, "--quick")
        assert not series(relay, "fastrelay_doctor_findings")  # part of a look says nothing of the whole
        result = run_doctor(relay.config_path)
        assert result.stderr == ""
        assert result.returncode == 2, result.stdout  # no key signs for news.example
        wait_until(lambda: series(relay, "fastrelay_doctor_findings"), what="the findings")
        assert series(relay, "fastrelay_doctor_findings")['{check="dkim",severity="error"}'] == 1
        assert series(relay, "fastrelay_doctor_findings")['{check="spf",severity="unknown"}'] == 1
        assert series(relay, "fastrelay_doctor_run_timestamp_seconds")[""] > 1.7e9
