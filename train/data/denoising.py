"""Corruption for encoder-decoders: T5's span corruption and BART's five kinds of noise.

The other room of `train.data.corruption`. Pure functions of tokens and a numpy generator; a source
that was corrupted and its target together give the original back, which `restore` does for spans.
Rows of fewer than two tokens are left as they are.
"""

import dataclasses
import math

import numpy as np

KINDS = ("spans", "infill", "mask", "delete", "permute", "rotate")


@dataclasses.dataclass(frozen=True)
class Noise:
    """How a row is corrupted.

    kind: the steps, joined by "+", in order: "spans" (T5, alone), or of BART "permute", "infill",
    "mask", "delete" and "rotate". rate: share of the tokens in spans, masked or deleted. span: mean
    length of a span. Raises ValueError naming the field.
    """

    kind: str = "spans"
    rate: float = 0.15
    span: float = 3.0

    def __post_init__(self):
        if not isinstance(self.kind, str):
            raise ValueError(f"noise.kind is {self.kind!r}; expected {', '.join(KINDS)}")
        for name in ("rate", "span"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"noise.{name} is {value!r}; expected a number")
        unknown = [step for step in self.steps if step not in KINDS]
        if unknown:
            raise ValueError(f"noise.kind has {unknown[0]!r}; expected {', '.join(KINDS)}")
        if "spans" in self.steps and len(self.steps) > 1:
            raise ValueError(f"noise.kind={self.kind!r}: spans go with no other step")
        if not 0 < self.rate < 1:
            raise ValueError(f"noise.rate is {self.rate}; expected 0 < rate < 1")
        if not 1 <= self.span < math.inf:
            raise ValueError(f"noise.span is {self.span}; expected a number of at least 1")

    @property
    def steps(self) -> tuple:
        return tuple(self.kind.split("+"))


def span_counts(length: int, rate: float, mean: float) -> tuple[int, int]:
    """(noise tokens, spans) of a row of `length` tokens, as T5's code rounds them."""
    noise = min(max(round(length * rate), 1), max(length - 1, 0))
    return noise, min(max(round(noise / mean), 1), noise, length - noise)


def span_sizes(length: int, rate: float, mean: float) -> tuple[int, int]:
    """(source, target) lengths of a corrupted row, with a sentinel for each span and EOS in both."""
    noise, spans = span_counts(length, rate, mean)
    return length - noise + spans + 1, noise + spans + 1


def raw_length(source: int, rate: float = 0.15, mean: float = 3.0) -> int:
    """The most tokens that, corrupted, fit a source of so many: 512 at 15 % and 3 gives 568."""
    if source < 1:
        raise ValueError(f"a source of {source} tokens has no room for its end")
    length = 0
    while span_sizes(length + 1, rate, mean)[0] <= source:
        length += 1
    return length


