"""Errors with fields, ours apart from theirs.

Everything fastrelay raises on purpose derives from FastrelayError, so that the command line can tell an answer for the
operator from a bug. An error carries its facts as attributes; the text is made from them. What a mailbox provider
answered is never an exception: that is a reply (see outcome/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FastrelayError(Exception):
    """Base of all errors that are meant to be read by an operator."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in a configuration, and its mend.

    file     name of the configuration file, as given
    line     line in it, from 1; 0 when the problem is that something is not there at all
    path     the key, as `retry.first` or `sources[1].address`; "" for the whole file
    problem  what is wrong, a clause without a full stop
    mend     what to do about it, a clause without a full stop; may be ""
    """

    file: str
    line: int
    path: str
    problem: str
    mend: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f"{place}: {self.path}" if self.path else place
        return f"{where}: {self.problem}; {self.mend}" if self.mend else f"{where}: {self.problem}"


class ConfigError(FastrelayError):
    """A configuration that cannot be used: all its problems at once, in the order of the file.

    `file`, `line`, `path`, `problem` and `mend` are those of the first problem.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        if not problems:
            raise ValueError("a ConfigError needs at least one problem")
        self.problems: tuple[ConfigProblem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def file(self) -> str:
        return self.problems[0].file

    @property
    def line(self) -> int:
        return self.problems[0].line

    @property
    def path(self) -> str:
        return self.problems[0].path

    @property
    def problem(self) -> str:
        return self.problems[0].problem

    @property
    def mend(self) -> str:
        return self.problems[0].mend


class HostError(FastrelayError):
    """This host cannot run this configuration (no such address, port in use, state directory not writable).

    problems  the same shape as a configuration's, so that `check` prints both alike.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems: tuple[ConfigProblem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StateHeld(FastrelayError):
    """Another relay holds the state directory."""

    def __init__(self, state_dir: str, pid: int | None = None) -> None:
        self.state_dir = state_dir
        self.pid = pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{state_dir} is held by {who}: a state directory serves one relay; stop that one, or give this one a "
            "state_dir of its own"
        )


class ControlError(FastrelayError):
    """The running relay answered a command with an error, in words.

    command  the control command, as `queue.list`
    words    the relay's answer
    """

    def __init__(self, command: str, words: str) -> None:
        self.command = command
        self.words = words
        super().__init__(words)


class NoRelay(FastrelayError):
    """Nothing answers at the control socket.

    socket  path of the socket that was tried
    mend    what the operator can do
    """

    def __init__(self, socket: str, problem: str, mend: str) -> None:
        self.socket = socket
        self.problem = problem
        self.mend = mend
        super().__init__(f"{problem}; {mend}")


class ControlLost(FastrelayError):
    """The relay went away, or took too long, in the middle of a command: whether it was carried out is not known.

    command  the control command
    problem  what happened, as `no answer within 30s`
    """

    def __init__(self, command: str, problem: str) -> None:
        self.command = command
        self.problem = problem
        super().__init__(f"{command}: {problem}")
