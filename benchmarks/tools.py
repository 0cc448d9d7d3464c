"""Compiles and runs the load source and sink (source.c, sink.c) for benchmarks and tests, and measures processes.

Binaries go to a folder of this user in the system's temporary directory, named after a hash of the source text, so a
change of the source is compiled again and nothing lands in the checkout.
"""

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]  # support/ is shared with the tests


def build(name: str, tls: bool = False) -> Path:
    """Compile benchmarks/NAME.c with cc unless that was done before; the binary's path. `tls`: linked with OpenSSL."""
    source = HERE / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes() + (HERE / "tls.h").read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"fastrelay-tools-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SystemExit(f"{folder} belongs to somebody else")
    binary = folder / f"{name}{'-tls' if tls else ''}-{digest}"
    if not binary.exists():
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("no C compiler found (Debian: apt-get install gcc libc6-dev)")
        beside = binary.with_suffix(f".{os.getpid()}")
        before, behind = (["-DWITH_TLS"], ["-lssl", "-lcrypto"]) if tls else ([], [])
        command = [compiler, "-O2", "-Wall", "-Wextra", *before, "-o", str(beside), str(source), *behind]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{source} can't be compiled" + (" (Debian: apt-get install libssl-dev)" if tls else ""))
        beside.rename(binary)
    return binary


class LoadSink:
    """The C sink as a context manager; `report()` while it runs, `result` after it ended."""

    def __init__(
        self, *options: str, listen: str | Iterable[str] = "127.0.0.1:2526", directory: Path | None = None
    ) -> None:
        self.directory = Path(directory or tempfile.mkdtemp(prefix="fastrelay-sink-"))
        self._remove = directory is None
        self._report = self.directory / "sink.report"
        where = [listen] if isinstance(listen, str) else list(listen)
        self.account_path = self.directory / "sink.account"
        self.command = [
            str(build("sink", "-T" in options)), "-j", "-r", str(self._report), "-a", str(self.account_path), *options,
            *(word for spec in where for word in ("-l", spec)),
        ]
        self.result: dict[str, Any] = {}
        self.account = b""

    def __enter__(self) -> "LoadSink":
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"the sink did not start (status {self.process.wait()})")
        return self

    def report(self) -> dict[str, Any]:
        """What it has counted so far."""
        before = self._report.stat().st_mtime_ns if self._report.exists() else 0
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 10
        while not self._report.exists() or self._report.stat().st_mtime_ns == before:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the sink does not report")
            time.sleep(0.002)
        return dict(json.loads(self._report.read_text()))

    def wait(self, key: str, value: int, seconds: float, stalled: float = 60.0) -> dict[str, Any]:
        """Wait until the report's `key` is at least `value`, or `seconds` passed, or nothing moved for `stalled`."""
        end, moved, last = time.monotonic() + seconds, time.monotonic(), -1
        while True:
            report = self.report()
            if report[key] != last:
                moved, last = time.monotonic(), report[key]
            if report[key] >= value or time.monotonic() > min(end, moved + stalled):
                return report
            time.sleep(0.05)

    def stop(self) -> dict[str, Any]:
        """SIGTERM; the final report. `account` then holds one byte a key."""
        if not self.result:
            self.process.send_signal(signal.SIGTERM)
            output, _ = self.process.communicate(timeout=60)
            self.result = json.loads(output.splitlines()[-1])
            self.account = self.account_path.read_bytes()
        return self.result

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()
            if self._remove:
                shutil.rmtree(self.directory, ignore_errors=True)


def start_source(*options: str) -> subprocess.Popen[str]:
    """The C source in the background."""
    return subprocess.Popen([str(build("source", "-T" in options)), "-j", *options], stdout=subprocess.PIPE, text=True)


def finish_source(process: "subprocess.Popen[str]", seconds: float = 3600.0) -> dict[str, Any]:
    """Wait for it; its report."""
    output, _ = process.communicate(timeout=seconds)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"the source ended with status {process.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


def run_source(*options: str, seconds: float = 3600.0) -> dict[str, Any]:
    """Run the C source to its end; its report."""
    return finish_source(start_source(*options), seconds)


def reaped_cpu_seconds(pids: Iterable[int]) -> float:
    """User and system seconds of these processes and of children they have waited for."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def flush_rate(directory: Path, seconds: float = 1.0) -> float:
    """fdatasync calls a second after a 4 KiB append, in `directory`: what the disk under it can do."""
    path = Path(directory) / "flush-probe"
    count, block = 0, b"x" * 4096
    with path.open("wb", buffering=0) as file:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / seconds


def describe_machine(directory: Path) -> dict[str, Any]:
    """What figures of this machine should be read with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)), "processor": (models or [os.uname().machine])[0],
        "kernel": os.uname().release, "python": sys.version.split()[0], "load": os.getloadavg()[0],
        "flushes_per_second": round(flush_rate(directory)),
    }


def print_machine(directory: Path) -> dict[str, Any]:
    machine = describe_machine(directory)
    print(f"machine: {machine['cores']} cores ({machine['processor']}), Linux {machine['kernel']}, "
          f"Python {machine['python']}, {machine['flushes_per_second']} fdatasync/s of 4 KiB in {directory}, "
          f"load average {machine['load']:.1f}")
    return machine


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values) or [0.0])
