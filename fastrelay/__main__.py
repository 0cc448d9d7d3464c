"""`python -m fastrelay` is `fastrelay`."""

import sys

from fastrelay.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
