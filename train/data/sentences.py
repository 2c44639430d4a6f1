"""Rows of sentences for masked-token models: full sentences, or pairs of segments.

full_sentences  Sentences in order, as many as fit, across documents with a separator after each
                document (Liu et al. 2019, section 4.2).
doc_sentences   The same, but no row holds two documents.
pairs           [CLS] A [SEP] B [SEP]. "next" (Devlin et al. 2019, section 3.1): B follows A, or, for
                one in two, is from another document (label 1). "order" (Lan et al. 2020, section
                3.1): B follows A, or the two are swapped (label 1).

Everything is arithmetic on a corpus's tokens: sentence ends are found by `words`, rows by number. A
sentence longer than a row is cut, and goes on in the next.
"""

import dataclasses

import numpy as np

from train.data import corruption, packing
from train.data.words import Words

PAIRS = ("next", "order")


@dataclasses.dataclass(frozen=True)
class Frame:
    """The special tokens around texts.

    `double`: two separators stand between a pair of texts, as RoBERTa has it.
    """

    cls: int
    sep: int
    pad: int
    mask: int
    double: bool = False

    @classmethod
    def of(cls, tokenizer) -> "Frame":
        """The frame of a tokenizer; ValueError names the special token that it lacks."""
        found = {role: getattr(tokenizer, role) for role in ("cls", "sep", "pad", "mask")}
        missing = [role for role, index in found.items() if index < 0]
        if missing:
            raise ValueError(
                f"the tokenizer has no {missing[0]} token; an encoder needs cls, sep, pad and mask, "
                "as [CLS] or <s>, [SEP] or </s>, [PAD] or <pad>, [MASK] or <mask>"
            )
        double = tokenizer.raw.id_to_token(found["cls"]) == "<s>"
        return cls(**found, double=double)

    def around(self, parts: int) -> int:
        """How many special tokens a row of 1 or 2 texts has."""
        return 2 if parts == 1 else 4 if self.double else 3

    def join(self, first, second=None) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, token types) int32 [n] of one text or a pair: type 1 is B and its separator."""
        head = [[self.cls], first, [self.sep]]
        if second is None:
            tokens = np.concatenate(head).astype(np.int32)
            return tokens, np.zeros(len(tokens), np.int32)
        between = [[self.sep]] if self.double else []
        front = np.concatenate([*head, *between]).astype(np.int32)
        back = np.concatenate([second, [self.sep]]).astype(np.int32)
        types = np.repeat(np.asarray([0, 1], np.int32), [len(front), len(back)])
        return np.concatenate([front, back]), types


class Pieces:
    """The sentences of chosen documents, cut to at most `size` tokens.

    Attributes: `document` (a number among the chosen), `start` (in the corpus), `length` int64 [n];
    `last` bool [n], the document ends here.
    """

    def __init__(self, corpus, chosen, size, words):
        starts, ends = corpus.starts[chosen], corpus.ends[chosen] - int(corpus.closed)
        rows = []
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if end > start:
                stops = np.flatnonzero(words.sentence_ends(corpus.read(start, end))) + 1
                begins = np.concatenate([[0], stops[:-1]])
                sentence, within, length = packing.split(stops - begins, size)
                rows.append(
                    (np.full(len(length), number), start + begins[sentence] + within, length)
                )
        if not rows:
            raise ValueError(f"{corpus.source} has no document with a token in it")
        joined = [np.concatenate(part).astype(np.int64) for part in zip(*rows, strict=True)]
        self.document, self.start, self.length = joined
        self.last = np.append(self.document[1:] != self.document[:-1], True)
        self.places = np.concatenate([[0], np.cumsum(self.length)])

    def rows(self, size, extra=0, across=True) -> np.ndarray:
        """The first piece of each row, int64 [rows + 1]: greedy, at most `size` tokens a row.

        extra: tokens that the end of a document takes beside its own, but at the end of a row.
        """
        ends = np.cumsum(self.length + extra * self.last)
        documents = np.flatnonzero(self.last) + 1
        begins, at, count = [0], 0, len(self.length)
        while at < count:
            room = size + (ends[at - 1] if at else 0)
            after = int(np.searchsorted(ends - extra * self.last, room, side="right"))
            if not across:
                after = min(after, int(documents[np.searchsorted(documents, at, side="right")]))
            at = max(after, at + 1)
            begins.append(at)
        return np.asarray(begins, np.int64)


class Masked:
    """What both kinds of rows share: masking, and arrays of a fixed shape."""

    def __init__(self, corpus, chosen, length, tokenizer, masking):
        self.corpus, self.length, self.masking = corpus, length, masking
        self.frame, self.words = Frame.of(tokenizer), Words(tokenizer)
        self.room = masking.room(length)

    def rows(self, numbers, key) -> dict[str, np.ndarray]:
        """The batch of some rows: tokens, mask, token_types [n,T], slots, targets, weights [n,M].

        Pairs have `pair` [n] as well. M is the most predictions that a row can have. A row is a
        function of its number and of the key.
        """
        n = len(numbers)
        made = {name: np.zeros((n, self.length), np.int32) for name in ("mask", "token_types")}
        made["tokens"] = np.full((n, self.length), self.frame.pad, np.int32)
        made["slots"] = np.zeros((n, self.room), np.int32)
        made["targets"] = np.zeros((n, self.room), np.int32)
        made["weights"] = np.zeros((n, self.room), np.float32)
        labels = np.zeros(n, np.int32)
        for row, number in enumerate(np.asarray(numbers).tolist()):
            rng = np.random.default_rng((key, number))
            tokens, types, labels[row] = self.text(number, rng)
            hidden, *predictions = corruption.corrupt(
                tokens, self.words.starts(tokens), ~self.words.special[tokens], rng,
                self.masking, self.frame.mask, self.words.ordinary, self.room,
            )  # fmt: skip
            made["tokens"][row, : len(tokens)] = hidden
            made["mask"][row, : len(tokens)] = 1
            made["token_types"][row, : len(tokens)] = types
            for name, values in zip(("slots", "targets", "weights"), predictions, strict=True):
                made[name][row] = values
        return {**made, "pair": labels} if isinstance(self, Pairs) else made


class FullSentences(Masked):
    """Rows of full sentences; `count` of them an epoch."""

    across = True

    def __init__(self, corpus, chosen, length, tokenizer, masking):
        super().__init__(corpus, chosen, length, tokenizer, masking)
        size = length - self.frame.around(1)
        if size < 1:
            raise ValueError(f"length {length} has no room for a token beside the special ones")
        self.pieces = Pieces(corpus, chosen, size, self.words)
        self.begins = self.pieces.rows(size, extra=1, across=self.across)
        self.count = len(self.begins) - 1

    def text(self, number, rng):
        """(tokens, token types, 0) of a row before it is masked."""
        pieces, parts = self.pieces, []
        for piece in range(self.begins[number], self.begins[number + 1]):
            start = int(pieces.start[piece])
            parts.append(self.corpus.read(start, start + int(pieces.length[piece])))
            if pieces.last[piece] and piece + 1 < self.begins[number + 1]:
                parts.append(np.asarray([self.frame.sep], np.int32))
        return *self.frame.join(np.concatenate(parts)), 0


class DocSentences(FullSentences):
    """Full sentences of one document."""

    across = False


class Pairs(Masked):
    """Segment pairs: `count` chunks of consecutive sentences an epoch, each cut in two at random.

    A chunk of one sentence is cut inside it, so that the label stays a fair coin. A random B is as
    long as the true one: were it to fill the row, a row's length would tell the label. One row in
    ten (`short`) is cut down to a random length.
    """

    def __init__(self, corpus, chosen, length, tokenizer, masking, pair="next", short=0.1):
        super().__init__(corpus, chosen, length, tokenizer, masking)
        if pair not in PAIRS:
            raise ValueError(f"data.pair is {pair!r}; expected one of {', '.join(PAIRS)}")
        self.pair, self.short = pair, short
        self.size = length - self.frame.around(2)
        if self.size < 2:
            raise ValueError(f"length {length} has no room for two texts")
        self.pieces = Pieces(corpus, chosen, self.size, self.words)
        begins = self.pieces.rows(self.size, across=False)
        total = np.diff(self.pieces.places[begins])
        self.begins, self.ends = begins[:-1][total > 1], begins[1:][total > 1]
        self.count, self.left_out = len(self.begins), int(np.sum(total < 2))
        self.first = np.flatnonzero(np.append(True, self.pieces.last[:-1]))
        if not self.count or (pair == "next" and len(self.first) < 2):
            raise ValueError(
                f"{corpus.source}: {self.count} chunks of {len(self.first)} documents; next-sentence "
                "pairs need two documents"
            )

    def text(self, number, rng):
        """(tokens, token types, label) of a row before it is masked."""
        first, last = int(self.begins[number]), int(self.ends[number])
        size = self.size
        if rng.random() < self.short:
            size = int(rng.integers(2, self.size + 1))
        places = self.pieces.places
        begin, total = int(self.pieces.start[first]), int(places[last] - places[first])
        whole = self.corpus.read(begin, begin + total)
        cut = int(rng.integers(1, total))
        if last - first > 1:
            cut = int(places[int(rng.integers(first + 1, last))] - places[first])
        a, b = whole[:cut], whole[cut:]
        label = int(rng.random() < 0.5)
        if label and self.pair == "order":
            a, b = b, a
        elif label:
            b = self.elsewhere(int(self.pieces.document[first]), len(b), rng)
        a, b = shorten(a, b, size, rng)
        return *self.frame.join(a, b), label

    def elsewhere(self, document, room, rng) -> np.ndarray:
        """Up to `room` tokens from a random sentence on, of a document other than this."""
        pieces = self.pieces
        own = int(np.searchsorted(pieces.document[self.first], document))
        other = int(rng.integers(0, len(self.first) - 1))
        other += other >= own
        start = int(self.first[other])
        stop = int(self.first[other + 1]) if other + 1 < len(self.first) else len(pieces.length)
        piece = int(rng.integers(start, stop))
        left = int(pieces.places[stop] - pieces.places[piece])
        begin = int(pieces.start[piece])
        return self.corpus.read(begin, begin + min(left, room))


def shorten(a, b, size, rng):
    """Cuts a pair to `size` tokens in all, from the longer one, its front or its back at random."""
    while len(a) + len(b) > size:
        excess = len(a) + len(b) - size
        ahead = len(a) - len(b)
        take = min(excess, abs(ahead)) or 1
        front = int(rng.binomial(take, 0.5))
        if ahead > 0 or (ahead == 0 and len(a) > 1 and rng.random() < 0.5):
            a = a[front : len(a) - (take - front)]
        else:
            b = b[front : len(b) - (take - front)]
    return a, b


PACKINGS = {"full_sentences": FullSentences, "doc_sentences": DocSentences, "pairs": Pairs}
