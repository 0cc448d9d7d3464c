import os

MAX_SLOTS: int
CAPACITY: int

class TableError(Exception):
    path: str
    why: str
    def __init__(self, path: str, why: str) -> None: ...

class Cells:
    path: str
    slots: int
    capacity: int
    cells: int
    shared: int
    overflows: int
    boot_id: str
    hash_key: bytes
    reloading: bool
    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    def cell(self, name: bytes) -> int: ...

def shared_cells(capacity: int) -> int: ...
def write_empty(path: str, slots: int, capacity: int, boot_id: str, hash_key: bytes) -> None: ...
