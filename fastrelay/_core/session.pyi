from asyncio import Future, Transport
from collections.abc import Sequence
from ssl import SSLObject
from typing import Any

from fastrelay._core.client import SmtpClient
from fastrelay._core.engine import Delivery, Engine
from fastrelay._core.index import SiteQueue
from fastrelay._core.table import Table

CLOSE_SECONDS: float
LOST_SECONDS: float

class Session:
    site: SiteQueue
    pool: Any
    delivery: Delivery | None
    tail: bytes
    source: int
    source_name: str
    host: str
    address: str
    messages_left: int
    most: int
    idle: bool
    ready: bool
    closing: bool
    closed: bool
    paused: bool
    wanted: bool
    streaming: bool
    held: bool
    idle_since: float
    opened: float
    gone_by: float
    resumed: Future[None] | None
    ssl: SSLObject | None
    tls: Any
    tls_version: str
    tls_verified: str
    @property
    def client(self) -> SmtpClient: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def transport(self) -> Transport | None: ...
    def __init__(
        self,
        client: SmtpClient,
        engine: Engine,
        site: SiteQueue,
        pool: Any,
        *,
        source: int,
        source_name: str,
        host: str,
        address: str,
        tail: bytes,
        messages: int,
        most: int,
        table: Table,
        cell: int,
        slot: int,
        limit: int,
        delivered_slot: int,
        transaction_seconds: Any,
        urgent_cells: Sequence[int] = (),
        tls: Any = None,
    ) -> None: ...
    def connection_made(self, transport: Any) -> None: ...
    def get_buffer(self, hint: int) -> bytearray: ...
    def buffer_updated(self, n: int) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, error: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def secured(self, transport: Any, now: float) -> bool: ...
    def pump(self, now: float) -> int: ...
    def go(self, now: float) -> bool: ...
    def leave_idle(self) -> None: ...
    def leave(self, now: float) -> None: ...
    def tick(self, now: float) -> None: ...
    def chunk(self, octets: bytes, last: bool) -> bool: ...
    def abort(self) -> None: ...
