"""What is asked of an encoder-decoder: its loss by hand, rows in order, the paper's limits."""

import jax
import numpy as np
import pytest

from eval import translate
from models import families
from models.build import build, example
from models.options import Options
from train.data import pairs

HOW = {"beams": 2, "alpha": 0.6, "rule": "gnmt", "limit": 0}


@pytest.fixture(scope="module")
def made():
    """(model, variables, data): five pairs in batches of two, the last one filled."""
    row = families.row(
        "transformer", "base", vocab=30, context=12, layers=1, width=16, heads=2, ff=32
    )
    model = build(Options.of(row))
    variables = jax.jit(model.init)(jax.random.key(0), example(model.o))
    draw = np.random.default_rng(0)
    rows = [[*draw.integers(1, 30, 4), 0] for _ in range(5)]
    words = [" ".join(map(str, r[:-1])) for r in rows]
    kept = pairs.Pairs(rows, rows[::-1], words, words[::-1], 0, 0, 8)
    data = {
        "batches": kept.batches(2, pairs.buckets(8)),
        "references": kept.references,
        "decode": lambda ids: " ".join(map(str, ids)),
        "eos": (0,),
    }
    return model, variables, data


def test_the_loss_is_that_of_the_references(made):
    model, variables, data = made
    found = translate.loss(model)(variables, data["batches"])
    nats, count = 0.0, 0
    for batch in data["batches"]:
        given = {name: batch[name] for name in ("tokens", "mask", "decoder_tokens")}
        logs = jax.nn.log_softmax(model.apply(variables, given)["logits"])
        chosen = np.take_along_axis(np.asarray(logs), batch["targets"][..., None], -1)[..., 0]
        nats, count = nats - (chosen * batch["weights"]).sum(), count + batch["weights"].sum()
    assert count == 25
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-4)


def test_every_row_is_written_once_in_order_and_fillers_are_not(made):
    model, variables, data = made
    texts = translate.search(model, variables, data["batches"], data["decode"], (0,), HOW)
    alone = translate.search(model, variables, data["batches"][1:2], data["decode"], (0,), HOW)
    assert len(texts) == 5 and alone == texts[2:4]
    found = translate.build(model, data, HOW)(variables)
    assert found["exact"] == 0.0 and {"bleu", "chrf", "rougeL", "loss"} <= set(found)
    same = {**data, "references": texts}
    kept = []
    limited = translate.build(model, same, {**HOW, "limit": 3}, keep=kept.extend)(variables)
    assert limited["exact"] == 100.0 and kept == texts[:3]
    assert set(translate.build(model, data, {**HOW, "limit": -1})(variables)) == {
        "loss",
        "perplexity",
    }


def test_a_row_is_written_alike_however_far_its_batch_is_padded(made, monkeypatch):
    """Its limit is its own source's length + 50 (here + 2), not the batch's."""
    model, variables, data = made
    monkeypatch.setattr(translate, "EXTRA", 2)
    narrow = {name: data["batches"][0][name] for name in ("tokens", "mask", "rows")}
    wide = {name: np.pad(narrow[name], ((0, 0), (0, 5))) for name in ("tokens", "mask")}
    narrow["mask"][1, 3:] = 0
    wide["mask"][1, 3:] = 0
    for beams in (1, 2):
        one, two = (
            translate.search(model, variables, [batch], data["decode"], (), {**HOW, "beams": beams})
            for batch in (narrow, {**wide, "rows": narrow["rows"]})
        )
        assert one == two and [len(text.split()) for text in one] == [7, 5]


def test_nothing_is_written_that_the_tokenizer_lacks(made):
    model, variables, data = made
    every = translate.search(model, variables, data["batches"], data["decode"], (0,), HOW)
    assert max(int(id) for text in every for id in text.split()) >= 3
    found = translate.search(model, variables, data["batches"], data["decode"], (0,), HOW, 3)
    assert all(int(id) < 3 for text in found for id in text.split())
    masked = {**data, "decode": lambda ids: str(max(ids, default=0) < 3), "known": 3}
    kept = []
    translate.build(model, masked, HOW, keep=kept.extend)(variables)
    assert kept == ["True"] * 5


def test_targets_end_fifty_tokens_after_their_sources_or_with_the_table():
    learned = Options.of(families.row("bart", "base"))
    for o, source, most in (
        (Options.of(families.row("t5", "small")), 600, 650),
        (learned, 20, 70),
        (learned, 1000, 1023),
    ):
        s = translate.settings(o, 4, 0.6, "gnmt", source, (1,))
        assert s.max_new_tokens == most and s.num_beams == 4 and s.length_rule == "gnmt"
