"""Layout of a message record and of its state; see record.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RECORD_VERSION = 2
    FLAG_EIGHT_BIT = 1
    FLAG_UTF8_HEADER = 2
    FLAG_UTF8_ADDRESS = 4
    FLAG_REPORTS_ASKED = 8       # NOTIFY of a recipient has SUCCESS or DELAY (RFC 3461)
    FLAG_UNSIGNED = 16           # the prefix begins with a pending block: its signature is made when it is sent
    FLAG_VERP = 32               # every recipient has a reverse-path of its own
    FLAG_REQUIRETLS = 64         # RFC 8689
    FLAG_TLS_OPTIONAL = 128      # RFC 8689 section 5: "TLS-Required: No"

cdef enum:                       # of Head.spare
    SPARE_NO_BOUNCES = 1         # nobody wants bounce messages about it

cdef packed struct Head:
    uint8_t version
    uint8_t flags
    uint16_t reserved
    uint32_t recipients
    uint32_t segment
    uint32_t crc
    uint64_t offset
    uint64_t length
    int64_t accepted_ms
    uint32_t fixed_length      # octets from the head to the first recipient
    uint32_t prefix_length
    uint16_t reverse_path_length
    uint16_t mail_parameters_length
    uint8_t campaign_length
    uint8_t tenant_length
    uint8_t pool_length
    uint8_t priority
    uint8_t client_length
    uint8_t spare
    uint16_t helo_length

cdef packed struct Times:          # behind the head, from version 2 on
    int64_t not_before_ms
    uint32_t expire_s

cdef inline Py_ssize_t head_size(const Head* head) noexcept nogil:
    """Octets from the start of the record to the reverse-path."""
    return <Py_ssize_t> (sizeof(Head) + (sizeof(Times) if head.version >= 2 else 0))

cdef struct RecipientView:
    const char* address
    uint16_t address_length
    const char* parameters
    uint16_t parameters_length

cdef class Text:
    """A growing byte buffer for building event lines and headers; owns its memory."""
    cdef char* start
    cdef Py_ssize_t length
    cdef Py_ssize_t room
    cdef int reserve(self, Py_ssize_t more) except -1
    cdef int add(self, const char* p, Py_ssize_t n) except -1
    cdef int add_bytes(self, bytes b) except -1
    cdef int add_number(self, int64_t n) except -1
    cdef int add_seconds(self, int64_t ms) except -1
    cdef int add_hex(self, uint64_t n) except -1
    cdef int add_json(self, const char* p, Py_ssize_t n) except -1
    cdef bytes take(self)

cpdef bytes encode_record(int64_t accepted_ms, int flags, int priority, bytes reverse_path, bytes mail_parameters,
                          bytes campaign, bytes tenant, bytes pool, bytes client, bytes helo, bytes prefix,
                          list recipients, list recipient_parameters, uint32_t expire_s=*, int64_t not_before_ms=*,
                          int spare=*)
cdef const Head* head_of(const unsigned char* record, Py_ssize_t length) noexcept nogil
cdef const unsigned char* first_recipient(const unsigned char* record) noexcept nogil
cdef const unsigned char* next_recipient(const unsigned char* at, const unsigned char* end,
                                         RecipientView* view) noexcept nogil
cdef const Times* times_of(const Head* head) noexcept nogil
cdef class Record:
    cdef readonly bytes raw
    cdef const Head* head
    cdef Py_ssize_t start
    cpdef tuple recipient(self, Py_ssize_t number)
    cdef bytes _part(self, Py_ssize_t skip, Py_ssize_t n)
