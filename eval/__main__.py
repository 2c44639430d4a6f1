"""Scores trained models on a text: `python -m eval perplexity --from RUN --from MODEL.gguf`.

    --from        a run of ours, a reference folder, a GGUF file or a package that ships one; repeatable
    --source      an embedded set, a text file or JSONL (default shakespeare)
    --work        the document in it (default tempest, which our Shakespeare runs hold out)
    --characters  only so many from its beginning (default 0: all)
    --length      tokens in a window (default: the model's context, at most 1024)

The table has bits per character of the same characters for every model, whatever its tokenizer: the
sum of -log2 p over all tokens of the passage, each scored once, divided by its characters.
"""

import sys
import tempfile
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from eval import perplexity
from models.build import count
from scripts import sample
from train.core import pages
from train.core.errors import Parser, cleanly, nearest
from train.data import sources, text


def arguments(argv=None):
    parser = Parser(prog="python -m eval", description=__doc__)
    parser.add_argument("what", choices=["perplexity"])
    parser.add_argument("--from", dest="models", action="append", required=True)
    parser.add_argument("--source", default="shakespeare")
    parser.add_argument("--work", default="tempest")
    parser.add_argument("--characters", type=int, default=0)
    parser.add_argument("--length", type=int, default=0)
    given = parser.parse_args(argv)
    for name in ("characters", "length"):
        if getattr(given, name) < 0:
            raise ValueError(f"--{name} is {getattr(given, name)}; expected 0 or more")
    return given


def passage(source: str, work: str, characters: int = 0) -> str:
    """The beginning of a document; ValueError names the documents there are."""
    found = {document.name: document.text for document in sources.documents(source)}
    if work not in found:
        raise ValueError(f'{source} has no work "{work}"; {nearest(work, found)}')
    return found[work][:characters] if characters else found[work]


def score(loaded: sample.Source, content: str, length: int = 0, batch: int = 4) -> dict:
    """`eval.perplexity`'s figures of a model on one text, in windows that overlap by a token."""
    o = loaded.model.o
    if o.kind == "encdec" or not o.causal or o.head not in ("lm", "double", "masked"):
        raise ValueError(
            f"perplexity is of models that predict the next token; this is an {o.kind} with "
            f"head={o.head!r}"
        )
    length = min(length or 1024, o.context)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "passage.txt").write_text(content, encoding="utf-8")
        Path(folder, "rest.txt").write_text("A held-out set leaves something to train on.")
        data = dict(source=folder, heldout=("passage*",), mixture=(), verify="auto")
        config = ConfigDict(dict(data=data, eval={}))
        held = text.heldout(config, loaded.tokenizer, length, batch)
    if held["characters"] != len(content):
        raise ValueError(
            f"the tokenizer cannot predict the first token: {held['characters']} of "
            f"{len(content)} characters would be scored; it has neither bos nor eos"
        )
    return perplexity.build(config, loaded.model, loaded.tokenizer, held)(loaded.variables)


def main(argv=None):
    a = arguments(argv)
    content = passage(a.source, a.work, a.characters)
    table = Table(title=f"{a.source}/{a.work}, {len(content):,} characters")
    columns = (
        "model",
        "parameters",
        "vocabulary",
        "tokens",
        "nats per token",
        "bits per character",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "model" else "right")
    for name in a.models:
        loaded = sample.load(name)
        found, o = score(loaded, content, a.length), loaded.model.o
        table.add_row(
            name, f"{count(o):,}", f"{loaded.tokenizer.vocab:,}", f"{found['tokens']:,.0f}",
            f"{found['loss']:.4f}", f"{found['bits_per_character']:.4f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    pages.restart()
    sys.exit(cleanly(main)())
