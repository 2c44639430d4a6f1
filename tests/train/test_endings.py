"""Where an answer's row ends in comparisons, as in what a policy writes, and what was cut off."""

import json

import numpy as np
import pytest

from scripts.label import __main__ as label
from scripts.label import answers
from scripts.label import store as label_store
from tests.scripts.test_label import judge
from tests.scripts.test_label_answers import FOUR, given  # noqa: F401
from tests.train.test_preferences_edges import ranking
from train.core import rollout
from train.data import compared, instructions
from train.data import preferences as data
from train.data import tokenizer as tokenizers
from train.data.tables import read

TEMPLATES = tokenizers.EMBEDDED / "templates"
WORDS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if m.role == 'assistant' %}~over"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def dialogue(template):
    """A tokenizer of bytes whose special tokens are those of every template, and a template."""
    own = tokenizers.named("byte", ())
    own.raw.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|eot_id|>"])
    text = (
        (TEMPLATES / f"{template}.jinja").read_text()
        if template in ("turns", "chatml", "llama3")
        else template
    )
    own.chat_template = text
    return instructions.Dialogue(own, text)


def comparison(**more):
    better = np.asarray([[0, 1], [0, 0]], np.float32)
    return data.Comparison("ask", ["good", "bad"], better, **more)


@pytest.mark.parametrize("template", ["", "turns", "chatml", "llama3"])
def test_a_reward_is_read_where_a_policy_s_rows_stop(template):
    said = dialogue(template)
    ends = rollout.ends(said.tokenizer)
    for (tokens, trained), text in zip(
        compared.written([comparison()], said)[0], ("good", "bad"), strict=True
    ):
        prompt = said.prompt("ask")
        written = [*prompt, *said.tokenizer.encode(text, special=False)]
        assert tokens[:-1].tolist() == written and tokens[-1] in ends
        assert trained.tolist() == [n >= len(prompt) for n in range(len(tokens))]


@pytest.mark.parametrize("template", ["", "turns", "chatml", WORDS])
def test_an_answer_that_was_cut_off_has_no_end(template):
    said = dialogue(template)
    whole, cut = compared.written([comparison(ended=(True, False))], said)[0]
    prompt = said.prompt("ask")
    assert cut[0].tolist() == [*prompt, *said.tokenizer.encode("bad", special=False)]
    assert whole[0][len(prompt) :][:4].tolist() == said.tokenizer.encode("good").tolist()
    assert len(whole[0]) > len(prompt) + 4 and whole[1].sum() == len(whole[0]) - len(prompt)


def test_what_was_cut_off_is_read_from_tables(tmp_path):
    rows = [
        {
            "prompt": "p",
            "answers": ["b", "a", "c"],
            "ranks": [1, 2, 3],
            "ended": [False, True, True],
        },
        {"prompt": "q", "answers": ["a", "b"], "ranks": [1, 2]},
    ]
    first, other = ranking(tmp_path, rows)
    assert first.answers == ["a", "b", "c"] and first.ended == (True, False, True)
    assert other.ended == ()
    pair = {"prompt": "p", "chosen": "b", "rejected": "a", "ended": [False, True]}
    assert ranking(tmp_path, [pair])[0].ended == (True, False)
    for wrong, words in (
        ({"ended": [True]}, r"ended is '\[True\]'; expected true or false for each of 2"),
        ({"ended": "no"}, "ended is 'no'"),
        ({"ended": [1, 0]}, "ended is"),
    ):
        with pytest.raises(ValueError, match=f"line 1: {words}"):
            ranking(tmp_path, [pair | wrong])
    both = [{**pair, "labeller": "x"}, {**pair, "labeller": "y", "ended": [True, True]}]
    with pytest.raises(
        ValueError, match="line 2 contradicts .*line 1 about whether the answer 'b'"
    ):
        ranking(tmp_path, both)


def test_the_page_s_exports_say_which_answers_were_cut_off(given, tmp_path):  # noqa: F811
    a = given(["p", "q"], [["a", "b", "cut", "d"], FOUR])
    store = label_store.Store(a.labels, answers.sampled(a))
    for _ in range(2):
        judge(store, "ann", [1, 2, 3, 4])
    out = [tmp_path / "r.jsonl", tmp_path / "p.jsonl"]
    label.main(["--labels", a.labels, "--export", str(out[0]), "--pairs", str(out[1])])
    for path in out:
        found = data.read(read(str(path)), {"data": {}})
        assert [dict(zip(i.answers, i.ended, strict=True)) for i in found] == [
            {text: text != "cut" for text in ("a", "b", "cut", "d")},
            dict.fromkeys(FOUR, True),
        ]
    row = json.loads(answers.beside(a.labels).read_text().splitlines()[1])
    with pytest.raises(ValueError, match="ended is .* expected true or false for each answer"):
        answers.beside(a.labels).write_text(json.dumps({**row, "ended": [True]}) + "\n")
        answers.kept(answers.beside(a.labels), a)
