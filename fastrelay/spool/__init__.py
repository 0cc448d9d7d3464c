"""The spool: what was accepted, on stable storage (DESIGN section 4).

- errors.py: what can go wrong
- opening.py: folders: make, check, open, set aside
- care.py: free room, the ballast, when to compact
- compaction.py: copy the live rest of a sparse segment forward
- eventlog.py: the files that event lines go to
- _core.writer: what collects; _core.commit: group commit; _core.content: reading
- _core.scan: walks; _core.lmdb: the index
- _core.inflight: which recipients' bodies are being handed to a socket
"""

from fastrelay.spool.errors import DamagedContent, SpoolCorrupt, SpoolError, SpoolFormat
from fastrelay.spool.opening import SpoolOptions, open_spool, open_spool_later, orphans, set_aside

__all__ = [
    "DamagedContent",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolFormat",
    "SpoolOptions",
    "open_spool",
    "open_spool_later",
    "orphans",
    "set_aside",
]
