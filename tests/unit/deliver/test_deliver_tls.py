"""TLS towards hosts through a worker, on real sockets: plain where it may be, waiting where it may not, smart hosts."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.worker import Client, WorkerBox, run

from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer
from fastrelay.metrics import names
from fastrelay.sim.certificates import Authority
from fastrelay.sim.faults import EVERY_SESSION, Close, Fault, Say
from fastrelay.sim.scripted import ScriptedMx
from fastrelay.tls.policy import HostPlan

GOOD = Fault("tls", "", sessions=EVERY_SESSION, tls="good")
BROKEN = Fault("broken", "", {"HANDSHAKE": ((Close(),),)}, sessions=EVERY_SESSION, tls="good")
INJECTING = Fault("injecting", "", {"STARTTLS": ((Say(b"220 go\r\n250 ok\r\n"),),)}, EVERY_SESSION, tls="good")
MISSING, FAILED = "starttls-not-supported", "validation-failure"
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Hosts:
    """Scripted hosts with certificates for 127.0.0.1, and a worker whose only route they are."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder = folder
        self._authority = authority
        self.ca_file = authority.write(str(folder / "ca.pem"))
        self.all: list[ScriptedMx] = []
        self.more: dict[str, Any] = {}  # further keys of the configuration
        self.open_domains: list[str] = []  # whose mail goes to the same hosts by a route that says nothing more

    async def start(self, *faults: Fault) -> list[ScriptedMx]:
        for fault in faults:
            mx = ScriptedMx(fault, authority=self._authority, name=LOOPBACK)
            await mx.start(LOOPBACK)
            self.all.append(mx)
        return self.all

    async def stop(self) -> None:
        for mx in self.all:
            await mx.stop()

    def box(self, outbound: dict[str, Any] | None = None, **route: Any) -> WorkerBox:
        hosts = [f"{mx.host}:{mx.port}" for mx in self.all]
        tls = {"outbound": {"ca_file": self.ca_file, "dane": False, "mta_sts": False, **(outbound or {})}}
        return WorkerBox(
            self._folder / "state", [], tls=tls,
            routes=[*({"domains": [one], "hosts": hosts} for one in self.open_domains),
                    {"domains": ["*"], "hosts": hosts, **route}],
            delivery={"connect_backoff": {"first": 10.0, "max": 20.0}}, **self.more,
        )  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path, authority: Authority) -> Hosts:
    return Hosts(tmp_path, authority)


def play(hosts: Hosts, faults: list[Fault], story: Callable[[WorkerBox], Any], **options: Any) -> None:
    async def work() -> None:
        await hosts.start(*faults)
        try:
            async with hosts.box(**options) as box:
                await story(box)
        finally:
            await hosts.stop()

    run(work)


def outcomes(box: WorkerBox) -> list[dict[str, Any]]:
    return [event for event in box.events() if event["event"] in ("delivered", "deferred", "failed")]


# ---- where TLS is no must


@pytest.mark.parametrize("flaw", ["good", "wrong-name", "expired", "self-signed"])
def test_any_certificate_will_do(hosts: Hosts, flaw: str) -> None:
    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.settled()
        event = outcomes(box)[0]
        assert (event["event"], event["tls"]) == ("delivered", "TLSv1.3")
        assert event["tls_cipher"].startswith("TLS_")
        assert "tls_verified" not in event
        assert hosts.all[0].plain_messages == 0

    play(hosts, [replace(GOOD, tls=flaw)], story)


