/* bpe_split.c: splits text into pieces, the part of byte-level BPE that comes before any merging.
 *
 * GPT-2's rule is a pattern, of which the first alternative that matches is taken at each place:
 *
 *     's|'t|'re|'ve|'m|'ll|'d | ?letters+ | ?numbers+ | ?others+ | spaces+(?!nonspace) | spaces+
 *
 * It needs no pattern engine. A piece is a contraction, or a run of characters of one class with
 * at most one ' ' before it, or a run of spaces. When text follows a run of spaces, the last space
 * is not part of that piece: a ' ' begins the next piece, and any other space is a piece of its
 * own. Every character is looked at once, or twice at the end of a run of spaces.
 */
#include "bpe.h"

int bpe_split(int64_t *ends, int64_t *count, const uint8_t *text, const uint8_t *classes,
              int64_t n) {
    const uint8_t *p = text, *end = text + n;
    int64_t pieces = 0;
    while (p < end) {
        p = bpe_piece_end(p, end, classes);
        ends[pieces++] = p - text;
    }
    *count = pieces;
    return PYGPT_OK;
}

/* Two kinds of place are boundaries of pieces in any text:
 *   - between a non-space and a space, because no piece holds the two in this order;
 *   - between a letter or number and a non-space of another class, because the run on the left is
 *     over, and the piece on the right does not depend on it.
 * A place between ' and a letter is uncertain, because of contractions. So is a place inside a run
 * of spaces, where the next character decides. */
int bpe_last_boundary(int64_t *boundary, const uint8_t *text, const uint8_t *classes, int64_t n) {
    const uint8_t *end = text + n, *right = end; /* the character on the right begins here */
    int right_class = -1;                        /* -1: there is no such character yet */
    *boundary = 0;
    /* Leave out a last character that is cut off: its class is not known yet. */
    for (int back = 1; back < 4 && back <= n; back++) {
        uint8_t lead = end[-back];
        if (lead < 0x80) break;
        if (lead < 0xC0) continue;
        if (back < (lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2)) right = end - back;
        break;
    }
    while (right > text) {
        /* Go back by one character, over at most three continuation bytes that belong to it. */
        const uint8_t *left = right - 1;
        while (left > text && right - left < 4 && (*left & 0xC0) == 0x80) left--;
        int length, left_class = bpe_class(left, right, classes, &length);
        if (left + length != right) {
            left = right - 1; /* a byte that belongs to no character */
            left_class = BPE_OTHER;
        }
        int certain =
            left_class == BPE_LETTER || left_class == BPE_NUMBER || right_class == BPE_SPACE;
        if (right_class >= 0 && left_class != right_class && certain) {
            *boundary = right - text;
            return PYGPT_OK;
        }
        right = left;
        right_class = left_class;
    }
    return PYGPT_OK;
}
