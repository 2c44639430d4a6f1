"""Packing: TRL's goldens, bijections, exact mixtures."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from train.data import packing

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "packing.json").read_text())
DOCUMENTS = GOLDEN["inputs"]["input_ids"]


def pack(documents, size):
    document, start, length = packing.split([len(d) for d in documents], size)
    pieces = [documents[d][s : s + n] for d, s, n in zip(document, start, length)]
    rows = packing.best_fit(length, size)
    tokens = [[token for piece in row for token in pieces[piece]] for row in rows]
    return {"input_ids": tokens, "seq_lengths": [[len(pieces[p]) for p in row] for row in rows]}


@pytest.mark.parametrize("size", [4, 6])
def test_rows_equal_the_peers(size):
    assert pack(DOCUMENTS, size) == GOLDEN["outputs"][f"bfd_split_{size}"]
    cut = [document[:size] for document in DOCUMENTS]
    assert pack(cut, size) == GOLDEN["outputs"][f"bfd_{size}"]
    joined = [token for document in DOCUMENTS for token in document]
    assert packing.wrap(joined, size) == GOLDEN["outputs"][f"wrapped_{size}"]["input_ids"]


@pytest.mark.parametrize("seed", range(5))
def test_every_piece_is_packed_once_and_fits(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 70))
    lengths = rng.integers(0, 3 * size, 400)
    document, start, length = packing.split(lengths, size)
    assert np.array_equal(np.bincount(document, length, 400), lengths)
    assert all(start[1:][document[1:] == document[:-1]] > 0)
    rows = packing.best_fit(length, size)
    assert sorted(piece for row in rows for piece in row) == list(range(len(length)))
    assert max(length[row].sum() for row in map(np.array, rows)) <= size
    half = sum(length[row].sum() * 2 <= size for row in map(np.array, rows))
    assert half <= 1


def test_a_piece_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        packing.best_fit([3, 9], 8)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 1000, 4097])
def test_permutations_are_bijections_that_depend_on_the_key(count):
    index = np.arange(count)
    orders = [packing.permute(index, count, key) for key in (1, 2)]
    for order in orders:
        assert sorted(order.tolist()) == index.tolist()
    if count > 5:
        assert np.any(orders[0] != orders[1])
        assert abs(np.corrcoef(orders[0], index)[0, 1]) < 0.4
    assert packing.permute(count - 1, count, 1) == orders[0][-1]


def test_the_order_never_changes():
    """Resumed runs rely on these numbers: a change here is a change of every stream."""
    assert packing.mix(1, 2, 3) == 0x48CF5028B6DF10DB
    assert packing.permute(np.arange(8), 8, 7).tolist() == [0, 1, 3, 6, 5, 7, 2, 4]


def test_mixtures_are_exact_in_every_block_and_use_each_sample_once():
    counts = packing.shares([0.7, 0.2, 0.1])
    assert counts.sum() == packing.BLOCK
    np.testing.assert_allclose(counts / packing.BLOCK, [0.7, 0.2, 0.1], atol=2e-4)
    samples = np.arange(3 * packing.BLOCK)
    source, rank = packing.assign(samples, counts, 5)
    for block in np.split(source, 3):
        assert [Counter(block.tolist())[k] for k in range(3)] == counts.tolist()
    for number in range(3):
        assert sorted(rank[source == number].tolist()) == list(range(3 * counts[number]))
    first, second, _ = np.split(source, 3)
    assert np.any(first != second)
    picked = np.array([9000, 3, 20000])
    again = packing.assign(picked, counts, 5)
    assert np.array_equal(again[0], source[picked]) and np.array_equal(again[1], rank[picked])


def test_a_rare_source_still_comes():
    assert packing.shares([1.0, 1e-9]).tolist() == [packing.BLOCK - 1, 1]


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [float("nan")]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="positive"):
        packing.shares(weights)
