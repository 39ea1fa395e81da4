/* bpe_split.c: text to pieces, the part of byte-level BPE that comes before any merging.
 *
 * GPT-2's rule, a pattern whose first matching alternative is taken at each place:
 *
 *     's|'t|'re|'ve|'m|'ll|'d | ?letters+ | ?numbers+ | ?others+ | spaces+(?!nonspace) | spaces+
 *
 * It needs no pattern engine. A piece is a contraction, or a run of one class with at most one ' '
 * before it, or a run of spaces; and a run of spaces that something follows leaves its last
 * character to the next piece, which takes it in if it is ' ' and leaves it a piece of its own
 * otherwise. Every character is looked at once, twice at the end of a run of spaces.
 */
#include "bpe.h"

int bpe_split(int64_t *ends, int64_t *count, const uint8_t *text, const uint8_t *classes,
              int64_t n) {
    const uint8_t *p = text, *end = text + n;
    int64_t pieces = 0;
    while (p < end) {
        p = bpe_piece(p, end, classes);
        ends[pieces++] = p - text;
    }
    *count = pieces;
    return PYGPT_OK;
}

/* Two kinds of place are certain in any text. Before a space after a non-space: no piece holds the
 * two in this order. Between a letter or number and a non-space of another class: the run on the
 * left is over, and the piece on the right does not depend on it. Places between ' and letters are
 * not certain, because of contractions, nor those inside a run of spaces, where the next character
 * decides. */
int bpe_last_boundary(int64_t *boundary, const uint8_t *text, const uint8_t *classes, int64_t n) {
    const uint8_t *end = text + n, *right = end; /* the character on the right begins here */
    int right_class = -1;                        /* there is none yet */
    *boundary = 0;
    /* A character whose end is still to come has no class yet: leave it out. */
    for (int back = 1; back < 4 && back <= n; back++) {
        uint8_t lead = end[-back];
        if (lead < 0x80) break;
        if (lead < 0xC0) continue;
        if (back < (lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2)) right = end - back;
        break;
    }
    while (right > text) {
        /* One character back: over at most three continuation bytes, if they make a character. */
        const uint8_t *left = right - 1;
        while (left > text && right - left < 4 && (*left & 0xC0) == 0x80) left--;
        int length, left_class = bpe_class(left, right, classes, &length);
        if (left + length != right) {
            left = right - 1; /* a stray byte */
            left_class = BPE_OTHER;
        }
        int over = left_class == BPE_LETTER || left_class == BPE_NUMBER || right_class == BPE_SPACE;
        if (right_class >= 0 && left_class != right_class && over) {
            *boundary = right - text;
            return PYGPT_OK;
        }
        right = left;
        right_class = left_class;
    }
    return PYGPT_OK;
}
