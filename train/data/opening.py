"""From a config to its sources and its tokenizer: the steps before there is a stream."""

from pathlib import Path

from train.data import sources
from train.data import tokenizer as tokenizers
from train.data.corpus import Corpus, Memory, refuse_large
from train.data.store import Store, is_store

_CACHE = {}


def get(config, path, default):
    """Reads a dotted name from a ConfigDict, a mapping or a namespace; the default if absent."""
    for name in path.split("."):
        if hasattr(config, "get"):
            config = config.get(name, None)
        else:
            config = getattr(config, name, None)
        if config is None:
            return default
    return config


def open_corpus(source: str, tokenizer, verify="auto") -> Corpus:
    """Opens a token store, or tokenises a small source in memory (kept for the process's life)."""
    if is_store(source):
        return Store(source, tokenizer, verify)
    key = (source, tokenizer.hash, tokenizer.eos, str(sources.fingerprint(source)))
    if key not in _CACHE:
        while len(_CACHE) >= 4:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = Memory(source, tokenizer)
    return _CACHE[key]


def mixture(config) -> tuple[tuple[str, float], ...]:
    """Returns the (source, weight) pairs of a config; a single source has weight 1."""
    pairs = tuple(get(config, "data.mixture", ()))
    if not pairs:
        return ((get(config, "data.source", "shakespeare"), 1.0),)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(f"data.mixture holds {pair!r}, expected (source, weight)")
        if isinstance(pair[1], bool) or not isinstance(pair[1], (int, float)):
            raise ValueError(f"data.mixture gives {pair[0]} weight {pair[1]!r}, expected a number")
    if len({source for source, _ in pairs}) < len(pairs):
        raise ValueError("data.mixture names a source twice: give it one weight")
    return tuple((source, float(weight)) for source, weight in pairs)


def patterns_for(config, names_by_source) -> list[tuple[str, ...]]:
    """Returns each source's share of ``data.heldout``: the patterns that name a work of it.

    In a mixture a pattern need name a work of one source only, and a source without any is trained
    on whole; a pattern that names none anywhere is a ValueError.
    """
    patterns = tuple(get(config, "data.heldout", ()))
    if len(names_by_source) == 1 or not patterns or patterns == ("none",):
        return [patterns for _ in names_by_source]
    shares = [
        tuple(pattern for pattern in patterns if sources.matching(names, pattern))
        for names in names_by_source
    ]
    for pattern in patterns:
        if not any(pattern in share for share in shares):
            raise ValueError(f"held-out work {pattern!r} is in none of the mixture's sources")
    return [share or ("none",) for share in shares]


def open_all(config, tokenizer) -> list[tuple[str, float, Corpus, list, list]]:
    """Opens every source of a config: (source, weight, corpus, training, held-out documents)."""
    verify = get(config, "data.verify", "auto")
    pairs = mixture(config)
    corpora = [open_corpus(source, tokenizer, verify) for source, _ in pairs]
    shares = patterns_for(config, [corpus.names for corpus in corpora])
    return [
        (*pair, corpus, *corpus.split(patterns))
        for pair, corpus, patterns in zip(pairs, corpora, shares)
    ]


def training_texts(config):
    """Yields the texts that a tokenizer may be trained on: none of the held-out works."""
    pairs = mixture(config)
    for source, _ in pairs:
        if is_store(source):
            raise ValueError(
                f"a tokenizer cannot be trained on the token store {source}: "
                f"use --config.data.tokenizer={Path(source) / 'tokenizer'}"
            )
        refuse_large(source)
    every = [list(sources.works(source)) for source, _ in pairs]
    shares = patterns_for(config, [[work.name for work in works] for works in every])
    for (source, _), works, patterns in zip(pairs, every, shares):
        chosen = set(sources.held_out([work.name for work in works], patterns, source))
        yield from (work.text for i, work in enumerate(works) if i not in chosen)


def load_tokenizer(config, encoder: bool = False) -> tokenizers.Tokenizer:
    """Returns the tokenizer of ``config.data.tokenizer``, trained on the training works if need be.

    One that is trained gets an ``encoder``'s special tokens if asked. "store" or "" means the
    tokenizer that the (first) token store was written with.
    """
    spec = get(config, "data.tokenizer", "")
    first = mixture(config)[0][0]
    if spec in ("", "store"):
        if not is_store(first):
            raise ValueError(
                f"data.tokenizer is empty and {first} is no token store: "
                "name one, such as gpt2, char or bpe:4096"
            )
        return tokenizers.Tokenizer.load(Path(first) / "tokenizer")
    return tokenizers.named(spec, lambda: training_texts(config), encoder)
