"""The resolver and the router against a real nameserver (Knot DNS, Debian package knot) with a zone file.

Started on a free loopback port for this file. Skipped only when knotd is missing and CI is not set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastrelay.route.providers import built_in
from fastrelay.route.resolver import MAX_RECORDS, Resolver
from fastrelay.route.router import Router
from fastrelay.route.site import Sites

pytestmark = pytest.mark.interop

ZONE = """
$ORIGIN mail.test.
$TTL 3600
@           IN SOA ns postmaster 1 3600 600 86400 90
@           IN NS  ns
ns          IN A   127.0.0.1
@           IN MX  10 mx1
            IN MX  10 MX2.Mail.Test.
            IN MX  20 backup
mx1         IN A   8.8.8.1
            IN AAAA 2a00::1
mx2         IN A   8.8.8.2
backup      IN CNAME mx1
null        IN MX  0 .
junknull    IN MX  10 .
implicit    IN A   8.8.8.3
implicit6   IN AAAA 2a00::3
empty       IN TXT "a name with neither MX nor address"
alias       IN CNAME @
chain       IN CNAME alias
dangling    IN CNAME nowhere
elsewhere   IN CNAME mail.other.test.
inside      IN MX  10 private
private     IN A   10.0.0.1
deaf        IN MX  10 nowhere
            IN MX  20 empty
xn--bcher-kva IN MX 10 mx1
odd         IN MX  10 a\\032b
            IN MX  20 mx2
brief       300 IN MX 10 mx1
"""
LARGE = "".join(f"large IN MX {n} host-with-a-rather-long-name-{n}.of-a-provider\n" for n in range(300))
CUSTOMERS = "".join(f"customer{n} IN MX 10 mx1\n" for n in range(200))

CONF = """
server:
    rundir: "{folder}"
    listen: [ "127.0.0.1@{port}" ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: error
database:
    storage: "{folder}"
zone:
  - domain: mail.test
    storage: "{folder}"
    file: mail.test.zone
    zonefile-sync: -1
    journal-content: none
"""


def free_port() -> int:
    """A loopback port free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port = int(udp.getsockname()[1])
            with contextlib.suppress(OSError):
                tcp.bind(("127.0.0.1", port))
                return port


@pytest.fixture(scope="module")
def nameserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """ "address:port" of a running knotd."""
    knotd = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin:/usr/local/sbin")
    if knotd is None and not os.environ.get("CI"):
        pytest.skip("knotd is not installed: apt-get install knot")
    assert knotd is not None, "knotd is not installed: apt-get install knot"
    folder = tmp_path_factory.mktemp("knot")
    port = free_port()
    (folder / "mail.test.zone").write_text(ZONE + LARGE + CUSTOMERS)
    (folder / "knot.conf").write_text(CONF.format(folder=folder, port=port))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([knotd, "-c", str(folder / "knot.conf")], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(process, f"127.0.0.1:{port}", folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], nameserver: str, log: Path) -> None:
    """Until the zone is answered for."""
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        if asyncio.run(Resolver([nameserver], timeout=0.5, tries=1).query("mail.test", "SOA")).status == "ok":
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on either loop."""
    return uvloop.run if request.param == "uvloop" else asyncio.run


def test_what_the_resolver_says(run: Any, nameserver: str) -> None:
    resolver = Resolver([nameserver])

    def ask(name: str, rdtype: str = "MX") -> Any:
        return run(resolver.query(name, rdtype))

    mx = ask("mail.test")
    assert (mx.status, mx.ttl) == ("ok", 3600)
    assert sorted(mx.records) == [(10, "mx1.mail.test"), (10, "mx2.mail.test"), (20, "backup.mail.test")]
    assert ask("null.mail.test").records == ((0, "."),)
    assert ask("brief.mail.test").ttl == 300
    nodata, nxdomain = ask("implicit.mail.test"), ask("nowhere.mail.test")
    assert (nodata.status, nodata.ttl) == ("nodata", 90)  # the SOA's minimum
    assert (nxdomain.status, nxdomain.ttl) == ("nxdomain", 90)
    assert ask("alias.mail.test").records == ask("chain.mail.test").records == mx.records
    assert ask("dangling.mail.test").status == "nxdomain"
    assert ask("backup.mail.test", "A").records == ("8.8.8.1",)
    assert ask("mx1.mail.test", "AAAA").records == ("2a00::1",)
    assert ask("mail.other.test").status == "temporary"  # not its zone: REFUSED
    assert ask("elsewhere.mail.test").status == "temporary"
    assert resolver.stats.tcp == 0


def test_a_large_answer_comes_over_tcp(run: Any, nameserver: str) -> None:
    resolver = Resolver([nameserver])
    found = run(resolver.query("large.mail.test", "MX"))
    assert [preference for preference, _ in found.records] == list(range(MAX_RECORDS))
    assert resolver.stats.tcp == 1


def test_routes(run: Any, nameserver: str) -> None:
    async def scenario() -> None:
        router = Router(Resolver([nameserver]), sites=Sites(built_in()), own_addresses=["9.9.9.9"])

        async def told(domain: str) -> str:
            route = await router.resolve(domain, 0.0)
            return route.site.key if route.site is not None else f"{route.action} {route.code} {route.enhanced}"

        assert await told("Mail.Test") == "mx1.mail.test,mx2.mail.test;backup.mail.test:25"
        assert await told("alias.mail.test") == await told("chain.mail.test") == await told("mail.test")
        assert await told("null.mail.test") == await told("junknull.mail.test") == "fail 556 5.1.10"
        assert await told("implicit.mail.test") == "implicit.mail.test:25"
        assert await told("implicit6.mail.test") == "implicit6.mail.test:25"
        assert await told("empty.mail.test") == "fail 550 5.4.4"
        assert await told("nowhere.mail.test") == await told("dangling.mail.test") == "fail 550 5.1.2"
        assert await told("elsewhere.mail.test") == await told("mail.other.test") == "defer 451 4.4.3"
        assert await told("bücher.mail.test") == "mx1.mail.test:25"
        assert await told("odd.mail.test") == "mx2.mail.test:25"
        large = (await router.resolve("large.mail.test", 0.0)).site
        assert large is not None
        assert sum(map(len, large.groups)) == 50
        customers = await asyncio.gather(*(router.resolve(f"customer{n}.mail.test", 0.0) for n in range(200)))
        assert {route.site for route in customers} == {(await router.resolve("bücher.mail.test", 0.0)).site}

    run(scenario())


def test_targets(run: Any, nameserver: str) -> None:
    async def scenario() -> None:
        router = Router(Resolver([nameserver]), sites=Sites(built_in()))

        async def tried(domain: str) -> Any:
            route = await router.resolve(domain, 0.0)
            assert route.site is not None
            return await router.targets(route.site, 0.0)

        targets, _ = await tried("mail.test")
        assert {target.address for target in targets[:3]} == {"8.8.8.1", "2a00::1", "8.8.8.2"}
        assert [target.address for target in targets[3:]] == ["8.8.8.1", "2a00::1"]  # an MX host that is an alias
        for domain in ("inside.mail.test", "deaf.mail.test"):
            targets, failure = await tried(domain)
            assert targets == []
            assert (failure.action, failure.enhanced) == ("fail", "5.4.4")

    run(scenario())
