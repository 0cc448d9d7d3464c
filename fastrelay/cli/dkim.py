"""`fastrelay dkim new|dns|check`: keys that sign mail, and the DNS records that they need."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import config_option, json_option, require_config
from fastrelay.errors import FastrelayError

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.doctor.findings import Finding, Report

COMMANDS = {
    "new": ("fastrelay.cli.dkim:new", "Make a key, and print the DNS record and the configuration for it."),
    "dns": ("fastrelay.cli.dkim:dns", "Print the DNS records of all configured keys."),
    "check": ("fastrelay.cli.dkim:check", "Compare the keys with the live DNS; sign and verify with each."),
}

EPILOG = """\b
Example, the rotation of a key:
  1. fastrelay dkim new news.example       a new selector; publish the record that it prints
  2. wait until the DNS has it             dig +short TXT SELECTOR._domainkey.news.example
  3. add it to dkim.keys, set `sign: false` at the old key (or let both sign), and reload
  4. fastrelay dkim check                  says until when the old record must stay published

\b
Exit codes: 0 done; 1 failed; 2 wrong usage or configuration (`dkim check` has its own).
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def dkim() -> None:
    """DKIM keys: make them, publish them, check them."""


class DkimError(FastrelayError):
    """What was asked for can't be done, in words."""


# -- new --------------------------------------------------------------------------------------------------------------


@click.command(
    epilog="""\b
The file is readable by its owner alone (0600) and must not be there before. If the relay runs as
a user of its own, give it the file: chown fastrelay FILE.

\b
Examples:
  fastrelay dkim new news.example
  fastrelay dkim new news.example --type ed25519 --selector fr2026e
  fastrelay dkim new news.example -o /etc/fastrelay/dkim/news.example.pem --json

Exit codes: 0 done; 1 the file is there already, or cannot be written; 2 wrong usage.
"""
)
@click.argument("domain")
@click.option("--selector", metavar="NAME", help="Its name in the DNS.  [default: fr and year and month]")
@click.option(
    "--type", "kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True,
    help="Not all receivers verify ed25519 yet: use it beside an RSA key.",
)  # fmt: skip
@click.option("--bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", show_default=True, help="Of RSA.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(), help="Where to write it.  [default: DOMAIN.SELECTOR.pem]"
)
@json_option
def new(domain: str, selector: str | None, kind: str, bits: str, output: str | None, as_json: bool) -> None:
    """Make a key for DOMAIN, and print the DNS record and the configuration for it."""
    from fastrelay.cli.output import clean, print_json
    from fastrelay.config.dkim_rules import selector_fault
    from fastrelay.config.forms import normalize_hostname
    from fastrelay.dkim.make import make_key, write_key

    try:
        domain = normalize_hostname(domain)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="DOMAIN") from None
    selector = selector or time.strftime("fr%Y%m", time.gmtime()) + ("e" if kind == "ed25519" else "")
    if selector_fault(selector):
        words = f"{selector!r} cannot stand in the DNS; write letters, digits and hyphens, such as fr2026"
        raise click.BadParameter(words, param_hint="--selector")
    file = os.path.abspath(output or f"{domain}.{selector}.pem")
    pem, key = make_key("ed25519" if kind == "ed25519" else "rsa", int(bits))
    try:
        write_key(file, pem)
    except FileExistsError:
        raise DkimError(f"{file} is there already, and a key is never overwritten; name another file with -o") from None
    except OSError as error:
        raise DkimError(f"{file} cannot be written ({os.strerror(error.errno or 0)})") from None
    record = _record(domain, selector, key.record)
    if as_json:
        about = {"domain": domain, "selector": selector, "type": key.algorithm, "bits": key.bits, "file": file}
        print_json({**about, "record": record, "config": {"domain": domain, "selector": selector, "key": file}})
        return
    click.echo(f"wrote {clean(file)} ({key.algorithm} {key.bits} bits, mode 0600)\n")
    click.echo("Publish this record:\n")
    click.echo("\n".join(record["zone"]) + "\n")
    click.echo("Once `dig +short TXT " + record["name"] + "` shows it, add the key to the configuration:\n")
    click.echo(f"dkim:\n  keys:\n    - domain: {domain}\n      selector: {selector}\n      key: {clean(file)}\n")
    click.echo("and check it: fastrelay dkim check")


