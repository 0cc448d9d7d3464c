"""AUTH of a worker: who gets in and as what, who is refused in which words, hashes in a line, who has to wait."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.users import PASSWORD, change_user, cheap, drop_user, put_user

from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import SmtpListener, from_builtins
from fastrelay.config.sending import Assignment
from fastrelay.ingest import auth as module
from fastrelay.ingest.auth import Authenticator
from fastrelay.ingest.users import Hash
from fastrelay.metrics import names
from fastrelay.metrics.meters import Meters

OK = b"235 2.7.0"
WRONG = b"535 5.7.8"


class Client:
    """A connection as Authenticator sees it."""

    def __init__(self, address: bytes = b"192.0.2.1", mail: Assignment | None = None) -> None:
        self.client = address
        self.mail = mail
        self.server = SimpleNamespace(verify_recipient=None)
        self.verify_header = None
        self.challenges: list[bytes] = []
        self.login: Any = None
        self.replies: list[bytes] = []
        self.answered = asyncio.Event()

    def auth_challenge(self, octets: bytes) -> None:
        self.challenges.append(octets)
        self.answered.set()

    def auth_done(self, login: Any, reply: bytes) -> None:
        self.login = login
        self.replies.append(reply)
        self.answered.set()

    async def answer(self) -> bytes:
        """The next reply or challenge."""
        await asyncio.wait_for(self.answered.wait(), 60)
        self.answered.clear()
        return self.replies[-1] if self.replies else self.challenges[-1]


class Box:
    """An Authenticator with what it needs of a worker."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.path = folder / "users"
        self.folder = folder
        self.clock = SimulatedClock()
        self.table = Table.create(
            folder / "table", slots=2, boot_id="b", now_ns=self.clock.boottime_ns(), capacity=1024, first=True
        )
        self.meters = Meters(Slab(str(folder / "slab"), create=True))
        self.slot, self.slots = 0, 2
        self.errors: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.config: Any = None
        self.held: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.set(**keys)
        self.auth = Authenticator(self)  # type: ignore[arg-type]
        self.auth._later = self._later  # type: ignore[method-assign,assignment]

    def set(self, **keys: Any) -> None:
        self.config = from_builtins({"hostname": "relay.test", "auth": {"users": str(self.path), **keys}})

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> Any:
        self.held.append((seconds, act, arguments))
        return SimpleNamespace(cancel=lambda: self.held.clear())

    def pass_time(self) -> None:
        """The time of what was held back comes."""
        seconds, act, arguments = self.held.pop(0)
        self.clock.advance(seconds)
        act(*arguments)

    def count_error(self, where: str) -> None:
        self.errors.append(where)

    def report(self, message: dict[str, Any]) -> None:
        self.reports.append(message)

    def look(self) -> None:
        """The users file is looked at."""
        self.clock.advance(module.LOOK_SECONDS)
        self.auth.tick(self.clock.monotonic())

    def counted(self, mechanism: str, result: str) -> float:
        return self.meters.slab.value(self.meters.entry(names.AUTH, mechanism=mechanism, result=result))

    async def plain(self, name: str, password: str = PASSWORD, client: Client | None = None) -> Client:
        client = client or Client()
        self.auth.begin(client, b"PLAIN", f"\0{name}\0{password}".encode())
        await client.answer()
        return client


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)


def run(folder: Path, act: Callable[[Box], Awaitable[None]], users: bool = True, **keys: Any) -> None:
    async def work() -> None:
        if users:
            put_user(folder / "users", "shop")
            put_user(folder / "users", "crm", cram_md5=True, mail=Assignment(pool="slow"))
        box = Box(folder, **keys)
        try:
            await act(box)
        finally:
            box.auth.close()

    asyncio.run(work())


# -- what is offered --------------------------------------------------------------------------------------------------


