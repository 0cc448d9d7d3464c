/* Check of an LMDB file before LMDB maps it: every page that can be reached is what it should be.
 *
 * LMDB trusts its file. A page behind the end of a file that was cut short is SIGBUS, a page of something else can be a
 * crash or an endless search. So the tree is walked once at the opening, by reading (an I/O error is an errno then, no
 * signal): page numbers, kinds, bounds of nodes, overflow pages, and the number of entries. What keys and values say is
 * not looked at. A million records take about 0.2 s when they are in the page cache.
 *
 * Layout: data version 1 (LMDB 0.9), page headers of 16 octets, as that library writes it on a 64-bit host.
 */
#ifndef FASTRELAY_VERIFY_H
#define FASTRELAY_VERIFY_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FR_MDB_MAGIC 0xBEEFC0DEu
#define FR_MDB_DEPTH 32
#define FR_MDB_HEADER 16
#define FR_MDB_NO_PAGE (~(uint64_t)0)
enum { FR_PAGE_BRANCH = 1, FR_PAGE_LEAF = 2, FR_PAGE_OVERFLOW = 4, FR_PAGE_META = 8 };
enum { FR_NODE_BIG = 1, FR_NODE_TREE = 2, FR_NODE_DUPLICATES = 4 };

typedef struct {
    uint32_t pad;
    uint16_t flags, depth;
    uint64_t branches, leaves, overflows, entries, root;
} fr_tree;

typedef struct {
    int fd;
    uint64_t pages, page_size, transaction;
    char *levels;                    /* one page a level */
    char words[160];                 /* what is wrong */
    uint64_t looked_at;
} fr_check;

static inline int fr_wrong(fr_check *check, uint64_t page, const char *what) {
    snprintf(check->words, sizeof check->words, "page %llu: %s", (unsigned long long)page, what);
    return -1;
}

static inline int fr_check_read(fr_check *check, uint64_t page, void *to, uint64_t length) {
    if (page >= check->pages) return fr_wrong(check, page, "it lies behind the end of the file");
    ssize_t got = pread(check->fd, to, length, (off_t)(page * check->page_size));
    if (got < 0) return errno;
    if ((uint64_t)got != length) return fr_wrong(check, page, "it is cut short");
    check->looked_at++;
    return 0;
}

static inline uint16_t fr_u16(const char *at) { uint16_t n; memcpy(&n, at, 2); return n; }
static inline uint32_t fr_u32(const char *at) { uint32_t n; memcpy(&n, at, 4); return n; }
static inline uint64_t fr_u64(const char *at) { uint64_t n; memcpy(&n, at, 8); return n; }

static inline int fr_check_tree(fr_check *check, const fr_tree *tree, char *levels, int depth, int nested);

/* A value that has pages of its own. */
static inline int fr_check_big(fr_check *check, uint64_t page, uint64_t size) {
    char header[FR_MDB_HEADER];
    int error = fr_check_read(check, page, header, sizeof header);
    if (error) return error;
    uint64_t run = fr_u32(header + 12);
    if (fr_u64(header) != page || !(fr_u16(header + 10) & FR_PAGE_OVERFLOW))
        return fr_wrong(check, page, "no overflow page");
    if (!run || run > check->pages - page || run * check->page_size - FR_MDB_HEADER < size)
        return fr_wrong(check, page, "its value is cut short");
    return 0;
}

static inline int fr_check_leaf(fr_check *check, const char *at, const char *end, uint64_t page, char *levels,
                                int depth, int nested) {
    uint32_t size = fr_u16(at) | (uint32_t)fr_u16(at + 2) << 16;
    uint16_t flags = fr_u16(at + 4), key = fr_u16(at + 6);
    const char *value = at + 8 + key;
    if (flags & FR_NODE_DUPLICATES) return fr_wrong(check, page, "a kind of node that is not used here");
    if (flags & FR_NODE_BIG) {
        if (value + 8 > end) return fr_wrong(check, page, "a node reaches beyond it");
        return fr_check_big(check, fr_u64(value), size);
    }
    if (value > end || size > (uint64_t)(end - value)) return fr_wrong(check, page, "a node reaches beyond it");
    if (!(flags & FR_NODE_TREE)) return 0;
    fr_tree tree;
    if (size != sizeof tree || nested) return fr_wrong(check, page, "a database in the wrong place");
    memcpy(&tree, value, sizeof tree);
    return fr_check_tree(check, &tree, levels, depth, 1);
}

