"""`fastrelay classify "550 5.1.1 …"`: the class of a refusal, the rule that held, and what follows for the address."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import json_option

if TYPE_CHECKING:
    from fastrelay.feedback.classes import Classified

EPILOG = """\b
Classes: bad_mailbox, bad_domain, inactive, quota, size, policy, spam_content, reputation_block,
authentication, rate, greylist, connection, tls, protocol, relay_denied, other.

\b
Examples:
  fastrelay classify "550 5.1.1 <you@example.com>: Recipient address rejected: User unknown"
  fastrelay classify --provider google "550-5.7.26 This mail has been blocked"
  tail -1 replies.log | fastrelay classify -

Exit codes: 0 told; 2 wrong usage.
"""
FOLLOWS = {
    ("hard", "recipient"): "the address is bad; sending there again harms the sender",
    ("soft", "recipient"): "trouble with the mailbox that may pass",
    ("hard", "us"): "they refuse us, not the recipient; it says nothing about the address",
    ("soft", "us"): "passes, or asks us to change; it says nothing about the address",
    ("hard", "message"): "this message is refused; it says nothing about the address",
    ("soft", "message"): "this message is refused for now; it says nothing about the address",
}


@click.command(epilog=EPILOG)
@click.argument("reply", nargs=-1, required=True)
@click.option("--provider", metavar="NAME", default="other", help="As said by hosts of this provider, such as google.")
@json_option
def classify(reply: tuple[str, ...], provider: str, as_json: bool) -> None:
    """Tell what the SMTP reply REPLY means, and which rule says so.

    REPLY is a reply as hosts or logs have it, in quotes or not; `-` reads it from standard input.
    """
    from fastrelay.feedback.classes import built_in_classes, parse_reply
    from fastrelay.limits.rules_file import known_providers

    if provider not in known_providers():
        raise click.BadParameter(
            f"{provider!r} is not a provider we know; they are {', '.join(sorted(known_providers()))}",
            param_hint="--provider",
        )
    text = sys.stdin.read(65536) if reply == ("-",) else " ".join(reply)
    code, enhanced = parse_reply(text)
    found = built_in_classes().classify(code, enhanced, text.strip().encode("utf-8", "replace"), provider)
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(as_answer(found, enhanced, provider))
        return
    show(found, enhanced, provider, matched(found, text))


def matched(found: Classified, text: str) -> str | None:
    """The words of the text that the rule looks for; None where it looks at codes alone."""
    if found.rule is None or found.rule.match is None:
        return None
    import re2  # type: ignore[import-untyped]

    from fastrelay.limits.matching import one_line
    from fastrelay.limits.rules_file import regex_octets, regex_options

    line = one_line(text.strip().encode("utf-8", "replace"), found.enhanced)
    place = re2.search(regex_octets(found.rule.match), line, regex_options())
    return place[0].decode("utf-8", "replace") if place is not None else None


def as_answer(found: Classified, enhanced: str, provider: str) -> dict[str, Any]:
    """What --json prints."""
    rule = found.rule
    return {
        "class": found.reply_class,
        "kind": found.kind,
        "about": found.about,
        "against_recipient": found.against_recipient,
        "code": found.code or None,
        "enhanced": enhanced or None,
        "enhanced_trusted": bool(found.enhanced),
        "provider": provider,
        "rule": None if rule is None else {"name": rule.name, "why": why(found), "source": rule.source},
    }


def why(found: Classified) -> str:
    """Which of its conditions the rule has."""
    rule = found.rule
    if rule is None:
        return "no rule holds for it"
    parts = []
    if rule.providers:
        parts.append(f"the provider is {' or '.join(rule.providers)}")
    if rule.codes:
        parts.append(f"the code is {' or '.join(rule.codes)}")
    if rule.enhanced:
        parts.append(f"the enhanced code is {' or '.join(rule.enhanced)}")
    if rule.match is not None:
        parts.append("the text has its words")
    return ", ".join(parts)


def show(found: Classified, enhanced: str, provider: str, words: str | None) -> None:
    from fastrelay.cli.output import print_fields

    rule = found.rule
    shown = enhanced
    if enhanced and not found.enhanced:
        shown = f"{enhanced} (left aside: its class is not that of {found.code})"
    print_fields(
        [
            ("class", found.reply_class),
            ("kind", found.kind),
            ("about", f"{found.about}: {FOLLOWS[found.kind, found.about]}"),
            ("code", found.code or "none"),
            ("enhanced", shown or "none"),
            ("provider", provider),
            ("rule", rule.name if rule is not None else "none"),
            ("why", why(found)),
            ("words", words),
            ("source", rule.source if rule is not None else None),
        ]
    )
