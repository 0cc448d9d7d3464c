"""A client logs in over a socket: what it may do then, and what becomes of its mail."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.net import free_endpoint
from support.users import PASSWORD, change_user, cheap, put_user
from support.worker import Mx, WorkerBox, run

from fastrelay.config.sending import Assignment
from fastrelay.ingest.auth import LOOK_SECONDS

CONTENT = "From: News <news@shop.example>\r\nSubject: x\r\n\r\nhello\r\n"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)


class Talk(smtplib.SMTP):
    """smtplib's client, in a thread."""

    def __init__(self, bind: str) -> None:
        host, _, port = bind.rpartition(":")
        super().__init__(host, int(port), local_hostname="client.test", timeout=60)
        self.ehlo()

    def logged_in(self, name: str = "shop", mechanism: str = "PLAIN", password: str = PASSWORD) -> tuple[int, bytes]:
        self.user, self.password = name, password
        objects = {"PLAIN": self.auth_plain, "LOGIN": self.auth_login, "CRAM-MD5": self.auth_cram_md5}
        try:
            return self.auth(mechanism, objects[mechanism])
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code, error.smtp_error  # type: ignore[return-value]

    def sent(self, sender: str = "news@shop.example", content: str = CONTENT) -> tuple[int, bytes]:
        """The first reply that refuses, else the last one."""
        said = self.mail(sender)
        if said[0] == 250:
            said = self.rcpt("a@x.test")
        if said[0] == 250:
            said = self.data(content)
        if said[0] >= 400:
            self.rset()
        return said


def served(
    folder: Path, act: Callable[[WorkerBox, Mx, str], Awaitable[None]], listener: Any = None, **keys: Any
) -> None:
    """A worker that relays for nobody but its users."""

    async def work() -> None:
        mx = Mx()
        bind = free_endpoint()
        config: dict[str, Any] = {
            "listeners": {"smtp": [{"bind": bind, **(listener or {})}]},
            "relay_networks": [],
            "auth": {"users": str(folder / "users"), "without_tls_on_loopback": True},
            "sources": [{"name": "a", "address": "127.0.0.11"}],
            "pools": {"slow": ["a"], "fast": ["a"]},
            "spool": {"reserve": 0, "ballast": 0, "map_size": 1 << 28, "large_message": 65536},
        }
        async with WorkerBox(folder, [await mx.start()], **(config | keys)) as box:
            box.app.listener.start()
            await act(box, mx, bind)
            await box.settled()
            await box.audit()

    put_user(folder / "users", "shop")
    run(work)


def look(box: WorkerBox) -> None:
    """Time for the users file to be looked at."""
    box.clock.advance(LOOK_SECONDS)
    box.app.listener.auth.tick(box.clock.monotonic())


