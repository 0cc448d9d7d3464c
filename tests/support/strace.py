"""System calls of a child, recorded by strace with all that was written, as a list of calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TRACED = (
    "openat,open,creat,close,dup,fcntl,read,write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,fallocate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,eventfd2"
)
CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)$")
UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


def available() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
    )


@dataclass
class Call:
    """One system call: its name, its arguments as strace prints them, what it gave."""

    thread: int
    name: str
    arguments: str
    result: int
    octets: list[bytes] = field(default_factory=list)


def record(command: list[str], trace: Path, *, inject: list[str] | None = None) -> tuple[int, str]:
    """Run a command under strace; (exit code, standard output)."""
    words = ["strace", "-f", "-qq", "-xx", "-s", "10000000", "-o", str(trace), "-e", f"trace={TRACED}"]
    for one in inject or []:
        words += ["-e", f"inject={one}"]
    done = subprocess.run([*words, *command], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def calls(trace: Path) -> Iterator[Call]:
    """The calls in the order in which they returned; a close when it began, since another thread may have the number
    before it returns."""
    begun: dict[str, tuple[str, str]] = {}
    with open(trace, encoding="ascii", errors="replace") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if found := UNFINISHED.match(line):
                begun[found[1]] = (found[2], found[3])
                if found[2] == "close":
                    yield Call(int(found[1]), "close", found[3], 0)
                continue
            if found := RESUMED.match(line):
                name, first = begun.pop(found[1])
                if name == "close":
                    continue
                line = f"{found[1]} {name}({first}{found[3]}"
            if found := CALL.match(line):
                result = -1 if found[4] == "?" else int(found[4])
                strings = re.findall(r'"((?:\\x[0-9a-f]{2})*)"', found[3])
                octets = [bytes.fromhex(one.replace("\\x", "")) for one in strings]
                arguments = re.sub(r'"(?:\\x[0-9a-f]{2})*"', '""', found[3])
                yield Call(int(found[1]), found[2], arguments, result, octets)
