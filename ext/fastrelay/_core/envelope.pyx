"""The envelope of a mail transaction: what MAIL and RCPT say, and what was learned of the content.

The parameters of SIZE (RFC 1870), 8BITMIME (6152), SMTPUTF8 (6531), DSN (3461), AUTH (4954) and REQUIRETLS (8689) are
read here; each reader gives None or the reply that refuses the command. Those of DSN are kept as they came, since a
relay passes them on. AUTH= is checked for its form and dropped: whom a client says it speaks for proves nothing.

Known faults: a parameter is checked for its form; nothing here decides what a relay does with it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memchr

from fastrelay._core.command cimport (
    PATH_LENGTH,
    PATH_NO_DOMAIN,
    Parameter,
    Path,
    PathFault,
    is_atom,
    is_utf8,
    is_xtext,
    parse_number,
    parse_parameter,
    same_word,
)

cdef enum:
    ENVID = 100  # octets of xtext, RFC 3461 section 4.4
    ORCPT = 500  # octets in all, RFC 3461 section 4.2
    AUTH = 500  # octets of xtext, RFC 4954 section 5

cdef bytes TWICE = b"501 5.5.4 A parameter stands twice\r\n"
cdef bytes UNKNOWN = b"555 5.5.4 Parameter not recognized or not offered\r\n"
cdef bytes MALFORMED = b"501 5.5.4 Malformed parameter\r\n"


@cython.final
cdef class ServerLimits:
    """What one connection may do; one object is shared by all connections of a listener."""

    def __init__(
        self,
        *,
        message_size=100 << 20,
        recipients=1000,
        commands=100,
        errors=20,
        line=2048,
        header_size=256 << 10,
        idle_seconds=300.0,
        data_seconds=180.0,
        body_seconds=600.0,
        body_rate=4096.0,
        refusal=None,
        tls_refusal=None,
    ):
        self.message_size = message_size
        self.recipients = recipients
        self.commands = commands
        self.errors = errors
        self.line = line
        self.header_size = header_size
        self.idle_seconds = idle_seconds
        self.data_seconds = data_seconds
        self.body_seconds = body_seconds
        self.body_rate = body_rate
        self.refusal = refusal
        self.tls_refusal = tls_refusal


@cython.final
@cython.freelist(64)
cdef class Envelope:
    """One mail transaction as it was given, and what was learned of its content. envelope.pxd tells the fields."""

    def __cinit__(self):
        self.recipients = []
        self.recipient_parameters = []
        self.size_declared = -1

    @property
    def header(self):
        """The header block, with the empty line that ends it; at most `ServerLimits.header_size` octets."""
        if self._header is None and self.content is not None:
            self._header = self.content[: self.header_length]
        return self._header

    cdef int keep_header(self, bytes octets) except -1:
        """Keeps the header of a content that goes to a file; `octets` begin with it."""
        self._header = octets[: self.header_length]
        return 0

    cdef int read_header(self, bytes octets, long long length) except -1:
        """Counts Received fields in octets[:length] and looks for 8-bit octets."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(octets)
        cdef const unsigned char* end = p + length
        cdef unsigned char high = 0
        self.header_length = length
        self.received_count = 0
        while p is not NULL and end - p >= 9:
            if p[8] == c":" and p[0] & 0xDF == c"R" and same_word(p, 8, b"RECEIVED"):
                self.received_count += 1
            p = <const unsigned char*>memchr(p, c"\n", end - p)
            if p is not NULL:
                p += 1
        if self.eight_bit:
            p = <const unsigned char*>PyBytes_AS_STRING(octets)
            while p < end:
                high |= p[0]
                p += 1
            self.eight_bit_header = high > 127
        return 0


# ---- the parameters of MAIL


cdef bytes read_mail_parameters(
    Envelope envelope, ServerLimits limits, int offers, const unsigned char* p, Py_ssize_t i, Py_ssize_t n
):
    """Reads the parameters in p[i:n]; None, or the reply that refuses MAIL. `offers`: see Offer."""
    cdef Parameter one
    cdef bytes fault
    while i < n:
        if p[i] != c" ":
            return MALFORMED
        while p[i] == c" ":  # a line has no blanks at its end
            i += 1
        if not parse_parameter(p, i, n, &one):
            return MALFORMED
        if not envelope.esmtp:
            return b"555 5.5.4 Parameters need EHLO\r\n"
        fault = _mail_parameter(envelope, limits, offers, p, &one)
        if fault is not None:
            return fault
        i = one.end
    return None


