"""Demonstrations that a reward's zero is taken from (Ouyang et al. 2022, section 3.5)."""

import json

import numpy as np
import pytest

from models.options import Options
from tests.train import aligned
from tests.train.test_ppo import PROMPTS, SMALL, judged_by
from train import ppo, reward
from train.core import checkpoint, demonstrations, log

SHOWN = [{**p, "said": p["target"] if n % 3 else ""} for n, p in enumerate(PROMPTS)]


def config(folder, rows=SHOWN, **changes):
    changes = {"reward.demonstrations": "said", **changes}
    return aligned.config("ppo", folder, rows, **{**SMALL, **changes})


def opened(folder, rows=SHOWN, **changes):
    """(setting, frozen parameters) of a config."""
    made, o, value, _, setting, _ = ppo._open(config(folder, rows, **changes))
    return setting, ppo._parameters(made, o, value, setting.how)[1]


def test_people_s_answers_score_0_on_average(tmp_path, capsys):
    """Against the reward model alone, on each demonstration by itself, unpadded."""
    judge = judged_by(tmp_path)
    made = config(tmp_path, **{**judge, "reward.missing_eos": "none"})
    ppo.run(made, tmp_path / "run")
    [row, *_] = [row for row in log.read(tmp_path / "run") if "round/reward" in row]
    setting, frozen = opened(tmp_path, **judge)
    own = setting.writer.tokenizer
    model = reward.build(
        Options.of(checkpoint.read_config(checkpoint.find(tmp_path / "reward"))["model"])
    )
    said = {p["prompt"]: p["said"] for p in SHOWN}
    scores = []
    for prompt in (p.text for p in setting.asked):
        if said[prompt]:
            texts = own.encode(prompt, special=False), own.encode(said[prompt], special=False)
            ids = np.concatenate([[own.bos] * (own.bos >= 0), *texts, [own.eos]])[None].astype(int)
            found = model.apply({"params": frozen["reward"]}, {"tokens": ids})["scores"]
            scores.append(float(found[0, 0]))
    assert len(scores) > 10 and len(scores) == len(setting.demonstrations)
    assert row["round/reward"] - row["round/score"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert abs(np.mean(scores)) > 1e-2
    assert "demonstrations score" in capsys.readouterr().err


def test_the_last_rows_of_one_shape_count_once(tmp_path):
    setting, _ = opened(tmp_path)
    seen = []

    def score(made, asked, params):
        seen.append(made["tokens"].shape)
        return np.asarray([len(p.demonstration) for p in asked], np.float32)

    setting.scorer = score
    want = [len(setting.asked[n].demonstration) for n, _ in setting.demonstrations]
    assert len(want) % setting.size and len(set(want)) > 1
    assert demonstrations.mean(setting, None) == pytest.approx(np.mean(want))
    assert set(seen) == {(setting.size, setting.room + setting.writer.new)}


def test_what_a_policy_could_not_write_is_left_out_and_said(tmp_path, capsys):
    rows = [{**row, "said": "much too long"} if n < 6 else row for n, row in enumerate(SHOWN)]
    setting, _ = opened(tmp_path, rows)
    assert "demonstrations have more than config.ppo.new=6 tokens and are left out" in (
        capsys.readouterr().out
    )
    assert all(len(ids) <= 6 for _, ids in setting.demonstrations)
    assert all(setting.asked[n].demonstration != "much too long" for n, _ in setting.demonstrations)


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        (PROMPTS, {}, r"has no column 'said', which config.reward.demonstrations names\ncolumns: "),
        ([{**p, "said": " "} for p in PROMPTS], {}, "column 'said' is empty; expected a person"),
        ([{**p, "said": "x" * 9} for p in PROMPTS], {}, "each of .* more than config.ppo.new=6"),
        (SHOWN, {"reward.normalise": True}, "both set the reward's zero"),
    ],
)
def test_no_demonstration_is_an_error(tmp_path, rows, changes, words):
    with pytest.raises(ValueError, match=words):
        opened(tmp_path, rows, **changes)


def test_a_template_s_end_of_turn_ends_a_demonstration(tmp_path):
    """As a policy's answer ends: nothing stands behind the token that ends it."""
    setting, _ = opened(tmp_path, **{"data.template": "turns", "length": 60, "ppo.new": 8})
    [(number, ids), *_] = setting.demonstrations
    ends = setting.writer.settings.eos
    assert ids[-1] in ends and not np.isin(ids[:-1], ends).any()
    made = json.dumps(setting.writer.tokenizer.decode(ids[:-1]))
    assert made == json.dumps(setting.asked[number].demonstration)
