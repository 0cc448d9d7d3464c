"""A relay in a process of its own, for tests and benchmarks.

`RelayProcess` writes a configuration, starts `python -m fastrelay run`, waits until it answers, and can stop it
politely or kill -9 chosen parts of it. Everything it makes lies below the directory it is given.

    with RelayProcess(tmp_path, {"routes": [{"domains": ["*"], "hosts": [sink.endpoint]}]}) as relay:
        relay.submit(b"Subject: x\\r\\n\\r\\nhello\\r\\n", ["b@d.example"])
        relay.control("queue.summary")

Known fault: processes are found by walking /proc, so this runs on Linux only (as does the relay).
"""

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from support.net import free_endpoint, split_endpoint, wait_until

REPO = Path(__file__).resolve().parents[2]
AUDITS = 10  # before a difference is believed


class RelayFailed(AssertionError):
    """The relay did not do what was asked of it; the message carries the end of its log."""


class ControlError(AssertionError):
    """The control socket answered with an error; `error` is the relay's sentence."""

    def __init__(self, command: str, error: str) -> None:
        super().__init__(f"{command}: {error}")
        self.error = error


def default_config(state_dir: Path) -> dict[str, Any]:
    """A small relay that may deliver to loopback addresses and retries soon."""
    return {
        "hostname": "relay.test",
        "state_dir": str(state_dir),
        "workers": 2,
        "listeners": {"smtp": [{"bind": free_endpoint()}], "metrics": {"bind": free_endpoint()}},
        "relay_networks": ["127.0.0.0/8", "::1/128"],
        "delivery": {"allow_private_hosts": True},
        "provider_limits": False,
        "retry": {"first": "1s", "factor": 2, "max": "5s", "expire": "1h", "jitter": "10%"},
        "bounces": {"send": False},  # a test that is about them says so, and so of the suppression list
        "suppression": {"enabled": False},
    }


