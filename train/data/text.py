"""Text for language models: a stream of batches that is a pure function of (seed, step).

``open_stream(config, tokenizer).batch(step)`` gives the same batch whenever and wherever it is
asked, so a run resumes from its step alone, and process p of P takes its rows of the same global
batch. ``heldout`` gives the fixed evaluation batches: whole works, every token scored once.

Two ways of packing (``config.data.packing``):

contiguous  Documents joined by end-of-text, cut into rows, attention sees all of the row (Radford
            et al. 2019; Brown et al. 2020, section 2.1). Every epoch starts the cut at another
            token, so that each token is a target in every epoch and nothing is dropped.
documents   Rows are filled with whole documents by best fit; ``segments`` number them (0 is
            padding), positions restart in each, and no target crosses from one to the next. A
            document begins with beginning-of-text and its last target is end-of-text where the
            tokenizer has them; one longer than a row continues in another.
"""

import numpy as np

from train.data import packing
from train.data.opening import get, load_tokenizer, open_all, training_texts
from train.data.windows import Contiguous, Documents

__all__ = ["Stream", "heldout", "load_tokenizer", "open_stream", "training_texts"]
PACKINGS = {"contiguous": Contiguous, "documents": Documents}


class Stream:
    """Batches by step. ``tokens`` counts the training tokens, ``fingerprint`` describes the data.

    Each phase (``config.phases``: (until_step, length, batch); after the last, ``config.length``
    and ``config.batch``) has an order of its own; in it, global sample g is window
    ``permute(g mod W)`` of epoch ``g // W`` of its source.

    ``packings`` are the ways of packing that ``config.data.packing`` may name. With ``turns`` the
    rows of an epoch are those of ``turns`` epochs before; 0: every epoch draws its own.
    """

    def __init__(
        self, config, tokenizer, split="train", process=0, processes=1, packings=None, turns=0
    ):
        if split not in ("train", "heldout"):
            raise ValueError(f"unknown split {split!r}: 'train' or 'heldout'")
        if not 0 <= process < processes:
            raise ValueError(f"process {process} of {processes}")
        self.seed = int(get(config, "seed", 0))
        self.process, self.processes = process, processes
        self.phases = _phases(config, processes)
        self.packing = get(config, "data.packing", "contiguous")
        self.packings, self.turns = packings or PACKINGS, turns
        if self.packing not in self.packings:
            known = tuple(self.packings)
            raise ValueError(f"data.packing is {self.packing!r}, not one of {known}")
        self.parts, described = [], []
        opened = open_all(config, tokenizer)
        self.shares = packing.shares([weight for _, weight, *_ in opened])
        for source, weight, corpus, train, held in opened:
            chosen = train if split == "train" else held
            if not len(chosen):
                raise ValueError(f"{source}: no document in the {split} split")
            self.parts.append((corpus, chosen))
            names = [corpus.names[i] for i in held]
            described.append({"source": source, "weight": weight, "files": corpus.files})
            described[-1]["heldout"] = names if len(names) <= 64 else [names[0], len(names)]
        self.tokenizer = tokenizer
        self.tokens = sum(_count(corpus, chosen) for corpus, chosen in self.parts)
        self.documents = sum(len(chosen) for _, chosen in self.parts)
        self.fingerprint = {
            "sources": described,
            "tokenizer": tokenizer.hash,
            "packing": self.packing,
            "split": split,
            "tokens": self.tokens,
        }
        self._windows = {}
        for _, length, _ in self.phases:
            self.windows(length)

    def phase(self, step: int) -> tuple[int, int, int, int]:
        """Returns (number of the phase, its first step, length, global batch) at ``step``."""
        start = 0
        for number, (until, length, batch) in enumerate(self.phases):
            if until < 0 or step < until:
                return number, start, length, batch
            start = until
        raise ValueError(f"no phase at step {step}")

    def windows(self, length: int) -> list:
        """Returns the windows of every source at a row length (built once per length)."""
        if length not in self._windows:
            make = self.packings[self.packing]
            self._windows[length] = [
                make(corpus, chosen, length, self.tokenizer) for corpus, chosen in self.parts
            ]
        return self._windows[length]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of the global batch of ``step``.

        tokens, targets int32 [b,T], weights float32 [b,T]; packed by documents also segments and
        positions int32 [b,T]; other packings what their rows have. b is the global batch over the
        number of processes.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        number, start, length, batch = self.phase(step)
        rows = batch // self.processes
        samples = (step - start) * batch + self.process * rows + np.arange(rows)
        if len(self.parts) == 1:
            source, rank = np.zeros(rows, np.int64), samples
        else:
            key = packing.mix(self.seed, 1, number)
            source, rank = packing.assign(samples, self.shares, key)
        result = {}
        for part, windows in enumerate(self.windows(length)):
            places = np.flatnonzero(source == part)
            epochs = rank[places] // windows.count
            for epoch in np.unique(epochs).tolist():
                at = places[epochs == epoch]
                turn = epoch % self.turns if self.turns else epoch
                key = packing.mix(self.seed, 2, number, part, turn)
                chosen = packing.permute(rank[at] % windows.count, windows.count, key)
                for name, values in windows.rows(chosen, key).items():
                    shape = (rows, *values.shape[1:])
                    full = result.setdefault(name, np.zeros(shape, values.dtype))
                    full[at] = values
        return result

    def epochs(self, step: int) -> float:
        """Returns how often the data has been gone through before ``step`` (a single source)."""
        total, start = 0.0, 0
        for until, length, batch in self.phases:
            end = step if until < 0 else min(until, step)
            total += (end - start) * batch / sum(w.count for w in self.windows(length))
            start = end
            if end == step:
                break
        return total


