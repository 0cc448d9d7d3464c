"""The control command that takes the doctor's results."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay.admin.control import CommandError, Commands
from fastrelay.doctor.results import Results


@pytest.fixture
def relay() -> Any:
    return SimpleNamespace(slots=[], doctor_results=Results())


def send(relay: Any, **arguments: Any) -> Any:
    return asyncio.run(Commands(relay).carry_out("doctor.results", arguments))


def test_results_are_kept(relay: Any) -> None:
    assert send(relay, findings={"spf": {"ok": 2, "error": 1}}, finished=1_795_000_000.5) == {}
    assert relay.doctor_results.findings == {"spf": {"ok": 2, "error": 1}}
    assert send(relay, findings={"mx": {"ok": 1}}, finished=1_795_000_001.0) == {}
    assert relay.doctor_results.findings == {"mx": {"ok": 1}}  # of the last look alone


@pytest.mark.parametrize(
    "arguments",
    [{}, {"findings": {"spf": {"ok": 1}}}, {"findings": {"x": {}}, "finished": 1.0}, {"finished": 1.0, "other": 1}],
)
def test_anything_else_is_an_error_in_words(relay: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match=r"doctor\.results"):
        send(relay, **arguments)
    assert not relay.doctor_results.findings
