"""Rules of the configuration about feedback: inbound addresses, bounces, suppression, unsubscribe, webhooks.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

_INBOUND = re.compile(r"(\*|[^\s@<>\"]{1,64})@[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


def _inbound_addresses(config: Config, rules: Rules) -> None:
    for number, listener in enumerate(config.listeners.smtp):
        path = f"listeners.smtp[{number}].inbound"
        if not rules.sound(path):
            continue
        for at, address in enumerate(listener.inbound):
            if _INBOUND.fullmatch(address) is None:
                rules.problem(
                    f"{path}[{at}]", f"{address!r} is no address", "write bounces@example.com, or *@bounces.example.com"
                )


FEEDBACK_RULES: list[Callable[[Config, Rules], None]] = [_inbound_addresses]
