"""From labelled examples to rows of tokens, and the stream of batches that a fine-tuning run reads.

A text stands between [CLS] and [SEP], a pair is [CLS] A [SEP] B [SEP] with token types 0 and 1.
Texts that are longer than a row are an error that counts them; `config.data.truncate` cuts them, a
pair's longer text first (Devlin et al. 2019), and the count is said. `config.data.cut` says where: "end",
or "middle", which keeps a quarter from the start (Sun et al. 2019, section 5.3.1: 128 and 382 of 510).
"""

import dataclasses
import functools

import numpy as np
import xxhash

from train.data import packing
from train.data.labelled import Examples
from train.data.sentences import Frame
from train.data.words import Words

STEP = 16  # batches are as long as a multiple of this


@dataclasses.dataclass
class Rows:
    """Rows of `length` slots; a row has k parts, texts that the model reads on their own.

    parts: per row k pairs (tokens, token types) of int32 [n]; targets: per row a number, a pair of
    slots, or (tokens) a list of (slot, label). cut: how many rows were cut to fit. trim: an evaluator's
    batches, too, are as long as their longest row asks for. extra: what an evaluator needs beside the batches.
    """

    task: str
    length: int
    pad: int
    parts: list
    targets: list
    cut: int = 0
    extra: dict = dataclasses.field(default_factory=dict)
    trim: bool = True

    def __len__(self):
        return len(self.parts)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """The tokens of each row's longest part, int64 [N]."""
        return np.asarray([max(len(tokens) for tokens, _ in parts) for parts in self.parts])

    def time(self, numbers) -> int:
        """The slots that some rows need, a multiple of STEP, at most `length`."""
        most = int(self.sizes[numbers].max())
        return min(self.length, -(-most // STEP) * STEP)

    def batch(self, numbers, time: int = 0) -> dict[str, np.ndarray]:
        """tokens, mask, token_types int32 [n,T], or [n,k,T] for k > 1 parts; targets, weights.

        T is `time`, or `length` if that is 0.

        targets int32 [n] (regress: float32; spans: [n,2]; tokens: [n,T]); weights float32, of the
        shape of the targets but [n] for spans.
        """
        chosen = [self.parts[n] for n in numbers]
        k = len(chosen[0])
        shape = (len(chosen), k, time or self.length)
        made = {name: np.zeros(shape, np.int32) for name in ("mask", "token_types")}
        made["tokens"] = np.full(shape, self.pad, np.int32)
        for row, parts in enumerate(chosen):
            for part, (tokens, types) in enumerate(parts):
                made["tokens"][row, part, : len(tokens)] = tokens
                made["token_types"][row, part, : len(tokens)] = types
                made["mask"][row, part, : len(tokens)] = 1
        if k == 1 and self.task not in ("choice", "embed"):
            made = {name: x[:, 0] for name, x in made.items()}
        targets = [self.targets[n] for n in numbers]
        weights = np.ones(len(targets), np.float32)
        if self.task == "tokens":
            made["targets"] = np.zeros(shape[::2], np.int32)
            weights = np.zeros(made["targets"].shape, np.float32)
            for row, pairs in enumerate(targets):
                for slot, label in pairs:
                    made["targets"][row, slot], weights[row, slot] = label, 1
        else:
            kind = np.float32 if self.task == "regress" else np.int32
            made["targets"] = np.asarray(targets, kind)
        return {**made, "weights": weights}

    def batches(self, size: int, process=0, processes=1, limit=0) -> list:
        """All rows in order, in batches of `size` over all processes; `rows` float32 [n] says which
        are not filling the last batch."""
        made, share = [], size // processes
        for start in range(0, min(len(self), limit * size if limit else len(self)), size):
            numbers = np.arange(start, start + size)
            real = numbers < len(self)
            own = slice(process * share, (process + 1) * share)
            numbers = np.where(real, numbers, 0)
            batch = self.batch(numbers[own], self.time(numbers) if self.trim else 0)
            batch["rows"] = real[own].astype(np.float32)
            made.append(batch)
        return made


class Stream:
    """Batches by step, a pure function of (seed, step): each epoch in an order of its own.

    pool: so many batches of an epoch's order are sorted by length together and cut anew, so that rows
    of like length share a batch, which is as long as its longest (0: as they come). Every epoch still
    reads each row once.
    """

    def __init__(self, rows: Rows, seed, batch, process=0, processes=1, fingerprint=None, pool=0):
        if batch % processes:
            raise ValueError(f"batch {batch} does not divide by {processes} processes")
        if pool < 0:
            raise ValueError(f"config.data.pool={pool}; expected a number of batches, or 0")
        self.rows, self.seed, self.size, self.pool = rows, seed, batch, pool
        self.process, self.processes = process, processes
        self.order = functools.lru_cache(maxsize=2)(self._order)
        state = xxhash.xxh3_128()
        for parts, target in zip(rows.parts, rows.targets, strict=True):
            for tokens, _ in parts:
                state.update(np.ascontiguousarray(tokens))
            state.update(repr(target).encode())
        self.fingerprint = {"rows": len(rows), "xxh3": state.hexdigest(), **(fingerprint or {})}
        if pool:
            self.fingerprint["pool"] = pool

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step."""
        share, count = self.size // self.processes, len(self.rows)
        samples = step * self.size + np.arange(self.size)
        numbers = np.empty(self.size, np.int64)
        for epoch in np.unique(samples // count).tolist():
            at = samples // count == epoch
            numbers[at] = self.order(epoch)[samples[at] % count]
        own = numbers[self.process * share : (self.process + 1) * share].tolist()
        return self.rows.batch(own, self.rows.time(numbers))

    def _order(self, epoch) -> np.ndarray:
        """The rows of an epoch, int64 [N]."""
        count, size, key = len(self.rows), self.size, packing.mix(self.seed, 5, epoch)
        order = packing.permute(np.arange(count), count, key)
        if not self.pool:
            return order
        start = -epoch * count % size  # before it: what fills the batch that the last epoch began
        whole = order[start : start + (count - start) // size * size]
        for at in range(0, len(whole), self.pool * size):
            part = whole[at : at + self.pool * size]
            batches = part[np.argsort(self.rows.sizes[part], kind="stable")].reshape(-1, size)
            mixed = packing.permute(np.arange(len(batches)), len(batches), packing.mix(key, at))
            part[:] = batches[mixed].ravel()
        return order


def encode(examples: Examples, tokenizer, length: int, truncate=False, cut="end") -> Rows:
    """The rows of every task but spans; ValueError counts what does not fit, unless `truncate`.

    cut: "end" or "middle", where a text that is too long is cut; tagged words at the end alone.
    """
    frame = Frame.of(tokenizer)
    if examples.task == "tokens":
        if cut != "end":
            raise ValueError(f"config.data.cut={cut!r}; tagged words are cut at the 'end' alone")
        return _tagged(examples, tokenizer, frame, length, truncate)
    wanted = [_pieces(examples.task, texts) for texts in examples.texts]
    known = _ids(tokenizer, {text for parts in wanted for texts in parts for text in texts})
    fit = Fitting(length, truncate, examples, cut)
    parts = [
        [frame.join(*fit(number, [known[t] for t in texts], frame)) for texts in every]
        for number, every in enumerate(wanted)
    ]
    return Rows(examples.task, length, frame.pad, parts, examples.targets, fit.done())


def texts(values, tokenizer, length: int, truncate=False, task="embed") -> Rows:
    """Rows of single texts, as `embed` reads passages and queries."""
    known = _ids(tokenizer, set(values))
    return framed([known[text] for text in values], tokenizer, length, truncate, task)


def framed(ids, tokenizer, length: int, truncate: bool, task: str) -> Rows:
    """Rows of single texts whose ids are known."""
    frame, fit = Frame.of(tokenizer), Fitting(length, truncate)
    parts = [[frame.join(*fit(number, [text], frame))] for number, text in enumerate(ids)]
    return Rows(task, length, frame.pad, parts, [0] * len(parts), fit.done())


def _pieces(task, texts) -> list:
    """What each part of an example's row holds: one text or two."""
    if task == "choice":
        text, choices = texts
        return [(text, choice) for choice in choices]
    return [(text,) for text in texts] if task == "embed" else [texts]


def _ids(tokenizer, texts) -> dict:
    """{text: its ids}; special tokens written out in a text are text."""
    every = sorted(texts)
    return dict(zip(every, tokenizer.encode_batch(every, special=False), strict=True))


class Fitting:
    """Cuts what is too long, or counts it for the error that `done` raises."""

    def __init__(self, length: int, truncate: bool, examples: Examples | None = None, where="end"):
        if where not in ("end", "middle"):
            raise ValueError(f"config.data.cut={where!r}; expected 'end' or 'middle'")
        self.length, self.truncate, self.examples, self.where = length, truncate, examples, where
        self.long, self.first, self.longest = set(), None, 0

    def __call__(self, number, ids, frame) -> list:
        room, total = self.length - frame.around(len(ids)), sum(map(len, ids))
        if room < len(ids):
            raise ValueError(f"config.length={self.length} has no room beside the special tokens")
        if total <= room:
            return ids
        self.note(number, total + frame.around(len(ids)))
        if len(ids) == 1:
            return [self.cut(ids[0], room)]
        short = min(len(ids[0]), len(ids[1]), room // 2)
        if len(ids[0]) <= len(ids[1]):
            first = min(len(ids[0]), max(short, room - len(ids[1])))
            return [self.cut(ids[0], first), self.cut(ids[1], room - first)]
        second = min(len(ids[1]), max(short, room - len(ids[0])))
        return [self.cut(ids[0], room - second), self.cut(ids[1], second)]

    def cut(self, ids, size):
        """What stays of a text that has room for `size` tokens."""
        if self.where == "end" or len(ids) <= size:
            return ids[:size]
        return np.concatenate([ids[: size // 4], ids[len(ids) - (size - size // 4) :]])

    def note(self, number, size):
        self.first = number if self.first is None else self.first
        self.long.add(number)
        self.longest = max(self.longest, size)

    def done(self) -> int:
        """How many examples were cut; ValueError where that was not asked for."""
        if self.long and not self.truncate:
            where = self.examples.where(self.first) if self.examples else f"text {self.first}"
            raise ValueError(
                f"{len(self.long)} texts are longer than config.length={self.length} (the longest "
                f"has {self.longest} tokens; the first is {where})\n"
                "use a longer length, or --config.data.truncate=true to cut them"
            )
        return len(self.long)


def _tagged(examples, tokenizer, frame, length, truncate) -> Rows:
    """Every word is encoded on its own; its first piece carries the tag. `extra["tags"]` has those of
    words that no slot reads, too, at slot -1: an evaluator misses their entities."""
    spaced = Words(tokenizer).spaces
    spelt = lambda place, word: f" {word}" if spaced and place else word
    known = _ids(tokenizer, {spelt(p, w) for row in examples.texts for p, w in enumerate(row)})
    fit, parts, targets, whole = Fitting(length, truncate, examples), [], [], []
    for number, words in enumerate(examples.texts):
        ids = [known[spelt(place, word)] for place, word in enumerate(words)]
        starts = 1 + np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(int)
        kept = int(np.sum(starts[1:] <= length - 1))
        if kept < len(words):
            fit.note(number, int(starts[-1]) + 1)
        inside = np.concatenate([*ids[:kept], np.zeros(0, np.int32)])
        parts.append([frame.join(inside)])
        labels = examples.targets[number]
        read = [w < kept and len(ids[w]) > 0 for w in range(len(words))]
        whole.append([(int(starts[w]) if read[w] else -1, labels[w]) for w in range(len(words))])
        targets.append([pair for pair in whole[-1] if pair[0] >= 0])
    return Rows("tokens", length, frame.pad, parts, targets, fit.done(), {"tags": whole})
