"""What an encoder-decoder writes: searched for by beams and held against the references.

Translations, summaries and answers alike: `loss` and `perplexity` of the references, then BLEU,
chrF, ROUGE and exact match of what the search finds.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eval import overlap
from models.generate import apart, generate
from models.likelihood import token_log_probs
from models.settings import Settings, unused

EXTRA = 50  # a target is at most so much longer than its source (Vaswani et al. 2017, section 6.1)


def settings(
    o, beams: int, alpha: float, rule: str, source: int, eos: tuple, known: int = 0
) -> Settings:
    """The paper's search: `beams`, length penalty alpha, at most source + 50 new tokens, of the
    tokenizer's `known` ones (0: of all that the model has)."""
    room = (
        o.context - 1 if o.positions in ("learned", "sinusoidal", "sinusoidal_halves") else 1 << 20
    )
    return Settings(
        max_new_tokens=min(source + EXTRA, room), eos=eos, num_beams=beams, length_penalty=alpha,
        length_rule=rule, early_stopping="never", suppress=unused(known or o.vocab, o.vocab),
    )  # fmt: skip


def search(model, variables, batches, decode: Callable, eos: tuple, how: Mapping, known=0) -> list:
    """The texts found for every row that counts, in order.

    batches: dicts with `tokens`, `mask` [B,S] and `rows` [B] (0: only fills). how: `beams`, `alpha`
    and `rule`, see `settings`, as for `known`. A row's limit is its own source's length + 50, however
    far its batch is padded.
    """
    model, variables = apart(model, jax.device_get(variables))
    texts = []
    for batch in batches:
        tokens = np.asarray(batch["tokens"])
        s = settings(model.o, how["beams"], how["alpha"], how["rule"], tokens.shape[1], eos, known)
        limits = np.sum(batch["mask"], axis=1) + EXTRA
        made = generate(model, variables, tokens, batch["mask"], s, limits=limits)
        for ids, real in zip(made.new(), np.asarray(batch["rows"]), strict=True):
            if real:
                texts.append(decode(ids[~np.isin(ids, eos)]))
    return texts


def loss(model, place: Callable | None = None) -> Callable:
    """`run(variables, batches) -> {loss, perplexity}`: nats per target token, not smoothed."""

    @jax.jit
    def score(variables, batch):
        given = {k: v for k, v in batch.items() if k not in ("targets", "weights", "rows")}
        x, _ = model.apply(variables, given, method="features")
        head = lambda x: model.apply(variables, x, method="logits")
        found = token_log_probs(head, x, batch["targets"])
        return -jnp.sum(found * batch["weights"]), jnp.sum(batch["weights"])

    def run(variables, batches) -> dict:
        sums = [score(variables, place(b) if place else b) for b in batches]
        nats = math.fsum(float(n) for n, _ in sums) / math.fsum(float(c) for _, c in sums)
        return {"loss": nats, "perplexity": math.exp(min(nats, 700.0))}

    return run


def names(how: Mapping) -> tuple:
    """What `build`'s run says."""
    return ("loss", "perplexity", *(() if how["limit"] < 0 else scores(["a"], ["a"])))


def build(model, data: Mapping, how: Mapping, place=None, keep=None) -> Callable:
    """`run(variables) -> {name: float}`.

    data: `batches` (see `search`; with `decoder_tokens`, `targets`, `weights` as well), `references`,
    `decode(ids) -> str`, `eos`, `known` (see `search`). how["limit"]: so many rows are searched for
    (0: all; -1: none). `place` puts a batch on the devices; `keep` gets the texts.
    """
    measure, limit = loss(model, place), how["limit"]

    def run(variables) -> dict:
        out = measure(variables, data["batches"])
        if limit < 0:
            return out
        chosen, rows = [], 0
        for batch in data["batches"]:
            if limit and rows >= limit:
                break
            left = limit - rows if limit else None
            chosen.append({name: x[:left] for name, x in batch.items()})
            rows += int(np.sum(chosen[-1]["rows"]))
        known = data.get("known", 0)
        texts = search(model, variables, chosen, data["decode"], data["eos"], how, known)
        if keep:
            keep(texts)
        return out | scores(texts, data["references"][: len(texts)])

    return run


def scores(texts, references) -> dict:
    """Every measure of overlap by its name."""
    return {
        "bleu": overlap.bleu(texts, references),
        "chrf": overlap.chrf(texts, references),
        "exact": overlap.exact(texts, references),
        **overlap.rouge(texts, references),
    }
