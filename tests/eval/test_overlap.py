"""BLEU, chrF and ROUGE against the numbers of sacrebleu and rouge-score."""

import json
from pathlib import Path

import pytest

from eval import overlap

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/overlap.json").read_text("utf-8"))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_reference_packages_numbers(case):
    found, references = case["found"], case["references"]
    got = {"bleu": overlap.bleu(found, references), "chrf": overlap.chrf(found, references)}
    got |= overlap.rouge(found, references)
    for name, value in got.items():
        assert value == pytest.approx(case[name], abs=1e-9), name


def test_white_space_at_the_end_goes_before_a_hyphen_s_line_break():
    assert overlap.words("well-\nknown") == ["wellknown"]
    assert overlap.words("x-\n") == overlap.words("x- ") == ["x-"]  # as sacrebleu has it


def test_a_text_is_itself_and_exact_match_counts():
    texts = ["one two three four five", "six"]
    assert overlap.bleu(texts, texts) == pytest.approx(100)
    assert overlap.chrf(texts, texts) == pytest.approx(100)
    assert overlap.exact(texts, ["one two three four five", "seven"]) == 50.0
    with pytest.raises(ValueError, match="2 texts and 1 ref"):
        overlap.exact(texts, texts[:1])
