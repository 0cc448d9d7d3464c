"""`fastrelay user`: who may authenticate. Edits the users file; the running relay notices by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from fastrelay.cli.group import LazyGroup
from fastrelay.cli.options import F, config_option, json_option, require_config
from fastrelay.errors import FastrelayError

COMMANDS = {
    "add": ("fastrelay.cli.user:add", "Add a user."),
    "set": ("fastrelay.cli.user:set_", "Change what a user may do; disable or enable."),
    "passwd": ("fastrelay.cli.user:passwd", "Give a user another password."),
    "remove": ("fastrelay.cli.user:remove", "Remove users."),
    "list": ("fastrelay.cli.user:list_", "List the users."),
}

EPILOG = """\b
The users are in the file that auth.users of the configuration names (or --file). It holds no
password, but for users with --cram-md5 (see fastrelay user add --help); keep it readable by the
relay alone. A running relay takes changes over within seconds, and sessions go on: a user who
was removed or disabled is refused from the next message on.

\b
Examples:
  fastrelay user add listmonk --generate
  fastrelay user add shop --pool transactional --sender shop.example --rate "3000/h burst 50"
  pass mail/shop | fastrelay user passwd shop
  fastrelay user set shop --disable
  fastrelay user list --json | jq -r .users[].name

Exit codes: 0 done; 1 failed; 2 wrong usage, configuration or users file.
"""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG)
def user() -> None:
    """Users who may authenticate: add, change, remove, list."""


class UserError(FastrelayError):
    """What was asked for can't be done, in words."""


# -- options ----------------------------------------------------------------------------------------------------------


def file_options(function: F) -> F:
    """-c, --file and --json."""
    for option in (
        json_option,
        click.option("--file", "file", metavar="FILE", type=click.Path(), help="Users file, in place of auth.users."),
        config_option,
    ):
        function = option(function)
    return function


def password_options(function: F) -> F:
    for option in (
        click.option(
            "--cram-md5/--no-cram-md5",
            "cram_md5",
            default=None,
            help="Store the password itself, in the clear, for CRAM-MD5.  [default: as it is; no]",
        ),
        click.option("--generate", is_flag=True, help="Make a password (120 random bits) and print it."),
    ):
        function = option(function)
    return function


def right_options(function: F) -> F:
    """What a user may do; an empty text takes a thing back."""
    for option in (
        click.option("--note", metavar="TEXT", help="A note for your colleagues."),
        click.option(
            "--recipients-per-day", metavar="NUMBER|none", help="Recipients that may be submitted a day (UTC)."
        ),
        click.option("--connections", metavar="NUMBER|none", help="Connections that may be open at one time."),
        click.option(
            "--rate", metavar="RATE|none", help='Recipients that may be submitted, such as "3000/h burst 50".'
        ),
        click.option(
            "--sender",
            "senders",
            metavar="PATTERN|any",
            multiple=True,
            help="Allowed senders, in MAIL and in From: news.example, *.news.example, info@shop.example,"
            " bounce-*@shop.example or <>. May be given more than once.  [default: anybody]",
        ),
        click.option(
            "--priority", type=click.Choice(["transactional", "normal", "bulk", "none"]), help="Class of the mail."
        ),
        click.option("--tenant", metavar="NAME|none", help="Tenant of the mail; header fields can't change it."),
        click.option("--campaign", metavar="NAME|none", help="Campaign of the mail where no header field names one."),
        click.option("--pool", metavar="NAME|none", help="Pool of sending addresses for the mail."),
    ):
        function = option(function)
    return function


# -- commands ---------------------------------------------------------------------------------------------------------


@click.command(
    epilog="""\b
The password comes from a prompt, from the first line of standard input, or from --generate; never
from the command line, where other users of this host could read it.

\b
What is stored: a scrypt hash (for PLAIN and LOGIN) and the keys of SCRAM-SHA-256; neither of
them gives the password away. CRAM-MD5 can't work with less than THE PASSWORD ITSELF. So that is
stored, in the clear, only for users that are added with --cram-md5, and only they can use
CRAM-MD5; give them a password that is used nowhere else (--generate). Under TLS, PLAIN is the
better choice wherever the client can be told so (listmonk: auth_protocol "plain" or "login").

\b
Examples:
  fastrelay user add listmonk --generate
  fastrelay user add shop --pool transactional --priority transactional --sender shop.example
  fastrelay user add acme --tenant acme --rate 3000/h --recipients-per-day 50000 --connections 20
  echo "$PASSWORD" | fastrelay user add old-crm --cram-md5
"""
)
@click.argument("name")
@password_options
@right_options
@file_options
def add(
    name: str, config_path: str | None, file: str | None, as_json: bool, generate: bool, cram_md5: bool | None,
    **rights: Any,
) -> None:  # fmt: skip
    """Add a user."""
    from fastrelay.ingest import users

    place = Place(config_path, file)
    words(users.check_name, name)
    changes = place.rights(rights)
    if os.path.exists(place.path) and name in users.read_users(place.path).accounts:
        raise UserError(f"{name} is a user already; fastrelay user passwd and set change it")
    password = the_password(generate)
    stored = words(users.secrets_of, password, bool(cram_md5))
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    made = users.User(**{"name": name, "created": created, **changes, **stored})

    def change(lines: list[str]) -> list[str]:
        if users.find_user(lines, name) is not None:
            raise UserError(f"{name} is a user already; fastrelay user passwd and set change it")
        return users.with_user(lines, made)

    place.edit(change)
    place.say(as_json, "added", made, password if generate else None)