def _count(corpus, chosen):
    return int((corpus.ends - corpus.starts)[chosen].sum())


def _phases(config, processes):
    """Checks the phases and closes them with the config's own length and batch (until -1)."""
    phases, last = [], 0
    for phase in tuple(get(config, "phases", ())):
        if len(phase) != 3 or phase[0] <= last:
            raise ValueError(
                f"phases holds {phase!r}, expected (until_step, length, batch) in rising order"
            )
        phases.append(tuple(int(value) for value in phase))
        last = phase[0]
    phases.append((-1, int(get(config, "length", 0)), int(get(config, "batch", 0))))
    for _, length, batch in phases:
        if length < 1 or batch < 1:
            raise ValueError(f"length {length} and batch {batch} must be at least 1")
        if batch % processes:
            raise ValueError(f"batch {batch} does not divide by {processes} processes")
    return tuple(phases)


def open_stream(config, tokenizer, split="train", process=0, processes=1) -> Stream:
    """Opens the stream of ``config.data``; see ``Stream``.

    Reads config.seed, length, batch, phases and data.{source, mixture, packing, heldout, verify}.
    Raises ValueError or FileNotFoundError in one to three lines for what is wrong with the data.
    """
    return Stream(config, tokenizer, split, process, processes)


def heldout(config, tokenizer, length, batch, process=0, processes=1, limit=0) -> dict:
    """Builds the fixed evaluation batches of the held-out works.

    A work is the sequence [beginning] + tokens, the beginning being the tokenizer's bos, else its
    eos. It is cut into rows of ``length`` inputs that overlap by one token, so that every token of
    the work is a target exactly once; it is predicted from what its row holds before it. Without
    bos and eos a work's first token cannot be predicted: it is left out, and so are its characters.
    The end-of-text after a work is not scored. With a ``limit`` only that many batches are made,
    of the first works, and the counts are of what they score.

    Returns "batches" (a list of {tokens, targets int32, weights float32, mask int32}, all [b,T],
    b = batch / processes; the last one filled with rows of weight 0 whose first slot has mask 1,
    so that no row is masked whole), and over all processes "characters", "bytes" of the original
    text that is scored, "tokens" (targets), "names" (works).
    Bits per character = sum of weighted -log2 p / characters.
    """
    if batch % processes:
        raise ValueError(f"evaluation batch {batch} does not divide by {processes} processes")
    begin = tokenizer.bos if tokenizer.bos >= 0 else tokenizer.eos
    rows, names, characters, size = [], [], 0, 0
    opened = open_all(config, tokenizer)
    for source, _, corpus, _, held in opened:
        for index in held.tolist():
            room = (limit * batch - len(rows)) * length if limit else corpus.tokens
            if room <= 0:
                break
            start, stop = int(corpus.starts[index]), int(corpus.ends[index]) - corpus.closed
            tokens = corpus.read(start, stop)
            part = tokens[: room if begin >= 0 else room + 1]
            names.append(
                corpus.names[index] if len(opened) == 1 else f"{source}/{corpus.names[index]}"
            )
            if len(part) == len(tokens):
                characters += int(corpus.characters[index])
                size += int(corpus.bytes[index])
            else:
                tokens, cut = part, tokenizer.decode(part)
                characters += len(cut)
                size += len(cut.encode("utf-8"))
            if begin >= 0:
                tokens = np.concatenate([np.asarray([begin], np.int32), tokens])
            elif len(tokens):
                lost = tokenizer.decode(tokens[:1])
                characters -= len(lost)
                size -= len(lost.encode("utf-8"))
            rows += [tokens[i : i + length + 1] for i in range(0, len(tokens) - 1, length)]
    if not rows:
        raise ValueError("no held-out work to evaluate on: name some in data.heldout")
    scored = sum(len(row) - 1 for row in rows)
    batches = _batches(rows, length, batch, process, processes, max(begin, 0))
    counts = {"characters": characters, "bytes": size, "tokens": scored}
    return {"batches": batches, "names": names, **counts}


def _batches(rows, length, batch, process, processes, filler):
    share = batch // processes
    batches = []
    for start in range(0, len(rows), batch):
        own = rows[start : start + batch][process * share : (process + 1) * share]
        made = {
            "tokens": np.full((share, length), filler, np.int32),
            "targets": np.full((share, length), filler, np.int32),
            "weights": np.zeros((share, length), np.float32),
            "mask": np.zeros((share, length), np.int32),
        }
        made["mask"][:, 0] = 1
        for number, row in enumerate(own):
            count = len(row) - 1
            made["tokens"][number, :count] = row[:-1]
            made["targets"][number, :count] = row[1:]
            made["weights"][number, :count] = 1
            made["mask"][number, :count] = 1
        batches.append(made)
    return batches
