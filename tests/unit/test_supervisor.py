"""The supervisor with fake workers (fake_worker.py) in real processes: commands, restarts, reload, drain."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml
from support.net import free_endpoint

from fastrelay import supervisor as supervisor_module
from fastrelay._core.slab import Slab
from fastrelay.admin import workers as workers_module
from fastrelay.admin.statedir import take_state_dir
from fastrelay.config.load import load
from fastrelay.errors import HostError, StateHeld
from fastrelay.metrics import names
from fastrelay.metrics.collector import SlabCollector
from fastrelay.supervisor import Supervisor

FAKE_WORKER = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
REPO = str(Path(__file__).resolve().parents[2])
PATIENCE_SECONDS = 60.0


async def until(true: Callable[[], Any], what: str) -> Any:
    """Wait for something that must come."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := true()):
            await asyncio.sleep(0.005)
    return found


class Relay:
    """A supervisor in this process, its folder and its control socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config_path = folder / "relay.yaml"
        self.supervisor: Supervisor
        self.settings: dict[str, Any] = {
            "hostname": "mta.example",
            "state_dir": str(self.state),
            "workers": 2,
            "drain_timeout": "20s",
            "listeners": {"smtp": [{"bind": free_endpoint()}], "metrics": {"bind": free_endpoint()}},
        }

    def configure(self, **changes: Any) -> None:
        self.settings.update(changes)
        self.config_path.write_text(yaml.safe_dump(self.settings))

    async def supervise(self) -> int:
        config = load(self.config_path)
        lock = take_state_dir(config, str(self.config_path))
        try:
            self.supervisor = Supervisor(
                config, str(self.config_path), lock, worker_command=FAKE_WORKER, restart_seconds=0.01
            )
            return await self.supervisor.run()
        finally:
            lock.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        """From ready to drained (exit code 0)."""
        self.configure()
        task = asyncio.create_task(self.supervise())
        try:
            await until(lambda: task.done() or self.is_running(), "the relay")
            if task.done():
                task.result()
            yield self.supervisor
        finally:
            if not task.done():
                self.supervisor.stop()
        assert await task == 0

    def is_running(self) -> bool:
        return hasattr(self, "supervisor") and self.supervisor.state == "running"

    async def ask(self, command: str, **arguments: Any) -> Any:
        """The result of a command, over the socket."""
        answer = await self.line(json.dumps({"command": command, "arguments": arguments}).encode())
        if "error" in answer:
            raise LookupError(answer["error"])
        return answer["result"]

    async def line(self, line: bytes) -> dict[str, Any]:
        folder = os.open(self.state, os.O_PATH)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/control.sock", limit=2**24)
        finally:
            os.close(folder)
        try:
            writer.write(line + b"\n")
            return json.loads(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def seen(self, slot: int) -> list[str]:
        """Commands a slot was sent."""
        return [line["command"] for line in self.lines(f"seen.{slot}")]

    async def kill_worker(self, slot: int) -> int:
        """kill -9; returns when the supervisor has taken note of it."""
        place = self.supervisor.slots[slot]
        pid, restarts = place.pid, place.restarts
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not place.ready.is_set() or place.restarts > restarts, "its death")
        return pid


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Relay:
    monkeypatch.setenv("FAKE_WORKER_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", REPO)
    caplog.set_level(logging.INFO)
    return Relay(tmp_path)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# --- start ---


def test_workers_are_told_what_they_need(relay: Relay) -> None:
    for name in ("w0", "w1", "w2", "w5", "nothing"):
        (relay.state / "spool" / name).mkdir(parents=True)

    async def story() -> None:
        async with relay.running() as supervisor:
            status = await relay.ask("status")
            assert status["state"] == "running"
            assert [(w["slot"], w["state"], w["restarts"], w["error"]) for w in status["workers"]] == [
                (0, "ready", 0, None),
                (1, "ready", 0, None),
            ]
            assert status["listening"] == ["127.0.0.1:2525"]
            assert status["pid"] == os.getpid()
            for slot in (0, 1):
                (started,) = relay.lines(f"started.{slot}")
                assert started["pid"] == status["workers"][slot]["pid"]
                assert (started["slot"], started["slots"]) == (slot, 2)
                assert started["config"]["hostname"] == "mta.example"
                assert started["table"] == str(relay.state / "table")
                assert started["slab"] == str(relay.state / f"slab.{slot}")
                assert started["state_dir"] == str(relay.state)
                assert started["suspensions"] == []
                assert started["boot_id"] == supervisor.clock.boot_id()
                assert started["orphans"] == [["w2"], ["w5"]][slot]

    run(story)


def test_a_worker_that_says_why_it_cannot_start_ends_the_relay_with_its_words(relay: Relay) -> None:
    (relay.folder / "fail").write_text("127.0.0.1:25 is in use by process 99")

    async def story() -> None:
        with pytest.raises(HostError, match="is in use by process 99") as caught:
            async with relay.running():
                pass
        assert caught.value.problems[0].file == str(relay.config_path)
        assert all(slot.pid is None for slot in relay.supervisor.slots)
        assert not (relay.state / "control.sock").exists()

    run(story)


def test_workers_that_crash_at_every_start_end_the_relay(relay: Relay) -> None:
    (relay.folder / "crash").touch()
    relay.configure()

    async def story() -> None:
        assert await relay.supervise() == 1
        assert len(relay.lines("started.0")) <= 5

    run(story)


def test_the_state_directory_is_held(relay: Relay) -> None:
    relay.configure()
    config = load(relay.config_path)
    lock = take_state_dir(config, "x.yaml")
    with pytest.raises(StateHeld) as caught:
        take_state_dir(config, "x.yaml")
    assert caught.value.pid == os.getpid()
    assert str(os.getpid()) in str(caught.value)
    lock.close()
    take_state_dir(config, "x.yaml").close()


def test_a_state_directory_that_cannot_be_made_is_named(relay: Relay) -> None:
    (relay.folder / "file").touch()
    relay.configure(state_dir=str(relay.folder / "file" / "state"))
    with pytest.raises(HostError, match="state_dir"):
        take_state_dir(load(relay.config_path), "x.yaml")


def test_a_taken_metrics_port_is_named(relay: Relay) -> None:
    async def story() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            relay.settings["listeners"]["metrics"]["bind"] = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(HostError, match=r"listeners\.metrics\.bind"):
                async with relay.running():
                    pass

    run(story)


# --- the socket ---


def test_the_socket_takes_the_place_of_a_dead_relays_and_is_for_its_owner_only(relay: Relay) -> None:
    relay.state = relay.folder / ("long-name-" * 12)
    relay.settings["state_dir"] = str(relay.state)
    relay.state.mkdir()
    (relay.state / "control.sock").touch()

    async def story() -> None:
        async with relay.running():
            mode = (relay.state / "control.sock").stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert (await relay.ask("status"))["state"] == "running"
        assert not (relay.state / "control.sock").exists()

    run(story)


def test_a_line_that_is_no_request_gets_words(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running():
            for line in (b"", b"hello", b"[]", b"3", b'{"command": 3}', b'{"command": "status", "arguments": [1]}'):
                assert "a request is one line" in (await relay.line(line))["error"]
            with pytest.raises(LookupError, match=r"there is no command 'queue\.summery'"):
                await relay.ask("queue.summery")

    run(story)


def test_many_requests_on_one_connection(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running():
            reader, writer = await asyncio.open_unix_connection(str(relay.state / "control.sock"))
            writer.write(b'{"command":"status"}\n' * 3)
            for _ in range(3):
                assert "result" in json.loads(await reader.readline())
            writer.close()
            await writer.wait_closed()

    run(story)


# --- commands to all workers ---


def test_answers_become_one(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running():
            assert await relay.ask("queue.summary") == {
                "accepted": 20,
                "queued": 11,
                "by_reason": {"ready": 10},
                "oldest_seconds": 1,
            }
            listed = await relay.ask("queue.list", limit=3, domain="a.example")
            assert [row["id"] for row in listed["messages"]] == ["w1-2", "w0-2", "w1-1"]
            assert listed["matched"] == 6
            assert (await relay.ask("queue.show", id="m1"))["slot"] == 1
            assert (await relay.ask("queue.audit"))["workers"] == [
                {"slot": 0, "accepted": 10, "difference": 0},
                {"slot": 1, "accepted": 10, "difference": 0},
            ]
            assert (await relay.ask("queue.flush", all=True))["matched"] == 3
            assert (await relay.ask("queue.remove", ids=["x"]))["matched"] == 3
            assert await relay.ask("queue.quarantine") == {"messages": []}
            sent = await relay.ask("send", to="a@b.example", trace=True)
            assert sent == {"outcome": "delivered", "slot": 0}

    run(story)


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("queue.show", {"id": "m7"}, "^no such message in the queue: m7$"),
        ("queue.show", {}, "wants the id"),
        ("queue.flush", {}, "wants a selector"),
        ("queue.remove", {"dry_run": True}, "wants a selector"),
        ("queue.suspend", {"why": "x"}, "wants a selector"),
        ("queue.resume", {}, "wants a selector"),
        ("queue.remove", {"domain": "a.example", "campain": "b"}, "no argument 'campain'"),
        ("queue.suspend", {"domain": "a.example", "campain": "b"}, "no argument 'campain'"),
        ("send", {"too": "a@b.example"}, "no argument 'too'"),
    ],
)
def test_wrong_commands_reach_no_worker(relay: Relay, command: str, arguments: dict[str, Any], words: str) -> None:
    async def story() -> None:
        async with relay.running():
            with pytest.raises(LookupError, match=words):
                await relay.ask(command, **arguments)
            assert set(relay.seen(0)) <= {"queue.show"}

    run(story)


def test_a_look_is_repeated_when_a_worker_dies_under_it(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            (relay.folder / "die").write_text("queue.summary")
            assert (await relay.ask("queue.summary"))["accepted"] == 20
            assert sum(slot.restarts for slot in supervisor.slots) == 1

    run(story)


def test_a_change_is_not_repeated_when_a_worker_dies_under_it(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running():
            (relay.folder / "die").write_text("queue.remove")
            answer = await relay.ask("queue.remove", all=True)
            assert answer["incomplete"] in (
                ["worker 0 ended before it answered"],
                ["worker 1 ended before it answered"],
            )
            assert relay.seen(0).count("queue.remove") == relay.seen(1).count("queue.remove") == 1

    run(story)


def test_without_a_worker_the_others_answer_and_say_what_is_missing(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            (relay.folder / "fail").write_text("its spool is damaged; it was set aside in w1.bad")
            await relay.kill_worker(1)
            await until(lambda: supervisor.slots[1].state == "failed", "the failure")
            # From here on it is tried again and again, ever more seldom.
            await until(lambda: supervisor.slots[1].restarts >= 6, "some restarts")
            supervisor.slots[1].state = "failed"
            answer = await relay.ask("queue.summary")
            assert answer["accepted"] == 10
            assert len(answer["incomplete"]) == 1
            assert "set aside in w1.bad" in answer["incomplete"][0]
            audit = await relay.ask("queue.audit")
            assert not audit["ok"]
            assert "its spool is damaged" in (await relay.ask("status"))["workers"][1]["error"]

    run(story)


def test_events_of_the_relay_itself_have_a_log(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            supervisor.event("first", {"why": "x"})
            log = relay.state / "events" / "relay.jsonl"
            log.rename(log.with_name("moved"))
            await supervisor.reopen_logs()
            supervisor.event("second", {})
            first, second = (json.loads(path.read_text()) for path in (log.with_name("moved"), log))
            assert (first["event"], first["why"], second["event"]) == ("first", "x", "second")
            assert first["id"] != second["id"]

    run(story)


# --- restarts ---


def test_a_dead_worker_is_cleared_and_started_again(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            cell = supervisor.table.cell(b"conn")
            assert supervisor.table.used(cell) == 2
            (relay.folder / "crash").touch()
            old = await relay.kill_worker(0)
            await until(lambda: supervisor.slots[0].restarts >= 1, "a try")
            assert supervisor.table.held(cell, 0) == 0
            assert supervisor.trouble() is not None
            (relay.folder / "crash").unlink()
            await until(lambda: supervisor.slots[0].state == "ready", "the restart")
            assert supervisor.slots[0].pid != old
            assert supervisor.slots[0].error is None
            assert supervisor.table.held(cell, 0) == 1
            assert supervisor.trouble() is None

    run(story)


def test_a_worker_that_hangs_is_ended_and_started_again(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(workers_module, "HUNG_SECONDS", 2.0)
    relay.configure(workers=1)

    async def story() -> None:
        async with relay.running() as supervisor:
            (slot,) = supervisor.slots
            first = slot.pid
            (relay.folder / "hang").touch()
            await until(lambda: slot.restarts and slot.state == "ready" and slot.pid != first, "another worker")
            assert not (relay.folder / "hang").exists()

    run(story)


def test_restarts_come_ever_later(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            (relay.folder / "crash").touch()
            await relay.kill_worker(0)
            await until(lambda: supervisor.slots[0].restarts >= 5, "five tries")
            delays = [record.args[2] for record in caplog.records if "starts again in" in record.message][:5]
            assert delays == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16])
            assert "killed by SIGKILL" in caplog.text
            assert "exit status 3" in caplog.text

    run(story)


def test_counters_go_on_and_gauges_do_not_when_a_worker_or_the_relay_is_started_again(relay: Relay) -> None:
    """The fake worker counts 10 in each life, and sets a gauge to 5."""

    async def first() -> None:
        async with relay.running() as supervisor:
            (relay.folder / "crash").touch()
            await relay.kill_worker(0)
            await until(lambda: supervisor.slots[0].restarts >= 1, "a try")
            assert series(supervisor, "fastrelay_accepted_messages_total") == 20
            assert series(supervisor, "fastrelay_queue_recipients") == 5
            (relay.folder / "crash").unlink()
            await until(lambda: supervisor.slots[0].state == "ready", "the restart")
            assert series(supervisor, "fastrelay_accepted_messages_total") == 30

    async def second() -> None:
        relay.settings["workers"] = 1
        async with relay.running() as supervisor:
            # of the worker that is no more, the counters are kept
            assert series(supervisor, "fastrelay_accepted_messages_total") == 40
            assert series(supervisor, "fastrelay_queue_recipients") == 5

    run(first)
    Slab(relay.state / "slab.1").set(names.SMTP_SESSIONS_OPEN.entry(Slab(relay.state / "slab.1")), 9)
    Slab(relay.state / "slab.0").set(names.SMTP_SESSIONS_OPEN.entry(Slab(relay.state / "slab.0")), 9)
    run(second)
    assert series(relay.supervisor, "fastrelay_smtp_sessions_open") == 0


def series(supervisor: Supervisor, name: str) -> float:
    """A metric of a running supervisor, over all its labels."""
    return sum(
        sample.value
        for family in SlabCollector(supervisor._slabs_read, supervisor.facts).collect()
        for sample in family.samples
        if sample.name == name
    )


# --- suspensions ---


def test_suspensions_last(relay: Relay) -> None:
    async def first() -> None:
        async with relay.running():
            dry = await relay.ask("queue.suspend", campaign="spring", dry_run=True)
            assert dry == {"matched": 6, "suspension": None}
            one = await relay.ask("queue.suspend", campaign="spring", why="wrong link")
            assert one["matched"] == 6
            assert one["suspension"]["id"] == "s1"
            assert one["suspension"]["selectors"] == {"campaign": "spring"}
            await relay.ask("queue.suspend", provider="yahoo")
            await relay.ask("queue.suspend", all=True)
            told = [line for line in relay.lines("seen.1") if line["command"] == "suspensions"]
            assert [s["id"] for s in told[-1]["arguments"]["suspensions"]] == ["s1", "s2", "s3"]
            await relay.kill_worker(0)
            await until(lambda: len(relay.lines("started.0")) == 2, "the next life")
            assert [s["id"] for s in relay.lines("started.0")[1]["suspensions"]] == ["s1", "s2", "s3"]

    async def second() -> None:
        async with relay.running():
            assert [s["id"] for s in relay.lines("started.0")[-1]["suspensions"]] == ["s1", "s2", "s3"]
            for arguments in ({"suspension": "s9"}, {"campaign": "autumn"}, {"campaign": "spring", "domain": "a"}):
                with pytest.raises(LookupError, match="there are: s1, s2, s3"):
                    await relay.ask("queue.resume", **arguments)
            assert (await relay.ask("queue.resume", campaign="spring", dry_run=True))["suspensions"] == ["s1"]
            assert (await relay.ask("queue.resume", campaign="spring"))["suspensions"] == ["s1"]
            assert (await relay.ask("queue.resume", suspension="s2"))["matched"] == 6
            assert (await relay.ask("queue.suspend", domain="b.example"))["suspension"]["id"] == "s4"
            assert (await relay.ask("queue.resume", all=True))["suspensions"] == ["s3", "s4"]
            assert (await relay.ask("status"))["suspensions"] == []
            told = [line for line in relay.lines("seen.1") if line["command"] == "suspensions"]
            assert told[-1]["arguments"]["suspensions"] == []

    run(first)
    run(second)


# --- reload, logs, the end ---


def test_a_sound_configuration_is_taken_over(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            relay.configure(hostname="mta2.example", workers=7)
            await supervisor.reload()
            for slot in (0, 1):
                (told,) = [line for line in relay.lines(f"seen.{slot}") if line["command"] == "reload"]
                assert told["arguments"]["config"]["hostname"] == "mta2.example"
                assert told["arguments"]["config"]["workers"] == 2
            assert supervisor.config.hostname == "mta2.example"
            assert not supervisor.table.reloading
            await relay.kill_worker(0)
            await until(lambda: len(relay.lines("started.0")) == 2, "the next life")
            assert relay.lines("started.0")[1]["config"]["hostname"] == "mta2.example"

    run(story)


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            for changes in ({"hostnam": "x"}, {"hostnam": None, "sources": [{"name": "a", "address": "192.0.2.77"}]}):
                relay.settings = {key: value for key, value in {**relay.settings, **changes}.items() if value}
                relay.configure()
                await supervisor.reload()
                assert supervisor.config.sources == []
            assert "hostnam" in caplog.text
            assert "192.0.2.77" in caplog.text
            assert "the old one goes on" in caplog.text
            assert "reload" not in relay.seen(0)
            assert not (await relay.ask("status"))["last_reload_ok"]

    run(story)


def test_until_every_worker_has_the_new_configuration_the_stricter_limits_hold(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            relay.configure(hostname="refused.example")
            await supervisor.reload()
            assert supervisor.table.reloading
            for slot in (0, 1):  # they come back with the new one
                await relay.kill_worker(slot)
            await until(lambda: not supervisor.table.reloading, "both")
            names = [line["config"]["hostname"] for line in relay.lines("started.1")]
            assert names == ["mta.example", "refused.example"]

    run(story)


def test_logs_are_reopened(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            await supervisor.reopen_logs()
            assert relay.seen(0) == relay.seen(1) == ["reopen_logs"]

    run(story)


def test_a_stop_drains(relay: Relay) -> None:
    async def story() -> None:
        async with relay.running() as supervisor:
            pass
        assert relay.seen(0) == relay.seen(1) == ["drain"]
        assert [slot.state for slot in supervisor.slots] == ["stopped", "stopped"]
        assert all(slot.restarts == 0 for slot in supervisor.slots)

    run(story)


def test_a_worker_that_does_not_drain_is_ended(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LEAVE_SECONDS", 0.05)
    (relay.folder / "stubborn").touch()
    relay.settings["drain_timeout"] = "0s"

    async def story() -> None:
        async with relay.running() as supervisor:
            pids = [slot.pid for slot in supervisor.slots]
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)

    run(story)


def test_a_second_stop_ends_all_at_once(relay: Relay) -> None:
    (relay.folder / "stubborn").touch()
    relay.settings["drain_timeout"] = "1h"

    async def story() -> None:
        async with relay.running() as supervisor:
            supervisor.stop()
            await until(lambda: relay.seen(0) and relay.seen(1), "the drain")
            supervisor.stop()

    run(story)


def test_systemd_is_told(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(relay.folder / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(relay.folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")

        async def story() -> None:
            async with relay.running() as supervisor:
                await supervisor.reload()

        run(story)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told += systemd.recv(4096).decode().splitlines()
    order = ("READY=1", "RELOADING=1", "READY=1", "STOPPING=1")
    assert [word for word in told if word in order] == list(order)
    assert "WATCHDOG=1" in told
    assert any(word.startswith("EXTEND_TIMEOUT_USEC=") for word in told)
    assert any(word.startswith("MONOTONIC_USEC=") and int(word[15:]) > 0 for word in told)
