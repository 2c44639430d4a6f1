"""Search by meaning: passages ranked by the cosine of their embeddings with the query's.

    python -m scripts.search --from runs/retriever --corpus shakespeare "a king who cannot sleep"
    python -m scripts.search --from FOLDER --corpus notes.txt --top 3 "how to fold a map"
    python -m scripts.search --from FOLDER --pairs squad.jsonl --query question --passage context

`--from` takes a run of ours with `model.head=embed`, or a reference folder of an encoder (its hidden
states are then averaged over the real tokens, as sentence-transformers' 1_Pooling says, and scaled
to length one). `--corpus` is any source of documents (`train.data.sources`: a text file, a folder,
JSONL, Parquet, an embedded name) or table; documents are cut at empty lines into passages. Passages
longer than `--length` tokens are embedded by their beginning, and how many is said.

`--pairs` takes a table of queries and the passages that answer them (a query with several stands in
several rows), and prints how often a query finds its own among all distinct passages: recall at 1, 5
and 10, reciprocal rank, and the same for the ranking by rare words that both have (TF-IDF cosines,
scikit-learn).
"""

import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from eval import classify as scoring
from eval import retrieval
from models.build import build
from models.interop import adapters, sentences
from scripts.baseline import tfidf
from scripts.convert import is_reference
from train.core import checkpoint, reference
from train.core.errors import Parser, cleanly
from train.data import encode, sources, tables
from train.data.tokenizer import Tokenizer

STDERR = Console(stderr=True)


class Searcher:
    """A model that gives unit vectors, its variables and tokenizer."""

    def __init__(self, model, variables, tokenizer):
        self.model, self.variables, self.tokenizer = model, variables, tokenizer
        self.score = jax.jit(lambda v, batch: scoring.outputs(model, v, batch, "embed"))
        self.cut = 0

    def embed(self, texts, length: int = 256, batch: int = 32) -> np.ndarray:
        """Unit vectors, float32 [N,D]; `cut` counts the texts that were longer than `length`."""
        length = min(length, self.model.o.context)
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        rows = encode.texts([texts[n] for n in order], self.tokenizer, length, True, "classify")
        self.cut = rows.cut
        shown = track(rows.batches(batch), f"{len(texts):,} texts", console=STDERR)
        found = scoring.collect(self.score, self.variables, shown)
        back = np.empty_like(found)
        back[order] = found
        return back


def load(path) -> Searcher:
    """The searcher in a run or a reference folder; ValueError for a model that gives no embeddings."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; --from takes a run or a folder")
    if not is_reference(path):
        _, model, variables, tokenizer = checkpoint.load_run(path)
        if model.o.kind != "encoder" or model.o.head != "embed":
            raise ValueError(
                f"{path} is a run with model.head={model.o.head!r}; search needs embed"
            )
        return Searcher(model, jax.device_put(variables), tokenizer)
    loaded = reference.load(path)
    if loaded.options.kind != "encoder" or loaded.tokenizer is None:
        raise ValueError(f"{path} is no encoder with a tokenizer.json")
    pool = loaded.options.pool
    if loaded.options.head != "embed":
        pool = sentences.pool(_whole(path))
    o = loaded.options.replace(head="embed", pool=pool, pooler=False, labels=0)
    own = {"embed", "blocks", "norm"}
    params = {name: x for name, x in loaded.variables["params"].items() if name in own}
    tokenizer = Tokenizer.wrap(loaded.tokenizer, "file", **loaded.special)
    return Searcher(build(o), jax.device_put({"params": params}), tokenizer)


def _whole(folder: Path) -> Path:
    """The folder of the model: a PEFT folder's base."""
    while adapters.found(folder):
        folder = adapters.base(folder)
    return folder


def passages(source: str, least: int = 20) -> list:
    """(name of the document, text) of every passage of at least `least` characters."""
    found = []
    for document in sources.documents(source):
        for part in document.text.replace("\r\n", "\n").split("\n\n"):
            text = " ".join(part.split())
            if len(text) >= least:
                found.append((document.name, text))
    if not found:
        raise ValueError(f"{source} holds no passage of {least} characters or more")
    return found


def arguments(argv=None):
    parser = Parser(prog="python -m scripts.search", description=__doc__)
    add = parser.add_argument
    add("queries", nargs="*", metavar="query", help="one or more queries")
    add("--from", dest="source", required=True, metavar="RUN_OR_FOLDER")
    add("--corpus", default="", metavar="SOURCE")
    add("--pairs", default="", metavar="TABLE", help="measure recall instead of searching")
    add("--query", default="question", help="the column of the queries")
    add("--passage", default="context", help="the column of the passages")
    add("--top", type=int, default=5)
    add("--length", type=int, default=256, help="tokens of a passage that are read")
    add("--limit", type=int, default=0, help="only so many passages of the corpus (0: all)")
    add("--characters", type=int, default=160, help="of each passage that are shown")
    return parser.parse_args(argv)


def recall(searcher: Searcher, queries, passages, length: int) -> dict:
    """{method: metrics} of finding each query's own passages among all distinct ones."""
    asked, known, relevant = retrieval.gather(queries, passages)
    sides = {"queries": [queries[n] for n in asked], "passages": [passages[n] for n in known]}
    words = tfidf(sublinear_tf=True).fit(sides["passages"])
    methods = {
        "embeddings": lambda _, texts: searcher.embed(texts, length),
        "TF-IDF": lambda _, texts: words.transform(texts).toarray().astype(np.float32),
    }
    data = {**sides, "relevant": relevant}
    return {name: retrieval.build(embed, data)(None) for name, embed in methods.items()}


def main(argv=None):
    a = arguments(argv)
    if a.top < 1 or a.length < 3 or a.limit < 0 or a.characters < 4:
        raise ValueError(
            "--top is at least 1, --length at least 3, --limit 0 or more, --characters at least 4"
        )
    if bool(a.pairs) == bool(a.corpus) or bool(a.pairs) == bool(a.queries):
        raise ValueError("give queries and --corpus to search, or --pairs to measure")
    searcher = load(a.source)
    if a.pairs:
        table = tables.read(a.pairs)
        sides = table.column(a.query), table.column(a.passage)
        counts = [len(set(side)) for side in sides]
        print(f"{counts[0]:,} queries, {counts[1]:,} passages of {a.pairs}", flush=True)
        for name, found in recall(searcher, *sides, a.length).items():
            print(f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()))
        return
    found = passages(a.corpus)
    found = found[: a.limit] if a.limit else found
    vectors = searcher.embed([text for _, text in found], a.length)
    note = f" ({searcher.cut} read by their beginning)" if searcher.cut else ""
    print(f"{len(found):,} passages of {a.corpus}{note}")
    numbers, scores = retrieval.nearest(searcher.embed(a.queries, a.length), vectors, a.top)
    for query, row, values in zip(a.queries, numbers, scores, strict=True):
        print(f"\n{query}")
        for rank, (number, score) in enumerate(zip(row, values, strict=True), 1):
            name, text = found[number]
            shown = text if len(text) <= a.characters else f"{text[: a.characters - 3]}..."
            print(f"{rank:3}. {score:.3f}  {name}: {shown}")


if __name__ == "__main__":
    sys.exit(cleanly(main)())
