"""The class of each recipient of a bounce: from its diagnostic and status, by the rules of the provider that said it.

Known faults: a diagnostic in a language that no rule knows has the class of its codes alone.
"""

from __future__ import annotations

import functools
from typing import Protocol

from fastrelay.feedback.bounce_forms import built_in_forms, reply_in
from fastrelay.feedback.bounce_types import BouncedRecipient
from fastrelay.feedback.classes import ABOUT, ALWAYS_SOFT, Classified, parse_reply
from fastrelay.route.providers import OTHER, Providers
from fastrelay.route.providers import built_in as built_in_providers


@functools.lru_cache(maxsize=4096)
def provider_of(mta: str) -> str:
    """The provider whose host a report names (`mx1.example (192.0.2.1)`); "" where none is known."""
    words = mta[:255].split()
    host = words[0].lower().strip("[]().,;") if words else ""
    provider = _providers().of_host(host) if host else OTHER
    return "" if provider == OTHER else provider


@functools.lru_cache(maxsize=1)
def _providers() -> Providers:
    return built_in_providers()


class Classes(Protocol):
    """Rules for replies: the built-in ones, or an operator's before them (classes.py)."""

    def classify(self, code: int, enhanced: str, text: bytes, provider: str = ...) -> Classified:
        """The class of a reply."""
        ...


def classify_recipient(recipient: BouncedRecipient, provider: str, classes: Classes) -> None:
    """Codes and class of a recipient, from its diagnostic and its status."""
    code, enhanced = (parse_reply if recipient.diagnostic_type else reply_in)(recipient.diagnostic)
    recipient.code = recipient.code or code
    if not recipient.status and enhanced[:1] in ("4", "5"):
        recipient.status = enhanced
    if recipient.action not in ("failed", "delayed"):
        return
    status = recipient.status
    vague = not status or status.endswith(".0.0") or (enhanced and enhanced[:1] == str(code // 100))
    used = enhanced if enhanced and vague else status
    if recipient.code and used and used[0] != str(recipient.code // 100):
        used = status if status[:1] == str(recipient.code // 100) else ""
    text = recipient.diagnostic.encode("utf-8", "replace")
    found = classes.classify(recipient.code, used, text, provider)
    recipient.reply_class, recipient.about = found.reply_class, found.about
    recipient.kind = found.kind
    recipient.rule = found.rule.name if found.rule is not None else ""
    if not recipient.code and not status:  # prose, not a reply
        means = built_in_forms().reason(recipient.diagnostic)
        if means is not None:
            recipient.reply_class, recipient.about, recipient.rule = means, ABOUT[means], "bounce_words"
            recipient.kind = "soft" if means in ALWAYS_SOFT else "hard"
    if recipient.action == "delayed":
        recipient.kind = "soft"
    if not recipient.status and recipient.code:
        recipient.status = f"{recipient.code // 100}.0.0"
