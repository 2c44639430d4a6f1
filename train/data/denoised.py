"""Rows of running text, corrupted, with what the decoder must write: for T5's and BART's pre-training.

Reads `config.data.noise` (the fields of `denoising.Noise`) beside what `text.Stream` reads.
"""

import functools

import numpy as np

from train.core.errors import nearest
from train.data import denoising, packing, pairs, text
from train.data.denoising import Noise
from train.data.opening import get, open_all
from train.data.windows import Contiguous, fixed

SENTINELS = 100
DRAWS = 1000  # of a row's noise, of which about every second fits at worst
HELD = 0x5EED  # the seed of the held-out rows and their noise


def noise(config) -> Noise:
    """`config.data.noise` as a Noise; ValueError names a field that there is not."""
    given = dict(get(config, "data.noise", {}))
    known = list(Noise.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise ValueError(f"config.data.noise has no field {name!r}; {nearest(name, known)}")
    return Noise(**given)


def sentinels(tokenizer) -> list:
    """The ids of the tokenizer's own `<extra_id_0>`, `<extra_id_1>`, ...; ValueError unless each lies
    one below the one before, as T5's do."""
    found = []
    for number in range(tokenizer.vocab):
        id = tokenizer.raw.token_to_id(f"<extra_id_{number}>")
        if id is None:
            break
        if found and id != found[-1] - 1:
            raise ValueError(
                f"the tokenizer's <extra_id_{number}> is {id}, <extra_id_{number - 1}> {found[-1]}; "
                "expected ids that count down by one, as T5's"
            )
        found.append(id)
    return found


def extra(tokenizer, how: Noise) -> tuple[int, int]:
    """(first sentinel or mask id, the vocabulary that the model needs).

    A tokenizer with `<extra_id_0>` or a mask token has them; else they follow its vocabulary.
    """
    own = sentinels(tokenizer)[:1] if how.kind == "spans" else [tokenizer.mask]
    if own and own[0] >= 0:
        return own[0], tokenizer.vocab
    count = SENTINELS if how.kind == "spans" else 1
    return tokenizer.vocab + count - 1, tokenizer.vocab + count


class Denoised:
    """Windows for `text.Stream`: `count` rows an epoch, noise drawn anew from every epoch's key.

    A source has at most `length` tokens, EOS included; T5's rows are as much longer before they are
    corrupted as fills that (512 of 568). What a tokenizer's own rules put in front of a text (BART's
    <s>) begins BART's sources and targets, and is no part of what is corrupted. Where BART's spans of
    no token make a source longer, its noise is drawn again. ValueError for a length that the noise does
    not fit.
    """

    def __init__(self, corpus, chosen, length, tokenizer, how: Noise, start: int):
        self.how, self.tokenizer, self.start, self.length = how, tokenizer, start, length
        self.mark, _ = extra(tokenizer, how)
        self.front = np.int32([]) if how.kind == "spans" else pairs.front(tokenizer)
        self.raw, self.target = length - 1 - len(self.front), length
        if "infill" in how.steps and not how.span > 1:
            raise ValueError(
                f"config.data.noise.span is {how.span}: as many masks as tokens, which do not fit "
                "config.length; expected more than 1"
            )
        if how.kind == "spans":
            self.raw = denoising.raw_length(length, how.rate, how.span)
            self.target = denoising.span_sizes(self.raw, how.rate, how.span)[1]
            spans = denoising.span_counts(self.raw, how.rate, how.span)[1]
            most = len(sentinels(tokenizer)) or SENTINELS
            if spans > most:
                raise ValueError(f"config.length={length} needs {spans} sentinels; at most {most}")
        if self.raw < 2:
            raise ValueError(f"config.length={length} leaves no room for noise; use a longer one")
        self.ring = Contiguous(corpus, chosen, self.raw, tokenizer)
        self.count = self.ring.count
        stops = (tokenizer.raw.token_to_id(mark) for mark in (".", "!", "?", "\n", "Ċ"))
        self.stops = tuple(id for id in stops if id is not None)

    def rows(self, numbers, key) -> dict:
        """A batch as `pairs.frame` makes it, sources [n, length]."""
        eos, sources, targets = self.tokenizer.eos, [], []
        offset = packing.mix(key, 3) % self.ring.tokens
        for number in numbers.tolist():
            row = self.ring.read(offset + number * self.raw)[: self.raw]
            rng = np.random.default_rng([key, number])
            if self.how.kind == "spans":
                how = self.how.rate, self.how.span
                source, target = denoising.span_corrupt(row, rng, self.mark, eos, *how)
            else:
                around = lambda ids: np.concatenate([self.front, ids, np.int32([eos])])
                source, target = around(self._noisy(row, rng)), around(row)
            sources.append(source)
            targets.append(target)
        pad = self.tokenizer.pad if self.tokenizer.pad >= 0 else eos
        return pairs.frame(sources, targets, (self.length, self.target), pad, self.start)

    def _noisy(self, row, rng):
        """The row under BART's noise, the first draw that fits."""
        for _ in range(DRAWS):
            made = denoising.corrupt(row, rng, self.how, self.mark, self.stops)
            if len(made) < self.length - len(self.front):
                return made
        raise ValueError(
            f"{DRAWS} draws of {self.how} made every source longer than config.length={self.length}"
        )


def open_stream(config, tokenizer, split="train", process=0, processes=1) -> text.Stream:
    """The stream of a pre-training config; ValueError in one to three lines for what is wrong."""
    make = {"noise": _maker(config, tokenizer)}
    stream = text.Stream(config, tokenizer, split, process, processes, make)
    if noise(config).kind != "spans" and len(first := pairs.front(tokenizer)):
        stream.fingerprint["front"] = first.tolist()
    return stream


def _maker(config, tokenizer):
    """Denoised, as the config has it."""
    how = noise(config)
    if tokenizer.eos < 0:
        raise ValueError("the tokenizer has no end-of-text token, which ends sources and targets")
    return functools.partial(Denoised, how=how, start=int(get(config, "model.start", 0)))


def heldout(config, tokenizer, process=0, processes=1) -> list:
    """`config.eval.batches` batches (0: all) of the held-out works' rows, each row once and always
    with the same noise; `rows` float32 [b] is 0 for one that only fills the last batch. The rows of
    a mixture's sources stand in random order, whatever their weights."""
    make, length = _maker(config, tokenizer), int(get(config, "length", 0))
    size, limit = int(get(config, "batch", 1)), int(get(config, "eval.batches", 0))
    opened = [(corpus, held) for _, _, corpus, _, held in open_all(config, tokenizer) if len(held)]
    if not opened:
        raise ValueError("no held-out work to evaluate on: name some in data.heldout")
    windows = [make(corpus, held, length, tokenizer) for corpus, held in opened]
    keys = [packing.mix(HELD, 2, 0, part, 0) for part in range(len(windows))]
    places = [(part, n) for part, window in enumerate(windows) for n in range(window.count)]
    order = packing.permute(np.arange(len(places)), len(places), keys[0])
    order = order[: limit * size] if limit else order
    own = slice(process * (size // processes), (process + 1) * (size // processes))
    batches = fixed(windows, keys, [places[at] for at in order], size)
    return [{name: x[own] for name, x in batch.items()} for batch in batches]
