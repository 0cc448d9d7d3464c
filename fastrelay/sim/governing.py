"""The governor of limits in a simulation: what the supervisor does for it, done here in process."""

from __future__ import annotations

from typing import Any

from fastrelay.sim.relay import SimulatedRelay


class Governing:
    """Warm-up and back-off of one simulated relay. Until a governor exists, it does nothing."""

    def __init__(self, relay: SimulatedRelay) -> None:
        self._relay = relay
        self.happened: list[dict[str, object]] = []

    def begin(self) -> None:
        """Before the worker starts: what its limits are must be in the table."""

    def start(self) -> None:
        """The worker lives: from now on a step at each interval."""

    def status(self) -> list[dict[str, Any]]:
        """Where each cold source stands."""
        return []
