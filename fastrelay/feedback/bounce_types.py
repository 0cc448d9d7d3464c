"""What comes out of reading a bounce message, and what an address looks like."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

What = Literal["bounce", "delayed", "notice", "auto_reply", "challenge", "subscription", "complaint", "other"]

_LOCAL = re.compile(r"""(?:[^\s()<>\[\],;:@\\"\x00-\x1f\x7f]+|"(?:[^"\\\r\n]|\\.){0,62}")""")
_LABEL = re.compile(
    r"[A-Za-z0-9_\u0080-\U0010ffff](?:[A-Za-z0-9_\u0080-\U0010ffff-]{0,61}[A-Za-z0-9_\u0080-\U0010ffff])?"
)
_REPORTED = re.compile(r"[^\s()<>,;:@\"\\\x00-\x1f\x7f]+")
_REPORTED_LOCAL = re.compile(r"""[^\s()<>,;"\x00-\x1f\x7f]+|"[^"\x00-\x1f\x7f]*\"""")
_TOP = re.compile(r"(?:[A-Za-z\u0080-\U0010ffff]{2,63}|xn--[A-Za-z0-9-]{1,59})")
_LITERAL = re.compile(r"\[[0-9A-Fa-f:.IPv]{3,50}\]")


class BouncedRecipient(msgspec.Struct, omit_defaults=True):
    """One recipient. `address` is the one that we sent to where the report tells (Original-Recipient), else the final
    one; "" where only words are given that are no address. `status` is as reported."""

    address: str = ""
    action: str = "failed"  # failed, delayed, delivered, relayed, expanded
    status: str = ""
    code: int = 0  # of the SMTP reply in the diagnostic; 0: none
    diagnostic: str = ""
    diagnostic_type: str = ""  # smtp, x-unix, …
    reply_class: str = ""
    kind: str = ""  # hard, soft
    about: str = ""  # recipient, us, message
    rule: str = ""  # that gave the class
    remote_mta: str = ""
    final_recipient: str = ""
    original_recipient: str = ""
    will_retry_until: str = ""


class Original(msgspec.Struct, omit_defaults=True):
    """What is known of the message that came back."""

    message_id: str = ""  # with its angle brackets
    reference: str = ""  # the value of our reference field
    envelope_id: str = ""
    subject: str = ""
    sender: str = ""  # the address in From:
    to: list[str] = []
    verp_recipient: str = ""  # of the address that the bounce came to


class Bounce(msgspec.Struct, omit_defaults=True):
    """A message that came back. `form` is the format by which it was read; `how`: report, form, flufl, verp."""

    what: What
    recipients: list[BouncedRecipient] = []
    original: Original = msgspec.field(default_factory=Original)
    reporting_mta: str = ""
    form: str = ""
    how: str = ""
    subject: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json` and events: everything that has a value."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return {**built, "recipients": built.get("recipients", [])}


def plausible(address: str) -> bool:
    """Whether mail could have been sent to it: a local part, and a domain with a dot (or a literal)."""
    local, at, domain = address.rpartition("@")
    if not at or not local or len(address) > 320 or len(local.encode("utf-8", "replace")) > 128:
        return False
    if _LOCAL.fullmatch(local) is None or local.endswith("..."):  # somebody shortened it
        return False
    if domain.startswith("["):
        return _LITERAL.fullmatch(domain) is not None
    labels = domain.removesuffix(".").split(".")
    return (
        2 <= len(labels) <= 30
        and all(_LABEL.fullmatch(label) for label in labels)
        and _TOP.fullmatch(labels[-1]) is not None
    )


def as_reported(address: str) -> bool:
    """Whether a report's field gives an address, if only one that no mail could reach: that may be why it failed.

    For fields of reports alone; in a text such words are mostly something else.
    """
    local, at, domain = address.rpartition("@")
    return (
        bool(local and at and domain)
        and len(address) <= 320
        and _REPORTED.fullmatch(domain) is not None
        and (_REPORTED_LOCAL.fullmatch(local) is not None)
    )


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same but for case."""
    return one.lower() == other.lower()
