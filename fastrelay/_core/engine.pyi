from collections.abc import Callable
from typing import Any

from fastrelay._core.commit import Spool
from fastrelay._core.envelope import Envelope
from fastrelay._core.flows import Flow, Turn
from fastrelay._core.index import Domain, Index, SiteQueue
from fastrelay._core.inflight import Inflight
from fastrelay._core.limits import Waiting
from fastrelay._core.record import Record
from fastrelay._core.scan import Scan
from fastrelay._core.slab import Slab
from fastrelay._core.transaction import Transaction
from fastrelay.spool.errors import SpoolError

READ_BUFFER_BYTES: int
PLAIN_NAME: bytes

class Accepted:
    connection: Any
    msgid: int
    raw: bytes
    content: bytes | None
    domains: list[Domain]
    size: int
    campaign: int
    tenant: int
    flags: int
    since: float

class Hot: ...

class Delivery:
    transaction: Transaction
    session: Any
    message: int
    msgid: int
    spool: int
    recipients: list[int]
    record: Record
    started: float
    @property
    def permits(self) -> int: ...

class Engine:
    index: Index
    spools: list[Spool]
    inflights: list[Inflight]
    tags: list[bytes]
    slab: Slab
    cold: Any
    monotonic: Callable[[], float]
    wall: Callable[[], float]
    read_buffer: bytearray
    hostname: bytes
    received_limit: int
    queued_limit: int
    hot_limit: int
    loading_limit: int
    expire_ms: int
    suspensions: bool
    suppression: Any
    held_back: bool
    field_names: frozenset[bytes]
    loading: int
    accept_edit: Callable[[Envelope], tuple[dict[str, bytes], bytes] | None] | None
    assign: Callable[[dict[str, bytes] | None, Any, bytes, float], Any] | None
    assigned: bool
    seal: Any
    boottime_ns: Callable[[], int]
    waiting: Waiting
    @property
    def hot_bytes(self) -> int: ...
    def __init__(
        self,
        index: Index,
        slab: Slab,
        cold: Any,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        hostname: bytes,
        received_limit: int,
        queued_limit: int,
        hot_bytes: int,
        expire_ms: int,
        boottime_ns: Callable[[], int] | None = None,
    ) -> None: ...
    def add_spool(self, spool: Spool, inflight: Inflight, tag: str | bytes) -> int: ...
    def set_field_names(self, names: list[bytes]) -> None: ...
    def message_id(self, msgid: int, spool: int = 0) -> str: ...
    def event(self, name: str, spool: int, msgid: int, fields: dict[str, Any]) -> None: ...
    def accept(
        self, connection: Any, envelope: Envelope, client: bytes, trace_head: bytes, large: Any, now: float
    ) -> bytes | None: ...
    def on_commit(self, cookies: list[Any], error: SpoolError | None) -> None: ...
    def load_slice(
        self, scan: Scan, spool: int, most: int, suspects: dict[int, list[int]], power_mark: int, now: float
    ) -> bool: ...
    def place_ready(self, r: int, now: float) -> int: ...
    def advance(self, now: float, most: int = 2000) -> int: ...
    def route_pending(self, domain: Domain, now: float) -> None: ...
    def count(self, spool: int, outcome: int, n: int) -> None: ...
    def set_fairness(self, fairness: Any) -> None: ...
    def expired(self, start: int, slice_messages: int, now: float) -> tuple[int | None, list[int]]: ...
    def late(
        self, start: int, slice_messages: int, most: int, delay_ms: int, asked: bool, now: float
    ) -> tuple[int | None, list[int]]: ...
    def expires_in_ms(self, m: int, now: float) -> int: ...
    def give_back(self, delivery: Delivery) -> int: ...
    def forget_limits(self) -> None: ...
    def next_limit_ns(self) -> int: ...
    def wake_waiting(self, now_ns: int) -> None: ...
    def wake(self, who: SiteQueue | Turn | Flow) -> int: ...
    def wake_dirty(self, now: float) -> None: ...
    def pull(self, site: SiteQueue, source: int, most: int, now: float) -> Delivery | None: ...
    def reroute(self, site: SiteQueue, now: float, most: int = 20000) -> None: ...
    def body_leaves(self, delivery: Delivery) -> int: ...
    def released(self, delivery: Delivery) -> int: ...
    def hot_content(self, msgid: int) -> bytes | None: ...
    def forget_hot(self, msgid: int) -> None: ...
    def settle_delivered(self, delivery: Delivery, tail: bytes, now: float) -> int: ...
