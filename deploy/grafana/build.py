#!/usr/bin/env python3
"""The dashboards: run this file to write their JSON beside it. `build.py --check` only says whether they are current.

Every expression is run against a real Prometheus that scrapes a relay at work (tests/interop/test_prometheus.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panels import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Panel,
    bars,
    dashboard,
    graph,
    row,
    stat,
    table,
    variable,
)

HERE = Path(__file__).resolve().parent

RELAY = 'job="$job",instance=~"$instance"'
PROVIDER = RELAY + ',provider=~"$provider"'
SOURCE = RELAY + ',source=~"$source"'
BOTH = PROVIDER + ',source=~"$source"'
GOOD_AT_0 = [(None, GREEN), (1, RED)]
GOOD_AT_1 = [(None, RED), (1, GREEN)]
DAY = 86400
ATTEMPTS = 'outcome=~"delivered|deferred|failed",source!="none"'
BAD_ADDRESS = ',class=~"bad_mailbox|bad_domain|inactive",kind="hard",outcome="failed"'
ENDED = ',outcome=~"delivered|failed"'

JOB = variable("job", "Job", "label_values(fastrelay_build_info, job)", all_values=False)
INSTANCE = variable("instance", "Relay", 'label_values(fastrelay_build_info{job="$job"}, instance)', all_values=True)
PROVIDERS = variable(
    "provider", "Provider", f"label_values(fastrelay_outcomes_total{{{RELAY}}}, provider)", all_values=True
)
SOURCES = variable(
    "source", "Source", f'label_values(fastrelay_outcomes_total{{{RELAY},source!="none"}}, source)', all_values=True
)
COLD = variable("source", "Source", f"label_values(fastrelay_warmup_cap{{{RELAY}}}, source)", all_values=True)


def rate(metric: str, selector: str, by: str = "") -> str:
    """Per second, over the interval that Grafana chooses."""
    return f"sum{f' by ({by})' if by else ''} (rate(fastrelay_{metric}{{{selector}}}[$__rate_interval]))"


def total(metric: str, selector: str = RELAY, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (fastrelay_{metric}{{{selector}}})"


def each(metric: str, selector: str = RELAY) -> str:
    return f"fastrelay_{metric}{{{selector}}}"


def share(outcome: str, selector: str, by: str = "") -> str:
    """One outcome's part of all attempts."""
    of_all = rate("outcomes_total", f"{selector},{ATTEMPTS}", by)
    part = rate("outcomes_total", f'{selector},outcome="{outcome}",source!="none"', by)
    return f"{part} / ({of_all} > 0)"


def quantile(q: float, metric: str, selector: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(metric + '_bucket', selector, labels)})"


