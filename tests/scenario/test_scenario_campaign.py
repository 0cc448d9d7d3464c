"""A campaign goes through the relay exactly once, with some recipients refused for a while and some for good."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from fastrelay.sim.demonstration import Demonstration, Result


def test_campaign_arrives_exactly_once(long_run: bool) -> None:
    async def relay() -> Result:
        async with Demonstration(100_000 if long_run else 3_000, 500, workers=2) as demonstration:
            return await demonstration.run()

    result = asyncio.run(relay())
    assert result.exact, result
    assert result.expected_failed > 0
    assert result.deferred > 0
    assert set(result.by_source) == {"a", "b"}


def test_demo_command_reports_as_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastrelay", "demo", "--messages", "200", "--domains", "30", "--json", "--keep"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**__import__("os").environ, "TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["exactly_once"] is True
    assert report["relay"]["accepted"] == 200
    kept = Path(report["directory"])
    assert kept.parent == tmp_path
    assert (kept / "fastrelay.yaml").exists()


def test_demo_command_shows_where_everything_went(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastrelay", "demo", "--messages", "60", "--domains", "12", "--no-trouble"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**__import__("os").environ, "TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    for words in ("Where everything went", "60 arrived exactly once", "google", "deploy/fastrelay.example.yaml"):
        assert words in done.stdout
    assert not list(tmp_path.iterdir()), "the demo leaves nothing behind"
