"""The test message (`fastrelay send --trace`) and TLS: plan, handshake and certificate are in its dialogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.worker import WorkerBox, run

from fastrelay.admin.send import send_test_message
from fastrelay.sim.certificates import Authority
from fastrelay.sim.faults import EVERY_SESSION, Close, Fault, Say
from fastrelay.sim.scripted import ScriptedMx

GOOD = Fault("tls", "", sessions=EVERY_SESSION, tls="good")
BROKEN = Fault("broken", "", {"HANDSHAKE": ((Close(),),)}, sessions=EVERY_SESSION, tls="good")
REFUSED = Fault("refused", "", {"STARTTLS": ((Say(b"454 4.7.0 no\r\n"),),)}, sessions=EVERY_SESSION, tls="good")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def send(folder: Path, authority: Authority, fault: Fault, **route: Any) -> tuple[dict[str, Any], str, ScriptedMx]:
    """The result, the dialogue as text, and the host."""
    mx = ScriptedMx(fault, authority=authority, name="127.0.0.1")
    found: dict[str, Any] = {}

    async def work() -> None:
        await mx.start()
        routes = [{"domains": ["*"], "hosts": [f"{mx.host}:{mx.port}"], **route}]
        tls = {"outbound": {"ca_file": authority.write(str(folder / "ca.pem")), "dane": False, "mta_sts": False}}
        async with WorkerBox(folder / "state", [], routes=routes, tls=tls) as box:
            found.update(await send_test_message(box.app, "r@one.test", source=None, reverse_path="news@a.test"))
        await mx.stop()

    run(work)
    return found, "\n".join(f"{line['direction']} {line['text']}" for line in found["dialogue"]), mx


@pytest.mark.parametrize(
    ("level", "implicit", "verified"),
    [("opportunistic", False, False), ("verify", False, True), ("implicit", True, True)],
)
def test_the_handshake_is_shown(
    tmp_path: Path, authority: Authority, level: str, implicit: bool, verified: bool
) -> None:
    found, text, mx = send(tmp_path, authority, replace(GOOD, implicit=implicit), tls=level)
    assert found["outcome"] == "delivered", text
    assert ("> STARTTLS" in text) is not implicit
    assert "- TLS stands: TLSv1.3, TLS_" in text
    assert "- certificate for 127.0.0.1, by CN=CA of the internet in a box" in text
    assert ("verified (pkix)" in text) is verified
    assert mx.plain_messages == 0


@pytest.mark.parametrize("fault", [BROKEN, REFUSED])
def test_plain_where_it_may_be(tmp_path: Path, authority: Authority, fault: Fault) -> None:
    found, text, mx = send(tmp_path, authority, fault)
    assert found["outcome"] == "delivered", text
    assert mx.plain_messages == 1
    assert ("once more, in plain" in text) is (fault is BROKEN)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (BROKEN, "handshake"),
        (REFUSED, "refused STARTTLS: 454"),
        (replace(GOOD, tls="expired"), "expired"),
        (Fault("plain", "", sessions=EVERY_SESSION), "does not offer STARTTLS"),
    ],
)
def test_no_mail_where_it_must_be(tmp_path: Path, authority: Authority, fault: Fault, words: str) -> None:
    found, text, mx = send(tmp_path, authority, fault, tls="verify")
    assert (found["outcome"], mx.plain_messages, len(mx.account.arrivals)) == ("deferred", 0, 0), text
    assert words in found["reply"]


def test_no_password_in_the_dialogue(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "password").write_text("secret\n")
    fault = replace(GOOD, auth=(b"LOGIN",))
    login = {"username": "us", "password_file": str(tmp_path / "password")}
    found, text, mx = send(tmp_path, authority, fault, tls="verify", **login)
    assert found["outcome"] == "delivered", text
    assert mx.logins == ["LOGIN"]
    assert "> AUTH LOGIN" in text
    assert "c2VjcmV0" not in text  # the password in base64
