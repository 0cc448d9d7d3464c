"""`fastrelay check`: is the configuration sound, and can this host run it?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fastrelay.cli.options import config_option, json_option, require_config

if TYPE_CHECKING:
    from fastrelay.config.load import Document
    from fastrelay.errors import ConfigProblem

EPILOG = """\b
Each finding is one line: FILE:LINE: KEY: what is wrong; what to do.

\b
Examples:
  fastrelay check -c fastrelay.yaml
  fastrelay check -c fastrelay.yaml --no-host     in a build, where the addresses are not here
  fastrelay check -c fastrelay.yaml --print       every key with its value in force

Exit codes: 0 sound (there may be warnings); 2 errors.
"""


@click.command(epilog=EPILOG)
@config_option
@click.option(
    "--host/--no-host", default=True, help="Also check this host: addresses, ports, folders.  [default: host]"
)
@click.option("--print", "print_config", is_flag=True, help="Print the whole configuration in force, with defaults.")
@json_option
@click.pass_context
def check(ctx: click.Context, config_path: str | None, host: bool, print_config: bool, as_json: bool) -> None:
    """Validate a configuration and this host.

    Finds unknown keys, wrong values, limits that contradict each other, warm-up plans that cannot be
    followed, sources that no pool uses, faulty files of back-off rules, addresses that this host
    does not have, ports in use and a state directory that cannot be written. All findings are
    shown at once.
    """
    from fastrelay.config.load import load_document
    from fastrelay.errors import ConfigError

    path = require_config(config_path)
    document: Document | None = None
    try:
        document = load_document(path)
        errors, warnings = examine(document, host)
    except ConfigError as error:
        errors, warnings = list(error.problems), []
    if as_json:
        show_json(path, document, errors, warnings, print_config)
    else:
        show_text(path, document, errors, warnings, print_config)
    ctx.exit(2 if errors else 0)


def examine(document: Document, host: bool) -> tuple[list[ConfigProblem], list[ConfigProblem]]:
    """Errors and warnings of a sound file on this host."""
    if not host:
        return [], document.warnings
    from fastrelay.admin.client import ControlClient
    from fastrelay.config.checks import check_host

    with ControlClient(document.config.state_dir, timeout_seconds=2.0) as relay:
        running = relay.answers()
    findings = check_host(document.config, document.file, document.lines, listeners=not running)
    return findings.problems, document.warnings + findings.warnings


def show_json(
    path: str,
    document: Document | None,
    errors: list[ConfigProblem],
    warnings: list[ConfigProblem],
    print_config: bool,
) -> None:
    from fastrelay.cli.output import print_json
    from fastrelay.config.schema import to_builtins

    answer: dict[str, Any] = {
        "ok": not errors,
        "file": path,
        "errors": [asdict(problem) for problem in errors],
        "warnings": [asdict(problem) for problem in warnings],
    }
    if print_config and document is not None:
        answer["config"] = to_builtins(document.config)
        del answer["config"]["origins"]
    print_json(answer)


def show_text(
    path: str,
    document: Document | None,
    errors: list[ConfigProblem],
    warnings: list[ConfigProblem],
    print_config: bool,
) -> None:
    from fastrelay.cli.output import clean, plural

    for problem in errors:
        click.echo(clean(str(problem)), err=True)
    for problem in warnings:
        click.echo(f"warning: {clean(str(problem))}", err=True)
    if print_config and document is not None:
        from fastrelay.config.render import render

        click.echo(render(document.config), nl=False)
    elif not errors and document is not None:
        click.echo(f"{path}: sound; {describe(document)}")
    if errors:
        more = f", {plural(len(warnings), 'warning')}" if warnings else ""
        click.echo(f"{path}: {plural(len(errors), 'error')}{more}", err=True)


def describe(document: Document) -> str:
    """One line on what would run."""
    from fastrelay.cli.output import names, plural

    config = document.config
    parts = [plural(config.worker_count, "worker")]
    if config.listeners.smtp:
        parts.append(f"SMTP at {names([listener.bind for listener in config.listeners.smtp])}")
    parts.append(f"{plural(len(config.sources), 'source')}" if config.sources else "the system's source address")
    parts.append(f"state in {config.state_dir}")
    return ", ".join(parts)
