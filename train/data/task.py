"""Everything that a fine-tuning run reads: tokenizer, labels, and the rows of each part."""

import dataclasses
from pathlib import Path

from models.interop.tokens import read_tokenizer
from models.interop.untrusted import read_json
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
    given, reference = get(config, "init.checkpoint", ""), get(config, "init.reference", "")
    if spec and spec != "init":
        return tokenizers.named(spec, texts or (lambda: _training_texts(config)), encoder)
    if given:
        return Tokenizer.load(Path(find(given)) / "tokenizer")
    if reference:
        folder = Path(reference)
        raw, special, template = read_tokenizer(folder, read_json(folder / "config.json"))
        if raw is None:
            raise ValueError(f"{folder} has no tokenizer.json; name one as config.data.tokenizer")
        return Tokenizer.wrap(raw, "file", template, **special)
    raise ValueError(
        "config.data.tokenizer is empty and config.init names no model; name one, such as "
        "wordpiece:4096 (trained on the training texts)"
    )


def same_tokens(section, tokenizer, find, what: str):
    """ValueError where the model that a section of a config names was trained on other tokens: its
    numbers would be about other texts. A folder without a tokenizer is taken at its word."""
    given, reference = get(section, "checkpoint", ""), get(section, "reference", "")
    if not given and not (reference and (Path(reference) / "tokenizer.json").is_file()):
        return
    init = {"checkpoint": given, "reference": reference}
    other = open_tokenizer({"init": init}, find)
    if other.raw.get_vocab() != tokenizer.raw.get_vocab():
        raise ValueError(
            f"{what} names {given or reference}, which has other tokens ({other.vocab} of them) than "
            f"the policy ({tokenizer.vocab}); expected the same vocabulary"
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
    parts, counts = labelled.open_parts(config)
    truncate, length = bool(get(config, "data.truncate", False)), int(get(config, "length", 0))
    rows, labels = {}, ()
    for part in [name for name in labelled.PARTS if name in parts]:
        examples = labelled.examples(parts[part], config, labels)
        labels = labels or examples.labels
        if task == "spans":
            stride = int(get(config, "data.stride", 128))
            made = spans.encode(examples, tokenizer, length, stride, truncate)
            counts[f"{part} windows"] = len(made)
        else:
            made = encode.encode(examples, tokenizer, length, truncate)
        made.trim = task not in ("spans", "tokens")  # their scores are joined over batches
        if made.cut:
            counts[f"{part} cut"] = made.cut
        rows[part] = made
    return Material(task, tokenizer, rows, labels, counts)


def passages(source: str, column: str = "text") -> list:
    """The passages of a table, to search in."""
    return read(source).column(column)
