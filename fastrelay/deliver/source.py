"""Sending addresses and sockets bound to them.

`create_connection(local_addr=…)` binds without IP_BIND_ADDRESS_NO_PORT, and a source then runs out of ports as if all
destinations were one; so sockets are made here.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the port is chosen at connect, by destination


@dataclass(frozen=True, slots=True)
class Source:
    """A sending address; `address` empty: the system chooses. `ehlo` is the name in EHLO.

    warmup    the plan of a cold source; "": it is warm
    overflow  whether warm sources of the pool take what is above a cold one's cap
    """

    number: int
    name: str
    address: str
    ehlo: bytes
    warmup: str = ""
    overflow: bool = True

    def reaches(self, family: int) -> bool:
        """Whether it can connect to addresses of a family (AF_INET or AF_INET6)."""
        if not self.address:
            return True
        return (":" in self.address) == (family == socket.AF_INET6)


def open_socket(source: Source, family: int) -> socket.socket:
    """A non-blocking TCP socket bound to the source. OSError where the host does not have the address."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source.address:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source.address, 0))
    except OSError:
        sock.close()
        raise
    return sock
