"""`fastrelay doctor` on the command line: exit codes, JSON, the page, and what it tells the running relay."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastrelay.cli import doctor_page
from fastrelay.cli.group import cli
from fastrelay.doctor import host_check
from fastrelay.doctor.findings import CHECKS
from fastrelay.sim.dns import DnsServer, Zone

Clinic = Any


class Served:
    """A zone behind a DnsServer, in a loop of its own."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = DnsServer(zone)
        asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(60)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


@pytest.fixture
def served(news: Clinic, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    """news.example in order, but for DKIM, behind real sockets."""
    monkeypatch.setattr(host_check, "sync_rate", lambda folder, clock: 5000.0)
    zone = news.zone
    zone.add("news.example", "TXT", '"v=spf1 ip4:192.0.2.11 ip4:192.0.2.12 -all"')
    zone.mx("news.example", [(10, "a.news.example")])
    for name, address in (("a", "192.0.2.11"), ("b", "192.0.2.12")):
        zone.address(f"{name}.news.example", address)
        zone.add(f"{address.rsplit('.')[-1]}.2.0.192.in-addr.arpa", "PTR", f"{name}.news.example.")
    made = Served(zone)
    news.settings["dns"] = {"nameservers": [made.server.nameserver], "timeout": "20s"}
    news.settings["doctor"]["timeout"] = "60s"
    yield news
    made.close()


def doctor(clinic: Clinic, *arguments: str) -> Result:
    path = clinic.folder / "relay.yaml"
    path.write_text(json.dumps(clinic.settings))
    return CliRunner().invoke(cli, ["doctor", "-c", str(path), *arguments])


def test_what_is_well_exits_with_0(served: Clinic) -> None:
    result = doctor(served, "--only", "spf", "--only", "mx", "--only", "ptr")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("4 ok, in ")


def test_warnings_exit_with_1(served: Clinic) -> None:
    served.zone.clear("news.example")
    served.zone.address("news.example", "192.0.2.1")
    result = doctor(served, "--only", "mx")
    assert result.exit_code == 1, result.output
    assert "1 warning" in result.stdout


def test_errors_exit_with_2_and_show_the_mend(served: Clinic) -> None:
    result = doctor(served, "--only", "dmarc")
    assert result.exit_code == 2, result.output
    assert '    _dmarc.news.example. 3600 IN TXT "v=DMARC1; p=none; rua=mailto:' in result.stdout
    assert "why: Gmail (4.7.31, 5.7.40)" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_a_configuration_at_fault_exits_with_3(clinic: Clinic) -> None:
    clinic.settings["hostname"] = "not a name"
    result = doctor(clinic)
    assert result.exit_code == 3
    assert "hostname" in result.stderr


def test_no_configuration_exits_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTRELAY_CONFIG", raising=False)
    monkeypatch.setattr("fastrelay.cli.options.DEFAULT_CONFIGS", ("fastrelay.yaml",))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 3
    assert "no configuration" in result.stderr


def test_no_dns_at_all_exits_with_3(served: Clinic) -> None:
    served.settings["doctor"]["timeout"] = "100ms"
    served.settings["dns"] = {"nameservers": ["127.0.0.1:1"]}
    result = doctor(served, "--only", "spf", "--only", "ptr")
    assert result.exit_code == 3, result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "c"), "the sources are a, b"),
        (("--domain", "no domain"), "--domain"),
        (("--only", "nothing"), "nothing"),
    ],
)
def test_wrong_usage(clinic: Clinic, arguments: tuple[str, ...], words: str) -> None:
    clinic.source("a", "192.0.2.11")
    clinic.source("b", "192.0.2.12")
    result = doctor(clinic, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_json_has_everything(served: Clinic) -> None:
    result = doctor(served, "--json", "--domain", "news.example", "--source", "a", "--only", "dmarc", "--only", "ptr")
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == result.exit_code == 2
    assert answer["summary"] == {"error": 1, "warning": 0, "unknown": 0, "note": 0, "ok": 1}
    assert answer["complete"] is False
    well, bad = answer["findings"]
    assert (well["check"], well["area"], well["subject"], well["severity"]) == ("ptr", "source", "source a", "ok")
    assert set(bad) == {"check", "area", "subject", "severity", "found", "why", "mend", "records", "commands"}
    (record,) = bad["records"]
    assert (record["name"], record["type"], record["replaces"]) == ("_dmarc.news.example", "TXT", [])
    assert record["zone"][0].startswith("_dmarc.news.example. 3600 IN TXT")


def test_all_shows_what_is_well_line_by_line(served: Clinic) -> None:
    short = doctor(served, "--only", "ptr").stdout
    assert "✓ PTR\n" in short
    assert "192.0.2.11 ↔ a.news.example" in doctor(served, "--only", "ptr", "--all").stdout


def test_help_names_every_check() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--help"])
    assert result.exit_code == 0
    listed = result.stdout.partition("Checks: ")[2].replace("\n", " ")
    assert [word.strip() for word in listed.split(",")] == list(CHECKS)
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_what_remote_hosts_write_cannot_steer_the_terminal(served: Clinic) -> None:
    served.settings["doctor"]["block_lists"] = ["bl.example"]
    served.zone.add("11.2.0.192.bl.example", "A", "127.0.0.2")
    served.zone.add("11.2.0.192.bl.example", "TXT", r'"\027[2Jgone"')
    result = doctor(served, "--only", "block_lists")
    assert "\x1b" not in result.stdout
    assert r"\x1b[2Jgone" in result.stdout


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_page.styled("x", fg="red") == "x"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert doctor_page.styled("x", fg="red") != "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert doctor_page.styled("x", fg="red") == "x"


# --- what the running relay is told ---


class Told:
    """Stands in for ControlClient."""

    calls: list[tuple[str, Any]] = []

    def __init__(self, state_dir: str, timeout_seconds: float = 0) -> None:
        self.state_dir = state_dir

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, command: str, arguments: Any = None) -> dict[str, Any]:
        self.calls.append((command, arguments))
        return {"pid": 1} if command == "status" else {}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    Told.calls = []
    monkeypatch.setattr("fastrelay.admin.client.ControlClient", Told)
    return Told.calls


def test_a_whole_look_is_told_to_the_relay(served: Clinic, told: list[tuple[str, Any]]) -> None:
    doctor(served)
    (arguments,) = [arguments for command, arguments in told if command == "doctor.results"]
    assert arguments["findings"]["spf"]["ok"] == 1
    assert arguments["findings"]["dmarc"]["error"] == 1
    assert arguments["finished"] > 1.7e9


@pytest.mark.parametrize("arguments", [("--no-report",), ("--only", "spf"), ("--quick",), ("--source", "a")])
def test_part_of_a_look_is_not_told(served: Clinic, told: list[tuple[str, Any]], arguments: tuple[str, ...]) -> None:
    doctor(served, *arguments)
    assert [command for command, _ in told] == ["status"]


def test_no_relay_is_fine(served: Clinic, tmp_path: Path) -> None:
    served.settings["state_dir"] = str(tmp_path / "nowhere")
    result = doctor(served)
    assert "warning" not in result.stderr
