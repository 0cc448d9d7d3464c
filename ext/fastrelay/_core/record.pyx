"""The message record: what LMDB keeps of a message beside its content.

A record is written once, when the message is accepted, and never changes, but for the place of the content
(octets 8 to 31), which the group commit fills in. What changes during delivery (attempts, outcomes) is kept in
a state value of its own (fastrelay/spool/state.py), so that the first delivery of most mail touches nothing but
one deletion.

    0   head (struct Head, 60 octets, little-endian)
    60  in version 2, for a message with times of its own: struct Times, 12 octets
    60 or 72  reverse-path, MAIL parameters, campaign, tenant, pool, client, HELO name, trace prefix
    ..  for each recipient: u16 length, forward-path, u16 length, RCPT parameters

A message without times is written in version 1, as ever.

Known faults: the layout assumes a little-endian machine; setup refuses nothing, but no big-endian one was tried.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset


@cython.final
cdef class Text:

    def __cinit__(self):
        self.start = NULL
        self.length = 0
        self.room = 0

    def __dealloc__(self):
        free(self.start)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room
        cdef char* grown
        if self.length + more <= self.room:
            return 0
        room = (self.length + more) * 2 + 256
        grown = <char*> realloc(self.start, room)
        if grown == NULL:
            raise MemoryError()
        self.start = grown
        self.room = room
        return 0

    cdef int add(self, const char* p, Py_ssize_t n) except -1:
        self.reserve(n)
        memcpy(self.start + self.length, p, n)
        self.length += n
        return 0

    cdef int add_bytes(self, bytes b) except -1:
        return self.add(PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))

    cdef int add_number(self, int64_t n) except -1:
        cdef char digits[24]
        cdef int i = 24
        cdef bint negative = n < 0
        cdef uint64_t rest = <uint64_t> (-n if negative else n)
        while True:
            i -= 1
            digits[i] = <char> (48 + rest % 10)
            rest //= 10
            if not rest:
                break
        if negative:
            i -= 1
            digits[i] = 45
        return self.add(digits + i, 24 - i)

    cdef int add_seconds(self, int64_t ms) except -1:
        """Milliseconds as seconds with three decimals; below 0 counts as 0."""
        cdef char digits[4]
        if ms < 0:
            ms = 0
        digits[0] = 46
        digits[1] = <char> (48 + ms // 100 % 10)
        digits[2] = <char> (48 + ms // 10 % 10)
        digits[3] = <char> (48 + ms % 10)
        self.add_number(ms // 1000)
        return self.add(digits, 4)

    cdef int add_hex(self, uint64_t n) except -1:
        cdef char digits[16]
        cdef int i = 16
        while True:
            i -= 1
            digits[i] = b"0123456789abcdef"[n & 15]
            n >>= 4
            if not n:
                break
        return self.add(digits + i, 16 - i)

    cdef int add_json(self, const char* p, Py_ssize_t n) except -1:
        """A JSON string with its quotes. Octets that are no UTF-8 become U+FFFD."""
        cdef Py_ssize_t i
        cdef unsigned char c
        self.reserve(n + 2)
        self.start[self.length] = 34
        for i in range(n):
            c = <unsigned char> p[i]
            if c < 32 or c > 126 or c == 34 or c == 92:
                return self._add_json_slow(PyBytes_FromStringAndSize(p, n))
            self.start[self.length + 1 + i] = p[i]
        self.start[self.length + 1 + n] = 34
        self.length += n + 2
        return 0

    def _add_json_slow(self, bytes text):
        import json
        self.add_bytes(json.dumps(text.decode("utf-8", "replace"), ensure_ascii=True).encode("ascii"))
        return 0

    cdef bytes take(self):
        cdef bytes made = PyBytes_FromStringAndSize(self.start, self.length)
        self.length = 0
        return made


cdef inline char* _put(char* to, bytes b) noexcept:
    memcpy(to, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))
    return to + PyBytes_GET_SIZE(b)


cdef inline char* _put_sized(char* to, bytes b) noexcept:
    cdef uint16_t n = <uint16_t> PyBytes_GET_SIZE(b)
    memcpy(to, &n, 2)
    return _put(to + 2, b)


cpdef bytes encode_record(int64_t accepted_ms, int flags, int priority, bytes reverse_path, bytes mail_parameters,
                          bytes campaign, bytes tenant, bytes pool, bytes client, bytes helo, bytes prefix,
                          list recipients, list recipient_parameters, uint32_t expire_s=0,
                          int64_t not_before_ms=0, int spare=0):
    """One record; the place of the content is left zero for the group commit.

    `recipient_parameters` is None or a list as long as `recipients` (bytes or None each). Names (campaign,
    tenant, pool) are cut at 255 octets, the rest must fit 65,535. `accepted_ms` and `not_before_ms` are milliseconds
    since the epoch (0: at once), `expire_s` is seconds from acceptance on (0: as its class says), `spare` is 1 where
    no bounce messages are wanted.
    """
    cdef Head head
    cdef Times times
    cdef bint timed = expire_s != 0 or not_before_ms != 0
    cdef Py_ssize_t i, size, count = len(recipients)
    cdef bytes address, parameters, made
    cdef char* at
    campaign = campaign[:255]
    tenant = tenant[:255]
    pool = pool[:255]
    client = client[:255]
    memset(&head, 0, sizeof(Head))
    size = (sizeof(Head) + (sizeof(Times) if timed else 0) + len(reverse_path) + len(mail_parameters)
            + len(campaign) + len(tenant) + len(pool) + len(client) + len(helo) + len(prefix))
    head.fixed_length = <uint32_t> size
    for i in range(count):
        address = recipients[i]
        size += 4 + PyBytes_GET_SIZE(address)
        if recipient_parameters is not None and recipient_parameters[i] is not None:
            size += len(recipient_parameters[i])
    head.version = RECORD_VERSION if timed else 1
    head.flags = <uint8_t> flags
    head.recipients = <uint32_t> count
    head.accepted_ms = accepted_ms
    head.prefix_length = <uint32_t> len(prefix)
    head.reverse_path_length = <uint16_t> len(reverse_path)
    head.mail_parameters_length = <uint16_t> len(mail_parameters)
    head.campaign_length = <uint8_t> len(campaign)
    head.tenant_length = <uint8_t> len(tenant)
    head.pool_length = <uint8_t> len(pool)
    head.priority = <uint8_t> priority
    head.client_length = <uint8_t> len(client)
    head.spare = <uint8_t> spare
    head.helo_length = <uint16_t> len(helo)
    made = PyBytes_FromStringAndSize(NULL, size)
    at = PyBytes_AS_STRING(made)
    memcpy(at, &head, sizeof(Head))
    at += sizeof(Head)
    if timed:
        times.not_before_ms = not_before_ms
        times.expire_s = expire_s
        memcpy(at, &times, sizeof(Times))
        at += sizeof(Times)
    at = _put(at, reverse_path)
    at = _put(at, mail_parameters)
    at = _put(at, campaign)
    at = _put(at, tenant)
    at = _put(at, pool)
    at = _put(at, client)
    at = _put(at, helo)
    at = _put(at, prefix)
    for i in range(count):
        at = _put_sized(at, recipients[i])
        parameters = b"" if recipient_parameters is None else (recipient_parameters[i] or b"")
        at = _put_sized(at, parameters)
    return made


cdef const Head* head_of(const unsigned char* record, Py_ssize_t length) noexcept nogil:
    """The head, or NULL where the record is too short, of another version, or says it is longer than it is."""
    cdef const Head* head = <const Head*> record
    if length < <Py_ssize_t> sizeof(Head) or head.version < 1 or head.version > RECORD_VERSION:
        return NULL
    if <Py_ssize_t> head.fixed_length > length or <Py_ssize_t> head.fixed_length < head_size(head):
        return NULL
    if (<uint64_t> head_size(head) + head.reverse_path_length + head.mail_parameters_length + head.campaign_length
            + head.tenant_length + head.pool_length + head.client_length + head.helo_length
            + head.prefix_length) != head.fixed_length:
        return NULL
    return head


cdef const Times* times_of(const Head* head) noexcept nogil:
    """The times of a message, or NULL where it has none of its own."""
    if head.version < 2:
        return NULL
    return <const Times*> (<const char*> head + sizeof(Head))


cdef const unsigned char* first_recipient(const unsigned char* record) noexcept nogil:
    return record + (<const Head*> record).fixed_length


cdef const unsigned char* next_recipient(const unsigned char* at, const unsigned char* end,
                                         RecipientView* view) noexcept nogil:
    """Reads the recipient at `at`; gives where the next one begins, NULL where the record ends too early."""
    if at + 2 > end:
        return NULL
    memcpy(&view.address_length, at, 2)
    view.address = <const char*> at + 2
    at += 2 + view.address_length
    if at + 2 > end:
        return NULL
    memcpy(&view.parameters_length, at, 2)
    view.parameters = <const char*> at + 2
    at += 2 + view.parameters_length
    return at if at <= end else NULL


@cython.final
cdef class Record:
    """A record read back; parts are made on demand. ValueError where it can't be read."""

    def __cinit__(self, bytes raw):
        self.raw = raw
        self.head = head_of(<const unsigned char*> PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        if self.head == NULL:
            raise ValueError("message record can't be read: version or lengths are wrong")
        self.start = head_size(self.head)

    cdef bytes _part(self, Py_ssize_t skip, Py_ssize_t n):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.raw) + self.start + skip, n)

    @property
    def accepted_ms(self):
        return self.head.accepted_ms

    @property
    def flags(self):
        return self.head.flags

    @property
    def priority(self):
        return self.head.priority

    @property
    def bounces(self):
        """Whether bounce messages about it are wanted, as far as its sender decides."""
        return not self.head.spare & SPARE_NO_BOUNCES

    @property
    def count(self):
        """How many recipients the envelope has."""
        return self.head.recipients

    @property
    def length(self):
        """Octets of the content, without the prefix."""
        return self.head.length

    @property
    def segment(self):
        return self.head.segment

    @property
    def expire_seconds(self):
        """Given up so long after acceptance; 0: as its class says."""
        cdef const Times* times = times_of(self.head)
        return 0 if times == NULL else times.expire_s

    @property
    def not_before_ms(self):
        """Not sent before this time (milliseconds since the epoch); 0: at once."""
        cdef const Times* times = times_of(self.head)
        return 0 if times == NULL else times.not_before_ms

    @property
    def reverse_path(self):
        return self._part(0, self.head.reverse_path_length)

    @property
    def mail_parameters(self):
        return self._part(self.head.reverse_path_length, self.head.mail_parameters_length)

    @property
    def campaign(self):
        return self._part(self.head.reverse_path_length + self.head.mail_parameters_length, self.head.campaign_length)

    @property
    def tenant(self):
        return self._part(self.head.reverse_path_length + self.head.mail_parameters_length
                          + self.head.campaign_length, self.head.tenant_length)

    @property
    def pool(self):
        return self._part(self.head.reverse_path_length + self.head.mail_parameters_length
                          + self.head.campaign_length + self.head.tenant_length, self.head.pool_length)

    @property
    def client(self):
        return self._part(self.head.fixed_length - self.start - self.head.prefix_length - self.head.helo_length
                          - self.head.client_length, self.head.client_length)

    @property
    def helo(self):
        return self._part(self.head.fixed_length - self.start - self.head.prefix_length - self.head.helo_length,
                          self.head.helo_length)

    @property
    def prefix(self):
        """Trace headers, sent before the content."""
        return self._part(self.head.fixed_length - self.start - self.head.prefix_length, self.head.prefix_length)

    cpdef tuple recipient(self, Py_ssize_t number):
        """(forward-path, RCPT parameters) of one recipient, counted from 0."""
        cdef const unsigned char* at = first_recipient(<const unsigned char*> PyBytes_AS_STRING(self.raw))
        cdef const unsigned char* end = <const unsigned char*> PyBytes_AS_STRING(self.raw) + PyBytes_GET_SIZE(self.raw)
        cdef RecipientView view = RecipientView(NULL, 0, NULL, 0)
        for _ in range(number + 1):
            at = next_recipient(at, end, &view)
            if at == NULL:
                raise ValueError(f"message record has no recipient {number}")
        return view.address[:view.address_length], view.parameters[:view.parameters_length]

    def recipients(self):
        """All of them, as a list of (forward-path, RCPT parameters)."""
        cdef const unsigned char* at = first_recipient(<const unsigned char*> PyBytes_AS_STRING(self.raw))
        cdef const unsigned char* end = <const unsigned char*> PyBytes_AS_STRING(self.raw) + PyBytes_GET_SIZE(self.raw)
        cdef RecipientView view = RecipientView(NULL, 0, NULL, 0)
        cdef list out = []
        for _ in range(self.head.recipients):
            at = next_recipient(at, end, &view)
            if at == NULL:
                raise ValueError("message record ends inside its recipients")
            out.append((view.address[:view.address_length], view.parameters[:view.parameters_length]))
        return out
