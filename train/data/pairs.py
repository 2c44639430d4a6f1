"""Pairs of texts for encoder-decoders: translations, summaries, text to text.

`config.data` names the table (`train`, see `train.data.tables`; also `kjv_web`, the verse pairs, and
`toy:copy`, `toy:reverse`, `toy:sort`) and its columns `text` and `target`. A part is whole groups of
rows, by the column `group`: `heldout` names those that are evaluated, `test` those that are scored
once at the end, all others are trained on. `prefix` is put before each source (Raffel et al. 2020).
Sides are at most `config.length` tokens long, targets `target_length` where that is given.
"""

import dataclasses

import numpy as np
import xxhash

from train.core.errors import nearest
from train.data import packing
from train.data.opening import get
from train.data.tables import read

PARTS = ("train", "heldout", "test")


@dataclasses.dataclass
class Pairs:
    """Token rows of both sides, EOS included, and their texts; targets have at most `wide` tokens,
    sources `long` (0: as many as a batch is long)."""

    sources: list
    targets: list
    texts: list
    references: list
    pad: int
    start: int
    wide: int
    long: int = 0

    def __len__(self):
        return len(self.sources)

    def sizes(self) -> np.ndarray:
        """The longer side of each pair, int64 [n]."""
        sides = zip(self.sources, self.targets, strict=True)
        return np.asarray([max(map(len, pair)) for pair in sides], np.int64)

    def batch(self, numbers, length: int) -> dict:
        """tokens and mask int32 [n, long]; decoder_tokens and targets int32, weights float32 [n, wide]:
        `length`, but no more than the side's limit."""
        return frame(
            [self.sources[n] for n in numbers], [self.targets[n] for n in numbers],
            (min(length, self.long or length), min(length, self.wide)), self.pad, self.start,
        )  # fmt: skip

    def batches(self, size: int, buckets, process=0, processes=1) -> list:
        """All pairs in order, each batch as long as it must be; `rows` float32 [n]: 0 only fills."""
        made, share, sizes = [], size // processes, self.sizes()
        for first in range(0, len(self), size):
            numbers = np.arange(first, first + size)
            real = numbers < len(self)
            numbers = np.where(real, numbers, first)
            length = buckets[np.searchsorted(buckets, sizes[numbers].max())]
            own = slice(process * share, (process + 1) * share)
            batch = self.batch(numbers[own], int(length))
            batch["rows"] = real[own].astype(np.float32)
            batch["weights"] *= batch["rows"][:, None]
            made.append(batch)
        return made


def frame(sources, targets, lengths, pad: int, start: int) -> dict:
    """A batch of token rows, padded on the right to `lengths` (source, target).

    The decoder reads each target moved by one behind `start`; `mask` is 1 on real source tokens.
    """
    count, (long, wide) = len(sources), lengths
    made = {name: np.full((count, wide), pad, np.int32) for name in ("decoder_tokens", "targets")}
    made |= {
        "tokens": np.full((count, long), pad, np.int32),
        "mask": np.zeros((count, long), np.int32),
    }
    made["weights"] = np.zeros((count, wide), np.float32)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        made["tokens"][row, : len(source)] = source
        made["mask"][row, : len(source)] = 1
        made["targets"][row, : len(target)] = target
        made["decoder_tokens"][row, 1 : len(target)] = target[:-1]
        made["weights"][row, : len(target)] = 1
    made["decoder_tokens"][:, 0] = start
    return made


def open_texts(config) -> dict:
    """{part: (sources, targets)} as texts; ValueError names a column or group that there is not."""
    table = read(get(config, "data.train", ""))
    prefix = get(config, "data.prefix", "")
    sources = [prefix + text for text in table.column(get(config, "data.text", "text"))]
    targets = table.column(get(config, "data.target", "target"))
    column = get(config, "data.group", "")
    groups = table.column(column, (str, int)) if column else [""] * len(table)
    places = {"train": set(map(str, groups))}
    for part in PARTS[1:]:
        wanted = tuple(map(str, get(config, f"data.{part}", ())))
        for name in wanted:
            if name not in places["train"]:
                known = sorted(places["train"])
                raise ValueError(f"config.data.{part} names {name!r}; {nearest(name, known)}")
        places[part] = set(wanted)
        places["train"] -= places[part]
    rows = {
        part: [n for n, group in enumerate(groups) if str(group) in places[part]] for part in PARTS
    }
    if not rows["train"]:
        raise ValueError("config.data leaves no pair to train on")
    take = lambda texts, part: [texts[n] for n in rows[part]]
    return {part: (take(sources, part), take(targets, part)) for part in PARTS if rows[part]}


