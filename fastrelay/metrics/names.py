"""Every metric, once: its name, type, help, labels and buckets.

Workers make their entries in the slab through these definitions, and the collector exports what is defined here and
nothing else. Labels come from closed sets only: never a recipient domain, a campaign or the words of a reply. A series
whose label values are unknown to the set goes to `other` by the caller; a slab that is full does the same.

Conventions: prefix fastrelay_, base units (seconds, bytes), counters end in _total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrelay._core.slab import Slab

Kind = Literal["counter", "gauge", "histogram"]
# How the values of several workers become one: their sum, or the largest.
Merge = Literal["sum", "max"]

PREFIX = "fastrelay_"

# Closed sets of label values. Providers, sources, warm-up keys and rules come from the configuration and the files it
# names: source × provider is the only cross product that grows with it.
OUTCOMES = ("delivered", "deferred", "failed", "expired", "suppressed", "removed")
REASONS = (
    "ready",
    "retry_backoff",
    "connection_limit",
    "connect_backoff",
    "dns",
    "suspended",
    "quarantined",
    "no_source",
    "in_flight",
    "rate_limit",
    "warmup_cap",
    "provider_backoff",
    "spool_blocked",
    "tls_policy",
    "no_dkim_key",
    "suppression",
)
CONNECTION_STATES = ("connecting", "busy", "idle")
CONNECT_RESULTS = ("ok", "refused", "timeout", "unreachable", "greeting", "tls", "auth", "error")
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
SMTP_TLS_FAILURES = ("alert", "protocol", "timeout", "lost")
# Of RFC 8460 section 4.3, those that a session can end with; more come with MTA-STS and DANE.
TLS_FAILURES = (
    *("starttls-not-supported", "certificate-host-mismatch", "certificate-not-trusted", "certificate-expired"),
    *("tlsa-invalid", "validation-failure"),
)
BOUNCE_KINDS = ("failed", "delayed", "relayed", "undeliverable")
TLS_REPORT_RESULTS = ("sent", "none", "failed")
REPORT_RESULTS = ("counted", "repeated", "refused")
DMARC_RESULTS = ("aligned", "dkim_only", "spf_only", "failed")
# Of RFC 8460 section 4.3, as reports of others have them; `ok`: sessions that went well.
TLSRPT_RESULTS = (
    *("ok", "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"),
    *("validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error"),
    *("sts-policy-invalid", "sts-webpki-invalid", "unknown"),
)
TLS_VERIFIED = ("plain", "unverified", "pkix", "mta-sts", "dane")
DKIM_ALGORITHMS = ("rsa", "ed25519")
DNS_RESULTS = ("ok", "nxdomain", "nodata", "servfail", "timeout", "error")
REFUSALS = (
    *("relay_denied", "syntax", "size", "recipients", "connections", "disk_full", "queue_full", "policy", "error"),
    *("auth", "proxy"),
)
COMPLAINT_KINDS = ("complaint", "opt_out", "not_spam", "auth_failure")
COMPLAINT_RESULTS = ("counted", "repeated", "unmatched", "ignored")
UNSUBSCRIBE_METHODS = ("one-click", "page", "mailto")
AUTH_RESULTS = ("ok", "wrong", "malformed", "cancelled", "delayed", "busy", "connections", "disabled", "error")
ERROR_PLACES = ("ingest", "spool", "schedule", "route", "deliver", "outcome", "events", "worker", "feedback")
INBOUND_KINDS = (
    *("bounce", "delayed", "notice", "complaint", "report", "auto_reply", "challenge", "subscription", "unsubscribe"),
    *("other", "unreadable", "repeated"),
)

SECONDS_SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SECONDS_NETWORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SECONDS_TRANSACTION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
GROUP_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `of_supervisor`: the supervisor fills it, not a slab."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"
    of_supervisor: bool = False

    def entry(self, slab: Slab, **labels: str) -> int:
        """This metric's entry in a slab; the labels must be exactly those defined here. Keep the answer."""
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        if self.kind == "counter":
            return slab.counter(self.name, **labels)
        if self.kind == "gauge":
            return slab.gauge(self.name, **labels)
        return slab.histogram(self.name, self.buckets, **labels)


METRICS: dict[str, Metric] = {}


def _add(metric: Metric) -> Metric:
    METRICS[metric.name] = metric
    return metric


def _counter(name: str, help: str, *labels: str, of_supervisor: bool = False) -> Metric:
    return _add(Metric(f"{PREFIX}{name}_total", "counter", help, labels, of_supervisor=of_supervisor))


