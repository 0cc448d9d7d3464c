"""Verifiers of DKIM that are not ours: opendkim, opendkim-testmsg, Mail::DKIM and rspamd, each asking a DNS of ours.

Each answers a verdict of its own words by selector for a message: `pass` where it verified.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from support.net import free_port, wait_until
from support.peers import Daemon, absent, accepts, require, unpacked
from support.served_dns import ServedDns

SECONDS = 120  # for one run of a peer on a busy machine

OPENDKIM_CONF = "Mode v\nResolverConfiguration {folder}/unbound.conf\nTemporaryDirectory {folder}\n"
UNBOUND_CONF = """\
server:
    do-not-query-localhost: no
    module-config: "iterator"
forward-zone:
    name: "."
    forward-addr: {host}@{port}
"""


def opendkim(folder: Path, dns: ServedDns, messages: Sequence[Path]) -> list[dict[str, str]]:
    """What opendkim's milter would write into Authentication-Results: {selector: result} of each message."""
    program = require("opendkim")
    (folder / "unbound.conf").write_text(UNBOUND_CONF.format(host=dns.server.host, port=dns.server.port))
    (folder / "opendkim.conf").write_text(OPENDKIM_CONF.format(folder=folder))
    found = []
    for message in messages:
        command = [program, "-vv", "-x", str(folder / "opendkim.conf"), "-t", str(message)]
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, text=True)
        assert "INSHEADER" in done.stdout, done.stdout + done.stderr
        results = re.findall(r"dkim=(\w+)(?:(?!dkim=).)*? header\.s=(\S+)", done.stdout, re.DOTALL)
        found.append({selector: result for result, selector in results})
    return found


def resolv_wrapper() -> str:
    """The library that makes the C resolver ask a nameserver of ours (Debian package libresolv-wrapper)."""
    folder = unpacked()
    places = sorted((folder / "root").glob("usr/lib/*/libresolv_wrapper.so")) if folder else []
    places += sorted(Path("/usr/lib").glob("*/libresolv_wrapper.so"))
    if not places:
        absent("libresolv_wrapper.so is not here (Debian package libresolv-wrapper; tests/run fetches it)")
    return str(places[0])


def opendkim_testmsg(folder: Path, dns: ServedDns, message: Path) -> str:
    """ "" if every signature is good, else its words. `dns` must listen at port 53."""
    program = require("opendkim-testmsg", "opendkim-tools")
    (folder / "resolv.conf").write_text(f"nameserver {dns.server.host}\n")
    env = {**os.environ, "LD_PRELOAD": resolv_wrapper(), "RESOLV_WRAPPER_CONF": str(folder / "resolv.conf")}
    command = [program, "-C", "-t", str(folder)]
    with message.open("rb") as octets:
        done = subprocess.run(command, stdin=octets, capture_output=True, timeout=SECONDS, env=env, text=True)
    assert (done.returncode == 0) == (not done.stderr), (done.returncode, done.stderr)
    return done.stderr


PERL = """\
use strict; use warnings;
use Net::DNS::Resolver;
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;
my ($address, $port, @files) = @ARGV;
Mail::DKIM::DNS::resolver(Net::DNS::Resolver->new(nameservers => [$address], port => $port, recurse => 1));
for my $file (@files) {
    my $verifier = Mail::DKIM::Verifier->new();
    open my $message, "<:raw", $file or die "$file: $!";
    while (read $message, my $octets, 4096) { $verifier->PRINT($octets); }
    $verifier->CLOSE;
    print join("\\t", map { $_->selector . "=" . $_->result_detail } $verifier->signatures), "\\n";
}
"""


def mail_dkim(folder: Path, dns: ServedDns, messages: Sequence[Path]) -> list[dict[str, str]]:
    """What Mail::DKIM says: {selector: result} of each message."""
    perl = shutil.which("perl")
    if perl is None:
        absent("perl is not here")
    script = folder / "verify.pl"
    script.write_text(PERL)
    env = dict(os.environ)
    peers = unpacked()
    if peers is not None:
        root = peers / "root" / "usr"
        shelves = [
            root / "share/perl5",
            *root.glob("lib/*/perl5/*"),
            *root.glob("lib/*/perl/*"),
            *root.glob("share/perl/*"),
        ]
        env["PERL5LIB"] = os.pathsep.join(str(shelf) for shelf in shelves if shelf.is_dir())
        env["LD_LIBRARY_PATH"] = os.pathsep.join(str(shelf) for shelf in root.glob("lib/*-linux-gnu"))
    if subprocess.run([perl, "-MMail::DKIM", "-e", "1"], env=env, capture_output=True, timeout=SECONDS).returncode:
        absent("Mail::DKIM is not here (Debian package libmail-dkim-perl; tests/run fetches it)")
    command = [perl, str(script), dns.server.host, str(dns.server.port), *map(str, messages)]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, env=env, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(messages)
    return [dict(one.split("=", 1) for one in line.split("\t") if one) for line in lines]


RSPAMD_CONF = """\
lua_path = "{share}/lualib/?.lua;{share}/lualib/?/init.lua";
options {{
  url_tld = "{folder}/tld";
  pidfile = "{folder}/rspamd.pid";
  filters = "dkim";
  dns {{ nameserver = ["{dns}"]; timeout = 10s; retransmits = 3; }}
  tempdir = "{folder}";
  control_socket = "{folder}/control.sock";
  local_addrs = [];
}}
logging {{ type = "console"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
dkim {{ check_local = true; check_authed = true; }}
"""
RSPAMD_SYMBOLS = {"R_DKIM_ALLOW": "pass", "R_DKIM_REJECT": "fail"}


class Rspamd(Daemon):
    """A worker that looks at DKIM alone, at a free loopback port."""

    def __init__(self, directory: Path, dns: ServedDns) -> None:
        super().__init__(directory)
        program = require("rspamd")
        peers = unpacked()
        shares = [peers / "root/usr/share/rspamd"] if peers else []
        share = next((one for one in [*shares, Path("/usr/share/rspamd")] if one.is_dir()), None)
        if share is None:
            absent("what rspamd shares is not here")
        self.port = free_port()
        (self.directory / "tld").write_text("example\n")  # compiling the real one takes half a minute
        conf = self.directory / "rspamd.conf"
        conf.write_text(RSPAMD_CONF.format(share=share, folder=self.directory, dns=dns.nameserver, port=self.port))
        folders = {
            "DBDIR": self.directory,
            "RUNDIR": self.directory,
            "CONFDIR": self.directory,
            "LOCAL_CONFDIR": self.directory,
        }
        folders |= {"SHAREDIR": share, "RULESDIR": f"{share}/rules", "LUALIBDIR": f"{share}/lualib"}  # type: ignore[dict-item]
        folders |= {"PLUGINSDIR": f"{share}/plugins"}  # type: ignore[dict-item]
        variables = [word for name, folder in folders.items() for word in ("--var", f"{name}={folder}")]
        self.spawn([program, "-i", "-f", "-c", str(conf), *variables], os.environ)
        try:
            wait_until(self._listens, SECONDS, "rspamd to listen")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Rspamd:
        return self

    def _listens(self) -> bool:
        self.still_running()
        return accepts("127.0.0.1", self.port)

    def verdict(self, message: Path) -> dict[str, str]:
        """{selector: pass or fail, or the name of another symbol}."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/checkv2", message.read_bytes())
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            symbols = json.load(answer)["symbols"]
        found = {}
        for name, symbol in symbols.items():
            for option in symbol.get("options", []):
                if ":s=" in option:
                    found[option.partition(":s=")[2]] = RSPAMD_SYMBOLS.get(name, name)
        return found