@click.command(
    name="set",
    epilog="""\b
Options that are not given leave things as they are; none takes a limit or name back, --sender any
the list of senders. --sender replaces the whole list.

\b
Examples:
  fastrelay user set shop --rate 5000/h --connections 30
  fastrelay user set shop --sender shop.example --sender "*.shop.example"
  fastrelay user set shop --rate none
  fastrelay user set shop --disable
""",
)
@click.argument("name")
@click.option("--disable/--enable", "disabled", default=None, help="Refuse all mail of the user, or no longer.")
@right_options
@file_options
def set_(
    name: str, config_path: str | None, file: str | None, as_json: bool, disabled: bool | None, **rights: Any
) -> None:
    """Change what a user may do; disable or enable."""
    place = Place(config_path, file)
    changes = place.rights(rights, place.user(name))
    if disabled is not None:
        changes["disabled"] = disabled
    if not changes:
        raise click.UsageError("nothing to change; --help lists the options")
    place.say(as_json, "changed", place.replace(name, changes))


@click.command(
    epilog="""\b
The password comes from a prompt, from the first line of standard input, or from --generate. All
of what is stored is made anew; --cram-md5 (see fastrelay user add --help) stays as it was unless
given. Sessions that authenticated with the old one are refused from their next message on.

\b
Examples:
  fastrelay user passwd listmonk
  fastrelay user passwd listmonk --generate
  fastrelay user passwd old-crm --no-cram-md5
"""
)
@click.argument("name")
@password_options
@file_options
def passwd(
    name: str, config_path: str | None, file: str | None, as_json: bool, generate: bool, cram_md5: bool | None
) -> None:
    """Give a user another password."""
    from fastrelay.ingest import users

    place = Place(config_path, file)
    old = place.user(name)
    password = the_password(generate)
    clear = bool(old.cram_md5) if cram_md5 is None else cram_md5
    changed = place.replace(name, words(users.secrets_of, password, clear))
    place.say(as_json, "changed", changed, password if generate else None)


