"""The unsubscribe page over real sockets: what each method does, what is refused, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from support.events import LogWriter

from fastrelay._core.slab import Slab
from fastrelay.clock import SimulatedClock
from fastrelay.config.load import load_text
from fastrelay.feedback.desk import Desk
from fastrelay.feedback.reference import References
from fastrelay.feedback.unsubscribe_http import ADDRESSES, BODY_OCTETS, Limiter, method_of
from fastrelay.feedback.unsubscribe_page import masked

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
LISTENER = "listeners: {smtp: [{bind: '127.0.0.1:0'}], unsubscribe: {bind: '127.0.0.1:0'%s}}\n"


class Bench:
    """A started desk with its page."""

    def __init__(self, desk: Desk, clock: SimulatedClock, folder: Path, session: aiohttp.ClientSession) -> None:
        self.desk = desk
        self.clock = clock
        self.folder = folder
        self.session = session
        self.references: References = desk.intake.matcher.references
        assert desk.unsubscribe.server is not None
        self.server = desk.unsubscribe.server
        host, _, port = str(self.server.address).rpartition(":")
        self.host, self.port = host, int(port)
        self.scheme = "https" if self.server.tls is not None else "http"

    def reference(self, recipient: bytes | None = b"reader@mailbox.example", number: int = 1) -> str:
        day = int(self.clock.wall() // 86400)
        return self.references.make(recipient, b"autumn", b"shop", b"news.example", day, f"t-{number:x}")

    def url(self, reference: str | None = None, path: str = "/unsubscribe/") -> str:
        return f"{self.scheme}://{self.host}:{self.port}{path}{self.reference() if reference is None else reference}"

    async def ask(self, method: str = "GET", url: str | None = None, **more: Any) -> tuple[int, str, dict[str, str]]:
        async with self.session.request(method, url or self.url(), allow_redirects=False, **more) as answer:
            return answer.status, await answer.text(), dict(answer.headers)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "events" / "feedback.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["event"] == name]


def on(
    state: Path, story: Callable[[Bench], Awaitable[None]], more: str = "", listener: str = "", ca: Any = True
) -> None:
    async def run() -> None:
        clock = SimulatedClock(start=time.time())  # a certificate is of today
        LogWriter(state, clock)
        text = f"hostname: mta.test\nstate_dir: {state}\n" + LISTENER % listener + more
        desk = Desk(load_text(text), state_dir=str(state), clock=clock, slab=Slab(state / "slab.feedback", create=True))
        await desk.start()
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ca)) as session:
                await story(Bench(desk, clock, state, session))
        finally:
            await desk.close()

    asyncio.run(run())


async def raw(bench: Bench, octets: bytes) -> bytes:
    """What comes back on a connection of its own, to its end."""
    reader, writer = await asyncio.open_connection(bench.host, bench.port)
    writer.write(octets)
    answer = await reader.read()
    writer.close()
    return answer


def test_one_click(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for _ in range(3):
            status, text, headers = await bench.ask("POST", data=ONE_CLICK)
            assert status == 200
            assert "You are unsubscribed" in text
            assert "Set-Cookie" not in headers
        (event,) = bench.events("unsubscribed")
        assert {key: event[key] for key in event if key not in ("key", "time")} == {
            "event": "unsubscribed", "id": "t-1", "recipient": "reader@mailbox.example", "domain": "mailbox.example",
            "campaign": "autumn", "tenant": "shop", "sender_domain": "news.example", "method": "one-click",
        }  # fmt: skip
        (entry,) = bench.events("suppression")
        assert (entry["reason"], entry["scope"], entry["scope_value"]) == ("unsubscribe", "sender", "news.example")

    on(tmp_path, story)


@pytest.mark.parametrize(
    ("kind", "body", "method"),
    [
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click", "one-click"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=b&list-unsubscribe=one-click\r\n", "one-click"),
        ("", b"List-Unsubscribe=One-Click", "one-click"),
        ("text/plain", b"List-Unsubscribe=One-Click", "one-click"),
        (
            "multipart/form-data; boundary=xyz",
            b'--xyz\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--xyz--\r\n',
            "one-click",
        ),
        (
            'multipart/form-data; boundary="x y"',
            b"--x y\r\ncontent-disposition: form-data; name=List-Unsubscribe\r\nContent-Type: text/plain\r\n\r\n"
            b"One-Click\r\n--x y--",
            "one-click",
        ),
        ("multipart/form-data; boundary=zz", b"List-Unsubscribe=One-Click", "one-click"),
        ("application/x-www-form-urlencoded", b"unsubscribe=page", "page"),
        ("application/x-www-form-urlencoded", b"", None),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=Two-Clicks", None),
        ("application/json", b'{"List-Unsubscribe": "One-Click"}', None),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--", None),
        ("multipart/form-data; boundary=\n\x00", b"&" * 5000, None),
    ],
)
def test_bodies(kind: str, body: bytes, method: str | None) -> None:
    assert method_of(kind, body) == method


def test_a_multipart_post(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        form = aiohttp.FormData(ONE_CLICK, default_to_multipart=True)
        assert (await bench.ask("POST", data=form))[0] == 200
        assert len(bench.events("unsubscribed")) == 1

    on(tmp_path, story)


def test_to_look_changes_nothing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
            await bench.ask(method)
        assert bench.events("unsubscribed") == []
        assert bench.events("suppression") == []
        status, text, headers = await bench.ask()
        assert status == 200
        assert '<form method="post" action="">' in text
        assert "r••••@mailbox.example" in text
        assert "reader@" not in text
        assert "<script" not in text
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "noindex" in headers["X-Robots-Tag"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Server"] == "fastrelay"
        status, text, headers = await bench.ask("HEAD")
        assert (status, text) == (200, "")
        assert int(headers["Content-Length"]) > 500
        status, _, headers = await bench.ask("OPTIONS")
        assert (status, headers["Allow"]) == (204, "GET, HEAD, POST, OPTIONS")
        status, _, headers = await bench.ask("PUT")
        assert (status, headers["Allow"]) == (405, "GET, HEAD, POST, OPTIONS")

    on(tmp_path, story)


def test_the_button(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        assert (await bench.ask("POST", data={"unsubscribe": "page"}))[0] == 200
        assert bench.events("unsubscribed")[0]["method"] == "page"
        assert (await bench.ask("POST", data={"unsubscribe": "no"}))[0] == 400
        assert (await bench.ask("POST", data=b""))[0] == 400

    on(tmp_path, story)


def test_links_that_are_not_ours(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        foreign = References(b"k" * 32).make(b"reader@mailbox.example", b"", b"", b"", 20_000, "t-1")
        good = bench.reference()
        for text, status in (
            ("", 404), ("x", 404), (foreign, 404), (good[:-1], 404), (good[:-1] + "!", 404), ("f" * 4000, 404),
            ("%00%ff", 404), (bench.reference(None), 410), (good.upper(), 200), (good + "/", 200),
            ("?r=" + good, 200), (good + "?utm_source=x", 200), (good + "%3E", 200),
        ):  # fmt: skip
            for method in ("GET", "POST"):
                got, page, _ = await bench.ask(method, bench.url(text), data=ONE_CLICK if method == "POST" else None)
                assert (text[:200], method, got) == (text[:200], method, status)
                assert "<!doctype html>" in page
        assert (await bench.ask("GET", bench.url("", "/")))[0] == 404
        assert (await bench.ask("GET", bench.url("", "/healthz")))[:2] == (200, "ok\n")
        assert len(bench.events("unsubscribed")) == 1

    on(tmp_path, story)


def test_after_the_entry_was_removed_it_counts_again(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.ask("POST", data=ONE_CLICK)
        listed = bench.desk.suppression.list.entries(b"reader@mailbox.example")
        assert len(await bench.desk.suppression.take_out(listed)) == 1
        await bench.ask("POST", data=ONE_CLICK)
        keys = [one["key"] for one in bench.events("unsubscribed")]
        assert len(set(keys)) == 2
        assert len([one for one in bench.events("suppression") if one["action"] == "added"]) == 2

    on(tmp_path, story)


def test_many_at_once_are_one(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answers = await asyncio.gather(*[bench.ask("POST", data=ONE_CLICK) for _ in range(20)])
        assert {answer[0] for answer in answers} == {200}
        assert len(bench.events("unsubscribed")) == 1

    on(tmp_path, story)


def test_what_could_not_be_kept_is_not_answered_with_200(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        whole = bench.desk.sync_events

        async def fails() -> None:
            raise OSError(5, "Input/output error")

        bench.desk.sync_events = fails  # type: ignore[method-assign]
        status, text, headers = await bench.ask("POST", data=ONE_CLICK)
        assert (status, headers["Retry-After"]) == (503, "120")
        assert "did not work" in text
        bench.desk.sync_events = whole  # type: ignore[method-assign]
        assert (await bench.ask("POST", data=ONE_CLICK))[0] == 200

    on(tmp_path, story)


def test_too_large(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        assert (await bench.ask("POST", data=b"x" * (BODY_OCTETS + 1)))[0] == 413

        async def pieces() -> Any:
            for _ in range(BODY_OCTETS // 1000 + 2):
                yield b"x" * 1000

        assert (await bench.ask("POST", data=pieces()))[0] == 413
        assert (await raw(bench, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.")
        assert bench.events("unsubscribed") == []

    on(tmp_path, story)


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n",
        b"POST /unsubscribe/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /unsubscribe/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_no_http(tmp_path: Path, octets: bytes) -> None:
    async def story(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection(bench.host, bench.port)
        writer.write(octets)
        writer.write_eof()
        answer = await reader.read()
        assert not answer.startswith(b"HTTP/1.1 2")
        writer.close()
        assert (await bench.ask())[0] == 200

    on(tmp_path, story)


def test_expect(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection(bench.host, bench.port)
        path = bench.url().partition(f":{bench.port}")[2]
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 26\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"List-Unsubscribe=One-Click")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()

    on(tmp_path, story)


def test_rate_of_an_address(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answers = [(await bench.ask())[0] for _ in range(4)]
        assert answers == [200, 200, 200, 429]
        assert (await bench.ask())[2]["Retry-After"] == "60"
        bench.clock.advance(21.0)
        assert [(await bench.ask())[0] for _ in range(2)] == [200, 429]
        assert (await bench.ask("GET", bench.url("", "/healthz")))[0] == 200

    on(tmp_path, story, "unsubscribe: {requests_per_minute: 3}\n")


def test_addresses_behind_a_proxy(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async def of(*told: str) -> int:
            return (await bench.ask(headers=[("X-Forwarded-For", one) for one in told]))[0]

        assert [await of("203.0.113.1"), await of("203.0.113.1")] == [200, 429]
        assert await of("203.0.113.1, 203.0.113.2") == 200  # what stands before the last one anybody can write
        assert await of("203.0.113.9, 203.0.113.2, 127.0.0.5") == 429
        assert [await of("[2001:db8::1]:4711"), await of("2001:db8::2")] == [200, 429]  # one /64
        assert [await of("nonsense"), await of("nonsense")] == [200, 429]

    on(tmp_path, story, "unsubscribe: {requests_per_minute: 1}\n", ", proxy_from: ['127.0.0.0/8']")


def test_nobody_else_is_believed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answers = [(await bench.ask(headers={"X-Forwarded-For": f"203.0.113.{n}"}))[0] for n in range(2)]
        assert answers == [200, 429]

    on(tmp_path, story, "unsubscribe: {requests_per_minute: 1}\n")


def test_the_limiter_is_bounded() -> None:
    limiter = Limiter(60)
    assert all(limiter.allows(f"a{n}", 100.0) for n in range(ADDRESSES))
    assert sum(limiter.allows(f"b{n}", 100.0) for n in range(200)) == 60  # the others share one
    assert limiter.allows("c", 102.0)


def test_slow_clients_are_cut_off(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        slow = [await asyncio.open_connection(bench.host, bench.port) for _ in range(4)]
        slow[0][1].write(b"GET / HT")
        path = bench.url().partition(f":{bench.port}")[2]
        slow[1][1].write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nList".encode())
        slow[2][1].write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await slow[2][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        while bench.server.connections < 4:
            await asyncio.sleep(0)
        bench.clock.advance(200.0)
        bench.server.second(bench.clock.monotonic())
        for reader, writer in slow:
            try:
                await reader.read()
            except ConnectionError:
                pass
            writer.close()
        while bench.server.connections:
            await asyncio.sleep(0)
        assert bench.events("unsubscribed") == []

    on(tmp_path, story)


def test_connections_are_bounded(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        first = [await asyncio.open_connection(bench.host, bench.port) for _ in range(8)]
        while bench.server.connections < 8:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(bench.host, bench.port)
        try:
            assert await reader.read() == b""  # of one address only so many
        except ConnectionError:
            pass
        writer.close()
        first[0][1].close()
        while bench.server.connections > 7:
            await asyncio.sleep(0)
        assert (await bench.ask())[0] == 200
        for _, one in first[1:]:
            one.close()

    on(tmp_path, story, "unsubscribe: {connections: 12}\n")


def test_more_connections_wait_for_room(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        first = [await asyncio.open_connection(bench.host, bench.port) for _ in range(2)]
        while bench.server.connections < 2:
            await asyncio.sleep(0)
        asked = asyncio.create_task(bench.ask())
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.server.connections == 2
        for _, one in first:
            one.close()
        assert (await asked)[0] == 200

    on(tmp_path, story, "unsubscribe: {connections: 2}\n")


def test_pages_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "ask.html").write_text("<p>{recipient} &auml; {other}</p>{form}<p>{recipient}</p>")
    (tmp_path / "done.html").write_text("<p>done: {recipient}{form}</p>")
    more = f"unsubscribe: {{page: {tmp_path}/ask.html, done_page: {tmp_path}/done.html}}\n"

    async def story(bench: Bench) -> None:
        url = bench.url(bench.reference(b"<i>{form}@mailbox.example"))
        _, text, _ = await bench.ask("GET", url)
        assert text.startswith("<p>&lt;••••@mailbox.example &auml; {other}</p><form ")
        assert text.count("<form") == 1
        assert "<i>" not in text
        _, text, _ = await bench.ask("POST", url, data=ONE_CLICK)
        assert text == "<p>done: &lt;••••@mailbox.example</p>"

    on(tmp_path, story, more)


def test_over_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(old)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    more = f"tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}\n"

    async def story(bench: Bench) -> None:
        assert bench.scheme == "https"
        assert (await bench.ask("POST", data=ONE_CLICK))[0] == 200
        answer = await raw(bench, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # no TLS at all
        assert not answer.startswith(b"HTTP")
        _, writer = await asyncio.open_connection(bench.host, bench.port, ssl=old)
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        writer.close()
        while bench.server.connections > 1:
            await asyncio.sleep(0)

    on(tmp_path, story, more, ca=context)


def test_masks() -> None:
    assert [masked(one) for one in ("ab@c.d", "a@c.d", "x", '"a@b"@c.d')] == ["a••••@c.d", "•@c.d", "…", '"••••@c.d']
