"""Masking statistics over many draws: shares, units, special tokens, the law of n-gram lengths."""

import numpy as np
import pytest

from train.data import corruption, denoising
from train.data.corruption import Masking

MASK, ORDINARY = 99, np.arange(10, 90)
N = 120


def row(rng):
    """(tokens, starts, eligible): [CLS] and [SEP] at 0, 60 and the end, words of 1 to 4 pieces."""
    tokens = rng.integers(10, 90, N)
    eligible = np.ones(N, bool)
    eligible[[0, 60, N - 1]] = False
    tokens[~eligible] = 1
    starts, at = np.zeros(N, bool), 0
    while at < N:
        starts[at] = True
        at += int(rng.integers(1, 5))
    starts[~eligible] = True
    starts[1:] |= ~eligible[:-1]
    return tokens, starts, eligible


def draws(masking, count=400):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        tokens, starts, eligible = row(rng)
        out, slots, targets, weights = corruption.corrupt(
            tokens, starts, eligible, rng, masking, MASK, ORDINARY, masking.room(N)
        )
        k = int(weights.sum())
        yield tokens, starts, eligible, out, slots[:k], targets[:k]


@pytest.mark.parametrize("unit", corruption.UNITS)
def test_fifteen_percent_are_predicted_of_which_80_10_10(unit):
    predicted = ordinary = 0
    kinds = np.zeros(3)
    for tokens, _, eligible, out, slots, targets in draws(Masking(unit=unit)):
        predicted, ordinary = predicted + len(slots), ordinary + eligible.sum()
        np.testing.assert_array_equal(targets, tokens[slots])
        untouched = np.setdiff1d(np.arange(N), slots)
        np.testing.assert_array_equal(out[untouched], tokens[untouched])
        masked, kept = out[slots] == MASK, out[slots] == tokens[slots]
        kinds += masked.sum(), (~masked & ~kept).sum(), kept.sum()
    assert predicted / ordinary == pytest.approx(0.15, abs=0.002)
    shares = kinds / kinds.sum()
    error = 4 * np.sqrt(0.1 * 0.9 / kinds.sum())
    lucky = 0.1 / len(ORDINARY)  # a random token is the old one now and then
    np.testing.assert_allclose(shares, (0.8, 0.1 - lucky, 0.1 + lucky), atol=1.4 * error)


def test_each_slot_is_as_likely_as_another():
    hits = np.zeros(N)
    for *_, slots, _ in draws(Masking(), 3000):
        hits[slots] += 1
    inside = hits[np.setdiff1d(np.arange(N), [0, 60, N - 1])] / 3000
    assert np.abs(inside - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 3000)


@pytest.mark.parametrize("unit", corruption.UNITS)
def test_special_tokens_are_never_chosen(unit):
    for *_, eligible, _, slots, _ in draws(Masking(unit=unit, rate=0.5)):
        assert eligible[slots].all() and len(set(slots.tolist())) == len(slots)


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_are_whole(unit):
    for _, starts, _, _, slots, _ in draws(Masking(unit=unit)):
        word = np.cumsum(starts)
        for number in np.unique(word[slots]):
            assert np.isin(np.flatnonzero(word == number), slots).all()


def test_pieces_of_one_word_draw_apart():
    mixed = 0
    for _, starts, _, out, slots, _ in draws(Masking(unit="word")):
        word = np.cumsum(starts)[slots]
        mixed += any(len(set(out[slots][word == w] == MASK)) == 2 for w in set(word.tolist()))
    assert mixed > 100


def test_ngram_lengths_follow_one_over_n():
    lengths = corruption.ngram_lengths(20000, 3, np.random.default_rng(0))
    law = np.array([6, 3, 2]) / 11
    found = np.bincount(lengths, minlength=4)[1:] / 20000
    np.testing.assert_allclose(found, law, atol=4 * np.sqrt(0.25 / 20000))


def test_ngrams_in_a_long_row_follow_the_law():
    """Runs of masked words: n-grams lie sparse in a long row, so that runs are nearly n-grams."""
    counts, n = np.zeros(4), 100_000
    starts, eligible = np.ones(n, bool), np.ones(n, bool)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        slots = corruption.choose(starts, eligible, rng, Masking(unit="ngram", rate=0.005))
        runs = np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1)
        counts += np.bincount([min(len(run), 4) for run in runs], minlength=5)[1:]
    law = np.array([6, 3, 2]) / 11
    np.testing.assert_allclose(counts[:3] / counts.sum(), law, atol=0.04)
    assert counts[3] < 0.02 * counts.sum()


def test_an_ngram_does_not_cross_a_special_token():
    eligible = np.ones(9, bool)
    eligible[[0, 3, 6]] = False
    for seed in range(300):
        rng = np.random.default_rng(seed)
        masking = Masking(unit="ngram", rate=0.5)
        slots = corruption.choose(np.ones(9, bool), eligible, rng, masking)
        assert eligible[slots].all()


def test_no_more_than_most_and_at_least_one():
    for *_, slots, _ in draws(Masking(most=5), 50):
        assert len(slots) == 5
    rng = np.random.default_rng(0)
    one = corruption.choose(np.ones(3, bool), np.array([False, True, False]), rng, Masking())
    assert one.tolist() == [1]
    assert not len(corruption.choose(np.ones(2, bool), np.zeros(2, bool), rng, Masking()))


def test_a_word_longer_than_the_budget_is_taken_whole_or_not_at_all():
    starts, eligible = np.zeros(8, bool), np.ones(8, bool)
    starts[[0, 3]] = True
    rng = np.random.default_rng(0)
    choose = lambda room: corruption.choose(starts, eligible, rng, Masking(unit="word"), room)
    assert choose(0).tolist() == choose(3).tolist() == [0, 1, 2]
    assert choose(2).tolist() == []


def test_the_same_generator_gives_the_same_row():
    first, again = ([x[3] for x in draws(Masking(unit="ngram"), 3)] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("field", "words"),
    [({"rate": 0.0}, "rate"), ({"mask": 0.95}, "random"), ({"mask": float("nan")}, "mask=nan"),
     ({"random": float("nan")}, "random=nan"), ({"rate": float("nan")}, "rate"), ({"unit": "span"}, "unit"),
     ({"longest": 0}, "longest")],
)  # fmt: skip
def test_what_cannot_be_is_refused(field, words):
    with pytest.raises(ValueError, match=words):
        Masking(**field)


def test_what_encoder_decoders_are_trained_on_is_at_hand():
    tokens = np.arange(20, 50)
    one, two = (
        room.span_corrupt(tokens, np.random.default_rng(0), 999, 1)
        for room in (corruption, denoising)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert set(corruption.__all__) <= set(vars(corruption))
