"""Memory of dead hosts: longer after each failure, forgotten at the first success, bounded."""

from __future__ import annotations

from dataclasses import dataclass

from fastrelay.deliver.hosts import FIRST_SECONDS, LONGEST_SECONDS, DeadHosts


@dataclass(frozen=True)
class Target:
    address: str


def test_a_dead_host_is_tried_last_until_its_time_is_over() -> None:
    hosts = DeadHosts()
    one, two, three = Target("192.0.2.1"), Target("192.0.2.2"), Target("192.0.2.3")
    assert hosts.in_order([one, two, three], 0.0) == [one, two, three]
    hosts.failed(one.address, 0.0)
    assert hosts.in_order([one, two, three], FIRST_SECONDS - 1) == [two, three, one]
    assert hosts.in_order([one, two, three], FIRST_SECONDS) == [one, two, three]


def test_each_failure_in_a_row_doubles_the_time() -> None:
    hosts = DeadHosts()
    waits = []
    for _ in range(8):
        hosts.failed("192.0.2.1", 0.0)
        waits.append(next(t for t in range(60, 10_000, 60) if not hosts.is_dead("192.0.2.1", float(t))))
    assert waits == [60, 120, 240, 480, 960, LONGEST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS]
    for _ in range(2000):
        hosts.failed("192.0.2.1", 0.0)  # no overflow


def test_a_success_forgets_all() -> None:
    hosts = DeadHosts()
    for _ in range(5):
        hosts.failed("192.0.2.1", 0.0)
    hosts.succeeded("192.0.2.1")
    assert not hosts.is_dead("192.0.2.1", 0.0)
    hosts.failed("192.0.2.1", 0.0)
    assert not hosts.is_dead("192.0.2.1", FIRST_SECONDS)


def test_the_memory_is_bounded() -> None:
    hosts = DeadHosts(most=3)
    for n in range(10):
        hosts.failed(f"192.0.2.{n}", 0.0)
        hosts.no_chunking(f"192.0.2.{n}")
    assert [n for n in range(10) if hosts.is_dead(f"192.0.2.{n}", 1.0)] == [7, 8, 9]
    assert [n for n in range(10) if not hosts.chunking(f"192.0.2.{n}")] == [7, 8, 9]


def test_broken_tls_is_remembered_until_its_time_is_over() -> None:
    hosts = DeadHosts(most=2)
    assert hosts.tls_broken("192.0.2.1", 0.0) is None
    hosts.tls_failed("192.0.2.1", 100.0, "validation-failure", "the handshake timed out")
    assert hosts.tls_broken("192.0.2.1", 99.0) == ("validation-failure", "the handshake timed out")
    assert hosts.tls_broken("192.0.2.2", 99.0) is None
    assert hosts.tls_broken("192.0.2.1", 100.0) is None
    assert hosts.tls_broken("192.0.2.1", 99.0) is None, "it is forgotten then"
    for n in range(3):
        hosts.tls_failed(f"192.0.2.{n}", 100.0, "validation-failure", "broken")
    assert [hosts.tls_broken(f"192.0.2.{n}", 0.0) is not None for n in range(3)] == [False, True, True]