def _gauge(name: str, help: str, *labels: str, merge: Merge = "sum", of_supervisor: bool = False) -> Metric:
    return _add(Metric(PREFIX + name, "gauge", help, labels, merge=merge, of_supervisor=of_supervisor))


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return _add(Metric(PREFIX + name, "histogram", help, labels, tuple(float(bound) for bound in buckets)))


# Taking in
ACCEPTED_MESSAGES = _counter("accepted_messages", "Messages taken in: on stable storage and answered with 250.")
ACCEPTED_RECIPIENTS = _counter("accepted_recipients", "Recipients of the messages taken in.")
ACCEPTED_BYTES = _counter("accepted_bytes", "Octets of the contents taken in.")
SMTP_SESSIONS = _counter("smtp_sessions", "SMTP sessions that clients opened.")
SMTP_SESSIONS_OPEN = _gauge("smtp_sessions_open", "SMTP sessions of clients that are open now.")
SMTP_REFUSED = _counter("smtp_refused", "Commands, messages and connections of clients that were refused.", "class")
SMTP_TLS_HANDSHAKES = _counter(
    "smtp_tls_handshakes", "TLS handshakes with clients, by result and version of TLS.", "result", "version"
)
TLS_CERTIFICATE_EXPIRY = _gauge(
    "tls_certificate_expiry_timestamp_seconds", "When the certificate that clients see ends, since 1970.", merge="max"
)
TLS_CERTIFICATE_BROKEN = _gauge(
    "tls_certificate_broken",
    "1 when the certificate or key on disk can't be used, and the one before it is still in use.",
    merge="max",
)

AUTH = _counter("auth", "Authentications of clients, by mechanism and result.", "mechanism", "result")
AUTH_GUARD_ENTRIES = _gauge("auth_guard_entries", "Addresses and users whose failed authentications are remembered.")
AUTH_WAITING = _gauge("auth_waiting", "Passwords of clients that wait to be hashed.")

# Fates and waiting
OUTCOMES_TOTAL = _counter(
    "outcomes", "Recipients by what became of an attempt, or of them.", "outcome", "provider", "source"
)
REFUSALS_TOTAL = _counter(
    "refusals",
    "Recipients that were not delivered to, by what became of them, by class and kind of what was said, and provider.",
    "outcome",
    "class",
    "kind",
    "provider",
)
QUEUE_RECIPIENTS = _gauge("queue_recipients", "Recipients in the queue, by what they wait for.", "reason")
WAITING_RECIPIENTS = _gauge(
    "waiting_recipients",
    "Recipients at their site that could be sent, by provider and by what the site waits for.",
    "provider",
    "reason",
)
QUEUE_LIMIT = _gauge(
    "queue_limit_recipients",
    "Recipients that may be queued before mail is refused (limits.queued_recipients).",
    of_supervisor=True,
)
QUEUE_OLDEST_SECONDS = _gauge("queue_oldest_seconds", "Age of the oldest message in the queue.", merge="max")
QUARANTINED = _gauge("quarantined_messages", "Messages set aside for an operator to look at.")
POSSIBLE_DUPLICATES = _counter(
    "possible_duplicates", "Recipients sent to again after a crash left the outcome unknown."
)

# Delivery
DELIVERY_CONNECTIONS = _gauge(
    "delivery_connections", "Connections to MX hosts by state.", "provider", "source", "state"
)
CONNECTS = _counter("connects", "Attempts to connect to MX hosts by result.", "result")
TLS_HANDSHAKES = _counter(
    "tls_handshakes",
    "Connections to MX hosts for which TLS was wanted, by what came of it (result types of RFC 8460), version of TLS "
    "and whether an earlier session was resumed.",
    "result",
    "version",
    "resumed",
)
TLS_SESSIONS = _counter(
    "tls_sessions",
    "Sessions with MX hosts, by how the host has proved who it is: dane, mta-sts, pkix; unverified; or plain, no TLS.",
    "verified",
)
TLS_HANDSHAKE_SECONDS = _histogram("tls_handshake_seconds", "Time of a TLS handshake with an MX host.", SECONDS_NETWORK)
CONNECT_SECONDS = _histogram("connect_seconds", "Time to connect to an MX host.", SECONDS_NETWORK)
TRANSACTION_SECONDS = _histogram(
    "transaction_seconds", "Time from MAIL to the final reply.", SECONDS_TRANSACTION, "provider"
)
SITES = _gauge("sites", "Sites with a queue, summed over the workers.")
TLS_SITES = _gauge("tls_sites", "Sites with a queue, by the TLS policy that decides over connections.", "policy")
MTA_STS_POLICIES = _gauge("mta_sts_policies", "MTA-STS policies that are kept, by mode.", "mode", of_supervisor=True)
MTA_STS_FETCHES = _counter(
    "mta_sts_fetches", "Attempts to fetch an MTA-STS policy, by result (RFC 8460).", "result", of_supervisor=True
)
TLS_REPORTS = _counter(
    "tls_reports",
    "TLS reports of a day and domain (RFC 8460) that ended: sent; none, the domain asks for no reports; or failed.",
    "result",
    of_supervisor=True,
)
TLS_REPORTS_WAITING = _gauge(
    "tls_reports_waiting", "TLS reports whose hour, or next attempt, is to come.", of_supervisor=True
)
HOT_CACHE_BYTES = _gauge("hot_cache_bytes", "Octets of contents held in memory for their first attempt.")