def test_what_is_offered_where(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        every = b"SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5"
        door = SmtpListener(bind="127.0.0.1:25")
        assert box.auth.offer(door, tls=True, loopback=False) == every
        assert box.auth.offer(door, tls=False, loopback=True) is None
        assert box.auth.offer(SmtpListener(bind="127.0.0.1:25", auth="none"), tls=True, loopback=True) is None
        box.set(without_tls_on_loopback=True, mechanisms=["LOGIN", "CRAM-MD5"])
        box.auth.configure()
        assert box.auth.offer(door, tls=False, loopback=True) == b"LOGIN CRAM-MD5"
        assert box.auth.offer(door, tls=False, loopback=False) is None
        drop_user(box.path, "crm")
        box.look()
        assert box.auth.offer(door, tls=True, loopback=False) == b"LOGIN"
        box.config = from_builtins({"hostname": "relay.test"})
        box.auth.configure()
        assert box.auth.offer(door, tls=True, loopback=True) is None

    run(tmp_path, act)


# -- each mechanism ---------------------------------------------------------------------------------------------------


def test_plain_and_login(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = await box.plain("shop")
        assert client.replies[-1].startswith(OK)
        assert client.login.name == b"shop"
        assert client.server.verify_recipient is not None
        client = Client()
        box.auth.begin(client, b"LOGIN", None)
        assert await client.answer() == b"Username:"
        box.auth.go_on(client, b"shop")
        assert await client.answer() == b"Password:"
        box.auth.go_on(client, PASSWORD.encode())
        assert (await client.answer()).startswith(OK)
        for name, password in (("shop", "wrong"), ("nobody", PASSWORD), ("shop", "Correct horse")):
            assert (await box.plain(name, password)).replies[-1].startswith(WRONG)
        assert box.counted("PLAIN", "ok") == box.counted("LOGIN", "ok") == 1
        assert box.counted("PLAIN", "wrong") == 3

    run(tmp_path, act)


def scram_final(second: bytes, first: bytes, password: str) -> bytes:
    fields = dict(part.split(b"=", 1) for part in second.split(b","))
    unproven = b"c=biws,r=" + fields[b"r"]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    message = first[3:] + b"," + second + b"," + unproven
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    return unproven + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))


async def scram(box: Box, name: str, password: str = PASSWORD, client: Client | None = None) -> Client:
    client = client or Client()
    first = f"n,,n={name},r=clientnonce".encode()
    box.auth.begin(client, b"SCRAM-SHA-256", first)
    await client.answer()
    if not client.replies:
        box.auth.go_on(client, scram_final(client.challenges[-1], first, password))
        await client.answer()
    if not client.replies:
        assert client.challenges[-1].startswith(b"v=")
        box.auth.go_on(client, b"")
        await client.answer()
    return client


