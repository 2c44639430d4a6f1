"""The masked-token stream and its held-out batches."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from train.data import masked, text

DATA = dict(source="vader-movies", tokenizer="wordpiece:600", packing="full_sentences", pair="none")


def config(**data):
    data = {**DATA, "heldout": ("1*",), **data}
    return ConfigDict(dict(seed=3, batch=8, length=32, data=data))


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(config(), encoder=True)


def test_a_batch_is_a_function_of_the_step_and_processes_share_it(tokenizer):
    stream = masked.open_stream(config(), tokenizer)
    batch = stream.batch(5)
    assert {name: (x.shape, str(x.dtype)) for name, x in batch.items()} == {
        "tokens": ((8, 32), "int32"), "mask": ((8, 32), "int32"),
        "token_types": ((8, 32), "int32"), "slots": ((8, 5), "int32"),
        "targets": ((8, 5), "int32"), "weights": ((8, 5), "float32"),
    }  # fmt: skip
    again = masked.open_stream(config(), tokenizer)
    parts = [masked.open_stream(config(), tokenizer, "train", p, 2).batch(5) for p in (0, 1)]
    for name, x in batch.items():
        np.testing.assert_array_equal(again.batch(5)[name], x)
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x)


def epoch(stream, number):
    """{the row's own text: its masked tokens} of one epoch."""
    count, found = stream.windows(32)[0].count, {}
    steps = range(number * count // 8 + 1, (number + 1) * count // 8 - 1)
    for step in steps:
        batch = stream.batch(step)
        for row in range(8):
            tokens = batch["tokens"][row].copy()
            k = int(batch["weights"][row].sum())
            tokens[batch["slots"][row, :k]] = batch["targets"][row, :k]
            found[tuple(tokens)] = tuple(batch["tokens"][row])
    return found


@pytest.mark.parametrize(("static", "same"), [(0, False), (1, True)])
def test_static_masks_come_back_and_dynamic_ones_do_not(tokenizer, static, same):
    made = config(masking={"static": static}, heldout=("1*", "2*", "3*", "4*", "5*", "6*"))
    stream = masked.open_stream(made, tokenizer)
    first, second = epoch(stream, 0), epoch(stream, 1)
    both = [text for text in first if text in second]
    assert len(both) > 100
    share = np.mean([first[text] == second[text] for text in both])
    assert share == 1.0 if same else share < 0.05


def test_heldout_rows_are_scored_once_with_the_same_masks(tokenizer):
    made, again = (masked.heldout(config(), tokenizer, 32, 8) for _ in range(2))
    assert made["rows"] == sum(b["rows"].sum() for b in made["batches"])
    assert made["targets"] == sum(b["weights"].sum() for b in made["batches"])
    for a, b in zip(made["batches"], again["batches"], strict=True):
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
    halves = [masked.heldout(config(), tokenizer, 32, 8, p, 2)["batches"] for p in (0, 1)]
    whole = np.concatenate([halves[0][-1]["weights"], halves[1][-1]["weights"]])
    np.testing.assert_array_equal(whole, made["batches"][-1]["weights"])
    assert masked.heldout(config(), tokenizer, 32, 8, limit=2)["rows"] == 16


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (dict(pair="order"), "do not go together"),
        (dict(packing="pairs"), "do not go together"),
        (dict(pair="nxt", packing="pairs"), "expected none, next or order"),
        (dict(packing="sentences"), "not one of"),
        (
            dict(pair="next", packing="pairs", short=-0.5),
            "data.short is -0.5; expected 0 <= x <= 1",
        ),
        (dict(masking={"static": -1}), "data.masking.static is -1; expected at least 0"),
        (dict(masking={"unti": "word"}), "did you mean"),
        (dict(masking={"unit": "words"}), "token, word, ngram"),
    ],
)
def test_what_is_wrong_is_named(tokenizer, data, words):
    with pytest.raises(ValueError, match=words):
        masked.open_stream(config(**data), tokenizer)
