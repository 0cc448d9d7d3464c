"""fastrelay sim: a small scenario from the command line, and what is refused."""

import json

import pytest
from click.testing import CliRunner

from fastrelay.cli.group import MainGroup

CONFIG = """
hostname: relay.example
provider_limits: false
sources: [{name: a, address: 192.0.2.1}, {name: b, address: 2001:db8::1}]
providers: {ours: {suffixes: [ours.example]}}
routes: [{domains: [internal.example], hosts: ["192.0.2.99:25"]}]
"""
SCENARIO = """
for: 1d
mix: {google: 50%, ours: 25%, other: 25%}
domains: 2
campaigns: [{name: a, count: 80, over: 10s}]
defaults: {latency: 50ms, connections: 1000, messages_per_connection: 10000}
providers: {google: {greylist: 5m, unknown_mailboxes: 20%}}
"""


@pytest.fixture
def sim(tmp_path):
    """Runs `fastrelay sim` on a scenario and a configuration."""
    group = MainGroup(lazy={"sim": ("fastrelay.cli.sim:sim", "")})

    def run(*arguments, scenario=SCENARIO, config=CONFIG):
        (tmp_path / "scenario.yaml").write_text(scenario)
        (tmp_path / "relay.yaml").write_text(config)
        told = ["sim", str(tmp_path / "scenario.yaml"), "-c", str(tmp_path / "relay.yaml"), *map(str, arguments)]
        return CliRunner().invoke(group, told, prog_name="fastrelay")

    return run


def test_a_scenario_is_run_and_reported(sim):
    result = sim("--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["submitted"] == 80
    assert answer["queued_at_the_end"] == 0
    google, ours, other = (answer["providers"][name] for name in ("google", "ours", "other"))
    assert google["submitted"] == 40
    assert google["delivered"] + google["failed"] == 40
    assert google["failed"] == google["refusals"]["unknown"] > 0
    assert google["refusals"]["greylist"] >= google["delivered"]
    assert google["out_seconds"]["50"] > 300
    assert (ours["delivered"], other["delivered"]) == (20, 20)
    assert ours["out_seconds"]["100"] < 60
    assert 600 < answer["simulated_seconds"] < 86400
    assert sum(pair["delivered"] for pair in answer["pairs"]) == 40 + google["delivered"]


def test_the_report_in_words(sim):
    result = sim()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("80 recipients in ")
    assert "PROVIDER" in result.stdout
    assert "google said" in result.stdout
    assert "451 4.7.1 Greylisted; come back later" in result.stdout
    assert "advice: " in result.stdout


def test_a_shorter_time(sim):
    answer = json.loads(sim("--for", "2m", "--json").stdout)
    assert answer["simulated_seconds"] == pytest.approx(120, abs=1)
    assert answer["queued_at_the_end"] > 0
    assert any("still queued at the end" in words for words in answer["advice"])


def test_an_unknown_provider(sim):
    result = sim(scenario=SCENARIO.replace("ours", "hours"))
    assert result.exit_code == 2
    assert "mix.hours: is no provider; did you mean `ours`?" in result.stderr


def test_a_mistake_in_the_scenario(sim):
    result = sim(scenario=SCENARIO.replace("domains:", "domain:"))
    assert result.exit_code == 2
    assert "scenario.yaml:4: domain: is not a key we know; did you mean `domains`?" in result.stderr


def test_no_time(sim):
    result = sim("--for", "0")
    assert result.exit_code == 2
    assert "a time above 0" in result.stderr
