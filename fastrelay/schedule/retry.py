"""When to try again (RFC 5321 section 4.5.4.1)."""

from __future__ import annotations

import random

from fastrelay.config.schema import Retry


def retry_delay_seconds(retry: Retry, attempts: int, rng: random.Random) -> float:
    """Seconds from the `attempts`-th failed attempt (counted from 1) to the next."""
    exponent = min(attempts - 1, 64)
    delay = min(retry.first_seconds * retry.factor**exponent, retry.max_seconds)
    return delay * (1 + retry.jitter_share * rng.uniform(-1, 1))
