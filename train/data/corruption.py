"""Masked-token corruption: which tokens are hidden, and what stands in their place.

Devlin et al. 2019, section 3.1: 15 % of the tokens are predicted; of these 80 % become the mask
token, 10 % a random one, and 10 % stay. Units are tokens, whole words, or n-grams of whole words
(Lan et al. 2020, eq. 3: p(n) = (1/n) / sum_k 1/k for n up to 3); every token of a unit is predicted,
and each draws its 80/10/10 by itself.

Everything is a function of its arguments and of a numpy generator that the caller makes from (seed,
row): static masking hands in the same generator for a row in every epoch, dynamic masking (Liu et
al. 2019, section 4.1) another one. What encoder-decoders are trained on has a room of its own,
`train.data.denoising`, and is offered here as well: T5's spans, BART's infilling, permutation, deletion
and rotation (`denoising.corrupt` makes the steps that a `Noise` names).
"""

import dataclasses

import numpy as np

from train.data.denoising import (
    Noise,
    delete,
    infill,
    infill_spans,
    permute,
    restore,
    rotate,
    span_corrupt,
)

__all__ = [
    "Masking", "Noise", "choose", "corrupt", "delete", "infill", "infill_spans", "permute", "replace",
    "restore", "rotate", "span_corrupt",
]  # fmt: skip
UNITS = ("token", "word", "ngram")
TRIES = 32  # places tried for an n-gram that overlaps another before its budget is left


@dataclasses.dataclass(frozen=True)
class Masking:
    """How a row is masked.

    rate: share of the ordinary tokens that are predicted. mask, random: what these become; the rest
    stays. unit: one of UNITS. longest: n of the longest n-gram. most: at most so many predictions in
    a row (0: no limit). Raises ValueError naming the field.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    unit: str = "token"
    longest: int = 3
    most: int = 0

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"masking.rate is {self.rate}; expected 0 < rate <= 1")
        both = self.mask + self.random
        if not (self.mask >= 0 and self.random >= 0 and both <= 1 + 1e-9):
            raise ValueError(
                f"masking.mask={self.mask} and masking.random={self.random}; expected shares that "
                "add up to at most 1"
            )
        if self.unit not in UNITS:
            raise ValueError(f"masking.unit is {self.unit!r}; expected one of {', '.join(UNITS)}")
        if not (self.longest >= 1 and self.most >= 0):
            raise ValueError(f"masking.longest={self.longest}, most={self.most}; expected >= 1, 0")

    def room(self, length: int) -> int:
        """The most predictions that a row of `length` tokens can have."""
        room = max(1, int(np.ceil(self.rate * length)))
        return min(room, self.most) if self.most else room


def budget(count: int, rng, masking: Masking) -> int:
    """How many of `count` ordinary tokens are predicted: rate * count, rounded at random.

    At least one, where there is one, and at most `masking.most`.
    """
    wanted = int(np.floor(masking.rate * count + rng.random()))
    wanted = min(max(wanted, 1), masking.room(count)) if count else 0
    return wanted


def ngram_lengths(count: int, longest: int, rng) -> np.ndarray:
    """Draws n-gram lengths, int64 [count], with p(n) proportional to 1/n for n = 1..longest."""
    sizes = np.arange(1, longest + 1)
    weights = 1.0 / sizes
    return rng.choice(sizes, size=count, p=weights / weights.sum())


def words(starts, eligible) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end) int64 [words] of the whole words among tokens: starts, eligible bool [n].

    A word with a token that is not eligible is left out.
    """
    begins = np.flatnonzero(starts)
    ends = np.append(begins[1:], len(starts))
    bad = np.concatenate([[0], np.cumsum(~np.asarray(eligible, bool))])
    whole = bad[ends] == bad[begins]
    return begins[whole], ends[whole]


