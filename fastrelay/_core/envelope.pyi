class ServerLimits:
    message_size: int
    recipients: int
    commands: int
    errors: int
    line: int
    header_size: int
    idle_seconds: float
    data_seconds: float
    body_seconds: float
    body_rate: float
    refusal: bytes | None
    tls_refusal: bytes | None
    def __init__(
        self,
        *,
        message_size: int = ...,
        recipients: int = 1000,
        commands: int = 100,
        errors: int = 20,
        line: int = 2048,
        header_size: int = ...,
        idle_seconds: float = 300.0,
        data_seconds: float = 180.0,
        body_seconds: float = 600.0,
        body_rate: float = 4096.0,
        refusal: bytes | None = None,
        tls_refusal: bytes | None = None,
    ) -> None: ...

class Envelope:
    event_part: bytes | None
    @property
    def requiretls(self) -> bool: ...
    @property
    def reverse_path(self) -> bytes: ...
    @property
    def recipients(self) -> list[bytes]: ...
    @property
    def recipient_parameters(self) -> list[bytes | None]: ...
    @property
    def ret(self) -> bytes | None: ...
    @property
    def envid(self) -> bytes | None: ...
    @property
    def body(self) -> bytes | None: ...
    @property
    def smtputf8(self) -> bool: ...
    @property
    def size_declared(self) -> int: ...
    @property
    def helo(self) -> bytes: ...
    @property
    def esmtp(self) -> bool: ...
    @property
    def content(self) -> bytes | None: ...
    @property
    def spilled(self) -> bool: ...
    @property
    def content_length(self) -> int: ...
    @property
    def header_length(self) -> int: ...
    @property
    def longest_line(self) -> int: ...
    @property
    def received_count(self) -> int: ...
    @property
    def eight_bit(self) -> bool: ...
    @property
    def eight_bit_header(self) -> bool: ...
    @property
    def repaired(self) -> bool: ...
    @property
    def header(self) -> bytes | None: ...
