"""Rules of the configuration about TLS: listeners and their certificate, levels, policies, reports, smart hosts.

Each looks at a whole configuration whose parts are sound; files are looked at by config/checks.py, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.config.rules import Rules
    from fastrelay.config.schema import Config

TLS_RULES: list[Callable[[Config, Rules], None]] = []
