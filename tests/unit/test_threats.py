"""The README's list of threats: each line names its test, and that test is there."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def lines() -> list[str]:
    section = (REPO / "README.md").read_text().partition("\n## Threats\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def test_each_threat_names_a_test_that_exists() -> None:
    assert len(lines()) >= 15
    for line in lines():
        named = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", line.rpartition(" | ")[2])
        assert named, line
        for name in named:
            assert "\ndef test_" in (REPO / name).read_text(), name


def test_every_security_test_is_in_the_list() -> None:
    text = "\n".join(lines())
    for path in sorted((REPO / "tests" / "scenario").glob("test_scenario_security*.py")):
        assert f"`tests/scenario/{path.name}`" in text
