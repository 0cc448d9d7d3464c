"""Fixtures of the scenario tests."""

from collections.abc import Iterator

import pytest
from scenario.simulation import Simulation


@pytest.fixture
def net() -> Iterator[Simulation]:
    """An empty internet in a box."""
    with Simulation() as simulation:
        yield simulation
