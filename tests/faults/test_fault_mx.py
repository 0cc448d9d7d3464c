"""The whole fault table against a running relay: nothing lost, nothing repeated unless the fault allows it.

One relay, one MX host and one domain for each fault, all at the same time; a message (or several recipients) to each.
Once the queue is empty, each fault is judged on its own by the relay's events and the host's account.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from scenario.simulation import Simulation, message, of_recipient
from support.relay import RelayProcess

from fastrelay.sim.faults import FAULTS, Fault
from fastrelay.sim.scripted import ScriptedMx

# A request's deadline. Only faults marked slow reach it; the slowest honest reply takes a tenth of it.
DEADLINE = "4s"
DRAIN_SECONDS = 120.0
TIMEOUTS = {
    **dict.fromkeys(("greeting", "ehlo", "mail", "rcpt", "data", "final", "rset", "quit"), DEADLINE),
    "body": "20s",
    "body_progress": "10s",
}
TLS = {"outbound": {"handshake_timeout": DEADLINE, "domains": {"*.must.example": "required"}}}


@dataclass
class Played:
    """What is known of all faults after the run."""

    events: list[dict[str, Any]]
    hosts: dict[str, ScriptedMx]
    summary: dict[str, Any]
    log: str
    still_queued: list[dict[str, Any]]


def domain_of(fault: Fault) -> str:
    return f"{fault.name.lower().replace('_', '-').replace(' ', '-')}.{'must' if fault.must else 'fault'}.example"


def recipients_of(fault: Fault) -> list[str]:
    return [f"{local_part}@{domain_of(fault)}" for local_part in fault.recipients]


def content_of(number: int, fault: Fault) -> bytes:
    line = b"a line of a newsletter, which is sixty-two octets with its end\r\n"
    return message(number, line * (fault.content_octets // len(line)) + b".\r\n")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The run, once for all faults."""
    with Simulation() as net:
        for fault in FAULTS.values():
            net.fault(domain_of(fault), fault)
        config = net.relay_config(delivery={"timeouts": TIMEOUTS, "idle_timeout": "500ms"}, tls=TLS)
        config["suppression"] = {"enabled": False}  # each fault is met by the same recipients
        with RelayProcess(tmp_path_factory.mktemp("faults"), config) as relay:
            for number, fault in enumerate(FAULTS.values()):
                relay.submit(content_of(number, fault), recipients_of(fault))
            yield _wait(relay, net)


def _wait(relay: RelayProcess, net: Simulation) -> Played:
    """Until the queue is empty; what is left after the bound is reported by the faults it belongs to."""
    left: list[dict[str, Any]] = []
    try:
        relay.wait_drained(DRAIN_SECONDS)
    except AssertionError:
        left = relay.control("queue.list", {"limit": 1000})["messages"]
    summary = relay.assert_balanced()
    return Played(relay.events(), net.scripted, summary, relay.log_text(), left)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_loses_and_repeats_nothing(played: Played, name: str) -> None:
    fault = FAULTS[name]
    host = played.hosts[domain_of(fault)]
    dialogue = "\n".join(host.dialogue[:200])
    assert host.faulty_sessions >= 1, "the relay never came"
    assert not [row for row in played.still_queued if domain_of(fault) in row["domains"]], dialogue
    for recipient in recipients_of(fault):
        _judge(fault, host, played.events, recipient, dialogue)
    assert host.account.violations == [], dialogue
    assert fault.plain or host.plain_messages == 0, f"mail went in plain\n{dialogue}"


def _judge(fault: Fault, host: ScriptedMx, events: list[dict[str, Any]], recipient: str, dialogue: str) -> None:
    """One recipient: one fate, an allowed one, and an account that agrees with it."""
    number = str(list(FAULTS).index(fault.name)).encode()
    mine = of_recipient(events, recipient)
    final = [event for event in mine if event["event"] != "deferred"]
    assert len(final) == 1, f"{[event['event'] for event in mine]}\n{dialogue}"
    allowed = {"failed"} if recipient.startswith("refused") else fault.fates
    assert final[0]["event"] in allowed, f"{final[0]}\n{dialogue}"
    arrival = host.account.arrivals.get((number, recipient.encode()))
    if final[0]["event"] == "delivered":
        assert arrival is not None, f"delivered, says the relay, but the host never took it\n{dialogue}"
        assert not arrival.altered, dialogue
    if arrival is not None and arrival.count > 1:
        assert fault.repeats, f"arrived {arrival.count} times\n{dialogue}"
        assert any(event.get("possible_duplicate") for event in mine), f"repeated without a flag: {mine}\n{dialogue}"
    if arrival is not None and not fault.taken:
        assert final[0]["event"] == "delivered", f"{final[0]}, but the host took it\n{dialogue}"


def test_workers_survived(played: Played) -> None:
    assert "Traceback" not in played.log, played.log[-4000:]
    assert played.summary["quarantined"] == 0


@pytest.mark.parametrize("name", sorted(name for name, fault in FAULTS.items() if fault.content_octets < 10_000))
def test_content_arrives_as_it_was(played: Played, name: str) -> None:
    """Byte for byte below the trace header, whatever the host did to the dialogue."""
    fault = FAULTS[name]
    contents: dict[bytes, bytes] = played.hosts[domain_of(fault)].account.contents or {}
    number = list(FAULTS).index(name)
    for content in contents.values():
        assert content[content.index(b"X-Sim-Id:") :] == content_of(number, fault)
