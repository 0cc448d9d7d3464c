"""What the end of a transaction means, for each recipient and for the session: the one page that decides.

    how it ended                                            recipient
    final reply 2xx, its RCPT 2xx                           delivered
    final reply 4xx / 5xx, its RCPT 2xx                     deferred / failed
    its RCPT 5xx                                            failed
    its RCPT 4xx                                            deferred
    its RCPT 452 after others were taken (too many)         again at once, in another transaction
    MAIL 4xx / 5xx                                          deferred / failed
    421 anywhere                                            deferred (a 4xx), and the session is over
    a feature that the host lacks (8BITMIME, SMTPUTF8, SIZE)   failed, with our own reply
    no reply: cut off, timeout, broken protocol             deferred; possible_duplicate if the whole body had left
    cut off before any reply, on a connection used before   again at once: the host closed an idle connection

Only the first digit of a reply code counts (RFC 5321 section 4.2.1); an enhanced code counts only where its class is
the reply's (RFC 2034).

A back-off rule that the reply fires (limits/rules_file.py) may know better what a refusal means. Its `treat_as` then
decides, and is the reason in events and metrics; without it the rows above hold:

    treat_as      meaning                               4xx         5xx         reason
    throttle      we send too fast                      deferred    deferred    throttled
    block         they refuse us, not the recipient     deferred    failed      blocked
    bad_address   no such mailbox                       failed      failed      bad_address
    greylisting   they want it from us a second time    deferred    deferred    greylisted

`blocked` says nothing about the address, so nobody may be taken off a list for it; `bad_address` does.

Every refusal also has a class (feedback/classes.py: what it says, and about whom), which never changes what becomes of
the recipient. Where no rule says more it is the reason: rate → throttled, greylist → greylisted, reputation_block →
blocked. What ends without a reply has a class by the kind of the error, or by our own reason:

    timeout, closed, local_abort          connection      about us
    protocol, no_8bitmime, no_smtputf8    protocol        about us
    tls, no_requiretls                    tls             about us
    size                                  size            about the message
    auth                                  authentication  about us
    the domain's route fails              by the reply that we make of it (bad_domain, …)
    given up (expired)                    by the last answer, soft; without one: connection, about us
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from fastrelay.feedback.classes import ABOUT, Classified, ReplyClass

if TYPE_CHECKING:
    from fastrelay.limits.rules_file import Rule

Kind = Literal["delivered", "deferred", "failed", "again"]

_ENHANCED = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?:\s|$)")


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What becomes of one recipient. `reason` is a word of the closed set in events and metrics."""

    kind: Kind
    code: int = 0
    enhanced: str = ""
    reply: str = ""
    reason: str = ""
    possible_duplicate: bool = False
    rule: Rule | None = None  # the back-off rule that the reply fired
    said: Classified | None = None  # what a refusal says


# treat_as of a rule → (what a 4xx is, what a 5xx is, the reason)
TREATED: dict[str, tuple[Kind, Kind, str]] = {
    "throttle": ("deferred", "deferred", "throttled"),
    "block": ("deferred", "failed", "blocked"),
    "bad_address": ("failed", "failed", "bad_address"),
    "greylisting": ("deferred", "deferred", "greylisted"),
}
AGAIN = Verdict("again")
# Class → the reason where no back-off rule gives one.
REASONS_OF_CLASS: dict[str, str] = {"rate": "throttled", "greylist": "greylisted", "reputation_block": "blocked"}
# How an attempt without a reply ended → its class.
CLASSES_OF_ERRORS: dict[str, ReplyClass] = {
    "timeout": "connection", "closed": "connection", "local_abort": "connection", "protocol": "protocol",
    "no_8bitmime": "protocol", "no_smtputf8": "protocol", "no_requiretls": "tls", "tls": "tls", "size": "size",
    "auth": "authentication",
}  # fmt: skip


def enhanced_status(code: int, text: bytes) -> str:
    """The enhanced status code at the start of a reply's text, or "" where none is or its class is another's."""
    found = _ENHANCED.match(text)
    if found is None or int(found[1]) != code // 100:
        return ""
    return f"{found[1].decode()}.{int(found[2])}.{int(found[3])}"


def judge_reply(
    code: int, text: bytes, shown: str, stage: str, rule: Rule | None = None, said: Classified | None = None
) -> Verdict:
    """A reply that ends the attempt for a recipient. `stage` is the command it answered, `said` what a refusal says."""
    enhanced = enhanced_status(code, text)
    if code // 100 == 2:
        return Verdict("delivered", code, enhanced, shown)
    failed = code // 100 == 5
    if rule is not None and rule.actions.treat_as is not None:
        kinds = TREATED[rule.actions.treat_as]
        return Verdict(kinds[1] if failed else kinds[0], code, enhanced, shown, kinds[2], rule=rule, said=said)
    reason = f"{stage}_refused"
    if said is not None and said.about == "us":
        reason = REASONS_OF_CLASS.get(said.reply_class, reason)
    return Verdict("failed" if failed else "deferred", code, enhanced, shown, reason, rule=rule, said=said)


def judge_error(error_kind: str, status: str, words: str, *, may_have_arrived: bool, reused: bool) -> Verdict:
    """An attempt that ended without a reply. `status` is the enhanced code that describes it (RFC 3463)."""
    if status.startswith("5."):
        return Verdict("failed", 0, status, words, error_kind, said=said_by_error(error_kind, failed=True))
    if reused and not may_have_arrived and error_kind == "closed":
        return AGAIN
    said = said_by_error(error_kind)
    return Verdict("deferred", 0, status, words, error_kind, possible_duplicate=may_have_arrived, said=said)


def said_by_error(error_kind: str, *, failed: bool = False) -> Classified:
    """The class of an attempt that ended without a reply."""
    means = CLASSES_OF_ERRORS.get(error_kind, "other")
    return Classified(means, "hard" if failed else "soft", ABOUT[means], 0, "")


def given_up(said: Classified | None) -> Classified:
    """The class of a recipient that expired: what was said last, never hard (it was a 4xx, or no reply)."""
    if said is None:
        return said_by_error("timeout")
    return said if said.kind == "soft" else msgspec.structs.replace(said, kind="soft")


def class_fields(said: Classified | None) -> dict[str, str | None]:
    """The fields of an event."""
    if said is None:
        return {}
    rule = said.rule
    return {
        "class": said.reply_class, "kind": said.kind, "about": said.about,
        "class_rule": rule.name if rule is not None else None,
    }  # fmt: skip


def too_many_recipients(code: int, text: bytes, accepted_before: int) -> bool:
    """RFC 5321 section 4.5.3.1.10: the host wants the rest in another transaction."""
    return code in (452, 552) and accepted_before > 0 and (code == 452 or b"5.5.3" in text or b"oo many" in text)
