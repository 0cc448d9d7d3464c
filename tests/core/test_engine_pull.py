"""What a pull gives to a session: one message, the recipients that belong together, and a bounded look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.worker import WorkerBox, run

QUEUED, SUSPENDED, QUARANTINED = 1, 5, 6


def with_site(
    folder: Path, names: list[list[str]], act: Callable[[WorkerBox, Any], Awaitable[None]], **keys: Any
) -> None:
    """Runs `act(box, site)` with messages ready for one site to which nobody connects."""

    async def work() -> None:
        async with WorkerBox(folder, ["127.0.0.1:9"], **keys) as box:
            box.app.engine.cold.pump = lambda site, now: None
            for recipients in names:
                await box.accepted(recipients)
            count = sum(map(len, names))
            await box.until(lambda: box.places() == {"ready": count})
            [site] = box.app.board.sites.values()
            await act(box, site)

    run(work)


def addresses(delivery: Any) -> list[bytes]:
    return list(delivery.transaction.recipients)


def test_recipients_of_one_message_go_together_up_to_the_bound(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any) -> None:
        engine, now = box.app.engine, box.clock.monotonic()
        assert addresses(engine.pull(site, 0, 3, now)) == [b"a@x.test", b"b@y.test", b"c@x.test"]
        assert addresses(engine.pull(site, 0, 3, now)) == [b"d@x.test"]
        assert addresses(engine.pull(site, 0, 3, now)) == [b"e@x.test"]
        assert engine.pull(site, 0, 3, now) is None
        assert box.places() == {"in_flight": 5}

    with_site(tmp_path, [["a@x.test", "b@y.test", "c@x.test", "d@x.test"], ["e@x.test"]], act)


def test_who_prefers_another_source_stays_out_of_the_transaction(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any) -> None:
        engine, index, now = box.app.engine, box.app.index, box.clock.monotonic()
        _first, second, _third = index.recipients_of(0)
        index.set_source(second, 2)
        index.py_push_site(site, second)
        assert addresses(engine.pull(site, 0, 10, now)) == [b"a@x.test", b"c@x.test"]
        assert engine.pull(site, 0, 10, now) is None
        assert addresses(engine.pull(site, 1, 10, now)) == [b"b@x.test"]

    sources = [{"name": "a", "address": "127.0.0.11"}, {"name": "b", "address": "127.0.0.12"}]
    with_site(tmp_path, [["a@x.test", "b@x.test", "c@x.test"]], act, sources=sources)


def test_a_pull_passes_over_a_bounded_number_and_the_rest_comes_later(tmp_path: Path) -> None:
    names = [f"r{n}@x.test" for n in range(900)]

    async def act(box: WorkerBox, site: Any) -> None:
        engine, now = box.app.engine, box.clock.monotonic()
        box.clock.advance(4000)
        assert engine.pull(site, 0, 10, box.clock.monotonic()) is None
        assert box.app.index.queued_recipients == 400
        assert site.dirty  # it is looked at again
        assert engine.pull(site, 0, 10, box.clock.monotonic()) is None
        assert box.app.index.queued_recipients == 0
        assert now < box.clock.monotonic()

    with_site(tmp_path, [names], act, retry={"expire": 3600})


def test_nothing_is_pulled_while_outcomes_cannot_be_written(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any) -> None:
        engine, spool = box.app.engine, box.app.own_spool
        spool.fail_at("commit", 5, times=1)
        box.app.settler.states.put(0, 1, box.app.settler.states.get(0, 1, 1))
        await box.until(lambda: spool.settle_blocked)
        assert engine.pull(site, 0, 10, box.clock.monotonic()) is None
        assert box.places() == {"ready": 1}
        assert box.app.board.site_reason(site, box.clock.monotonic()) == "spool_blocked"
        await box.until(lambda: not spool.settle_blocked)
        assert engine.pull(site, 0, 10, box.clock.monotonic()) is not None

    with_site(tmp_path, [["a@x.test"]], act)


def test_a_record_that_cannot_be_read_is_quarantined_and_the_next_goes(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any) -> None:
        engine = box.app.engine
        engine.forget_hot(1)
        engine.forget_hot(2)
        msgid = box.app.index.message_info(0)[0]
        spool = box.app.own_spool
        raw = spool.get_record(msgid)
        assert raw is not None
        spool.environment.put("msg", msgid.to_bytes(8, "big"), b"\xff" + raw[1:])
        delivery = engine.pull(site, 0, 10, box.clock.monotonic())
        assert addresses(delivery) == [b"b@x.test"]
        assert box.places() == {"quarantined": 1, "in_flight": 1}

    with_site(tmp_path, [["a@x.test"], ["b@x.test"]], act)


def test_what_is_hot_is_forgotten_with_the_message(tmp_path: Path) -> None:
    async def act(box: WorkerBox, site: Any) -> None:
        hot = box.app.engine.hot_bytes
        assert hot > 0
        box.app.board.fail_ready(site, 550, "5.0.0", "no", "unroutable")
        assert box.app.engine.hot_bytes == 0
        await box.settled()
        # A route that fails at once, while the message is put into the index.
        box.app.reload(WorkerBox(tmp_path, [], routes=[{"domains": ["*"], "action": "reject"}]).config)
        await box.accepted(["a@x.test"])
        await box.settled()
        await box.accepted(["a@x.test"])
        await box.settled()
        assert box.counters()["failed"] == 3
        assert box.app.engine.hot_bytes == 0

    with_site(tmp_path, [["a@x.test"]], act)
