"""An internet in a box for scenario tests: DNS, MX hosts and scripted hosts on a loop in a thread of its own.

    with Simulation() as net:
        net.mx("a.example")                                  # a domain with a good MX host
        net.mx("b.example", Behaviour(permfail_permille=1000))
        relay = make_relay(net.relay_config())

All MX hosts listen on one port, each on an address of its own. Tests look at `net.account` while a relay delivers.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import Any

from support.net import loopback_address, wait_until
from support.relay import RelayProcess

from fastrelay.sim.account import Account
from fastrelay.sim.campaign import Message
from fastrelay.sim.dns import DnsServer, Zone
from fastrelay.sim.faults import Fault
from fastrelay.sim.mx import Behaviour, MxHosts
from fastrelay.sim.scripted import ScriptedMx
from fastrelay.sim.submit import Submission, Submitter

SUBMIT_SECONDS = 200.0
SUBMISSION_TRIES = 400  # a relay that is started again on a busy machine takes its time
FATES = ("delivered", "failed", "expired", "suppressed", "removed")
SOON = {"first": "200ms", "factor": 1.5, "max": "1s", "expire": "4d", "jitter": "10%"}


class Simulation:
    """The box. Everything is started as it is asked for and stopped at the end."""

    def __init__(self) -> None:
        self.zone = Zone(ttl=300)
        self.account = Account(keep_contents=True)
        self.hosts: dict[str, MxHosts] = {}  # by domain
        self.scripted: dict[str, ScriptedMx] = {}  # by domain
        self.port = 0
        self.dns = DnsServer(self.zone)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulation", daemon=True)

    def __enter__(self) -> "Simulation":
        self._thread.start()
        self.run(self.dns.start())
        return self

    def __exit__(self, *exc: object) -> None:
        for server in (*self.hosts.values(), *self.scripted.values(), self.dns):
            self.run(server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 90.0) -> Any:
        """Run on the simulation's loop and wait for the result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def listen(self, name: str, behaviour: Behaviour | None = None, address: str | None = None) -> str:
        """An MX host on an address of its own; the address. `name` is its provider and its key in `hosts`."""
        hosts = MxHosts(self.account, behaviour)
        address = address or loopback_address()
        self.run(hosts.start({address: name}, self.port))
        self.port = hosts.port
        self.hosts[name] = hosts
        return address

    def mx(self, domain: str, behaviour: Behaviour | None = None) -> str:
        """A domain with one MX host of its own; the host's address."""
        address = self.listen(domain, behaviour)
        self.zone.mx(domain, [(10, f"mx.{domain}")])
        self.zone.address(f"mx.{domain}", address)
        return address

    def dead_host(self, name: str) -> str:
        """A host name whose address refuses connections."""
        address = loopback_address()
        self.zone.address(name, address)
        return address

    def fault(self, domain: str, fault: Fault, pause: float = 0.01) -> ScriptedMx:
        """A domain whose MX host plays a fault, with an account of its own."""
        scripted = ScriptedMx(fault, pause=pause)
        address = loopback_address()
        self.run(scripted.start(address, self.port))
        self.port = scripted.port
        self.zone.mx(domain, [(10, f"mx.{domain}")])
        self.zone.address(f"mx.{domain}", address)
        self.scripted[domain] = scripted
        return scripted

    def relay_config(self, **changes: Any) -> dict[str, Any]:
        """Keys for a relay that lives in this box and is impatient. Needs at least one host for the port."""
        delivery = {
            "port": self.port,
            "allow_private_hosts": True,
            "connect_backoff": {"first": "200ms", "max": "1s"},
            **changes.pop("delivery", {}),
        }
        return {
            "dns": {"nameservers": [self.dns.nameserver], "min_ttl": "0s", "timeout": "5s", "tries": 3},
            "delivery": delivery,
            "provider_limits": False,  # the stories are not about being slow
            "retry": {**SOON, **changes.pop("retry", {})},
            "spool": {"reserve": "16MiB", "ballast": "4MiB"},
            **changes,
        }

    def submit(self, smtp: tuple[str, int], messages: Iterable[Message], connections: int = 10) -> Submission:
        """Hand in a campaign and wait until all of it is accepted."""
        submitter = Submitter(*smtp, connections=connections, tries=SUBMISSION_TRIES)
        result: Submission = self.run(submitter.run(messages), SUBMIT_SECONDS)
        return result


def settled(relay: RelayProcess, seconds: float = 120.0) -> dict[str, Any]:
    """Wait until nothing is queued and every recipient is accounted for; the summary then."""
    summary: dict[str, Any] = {}

    def over() -> bool:
        summary.update(relay.summary())
        return not summary["queued"] and summary["accepted"] == sum(summary[fate] for fate in FATES)

    wait_until(over, seconds, "an empty queue and a balanced account")
    return summary


def message(number: int, text: bytes = b"hello\r\n") -> bytes:
    """A small message with an id for the account."""
    return b"X-Sim-Id: %d\r\nFrom: <news@sender.example>\r\nSubject: number %d\r\n\r\n%b" % (number, number, text)


def fates(events: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Final events by (message id, recipient)."""
    found: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event["event"] in FATES:
            found.setdefault((event["id"], event["recipient"]), []).append(event["event"])
    return found


def of_recipient(events: Iterable[dict[str, Any]], recipient: str, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of one recipient (of one kind), in order."""
    return [
        event for event in events if event.get("recipient") == recipient and (kind is None or event["event"] == kind)
    ]
