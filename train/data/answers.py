"""Rows of prompts and answers: which tokens are trained, padded to a shape or packed into rows.

A row is (tokens [n], trained [n]): ids, and whether each is a target. A batch keeps tokens as they
are, unshifted: `weights[b, t]` is 1 where `tokens[b, t]` is predicted from what stands before it, so
that the first token of a row never is.
"""

import numpy as np
import xxhash

from train.data import packing


def pad(rows, time: int, fill: int, first: bool = False) -> dict[str, np.ndarray]:
    """tokens, mask int32 and weights float32 [n,T] of rows padded on the right to T = `time`.

    `first` leaves the first token's weight as it is, for callers that shift by themselves.
    """
    made = {name: np.zeros((len(rows), time), np.int32) for name in ("tokens", "mask")}
    made["tokens"][:] = fill
    made["weights"] = np.zeros((len(rows), time), np.float32)
    for number, (tokens, trained) in enumerate(rows):
        n = len(tokens)
        made["tokens"][number, :n], made["mask"][number, :n] = tokens, 1
        made["weights"][number, :n] = trained
    if not first:
        made["weights"][:, 0] = 0
    return made


def pack(groups, time: int, fill: int) -> dict[str, np.ndarray]:
    """tokens, segments, positions int32 and weights float32 [n,T]: each group of rows in one row.

    Segments count from 1 (0 is padding), positions restart, and the first token of each is no
    target, so that nothing crosses.
    """
    shape = (len(groups), time)
    made = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    made["tokens"][:] = fill
    made["weights"] = np.zeros(shape, np.float32)
    for number, group in enumerate(groups):
        at = 0
        for segment, (tokens, trained) in enumerate(group, 1):
            here = slice(at, at + len(tokens))
            made["tokens"][number, here], made["segments"][number, here] = tokens, segment
            made["positions"][number, here] = np.arange(len(tokens))
            made["weights"][number, here] = trained
            made["weights"][number, at] = 0
            at += len(tokens)
    return made


def cut(rows, length: int, truncate: bool, what: str = "rows") -> tuple[list, int, int]:
    """(rows of at most `length` tokens, how many were cut, how many were left out).

    A row that is too long is an error unless `truncate`; what has no trained token left is left
    out, since a row without a target teaches nothing.
    """
    long = sum(len(tokens) > length for tokens, _ in rows)
    if long and not truncate:
        most = max(len(tokens) for tokens, _ in rows)
        raise ValueError(
            f"{long} of {len(rows)} {what} are longer than config.length={length} (the longest has "
            f"{most} tokens)\nuse a longer length, or --config.data.truncate=true to cut them"
        )
    kept = [(tokens[:length], trained[:length]) for tokens, trained in rows]
    kept = [row for row in kept if np.any(row[1][1:])]
    return kept, long, len(rows) - len(kept)


class Stream:
    """Batches by step, a pure function of (seed, step): each epoch in an order of its own.

    make(numbers): the batch of some of `count` items; `size` of them are a global batch.
    """

    def __init__(self, make, count, config, process=0, processes=1, fingerprint=None, salt=7):
        self.make, self.count, self.seed, self.size = make, count, config.seed, config.batch
        if self.size % processes:
            raise ValueError(f"batch {self.size} does not divide by {processes} processes")
        if not count:
            raise ValueError("the data has no row to train on")
        self.process, self.processes, self.salt = process, processes, salt
        self.fingerprint = fingerprint or {}

    def numbers(self, step: int) -> list:
        """The items of the global batch of a step."""
        samples = step * self.size + np.arange(self.size)
        found = np.empty(self.size, np.int64)
        for epoch in np.unique(samples // self.count).tolist():
            at = samples // self.count == epoch
            key = packing.mix(self.seed, self.salt, epoch)
            found[at] = packing.permute(samples[at] % self.count, self.count, key)
        return found.tolist()

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step."""
        share = self.size // self.processes
        return self.make(self.numbers(step)[self.process * share : (self.process + 1) * share])


def digest(rows) -> str:
    """A hash of arrays in nested lists, for a run's fingerprint."""
    state = xxhash.xxh3_128()

    def add(item):
        if isinstance(item, (list, tuple)):
            state.update(f"{len(item)}(".encode())
            for part in item:
                add(part)
        else:
            array = np.ascontiguousarray(item)
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(array.tobytes())

    add(rows)
    return state.hexdigest()
