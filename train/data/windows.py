"""Rows of a fixed length out of a corpus, by number: the two ways of packing; and fixed batches."""

import numpy as np

from train.data import packing


class Contiguous:
    """Rows cut from the documents joined end to end, as a ring.

    Attributes: ``tokens`` N in the ring; ``count`` = ceil(N / length) rows an epoch: all tokens are
    targets, fewer than a row of them twice. The first row begins at a token that the key chooses.
    """

    def __init__(self, corpus, chosen, length, tokenizer):
        self.corpus, self.length = corpus, length
        starts, ends = corpus.starts[chosen], corpus.ends[chosen]
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        self.begins = starts[np.concatenate([[0], breaks]).astype(np.int64)]
        stops = ends[np.concatenate([breaks - 1, [len(ends) - 1]]).astype(np.int64)]
        self.places = np.concatenate([[0], np.cumsum(stops - self.begins)])
        self.tokens = int(self.places[-1])
        if self.tokens < length + 1:
            raise ValueError(
                f"{corpus.source} has {self.tokens:,} tokens to train on, fewer than one row of "
                f"{length} and its last target"
            )
        self.count = -(-self.tokens // length)

    def read(self, start):
        """Returns the length + 1 tokens of the ring from place ``start`` on."""
        left, parts = self.length + 1, []
        while left:
            start %= self.tokens
            span = int(np.searchsorted(self.places, start, side="right")) - 1
            take = min(left, int(self.places[span + 1]) - start)
            at = int(self.begins[span]) + start - int(self.places[span])
            parts.append(self.corpus.read(at, at + take))
            start, left = start + take, left - take
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def rows(self, numbers, key) -> dict[str, np.ndarray]:
        """Returns tokens, targets int32 and weights float32 [n,T] of the rows of one epoch."""
        offset = packing.mix(key, 3) % self.tokens
        both = np.stack([self.read(offset + int(n) * self.length) for n in numbers])
        weights = np.ones((len(numbers), self.length), np.float32)
        return {"tokens": both[:, :-1], "targets": both[:, 1:], "weights": weights}


class Documents:
    """Rows filled with whole documents, or pieces of long ones, by best fit.

    A document is [bos] + tokens + [eos], each where the tokenizer has one; n + 1 tokens are n
    inputs and n targets. Attributes: ``count`` rows; ``report`` {documents, split, pieces, rows,
    empty, fill}: how many documents were split and how full the rows are.
    """

    def __init__(self, corpus, chosen, length, tokenizer):
        self.corpus, self.length = corpus, length
        self.begin = tokenizer.bos
        self.filler = max(tokenizer.pad, tokenizer.eos, 0) if tokenizer.pad < 0 else tokenizer.pad
        self.starts, stops = corpus.starts[chosen], corpus.ends[chosen]
        inputs = stops - self.starts - (0 if self.begin >= 0 else 1)
        inputs = np.maximum(inputs, 0)
        self.document, self.start, self.size = packing.split(inputs, length)
        if not len(self.size):
            raise ValueError(f"{corpus.source} has no document of two tokens to train on")
        rows = packing.best_fit(self.size, length)
        self.count = len(rows)
        self.pieces = np.asarray([piece for row in rows for piece in row], np.int64)
        self.places = np.cumsum([0] + [len(row) for row in rows])
        self.report = {
            "documents": len(chosen),
            "split": int(np.sum(inputs > length)),
            "pieces": len(self.size),
            "rows": self.count,
            "empty": int(np.sum(inputs == 0)),
            "fill": float(self.size.sum() / (self.count * length)),
        }

    def read(self, piece):
        """Returns the inputs and the last target of one piece: int32 [size + 1]."""
        base = int(self.starts[self.document[piece]])
        start, size = int(self.start[piece]), int(self.size[piece])
        if self.begin < 0:
            return self.corpus.read(base + start, base + start + size + 1)
        tokens = self.corpus.read(base + max(start - 1, 0), base + start + size)
        if start == 0:
            tokens = np.concatenate([np.asarray([self.begin], np.int32), tokens])
        return tokens

    def rows(self, numbers, key) -> dict[str, np.ndarray]:
        """Returns tokens, targets, segments, positions int32 and weights float32, all [n,T]."""
        shape = (len(numbers), self.length)
        made = {name: np.zeros(shape, np.int32) for name in ("segments", "positions")}
        for name in ("tokens", "targets"):
            made[name] = np.full(shape, self.filler, np.int32)
        made["weights"] = np.zeros(shape, np.float32)
        for row, number in enumerate(numbers.tolist()):
            at = 0
            pieces = self.pieces[self.places[number] : self.places[number + 1]]
            for segment, piece in enumerate(pieces.tolist(), 1):
                both = self.read(piece)
                inside = slice(at, at + len(both) - 1)
                made["tokens"][row, inside] = both[:-1]
                made["targets"][row, inside] = both[1:]
                made["segments"][row, inside] = segment
                made["positions"][row, inside] = np.arange(len(both) - 1)
                made["weights"][row, inside] = 1
                at = inside.stop
        return made


def fixed(windows, keys, places, size: int):
    """Yields the batches of an evaluation: the rows at ``places``, pairs of (source, number).

    windows, keys: of every source. Each batch has what the windows give, [size,...], and `rows`
    float32 [size]: 0 for one that only fills the last batch, whose weights are 0, too.
    """
    for start in range(0, len(places), size):
        group = places[start : start + size]
        rows = [windows[part].rows(np.asarray([n]), keys[part]) for part, n in group]
        whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        whole["rows"] = np.ones(len(rows), np.float32)
        whole = {name: _filled(x, size) for name, x in whole.items()}
        whole["weights"] *= whole["rows"][:, None]
        yield whole


def _filled(x, count: int) -> np.ndarray:
    """[n,...] as [count,...]: the first row again, or zeros for a vector of floats."""
    if len(x) == count:
        return x
    filler = np.zeros_like(x[:1]) if x.dtype == np.float32 else x[:1]
    return np.concatenate([x, np.repeat(filler, count - len(x), 0)])
