"""Sending addresses: sockets are bound to them without taking a port before the destination is known."""

from __future__ import annotations

import socket
import struct

import pytest
from support.net import free_endpoint, split_endpoint

from fastrelay.deliver.source import IP_BIND_ADDRESS_NO_PORT, Source, open_socket

IP_LOCAL_PORT_RANGE = 51  # linux/in.h, since Linux 6.3


def source(address: str) -> Source:
    return Source(0, "a", address, b"a.test")


@pytest.mark.parametrize(
    ("address", "four", "six"), [("", True, True), ("127.0.0.9", True, False), ("2001:db8::1", False, True)]
)
def test_families(address: str, four: bool, six: bool) -> None:
    assert source(address).reaches(socket.AF_INET) is four
    assert source(address).reaches(socket.AF_INET6) is six


def test_the_port_is_chosen_at_connect() -> None:
    with open_socket(source("127.0.0.9"), socket.AF_INET) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockname() == ("127.0.0.9", 0)
        assert not sock.getblocking()


def test_without_an_address_the_system_chooses() -> None:
    with open_socket(source(""), socket.AF_INET) as sock:
        assert sock.getsockname() == ("0.0.0.0", 0)


def test_an_address_this_host_does_not_have() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        open_socket(source("203.0.113.77"), socket.AF_INET)


def test_more_connections_than_ports_from_one_source_to_several_destinations() -> None:
    """With 30 ports to choose from, 3 destinations take 60 connections: ports are counted by destination. (Some of
    the 30 may be others'.)"""
    ports, each = 30, 20
    port_range = struct.pack("=HH", 40_000, 40_000 + ports - 1)
    listeners, clients = [], []
    try:
        for _ in range(3):
            listener = socket.create_server(split_endpoint(free_endpoint()), backlog=64)
            listeners.append(listener)
            for _ in range(each):
                sock = open_socket(source("127.0.0.9"), socket.AF_INET)
                clients.append(sock)
                try:
                    sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, port_range)
                except OSError:
                    pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE")
                sock.setblocking(True)
                sock.connect(listener.getsockname())
        used = [sock.getsockname()[1] for sock in clients]
        assert len(used) == 60
        assert len(set(used)) <= ports
    finally:
        for sock in (*clients, *listeners):
            sock.close()
