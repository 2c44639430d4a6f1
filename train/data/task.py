"""Everything that a fine-tuning run reads: tokenizer, labels, and the rows of each part."""

import contextlib
import dataclasses
import math
from pathlib import Path

from models.interop import adapters
from models.interop.tokens import read_tokenizer
from models.interop.untrusted import read_json
from train.core import reference, sections
from train.data import encode, labelled, spans
from train.data import tokenizer as tokenizers
from train.data.opening import get
from train.data.tables import read
from train.data.tokenizer import Tokenizer


@dataclasses.dataclass
class Material:
    """`rows` of each part; `labels` () where the task has none; `counts` for the run's first lines."""

    task: str
    tokenizer: Tokenizer
    rows: dict
    labels: tuple
    counts: dict


def open_tokenizer(config, find, texts=None, encoder: bool = True) -> Tokenizer:
    """The tokenizer of `config.init`'s model, or the one that `config.data.tokenizer` names.

    "" takes the model's own; a kind such as "wordpiece:4096" is trained on the training texts.
    find(path): the folder of our checkpoint there. texts(): what it is trained on, by default the
    training rows; with an `encoder`'s special tokens or end-of-text alone.
    """
    spec = get(config, "data.tokenizer", "")
    if spec and spec != "init":
        return tokenizers.named(spec, texts or (lambda: _training_texts(config)), encoder)
    found = of_model(config.get("init", {}), find)
    if found is not None:
        return found
    folder = get(config, "init.reference", "")
    if folder:
        raise ValueError(f"{folder} has no tokenizer.json; name one as config.data.tokenizer")
    raise ValueError(
        "config.data.tokenizer is empty and config.init names no model; name one, such as "
        "wordpiece:4096 (trained on the training texts)"
    )


def of_model(init, find) -> Tokenizer | None:
    """The tokenizer of the model that a section like config.init names.

    None where it names no model, or a reference folder without a tokenizer.json.
    """
    if init.get("checkpoint", ""):
        return Tokenizer.load(Path(find(init["checkpoint"])) / "tokenizer")
    if not init.get("reference", ""):
        return None
    folder = reference.with_tokenizer(init["reference"])
    if reference.is_run(folder):
        return Tokenizer.load(Path(find(folder)) / "tokenizer")
    stated = {} if adapters.found(folder) else read_json(folder / "config.json")
    raw, special, template = read_tokenizer(folder, stated)
    return None if raw is None else Tokenizer.wrap(raw, "file", template, **special)


def same_tokens(section, tokenizer, find, what: str, whose: str = "the policy"):
    """ValueError where the model that a section of a config names was trained on other tokens: its
    numbers would be about other texts. A folder without a tokenizer is taken at its word."""
    other = of_model(section, find)
    if other is not None and other.raw.get_vocab() != tokenizer.raw.get_vocab():
        source = get(section, "checkpoint", "") or get(section, "reference", "")
        raise ValueError(
            f"{what} names {source}, which has other tokens ({other.vocab} of them) than "
            f"{whose} ({tokenizer.vocab}); expected the same vocabulary"
        )


def same_start(config, tokenizer, find):
    """`same_tokens` for config.init. A model that is gone is let pass: a resume can do without it, and
    a start names it."""
    with contextlib.suppress(FileNotFoundError):
        same_tokens(
            config.get("init", {}), tokenizer, find, "config.init", "config.data.tokenizer"
        )  # fmt: skip


def refuse_other_tokens(config, tokenizer, find):
    """ValueError where the model that config.init names reads other tokens than `tokenizer` gives.

    Its rows would stand for other words, and nothing in a run would say so.
    """
    own = of_model(config.get("init", {}), find)
    if own is not None and own.hash != tokenizer.hash:
        source = get(config, "init.checkpoint", "") or get(config, "init.reference", "")
        raise ValueError(
            f"config.data.tokenizer={get(config, 'data.tokenizer', '')!r} has other tokens than "
            f"{source}, from whose parameters the run starts\nuse --config.data.tokenizer=init"
        )


def _training_texts(config):
    """The texts of the training rows, each once."""
    parts, _ = labelled.open_parts(config)
    found = labelled.examples(parts["train"], config).texts
    flat = {text for texts in found for text in _strings(texts)}
    return sorted(flat)


def _strings(texts):
    for text in texts:
        if isinstance(text, str):
            yield text
        else:
            yield from _strings(text)


def open_material(config, tokenizer) -> Material:
    """Reads, splits and encodes; ValueError names file, row and column of what is wrong."""
    task = get(config, "data.task", "classify")
    _check_weights(tuple(get(config, "data.class_weights", ())))
    numbers = {n: get(config, f"data.{n}", labelled.FIELDS[n]) for n in ("temperature", "longest")}
    sections.positive("data", numbers, ["temperature"])
    sections.within("data", numbers, {"longest": (1, None)})
    parts, counts = labelled.open_parts(config)
    truncate, length = bool(get(config, "data.truncate", False)), int(get(config, "length", 0))
    rows, labels = {}, ()
    for part in [name for name in labelled.PARTS if name in parts]:
        examples = labelled.examples(parts[part], config, labels)
        labels = labels or _several(examples)
        if task == "spans":
            stride = int(get(config, "data.stride", 128))
            made = spans.encode(examples, tokenizer, length, stride, truncate)
            counts[f"{part} windows"] = len(made)
        else:
            cut = get(config, "data.cut", "end")
            made = encode.encode(examples, tokenizer, length, truncate, cut)
        made.trim = task not in ("spans", "tokens")  # their scores are joined over batches
        if made.cut:
            counts[f"{part} cut"] = made.cut
        made.extra.update(labelled.ranking(examples, config))
        rows[part] = made
    return Material(task, tokenizer, rows, labels, counts)


def _several(examples) -> tuple:
    """The labels; ValueError for one alone, which any model gives: nothing would be learned."""
    if len(examples.labels) == 1:
        raise ValueError(
            f"{examples.table.source}: every label is {examples.labels[0]!r}; expected two or more, to be "
            "told apart"
        )
    return examples.labels


def _check_weights(given):
    """ValueError for weights of classes of which none counts, or that are no numbers from 0."""
    if given and not (all(0 <= x < math.inf for x in given) and max(given) > 0):
        raise ValueError(
            f"config.data.class_weights={given}: expected numbers of at least 0, one of them above 0"
        )


def passages(source: str, column: str = "text") -> list:
    """The passages of a table, to search in."""
    return read(source).column(column)
