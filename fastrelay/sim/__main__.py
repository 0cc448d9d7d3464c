"""``python -m fastrelay.sim``: the internet in a box as a child process.

The first line on standard input is a JSON object: ``domains``, ``subnet``, ``behaviour`` (fields of mx.Behaviour, for
all providers) and ``behaviours`` (by provider). The first line on standard output is ``{"ready": {"nameserver",
"port", "addresses"}}`` or ``{"failed": words}``. Then each request line ``{"command", "arguments"}`` is answered by
one line ``{"result"}`` or ``{"error"}``:

    stats            counts so far, by provider and by client address
    write_account    {"path"}: write the account there (account.Account.write)
    script_dns       {"name", "kind", "rdtype", "times", "delay"}: Zone.script
    stop             answer, then end

The process ends when standard input does, so it never outlives its parent.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from fastrelay.sim import internet
from fastrelay.sim.dns import DnsServer
from fastrelay.sim.mx import Behaviour, MxHosts


def _behaviour(fields: dict[str, Any]) -> Behaviour:
    if "extensions" in fields:
        fields = {**fields, "extensions": tuple(word.encode() for word in fields["extensions"])}
    return Behaviour(**fields)


def stats(hosts: MxHosts, server: DnsServer) -> dict[str, Any]:
    """What a display wants to know."""
    account = hosts.account
    return {
        "delivered": sum(account.by_provider.values()),
        "by_provider": account.by_provider,
        "by_client": hosts.by_client,
        "duplicates": account.duplicates,
        "octets": account.octets,
        "connections": hosts.connections,
        "most_open": hosts.most_open,
        "deferred": hosts.deferred,
        "refused": hosts.refused,
        "deferred_by_provider": hosts.deferred_by_provider,
        "refused_by_provider": hosts.refused_by_provider,
        "dns_queries": server.responder.total,
        "violations": len(account.violations),
    }


class Child:
    """The servers, and the requests of the parent."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.box = internet.build(order.get("domains", 500), order.get("subnet", "127.77"))
        default = _behaviour(order.get("behaviour", {}))
        behaviours = {name: _behaviour(fields) for name, fields in order.get("behaviours", {}).items()}
        self.hosts = MxHosts(default=default, behaviours=behaviours)
        self.dns = DnsServer(self.box.zone)

    async def start(self) -> dict[str, Any]:
        """Listen; what the parent needs to know."""
        await self.dns.start()
        await self.hosts.start(self.box.addresses)
        return {"nameserver": self.dns.nameserver, "port": self.hosts.port, "addresses": self.box.addresses}

    async def stop(self) -> None:
        await self.hosts.stop()
        await self.dns.stop()

    async def answer(self, request: dict[str, Any]) -> Any:
        """Carry out one request. Raises ValueError for one that is not known."""
        command, arguments = request["command"], request.get("arguments", {})
        if command == "stats":
            return stats(self.hosts, self.dns)
        if command == "write_account":
            self.hosts.account.write(Path(arguments["path"]))
            return {}
        if command == "script_dns":
            self.box.zone.script(**arguments)
            return {}
        if command == "stop":
            return {}
        raise ValueError(f"no such command: {command!r}")


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def main() -> int:
    """Serve until told to stop or standard input ends; the exit status."""
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    child = Child(json.loads(await requests.readline()))
    try:
        _say({"ready": await child.start()})
    except OSError as error:
        _say({"failed": f"the simulated MX hosts cannot listen: {error}"})
        return 1
    try:
        while line := await requests.readline():
            request = json.loads(line)
            try:
                _say({"result": await child.answer(request)})
            except (ValueError, KeyError, TypeError, OSError) as error:
                _say({"error": str(error)})
            if request.get("command") == "stop":
                break
    finally:
        await child.stop()
    return 0


if __name__ == "__main__":
    import uvloop

    try:
        sys.exit(uvloop.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
