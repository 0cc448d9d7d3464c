"""A stand-in for the supervisor's end of the control socket, and a runner for commands."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastrelay.cli.group import cli


class FakeRelay:
    """Answers each control command with what `answers` holds for it, and remembers the requests.

    An answer is an object (sent as {"result": …}), a str (sent as {"error": …}), bytes (sent as they are, then the
    connection is closed) or None (nothing is ever sent). A list of answers is used up from the left.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.answers: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(state_dir / "control.sock"))
        self.listener.listen(8)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            if self.over.is_set():
                link.close()
                return
            with link:
                try:
                    self.converse(link)
                except OSError:
                    pass

    def converse(self, link: socket.socket) -> None:
        with link.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                answer = self.answers[request["command"]]
                if isinstance(answer, list):
                    answer = answer.pop(0)
                if isinstance(answer, bytes):
                    link.sendall(answer)
                    return
                if answer is None:
                    self.over.wait()
                    return
                link.sendall(
                    json.dumps({"error": answer} if isinstance(answer, str) else {"result": answer}).encode() + b"\n"
                )

    def close(self) -> None:
        """Stop answering and leave the socket behind, as a killed relay does. May be called twice."""
        if self.over.is_set():
            return
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()
        assert not self.thread.is_alive()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the only request."""
        (request,) = self.requests
        return request["arguments"]


@pytest.fixture
def fake_relay(tmp_path: Path) -> Iterator[FakeRelay]:
    relay = FakeRelay(tmp_path)
    yield relay
    relay.close()


@pytest.fixture
def fastrelay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in an empty folder without our environment variables."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FASTRELAY_CONFIG", raising=False)
    monkeypatch.delenv("FASTRELAY_STATE_DIR", raising=False)

    def run(*words: object, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], input=stdin, prog_name="fastrelay")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def ask(fastrelay: Callable[..., Result], fake_relay: FakeRelay) -> Callable[..., Result]:
    """Runs a command against the fake relay."""

    def run(*words: object, stdin: str | None = None) -> Result:
        return fastrelay(*words, "--state-dir", fake_relay.state_dir, stdin=stdin)

    return run