def front(tokenizer) -> np.ndarray:
    """What a tokenizer's own rules put before a text that they end with eos, int32 [n]: BART's <s>."""
    ids = tokenizer.raw.encode("").ids
    return np.asarray(ids[:-1] if ids and ids[-1] == tokenizer.eos else [], np.int32)


def written(tokenizer):
    """`decode(ids [n]) -> str` of what a model wrote, without what is in front of every target."""
    first = front(tokenizer)
    return lambda ids: tokenizer.decode(ids[np.cumsum(~np.isin(ids, first)) > 0])


def encode(texts, tokenizer, lengths, pad: int, start: int, truncate: bool) -> tuple:
    """(Pairs, how many texts were cut) of texts of (sources, targets) and the sides' longest `lengths`.

    A text ends with eos; what the tokenizer's own rules put in front (BART's <s>) stands there too.
    ValueError counts those that do not fit, unless `truncate`.
    """
    first, end, sides, long = front(tokenizer), np.int32([tokenizer.eos]), [], 0
    around = len(first) + 1
    if min(lengths) < around:
        raise ValueError(
            f"config.length={lengths[0]}, of targets {lengths[1]}: a text has {around} tokens around it, "
            "its end and what the tokenizer puts in front"
        )
    for side, length in zip(texts, lengths, strict=True):
        rows = tokenizer.encode_batch(side, special=False)
        long += sum(len(ids) + around > length for ids in rows)
        sides.append([np.concatenate([first, ids[: length - around], end]) for ids in rows])
    if long and not truncate:
        other = "" if lengths[0] == lengths[1] else f" or config.data.target_length={lengths[1]}"
        raise ValueError(
            f"{long} texts do not fit config.length={lengths[0]}{other} with their end\n"
            "use a longer length, or --config.data.truncate=true to cut them"
        )
    made = Pairs(*sides, list(texts[0]), list(texts[1]), pad, start, lengths[1], lengths[0])
    return made, long


def buckets(length: int, least: int = 8) -> np.ndarray:
    """Lengths of batches from `least` up to `length`, multiples of 8, each about a third longer than
    the last. Every one is compiled for."""
    found = [min(max(-(-least // 8) * 8, 8), max(length, 8))]
    while found[-1] < length:
        found.append(-(-max(found[-1] + 8, found[-1] * 4 // 3) // 8) * 8)
    return np.asarray([min(size, length) for size in found], np.int64)


class Stream:
    """Batches of pairs of like length, a pure function of (seed, step).

    A batch of bucket b has the most rows, a multiple of `unit`, whose b tokens a side are at most
    `tokens` (0: always `rows`). Each epoch cuts every bucket anew in an order of its own (the last
    batch is filled from the bucket's first) and takes the batches in random order. bounds: the
    lengths that `buckets` gives; ValueError for a pair that is longer than the last.
    """

    def __init__(self, pairs: Pairs, seed, bounds, rows, tokens=0, unit=1, process=0, processes=1):
        self.pairs, self.seed = pairs, seed
        self.process, self.processes = process, processes
        place = np.searchsorted(bounds, sizes := pairs.sizes())
        if (place == len(bounds)).any():
            raise ValueError(
                f"a pair of {sizes.max()} tokens is longer than the longest batch, of {bounds[-1]}"
            )
        self.groups = [
            (int(bound), np.flatnonzero(place == i), _rows(int(bound), rows, tokens, unit))
            for i, bound in enumerate(bounds)
            if (place == i).any()
        ]
        counts = [-(-len(members) // size) for _, members, size in self.groups]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.count = int(self.starts[-1])
        state = xxhash.xxh3_128()
        for ids in (*pairs.sources, *pairs.targets):
            state.update(np.ascontiguousarray(ids))
        self.fingerprint = {"pairs": len(pairs), "xxh3": state.hexdigest()}
        if any(size != _rows(bound, rows, tokens, 1) for bound, _, size in self.groups):
            sizes = {str(bound): size for bound, _, size in self.groups}
            self.fingerprint["batch_rows"] = sizes  # what `unit`, the mesh's, has changed

    def batch(self, step: int) -> dict:
        """This process's rows of the global batch of a step."""
        epoch, place = divmod(step, self.count)
        chosen = int(packing.permute([place], self.count, packing.mix(self.seed, 7, epoch))[0])
        group = int(np.searchsorted(self.starts, chosen, side="right")) - 1
        length, members, size = self.groups[group]
        at = (chosen - self.starts[group]) * size + np.arange(size)
        key = packing.mix(self.seed, 8, epoch, group)
        numbers = members[packing.permute(at % len(members), len(members), key)]
        share = size // self.processes
        return self.pairs.batch(numbers[self.process * share : (self.process + 1) * share], length)


def _rows(bound, rows, tokens, unit) -> int:
    return max(tokens // bound // unit, 1) * unit if tokens else rows
