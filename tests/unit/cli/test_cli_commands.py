"""run, check, status, send, --version, help; and what every command does when no relay runs."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import fastrelay as package
from fastrelay.cli import group, queue
from fastrelay.config.load import load_text
from fastrelay.errors import ConfigProblem, HostError, StateHeld

CONTROL_COMMANDS = [
    ["status"],
    ["send", "--to", "a@b.example"],
    ["queue", "summary"],
    ["queue", "list"],
    ["queue", "show", "x"],
    ["queue", "why", "x"],
    ["queue", "suspend", "--all"],
    ["queue", "resume", "--all"],
    ["queue", "flush", "--all"],
    ["queue", "remove", "--all"],
    ["queue", "audit"],
    ["queue", "quarantine", "list"],
    ["queue", "quarantine", "release", "x"],
]


@pytest.mark.parametrize("command", CONTROL_COMMANDS, ids=" ".join)
def test_no_relay(fastrelay, tmp_path, command):
    result = fastrelay(*command, "--state-dir", tmp_path)
    assert result.exit_code == 3
    assert f"no relay runs on {tmp_path}" in result.stderr
    assert "fastrelay run" in result.stderr
    assert result.stdout == ""
    result = fastrelay(*command, "--state-dir", tmp_path, "--json")
    assert result.exit_code == 3
    assert "no relay runs" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", CONTROL_COMMANDS, ids=" ".join)
def test_a_relay_that_goes_away(fastrelay, fake_relay, command):
    fake_relay.answers = dict.fromkeys(
        ["status", "send", *(f"queue.{name}" for name in [*queue.COMMANDS, "release"])], b'{"resul'
    )
    result = fastrelay(*command, "--state-dir", fake_relay.state_dir)
    assert result.exit_code == 1
    assert "the relay went away" in result.stderr
    assert "not known" in result.stderr


def every_command(group_command, names=()):
    """(words, command) of every command and group there is."""
    ctx = group.click.Context(group_command)
    for name in group_command.list_commands(ctx):
        command = group_command.get_command(ctx, name)
        yield [*names, name], command
        if isinstance(command, group.click.Group):
            yield from every_command(command, [*names, name])


def all_but_demo():
    return [words for words, _ in every_command(group.cli) if words != ["demo"]]


def test_help_of_the_group_imports_no_command():
    code = (
        "import sys; from fastrelay.cli.group import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('fastrelay.cli.', 'rich', 'yaml'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['fastrelay.cli.group']"
    for name in group.COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("words", all_but_demo(), ids=" ".join)
def test_every_command_has_help_with_an_example(fastrelay, words):
    result = fastrelay(*words, "--help")
    assert result.exit_code == 0
    assert "Usage: fastrelay " + " ".join(words) in result.output
    assert "Example" in result.output or words[:2] == ["queue", "quarantine"]
    assert max(len(line) for line in result.output.splitlines()) <= 100


def test_the_table_of_commands_says_what_the_commands_say():
    for table, owner in ((group.COMMANDS, group.cli), (queue.COMMANDS, queue.queue)):
        for name in set(table) - {"demo"}:
            command = owner.get_command(group.click.Context(owner), name)
            assert command.name == name
            assert command.help


def test_exit_codes_are_documented(fastrelay):
    assert "Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 no relay" in fastrelay("--help").output


def test_version(fastrelay):
    assert fastrelay("--version").output == f"fastrelay {package.__version__}\n"


def test_version_imports_nothing():
    code = (
        "import sys; sys.argv = ['fastrelay', '--version']\n"
        "from fastrelay.cli.main import main\n"
        "assert main() == 0\n"
        "assert 'click' not in sys.modules and 'msgspec' not in sys.modules, sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"fastrelay {package.__version__}\n"


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fastrelay", "status", "--state-dir", "/nonexistent"], capture_output=True
    )
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("words", "mend"),
    [(["quue"], "'queue'"), (["queue", "lst"], "'list'"), (["zzz"], "run, check"), (["queue", "zzz"], "summary, list")],
)
def test_unknown_commands(fastrelay, words, mend):
    result = fastrelay(*words)
    assert result.exit_code == 2
    assert mend in result.stderr


def test_a_bug_keeps_its_traceback(fastrelay, monkeypatch):
    monkeypatch.setattr("fastrelay.admin.client.ControlClient.call", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fastrelay("status", "--state-dir", "/nonexistent")


# Where the relay is


def write_config(folder: Path, state_dir: Path, name: str = "fastrelay.yaml") -> Path:
    path = folder / name
    path.write_text(f"hostname: a.example\nstate_dir: {state_dir}\nlisteners: {{smtp: []}}\nrelay_networks: []\n")
    return path


def test_relay_found_by_option_environment_and_default(fastrelay, fake_relay, tmp_path, monkeypatch):
    fake_relay.answers = {"status": {"version": "1"}}
    there = write_config(tmp_path, fake_relay.state_dir)
    elsewhere = write_config(tmp_path, tmp_path / "none", "other.yaml")
    assert fastrelay("status").exit_code == 3
    assert fastrelay("status", "-c", there).exit_code == 0
    monkeypatch.setenv("FASTRELAY_CONFIG", str(there))
    assert fastrelay("status").exit_code == 0
    assert fastrelay("status", "-c", elsewhere).exit_code == 3
    monkeypatch.setenv("FASTRELAY_CONFIG", str(elsewhere))
    assert fastrelay("status").exit_code == 3
    monkeypatch.setenv("FASTRELAY_STATE_DIR", str(fake_relay.state_dir))
    assert fastrelay("status").exit_code == 0
    assert fastrelay("status", "-c", elsewhere).exit_code == 3  # an option comes before the environment
    assert fastrelay("status", "-c", elsewhere, "--state-dir", fake_relay.state_dir).exit_code == 0
    monkeypatch.delenv("FASTRELAY_STATE_DIR")
    monkeypatch.delenv("FASTRELAY_CONFIG")
    write_config(Path.cwd(), fake_relay.state_dir)
    assert fastrelay("status").exit_code == 0


def test_a_slip_in_the_configuration_does_not_hide_the_queue(fastrelay, fake_relay, tmp_path):
    fake_relay.answers = {"queue.summary": {"accepted": 5}}
    config = write_config(tmp_path, fake_relay.state_dir)
    config.write_text(config.read_text() + "wokers: 2\n")
    assert fastrelay("queue", "summary", "-c", config).exit_code == 0
    assert fastrelay("queue", "summary", "-c", tmp_path / "absent.yaml").exit_code == 2


# status and send

STATUS = {
    "version": "0.1.0",
    "pid": 4711,
    "uptime_seconds": 7500.0,
    "listening": ["127.0.0.1:2525"],
    "workers": [
        {"slot": 0, "pid": 4712, "state": "running", "restarts": 0},
        {"slot": 1, "pid": None, "state": "failed", "restarts": 3, "error": "corrupt store"},
    ],
    "suspensions": [
        {
            "id": "s3",
            "selectors": {"campaign": "spring", "older_than_seconds": 7200.0},
            "since": "2026-11-20T10:00:00Z",
            "why": "x",
        },
        {"id": "s4", "selectors": {}, "since": "", "why": None},
    ],
}


def test_status(ask, fake_relay):
    fake_relay.answers = {"status": STATUS}
    result = ask("status")
    assert result.exit_code == 0
    for shown in ("2h 5m", "4711", "127.0.0.1:2525", "corrupt store", "campaign spring, older than 2h", "everything"):
        assert shown in result.output
    assert json.loads(ask("status", "--json").output) == STATUS


def test_status_of_a_relay_that_says_little(ask, fake_relay):
    fake_relay.answers = {"status": {}}
    assert ask("status").exit_code == 0


DIALOGUE = {
    "outcome": "delivered",
    "reply": "250 2.0.0 queued\x1b[2J",
    "dialogue": [
        {"at_seconds": 0.0, "direction": "-", "text": "MX of b.example: mx.b.example"},
        {"at_seconds": 0.0123, "direction": "<", "text": "220-hello\r\n220 mx.b.example"},
        {"at_seconds": 0.5, "direction": ">", "text": "EHLO a.example"},
    ],
}


def test_send(ask, fake_relay):
    fake_relay.answers = {"send": DIALOGUE}
    result = ask("send", "--to", "<a@b.example>")
    assert result.exit_code == 0
    assert fake_relay.arguments == {"to": "a@b.example", "from": None, "source": None, "trace": False}
    assert result.output == "<a@b.example> delivered: 250 2.0.0 queued\\x1b[2J\n"


def test_send_trace(ask, fake_relay):
    fake_relay.answers = {"send": DIALOGUE}
    result = ask("send", "--to", "a@b.example", "--from", "<>", "--source", "b", "--trace")
    assert fake_relay.arguments == {"to": "a@b.example", "from": "", "source": "b", "trace": True}
    assert result.output.splitlines()[:4] == [
        "   0.000 - MX of b.example: mx.b.example",
        "   0.012 < 220-hello",
        "   0.012 < 220 mx.b.example",
        "   0.500 > EHLO a.example",
    ]


@pytest.mark.parametrize("outcome", ["deferred", "failed"])
def test_send_that_is_not_delivered(ask, fake_relay, outcome):
    fake_relay.answers = {"send": {"outcome": outcome, "reply": "550 no", "dialogue": []}}
    result = ask("send", "--to", "a@b.example", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["outcome"] == outcome


@pytest.mark.parametrize("address", ["", "a", "a@", "@b", "a b@c", "a@b\r\nDATA", "<>", "a>@b"])
def test_send_to_what_is_no_address(ask, fake_relay, address):
    result = ask("send", "--to", address)
    assert result.exit_code == 2
    assert fake_relay.requests == []


# check and run


def test_check_of_a_sound_file(fastrelay, tmp_path):
    config = write_config(tmp_path, tmp_path)
    result = fastrelay("check", "-c", config)
    assert result.exit_code == 0
    assert "sound" in result.stdout
    assert "warning: " in result.stderr  # no listener


def test_check_of_a_faulty_file(fastrelay, tmp_path):
    config = tmp_path / "relay.yaml"
    config.write_text("hostname: a.example\nwokers: 2\nretry: {first: 5}\n")
    result = fastrelay("check", "-c", config)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == f"{config}:2: wokers: is not a key we know; did you mean `workers`?"
    assert result.stderr.splitlines()[-1] == f"{config}: 2 errors"


def test_check_json(fastrelay, tmp_path):
    config = tmp_path / "relay.yaml"
    config.write_text("hostname: a.example\nretry: {first: 5}\n")
    result = fastrelay("check", "-c", config, "--json", "--print")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["errors"][0]["path"] == "retry.first"
    assert answer["errors"][0]["line"] == 2
    config.write_text("hostname: a.example\n")
    answer = json.loads(fastrelay("check", "-c", config, "--no-host", "--json", "--print").stdout)
    assert answer["ok"] is True
    assert answer["config"]["retry"]["first"] == 600.0


def test_check_print_loads_again(fastrelay, tmp_path):
    config = write_config(tmp_path, tmp_path)
    result = fastrelay("check", "-c", config, "--no-host", "--print")
    assert load_text(result.stdout).state_dir == str(tmp_path)
    assert "first: 10m" in result.stdout


def test_check_names_a_foreign_source(fastrelay, tmp_path):
    config = write_config(tmp_path, tmp_path)
    config.write_text(config.read_text() + "sources: [{name: a, address: 203.0.113.77}]\n")
    result = fastrelay("check", "-c", config)
    assert result.exit_code == 2
    assert "this host does not have the address 203.0.113.77" in result.stderr
    assert f"{config}:5: sources[0].address" in result.stderr
    assert fastrelay("check", "-c", config, "--no-host").exit_code == 0


def test_check_of_a_running_relay_leaves_its_ports_alone(fastrelay, fake_relay, tmp_path):
    import socket

    config = write_config(tmp_path, fake_relay.state_dir)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("smtp: []", f'smtp: [{{bind: "127.0.0.1:{port}"}}]'))
        assert fastrelay("check", "-c", config).exit_code == 0
        fake_relay.close()
        result = fastrelay("check", "-c", config)
    assert result.exit_code == 2
    assert f"port {port} at 127.0.0.1 is in use" in result.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_a_configuration(fastrelay, command):
    result = fastrelay(command)
    assert result.exit_code == 2
    assert "-c FILE" in result.stderr


class FakeSupervisor(types.ModuleType):
    """Stands in for fastrelay.supervisor."""

    def __init__(self, outcome):
        super().__init__("fastrelay.supervisor")
        self.outcome = outcome
        self.started = []

    def run(self, config, config_path):
        self.started.append((config, config_path))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def with_supervisor(monkeypatch, outcome):
    supervisor = FakeSupervisor(outcome)
    monkeypatch.setitem(sys.modules, "fastrelay.supervisor", supervisor)
    monkeypatch.setattr(package, "supervisor", supervisor, raising=False)
    return supervisor


@pytest.mark.parametrize("code", [0, 1, None])
def test_run(fastrelay, tmp_path, monkeypatch, code):
    supervisor = with_supervisor(monkeypatch, code)
    config = write_config(tmp_path, tmp_path)
    result = fastrelay("run", "-c", config)
    assert result.exit_code == (code or 0)
    ((started, path),) = supervisor.started
    assert started.hostname == "a.example"
    assert path == str(config)
    assert "warning: " in result.stderr


def test_run_says_in_which_line_the_host_is_at_odds(fastrelay, tmp_path, monkeypatch):
    config = write_config(tmp_path, tmp_path)
    with_supervisor(monkeypatch, HostError([ConfigProblem(str(config), 0, "state_dir", "is full", "make room")]))
    result = fastrelay("run", "-c", config)
    assert result.exit_code == 2
    assert f"{config}:2: state_dir: is full; make room" in result.stderr


def test_run_with_a_faulty_file_starts_nothing(fastrelay, tmp_path, monkeypatch):
    supervisor = with_supervisor(monkeypatch, 0)
    config = tmp_path / "relay.yaml"
    config.write_text("hostnam: a.example\n")
    result = fastrelay("run", "-c", config)
    assert result.exit_code == 2
    assert "`hostname`" in result.stderr
    assert supervisor.started == []


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (StateHeld("/var/lib/x", 4711), 1, "4711"),
        (StateHeld("/x"), 1, "another process"),
        (
            HostError([ConfigProblem("relay.yaml", 3, "listeners.smtp[0].bind", "port in use", "stop it")]),
            2,
            "in use; stop it",
        ),
    ],
)
def test_run_that_cannot_start(fastrelay, tmp_path, monkeypatch, error, code, word):
    with_supervisor(monkeypatch, error)
    result = fastrelay("run", "-c", write_config(tmp_path, tmp_path))
    assert result.exit_code == code
    assert word in result.stderr
