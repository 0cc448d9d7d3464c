"""What every check gets: the configuration, the look-ups of the run, the subjects and the time."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.doctor.findings import Finding
from fastrelay.doctor.lookups import Lookups
from fastrelay.doctor.subjects import Subjects
from fastrelay.route.resolver import Answer
from fastrelay.tls.mta_sts import Policy

# How the resolver says that it is not the name that is in trouble, but our own nameservers.
UNREACHED = re.compile("cannot be reached")


@dataclass(slots=True)
class Look:
    """One run.

    config   the configuration; None of the checks changes anything
    dns      look-ups of the run
    wall     seconds since 1970
    relay    what `status` of the running relay says; empty without one
    timeout  seconds for one answer of anybody
    fetch    the MTA-STS policy of a domain, over HTTPS; raises tls.mta_sts.PolicyError
    """

    config: Config
    dns: Lookups
    subjects: Subjects
    wall: float
    timeout: float
    fetch: Callable[[str], Awaitable[Policy]]
    relay: dict[str, Any] = field(default_factory=dict)


def could_not_tell(check: str, subject: str, what: str, answer: Answer) -> Finding:
    """The DNS does not say: neither good nor bad."""
    return Finding(
        check=check,
        subject=subject,
        severity="unknown",
        found=f"could not tell: {what} cannot be looked up ({answer.detail})",
        mend="check dns.nameservers, and the way to them"
        if UNREACHED.search(answer.detail)
        else "look again later; if it stays so, ask the nameservers of that name (dig +trace)",
    )
