"""The command line's end of the control socket: one JSON line out, one JSON line back.

    with ControlClient(state_dir) as relay:
        summary = relay.call("queue.summary")

A call is never repeated: when the relay goes away in the middle, nobody knows whether the command was carried out, and
ControlLost says so. The socket's path may be longer than the 107 octets that sun_path takes: it is reached through the
directory's descriptor.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import msgspec

from fastrelay.config.units import format_duration
from fastrelay.errors import ControlError, ControlLost, NoRelay

# The relay itself waits up to half a minute for each worker, and twice when one restarts under the command.
DEFAULT_TIMEOUT_SECONDS = 90.0
# A list of a million messages is about 400 MB; beyond this the other end is not a relay, or not sane.
MAX_ANSWER_BYTES = 2**30
READ_BYTES = 2**18
SUN_PATH_BYTES = 107

_START = "start one with: fastrelay run -c FILE"


class ControlClient:
    """A connection to the relay that holds a state directory.

    timeout_seconds  the longest silence that is borne, not the length of a whole answer
    """

    def __init__(self, state_dir: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self.state_dir = os.path.abspath(state_dir)
        self.path = os.path.join(self.state_dir, "control.sock")
        self.timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._rest = b""

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""

    def answers(self) -> bool:
        """True if a relay takes the connection (nothing is asked of it)."""
        try:
            self._socket = self._socket or self._connect()
        except NoRelay:
            return False
        return True

    def call(self, command: str, arguments: dict[str, Any] | None = None, timeout_seconds: float | None = None) -> Any:
        """The result of a command. Raises NoRelay, ControlLost or ControlError (see errors.py)."""
        link = self._socket or self._connect()
        self._socket = link
        link.settimeout(timeout_seconds or self.timeout_seconds)
        request = msgspec.json.encode({"command": command, "arguments": arguments or {}})
        try:
            link.sendall(request + b"\n")
            line = self._read_line(link, command)
        except TimeoutError:
            self.close()
            silence = format_duration(timeout_seconds or self.timeout_seconds)
            raise ControlLost(
                command, f"no answer for {silence}; the relay may still carry it out (--timeout waits longer)"
            ) from None
        except OSError as error:
            self.close()
            raise ControlLost(command, f"the relay went away ({os.strerror(error.errno or 0)}); {_UNKNOWN}") from None
        except ControlLost:
            self.close()
            raise
        return self._result(command, line)

    def _read_line(self, link: socket.socket, command: str) -> bytes:
        """One line, however long, up to MAX_ANSWER_BYTES."""
        pieces = [self._rest]
        octets = len(self._rest)
        while b"\n" not in pieces[-1]:
            piece = link.recv(READ_BYTES)
            if not piece:
                came = f"in the middle of its answer, after {octets} octets" if octets else "without an answer"
                raise ControlLost(command, f"the relay went away {came}; {_UNKNOWN}")
            pieces.append(piece)
            octets += len(piece)
            if octets > MAX_ANSWER_BYTES:
                raise ControlLost(command, f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB; ask for less")
        last, _, self._rest = pieces[-1].partition(b"\n")
        return b"".join(pieces[:-1]) + last

    def _result(self, command: str, line: bytes) -> Any:
        try:
            answer = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = None
        if isinstance(answer, dict) and "error" in answer:
            raise ControlError(command, str(answer["error"]))
        if not isinstance(answer, dict) or "result" not in answer:
            self.close()
            raise ControlLost(command, f"what answered at {self.path} is not a relay")
        return answer["result"]

    def _connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        link.settimeout(self.timeout_seconds)
        try:
            if len(os.fsencode(self.path)) <= SUN_PATH_BYTES:
                link.connect(self.path)
            else:
                folder = os.open(self.state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    link.connect(f"/proc/self/fd/{folder}/control.sock")
                finally:
                    os.close(folder)
        except OSError as error:
            link.close()
            raise self._no_relay(error) from None
        return link

    def _no_relay(self, error: OSError) -> NoRelay:
        """Why there is no connection, in words that fit what is found in the file system."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            if not os.path.isdir(self.state_dir):
                problem = f"there is no state directory {self.state_dir}"
                return NoRelay(self.path, problem, "name the relay's configuration with -c FILE, or its --state-dir")
            return NoRelay(self.path, f"no relay runs on {self.state_dir}", _START)
        if isinstance(error, ConnectionRefusedError):
            return NoRelay(self.path, f"no relay runs on {self.state_dir} (it left its control socket behind)", _START)
        if isinstance(error, PermissionError):
            problem = f"this user may not use the control socket {self.path}"
            return NoRelay(self.path, problem, "run the command as the user that runs the relay, or as root")
        if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
            problem = f"the relay on {self.state_dir} takes no connection now"
            return NoRelay(self.path, problem, "try again; if it stays so, look at the relay's log")
        problem = f"the control socket {self.path} cannot be reached ({os.strerror(error.errno or 0)})"
        return NoRelay(self.path, problem, "check state_dir in the configuration")


_UNKNOWN = "whether it was carried out is not known"
