"""The words of an SMTP command line: paths, mailboxes, parameters (RFC 5321 section 4.1.2, 6531, 3461).

Pure functions over one line without its CRLF; they keep nothing and allocate nothing. Strict where leniency
has cost others: quoted local parts, source routes (checked, then dropped: RFC 5321 appendix C), address literals,
length limits and UTF-8 are judged by the grammar; "%" and "!" in a local part are ordinary characters.

Known faults: a domain is judged by its form alone, so U-labels are not checked against IDNA here (routing does that
when it makes A-labels), and general address literals other than IPv6 are refused.
"""

from libc.string cimport memchr, memcpy

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET
    int AF_INET6
    int inet_pton(int family, const char* text, void* address) noexcept

cdef enum:
    ATEXT = 1  # RFC 5322 atom
    QTEXT = 2  # inside a quoted string, unescaped
    LETDIG = 4
    XTEXT = 8  # RFC 3461 xchar
    VALUE = 16  # value of a parameter
    NAME = 32  # in the argument of EHLO
    CONTROL = 64

cdef enum:
    LOCAL_PART = 64
    LABEL = 63
    DOMAIN = 255
    PATH = 256

cdef unsigned char[256] kind


cdef void _fill() noexcept:
    cdef int octet
    cdef bytes atext = b"!#$%&'*+-/=?^_`{|}~"
    cdef bytes name = b"-._:[]"
    for octet in range(256):
        kind[octet] = 0
        if c"0" <= octet <= c"9" or c"A" <= octet <= c"Z" or c"a" <= octet <= c"z":
            kind[octet] |= ATEXT | LETDIG | NAME
        elif octet < 128 and octet and memchr(<const char*>atext, octet, 19):
            kind[octet] |= ATEXT
        if 32 <= octet <= 126 and octet != c'"' and octet != c"\\":
            kind[octet] |= QTEXT
        if 33 <= octet <= 126 and octet != c"+" and octet != c"=":
            kind[octet] |= XTEXT
        if 33 <= octet <= 126 and octet != c"=":
            kind[octet] |= VALUE
        if octet and memchr(<const char*>name, octet, 6):
            kind[octet] |= NAME
        if octet < 32 or octet == 127:
            kind[octet] |= CONTROL
        if octet > 127:
            # UTF-8, where it is allowed; is_utf8 judges the whole.
            kind[octet] |= ATEXT | QTEXT | LETDIG | VALUE


_fill()


