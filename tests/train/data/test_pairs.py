"""Pairs of texts: whole groups on one side of a split, batches of like length, everything seen once."""

import numpy as np
import pytest
import tokenizers

from train.data import embedded_sets, pairs, tables, tokenizer

CONFIG = {"train": "kjv_web", "text": "kjv", "target": "web", "group": "book"}


def config(**changes):
    return {"data": {**CONFIG, **changes}}


def made(lengths):
    """Pairs whose sources and targets have these lengths; the first token is the row's number."""
    rows = [
        np.asarray([n, *range(100, 100 + size - 2), 1], np.int32) for n, size in enumerate(lengths)
    ]
    texts = [str(n) for n in range(len(rows))]
    return pairs.Pairs(rows, [row[-2:] for row in rows], texts, texts, 0, 2, max(lengths))


def test_parts_are_whole_books_of_the_verse_pairs():
    found = pairs.open_texts(config(heldout=("Ruth",), test=("Jonah", "Jude")))
    sizes = {part: len(sources) for part, (sources, _) in found.items()}
    assert sizes == {"heldout": 85, "test": 48 + 25, "train": 31_102 - 85 - 48 - 25}
    assert found["heldout"][0][0].startswith("Now it came to pass in the days when the judges")
    assert found["test"][1][-1].startswith("to God our Savior")


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"heldout": ("Ruht",)}, "'Ruht'.*Ruth"),
        ({"target": "wbe"}, "no column 'wbe'.*web"),
        ({"train": "toy:shuffle"}, "shuffle.*copy"),
    ],
)
def test_what_is_not_there_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        pairs.open_texts(config(**changes))


def test_a_prefix_stands_before_every_source():
    sources, targets = pairs.open_texts(config(prefix="modernise: "))["train"]
    assert all(text.startswith("modernise: ") for text in sources)
    assert targets[0].startswith("In the beginning")


def test_long_texts_are_counted_or_cut():
    bytes_ = tokenizer.named("byte")
    bytes_.eos = 0
    texts = (["abcdef", "ab"], ["x", "yzyzyzyz"])
    with pytest.raises(ValueError, match="2 texts do not fit config.length=5"):
        pairs.encode(texts, bytes_, (5, 5), 0, 0, False)
    rows, cut = pairs.encode(texts, bytes_, (5, 5), 0, 0, True)
    assert cut == 2 and rows.sources[0].tolist() == [*b"abcd", 0]
    assert rows.targets[1].tolist() == [*b"yzyz", 0]


def test_targets_with_a_length_of_their_own_make_narrow_batches():
    bytes_ = tokenizer.named("byte")
    bytes_.eos = 0
    texts = (["abcdef", "ab"], ["x", "yzyzyzyz"])
    with pytest.raises(
        ValueError, match="1 texts do not fit config.length=16 or config.data.target_"
    ):
        pairs.encode(texts, bytes_, (16, 4), 0, 0, False)
    rows, cut = pairs.encode(texts, bytes_, (16, 4), 0, 0, True)
    assert cut == 1 and rows.targets[1].tolist() == [*b"yzy", 0] and rows.references == texts[1]
    (batch,) = rows.batches(2, pairs.buckets(16))
    assert batch["tokens"].shape == (2, 8) and batch["targets"].shape == (2, 4)
    assert batch["decoder_tokens"][1].tolist() == [0, *b"yzy"]


def test_a_pair_longer_than_every_batch_is_named():
    with pytest.raises(ValueError, match="a pair of 17 tokens .* of 16"):
        pairs.Stream(made([5, 17]), 0, pairs.buckets(16), 2)


