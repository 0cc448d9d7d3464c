"""Webhooks: batches in order, retried, never lost, from cursors that last; the answers of endpoints."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from standardwebhooks.webhooks import Webhook as Verifier
from support.events import LogWriter, make_desk
from support.hook_server import HookServer

from fastrelay.clock import SimulatedClock
from fastrelay.feedback import webhooks as module
from fastrelay.feedback.desk import Desk, DeskError
from fastrelay.feedback.hook_post import answer_of, seconds_of
from fastrelay.feedback.webhooks import Hook, Webhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits: neither for company, nor before it tries again."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)


class Stand:
    """A desk with a webhook, its logs and its endpoint."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.clock = SimulatedClock()
        self.logs = LogWriter(state, self.clock)
        self.server = HookServer()
        self.desk: Desk | None = None
        self.more = ""

    def yaml(self, url: str = "") -> str:
        hook = f"{{name: app, url: '{url or self.server.url}', batch_wait: 0s, {self.more}}}"
        return f"events: {{webhooks: [{hook}]}}\n"

    @property
    def webhooks(self) -> Webhooks:
        assert self.desk is not None
        return next(part for part in self.desk.parts if isinstance(part, Webhooks))

    @property
    def hook(self) -> Hook:
        return self.webhooks.hooks["app"]

    async def begin(self, url: str = "") -> None:
        self.desk = make_desk(self.state, self.clock, self.yaml(url))
        await self.webhooks.start()

    async def end(self) -> None:
        if self.desk is not None:
            await self.webhooks.close()
            self.desk.store.close()
            self.desk = None

    def reload(self) -> None:
        from support.events import CONFIG

        from fastrelay.config.load import load_text

        self.webhooks.configure(load_text(CONFIG.format(state=self.state) + self.yaml()))

    async def reloaded(self) -> None:
        assert self.webhooks._changes is not None
        await self.webhooks._changes

    def metric(self, name: str, **labels: str) -> float:
        assert self.desk is not None
        slab = self.desk.meters.slab
        wanted = set(labels.items())
        return sum(slab.value(entry) for entry, found in slab.series(f"fastrelay_{name}") if wanted <= set(found))


Story = Callable[[Stand], Awaitable[None]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Story], None]:
    def run(story: Story) -> None:
        async def main() -> None:
            stand = Stand(tmp_path)
            await stand.server.start()
            try:
                await story(stand)
            finally:
                await stand.end()
                await stand.server.stop()

        asyncio.run(main())

    return run


