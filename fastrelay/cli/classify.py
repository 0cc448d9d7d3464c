"""`fastrelay classify "550 5.1.1 …"`: the class of a refusal, the rule that held, and what follows for the address."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import config_option, find_config, json_option

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.feedback.classes import Classified, ReplyRule

EPILOG = """\b
Classes: bad_mailbox, bad_domain, inactive, quota, size, policy, spam_content, reputation_block,
authentication, rate, greylist, connection, tls, protocol, relay_denied, other.

\b
Rules of a file that the configuration names (`replies:`) come first, as in the relay. Without -c
and without a configuration that can be read at the default places, the built-in ones stand alone.

\b
Examples:
  fastrelay classify "550 5.1.1 <you@example.com>: Recipient address rejected: User unknown"
  fastrelay classify --provider google "550-5.7.26 This mail has been blocked"
  fastrelay classify -c fastrelay.yaml "554 5.7.1 Geht hier nicht"
  tail -1 replies.log | fastrelay classify -

Exit codes: 0 told; 2 wrong usage, or a configuration that can't be used.
"""
BUILT_IN = "built-in"
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
@config_option
@json_option
def classify(reply: tuple[str, ...], provider: str, config_path: str | None, as_json: bool) -> None:
    """Tell what the SMTP reply REPLY means, and which rule says so.

    REPLY is a reply as hosts or logs have it, in quotes or not; `-` reads it from standard input.
    """
    from fastrelay.feedback.classes import built_in_classes, classes_of, parse_reply
    from fastrelay.limits.rules_file import known_providers

    config = configured(config_path)
    providers = known_providers() | set(config.providers if config is not None else ())
    if provider not in providers:
        raise click.BadParameter(
            f"{provider!r} is not a provider we know; they are {', '.join(sorted(providers))}",
            param_hint="--provider",
        )
    classes = classes_of(config) if config is not None else built_in_classes()
    text = sys.stdin.read(65536) if reply == ("-",) else " ".join(reply)
    code, enhanced = parse_reply(text)
    found = classes.classify(code, enhanced, text.strip().encode("utf-8", "replace"), provider)
    file = file_of(found.rule, config) if found.rule is not None else None
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(as_answer(found, enhanced, provider, file))
        return
    show(found, enhanced, provider, matched(found, text), file)


def configured(given: str | None) -> Config | None:
    """The configuration that was named (ConfigError if it can't be used), else one at a default place, if it can be
    read: the command is of use where there is no relay, and to a user who may not read its configuration."""
    from fastrelay.config.load import load

    path = find_config(given)
    if path is None or (not given and not os.access(path, os.R_OK)):
        return None
    return load(path)


def file_of(rule: ReplyRule, config: Config | None) -> str:
    """Where a rule stands: the operator's file, or BUILT_IN."""
    from fastrelay.feedback.classes import built_in_replies

    own = config.replies if config is not None else None
    # By identity: a rule of the operator's may be an exact copy of a built-in one.
    if own is None or any(rule is one for one in built_in_replies()):
        return BUILT_IN
    return os.fspath(own)


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


def as_answer(found: Classified, enhanced: str, provider: str, file: str | None) -> dict[str, Any]:
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
        "rule": None if rule is None else {"name": rule.name, "file": file, "why": why(found), "source": rule.source},
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


def show(found: Classified, enhanced: str, provider: str, words: str | None, file: str | None) -> None:
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
            ("file", file),
            ("why", why(found)),
            ("words", words),
            ("source", rule.source if rule is not None else None),
        ]
    )
