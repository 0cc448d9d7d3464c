"""The nouns of the client side: Transaction, Capabilities, Timeouts.

They hold no protocol: client.pyx moves a Transaction along, and outcome/ reads how it went.
Known faults: none.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.stdio cimport snprintf
from libc.string cimport memcpy

# RFC 3463 codes for failures that no reply came with, by ErrorKind.
cdef tuple STATUS = (None, "4.4.2", "4.4.2", "4.5.0", "5.6.3", "5.6.7", "5.3.4", "4.3.0", "5.7.30", "4.7.5", "4.7.8")


cdef int64_t SIZE_CEILING = 1 << 62


@cython.final
cdef class Timeouts:
    """Seconds to wait for each reply, from the request and not from the last octet read (RFC 5321 section 4.5.3.2).

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

    size_limit: octets, 0 for no limit known (RFC 1870). mail_max, rcpt_max, rcpt_domain_max: 0 for none (RFC 9422).
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
            words = line.upper().split()
            if words and words[0].startswith(b"AUTH="):    # the spelling of old Exchange servers
                words[0:1] = [b"AUTH", words[0][5:]]
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
    elif keyword == b"REQUIRETLS":
        found.requiretls = True
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

    To do: recipient_parameters is None or one bytes a recipient; both kinds of parameters begin with a space and are
    sent only where DSN is offered (RFC 3461). requiretls: never without verified TLS, to a server that says REQUIRETLS
    too (RFC 8689). size: octets of prefix and content. content None: streamed by
    SmtpClient.chunk.

    Done: mail_reply, recipient_replies[i], final_reply are what was read, None what was not. If mail_reply is not 2xx
    it decides for all. error_kind, error (words) and error_status ("5.3.4") say why there is no reply, or none to
    trust. stage says how far it came. rcpt_written: a RCPT command was handed out. all_delivered: every RCPT and the
    message have a 2xx reply.
    `reply_for` and `may_have_arrived` draw the conclusion for one recipient.
    """

    def __cinit__(self):
        self.reverse_path = b""
        self.mail_parameters = b""
        self.prefix = b""

    def __init__(self, bytes reverse_path not None, list recipients not None, bytes content=None, *,
                 bytes prefix=b"", int64_t size=-1, bytes mail_parameters=b"", list recipient_parameters=None,
                 bint eight_bit=False, bint utf8_header=False, bint utf8_address=False, bint requiretls=False,
                 object cookie=None):
        if content is None and size < 0:
            raise ValueError("a content that is streamed needs its size")
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
        self.requiretls = requiretls
        self.cookie = cookie

    cdef int start(self) except -1:
        """Forget the results of an earlier try. Raises ValueError for a transaction that cannot be sent at all."""
        if self.recipients is None or PyList_GET_SIZE(self.recipients) == 0:
            raise ValueError("a mail transaction needs a recipient")
        if self.prefix is None:
            raise ValueError("the prefix of a message is bytes, empty when there is none")
        if self.recipient_parameters is not None and len(self.recipient_parameters) != len(self.recipients):
            raise ValueError("recipient_parameters must have one entry for each recipient")
        self.stage = STAGE_NONE
        self.error_kind = ERROR_NONE
        self.error = None
        self.error_status = None
        self.mail_reply = None
        self.final_reply = None
        self.recipient_replies = [None] * PyList_GET_SIZE(self.recipients)
        self.rcpt_written = self.body_began = self.body_complete = self.all_delivered = False
        return 0

    cdef int fail(self, int kind, str words, str status) except -1:
        """Say why there is no reply; `status` None is the usual code for the kind."""
        self.error_kind = kind
        self.error = words
        self.error_status = STATUS[kind] if status is None else status
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


cdef inline char* _put(char* at, bytes octets) noexcept:
    memcpy(at, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return at + PyBytes_GET_SIZE(octets)


cdef inline char* _puts(char* at, const char* octets, Py_ssize_t n) noexcept:
    memcpy(at, octets, n)
    return at + n


cdef int look(object field) except -1:
    """0 plain, 1 has octets above 127, 2 has a control character and must never be put on a line."""
    if type(field) is not bytes:
        raise TypeError(f"addresses and parameters are bytes, not {type(field).__name__}")
    cdef const unsigned char* octets = <const unsigned char*>PyBytes_AS_STRING(field)
    cdef Py_ssize_t i
    cdef int found = 0
    for i in range(PyBytes_GET_SIZE(field)):
        if octets[i] < 32 or octets[i] == 127:
            return 2
        found |= octets[i] >> 7
    return found


cdef bint fits(Transaction tx, Capabilities offered, bint verified) except -1:
    """False when this server cannot take it; tx.error_kind says why. What must be declared is declared.

    verified: the session is under TLS, with a server that has proved who it is.
    """
    cdef Py_ssize_t i
    cdef int seen = look(tx.reverse_path) | (look(tx.mail_parameters) & 2)
    for i in range(PyList_GET_SIZE(tx.recipients)):
        seen |= look(tx.recipients[i])
        if tx.recipient_parameters is not None and tx.recipient_parameters[i] is not None:
            seen |= look(tx.recipient_parameters[i]) & 2
    if seen & 2:
        tx.fail(ERROR_LOCAL_ABORT, "an address or parameter holds a control character", "5.1.3")
    elif offered.size_limit and tx.size > offered.size_limit:
        tx.fail(ERROR_SIZE, f"the message has {tx.size} octets, the server takes {offered.size_limit}", None)
    elif tx.requiretls and not (verified and offered.requiretls):
        tx.fail(ERROR_NO_REQUIRETLS, "the message requires TLS (REQUIRETLS): the server "
                + ("does not offer that" if verified else "has not proved who it is"), None)
    elif (seen or tx.utf8_address or tx.utf8_header) and not (offered.smtputf8 and offered.eight_bit_mime):
        tx.fail(ERROR_NO_SMTPUTF8, "the server does not offer SMTPUTF8",
                "5.6.7" if seen or tx.utf8_address else "5.6.9")
    elif tx.eight_bit and not offered.eight_bit_mime:
        tx.fail(ERROR_NO_8BITMIME, "the message has 8-bit octets and the server does not offer 8BITMIME", None)
    else:
        if seen:
            tx.utf8_address = True
        return True
    return False


cdef bytes command_group(
    Transaction tx, Capabilities offered, bint mail, Py_ssize_t first, Py_ssize_t last, int body
):
    """MAIL (if asked for), the RCPTs from first to last, and the command for the body, as one bytes object.

    Two passes over the same fields, the first to count: nothing may run between them. `fits` has seen their types.
    """
    cdef char[32] size
    cdef char[40] bdat
    cdef int size_length = 0, bdat_length = 0
    cdef bint eight = tx.eight_bit or tx.utf8_header
    cdef bint utf8 = tx.utf8_address or tx.utf8_header
    cdef Py_ssize_t i, total = 0
    cdef bytes group, parameters
    cdef char* at
    if mail:
        if offered.size:
            size_length = snprintf(size, 32, " SIZE=%lld", <long long>tx.size)
        total = 14 + PyBytes_GET_SIZE(tx.reverse_path) + size_length + (14 if eight else 0) + (9 if utf8 else 0)
        total += 11 if tx.requiretls else 0
        if offered.dsn:
            total += PyBytes_GET_SIZE(tx.mail_parameters)
    for i in range(first, last):
        total += 12 + PyBytes_GET_SIZE(<bytes>tx.recipients[i])
        if offered.dsn and tx.recipient_parameters is not None and tx.recipient_parameters[i] is not None:
            total += PyBytes_GET_SIZE(<bytes>tx.recipient_parameters[i])
    if body == DATA_COMMAND:
        total += 6
    elif body == BDAT_LAST:
        bdat_length = snprintf(bdat, 40, "BDAT %lld LAST\r\n",
                               <long long>(PyBytes_GET_SIZE(tx.prefix) + PyBytes_GET_SIZE(tx.content)))
        total += bdat_length + PyBytes_GET_SIZE(tx.prefix)
    group = PyBytes_FromStringAndSize(NULL, total)
    at = PyBytes_AS_STRING(group)
    if mail:
        at = _put(_puts(at, "MAIL FROM:<", 11), tx.reverse_path)
        at = _puts(_puts(at, ">", 1), size, size_length)
        if eight:
            at = _puts(at, " BODY=8BITMIME", 14)
        if utf8:
            at = _puts(at, " SMTPUTF8", 9)
        if tx.requiretls:
            at = _puts(at, " REQUIRETLS", 11)
        if offered.dsn:
            at = _put(at, tx.mail_parameters)
        at = _puts(at, "\r\n", 2)
    for i in range(first, last):
        at = _puts(_put(_puts(at, "RCPT TO:<", 9), <bytes>tx.recipients[i]), ">", 1)
        if offered.dsn and tx.recipient_parameters is not None:
            parameters = tx.recipient_parameters[i]
            if parameters is not None:
                at = _put(at, parameters)
        at = _puts(at, "\r\n", 2)
    if body == DATA_COMMAND:
        at = _puts(at, "DATA\r\n", 6)
    elif body == BDAT_LAST:
        at = _put(_puts(at, bdat, bdat_length), tx.prefix)
    return group
