"""`fastrelay tls DOMAIN`: which TLS its mail gets and why, host by host, against the live DNS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import config_option, json_option, require_config

if TYPE_CHECKING:
    from fastrelay.config.schema import Config

EXIT_COULD_NOT_RUN = 3

MARKS = {"good": ("✓", "green"), "plain": ("·", "cyan"), "bad": ("✗", "red")}
STATES = {
    "insecure": "none that count: {why}",
    "none": "none",
    "failed": "{why}",
    "usable": "",
    "unusable": "none of these can be used: {why}",
}
MODES = {
    "enforce": "enforced: mail goes to these hosts only, and only with a valid certificate",
    "testing": "testing: what fails is reported, and mail goes out all the same",
    "none": "none: the domain has no policy any more",
}

EPILOG = """\b
Asks the configured nameservers, fetches the MTA-STS policy, and decides as the relay would. The
relay need not run. Nothing is sent; with --connect each MX host is connected to (one address,
from a source of ours), up to the TLS handshake.

\b
Examples:
  fastrelay tls example.com
  fastrelay tls you@example.com --connect           of an address, the domain counts
  fastrelay tls example.com --json | jq '.hosts[] | {host, plan}'

\b
Exit codes: 0 as published; 1 mail goes out, but something is wrong (a host that is passed over,
a policy that can't be fetched, with --connect a host that fails); 2 mail waits, since no host
will do; 3 could not tell: no sound configuration, no answer from the DNS, or no route.
"""


@click.command(epilog=EPILOG)
@click.argument("domain")
@click.option("--connect", is_flag=True, help="Connect to each MX host, and judge its certificate.")
@config_option
@json_option
@click.pass_context
def tls(ctx: click.Context, domain: str, connect: bool, config_path: str | None, as_json: bool) -> None:
    """Show which TLS mail for DOMAIN gets, and why.

    The policy (DANE, MTA-STS, or what the configuration says), where it comes from, and what it means
    for each MX host.
    """
    from fastrelay.cli.group import show_error
    from fastrelay.cli.output import print_json
    from fastrelay.config.load import load
    from fastrelay.errors import ConfigError

    try:
        config = load(require_config(config_path))
    except ConfigError as error:
        show_error(error, as_json)
        ctx.exit(EXIT_COULD_NOT_RUN)
    found = _look(config, _domain(domain), connect)
    if as_json:
        print_json(found)
    else:
        show(found)
    ctx.exit(found["exit_code"])


def _domain(text: str) -> str:
    """The domain of a domain or an address."""
    domain = text.strip().strip("<>").rpartition("@")[2]
    if not domain:
        raise click.BadParameter(f"{text!r} has no domain; write one such as example.com", param_hint="DOMAIN")
    return domain


def _look(config: Config, domain: str, connect: bool) -> dict[str, Any]:
    import asyncio

    from fastrelay.clock import RealClock
    from fastrelay.tls.look import Look

    async def work() -> dict[str, Any]:
        return await Look(config, RealClock()).look(domain, connect=connect)

    return asyncio.run(work())


# --- the page ---


def show(found: dict[str, Any]) -> None:
    """For people."""
    from fastrelay.cli.output import clean

    click.echo(styled(f"{clean(found['domain'])}: {clean(found['verdict'])}", bold=True))
    if not found["hosts"]:
        return
    click.echo()
    fields = [("level", f"{found['level']} ({found['level_from']})"), ("policy", found["policy"]["words"])]
    fields += [("names", _names(found)), *_sts(found), *_rpt(found)]
    _fields(fields)
    for host in found["hosts"]:
        click.echo()
        show_host(host, found)


def _names(found: dict[str, Any]) -> str:
    """Whether the names of the hosts can be believed."""
    route = found["route"]
    if route["explicit"]:
        return "the hosts are named by the configuration"
    what = "that there are no MX records" if route["implicit"] else "the MX records"
    if route["secure"]:
        return f"{what}: secured by DNSSEC, so TLSA records of the hosts count"
    if not route["trusted"]:
        return f"{what}: no nameserver is believed about DNSSEC (dns.trust_ad), so there is no DANE"
    return f"{what}: not secured by DNSSEC, so there is no DANE"


def _sts(found: dict[str, Any]) -> list[tuple[str, str]]:
    from fastrelay.cli.output import duration

    sts = found["mta_sts"]
    if not sts["record"]:
        return [("MTA-STS", sts["error"] or "no record, so no policy")]
    rows = [("MTA-STS", sts["record"][0])]
    if sts["error"]:
        rows.append(("", sts["error"]))
    policy = sts["policy"]
    if policy is not None:
        rows.append(("", f"{MODES[policy['mode']]} (kept for {duration(policy['max_age'])})"))
        rows += [("", f"mx: {pattern}") for pattern in policy["mx"]]
    if found["level"] in ("none", "verify", "implicit"):
        rows.append(("", f"the level is {found['level']}, so that it makes no difference"))
    return rows


def _rpt(found: dict[str, Any]) -> list[tuple[str, str]]:
    record = found["tls_rpt"]["record"]
    return [("TLS-RPT", record[0] if record else "no record, so no reports are wanted")]


def show_host(host: dict[str, Any], found: dict[str, Any]) -> None:
    """One MX host: what happens, then what it follows from."""
    from fastrelay.cli.output import clean

    plan, connection = host["plan"], host.get("connection")
    bad = plan["mode"] == "skip" or host["error"] or (connection is not None and not connection["ok"])
    mark, colour = MARKS["bad" if bad else "good" if plan["verified"] else "plain"]
    head = f"{mark} {clean(host['host'])}:{host['port']}"
    click.echo(f"{styled(head, fg=colour, bold=True)}  {_happens(plan)}")
    fields = [("why", plan["why"])]
    where = ", ".join(host["addresses"]) or host["error"] or ""
    fields.append(("address", where + (", secured by DNSSEC" if host["secure"] else "")))
    fields.append(("alias of", host["alias"] or ""))
    fields += _tlsa(host["tlsa"])
    if host["mta_sts"] is not None:
        fields.append(("MTA-STS", "names it" if host["mta_sts"] else "does not name it"))
    if connection is not None:
        fields += _connection(connection)
    _fields(fields, indent="    ")


def _happens(plan: dict[str, Any]) -> str:
    if plan["mode"] == "skip":
        return f"passed over ({plan['failure']})"
    if plan["mode"] == "plain":
        return "a plain connection"
    how = {"dane": "DANE", "mta-sts": "MTA-STS, by a CA", "pkix": "a CA"}.get(plan["verified"] or "")
    first = "TLS from the first octet" if plan["mode"] == "implicit" else "TLS"
    if how:
        return f"{first}, authenticated by {how}"
    return f"{first}, any certificate" if plan["mandatory"] else "TLS if it is offered, any certificate"


def _tlsa(tlsa: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    words = STATES[tlsa["state"]].format(why=tlsa["why"])
    if words or not tlsa["records"]:
        rows.append(("TLSA", words))
    for record in tlsa["records"]:
        kind, _, octets = record["text"].rpartition(" ")
        shown = f"{octets[:16]}…" if len(octets) > 16 else octets
        rows.append(("" if rows else "TLSA", f"{kind} {shown}  {record['flaw'] or record['meaning']}"))
    return rows


def _connection(connection: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("connected", f"{connection['address']}: {connection['words']}")]
    if connection.get("version"):
        rows.append(("", f"{connection['version']}, {connection['cipher']}"))
    certificate = connection.get("certificate")
    if certificate is not None:
        names = ", ".join(certificate["names"][:4]) or "no name"
        rows.append(("", f"certificate for {names}; until {certificate['until']}; by {certificate['issuer']}"))
    return rows


def _fields(rows: list[tuple[str, str]], indent: str = "") -> None:
    """`name   words` lines, folded to the width of the terminal; rows without words are left out."""
    import textwrap

    from fastrelay.cli.output import clean, terminal_width

    width = max(40, min(100, terminal_width()))
    for name, words in rows:
        if not words:
            continue
        head = f"{indent}{name:<10} "
        lines = textwrap.wrap(
            clean(words), width, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        for line in lines or [head]:
            click.echo(line)


def styled(text: str, **style: Any) -> str:
    """With colours on a terminal that wants them."""
    import os
    import sys

    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return click.style(text, **style)
