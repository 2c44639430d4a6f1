"""What an encoder says of texts: their class, a number, tags, an answer, the words behind a mask.

    python -m scripts.predict --from runs/sentiment --text "a wonderful film" --text "dull"
    python -m scripts.predict --from runs/pairs --text "He left." --pair "Nobody stayed."
    python -m scripts.predict --from runs/squad --question "Who wrote it?" --text "$(cat article.txt)"
    python -m scripts.predict --from runs/bert --text "The king is [MASK]." --top 3

The source is what `scripts.convert` takes: a run, or a folder of the reference library. Its head says
what is printed: for classes the probabilities of the `--top` best, by the names that the model brings;
for a regression the number; for tags each word (what white space parts) with its own; for spans the best
answer over overlapping windows of the text, and by how much it beats having none; for a language head
the likeliest tokens in the place of each mask. `--text -` takes a text from each line of standard input;
`--json` prints an object for each. A text that is longer than what the model reads is an error;
`--truncate` cuts it.
"""

import json
import sys

import jax
import numpy as np

from eval import classify, spans
from models.build import build
from models.interop.about import PROBLEMS
from scripts import convert
from train.core.errors import Parser, cleanly
from train.data import encode
from train.data import spans as windows
from train.data.labelled import Examples
from train.data.tokenizer import Tokenizer

TASKS = {
    "classify": "classify", "choice": "choice", "tokens": "tokens", "spans": "spans",
    "masked": "masked", "pretrain": "masked", "pair": "classify",
}  # fmt: skip
BATCH = 16


