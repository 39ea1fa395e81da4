/* bpe.h: finds the end of a piece of text, and computes the key that the piece is looked up by. The
 * functions are inline, because encoding and training call them for every piece. They are not part
 * of the ABI. bpe_split.c explains the rule.
 */
#ifndef BPE_H
#define BPE_H

#include <string.h>

#include "pygpt.h"

enum { BPE_OTHER, BPE_LETTER, BPE_NUMBER, BPE_SPACE }; /* the values in `classes` */

/* Returns the code point of the character at p < end, which is not ASCII, and sets its length in
 * bytes. Returns -1 and length 1 when the bytes are not valid UTF-8 (an overlong form, a surrogate,
 * a code point past U+10FFFF, a character that is cut off). */
static inline int32_t bpe_character(const uint8_t *p, const uint8_t *end, int *length) {
    *length = 1;
    int more = p[0] >= 0xF0 ? 3 : p[0] >= 0xE0 ? 2 : 1;
    if (p[0] < 0xC2 || p[0] > 0xF4 || end - p <= more) return -1;
    int32_t code = p[0] & (0x3F >> more);
    for (int i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) return -1;
        code = code << 6 | (p[i] & 0x3F);
    }
    static const int32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    if (code < smallest[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return -1;
    *length = more + 1;
    return code;
}

/* Returns the class of the character at p < end, and sets its length in bytes. */
static inline int bpe_class(const uint8_t *p, const uint8_t *end, const uint8_t *classes,
                            int *length) {
    if (p[0] < 0x80) {
        *length = 1;
        return classes[p[0]];
    }
    int32_t code = bpe_character(p, end, length);
    return code < 0 ? BPE_OTHER : classes[code];
}

/* Returns the end of the characters of one class that begin at p: p itself when there is none. */
static inline const uint8_t *bpe_run_end(const uint8_t *p, const uint8_t *end,
                                         const uint8_t *classes, int kind) {
    int length;
    while (p < end && bpe_class(p, end, classes, &length) == kind) p += length;
    return p;
}

/* Returns the end of the piece that begins at p < end. A piece has at least one character. */
static inline const uint8_t *bpe_piece_end(const uint8_t *p, const uint8_t *end,
                                           const uint8_t *classes) {
    if (p[0] == '\'' && end - p > 1) {
        if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd') return p + 2;
        if (end - p > 2 && p[1] == 'l' && p[2] == 'l') return p + 3;
        if (end - p > 2 && (p[1] == 'v' || p[1] == 'r') && p[2] == 'e') return p + 3;
    }
    int length, kind = bpe_class(p, end, classes, &length);
    const uint8_t *q = p + length;
    if (kind == BPE_SPACE) {
        const uint8_t *last = p; /* the last space of the run so far */
        for (; q < end && (kind = bpe_class(q, end, classes, &length)) == BPE_SPACE; q += length)
            last = q;
        if (q == end) return end;
        if (last > p) return last;
        if (p[0] != ' ') return q;
    }
    return bpe_run_end(q, end, classes, kind);
}

/* Mixes the upper bits into the lower ones, which choose a slot. */
static inline uint64_t bpe_mix(uint64_t x) {
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 32;
}

/* Returns the key of the n bytes at p: the bytes themselves when n <= 8, else their hash. All bytes
 * before `end` may be read. */
static inline uint64_t bpe_key(const uint8_t *p, int64_t n, const uint8_t *end) {
    uint64_t word = 0, hash = 0;
    if (n <= 8) {
        if (end - p < 8) {
            memcpy(&word, p, (size_t)n);
            return word;
        }
        static const uint8_t ones[16] = {255, 255, 255, 255, 255, 255, 255, 255};
        uint64_t mask;
        memcpy(&word, p, 8);
        memcpy(&mask, ones + 8 - n, 8);
        return word & mask;
    }
    for (; n > 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        hash = bpe_mix(hash ^ word);
    }
    memcpy(&word, p + n - 8, 8); /* the last eight bytes; some are hashed twice */
    return bpe_mix(hash ^ word);
}

#endif