def test_the_decoder_reads_the_target_one_behind_and_padding_counts_nothing():
    batch = pairs.frame([[5, 6, 1], [7, 1]], [[8, 1], [9, 4, 1]], (4, 3), 0, 2)
    assert batch["tokens"].tolist() == [[5, 6, 1, 0], [7, 1, 0, 0]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["decoder_tokens"].tolist() == [[2, 8, 0], [2, 9, 4]]
    assert batch["targets"].tolist() == [[8, 1, 0], [9, 4, 1]]
    assert batch["weights"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_buckets_reach_the_length_and_waste_little():
    for length in (8, 20, 96, 256, 512):
        bounds = pairs.buckets(length)
        assert bounds[-1] == length and (np.diff(bounds) > 0).all()
        assert all(
            b <= max(a + 8, a * 4 // 3 + 8) for a, b in zip(bounds, bounds[1:], strict=False)
        )


def test_short_buckets_are_left_out_on_request():
    assert pairs.buckets(96, 32).tolist() == [32, 48, 64, 88, 96]
    assert pairs.buckets(16, 32).tolist() == [16]


@pytest.mark.parametrize("tokens", [0, 64])
def test_an_epoch_holds_every_pair_once_in_batches_of_like_length(tokens):
    lengths = np.random.default_rng(0).integers(3, 40, 90)
    rows = made(lengths)
    stream = pairs.Stream(rows, 3, pairs.buckets(40), 4, tokens, unit=2)
    orders = []
    for epoch in range(2):
        seen = []
        for step in range(epoch * stream.count, (epoch + 1) * stream.count):
            batch = stream.batch(step)
            count, length = batch["tokens"].shape
            size = batch["mask"].sum(1).max()
            assert size <= length and (length == 8 or size > length - 12)
            assert (
                count == 4
                if not tokens
                else count % 2 == 0 and count * length <= max(64, 2 * length)
            )
            seen += batch["tokens"][:, 0].tolist()
        assert set(seen) == set(range(90)) and len(seen) < 90 + 7 * 8
        orders.append(seen)
    assert orders[0] != orders[1]
    again = pairs.Stream(rows, 3, pairs.buckets(40), 4, tokens, unit=2).batch(5)
    assert all(np.array_equal(x, stream.batch(5)[name]) for name, x in again.items())


def test_processes_share_a_batch():
    rows = made([5] * 32)
    whole = pairs.Stream(rows, 0, pairs.buckets(8), 8).batch(2)
    parts = [
        pairs.Stream(rows, 0, pairs.buckets(8), 8, process=p, processes=2).batch(2) for p in (0, 1)
    ]
    for name, x in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), x)


def test_evaluation_keeps_the_order_and_marks_what_only_fills():
    rows = made([5, 9, 7, 20, 6])
    batches = rows.batches(2, pairs.buckets(24))
    assert [b["tokens"].shape[1] for b in batches] == [16, 24, 8]
    kept = [
        t for b in batches for t, real in zip(b["tokens"][:, 0], b["rows"], strict=True) if real
    ]
    assert kept == [0, 1, 2, 3, 4]
    assert batches[-1]["rows"].tolist() == [1, 0] and batches[-1]["weights"][1].sum() == 0


def test_toys_are_what_they_say_and_their_parts_do_not_meet():
    for task, make in embedded_sets.TOYS.items():
        table = tables.read(f"toy:{task}")
        texts = table.column("text")
        assert len(set(texts)) == len(texts) == 20_000
        assert table.column("target") == [make(text) for text in texts]
        assert table.column("part").count("heldout") == 500


def test_what_a_tokenizers_own_rules_put_in_front_stands_there():
    """BART's <s> A </s>, on both sides; it is no part of what a model wrote."""
    tokens = tokenizer.train("byte", [], 0, ("<s>", "</s>"), bos="<s>", eos="</s>")
    plain, _ = pairs.encode((["ab"], ["c"]), tokens, (9, 9), 0, 257, False)
    assert plain.sources[0].tolist() == [*b"ab", 257] and pairs.front(tokens).size == 0
    tokens.raw.post_processor = tokenizers.processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    rows, cut = pairs.encode((["ab"], ["c"]), tokens, (4, 3), 0, 257, False)
    assert rows.sources[0].tolist() == [256, *b"ab", 257] and cut == 0
    assert rows.targets[0].tolist() == [256, *b"c", 257]
    rows, cut = pairs.encode((["abc"], ["c"]), tokens, (4, 3), 0, 257, True)
    assert rows.sources[0].tolist() == [256, *b"ab", 257] and cut == 1
    with pytest.raises(ValueError, match="1 texts do not fit"):
        pairs.encode((["abc"], ["c"]), tokens, (4, 3), 0, 257, False)
    with pytest.raises(ValueError, match="of targets 1: a text has 2 tokens around it"):
        pairs.encode((["abc"], ["c"]), tokens, (4, 1), 0, 257, True)
    decode = pairs.written(tokens)
    assert decode(np.int32([256, *b"c"])) == "c" and decode(np.int32([*b"cd"])) == "cd"
    assert decode(np.int32([*b"c", 256])) == "c<s>"  # a model's mistake is shown


def test_rows_that_a_mesh_changes_are_in_the_fingerprint():
    """480 tokens are 30 rows of 16, of which 24 are a multiple of 8."""
    rows, sizes = made([5, 9, 39]), {}
    for unit in (1, 2, 8):
        stream = pairs.Stream(rows, 0, pairs.buckets(40), 4, 480, unit)
        sizes[unit] = stream.fingerprint.get("batch_rows")
        assert sizes[unit] in (None, {str(b): size for b, _, size in stream.groups})
    assert sizes == {1: None, 2: None, 8: {"8": 56, "16": 24, "40": 8}}
    assert "batch_rows" not in pairs.Stream(rows, 0, pairs.buckets(40), 8, 0, 8).fingerprint
