"""Loopback addresses and ports for tests and benchmarks.

A relay that is killed and started again must find its own port free. Linux gives outgoing connections to
127.0.0.0/8 the source address 127.0.0.1, so a listener on 127.0.0.1 can lose its port to any of the thousands of
outgoing connections of a load test. Listeners of tests therefore get an address of their own in 127/8.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable

_counter = itertools.count(1)


def loopback_address() -> str:
    """An address in 127/8 that no other test of this machine is likely to use, never 127.0.0.x."""
    seed = (os.getpid() * 251 + next(_counter)) % (200 * 250 * 250)
    return f"127.{20 + seed // 62500}.{seed // 250 % 250}.{seed % 250 + 1}"


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that was free a moment ago (bind to port 0)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_endpoint() -> str:
    """"ADDR:PORT" on a loopback address of its own."""
    host = loopback_address()
    return f"{host}:{free_port(host)}"


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """"127.0.0.1:25" or "[::1]:25" as (host, port)."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def wait_until(condition: Callable[[], object], seconds: float = 90.0, what: str = "the condition") -> object:
    """Poll until `condition()` is true and return its value; AssertionError after `seconds`.

    A bound against hanging, not a measurement: no test passes or fails by how long something takes below it.
    """
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def has_ipv6() -> bool:
    """Whether ::1 can be bound on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False
