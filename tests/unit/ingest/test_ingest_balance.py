"""Client connections are spread over workers: the one with more than its share passes sockets on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.worker import WorkerBox, run


async def greeted(box: WorkerBox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = box.config.listeners.smtp[0].bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert (await reader.readline()).startswith(b"220 ")
    return reader, writer


async def close(clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in clients:
        writer.close()
        await writer.wait_closed()


def loads(*boxes: WorkerBox) -> list[int]:
    return [box.app.listener.load for box in boxes]


def test_connections_to_one_worker_are_shared_with_the_other(tmp_path: Path) -> None:
    async def work() -> None:
        one = WorkerBox(tmp_path, [], slot=0, slots=2)
        two = WorkerBox(tmp_path, [], clock=one.clock, slot=1, slots=2)
        two.app.listener._doors |= one.app.listener._doors  # as in one relay
        async with one, two:
            clients = [await greeted(one) for _ in range(10)]
            shared = loads(one, two)
            for reader, writer in clients:
                writer.write(b"EHLO client.test\r\n")
                assert (await reader.readline()).startswith(b"250")
            await close(clients)
            assert shared == [5, 5]
            await one.until(lambda: loads(one, two) == [0, 0])
            cell = one.app.balance._cell
            assert [one.app.table.demanded(cell, slot) for slot in (0, 1)] == [0, 0]

    run(work)


def test_a_worker_that_does_not_know_the_listener_sends_the_client_away(tmp_path: Path) -> None:
    """It began after a reload, with other listeners; nobody knows what rules would hold. The client comes again."""

    async def work() -> None:
        one = WorkerBox(tmp_path, [], slot=0, slots=2)
        two = WorkerBox(tmp_path, [], clock=one.clock, slot=1, slots=2)
        async with one, two:
            here = await greeted(one)
            host, _, port = one.config.listeners.smtp[0].bind.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            said = await reader.read()
            await close([here, (reader, writer)])
            assert said == b"421 4.3.2 Reconnect, please\r\n"
            await one.until(lambda: loads(one, two) == [0, 0])

    run(work)


def test_where_the_other_worker_is_gone_connections_stay(tmp_path: Path) -> None:
    async def work() -> None:
        one = WorkerBox(tmp_path, [], slot=0, slots=2)
        async with one:
            one.pass_time(60)  # it waits a while for the other one before it accepts
            clients = [await greeted(one) for _ in range(4)]
            kept = loads(one)
            await close(clients)
            assert kept == [4]

    run(work)


def test_the_connection_limit_answers_421(tmp_path: Path) -> None:
    async def work() -> None:
        async with WorkerBox(tmp_path, [], limits={"smtp_connections": 2}) as box:
            clients = [await greeted(box) for _ in range(2)]
            host, _, port = box.config.listeners.smtp[0].bind.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            said = await reader.read()
            await close([*clients, (reader, writer)])
            assert said.startswith(b"421 4.3.2 ")
            await box.until(lambda: box.app.listener.load == 0)

    run(work)
