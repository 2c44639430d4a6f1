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
    setting.writer.mesh = None
    return setting, ppo._parameters(made, o, value, setting.how)[1]


def alone(setting, params, folder) -> list:
    """The score of each demonstration by the reward model alone, read by itself and unpadded."""
    own, made = setting.writer.tokenizer, checkpoint.read_config(checkpoint.find(folder / "reward"))
    model, scores = reward.build(Options.of(made["model"])), []
    for prompt in setting.asked:
        if said := prompt.demonstration:
            texts = (own.encode(text, special=False) for text in (prompt.text, said))
            ids = np.concatenate([[own.bos] * (own.bos >= 0), *texts, [own.eos]])[None].astype(int)
            found = model.apply({"params": params}, {"tokens": ids})["scores"]
            scores.append(float(found[0, 0]))
    return scores


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    return folder, judged_by(folder)


def test_the_mean_is_of_what_the_reward_model_says_of_each(judge, tmp_path):
    folder, changes = judge
    setting, frozen = opened(tmp_path, **changes)
    scores = alone(setting, frozen["reward"], folder)
    assert len(scores) > 10 and len(scores) == len(setting.demonstrations)
    found = demonstrations.mean(setting, frozen["reward"])
    assert found == pytest.approx(np.mean(scores), abs=1e-5) and abs(found) > 1e-2


def test_a_run_takes_it_off_every_score(judge, tmp_path, capsys):
    folder, changes = judge
    changes = {**changes, "reward.missing_eos": "none"}
    ppo.run(config(tmp_path, **changes), tmp_path / "run")
    [row, *_] = [row for row in log.read(tmp_path / "run") if "round/reward" in row]
    setting, frozen = opened(tmp_path, **changes)
    want = np.mean(alone(setting, frozen["reward"], folder))
    assert row["round/reward"] - row["round/score"] == pytest.approx(want, abs=1e-5)
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
