"""Rows of tokens for every task, what does not fit, and the stream over them."""

import numpy as np
import pytest

from train.data import encode
from train.data import tokenizer as made
from train.data.labelled import Examples
from train.data.tables import Table

TOKENIZER = made.named("wordpiece:600", ["the cat sat on the mat " * 9], encoder=True)
CLS, SEP, PAD = TOKENIZER.cls, TOKENIZER.sep, TOKENIZER.pad


def examples(task, texts, targets=None):
    lines = list(range(1, len(texts) + 1))
    table = Table("t.csv", ("text",), [{}] * len(texts), lines)
    return Examples(task, texts, targets or [0] * len(texts), table)


def ids(text):
    return TOKENIZER.encode(text, special=False).tolist()


def real(batch, *place):
    return batch["tokens"][place][batch["mask"][place] > 0].tolist()


def test_one_text_and_a_pair():
    rows = encode.encode(examples("classify", [("cat",), ("on",)], [0, 1]), TOKENIZER, 9)
    batch = rows.batch([0, 1])
    assert real(batch, 0) == [CLS, *ids("cat"), SEP] and batch["targets"].tolist() == [0, 1]
    assert batch["targets"].dtype == np.int32 and batch["weights"].tolist() == [1, 1]
    assert (batch["tokens"][0][batch["mask"][0] == 0] == PAD).all()
    rows = encode.encode(examples("regress", [("cat", "mat")], [0.5]), TOKENIZER, 12)
    batch = rows.batch([0])
    assert real(batch, 0) == [CLS, *ids("cat"), SEP, *ids("mat"), SEP]
    types = batch["token_types"][0][batch["mask"][0] > 0]
    assert types.tolist() == [0] * (2 + len(ids("cat"))) + [1] * (1 + len(ids("mat")))
    assert batch["targets"].dtype == np.float32


def test_a_special_token_written_in_a_text_is_text():
    rows = encode.encode(examples("classify", [("[SEP]",)]), TOKENIZER, 30)
    assert real(rows.batch([0]), 0).count(SEP) == 1


def test_choices_and_passages_are_parts():
    batch = encode.encode(examples("choice", [("q", ("a", "b"))], [1]), TOKENIZER, 12).batch([0])
    assert batch["tokens"].shape == (1, 2, 12) and batch["targets"].tolist() == [1]
    assert real(batch, 0, 1) == [CLS, *ids("q"), SEP, *ids("b"), SEP]
    batch = encode.encode(examples("embed", [("q", "p", "n")]), TOKENIZER, 12).batch([0])
    assert real(batch, 0, 2) == [CLS, *ids("n"), SEP]


def test_tags_stand_at_first_pieces():
    words = ("the", "xylophone", "sat")
    rows = encode.encode(examples("tokens", [words], [[3, 4, 5]]), TOKENIZER, 40)
    batch = rows.batch([0])
    assert batch["weights"].sum() == 3
    slots = np.flatnonzero(batch["weights"][0])
    assert batch["targets"][0][slots].tolist() == [3, 4, 5]
    assert slots[0] == 1 and slots[1] == 1 + len(ids("the"))
    assert TOKENIZER.decode(real(batch, 0)[1:-1]) == "the xylophone sat"


@pytest.mark.parametrize("task", ["classify", "tokens"])
def test_what_does_not_fit_is_an_error_or_counted(task):
    texts = [("cat",) * 1, ("mat " * 30,) if task == "classify" else ("mat",) * 30]
    material = examples(task, texts, [[0] * len(t) for t in texts] if task == "tokens" else None)
    with pytest.raises(
        ValueError, match=r"1 texts are longer .*\(the longest has \d+ tokens.*row 2"
    ):
        encode.encode(material, TOKENIZER, 10)
    rows = encode.encode(material, TOKENIZER, 10, truncate=True)
    batch = rows.batch([1])
    assert rows.cut == 1 and len(real(batch, 0)) == 10 and real(batch, 0)[-1] == SEP


@pytest.mark.parametrize(("a", "b", "want"), [(30, 5, (12, 5)), (5, 30, (5, 12)), (30, 30, (8, 9))])
def test_a_pair_is_cut_at_its_longer_text(a, b, want):
    fit = encode.Fitting(20, True)
    frame = encode.Frame.of(TOKENIZER)
    first, second = fit(0, [list(range(a)), list(range(b))], frame)
    assert (len(first), len(second)) == want and first == list(range(want[0]))


def test_a_text_cut_in_the_middle_keeps_a_quarter_of_its_start_and_its_end():
    fit, frame = encode.Fitting(20, True, where="middle"), encode.Frame.of(TOKENIZER)
    assert fit(0, [list(range(50))], frame)[0].tolist() == [*range(4), *range(36, 50)]
    assert fit(1, [list(range(18))], frame) == [list(range(18))] and fit.done() == 1
    first, second = fit(2, [list(range(40)), list(range(5))], frame)
    assert second == list(range(5)) and first.tolist() == [0, 1, 2, *range(31, 40)]
    rows = encode.encode(
        examples("classify", [("cat " * 9 + "mat",)]), TOKENIZER, 8, truncate=True, cut="middle"
    )
    assert real(rows.batch([0]), 0)[-2:] == [ids("cat mat")[-1], SEP]


