"""Classes of refusals at settlement: in the events, in the metrics, by the operator's rules first."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.worker import Mx, WorkerBox, run

from fastrelay.config.load import load_text
from fastrelay.feedback.classes import ConfiguredClasses, built_in_classes, classes_of
from fastrelay.metrics import names

REPLIES = [
    ("550 5.1.1 no such user", "failed", "bad_mailbox", "hard", "recipient", "rcpt_refused"),
    ("450 4.2.2 mailbox full", "deferred", "quota", "soft", "recipient", "rcpt_refused"),
    ("550 5.7.1 blocked using example rbl", "failed", "reputation_block", "hard", "us", "blocked"),
    ("451 4.7.1 greylisting in action", "deferred", "greylist", "soft", "us", "greylisted"),
]


@pytest.mark.parametrize("row", REPLIES, ids=[row[0] for row in REPLIES])
def test_a_refusal_has_its_class(row: tuple[str, ...], tmp_path: Path) -> None:
    reply, outcome, means, kind, about, reason = row

    async def work() -> None:
        mx = Mx(lambda said, argument, talk: reply if said == "RCPT" else "")
        async with WorkerBox(tmp_path / "w", [await mx.start()]) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            event = box.events()[-1]
            found = tuple(event[key] for key in ("event", "class", "kind", "about", "reason"))
            assert found == (outcome, means, kind, about, reason)
            assert event["class_rule"]
            labels = {"outcome": outcome, "class": means, "kind": kind, "provider": "other"}
            assert box.app.meters.slab.value(box.app.meters.entry(names.REFUSALS_TOTAL, **labels)) == 1
        await mx.stop()

    run(work)


def test_rules_of_the_operator_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rules:\n- {name: mine, match: no such user, means: inactive, kind: soft}\n")
    config = load_text("hostname: a.example.com\nreplies: mine.yaml\n", "t", str(tmp_path))
    plain = load_text("hostname: a.example.com\n", "t", str(tmp_path))
    now = [config]
    classes = ConfiguredClasses(lambda: now[0])
    found = classes.classify(550, "5.1.1", b"5.1.1 no such user")
    assert (found.reply_class, found.kind, found.rule and found.rule.name) == ("inactive", "soft", "mine")
    assert classes.classify(552, "5.2.2", b"5.2.2 mailbox full").reply_class == "quota"
    now[0] = plain
    assert classes.classify(550, "5.1.1", b"5.1.1 no such user").reply_class == "bad_mailbox"
    (tmp_path / "mine.yaml").write_text("rules: nonsense")
    assert classes_of(config) is built_in_classes()


def test_an_address_is_no_word() -> None:
    for text in (b"<spam@example.com>: user unknown", b"<quota-full@spamhaus.example>: user unknown"):
        assert built_in_classes().classify(550, "5.1.1", text).reply_class == "bad_mailbox"
