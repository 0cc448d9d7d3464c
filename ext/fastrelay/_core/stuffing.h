/* Byte scans for content: sixteen octets at a time with SSE2, eight at a time elsewhere.
 *
 * Both give the same masks; fr_scan64_portable is always compiled so that tests can hold one against the other.
 * CFLAGS=-DFASTRELAY_PORTABLE builds without SSE2.
 */
#ifndef FASTRELAY_STUFFING_H
#define FASTRELAY_STUFFING_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && !defined(FASTRELAY_PORTABLE)
#define FR_SSE2 1
#include <emmintrin.h>
#endif

/* What stands where in 64 octets: bit k speaks of octet k. */
typedef struct {
    uint64_t lf, cr, dot, high, nul;
} fr_masks;

#define FR_EACH(b) (0x0101010101010101ULL * (uint64_t)(b))

/* One bit for each octet of `word` that is zero (exact: no carry crosses an octet). */
static inline uint64_t fr_zero_octets(uint64_t word)
{
    uint64_t low = (word & FR_EACH(0x7f)) + FR_EACH(0x7f);
    uint64_t top = ~(low | word | FR_EACH(0x7f));      /* 0x80 where the octet is zero */
    return ((top >> 7) * 0x0102040810204080ULL) >> 56; /* gather the eight bits */
}

static inline void fr_scan64_portable(const unsigned char *p, fr_masks *m)
{
    memset(m, 0, sizeof *m);
    for (int k = 0; k < 64; k += 8) {
        uint64_t word;
        memcpy(&word, p + k, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        m->lf |= fr_zero_octets(word ^ FR_EACH('\n')) << k;
        m->cr |= fr_zero_octets(word ^ FR_EACH('\r')) << k;
        m->dot |= fr_zero_octets(word ^ FR_EACH('.')) << k;
        m->nul |= fr_zero_octets(word) << k;
        m->high |= ((((word & FR_EACH(0x80)) >> 7) * 0x0102040810204080ULL) >> 56) << k;
    }
}

#ifdef FR_SSE2
static inline uint64_t fr_equal64(const __m128i v[4], char octet)
{
    const __m128i want = _mm_set1_epi8(octet);
    uint64_t a = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v[0], want));
    uint64_t b = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v[1], want));
    uint64_t c = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v[2], want));
    uint64_t d = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v[3], want));
    return a | b << 16 | c << 32 | d << 48;
}

static inline void fr_scan64(const unsigned char *p, fr_masks *m)
{
    __m128i v[4];
    for (int k = 0; k < 4; k++)
        v[k] = _mm_loadu_si128((const __m128i *)(p + 16 * k));
    m->lf = fr_equal64(v, '\n');
    m->cr = fr_equal64(v, '\r');
    m->dot = fr_equal64(v, '.');
    /* Rare in most mail, so looked for in all 64 at once first. */
    m->high = m->nul = 0;
    if (_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(v[0], v[1]), _mm_or_si128(v[2], v[3])))) {
        for (int k = 0; k < 4; k++)
            m->high |= (uint64_t)(uint32_t)_mm_movemask_epi8(v[k]) << (16 * k);
    }
    __m128i least = _mm_min_epu8(_mm_min_epu8(v[0], v[1]), _mm_min_epu8(v[2], v[3]));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(least, _mm_setzero_si128())))
        m->nul = fr_equal64(v, 0);
}
#else
#define fr_scan64 fr_scan64_portable
#endif

/* The same for fewer than 64 octets; the missing ones match nothing. */
static inline void fr_scan_tail(const unsigned char *p, int n, fr_masks *m)
{
    unsigned char block[64];
    memset(block, 'x', sizeof block);
    memcpy(block, p, (size_t)n);
    fr_scan64(block, m);
}

/* A content on its way through whole blocks; offsets are those of the content. */
typedef struct {
    uint64_t after_cr, line_start;   /* 1 if the octet before the next is CR, or the two before are CRLF */
    int64_t line_from, longest_line; /* start of the line under way; octets of the longest that ended */
    int64_t empty_line;              /* offset behind the first empty line, 0 until there is one */
    uint64_t high, nul;              /* not 0 once such an octet was seen */
} fr_run;

/* Notes a line of which the LF stands at `lf`. */
static inline void fr_end_line(fr_run *run, int64_t lf)
{
    int64_t octets = lf - 1 - run->line_from;
    if (octets > run->longest_line)
        run->longest_line = octets;
    else if (octets == 0 && run->empty_line == 0)
        run->empty_line = lf + 1;
    run->line_from = lf + 1;
}

/* Goes over p[0 .. n) in blocks of 64 while no octet needs a decision (with `bare`, a bare CR or LF; with `dots`, a dot
 * at a line start), and gives how many octets that were. `offset` is that of p[0]. */
static inline int64_t fr_plain_blocks(const unsigned char *p, int64_t n, int64_t offset, int bare, int dots,
                                      fr_run *state)
{
    fr_run run = *state; /* in registers */
    fr_masks m;
    const uint64_t watch_bare = bare ? ~0ULL : 0, watch_dot = dots ? ~0ULL : 0;
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        fr_scan64(p + i, &m);
        uint64_t after_cr = m.cr << 1 | run.after_cr;
        uint64_t ends = m.lf & after_cr;
        if (((m.lf ^ after_cr) & watch_bare) | (m.dot & watch_dot & (ends << 1 | run.line_start)))
            break;
        run.after_cr = m.cr >> 63;
        run.line_start = ends >> 63;
        run.high |= m.high;
        run.nul |= m.nul;
        while (ends) {
            fr_end_line(&run, offset + i + __builtin_ctzll(ends));
            ends &= ends - 1;
        }
    }
    *state = run;
    return i;
}

/* Index of the next '.' that follows an LF, both in p[from .. n); -1 when there is none. */
static inline int64_t fr_find_lf_dot(const unsigned char *p, int64_t from, int64_t n)
{
    int64_t i = from;
#ifdef FR_SSE2
    const __m128i lf = _mm_set1_epi8('\n'), dot = _mm_set1_epi8('.');
    for (; i + 65 <= n; i += 64) {
        __m128i hit[4];
        for (int k = 0; k < 4; k++)
            hit[k] = _mm_and_si128(
                _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i + 16 * k)), lf),
                _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i + 16 * k + 1)), dot));
        if (_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(hit[0], hit[1]), _mm_or_si128(hit[2], hit[3])))) {
            for (int k = 0; k < 4; k++) {
                int mask = _mm_movemask_epi8(hit[k]);
                if (mask)
                    return i + 16 * k + __builtin_ctz((unsigned)mask) + 1;
            }
        }
    }
#endif
    while (i + 1 < n) {
        const unsigned char *found = memchr(p + i, '\n', (size_t)(n - 1 - i));
        if (!found)
            return -1;
        i = found - p + 1;
        if (p[i] == '.')
            return i;
    }
    return -1;
}

#endif
