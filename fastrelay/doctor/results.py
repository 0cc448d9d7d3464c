"""What the running relay keeps of the doctor's last complete look: counts for its metrics.

They come through the control socket (`doctor.results`), are checked against the closed sets of findings.py, since they
become label values, and are gone with the relay: the time stamp is then 0 until the next look.
"""

from __future__ import annotations

from typing import Any

from fastrelay.doctor.findings import CHECKS, SEVERITIES
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts


class Results:
    """Findings by check and severity, and when they were made (s since 1970; 0: never)."""

    def __init__(self) -> None:
        self.findings: dict[str, dict[str, int]] = {}
        self.finished = 0.0

    def take(self, findings: Any, finished: Any) -> None:
        """Keep the counts of a look, in place of the last one's. Raises ValueError for anything that is none."""
        taken: dict[str, dict[str, int]] = {}
        if not isinstance(findings, dict) or not isinstance(finished, int | float) or not 0 < finished < 1e11:
            raise ValueError("doctor.results wants findings (check: severity: number) and finished (s since 1970)")
        for check, counts in findings.items():
            if check not in CHECKS or not isinstance(counts, dict):
                raise ValueError(f"doctor.results: there is no check {check!r}")
            for severity, count in counts.items():
                if severity not in SEVERITIES or not isinstance(count, int) or count < 0:
                    raise ValueError(f"doctor.results: {check} has no {severity!r} of {count!r}")
            taken[check] = dict(counts)
        self.findings, self.finished = taken, float(finished)

    def add_to(self, facts: Facts) -> None:
        """The metrics."""
        facts.set(names.DOCTOR_RUN_TIMESTAMP, self.finished)
        for check, counts in self.findings.items():
            for severity in SEVERITIES:
                facts.set(names.DOCTOR_FINDINGS, counts.get(severity, 0), check, severity)
