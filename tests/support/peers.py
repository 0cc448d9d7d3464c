"""Real programs that tests talk to: found on the PATH, or among Debian packages unpacked beside the test environment.

Mail servers conflict as Debian packages and start services when installed, so tests/run unpacks all but one of them
(`dpkg -x`) below a folder that FASTRELAY_PEERS names: root/ holds the files, bin/ a wrapper script for each program
that sets the library path. Nothing there is installed.

`require("swaks")` skips the test if the program is missing, or fails it where CI is set: a check that quietly
does not run is worth nothing there.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.net import free_endpoint, free_port, split_endpoint, wait_until
from support.relay import alive, descendants


def unpacked() -> Path | None:
    """The folder of unpacked packages, if there is one."""
    named = os.environ.get("FASTRELAY_PEERS")
    return Path(named) if named and Path(named).is_dir() else None


def find(program: str) -> str | None:
    """Path of the program, or None."""
    folder = unpacked()
    places = [str(folder / "bin")] if folder else []
    return shutil.which(program, path=os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def absent(what: str) -> None:
    """Skip the running test, or fail it in CI, because something from outside is not here."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (and CI is set, so nothing may be left out)")
    pytest.skip(what)


def require(program: str, package: str = "") -> str:
    """Path of the program; without it the test is skipped, or fails in CI."""
    path = find(program)
    if path is None:
        absent(f"{program} is not here (Debian package {package or program}; tests/run fetches it)")
    assert path is not None
    return path


class Daemon:
    """A program in the foreground, started in a directory of its own and ended with everything below it."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: list[str], env: Mapping[str, str]) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(env),
                cwd=self.directory,
            )

    def still_running(self) -> None:
        """RuntimeError with the log if the program has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with status {self.process.returncode}: {self.log_path.read_text()}")

    def stop(self) -> None:
        if self.process is None:
            return
        everything = [self.process.pid, *descendants(self.process.pid)]
        for pid in everything:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        self.process.wait(30)
        wait_until(lambda: not any(alive(pid) for pid in everything), 30, "the program to end")
        self.process = None

    def __exit__(self, *_: object) -> None:
        self.stop()


def accepts(host: str, port: int) -> bool:
    """Whether something listens there over TCP."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


EXIM = """\
exim_path = {program}
primary_hostname = exim.test
spool_directory = {directory}/spool
log_file_path = {directory}/spool/%s.log
pid_file_path = {directory}/spool/exim.pid
local_interfaces = {host}
daemon_smtp_ports = {port}
{tls}
rfc1413_query_timeout = 0s
host_lookup =
keep_environment = *
deliver_drop_privilege
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
message_size_limit = 0
acl_smtp_rcpt = accept
acl_smtp_data = accept
never_users =
begin routers
all:
  driver = accept
  transport = store
begin transports
store:
  driver = appendfile
  file = {directory}/mail/$message_exim_id.$pid
  user = Debian-exim
  group = Debian-exim
  create_file = anywhere
  use_crlf
  check_string =
  escape_string =
  message_prefix =
  message_suffix =
begin retry
* * F,1h,1m
"""


class Exim(Daemon):
    """Exim that stores every message in a file of its own; needs root, and libnss-wrapper when it is not installed.

    It delivers as another user, so the directories above must be open to others (not pytest's tmp_path).
    """

    def __init__(self, directory: Path, endpoint: str | None = None, certificate: Path | None = None) -> None:
        """`certificate`: a file with a key and certificates, for STARTTLS; None: not offered."""
        super().__init__(directory)
        self.endpoint = endpoint or free_endpoint()
        self.mail_dir = self.directory / "mail"
        self.certificate = certificate

    def __enter__(self) -> "Exim":
        program = require("exim4", "exim4-daemon-light")
        if os.geteuid():
            absent("Exim must be started by root")
        host, port = split_endpoint(self.endpoint)
        config = self.directory / "exim.conf"
        tls = "tls_advertise_hosts ="
        if self.certificate is not None:
            tls = f"tls_advertise_hosts = *\ntls_certificate = {self.certificate}"
        config.write_text(EXIM.format(program=program, directory=self.directory, host=host, port=port, tls=tls))
        for path in (self.directory / "spool", self.mail_dir):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        self.directory.chmod(0o755)
        self.spawn([program, "-C", str(config), "-bdf", "-q1m"], self._environment())
        wait_until(lambda: self.still_running() or accepts(host, port), 30, "Exim to listen")
        return self

    def _environment(self) -> dict[str, str]:
        """Its user "Debian-exim" exists only where it is installed; libnss-wrapper shows it one that is "nobody"."""
        env = dict(os.environ)
        folder = unpacked()
        wrappers = sorted(folder.glob("root/usr/lib/**/libnss_wrapper.so")) if folder else []
        if wrappers:
            users, groups = self.directory / "passwd", self.directory / "group"
            users.write_text("root:x:0:0::/:/bin/sh\nDebian-exim:x:65534:65534::/:/bin/false\n")
            groups.write_text("root:x:0:\nDebian-exim:x:65534:\n")
            env |= {"LD_PRELOAD": str(wrappers[0]), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": str(groups)}
        return env

    def mail(self) -> list[bytes]:
        """The contents delivered (CRLF line ends), Exim's own Received field on top."""
        return [path.read_bytes() for path in sorted(self.mail_dir.iterdir())]

    def log_text(self) -> str:
        return "".join(path.read_text() for path in sorted((self.directory / "spool").glob("*.log")))


KNOT = """\
server:
    rundir: "{directory}"
    listen: "{host}@{port}"
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{directory}/db"
log:
  - target: stderr
    any: info
zone:
{zones}
"""


class Knot(Daemon):
    """An authoritative DNS server with the zones it is given: {"d.example": ["@ MX 10 mx.d.example.", …]}."""

    def __init__(self, directory: Path, zones: Mapping[str, list[str]]) -> None:
        super().__init__(directory)
        self.zones = zones
        self.host = "127.0.0.1"
        self.port = free_port(self.host)

    @property
    def endpoint(self) -> str:
        return f"{self.host}:{self.port}"

    def __enter__(self) -> "Knot":
        program = require("knotd", "knot")
        lines = []
        for name, records in self.zones.items():
            soa = f"@ SOA ns.{name}. hostmaster.{name}. 1 3600 600 86400 60"
            text = "\n".join([f"$ORIGIN {name}.", "$TTL 300", soa, "@ NS ns", "ns A 127.0.0.1", *records, ""])
            path = self.directory / f"{name}.zone"
            path.write_text(text)
            lines.append(f"  - domain: {name}\n    file: {path}")
        config = self.directory / "knot.conf"
        config.write_text(KNOT.format(directory=self.directory, host=self.host, port=self.port, zones="\n".join(lines)))
        self.spawn([program, "-c", str(config)], os.environ)
        wait_until(lambda: self.still_running() or accepts(self.host, self.port), 30, "Knot DNS to listen")
        return self
