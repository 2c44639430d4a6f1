"""Simple methods on a config's own split."""

import json
import sys

import pytest

from scripts import baseline, search

TASK = "--config=configs/minilm.py:spam"


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"--config.data.train={path}"


def test_words_that_tell_are_found(tmp_path, capsys):
    rows = [
        {"text": f"{'buy now cheap' if n % 3 else 'see you at lunch'} {n}", "label": "ab"[n % 3 == 0], "group": n}
        for n in range(120)
    ]  # fmt: skip
    assert baseline.main([TASK, written(tmp_path / "t.jsonl", rows)]) == 0
    out = capsys.readouterr().out
    assert "train 84; valid 12; test 24; scored: test" in out
    assert "TF-IDF, linear, C=1: accuracy 1.0000" in out
    assert "most frequent label: accuracy 0." in out


def test_case_and_marks_are_told_by_characters_alone(tmp_path, capsys):
    rows = [
        {"text": f"{'BUY NOW!!!' if n % 3 else 'buy now'} {n}", "label": "ab"[n % 3 == 0], "group": n}
        for n in range(120)
    ]  # fmt: skip
    source = written(tmp_path / "t.jsonl", rows)
    assert baseline.main([TASK, source, "--characters"]) == 0
    assert "TF-IDF of characters, linear, C=1: accuracy 1.0000" in capsys.readouterr().out
    assert baseline.main([TASK, source]) == 0
    assert "accuracy 1.0000" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="--characters is for classify and regress"):
        baseline.main(["--config=configs/minilm.py:squad", "--characters"])


def test_an_answer_stands_by_the_questions_rare_words():
    context = "The mill was built in 1850. Its owner was Ada Stone of York. Rain fell."
    rarity = {word: 1.0 for word in ("owner", "mill", "built", "ada", "stone", "1850")}
    assert "Ada" in baseline.answer("Who was the owner?", context, rarity)
    assert "1850" in baseline.answer("When was the mill built?", context, rarity)


def test_copies_and_first_sentences(tmp_path, capsys):
    rows = [
        {"text": "Here is one of them. Two.", "target": "Here is one of them.", "part": part}
        for part in ("train", "heldout", "test")
    ]
    args = ["--config=configs/letters.py:tiny", written(tmp_path / "p.jsonl", rows)]
    assert baseline.main([*args, "--part", "valid"]) == 0
    out = capsys.readouterr().out
    assert "its first sentence: bleu 100.0000" in out and "the source: bleu 100" not in out


def test_without_scikit_learn_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    rows = [{"text": str(n), "label": "ab"[n % 2], "group": n} for n in range(40)]
    with pytest.raises(ValueError, match=r"pip install -e '\.\[test\]'"):
        baseline.main([TASK, written(tmp_path / "t.jsonl", rows)])
    with pytest.raises(ValueError, match="extra test"):
        search.recall(None, ["a"], ["b"], 8)


def test_tasks_without_a_baseline_are_named():
    with pytest.raises(ValueError, match="there are baselines for classify, regress, spans, pairs"):
        baseline.main(["--config=configs/t5.py:tiny"])