def partition(total: int, parts: int, rng) -> np.ndarray:
    """A random way to cut `total` into `parts` lengths of at least 1, all ways equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def span_mask(length: int, rng, rate: float = 0.15, mean: float = 3.0) -> np.ndarray:
    """Which tokens are noise, bool [length]: gaps and spans in turn, a gap first, lengths at random."""
    noise, spans = span_counts(length, rate, mean)
    if not spans:
        return np.zeros(length, bool)
    pieces = np.stack([partition(length - noise, spans, rng), partition(noise, spans, rng)], 1)
    return np.repeat(np.tile([False, True], spans), pieces.reshape(-1))


def sentinels(tokens, noise, first: int) -> np.ndarray:
    """The tokens with each run of noise replaced by one sentinel: first, first - 1, first - 2, ..."""
    begins = noise & ~np.concatenate([[False], noise[:-1]])
    out = np.where(begins, first + 1 - np.cumsum(begins), tokens)
    return out[begins | ~noise].astype(np.int32)


def span_corrupt(
    tokens, rng, first: int, eos: int, rate: float = 0.15, mean: float = 3.0, most: int = 0
) -> tuple:
    """(source, target) of T5's objective (Raffel et al. 2020, section 3.1.4), int32.

    The source has a sentinel for each span, the target the spans, each after its sentinel; both end
    in EOS. `first` is the id of the first sentinel, the others lie below it; ValueError where more
    than `most` (0: than there are ids) would be needed.
    """
    tokens, end = np.asarray(tokens, np.int32), np.int32([eos])
    spans = span_counts(len(tokens), rate, mean)[1]
    if spans > (most or first + 1):
        raise ValueError(
            f"{len(tokens)} tokens need {spans} sentinels; there are {most or first + 1}"
        )
    if not spans:
        return np.concatenate([tokens, end]), end
    noise = span_mask(len(tokens), rng, rate, mean)
    source, target = (sentinels(tokens, part, first) for part in (noise, ~noise))
    return np.concatenate([source, end]), np.concatenate([target, end])


def restore(source, target, first: int, count: int) -> np.ndarray:
    """The original of a corrupted pair with `count` sentinels from `first` down, EOS at both ends."""
    source, target = source[:-1], target[:-1]
    marks = np.flatnonzero((target <= first) & (target > first - count))
    spans = {int(t[0]): t[1:] for t in np.split(target, marks[1:])} if len(marks) else {}
    parts = [spans.get(int(t), [t]) for t in source]
    return np.concatenate([source[:0], *parts]).astype(np.int32)


def infill_spans(length: int, rng, rate: float = 0.3, mean: float = 3.0) -> tuple:
    """(begins, lengths) int64 of BART's spans in a row of `length` tokens, in rising order.

    Lengths are Poisson(mean) until they cover round(rate * length) tokens, the last one cut to fit;
    those of 0 lie between tokens. All orders of spans and left tokens are equally likely.
    """
    left, lengths = round(rate * length), []
    while left > 0:
        lengths.append(min(int(rng.poisson(mean)), left))
        left -= lengths[-1]
    lengths = np.asarray(lengths, np.int64)
    items = np.concatenate([np.full(length - lengths.sum(), -1), np.arange(len(lengths))])
    items = rng.permutation(items)
    sizes = np.where(items < 0, 1, lengths[items] if len(lengths) else 1)
    begins = np.cumsum(sizes) - sizes
    return begins[items >= 0], sizes[items >= 0]


def infill(tokens, begins, lengths, mask: int) -> np.ndarray:
    """The tokens with each span replaced by one mask token (Lewis et al. 2019, section 2.2), int32."""
    parts, at = [], 0
    for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
        parts += [tokens[at:begin], [mask]]
        at = begin + length
    return np.concatenate([*parts, tokens[at:]]).astype(np.int32)


def permute(tokens, ends, rng) -> np.ndarray:
    """The sentences in random order; ends: bool [n], a sentence ends here (what is left is one)."""
    cuts = np.flatnonzero(ends) + 1
    parts = [part for part in np.split(np.asarray(tokens), cuts) if len(part)]
    order = rng.permutation(len(parts))
    return np.concatenate([np.int32([]), *(parts[i] for i in order)]).astype(np.int32)


def delete(tokens, rng, rate: float) -> np.ndarray:
    """The tokens without round(rate * n) random ones: the model must say where some are missing."""
    tokens = np.asarray(tokens, np.int32)
    gone = rng.choice(len(tokens), round(rate * len(tokens)), replace=False)
    return np.delete(tokens, gone)


def rotate(tokens, rng) -> np.ndarray:
    """The tokens from a random one on, then those before it: the model must find the start."""
    return np.roll(np.asarray(tokens, np.int32), -int(rng.integers(max(len(tokens), 1))))


def corrupt(tokens, rng, noise: Noise, mask: int = -1, stops=()) -> np.ndarray:
    """The source of a row under BART's noise, int32; `stops` are ids that end a sentence.

    Its target is the row itself. ValueError where the tokenizer lacks the mask token.
    """
    tokens = np.asarray(tokens, np.int32)
    if mask < 0 and {"infill", "mask"} & set(noise.steps):
        raise ValueError(f"noise.kind={noise.kind!r} needs a tokenizer with a mask token")
    for step in noise.steps:
        if len(tokens) < 2:
            break
        if step == "permute":
            tokens = permute(tokens, np.isin(tokens, stops), rng)
        elif step == "infill":
            tokens = infill(tokens, *infill_spans(len(tokens), rng, noise.rate, noise.span), mask)
        elif step == "mask":
            chosen = rng.choice(len(tokens), round(noise.rate * len(tokens)), replace=False)
            tokens = np.where(np.isin(np.arange(len(tokens)), chosen), np.int32(mask), tokens)
        elif step == "delete":
            tokens = delete(tokens, rng, noise.rate)
        else:
            tokens = rotate(tokens, rng)
    return tokens
