"""A real Prometheus scrapes a relay at work: every expression of the dashboards and rules must return data.

The relay sends to the internet in a box, with everything on that has a metric: a rate for the whole relay, a cold
source with caps, a pool of cold sources alone (whose mail waits for the cap), providers that defer, refuse, block and
throttle by texts that fire back-off rules, recipients that expire, a client that is refused; TLS on both sides, a user
who logs in, a DKIM key, a domain whose MTA-STS policy can't be fetched and that wants TLS reports, the doctor. Alerts
must not fire in health, so of their expressions each selector is asked for by itself; that they fire when they should
is proved by deploy/prometheus/tests (test_deploy.py runs them).

Skipped only when Prometheus (Debian package prometheus) is missing and CI is not set.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import re
import smtplib
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from support.dkim_keys import ed25519_key, key_file
from support.net import free_endpoint, wait_until
from support.peers import Daemon, require
from support.relay import REPO, RelayProcess
from support.users import PASSWORD, put_user

from fastrelay._core.lmdb import Environment
from fastrelay.sim import internet
from fastrelay.sim.certificates import Authority
from fastrelay.sim.dns import DnsServer
from fastrelay.sim.faults import EVERY_SESSION, Fault
from fastrelay.sim.mx import Behaviour, MxHosts
from fastrelay.sim.policy import PolicyRules, Provider
from fastrelay.sim.scripted import ScriptedMx
from fastrelay.tls import reports as tls_reports

pytestmark = pytest.mark.interop

DEPLOY = REPO / "deploy"
DOMAINS = 40
MESSAGES = 1500
SCRAPE_SECONDS = 1
WAIT_SECONDS = 120.0  # a bound against hanging
VARIABLES = {"$__rate_interval": "2m", "$__interval": "2m", "$job": "fastrelay", "$instance": ".*",
             "$provider": ".*", "$source": ".*"}  # fmt: skip

LABELS = {
    "action", "algorithm", "by", "check", "class", "key", "kind", "le", "matched", "mechanism", "method", "mode",
    "name", "outcome", "policy", "provider", "reason", "reporter", "result", "resumed", "rule", "severity", "source",
    "state", "verified", "version", "webhook", "where", "worker",
}  # fmt: skip
SECURE, SECURE_MX = "secure.example", "127.79.200.1"  # its MX host speaks TLS
CAMPAIGN = b"X-Fastrelay-Campaign: spring\r\n"
DAY_END = 1_790_000_000  # of reports about us
DMARC_REPORT = f"""<?xml version="1.0"?>
<feedback><report_metadata><org_name>far.example</org_name><report_id>1</report_id>
<date_range><begin>{DAY_END - 86399}</begin><end>{DAY_END}</end></date_range></report_metadata>
<policy_published><domain>sender.example</domain><p>none</p></policy_published>
<record><row><source_ip>127.0.0.11</source_ip><count>3</count><policy_evaluated><disposition>none</disposition>
<dkim>fail</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>sender.example</header_from></identifiers></record></feedback>"""
TLS_REPORT = {
    "organization-name": "far.example",
    "date-range": {"start-datetime": "2026-09-20T00:00:00Z", "end-datetime": "2026-09-20T23:59:59Z"},
    "report-id": "1",
    "policies": [
        {
            "policy": {"policy-type": "no-policy-found", "policy-domain": "sender.example"},
            "summary": {"total-successful-session-count": 1, "total-failure-session-count": 2},
            "failure-details": [{"result-type": "certificate-expired", "failed-session-count": 2}],
        }
    ],
}
SUBJECT = b"Subject: news\r\nFrom: news@sender.example\r\n"
REFUSING = {  # texts that fire rules of config/defaults/backoff.yaml
    "yahoo": PolicyRules(deferred_share=1.0, deferred_reply=b"421 4.7.0 [TSS04] Messages temporarily deferred"),
    "microsoft365": PolicyRules(
        deferred_share=0.1, deferred_reply=b"451 4.7.650 Rate limited due to IP reputation (S775)"
    ),
    # A block that suspends nothing, so that it goes on: an alert that fires.
    "google": PolicyRules(deferred_share=0.2, deferred_reply=b"550 5.7.26 This mail is unauthenticated"),
    "comcast": PolicyRules(deferred_share=0.3, deferred_reply=b"554 5.7.1 Your address is listed by zen.spamhaus.org"),
    "orange": PolicyRules(unknown_share=0.2),
}


class World:
    """DNS and MX hosts in a thread of their own."""

    def __init__(self) -> None:
        box = internet.build(DOMAINS, "127.79")
        self.domains = box.domains
        self.dns = DnsServer(box.zone)
        self.hosts = MxHosts(
            default=Behaviour(tempfail_permille=20),
            policies={name: Provider(rules) for name, rules in REFUSING.items()},
        )
        self._addresses = box.addresses
        self.authority = Authority()
        self._secure = ScriptedMx(
            Fault("tls", "TLS", sessions=EVERY_SESSION, tls="good"), authority=self.authority, name=f"mx.{SECURE}"
        )
        box.zone.mx(SECURE, [(10, f"mx.{SECURE}")])
        box.zone.address(f"mx.{SECURE}", SECURE_MX)
        box.zone.address(f"mta-sts.{SECURE}", SECURE_MX)  # nobody listens at its port 443
        box.zone.add(f"_mta-sts.{SECURE}", "TXT", '"v=STSv1; id=1"')
        # Not at the same domain: a report before the first scrape would have its policy fetched too early.
        box.zone.add(f"_smtp._tls.{SECURE}", "TXT", f'"v=TLSRPTv1; rua=mailto:reports@{box.domains[0][0]}"')
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world")

    def __enter__(self) -> World:
        self._thread.start()
        self._do(self.dns.start())
        self._do(self.hosts.start(self._addresses))
        self._do(self._secure.start(SECURE_MX, self.hosts.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._secure.stop())
        self._do(self.hosts.stop())
        self._do(self.dns.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def config(world: World, folder: Path) -> dict[str, Any]:
    """Everything on. Caps are small, so that they are full in the first seconds."""
    return {
        **security(world, folder),
        "sources": [
            {"name": "a", "address": "127.0.0.11"},
            {"name": "b", "address": "127.0.0.12"},
            {"name": "cold", "address": "127.0.0.13", "warmup": "starter"},
            {"name": "colder", "address": "127.0.0.14", "warmup": "starter"},
        ],
        "pools": {"default": ["a", "b", "cold"], "fresh": ["colder"]},
        "warmup": {"starter": {"stages": [20, 40, 80], "spread": "0s", "providers": {"google": {"stages": [5, 10]}}}},
        "shaping": [{"rate": "25/s burst 5"}, {"source": "*", "provider": "outlook", "rate": "1/s burst 1"}],
        "dns": {"nameservers": [world.dns.nameserver]},
        "delivery": {"port": world.hosts.port, "allow_private_hosts": True},
        "retry": {"first": "5s", "factor": 1.5, "max": "20s", "expire": "1h"},
        "spool": {"reserve": "16MiB", "ballast": "4MiB"},
        "complaints": {"least_delivered": 1},
        "suppression": {"enabled": False},  # mail goes on to who can't be reached
    }


def security(world: World, folder: Path) -> dict[str, Any]:
    """A certificate, a user, a key that signs, a check of messages, TLS reports."""
    certificate = folder / "relay.pem"
    certificate.touch(mode=0o600)
    certificate.write_bytes(world.authority.issue("relay.test"))
    put_user(folder / "users", "shop")
    key = key_file(folder, "dkim.pem", ed25519_key())
    return {
        "tls": {
            "certificate": str(certificate),
            "outbound": {"reports": {"sender": "postmaster@sender.example", "delay": "0s"}},
        },
        "auth": {"users": str(folder / "users")},
        "dkim": {"keys": [{"domain": "sender.example", "selector": "s1", "key": key}]},
        "checks": {"warn": ["repeated_fields"]},
    }


class Taking(http.server.BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@contextlib.contextmanager
def taker() -> Iterator[str]:
    """The URL of an endpoint for events."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, name="taker")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def reports_about_us(relay: RelayProcess, directory: Path) -> None:
    """A DMARC report in which one of our sources fails, and a TLS report."""
    (directory / "dmarc.xml").write_text(DMARC_REPORT)
    (directory / "tls.json").write_text(json.dumps(TLS_REPORT))
    relay.cli("reports", "import", str(directory / "dmarc.xml"), str(directory / "tls.json"))


