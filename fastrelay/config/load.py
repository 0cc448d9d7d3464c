"""Reading a configuration file: YAML, strict, all problems at once.

    config = load("/etc/fastrelay/fastrelay.yaml")        # a Config, or ConfigError with .problems
    document = load_document(path)                        # and its warnings, and the line of each key

Nothing here looks at this host; that is checks.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import msgspec
import yaml

from fastrelay.config.base import Origins
from fastrelay.config.feedback import with_absolute_feedback_paths
from fastrelay.config.rules import check_rules
from fastrelay.config.schema import DEFAULT_STATE_DIR, Config
from fastrelay.config.security import with_absolute_paths
from fastrelay.config.sending_rules import rules_path
from fastrelay.config.tree import BAD, TreeReader
from fastrelay.errors import ConfigError, ConfigProblem

# A configuration with a hundred thousand relay networks is below this; a file beyond is a mistake (a log, a mailbox).
MAX_FILE_BYTES = 16 * 2**20

# Paths whose lines go with the Config: what says how fast mail leaves, and from where.
_ORIGIN = re.compile(
    r"sources\[|pools\.|providers\.|provider_limits$|shaping\[|warmup\.|backoff\.|delivery\.[a-z_]+$|routes\[[0-9]+\]$"
)

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file that is sound.

    warnings  what in it is legal but unwise
    lines     the line of each path that the file has, from 1
    """

    file: str
    config: Config
    warnings: list[ConfigProblem]
    lines: dict[str, int]


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file. Raises ConfigError."""
    return load_document(path).config


def load_document(path: str | os.PathLike[str]) -> Document:
    """The configuration in a file, its warnings and lines. Raises ConfigError."""
    name = os.fspath(path)
    return parse(_read(name), name)


def load_text(text: str, name: str = "<text>", folder: str | None = None) -> Config:
    """The configuration in a text. A relative state_dir starts at `folder` (default: the current directory)."""
    return parse(text, name, folder if folder is not None else os.getcwd()).config


def parse(text: str, name: str, folder: str | None = None) -> Document:
    """The document in a text that came from the file `name`. Raises ConfigError."""
    reader = TreeReader(name)
    config = reader.read(_compose(text, name), Config, "")
    if config is BAD:
        raise ConfigError(reader.problems)
    if folder is None:
        folder = os.path.dirname(os.path.abspath(name))
    warnings = check_rules(config, reader, folder)
    if reader.problems:  # those of a file that this one names come behind
        raise ConfigError(sorted(reader.problems, key=lambda problem: (problem.file != name, problem.line)))
    # Without pools, every source is in the pool `default`.
    pools = config.pools or ({"default": [source.name for source in config.sources]} if config.sources else {})
    origins = Origins(file=name, lines={path: line for path, line in reader.lines.items() if _ORIGIN.match(path)})
    state_dir = _absolute(config.state_dir, name, folder)
    backoff = msgspec.structs.replace(config.backoff, rules=rules_path(config, folder))
    files = with_absolute_paths(config, folder) | with_absolute_feedback_paths(config, folder)
    config = msgspec.structs.replace(
        config, state_dir=state_dir, pools=pools, backoff=backoff, origins=origins, **files
    )
    return Document(name, config, warnings, reader.lines)


def state_dir_of(path: str | os.PathLike[str]) -> str:
    """The state directory that a file names, even if the rest of the file is at fault. Raises ConfigError.

    For the commands that only need the control socket: a slip in a file that is being edited should not keep an
    operator from looking at the queue.
    """
    name = os.fspath(path)
    found = DEFAULT_STATE_DIR
    for key, value in _compose(_read(name), name).value:
        if key.value == "state_dir" and isinstance(value, yaml.ScalarNode) and value.value:
            found = value.value
    return _absolute(found, name, None)


def _absolute(state_dir: str, name: str, folder: str | None) -> str:
    """A relative state directory starts at the folder of the configuration file."""
    if folder is None:
        folder = os.path.dirname(os.path.abspath(name))
    return os.path.normpath(os.path.join(folder, os.path.expanduser(state_dir)))


def _read(name: str) -> str:
    try:
        with open(name, "rb") as file:
            octets = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        mend = {
            FileNotFoundError: "name the file with -c; deploy/fastrelay.example.yaml is one to start from",
            PermissionError: "let the user that runs fastrelay read it",
            IsADirectoryError: "name the file in it",
        }.get(type(error), "check the file")
        problem = f"cannot be read ({os.strerror(error.errno or 0)})"
        raise ConfigError([ConfigProblem(name, 0, "", problem, mend)]) from None
    if len(octets) > MAX_FILE_BYTES:
        problem = f"is larger than {MAX_FILE_BYTES // 2**20} MiB"
        raise ConfigError([ConfigProblem(name, 0, "", problem, "check that this is the configuration file")])
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        raise ConfigError([ConfigProblem(name, line, "", "is not UTF-8 text", "save the file as UTF-8")]) from None


def _compose(text: str, name: str) -> yaml.Node:
    """The node tree; an empty document is an empty section."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and mark.line >= len(text.splitlines()):  # noticed at the end only: blame the opening bracket or quote
            mark = error.context_mark or mark
        line = mark.line + 1 if mark else 0
        words = " ".join(part for part in (error.context, error.problem) if part) or "broken"
        raise ConfigError(
            [ConfigProblem(name, line, "", f"is not YAML: {words}", _yaml_mend(text, line, words))]
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 0
        problem = f"is not YAML: {error.reason}"
        raise ConfigError([ConfigProblem(name, line, "", problem, "remove the character")]) from None
    except RecursionError:
        raise ConfigError([ConfigProblem(name, 0, "", "is nested too deeply", "check the brackets")]) from None
    if root is None:
        mark = yaml.Mark(name, 0, 0, 0, "", 0)
        return yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            [ConfigProblem(name, root.start_mark.line + 1, "", "is not a section of keys", "write key: value lines")]
        )
    return root


def _yaml_mend(text: str, line: int, words: str) -> str:
    lines = text.splitlines()
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in shown:
        return "use spaces in place of the tab"
    if "alias" in words or "anchor" in words:
        return 'put texts that start with * or & in quotes, such as ["*"]'
    if "another document" in words:
        return "keep one document; remove the line ---"
    return "check the indentation, the quotes and the brackets in and above this line"
