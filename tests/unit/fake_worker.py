"""A worker process without mail, for the tests of the supervisor: it speaks the control channel and does as it is told.

Its behaviour comes from files in the folder $FAKE_WORKER_DIR, so that a test can change it between two lives:

    fail        exists: send "failed" with its text, exit 2
    crash       exists: exit 3 before it is ready
    stubborn    exists: never answer "drain", ignore SIGTERM
    die         names a command that ends the worker (exit 7) without an answer; the file is removed first
    hang        exists: removed, then the worker stands still at the next request
    started.N   appended with one line of JSON for each life of slot N: pid and the start message
    seen.N      appended with each request of slot N
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.admin.child import CONTROL_FD, die_with_parent
from fastrelay.metrics import names

FOLDER = Path(os.environ["FAKE_WORKER_DIR"])


class FakeWorker:
    def __init__(self) -> None:
        self.channel = socket.socket(fileno=int(os.environ[CONTROL_FD])).makefile("rwb")
        self.start = json.loads(self.channel.readline())["start"]
        self.slot = self.start["slot"]
        self.write(f"started.{self.slot}", {"pid": os.getpid(), **self.start})
        self.slab = Slab(self.start["slab"])
        self.slab.reset_gauges()
        self.table = Table(self.start["table"])

    def write(self, name: str, line: dict) -> None:
        with (FOLDER / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def send(self, message: dict) -> None:
        self.channel.write(json.dumps(message).encode() + b"\n")
        self.channel.flush()

    def run(self) -> int:
        if (FOLDER / "crash").exists():
            return 3
        if (FOLDER / "fail").exists():
            self.send({"event": "failed", "error": (FOLDER / "fail").read_text()})
            return 2
        self.table.acquire(self.table.cell(b"conn"), self.slot, 100)
        self.slab.inc(names.ACCEPTED_MESSAGES.entry(self.slab), 10)
        self.slab.set(names.QUEUE_RECIPIENTS.entry(self.slab, reason="ready"), 5)
        self.slab.observe(names.COMMIT_SECONDS.entry(self.slab), 0.003)
        self.send({"event": "ready", "listening": ["127.0.0.1:2525"]})
        for line in self.channel:
            request = json.loads(line)
            self.write(f"seen.{self.slot}", request)
            command = request["command"]
            if self.has_to_die(command):
                return 7
            if (FOLDER / "hang").exists():
                (FOLDER / "hang").unlink()
                signal.pause()
            if command == "drain":
                if (FOLDER / "stubborn").exists():
                    continue
                self.send({"id": request["id"], "result": {}})
                self.send({"event": "drained"})
                return 0
            self.send({"id": request["id"], **self.answer(command, request["arguments"])})
        return 0

    def has_to_die(self, command: str) -> bool:
        try:
            if (FOLDER / "die").read_text() != command:
                return False
            (FOLDER / "die").unlink()
        except FileNotFoundError:  # or the other worker was first
            return False
        return True

    def answer(self, command: str, arguments: dict) -> dict:
        if command == "queue.summary":
            counts = {"accepted": 10, "queued": 5 + self.slot, "by_reason": {"ready": 5}}
            return {"result": {**counts, "oldest_seconds": self.slot}}
        if command == "queue.list":
            rows = [{"id": f"w{self.slot}-{n}", "age_seconds": 10 * n + self.slot} for n in range(3)]
            return {"result": {"messages": rows[: arguments["limit"]], "matched": 3}}
        if command in ("queue.show", "queue.why", "queue.release"):
            if arguments["id"] == f"m{self.slot}":
                return {"result": {"message": {"id": arguments["id"]}, "slot": self.slot}}
            return {"error": f"no such message in the queue: {arguments['id']}"}
        if command in ("queue.flush", "queue.remove"):
            return {"result": {"matched": 1 + self.slot}}
        if command == "queue.audit":
            return {"result": {"ok": True, "workers": [{"slot": self.slot, "accepted": 10, "difference": 0}]}}
        if command == "queue.quarantine":
            return {"result": {"messages": []}}
        if command == "send":
            return {"result": {"outcome": "delivered", "slot": self.slot}}
        if command in ("suspensions", "reopen_logs"):
            return {"result": {}}
        if command == "reload":
            if arguments["config"]["hostname"] == "refused.example":
                return {"error": "this worker does not like the name"}
            return {"result": {}}
        return {"error": f"unknown command {command}"}


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (FOLDER / "stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(FakeWorker().run())
