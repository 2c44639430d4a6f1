"""Span corruption and BART's noise: the papers' statistics, and that nothing is lost."""

import numpy as np
import pytest

from train.data import denoising
from train.data.denoising import Noise

FIRST, EOS, MASK = 999, 1, 2


def generator(*key):
    return np.random.default_rng(key)


def test_t5_s_lengths_are_the_paper_s():
    """512 source tokens come of 568 at 15 % and spans of 3, with targets of 114."""
    assert denoising.raw_length(512) == 568
    assert denoising.span_sizes(568, 0.15, 3.0) == (512, 114)
    assert denoising.span_sizes(569, 0.15, 3.0)[0] > 512


@pytest.mark.parametrize("length", [2, 3, 7, 40, 568])
def test_a_corrupted_row_and_its_target_are_the_original(length):
    tokens = generator(length).integers(3, 800, length).astype(np.int32)
    for seed in range(20):
        source, target = denoising.span_corrupt(tokens, generator(seed), FIRST, EOS)
        assert (len(source), len(target)) == denoising.span_sizes(length, 0.15, 3.0)
        assert source[-1] == target[-1] == EOS
        marks = source[source > 800]
        assert marks.tolist() == [FIRST - i for i in range(len(marks))]
        assert target[target > 800].tolist() == marks.tolist()
        assert source[0] == tokens[0] and target[0] == FIRST
        again = denoising.restore(source, target, FIRST, 100)
        assert np.array_equal(again, tokens)


def test_spans_cover_fifteen_percent_in_threes_everywhere_alike():
    masks = np.stack([denoising.span_mask(200, generator(seed)) for seed in range(3000)])
    assert (masks.sum(1) == 30).all()
    begins = masks[:, 1:] & ~masks[:, :-1]
    assert (begins.sum(1) == 10).all()
    inside = masks[:, 20:180].mean(0)
    assert abs(inside.mean() - 0.15) < 0.015 and inside.std() < 0.012
    assert masks[:, -1].all() and not masks[:, 0].any()


