"""`fastrelay run`: the relay itself, in the foreground."""

from __future__ import annotations

from dataclasses import replace

import click

from fastrelay.cli.options import config_option, require_config

EPILOG = """\b
Signals: TERM and INT finish open transactions (at most drain_timeout) and stop; HUP checks the
configuration and takes it over, or keeps the old one and says why; USR1 reopens the event logs.

\b
Examples:
  fastrelay run -c /etc/fastrelay/fastrelay.yaml
  kill -HUP $(pidof -s fastrelay)

Exit codes: 0 stopped as asked; 1 failed; 2 the configuration or this host is at fault.
"""


@click.command(epilog=EPILOG)
@config_option
@click.pass_context
def run(ctx: click.Context, config_path: str | None) -> None:
    """Start the relay and stay in the foreground.

    A supervisor starts one worker process a core. The configuration and this host are checked first:
    source addresses, ports, the state directory. A state directory serves one relay; a second one
    is refused.
    """
    from fastrelay.cli.output import clean
    from fastrelay.config.load import load_document
    from fastrelay.errors import HostError

    path = require_config(config_path)
    document = load_document(path)
    for warning in document.warnings:
        click.echo(f"warning: {clean(str(warning))}", err=True)
    from fastrelay import supervisor

    try:
        code = supervisor.run(document.config, path)
    except HostError as error:
        # What the host check found has keys; here is the file that says in which line they stand.
        lines = document.lines
        raise HostError([replace(one, line=lines.get(one.path, one.line)) for one in error.problems]) from None
    ctx.exit(code or 0)
