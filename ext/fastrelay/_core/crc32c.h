/* CRC-32C (Castagnoli, RFC 3720 appendix B.4) of stored content.
 *
 * With SSE4.2 eight octets at a time by the processor's own instruction (about 8 GB/s, one dependent chain), else by
 * a table, one octet at a time (about 0.4 GB/s). Both give the same sums, and tests hold them against each other.
 */
#ifndef FASTRELAY_CRC32C_H
#define FASTRELAY_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t fr_crc_table[256] __attribute__((unused));
static int fr_crc_hardware __attribute__((unused));

static inline void fr_crc_setup(void) {
    for (uint32_t octet = 0; octet < 256; octet++) {
        uint32_t rest = octet;
        for (int bit = 0; bit < 8; bit++) rest = (rest >> 1) ^ (0x82F63B78u & (0u - (rest & 1)));
        fr_crc_table[octet] = rest;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    fr_crc_hardware = __builtin_cpu_supports("sse4.2") ? 1 : 0;
#endif
}

static inline uint32_t fr_crc_by_table(uint32_t sum, const unsigned char *octets, size_t n) {
    for (size_t i = 0; i < n; i++) sum = (sum >> 8) ^ fr_crc_table[(sum ^ octets[i]) & 0xFF];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static inline uint32_t fr_crc_by_instruction(uint32_t sum, const unsigned char *octets, size_t n) {
    uint64_t wide = sum;
    while (n >= 8) {
        uint64_t eight;
        memcpy(&eight, octets, 8);
        wide = __builtin_ia32_crc32di(wide, eight);
        octets += 8;
        n -= 8;
    }
    sum = (uint32_t)wide;
    while (n--) sum = __builtin_ia32_crc32qi(sum, *octets++);
    return sum;
}
#endif

/* Goes on from `sum`, the result for what came before (0 at the beginning). */
static inline uint32_t fr_crc32c(uint32_t sum, const void *octets, size_t n) {
    sum = ~sum;
#if defined(__x86_64__)
    if (fr_crc_hardware) return ~fr_crc_by_instruction(sum, (const unsigned char *)octets, n);
#endif
    return ~fr_crc_by_table(sum, (const unsigned char *)octets, n);
}

#endif