MESSAGE_CHECKS = _counter(
    "message_checks", "Messages that a check of the configuration found fault with.", "check", "action"
)

DKIM_SIGNATURES = _counter("dkim_signatures", "DKIM-Signature fields made.", "algorithm")
DKIM_NO_KEY = _counter("dkim_no_key", "Times that a message could not be signed, since its key can't be used.")
DKIM_KEYS = _gauge("dkim_keys", "Configured DKIM keys that sign, by state: usable or not.", "state", merge="max")

# Limits, warm-up and back-off. `key` is the provider of a schedule of its own, or * for all others together.
LIMIT_DENIED = _counter("limit_denied", "Times that a site had mail, and a limit gave no permit.", "reason", "provider")
WARMUP_CAP = _gauge(
    "warmup_cap",
    "Recipients that a cold source may send in the present day or hour.",
    "source",
    "key",
    of_supervisor=True,
)
WARMUP_USED = _gauge(
    "warmup_used", "Recipients of the cap that are sent, or reserved by a worker.", "source", "key", of_supervisor=True
)
WARMUP_STAGE = _gauge("warmup_stage", "The stage of a warm-up, from 1.", "source", "key", of_supervisor=True)
WARMUP_STAGES = _gauge("warmup_stages", "Stages of a warm-up in all.", "source", "key", of_supervisor=True)
WARMUP_TO_GO = _gauge(
    "warmup_to_go",
    "Sending days until a warm-up is done, if every one of them advances.",
    "source",
    "key",
    of_supervisor=True,
)
WARMUP_HELD = _gauge(
    "warmup_held",
    "1 when a warm-up does not go on: held or stopped, by itself or by an operator.",
    "source",
    "key",
    of_supervisor=True,
)
BACKOFF_ACTIVE = _gauge(
    "backoff_active",
    "Back-offs that hold now: by a rule, the source sends nothing to the provider (or to some of its sites).",
    "source",
    "provider",
    of_supervisor=True,
)
BACKOFF_CUT = _gauge(
    "backoff_cut",
    "Cuts that hold now: by a rule, the source has fewer connections to the provider (or to some of its sites).",
    "source",
    "provider",
    of_supervisor=True,
)
ADAPTIVE_RATE = _gauge(
    "adaptive_rate",
    "Recipients a second that a source may send to a provider, as learnt from its deferrals.",
    "source",
    "provider",
    of_supervisor=True,
)
RULE_FIRED = _counter("rule_fired", "Replies that a back-off rule acted on.", "rule", "provider")
GREYLISTED = _counter(
    "greylisted", "Recipients deferred by greylisting, which says nothing about us.", "provider", "source"
)
BLOCKS = _counter("blocks", "Replies that refuse the sending address, not the recipient.", "provider", "source")

# Spool
COMMIT_SECONDS = _histogram("commit_seconds", "Time of a group commit: contents and records synced.", SECONDS_SHORT)
COMMIT_GROUP_MESSAGES = _histogram(
    "commit_group_messages", "Messages and settlements in one group commit.", GROUP_SIZES
)
COMMIT_FAILURES = _counter("commit_failures", "Group commits that failed.")
SPOOL_BYTES = _gauge("spool_bytes", "Octets of the spool on disk.")
SPOOL_LIVE_BYTES = _gauge("spool_live_bytes", "Octets of the spool that a queued message needs.")
SPOOL_SEGMENTS = _gauge("spool_segments", "Segment files.")
SPOOL_UNHEALTHY = _gauge("spool_unhealthy", "Spools that are out of order: no mail in, or no outcomes recorded.")
SPOOL_REFUSING = _gauge("spool_refusing", "Workers that refuse mail for now, because of the disk or their spool.")
SPOOL_RESERVE_BYTES = _gauge(
    "spool_reserve_bytes", "With less free disk than this, mail is refused (spool.reserve).", of_supervisor=True
)
DISK_SIZE_BYTES = _gauge("disk_size_bytes", "Size of the disk that holds the state directory.", merge="max")
DISK_FREE_BYTES = _gauge("disk_free_bytes", "Free octets of the disk that holds the state directory.", merge="max")

