"""Masked accuracy and pseudo-perplexity against loops over the plain model."""

import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from eval import masked
from models import families
from models.build import build, example
from models.options import Options

SIZE = {"vocab": 20, "context": 8, "layers": 1, "width": 8, "heads": 2, "ff": 16}
OPTIONS = Options.of({**families.row("bert", "base"), **SIZE, "head": "pretrain"})
FRAME = types.SimpleNamespace(cls=0, sep=1, pad=2, mask=3)


@pytest.fixture(scope="module")
def variables():
    made = build(OPTIONS).init(jax.random.key(0), example(OPTIONS))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), made)


def batches():
    r = np.random.default_rng(0)
    made = []
    for filled in (3, 2):
        real = np.arange(8) < np.array([8, 6, 5])[:, None]
        tokens = np.where(real, r.integers(4, 20, (3, 8)), 2).astype(np.int32)
        tokens[:, 0] = 0
        made.append({
            "tokens": tokens, "mask": real.astype(np.int32),
            "token_types": np.zeros((3, 8), np.int32),
            "slots": np.array([[1, 3], [2, 4], [1, 2]], np.int32),
            "targets": r.integers(4, 20, (3, 2)).astype(np.int32),
            "weights": np.array([[1, 1], [1, 0], [filled == 3] * 2], np.float32),
            "pair": np.array([0, 1, 1], np.int32),
            "rows": (np.arange(3) < filled).astype(np.float32),
        })  # fmt: skip
    return made


def logs(variables, tokens, mask, name):
    given = {"tokens": tokens[None], "mask": mask[None], "token_types": np.zeros_like(mask)[None]}
    x = np.asarray(build(OPTIONS).apply(variables, given)[name], np.float64)[0]
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("data", "name"),
    [({"pair": "next"}, "next_sentence"), ({"pair": "order"}, "sentence_order"), ({}, "pair")],
)
def test_figures_of_pairs_say_which_pairs(data, name):
    assert masked.pair(ConfigDict({"data": data})) == name


def test_against_loops(variables):
    nats, hits, count, pairs = 0.0, 0, 0, []
    for b in batches():
        for row in range(int(b["rows"].sum())):
            found = logs(variables, b["tokens"][row], b["mask"][row], "logits")
            for slot, target, weight in zip(b["slots"][row], b["targets"][row], b["weights"][row]):
                nats -= weight * found[slot, target]
                hits += weight * (found[slot].argmax() == target)
                count += weight
            scores = logs(variables, b["tokens"][row], b["mask"][row], "scores")
            pairs.append((-scores[b["pair"][row]], scores.argmax() == b["pair"][row]))
    config = ConfigDict({"eval": {"batches": 0}, "data": {"pair": "order"}})
    run = masked.build(config, build(OPTIONS), None, {"batches": batches()})
    found = run(variables)
    assert found["targets"] == count == 8
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits / count)
    assert found["sentence_order_loss"] == pytest.approx(
        np.mean([nll for nll, _ in pairs]), rel=1e-5
    )
    assert found["sentence_order_accuracy"] == pytest.approx(np.mean([hit for _, hit in pairs]))


def test_pseudo_perplexity_masks_one_token_at_a_time(variables):
    nats = []
    b = batches()[0]
    for row in range(2):
        tokens = b["tokens"][row].copy()
        for slot, target, weight in zip(b["slots"][row], b["targets"][row], b["weights"][row]):
            tokens[slot] = target if weight else tokens[slot]
        for slot in np.flatnonzero((b["mask"][row] > 0) & (tokens > 2)):
            hidden = tokens.copy()
            hidden[slot] = 3
            nats.append(-logs(variables, hidden, b["mask"][row], "logits")[slot, tokens[slot]])
    found = masked.pseudo(build(OPTIONS), FRAME, batches(), rows=2, size=5)(variables)
    assert found["tokens"] == len(nats)
    assert found["pseudo_perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
