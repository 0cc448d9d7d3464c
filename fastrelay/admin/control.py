"""The control socket: what the command line asks of the running relay.

One JSON line {"command", "arguments"} in, one JSON line {"result"} or {"error"} out, many a connection. The socket lies
in the state directory with mode 0600: who may open it may command the relay. Most commands go to all workers, and their
answers become one (merge.py); a few the supervisor answers itself.

While a worker restarts, a command waits for it a little. If it stays away, the answers of the others are given, with
`incomplete`: words on what is missing. A command that only looks is asked once more when a worker dies under it; one
that changes something never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec

from fastrelay.admin import merge
from fastrelay.admin.feedback import COMMANDS as FEEDBACK
from fastrelay.admin.feedback import FeedbackKeeper
from fastrelay.admin.suspensions import SELECTORS, Suspensions, selectors_of
from fastrelay.admin.workers import WorkerGone, WorkerRefused, WorkerSlot
from fastrelay.doctor.results import Results
from fastrelay.errors import FastrelayError
from fastrelay.limits import explain
from fastrelay.limits.governor import COMMANDS as GOVERNED
from fastrelay.limits.governor import Governor
from fastrelay.tls.reports_send import COMMANDS as TLS_REPORTS
from fastrelay.tls.reports_send import Reports

log = logging.getLogger("fastrelay.control")

SOCKET_NAME = "control.sock"
REQUEST_BYTES = 2**20
MAX_CONNECTIONS = 64
WAIT_FOR_WORKERS_SECONDS = 5.0
ANSWER_SECONDS = 30.0
LONG_ANSWER_SECONDS = 600.0


class CommandError(FastrelayError):
    """A command that cannot be carried out, in words for the operator."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """A command for all workers.

    join        how their answers become one
    arguments   the names it knows
    one         one worker has what is asked for; the errors of the others do not count
    looks_only  changes nothing, so it may be asked again
    selection   wants selectors, ids or `all`
    """

    join: merge.Merge
    arguments: tuple[str, ...] = ()
    one: bool = False
    looks_only: bool = True
    selection: bool = False
    seconds: float = ANSWER_SECONDS


FAN_OUT = {
    "queue.summary": FanOut(merge.add_up),
    "queue.list": FanOut(merge.messages, (*SELECTORS, "limit")),
    "queue.show": FanOut(merge.first, ("id",), one=True),
    "queue.why": FanOut(merge.first, ("id",), one=True),
    "queue.flush": FanOut(
        merge.add_up, (*SELECTORS, "all", "dry_run"), looks_only=False, selection=True, seconds=LONG_ANSWER_SECONDS
    ),
    "queue.remove": FanOut(
        merge.add_up,
        (*SELECTORS, "all", "ids", "dry_run"),
        looks_only=False,
        selection=True,
        seconds=LONG_ANSWER_SECONDS,
    ),
    "queue.quarantine": FanOut(merge.everything),
    "queue.release": FanOut(merge.first, ("id",), one=True, looks_only=False),
    "explain": FanOut(explain.merged, ("domain", "pool", "source")),
    "queue.audit": FanOut(merge.audits, seconds=LONG_ANSWER_SECONDS),
}
SUSPEND_ARGUMENTS = (*SELECTORS, "all", "why", "dry_run")
RESUME_ARGUMENTS = (*SELECTORS, "all", "suspension", "dry_run")
SEND_ARGUMENTS = ("to", "source", "from", "trace")


class Relay(Protocol):
    """What the commands need of the supervisor."""

    slots: list[WorkerSlot]
    suspensions: Suspensions
    governor: Governor
    doctor_results: Results
    tls_reports: Reports
    feedback: FeedbackKeeper

    async def tell_limits(self) -> list[tuple[WorkerSlot, FastrelayError]]: ...
    def status(self) -> dict[str, Any]: ...
    async def metric_values(self, wanted: Sequence[str] | None) -> dict[str, Any]: ...


class Commands:
    """The commands, by name."""

    def __init__(self, relay: Relay, wait_seconds: float = WAIT_FOR_WORKERS_SECONDS) -> None:
        self._relay = relay
        self._wait_seconds = wait_seconds
        self._own: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "status": self._status,
            "metrics": self._metrics,
            "queue.suspend": self._suspend,
            "queue.resume": self._resume,
            "send": self._send,
            "explain": self._explain,
            "doctor.results": self._doctor_results,
            **{name: partial(self._govern, name) for name in GOVERNED},
            **{name: partial(self._tls_reports, name) for name in TLS_REPORTS},
        }

    async def carry_out(self, command: str, arguments: dict[str, Any]) -> Any:
        """The result of a command. Raises CommandError (and other FastrelayErrors), in words."""
        arguments = _flat(arguments)
        if command in self._own:
            return await self._own[command](arguments)
        if command in FAN_OUT:
            return await self._fan_out(command, arguments)
        if command.partition(".")[0] in FEEDBACK:
            return await self._relay.feedback.command(command, arguments)
        raise CommandError(f"there is no command {command!r}")

    async def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._relay.status()

    async def _metrics(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Counters and gauges as in metrics/names.py: {name: [[label values], value] …}; `names` chooses some."""
        _check_arguments("metrics", arguments, ("names",))
        return await self._relay.metric_values(arguments.get("names"))

    async def _doctor_results(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What `fastrelay doctor` found, for the metrics."""
        _check_arguments("doctor.results", arguments, ("findings", "finished"))
        try:
            self._relay.doctor_results.take(arguments.get("findings"), arguments.get("finished"))
        except ValueError as error:
            raise CommandError(str(error)) from None
        return {}

    # --- to all workers ---

    async def _fan_out(self, command: str, arguments: dict[str, Any]) -> Any:
        plan = FAN_OUT[command]
        _check_arguments(command, arguments, plan.arguments)
        if plan.one and not isinstance(arguments.get("id"), str):
            raise CommandError(f"{command} wants the id of a message")
        if plan.selection:
            _require_selection(command, arguments)
        await self._wait_for_workers()
        answers = await asyncio.gather(*(self._ask(slot, command, arguments, plan) for slot in self._relay.slots))
        results = [answer for answer in answers if isinstance(answer, dict)]
        if plan.one:
            return _the_one(answers, plan, arguments)
        for answer in answers:
            if isinstance(answer, WorkerRefused):
                raise CommandError(f"worker {answer.slot}: {answer.words}")
        if not results:
            raise CommandError("; ".join(str(answer) for answer in answers) or "no worker runs")
        joined = plan.join(results, arguments)
        missing = [str(answer) for answer in answers if isinstance(answer, WorkerGone)]
        if missing:
            joined["incomplete"] = missing
            if "ok" in joined:
                joined["ok"] = False
        return joined

    async def _ask(
        self, slot: WorkerSlot, command: str, arguments: dict[str, Any], plan: FanOut
    ) -> dict[str, Any] | WorkerGone | WorkerRefused:
        """The answer of one worker, or why there is none."""
        for last in (not plan.looks_only, True):
            try:
                answer = await slot.request(command, arguments, plan.seconds)
                return answer if isinstance(answer, dict) else {}
            except WorkerRefused as error:
                return error
            except WorkerGone as error:
                if last or slot.ready.is_set():
                    return error
                await self._wait_for_workers()
        raise AssertionError("not reached")

    async def _wait_for_workers(self) -> None:
        """Until every worker that is on its way is ready, but not for long."""
        coming = [slot for slot in self._relay.slots if slot.state in ("starting", "restarting")]
        waits = [asyncio.create_task(slot.ready.wait()) for slot in coming]
        if waits:
            await asyncio.wait(waits, timeout=self._wait_seconds)
            for wait in waits:
                wait.cancel()

    async def _explain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What decides when mail for a domain leaves: the workers' view, and what the governor knows."""
        if not isinstance(arguments.get("domain"), str):
            raise CommandError("explain wants a domain")
        answer = await self._fan_out("explain", arguments)
        governor = getattr(self._relay, "governor", None)
        if governor is None:
            return answer
        return explain.with_governor(answer, governor.state()["warmup"], governor.backoffs.describe)

    # --- suspensions ---

    async def _suspend(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """On stable storage first, then told to all workers; `matched` counts what waits in the queue now."""
        _check_arguments("queue.suspend", arguments, SUSPEND_ARGUMENTS)
        _require_selection("queue.suspend", arguments)
        selectors = selectors_of(arguments)
        matched = await self._count(selectors)
        if arguments.get("dry_run"):
            return {**matched, "suspension": None}
        try:
            suspension = self._relay.suspensions.add(selectors, str(arguments.get("why") or ""))
        except ValueError as error:
            raise CommandError(str(error)) from None
        return {**matched, "suspension": suspension, **await self._publish()}

    async def _resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        _check_arguments("queue.resume", arguments, RESUME_ARGUMENTS)
        if arguments.get("suspension") is None:
            _require_selection("queue.resume", arguments)
        try:
            found = self._relay.suspensions.find(arguments)
        except ValueError as error:
            raise CommandError(str(error)) from None
        matched = 0
        for suspension in found:
            matched += (await self._count(suspension["selectors"]))["matched"]
        answer = {"matched": matched, "suspensions": [suspension["id"] for suspension in found]}
        if arguments.get("dry_run"):
            return answer
        self._relay.suspensions.remove(found)
        return {**answer, **await self._publish()}

    async def _count(self, selectors: dict[str, Any]) -> dict[str, Any]:
        answer = await self._fan_out("queue.list", {**selectors, "limit": 0})
        return {"matched": answer["matched"]}

    async def _publish(self) -> dict[str, Any]:
        """Tell all workers; one that is down gets the list at its start."""
        arguments = {"suspensions": self._relay.suspensions.listed}
        plan = FanOut(merge.add_up)
        answers = await asyncio.gather(*(self._ask(slot, "suspensions", arguments, plan) for slot in self._relay.slots))
        failed = [str(answer) for answer in answers if not isinstance(answer, dict)]
        return {"incomplete": failed} if failed else {}

    # --- what the governor decides ---

    async def _govern(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """On stable storage and in force first, then told to all workers."""
        answer = self._relay.governor.command(command, arguments)
        failed = [str(error) for _, error in await self._relay.tell_limits()]
        return {**answer, "incomplete": failed} if failed else answer

    async def _tls_reports(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        _check_arguments(command, arguments, ("day", "domain", "again"))
        return self._relay.tls_reports.command(command, arguments)

    # --- one worker ---

    async def _send(self, arguments: dict[str, Any]) -> Any:
        """A test message goes through the first worker that is ready."""
        _check_arguments("send", arguments, SEND_ARGUMENTS)
        await self._wait_for_workers()
        slot = next((slot for slot in self._relay.slots if slot.ready.is_set()), None)
        if slot is None:
            raise CommandError("no worker is running")
        return await slot.request("send", arguments, LONG_ANSWER_SECONDS)


def _flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with `selectors` beside the others, and without those that are null."""
    nested = arguments.get("selectors")
    if isinstance(nested, dict):
        arguments = {**arguments, **nested}
        del arguments["selectors"]
    return {name: value for name, value in arguments.items() if value is not None}


def _check_arguments(command: str, arguments: dict[str, Any], known: Sequence[str]) -> None:
    """A misspelt selector must not widen what a command touches."""
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise CommandError(f"{command} has no argument {unknown[0]!r}")


def _require_selection(command: str, arguments: dict[str, Any]) -> None:
    if not (selectors_of(arguments) or arguments.get("ids") or arguments.get("all")):
        raise CommandError(f'{command} wants a selector ({", ".join(SELECTORS)}), or "all": true for everything')


def _the_one(answers: Sequence[Any], plan: FanOut, arguments: dict[str, Any]) -> Any:
    """The answer of the worker that has the message, else the words of those that do not."""
    found = [answer for answer in answers if isinstance(answer, dict)]
    if found:
        return plan.join(found, arguments)
    missing = [str(answer) for answer in answers if isinstance(answer, WorkerGone)]
    words = list(dict.fromkeys(answer.words for answer in answers if isinstance(answer, WorkerRefused)))
    raise CommandError("; ".join([*words, *missing]) or "no worker runs")


class ControlServer:
    """Listens in the state directory; `commands` does the work."""

    def __init__(self, state_dir: str, commands: Commands) -> None:
        self._state_dir = state_dir
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take the place of whatever a dead relay left there (the caller holds the lock). Raises OSError."""
        path = os.path.join(self._state_dir, SOCKET_NAME)
        if os.path.lexists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # The path may be longer than the 107 octets of sun_path: it is reached through the folder's descriptor.
        folder = os.open(self._state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        before = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
            os.close(folder)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                await _write(writer, {"error": "too many control connections"})
                return
            while line := await reader.readline():
                await _write(writer, await self._answer(line))
        except (OSError, ValueError):  # it went away; or a request longer than the bound
            pass
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._connections.discard(task)

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line)
            command, arguments = request["command"], request.get("arguments") or {}
            if not isinstance(command, str) or not isinstance(arguments, dict):
                raise TypeError
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return {"error": 'a request is one line {"command": …, "arguments": {…}}'}
        try:
            return {"result": await self._commands.carry_out(command, arguments)}
        except FastrelayError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("control command %s failed; please report this", command)
            return {"error": f"{command} failed inside the relay; its log says more"}

    async def close(self) -> None:
        """Stop listening, end the connections, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1.0)
        try:
            os.unlink(os.path.join(self._state_dir, SOCKET_NAME))
        except OSError:
            pass


async def _write(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    await writer.drain()
