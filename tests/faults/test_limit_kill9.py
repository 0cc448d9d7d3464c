"""kill -9 of workers and of everything, and a reload, while a rate holds: an MX host never sees more than allowed.

The host notes when each RCPT arrived (its own monotonic clock). A permit comes before its RCPT by what the sockets and
the two processes take, so in any window there may be, beside rate × window + burst, one RCPT for each connection that
was open (each has one RCPT on its way at most), those of a killed worker included. The rate itself gets no allowance.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.net import wait_until
from support.relay import RelayProcess
from support.worker import Mx, Talk

Maker = Callable[..., RelayProcess]
CONNECTIONS = 4
BURST = 10
MESSAGES = 350
TAKEN_OVER = "the configuration was reloaded"


class Host:
    """An MX host on a loop of its own thread."""

    def __init__(self) -> None:
        self.arrived: list[float] = []
        self.mx = Mx(self._reply)
        self.loop = asyncio.new_event_loop()

    def _reply(self, verb: str, argument: str, talk: Talk) -> str:
        if verb == "RCPT":
            self.arrived.append(time.monotonic())
        return ""

    async def stop(self) -> None:
        """Ends every connection, and listens no more."""
        await self.mx.stop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


@contextmanager
def host_in_a_thread() -> Iterator[tuple[Host, str]]:
    host = Host()
    thread = threading.Thread(target=host.loop.run_forever, daemon=True)
    thread.start()
    try:
        yield host, host.run(host.mx.start())
    finally:
        host.run(host.stop())
        Mx.started.remove(host.mx)
        host.loop.call_soon_threadsafe(host.loop.stop)
        thread.join(10)
        host.loop.close()


def most_over(arrived: list[float], per_second: float) -> float:
    """The most by which any window, of whatever length, is above rate × its length."""
    least = float("inf")
    most = 0.0
    for number, at in enumerate(arrived):
        least = min(least, number - per_second * at)
        most = max(most, number + 1 - per_second * at - least)
    return most


def submit(relay: RelayProcess, count: int) -> None:
    """So many messages, in sessions that both workers get some of; what a kill cuts off is no matter."""
    for begin in range(0, count, 50):
        with relay.client() as client:
            for n in range(begin, begin + 50):
                client.sendmail("news@a.test", [f"r{n}@one.test"], b"Subject: x\r\n\r\nhello\r\n")


def limited(host: str, rate: str) -> dict[str, Any]:
    return {
        "routes": [{"domains": ["*"], "hosts": [host]}],
        "delivery": {"allow_private_hosts": True, "connections": CONNECTIONS, "connections_per_site": CONNECTIONS},
        "shaping": [{"rate": f"{rate} burst {BURST}"}],
    }


def reload(relay: RelayProcess, config: dict[str, Any]) -> None:
    """Gives the relay a configuration; returns when every worker has it."""
    before = relay.log_text().count(TAKEN_OVER)
    relay.configure(config)
    relay.signal(signal.SIGHUP)
    wait_until(lambda: relay.log_text().count(TAKEN_OVER) > before, 30, "the reload")


def test_the_measure_of_windows() -> None:
    assert most_over([0.0, 0.0, 0.0], 1.0) == 3
    assert most_over([0.0, 1.0, 2.0, 3.0], 1.0) == 1
    assert most_over([0.0, 5.0, 5.0, 6.0], 1.0) == 2


@pytest.mark.timeout(300)
def test_no_window_is_above_the_rate_whatever_is_killed(make_relay: Maker) -> None:
    with host_in_a_thread() as (host, where):
        relay = make_relay(limited(where, "40/s"))
        submit(relay, 300)
        for part in ("worker", "worker", "all"):
            seen = len(host.arrived)
            wait_until(lambda seen=seen: len(host.arrived) >= seen + 30, 60, "some deliveries")
            relay.kill(part)
            if part == "all":
                relay.start()
        relay.wait_drained(120)
        assert len(host.arrived) >= 300
        assert most_over(host.arrived, 40) <= BURST + 2 * CONNECTIONS


@pytest.mark.timeout(300)
def test_a_reload_under_load_holds_both_rates(make_relay: Maker) -> None:
    with host_in_a_thread() as (host, where):
        relay = make_relay(limited(where, "50/s"))
        submit(relay, MESSAGES)
        wait_until(lambda: len(host.arrived) >= 100, 60, "some deliveries")
        reload(relay, limited(where, "20/s"))
        stricter = len(host.arrived)
        enough = min(stricter + 60, MESSAGES)  # a slow machine may have sent most of them by now
        wait_until(lambda: len(host.arrived) >= enough, 60, "deliveries at the stricter rate")
        laxer = len(host.arrived)
        reload(relay, limited(where, "100/s"))
        relay.wait_drained(120)
        assert most_over(host.arrived[:stricter], 50) <= BURST + CONNECTIONS
        assert most_over(host.arrived[stricter:laxer], 20) <= BURST + CONNECTIONS
        assert most_over(host.arrived[laxer:], 100) <= BURST + CONNECTIONS