def test_a_place_to_cut_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="data.cut='start'; expected 'end' or 'middle'"):
        encode.encode(examples("classify", [("cat",)]), TOKENIZER, 9, cut="start")
    with pytest.raises(ValueError, match="tagged words are cut at the 'end'"):
        encode.encode(examples("tokens", [("cat",)], [[0]]), TOKENIZER, 9, cut="middle")


def test_the_stream_reads_every_row_once_an_epoch():
    texts = [(f"{n}",) for n in range(24)]
    rows = encode.encode(examples("classify", texts, list(range(24))), TOKENIZER, 9)
    stream = encode.Stream(rows, seed=1, batch=8)
    epochs = [
        np.concatenate([stream.batch(3 * e + s)["targets"] for s in range(3)]) for e in range(2)
    ]
    assert all(sorted(epoch.tolist()) == list(range(24)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    halves = [encode.Stream(rows, 1, 8, p, 2).batch(4)["targets"] for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), stream.batch(4)["targets"])
    other = encode.encode(examples("classify", texts, [0] * 24), TOKENIZER, 9)
    assert encode.Stream(other, 1, 8).fingerprint != stream.fingerprint


def _pooled(rows, epochs, batch=8, **more):
    """The rows that each of `epochs` reads, their numbers being the targets, and batches' lengths."""
    stream, count = encode.Stream(rows, 1, batch, **more), len(rows)
    made = [stream.batch(step) for step in range(-(-epochs * count // batch))]
    numbers = np.concatenate([m["targets"] for m in made])[: epochs * count]
    return numbers.reshape(epochs, count), [m["tokens"].shape[1] for m in made]


def test_pooled_batches_hold_rows_of_like_length_and_every_row_once_an_epoch():
    sizes = np.random.default_rng(0).integers(1, 120, 203)
    texts = [(" ".join(["cat"] * n),) for n in sizes]
    rows = encode.encode(examples("classify", texts, list(range(203))), TOKENIZER, 128)
    plain, long = _pooled(rows, 3)
    numbers, short = _pooled(rows, 3, pool=8)
    assert all(sorted(epoch) == list(range(203)) for epoch in numbers.tolist())
    assert (numbers[0] != numbers[1]).any() and (numbers[0] != plain[0]).any()
    assert sum(short) < 0.75 * sum(long)
    assert np.corrcoef(np.arange(len(short)), short)[0, 1] < 0.5  # not from short to long
    again = encode.Stream(rows, 1, 8, pool=8)
    np.testing.assert_array_equal(again.batch(70)["targets"], numbers.ravel()[560:568])
    halves = [encode.Stream(rows, 1, 8, p, 2, pool=8).batch(26) for p in (0, 1)]
    assert halves[0]["tokens"].shape == halves[1]["tokens"].shape
    joined = np.concatenate([half["targets"] for half in halves])
    np.testing.assert_array_equal(joined, numbers.ravel()[208:216])
    assert again.fingerprint != encode.Stream(rows, 1, 8).fingerprint


def test_training_batches_are_as_long_as_their_rows_whatever_the_evaluators_ask():
    rows = encode.encode(examples("classify", [("cat " * 9,)] * 4, [0] * 4), TOKENIZER, 128)
    rows.trim = False
    longest = int(rows.sizes.max())
    assert encode.Stream(rows, 0, 4).batch(0)["tokens"].shape[1] == -(-longest // 16) * 16 < 128
    assert rows.batches(4)[0]["tokens"].shape[1] == 128


@pytest.mark.parametrize("count", [1, 5, 8, 9, 17])
def test_pools_that_are_larger_than_the_data_lose_nothing(count):
    texts = [("cat " * (n + 1),) for n in range(count)]
    rows = encode.encode(examples("classify", texts, list(range(count))), TOKENIZER, 64)
    numbers, _ = _pooled(rows, 4, pool=50)
    assert all(sorted(epoch) == list(range(count)) for epoch in numbers.tolist())


def test_a_pool_below_zero_is_an_error():
    rows = encode.encode(examples("classify", [("cat",)], [0]), TOKENIZER, 9)
    with pytest.raises(ValueError, match="data.pool=-1; expected a number of batches"):
        encode.Stream(rows, 0, 1, pool=-1)


def test_evaluation_batches_hold_every_row_once():
    rows = encode.encode(examples("classify", [(f"{n}",) for n in range(11)]), TOKENIZER, 9)
    batches = rows.batches(4)
    assert [b["rows"].tolist() for b in batches] == [[1] * 4, [1] * 4, [1, 1, 1, 0]]
    assert len(rows.batches(4, limit=2)) == 2
    assert rows.batches(4, 1, 2)[2]["rows"].tolist() == [1, 0]