/* One page and what is below it. `height`: 1 for a leaf. */
static inline int fr_check_page(fr_check *check, uint64_t page, int height, char *levels, int depth, int nested,
                                uint64_t *entries) {
    if (depth >= FR_MDB_DEPTH) return fr_wrong(check, page, "the tree is too deep");
    char *at = levels;
    int error = fr_check_read(check, page, at, check->page_size);
    if (error) return error;
    uint16_t flags = fr_u16(at + 10), lower = fr_u16(at + 12), upper = fr_u16(at + 14);
    if (fr_u64(at) != page) return fr_wrong(check, page, "it has another number");
    if ((flags & 0x2F) != (height > 1 ? FR_PAGE_BRANCH : FR_PAGE_LEAF))
        return fr_wrong(check, page, "it is of another kind");
    if (lower < FR_MDB_HEADER || lower > upper || upper > check->page_size || lower & 1)
        return fr_wrong(check, page, "its bounds are wrong");
    unsigned n = (lower - FR_MDB_HEADER) / 2u;
    for (unsigned i = 0; i < n && !error; i++) {
        uint16_t offset = fr_u16(at + FR_MDB_HEADER + 2 * i);
        if (offset < upper || (uint64_t)offset + 8 > check->page_size)
            return fr_wrong(check, page, "a node lies outside");
        const char *node = at + offset, *end = at + check->page_size;
        if (height == 1) {
            error = fr_check_leaf(check, node, end, page, levels + check->page_size, depth + 1, nested);
            ++*entries;
        } else {
            uint64_t child = fr_u16(node) | (uint64_t)fr_u16(node + 2) << 16 | (uint64_t)fr_u16(node + 4) << 32;
            if (node + 8 + fr_u16(node + 6) > end) return fr_wrong(check, page, "a key reaches beyond it");
            error = fr_check_page(check, child, height - 1, levels + check->page_size, depth + 1, nested, entries);
        }
    }
    return error;
}

static inline int fr_check_tree(fr_check *check, const fr_tree *tree, char *levels, int depth, int nested) {
    uint64_t entries = 0;
    if (tree->root == FR_MDB_NO_PAGE) return tree->entries ? fr_wrong(check, 0, "a database has lost its root") : 0;
    if (!tree->depth || tree->depth > FR_MDB_DEPTH)
        return fr_wrong(check, tree->root, "the depth of a database is wrong");
    int error = fr_check_page(check, tree->root, tree->depth, levels, depth, nested, &entries);
    if (!error && entries != tree->entries) return fr_wrong(check, tree->root, "entries are missing below it");
    return error;
}

/* The newer of the two meta pages: its trees. */
static inline int fr_check_meta(fr_check *check, fr_tree trees[2]) {
    char metas[2][FR_MDB_HEADER + 136];
    int best = -1;
    check->page_size = 4096;
    if (pread(check->fd, metas[0], sizeof metas[0], 0) != (ssize_t)sizeof metas[0])
        return fr_wrong(check, 0, "it is cut short");
    if (fr_u32(metas[0] + 16) != FR_MDB_MAGIC) return fr_wrong(check, 0, "it is no page of LMDB");
    uint32_t page_size = fr_u32(metas[0] + 40);
    if (page_size < 512 || page_size > 65536 || page_size & (page_size - 1))
        return fr_wrong(check, 0, "the page size is wrong");
    check->page_size = page_size;
    check->pages = check->pages / page_size;
    if (pread(check->fd, metas[1], sizeof metas[1], page_size) != (ssize_t)sizeof metas[1])
        return fr_wrong(check, 1, "it is cut short");
    for (int i = 0; i < 2; i++) {
        if (fr_u32(metas[i] + 16) != FR_MDB_MAGIC) return fr_wrong(check, (uint64_t)i, "it is no page of LMDB");
        if (fr_u32(metas[i] + 20) != 1) return fr_wrong(check, (uint64_t)i, "it is of another version of LMDB");
        if (best < 0 || fr_u64(metas[i] + 144) > check->transaction) {
            best = i;
            check->transaction = fr_u64(metas[i] + 144);
        }
    }
    memcpy(trees, metas[best] + 40, 2 * sizeof *trees);
    return 0;
}

/* 0; -1: corrupt, and `words` tells; errno. */
static inline int fr_verify(int fd, fr_check *check) {
    struct stat status;
    fr_tree trees[2];
    memset(check, 0, sizeof *check);
    check->fd = fd;
    if (fstat(fd, &status)) return errno;
    check->pages = (uint64_t)status.st_size;
    int error = fr_check_meta(check, trees);
    if (error) return error;
    posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    check->levels = malloc((FR_MDB_DEPTH + 1) * check->page_size);
    if (!check->levels) return ENOMEM;
    trees[0].pad = trees[1].pad = 0;
    error = fr_check_tree(check, &trees[0], check->levels, 0, 1);
    if (!error) error = fr_check_tree(check, &trees[1], check->levels, 0, 0);
    free(check->levels);
    return error;
}

#endif
