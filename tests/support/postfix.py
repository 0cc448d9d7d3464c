"""A private Postfix below a directory of its own, on loopback ports above 1024, with Debian's defaults.

Nothing of the system's Postfix configuration is read or changed. Postfix wants to be started by root and to run
as its own user "postfix"; `missing()` says in words why it cannot be used here, or None.

    with PostfixInstance(directory, relay_to="127.0.0.1:2526") as postfix: ...   # relays everything to a smart host
    with PostfixInstance(directory, domains=["d.example"]) as postfix: ...       # takes mail into a maildir

The directory and those above it must be open to other users (not pytest's tmp_path): most of it runs as "postfix".
Known fault: Debian's Postfix has its programs in fixed places; no other prefix is supported.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from support.net import free_endpoint, split_endpoint, wait_until
from support.relay import alive, descendants

DAEMONS = Path("/usr/lib/postfix/sbin")

MASTER = """\
{smtp}      inet  n       -       n       -       -       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""


def missing() -> str | None:
    """Why a private Postfix cannot run here (a sentence), or None if it can."""
    if not (DAEMONS / "master").exists() or not shutil.which("postfix", path="/usr/sbin:/usr/bin"):
        return "Postfix is not installed (Debian package postfix)"
    if os.geteuid() != 0:
        return "Postfix must be started by root"
    return None


class PostfixInstance:
    """One instance; a context manager. `endpoint` is its SMTP listener, `mail_dir` holds its one maildir."""

    def __init__(
        self,
        directory: Path,
        *,
        relay_to: str | None = None,
        domains: Iterable[str] = (),
        endpoint: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.endpoint = endpoint or free_endpoint()
        self.mail_dir = self.directory / "mail"
        self.log_path = self.directory / "mail.log"
        self.master_pid = 0
        self._write(relay_to, list(domains), settings or {})

    def _write(self, relay_to: str | None, domains: list[str], settings: dict[str, str]) -> None:
        etc = self.directory / "etc"
        for path in (etc, self.directory / "queue", self.mail_dir):
            path.mkdir(parents=True, exist_ok=True)
        owner = pwd.getpwnam("postfix")
        for path, mode in ((self.directory / "data", 0o700), (self.mail_dir, 0o755)):
            path.mkdir(exist_ok=True)
            os.chown(path, owner.pw_uid, owner.pw_gid)
            path.chmod(mode)
        self.directory.chmod(0o755)
        main = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.directory / "queue"), "data_directory": str(self.directory / "data"),
            "command_directory": "/usr/sbin", "daemon_directory": str(DAEMONS), "mail_owner": "postfix",
            "setgid_group": "postdrop", "maillog_file": str(self.log_path),
            "maillog_file_prefixes": str(self.directory), "myhostname": "postfix.test", "mydestination": "",
            "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4", "mynetworks": "127.0.0.0/8", "alias_maps": "",
            "alias_database": "", "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        }
        if relay_to is not None:
            to_host, to_port = split_endpoint(relay_to)
            main["relayhost"] = f"[{to_host}]:{to_port}"
        if domains:
            main |= {
                "virtual_mailbox_domains": " ".join(domains), "virtual_mailbox_base": str(self.mail_dir),
                "virtual_mailbox_maps": "static:all/", "virtual_mailbox_limit": "0", "message_size_limit": "0",
                "local_header_rewrite_clients": "",
                "virtual_uid_maps": f"static:{owner.pw_uid}", "virtual_gid_maps": f"static:{owner.pw_gid}",
            }
        main |= settings
        (etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main.items()))
        (etc / "master.cf").write_text(MASTER.format(smtp=self.endpoint))

    def _postfix(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/sbin/postfix", "-c", str(self.directory / "etc"), *words],
            capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        )

    def start(self) -> "PostfixInstance":
        done = self._postfix("start")
        if done.returncode:
            raise RuntimeError(f"Postfix did not start: {done.stdout}{done.stderr}{self.log_tail()}")
        pid_file = self.directory / "queue" / "pid" / "master.pid"
        written = wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), 30, "Postfix")
        self.master_pid = int(str(written))
        return self

    def stop(self) -> None:
        if not self.master_pid:
            return
        everything = self.pids()
        self._postfix("stop")
        for pid in everything:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        wait_until(lambda: not any(alive(pid) for pid in everything), 60, "Postfix to end")
        self.master_pid = 0

    def __enter__(self) -> "PostfixInstance":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"---- end of {self.log_path}\n{self.log_tail()}")
        self.stop()

    def pids(self) -> list[int]:
        return [self.master_pid, *descendants(self.master_pid)]

    def queued(self) -> int:
        """Messages in any queue (files of incoming, active, deferred, maildrop)."""
        queue = self.directory / "queue"
        return sum(
            len(files) for name in ("maildrop", "incoming", "active", "deferred")
            for _, _, files in os.walk(queue / name)
        )

    def mail(self) -> list[bytes]:
        """What was delivered, as stored: LF line ends, Postfix's own fields on top."""
        box = self.mail_dir / "all" / "new"
        return [path.read_bytes() for path in sorted(box.iterdir())] if box.exists() else []

    def log_tail(self, lines: int = 40) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
