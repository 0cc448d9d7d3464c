"""`fastrelay reports`: what others reported about mail and TLS of our domains; `fastrelay reports import FILE`."""

from __future__ import annotations

import os
from typing import Any

import click

from fastrelay.cli.options import connect, relay_options

BY = ("source", "domain", "day", "org")
MAX_FILE_OCTETS = 64 << 20

EPILOG = """\b
Reports come to the inbound addresses of the relay (listeners.smtp[].inbound), or from files:
messages (also mbox and maildir), XML, JSON, gzip or zip. The same report counts once; it is kept
for reports.keep.

\b
DMARC: mail passes when DKIM or SPF passes and is aligned with the domain in From. FAILED is mail
with neither: from an address of yours, something is wrong with your signatures; from others, it
is forwarded or forged. OURS names the source whose address it is.

\b
Examples:
  fastrelay reports
  fastrelay reports --by day --domain example.com
  fastrelay reports --json | jq '.dmarc.rows[] | select(.ours and .failed > 0)'
  fastrelay reports import ~/Maildir google.com!example.com!1700000000!1700086399.zip

Exit codes: 0 done; 1 failed, or a file is no report; 2 wrong usage; 3 no relay is running.
"""


@click.command(epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="[import FILE... | list]")
@click.option("--by", type=click.Choice(BY), default="source", show_default=True, help="What DMARC is summed by.")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Reports of so many days.")
@click.option("--domain", default="", metavar="NAME", help="Reports about this domain alone.")
@click.option("--most", type=click.IntRange(1, 10_000), default=50, show_default=True, help="So many rows.")
@relay_options
def reports(
    words: tuple[str, ...],
    by: str,
    days: int,
    domain: str,
    most: int,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show DMARC and TLS reports about your domains, summed up.

    `import FILE...` takes saved ones in; `list` shows each report.
    """
    from fastrelay.cli.output import print_json

    verb = words[0] if words else ""
    if verb not in ("", "import", "list") or (verb == "import") != (len(words) > 1):
        raise click.UsageError("write nothing, `list`, or `import FILE...`")
    with connect(config_path, state_dir, timeout) as relay:
        if verb == "import":
            take_in(relay, words[1:], as_json)
            return
        if verb == "list":
            answer: dict[str, Any] = relay.call("reports.list", {"days": days, "most": most})
            (print_json if as_json else show_list)(answer)
            return
        answer = relay.call("reports.summary", {"days": days, "by": by, "domain": domain.lower(), "most": most})
    (print_json if as_json else show)(answer)


def take_in(relay: Any, files: tuple[str, ...], as_json: bool) -> None:
    """Reads reports here, so that the relay need not be able to, and hands them on."""
    import msgspec

    from fastrelay.cli.bounce import messages_in
    from fastrelay.cli.output import clean, print_json
    from fastrelay.errors import FastrelayError
    from fastrelay.feedback.reports import in_words
    from fastrelay.feedback.reports_read import Bounds, read_report

    told, failed = [], 0
    for file in files:
        try:
            for name, octets in messages_in(file):
                try:
                    report = read_report(octets[:MAX_FILE_OCTETS], Bounds())
                    new = relay.call("reports.add", {"report": msgspec.to_builtins(report)})["new"]
                    told.append({"file": name, "what": in_words(report), "new": new})
                except FastrelayError as error:
                    failed += 1
                    told.append({"file": name, "error": str(error)})
        except OSError as error:
            failed += 1
            told.append({"file": file, "error": f"can't be read: {os.strerror(error.errno or 0)}"})
    if as_json:
        print_json({"files": told})
    else:
        for one in told:
            state = "" if one.get("new", True) else " (was there already)"
            click.echo(f"{clean(one['file'])}: {clean(one.get('what') or one['error'])}{state}")
    if failed:
        click.get_current_context().exit(1)


def show(answer: dict[str, Any]) -> None:
    """Tables for a person."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, plural, print_table

    dmarc, tls, by = answer["dmarc"], answer["tls"], answer["by"]
    click.echo(f"DMARC: {plural(dmarc['reports'], 'report')} of the last {plural(answer['days'], 'day')}")
    if dmarc["rows"]:
        columns = [("DOMAIN", WIDE)] if by != "domain" else []
        columns += [("FROM DOMAIN" if by == "domain" else by.upper(), WIDE)]
        columns += [("OURS", LEFT)] if by == "source" else []
        columns += [("MESSAGES", RIGHT), ("PASSED", RIGHT), ("DKIM ONLY", RIGHT), ("SPF ONLY", RIGHT),
                    ("FAILED", RIGHT), ("REFUSED", RIGHT)]  # fmt: skip
        rows = []
        for row in dmarc["rows"]:
            cells = [row["domain"]] if by != "domain" else []
            cells += [row[by], *([row.get("ours") or ""] if by == "source" else [])]
            passed = row["aligned"] + row["dkim_only"] + row["spf_only"]
            figures = (row["messages"], passed, row["dkim_only"], row["spf_only"], row["failed"], row["refused"])
            rows.append([*cells, *map(count, figures)])
        print_table(columns, rows)
        left_out(dmarc)
    click.echo()
    click.echo(f"TLS: {plural(tls['reports'], 'report')} of the last {plural(answer['days'], 'day')}")
    if tls["rows"]:
        columns = [("DOMAIN", WIDE), ("RESULT", LEFT), ("MX HOST", WIDE), ("SESSIONS", RIGHT)]
        rows = [[row["domain"], row["result"], row["mx"] or "", count(row["sessions"])] for row in tls["rows"]]
        print_table(columns, rows)
        left_out(tls)


def left_out(part: dict[str, Any]) -> None:
    if part["left_out"]:
        click.echo(f"and {part['left_out']} more (--most)")


def show_list(answer: dict[str, Any]) -> None:
    """One report a line."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, count, print_table

    columns = [("ENDS", LEFT), ("KIND", LEFT), ("OF", WIDE), ("ABOUT", WIDE), ("ID", WIDE), ("COUNT", RIGHT)]
    rows = [
        [one["end"][:10], one["kind"], one["org"], one["domain"], one["id"], count(one["messages"])]
        for one in answer["reports"]
    ]
    print_table(columns, rows)
    left_out(answer)