# Routing
DNS_QUERIES = _counter("dns_queries", "DNS queries by result.", "result")
DNS_SECONDS = _histogram("dns_seconds", "Time of a DNS query.", SECONDS_NETWORK)

# Mail that comes back
INBOUND_MESSAGES = _counter(
    "inbound_messages",
    "Messages that came in at inbound addresses, by what they are, and whether they are about mail that we sent.",
    "kind",
    "matched",
)
INBOUND_SECONDS = _histogram(
    "inbound_seconds", "Time from a message's last octet to all that follows from it on stable storage.", SECONDS_SHORT
)

# Complaints and unsubscribing
COMPLAINTS = _counter(
    "complaints",
    "Feedback reports by what they say, who told it, and whether they counted (`unmatched`: no mail of ours).",
    "kind",
    "reporter",
    "result",
)
COMPLAINT_DELIVERED = _gauge(
    "complaint_window_delivered",
    "Deliveries of the days of complaints.window, by what, of the busiest names.",
    "by",
    "name",
    of_supervisor=True,
)
COMPLAINT_COUNT = _gauge(
    "complaint_window_complaints",
    "Complaints about mail of the days of complaints.window, by what, of the busiest names.",
    "by",
    "name",
    of_supervisor=True,
)
COMPLAINT_SHARE = _gauge(
    "complaint_share",
    "Complaints by deliveries within complaints.window; only where there were complaints.least_delivered.",
    "by",
    "name",
    of_supervisor=True,
)
COMPLAINT_WARN = _gauge("complaint_warn_share", "complaints.warn of the configuration.", of_supervisor=True)
COMPLAINT_LIMIT = _gauge("complaint_limit_share", "complaints.limit of the configuration.", of_supervisor=True)
UNSUBSCRIBES = _counter(
    "unsubscribes", "Recipients who unsubscribed, by how, and whether they had before.", "method", "result"
)
UNSUBSCRIBE_REQUESTS = _counter(
    "unsubscribe_requests", "Requests at the unsubscribe page by the page that answered them.", "result"
)
UNSUBSCRIBE_CONNECTIONS = _gauge("unsubscribe_connections", "Connections that are open at the unsubscribe page.")

# Events
EVENTS = _counter("events", "Lines written to the event logs.")
EVENT_LOG_FAILURES = _counter("event_log_failures", "Failed writes to the event logs; the lines are written again.")

SUPPRESSION_ENTRIES = _gauge("suppression_entries", "Entries of the suppression list, by reason.", "reason")
SUPPRESSION_LOOKUPS = _counter(
    "suppression_lookups",
    "Recipients looked up in the suppression list (at acceptance, and each time they are to be sent to), by result: "
    "read; of them suppressed; or failed, the list could not be read.",
    "result",
)

# Bounce messages
BOUNCE_MESSAGES = _counter(
    "bounce_messages",
    "Bounce messages made, by the worst they tell; `undeliverable`: the sender's address can't be written to.",
    "kind",
)
BOUNCES_OWED = _gauge("bounces_owed", "Messages that a bounce message is owed for; at most 50,000 a worker count.")

# Webhooks
WEBHOOK_DROPS = ("too_old", "refused")
WEBHOOK_REQUESTS = _counter("webhook_requests", "Requests to webhooks that ended, by result.", "webhook", "result")
WEBHOOK_EVENTS = _counter("webhook_events", "Events that a webhook has taken.", "webhook")
WEBHOOK_DROPPED = _counter(
    "webhook_dropped_events", "Events that a webhook never took: too_old (give_up), or refused for good.",
    "webhook", "reason",
)  # fmt: skip
WEBHOOK_LAG_SECONDS = _gauge("webhook_lag_seconds", "Age of the oldest event that a webhook has not taken.", "webhook")
WEBHOOK_LAG_BYTES = _gauge(
    "webhook_lag_bytes", "What a webhook has not read yet of the event logs that it is in.", "webhook"
)

