"""What simulated providers allow, by the clock that they are told."""

import pytest

from fastrelay.sim.policy import (
    DAY_SECONDS,
    Meter,
    Outage,
    PolicyRules,
    Provider,
    RateRule,
    StandingRules,
    chance_of,
)

T0 = 1_772_409_600.0  # a Monday, midnight UTC
ADDRESS = "127.0.0.9"


def taken(meter, times):
    return [meter.take(when) for when in times]


def test_a_bucket_holds_its_burst_and_fills_again():
    meter = Meter(RateRule(60, 60.0, "bucket", burst=3))
    assert taken(meter, [0.0] * 4) == [True, True, True, False]
    assert taken(meter, [1.0, 1.0, 2.0]) == [True, False, True]
    assert taken(meter, [100.0] * 4) == [True, True, True, False]


def test_a_bucket_takes_mail_that_keeps_the_rate_exactly():
    meter = Meter(RateRule(7, 60.0, "bucket", burst=1))
    assert all(taken(meter, [60 / 7 * n for n in range(500)]))


def test_refused_attempts_that_count_keep_a_bucket_empty():
    patient = Meter(RateRule(60, 60.0, "bucket", burst=1))
    angry = Meter(RateRule(60, 60.0, "bucket", burst=1, count_refused=True))
    knocking = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert taken(patient, knocking) == [True, False, False, False, True]
    assert taken(angry, knocking) == [True, False, False, False, False]


def test_a_sliding_window_counts_the_last_hour():
    meter = Meter(RateRule(2, 3600.0, "sliding"))
    assert taken(meter, [0.0, 1800.0, 1801.0, 3599.0]) == [True, True, False, False]
    assert taken(meter, [3600.0, 3601.0, 5400.0]) == [True, False, True]


def test_a_clock_hour_starts_anew():
    meter = Meter(RateRule(2, 3600.0, "clock"))
    assert taken(meter, [T0 + 3500, T0 + 3550, T0 + 3599]) == [True, True, False]
    assert taken(meter, [T0 + 3600, T0 + 3601, T0 + 3602]) == [True, True, False]


def test_a_rate_for_each_address_and_one_for_all():
    for per, expected in (("address", [None, None]), ("provider", [None, b"421 slow"])):
        provider = Provider(PolicyRules(rates=(RateRule(1, 3600.0, per=per, reply=b"421 slow"),)))
        found = [provider.recipient(client, b"a@b", b"r@s", T0) for client in ("127.0.0.1", "127.0.0.2")]
        assert found == expected


def test_connections_are_counted_for_each_address_until_they_are_closed():
    provider = Provider(PolicyRules(connections=2))
    assert [provider.connected(ADDRESS, T0) for _ in range(2)] == [None, None]
    assert provider.connected(ADDRESS, T0).startswith(b"421 ")
    provider.closed(ADDRESS)
    provider.closed(ADDRESS)
    assert provider.connected("127.0.0.8", T0) is None
    assert provider.connected(ADDRESS, T0) is None
    assert provider.most_open == 3


def test_a_rate_of_connections():
    provider = Provider(PolicyRules(connection_rate=RateRule(1, 60.0, reply=b"421 too quick")))
    assert provider.connected(ADDRESS, T0) is None
    assert provider.connected(ADDRESS, T0 + 30) == b"421 too quick"
    assert provider.connected(ADDRESS, T0 + 61) is None


def test_messages_on_one_connection():
    provider = Provider(PolicyRules(messages_per_connection=2))
    assert [provider.mail(done) for done in (0, 1)] == [None, None]
    assert provider.mail(2).startswith(b"421 ")


def test_greylisting_by_address_sender_and_recipient():
    provider = Provider(PolicyRules(greylist_seconds=300.0))
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0).startswith(b"451 ")
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0 + 299).startswith(b"451 ")
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0 + 300) is None
    assert provider.recipient("127.0.0.8", b"a@b", b"r@s", T0 + 300).startswith(b"451 ")


