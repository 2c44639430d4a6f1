"""Rows of sentences: nothing lost, frames, segment pairs with fair labels, what cannot be."""

import numpy as np
import pytest

from train.data import sentences, sources
from train.data import tokenizer as made
from train.data.corpus import Corpus
from train.data.corruption import Masking

TOKENIZER = made.named("wordpiece:600", ["the cat sat. on the mat! " * 20], encoder=True)


class Texts(Corpus):
    """Documents of given texts, tokenised in memory."""

    def __init__(self, *texts):
        parts = TOKENIZER.encode_batch(texts, special=False)
        self.array = np.concatenate(parts)
        ends = np.cumsum([len(part) for part in parts])
        index = np.stack([ends, ends, ends], 1)
        names = [str(n) for n in range(len(texts))]
        super().__init__("texts", False, index, names, [])


def documents(count=4, length=30):
    return [
        "".join(f" w{d} x{i} is{' very' * (i % 4)} {i}." for i in range(length))
        for d in range(count)
    ]


def rows(kind, corpus, length=48, key=7, numbers=None, **more):
    chosen = np.arange(len(corpus.ends))
    window = kind(corpus, chosen, length, TOKENIZER, Masking(), **more)
    numbers = np.arange(window.count) if numbers is None else numbers
    return window, window.rows(numbers, key)


def unmasked(batch, row):
    """The tokens of a row with the predicted ones put back, without padding."""
    tokens = batch["tokens"][row].copy()
    k = int(batch["weights"][row].sum())
    tokens[batch["slots"][row, :k]] = batch["targets"][row, :k]
    return tokens[batch["mask"][row] > 0]


@pytest.mark.parametrize("kind", [sentences.FullSentences, sentences.DocSentences])
def test_every_token_is_in_one_row_and_sentences_are_whole(kind):
    texts = documents()
    window, batch = rows(kind, Texts(*texts))
    found, sep, cls = [], TOKENIZER.sep, TOKENIZER.cls
    for row in range(window.count):
        tokens = unmasked(batch, row)
        assert tokens[0] == cls and tokens[-1] == sep and sep not in tokens[-2:-1]
        inside = tokens[1:-1]
        documents_here = np.sum(inside == sep) + 1
        assert documents_here == 1 or kind is sentences.FullSentences
        assert TOKENIZER.decode(inside).endswith(".")
        found.append(TOKENIZER.decode(inside[inside != sep]))
    assert "".join(found) == "".join(texts)
    assert any(sep in unmasked(batch, r)[1:-1] for r in range(window.count)) == window.across


def test_rows_are_full():
    window, batch = rows(sentences.FullSentences, Texts(*documents(1, 200)), 64)
    longest = max(window.pieces.length)
    assert (batch["mask"].sum(1)[:-1] > 64 - longest).all()


def test_a_sentence_longer_than_a_row_goes_on_in_the_next():
    text = " ".join(["word"] * 100) + "."
    window, batch = rows(sentences.FullSentences, Texts(text), 34)
    parts = [TOKENIZER.decode(unmasked(batch, r)[1:-1]) for r in range(window.count)]
    assert "".join(parts) == text and window.count > 2


@pytest.mark.parametrize("pair", sentences.PAIRS)
def test_pairs(pair):
    texts = documents(5, 120)
    corpus = Texts(*texts)
    window, _ = rows(sentences.Pairs, corpus, numbers=[0], pair=pair, short=0.0)
    labels = []
    for key in range(6):
        batch = window.rows(np.arange(window.count), key)
        for row in range(window.count):
            tokens = unmasked(batch, row)
            cut = np.flatnonzero(tokens == TOKENIZER.sep)
            assert tokens[0] == TOKENIZER.cls and len(cut) == 2 and cut[1] == len(tokens) - 1
            types = batch["token_types"][row][: len(tokens)]
            assert (types == (np.arange(len(tokens)) > cut[0])).all()
            assert not batch["token_types"][row][len(tokens) :].any()
            a, b = (TOKENIZER.decode(x) for x in (tokens[1 : cut[0]], tokens[cut[0] + 1 : -1]))
            label = int(batch["pair"][row])
            labels.append(label)
            follows = any(a + b in text for text in texts)
            swapped = any(b + a in text for text in texts)
            assert follows or label
            assert swapped or not (label and pair == "order")
            if label and pair == "next":
                assert not follows
                where = [[d for d, text in enumerate(texts) if part in text] for part in (a, b)]
                assert where[0] != where[1]
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(labels)))


def test_one_row_in_ten_is_short():
    corpus = Texts(*documents(4, 400))
    _, batch = rows(sentences.Pairs, corpus, 128, pair="order", short=0.1)
    _, never = rows(sentences.Pairs, corpus, 128, pair="order", short=0.0)
    short = lambda made: np.mean(made["mask"].sum(1) < 64)
    assert short(never) < 0.03 and 0.01 < short(batch) < 0.12


def test_the_length_of_a_row_does_not_tell_next_sentences():
    texts = [document.text[:20_000] for document in sources.documents("shakespeare")][:10]
    _, batch = rows(sentences.Pairs, Texts(*texts), 128, pair="next", short=0.1)
    label, b = batch["pair"], batch["token_types"].sum(1)
    for size in (batch["mask"].sum(1), b, batch["mask"].sum(1) - b):
        told = [np.mean((size > least) == label) for least in range(128)]
        assert len(label) > 600 and max(*told, *(1 - np.asarray(told))) < 0.55


def test_a_lone_sentence_is_cut_inside():
    text = "one cat sat on a mat."
    window, batch = rows(sentences.Pairs, Texts(text, text), pair="order", short=0.0)
    assert window.count == 2 and window.left_out == 0
    tokens = unmasked(batch, 0)
    assert len(tokens) == 3 + len(TOKENIZER.encode(text))


def test_masks_are_a_function_of_key_and_row():
    corpus = Texts(*documents())
    window, first = rows(sentences.FullSentences, corpus)
    again, other = window.rows([3, 1], 7), window.rows([3, 1], 8)
    np.testing.assert_array_equal(again["tokens"], first["tokens"][[3, 1]])
    assert (other["tokens"] != again["tokens"]).any()


def test_shortening_takes_from_the_longer_front_and_back():
    rng = np.random.default_rng(0)
    fronts = 0
    for _ in range(200):
        a, b = sentences.shorten(np.arange(50), np.arange(100, 110), 30, rng)
        assert len(a) + len(b) == 30 and len(b) == 10
        fronts += a[0]
    assert fronts / 200 == pytest.approx(15, abs=1.5)
    a, b = sentences.shorten(np.arange(40), np.arange(40), 9, rng)
    assert len(a) + len(b) == 9 and abs(len(a) - len(b)) == 1


def test_roberta_puts_two_separators_between():
    tokenizer = made.named("bpe:300", ["a b"], encoder=True)
    frame = sentences.Frame.of(tokenizer)
    tokens, types = frame.join([10, 11], [12])
    sep = tokenizer.sep
    assert tokens.tolist() == [tokenizer.cls, 10, 11, sep, sep, 12, sep] and frame.around(2) == 4
    assert types.tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_what_cannot_be_is_said():
    corpus = Texts(*documents(1))
    with pytest.raises(ValueError, match="next-sentence pairs need two documents"):
        rows(sentences.Pairs, corpus, pair="next")
    with pytest.raises(ValueError, match="expected one of next, order"):
        rows(sentences.Pairs, corpus, pair="previous")
    with pytest.raises(ValueError, match="no cls token"):
        sentences.Frame.of(made.named("byte"))
