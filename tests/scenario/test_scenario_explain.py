"""`fastrelay explain` and `fastrelay check` beside a running relay: what a file says is what holds, and is told."""

from collections.abc import Callable
from typing import Any

import yaml
from scenario.simulation import Simulation, message
from support.net import loopback_address, wait_until
from support.relay import RelayProcess

MakeRelay = Callable[..., RelayProcess]


def told(relay: RelayProcess, domain: str, **arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = relay.control("explain", {"domain": domain, **arguments})
    return answer


def limit_of(answer: dict[str, Any], scope: str) -> dict[str, Any]:
    """The rate of a scope, for the first source."""
    (found,) = [one for one in answer["sources"][0]["limits"] if (one["kind"], one["scope"]) == ("rate", scope)]
    return dict(found)


def at_a_provider(net: Simulation, relay_keys: dict[str, Any]) -> dict[str, Any]:
    """A relay with one source behind NAT; a.example is at the provider `house` of its configuration."""
    net.zone.mx("a.example", [(10, "mx1.house.example")])
    net.zone.address("mx1.house.example", net.listen("house"))
    source = {"name": "a", "address": loopback_address(), "public_address": "192.0.2.77"}
    return net.relay_config(sources=[source], pools={"default": ["a"]}, provider_limits=True, workers=2, **relay_keys)


def test_a_limit_of_the_file_holds_and_is_told(net: Simulation, make_relay: MakeRelay) -> None:
    """Two recipients of five go out at 2/h burst 2; the others wait, and the command says for what, and who set it."""
    keys = {"providers": {"house": {"suffixes": ["house.example"], "rate": "2/h burst 2"}}}
    relay = make_relay(at_a_provider(net, keys))
    line = next(
        number
        for number, text in enumerate(relay.config_path.read_text().splitlines(), 1)
        if text.strip().startswith("rate:")
    )
    for number in range(5):
        relay.submit(message(number), [f"r{number}@a.example"])
    wait_until(lambda: not told(relay, "a.example")["sources"][0]["can_send"], 60.0, "the rate to be used up")
    answer = told(relay, "a.example")
    assert answer["provider"]["name"] == "house"
    assert answer["provider"]["suffix"] == "house.example"
    limit = limit_of(answer, "source:a provider:house")
    assert (limit["value"], limit["left"]) == ("2/h burst 2", 0)
    assert limit["origin"] == f"{relay.config_path.name} line {line}, providers.house"
    assert 0 < limit["wait_seconds"] <= 3600
    (obstacle,) = answer["sources"][0]["obstacles"]
    assert (obstacle["reason"], obstacle["detail"]) == ("rate_limit", "source a at house: 2/h burst 2")
    assert relay.summary()["delivered"] <= 2

    def all_wait() -> bool:
        waiting = told(relay, "a.example")["waiting"]
        ready = sum(queue["ready"] for queue in waiting["queues"] if queue["reason"] == "rate_limit")
        return bool(3 <= waiting["domain"] <= 5 and ready == waiting["domain"])

    wait_until(all_wait, 60.0, "all that is queued to wait for the rate")
    shown = relay.cli("explain", "someone@a.example").stdout
    assert f"line {line}, providers.house" in shown
    assert "seen as 192.0.2.77" in shown


def test_a_reload_is_told(net: Simulation, make_relay: MakeRelay) -> None:
    """A provider that the new file does not know is `other` again, and another rate holds."""
    keys = {"shaping": [{"source": "*", "rate": "7/h burst 7"}]}
    relay = make_relay(at_a_provider(net, keys))
    assert limit_of(told(relay, "a.example"), "source:a")["value"] == "7/h burst 7"
    assert told(relay, "a.example")["provider"]["name"] == "other"
    config = yaml.safe_load(relay.config_path.read_text())
    config["shaping"] = [{"source": "*", "rate": "9/h burst 9"}]
    config["providers"] = {"house": {"suffixes": ["house.example"]}}
    relay.config_path.write_text(yaml.safe_dump(config))
    relay.cli("check", "--no-host")
    relay.signal(1)
    wait_until(
        lambda: limit_of(told(relay, "a.example"), "source:a")["value"] == "9/h burst 9", 60.0, "the new configuration"
    )
    answer = told(relay, "a.example", source="a")
    assert answer["provider"]["name"] == "house"
    assert answer["provider"]["origin"].endswith("providers.house")


def test_the_address_outside_is_in_the_dialogue(net: Simulation, make_relay: MakeRelay) -> None:
    relay = make_relay(at_a_provider(net, {}))
    dialogue = relay.control("send", {"to": "x@a.example", "source": "a", "trace": True})["dialogue"]
    assert any("(seen as 192.0.2.77)" in line["text"] for line in dialogue)


def test_a_faulty_file_is_refused_and_the_old_limits_stay(net: Simulation, make_relay: MakeRelay) -> None:
    relay = make_relay(at_a_provider(net, {"shaping": [{"source": "*", "rate": "7/h burst 7"}]}))
    config = yaml.safe_load(relay.config_path.read_text())
    config["shaping"] = [{"source": "*", "rate": "0/h"}]
    relay.config_path.write_text(yaml.safe_dump(config))
    refused = relay.cli("check", "--no-host", check=False)
    assert refused.returncode == 2
    assert "shaping[0].rate" in refused.stderr
    relay.signal(1)
    wait_until(lambda: relay.control("status")["last_reload_ok"] is False, 60.0, "the refusal")
    assert limit_of(told(relay, "a.example"), "source:a")["value"] == "7/h burst 7"
