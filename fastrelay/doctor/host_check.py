"""Checks of this host: `clock`, `open_files`, `port_range`, `disk`, `secrets`."""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import os
import pwd
import resource
import stat
import tempfile

from fastrelay.clock import Clock
from fastrelay.config.checks import (
    REMOTE_FILE_SYSTEMS,
    VOLATILE_FILE_SYSTEMS,
    file_system_type,
    nearest_existing,
    open_files_needed,
)
from fastrelay.config.schema import Config
from fastrelay.config.units import format_size
from fastrelay.doctor import reasons
from fastrelay.doctor.findings import Finding, Severity
from fastrelay.doctor.look import Look

EARLIEST_YEAR = 2026  # this program is not older
LATEST_YEAR = 2100
MAX_CLOCK_ERROR_US = 5_000_000

SYNC_SECONDS = 0.5
SYNC_MOST = 500
SYNC_OCTETS = 4096
SLOW_SYNCS = 100.0  # a second; a disk that spins does about so many
SLOWEST_SYNCS = 20.0
LITTLE_ROOM = 4  # times spool.reserve

PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
RESERVED_PORTS = "/proc/sys/net/ipv4/ip_local_reserved_ports"


def _finding(check: str, severity: Severity, found: str, why: str = "", mend: str = "", *commands: str) -> Finding:
    return Finding(check=check, subject="host", severity=severity, found=found, why=why, mend=mend, commands=commands)


# --- clock ---


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    ]


_STA_UNSYNC = 0x40


def kernel_clock() -> tuple[bool, int] | None:
    """(synchronized, largest error in microseconds) as the kernel has it; None: it does not tell."""
    try:
        timex = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return not timex.status & _STA_UNSYNC and state != 5, int(timex.maxerror)


async def check_clock(look: Look) -> list[Finding]:
    """The year is sane, and something keeps the clock right."""
    year = datetime.datetime.fromtimestamp(look.wall, datetime.UTC).year
    if not EARLIEST_YEAR <= year <= LATEST_YEAR:
        return [
            _finding("clock", "error", f"the clock says {year}", reasons.CLOCK, "set it", "timedatectl set-ntp true")
        ]
    state = kernel_clock()
    if state is None:
        return [_finding("clock", "unknown", "could not tell: the kernel does not say whether the clock is kept")]
    synchronized, error = state
    if not synchronized or error > MAX_CLOCK_ERROR_US:
        found = "nothing keeps the clock right (the kernel calls it unsynchronized)"
        mend = "run an NTP client, here or on the machine that hosts this one"
        return [_finding("clock", "warning", found, reasons.CLOCK, mend, "timedatectl set-ntp true")]
    return [_finding("clock", "ok", f"synchronized, at most {error / 1e6:.2g} s off")]


# --- open files and ports ---


def open_files_limit(pid: int | None) -> int:
    """The hard limit of the running relay, or else of this process; -1: none."""
    if pid is not None:
        try:
            with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
                for line in limits:
                    if line.startswith("Max open files"):
                        word = line.split()[4]
                        return -1 if word == "unlimited" else int(word)
        except (OSError, ValueError, IndexError):
            pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def check_open_files(look: Look) -> list[Finding]:
    """Descriptors for every connection that the configuration allows."""
    pid = look.relay.get("pid")
    limit = open_files_limit(pid)
    needed = open_files_needed(look.config)
    whose = "the running relay" if pid else "this shell"
    if limit == -1 or limit >= needed:
        shown = "no limit" if limit == -1 else f"{limit:,}"
        return [_finding("open_files", "ok", f"{shown} for {whose}, {needed:,} needed at most")]
    found = (
        f"{whose} may have {limit:,} open files, and limits.smtp_connections and delivery.connections need {needed:,}"
    )
    mend = f"write LimitNOFILE={needed} into the unit file (or ulimit -n), or lower the two"
    return [_finding("open_files", "warning", found, reasons.OPEN_FILES, mend)]


