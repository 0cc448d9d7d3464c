"""A relay whose MTA-STS policies come from a test's own HTTPS port and CA, which no configuration can set.

python sts_relay.py CONFIGURATION CA PORT
"""

import functools
import ssl
import sys

from fastrelay import supervisor
from fastrelay.config.load import load


def main(config_path: str, authority: str, port: str) -> int:
    context = ssl.create_default_context(cafile=authority)
    supervisor.Supervisor = functools.partial(  # type: ignore[assignment, misc]
        supervisor.Supervisor, sts_https=(context, int(port))
    )
    return supervisor.run(load(config_path), config_path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