class Reader:
    """A model that reads texts. ValueError for one that does not, or that has no tokenizer."""

    def __init__(self, source: str):
        self.loaded = convert.source(source)
        o = self.o = self.loaded.options
        if o.kind != "encoder" or o.head not in TASKS or o.positions == "relative":
            raise ValueError(
                f"{source} is a {o.kind} with head={o.head!r}; predict takes an encoder with one of the "
                f"heads {', '.join(TASKS)} (scripts.sample writes, scripts.search compares)"
            )
        if self.loaded.tokenizer is None:
            raise ValueError(f"{source} has no tokenizer, so that no text can be read")
        self.tokenizer = Tokenizer.wrap(self.loaded.tokenizer, "file", **self.loaded.special)
        self.model, self.task = build(o), TASKS[o.head]

    def rows(self, texts, truncate: bool, labels=1) -> encode.Rows:
        """Rows of texts: tuples of one text or two, of words for tags, (question, text) for spans."""
        size, task = self.o.context, self.task
        blank = {"tokens": [list(range(len(t))) for t in texts], "spans": [[] for _ in texts]}
        made = Examples(task, list(texts), blank.get(task, [0] * len(texts)), None)
        if task == "spans":
            rows = windows.encode(made, self.tokenizer, size, min(128, size // 4), True)
        elif task == "masked":
            ids = self.tokenizer.encode_batch([text for (text,) in texts])  # with masks written out
            rows = encode.framed(ids, self.tokenizer, size, True, task)
        else:
            rows = encode.encode(made, self.tokenizer, size, True)
        if rows.cut and not truncate:
            raise ValueError(
                f"{rows.cut} of {len(texts)} texts are longer than the {size} tokens that the model "
                "reads; --truncate cuts them"
            )
        rows.trim = task not in ("spans", "tokens", "masked")
        return rows

    def scores(self, rows) -> np.ndarray:
        """The head's outputs, float32, a row each; a language head's logits at every slot."""

        @jax.jit
        def score(variables, batch):
            if self.task != "masked":
                return classify.outputs(self.model, variables, batch, self.task)
            return self.model.apply(variables, classify.inputs(batch, self.o, "masked"))["logits"]

        return classify.collect(score, self.loaded.variables, rows.batches(min(BATCH, len(rows))))


def classes(reader: Reader, scores, top: int) -> list:
    """Of each row [label, probability] of the best, best first; of a regression its number."""
    told, count = reader.loaded.about, scores.shape[1]
    names = told.labels or tuple(map(str, range(count)))
    if reader.o.head == "pair":
        names = ("follows", "does not follow")
    if told.problem == PROBLEMS[0] or (count == 1 and told.problem != PROBLEMS[2]):
        return [{"value": float(row[0])} for row in scores]
    squash = jax.nn.sigmoid if told.problem == PROBLEMS[2] else jax.nn.softmax
    found = []
    for row in np.asarray(squash(scores)):
        best = np.argsort(-row, kind="stable")[:top]
        found.append({"classes": [[names[i], float(row[i])] for i in best]})
    return found


def tags(reader: Reader, rows, scores, texts) -> list:
    """Of each row its words and their tags, None for a word without tokens or cut away."""
    names = reader.loaded.about.labels or tuple(map(str, range(scores.shape[2])))
    found = []
    for words, row, pairs in zip(texts, scores.argmax(-1), rows.targets, strict=True):
        said = {word: names[row[slot]] for slot, word in pairs}
        found.append({"words": list(words), "tags": [said.get(n) for n in range(len(words))]})
    return found


def answers(rows, scores, texts) -> list:
    """Of each question its answer and by how much it beats having none (logits; None without a span)."""
    made = spans.answers(scores, rows.extra["windows"], [text for _, text in texts])
    margins = [row["score"] - row["null"] for row in made]
    return [
        {"answer": row["text"], "margin": margin if np.isfinite(margin) else None}
        for row, margin in zip(made, margins, strict=True)
    ]


def masks(reader: Reader, rows, logits, top: int) -> list:
    """Of each text, for each of its masks, [token, probability] of the best, best first."""
    tokens, found = reader.tokenizer, []
    for ((ids, _),), row in zip(rows.parts, logits, strict=True):
        slots = np.flatnonzero(ids == tokens.mask)
        if not len(slots):
            name = tokens.raw.id_to_token(tokens.mask)
            raise ValueError(f"a text has no {name}, which stands for the word that is looked for")
        chances = np.asarray(jax.nn.softmax(row[slots, : tokens.vocab]))
        best = np.argsort(-chances, axis=-1, kind="stable")[:, :top]
        found.append(
            {
                "masks": [
                    [[_shown(tokens, i), float(p[i])] for i in b] for b, p in zip(best, chances)
                ]
            }
        )
    return found


def _shown(tokens, index) -> str:
    """A token's text; a blank and a part of a character as the vocabulary spells it."""
    text = tokens.decode([index]).strip()
    return text if text and "\ufffd" not in text else tokens.raw.id_to_token(int(index))


def predict(reader: Reader, texts, top: int = 5, truncate: bool = False) -> list:
    """A dict for each of `texts`, by the model's head (see `Reader.rows` for what a text is)."""
    rows = reader.rows(texts, truncate)
    scores = reader.scores(rows)
    if reader.task == "tokens":
        return tags(reader, rows, scores, texts)
    if reader.task == "spans":
        return answers(rows, scores, texts)
    if reader.task == "masked":
        return masks(reader, rows, scores, top)
    if reader.task == "choice":
        chances = np.asarray(jax.nn.softmax(scores))
        return [
            {"classes": [[text, float(p)] for text, p in zip(choices, row)]}
            for (_, choices), row in zip(texts, chances)
        ]
    return classes(reader, scores, top)


def arguments(argv=None):
    parser = Parser(prog="python -m scripts.predict", description=__doc__)
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="RUN_OR_FOLDER")
    add("--text", action="append", required=True, help="may be repeated; - reads lines of input")
    add("--pair", action="append", default=[], help="the second text: one for all, or one for each")
    add("--question", default="", help="what is asked about every text")
    add("--choice", action="append", default=[], help="what may follow every text")
    add("--top", type=int, default=5, help="classes or tokens to print (default 5)")
    add("--truncate", action="store_true", help="cut texts that are too long")
    add("--json", action="store_true", help="one JSON object for each text")
    return parser.parse_args(argv)


def given(a, task: str) -> list:
    """The texts as `Reader.rows` takes them. ValueError where the arguments do not suit the head."""
    lines = []
    for text in a.text:
        lines += sys.stdin.read().splitlines() if text == "-" else [text]
    wanted = {"spans": "--question", "choice": "--choice"}
    for head, flag in wanted.items():
        if bool(getattr(a, flag[2:])) != (task == head):
            raise ValueError(f"{flag} goes with a head of {head}, and only with it; this is {task}")
    if a.pair and task != "classify":
        raise ValueError(f"--pair goes with classes and pairs; the model's head is for {task}")
    if a.pair and len(a.pair) not in (1, len(lines)):
        raise ValueError(f"{len(a.pair)} --pair for {len(lines)} texts; give one, or one for each")
    if not lines:
        raise ValueError("there is no text")
    if task == "spans":
        return [(a.question, text) for text in lines]
    if task == "choice":
        return [(text, a.choice) for text in lines]
    if task == "tokens":
        return [tuple(text.split()) for text in lines]
    if a.pair:
        return list(zip(lines, a.pair * (len(lines) // len(a.pair)), strict=True))
    return [(text,) for text in lines]


def show(found: dict):
    """Prints what was found of a text."""
    if "value" in found:
        print(f"  {found['value']:.4f}")
    elif "answer" in found:
        margin = "no span" if found["margin"] is None else f"{found['margin']:+.2f} against none"
        print(f"  {found['answer']!r}  ({margin})")
    elif "tags" in found:
        pairs = zip(found["words"], found["tags"], strict=True)
        print("  " + " ".join(f"{word}/{tag or '-'}" for word, tag in pairs))
    for chances in found.get("masks", [found.get("classes", [])]):
        for name, p in chances:
            print(f"  {p:.3f}  {name}")


def main(argv=None) -> int:
    a = arguments(argv)
    if a.top < 1:
        raise ValueError(f"--top is {a.top}; expected at least 1")
    reader = Reader(a.source)
    if reader.o.head == "pair" and not a.pair:
        raise ValueError("this head judges whether one text follows another; give it with --pair")
    texts = given(a, reader.task)
    for text, found in zip(texts, predict(reader, texts, a.top, a.truncate), strict=True):
        if a.json:
            print(json.dumps(found, ensure_ascii=False))
            continue
        print(" ".join(text) if reader.task == "tokens" else text[reader.task == "spans"])
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
