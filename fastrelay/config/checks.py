"""Can this host run this configuration? Source addresses, ports, the state directory, open files.

`fastrelay check` shows the findings and the supervisor refuses to start on them. A finding is a ConfigProblem, so that
both kinds print alike. Nothing is changed on the host: sockets are bound and closed, files are only looked at.

Known faults: with net.ipv4.ip_nonlocal_bind=1 any source address passes. Permissions are those of the user who asks,
which for `check` may not be the user who runs the relay.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastrelay.clock import RealClock
from fastrelay.config.schema import Config, Listener
from fastrelay.config.templates import uses_reference
from fastrelay.config.units import format_size
from fastrelay.errors import ConfigError, ConfigProblem, FastrelayError, HostError

# Descriptors of a worker beside its connections: LMDB, segments, logs, the control channel, DNS, spares for the spool.
DESCRIPTORS_BESIDE_CONNECTIONS = 256

VOLATILE_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
REMOTE_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs"}


@dataclass(slots=True)
class HostFindings:
    """What is wrong on this host (problems) and what is unwise (warnings)."""

    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[ConfigProblem] = field(default_factory=list)


class HostCheck:
    """One examination of this host."""

    def __init__(self, config: Config, file: str, lines: Mapping[str, int] | None = None) -> None:
        self.config = config
        self.file = file
        self.lines = lines or {}
        self.findings = HostFindings()

    def problem(self, path: str, problem: str, mend: str) -> None:
        self.findings.problems.append(ConfigProblem(self.file, self.lines.get(path, 0), path, problem, mend))

    def warn(self, path: str, problem: str, mend: str) -> None:
        self.findings.warnings.append(ConfigProblem(self.file, self.lines.get(path, 0), path, problem, mend))

    def check_sources(self) -> None:
        """Every source address is one of this host's (a bind test)."""
        for index, source in enumerate(self.config.sources):
            error = bind_error(source.address, 0)
            if error is None:
                continue
            path = f"sources[{index}].address"
            if error in (errno.EADDRNOTAVAIL, errno.EINVAL):
                prefix = 32 if "." in source.address else 128
                self.problem(
                    path,
                    f"this host does not have the address {source.address} of source {source.name!r}",
                    f"add it (ip address add {source.address}/{prefix} dev …) or write one that it has"
                    f"{_listed(host_addresses(6 if prefix == 128 else 4))}",
                )
            elif error == errno.EAFNOSUPPORT:
                self.problem(path, f"this host has no IPv6, so {source.address} cannot be used", "remove the source")
            else:
                self.problem(path, f"{source.address} cannot be sent from ({os.strerror(error)})", "check the address")

    def check_listeners(self) -> None:
        """Every listener's address and port is free for us."""
        listeners = self.config.listeners.smtp
        named: list[tuple[str, Listener]] = [(f"listeners.smtp[{n}]", one) for n, one in enumerate(listeners)]
        if self.config.listeners.metrics is not None:
            named.append(("listeners.metrics", self.config.listeners.metrics))
        for section, listener in named:
            host, port = listener.address
            error = bind_error(host, port)
            path = f"{section}.bind"
            if error == errno.EADDRINUSE:
                self.problem(
                    path,
                    f"port {port} at {host} is in use by another program",
                    f"stop it (ss -ltnp 'sport = :{port}' names it) or choose another port",
                )
            elif error == errno.EACCES:
                self.problem(
                    path,
                    f"port {port} is below 1024 and this user may not listen there",
                    "give the service CAP_NET_BIND_SERVICE, or choose a port above 1023",
                )
            elif error == errno.EADDRNOTAVAIL:
                version = ipaddress.ip_address(host).version
                self.problem(
                    path,
                    f"this host does not have the address {host}",
                    f"write an address that it has{_listed(host_addresses(version))}",
                )
            elif error is not None:
                self.problem(path, f"cannot listen at {listener.bind} ({os.strerror(error)})", "check the address")

    def check_state_dir(self) -> None:
        """The state directory can be read and written, lies on a real disk, and has room."""
        state_dir = self.config.state_dir
        there = nearest_existing(state_dir)
        if there != state_dir:
            if not os.path.isdir(there):
                self.problem("state_dir", f"{there} is not a directory", "name another folder")
            elif not os.access(there, os.W_OK | os.X_OK):
                self.problem(
                    "state_dir",
                    f"{state_dir} does not exist, and this user may not create it in {there}",
                    f"create it for the user that runs fastrelay: install -d -o USER -m 0750 {state_dir}",
                )
        elif not os.path.isdir(state_dir):
            self.problem("state_dir", f"{state_dir} is a file, not a directory", "name a folder")
        elif not os.access(state_dir, os.R_OK | os.W_OK | os.X_OK):
            self.problem(
                "state_dir",
                f"{state_dir} cannot be read and written by this user",
                f"run as the user that owns it, or give it away: chown -R USER {state_dir}",
            )
        self._check_file_system(there)

    def _check_file_system(self, there: str) -> None:
        kind = file_system_type(there)
        if kind in VOLATILE_FILE_SYSTEMS:
            self.warn("state_dir", f"is on {kind}, so accepted mail is lost when this host restarts", "use a disk")
        elif kind in REMOTE_FILE_SYSTEMS:
            self.warn(
                "state_dir",
                f"is on {kind}; a memory-mapped store is not safe on a network file system",
                "use a local disk",
            )
        try:
            room = os.statvfs(there)
        except OSError:
            return
        free = room.f_bavail * room.f_frsize
        kept = self.config.spool.reserve_bytes + self.config.spool.ballast_bytes
        if free < kept:
            self.warn(
                "spool.reserve",
                f"and spool.ballast are {format_size(kept)}, but the disk of state_dir has "
                f"{format_size(free >> 20 << 20)} free, so mail will be refused with 452",
                "make room, or lower spool.reserve",
            )

    def check_dkim_keys(self) -> None:
        """Every DKIM key can be read, works, and is kept from others."""
        if not self.config.dkim.keys:
            return
        from fastrelay.dkim.keys import Keyring

        for found in Keyring(self.config.dkim).load():
            (self.warn if found.warning else self.problem)(found.path, found.problem, found.mend)

    def check_reference_key(self) -> None:
        """The key of our references can be read, where it is there already, or was named."""
        from fastrelay.feedback.reference import KEY_FILE, KeyFileError, read_key

        compose = self.config.compose
        if not uses_reference(compose):
            return
        path = compose.reference_key or os.path.join(self.config.state_dir, KEY_FILE)
        try:
            if compose.reference_key or os.path.exists(path):
                read_key(path)
        except KeyFileError as error:
            mend = "make one: umask 077; openssl rand -hex 32 > FILE" if not os.path.exists(path) else "check the file"
            self.problem("compose.reference_key", str(error), mend)

    def check_certificate(self) -> None:
        """The certificate that clients see, and its key, can be used."""
        from fastrelay.tls.server import SOON_SECONDS, CertificateFault, load

        tls, wall = self.config.tls, RealClock().wall()
        if tls.certificate is None:
            return
        try:
            days = (load(tls, wall).expires - wall) / 86400
        except CertificateFault as fault:
            self.problem(fault.key, fault.problem, fault.mend)
            return
        if days * 86400 < SOON_SECONDS:
            self.warn("tls.certificate", f"expires in {days:.1f} days", "renew it; a new file is taken over by itself")
        path, key = ("tls.key", tls.key) if tls.key else ("tls.certificate", tls.certificate)
        if os.stat(key).st_mode & 0o004:
            self.warn(path, "holds a private key, and every user of this host may read it", f"chmod o= {key}")

    def check_users(self) -> None:
        """The users file can be read, is sound, and is kept from others."""
        path = self.config.auth.users
        if path is None:
            return
        from fastrelay.ingest.users import mode_problem, read_users

        wrong = mode_problem(path)
        if wrong is not None:
            self.problem("auth.users", f"{path} {wrong}", f"chmod 600 {path}")
        try:
            users = read_users(path)
        except ConfigError as error:
            self.findings.problems += error.problems
            return
        pools = {"default", *self.config.pools}
        for name, account in users.accounts.items():
            if account.mail.pool is not None and account.mail.pool not in pools:
                self.warn(
                    "auth.users",
                    f"user {name} of {path} has the pool {account.mail.pool!r}, which is none: the mail is refused",
                    f"fastrelay user set {name} --pool NAME; the pools are {', '.join(sorted(pools))}",
                )

    def check_outbound_files(self) -> None:
        """The CAs for MX hosts and the passwords for smart hosts can be read; passwords are kept from others."""
        ca_file = self.config.tls.outbound.ca_file
        if ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
            except OSError as error:  # ssl.SSLError too
                why = (
                    error.strerror if error.strerror and not isinstance(error, ssl.SSLError) else "no certificate in it"
                )
                self.problem("tls.outbound.ca_file", f"{ca_file} can't be used: {why}", "name a PEM file of CAs")
        for index, route in enumerate(self.config.routes):
            path, name = f"routes[{index}].password_file", route.password_file
            if name is None:
                continue
            try:
                with open(name, "rb") as file:
                    empty = not file.readline(4096).strip()
            except OSError as error:
                self.problem(
                    path, f"{name} can't be read: {error.strerror}", "create it, with the password alone in it"
                )
                continue
            if empty:
                self.problem(path, f"{name} has no password in its first line", "write the password into it")
            if os.stat(name).st_mode & 0o004:
                self.warn(path, f"every user of this host may read {name}", f"chmod o= {name}")

    def check_webhooks(self) -> None:
        """Secrets of webhooks can be read and used, and are kept from others; their CAs are CAs."""
        if not self.config.events.webhooks:
            return
        from fastrelay.feedback.hook_post import read_secrets

        for index, hook in enumerate(self.config.events.webhooks):
            path = f"events.webhooks[{index}]"
            try:
                read_secrets(hook)
            except OSError as error:
                mend = "create it, readable for the relay (openssl rand -base64 32 makes a secret)"
                self.problem(path, f"{error.filename} can't be read: {error.strerror}", mend)
            except (FastrelayError, UnicodeDecodeError) as error:
                words = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                self.problem(path, f"{hook.secret_file or hook.password_file} {words}", "put a sound one there")
            for key, name in (("secret_file", hook.secret_file), ("password_file", hook.password_file)):
                if name is not None and os.path.exists(name) and os.stat(name).st_mode & 0o004:
                    self.warn(f"{path}.{key}", f"every user of this host may read {name}", f"chmod o= {name}")
            if hook.ca_file is not None:
                try:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(hook.ca_file)
                except OSError as error:  # ssl.SSLError too
                    why = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
                    self.problem(f"{path}.ca_file", f"{hook.ca_file} can't be used: {why}", "name a PEM file of CAs")

    def check_unsubscribe_pages(self) -> None:
        """The operator's pages can be read, and the first one has the form."""
        for name in ("page", "done_page"):
            path = getattr(self.config.unsubscribe, name)
            if path is None:
                continue
            from fastrelay.feedback.unsubscribe_page import read_page

            try:
                text = read_page(path)
            except (OSError, ValueError) as error:
                why = f"can't be read: {error.strerror}" if isinstance(error, OSError) else str(error)
                self.problem(f"unsubscribe.{name}", f"{path} {why}", "name an HTML file, or leave it out")
                continue
            if name == "page" and "{form}" not in text:
                self.problem("unsubscribe.page", f"{path} has no {{form}}: no button", "write {form} in it")

    def check_run_as(self) -> None:
        """The user and group that the relay becomes are there."""
        from fastrelay.admin.privileges import identity

        run_as = self.config.run_as
        if run_as.user is None:
            return
        try:
            identity(run_as.user, run_as.group)
        except LookupError as error:
            mend = "create it (useradd --system --shell /usr/sbin/nologin NAME), or name another"
            self.problem("run_as.group" if "group" in str(error) else "run_as.user", str(error), mend)

    def check_open_files(self) -> None:
        """The open-file limit is above what the connections need."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        needed = open_files_needed(self.config)
        if hard != resource.RLIM_INFINITY and hard < needed:
            self.warn(
                "delivery.connections",
                f"the open-file limit is {hard}, but limits.smtp_connections and delivery.connections need {needed}",
                f"raise it (LimitNOFILE={needed} in the unit file, ulimit -n in a shell) or lower the two",
            )

    def check_workers(self) -> None:
        cores = len(os.sched_getaffinity(0))
        if self.config.worker_count > 2 * cores:
            self.warn("workers", f"is {self.config.worker_count}, but there are {cores} cores", "write auto")


def check_host(
    config: Config, file: str, lines: Mapping[str, int] | None = None, listeners: bool = True
) -> HostFindings:
    """Examine this host. listeners=False: leave the ports out, which a relay that runs already holds rightly."""
    check = HostCheck(config, file, lines)
    check.check_state_dir()
    check.check_sources()
    if listeners:
        check.check_listeners()
    check.check_dkim_keys()
    check.check_reference_key()
    check.check_unsubscribe_pages()
    check.check_certificate()
    check.check_users()
    check.check_outbound_files()
    check.check_webhooks()
    check.check_run_as()
    check.check_open_files()
    check.check_workers()
    return check.findings


def require_host(config: Config, file: str, lines: Mapping[str, int] | None = None) -> list[ConfigProblem]:
    """For a start: the warnings, or HostError if this host cannot run the configuration."""
    findings = check_host(config, file, lines)
    if findings.problems:
        raise HostError(findings.problems)
    return findings.warnings


def open_files_needed(config: Config) -> int:
    """Descriptors that one worker may need if every connection there may be is its own."""
    return config.limits.smtp_connections + config.delivery.connections + DESCRIPTORS_BESIDE_CONNECTIONS


def bind_error(host: str, port: int) -> int | None:
    """errno of binding a TCP socket there, None if it works. A port that has a listener is in use (EADDRINUSE)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or errno.EINVAL
    return None


