"""The `fastrelay` group: finds the command, and turns errors into words and exit codes.

Commands are imported when they are used; `--help` and `--version` import none of them. An error that is meant for the
operator (errors.py) is one line on standard error, or `{"error": …}` on standard output under --json; any other
exception is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from fastrelay import __version__

if TYPE_CHECKING:
    from fastrelay.errors import FastrelayError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_RELAY = 3

EPILOG = """\b
Examples:
  fastrelay demo                                  see it work, with an internet in a box
  fastrelay check -c fastrelay.yaml               is the configuration sound?
  fastrelay run -c fastrelay.yaml                 start the relay
  fastrelay doctor                                what would land mail in spam, and the mend
  fastrelay send --to you@example.com --trace     one test message, the dialogue shown
  fastrelay top                                   what it does, live
  fastrelay queue summary                         where all mail stands
  fastrelay queue why ID                          what a message waits for
  fastrelay explain example.com                   every limit for a domain, and who set it

\b
The configuration is -c FILE, else $FASTRELAY_CONFIG, else ./fastrelay.yaml, else
/etc/fastrelay/fastrelay.yaml. Commands for the running relay reach it through its
state directory (--state-dir DIR or $FASTRELAY_STATE_DIR take the place of -c).

\b
Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 no relay is running.

\b
Shell completion:
  bash   eval "$(_FASTRELAY_COMPLETE=bash_source fastrelay)"     in ~/.bashrc
  zsh    eval "$(_FASTRELAY_COMPLETE=zsh_source fastrelay)"      in ~/.zshrc
  fish   _FASTRELAY_COMPLETE=fish_source fastrelay | source      in config.fish
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used.

    lazy  command name → (module:attribute, one line of help), in the order of the help
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.lazy:
            import difflib

            close = difflib.get_close_matches(name, list(self.lazy), 1)
            mend = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(self.lazy)}"
            ctx.fail(f"no command {name!r}; {mend}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in self.lazy.items()])


class MainGroup(LazyGroup):
    """The outermost group: errors become words and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            from fastrelay.errors import FastrelayError

            if not isinstance(error, FastrelayError):
                raise
            show_error(error, as_json=bool(ctx.meta.get("fastrelay.json")))
            ctx.exit(exit_code(error))


def exit_code(error: FastrelayError) -> int:
    """The exit code of an error."""
    from fastrelay.errors import ConfigError, HostError, NoRelay

    if isinstance(error, NoRelay):
        return EXIT_NO_RELAY
    return EXIT_USAGE if isinstance(error, ConfigError | HostError) else EXIT_FAILED


def show_error(error: FastrelayError, as_json: bool) -> None:
    """An error for a person (standard error) or for a program (standard output)."""
    from fastrelay.cli.output import clean, print_json
    from fastrelay.errors import ConfigError, HostError

    problems = list(error.problems) if isinstance(error, ConfigError | HostError) else []
    if as_json:
        from dataclasses import asdict

        listed = {"problems": [asdict(problem) for problem in problems]} if problems else {}
        print_json({"error": str(error), **listed})
    elif problems:
        for problem in problems:
            click.echo(clean(str(problem)), err=True)
    else:
        click.echo(f"fastrelay: {clean(str(error))}", err=True)


COMMANDS = {
    "run": ("fastrelay.cli.run:run", "Start the relay and stay in the foreground."),
    "check": ("fastrelay.cli.check:check", "Validate a configuration and this host."),
    "status": ("fastrelay.cli.status:status", "Show the running relay and its workers."),
    "top": ("fastrelay.cli.top:top", "Watch rates, queues, warm-up and waits, live."),
    "queue": ("fastrelay.cli.queue:queue", "Look at queued mail; suspend, resume, flush, remove."),
    "explain": ("fastrelay.cli.explain:explain", "Show what decides when mail for a domain leaves."),
    "warmup": ("fastrelay.cli.warmup:warmup", "Warm-up of new sending addresses: look, hold, resume, set."),
    "tls": ("fastrelay.cli.tls:tls", "Show which TLS mail for a domain gets, and why."),
    "tlsrpt": ("fastrelay.cli.tlsrpt:tlsrpt", "TLS with MX hosts by day and domain, and the reports on it."),
    "plan": ("fastrelay.cli.plan:plan", "Forecast when a campaign will be out, and what holds it back."),
    "sim": ("fastrelay.cli.sim:sim", "Run your configuration against simulated providers, in simulated time."),
    "user": ("fastrelay.cli.user:user", "Users who may authenticate: add, change, remove, list."),
    "dkim": ("fastrelay.cli.dkim:dkim", "DKIM keys: make them, publish them, check them."),
    "doctor": ("fastrelay.cli.doctor:doctor", "Find what would land mail in spam, and the exact mend."),
    "classify": ("fastrelay.cli.classify:classify", "Tell what an SMTP reply means, and about whom."),
    "events": ("fastrelay.cli.events:events", "What happened to mail: event logs, webhooks, replay."),
    "bounce": ("fastrelay.cli.bounce:bounce", "Read bounce messages: who, why, about which mail."),
    "inbound": ("fastrelay.cli.inbound:inbound", "What came back: bounces, complaints, reports, counted."),
    "complaint": ("fastrelay.cli.complaints:complaint", "Read complaints: who, about which mail."),
    "complaints": ("fastrelay.cli.complaints:complaints", "Complaint rates, against the lines of 0.1 and 0.3 %."),
    "reports": ("fastrelay.cli.reports:reports", "What others report: DMARC by source, TLS by result."),
    "suppress": ("fastrelay.cli.suppress:suppress", "The suppression list: look, add, remove, import, export."),
    "send": ("fastrelay.cli.send:send", "Send one test message and show the dialogue."),
    "demo": ("fastrelay.cli.demo:demo", "Relay a campaign to an internet in a box."),
}


@click.group(
    cls=MainGroup,
    lazy=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fastrelay", message="%(prog)s %(version)s")
def cli() -> None:
    """Outbound SMTP relay for bulk newsletter sending.

    A newsletter application hands mail over by SMTP; fastrelay keeps it on disk, finds the
    recipients' MX hosts, and sends as fast as each mailbox provider allows.
    """
