"""deploy/grafana and deploy/prometheus hold together with the metrics that there are, without running anything."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support.relay import REPO

from fastrelay.metrics import names

GRAFANA, PROMETHEUS = REPO / "deploy/grafana", REPO / "deploy/prometheus"
DASHBOARDS = ("feedback", "overview", "providers", "queue", "security", "warmup", "workers")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
OPERATORS = {"and", "by", "ignoring", "le", "max", "min", "offset", "on", "or", "sum", "unless"}


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """deploy/grafana/build.py as a module."""
    spec = importlib.util.spec_from_file_location("grafana_build", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(GRAFANA))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(GRAFANA))
        sys.modules.pop("panels", None)
    return module


def dashboard(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text())
    return loaded


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    found = [rule["expr"] for name in ("recording.rules.yml", "alert.rules.yml") for rule in rules(name)]
    for name in DASHBOARDS:
        made = dashboard(name)
        found += [target["expr"] for panel in made["panels"] for target in panel.get("targets", [])]
        found += [one["definition"] for one in made["templating"]["list"] if one["type"] == "query"]
    return found


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"(?<![\w:])(fastrelay_\w+)(?!\w*:)", expression))


def test_the_committed_dashboards_are_current(build: ModuleType) -> None:
    assert sorted(build.DASHBOARDS) == sorted(DASHBOARDS)
    assert [name for name in DASHBOARDS if (GRAFANA / f"{name}.json").read_text() != build.text(name)] == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_as_grafana_wants_it(name: str) -> None:
    made = dashboard(name)
    assert made["uid"] == f"fastrelay-{name}"
    assert 36 <= made["schemaVersion"] <= 41
    assert made["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, f"{panel['title']} lies over another panel"
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"


def test_expressions_name_only_metrics_that_there_are() -> None:
    known = set(names.METRICS)
    recorded = {rule["record"] for rule in rules("recording.rules.yml")}
    for expression in expressions():
        found = {name if name in known else SUFFIX.sub("", name) for name in metrics_in(expression)}
        assert found <= known, expression
        assert set(re.findall(r"\w+:fastrelay_\w+:\w+", expression)) <= recorded, expression


def test_expressions_name_only_labels_that_metrics_have() -> None:
    for expression in expressions():
        for name, matchers in re.findall(r"(fastrelay_\w+)\{([^}]*)\}", expression):
            metric = names.METRICS.get(name) or names.METRICS[SUFFIX.sub("", name)]
            labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers))
            assert labels <= {*metric.labels, "job", "instance", "le"}, f"{name} in {expression}"


def test_every_metric_is_on_a_dashboard() -> None:
    shown = set().union(*(metrics_in(target["expr"]) for name in DASHBOARDS for panel in dashboard(name)["panels"]
                          for target in panel.get("targets", [])))  # fmt: skip
    shown = {name if name in names.METRICS else SUFFIX.sub("", name) for name in shown}
    alerting = set().union(*(metrics_in(rule["expr"]) for rule in rules("alert.rules.yml")))
    unseen = set(names.METRICS) - shown - alerting
    # Greylisting is seen as the rule any_greylisted among the rules that fired.
    assert unseen <= {
        "fastrelay_smtp_sessions_total", "fastrelay_accepted_messages_total", "fastrelay_greylisted_total"
    }  # fmt: skip


def test_every_alert_says_what_to_do_and_has_a_test() -> None:
    tested = [
        one for path in (PROMETHEUS / "tests").glob("*.yaml") for one in yaml.safe_load(path.read_text())["tests"]
    ]
    cases: dict[str, list[dict[str, Any]]] = {}
    for one in tested:
        cases.setdefault(one["name"], []).append(one)
    for rule in rules("alert.rules.yml"):
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        for case in cases[rule["alert"]]:
            fires = [bool(one["exp_samples"]) for one in case["promql_expr_test"]]
            assert fires == [False, True], f"{rule['alert']}: once not, once yes"
            assert all(f'"{rule["alert"]}"' in one["expr"] for one in case["promql_expr_test"])


def test_runbooks_name_commands_that_there_are() -> None:
    from fastrelay.cli.group import COMMANDS

    for rule in rules("alert.rules.yml"):
        for command in re.findall(r"`fastrelay ([a-z]+)", rule["annotations"]["runbook"]):
            assert command in COMMANDS, f"{rule['alert']}: fastrelay {command}"


def test_the_scrape_example_loads_the_rules_that_there_are() -> None:
    loaded = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert sorted(loaded["rule_files"]) == sorted(path.name for path in PROMETHEUS.glob("*.rules.yml"))
    assert [one["job_name"] for one in loaded["scrape_configs"]] == ["fastrelay"]


def test_the_container_file_copies_what_there_is() -> None:
    text = (REPO / "deploy/container/Containerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (REPO / source).exists()
    assert 'CMD ["run", "-c", "/etc/fastrelay/fastrelay.yaml"]' in text


def test_the_sysctl_file_names_settings_of_this_kernel() -> None:
    lines = (REPO / "deploy/sysctl/fastrelay.conf").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            assert value, line
            path = Path("/proc/sys") / name.replace(".", "/")
            assert path.exists() or not path.parent.exists(), line


def test_the_readme_names_commands_and_files_that_there_are() -> None:
    from fastrelay.cli.group import COMMANDS

    text = (REPO / "README.md").read_text()
    commands = set(re.findall(r"(?:^ +|`|bin/)fastrelay ([a-z]+)", text, re.MULTILINE)) - {"is"}
    assert commands - set(COMMANDS) == set()
    paths = set(re.findall(r"(?<![\w/.])((?:deploy|benchmarks|tests|fastrelay|ext)/[\w./-]*\w)", text))
    assert [path for path in sorted(paths) if not list(REPO.glob(f"{path}*"))] == []