def children(pid: int) -> list[int]:
    """Process ids of the direct children of `pid` (all its threads)."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Process ids of everything below `pid`, parents first."""
    below: list[int] = []
    for child in children(pid):
        below += [child, *descendants(child)]
    return below


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def runs(pid: int, module: bytes) -> bool:
    """Whether the process runs a module of ours, by its command line."""
    try:
        return module in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_worker(pid: int) -> bool:
    return runs(pid, b"fastrelay.worker")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far, in seconds; processes that are gone count nothing."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> dict[str, int]:
    """The Rss… and VmHWM lines of /proc/PID/status in bytes."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.startswith(("Rss", "VmRSS", "VmHWM")):
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes


class RelayProcess:
    """One relay and its state directory; a context manager that stops it at the end.

    `config` replaces whole top-level keys of `default_config`; a value None removes the key.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        prefix: Iterable[str] = (),
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = default_config(self.directory / "state")
        self.configure(config or {})
        self.env = {**os.environ, "PYTHONPATH": str(REPO), **(env or {})}
        self.prefix = list(prefix)
        self.log_path = self.directory / "relay.log"
        self.process: subprocess.Popen[bytes] | None = None

    # -- configuration ----------------------------------------------------------------------------

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Replace top-level keys and write the file; takes effect at the next start or reload."""
        for key, value in changes.items():
            if value is None:
                self.config.pop(key, None)
            else:
                self.config[key] = value
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    @property
    def config_path(self) -> Path:
        return self.directory / "fastrelay.yaml"

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    @property
    def smtp(self) -> tuple[str, int]:
        """(host, port) of the first SMTP listener."""
        return split_endpoint(self.config["listeners"]["smtp"][0]["bind"])

    @property
    def metrics(self) -> tuple[str, int]:
        return split_endpoint(self.config["listeners"]["metrics"]["bind"])

    @property
    def endpoint(self) -> str:
        """The first SMTP listener as ADDR:PORT."""
        return str(self.config["listeners"]["smtp"][0]["bind"])

    # -- life -------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for anything."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "fastrelay", "run", "-c", str(self.config_path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.env, cwd=self.directory,
            )
        return self.process

    def start(self, seconds: float = 60.0) -> "RelayProcess":
        """Start and wait until all workers are ready and the SMTP listener greets."""
        self.spawn()
        self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not (self._answers() and self._greets()):
            code = self.process.poll() if self.process else -1
            if code is not None:
                raise RelayFailed(f"the relay exited with status {code} before it was ready\n{self.log_tail()}")
            if time.monotonic() > end:
                log = self.log_tail()
                self.kill("all")
                raise RelayFailed(f"the relay was not ready after {seconds:.0f} s\n{log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether the control socket answers and no worker is still starting (one that failed does not count)."""
        try:
            status = self.control("status", timeout=5)
        except (OSError, ControlError, ValueError):
            return False
        return all(worker["state"] in ("ready", "failed") for worker in status["workers"])

    def _greets(self) -> bool:
        try:
            with socket.create_connection(self.smtp, timeout=5) as connection:
                greeting = connection.recv(512)
                connection.sendall(b"QUIT\r\n")
                connection.recv(512)
        except OSError:
            return False
        return greeting.startswith(b"220")

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM and wait; the exit status. Past the bound everything is killed and RelayFailed raised."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                log = self.log_tail()
                self.kill("all")
                raise RelayFailed(f"still running {seconds:.0f} s after SIGTERM\n{log}") from None
        code = self.process.returncode
        self.process = None
        return code

    def __enter__(self) -> "RelayProcess":
        return self.start() if self.process is None else self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"---- end of {self.log_path}\n{self.log_tail()}")
            self.kill("all")
        else:
            self.stop()

    # -- processes --------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self.process is not None, "the relay is not started"
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of the living workers, oldest first."""
        if self.process is None:
            return []
        return sorted(pid for pid in descendants(self.pid) if alive(pid) and is_worker(pid))

    def feedback_process(self) -> int | None:
        """The process that reads what comes back, if it lives."""
        found = [pid for pid in descendants(self.pid) if alive(pid) and runs(pid, b"fastrelay.feedback.process")]
        return found[0] if found else None

    def replaced(self, before: list[int]) -> bool:
        """Whether there are as many workers as before, and others. One look: a worker dies between two."""
        living = self.workers()
        return len(living) == len(before) and living != before

    def pids(self) -> list[int]:
        """The supervisor and everything below it."""
        return [self.pid, *descendants(self.pid)] if self.process else []

    def kill(self, part: str, index: int = 0) -> list[int]:
        """kill -9 of "worker" (the index-th), "supervisor" (alone) or "all"; returns the pids that were hit.

        After "supervisor" and "all" this returns once every process of the relay is gone.
        """
        if self.process is None:
            return []
        everything = self.pids()
        if part == "worker":
            living = self.workers()
            targets = [living[index % len(living)]] if living else []
        else:
            targets = {"supervisor": everything[:1], "all": everything}[part]
        for pid in targets:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if part != "worker":
            self.process.wait(30)
            self.process = None
            wait_until(lambda: not any(alive(pid) for pid in everything), 30, "all processes of the relay to end")
        return targets

    def cpu_seconds(self) -> float:
        """User and system seconds of all living processes of the relay."""
        return cpu_seconds(self.pids())

    def unshared_bytes(self) -> int:
        """RssAnon + RssShmem over all workers (DESIGN: LMDB's mapped file is page cache and does not count)."""
        sizes = [memory_bytes(pid) for pid in self.workers()]
        return sum(size.get("RssAnon", 0) + size.get("RssShmem", 0) for size in sizes)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    # -- asking it --------------------------------------------------------------------------------

    def control(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 30.0) -> Any:
        """One request over the control socket; ControlError if it answers with an error."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            here = os.open(self.state_dir, os.O_PATH)
            try:  # a path below /proc keeps within the 107 bytes a Unix socket address may have
                connection.connect(f"/proc/self/fd/{here}/control.sock")
            finally:
                os.close(here)
            request = {"command": command, "arguments": dict(arguments or {})}
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                part = connection.recv(1 << 20)
                if not part:
                    raise ConnectionError(f"the control socket closed in the middle of the answer to {command}")
                answer += part
        decoded = json.loads(answer)
        if "error" in decoded:
            raise ControlError(command, str(decoded["error"]))
        return decoded["result"]

    def summary(self) -> dict[str, Any]:
        return dict(self.control("queue.summary"))

    def cli(self, *words: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`fastrelay WORDS… -c FILE`; with check, a status other than 0 raises RelayFailed with what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "fastrelay", *words, "-c", str(self.config_path)],
            capture_output=True, text=True, env=self.env, timeout=timeout, cwd=self.directory, check=False,
        )
        if check and done.returncode:
            raise RelayFailed(f"fastrelay {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def wait_drained(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until nothing is queued; the summary then."""
        end = time.monotonic() + seconds
        while True:
            summary = self.summary()
            if not summary["queued"]:
                return summary
            if time.monotonic() > end:
                raise RelayFailed(f"still queued after {seconds:.0f} s: {summary}\n{self.log_tail()}")
            time.sleep(0.05)

    def assert_balanced(self) -> dict[str, Any]:
        """Promise 2: accepted = delivered + failed + expired + suppressed + removed + queued, and the audit agrees."""
        for _ in range(AUDITS):
            audit = self.control("queue.audit")
            if audit["ok"]:
                break
            time.sleep(0.2)  # mail that moves may look like a difference; one that is real stays
        assert audit["ok"], audit
        summary = self.summary()
        fates = sum(summary[name] for name in ("delivered", "failed", "expired", "suppressed", "removed", "queued"))
        assert summary["accepted"] == fates, summary
        return summary

    # -- what it wrote ----------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """All event lines of all workers, rotated files too, in the order of the files."""
        lines: list[dict[str, Any]] = []
        for path in sorted((self.state_dir / "events").glob("*.jsonl*")):
            for line in path.read_bytes().splitlines():
                lines.append(json.loads(line))
        return lines

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    # -- submitting -------------------------------------------------------------------------------

    def client(self, timeout: float = 30.0) -> smtplib.SMTP:
        return smtplib.SMTP(*self.smtp, local_hostname="client.test", timeout=timeout)

    def submit(self, content: bytes, recipients: list[str], reverse_path: str = "news@sender.example") -> None:
        """One message over one SMTP session; smtplib's exceptions if it is refused."""
        with self.client() as client:
            client.sendmail(reverse_path, recipients, content)
