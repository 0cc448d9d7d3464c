from enum import IntEnum

from fastrelay._core.reply import Reply

class Stage(IntEnum):
    STAGE_NONE = 0
    STAGE_MAIL = 1
    STAGE_RCPT = 2
    STAGE_DATA = 3
    STAGE_BODY = 4
    STAGE_FINAL = 5

class ErrorKind(IntEnum):
    ERROR_NONE = 0
    ERROR_TIMEOUT = 1
    ERROR_CLOSED = 2
    ERROR_PROTOCOL = 3
    ERROR_NO_8BITMIME = 4
    ERROR_NO_SMTPUTF8 = 5
    ERROR_SIZE = 6
    ERROR_LOCAL_ABORT = 7
    ERROR_NO_REQUIRETLS = 8
    ERROR_TLS = 9
    ERROR_AUTH = 10

class Timeouts:
    greeting: float
    ehlo: float
    mail: float
    rcpt: float
    data: float
    envelope: float
    block: float
    body: float
    body_rate: float
    final: float
    rset: float
    quit: float
    def __init__(
        self,
        *,
        greeting: float = 300,
        ehlo: float = 300,
        mail: float = 300,
        rcpt: float = 300,
        data: float = 120,
        envelope: float = 1800,
        block: float = 180,
        body: float = 600,
        body_rate: float = 4096,
        final: float = 600,
        rset: float = 20,
        quit: float = 20,
    ) -> None: ...

class Capabilities:
    esmtp: bool
    pipelining: bool
    chunking: bool
    size: bool
    size_limit: int
    eight_bit_mime: bool
    smtputf8: bool
    dsn: bool
    enhanced: bool
    starttls: bool
    requiretls: bool
    auth: tuple[str, ...]
    mail_max: int
    rcpt_max: int
    rcpt_domain_max: int
    @property
    def limits(self) -> dict[str, int]: ...
    @staticmethod
    def from_ehlo(reply: Reply) -> Capabilities: ...

class Transaction:
    reverse_path: bytes
    recipients: list[bytes]
    mail_parameters: bytes
    recipient_parameters: list[bytes] | None
    size: int
    prefix: bytes
    content: bytes | None
    eight_bit: bool
    utf8_header: bool
    utf8_address: bool
    requiretls: bool
    cookie: object
    stage: int
    error_kind: int
    error: str | None
    error_status: str | None
    mail_reply: Reply | None
    recipient_replies: list[Reply | None]
    final_reply: Reply | None
    rcpt_written: bool
    body_began: bool
    body_complete: bool
    all_delivered: bool
    def __init__(
        self,
        reverse_path: bytes,
        recipients: list[bytes],
        content: bytes | None = None,
        *,
        prefix: bytes = b"",
        size: int = -1,
        mail_parameters: bytes = b"",
        recipient_parameters: list[bytes] | None = None,
        eight_bit: bool = False,
        utf8_header: bool = False,
        utf8_address: bool = False,
        requiretls: bool = False,
        cookie: object = None,
    ) -> None: ...
    def reply_for(self, recipient: int) -> Reply | None: ...
    def may_have_arrived(self, recipient: int) -> bool: ...
