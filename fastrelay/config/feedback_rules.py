"""Rules of the configuration about feedback: inbound addresses, bounces, suppression, unsubscribe, webhooks.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import os
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


def check_replies(config: Config, rules: Rules, folder: str) -> None:
    """The operator's file of reply classes: its problems are told with its own name and lines."""
    if config.replies is None or not rules.sound("replies"):
        return
    path = os.path.normpath(os.path.join(folder, os.path.expanduser(config.replies)))
    if not os.path.isfile(path):
        rules.problem("replies", f"{path} is not a file", "write the path of a file of rules, or leave it out")
        return
    from fastrelay.feedback.classes import check_replies_file

    rules.reader.problems += check_replies_file(path, config.providers)


FEEDBACK_RULES: list[Callable[[Config, Rules], None]] = [_inbound_addresses]
