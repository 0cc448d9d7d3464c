"""Rules of the configuration about feedback: inbound addresses, bounces, suppression, unsubscribe, webhooks.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from fastrelay.config.feedback import EventName

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

# What each format of a webhook has a word for; feedback/hook_formats.py makes them.
_BOUNCES = ("failed", "expired", "bounced", "complained")
WEBHOOK_WORDS: dict[str, frozenset[str]] = {
    "fastrelay": frozenset(get_args(EventName)),
    "listmonk": frozenset(_BOUNCES),
    "sendgrid": frozenset(get_args(EventName)) - {"suppression"},
    "postmark": frozenset((*_BOUNCES, "delivered", "deferred", "unsubscribed", "suppression")),
}
_URL_PATH = re.compile(r"[A-Za-z0-9/._~!$&'()*+,;=:@-]+")
_BLANK = re.compile(r"[\s\x00-\x20\x7f]")
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


def _inbound_listeners(config: Config, rules: Rules) -> None:
    """A listener for what comes back asks nobody for a password; and what is to come back should find one."""
    listeners = [(number, one) for number, one in enumerate(config.listeners.smtp) if one.inbound]
    if not listeners:
        return
    for number, listener in listeners:
        if listener.auth in ("optional", "required"):
            rules.problem(
                f"listeners.smtp[{number}].auth",
                f"is {listener.auth}, but bounces come from hosts that have no password",
                "leave it out, or use another listener for submission",
            )
    compose = config.compose
    if not compose.reference and "{reference}" not in (compose.reverse_path or ""):
        rules.warn(
            f"listeners.smtp[{listeners[0][0]}].inbound",
            "takes bounces, but our mail has no reference by which they could be told from forged ones",
            "write compose.reverse_path: bounces+{reference}@DOMAIN, or compose.reference: X-Fastrelay-Reference",
        )
    from fastrelay.ingest.inbound import Addresses  # only here: it loads the SMTP server

    doors = [Addresses(listener.inbound) for _, listener in listeners]
    mailto = (compose.list_unsubscribe_mailto or "").removeprefix("mailto:").partition("?")[0]
    for path, template in (
        ("compose.reverse_path", compose.reverse_path),
        ("compose.list_unsubscribe_mailto", mailto),
        ("compose.cfbl_address", compose.cfbl_address),
    ):
        address = re.sub(r"\{[^{}]*\}", "x", template or "").encode()
        if address and rules.sound(path) and not any(door.take(address) for door in doors):
            rules.warn(
                path,
                f"names an address that no listener takes in ({address.decode()})",
                "add it to inbound of a listener, unless another host takes it",
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


def _webhooks(config: Config, rules: Rules) -> None:
    names: set[str] = set()
    for at, hook in enumerate(config.events.webhooks):
        path = f"events.webhooks[{at}]"
        if not rules.sound(path):
            continue
        if hook.name in names:
            rules.problem(f"{path}.name", f"{hook.name!r} is the name of another one", "give each a name of its own")
        names.add(hook.name)
        _webhook_url(hook.url, f"{path}.url", rules)
        unsayable = sorted(set(hook.events) - WEBHOOK_WORDS[hook.format])
        if unsayable:
            rules.problem(
                f"{path}.events",
                f"the format {hook.format} has no word for {', '.join(unsayable)}",
                f"it has words for {', '.join(sorted(WEBHOOK_WORDS[hook.format]))}",
            )
        if hook.secret_file is not None and hook.format in ("listmonk", "postmark"):
            rules.problem(
                f"{path}.secret_file",
                f"requests of the format {hook.format} are not signed",
                "leave it out; username and password_file are for Basic authentication",
            )
        if (hook.username is None) != (hook.password_file is None):
            there, missing = ("username", "password_file") if hook.username else ("password_file", "username")
            rules.problem(f"{path}.{there}", f"needs {missing} beside it", f"set {missing} too, or leave both out")
        elif hook.username is not None and ":" in hook.username:
            rules.problem(f"{path}.username", "has a colon, which Basic authentication can't carry", "choose another")
        if hook.ca_file is not None and hook.url.startswith("http:"):
            rules.problem(f"{path}.ca_file", "means nothing without TLS", "write https:// in url, or leave it out")


def _webhook_url(url: str, path: str, rules: Rules) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or _BLANK.search(url):
        rules.problem(path, f"{url!r} is no web address", "write https://host/path")
    elif parts.username is not None or parts.password is not None:
        # Addresses are shown in logs and by commands.
        rules.problem(path, "holds a user name or password", "use username and password_file")
    elif parts.scheme == "http" and not _is_loopback(host):
        rules.warn(path, "events go over the network unencrypted", "use https://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unsubscribe(config: Config, rules: Rules) -> None:
    """The page, and the links that are to lead to it."""
    path = config.unsubscribe.path
    if rules.sound("unsubscribe.path"):
        if not path.startswith("/") or not _URL_PATH.fullmatch(path):
            rules.problem("unsubscribe.path", f"{path!r} is no path of a URL", "write /unsubscribe/")
            return
        if path.rstrip("/") in ("", "/healthz"):
            rules.problem("unsubscribe.path", f"{path!r} is taken", "write /unsubscribe/")
            return
    listener, link = config.listeners.unsubscribe, config.compose.list_unsubscribe
    if listener is None or not rules.sound("listeners.unsubscribe"):
        return
    if listener.tls == "implicit" and config.tls.certificate is None:
        rules.problem("listeners.unsubscribe.tls", "needs a certificate", "set tls.certificate, or write none")
    elif listener.tls != "implicit" and config.tls.certificate is None and not _is_loopback(listener.address[0]):
        rules.warn(
            "listeners.unsubscribe", "is reached without TLS, and one-click wants https (RFC 8058)",
            "set tls.certificate, or bind it to 127.0.0.1 behind a web server",
        )  # fmt: skip
    if link is None or not rules.sound("compose.list_unsubscribe"):
        return
    if "{reference}" not in link:
        rules.warn("compose.list_unsubscribe", "has no {reference}, by which the page would know whom", "add it")
    else:
        behind = link.partition("://")[2].partition("/")[2]
        if not f"/{behind}".startswith(path.rstrip("/")):
            rules.warn(
                "compose.list_unsubscribe", f"does not lead to unsubscribe.path, {path}",
                f"write https://HOST{path}{{reference}}, or have the web server in front rewrite it",
            )  # fmt: skip


def _complaint_lines(config: Config, rules: Rules) -> None:
    lines = config.complaints
    if rules.sound("complaints") and lines.warn_share > lines.limit_share:
        rules.problem("complaints.warn", "is above complaints.limit", "write the lower one here, such as 0.1%")


FEEDBACK_RULES: list[Callable[[Config, Rules], None]] = [
    _webhooks,
    _inbound_addresses,
    _inbound_listeners,
    _unsubscribe,
    _complaint_lines,
]