def test_an_outage_answers_everything():
    provider = Provider(PolicyRules(outages=(Outage(T0 + 10, T0 + 20, b"421 closed"),)))
    assert provider.connected(ADDRESS, T0 + 10) == b"421 closed"
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0 + 19.9) == b"421 closed"
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0 + 20) is None


def test_a_share_of_mailboxes_is_unknown_and_a_share_put_off_once():
    provider = Provider(PolicyRules(unknown_share=0.2, deferred_share=0.3))
    recipients = [b"r%d@s" % n for n in range(1000)]
    first = [provider.recipient(ADDRESS, b"a@b", one, T0) for one in recipients]
    unknown = [one for one, reply in zip(recipients, first, strict=True) if reply and reply.startswith(b"550")]
    deferred = [one for one, reply in zip(recipients, first, strict=True) if reply and reply.startswith(b"451")]
    assert len(unknown) == sum(chance_of(one, b"unknown") < 0.2 for one in recipients)
    assert 150 < len(unknown) < 250
    assert 180 < len(deferred) < 300
    assert all(provider.recipient(ADDRESS, b"a@b", one, T0) is None for one in deferred)


def standing(**more):
    return Provider(PolicyRules(standing=StandingRules(first_day=100, growth=2.0, **more)))


def send(provider, count, day, client=ADDRESS):
    """So many recipients on a day; how many were taken."""
    replies = [provider.recipient(client, b"a@b", b"r%d-%d@s" % (day, n), T0 + day * DAY_SECONDS) for n in range(count)]
    return replies.count(None)


def test_an_address_that_warms_up_may_send_more_each_day():
    provider = standing()
    assert [send(provider, 100 * 2**day, day) for day in range(5)] == [100, 200, 400, 800, 1600]
    assert provider.standing_of(ADDRESS, T0 + 5 * DAY_SECONDS).score == 1.0


def test_an_address_that_skips_warm_up_is_deferred_then_blocked():
    provider = standing()
    assert send(provider, 5000, 0) == 100
    assert send(provider, 5000, 1) == 100
    assert provider.standing_of(ADDRESS, T0 + 2 * DAY_SECONDS).bad_days == 2
    assert send(provider, 5000, 2) == 0
    assert provider.recipient(ADDRESS, b"a@b", b"r@s", T0 + 3 * DAY_SECONDS).startswith(b"550 5.7.1")


def test_what_is_known_of_an_address_counts():
    provider = Provider(PolicyRules(standing=StandingRules(first_day=100)), known={ADDRESS: 5000})
    assert send(provider, 10_000, 0) == 10_000
    assert send(provider, 10_000, 0, "127.0.0.8") == 100


def test_complaints_cost_standing_and_good_days_bring_it_back():
    rules = PolicyRules(complaints_share=0.05, standing=StandingRules(first_day=1000, complaints_share=0.003))
    provider = Provider(rules)
    for n in range(200):
        recipient = b"r%d@s" % n
        assert provider.recipient(ADDRESS, b"a@b", recipient, T0) is None
        provider.delivered(ADDRESS, recipient, T0)
    assert provider.complaints
    low = provider.standing_of(ADDRESS, T0 + DAY_SECONDS).score
    assert low == pytest.approx(0.6)
    send(provider, 100, 1)
    assert provider.standing_of(ADDRESS, T0 + 2 * DAY_SECONDS).score == pytest.approx(low + 0.05)


def test_poor_standing_defers_a_part_of_what_the_allowance_has_room_for():
    provider = standing(cost=0.35)
    send(provider, 5000, 0)  # a very bad day costs 0.7
    assert 10 < send(provider, 50, 1) < 45


def test_a_blocked_address_is_forgiven_when_it_is_quiet():
    provider = standing(recovery=0.1)
    for day in range(4):
        send(provider, 5000, day)
    assert send(provider, 10, 4) == 0
    assert send(provider, 10, 5) == 0  # knocking on keeps the door shut
    assert send(provider, 10, 20) == 10