def count_tls_of(day: float, state_dir: Path) -> None:
    """What a relay has on disk that sent to the domain with TLS on a day (wall time)."""
    state_dir.mkdir()
    environment = Environment(str(state_dir / "control"), tls_reports.DATABASES, map_bytes=256 * 2**20)
    counts = tls_reports.DayCounts(environment, SimpleNamespace(wall=lambda: day, monotonic=time.monotonic))
    counts.add(SECURE, tls_reports.Row("none", [], 40, 0, []))
    counts.write()
    environment.close()


class Prometheus(Daemon):
    """Scrapes one target every second, with the rules of deploy/."""

    def __init__(self, directory: Path, target: str) -> None:
        super().__init__(directory)
        self.endpoint = free_endpoint()
        self.target = target

    def __enter__(self) -> Prometheus:
        program = require("prometheus")
        shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        shipped["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), f"{SCRAPE_SECONDS}s")
        shipped["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in shipped["rule_files"]]
        shipped["scrape_configs"][0]["static_configs"] = [{"targets": [self.target]}]
        path = self.directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(shipped))
        command = [
            program, f"--config.file={path}", f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address={self.endpoint}", "--storage.tsdb.retention.time=1d",
        ]  # fmt: skip
        self.spawn(command, os.environ)
        wait_until(lambda: self.still_running() or self._ready(), 60, "Prometheus to be ready")
        return self

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an API answer; AssertionError with Prometheus' words where it refuses."""
        url = f"http://{self.endpoint}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def count(self, expression: str) -> int:
        """How many series an expression returns."""
        return len(self.get("query", query=expression)["result"])


# -- what is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """An expression, and where it stands."""

    where: str
    expression: str


def of_dashboards() -> list[Asked]:
    """Every target of every panel, and what fills the variables."""
    found = []
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        made = json.loads(path.read_text())
        for panel in made["panels"]:
            found += [
                Asked(f"{path.stem} / {panel['title']} {target['refId']}", plain(target["expr"]))
                for target in panel.get("targets", [])
            ]
        for variable in made["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                found.append(Asked(f"{path.stem} ${variable['name']}", f"count by ({label}) ({plain(selector)})"))
    return found


def plain(expression: str) -> str:
    """With a value for each variable of Grafana's."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def rules(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def of_recordings() -> list[Asked]:
    """Each rule's expression, and the series that it records."""
    found = []
    for rule in rules("recording.rules.yml"):
        found += [Asked(f"rule {rule['record']}", rule["expr"]), Asked(f"series {rule['record']}", rule["record"])]
    return found


SELECTOR = re.compile(r"\b((?:\w+:)?(?:fastrelay_\w+|up)(?::\w+)?)(\{[^}]*\})?")


def of_alerts() -> list[Asked]:
    """Each selector of each alert by itself."""
    found = []
    for rule in rules("alert.rules.yml"):
        selectors = {name + (labels or "") for name, labels in SELECTOR.findall(rule["expr"])}
        assert selectors, rule
        found += [Asked(f"alert {rule['alert']}", selector) for selector in sorted(selectors)]
    return found


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """A relay at work, and the Prometheus that watches it."""

    relay: RelayProcess
    prometheus: Prometheus

    def returning(self, asked: list[Asked]) -> dict[Asked, int]:
        """How many series each expression returns, once each returned some; AssertionError for those that never do."""
        counts: dict[Asked, int] = {}

        def all_return() -> bool:
            for one in asked:
                if not counts.get(one):
                    counts[one] = self.prometheus.count(one.expression)
            if all(counts.values()):
                return True
            time.sleep(SCRAPE_SECONDS)  # nothing changes before the next scrape
            return False

        try:
            wait_until(all_return, WAIT_SECONDS, "every expression to return data")
        except AssertionError:
            empty = [f"{one.where}: {one.expression}" for one, n in counts.items() if not n]
            raise AssertionError("no data from\n" + "\n".join(empty)) from None
        for one, n in counts.items():
            print(f"{n:4d}  {one.where}")
        print(f"{len(counts)} expressions, {sum(counts.values())} series")
        return counts


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    require("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    yesterday = time.time() - 86_400
    (directory / "relay").mkdir()
    count_tls_of(yesterday, directory / "relay/state")
    with (
        taker() as url,
        World() as world,
        RelayProcess(
            directory / "relay",
            config(world, directory) | {"events": {"webhooks": [{"name": "app", "url": url}]}},
        ) as relay,
    ):
        target = relay.config["listeners"]["metrics"]["bind"]
        with Prometheus(directory / "prometheus", target) as prometheus:
            # Prometheus must have seen the relay idle: a counter that is first seen high has no rate.
            wait_until(lambda: prometheus.count("fastrelay_worker_up == 1") == 2, 60, "the first scrape")
            submit(relay, world)
            submit_with_password(relay)
            reports_about_us(relay, directory)
            relay.control("tlsrpt.send", {"day": tls_reports.day_of(yesterday), "again": True})
            assert relay.cli("doctor", check=False).returncode in (1, 2)  # there is much to find here
            yield Watched(relay, prometheus)


def submit(relay: RelayProcess, world: World) -> None:
    """A campaign over all providers; some for the pool of cold sources; some that expire; one that is refused."""
    domains = [domain for domain, _ in world.domains]
    names = {provider: domain for domain, provider in world.domains}
    with relay.client() as client:
        for number in range(MESSAGES):
            recipient = f"r{number}@{domains[number % len(domains)]}"
            client.sendmail("news@sender.example", [recipient], SUBJECT + CAMPAIGN + b"\r\nhello\r\n")
        for number in range(60):
            head = SUBJECT + b"X-Fastrelay-Pool: fresh\r\n"
            client.sendmail("news@sender.example", [f"f{number}@{names['apple']}"], head + b"\r\nhello\r\n")
        for number in range(3):
            head = SUBJECT + b"X-Fastrelay-Expire: 2s\r\n"
            client.sendmail("news@sender.example", [f"e{number}@{names['yahoo']}"], head + b"\r\nhello\r\n")
        with pytest.raises(smtplib.SMTPException):
            client.sendmail("news@sender.example", ["not a mailbox"], SUBJECT + b"\r\nhello\r\n")


def submit_with_password(relay: RelayProcess) -> None:
    """A message under TLS, which a check finds fault with, for the domain whose MX host has TLS."""
    with relay.client() as client:
        client.starttls(context=ssl._create_unverified_context())
        client.login("shop", PASSWORD)
        client.sendmail("news@sender.example", [f"a@{SECURE}"], SUBJECT + b"Subject: again\r\n\r\nhello\r\n")


def test_every_expression_of_the_dashboards_returns_data(watched: Watched) -> None:
    counts = watched.returning(of_dashboards())
    assert len(counts) > 100


def test_every_recording_rule_returns_data(watched: Watched) -> None:
    watched.returning(of_recordings())


def test_what_makes_mail_believed_is_counted(watched: Watched) -> None:
    """Not only there, as counters are that begin at 0."""
    counters = (
        'smtp_tls_handshakes_total{result="ok",version="TLSv1.3"}',
        'auth_total{result="ok"}',
        'tls_sessions_total{verified="unverified"}',
        'tls_handshakes_total{result="ok",version="TLSv1.3"}',
        "tls_handshake_seconds_count",
        'mta_sts_fetches_total{result="sts-policy-fetch-error"}',
        'tls_reports_total{result="sent"}',
        'dkim_signatures_total{algorithm="ed25519"}',
        'message_checks_total{check="repeated_fields",action="warn"}',
        'doctor_findings{severity="error"}',
    )
    watched.returning([Asked(one, f"(fastrelay_{one}) > 0") for one in counters])


def test_every_selector_of_the_alerts_returns_data(watched: Watched) -> None:
    watched.returning(of_alerts())


def test_all_rules_are_evaluated_without_an_error(watched: Watched) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        found = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = wait_until(evaluated, 60, "all rules to be evaluated")
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    assert len(found) == len(rules("recording.rules.yml")) + len(rules("alert.rules.yml"))


def test_alerts_that_fire_read_well(watched: Watched) -> None:
    """Blocks go on here, so their alert fires; its words are filled in."""

    def fired() -> list[dict[str, Any]]:
        return [alert for alert in watched.prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]

    alerts = wait_until(fired, WAIT_SECONDS, "an alert to fire")
    for alert in alerts:
        for words in alert["annotations"].values():
            assert words
            assert "<no value>" not in words, alert
            assert "error" not in words.lower() or "template" not in words.lower(), alert


def test_the_scrape_has_no_label_that_grows(watched: Watched) -> None:
    """Recipients and their domains are no labels; source × provider is the one cross product. Complaint rates have the
    busiest campaigns and sender domains as names, so many as `complaints.campaigns` says."""
    host, port = watched.relay.metrics
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert set(re.findall(r'(\w+)="', text)) <= LABELS
    assert "@" not in text
    assert ".example" not in re.sub(r'by="\w+",name="[^"]*"', "", text)


def test_top_sees_what_prometheus_sees(watched: Watched) -> None:
    """The control socket gives the same counters, and the page stands on them."""
    shown = json.loads(watched.relay.cli("top", "--once", "--json").stdout)
    assert shown["state"] == "running"
    assert {row["source"] for row in shown["warmup"]} == {"cold", "colder"}
    assert any(row["active"] for row in shown["backoffs"])
    assert shown["reasons"]["warmup_cap"] > 0
    names = {row["name"] for row in shown["providers"]}
    found = watched.prometheus.get("query", query="count by (provider) (fastrelay_waiting_recipients > 0)")["result"]
    assert {row["metric"]["provider"] for row in found} <= names
    text = watched.relay.cli("top", "--once").stdout
    assert "WARM-UP" in text
    assert "BACK-OFF" in text
