"""Held-out answers: the loss is of tokens, not of rows or batches, and what fills a batch is not counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import answers
from tests.models import tiny


def test_the_loss_is_of_all_tokens_and_fillers_do_not_count():
    o, model, variables = tiny.model("gpt2")
    variables = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, variables)
    length = 8
    whole = jax.jit(lambda tokens: model.apply(variables, {"tokens": tokens})["logits"][0])
    logits = lambda row: whole(jnp.asarray([[*row, *[0] * (length - len(row))]]))[: len(row)]
    rows = [[3, 9, 4, 1], [5, 2, 8, 8, 7, 6, 1], [4, 7]]
    for _ in range(3):  # the last is what the model would write
        rows[2].append(int(np.argmax(logits(rows[2])[-1])))
    starts = (2, 1, 2)
    nats, counts = [], []
    for row, start in zip(rows, starts, strict=True):
        each = jax.nn.log_softmax(logits(row), -1)
        nats.append(-sum(float(each[t - 1, row[t]]) for t in range(start, len(row))))
        counts.append(len(row) - start)

    def make(numbers):
        made = {name: np.zeros((len(numbers), length), np.int32) for name in ("tokens", "mask")}
        made["weights"] = np.zeros((len(numbers), length), np.float32)
        for at, number in enumerate(numbers):
            row, start = rows[number], starts[number]
            made["tokens"][at, : len(row)], made["mask"][at, : len(row)] = row, 1
            made["weights"][at, start : len(row)] = 1
        return made

    batches = answers.every(make, 3, 2)
    assert [batch["rows"].tolist() for batch in batches] == [[1, 1], [1, 0]]
    found = answers.build(model, batches)(variables)
    assert found["loss"] == pytest.approx(sum(nats) / sum(counts), rel=1e-4)
    means = [(nats[0] + nats[1]) / (counts[0] + counts[1]), nats[2] / counts[2]]
    assert abs(np.mean(means) - found["loss"]) > 0.01, "a mean of batches would be another number"
    assert found["tokens"] == sum(counts) and found["right"] == pytest.approx(1 / 3)
    assert set(found) == set(answers.NAMES)
