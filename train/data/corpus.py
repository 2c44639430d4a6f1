"""Documents as one array of tokens: what a token store and a small source in memory share."""

import numpy as np

from train.data import sources

MEMORY_LIMIT = 256 << 20


class Corpus:
    """Documents as one long array of tokens, wherever it lies.

    Attributes: ``source`` its name; ``starts`` and ``ends`` int64 [documents], where each lies (the
    end-of-text that follows it included if ``closed``); ``characters`` and ``bytes`` int64
    [documents] of the original text; ``names``; ``files`` the fingerprint of what it was read from;
    ``heldout`` patterns that it was made with.
    """

    def __init__(self, source, closed, index, names, files, heldout=()):
        self.source, self.closed, self.files = source, closed, files
        self.ends, self.characters, self.bytes = index[:, 0], index[:, 1], index[:, 2]
        self.starts = np.concatenate([np.zeros(1, np.int64), self.ends])[:-1]
        self.names, self.heldout = names, tuple(heldout)

    @property
    def tokens(self) -> int:
        """The number of tokens, end-of-text included."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the tokens of start..stop as int32."""
        return self.array[start:stop].astype(np.int32)

    def split(self, patterns=()) -> tuple[np.ndarray, np.ndarray]:
        """Returns the indices of (training, held-out) documents; see ``sources.held_out``."""
        chosen = sources.held_out(self.names, patterns or self.heldout, self.source)
        mask = np.zeros(len(self.ends), bool)
        mask[chosen] = True
        return np.flatnonzero(~mask), np.flatnonzero(mask)


class Memory(Corpus):
    """A small source, tokenised when it is opened."""

    def __init__(self, source, tokenizer):
        refuse_large(source)
        files = sources.fingerprint(source)
        works = list(sources.works(source))
        names = [work.name for work in works]
        parts, index = tokenize(works, tokenizer)
        self.array = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        super().__init__(source, tokenizer.eos >= 0, index, names, files)


def refuse_large(source: str) -> None:
    """ValueError for a source that is too large to be tokenised when it is opened."""
    hub = source.startswith("hub:")
    size = 0 if hub else sum(file.stat().st_size for file in sources.files(source))
    if hub or size > MEMORY_LIMIT:
        what = "a hub data set" if hub else f"{size:,} bytes"
        raise ValueError(
            f"{source} ({what}) is not tokenised on the fly: make a token store first,\n"
            f"python -m scripts.prepare --source {source} --tokenizer gpt2 --out FOLDER, "
            "and train on FOLDER"
        )


def tokenize(works, tokenizer) -> tuple[list, np.ndarray]:
    """Encodes documents, each followed by end-of-text if there is one.

    Returns: the documents' tokens, and the index int64 [documents, 3].
    """
    end = np.asarray([tokenizer.eos] if tokenizer.eos >= 0 else [], np.int32)
    parts, rows, total = [], [], 0
    for start in range(0, len(works), 256):
        group = works[start : start + 256]
        for work, ids in zip(group, tokenizer.encode_batch([w.text for w in group], False)):
            parts.append(np.concatenate([ids, end]))
            total += len(parts[-1])
            rows.append((total, len(work.text), len(work.text.encode("utf-8"))))
    return parts, np.asarray(rows, np.int64).reshape(-1, 3)
