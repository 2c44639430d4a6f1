"""What a fine-tuned encoder gets right: one evaluator for every task but search.

classify: accuracy, f1 (of the second label of two; else the mean over labels), matthews, loss.
regress: pearson, spearman, mean squared error. choice: accuracy. tokens: accuracy, and precision,
recall and F1 of entities where the labels are IOB or IOBES tags (an entity in words that a row has no room for
is missed; accuracy is of the words that are read). spans: exact match and F1 of answers. Where pairs are
the candidates of queries (a cross-encoder), mrr, recall@k and ndcg@10 (`eval.retrieval`).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eval import entities, metrics, retrieval, spans
from models.heads import last_real
from models.likelihood import pick
from models.masks import before_separator

LABELS = ("targets", "weights", "rows")


def inputs(batch: Mapping, o, task: str) -> dict:
    """What the model reads of a batch. Of a Longformer some tokens see the whole row, those that the
    reference takes: [CLS] and the question before its separators, or each choice; the rest of the heads'
    are the model's own (`Encoder.features`)."""
    left = LABELS + (() if o.token_types > 1 else ("token_types",))
    given = {name: x for name, x in batch.items() if name not in left}
    if o.windows and task == "spans":
        separator = jnp.take_along_axis(batch["tokens"], last_real(batch["mask"])[:, None], 1)
        given["global_mask"] = batch["mask"] * before_separator(batch["tokens"], separator)
    if o.windows and task == "choice":
        given["global_mask"] = batch["mask"] * (batch["token_types"] == 1)
    return given


def outputs(model, variables, batch, task: str, **more):
    """The scores of a batch, float32; what is padding scores -1e9 as the end of a span."""
    given = inputs(batch, model.o, task)
    scores = model.apply(variables, given, method="judged", **more)
    if task == "spans":
        scores = jnp.where(batch["mask"][..., None] > 0, scores, -1e9)
    return scores


def collect(score: Callable, variables, batches, place: Callable | None = None) -> np.ndarray:
    """The outputs of all rows that count, in order: float32 [N, ...], on every process."""
    kept = []
    for batch in batches:
        made, real = score(variables, place(batch) if place else batch), batch["rows"]
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            made = multihost_utils.process_allgather(made, tiled=True)
            real = multihost_utils.process_allgather(real, tiled=True)
        kept.append(np.asarray(made)[np.asarray(real) > 0])
    return np.concatenate(kept)


def build(model, task: str, data: Mapping, place: Callable | None = None) -> Callable:
    """`run(variables) -> {name: float}`.

    data: `batches` (with `rows`, 0 for a row that only fills), `targets` of all rows, `labels`, and
    for spans `windows`, `texts`, `golds`; `threshold`, `longest` are optional, and for tokens `tags`,
    the targets with the words that no slot reads, at slot -1. So are `groups` and `relevant` [N]: rows
    of a group are ranked by the number or by the second label's odds.
    """

    @jax.jit
    def score(variables, batch):
        return outputs(model, variables, batch, task)

    def run(variables) -> dict:
        found = collect(score, variables, data["batches"], place)
        named = SCORES[task](found, data)
        if "groups" in data:
            value = found[:, -1] - (found[:, 0] if found.shape[1] == 2 else 0)
            named.update(retrieval.ranked(value, data["relevant"], data["groups"]))
        return named

    return run


def _classify(found, data) -> dict:
    gold, labels = np.asarray(data["targets"]), found.shape[1]
    guess = found.argmax(1)
    return {
        "accuracy": metrics.accuracy(guess, gold),
        "f1": metrics.f1(guess, gold, labels, "binary" if labels == 2 else "macro"),
        "matthews": metrics.matthews(guess, gold, labels),
        "loss": float(-np.mean(pick(jnp.asarray(found), jnp.asarray(gold, jnp.int32)))),
    }


def _regress(found, data) -> dict:
    gold, guess = np.asarray(data["targets"], np.float64), found[:, 0]
    return {
        "pearson": metrics.pearson(guess, gold),
        "spearman": metrics.spearman(guess, gold),
        "squared_error": float(np.mean((guess - gold) ** 2)),
    }


def _choice(found, data) -> dict:
    return {"accuracy": metrics.accuracy(found.argmax(1), np.asarray(data["targets"]))}


def _tokens(found, data) -> dict:
    labels, guess = data["labels"], found.argmax(-1)
    ours, gold = [], []
    for row, pairs in zip(guess, data["targets"], strict=True):
        gold += [label for _, label in pairs]
        ours += [int(row[slot]) for slot, _ in pairs]
    out = {"accuracy": metrics.accuracy(ours, gold)}
    if entities.tagged(labels):
        out.update(_entities(guess, data))
    return out


def _entities(guess, data) -> dict:
    """Of whole sentences: a word that was cut off, or that no token stands for, is predicted as O."""
    labels, ours, gold = data["labels"], [], []
    for row, pairs in zip(guess, data.get("tags", data["targets"]), strict=True):
        gold.append([labels[label] for _, label in pairs])
        ours.append([labels[row[slot]] if slot >= 0 else "O" for slot, _ in pairs])
    return entities.scores(ours, gold)


def _spans(found, data) -> dict:
    answers = spans.answers(found, data["windows"], data["texts"], data.get("longest", 30))
    return spans.scores(answers, data["golds"], data.get("threshold", 0.0))


SCORES = {
    "classify": _classify,
    "regress": _regress,
    "choice": _choice,
    "tokens": _tokens,
    "spans": _spans,
}
NAMES = {
    "classify": ("accuracy", "f1", "matthews", "loss"),
    "regress": ("pearson", "spearman", "squared_error"),
    "choice": ("accuracy",),
    "tokens": ("accuracy", "precision", "recall", "f1"),
    "spans": ("exact", "f1", "no_answer", "has_answer_f1", "best_f1", "best_threshold"),
    "embed": retrieval.NAMES,
}


def names(task: str, labels=(), ranked: bool = False) -> tuple:
    """Every metric that an evaluation of a task can have; some depend on what the rows hold."""
    found = NAMES[task]
    if task == "tokens" and not entities.tagged(labels):
        found = found[:1]
    elif task == "tokens":
        kinds = dict.fromkeys(str(tag)[2:] for tag in labels if tag != "O")
        found += tuple(f"f1/{kind}" for kind in kinds)
    return (*found, *(retrieval.NAMES if ranked else ()))
