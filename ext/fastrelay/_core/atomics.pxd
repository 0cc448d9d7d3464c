"""Words that several processes share; see atomics.h."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    int32_t fr_load_i32 "fr_load"(int32_t* place) noexcept
    uint32_t fr_load_u32 "fr_load"(uint32_t* place) noexcept
    int64_t fr_load_i64 "fr_load"(int64_t* place) noexcept
    uint64_t fr_load_u64 "fr_load"(uint64_t* place) noexcept
    void fr_store_i32 "fr_store"(int32_t* place, int32_t value) noexcept
    void fr_store_u32 "fr_store"(uint32_t* place, uint32_t value) noexcept
    void fr_store_i64 "fr_store"(int64_t* place, int64_t value) noexcept
    void fr_store_u64 "fr_store"(uint64_t* place, uint64_t value) noexcept
    int32_t fr_add_i32 "fr_fetch_add"(int32_t* place, int32_t value) noexcept
    uint32_t fr_add_u32 "fr_fetch_add"(uint32_t* place, uint32_t value) noexcept
    bint fr_swap_u32(uint32_t* place, uint32_t* expected, uint32_t value) noexcept
    bint fr_swap_u64(uint64_t* place, uint64_t* expected, uint64_t value) noexcept
    bint fr_swap_i64(int64_t* place, int64_t* expected, int64_t value) noexcept
    int64_t fr_times(int64_t a, int64_t b) noexcept
    int64_t fr_scaled(int64_t a, int64_t b, int64_t c) noexcept
