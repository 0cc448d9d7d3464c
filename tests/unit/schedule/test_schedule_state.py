"""The state of a message: what is encoded is read back, and octets that are no state are refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.schedule.state import MessageState, RecipientState, decode_state, fresh_state

RECIPIENTS = st.builds(
    RecipientState,
    status=st.integers(0, 5),
    flags=st.integers(0, 1),
    attempts=st.integers(0, 65535),
    due_ms=st.integers(0, 2**62),
    source=st.text(max_size=20),
    site=st.text(max_size=20),
    reply=st.text(max_size=50),
    reason=st.text(max_size=20),
)


@given(st.lists(RECIPIENTS, max_size=20), st.text(max_size=20), st.integers(0, 9), st.integers(0, 2**62))
def test_round_trip(recipients: list[RecipientState], why: str, crashes: int, mark: int) -> None:
    state = MessageState(recipients, why, crashes, mark)
    assert decode_state(state.encode()) == state


def test_a_fresh_state_has_everybody_queued() -> None:
    assert [one.status for one in fresh_state(3).recipients] == [0, 0, 0]


@given(st.binary(max_size=60))
def test_octets_that_are_no_state(octets: bytes) -> None:
    try:
        decode_state(octets)
    except msgspec.MsgspecError:
        return


def test_a_state_cut_short_is_refused() -> None:
    whole = fresh_state(3).encode()
    for n in range(len(whole)):
        with pytest.raises(msgspec.MsgspecError):
            decode_state(whole[:n])
