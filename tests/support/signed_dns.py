"""DNS with DNSSEC: Knot DNS signs zones, Unbound validates what it says. Both in the foreground, on loopback.

    with SignedDns(folder, {"test": TEXT, …}) as dns: ...      # dns.nameserver is the validating resolver

`test.` is signed, and its key is the resolver's trust anchor. `insecure.test.` is delegated without a DS record, so
that nothing there is validated; `bogus.test.` is signed with a DS record that does not fit, so that its answers are
SERVFAIL.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
from support.net import free_endpoint, split_endpoint, wait_until
from support.peers import Daemon, require

PATIENCE_SECONDS = 60.0

KNOT = """
server:
    rundir: "{folder}"
    listen: [ "{endpoint}" ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: "{folder}"
policy:
  - id: quick
    algorithm: ecdsap256sha256
    single-type-signing: on
zone:
{zones}
"""
ZONE = """\
  - domain: {name}
    storage: "{folder}"
    file: {name}.zone
    zonefile-sync: -1
    journal-content: none
    dnssec-signing: {signed}
    dnssec-policy: quick
"""
HEAD = """\
$ORIGIN {name}.
$TTL 60
@   IN SOA ns postmaster 1 3600 600 86400 60
@   IN NS ns
ns  IN A 127.0.0.1
"""
DELEGATIONS = """
insecure IN NS ns.insecure
ns.insecure IN A 127.0.0.1
bogus IN NS ns.bogus
ns.bogus IN A 127.0.0.1
bogus IN DS 12345 13 2 {digest}
"""
UNBOUND = """
server:
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: "{folder}/unbound.pid"
    use-syslog: no
    logfile: ""
    interface: {endpoint}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    do-ip6: no
    num-threads: 1
    module-config: "validator iterator"
    local-zone: "test." nodefault
    trust-anchor: "{anchor}"
    val-log-level: 2
    cache-max-negative-ttl: 1
    cache-max-ttl: 1
    serve-expired: no
    so-reuseport: no
    extended-statistics: no
remote-control:
    control-enable: no
{stubs}
"""
STUB = """
stub-zone:
    name: "{name}."
    stub-addr: {endpoint}
    stub-no-cache: yes
"""


class SignedDns:
    """Both daemons. `zones`: the records of test., insecure.test. and bogus.test., without SOA and NS."""

    def __init__(self, folder: Path, zones: dict[str, str]) -> None:
        self.zones = zones
        self.authority = free_endpoint()  # Knot: signed, and nothing is validated
        self.nameserver = free_endpoint()  # Unbound
        self._knot = Daemon(folder / "knot")
        self._unbound = Daemon(folder / "unbound")

    def __enter__(self) -> SignedDns:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._start_knot()
            self._start_unbound()
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        for daemon in (self._unbound, self._knot):
            if daemon.process is not None:
                daemon.stop()

    def _start_knot(self) -> None:
        program = require("knotd", "knot")
        folder = self._knot.directory
        described = ""
        for name, records in self.zones.items():
            text = HEAD.format(name=name) + (DELEGATIONS.format(digest="A" * 64) if name == "test" else "") + records
            (folder / f"{name}.zone").write_text(text)
            described += ZONE.format(name=name, folder=folder, signed="off" if name.startswith("insecure") else "on")
        (folder / "knot.conf").write_text(KNOT.format(folder=folder, endpoint=_at(self.authority), zones=described))
        self._knot.spawn([program, "-c", str(folder / "knot.conf")], os.environ)
        for name in self.zones:
            kind = "SOA" if name.startswith("insecure") else "DNSKEY"
            wait_until(lambda n=name, k=kind: self._answered(n, k), PATIENCE_SECONDS, f"Knot to serve {name}")

    def _answered(self, name: str, rdtype: str) -> str:
        """The data of the first record, asked of Knot."""
        self._knot.still_running()
        message = ask(self.authority, name, rdtype)
        if message is None or not message.answer or not message.answer[0]:
            return ""
        return str(message.answer[0][0])

    def _start_unbound(self) -> None:
        program = require("unbound")
        folder = self._unbound.directory
        anchor = f"test. DNSKEY {self._answered('test', 'DNSKEY')}"
        stubs = "".join(STUB.format(name=name, endpoint=_at(self.authority)) for name in self.zones)
        (folder / "unbound.conf").write_text(
            UNBOUND.format(folder=folder, endpoint=_at(self.nameserver), anchor=anchor, stubs=stubs)
        )
        self._unbound.spawn([program, "-d", "-c", str(folder / "unbound.conf")], os.environ)
        wait_until(self._validates, PATIENCE_SECONDS, "Unbound to validate")

    def _validates(self) -> bool:
        self._unbound.still_running()
        message = ask(self.nameserver, "test", "SOA")
        return message is not None and bool(message.flags & dns.flags.AD)

    def log(self) -> str:
        """What both said, for a test that fails."""
        return self._knot.log_path.read_text() + self._unbound.log_path.read_text()


def _at(endpoint: str) -> str:
    """As both write it: address@port."""
    return endpoint.replace(":", "@")


def ask(endpoint: str, name: str, rdtype: str) -> dns.message.Message | None:
    """An answer over TCP; None while nobody gives one."""
    host, port = split_endpoint(endpoint)
    query = dns.message.make_query(name, rdtype)
    query.flags |= dns.flags.AD
    try:
        return dns.query.tcp(query, host, port=port, timeout=5)
    except (OSError, EOFError, dns.exception.DNSException):
        return None