cdef bint is_text(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """No control characters (8-bit octets pass)."""
    cdef unsigned char seen = 0
    cdef Py_ssize_t i
    for i in range(n):
        seen |= kind[p[i]]
    return not seen & CONTROL


cdef bint is_utf8(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """Well-formed UTF-8 (RFC 3629) without the C1 controls."""
    cdef Py_ssize_t i = 0
    cdef int more
    cdef unsigned int point, least
    while i < n:
        if p[i] < 0x80:
            i += 1
            continue
        if 0xC2 <= p[i] <= 0xDF:
            more, point, least = 1, p[i] & 0x1F, 0xA0  # U+0080 to U+009F are controls
        elif 0xE0 <= p[i] <= 0xEF:
            more, point, least = 2, p[i] & 0x0F, 0x800
        elif 0xF0 <= p[i] <= 0xF4:
            more, point, least = 3, p[i] & 0x07, 0x10000
        else:
            return False
        if n - i <= more:
            return False
        for i in range(i + 1, i + more + 1):
            if p[i] & 0xC0 != 0x80:
                return False
            point = point << 6 | (p[i] & 0x3F)
        if point < least or point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            return False
        i += 1
    return True


cdef bint is_xtext(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """RFC 3461 section 4: printable octets, others as "+" and two upper-case hexadecimal digits."""
    cdef Py_ssize_t i = 0
    while i < n:
        if p[i] == c"+":
            if n - i < 3 or not _is_hex(p[i + 1]) or not _is_hex(p[i + 2]):
                return False
            i += 3
        elif kind[p[i]] & XTEXT:
            i += 1
        else:
            return False
    return True


cdef inline bint _is_hex(unsigned char octet) noexcept nogil:
    return c"0" <= octet <= c"9" or c"A" <= octet <= c"F"


cdef bint is_atom(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not kind[p[i]] & ATEXT or p[i] > 127:
            return False
    return n > 0


cdef bint is_client_name(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """The argument of EHLO: any characters of names and literals, since many clients do not know their own name.

    What it lets through can stand in a Received field as it is.
    """
    cdef Py_ssize_t i
    for i in range(n):
        if not kind[p[i]] & NAME:
            return False
    return 0 < n <= DOMAIN


cdef long long parse_number(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """A decimal number of 1 to 20 digits (RFC 1870); -1 if it is none. What would pass 10**18 counts as 10**18."""
    cdef Py_ssize_t i
    cdef long long number = 0
    cdef long long most = 1000000000000000000
    if n < 1 or n > 20:
        return -1
    for i in range(n):
        if not c"0" <= p[i] <= c"9":
            return -1
        number = number * 10 + (p[i] - c"0") if number < most // 10 else most
    return number


cdef bint same_word(const unsigned char* p, Py_ssize_t n, const char* word) noexcept nogil:
    """Whether p[0:n] is `word`, which is given in capitals, whatever the case of p."""
    cdef Py_ssize_t i
    cdef unsigned char octet
    for i in range(n):
        octet = p[i]
        if c"a" <= octet <= c"z":
            octet -= 32
        if octet != <unsigned char>word[i] or octet == 0:
            return False
    return word[n] == 0


cdef bint parse_parameter(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Parameter* parameter) noexcept nogil:
    """One esmtp-param that begins at p[i]: keyword, or keyword "=" value."""
    parameter.start = i
    parameter.length = -1
    while i < n and (kind[p[i]] & LETDIG or p[i] == c"-") and p[i] < 128:
        i += 1
    parameter.keyword = i - parameter.start
    parameter.value = parameter.end = i
    if parameter.keyword == 0 or p[parameter.start] == c"-":
        return False
    if i < n and p[i] == c"=":
        i += 1
        parameter.value = i
        while i < n and kind[p[i]] & VALUE:
            i += 1
        parameter.length = i - parameter.value
        parameter.end = i
        if parameter.length == 0:
            return False
    return i == n or p[i] == c" "


# ---- paths


cdef PathFault _domain(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* end) noexcept nogil:
    """A domain name or an address literal at p[i]; `end` is set behind it."""
    cdef Py_ssize_t start = i
    cdef Py_ssize_t label
    if i < n and p[i] == c"[":
        return _literal(p, i, n, end)
    while True:
        label = i
        while i < n and (kind[p[i]] & LETDIG or p[i] == c"-"):
            i += 1
        if i == label or p[label] == c"-" or p[i - 1] == c"-":
            return PATH_SYNTAX
        if i - label > LABEL and p[label] < 128:
            return PATH_LENGTH
        if i == n or p[i] != c".":
            break
        i += 1
    end[0] = i
    return PATH_LENGTH if i - start > DOMAIN else PATH_OK


cdef PathFault _literal(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* end) noexcept nogil:
    """[192.0.2.1] or [IPv6:2001:db8::1]."""
    cdef char[48] text
    cdef unsigned char[16] address
    cdef const unsigned char* close = <const unsigned char*>memchr(p + i, c"]", n - i)
    cdef Py_ssize_t length
    cdef int family = AF_INET
    if close is NULL:
        return PATH_SYNTAX
    end[0] = close - p + 1
    i += 1
    length = close - (p + i)
    if length > 5 and same_word(p + i, 5, b"IPV6:"):
        family = AF_INET6
        i += 5
        length -= 5
    if length > 45:
        return PATH_SYNTAX
    memcpy(text, p + i, length)
    text[length] = 0
    # A NUL cannot be inside: control characters were refused with the line.
    return PATH_OK if inet_pton(family, text, address) == 1 else PATH_SYNTAX


cdef PathFault parse_mailbox(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* end) noexcept nogil:
    """Local-part "@" (domain or literal) at p[i]; `end` is set behind it."""
    cdef Py_ssize_t start = i
    if i < n and p[i] == c'"':
        i += 1
        while i < n and p[i] != c'"':
            if p[i] == c"\\":
                i += 1
                if i == n or not 32 <= p[i] <= 126:
                    return PATH_SYNTAX
            elif not kind[p[i]] & QTEXT:
                return PATH_SYNTAX
            i += 1
        if i == n:
            return PATH_SYNTAX
        i += 1
    else:
        while True:
            if i == n or not kind[p[i]] & ATEXT:
                return PATH_SYNTAX
            while i < n and kind[p[i]] & ATEXT:
                i += 1
            if i == n or p[i] != c".":
                break
            i += 1
    if i - start > LOCAL_PART:
        return PATH_LENGTH
    end[0] = i
    if i == n or p[i] != c"@":
        return PATH_NO_DOMAIN
    return _domain(p, i + 1, n, end)


cdef PathFault parse_path(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Path* path) noexcept nogil:
    """A path in angle brackets at p[i]; "<>" gives length 0. A source route is checked and left out."""
    cdef Py_ssize_t start = i
    cdef PathFault fault
    path.utf8 = False
    path.length = 0
    path.start = i
    path.end = i
    if i == n or p[i] != c"<":
        return PATH_SYNTAX
    i += 1
    if i < n and p[i] == c">":
        path.end = i + 1
        return PATH_OK
    if i < n and p[i] == c"@":
        while True:
            if i == n or p[i] != c"@":
                return PATH_SYNTAX
            fault = _domain(p, i + 1, n, &i)
            if fault:
                return fault
            if i == n or p[i] != c",":
                break
            i += 1
        if i == n or p[i] != c":":
            return PATH_SYNTAX
        i += 1
    path.start = i
    fault = parse_mailbox(p, i, n, &i)
    if fault == PATH_SYNTAX or fault == PATH_LENGTH:
        return fault
    if i == n or p[i] != c">":
        return PATH_SYNTAX
    path.length = i - path.start
    path.end = i + 1
    # The limit of 256 is for a path as it will be sent: without the source route.
    if path.length + 2 > PATH:
        return PATH_LENGTH
    for i in range(start, path.end):
        if p[i] > 127:
            path.utf8 = True
            break
    if path.utf8 and not is_utf8(p + start, path.end - start):
        return PATH_SYNTAX
    return fault


cpdef object mailbox_fault(bytes mailbox, bint smtputf8=False):
    """None for a mailbox that may stand in an envelope, else what is wrong with it, for a person."""
    cdef const unsigned char* p = mailbox
    cdef Py_ssize_t n = len(mailbox)
    cdef Py_ssize_t end = 0
    cdef PathFault fault = PATH_SYNTAX
    if is_text(p, n):
        fault = parse_mailbox(p, 0, n, &end)
    if fault == PATH_LENGTH or n + 2 > PATH:
        return "longer than RFC 5321 section 4.5.3.1 allows"
    if fault == PATH_NO_DOMAIN and end == n:
        return "has no domain"
    if fault or end != n:
        return "not a mailbox by RFC 5321 section 4.1.2"
    if not mailbox.isascii():
        if not smtputf8:
            return "not ASCII, and SMTPUTF8 was not asked for"
        if not is_utf8(p, n):
            return "not well-formed UTF-8"
    return None