def _record(domain: str, selector: str, text: str) -> dict[str, Any]:
    from fastrelay.dkim.make import record_name, strings
    from fastrelay.doctor.findings import DnsMend

    name = record_name(selector, domain)
    lines = DnsMend(name=name, rdtype="TXT", value=text).zone_lines()
    return {"name": name, "type": "TXT", "value": text, "strings": strings(text), "zone": lines}


# -- dns --------------------------------------------------------------------------------------------------------------


@click.command(
    epilog="""\b
A record is longer than the 255 octets of one string, so it comes in several, in brackets; DNS
servers and verifiers join them. Many web forms want the value in one piece: --json has it.

\b
Examples:
  fastrelay dkim dns >> news.example.zone
  fastrelay dkim dns --json | jq -r '.records[].value'

Exit codes: 0 done; 1 a key cannot be read; 2 wrong usage or configuration.
"""
)
@click.option("--domain", metavar="DOMAIN", help="Of this domain alone.")
@config_option
@json_option
@click.pass_context
def dns(ctx: click.Context, domain: str | None, config_path: str | None, as_json: bool) -> None:
    """Print the DNS records of all configured keys, those that no longer sign included."""
    from fastrelay.cli.output import clean, print_json
    from fastrelay.dkim.keys import Keyring

    config = _config(config_path, domain)
    keyring = Keyring(config.dkim)
    keyring.load()
    records, unreadable = [], []
    for slot in keyring.slots:
        one = slot.config
        if domain and one.domain != domain:
            continue
        if slot.key is None:
            unreadable.append(slot.words)
        else:
            records.append({**_record(one.domain, one.selector, slot.key.record), "sign": one.sign})
    if as_json:
        print_json({"records": records, "errors": unreadable})
    else:
        for record in records:
            click.echo("\n".join([*([] if record["sign"] else ["; no longer signs"]), *record["zone"]]))
        for words in unreadable:
            click.echo(f"fastrelay: {clean(words)}", err=True)
    ctx.exit(1 if unreadable else 0)


def _config(config_path: str | None, domain: str | None) -> Config:
    """The configuration, with keys, one of the domain among them if one is named. Raises ConfigError, DkimError."""
    from fastrelay.config.load import load

    config = load(require_config(config_path))
    if not config.dkim.keys:
        raise DkimError("the configuration has no dkim.keys; make one: fastrelay dkim new DOMAIN")
    if domain and domain not in {key.domain for key in config.dkim.keys}:
        raise DkimError(f"the configuration has no key of {domain}")
    return config


# -- check ------------------------------------------------------------------------------------------------------------


@click.command(
    epilog="""\b
For each key: is its record published, and equal to ours? Is it in test (t=y), revoked
(p= empty), or of another type? A probe is signed with it and verified through the DNS by
dkimpy, which shares nothing with ours. For keys with `sign: false`, and those that were taken
out of the configuration, it says until when their record must stay published: retry.expire and
two days after the last mail that they may have signed.
(The relay notes that in its state directory.)

\b
Example:
  fastrelay dkim check -c fastrelay.yaml --json | jq -r '.findings[].found'

\b
Exit codes: 0 all is well; 1 warnings; 2 errors, or wrong usage or configuration;
3 no errors, but some record could not be looked up.
"""
)
@click.option("--domain", metavar="DOMAIN", help="Keys of this domain alone.")
@config_option
@json_option
@click.pass_context
def check(ctx: click.Context, domain: str | None, config_path: str | None, as_json: bool) -> None:
    """Compare the keys with the live DNS; sign and verify with each."""
    import asyncio

    import msgspec
    import uvloop

    from fastrelay.cli.output import print_json
    from fastrelay.clock import RealClock
    from fastrelay.dkim.check import look_at_keys

    config = _config(config_path, domain)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(look_at_keys(config, RealClock(), domain))
    if as_json:
        listed = [msgspec.to_builtins(finding) for finding in report.findings]
        print_json({"summary": report.counts(), "exit_code": _exit_code(report), "findings": listed})
    else:
        _show(report)
    ctx.exit(_exit_code(report))


def _exit_code(report: Report) -> int:
    counts = report.counts()
    return 2 if counts["error"] else 3 if counts["unknown"] else 1 if counts["warning"] else 0


def _show(report: Report) -> None:
    from itertools import groupby

    from fastrelay.cli.doctor_page import show_finding, styled, summary
    from fastrelay.cli.output import clean

    def subject(finding: Finding) -> str:
        return finding.subject

    for name, group in groupby(report.findings, key=subject):
        click.echo(styled(clean(name), bold=True))
        for finding in group:
            show_finding(finding)
        click.echo()
    click.echo(summary(report))
