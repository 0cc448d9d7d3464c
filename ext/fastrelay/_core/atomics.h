/* Loads, stores and compare-and-set of words that several processes share in a mapped file (GCC's __atomic,
 * sequentially consistent), and two products that do not wrap round. */
#ifndef FASTRELAY_ATOMICS_H
#define FASTRELAY_ATOMICS_H

#include <stdint.h>
#define fr_load(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
#define fr_store(place, value) __atomic_store_n((place), (value), __ATOMIC_SEQ_CST)
#define fr_fetch_add(place, value) __atomic_fetch_add((place), (value), __ATOMIC_SEQ_CST)
static inline int fr_swap_u32(uint32_t *place, uint32_t *expected, uint32_t value)
{ return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
static inline int fr_swap_u64(uint64_t *place, uint64_t *expected, uint64_t value)
{ return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
static inline int fr_swap_i64(int64_t *place, int64_t *expected, int64_t value)
{ return __atomic_compare_exchange_n(place, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
/* Saturating: a rule of a day by a burst of millions must not wrap round to a free pass. */
static inline int64_t fr_times(int64_t a, int64_t b)
{ int64_t r; return __builtin_mul_overflow(a, b, &r) || r > INT64_MAX / 4 ? INT64_MAX / 4 : r; }
/* a * b / c, rounded up; a and b at least 0, c above 0. */
static inline int64_t fr_scaled(int64_t a, int64_t b, int64_t c)
{ __int128 r = ((__int128)a * b + c - 1) / c; return r > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)r; }

#endif