# Reports of others about our domains
REPORTS_IN = _counter("reports_in", "DMARC and TLS reports that came in, by what became of them.", "kind", "result")
DMARC_MESSAGES = _counter(
    "dmarc_messages",
    "Messages in DMARC reports, by the source of ours that sent them (`other`: not from our addresses) and by which of "
    "DKIM and SPF passed and was aligned.",
    "source",
    "result",
)
TLSRPT_SESSIONS = _counter("tlsrpt_sessions", "Sessions in TLS reports about our domains, by result.", "result")

# Ourselves
ERRORS = _counter("errors", "Errors inside the relay that an operator should look at, by part.", "where")
WORKER_UP = _gauge("worker_up", "1 when the worker is ready.", "worker", of_supervisor=True)
WORKER_RESTARTS = _counter("worker_restarts", "Times the worker was started again.", "worker", of_supervisor=True)
WORKER_RSS_BYTES = _gauge("worker_rss_bytes", "Resident memory of the worker.", "worker", of_supervisor=True)
WORKER_CPU_SECONDS = _counter(
    "worker_cpu_seconds", "Processor time of the worker, user and system.", "worker", of_supervisor=True
)
LOOP_LAG_SECONDS = _gauge(
    "loop_lag_seconds", "Time that the slowest worker's event loop was late by, in the last second.", merge="max"
)
INDEX_BYTES = _gauge("index_bytes", "Memory of the index of queued mail.")
SERIES_OVERFLOWS = _counter(
    "metric_series_overflows", "Series counted as `other`, because a metrics file was full.", of_supervisor=True
)
TABLE_CELLS = _gauge("shared_table_cells", "Cells of the shared table in use.", of_supervisor=True)
TABLE_OVERFLOWS = _counter(
    "shared_table_overflows", "Names that share a cell, because the shared table was full.", of_supervisor=True
)
CONFIG_RELOAD_SUCCESS = _gauge(
    "config_last_reload_successful", "1 when the configuration file was taken over at the last try.", of_supervisor=True
)
DOCTOR_FINDINGS = _gauge(
    "doctor_findings",
    "Findings of the last complete run of `fastrelay doctor`, by check and severity.",
    "check",
    "severity",
    of_supervisor=True,
)
DOCTOR_RUN_TIMESTAMP = _gauge(
    "doctor_run_timestamp_seconds",
    "When `fastrelay doctor` last looked at everything, in seconds since 1970; 0: not since the relay started.",
    of_supervisor=True,
)
BUILD_INFO = _gauge("build_info", "1; the version is in the label.", "version", of_supervisor=True)

# Counters that are there with 0 from a worker's start, for alerts see an increase only after a 0: a metric, and the
# values of each of its labels.
FROM_THE_START: tuple[tuple[Metric, dict[str, tuple[str, ...]]], ...] = (
    (SMTP_REFUSED, {"class": REFUSALS}),
    (COMPLAINTS, {"kind": ("complaint",), "reporter": ("other",), "result": COMPLAINT_RESULTS}),
    (UNSUBSCRIBE_REQUESTS, {"result": ("ask", "done", "failed")}),
    (UNSUBSCRIBES, {"method": UNSUBSCRIBE_METHODS, "result": ("done", "repeated")}),
    (INBOUND_MESSAGES, {"kind": INBOUND_KINDS, "matched": ("yes", "no")}),
    (SMTP_TLS_HANDSHAKES, {"result": ("ok",), "version": TLS_VERSIONS}),
    (SMTP_TLS_HANDSHAKES, {"result": SMTP_TLS_FAILURES, "version": ("none",)}),
    (DKIM_SIGNATURES, {"algorithm": DKIM_ALGORITHMS}),
    (CONNECTS, {"result": CONNECT_RESULTS}),
    (TLS_HANDSHAKES, {"result": ("ok",), "version": TLS_VERSIONS, "resumed": ("no", "yes")}),
    (TLS_HANDSHAKES, {"result": TLS_FAILURES, "version": ("none",), "resumed": ("no",)}),
    (DNS_QUERIES, {"result": DNS_RESULTS}),
    (TLS_SESSIONS, {"verified": TLS_VERIFIED}),
    (ERRORS, {"where": ERROR_PLACES}),
    (SUPPRESSION_LOOKUPS, {"result": ("read", "suppressed", "failed")}),
    (BOUNCE_MESSAGES, {"kind": BOUNCE_KINDS}),
)
