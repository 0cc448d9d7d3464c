"""Newsletters, recipients and the submitter."""

import asyncio
import email
import email.policy
from collections import Counter
from typing import Any

import pytest

from fastrelay.sim import internet
from fastrelay.sim.account import Account, identify
from fastrelay.sim.campaign import LONGEST_LINE, Campaign, newsletters
from fastrelay.sim.mx import Behaviour, MxHosts
from fastrelay.sim.submit import SubmissionFailed, Submitter


def test_thirty_newsletters_are_well_formed() -> None:
    letters = newsletters()
    assert len(letters) == 30
    assert len({letter.octets for letter in letters}) == 30
    for letter in letters:
        lines = letter.octets.split(b"\r\n")
        assert letter.octets.endswith(b"\r\n")
        assert not any(b"\n" in line or b"\r" in line for line in lines), letter.name
        assert max(map(len, lines)) <= LONGEST_LINE, letter.name
        assert b"\r\n\r\n" in letter.octets
        assert letter.stuffed.replace(b"\r\n..", b"\r\n.") == letter.octets


def test_they_cover_what_newsletters_contain() -> None:
    letters = newsletters()
    kinds: Counter[str] = Counter()
    for letter in letters:
        parsed = email.message_from_bytes(letter.octets, policy=email.policy.default)
        kinds.update({part.get_content_type() for part in parsed.walk()})
        kinds.update({str(part["Content-Transfer-Encoding"]).lower() for part in parsed.walk()})
        kinds["attachment"] += any(part.get_content_disposition() == "attachment" for part in parsed.walk())
        kinds["inline image"] += any(part["Content-ID"] is not None for part in parsed.walk())
        kinds["8-bit"] += letter.eight_bit
        kinds["998"] += any(len(line) == LONGEST_LINE for line in letter.octets.split(b"\r\n"))
        kinds["dots"] += letter.stuffed != letter.octets
        kinds["encoded subject"] += b"=?utf-8?" in letter.octets
    wanted = ["multipart/alternative", "multipart/mixed", "multipart/related", "text/html", "quoted-printable", "8bit"]
    for kind in [*wanted, "base64", "attachment", "inline image", "8-bit", "998", "dots", "encoded subject"]:
        assert kinds[kind] > 0, kind


def test_same_seed_same_octets_in_another_process() -> None:
    import subprocess
    import sys

    code = (
        "import hashlib; from fastrelay.sim.campaign import newsletters\n"
        "print(hashlib.sha256(b''.join(letter.octets for letter in newsletters(5))).hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1
    assert newsletters(5)[20].octets != newsletters(6)[20].octets


def test_campaign_counts_and_digests() -> None:
    campaign = Campaign(1234, 50)
    messages = list(campaign)
    assert len(messages) == len(campaign) == 1234
    assert len({message.recipient for message in messages}) == 1234
    assert len({message.recipient.partition(b"@")[2] for message in messages}) == 50
    by_provider = campaign.providers()
    assert sum(by_provider.values()) == 1234
    listed = dict(internet.domain_names(50))
    counted = Counter(listed[message.recipient.partition(b"@")[2].decode()] for message in messages)
    assert counted == by_provider
    for message, expected in zip(messages, campaign.expected(), strict=True):
        assert identify(message.content) == (expected[0], expected[2])
        assert expected[1] == message.recipient


@pytest.mark.parametrize("count", [1, 11, 12, 500])
def test_domains_are_shared_out_among_all_providers(count: int) -> None:
    listed = list(internet.domain_names(count))
    assert len({domain for domain, _ in listed}) == count
    assert all(domain.endswith(".example") for domain, _ in listed)
    assert len({provider for _, provider in listed}) == min(count, 12)
    if count == 500:
        counted = Counter(provider for _, provider in listed)
        assert abs(counted["google"] - 130) < 25


def test_every_domain_of_the_box_leads_to_an_address_of_its_provider() -> None:
    box = internet.build(100)
    for domain, provider in box.domains:
        hosts = [record.split()[1].rstrip(".") for record in box.zone.records(domain, "MX")]
        assert hosts
        for host in hosts:
            for address in box.zone.records(host, "A"):
                assert box.addresses[address] == provider


def test_domain_count_is_bounded() -> None:
    for count in (0, internet.MOST_DOMAINS + 1):
        with pytest.raises(ValueError, match="domains"):
            next(internet.domain_names(count))


def submit(campaign: Campaign, behaviour: Behaviour | None = None, **options: Any) -> tuple[Submitter, MxHosts]:
    async def go() -> tuple[Submitter, MxHosts]:
        hosts = MxHosts(Account(), behaviour)
        await hosts.start({"127.79.1.1": "google"})
        try:
            submitter = Submitter("127.79.1.1", hosts.port, **options)
            await submitter.run(campaign)
        finally:
            await hosts.stop()
        return submitter, hosts

    return asyncio.run(go())


def test_submitter_hands_in_everything_exactly_once() -> None:
    campaign = Campaign(300, 20)
    submitter, hosts = submit(campaign, connections=7)
    assert submitter.progress.accepted == 300
    assert not submitter.progress.refused
    assert not submitter.progress.doubtful
    assert hosts.connections <= 7
    verdict = hosts.account.verify(campaign.expected())
    assert verdict.exactly_once, verdict
    assert verdict.violations == []


def test_submitter_tries_again_after_421_and_temporary_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.sim.submit.PAUSE_SECONDS", 0.0)
    campaign = Campaign(60, 20)
    behaviour = Behaviour(messages_per_connection=7, tempfail_permille=200, final_tempfail_permille=200)
    submitter, hosts = submit(campaign, behaviour, connections=3)
    assert submitter.progress.accepted == 60
    assert submitter.progress.retried > 0
    assert hosts.account.verify(campaign.expected()).exactly_once


def test_submitter_reports_what_is_refused_for_good() -> None:
    submitter, _ = submit(Campaign(20, 20), Behaviour(permfail_permille=1000), connections=2)
    assert submitter.progress.accepted == 0
    assert len(submitter.progress.refused) == 20
    assert submitter.progress.refused[0][1].startswith(b"550 5.1.1")


def test_submitter_gives_up_when_refused_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.sim.submit.PAUSE_SECONDS", 0.0)
    with pytest.raises(SubmissionFailed, match="not accepted after 3 tries"):
        submit(Campaign(1, 20), Behaviour(final_tempfail_permille=1000, tempfail_times=99), connections=1, tries=3)


def test_submitter_says_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.sim.submit.PAUSE_SECONDS", 0.0)
    with pytest.raises(SubmissionFailed, match="cannot connect"):
        asyncio.run(Submitter("127.79.1.9", 1, connections=1, tries=2).run(Campaign(1, 1)))
