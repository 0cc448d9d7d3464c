"""Contents page of the envelope; the words are in envelope.pyx."""

from fastrelay._core.command cimport Path, PathFault


cdef class ServerLimits:
    cdef public long long message_size  # octets of content
    cdef public int recipients  # in one transaction
    cdef public int commands  # without an accepted message
    cdef public int errors  # 5xx replies to commands without an accepted message
    cdef public int line  # octets of a command line with its CRLF
    cdef public long long header_size
    cdef public double idle_seconds
    cdef public double data_seconds  # without progress
    cdef public double body_seconds  # for a content in all: body_seconds + octets / body_rate
    cdef public double body_rate  # octets a second
    cdef public bytes refusal  # a reply to every MAIL while nothing may be accepted, or None
    cdef public bytes tls_refusal  # a reply to STARTTLS while there is no TLS (454), or None


cdef class Envelope:
    cdef readonly bytes reverse_path  # without brackets; b"" is the null reverse-path
    cdef readonly list recipients  # of bytes: mailboxes without brackets and source routes
    cdef readonly list recipient_parameters  # of bytes (b" NOTIFY=NEVER ORCPT=…") or None
    cdef readonly bytes ret  # b"FULL", b"HDRS" or None
    cdef readonly bytes envid  # xtext as it came, or None
    cdef readonly bytes body  # b"7BIT", b"8BITMIME" or None
    cdef readonly bint smtputf8
    cdef readonly bint requiretls  # RFC 8689
    cdef readonly long long size_declared  # -1 when it was not
    cdef readonly bytes helo
    cdef readonly bint esmtp
    cdef readonly bytes content  # whole, unstuffed; None when it was spilled
    cdef readonly bint spilled
    cdef readonly long long content_length
    cdef readonly long long header_length  # with the empty line; all the content when it has none
    cdef readonly long long longest_line  # octets without CRLF; RFC 5322 wants at most 998
    cdef readonly int received_count  # Received fields in the header
    cdef readonly bint eight_bit  # an octet over 127 anywhere in the content
    cdef readonly bint eight_bit_header  # the same, in the header
    cdef readonly bint repaired  # a bare CR or LF became CRLF
    cdef public bytes event_part  # of the session, for the accepted event: b',"tls":"TLSv1.3"', or None
    cdef bint auth_said  # the parameter AUTH=, RFC 4954 section 5
    cdef bytes _header

    cdef int keep_header(self, bytes octets) except -1
    cdef int read_header(self, bytes octets, long long length) except -1


cdef enum Offer:
    OFFER_AUTH = 1  # of what not every session offers
    OFFER_REQUIRETLS = 2


cdef bytes read_mail_parameters(
    Envelope envelope, ServerLimits limits, int offers, const unsigned char* p, Py_ssize_t i, Py_ssize_t n
)
cdef bytes read_rcpt_parameters(Envelope envelope, const unsigned char* p, Py_ssize_t i, Py_ssize_t n)
cdef bytes sender_fault(PathFault fault)
cdef bytes recipient_fault(PathFault fault, const unsigned char* p, Path* path)
