"""`fastrelay send`: one test message, and what was said about it."""

from __future__ import annotations

from typing import Any

import click

from fastrelay.cli.options import connect, relay_options_waiting

EPILOG = """\b
The message goes the way of all mail, but at once and past the queue: route, source address, MX
host, connection. Nothing is retried. In the dialogue, > is what we sent, < what the MX host said,
- what happened between (look-ups, connections).

\b
Examples:
  fastrelay send --to you@example.com
  fastrelay send --to you@example.com --source b --trace
  fastrelay send --to you@example.com --json | jq -r .outcome

Exit codes: 0 delivered; 1 deferred or failed; 2 wrong usage; 3 no relay is running.
"""
# RFC 5321 lets an MX host take five minutes for a greeting; the relay's own deadlines end the attempt.
SEND_TIMEOUT_SECONDS = 600.0


@click.command(epilog=EPILOG)
@click.option("--to", metavar="ADDRESS", required=True, help="The recipient.")
@click.option(
    "--from", "from_", metavar="ADDRESS", help="The reverse-path.  [default: postmaster at the relay's hostname]"
)
@click.option("--source", metavar="NAME", help="Sending address to use.  [default: as for other mail]")
@click.option("--trace", is_flag=True, help="Show the whole dialogue with its times, not only the last reply.")
@relay_options_waiting(SEND_TIMEOUT_SECONDS)
@click.pass_context
def send(
    ctx: click.Context,
    to: str,
    from_: str | None,
    source: str | None,
    trace: bool,
    config_path: str | None,
    state_dir: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Send one test message and show what the MX host says."""
    arguments = {
        "to": mailbox(to, "--to"),
        "from": mailbox(from_, "--from") if from_ is not None else None,
        "source": source,
        "trace": trace,
    }
    with connect(config_path, state_dir, timeout) as relay:
        answer = relay.call("send", arguments)
    if as_json:
        from fastrelay.cli.output import print_json

        print_json(answer)
    else:
        show(answer, to, trace)
    ctx.exit(0 if answer.get("outcome") == "delivered" else 1)


def mailbox(text: str, option: str) -> str:
    """An address that can stand in a MAIL or RCPT command; `<>` is the null reverse-path."""
    if option == "--from" and text in ("", "<>"):
        return ""
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    local, at, domain = bare.rpartition("@")
    if not (local and at and domain) or any(ord(letter) <= 32 or letter in "<>\x7f" for letter in bare):
        raise click.BadParameter(f"{text!r} is not an address; write name@domain", param_hint=option)
    return bare


def show(answer: dict[str, Any], to: str, trace: bool) -> None:
    from fastrelay.cli.output import clean

    if trace:
        for line in answer.get("dialogue", []):
            at = line.get("at_seconds")
            stamp = f"{at:8.3f}" if isinstance(at, int | float) else " " * 8
            for text in str(line.get("text", "")).splitlines() or [""]:
                click.echo(f"{stamp} {clean(line.get('direction', '-'))} {clean(text)}")
        click.echo()
    reply = f": {clean(answer['reply'])}" if answer.get("reply") else ""
    click.echo(f"{clean(to)} {clean(answer.get('outcome', 'unknown'))}{reply}")
