"""What a message is assigned: who decides, what is pinned, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest

from fastrelay.config.schema import from_builtins
from fastrelay.config.sending import Assignment
from fastrelay.ingest.assign import Assigner, parse_time

WALL = 1_800_000_000.0
SENDER = b"news@shop.example"
NOTHING = (b"", b"", b"", 0, 0, 0, 0)


def assigner(**keys: Any) -> Assigner:
    pools: dict[str, Any] = {
        "sources": [{"name": "a", "address": "127.0.0.1"}],
        "pools": {"fast": ["a"], "slow": ["a"]},
    }
    return Assigner(from_builtins({"hostname": "relay.test"} | pools | keys))


def test_without_a_word_mail_is_bulk_of_the_default_pool() -> None:
    assert assigner().assign(None, None, SENDER, WALL) == NOTHING
    assert assigner().assign({}, Assignment(), b"", WALL) == NOTHING


def test_header_before_sender_before_listener() -> None:
    listener = Assignment(pool="slow", campaign="of the listener", priority="normal")
    of_senders = assigner(senders={"shop.example": {"campaign": "of the sender", "pool": "fast"}})
    assert of_senders.by_sender
    assert of_senders.assign(None, listener, b"x@other.example", WALL) == (b"of the listener", b"", b"slow", 1, 0, 0, 0)
    assert of_senders.assign(None, listener, SENDER, WALL) == (b"of the sender", b"", b"fast", 1, 0, 0, 0)
    said = {"campaign": b"of the header", "priority": b"Transactional", "pool": b"default"}
    assert of_senders.assign(said, listener, SENDER, WALL) == (b"of the header", b"", b"", 2, 0, 0, 0)


def test_sender_patterns_match_as_those_of_routes() -> None:
    by_pattern = assigner(
        senders={"exact.example": {"campaign": "1"}, "*.below.example": {"campaign": "2"}, "*": {"campaign": "3"}}
    )
    found = [
        by_pattern.assign(None, None, sender, WALL)[0]
        for sender in (b"a@EXACT.example", b"a@x.below.example", b"a@below.example", b"a@elsewhere.example", b"")
    ]
    assert found == [b"1", b"2", b"3", b"3", b""]


def test_an_unknown_priority_says_nothing() -> None:
    assert assigner().assign({"priority": b"urgent!"}, Assignment(priority="normal"), SENDER, WALL)[3] == 1


def test_a_tenant_may_come_by_header_unless_it_is_pinned() -> None:
    one = assigner(senders={"shop.example": {"tenant": "shop"}})
    assert one.assign({"tenant": b"acme"}, None, SENDER, WALL)[1] == b"acme"
    assert one.assign(None, None, SENDER, WALL)[1] == b"shop"
    pinned = Assignment(tenant="acme")
    assert one.assign({"tenant": b"acme"}, pinned, SENDER, WALL)[1] == b"acme"
    assert one.assign(None, pinned, SENDER, WALL)[1] == b"acme"  # nor does the sender's domain change it
    assert one.assign({"tenant": b"shop\xff"}, pinned, SENDER, WALL) == (
        b"550 5.7.1 Tenant shop? is not yours: mail that comes in here is of tenant acme; leave the tenant's header "
        b"field away\r\n"
    )


def test_a_tenant_chooses_among_its_pools() -> None:
    one = assigner(tenants={"acme": {"pools": ["fast"]}, "free": {}})
    pinned = Assignment(tenant="acme")
    assert one.assign(None, pinned, SENDER, WALL)[2] == b"fast"  # the default pool is not for it
    assert one.assign({"pool": b"fast"}, pinned, SENDER, WALL)[2] == b"fast"
    assert one.assign({"pool": b"slow"}, Assignment(tenant="free"), SENDER, WALL)[2] == b"slow"
    assert one.assign({"pool": b"slow"}, pinned, SENDER, WALL) == (
        b"550 5.7.1 Pool slow is not for tenant acme; it may use fast\r\n"
    )
    assert one.assign({"tenant": b"acme", "pool": b"slow"}, None, SENDER, WALL).startswith(b"550 5.7.1 Pool slow")


def test_a_pool_that_does_not_exist_is_refused() -> None:
    assert assigner().assign({"pool": b"fats"}, None, SENDER, WALL) == (
        b"550 5.7.1 Pool fats does not exist; name one of the relay's configuration, or none\r\n"
    )


@pytest.mark.parametrize(("value", "seconds"), [(b"10m", 600), (b"1h30m", 5400), (b"200ms", 1), (b"30d", 30 * 86400)])
def test_expiry(value: bytes, seconds: int) -> None:
    assert assigner().assign({"expire": value}, None, SENDER, WALL)[4] == seconds


@pytest.mark.parametrize("value", [b"10", b"soon", b"0", b"31d", b"-5m", b"\xff"])
def test_an_expiry_that_cannot_be_is_refused(value: bytes) -> None:
    refusal = assigner().assign({"expire": value}, None, SENDER, WALL)
    assert refusal.startswith(b"550 5.6.0 Expiry ")
    assert refusal.endswith(b"\r\n")
    assert refusal.isascii()


@pytest.mark.parametrize(
    "value",
    [
        b"2027-01-15T09:00:00+01:00",
        b"2027-01-15T08:00:00Z",
        b"2027-01-15t08:00:00.000z",
        b"Fri, 15 Jan 2027 09:00:00 +0100",
    ],
)
def test_not_before_in_both_forms(value: bytes) -> None:
    at = parse_time(value.decode())
    assert at == 1_800_000_000
    assert assigner().assign({"not_before": value}, None, SENDER, at - 60)[5] == at * 1000
    assert assigner().assign({"not_before": value}, None, SENDER, at + 1)[5] == 0  # it is past


@pytest.mark.parametrize(
    "value",
    [
        b"tomorrow",
        b"2027-01-15 08:00",
        b"2027-01-15T08:00:00",
        b"Fri, 15 Jan 2027 09:00:00",
        b"2027-13-45T00:00:00Z",
        b"\xff",
    ],
)
def test_a_not_before_without_a_zone_or_sense_is_refused(value: bytes) -> None:
    assert assigner().assign({"not_before": value}, None, SENDER, WALL).startswith(b"550 5.6.0 Not-before ")


def test_a_not_before_too_far_ahead_is_refused() -> None:
    refusal = assigner().assign({"not_before": b"2037-01-01T00:00:00Z"}, None, SENDER, WALL)
    assert refusal.startswith(b"550 5.6.0 Not-before 2037-01-01T00:00:00Z is more than 30 days ahead")


def test_what_would_expire_before_it_may_be_sent_is_refused() -> None:
    said = {"not_before": b"2027-01-15T10:00:00Z", "expire": b"1h"}
    at = parse_time("2027-01-15T10:00:00Z")
    assert assigner().assign(said, None, SENDER, at - 3600).startswith(b"554 5.4.7 Message would expire before")
    assert assigner().assign(said, None, SENDER, at - 3599)[5] == at * 1000
    by_class = assigner(fairness={"transactional": {"expire": 600.0}})
    said = {"not_before": b"2027-01-15T10:00:00Z", "priority": b"transactional"}
    assert by_class.assign(said, None, SENDER, at - 601).startswith(b"554 5.4.7 ")
    assert by_class.assign(said, None, SENDER, at - 599)[5] == at * 1000
    assert by_class.assign(said | {"expire": b"2h"}, None, SENDER, at - 601)[5] == at * 1000


def test_a_refusal_without_a_header_is_told_each_time() -> None:
    one = assigner(tenants={"acme": {"pools": ["gone"]}})
    for _ in range(2):
        assert one.assign(None, Assignment(tenant="acme"), SENDER, WALL).startswith(b"550 5.7.1 Pool gone does not")
