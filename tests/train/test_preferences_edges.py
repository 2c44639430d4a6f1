"""What comparisons, prompts, filters and Q-learning's target must be, where no other test asks."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models import sampling
from models.settings import Settings
from train import qlearning
from train.core import config
from train.data import compared, instructions, prompts, tables
from train.data import preferences as data
from train.data import tokenizer as tokenizers

GOLDEN = Path(__file__).parents[1] / "golden" / "decoding"


def table(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tables.read(str(path))


def ranking(folder, rows):
    return data.read(table(folder, rows), {"data": {}})


def test_a_ranking_weighs_the_same_written_as_pairs(tmp_path):
    """In any order of the pairs: 9 answers do not outweigh 4, and each is read once."""
    texts = [f"a{n}" for n in range(9)]
    pairs = [{"prompt": "p", "chosen": texts[i], "rejected": texts[j]}
             for i in range(9) for j in range(i + 1, 9)]  # fmt: skip
    for seed in range(3):
        rows = [pairs[n] for n in np.random.default_rng(seed).permutation(len(pairs))]
        (found,) = ranking(tmp_path, rows)
        assert found.answers == texts and np.isnan(found.agreement)
        np.testing.assert_array_equal(found.better, np.triu(np.ones((9, 9)), 1))
    more = [
        {"prompt": "p", "chosen": "a0", "rejected": "b"},
        {"prompt": "q", "chosen": "a0", "rejected": "a1"},
    ]
    found = ranking(tmp_path, pairs + more)
    assert sorted(len(item.answers) for item in found) == [2, 2, 9]
    apart = [{"prompt": "p", "chosen": x, "rejected": y} for x, y in ("ab", "cd")]
    assert len(ranking(tmp_path, apart)) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_comparisons_stand_in_the_order_of_their_first_rows(tmp_path, whole):
    said = [("p", "a", "b"), ("q", "c", "d"), ("p", "e", "f"), ("q", "g", "h")]
    rows = [{"prompt": p, "chosen": x, "rejected": y} for p, x, y in said]
    if whole:
        rows = [{"prompt": p, "answers": [x, y], "ranks": [1, 2]} for p, x, y in said]
    found = ranking(tmp_path, rows)
    assert [(item.prompt, *item.answers) for item in found] == said


def test_agreement_is_about_pairs_that_several_people_ordered(tmp_path):
    rows = [{"prompt": "p", "chosen": x, "rejected": y, "labeller": z}
            for x, y, z in ("abk", "abl", "bam", "bck")]  # fmt: skip
    (found,) = ranking(tmp_path, rows)
    assert found.agreement == pytest.approx(2 / 3) and found.better.sum() == 2


EMPTY = [[], [{"role": "user", "content": " "}]]


@pytest.mark.parametrize("prompt", EMPTY)
def test_messages_that_ask_nothing_are_empty_prompts(tmp_path, prompt):
    with pytest.raises(ValueError, match="line 1: the prompt is empty"):
        prompts.read(table(tmp_path, [{"prompt": prompt}]), {"data": {}})
    with pytest.raises(ValueError, match="line 1: the prompt is empty"):
        ranking(tmp_path, [{"prompt": prompt, "chosen": "a", "rejected": "b"}])
    assert not instructions.blank([{"role": "user", "content": "x"}])


def test_kto_compares_with_another_prompt_s_answer():
    asked = [np.asarray([1]), np.asarray([2])]
    row = lambda prompt, answer: (np.asarray([prompt, answer]), np.asarray([0, 1]))
    single = [(row(1, 7), 0, True), (row(1, 8), 0, False), (row(2, 9), 1, True)]
    batch = compared.judged(single, asked, 2, 0)([0, 1, 2])
    assert batch["tokens"][:, 1].tolist() == [[1, 9], [1, 9], [2, 7]]


def test_padding_that_is_the_end_of_text_changes_no_target():
    own = tokenizers.train("char", ["abc"], specials=("<s>", "</s>"), bos="<s>", eos="</s>")
    same = tokenizers.Tokenizer.wrap(own.raw, own.kind, bos=own.bos, eos=own.eos, pad=own.eos)
    assert own.pad != own.eos == same.pad
    row = instructions.Dialogue(same).answered("a", "bc")
    made = compared.answers.pad([row], 8, same.pad)
    end = len(row[0]) - 1
    assert made["tokens"][0, end] == same.eos and made["weights"][0, end] == 1
    assert made["mask"].sum() == made["mask"][0, : end + 1].sum() == end + 1
    assert not made["weights"][0, end + 1 :].any()


def test_ties_with_the_kth_stay_and_min_p_is_asked_after_temperature():
    ties = sampling.warp(jnp.asarray([[2.0, 1.0, 1.0, 0.0]]), Settings(temperature=1.0, top_k=2))
    assert np.isfinite(ties).tolist() == [[True, True, True, False]]
    logits = jnp.log(jnp.asarray([[0.8, 0.15, 0.05]]))
    cold, hot = (np.isfinite(sampling.warp(logits, Settings(temperature=t, min_p=0.1))).sum()
                 for t in (1.0, 4.0))  # fmt: skip
    assert (cold, hot) == (2, 3)


def test_filters_come_in_the_reference_s_order(monkeypatch):
    golden = json.loads((GOLDEN / "sampling_filters.json").read_text())
    named = {"TopK": "top_k", "TopP": "top_p", "MinP": "min_p", "Typical": "typical",
             "Epsilon": "epsilon", "Eta": "eta", "NoRepeatNGram": "no_repeat_ngram",
             "Repetition": "repetition", "NoBadWords": "bad_words"}  # fmt: skip
    order, seen = golden["hf_processor_order"], []
    want = [ours for x in order for theirs, ours in named.items() if x.startswith(theirs)
            and x[len(theirs)] in "PLW"]  # fmt: skip
    for name in named.values():
        monkeypatch.setattr(sampling, name, lambda x, *_, name=name: seen.append(name) or x)
    s = Settings(temperature=2.0, top_k=2, top_p=0.5, min_p=0.1, typical_p=0.5, epsilon=0.1, eta=0.1,
                 repetition_penalty=2.0, no_repeat_ngram=2, bad_words=((1,),))  # fmt: skip
    history = sampling.History(jnp.ones((1, 3), jnp.int32), jnp.ones((1, 3), bool), 1, jnp.int32(1))
    sampling.warp(sampling.process(jnp.zeros((1, 4)), history, s), s)
    assert seen == want and len(want) == len(named)


def test_a_network_s_target_is_valued_by_the_copy_and_chosen_by_itself():
    made = config.load("configs/qlearning.py:network")
    how = {**qlearning.DEFAULTS, "net": "table", "gamma": 0.5}
    batch = {"now": np.asarray([0, 0]), "action": np.asarray([1, 1]), "after": np.asarray([1, 1]),
             "reward": np.float32([1, 1]), "going": np.float32([1, 0])}  # fmt: skip
    table = lambda rows: {"q": {"kernel": jnp.asarray(rows)}}
    own, copy = table([[0.0, 0.5], [3.0, 1.0]]), table([[0.0, 0.0], [0.4, 2.0]])
    for double, after in ((True, 0.4), (False, 2.0)):
        task = qlearning.make_task(made, {**how, "double": double}, 2, 2)
        loss, (_, sums) = task.loss(own, copy, {}, batch, None, task.totals(batch))
        errors = np.asarray([1 + 0.5 * after - 0.5, 1 - 0.5])
        huber = np.where(errors < 1, errors**2 / 2, errors - 0.5)
        assert float(loss) == pytest.approx(huber.mean(), rel=1e-6)
        assert float(sums["error"][0]) == pytest.approx(errors.sum(), rel=1e-6)
