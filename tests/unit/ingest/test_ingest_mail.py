"""From the socket to the queue: what the listener, the header and the configuration make of a message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.net import free_endpoint
from support.worker import Mx, WorkerBox, run

LARGE = b"x" * 70 + b"\r\n"


async def handed_in(bind: str, content: bytes, recipient: str = "a@x.test") -> str:
    """Submits one message over SMTP; the reply to its content."""
    host, _, port = bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        await reader.readline()
        for line in (b"HELO client.test", b"MAIL FROM:<news@a.test>", b"RCPT TO:<%b>" % recipient.encode(), b"DATA"):
            writer.write(line + b"\r\n")
            reply = await reader.readline()
            assert reply[:1] in b"23", reply
        writer.write(content + b".\r\n")
        return (await reader.readline()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


def served(folder: Path, act: Any) -> None:
    """A worker with two listeners: one for everybody, one of the tenant acme; and a host that takes mail."""

    async def work() -> None:
        mx = Mx()
        everybody, acme = free_endpoint(), free_endpoint()
        keys: dict[str, Any] = {
            "listeners": {"smtp": [{"bind": everybody}, {"bind": acme, "mail": {"tenant": "acme", "pool": "slow"}}]},
            "sources": [{"name": "a", "address": "127.0.0.11"}],
            "pools": {"slow": ["a"], "other": ["a"]},
            "tenants": {"acme": {"pools": ["slow"]}},
            "spool": {"reserve": 0, "ballast": 0, "map_size": 1 << 28, "large_message": 65536},
        }
        async with WorkerBox(folder, [await mx.start()], **keys) as box:
            box.app.listener.start()
            await act(box, mx, everybody, acme)
            await box.settled()
            await box.audit()

    run(work)


def test_mail_gets_what_its_listener_says(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, everybody: str, acme: str) -> None:
        assert (await handed_in(everybody, b"Subject: x\r\n\r\nhello\r\n")).startswith("250 ")
        assert (await handed_in(acme, b"Subject: x\r\n\r\nhello\r\n")).startswith("250 ")
        await box.until(lambda: len(mx.accepted) == 2)
        accepted = [event for event in box.events() if event["event"] == "accepted"]
        assert [event.get("tenant") for event in accepted] == [None, "acme"]
        assert {site.pool_name for site in box.app.board.sites.values()} == {"default", "slow"}
        assert {domain.pool for domain in box.app.index.domains.values()} == {b"", b"slow"}

    served(tmp_path, act)


def test_a_pinned_tenant_cannot_be_left_by_header_nor_can_its_pools(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, everybody: str, acme: str) -> None:
        body = b"Subject: x\r\n\r\nhello\r\n"
        assert (await handed_in(acme, b"X-Fastrelay-Tenant: rival\r\n" + body)).startswith("550 5.7.1 Tenant rival")
        assert (await handed_in(acme, b"X-Virtual-MTA: other\r\n" + body)).startswith("550 5.7.1 Pool other is not for")
        assert (await handed_in(everybody, b"X-Virtual-MTA: nowhere\r\n" + body)).startswith("550 5.7.1 Pool nowhere")
        assert (await handed_in(everybody, b"X-Virtual-MTA: other\r\n" + body)).startswith("250 ")
        await box.until(lambda: len(mx.accepted) == 1)
        assert b"X-Virtual-MTA" not in mx.accepted[0][1]

    served(tmp_path, act)


def test_a_large_content_is_assigned_and_refused_like_any_other(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx, everybody: str, acme: str) -> None:
        large = b"Subject: x\r\n\r\n" + LARGE * 3000
        assert (await handed_in(acme, b"X-Fastrelay-Tenant: rival\r\n" + large)).startswith("550 5.7.1 Tenant rival")
        assert (await handed_in(acme, b"X-Fastrelay-Expire: soon\r\n" + large)).startswith("550 5.6.0 Expiry soon")
        assert (await handed_in(acme, b"X-Fastrelay-Campaign: big\r\n" + large)).startswith("250 ")
        await box.until(lambda: len(mx.accepted) == 1)
        [accepted] = [event for event in box.events() if event["event"] == "accepted"]
        assert (accepted["campaign"], accepted["tenant"]) == ("big", "acme")
        assert mx.accepted[0][1].endswith(large)
        assert b"X-Fastrelay-Campaign" not in mx.accepted[0][1]

    served(tmp_path, act)