def nearest_existing(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    while not os.path.lexists(path):
        above = os.path.dirname(path)
        if above == path:
            break
        path = above
    return path


def file_system_type(path: str) -> str:
    """Type of the file system that holds a path, as /proc/self/mounts names it; "" if unknown."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for mount in mounts:
                fields = mount.split(" ")
                if len(fields) < 3:
                    continue
                point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                within = real == point or real.startswith(point.rstrip("/") + "/")
                if within and len(point) >= len(best):
                    best, kind = point, fields[2]
    except OSError:
        return ""
    return kind


def host_addresses(version: int) -> list[str]:
    """This host's addresses of an IP version, without loopback ones, from /proc; empty where /proc does not tell."""
    found: list[str] = []
    try:
        if version == 6:
            with open("/proc/net/if_inet6", encoding="ascii") as table:
                found = [str(ipaddress.IPv6Address(int(row.split()[0], 16))) for row in table]
        else:
            with open("/proc/net/fib_trie", encoding="ascii") as table:
                above = ""
                for row in table:
                    if "/32 host LOCAL" in row:
                        found.append(above.split()[-1])
                    above = row
    except (OSError, ValueError, IndexError):
        return []
    usable = {address for address in found if not ipaddress.ip_address(address).is_loopback}
    return sorted((address for address in usable if not ipaddress.ip_address(address).is_link_local), key=_by_number)


def _by_number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def _listed(addresses: list[str]) -> str:
    """`: 192.0.2.1, 192.0.2.2 and 5 more`, or nothing."""
    if not addresses:
        return ""
    more = f" and {len(addresses) - 5} more" if len(addresses) > 5 else ""
    return ": " + ", ".join(addresses[:5]) + more
