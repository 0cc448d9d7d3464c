"""Rules of the configuration about the doctor."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastrelay.config.load import parse


def warnings(tmp_path: Path, **settings: Any) -> list[str]:
    text = json.dumps({"hostname": "mta.news.example", **settings})
    return [f"{one.path}: {one.problem}" for one in parse(text, "f.yaml", str(tmp_path)).warnings]


def test_nothing_to_say(tmp_path: Path) -> None:
    doctor = {"domains": ["a.example", "b.example"], "block_lists": ["bl.example"]}
    assert not warnings(tmp_path, doctor=doctor, dns={"nameservers": ["127.0.0.1"]})


@pytest.mark.parametrize("key", ["domains", "block_lists"])
def test_a_name_twice(tmp_path: Path, key: str) -> None:
    assert warnings(tmp_path, doctor={key: ["a.example", "b.example", "a.example"]}) == [
        f"doctor.{key}[2]: a.example is listed twice"
    ]


@pytest.mark.parametrize("server", ["8.8.8.8", "1.1.1.1:53", "2620:fe::fe", "[2620:fe::fe]:53"])
def test_block_lists_do_not_answer_public_resolvers(tmp_path: Path, server: str) -> None:
    doctor = {"block_lists": ["bl.example"]}
    (warning,) = warnings(tmp_path, doctor=doctor, dns={"nameservers": [server]})
    assert "public resolver" in warning
    assert not warnings(tmp_path, dns={"nameservers": [server]})
