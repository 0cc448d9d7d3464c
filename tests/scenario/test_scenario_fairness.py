"""Fair shares inside a site, through whole relays on real sockets; judged by the order in which mail arrives."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scenario.simulation import Simulation, message, settled
from support.net import wait_until
from support.relay import RelayProcess

from fastrelay.sim.mx import Behaviour

MakeRelay = Callable[[dict[str, Any]], RelayProcess]
BULK = 200_000  # recipients
AT_ONCE = 1000  # of a message
SOON = 12  # recipients that may arrive between the acceptance of a transactional message and its arrival
LOGIN = b"X-Fastrelay-Priority: transactional\r\nX-Sim-Id: login\r\nSubject: your code\r\n\r\n123456\r\n"


class Submitter:
    """A client on one connection, which stays with one worker; RCPTs are pipelined."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, 60)
        self._replies = self._socket.makefile("rb")
        self._replies.readline()
        self._socket.sendall(b"EHLO client.test\r\n")
        while self._replies.readline()[3:4] == b"-":
            pass

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def send(self, recipients: list[str], content: bytes) -> str:
        """Hands in one message; its id. The worker is the part before the dash."""
        lines = ["MAIL FROM:<news@sender.example>", *(f"RCPT TO:<{one}>" for one in recipients), "DATA"]
        self._socket.sendall("\r\n".join(lines).encode() + b"\r\n")
        for _ in lines:
            reply = self._replies.readline()
            assert reply[:1] in b"23", reply
        self._socket.sendall(content + b".\r\n")
        reply = self._replies.readline()
        assert reply.startswith(b"250 "), reply
        return reply.split()[-1].decode()


@contextmanager
def submitters(relay: RelayProcess, count: int) -> Iterator[list[Submitter]]:
    """Connections, each of another worker: the kernel and the workers spread those that are open together, so there is
    one for each soon. (Mail for probe.example goes nowhere.)"""
    made: list[Submitter] = []
    by_worker: dict[str, Submitter] = {}
    try:
        while len(by_worker) < count:
            assert len(made) < 200, "all connections are with one worker"
            made.append(Submitter(relay.smtp))
            worker = made[-1].send(["who@probe.example"], message(0)).partition("-")[0]
            by_worker.setdefault(worker, made[-1])
        yield list(by_worker.values())
    finally:
        for one in made:
            one.close()


def bulk(client: Submitter, recipients: int) -> str:
    """A campaign; the worker that has it."""
    for number in range(recipients // AT_ONCE):
        first = number * AT_ONCE
        names = [f"bulk{n}@a.example" for n in range(first, first + AT_ONCE)]
        worker = client.send(names, message(number)).partition("-")[0]
    return worker


def arrived(net: Simulation) -> list[bytes]:
    return [recipient for _, recipient in net.account.arrivals]


NOWHERE = [{"domains": ["probe.example"], "action": "discard"}]
SLOW: dict[str, dict[str, Any]] = {"connection": {"connections": 1}, "rate": {"rate": "40/s burst 1"}}


@pytest.mark.parametrize("limit", SLOW)
@pytest.mark.parametrize("other_worker", [False, True], ids=["same worker", "other worker"])
def test_transactional_mail_leaves_before_200000_of_bulk(
    net: Simulation, make_relay: MakeRelay, limit: str, other_worker: bool
) -> None:
    net.mx("a.example", Behaviour(latency_seconds=0.005))
    relay = make_relay(
        net.relay_config(
            workers=2 if other_worker else 1,
            delivery={"recipients_per_transaction": 1, "messages_per_connection": 100_000},
            shaping=[{"provider": "*"} | SLOW[limit]],
            routes=NOWHERE,
        )
    )
    with submitters(relay, 2 if other_worker else 1) as clients:
        first, login = clients[0], clients[-1]
        worker = bulk(first, BULK)
        wait_until(lambda: len(arrived(net)) > 5, 60, "the campaign on its way")
        for code in range(3):
            went_by = login.send([f"login{code}@a.example"], LOGIN).partition("-")[0]
            before = len(arrived(net))
            assert (went_by != worker) == other_worker
            name = b"login%d@a.example" % code
            wait_until(lambda name=name: name in arrived(net), 60, "the login code")  # type: ignore[misc]
            assert arrived(net).index(name) - before <= SOON
            # The campaign goes on.
            count = len(arrived(net))
            wait_until(lambda count=count: len(arrived(net)) > count + 3, 60, "more of the campaign")  # type: ignore[misc]


def test_shares_follow_the_weights_in_any_window(net: Simulation, make_relay: MakeRelay) -> None:
    net.mx("a.example")
    relay = make_relay(
        net.relay_config(
            workers=1,
            delivery={"connections_per_site": 1, "recipients_per_transaction": 1, "messages_per_connection": 100_000},
            fairness={"campaigns": {"heavy": 3}},
            routes=NOWHERE,
        )
    )
    relay.control("queue.suspend", {"domain": "a.example", "why": "collect first"})
    with submitters(relay, 1) as (client,):
        for campaign, count in (("light", 500), ("heavy", 1000)):
            names = [f"{campaign}{n}@a.example" for n in range(count)]
            client.send(names, f"X-Fastrelay-Campaign: {campaign}\r\n".encode() + message(1))
    relay.control("queue.resume", {"domain": "a.example"})
    settled(relay)
    order = [recipient.startswith(b"heavy") for recipient in arrived(net)]
    both = order[:1300]  # until the heavy one is through
    for window in (40, 400):
        for start in range(0, len(both) - window, 10):
            assert abs(sum(both[start : start + window]) - window * 3 / 4) <= 4


def test_greylisted_retries_and_new_mail_both_go_on(net: Simulation, make_relay: MakeRelay) -> None:
    """Deferred mail waits for its source in a lane of its own; it neither blocks what is new nor is it forgotten."""
    net.mx("a.example", Behaviour(tempfail_permille=500))
    relay = make_relay(
        net.relay_config(
            workers=1, delivery={"connections_per_site": 1, "recipients_per_transaction": 1}, routes=NOWHERE
        )
    )
    with submitters(relay, 1) as (client,):
        client.send([f"first{n}@a.example" for n in range(800)], message(1))
        client.send([f"second{n}@a.example" for n in range(800)], message(2))
    assert settled(relay)["delivered"] == 1600
    assert len(set(arrived(net))) == 1600
