"""Rules of the configuration about what is added to messages (`compose`) and what they are checked for (`checks`).

A template is tried with values in place: what is wrong with it is said at load, not found in mail that was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastrelay.config.templates import faults, names_in, plain

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

FEEDBACK_PARTS = 4
LOCAL_OCTETS = 64
REFERENCE = 49  # characters of a reference that names the message
REFERENCE_AND_HASH = 56  # of one that tells the recipients of the message apart, too

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.IGNORECASE)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_URL = re.compile(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*")
_FEEDBACK = re.compile(r"[A-Za-z0-9._=+-]*")
_SENDER_ID = re.compile(r"[A-Za-z0-9._=+-]{5,15}")
# Fields that say who and what a message is; our reference is none of that.
_NOT_A_REFERENCE = frozenset({
    "from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "in-reply-to", "references",
    "received", "return-path", "dkim-signature", "mime-version", "content-type", "content-transfer-encoding",
    "list-unsubscribe", "list-unsubscribe-post", "feedback-id", "cfbl-address", "authentication-results",
    "tls-required",
})  # fmt: skip


def _placeholders(config: Config, rules: Rules) -> None:
    for name in ("list_unsubscribe", "list_unsubscribe_mailto", "feedback_id", "reverse_path"):
        path, text = f"compose.{name}", getattr(config.compose, name)
        if text is None or not rules.sound(path):
            continue
        for fault in faults(text):
            rules.problem(path, fault, "write a name that there is, or leave the braces out")
            rules.faulty.append(path)


def _list_unsubscribe(config: Config, rules: Rules) -> None:
    path, text = "compose.list_unsubscribe", config.compose.list_unsubscribe
    if text is None or not rules.sound(path):
        return
    url = plain(text)
    if not url.lower().startswith("https://"):
        rules.problem(path, "is not an https URL, which one-click needs (RFC 8058)", "write https://…")
        return
    if not _URL.fullmatch(url):
        rules.problem(path, "has a character that a URL can't have", "percent-encode it (%20 for a space)")
        return
    host = text[len("https://") :].partition("/")[0].partition("?")[0].partition("#")[0]
    if names_in(host) or not _HOST.fullmatch(urlsplit(url).hostname or ""):
        rules.problem(path, "has no host name of its own", "write https://news.example.com/unsubscribe/{reference}")
    elif not names_in(text) & {"recipient", "local", "reference", "id"}:
        rules.warn(path, "is the same for every recipient, and a POST to it names none", "add {reference}")
    elif urlsplit(url).fragment:
        rules.warn(path, "has a fragment (#…), which a POST leaves out", "use the path or the query")


def _mailbox(rules: Rules, path: str, text: str) -> bool:
    """Whether a mailbox with placeholders in its local part can be one; says what is wrong."""
    local, at, domain = text.rpartition("@")
    if not at or names_in(domain) or not _HOST.fullmatch(domain):
        rules.problem(
            path, f"{text!r} has no domain of its own behind its @", "write it as bounces+{reference}@example.com"
        )
    elif not _LOCAL.fullmatch(plain(local)):
        rules.problem(path, f"{local!r} can't be a local part", "use letters, digits, and any of . + - _ = between")
    elif len(re.sub(r"\{[^{}]*\}", "", local)) > LOCAL_OCTETS:
        rules.problem(path, f"its local part is longer than {LOCAL_OCTETS} octets", "shorten it")
    else:
        return True
    return False


def _mailto(config: Config, rules: Rules) -> None:
    path, text = "compose.list_unsubscribe_mailto", config.compose.list_unsubscribe_mailto
    if text is None or not rules.sound(path):
        return
    address, _, query = text.removeprefix("mailto:").partition("?")
    if query and not text.startswith("mailto:"):
        rules.problem(path, "has a query, so it has to be a mailto URL", f"write mailto:{text}")
    elif not _URL.fullmatch(plain(query)):
        rules.problem(path, "has a character that a URL can't have", "percent-encode it (%20 for a space)")
    elif _mailbox(rules, path, address):
        _room_for_reference(rules, path, address)


def _feedback_id(config: Config, rules: Rules) -> None:
    path, text = "compose.feedback_id", config.compose.feedback_id
    if text is None or not rules.sound(path):
        return
    parts = text.split(":")
    single = sorted(names_in(text) & {"recipient", "local", "reference", "id"})
    if len(parts) > FEEDBACK_PARTS:
        rules.problem(path, f"has {len(parts)} parts; Google reads {FEEDBACK_PARTS}", "leave out the least useful")
    elif single:
        rules.problem(
            path,
            f"{{{single[0]}}} differs for each message, and Google adds up what is the same",
            "use {campaign}, {tenant}, {pool} or {sender_domain}",
        )
    elif not all(_FEEDBACK.fullmatch(re.sub(r"\{[^{}]*\}", "", part)) for part in parts):
        rules.problem(path, "has a character that can't stand there", "use letters, digits and . _ = + -")
    elif not _SENDER_ID.fullmatch(parts[-1]):
        rules.problem(
            path,
            f"its last part, {parts[-1]!r}, is no sender id: 5 to 15 characters, the same in all your mail",
            "end it with such a name, as in {campaign}:{tenant}:news:example",
        )


def _cfbl_address(config: Config, rules: Rules) -> None:
    path, text = "compose.cfbl_address", config.compose.cfbl_address
    if text is not None and rules.sound(path) and names_in(text):
        rules.problem(path, "has a placeholder; it is one address for all mail", "write it as fbl@example.com")
    elif text is not None and rules.sound(path):
        _mailbox(rules, path, text)


def _reference(config: Config, rules: Rules) -> None:
    path, name = "compose.reference", config.compose.reference
    if name is not None and rules.sound(path) and name.lower() in _NOT_A_REFERENCE:
        rules.problem(path, f"{name} has a meaning of its own", "write another name, such as X-Fastrelay-Reference")


def _reverse_path(config: Config, rules: Rules) -> None:
    path, text = "compose.reverse_path", config.compose.reverse_path
    if text is None or not rules.sound(path) or not _mailbox(rules, path, text):
        return
    if not names_in(text) & {"recipient", "local", "domain", "reference"}:
        rules.warn(path, "is the same for every recipient, so a bounce does not tell whose it is", "add {reference}")
    _room_for_reference(rules, path, text)


def _room_for_reference(rules: Rules, path: str, text: str) -> None:
    local = text.rpartition("@")[0]
    if "reference" not in names_in(local):
        return
    room = LOCAL_OCTETS - len(re.sub(r"\{[^{}]*\}", "", local))
    if room < REFERENCE:
        rules.problem(
            path,
            f"leaves {max(0, room)} of {LOCAL_OCTETS} characters for the reference, which may have {REFERENCE}",
            f"write at most {LOCAL_OCTETS - REFERENCE} characters beside it",
        )
    elif room < REFERENCE_AND_HASH and path == "compose.reverse_path":
        rules.warn(
            path,
            f"leaves {room} of {LOCAL_OCTETS} characters for the reference, too few to tell the recipients of one "
            "message apart",
            f"write at most {LOCAL_OCTETS - REFERENCE_AND_HASH} characters beside it",
        )


def _signed(config: Config, rules: Rules) -> None:
    """RFC 8058 section 4: both fields must be covered by the signature."""
    if config.compose.list_unsubscribe is None or not config.dkim.keys or not rules.sound("dkim.sign_fields"):
        return
    listed = {name.lower() for name in (*config.dkim.sign_fields, *config.dkim.oversign_fields)}
    lacking = [name for name in ("List-Unsubscribe", "List-Unsubscribe-Post") if name.lower() not in listed]
    if lacking:
        rules.warn(
            "dkim.sign_fields",
            f"lacks {lacking[0]}, so providers ignore one-click",
            f"add {' and '.join(lacking)}",
        )


def _checks(config: Config, rules: Rules) -> None:
    if not rules.sound("checks"):
        return
    for name in config.checks.warn:
        if name in config.checks.refuse:
            rules.warn("checks.warn", f"names {name}, which checks.refuse names, too", "leave one of them out")
    if "unsigned" in config.checks.refuse and not config.dkim.keys:
        rules.warn("checks.refuse", "names unsigned, and without dkim.keys all mail is refused", "add a key")


COMPOSE_RULES: list[Callable[[Config, Rules], None]] = [
    _placeholders, _list_unsubscribe, _mailto, _feedback_id, _cfbl_address, _reference, _reverse_path, _signed, _checks,
]  # fmt: skip
