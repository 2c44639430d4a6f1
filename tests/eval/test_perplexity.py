"""Held-out likelihood counts every target once and divides by the text, not by tokens."""

import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from eval import perplexity
from models import families
from models.build import build, example
from models.options import Options

OPTIONS = Options.of(
    {**families.row("gpt2", "124m"), "vocab": 16, "context": 8, "layers": 1, "width": 8, "heads": 2}
)


def config(batches=0):
    return ConfigDict({"eval": {"every": 0, "batches": batches, "first": False}})


def data(count=3):
    r = np.random.default_rng(0)
    batches = [
        {
            "tokens": r.integers(0, 16, (2, 8)).astype(np.int32),
            "targets": r.integers(0, 16, (2, 8)).astype(np.int32),
            "weights": (r.random((2, 8)) < 0.7).astype(np.float32),
            "mask": np.ones((2, 8), np.int32),
        }
        for _ in range(count)
    ]
    tokens = int(sum(b["weights"].sum() for b in batches))
    return {"batches": batches, "tokens": tokens, "characters": 100, "bytes": 130, "names": ["a"]}


@pytest.fixture(scope="module")
def variables():
    made = build(OPTIONS).init(jax.random.key(0), example(OPTIONS))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), made)


def by_hand(model, variables, batches):
    nats = 0.0
    for b in batches:
        logits = np.asarray(model.apply(variables, {"tokens": b["tokens"]})["logits"], np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = np.take_along_axis(log_probs, b["targets"][..., None], -1)[..., 0]
        nats -= (chosen * b["weights"]).sum()
    return nats


def test_against_the_formula(variables):
    model, held = build(OPTIONS), data()
    found = perplexity.build(config(), model, None, held)(variables)
    nats = by_hand(model, variables, held["batches"])
    assert found["loss"] == pytest.approx(nats / held["tokens"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / held["tokens"]), rel=1e-5)
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / 100, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 130, rel=1e-5)
    assert found["tokens"] == held["tokens"]


def test_fewer_batches_take_characters_in_proportion(variables):
    model, held = build(OPTIONS), data()
    found = perplexity.build(config(batches=2), model, None, held)(variables)
    part = held["batches"][:2]
    tokens = sum(b["weights"].sum() for b in part)
    nats = by_hand(model, variables, part)
    characters = 100 * tokens / held["tokens"]
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, rel=1e-5)


def test_dropout_is_off_and_runs_repeat(variables):
    run = perplexity.build(config(), build(OPTIONS), None, data())
    assert run(variables) == run(variables)


def test_it_is_compiled_once(variables):
    held, seen = data(), []
    model = build(OPTIONS)

    class Counting:
        def apply(self, *args, **kwargs):
            seen.append(kwargs["method"])
            return model.apply(*args, **kwargs)

    run = perplexity.build(config(), Counting(), None, held)
    run(variables)
    once = len(seen)
    run(variables)
    assert len(seen) == once


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no targets"):
        perplexity.build(config(), build(OPTIONS), None, {**data(), "tokens": 0})
    with pytest.raises(ValueError, match="no targets"):
        perplexity.build(config(), build(OPTIONS), None, {**data(0), "tokens": 5})
