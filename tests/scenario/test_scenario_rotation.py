"""A DKIM key is rotated under mail: two live selectors, then one. Every message leaves signed, and verifies.

What was signed with the old key and deferred goes out long after the key is gone; its record is still published, as
`fastrelay dkim check` asks for.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from support.dkim_keys import one_key, records_of, rsa_key, signer_for, verdicts
from support.worker import Mx, WorkerBox, run

from fastrelay.clock import SimulatedClock
from fastrelay.config.security import Dkim, DkimKey

WALL = 1_750_000_000.0  # dkimpy takes no signature of the future
CONTENT = b"From: News <a@news.example>\r\nSubject: x\r\n\r\nhello\r\n\r\n"


def dkim(*keys: DkimKey) -> dict[str, object]:
    listed = [{"domain": one.domain, "selector": one.selector, "key": one.key, "sign": one.sign} for one in keys]
    return {"keys": listed}


def reload(box: WorkerBox, *keys: DkimKey) -> None:
    box.config = msgspec.structs.replace(box.config, dkim=Dkim(keys=list(keys)))
    box.app.reload(box.config)


def selectors(content: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb" s=(\w+);", content.partition(b"\r\n\r\n")[0])]


def test_a_rotation_loses_nothing(tmp_path: Path) -> None:
    deferring = [True]

    def reply(verb: str, *_: object) -> str:
        return "450 4.2.1 later" if verb == "BODY" and deferring[0] else ""

    async def work() -> None:
        old, new = one_key(tmp_path, rsa_key(), "old"), one_key(tmp_path, rsa_key(2048, 1), "new")
        retired = DkimKey(domain=old.domain, selector="old", key=old.key, sign=False)
        records = records_of(signer_for(Dkim(keys=[old, new])))
        mx, clock = Mx(reply), SimulatedClock(WALL)
        async with WorkerBox(tmp_path / "relay", [await mx.start()], clock, dkim=dkim(old)) as box:
            await box.accepted(["early@example.test"], content=CONTENT)
            await box.until(lambda: "retry_backoff" in box.places())
            deferring[0] = False
            await box.accepted(["before@example.test"], content=CONTENT)
            reload(box, old, new)
            await box.accepted(["both@example.test"], content=CONTENT)
            reload(box, retired, new)
            Path(old.key).unlink()
            box.pass_time(10)
            await box.accepted(["after@example.test"], content=CONTENT)
            reload(box, new)
            await box.accepted(["alone@example.test"], content=CONTENT)
            # Two hours in the middle of a transaction would be its timeout.
            await box.until(lambda: set(box.places()) == {"retry_backoff"} and len(mx.accepted) == 4)
            box.pass_time(7200)
            await box.until(lambda: len(mx.accepted) == 5)
            await box.settled()
            await box.audit()
        signed = {recipients[0].partition("@")[0]: content for recipients, content in mx.accepted}
        assert {name: selectors(content) for name, content in signed.items()} == {
            "early": ["old"],
            "before": ["old"],
            "both": ["old", "new"],
            "after": ["new"],
            "alone": ["new"],
        }
        for content in signed.values():
            assert all(verdicts(content, records, len(selectors(content))))

    run(work)
