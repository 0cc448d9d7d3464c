"""The feedback process is killed with -9 while it posts: no event is lost, and what is posted again has the same
webhook-id. An endpoint that hangs slows no mail."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.net import wait_until
from support.relay import RelayProcess
from support.sink import Sink

MESSAGES = 40
KILLS = 3


class Endpoint:
    """Takes batches; while `hangs` is set no request is answered."""

    def __init__(self) -> None:
        self.got: list[tuple[str, list[dict[str, Any]]]] = []
        self.hangs = threading.Event()
        self.go_on = threading.Event()
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with endpoint.lock:
                    endpoint.got.append((self.headers["webhook-id"], json.loads(body)["data"]))
                if endpoint.hangs.is_set():
                    endpoint.go_on.wait(120)
                try:
                    self.send_response(204)
                    self.end_headers()
                except OSError:
                    pass  # whoever asked was killed

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def requests(self) -> list[tuple[str, list[dict[str, Any]]]]:
        with self.lock:
            return list(self.got)

    def delivered(self) -> set[str]:
        """Recipients of whom a delivery was told."""
        return {
            event["recipient"] for _, events in self.requests() for event in events if event["event"] == "delivered"
        }

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    running = Endpoint()
    yield running
    running.close()


def config(endpoint: Endpoint, sink: Sink) -> dict[str, Any]:
    hook: dict[str, Any] = {"name": "app", "url": endpoint.url, "batch": 7, "batch_wait": "50ms", "timeout": "10m"}
    hook["events"] = ["accepted", "delivered"]
    return {"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}], "events": {"webhooks": [hook]}}


def test_nothing_is_lost_and_identities_stay(
    make_relay: Callable[..., RelayProcess], sink: Sink, endpoint: Endpoint
) -> None:
    relay = make_relay(config(endpoint, sink))
    expected = []
    for kill in range(KILLS):
        endpoint.go_on.clear()
        endpoint.hangs.set()
        seen = len(endpoint.requests())
        for number in range(MESSAGES):
            expected.append(f"r{kill}.{number}@never.example")
            relay.submit(b"Subject: x\r\n\r\nhello\r\n", [expected[-1]])
        wait_until(lambda seen=seen: len(endpoint.requests()) > seen, what="a request that hangs")
        pid = relay.feedback_process()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        endpoint.hangs.clear()
        endpoint.go_on.set()
        wait_until(lambda pid=pid: relay.feedback_process() not in (None, pid), what="a new feedback process")
        wait_until(lambda: set(expected) <= endpoint.delivered(), what="all events")
    identities: dict[str, set[str]] = {}
    for identity, events in endpoint.requests():
        for event in events:
            identities.setdefault(event["key"], set()).add(identity)
    assert all(len(found) == 1 for found in identities.values())
    assert len(endpoint.requests()) > len({identity for identity, _ in endpoint.requests()})  # something was repeated
    order: dict[str, list[str]] = {}
    for _, events in endpoint.requests():
        for event in events:
            told = order.setdefault(event["id"], [])
            if event["event"] not in told:
                told.append(event["event"])
    assert all(told == ["accepted", "delivered"] for told in order.values())


def test_an_endpoint_that_hangs_slows_no_mail(
    make_relay: Callable[..., RelayProcess], sink: Sink, endpoint: Endpoint
) -> None:
    endpoint.hangs.set()
    relay = make_relay(config(endpoint, sink))
    for number in range(MESSAGES):
        relay.submit(b"Subject: x\r\n\r\nhello\r\n", [f"r{number}@never.example"])
    wait_until(lambda: len(sink.messages) == MESSAGES, what="all mail")
    assert len(endpoint.requests()) <= 1
    (status,) = relay.control("events.status")["webhooks"]
    assert status["taken"] == 0
    assert status["lag_events"] > 0
    endpoint.hangs.clear()
    endpoint.go_on.set()
    wait_until(lambda: len(endpoint.delivered()) == MESSAGES, what="all events")
    before = len(endpoint.requests())
    relay.control("events.replay", {"start": "2026-01-01", "webhook": "app"})
    wait_until(lambda: relay.control("events.status")["webhooks"][0]["replay"]["done"], what="the replay")
    again = [event for _, events in endpoint.requests()[before:] for event in events]
    assert len(again) == 2 * MESSAGES
