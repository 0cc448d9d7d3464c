from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

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
    STATE_STARTTLS = 3
    STATE_HANDSHAKE = 4
    STATE_AUTH = 5
    STATE_READY = 6
    STATE_MAIL = 7
    STATE_RCPT = 8
    STATE_DATA = 9
    STATE_BODY = 10
    STATE_FINAL = 11
    STATE_RESET = 12
    STATE_QUIT = 13
    STATE_CLOSED = 14

class Event(IntEnum):
    EVENT_NONE = 0
    EVENT_DONE = 1
    EVENT_GREETING_REFUSED = 2
    EVENT_READY = 3
    EVENT_NEED_BODY = 4
    EVENT_CLOSING = 5
    EVENT_STARTTLS = 6

class Tls(IntEnum):
    TLS_NONE = 0
    TLS_OFFERED = 1
    TLS_REQUIRED = 2
    TLS_IMPLICIT = 3

class Login(Protocol):
    problem: str
    def begin(self, offered: tuple[str, ...]) -> bytes | None: ...
    def respond(self, challenge: bytes) -> bytes | None: ...

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
    def tls(self) -> bool: ...
    @property
    def tls_verified(self) -> bool: ...
    @property
    def starttls_refused(self) -> Reply | None: ...
    @property
    def starttls_missing(self) -> bool: ...
    @property
    def starttls_injected(self) -> bool: ...
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
        tls: int = ...,
        login: Login | None = None,
        auth_in_clear: bool = False,
    ) -> None: ...
    def receive(self, octets: bytes | bytearray | memoryview, now: float) -> None: ...
    def begin(self, tx: Transaction, now: float) -> int: ...
    def chunk(self, octets: bytes, last: bool, now: float) -> bool: ...
    def abort_body(self, now: float) -> int: ...
    def quit(self, now: float) -> int: ...
    def tls_started(self, now: float, verified: bool = False) -> int: ...
    def tls_failed(self, words: str) -> int: ...
    def tick(self, now: float) -> int: ...
    def progress(self, now: float, pending: int = 0) -> int: ...
    def connection_lost(self, now: float) -> int: ...
    def take_output(self) -> list[bytes]: ...
    def take_finished(self) -> Transaction | None: ...
    def next_event(self) -> int: ...