def test_scram(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = await scram(box, "shop")
        assert client.replies == [module.SUCCESS]
        assert len({challenge.split(b",")[0] for challenge in client.challenges}) == 2
        for name, password in (("shop", "wrong"), ("nobody", PASSWORD)):
            assert (await scram(box, name, password)).replies[-1].startswith(WRONG)

    run(tmp_path, act)


def test_scram_of_an_unknown_user_looks_like_any_other(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        def second(name: str) -> dict[bytes, bytes]:
            client = Client()
            box.auth.begin(client, b"SCRAM-SHA-256", f"n,,n={name},r=abc".encode())
            return dict(part.split(b"=", 1) for part in client.challenges[-1].split(b","))

        real, made_up, again = second("shop"), second("nobody"), second("nobody")
        assert real[b"i"] == made_up[b"i"]
        assert len(real[b"s"]) == len(made_up[b"s"])
        assert made_up[b"s"] == again[b"s"] != second("nobody2")[b"s"]
        assert made_up[b"r"] != again[b"r"]
        put_user(box.path, "another")  # another file, the same answers
        box.look()
        assert second("nobody")[b"s"] == made_up[b"s"]
        other = Box(box.folder)  # another worker as well
        client = Client()
        other.auth.begin(client, b"SCRAM-SHA-256", b"n,,n=nobody,r=abc")
        assert made_up[b"s"] in client.challenges[-1]

    run(tmp_path, act)


def test_the_last_answer_of_scram_is_empty(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = Client()
        box.auth.begin(client, b"SCRAM-SHA-256", b"n,,n=shop,r=abc")
        box.auth.go_on(client, scram_final(client.challenges[-1], b"n,,n=shop,r=abc", PASSWORD))
        box.auth.go_on(client, b"more")
        assert client.replies[-1].startswith(b"501 5.5.2")
        assert client.login is None

    run(tmp_path, act)


def test_cram_md5_is_for_those_whose_password_is_stored(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        for name, password, expected in (("crm", PASSWORD, OK), ("crm", "x", WRONG), ("shop", PASSWORD, WRONG)):
            client = Client()
            box.auth.begin(client, b"CRAM-MD5", None)
            challenge = client.challenges[-1]
            assert challenge.endswith(b"@relay.test>")
            box.auth.go_on(client, f"{name} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}".encode())
            assert client.replies[-1].startswith(expected), name

    run(tmp_path, act)


def test_challenges_are_never_the_same(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        seen = set()
        for _ in range(20):
            client = Client()
            box.auth.begin(client, b"CRAM-MD5", None)
            seen.add(client.challenges[-1])
        assert len(seen) == 20

    run(tmp_path, act)


def test_malformed_and_unknown_mechanisms(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = await box.plain("a\0b")
        assert client.replies[-1].startswith(b"501 5.5.2")
        box.auth.begin(client, b"NTLM", None)
        assert client.replies[-1].startswith(b"504 5.5.4")
        assert box.counted("PLAIN", "malformed") == box.counted("other", "malformed") == 1

    run(tmp_path, act)


# -- what an account may do -------------------------------------------------------------------------------------------


def test_mail_of_a_user_and_of_its_listener(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        door = Assignment(tenant="acme", pool="fast")
        first = await box.plain("crm", client=Client(mail=door))
        assert first.login.mail == Assignment(tenant="acme", pool="slow")
        put_user(box.path, "crm2", mail=Assignment(pool="slow"))
        box.look()
        second = await box.plain("crm2", client=Client(mail=Assignment(tenant="acme", pool="fast")))
        assert second.login.mail is first.login.mail  # the assigner goes by identity
        assert (await box.plain("crm")).login.mail == Assignment(pool="slow")

    run(tmp_path, act)


def test_a_disabled_account_is_told_so_only_with_the_right_password(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        change_user(box.path, "shop", disabled=True)
        box.look()
        assert (await box.plain("shop", "wrong")).replies[-1].startswith(WRONG)
        client = await box.plain("shop")
        assert client.replies[-1].startswith(b"525 5.7.13")
        assert client.login is None

    run(tmp_path, act)


def test_connections_of_a_user_hold_over_workers(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        change_user(box.path, "shop", connections=2)
        box.look()
        cell = box.table.cell(b"user-connections:shop")
        assert box.table.acquire(cell, 1, 2)  # of another worker
        first = await box.plain("shop")
        second = await box.plain("shop")
        assert first.login is not None
        assert second.login is None
        assert second.replies[-1].startswith(b"454 4.7.0 2 connections")
        box.auth.forget(first)
        box.auth.forget(first)
        assert box.table.used(cell) == 1
        assert (await box.plain("shop", client=second)).login is not None
        assert len(box.auth.limits) == 1

    run(tmp_path, act)


def test_sessions_follow_the_users_file(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        clients = {name: await box.plain(name) for name in ("shop", "crm")}
        assert clients["shop"].login.verify_sender(b"a@b.example") is None
        change_user(box.path, "shop", senders=["shop.example"])
        box.look()
        assert clients["shop"].login.verify_sender(b"a@b.example").startswith(b"550 5.7.1 You may not send as a@b.exam")
        assert clients["shop"].login.verify_sender(b"a@shop.example") is None
        change_user(box.path, "shop", disabled=True)
        put_user(box.path, "crm", password="another one", cram_md5=True)
        box.look()
        assert clients["shop"].login.verify_sender(b"a@shop.example").startswith(b"525 5.7.13")
        assert clients["crm"].login.verify_sender(b"a@shop.example").startswith(WRONG)
        drop_user(box.path, "shop")
        box.look()
        assert clients["shop"].login.verify_sender(b"a@shop.example").startswith(WRONG)

    run(tmp_path, act)


def test_a_broken_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(box: Box) -> None:
        good = box.path.read_text()
        box.path.write_text(good + '{"name": "x", "cram_md5": "hush hush", "nonsense": 1}\n')
        box.look()
        assert (await box.plain("shop")).login is not None
        box.path.unlink()
        box.look()
        assert (await box.plain("crm")).login is not None
        box.path.write_text(good)
        drop_user(box.path, "crm")
        box.look()
        assert (await box.plain("crm")).login is None

    with caplog.at_level(logging.DEBUG):
        run(tmp_path, act)
    assert "hush" not in caplog.text
    assert PASSWORD not in caplog.text


def test_without_a_file_that_can_be_read_it_is_our_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(box: Box) -> None:
        assert (await box.plain("shop")).replies[-1] == module.TROUBLE
        assert (await scram(box, "shop")).replies[-1] == module.TROUBLE
        box.look()
        box.look()
        put_user(box.path, "shop")
        box.look()
        assert (await box.plain("shop")).login is not None

    run(tmp_path, act, users=False)
    assert caplog.text.count("nobody can authenticate until it can be read") == 1


# -- hashes -----------------------------------------------------------------------------------------------------------


class SlowHashes:
    """Hash.fits that waits for `go_on`, counts, and says how many ran at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import threading

        self.calls = self.running = self.most = 0
        self._lock = threading.Lock()
        self.gate = threading.Semaphore(0)
        real = Hash.fits

        def fits(one: Hash, password: str) -> bool:
            with self._lock:
                self.calls += 1
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                assert self.gate.acquire(timeout=60)
                return real(one, password)
            finally:
                with self._lock:
                    self.running -= 1

        monkeypatch.setattr(Hash, "fits", fits)

    def go_on(self, n: int = 1) -> None:
        for _ in range(n):
            self.gate.release()


def test_hashes_are_bounded_and_the_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHashes(monkeypatch)

    async def act(box: Box) -> None:
        clients = [Client(b"192.0.2.%d" % number) for number in range(7)]
        for client in clients:
            box.auth.begin(client, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        # two are hashed, four wait, one is too many
        assert [bool(client.replies) for client in clients] == [False] * 6 + [True]
        assert clients[6].replies == [module.BUSY]
        box.auth.forget(clients[5])  # gone before its turn
        slow.go_on(100)
        for client in clients[:5]:
            assert (await client.answer()).startswith(OK)
        assert slow.most == 2
        assert slow.calls <= 5
        assert not clients[5].replies

    run(tmp_path, act, hashes_at_once=2, hashes_waiting=4)


def test_one_address_takes_a_part_of_the_line_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHashes(monkeypatch)

    async def act(box: Box) -> None:
        greedy = [Client(b"203.0.113.9") for _ in range(5)]
        for client in greedy:
            box.auth.begin(client, b"PLAIN", b"\0shop\0guess")
        assert [client.replies for client in greedy] == [[], [], [], [module.BUSY], [module.BUSY]]
        other = Client(b"192.0.2.1")
        box.auth.begin(other, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        assert not other.replies
        slow.go_on(100)
        assert (await other.answer()).startswith(OK)

    run(tmp_path, act, hashes_at_once=1, hashes_waiting=8)


def test_who_was_right_before_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(box: Box) -> None:
        known = await box.plain("shop", client=Client(b"192.0.2.1"))
        box.auth.forget(known)
        box.clock.advance(module.REMEMBERED_SECONDS)
        slow = SlowHashes(monkeypatch)
        order: list[str] = []

        async def told(name: str, client: Client) -> None:
            await client.answer()
            order.append(name)

        strangers = [Client(b"203.0.113.%d" % number) for number in range(3)]
        for client in strangers:
            box.auth.begin(client, b"PLAIN", b"\0shop\0guess")
        again = Client(b"192.0.2.1")
        box.auth.begin(again, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        tasks = [asyncio.create_task(told(f"stranger {n}", client)) for n, client in enumerate(strangers)]
        tasks.append(asyncio.create_task(told("known", again)))
        slow.go_on(10)
        await asyncio.gather(*tasks)
        assert order == ["stranger 0", "known", "stranger 1", "stranger 2"]

    run(tmp_path, act, hashes_at_once=1)


def test_a_password_that_was_right_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(box: Box) -> None:
        calls = []
        real = Hash.fits
        monkeypatch.setattr(Hash, "fits", lambda one, password: calls.append(1) or real(one, password))
        for _ in range(3):
            assert (await box.plain("shop")).login is not None
        assert len(calls) == 1
        assert (await box.plain("shop", "wrong")).login is None
        assert len(calls) == 2
        box.clock.advance(module.REMEMBERED_SECONDS + 1)
        assert (await box.plain("shop")).login is not None
        assert len(calls) == 3
        put_user(box.path, "shop", password="another one")  # the file is another: nothing is remembered
        box.look()
        assert (await box.plain("shop")).login is None
        assert (await box.plain("shop", "another one")).login is not None
        assert PASSWORD.encode() not in b"".join(box.auth._remembered)

    run(tmp_path, act)


def test_many_connections_of_one_client_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHashes(monkeypatch)

    async def act(box: Box) -> None:
        clients = [Client(b"192.0.2.%d" % (number % 3)) for number in range(20)]
        for client in clients:
            box.auth.begin(client, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        slow.go_on(100)
        for client in clients:
            assert (await client.answer()).startswith(OK)
        assert slow.calls <= 2

    run(tmp_path, act, hashes_at_once=2, hashes_waiting=100)


def test_trouble_of_ours_is_454(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(one: Hash, password: str) -> bool:
        raise MemoryError(password)

    async def act(box: Box) -> None:
        monkeypatch.setattr(Hash, "fits", broken)
        client = await box.plain("shop")
        assert client.replies[-1] == module.TROUBLE
        assert box.errors == ["ingest"]
        assert box.counted("PLAIN", "error") == 1

    run(tmp_path, act)


def test_a_password_changed_while_it_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHashes(monkeypatch)

    async def act(box: Box) -> None:
        client = Client()
        box.auth.begin(client, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        put_user(box.path, "shop", password="another one")
        box.look()
        slow.go_on()
        assert await client.answer() == module.TROUBLE
        assert not box.auth._remembered

    run(tmp_path, act)


def test_a_client_that_leaves_or_cancels_while_its_password_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowHashes(monkeypatch)

    async def act(box: Box) -> None:
        gone, next_one = Client(), Client()
        box.auth.begin(gone, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        box.auth.begin(next_one, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        box.auth.forget(gone)
        slow.go_on(2)
        assert (await next_one.answer()).startswith(OK)
        assert not gone.replies
        assert box.table.used(box.table.cell(b"user-connections:shop")) == 1

    run(tmp_path, act, hashes_at_once=1)


# -- guessing ---------------------------------------------------------------------------------------------------------


def test_three_failures_end_a_session(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = Client()
        for expected in (WRONG, WRONG, b"421 4.7.0"):
            await box.plain("shop", "guess", client)
            assert client.replies[-1].startswith(expected)

    run(tmp_path, act)


def test_after_some_failures_tries_are_held_back_and_then_refused_unseen(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        for _ in range(3):
            await box.plain("shop", "guess")
        client = Client()
        box.auth.begin(client, b"PLAIN", b"\0crm\0guess")  # due in 2 s: held back
        assert not client.replies
        ((seconds, _, _),) = box.held
        assert seconds == pytest.approx(2.0)
        box.pass_time()
        assert (await client.answer()).startswith(WRONG)
        client = Client()
        first = b"n,,n=crm,r=abc"
        box.auth.begin(client, b"SCRAM-SHA-256", first)
        box.auth.go_on(client, scram_final(client.challenges[-1], first, "guess"))  # due in 4 s
        assert not client.replies
        box.pass_time()
        assert client.replies[-1].startswith(WRONG)
        right = await box.plain("shop")  # due in 8 s: said at once, right or wrong
        assert right.replies[-1].startswith(b"454 4.7.0 Too many failed authentications, try again in 8 s")
        assert right.login is None
        assert (await box.plain("shop", client=Client(b"198.51.100.1"))).login is not None
        assert box.counted("PLAIN", "delayed") == 1

    run(tmp_path, act, failures=3)


def test_the_right_client_is_not_locked_out_by_guesses_at_its_name(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        mine = Client(b"192.0.2.1")
        assert (await box.plain("shop", client=mine)).login is not None
        for number in range(3):
            await box.plain("shop", "guess", Client(b"203.0.113.%d" % number))
        assert (await box.plain("shop", client=Client(b"192.0.2.1"))).login is not None
        stranger = Client(b"198.51.100.1")
        box.auth.begin(stranger, b"PLAIN", f"\0shop\0{PASSWORD}".encode())
        assert not stranger.replies
        assert len(box.held) == 1

    run(tmp_path, act, failures=3)


def test_what_workers_tell_each_other(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        for _ in range(2):
            await box.plain("shop", "guess")
        await box.plain("crm")
        box.auth.tick(box.clock.monotonic())
        (told,) = box.reports
        assert told == {"event": "auth", "failed": [["192.0.2.1", "shop", 2]], "right": [["192.0.2.1", "crm"]]}
        box.auth.tick(box.clock.monotonic())
        assert len(box.reports) == 1
        other = Box(box.folder, failures=2)
        other.auth.hear(told["failed"], told["right"])
        now = other.clock.monotonic()
        assert other.auth.guard.wait("192.0.2.1", "shop", now) > 0
        assert other.auth.guard.wait("192.0.2.1", "crm", now) == 0
        other.auth.tick(now)
        assert not other.reports  # what was heard is not told again

    run(tmp_path, act)


def test_a_thousand_guesses_are_one_report(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        for number in range(1500):
            client = Client(b"10.0.%d.%d" % divmod(number, 250))
            box.auth.begin(client, b"CRAM-MD5", None)
            box.auth.go_on(client, b"user%d " % number + b"0" * 32)
            box.auth.forget(client)
        box.auth.tick(box.clock.monotonic())
        assert len(box.reports) == 1
        assert len(box.reports[0]["failed"]) == module.TOLD_AT_ONCE
        assert not box.auth._tries

    run(tmp_path, act)


def test_no_repr_tells_a_secret(tmp_path: Path) -> None:
    async def act(box: Box) -> None:
        client = await box.plain("crm")
        account = box.auth.users.accounts["crm"]
        for one in (client.login, account, account.user, box.auth, box.auth.users, account.hash, account.scram):
            assert PASSWORD not in repr(one)
            assert "$" not in repr(one)

    run(tmp_path, act)
