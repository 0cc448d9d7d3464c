"""What the metrics say of signatures and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dkim_keys import ed25519_key, one_key, rsa_key

from fastrelay._core.slab import Slab
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring, NoKey
from fastrelay.dkim.sign import Signer
from fastrelay.metrics import names
from fastrelay.metrics.meters import Meters

HEADER = b"From: a@news.example\r\n"


def test_signatures_and_keys(tmp_path: Path) -> None:
    meters = Meters(Slab(tmp_path / "slab", create=True))
    lame = DkimKey(domain="other.example", selector="x", key=str(tmp_path / "none"))
    old = DkimKey(domain="news.example", selector="old", key=str(tmp_path / "none"), sign=False)
    ring = Keyring(Dkim(keys=[one_key(tmp_path, rsa_key(), "r"), one_key(tmp_path, ed25519_key(), "e"), lame, old]))
    ring.load()
    signer = Signer(ring, Dkim())
    for _ in range(3):
        signer.sign(HEADER, bytes(32), b"news.example", b"", 1.0)
    with pytest.raises(NoKey):
        signer.sign(HEADER, bytes(32), b"other.example", b"", 1.0)

    def read() -> dict[str, float]:
        found = {kind: meters.entry(names.DKIM_SIGNATURES, algorithm=kind) for kind in ("rsa", "ed25519")}
        found |= {state: meters.entry(names.DKIM_KEYS, state=state) for state in ("usable", "unusable")}
        found["without"] = meters.entry(names.DKIM_NO_KEY)
        return {what: meters.slab.value(entry) for what, entry in found.items()}

    for _ in range(2):  # counted once
        meters.dkim(signer)
        assert read() == {"rsa": 3, "ed25519": 3, "without": 1, "usable": 2, "unusable": 1}
    meters.dkim(None)
    assert read() == {"rsa": 3, "ed25519": 3, "without": 1, "usable": 0, "unusable": 0}
