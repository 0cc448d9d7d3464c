"""The spool: what was accepted, on stable storage (DESIGN section 4).

errors.py      what can go wrong
opening.py     folders: make, check, open
_core.commit   group commit, reading
_core.lmdb     the index
_core.inflight ids whose body is being handed to a socket
"""

from fastrelay.spool.errors import DamagedContent, SpoolCorrupt, SpoolError, SpoolFormat
from fastrelay.spool.opening import SpoolOptions, open_spool

__all__ = ["DamagedContent", "SpoolCorrupt", "SpoolError", "SpoolFormat", "SpoolOptions", "open_spool"]