@click.command(
    epilog="""\b
Examples:
  fastrelay user remove shop
  fastrelay user remove shop acme
"""
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@file_options
def remove(names: tuple[str, ...], config_path: str | None, file: str | None, as_json: bool) -> None:
    """Remove users."""
    from fastrelay.ingest import users

    place = Place(config_path, file)

    def change(lines: list[str]) -> list[str]:
        for name in names:
            if users.find_user(lines, name) is None:
                raise UserError(f"there is no user {name}")
            lines = users.without_user(lines, name)
        return lines

    for name in names:
        place.user(name)
    place.edit(change)
    if as_json:
        from fastrelay.cli.output import print_json

        print_json({"removed": list(names)})
    else:
        click.echo(f"removed {', '.join(names)}")


@click.command(
    name="list",
    epilog="""\b
Examples:
  fastrelay user list
  fastrelay user list --json | jq '.users[] | select(.disabled)'
""",
)
@file_options
def list_(config_path: str | None, file: str | None, as_json: bool) -> None:
    """List the users. What is stored of a password is not shown."""
    from fastrelay.cli.output import LEFT, RIGHT, WIDE, print_json, print_table
    from fastrelay.ingest import users

    place = Place(config_path, file)
    found = [one.user.public() for one in users.read_users(place.path).accounts.values()]
    if (wrong := users.mode_problem(place.path)) is not None:
        click.echo(f"warning: {place.path} {wrong}; chmod 600 {place.path}", err=True)
    if as_json:
        print_json({"file": place.path, "users": found})
        return
    if not found:
        click.echo(f"no users in {place.path}; fastrelay user add makes one")
        return
    columns = [
        ("user", LEFT), ("mechanisms", LEFT), ("pool", LEFT), ("tenant", LEFT), ("campaign", LEFT), ("senders", WIDE),
        ("rate", LEFT), ("connections", RIGHT), ("per day", RIGHT), ("created", LEFT), ("note", WIDE),
    ]  # fmt: skip
    print_table(columns, [_row(one) for one in found], spare=("created", "campaign", "note", "per day"))


def _row(one: dict[str, Any]) -> list[object]:
    mail = one["mail"]
    return [
        f"{one['name']} (disabled)" if one["disabled"] else one["name"],
        " ".join(one["mechanisms"]),
        mail.get("pool") or "",
        mail.get("tenant") or "",
        mail.get("campaign") or "",
        " ".join(one["senders"]) or "any",
        one["rate"] or "",
        one["connections"] or "",
        one["recipients_per_day"] or "",
        one["created"][:10],
        one["note"],
    ]


# -- what they share --------------------------------------------------------------------------------------------------


class Place:
    """The users file, and the configuration that names it where there is one."""

    def __init__(self, config_path: str | None, file: str | None) -> None:
        self.config: Any = None
        if file is None:
            from fastrelay.config.load import load

            path = require_config(config_path)
            self.config = load(path)
            if self.config.auth.users is None:
                raise click.UsageError(
                    f"{path} names no users file; add auth: with users: to it, such as /etc/fastrelay/users, or name "
                    "the file with --file"
                )
            file = self.config.auth.users
        self.path: str = file

    def user(self, name: str) -> Any:
        """A user of the file."""
        from fastrelay.ingest import users

        found = users.read_users(self.path).accounts.get(name)
        if found is None:
            raise UserError(f"there is no user {name} in {self.path}")
        return found.user

    def edit(self, change: Callable[[list[str]], list[str]]) -> None:
        from fastrelay.ingest import users

        users.edit_users(self.path, change, self._owner())

    def replace(self, name: str, changes: dict[str, Any]) -> Any:
        """Changes a user; gives the new one."""
        from fastrelay.ingest import users

        changed: list[Any] = []

        def change(lines: list[str]) -> list[str]:
            old = users.find_user(lines, name)
            if old is None:
                raise UserError(f"there is no user {name} in {self.path}")
            changed.append(msgspec.structs.replace(old, **changes))
            return users.with_user(lines, changed[0])

        self.edit(change)
        return changed[0]

    def _owner(self) -> tuple[int, int] | None:
        """Whose a new file is, when root makes it: the relay's (run_as)."""
        if self.config is None or self.config.run_as.user is None or os.geteuid() != 0:
            return None
        import grp
        import pwd

        try:
            found = pwd.getpwnam(self.config.run_as.user)
            group = self.config.run_as.group
            return found.pw_uid, found.pw_gid if group is None else grp.getgrnam(group).gr_gid
        except KeyError:
            return None

    def rights(self, given: dict[str, Any], old: Any = None) -> dict[str, Any]:
        """The options as keys of a user; those that were not given are left out. Raises click's errors."""
        from fastrelay.config.sending import Assignment
        from fastrelay.ingest import users
        from fastrelay.ingest.senders import Senders
        from fastrelay.limits.rate import parse_rate

        changes: dict[str, Any] = {}
        named = {key: given[key] for key in ("pool", "campaign", "tenant", "priority") if given[key] is not None}
        if named:
            kept = old.mail if old is not None else Assignment()
            mail = msgspec.structs.replace(kept, **{key: _given(text) for key, text in named.items()})
            changes["mail"] = words(users.checked_assignment, mail)
            self._warn_of_pool(changes["mail"].pool)
        if given["senders"]:
            patterns = [] if given["senders"] == ("any",) else list(given["senders"])
            words(Senders, patterns, hint="--sender")
            changes["senders"] = patterns
        if given["rate"] is not None:
            text = _given(given["rate"])
            changes["rate"] = None if text is None else words(parse_rate, text, hint="--rate").text
        for key in ("connections", "recipients_per_day"):
            if given[key] is not None:
                changes[key] = _number(given[key], f"--{key.replace('_', '-')}", 10**9 if key[0] == "r" else 100_000)
        if given["note"] is not None:
            changes["note"] = given["note"][:500]
        return changes

    def _warn_of_pool(self, pool: str | None) -> None:
        if pool is not None and self.config is not None and pool not in {"default", *self.config.pools}:
            known = ", ".join(self.config.pools) or "default"
            click.echo(f"warning: there is no pool {pool!r} in the configuration; it has {known}", err=True)

    def say(self, as_json: bool, verb: str, changed: Any, password: str | None = None) -> None:
        from fastrelay.cli.output import print_json

        if as_json:
            print_json({verb: changed.public(), **({"password": password} if password is not None else {})})
            return
        click.echo(f"{verb} {changed.name} in {self.path} ({', '.join(changed.public()['mechanisms'])})")
        if changed.cram_md5 is not None:
            click.echo("  the password is stored in the clear, for CRAM-MD5", err=True)
        if password is not None:
            click.echo(f"password: {password}")


def words(function: Callable[..., Any], *arguments: Any, hint: str | None = None) -> Any:
    """What a function gives; its ValueError is a usage error."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) if hint else click.UsageError(str(error)) from None


def _given(text: str) -> str | None:
    return None if text in ("none", "") else text


def _number(text: str, hint: str, most: int) -> int | None:
    if _given(text) is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise click.BadParameter(f"{text!r} is not a number from 1 to {most}, and not none", param_hint=hint)
    return int(text)


def the_password(generate: bool) -> str:
    """From --generate, a prompt, or the first line of standard input."""
    from fastrelay.ingest import users

    if generate:
        return users.generated_password()
    if sys.stdin.isatty():
        prompted: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return prompted
    line = sys.stdin.readline()
    if not line.strip():
        raise click.UsageError("no password: type it, write it to standard input, or give --generate")
    return line.rstrip("\r\n")
