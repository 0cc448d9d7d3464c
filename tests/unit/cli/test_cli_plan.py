"""fastrelay plan: what it asks, what it shows, what it refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastrelay.cli.group import MainGroup
from fastrelay.cli.plan import amount_at, ask_relay, chart
from fastrelay.config.load import load_text
from fastrelay.limits.forecast import Demand, Service, forecast

CONFIG = """
hostname: relay.example
provider_limits: false
state_dir: {state_dir}
sources:
  - {{name: a, address: 192.0.2.1}}
  - {{name: c, address: 192.0.2.3, warmup: slow}}
warmup: {{slow: {{stages: [100, 200, 400, 800], spread: 0}}}}
retry: {{expire: 1d}}
shaping:
  - {{source: a, provider: google, rate: 3600/h}}
"""
MIX = ("--mix", "google=100%", "--count", "7300")


@pytest.fixture
def plan(tmp_path):
    """Runs `fastrelay plan` on a configuration whose relay may run in tmp_path."""
    file = tmp_path / "relay.yaml"
    file.write_text(CONFIG.format(state_dir=tmp_path))
    group = MainGroup(lazy={"plan": ("fastrelay.cli.plan:plan", "")})

    def run(*arguments, **more):
        return CliRunner().invoke(group, ["plan", "-c", str(file), *map(str, arguments)], prog_name="fastrelay", **more)

    return run


def test_the_forecast_of_a_mix(plan):
    result = plan(*MIX, "--message-time", "0s")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("7,300 recipients from pool default, handed in at 20")
    google = next(line for line in lines if line.startswith("google "))
    assert google.split()[1] == "7,300"
    assert google.endswith("after 2h")
    assert "held back at google: " in result.stdout
    assert "by source a at google: 3600/h (relay.yaml line 11, shaping[0])" in result.stdout
    assert "what would help: twice the limit of source a at google" in result.stdout
    assert "note: no running relay was asked" in result.stdout
    assert "100% │" in result.stdout


def test_json(plan):
    answer = json.loads(plan(*MIX, "--message-time", "0s", "--json").stdout)
    assert answer["total"]["recipients"] == 7300
    assert answer["providers"]["google"]["out_seconds"]["100"] == pytest.approx(7200, rel=0.01)
    assert answer["sources"]["c"]["sent"] == pytest.approx(100, abs=1)
    assert {pair["source"] for pair in answer["pairs"]} == {"a", "c"}
    assert answer["warmup"][0]["entered"][0] == {"seconds": 0.0, "stage": 1, "cap": 100}
    assert answer["changes"][0]["saves"] > 0.4
    assert answer["curve"][-1][1] == pytest.approx(7300)


def test_a_list_of_recipients(plan, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("email,name\n" + "".join(f"r{n}@gmail.com,R\n" for n in range(3600)) + "none\n")
    answer = json.loads(plan("--recipients", listed, "--message-time", "0s", "--lookups", "0", "--json").stdout)
    assert answer["providers"]["google"]["recipients"] == 3600
    assert any("1 lines have no address" in note for note in answer["notes"])


def test_a_wait_that_outlasts_expiry_is_warned_of(plan):
    result = plan("--mix", "google=100%", "--count", 200_000)
    assert "the last recipients at google wait 2d" in result.stderr
    assert "longer than retry.expire (1d)" in result.stderr


def test_a_running_relay_is_asked(plan, fake_relay, tmp_path):
    row = {"source": "c", "key": "*", "stage": 4, "stages": 4, "used": 300, "cold": True, "state": "running"}
    fake_relay.answers = {
        "queue.summary": {"queued": 3600, "by_provider": {"google": 3600}},
        "warmup.status": {"warmup": [row]},
    }
    answer = json.loads(plan(*MIX, "--message-time", "0s", "--start", "2026-03-02T12:00:00Z", "--json").stdout)
    assert answer["begins_time"] == "2026-03-02 12:00 UTC"
    assert answer["providers"]["google"]["ahead"] == 3600
    assert answer["providers"]["google"]["out_seconds"]["100"] == pytest.approx(2 * 3600 + 3100, rel=0.05)
    assert answer["warmup"][0]["entered"][0]["stage"] == 4
    assert "3,600 recipients are queued before it" in answer["notes"]
    offline = json.loads(plan(*MIX, "--offline", "--json").stdout)
    assert offline["providers"]["google"]["ahead"] == 0


def test_a_relay_that_answers_nonsense_is_as_none(fake_relay):
    fake_relay.answers = {"queue.summary": "it is ill", "warmup.status": {}}
    assert ask_relay(str(fake_relay.state_dir)) is None
    fake_relay.answers = {"queue.summary": {}, "warmup.status": {}}
    assert ask_relay(str(fake_relay.state_dir)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --recipients FILE, or --mix with --count"),
        (("--mix", "google=100%"), "--mix wants --count N"),
        (("--mix", "googel=100%", "--count", 5), "did you mean google?"),
        ((*MIX, "--pool", "none"), "there is no pool 'none'; the pools are default"),
        ((*MIX, "--start", "tomorrow"), "is no time"),
        ((*MIX, "--message-time", "google=800"), "has no unit"),
        (("--recipients", "/dev/null"), "it has no address and no domain"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_usage(plan, arguments, words):
    result = plan(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_chart_rises():
    config = load_text("hostname: relay.example\nprovider_limits: false\nproviders: {google: {rate: 3600/h}}\n")
    told = forecast(config, [Demand("google", 3600)], 0.0, services={"": Service(0.0, 0.0)})
    lines = chart(told, width=20, height=4)
    filled = [line[6:26].count("█") for line in lines[:4]]
    assert filled == sorted(filled)
    assert filled[-1] >= 14
    assert lines[0].startswith("100% │")
    assert "1h" in lines[-2]


def test_values_between_the_points_of_a_curve():
    curve = [(0.0, 0.0), (10.0, 5.0), (10.0, 7.0), (20.0, 7.0)]
    assert [amount_at(curve, at) for at in (-1.0, 5.0, 10.0, 15.0, 30.0)] == [0.0, 2.5, 7.0, 7.0, 7.0]


def test_the_examples_of_the_help_are_options_that_exist():
    from fastrelay.cli.plan import EPILOG, plan

    known = {option for parameter in plan.params for option in parameter.opts}
    words = {word.split("=")[0] for line in EPILOG.splitlines() if "fastrelay plan" in line for word in line.split()}
    assert {word for word in words if word.startswith("--")} <= known
    assert Path(__file__).exists()
