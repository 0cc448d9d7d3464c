"""What the feedback process tells unasked: complaint rates stay with its keeper, the rest goes to the supervisor."""

import asyncio
from pathlib import Path

from fastrelay.admin.feedback import COMPLAINT_RATES, FeedbackKeeper
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config
from fastrelay.feedback import complaints


def test_reports(tmp_path: Path) -> None:
    async def story() -> None:
        said = []
        keeper = FeedbackKeeper(
            Config("mta.test"), str(tmp_path), SimulatedClock(), 0, 1.0, lambda slot, message: said.append(message)
        )
        assert complaints.EVENT == COMPLAINT_RATES
        rows = [["all", "", 10, 1, 0.1]]
        keeper.on_report(keeper.slot, {"event": COMPLAINT_RATES, "rows": rows})
        keeper.on_report(keeper.slot, {"event": "complaint", "source": "a", "place": "yahoo", "n": 1})
        assert keeper.complaint_rates == rows
        assert [one["event"] for one in said] == ["complaint"]

    asyncio.run(story())