def in_an_hour(metric: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (increase(fastrelay_{metric}{{{selector}}}[1h]))"


def overview() -> dict[str, Any]:
    queued = total("queue_recipients")
    leaving = f'sum (rate(fastrelay_outcomes_total{{{RELAY},outcome!="deferred"}}[$__rate_interval]))'
    delivered = rate("outcomes_total", RELAY + ',outcome="delivered"')
    panels = [
        stat("Accepted", 3, rate("accepted_recipients_total", RELAY), "cps", words="Recipients taken in, a second."),
        stat("Delivered", 3, delivered, "cps", words="Recipients delivered, a second.", steps=[(None, GREEN)]),
        stat("Deferred", 3, share("deferred", RELAY), "percentunit", words="Of all attempts.",
             steps=[(None, GREEN), (0.1, YELLOW), (0.3, RED)]),
        stat("Failed", 3, share("failed", RELAY), "percentunit", words="Of all attempts.",
             steps=[(None, GREEN), (0.02, YELLOW), (0.08, RED)]),
        stat("Queued", 3, queued, "short", words="Recipients that have no outcome yet."),
        stat("Empty in", 3, f"{queued} / ({leaving} > 0)", "s", words="The queue at the rate at which it drains now."),
        stat("Back-offs", 3, f"{total('backoff_active')} or vector(0)", "short",
             words="Sources that are kept from providers now.", steps=[(None, GREEN), (1, ORANGE)]),
        stat("Workers down", 3, f"count (fastrelay_worker_up{{{RELAY}}} == 0) or vector(0)", "short",
             steps=GOOD_AT_0),
        graph("In and out", 12, [
            (rate("accepted_recipients_total", RELAY), "accepted"),
            (rate("outcomes_total", RELAY, "outcome"), "{{outcome}}"),
        ], "cps", words="Recipients a second."),
        graph("Queue by what it waits for", 12, [(f"{total('queue_recipients', by='reason')} > 0", "{{reason}}")],
              "short", stack=True, words="`fastrelay queue why ID` explains one message."),
        graph("Delivered by provider", 12, [
            (rate("outcomes_total", RELAY + ',outcome="delivered"', "provider"), "{{provider}}")
        ], "cps", stack=True),
        graph("Deferred by provider", 12, [(share("deferred", RELAY, "provider"), "{{provider}}")], "percentunit",
              words="Share of the attempts at that provider."),
        graph("Oldest message", 8, [(f"max (fastrelay_queue_oldest_seconds{{{RELAY}}})", "oldest")], "s"),
        graph("Disk", 8, [
            (f"fastrelay_disk_free_bytes{{{RELAY}}}", "free {{instance}}"),
            (f"fastrelay_spool_reserve_bytes{{{RELAY}}}", "reserve {{instance}}"),
        ], "bytes", dashed="reserve.*", words="Below the reserve, mail is refused."),
        graph("Warm-up: share of the present cap used", 8, [
            (f"fastrelay_warmup_used{{{RELAY}}} / (fastrelay_warmup_cap{{{RELAY}}} > 0)", "{{source}} {{key}}")
        ], "percentunit"),
    ]  # fmt: skip
    return dashboard(
        "fastrelay-overview", "fastrelay / Overview", "One page on how mail flows.", [JOB, INSTANCE], panels
    )


def providers_and_sources() -> dict[str, Any]:
    cells = "source, provider"
    panels = [
        row("Providers"),
        graph("Delivered", 12, [(rate("outcomes_total", BOTH + ',outcome="delivered"', "provider"), "{{provider}}")],
              "cps", stack=True),
        graph("Attempts by outcome", 12, [(rate("outcomes_total", BOTH, "outcome"), "{{outcome}}")], "cps"),
        graph("Deferred", 8, [(share("deferred", BOTH, "provider"), "{{provider}}")], "percentunit",
              words="Share of attempts."),
        graph("Failed", 8, [(share("failed", BOTH, "provider"), "{{provider}}")], "percentunit",
              words="Share of attempts."),
        graph("Transaction, 90th percentile", 8, [
            (quantile(0.9, "transaction_seconds", PROVIDER, "provider"), "{{provider}}")
        ], "s", words="From MAIL to the final reply."),
        graph("Connections", 12, [(total("delivery_connections", BOTH, "provider, state"), "{{provider}} {{state}}")],
              "short", stack=True),
        graph("Connects by result", 12, [(rate("connects_total", RELAY, "result"), "{{result}}")], "cps"),
        row("Sources"),
        graph("Delivered by source", 12, [(rate("outcomes_total", BOTH + ',outcome="delivered"', "source"),
              "{{source}}")],
              "cps", stack=True),
        graph("Deferred by source", 12, [(share("deferred", BOTH, "source"), "{{source}}")], "percentunit",
              words="Share of attempts."),
        table("Source and provider, last hour", 24, [
            ("delivered", in_an_hour("outcomes_total", BOTH + ',outcome="delivered"', cells), "short"),
            ("deferred", in_an_hour("outcomes_total", BOTH + ',outcome="deferred"', cells), "short"),
            ("failed", in_an_hour("outcomes_total", BOTH + ',outcome="failed"', cells), "short"),
            ("blocks", in_an_hour("blocks_total", BOTH, cells), "short"),
            ("back-offs", total("backoff_active", BOTH, cells), "short"),
            ("learnt rate /h", f"3600 * min by ({cells}) (fastrelay_adaptive_rate{{{BOTH}}})", "short"),
        ], words="Blocks are replies that refuse the sending address."),
        row("Back-off"),
        graph("Back-offs that hold", 8, [
            (total("backoff_active", BOTH, cells), "{{source}} at {{provider}}: stopped"),
            (total("backoff_cut", BOTH, cells), "{{source}} at {{provider}}: fewer connections"),
        ], "short"),
        graph("Learnt rates", 8, [(f"min by ({cells}) (fastrelay_adaptive_rate{{{BOTH}}})",
              "{{source}} at {{provider}}")], "cps",
              words="What the adaptive controller lets through; no line: not limited."),
        graph("Rules that fired", 8, [(rate("rule_fired_total", PROVIDER, "rule, provider"),
              "{{rule}} at {{provider}}")],
              "cps", words="Greylisting is among them: any_greylisted."),
        graph("Blocks", 24, [(rate("blocks_total", BOTH, cells), "{{source}} at {{provider}}")], "cps",
              words="Replies that refuse the sending address, not the recipient."),
    ]  # fmt: skip
    return dashboard("fastrelay-providers", "fastrelay / Providers and sources", "Who takes what from which address.",
                     [JOB, INSTANCE, PROVIDERS, SOURCES], panels)  # fmt: skip


def warmup() -> dict[str, Any]:
    def cold(metric: str) -> str:
        return f"max by (source, key) (fastrelay_warmup_{metric}{{{SOURCE}}})"

    panels = [
        stat("Cold sources", 4, f"count (count by (source) (fastrelay_warmup_cap{{{SOURCE}}}))", "short"),
        stat("Held", 4, f"sum (fastrelay_warmup_held{{{SOURCE}}})", "short", steps=GOOD_AT_0,
             words="`fastrelay warmup status` says why."),
        stat("Days to go", 4, f"max (fastrelay_warmup_to_go{{{SOURCE}}})", "short",
             words="Sending days until the last source is warm, if every one of them advances."),
        stat("Cap", 4, f"sum (fastrelay_warmup_cap{{{SOURCE}}})", "short",
             words="Of all cold sources, in their present day or hour."),
        stat("Used", 4, f"sum (fastrelay_warmup_used{{{SOURCE}}})", "short", steps=[(None, GREEN)]),
        stat("Waiting for a cap", 4, f'sum (fastrelay_queue_recipients{{{RELAY},reason="warmup_cap"}})', "short",
             steps=[(None, GREEN), (1, YELLOW)], words="Recipients for which there is no warm source to overflow to."),
        graph("Caps against use", 16, [
            (cold("used"), "used {{source}} {{key}}"), (cold("cap"), "cap {{source}} {{key}}"),
        ], "short", dashed="cap.*", height=10,
              words="Use includes what workers have reserved; it never passes the cap."),
        bars("Share of the present cap", 8, f"{cold('used')} / ({cold('cap')} > 0)",
             "{{source}} {{key}}", "percentunit", height=10),
        table("Warm-ups", 24, [
            ("stage", cold("stage"), "short"),
            ("of", cold("stages"), "short"),
            ("days to go", cold("to_go"), "short"),
            ("cap", cold("cap"), "short"),
            ("used", cold("used"), "short"),
            ("held", cold("held"), "short"),
        ], words="key: the provider of a schedule of its own, * for all others together."),
        graph("Stages", 8, [(cold("stage"), "{{source}} {{key}}")], "short"),
        graph("Days to go", 8, [(cold("to_go"), "{{source}} {{key}}")], "short"),
        graph("Held", 8, [(cold("held"), "{{source}} {{key}}")], "short", most=1),
        graph("Sent by cold sources", 12, [
            (f"{rate('outcomes_total', SOURCE + ',' + ATTEMPTS, 'source, outcome')}", "{{source}} {{outcome}}")
        ], "cps", words="Attempts by outcome."),
        graph("Deferred, of what cold sources sent", 12, [(share("deferred", SOURCE, "source"), "{{source}}")],
              "percentunit",
              words="The thresholds of the plan hold, step back or stop a warm-up."),
    ]  # fmt: skip
    return dashboard(
        "fastrelay-warmup", "fastrelay / Warm-up", "Caps, use, stages and days to go.", [JOB, INSTANCE, COLD], panels
    )


def queue() -> dict[str, Any]:
    queued = total("queue_recipients")
    panels = [
        stat("Queued", 6, queued, "short"),
        stat("Full", 6, f"{queued} / sum (fastrelay_queue_limit_recipients{{{RELAY}}})", "percentunit",
             steps=[(None, GREEN), (0.7, YELLOW), (0.9, RED)], words="Of limits.queued_recipients."),
        stat("Oldest", 6, f"max (fastrelay_queue_oldest_seconds{{{RELAY}}})", "s"),
        stat("Quarantined", 6, total("quarantined_messages"), "short", steps=GOOD_AT_0),
        graph("By what it waits for", 12, [(f"{total('queue_recipients', by='reason')} > 0", "{{reason}}")],
              "short", stack=True,
              height=10),
        graph("At their sites, by provider and reason", 12, [
            (f"{total('waiting_recipients', PROVIDER, 'provider, reason')} > 0", "{{provider}}: {{reason}}")
        ], "short", stack=True, height=10, words="Without what waits for DNS or for a retry."),
        graph("Limits that gave no permit, by reason", 12, [(rate("limit_denied_total", PROVIDER, "reason"),
              "{{reason}}")],
              "cps", words="Times a second that a site had mail and a limit said no."),
        graph("Limits that gave no permit, by provider", 12, [
            (rate("limit_denied_total", PROVIDER, "provider"), "{{provider}}")
        ], "cps"),
        graph("Ends without delivery", 8, [
            (rate("outcomes_total", RELAY + ',outcome!~"delivered|deferred"', "outcome"), "{{outcome}}")
        ], "cps"),
        graph("Possible duplicates", 8, [(rate("possible_duplicates_total", RELAY), "sent again")], "cps",
              words="After a crash left the outcome unknown."),
        graph("Sites", 8, [(total("sites"), "sites")], "short", words="With a queue, in all workers."),
        row("DNS and connecting"),
        graph("DNS queries", 6, [(rate("dns_queries_total", RELAY, "result"), "{{result}}")], "cps"),
        graph("Time of a DNS query", 6, [
            (quantile(0.5, "dns_seconds", RELAY), "half"), (quantile(0.99, "dns_seconds", RELAY), "99 %"),
        ], "s"),
        graph("Connects", 6, [(rate("connects_total", RELAY, "result"), "{{result}}")], "cps"),
        graph("Time to connect", 6, [
            (quantile(0.5, "connect_seconds", RELAY), "half"), (quantile(0.99, "connect_seconds", RELAY), "99 %"),
        ], "s"),
    ]  # fmt: skip
    return dashboard("fastrelay-queue", "fastrelay / Queue and wait reasons", "What waits, and for what.",
                     [JOB, INSTANCE, PROVIDERS], panels)  # fmt: skip


def workers() -> dict[str, Any]:
    panels = [
        stat("Version", 4, f"max by (version) ({each('build_info')})", "short", legend="{{version}}", show="name"),
        stat("Workers", 4, total("worker_up"), "short", words="Ready.", steps=GOOD_AT_1),
        stat("Restarts in a day", 4, f"sum (increase({each('worker_restarts_total')}[1d]))", "short",
             steps=[(None, GREEN), (1, YELLOW), (5, RED)]),
        stat("Spools out of order", 4, total("spool_unhealthy"), "short", steps=GOOD_AT_0),
        stat("Workers that refuse mail", 4, total("spool_refusing"), "short", steps=GOOD_AT_0),
        stat("Last reload", 4, f"min ({each('config_last_reload_successful')})", "short", steps=GOOD_AT_1,
             mappings={"0": "refused", "1": "taken over"}),
        row("Workers"),
        graph("Processor", 8, [(rate("worker_cpu_seconds_total", RELAY, "instance, worker"),
              "{{instance}} {{worker}}")],
              "percentunit", stack=True, words="Of one core each."),
        graph("Memory", 8, [(each("worker_rss_bytes"), "{{instance}} {{worker}}")], "bytes",
              words="Resident, with the pages of the spool that the kernel keeps."),
        graph("Late by", 8, [(each("loop_lag_seconds"), "{{instance}}")], "s",
              words="The slowest worker's loop, each second."),
        graph("Clients", 8, [(total("smtp_sessions_open", by="instance"), "{{instance}}")], "short",
              words="Open SMTP sessions."),
        graph("Refused", 8, [(rate("smtp_refused_total", RELAY, "class"), "{{class}}")], "cps"),
        graph("Errors", 8, [(rate("errors_total", RELAY, "where"), "{{where}}")], "cps", words="The log says more."),
        graph("Index of the queue", 8, [(each("index_bytes"), "{{instance}}")], "bytes",
              words="Memory; about 200 bytes a recipient."),
        graph("Hot contents", 8, [(each("hot_cache_bytes"), "{{instance}}")], "bytes"),
        graph("Cells of the shared table", 8, [(each("shared_table_cells"), "{{instance}}")], "short"),
        row("Spool and disk"),
        graph("Commit", 8, [
            (quantile(0.5, "commit_seconds", RELAY), "half"), (quantile(0.99, "commit_seconds", RELAY), "99 %"),
        ], "s", words="Contents and records synced. A client waits so long for its 250."),
        graph("Commits", 8, [
            (rate("commit_seconds_count", RELAY), "commits"), (rate("commit_failures_total", RELAY), "failed"),
        ], "cps"),
        graph("Messages in a commit", 8, [
            (f"{rate('commit_group_messages_sum', RELAY)} / ({rate('commit_group_messages_count', RELAY)} > 0)", "mean")
        ], "short", words="The slower the disk, the larger the groups."),
        graph("Spool", 8, [(total("spool_bytes"), "on disk"), (total("spool_live_bytes"), "needed")], "bytes"),
        graph("Disk", 8, [
            (each("disk_free_bytes"), "free {{instance}}"), (each("disk_size_bytes"), "size {{instance}}"),
        ], "bytes", dashed="size.*"),
        graph("Segments", 8, [(total("spool_segments"), "files")], "short"),
        graph("Accepted", 8, [(rate("accepted_bytes_total", RELAY), "octets")], "Bps"),
        graph("Events", 8, [(rate("events_total", RELAY), "lines")], "cps"),
        graph("Failed writes to the event logs", 8, [(rate("event_log_failures_total", RELAY), "failures")], "cps"),
    ]  # fmt: skip
    return dashboard(
        "fastrelay-workers", "fastrelay / Workers and host", "Processes, spool and disk.", [JOB, INSTANCE], panels
    )


def security() -> dict[str, Any]:
    def findings(severity: str) -> str:
        return total("doctor_findings", f'{RELAY},severity="{severity}"', "check")

    sessions = rate("tls_sessions_total", RELAY)
    secured = rate("tls_sessions_total", RELAY + ',verified!="plain"')
    until = f"{each('tls_certificate_expiry_timestamp_seconds')} > 0"
    looked = f"{each('doctor_run_timestamp_seconds')} > 0"
    panels = [
        stat("Sent under TLS", 3, f"{secured} / ({sessions} > 0)", "percentunit",
             words="Of the sessions with MX hosts.", steps=[(None, RED), (0.8, YELLOW), (0.95, GREEN)]),
        stat("Waits for TLS", 3, f'sum (fastrelay_queue_recipients{{{RELAY},reason="tls_policy"}})', "short",
             steps=[(None, GREEN), (1, ORANGE)], words="Recipients whose domain's policy no MX host satisfies."),
        stat("Waits for a key", 3, f'sum (fastrelay_queue_recipients{{{RELAY},reason="no_dkim_key"}})', "short",
             steps=GOOD_AT_0, words="Recipients whose mail is to be signed, and can't be now."),
        stat("Keys that can't sign", 3, f'max (fastrelay_dkim_keys{{{RELAY},state="unusable"}})', "short",
             steps=GOOD_AT_0, words="Of dkim.keys."),
        stat("Certificate ends in", 3, f"min ({until}) - time()", "s",
             steps=[(None, RED), (3 * DAY, YELLOW), (14 * DAY, GREEN)], words="The one that clients see."),
        stat("Wrong passwords in an hour", 3,
             f'sum (increase(fastrelay_auth_total{{{RELAY},result=~"wrong|delayed"}}[1h]))', "short",
             steps=[(None, GREEN), (50, YELLOW), (500, ORANGE)], words="And tries that were put off unread."),
        stat("Errors of the doctor", 3, total("doctor_findings", f'{RELAY},severity="error"'), "short",
             steps=GOOD_AT_0, words="`fastrelay doctor` says what mends them."),
        stat("The doctor's last look", 3, f"time() - max ({looked})", "s",
             steps=[(None, GREEN), (2 * DAY, YELLOW)], words="How long ago; a whole look alone counts."),
        row("TLS with MX hosts"),
        graph("Sessions, by how the host proved who it is", 12, [
            (rate("tls_sessions_total", RELAY, "verified"), "{{verified}}")
        ], "cps", stack=True, words="unverified: TLS with any certificate; plain: no TLS."),
        graph("TLS that failed", 12, [
            (rate("tls_handshakes_total", RELAY + ',result!="ok"', "result"), "{{result}}")
        ], "cps", words="Result types of RFC 8460. `fastrelay tls DOMAIN --connect` looks at one domain."),
        graph("Versions, and resumed sessions", 8, [
            (rate("tls_handshakes_total", RELAY + ',result="ok"', "version, resumed"),
             "{{version}} resumed: {{resumed}}")
        ], "cps", stack=True, words="A resumed session costs a fraction of a whole handshake."),
        graph("Time of a handshake", 8, [
            (quantile(0.5, "tls_handshake_seconds", RELAY), "half"),
            (quantile(0.99, "tls_handshake_seconds", RELAY), "99 %"),
        ], "s"),
        graph("Sites, by what decides over connections", 8, [
            (f"{total('tls_sites', by='policy')} > 0", "{{policy}}")
        ], "short", stack=True, words="With a queue, in all workers."),
        graph("MTA-STS policies kept", 8, [(total("mta_sts_policies", by="mode"), "{{mode}}")], "short", stack=True),
        graph("MTA-STS fetches", 8, [(rate("mta_sts_fetches_total", RELAY, "result"), "{{result}}")], "cps"),
        graph("TLS reports (RFC 8460) of an hour", 8, [
            (in_an_hour("tls_reports_total", RELAY, "result"), "{{result}}"),
            (total("tls_reports_waiting"), "to come"),
        ], "short", dashed="to come", words="none: the domain asks for no reports. `fastrelay tlsrpt` shows each."),
        row("Clients: TLS and authentication"),
        graph("Handshakes", 12, [
            (rate("smtp_tls_handshakes_total", RELAY, "result, version"), "{{result}} {{version}}")
        ], "cps", words="alert: the client refused, often the certificate; lost: it went away, as scanners do."),
        graph("The certificate ends in", 6, [(f"({until}) - time()", "{{instance}}")], "s"),
        graph("Broken certificate on disk", 6, [(each("tls_certificate_broken"), "{{instance}}")], "short", most=1,
              words="1: the one before it is still in use."),
        graph("Authentications", 8, [(rate("auth_total", RELAY, "result"), "{{result}}")], "cps",
              words="delayed: too many failures of that address or user; the password was not looked at."),
        graph("Logins by mechanism", 8, [(rate("auth_total", RELAY + ',result="ok"', "mechanism"), "{{mechanism}}")],
              "cps"),
        graph("Guard", 8, [
            (total("auth_guard_entries"), "addresses and users with failures"),
            (total("auth_waiting"), "passwords that wait to be hashed"),
        ], "short"),
        row("DKIM, and what messages lack"),
        graph("Signatures", 6, [(rate("dkim_signatures_total", RELAY, "algorithm"), "{{algorithm}}")], "cps",
              words="One for each key that signs."),
        graph("Keys", 6, [(f"max by (instance, state) ({each('dkim_keys')})", "{{instance}} {{state}}")], "short",
              words="Of dkim.keys, those with sign: true."),
        graph("Could not be signed", 6, [(rate("dkim_no_key_total", RELAY), "attempts")], "cps",
              words="Waits, is refused, or leaves unsigned, as dkim.missing_key says."),
        graph("Found by checks", 6, [(rate("message_checks_total", RELAY, "check, action"), "{{check}}: {{action}}")],
              "cps", words="Of the configuration's `checks`."),
        graph("Waits for TLS or a key", 12, [
            (total("queue_recipients", RELAY + ',reason=~"tls_policy|no_dkim_key"', "reason"), "{{reason}}")
        ], "short", stack=True, words="`fastrelay queue why ID` explains one message.", height=10),
        table("What the doctor found", 12, [
            ("errors", findings("error"), "short"),
            ("warnings", findings("warning"), "short"),
            ("unknown", findings("unknown"), "short"),
            ("notes", findings("note"), "short"),
            ("ok", findings("ok"), "short"),
        ], words="Of the last whole look."),
    ]  # fmt: skip
    return dashboard("fastrelay-security", "fastrelay / Security", "TLS, authentication, DKIM and the doctor.",
                     [JOB, INSTANCE], panels)  # fmt: skip


def _complaints() -> list[Panel]:
    """Complaint rates against the lines, and unsubscribing."""

    def shares(by: str) -> list[tuple[str, str]]:
        return [
            (total("complaint_share", f'{RELAY},by="{by}"', "name"), "{{name}}"),
            (f"max (fastrelay_complaint_warn_share{{{RELAY}}})", "warn"),
            (f"max (fastrelay_complaint_limit_share{{{RELAY}}})", "limit"),
        ]

    counted = rate("complaints_total", RELAY + ',result="counted"', "kind, reporter")
    lines = [(None, GREEN), (0.001, YELLOW), (0.003, RED)]
    return [
        row("Complaints"),
        stat("Complaint rate", 6, total("complaint_share", RELAY + ',by="all"'), "percentunit", steps=lines,
             words="About the mail of complaints.window. Google and Yahoo want less than 0.1 %, and never 0.3 %."),
        stat("Worst From domain", 6, f'max (fastrelay_complaint_share{{{RELAY},by="sender"}})', "percentunit",
             steps=lines, words="`fastrelay complaints` names it."),
        stat("Complaints of the window", 6, total("complaint_window_complaints", RELAY + ',by="all"'), "short"),
        stat("Deliveries of the window", 6, total("complaint_window_delivered", RELAY + ',by="all"'), "short"),
        *[
            graph(f"By {words}", 12, shares(by), "percentunit", dashed="warn|limit",
                  words="Names with fewer deliveries than complaints.least_delivered have no rate.")
            for by, words in (("source", "source"), ("provider", "provider"), ("sender", "From domain"),
                              ("campaign", "campaign"))
        ],
        graph("Feedback reports that counted", 12, [(counted, "{{kind}} by {{reporter}}")], "cps", stack=True),
        graph("Feedback reports that did not", 12, [
            (rate("complaints_total", RELAY + ',result!="counted"', "result"), "{{result}}")
        ], "cps", words="unmatched: about mail of others, or without a reference of ours (compose.reference)."),
        row("Unsubscribing"),
        graph("Recipients", 12, [(rate("unsubscribes_total", RELAY, "method, result"), "{{method}}: {{result}}")],
              "cps", stack=True, words="done: for the first time."),
        graph("Requests", 12, [
            (rate("unsubscribe_requests_total", RELAY, "result"), "{{result}}"),
            (total("unsubscribe_connections"), "open connections"),
        ], "short", words="By the page that answered: ask and done are well; failed was not kept, and is tried again."),
    ]  # fmt: skip


def _coming_back() -> list[Panel]:
    """Inbound mail, the suppression list, bounce messages, webhooks."""
    inbound = rate("inbound_messages_total", RELAY, "kind, matched")
    return [
        row("Mail that comes back"),
        graph("By what it is", 12, [(inbound, "{{kind}}, ours: {{matched}}")], "cps", stack=True,
              words="ours: no is about mail that we never sent, or has no reference of ours."),
        graph("Time to stable storage", 12, [
            (quantile(0.5, "inbound_seconds", RELAY), "half"), (quantile(0.99, "inbound_seconds", RELAY), "99 %"),
        ], "s", words="From a message's last octet until what follows from it is safe."),
        row("Suppression list and bounce messages"),
        graph("Entries", 8, [(total("suppression_entries", RELAY, "reason"), "{{reason}}")], "short", stack=True),
        graph("Look-ups", 8, [(rate("suppression_lookups_total", RELAY, "result"), "{{result}}")], "cps",
              words="failed: the list can't be read, and mail waits."),
        graph("Bounce messages", 8, [
            (rate("bounce_messages_total", RELAY, "kind"), "{{kind}}"), (total("bounces_owed"), "owed"),
        ], "short"),
        row("Webhooks"),
        graph("Behind by", 8, [(f"max by (webhook) (fastrelay_webhook_lag_seconds{{{RELAY}}})", "{{webhook}}")], "s",
              words="Age of the oldest event that was not taken."),
        graph("Events taken", 8, [
            (rate("webhook_events_total", RELAY, "webhook"), "{{webhook}}"),
            (rate("webhook_dropped_events_total", RELAY, "webhook, reason"), "{{webhook}} dropped: {{reason}}"),
        ], "cps"),
        graph("Requests", 8, [(rate("webhook_requests_total", RELAY, "webhook, result"), "{{webhook}}: {{result}}")],
              "reqps"),
        graph("Not read yet", 24, [
            (f"max by (webhook) (fastrelay_webhook_lag_bytes{{{RELAY}}})", "{{webhook}}")
        ], "bytes", height=6),
    ]  # fmt: skip


def feedback() -> dict[str, Any]:
    refused = rate("refusals_total", PROVIDER, "class")
    panels = [
        row("What refusals say"),
        graph("By class", 12, [(refused, "{{class}}")], "cps", stack=True, height=10,
              words="Refused, deferred and given up recipients. `fastrelay classify` explains one reply."),
        graph("Blocks and throttles, by provider", 12, [
            (rate("refusals_total", PROVIDER + ',class=~"rate|reputation_block|spam_content|authentication|policy"',
                  "provider, class"), "{{provider}}: {{class}}")
        ], "cps", height=10, words="About us or the message: no address is bad for it."),
        graph("Bad addresses, of what was delivered or failed", 12, [
            (f"{rate('refusals_total', PROVIDER + BAD_ADDRESS, 'provider')} / "
             f"({rate('outcomes_total', PROVIDER + ENDED, 'provider')} > 0)", "{{provider}}")
        ], "percentunit", words="bad_mailbox, bad_domain and inactive, for good. Above 2 % the list is old."),
        table("Class and provider, last hour", 12, [
            ("failed", in_an_hour("refusals_total", PROVIDER + ',outcome="failed"', "class, provider"), "short"),
            ("deferred", in_an_hour("refusals_total", PROVIDER + ',outcome="deferred"', "class, provider"), "short"),
            ("expired", in_an_hour("refusals_total", PROVIDER + ',outcome="expired"', "class, provider"), "short"),
        ]),
        *_complaints(),
        *_coming_back(),
        row("Reports of others"),
        graph("Mail in DMARC reports that failed, by source", 12, [
            (in_an_hour("dmarc_messages_total", RELAY + ',result="failed"', "source"), "{{source}}")
        ], "short", words="Neither DKIM nor SPF aligned. other: forwarded, forged, or sent past this relay."),
        graph("Mail in DMARC reports of ours, by result", 12, [
            (in_an_hour("dmarc_messages_total", RELAY + ',source!="other"', "result"), "{{result}}")
        ], "short", stack=True),
        graph("TLS sessions reported as failed", 12, [
            (in_an_hour("tlsrpt_sessions_total", RELAY + ',result!="ok"', "result"), "{{result}}")
        ], "short", words="Of others with the MX hosts of our domains."),
        graph("Reports that came in", 12, [
            (in_an_hour("reports_in_total", RELAY, "kind, result"), "{{kind}} {{result}}")
        ], "short", words="`fastrelay reports` sums them up."),
    ]  # fmt: skip
    return dashboard("fastrelay-feedback", "fastrelay / Feedback",
                     "What comes back: refusals, complaints, bounces, webhooks.",
                     [JOB, INSTANCE, PROVIDERS], panels)  # fmt: skip


DASHBOARDS: dict[str, Callable[[], dict[str, Any]]] = {
    "overview": overview,
    "providers": providers_and_sources,
    "warmup": warmup,
    "queue": queue,
    "workers": workers,
    "security": security,
    "feedback": feedback,
}


def text(name: str) -> str:
    """The JSON of one dashboard, as it is committed."""
    return json.dumps(DASHBOARDS[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    stale = [name for name in DASHBOARDS if not _is_current(name)]
    if "--check" in sys.argv[1:]:
        print(f"not current: {', '.join(stale)}" if stale else "current")
        return bool(stale)
    for name in stale:
        (HERE / f"{name}.json").write_text(text(name), encoding="utf-8")
        print(f"wrote {name}.json")
    return 0


def _is_current(name: str) -> bool:
    path = HERE / f"{name}.json"
    return path.exists() and path.read_text(encoding="utf-8") == text(name)


if __name__ == "__main__":
    sys.exit(main())
