"""What one mail transaction asks for and how it ended; what a server offers; how long to wait (see transaction.pyx)."""

from libc.stdint cimport int64_t

from fastrelay._core.reply cimport Reply


cpdef enum Stage:
    STAGE_NONE = 0       # nothing was sent
    STAGE_MAIL = 1
    STAGE_RCPT = 2
    STAGE_DATA = 3       # the DATA command was refused
    STAGE_BODY = 4       # while the body was going out
    STAGE_FINAL = 5      # the reply to the whole message


cpdef enum ErrorKind:
    ERROR_NONE = 0
    ERROR_TIMEOUT = 1
    ERROR_CLOSED = 2         # connection lost, or 421
    ERROR_PROTOCOL = 3       # the server does not keep to SMTP
    ERROR_NO_8BITMIME = 4    # 5.6.3
    ERROR_NO_SMTPUTF8 = 5    # 5.6.7 for an address, 5.6.9 for the header
    ERROR_SIZE = 6           # 5.3.4
    ERROR_LOCAL_ABORT = 7    # our side gave up
    ERROR_NO_REQUIRETLS = 8  # 5.7.30
    ERROR_TLS = 9            # no TLS where it must be, or it broke before it stood
    ERROR_AUTH = 10          # the server does not take our credentials, or they must not be shown to it


cdef enum:
    NO_BODY = 0
    DATA_COMMAND = 1
    BDAT_LAST = 2        # the command and the prefix; the content follows uncopied


cdef class Timeouts:
    cdef public double greeting, ehlo, mail, rcpt, data, envelope, block, body, body_rate, final, rset, quit


cdef class Capabilities:
    cdef public bint esmtp, pipelining, chunking, size, eight_bit_mime, smtputf8, dsn, enhanced, starttls, requiretls
    cdef public int64_t size_limit
    cdef public int mail_max, rcpt_max, rcpt_domain_max
    cdef public tuple auth


cdef class Transaction:
    # what to do
    cdef public bytes reverse_path
    cdef public list recipients
    cdef public bytes mail_parameters
    cdef public list recipient_parameters
    cdef public int64_t size
    cdef public bytes prefix
    cdef public bytes content
    cdef public bint eight_bit, utf8_header, utf8_address, requiretls
    cdef public object cookie
    # how it went
    cdef public int stage
    cdef public int error_kind
    cdef public str error
    cdef public str error_status
    cdef public Reply mail_reply
    cdef public list recipient_replies
    cdef public Reply final_reply
    cdef public bint rcpt_written, body_began, body_complete, all_delivered
    cdef int start(self) except -1
    cdef int fail(self, int kind, str words, str status) except -1
    cpdef Reply reply_for(self, Py_ssize_t recipient)
    cpdef bint may_have_arrived(self, Py_ssize_t recipient) except -1


cdef int look(object field) except -1
cdef bint fits(Transaction tx, Capabilities offered, bint verified) except -1
cdef bytes command_group(Transaction tx, Capabilities offered, bint mail, Py_ssize_t first, Py_ssize_t last, int body)