async def check_port_range(look: Look) -> list[Finding]:
    """Local ports for connections to one MX host by one source, and none of them a listener's."""
    try:
        with open(PORT_RANGE, encoding="ascii") as file:
            first, last = (int(word) for word in file.read().split())
    except (OSError, ValueError):
        return [_finding("port_range", "unknown", f"could not tell: {PORT_RANGE} cannot be read")]
    config = look.config
    count = last - first + 1
    needed = -(-config.delivery.connections // max(1, len(config.sources)))
    if count < needed:
        found = f"{count:,} local ports ({first} to {last}), and delivery.connections may need {needed:,} by one source"
        mend = "widen it, or add sources; deploy/sysctl/fastrelay.conf has this and more"
        command = 'sysctl -w net.ipv4.ip_local_port_range="1024 65535"'
        return [_finding("port_range", "warning", found, reasons.PORT_RANGE, mend, command)]
    reserved = _reserved()
    ours = [*config.listeners.smtp, *([config.listeners.metrics] if config.listeners.metrics else [])]
    free = sorted({one.address[1] for one in ours} - reserved)
    exposed = [port for port in free if first <= port <= last]
    if exposed:
        shown = (
            ",".join(map(str, sorted(reserved | set(exposed)))) if len(reserved) < 100 else ",".join(map(str, exposed))
        )
        found = f"{first} to {last}, in which lies a listener ({', '.join(map(str, exposed))})"
        why = "an outgoing connection may hold the port when the relay starts, which then cannot listen"
        command = f"sysctl -w net.ipv4.ip_local_reserved_ports={shown}"
        return [_finding("port_range", "note", found, why, "reserve it", command)]
    return [_finding("port_range", "ok", f"{count:,} local ports ({first} to {last}), {needed:,} needed at most")]


def _reserved() -> set[int]:
    try:
        with open(RESERVED_PORTS, encoding="ascii") as file:
            words = file.read().strip().split(",")
        ports: set[int] = set()
        for word in words:
            first, _, last = word.partition("-")
            if first:
                ports.update(range(int(first), int(last or first) + 1))
        return ports
    except (OSError, ValueError):
        return set()


# --- disk ---


def sync_rate(folder: str, clock: Clock, seconds: float = SYNC_SECONDS) -> float:
    """fdatasyncs a second of a small append, as a commit does them. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        descriptor, octets = file.fileno(), b"\0" * SYNC_OCTETS
        os.write(descriptor, octets)
        os.fdatasync(descriptor)
        began = clock.monotonic()
        count = 0
        while count < SYNC_MOST:
            os.write(descriptor, octets)
            os.fdatasync(descriptor)
            count += 1
            if clock.monotonic() - began >= seconds:
                break
        return count / max(clock.monotonic() - began, 1e-9)


async def check_disk(look: Look, clock: Clock) -> list[Finding]:
    """Kind, room and sync rate of the disk that holds state_dir."""
    state_dir = look.config.state_dir
    folder = nearest_existing(state_dir)
    kind = file_system_type(folder)
    found = []
    if kind in VOLATILE_FILE_SYSTEMS or kind in REMOTE_FILE_SYSTEMS:
        lost = "is gone when this host restarts" if kind in VOLATILE_FILE_SYSTEMS else "is not on this host"
        words = f"{state_dir} is on {kind}, which {lost}"
        found.append(_finding("disk", "error", words, reasons.DISK_KIND, "let state_dir be on a local disk"))
    found += _room(look.config, folder)
    try:
        rate = await asyncio.to_thread(sync_rate, folder, clock)
    except OSError as error:
        words = f"could not tell how fast it syncs: {folder} cannot be written ({os.strerror(error.errno or 0)})"
        return [*found, _finding("disk", "unknown", words, mend="run the doctor as the relay's user, or as root")]
    if rate < SLOW_SYNCS:
        severity: Severity = "error" if rate < SLOWEST_SYNCS else "warning"
        words = f"{rate:,.0f} syncs a second at {folder} ({kind})"
        mend = "use an SSD, or a controller with a write cache that survives power loss"
        return [*found, _finding("disk", severity, words, reasons.DISK_SPEED, mend)]
    return [*found, _finding("disk", "ok", f"{rate:,.0f} syncs a second at {folder} ({kind or 'unknown kind'})")]


def _room(config: Config, folder: str) -> list[Finding]:
    try:
        room = os.statvfs(folder)
    except OSError:
        return []
    free = room.f_bavail * room.f_frsize
    reserve = config.spool.reserve_bytes
    shown = format_size(free >> 20 << 20)
    if free <= reserve:
        words = f"{shown} free, below spool.reserve ({format_size(reserve)}): new mail is refused"
        return [_finding("disk", "error", words, reasons.DISK_ROOM, "make room, or lower spool.reserve")]
    if free < LITTLE_ROOM * reserve:
        words = f"{shown} free, little above spool.reserve ({format_size(reserve)})"
        return [_finding("disk", "warning", words, reasons.DISK_ROOM, "make room")]
    inodes = room.f_favail
    if room.f_files and inodes < 1000:
        return [_finding("disk", "warning", f"{inodes} inodes free", reasons.DISK_ROOM, "remove small files")]
    return []


# --- files that hold secrets ---


def secret_files(config: Config) -> list[tuple[str, str]]:
    """(key of the configuration, path) of every file that nobody else may read."""
    files = [(f"dkim.keys[{at}].key", key.key) for at, key in enumerate(config.dkim.keys)]
    files += [("tls.key", config.tls.key or config.tls.certificate or ""), ("auth.users", config.auth.users or "")]
    files += [(f"routes[{at}].password_file", route.password_file or "") for at, route in enumerate(config.routes)]
    made = os.path.join(config.state_dir, "reference.key")
    reference = config.compose.reference_key or (made if os.path.exists(made) else "")
    return [(key, path) for key, path in [*files, ("compose.reference_key", reference)] if path]


async def check_secrets(look: Look) -> list[Finding]:
    """Modes and owners of the files with private keys and passwords."""
    files = secret_files(look.config)
    found = [finding for key, path in files for finding in _secret(look.config, key, path)]
    if found or not files:
        return found
    return [_finding("secrets", "ok", f"{len(files)} file{'s' if len(files) > 1 else ''}, for the owner's eyes only")]


def _secret(config: Config, key: str, path: str) -> list[Finding]:
    try:
        status = os.stat(path)
    except OSError as error:
        words = f"{key}: {path} cannot be looked at ({os.strerror(error.errno or 0)})"
        mend = "correct the name, or run the doctor as the relay's user"
        return [_finding("secrets", "warning", words, reasons.SECRETS, mend)]
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o037:
        words = f"{key}: {path} has mode {mode:04o}, so others than its owner can read or write it"
        return [_finding("secrets", "error", words, reasons.SECRETS, "take it from them", f"chmod 0600 {path}")]
    owner = _user(config)
    if status.st_uid not in (0, owner):
        words = f"{key}: {path} belongs to {_name(status.st_uid)}, who is not the relay's user ({_name(owner)})"
        return [_finding("secrets", "warning", words, reasons.SECRETS, "give it back", f"chown {_name(owner)} {path}")]
    return []


def _user(config: Config) -> int:
    """The user that the relay runs as: run_as, or the owner of its state directory."""
    if config.run_as.user:
        try:
            return pwd.getpwnam(config.run_as.user).pw_uid
        except KeyError:
            pass
    try:
        return os.stat(config.state_dir).st_uid
    except OSError:
        return os.getuid()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
