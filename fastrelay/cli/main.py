"""The console script. `fastrelay --version` is answered before anything else is imported: probes ask often."""

from __future__ import annotations

import sys

from fastrelay import __version__


def main() -> int:
    """Run the command line; the exit code."""
    if sys.argv[1:] == ["--version"]:
        print(f"fastrelay {__version__}")
        return 0
    from fastrelay.cli.group import cli

    cli(prog_name="fastrelay")
    return 0  # not reached: click exits by itself


if __name__ == "__main__":
    sys.exit(main())