cdef bytes _mail_parameter(
    Envelope envelope, ServerLimits limits, int offers, const unsigned char* p, Parameter* one
):
    cdef const unsigned char* keyword = p + one.start
    cdef const unsigned char* value = p + one.value
    cdef Py_ssize_t length = one.length
    if same_word(keyword, one.keyword, b"SIZE"):
        if envelope.size_declared >= 0:
            return TWICE
        envelope.size_declared = parse_number(value, length)
        if envelope.size_declared < 0:
            return MALFORMED
        if envelope.size_declared > limits.message_size:
            return b"552 5.3.4 Message larger than %d octets\r\n" % limits.message_size
    elif same_word(keyword, one.keyword, b"BODY"):
        if envelope.body is not None:
            return TWICE
        if length > 0 and same_word(value, length, b"8BITMIME"):
            envelope.body = b"8BITMIME"
        elif length > 0 and same_word(value, length, b"7BIT"):
            envelope.body = b"7BIT"
        else:
            return b"555 5.5.4 BODY is 7BIT or 8BITMIME here\r\n"
    elif same_word(keyword, one.keyword, b"SMTPUTF8"):
        if envelope.smtputf8:
            return TWICE
        if length >= 0:
            return b"501 5.5.4 SMTPUTF8 takes no value\r\n"
        envelope.smtputf8 = True
    elif same_word(keyword, one.keyword, b"RET"):
        if envelope.ret is not None:
            return TWICE
        if length > 0 and same_word(value, length, b"FULL"):
            envelope.ret = b"FULL"
        elif length > 0 and same_word(value, length, b"HDRS"):
            envelope.ret = b"HDRS"
        else:
            return b"501 5.5.4 RET is FULL or HDRS\r\n"
    elif same_word(keyword, one.keyword, b"ENVID"):
        if envelope.envid is not None:
            return TWICE
        if length <= 0 or length > ENVID or not is_xtext(value, length):
            return b"501 5.5.4 ENVID is xtext of at most 100 characters\r\n"
        envelope.envid = value[:length]
    elif offers & OFFER_REQUIRETLS and same_word(keyword, one.keyword, b"REQUIRETLS"):
        if envelope.requiretls:
            return TWICE
        if length >= 0:
            return b"501 5.5.4 REQUIRETLS takes no value\r\n"
        envelope.requiretls = True
    elif offers & OFFER_AUTH and same_word(keyword, one.keyword, b"AUTH"):
        if envelope.auth_said:
            return TWICE
        # A mailbox in xtext, or "<>" in the clear.
        if length <= 0 or length > AUTH or not (is_xtext(value, length) or same_word(value, length, b"<>")):
            return b"501 5.5.4 AUTH is xtext of at most 500 characters, or <>\r\n"
        envelope.auth_said = True
    else:
        return UNKNOWN
    return None


# ---- the parameters of RCPT


cdef bytes read_rcpt_parameters(
    Envelope envelope, const unsigned char* p, Py_ssize_t i, Py_ssize_t n
):
    """Checks the parameters in p[i:n]; None, or the reply that refuses RCPT."""
    cdef Parameter one
    cdef bint notify = False
    cdef bint orcpt = False
    while i < n:
        if p[i] != c" ":
            return MALFORMED
        while p[i] == c" ":
            i += 1
        if not parse_parameter(p, i, n, &one):
            return MALFORMED
        if not envelope.esmtp:
            return b"555 5.5.4 Parameters need EHLO\r\n"
        if same_word(p + i, one.keyword, b"NOTIFY"):
            if notify:
                return TWICE
            if not _is_notify(p + one.value, one.length):
                return b"501 5.5.4 NOTIFY is NEVER, or a list of SUCCESS, FAILURE, DELAY\r\n"
            notify = True
        elif same_word(p + i, one.keyword, b"ORCPT"):
            if orcpt:
                return TWICE
            if not _is_orcpt(p + one.value, one.length, envelope.smtputf8):
                return b"501 5.5.4 ORCPT is a type, a semicolon and xtext of at most 500 characters\r\n"
            orcpt = True
        else:
            return UNKNOWN
        i = one.end
    return None


cdef bint _is_notify(const unsigned char* p, Py_ssize_t n) noexcept:
    """NEVER, or each of SUCCESS, FAILURE and DELAY at most once, separated by commas."""
    cdef const unsigned char* comma
    cdef Py_ssize_t length
    cdef int seen = 0
    cdef int word
    if n > 0 and same_word(p, n, b"NEVER"):
        return True
    while n > 0:
        comma = <const unsigned char*>memchr(p, c",", n)
        length = comma - p if comma is not NULL else n
        if same_word(p, length, b"SUCCESS"):
            word = 1
        elif same_word(p, length, b"FAILURE"):
            word = 2
        elif same_word(p, length, b"DELAY"):
            word = 4
        else:
            return False
        if seen & word:
            return False
        seen |= word
        if comma is NULL:
            return True
        p += length + 1
        n -= length + 1
    return False


cdef bint _is_orcpt(const unsigned char* p, Py_ssize_t n, bint smtputf8) noexcept:
    """addr-type ";" xtext; for the type utf-8 under SMTPUTF8 (RFC 6533) also plain UTF-8."""
    cdef const unsigned char* semicolon
    cdef Py_ssize_t kind
    if n <= 0 or n > ORCPT:
        return False
    semicolon = <const unsigned char*>memchr(p, c";", n)
    if semicolon is NULL:
        return False
    kind = semicolon - p
    if not is_atom(p, kind) or kind + 1 == n:
        return False
    if is_xtext(semicolon + 1, n - kind - 1):
        return True
    return smtputf8 and same_word(p, kind, b"UTF-8") and is_utf8(p, n)


# ---- what is said of a path that is none


cdef bytes sender_fault(PathFault fault):
    if fault == PATH_LENGTH:
        return b"501 5.1.7 Sender address too long\r\n"
    if fault == PATH_NO_DOMAIN:
        return b"501 5.1.7 Sender address without a domain\r\n"
    return b"501 5.1.7 Bad sender address syntax\r\n"


cdef bytes recipient_fault(PathFault fault, const unsigned char* p, Path* path):
    if fault == PATH_LENGTH:
        return b"501 5.1.3 Recipient address too long\r\n"
    if fault == PATH_NO_DOMAIN and same_word(p + path.start, path.length, b"POSTMASTER"):
        return b"550 5.1.3 No mailboxes here; write postmaster@domain\r\n"
    if fault == PATH_NO_DOMAIN:
        return b"501 5.1.3 Recipient address without a domain\r\n"
    return b"501 5.1.3 Bad recipient address syntax\r\n"
