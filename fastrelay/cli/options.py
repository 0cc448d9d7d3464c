"""Options that several commands share: where the relay is, --json, and the selectors of queued mail."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fastrelay.admin.client import DEFAULT_TIMEOUT_SECONDS, ControlClient
from fastrelay.config.units import format_duration, parse_duration
from fastrelay.errors import NoRelay

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONFIGS = ("fastrelay.yaml", "/etc/fastrelay/fastrelay.yaml")
LONG_TIMEOUT_SECONDS = 660.0
SELECTORS = ("campaign", "tenant", "domain", "provider", "source", "older_than")


class DurationType(click.ParamType):
    """`90s`, `2h`, `3d` on the command line; seconds in the program."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def find_config(given: str | None) -> str | None:
    """The configuration file: as given (option or environment), else the first default that exists, else None."""
    if given:
        return given
    return next((path for path in DEFAULT_CONFIGS if os.path.exists(path)), None)


def require_config(given: str | None) -> str:
    """find_config, or a usage error."""
    found = find_config(given)
    if found is None:
        raise click.UsageError(
            f"no configuration: name one with -c FILE or $FASTRELAY_CONFIG ({' and '.join(DEFAULT_CONFIGS)} do not "
            "exist; deploy/fastrelay.example.yaml is one to start from)"
        )
    return found


def config_option(function: F) -> F:
    """-c FILE."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(),
        envvar="FASTRELAY_CONFIG",
        help="Configuration file.  [default: ./fastrelay.yaml, /etc/fastrelay/fastrelay.yaml]",
    )(function)


def _note_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta["fastrelay.json"] = value
    return value


def json_option(function: F) -> F:
    """--json; errors become JSON as well."""
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_note_json, help="Print JSON in place of text."
    )(function)


def relay_options_waiting(timeout_seconds: float) -> Callable[[F], F]:
    """-c, --state-dir, --timeout and --json: how a command finds the running relay, and how it answers."""
    options: list[Callable[..., Any]] = [
        json_option,
        click.option(
            "--timeout",
            metavar="TIME",
            type=DurationType(),
            default=timeout_seconds,
            help=f"How long the relay may be silent.  [default: {format_duration(timeout_seconds)}]",
        ),
        click.option(
            "--state-dir",
            metavar="DIR",
            type=click.Path(),
            envvar="FASTRELAY_STATE_DIR",
            help="State directory of the relay, in place of -c.",
        ),
        config_option,
    ]

    def decorate(function: F) -> F:
        for option in options:
            function = option(function)
        return function

    return decorate


relay_options = relay_options_waiting(DEFAULT_TIMEOUT_SECONDS)
# For commands that go through the whole queue.
long_relay_options = relay_options_waiting(LONG_TIMEOUT_SECONDS)


def connect(config_path: str | None, state_dir: str | None, timeout: float) -> ControlClient:
    """The client for the relay that the options name; --state-dir comes before -c, an option before the environment."""
    source = click.get_current_context().get_parameter_source
    from_environment = click.core.ParameterSource.ENVIRONMENT
    if source("state_dir") == from_environment and config_path and source("config_path") != from_environment:
        state_dir = None
    if not state_dir:
        found = find_config(config_path)
        if found is None:
            raise NoRelay(
                "",
                "no relay to talk to: no configuration was named, and there is none at the default places",
                "name it with -c FILE, or its state directory with --state-dir DIR",
            )
        from fastrelay.config.load import state_dir_of

        state_dir = state_dir_of(found)
    return ControlClient(state_dir, timeout)


def selector_options(function: F) -> F:
    """--campaign --tenant --domain --provider --source --older-than; a message must match all that are given."""
    for option in (
        click.option(
            "--older-than", metavar="TIME", type=DurationType(), help="Accepted longer ago, such as 2h or 3d."
        ),
        click.option("--source", metavar="NAME", help="Bound to this sending address."),
        click.option("--provider", metavar="NAME", help="Whose site this mailbox provider runs, such as google."),
        click.option("--domain", metavar="NAME", help="With recipients in this domain."),
        click.option("--tenant", metavar="NAME", help="Of this tenant."),
        click.option("--campaign", metavar="NAME", help="Of this campaign."),
    ):
        function = option(function)
    return function


def selectors_of(options: dict[str, Any]) -> dict[str, Any]:
    """The selectors among a command's options (removed from them), as the control socket wants them."""
    given = {name: options.pop(name) for name in SELECTORS}
    selectors = {name: value for name, value in given.items() if value is not None}
    if "domain" in selectors:
        from fastrelay.config.forms import normalize_hostname

        try:
            selectors["domain"] = normalize_hostname(selectors["domain"].removeprefix("@"))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--domain") from None
    if "older_than" in selectors:
        selectors["older_than_seconds"] = selectors.pop("older_than")
    return selectors


def require_selection(selectors: dict[str, Any], select_all: bool, verb: str) -> dict[str, Any]:
    """Arguments of a command that changes queued mail: some selector, or --all, never neither and never both."""
    if select_all and selectors:
        raise click.UsageError("--all goes alone; leave it out to use the selectors")
    if not select_all and not selectors:
        raise click.UsageError(
            f"name what to {verb}, such as --campaign NAME or --domain NAME, or give --all for the whole queue"
        )
    return {**selectors, **({"all": True} if select_all else {})}
