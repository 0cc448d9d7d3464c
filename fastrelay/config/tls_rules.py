"""Rules of the configuration about TLS: listeners and their certificate, levels, policies, reports, smart hosts.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,255}")


def _reports(config: Config, rules: Rules) -> None:
    """Mailboxes of TLS reports stand in header fields and in RCPT. A report has to be signed (RFC 8460 section 3)."""
    reports = config.tls.outbound.reports
    for name in ("sender", "contact"):
        path, value = f"tls.outbound.reports.{name}", getattr(reports, name)
        if value is not None and rules.sound(path) and not _MAILBOX.fullmatch(value):
            rules.problem(path, f"{value!r} is no mailbox", "write it as tlsrpt@example.com")
    if reports.sender is None or not rules.sound("tls.outbound.reports.sender", "dkim"):
        return
    domain = reports.sender.rpartition("@")[2].lower()
    if not any(domain == key.domain or domain.endswith("." + key.domain) for key in config.dkim.keys if key.sign):
        rules.warn(
            "tls.outbound.reports.sender",
            f"no DKIM key signs mail from {domain}, and reports that are not signed are ignored",
            "name a key for it below dkim.keys",
        )


TLS_RULES: list[Callable[[Config, Rules], None]] = [_reports]