def test_all_partitions_are_equally_likely():
    rng, seen = generator(5), {}
    for _ in range(6000):
        key = tuple(denoising.partition(5, 3, rng).tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6 and sum(map(sum, seen)) == 30
    assert min(seen.values()) > 850 and max(seen.values()) < 1150


def test_infilling_masks_thirty_percent_in_poisson_spans_of_which_some_are_empty():
    sizes, places = [], np.zeros(100)
    for seed in range(2000):
        begins, lengths = denoising.infill_spans(100, generator(seed))
        assert lengths.sum() == 30
        assert (begins[1:] >= begins[:-1] + lengths[:-1]).all() and begins[-1] + lengths[-1] <= 100
        for begin, length in zip(begins, lengths):
            places[begin : begin + length] += 1
        drawn = generator(seed)  # the lengths as they were drawn: the last one may be cut
        whole = []
        while sum(whole) < 30:
            whole.append(int(drawn.poisson(3.0)))
        assert sorted(lengths) == sorted([*whole[:-1], 30 - sum(whole[:-1])])
        sizes += whole[:-1]
    assert abs(np.mean(np.equal(sizes, 0)) / np.exp(-3) - 1) < 0.15
    assert abs(places.mean() / 2000 - 0.3) < 1e-9 and places[5:95].std() / 2000 < 0.02


def test_an_infilled_row_has_a_mask_for_each_span_and_loses_only_the_spans():
    tokens = generator(0).integers(3, 800, 60)
    for seed in range(50):
        begins, lengths = denoising.infill_spans(60, generator(seed), 0.4)
        source = denoising.infill(tokens, begins, lengths, MASK)
        assert len(source) == 60 - lengths.sum() + len(lengths)
        assert (source == MASK).sum() == len(lengths)
        filled, at = [], 0
        for piece in np.split(source, np.flatnonzero(source == MASK)):
            if len(piece) and piece[0] == MASK:
                filled.append(tokens[begins[at] : begins[at] + lengths[at]])
                piece, at = piece[1:], at + 1
            filled.append(piece)
        assert np.array_equal(np.concatenate(filled), tokens)


def test_sentences_are_permuted_whole():
    tokens = np.asarray([5, 6, 9, 7, 9, 8, 8, 9, 4])
    seen = set()
    for seed in range(400):
        made = denoising.permute(tokens, tokens == 9, generator(seed))
        assert sorted(made) == sorted(tokens)
        seen.add(tuple(made))
    assert (
        len(seen) == 24
        and (5, 6, 9, 7, 9, 8, 8, 9, 4) in seen
        and (4, 8, 8, 9, 7, 9, 5, 6, 9) in seen
    )


def test_deletion_and_rotation_keep_the_order():
    tokens = np.arange(10, 50)
    for seed in range(20):
        left = denoising.delete(tokens, generator(seed), 0.25)
        assert len(left) == 30 and (np.diff(left) > 0).all()
        turned = denoising.rotate(tokens, generator(seed))
        start = int(np.argmin(turned))
        assert np.array_equal(np.roll(turned, -start), tokens)
    assert len({int(denoising.rotate(tokens, generator(s))[0]) for s in range(300)}) > 35


def test_steps_are_made_in_order_and_the_target_needs_no_copy():
    tokens = np.asarray([5, 6, 9, 7, 8, 9, 4, 4, 4, 4])
    made = denoising.corrupt(tokens, generator(1), Noise("permute+mask", rate=0.3), MASK, (9,))
    assert len(made) == 10 and (made == MASK).sum() == 3
    one = denoising.corrupt(tokens, generator(2), Noise("permute+infill", rate=0.3), MASK, (9,))
    same = denoising.corrupt(tokens, generator(2), Noise("permute+infill", rate=0.3), MASK, (9,))
    assert np.array_equal(one, same) and (one == MASK).any()
    assert len(denoising.corrupt(tokens, generator(1), Noise("delete+rotate", rate=0.2))) == 8


@pytest.mark.parametrize("length", [0, 1])
def test_rows_with_nothing_to_take_away_are_left_as_they_are(length):
    tokens = np.full(length, 7, np.int32)
    source, target = denoising.span_corrupt(tokens, generator(0), FIRST, EOS, 0.9)
    assert source.tolist() == [7] * length + [EOS] and target.tolist() == [EOS]
    assert (len(source), len(target)) == denoising.span_sizes(length, 0.9, 3.0)
    assert np.array_equal(denoising.restore(source, target, FIRST, 100), tokens)
    assert not denoising.span_mask(length, generator(0)).any()
    assert denoising.raw_length(length + 1) == length
    for kind in ("permute", "infill", "mask", "delete", "rotate", "permute+infill+rotate"):
        made = denoising.corrupt(tokens, generator(0), Noise(kind, rate=0.9), MASK, (7,))
        assert np.array_equal(made, tokens) and made.dtype == np.int32
    assert np.array_equal(denoising.permute(tokens, tokens == 7, generator(0)), tokens)
    assert np.array_equal(denoising.rotate(tokens, generator(0)), tokens)


def test_more_sentinels_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="a source of 0 tokens"):
        denoising.raw_length(0)
    tokens = np.arange(200)
    assert len(denoising.span_corrupt(tokens, generator(0), FIRST, EOS, most=10)[0]) == 181
    with pytest.raises(ValueError, match="200 tokens need 10 sentinels; there are 9"):
        denoising.span_corrupt(tokens, generator(0), FIRST, EOS, most=9)
    with pytest.raises(ValueError, match="there are 9"):
        denoising.span_corrupt(tokens, generator(0), 8, EOS)


@pytest.mark.parametrize(
    "fields,words",
    [
        (dict(kind="fill"), "fill"),
        (dict(kind="spans+delete"), "spans"),
        (dict(rate=1.0), "rate"),
        (dict(span=0.5), "span"),
        (dict(span=float("nan")), "noise.span is nan"),
        (dict(span=float("inf")), "noise.span is inf"),
        (dict(rate=float("nan")), "noise.rate is nan"),
        (dict(rate="0.1"), "noise.rate is '0.1'; expected a number"),
        (dict(kind=None), "noise.kind is None"),
    ],
)
def test_wrong_noise_is_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Noise(**fields)
    with pytest.raises(ValueError, match="mask token"):
        denoising.corrupt(np.arange(5), generator(0), Noise("infill"))
