"""Windows over long texts: all tokens covered, the stride shared, answers found again."""

import numpy as np
import pytest

from eval import spans as scoring
from train.data import spans
from train.data import tokenizer as made
from train.data.labelled import Examples
from train.data.tables import Table

WORDS = [f"w{n}" for n in range(60)]
TEXT = " ".join(WORDS)
TOKENIZER = made.named("wordpiece:700", [TEXT * 3], encoder=True)


def rows(answer, length=40, stride=8, question="where is it", **more):
    spans_ = ((TEXT.index(answer), TEXT.index(answer) + len(answer)),) if answer else ()
    table = Table("t", ("question",), [{}], [1])
    examples = Examples("spans", [(question, TEXT)], [spans_], table)
    return spans.encode(examples, TOKENIZER, length, stride, **more)


def test_windows_cover_the_text_and_share_the_stride():
    made_rows = rows("")
    ids = TOKENIZER.encode(TEXT, special=False)
    joined, ends = [], []
    for (pair,), window in zip(made_rows.parts, made_rows.extra["windows"], strict=True):
        tokens, types = pair
        first, count = window["first"], len(window["offsets"])
        assert tokens[first - 1] == tokens[-1] == TOKENIZER.sep and len(tokens) <= 40
        assert types.tolist() == [0] * first + [1] * (count + 1)
        joined.append(tokens[first:-1])
    whole = np.concatenate([joined[0], *(part[8:] for part in joined[1:])])
    np.testing.assert_array_equal(whole, ids)
    assert all(len(pair[0][0]) == 40 for pair in made_rows.parts[:-1]) and not ends


@pytest.mark.parametrize("answer", ["w0", "w31 w32", "w59", "w17 w18 w19"])
def test_the_target_is_the_answer(answer):
    found = rows(answer)
    hits = 0
    for target, window in zip(found.targets, found.extra["windows"], strict=True):
        if target != (0, 0):
            hits += 1
            begin, last = (slot - window["first"] for slot in target)
            start, end = window["offsets"][begin][0], window["offsets"][last][1]
            assert TEXT[start:end] == answer
    assert hits >= 1 and found.extra["lost"] == 0 and found.extra["golds"] == [[answer]]


def test_sharp_logits_give_the_answer_back():
    found = rows("w31 w32")
    logits = np.zeros((len(found), 40, 2))
    for row, (start, end) in enumerate(found.targets):
        logits[row, start, 0] = logits[row, end, 1] = 5 if start else 1
    answers = scoring.answers(logits, found.extra["windows"], found.extra["texts"])
    assert scoring.scores(answers, found.extra["golds"]) == {"exact": 1.0, "f1": 1.0}


def test_no_answer_points_to_cls_and_a_too_long_one_is_counted_lost():
    assert set(rows("").targets) == {(0, 0)}
    long = rows(" ".join(WORDS[:55]))
    assert set(long.targets) == {(0, 0)} and long.extra["lost"] == 1


def test_a_question_without_room_is_refused_or_cut():
    with pytest.raises(ValueError, match="1 texts are longer"):
        rows("w1", question="why " * 60)
    cut = rows("w1", question="why " * 60, truncate=True)
    assert cut.cut == 1 and max(len(pair[0][0]) for pair in cut.parts) <= 40
    with pytest.raises(ValueError, match="does not go with config.length"):
        rows("w1", stride=40)


@pytest.mark.parametrize("kind", ["wordpiece:700", "bpe:500"])
def test_special_tokens_that_a_text_spells_are_text(kind):
    """A separator of the text's own would end the window for the model."""
    tokenizer = made.named(kind, [TEXT * 3], encoder=True)
    names = [tokenizer.raw.id_to_token(i) for i in (tokenizer.sep, tokenizer.mask, tokenizer.pad)]
    text = f"w1 {names[0]} w2 {names[1]}{names[2]} w3"
    ((ids, places),) = spans.offsets(tokenizer, [text])
    np.testing.assert_array_equal(ids, tokenizer.encode(text, special=False))
    assert not {tokenizer.sep, tokenizer.mask, tokenizer.pad} & set(ids.tolist())
    assert text[places[0][0] : places[-1][1]] == text


def test_a_context_that_is_no_text_is_named():
    with pytest.raises(ValueError, match="text 0 .*surrogate"):
        spans.offsets(TOKENIZER, ["a \ud800 b"])
