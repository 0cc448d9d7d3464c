from collections.abc import Callable
from enum import IntEnum

from fastrelay._core.reply import Reply
from fastrelay._core.transaction import Capabilities as Capabilities
from fastrelay._core.transaction import ErrorKind as ErrorKind
from fastrelay._core.transaction import Stage as Stage
from fastrelay._core.transaction import Timeouts as Timeouts
from fastrelay._core.transaction import Transaction as Transaction

class State(IntEnum):
    STATE_GREETING = 0
    STATE_EHLO = 1
    STATE_HELO = 2
    STATE_READY = 3
    STATE_MAIL = 4
    STATE_RCPT = 5
    STATE_DATA = 6
    STATE_BODY = 7
    STATE_FINAL = 8
    STATE_RESET = 9
    STATE_QUIT = 10
    STATE_CLOSED = 11

class Event(IntEnum):
    EVENT_NONE = 0
    EVENT_DONE = 1
    EVENT_GREETING_REFUSED = 2
    EVENT_READY = 3
    EVENT_NEED_BODY = 4
    EVENT_CLOSING = 5

class SmtpClient:
    trace: Callable[[str, bytes], object] | None
    @property
    def state(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def last_reply(self) -> Reply | None: ...
    @property
    def finished(self) -> Transaction | None: ...
    @property
    def transactions_done(self) -> int: ...
    @property
    def chunking_broken(self) -> bool: ...
    @property
    def error_kind(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    def __init__(
        self,
        ehlo_name: bytes,
        now: float,
        *,
        allow_pipelining: bool = True,
        allow_chunking: bool = True,
        timeouts: Timeouts | None = None,
        trace: Callable[[str, bytes], object] | None = None,
    ) -> None: ...
    def receive(self, octets: bytes | bytearray | memoryview, now: float) -> None: ...
    def begin(self, tx: Transaction, now: float) -> int: ...
    def chunk(self, octets: bytes, last: bool, now: float) -> bool: ...
    def abort_body(self, now: float) -> int: ...
    def quit(self, now: float) -> int: ...
    def tick(self, now: float) -> int: ...
    def progress(self, now: float, pending: int = 0) -> int: ...
    def connection_lost(self, now: float) -> int: ...
    def take_output(self) -> list[bytes]: ...
    def take_finished(self) -> Transaction | None: ...
    def next_event(self) -> int: ...
