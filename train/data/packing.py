"""Packing: which pieces of which documents share a row, and where row number i is found.

Everything here is arithmetic on lengths, without text, and random access: a stream needs no state
beyond its step. Nothing is ever dropped: a document longer than a row is split, and what is left
over shares a row with others.
"""

from functools import lru_cache

import numpy as np

BLOCK = 8192
MASK = 0xFFFFFFFFFFFFFFFF


def split(lengths, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts documents into pieces of at most ``size``.

    Args: lengths [n] of the documents; size of a row.
    Returns: (document, start, length) of every piece, int64, in document order.
    """
    lengths = np.asarray(lengths, np.int64)
    counts = -(-lengths // size)
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    start = (np.arange(len(document), dtype=np.int64) - first[document]) * size
    return document, start, np.minimum(size, lengths[document] - start)


def best_fit(lengths, size: int) -> list[list[int]]:
    """Packs pieces into rows of ``size``: longest first, each into the fullest row that has room.

    Best-fit decreasing, as TRL's ``bfd`` strategy orders it: equal lengths keep their order, and
    of equally full rows the oldest is taken. Returns the pieces' indices by row.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size and (lengths.max() > size or lengths.min() < 1):
        raise ValueError(f"pieces of {lengths.min()}..{lengths.max()} do not fit rows of {size}")
    rows = []
    waiting = [[] for _ in range(size + 1)]
    taken = [0] * (size + 1)
    some = 0
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        fitting = some >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = waiting[room][taken[room]]
            taken[room] += 1
            if taken[room] == len(waiting[room]):
                waiting[room], taken[room] = [], 0
                some &= ~(1 << room)
            rows[row].append(piece)
        else:
            room, row = size, len(rows)
            rows.append([piece])
        left = room - length
        if left:
            waiting[left].append(row)
            some |= 1 << left
    return rows


def wrap(tokens, size: int) -> list:
    """Cuts joined tokens into rows of ``size``, the last one shorter: TRL's ``wrapped``."""
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def mix(*numbers) -> int:
    """Hashes integers into one of 64 bits (splitmix64's finaliser, folded)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = ((state ^ (int(number) & MASK)) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


def _scramble(x):
    """Hashes each number of an uint64 array, wrapping around on overflow."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index, count: int, key) -> np.ndarray:
    """Maps each of 0..count-1 to its place in a random order, without building the order.

    A Feistel network over the next even power of two, walked until the result is in range (Black
    and Rogaway 2002): a bijection for every key, O(1) memory. ``index`` [n] int, returns int64 [n].
    """
    half = max(1, (int(count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    keys = [np.uint64(mix(key, number)) for number in range(6)]
    result = np.array(index, np.uint64, ndmin=1)
    pending = np.ones(result.shape, bool)
    while pending.any():
        x = result[pending]
        left, right = x >> shift, x & low
        for salt in keys:
            left, right = right, left ^ (_scramble(right ^ salt) & low)
        result[pending] = (left << shift) | right
        pending = result >= np.uint64(count)
    return result.astype(np.int64).reshape(np.shape(index))


def shares(weights) -> np.ndarray:
    """Rounds weights to whole samples of a block of 8,192, at least one each: int64 [sources]."""
    weights = np.asarray(weights, np.float64)
    if weights.size == 0 or not np.all(np.isfinite(weights)) or weights.min() <= 0:
        raise ValueError(f"mixture weights must be positive numbers, not {weights.tolist()}")
    if weights.size > BLOCK // 2:
        raise ValueError(f"a mixture of {weights.size} sources (at most {BLOCK // 2})")
    exact = weights / weights.sum() * (BLOCK - len(weights))
    counts = np.floor(exact).astype(np.int64) + 1
    order = np.argsort(-(exact - np.floor(exact)), kind="stable")
    counts[order[: BLOCK - counts.sum()]] += 1
    return counts


@lru_cache(maxsize=8)
def _block(counts, key, block):
    """Returns, for each place in one block, its source and how many of it came before."""
    order = permute(np.arange(BLOCK), BLOCK, mix(key, block))
    source = np.repeat(np.arange(len(counts)), counts)[order]
    rank = np.empty(BLOCK, np.int64)
    for number in range(len(counts)):
        places = np.flatnonzero(source == number)
        rank[places] = np.arange(len(places)) + block * counts[number]
    return source, rank


def assign(samples, counts, key) -> tuple[np.ndarray, np.ndarray]:
    """Gives each global sample number its source, and its number among that source's samples.

    Each block of 8,192 samples holds exactly ``counts`` (from ``shares``) of every source in an
    order of its own, so both answers are pure functions of the sample number.
    """
    counts = tuple(int(count) for count in counts)
    samples = np.asarray(samples, np.int64)
    source, rank = np.empty_like(samples), np.empty_like(samples)
    for block in np.unique(samples // BLOCK).tolist():
        inside = samples // BLOCK == block
        sources, ranks = _block(counts, int(key), block)
        source[inside] = sources[samples[inside] % BLOCK]
        rank[inside] = ranks[samples[inside] % BLOCK]
    return source, rank
