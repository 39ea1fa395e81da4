"""Defines csrc/random.c as loops: random bits by position, and normal numbers made of them."""

from math import cos, log, pi, sin, sqrt

from pygpt.backend.reference.convert import float32
from pygpt.backend.reference.loops import OK


def splitmix64(x):
    wrap = 0xFFFFFFFFFFFFFFFF
    x = (x + 0x9E3779B97F4A7C15) & wrap
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & wrap
    x = (x ^ x >> 27) * 0x94D049BB133111EB & wrap
    return x ^ x >> 31


def random_key(seed, stream):
    return splitmix64(splitmix64(seed[0]) + stream)


def random_normal(out, std, seed, stream, n):
    # Box-Muller: if the x and y of a point in the plane are normal, its angle is uniform, and
    # exp(-radius^2 / 2) is uniform too. So two uniform numbers make two independent normal numbers.
    key = random_key(seed, stream)
    for i in range(n):
        bits = splitmix64(key + i // 2)
        radius = float32(std) * sqrt(-2.0 * log(((bits >> 32) + 1) / 2 ** 32))
        angle = 2.0 * pi * (bits & 0xFFFFFFFF) / 2 ** 32
        out[i] = radius * (sin(angle) if i % 2 else cos(angle))
    return OK
