"""The nouns of the client side: Transaction, Capabilities, Timeouts.

They hold no protocol: client.pyx moves a Transaction along, and outcome/ reads how it went.
Known faults: none.
"""

cimport cython
from cpython.list cimport PyList_GET_SIZE

cdef int64_t SIZE_CEILING = 1 << 62


@cython.final
cdef class Timeouts:
    """Seconds to wait for each reply, counted from the request, not from the last octet read (RFC 5321 section 4.5.3.2).

    envelope: MAIL to the go-ahead for the body, in all. block: without progress of the body. body: for the whole
    body, plus its size divided by body_rate (octets a second). final: the reply to the message.
    """

    def __init__(self, *, double greeting=300, double ehlo=300, double mail=300, double rcpt=300, double data=120,
                 double envelope=1800, double block=180, double body=600, double body_rate=4096, double final=600,
                 double rset=20, double quit=20):
        if body_rate <= 0:
            raise ValueError("body_rate must be above 0 octets a second")
        self.greeting = greeting
        self.ehlo = ehlo
        self.mail = mail
        self.rcpt = rcpt
        self.data = data
        self.envelope = envelope
        self.block = block
        self.body = body
        self.body_rate = body_rate
        self.final = final
        self.rset = rset
        self.quit = quit


@cython.final
cdef class Capabilities:
    """What the server said to EHLO (RFC 5321 section 4.1.1.1). After HELO everything is off.

    size_limit: octets, 0 for no limit known (RFC 1870). mail_max, rcpt_max, rcpt_domain_max: 0 for no limit (RFC 9422).
    auth: mechanisms in upper case.
    """

    def __cinit__(self):
        self.auth = ()

    @property
    def limits(self):
        """The LIMITS the server named (RFC 9422), 0 for none."""
        return {"mail_max": self.mail_max, "rcpt_max": self.rcpt_max, "rcpt_domain_max": self.rcpt_domain_max}

    @staticmethod
    def from_ehlo(Reply reply):
        """Read the lines of a 250 to EHLO; the first one is the server's name. Unknown keywords are passed over."""
        cdef Capabilities found = Capabilities.__new__(Capabilities)
        found.esmtp = True
        for line in reply.text.split(b"\n")[1:]:
            words = line.upper().replace(b"=", b" ", 1).split() if line[:5].upper() == b"AUTH=" else line.upper().split()
            if words:
                _take_keyword(found, words[0], words[1:])
        return found


cdef int _take_keyword(Capabilities found, bytes keyword, list words) except -1:
    if keyword == b"PIPELINING":
        found.pipelining = True
    elif keyword == b"CHUNKING":
        found.chunking = True
    elif keyword == b"SIZE":
        found.size = True
        found.size_limit = _number(words[0], SIZE_CEILING) if words else 0
    elif keyword == b"8BITMIME":
        found.eight_bit_mime = True
    elif keyword == b"SMTPUTF8":
        found.smtputf8 = True
    elif keyword == b"DSN":
        found.dsn = True
    elif keyword == b"ENHANCEDSTATUSCODES":
        found.enhanced = True
    elif keyword == b"STARTTLS":
        found.starttls = True
    elif keyword == b"AUTH":
        names = {word.decode("ascii", "replace") for word in words[:32]}
        found.auth = tuple(sorted(names.union(found.auth)))
    elif keyword == b"LIMITS":
        for word in words:
            name, _, value = word.partition(b"=")
            if name == b"MAILMAX":
                found.mail_max = _number(value, 1_000_000_000)
            elif name == b"RCPTMAX":
                found.rcpt_max = _number(value, 1_000_000_000)
            elif name == b"RCPTDOMAINMAX":
                found.rcpt_domain_max = _number(value, 1_000_000_000)
    return 0


cdef int64_t _number(bytes digits, int64_t ceiling) except -1:
    """A decimal number, clamped; 0 (no limit) when it is not one."""
    if not digits.isdigit():
        return 0
    if len(digits) > 19:
        return ceiling
    return min(int(digits), ceiling)


@cython.final
@cython.freelist(64)
cdef class Transaction:
    """One reverse-path, its recipients and a message; afterwards, what the server said to each.

    To do: recipient_parameters is None or one bytes a recipient; both kinds of parameters begin with a space and are sent
    only where DSN is offered (RFC 3461). size: octets of prefix and content. content None: streamed by SmtpClient.chunk.

    Done: mail_reply, recipient_replies[i], final_reply are what was read, None what was not. If mail_reply is not 2xx it
    decides for all. error_kind, error (words) and error_status ("5.3.4") say why there is no reply, or none to trust.
    `reply_for` and `may_have_arrived` draw the conclusion for one recipient.
    """

    def __cinit__(self):
        self.reverse_path = b""
        self.mail_parameters = b""
        self.prefix = b""

    def __init__(self, bytes reverse_path not None, list recipients not None, bytes content=None, *,
                 bytes prefix=b"", int64_t size=-1, bytes mail_parameters=b"", list recipient_parameters=None,
                 bint eight_bit=False, bint utf8_header=False, bint utf8_address=False, object cookie=None):
        self.reverse_path = reverse_path
        self.recipients = recipients
        self.content = content
        self.prefix = prefix
        self.size = size if size >= 0 else len(prefix) + (0 if content is None else len(content))
        self.mail_parameters = mail_parameters
        self.recipient_parameters = recipient_parameters
        self.eight_bit = eight_bit
        self.utf8_header = utf8_header
        self.utf8_address = utf8_address
        self.cookie = cookie

    cdef int start(self) except -1:
        """Forget the results of an earlier try. Raises ValueError for a transaction that cannot be sent at all."""
        if self.recipients is None or PyList_GET_SIZE(self.recipients) == 0:
            raise ValueError("a mail transaction needs a recipient")
        if self.recipient_parameters is not None and len(self.recipient_parameters) != len(self.recipients):
            raise ValueError("recipient_parameters must have one entry for each recipient")
        self.stage = STAGE_NONE
        self.error_kind = ERROR_NONE
        self.error = None
        self.error_status = None
        self.mail_reply = None
        self.final_reply = None
        self.recipient_replies = [None] * PyList_GET_SIZE(self.recipients)
        self.body_began = self.body_complete = self.all_delivered = False
        return 0

    cpdef Reply reply_for(self, Py_ssize_t recipient):
        """The reply that decides this recipient's fate; None when none was read (see error_kind)."""
        cdef Reply reply = self.mail_reply
        if reply is not None and reply.code >= 400:
            return reply
        reply = <Reply>self.recipient_replies[recipient]
        if reply is not None and reply.code >= 400:
            return reply
        return self.final_reply

    cpdef bint may_have_arrived(self, Py_ssize_t recipient) except -1:
        """True when the whole message was handed out for this recipient and no reply says what became of it."""
        return self.body_complete and self.reply_for(recipient) is None


