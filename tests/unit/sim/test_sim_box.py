"""The box as a child process, and the parts of the demonstration that need no relay."""

import asyncio
from typing import Any

import pytest
import yaml
from rich.console import Console

from fastrelay.cli.demo import summary
from fastrelay.config.load import load_document
from fastrelay.sim import internet
from fastrelay.sim.box import Box, BoxFailed
from fastrelay.sim.campaign import Campaign
from fastrelay.sim.demonstration import Demonstration, Result
from fastrelay.sim.submit import Submitter

SUBNET = "127.76"


def test_box_takes_mail_and_hands_over_its_account() -> None:
    async def go() -> None:
        campaign = Campaign(40, 20)
        async with Box(20, subnet=SUBNET, behaviour={"tempfail_permille": 300}) as box:
            assert set(box.addresses.values()) == {provider.name for provider in internet.PROVIDERS}
            await Submitter(f"{SUBNET}.1.1", box.port, connections=2).run(campaign)
            stats = await box.stats()
            assert stats["delivered"] == 40
            assert stats["deferred"] > 0
            assert stats["by_provider"] == {"google": 40}
            account = await box.account()
            assert account.verify(campaign.expected()).exactly_once

    asyncio.run(go())


def test_box_answers_wrong_requests_in_words_and_goes_on() -> None:
    async def go() -> None:
        async with Box(1, subnet=SUBNET) as box:
            with pytest.raises(BoxFailed, match="no such command"):
                await box.call("dance")
            with pytest.raises(BoxFailed, match="no such DNS script"):
                await box.call("script_dns", name="a.example", kind="explode")
            await box.call("script_dns", name="a.example", kind="servfail")
            assert (await box.stats())["delivered"] == 0

    asyncio.run(go())


def test_box_that_cannot_listen_says_so() -> None:
    async def go() -> None:
        with pytest.raises(BoxFailed, match="cannot listen"):
            async with Box(1, subnet="198.51"):  # addresses this host does not have (RFC 5737)
                pass

    asyncio.run(go())


def test_box_that_went_away_says_so() -> None:
    async def go() -> None:
        async with Box(1, subnet=SUBNET) as box:
            assert box._process is not None
            box._process.kill()
            with pytest.raises(BoxFailed, match="went away"):
                await box.stats()
        with pytest.raises(BoxFailed, match="not running"):
            await box.stats()

    asyncio.run(go())


def test_configuration_of_the_demonstration_is_sound(tmp_path: Any) -> None:
    show = Demonstration(10, 5, workers=3)
    show.box.nameserver, show.box.port, show._smtp = "127.0.0.1:5353", 2526, ("127.0.0.1", 2525)
    path = tmp_path / "fastrelay.yaml"
    path.write_text(yaml.safe_dump(show.config()))
    document = load_document(str(path))
    assert document.config.delivery.port == 2526
    assert document.config.worker_count == 3
    assert not document.warnings


def test_rates_are_taken_over_the_first_95_percent() -> None:
    show = Demonstration(100, 5)
    show._marks = [(1.0, 50, 0), (2.0, 100, 40), (3.0, 100, 90), (4.0, 100, 94), (9.0, 100, 100)]
    assert show._rate(1) == pytest.approx(95 / 1.9)
    assert show._rate(2) == pytest.approx(95 / (4 + 5 / 6))


def result(**changes: Any) -> Result:
    counts = {"messages": 60, "delivered": 59, "deferred": 2, "refused": 1}
    relay = {"accepted": 60, "queued": 0, "delivered": 59, "failed": 1, "expired": 0, "suppressed": 0, "removed": 0}
    fields: dict[str, Any] = {
        **{"messages": 60, "domains": 12, "octets": 800_000, "seconds": 2.0, "accepted_rate": 40.0},
        **{"delivered_rate": 30.0, "relay": relay, "audit_ok": True, "by_provider": {"google": counts}},
        **{"by_source": {"a": 30, "b": 29}, "connections": 9, "most_open": 4, "deferred": 2},
        **{"expected_delivered": 59, "expected_failed": 1, "missing": 0, "repeated": 0, "altered": 0, "unexpected": 0},
        **{"violations": [], "workers": 2, "directory": ""},
    }
    return Result(**{**fields, **changes})


def shown(outcome: Result) -> str:
    console = Console(width=160, record=True, force_terminal=False)
    with console.capture() as captured:
        for part in summary(outcome):
            console.print(part)
    return captured.get()


def test_summary_of_a_good_run() -> None:
    outcome = result()
    assert outcome.exact
    text = shown(outcome)
    for words in (
        "Where everything went",
        "google",
        "59 arrived exactly once",
        "1 refused for good",
        "run -c fastrelay.yaml",
    ):
        assert words in text
    assert outcome.as_json()["exactly_once"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"missing": 3}, "missing: 3"),
        ({"repeated": 1}, "repeated: 1"),
        ({"altered": 1}, "altered: 1"),
        ({"violations": ["bare [CR] somewhere"]}, "bare [CR] somewhere"),
        ({"audit_ok": False}, "do not agree"),
        ({"expected_failed": 2}, "failed 2"),
    ],
)
def test_summary_of_a_bad_run_says_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    outcome = result(**changes)
    assert not outcome.exact
    text = shown(outcome)
    assert words in text
    assert "the accounts do not agree" in text
    assert "arrived exactly once" not in text
