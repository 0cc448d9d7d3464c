/* Canonical forms of RFC 6376 section 3.4, as far as they are walks over octets.
 *
 * `relaxed` needs work only where white space stands twice, is a tab, or ends a line. Text is copied sixteen octets at a
 * time (eight without SSE2) until such a place, so that ordinary text goes at the speed of a copy.
 */
#ifndef FASTRELAY_CANON_H
#define FASTRELAY_CANON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "stuffing.h"

/* What a chunk left undecided. */
typedef struct {
    int wsp;          /* white space: dropped if the line ends here, else one space */
    int cr;           /* a CR: of a CRLF or not */
} fr_squeeze;

static inline int fr_is_wsp(unsigned char octet)
{
    return octet == ' ' || octet == '\t';
}

/* Copies from p to out until the first white space that relaxed changes, or until fewer than 17 octets are left; with
 * `folds`, also until a CR or LF. May write up to 16 octets beyond what it gives back as copied, but never more than
 * `end - p` in all. Both do the same; the portable one is always compiled so that tests can hold it to that. */
static inline size_t fr_copy_plain_portable(const unsigned char *p, const unsigned char *end, unsigned char *out,
                                            int folds)
{
    const unsigned char *from = p;
    while (end - p >= 17) {
        uint64_t here, next, odd;
        memcpy(&here, p, 8);
        memcpy(&next, p + 1, 8);
        memcpy(out, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        here = __builtin_bswap64(here);
        next = __builtin_bswap64(next);
#endif
        odd = fr_zero_octets(next ^ FR_EACH(' ')) | fr_zero_octets(next ^ FR_EACH('\t')) |
              fr_zero_octets(next ^ FR_EACH('\r'));
        odd = fr_zero_octets(here ^ FR_EACH('\t')) | (fr_zero_octets(here ^ FR_EACH(' ')) & odd);
        if (folds)
            odd |= fr_zero_octets(here ^ FR_EACH('\r')) | fr_zero_octets(here ^ FR_EACH('\n'));
        if (odd)
            return (size_t)(p - from) + (size_t)__builtin_ctzll(odd);
        p += 8;
        out += 8;
    }
    return (size_t)(p - from);
}

#ifdef FR_SSE2
static inline size_t fr_copy_plain(const unsigned char *p, const unsigned char *end, unsigned char *out, int folds)
{
    const unsigned char *from = p;
    const __m128i space = _mm_set1_epi8(' '), tab = _mm_set1_epi8('\t');
    const __m128i cr = _mm_set1_epi8('\r'), lf = _mm_set1_epi8('\n');
    while (end - p >= 17) {
        __m128i here = _mm_loadu_si128((const __m128i *)p);
        __m128i next = _mm_loadu_si128((const __m128i *)(p + 1));
        __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(next, space), _mm_cmpeq_epi8(next, tab)),
                                   _mm_cmpeq_epi8(next, cr));
        odd = _mm_or_si128(_mm_cmpeq_epi8(here, tab), _mm_and_si128(_mm_cmpeq_epi8(here, space), odd));
        if (folds)
            odd = _mm_or_si128(odd, _mm_or_si128(_mm_cmpeq_epi8(here, cr), _mm_cmpeq_epi8(here, lf)));
        unsigned mask = (unsigned)_mm_movemask_epi8(odd);
        _mm_storeu_si128((__m128i *)out, here);
        if (mask)
            return (size_t)(p - from) + (size_t)__builtin_ctz(mask);
        p += 16;
        out += 16;
    }
    return (size_t)(p - from);
}
#else
#define fr_copy_plain fr_copy_plain_portable
#endif

/* One chunk of a body in relaxed form, aside from the empty lines at its end. `out` has room for n + 2 octets.
 * A CR at the end of the chunk is kept back, as is white space. */
static inline size_t fr_squeeze_body(fr_squeeze *state, const unsigned char *p, size_t n, unsigned char *out)
{
    const unsigned char *end = p + n;
    unsigned char *first = out;
    if (n == 0)
        return 0;
    if (state->cr) {
        if (*p != '\n' && state->wsp)
            *out++ = ' ';
        *out++ = '\r';
        state->wsp = state->cr = 0;
    }
    for (;;) {
        if (!state->wsp) {
            size_t copied = fr_copy_plain(p, end, out, 0);
            p += copied;
            out += copied;
            while (p < end && !fr_is_wsp(*p) && (*p != '\r' || p + 1 < end))
                *out++ = *p++;
            if (p == end)
                break;
            if (*p == '\r') {
                state->cr = 1;
                break;
            }
        }
        while (p < end && fr_is_wsp(*p))
            p++;
        state->wsp = 1;
        if (p == end)
            break;
        if (*p == '\r') {
            if (p + 1 == end) {
                state->cr = 1;
                break;
            }
            if (p[1] != '\n')
                *out++ = ' ';
            *out++ = *p++;
        } else {
            *out++ = ' ';
        }
        state->wsp = 0;
    }
    return (size_t)(out - first);
}

/* A header field in relaxed form, without the CRLF at its end: `name` in lower case, a colon, the value unfolded, its
 * white space one space each, none at either end. `out` has room for name + value + 1 octets. */
static inline size_t fr_relaxed_field(const unsigned char *name, size_t name_length, const unsigned char *value,
                                      size_t value_length, unsigned char *out)
{
    const unsigned char *end = value + value_length;
    unsigned char *first = out, *text;
    for (size_t i = 0; i < name_length; i++)
        *out++ = (unsigned char)(name[i] - 'A') < 26 ? name[i] | 0x20 : name[i];
    *out++ = ':';
    text = out;
    while (value < end) {
        unsigned char octet = *value;
        if (octet > ' ' && end - value >= 17) {
            size_t copied = fr_copy_plain(value, end, out, 1);
            value += copied;
            out += copied;
            octet = *value;
        }
        if (octet > ' ' || (octet != ' ' && octet != '\t' && octet != '\r' && octet != '\n')) {
            *out++ = octet;
            value++;
            continue;
        }
        if (octet == '\n' || (octet == '\r' && value + 1 < end && value[1] == '\n')) {
            value += octet == '\r' ? 2 : 1;                     /* unfolded */
        } else if (octet == '\r') {
            *out++ = octet;
            value++;
        } else {
            if (out > text && out[-1] != ' ')
                *out++ = ' ';
            value++;
        }
    }
    if (out > text && out[-1] == ' ')
        out--;
    return (size_t)(out - first);
}

/* A signature in base64 behind `column` octets of a line, folded at `line` octets with CRLF and a space. `out` has room
 * for it: n / 3 * 4 + 4 octets, and 3 more for each line. */
static inline size_t fr_base64_folded(const unsigned char *p, size_t n, size_t column, size_t line, unsigned char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char *first = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)p[i] << 16;
        if (i + 1 < n)
            three |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < n)
            three |= p[i + 2];
        for (unsigned k = 0; k < 4; k++) {
            if (column == line) {
                memcpy(out, "\r\n ", 3);
                out += 3;
                column = 1;
            }
            *out++ = i + k > n ? '=' : (unsigned char)digits[three >> (18 - 6 * k) & 63];
            column++;
        }
    }
    return (size_t)(out - first);
}

#endif
