"""Rules about listeners that take mail which comes back."""

from __future__ import annotations

import pytest

from fastrelay.config.load import parse
from fastrelay.errors import ConfigError


def findings(inbound: str, compose: str = "reference: X-Ref", more: str = "") -> list[str]:
    text = (
        "hostname: mx1.example.com\n"
        f"listeners:\n  smtp:\n    - bind: 127.0.0.1:2525\n    - bind: 127.0.0.1:2526\n      inbound: {inbound}\n{more}"
        f"compose: {{{compose}}}\n"
    )
    try:
        found = list(parse(text, "test.yaml").warnings)
    except ConfigError as error:
        found = list(error.problems)
    return [f"{one.path}: {one.problem}" for one in found]


@pytest.mark.parametrize(
    ("inbound", "compose"),
    [
        ("[b@b.example]", "reference: X-Ref"),
        ("['*@b.example']", "reverse_path: '{reference}@b.example'"),
        ("[b@b.example]", "reverse_path: 'b+{reference}@b.example'"),
        ("[b@b.example, fbl@b.example]", "reverse_path: 'b+{reference}@B.example', cfbl_address: fbl@b.example"),
        ("[b@b.e, u@b.e]", "reference: X-Ref, list_unsubscribe_mailto: 'mailto:u@b.e?subject={reference}'"),
        ("[]", ""),
    ],
)
def test_fine(inbound: str, compose: str) -> None:
    assert findings(inbound, compose) == []


@pytest.mark.parametrize("address", ["b", "'@b.example'", "'a b@b.example'", "'*x@b.example y'", "'<b@b.example>'"])
def test_no_address(address: str) -> None:
    [problem] = findings(f"[{address}]")
    assert problem.startswith("listeners.smtp[1].inbound[0]: ")
    assert "no address" in problem


@pytest.mark.parametrize(
    ("compose", "path"),
    [
        ("reference: X-Ref, reverse_path: 'other+{reference}@b.example'", "compose.reverse_path"),
        ("reference: X-Ref, reverse_path: 'b+{reference}@c.example'", "compose.reverse_path"),
        ("reference: X-Ref, cfbl_address: fbl@b.example", "compose.cfbl_address"),
        ("reference: X-Ref, list_unsubscribe_mailto: 'u+{reference}@b.example'", "compose.list_unsubscribe_mailto"),
    ],
)
def test_an_address_that_nobody_takes(compose: str, path: str) -> None:
    [warning] = findings("[b@b.example]", compose)
    assert warning.startswith(f"{path}: names an address that no listener takes in")


def test_without_a_reference() -> None:
    [warning] = findings("[b@b.example]", "")
    assert warning.startswith("listeners.smtp[1].inbound: ")
    assert "no reference" in warning
    [warning] = findings("[b@b.example]", "reverse_path: 'b+{local}={domain}@b.example'")
    assert "no reference" in warning


def test_no_password_is_asked() -> None:
    found = findings("[b@b.example]", more="      auth: required\n")
    assert any(one.startswith("listeners.smtp[1].auth: ") for one in found), found