def test_sessions_are_resumed(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        for _ in range(3):
            await box.accepted(["r@one.test"])
            await box.settled()
            await box.hang_up()
        assert (hosts.all[0].tls_sessions, hosts.all[0].resumed) == (3, 2)

    play(hosts, [GOOD], story)


def test_sessions_are_not_resumed_where_nobody_wants_it(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        for _ in range(2):
            await box.accepted(["r@one.test"])
            await box.settled()
            await box.hang_up()
        assert (hosts.all[0].tls_sessions, hosts.all[0].resumed) == (2, 0)

    play(hosts, [GOOD], story, outbound={"resume": False})


def test_broken_tls_is_remembered_for_a_while(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        mx = hosts.all[0]
        for n in range(2):
            await box.accepted(["r@one.test"])
            await box.settled()
            await box.hang_up()
            assert (mx.tls_sessions, mx.plain_messages, mx.sessions) == (1, 1 + n, 2 + n)
        box.pass_time(3600)
        await box.accepted(["r@one.test"])
        await box.settled()
        assert (mx.tls_sessions, mx.plain_messages, mx.sessions) == (2, 3, 5)
        assert all(event["event"] == "delivered" and "tls" not in event for event in outcomes(box))

    play(hosts, [BROKEN], story)


def test_a_plain_reconnect_takes_a_permit(hosts: Hosts) -> None:
    """With one connection a minute the second one, in plain, comes a minute later."""

    async def story(box: WorkerBox) -> None:
        box.pass_time(61)  # a new table permits nothing at once
        await box.accepted(["r@one.test"])
        await box.until(lambda: hosts.all[0].sessions == 1 and not box.app.connecting)
        assert not box.counters().get("delivered")
        await box.until(lambda: box.reasons() == {"rate_limit": 1})
        box.pass_time(61)
        await box.settled()
        assert box.counters()["delivered"] == 1
        assert hosts.all[0].sessions == 2

    hosts.more = {"shaping": [{"connection_rate": "1/min burst 1"}]}
    play(hosts, [BROKEN], story)


def test_no_tls_where_it_is_switched_off(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.settled()
        assert (hosts.all[0].tls_sessions, hosts.all[0].plain_messages) == (0, 1)

    play(hosts, [GOOD], story, outbound={"level": "none"})


# ---- where it must be


@pytest.mark.parametrize(
    ("level", "fault", "words"),
    [
        ("required", Fault("plain", "", sessions=EVERY_SESSION), "does not offer STARTTLS"),
        ("required", Fault("no", "", {"STARTTLS": ((Say(b"454 4.7.0 no\r\n"),),)}, EVERY_SESSION, tls="good"), "454"),
        ("required", Fault("cut", "", {"HANDSHAKE": ((Close(),),)}, EVERY_SESSION, tls="good"), "handshake"),
        ("verify", replace(GOOD, tls="wrong-name"), "not valid for"),
        ("verify", replace(GOOD, tls="expired"), "expired"),
        ("verify", replace(GOOD, tls="self-signed"), "self-signed"),
        ("implicit", replace(GOOD, tls="wrong-name", implicit=True), "not valid for"),
        ("implicit", replace(GOOD, tls="expired", implicit=True), "expired"),
        ("implicit", Fault("plain", "", sessions=EVERY_SESSION), "handshake"),
    ],
)
def test_mail_waits_where_no_host_has_the_tls_it_must_have(hosts: Hosts, level: str, fault: Fault, words: str) -> None:
    """No attempt is burned, and nothing goes in plain."""

    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.until(lambda: box.reasons() == {"tls_policy": 1})
        site = next(iter(box.app.board.sites.values()))
        assert words in site.detail, site.detail
        assert outcomes(box) == []
        assert hosts.all[0].plain_messages == 0
        assert not hosts.all[0].account.arrivals

    play(hosts, [fault], story, tls=level)


@pytest.mark.parametrize(("level", "verified"), [("required", None), ("verify", "pkix"), ("implicit", "pkix")])
def test_the_next_host_takes_it(hosts: Hosts, level: str, verified: str | None) -> None:
    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.settled()
        event = outcomes(box)[0]
        assert (event["event"], event["tls"], event.get("tls_verified")) == ("delivered", "TLSv1.3", verified)
        bad, good = hosts.all
        assert (bad.sessions, good.sessions) == (0 if implicit else 1, 1)  # one without TLS is no session there
        assert not bad.account.arrivals
        assert good.plain_messages == 0

    implicit = level == "implicit"
    bad = Fault("bad", "", sessions=EVERY_SESSION, tls="self-signed" if level != "required" else "", implicit=implicit)
    play(hosts, [bad, replace(GOOD, implicit=implicit)], story, tls=level)


def test_a_check_that_finds_fault_ends_the_session_before_ehlo(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        seen: list[ssl.SSLObject] = []

        def check(tls: ssl.SSLObject) -> str:
            seen.append(tls)
            return "no TLSA record fits"

        async def host_plan(*rest: Any) -> HostPlan:
            context = box.app.tls.contexts.dane()
            return HostPlan("starttls", True, context, check=check, failure="validation-failure", verified="dane")

        box.app.tls.host_plan = host_plan  # type: ignore[method-assign]
        await box.accepted(["r@one.test"])
        await box.until(lambda: box.reasons() == {"tls_policy": 1})
        assert "no TLSA record fits" in next(iter(box.app.board.sites.values())).detail
        assert len(seen) == 1
        assert [line for line in hosts.all[0].dialogue if "EHLO" in line] == hosts.all[0].dialogue[1:2]

    play(hosts, [GOOD], story)


def submit_with_requiretls(box: WorkerBox) -> None:
    machine = SmtpServer(b"relay.test", ServerLimits(), may_relay=True)
    machine.tls = True  # REQUIRETLS is for clients that use it too
    machine.greeting(0.0)
    machine.receive(b"EHLO client.test\r\nMAIL FROM:<news@a.test> REQUIRETLS\r\nRCPT TO:<r@one.test>\r\nDATA\r\n", 0.0)
    machine.receive(b"Subject: x\r\n\r\nhello\r\n.\r\n", 0.0)
    while (event := machine.next_event()) != MESSAGE:
        assert event, machine.take_output()
    now = box.app.clock.monotonic()
    refusal = box.app.engine.accept(Client(), machine.envelope, b"127.0.0.1", b"Received: test id ", None, now)
    assert refusal is None


@pytest.mark.parametrize("offered", [True, False])
def test_requiretls(hosts: Hosts, offered: bool) -> None:
    """The host is proven, as the operator has named it; it says REQUIRETLS itself, or the mail fails (RFC 8689)."""

    async def story(box: WorkerBox) -> None:
        submit_with_requiretls(box)
        await box.until(lambda: box.counters().get("accepted"))
        await box.settled()
        event = outcomes(box)[0]
        said = [line for line in hosts.all[0].dialogue if "MAIL FROM" in line]
        assert event["tls_verified"] == "pkix"
        if offered:
            assert (event["event"], ["REQUIRETLS" in line for line in said]) == ("delivered", [True])
        else:
            assert (event["event"], event["enhanced"], said) == ("failed", "5.7.30", [])

    extensions = (*GOOD.extensions, b"REQUIRETLS") if offered else GOOD.extensions
    play(hosts, [replace(GOOD, extensions=extensions)], story)


def test_requiretls_waits_for_a_host_that_proves_its_name(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        submit_with_requiretls(box)
        await box.until(lambda: box.reasons() == {"tls_policy": 1})
        await box.accepted(["other@one.test"])
        await box.until(lambda: box.counters()["delivered"] == 1)
        assert [event["recipient"] for event in outcomes(box)] == ["other@one.test"]
        assert box.reasons() == {"tls_policy": 1}

    play(hosts, [replace(GOOD, tls="self-signed", extensions=(*GOOD.extensions, b"REQUIRETLS"))], story)


def test_deferred_events_tell_of_tls_too(hosts: Hosts) -> None:
    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.settled()
        event = outcomes(box)[0]
        assert (event["event"], event["tls"], event["tls_verified"]) == ("deferred", "TLSv1.3", "pkix")

    later = Fault("later", "", {"RCPT": ((Say(b"450 4.2.1 later\r\n"),),)}, EVERY_SESSION, tls="good")
    play(hosts, [later], story, tls="verify")


# ---- what is counted


@pytest.mark.parametrize(
    ("fault", "level", "results", "handshake", "session"),
    [
        (GOOD, "opportunistic", [None], ("ok", "TLSv1.3"), "unverified"),
        (GOOD, "verify", [None], ("ok", "TLSv1.3"), "pkix"),
        (Fault("no", ""), "opportunistic", [MISSING], (MISSING, "none"), "plain"),
        (replace(GOOD, tls="expired"), "verify", ["certificate-expired"], ("certificate-expired", "none"), ""),
        (BROKEN, "opportunistic", [FAILED, FAILED], (FAILED, "none"), "plain"),
        (INJECTING, "verify", [FAILED], (FAILED, "none"), ""),
        (GOOD, "none", [], None, "plain"),
    ],
)
def test_sessions_are_counted_and_reported(
    hosts: Hosts, fault: Fault, level: str, results: list[str | None], handshake: Any, session: str
) -> None:
    async def story(box: WorkerBox) -> None:
        told: list[tuple[Any, ...]] = []
        box.app.tls_reports.session = lambda *what: told.append(what)  # type: ignore[method-assign]
        await box.accepted(["r@one.test"])
        if session:
            await box.settled()
        else:
            await box.until(lambda: {"tls_policy", "connect_backoff"} & set(box.reasons()))
        assert [what[4] for what in told] == results, told
        for policy, queue, target, _, _, _, plan in told:
            assert queue is next(iter(box.app.board.sites.values()))
            assert (policy, target.port) == (queue.tls, hosts.all[0].port)
            assert isinstance(plan, HostPlan)
        slab = box.app.meters.slab
        if handshake is not None:
            result, version = handshake
            labels = {"result": result, "version": version, "resumed": "no"}
            assert slab.value(names.TLS_HANDSHAKES.entry(slab, **labels)) == 1
        for kind in names.TLS_VERIFIED:
            assert slab.value(names.TLS_SESSIONS.entry(slab, verified=kind)) == (kind == session)

    play(hosts, [fault], story, tls=level)


# ---- smart hosts


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"LOGIN", b"CRAM-MD5"])
@pytest.mark.parametrize("level", ["verify", "implicit", "none"])
def test_auth_at_a_smart_host(hosts: Hosts, tmp_path: Path, mechanism: bytes, level: str) -> None:
    """Under TLS that is verified, and on loopback in clear too."""
    (tmp_path / "password").write_bytes(b"secret\n")

    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.settled()
        assert outcomes(box)[0]["event"] == "delivered"
        assert hosts.all[0].logins == [mechanism.decode()]

    fault = replace(GOOD, auth=(mechanism,), implicit=level == "implicit", tls="" if level == "none" else "good")
    play(hosts, [fault], story, tls=level, username="us", password_file=str(tmp_path / "password"))


def test_mail_of_a_route_without_a_user_does_not_go_by_his_sessions(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"secret\n")
    hosts.open_domains.append("open.test")

    async def story(box: WorkerBox) -> None:
        for recipient in ("r@one.test", "r@open.test", "s@one.test"):
            await box.accepted([recipient])
            await box.settled()
        assert [event["event"] for event in outcomes(box)] == ["delivered", "failed", "delivered"]
        assert outcomes(box)[1]["code"] == 530  # the host takes mail of users alone
        sites = [event["site"] for event in outcomes(box)]
        assert sites == [f"hosts=us@127.0.0.1:{hosts.all[0].port}", f"hosts=127.0.0.1:{hosts.all[0].port}", sites[0]]
        assert hosts.all[0].logins == ["PLAIN"]
        assert hosts.all[0].tls_sessions == 2

    fault = replace(GOOD, auth=(b"PLAIN",))
    play(hosts, [fault], story, tls="verify", username="us", password_file=str(tmp_path / "password"))


def test_a_wrong_password_makes_mail_wait(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"wrong\n")

    async def story(box: WorkerBox) -> None:
        await box.accepted(["r@one.test"])
        await box.until(lambda: box.reasons() == {"connect_backoff": 1})
        assert "535" in next(iter(box.app.board.sites.values())).detail
        assert outcomes(box) == []

    fault = replace(GOOD, auth=(b"PLAIN",))
    play(hosts, [fault], story, tls="verify", username="us", password_file=str(tmp_path / "password"))