def choose(starts, eligible, rng, masking: Masking, room: int = 0) -> np.ndarray:
    """The slots to predict, int64 in rising order.

    starts: bool [n], a word begins here (not read for unit "token"); eligible: bool [n], False for
    special tokens and padding, which are never chosen. Units are taken in random order as long as
    they fit what is left of the budget; n-grams do not overlap, and the last one is shortened to
    fit. Where no word fits the budget the shortest one is taken whole, if it has at most `room`
    tokens (0: any number), so that hardly a row is without a prediction.
    """
    eligible = np.asarray(eligible, bool)
    places = np.flatnonzero(eligible)
    left = budget(len(places), rng, masking)
    if not left:
        return places[:0]
    if masking.unit == "token":
        return np.sort(rng.choice(places, left, replace=False))
    begins, ends = words(starts, eligible)
    free = np.ones(len(begins), bool)
    chosen = []
    if masking.unit == "ngram":
        chosen, left = _ngrams(begins, ends, free, rng, left, masking.longest)
    chosen += _take(begins, ends, rng.permutation(np.flatnonzero(free)), left)
    if not chosen and len(begins):
        word = int(np.argmin(ends - begins))
        if not room or ends[word] - begins[word] <= room:
            chosen = [np.arange(begins[word], ends[word])]
    return np.sort(np.concatenate(chosen)) if chosen else places[:0]


def _take(begins, ends, order, left) -> list:
    """The slots of whole words in an order, each where it fits the budget that is left."""
    chosen = []
    for word in order.tolist():
        if not left:
            break
        size = int(ends[word] - begins[word])
        if size <= left:
            chosen.append(np.arange(begins[word], ends[word]))
            left -= size
    return chosen


def _ngrams(begins, ends, free, rng, left, longest) -> tuple[list, int]:
    """(slots of n-grams of words, the budget left); `free` is updated.

    The length is drawn first, then a free place for it, so that the lengths keep their law.
    """
    chosen, joined = [], begins[1:] == ends[:-1]
    while left > 0 and free.any():
        n = min(int(ngram_lengths(1, longest, rng)[0]), len(begins))
        at = _place(free, joined, n, rng)
        if at < 0:
            break
        while n and ends[at + n - 1] - begins[at] > left:
            n -= 1
        if not n:
            break
        free[at : at + n] = False
        chosen.append(np.arange(begins[at], ends[at + n - 1]))
        left -= len(chosen[-1])
    return chosen, left


def _place(free, joined, n, rng) -> int:
    """The first of n free words in a row, nothing between them, at random; -1: none was found."""
    for at in rng.integers(0, len(free) - n + 1, TRIES).tolist():
        if free[at : at + n].all() and joined[at : at + n - 1].all():
            return at
    return -1


def replace(tokens, slots, rng, masking: Masking, mask: int, ordinary) -> np.ndarray:
    """The tokens, int32 [n], with those at `slots` masked, made random or kept.

    mask: id of the mask token; ordinary: ids that a random token is drawn from (no special ones).
    """
    out = np.array(tokens, np.int32)
    draw = rng.random(len(slots))
    hidden = draw < masking.mask
    out[slots[hidden]] = mask
    other = slots[~hidden & (draw < masking.mask + masking.random)]
    out[other] = rng.choice(ordinary, len(other))
    return out


def corrupt(tokens, starts, eligible, rng, masking: Masking, mask: int, ordinary, room: int):
    """One row for the masked-token loss.

    Returns (tokens int32 [n] with replacements, slots int32 [room], targets int32 [room], weights
    float32 [room]): the first k entries are the k predictions, the rest has weight 0, slot 0.
    """
    slots = choose(starts, eligible, rng, masking, room)
    out = replace(tokens, slots, rng, masking, mask, ordinary)
    where, targets = np.zeros(room, np.int32), np.zeros(room, np.int32)
    weights = np.zeros(room, np.float32)
    where[: len(slots)], targets[: len(slots)] = slots, np.asarray(tokens)[slots]
    weights[: len(slots)] = 1
    return out, where, targets, weights
