"""Rules of the configuration about AUTH: users, mechanisms, listeners, and who the relay runs as.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config, SmtpListener


def _listeners(config: Config, rules: Rules) -> None:
    """AUTH only where there are users, and where it can be had: under TLS, or on loopback if that is allowed."""
    if not rules.sound("auth", "listeners", "tls"):
        return
    offered = False
    for index, listener in enumerate(config.listeners.smtp):
        path = f"listeners.smtp[{index}].auth"
        if listener.auth in ("optional", "required") and config.auth.users is None:
            rules.problem(
                path,
                f"is {listener.auth}, but there are no users",
                "name a file in auth.users (fastrelay user add makes it), or write none",
            )
            continue
        may = listener.auth != "none" and _may_authenticate(config, listener)
        offered = offered or may
        if listener.auth == "required" and not may:
            rules.problem(
                path,
                "is required, but nobody can: there is no TLS here",
                "give tls.certificate and tls: starttls or implicit, or set auth.without_tls_on_loopback for clients "
                "of this host",
            )
    if config.auth.users is not None and config.listeners.smtp and not offered:
        rules.warn(
            "auth.users",
            "is of no use: no listener offers AUTH, which is only done under TLS",
            "give tls.certificate, or set auth.without_tls_on_loopback for clients of this host",
        )


def _may_authenticate(config: Config, listener: SmtpListener) -> bool:
    if listener.tls != "none" and (config.tls.certificate is not None or listener.tls is not None):
        return True  # that there is a certificate is a rule of TLS
    address = ipaddress.ip_address(listener.address[0])
    return config.auth.without_tls_on_loopback and (address.is_loopback or address.is_unspecified)


def _mechanisms(config: Config, rules: Rules) -> None:
    if not rules.sound("auth.mechanisms"):
        return
    mechanisms = config.auth.mechanisms
    if not mechanisms:
        rules.problem("auth.mechanisms", "is empty", "leave it away for all, or leave auth.users away for no AUTH")
    for index, name in enumerate(mechanisms):
        if name in mechanisms[:index]:
            rules.problem(f"auth.mechanisms[{index}]", f"{name} is in the list twice", "keep one of them")


def _failures(config: Config, rules: Rules) -> None:
    if rules.sound("auth") and config.auth.failure_delay_seconds > config.auth.failure_window_seconds:
        rules.problem(
            "auth.failure_delay", "is longer than auth.failure_window, the longest that anybody waits", "write less"
        )


AUTH_RULES: list[Callable[[Config, Rules], None]] = [_listeners, _mechanisms, _failures]