def test_who_logged_in_may_relay_and_gets_what_the_file_says(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        def client() -> list[tuple[int, bytes]]:
            with Talk(bind) as talk:
                assert talk.esmtp_features["auth"].split() == ["SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"]
                said = [talk.sent(), talk.logged_in("crm", "CRAM-MD5"), talk.sent()]
                assert talk.docmd("AUTH", "PLAIN")[0] == 503
            return said

        denied, logged_in, sent = await asyncio.to_thread(client)
        assert denied == (550, b"5.7.1 Relaying denied without AUTH")
        assert (logged_in[0], sent[0]) == (235, 250)
        await box.until(lambda: len(mx.accepted) == 1)
        assert b" with ESMTPA id " in mx.accepted[0][1]
        (event,) = [event for event in box.events() if event["event"] == "accepted"]
        assert (event["user"], event["tenant"], event["campaign"]) == ("crm", "acme", "spring")
        assert {site.pool_name for site in box.app.board.sites.values()} == {"slow"}

    put_user(tmp_path / "users", "crm", cram_md5=True, mail=Assignment(pool="slow", tenant="acme", campaign="spring"))
    served(tmp_path, act)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_wrong_password_lets_nobody_relay(tmp_path: Path, mechanism: str) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        def client() -> list[tuple[int, bytes]]:
            with Talk(bind) as talk:
                return [
                    talk.logged_in(mechanism=mechanism, password="guess"),
                    talk.sent(),
                    talk.logged_in(mechanism=mechanism),
                    talk.sent(),
                ]

        said = await asyncio.to_thread(client)
        assert [code for code, _ in said] == [535, 550, 235, 250]
        await box.until(lambda: len(mx.accepted) == 1)

    served(tmp_path, act)


def test_three_failures_close_the_connection(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        def client() -> list[int]:
            talk = Talk(bind)
            said = [talk.logged_in(password="guess")[0] for _ in range(3)]
            with pytest.raises(smtplib.SMTPServerDisconnected):
                talk.noop()
            return said

        assert await asyncio.to_thread(client) == [535, 535, 421]
        await box.until(lambda: not box.app.listener.connections)
        assert not box.app.listener.auth._tries

    served(tmp_path, act)


def test_senders_bind_the_envelope_and_the_header(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        def client() -> list[tuple[int, bytes]]:
            large = "x" * 70 + "\r\n"
            other = CONTENT.replace("news@shop.example", "ceo@bank.example")
            with Talk(bind) as talk:
                assert talk.logged_in()[0] == 235
                return [
                    talk.sent("ceo@bank.example"),
                    talk.sent(""),
                    talk.sent(content=other),
                    talk.sent(content=other + large * 2000),
                    talk.sent(content="Subject: no From\r\n\r\n"),
                    talk.sent(),
                    talk.sent(content=CONTENT + large * 2000),
                ]

        said = await asyncio.to_thread(client)
        assert [code for code, _ in said] == [550, 550, 550, 550, 550, 250, 250]
        assert said[0][1].startswith(b"5.7.1 You may not send as ceo@bank.example")
        assert said[2][1].startswith(b"5.7.1 You may not send with this From")
        assert said[3] == said[2] == said[4]
        await box.until(lambda: len(mx.accepted) == 2)
        assert len(mx.accepted[1][1]) > 140_000

    async def with_senders(box: WorkerBox, mx: Mx, bind: str) -> None:
        change_user(tmp_path / "users", "shop", senders=["shop.example"])
        look(box)
        await act(box, mx, bind)

    served(tmp_path, with_senders)


def test_rates_and_days_are_refused_in_words(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        change_user(tmp_path / "users", "shop", rate="60/h burst 2", recipients_per_day=3)
        look(box)
        box.clock.advance(3600)  # after a start there is no burst

        def session() -> list[tuple[int, bytes]]:
            with Talk(bind) as talk:
                assert talk.logged_in()[0] == 235
                return [talk.sent() for _ in range(3)]

        assert [code for code, _ in await asyncio.to_thread(session)] == [450] * 3  # nobody said the day's cap yet
        cell = box.app.table.cell(b"user-day:shop")
        box.app.table.set_cap(cell, 20000, 3)
        said = await asyncio.to_thread(session)
        assert [code for code, _ in said] == [250, 250, 450]
        assert said[2][1].startswith(b"4.7.0 Your rate of 60/h burst 2 recipients is used up; try again in ")
        box.clock.advance(3600)
        said = await asyncio.to_thread(session)
        assert [code for code, _ in said] == [250, 450, 450]
        assert said[1][1].startswith(b"4.7.0 All 3 recipients of this day")
        assert box.app.table.cap_used(cell) == 3
        await box.until(lambda: len(mx.accepted) == 3)

    served(tmp_path, act)


def test_a_listener_may_require_it(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        def client() -> list[tuple[int, bytes]]:
            with Talk(bind) as talk:
                return [talk.sent(), talk.logged_in(), talk.sent()]

        said = await asyncio.to_thread(client)
        assert said[0] == (530, b"5.7.0 Authentication required")
        assert [code for code, _ in said[1:]] == [235, 250]

    served(tmp_path, act, {"auth": "required"}, relay_networks=["127.0.0.0/8"])


def test_a_removed_user_sends_no_more_in_a_session_that_goes_on(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, bind: str) -> None:
        talk = await asyncio.to_thread(Talk, bind)
        assert (await asyncio.to_thread(talk.logged_in))[0] == 235
        assert (await asyncio.to_thread(talk.sent))[0] == 250
        put_user(tmp_path / "users", "shop", password="another one")
        look(box)
        assert (await asyncio.to_thread(talk.sent))[0] == 535
        assert (await asyncio.to_thread(talk.noop))[0] == 250
        assert box.app.table.used(box.app.table.cell(b"user-connections:shop")) == 1
        await asyncio.to_thread(talk.close)
        await box.until(lambda: box.app.table.used(box.app.table.cell(b"user-connections:shop")) == 0)

    served(tmp_path, act)