class TestNative:
    def test_signed_batches_in_order(self, tell: Callable[[Story], None], tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(SECRET + "\n")

        async def story(at: Stand) -> None:
            at.more = f"secret_file: {tmp_path}/secret, batch: 10"
            expected = [at.logs.write("w0", "delivered", recipient="a@b.example") for _ in range(25)]
            await at.begin()
            await at.server.until(lambda: len(at.server.keys) == 25)
            expected.append(at.logs.write("feedback", "bounced", recipient="a@b.example"))
            await at.server.until(lambda: len(at.server.keys) == 26)
            assert at.server.keys == expected
            assert [len(one.events) for one in at.server.got] == [10, 10, 5, 1]
            for one in at.server.got:
                assert one.headers["Content-Type"] == "application/json"
                assert one.headers["User-Agent"].startswith("fastrelay/")
                signed = {name.lower(): value for name, value in one.headers.items()}
                age = at.clock.wall()
                assert signed["webhook-timestamp"] == str(int(age))
                verify_signature(one.body, signed)
            assert len({one.headers["webhook-id"] for one in at.server.got}) == 4
            assert at.metric("webhook_events_total", webhook="app") >= 25

        tell(story)

    def test_only_what_is_wanted(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            at.more = "events: [failed, suppression], tenants: [blue]"
            await at.begin()
            at.logs.write("w0", "failed", tenant="red")
            at.logs.write("w0", "delivered", tenant="blue")
            at.logs.write("w0", "failed")
            expected = [at.logs.write("w0", "failed", tenant="blue")]
            at.clock.advance(1)
            at.logs.write("feedback", "suppression", scope="tenant", scope_value="red")
            expected.append(at.logs.write("feedback", "suppression", scope="tenant", scope_value="blue"))
            await at.server.until(lambda: len(at.server.keys) == 2)
            assert at.server.keys == expected

        tell(story)

    def test_a_broken_line_breaks_no_batch(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            first = at.logs.write("w0", "failed")
            at.logs.append("w0", b'{"key":"x","event":"failed","time":"2027-01-15T08:00:00.000Z","a":"{"b"}\n')
            at.logs.append("w0", b'{"key":"y","event":"failed","time":"2027-01-15T08:00:00.000Z","a":"\xff"}\n')
            last = at.logs.write("w0", "failed")
            await at.begin()
            await at.server.until(lambda: len(at.server.keys) == 2)
            assert at.server.keys == [first, last]

        tell(story)


def verify_signature(body: bytes, headers: dict[str, str]) -> None:
    """With the reference library; it wants the time of now, so that is signed over again where ours is another."""
    from datetime import UTC, datetime

    verifier = Verifier(SECRET)
    when = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"] == verifier.sign(headers["webhook-id"], when, body.decode())


class TestRetries:
    def test_the_same_batch_until_it_is_taken(self, tell: Callable[[Story], None]) -> None:
        answers = [500, 302, 429, 404, 503, 401]

        async def story(at: Stand) -> None:
            at.server.answer = lambda n, body: web.Response(status=answers[n]) if n < len(answers) else None
            expected = [at.logs.write("w0", "failed") for _ in range(5)]
            await at.begin()
            await at.server.until(lambda: bool(at.server.taken))
            assert at.server.keys == expected
            assert len({one.headers["webhook-id"] for one in at.server.got}) == 1
            assert len({one.body for one in at.server.got}) == 1
            for result, n in (("server_error", 2), ("redirect", 1), ("busy", 1), ("refused", 2)):
                assert at.metric("webhook_requests_total", result=result) == n

        tell(story)

    def test_an_endpoint_that_is_away(self, tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture) -> None:
        async def story(at: Stand) -> None:
            expected = [at.logs.write("w0", "failed") for _ in range(3)]
            from support.net import free_endpoint

            await at.begin(f"http://{free_endpoint()}/")
            while at.hook.failures < 3:
                await asyncio.sleep(0.001)
            assert at.hook.view()["state"] == "failing"
            assert at.metric("webhook_requests_total", result="unreachable") >= 3
            at.clock.advance(60)
            assert at.hook.lag_seconds() >= 60
            status = await at.webhooks.status()
            assert status["webhooks"][0]["lag_events"] == 3
            at.reload()  # the right address
            await at.reloaded()
            await at.server.until(lambda: bool(at.server.taken))
            assert at.server.keys == expected

        tell(story)
        assert sum("tried again" in record.message for record in caplog.records) == 1  # said once

    def test_the_same_identity_after_a_kill(self, tell: Callable[[Story], None]) -> None:
        """What was under way is posted again as it was, though more has come since; nothing is lost."""

        async def story(at: Stand) -> None:
            at.server.hold = asyncio.Event()
            expected = [at.logs.write("w0", "failed") for _ in range(3)]
            expected += [at.logs.write("w1", "failed") for _ in range(2)]
            await at.begin()
            await at.server.until(lambda: len(at.server.got) == 1)
            await at.end()
            at.server.hold.set()
            at.clock.advance(1)
            expected += [at.logs.write(log, "failed") for log in ("w0", "w1", "feedback")]
            await at.begin()
            await at.server.until(lambda: len(at.server.keys) == 5 + 8)
            first, again, last = at.server.got
            assert (first.headers["webhook-id"], first.body) == (again.headers["webhook-id"], again.body)
            assert sorted(first.keys + last.keys) == sorted(expected)

        tell(story)

    def test_too_old(self, tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture) -> None:
        async def story(at: Stand) -> None:
            at.more = "give_up: 1h"
            at.server.answer = lambda n, body: web.Response(status=500) if b"old" in body else None
            for _ in range(4):
                at.logs.write("w0", "failed", reply="old")
            await at.begin()
            await at.server.until(lambda: len(at.server.got) >= 2)
            at.clock.advance(3601)
            key = at.logs.write("w0", "failed")
            await at.server.until(lambda: bool(at.server.taken))
            assert at.server.keys == [key]
            assert at.metric("webhook_dropped_events_total", reason="too_old") == 4

        tell(story)
        assert sum("are dropped" in record.message for record in caplog.records) == 1

    def test_gone_is_off_until_a_reload(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            at.server.answer = lambda n, body: web.Response(status=410) if n == 0 else None
            expected = [at.logs.write("w0", "failed")]
            await at.begin()
            while not at.hook.problem:
                await asyncio.sleep(0.001)
            assert at.hook.view()["state"] == "off"
            expected.append(at.logs.write("w0", "failed"))
            with pytest.raises(DeskError, match="410"):
                at.webhooks.replay("2027-01-15T07:00:00Z", webhook="app")
            at.reload()
            await at.reloaded()
            await at.server.until(lambda: len(at.server.keys) == 2)
            assert at.server.keys == expected

        tell(story)

    def test_too_large_goes_in_halves(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            at.server.answer = lambda n, body: web.Response(status=413) if body.count(b'"key"') > 2 else None
            expected = [at.logs.write("w0", "failed") for _ in range(9)]
            await at.begin()
            await at.server.until(lambda: len(at.server.keys) == 9)
            assert at.server.keys == expected

        tell(story)

    def test_an_event_that_is_refused_for_good(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            at.more = "format: listmonk"
            at.server.answer = lambda n, body: web.Response(status=400) if b"bad@" in body else None
            for recipient in ("a@b.example", "bad@b.example", "c@b.example"):
                at.logs.write("w0", "failed", recipient=recipient)
            await at.begin()
            await at.server.until(lambda: len(at.server.taken) == 2)
            assert b"c@b.example" in at.server.taken[1].body
            assert len(at.server.got) == 2 + module.POISON_TRIES
            assert at.metric("webhook_dropped_events_total", reason="refused") == 1

        tell(story)

    def test_one_that_is_dead_slows_no_other(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            dead = HookServer()
            dead.hold = asyncio.Event()
            await dead.start()
            at.more = f"events: [failed]}}, {{name: dead, url: '{dead.url}', batch_wait: 0s"
            await at.begin()
            for n in range(20):
                at.logs.write("w0", "failed")
                await at.server.until(lambda n=n: len(at.server.keys) == n + 1)  # type: ignore[misc]
            assert len(dead.got) == 1
            dead.hold.set()
            await dead.until(lambda: len(dead.keys) == 20)
            await at.end()
            await dead.stop()

        tell(story)


class TestSettings:
    def test_basic_authentication(self, tell: Callable[[Story], None], tmp_path: Path) -> None:
        (tmp_path / "password").write_text("geheim:ü\n")

        async def story(at: Stand) -> None:
            at.more = f"username: me, password_file: {tmp_path}/password"
            at.logs.write("w0", "failed")
            await at.begin()
            await at.server.until(lambda: bool(at.server.taken))
            import base64

            assert base64.b64decode(at.server.got[0].headers["Authorization"].split()[1]).decode() == "me:geheim:ü"

        tell(story)

    def test_certificates_are_verified(self, tell: Callable[[Story], None], tmp_path: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")

        async def story(at: Stand) -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            await at.server.stop()
            at.server = await HookServer().start(context)
            key = at.logs.write("w0", "failed")
            await at.begin()
            while at.metric("webhook_requests_total", result="tls") < 1:
                await asyncio.sleep(0.001)
            assert not at.server.got
            at.more = f"ca_file: {tmp_path}/ca.pem"
            at.reload()
            await at.reloaded()
            await at.server.until(lambda: bool(at.server.taken))
            assert at.server.keys == [key]

        tell(story)

    def test_a_secret_that_cannot_be_used(
        self, tell: Callable[[Story], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "secret").write_text("whsec_nonsense!")

        async def story(at: Stand) -> None:
            at.more = f"secret_file: {tmp_path}/secret"
            key = at.logs.write("w0", "failed")
            await at.begin()
            assert at.hook.view()["state"] == "off"
            (tmp_path / "secret").write_text(SECRET)
            at.reload()
            await at.reloaded()
            await at.server.until(lambda: bool(at.server.taken))
            assert at.server.keys == [key]
            assert "webhook-signature" in at.server.got[0].headers

        with caplog.at_level(logging.ERROR):
            tell(story)
        assert "nonsense" not in caplog.text

    def test_a_reload_that_changes_nothing(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            await at.begin()
            hook = at.hook
            at.reload()
            await at.reloaded()
            assert at.hook is hook

        tell(story)


class TestReplay:
    def test_the_events_of_a_time(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            keys = []
            for n in range(10):
                if n == 5:
                    at.logs.rotate("w0", "20270115T080500Z")
                keys.append(at.logs.write("w0", "failed"))
                at.clock.advance(60)
            at.clock.advance(3600)
            await at.begin()
            at.webhooks.replay("2027-01-15T08:02:00Z", "2027-01-15T08:08:00Z", "app")
            await at.server.until(lambda: len(at.server.keys) >= 6)
            replay = at.hook.replay
            assert replay is not None
            assert replay.task is not None
            await replay.task
            assert at.server.keys == keys[2:8]
            status = await at.webhooks.status()
            found: dict[str, Any] = status["webhooks"][0]["replay"]
            assert (found["events"], found["done"], found["error"]) == (6, True, "")

        tell(story)

    def test_what_is_no_time(self, tell: Callable[[Story], None]) -> None:
        async def story(at: Stand) -> None:
            await at.begin()
            for start, end, name in (
                ("soon", None, None),
                ("2027-01-15", "2027-01-14", None),
                ("2027-01-01", None, "x"),
            ):
                with pytest.raises(DeskError):
                    at.webhooks.replay(start, end, name)

        tell(story)


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "retry_after", "result", "seconds"),
        [
            (200, None, "ok", None),
            (204, "7", "ok", None),
            (301, None, "redirect", None),
            (400, None, "refused", None),
            (410, None, "gone", None),
            (429, None, "busy", None),
            (429, "120", "busy", 120.0),
            (503, "Fri, 15 Jan 2027 08:01:00 GMT", "busy", 60.0),
            (503, None, "server_error", None),
            (500, "120", "server_error", None),
        ],
    )
    def test_meaning(self, status: int, retry_after: str | None, result: str, seconds: float | None) -> None:
        answer = answer_of(status, retry_after, "", 1_800_000_000.0)
        assert (answer.result, answer.retry_after) == (result, seconds)

    @pytest.mark.parametrize("words", ["", "soon", "-5", "1e9", "\xb2", "Fri, 99 Jan"])
    def test_retry_after_that_is_none(self, words: str) -> None:
        assert seconds_of(words, 0.0) is None

    def test_patience_is_honoured_and_bounded(self, tmp_path: Path) -> None:
        stand = Stand(tmp_path)
        stand.more = "retry_max: 10s, give_up: 1h"
        stand.desk = make_desk(tmp_path, stand.clock, stand.yaml("http://127.0.0.1:1/x"))
        from fastrelay.feedback.hook_post import Secrets

        hook = Hook(stand.desk, stand.desk.config.events.webhooks[0], Secrets())
        hook.failures = 50
        assert 10 * (1 - module.JITTER) <= hook._wait(None) <= 10
        assert hook._wait(60.0) == 60.0
        assert hook._wait(1e9) == 3600.0
        stand.desk.store.close()
