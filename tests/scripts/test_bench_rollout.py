"""The rollout benchmark: the rows that sides share, how they are compared, a toy run of our side."""

import json

import numpy as np
import pytest

from scripts.bench import __main__ as bench
from scripts.bench import rollout, rounds, sizes
from train.core.errors import cleanly

JOB = {"rows": 5, "prompt": 6, "new": 3, "temperature": 1.0,
       "model": sizes.options("gpt2", "tiny").plain()}  # fmt: skip


def test_both_sides_read_the_same_padded_rows():
    tokens, mask = rounds.answered(JOB)
    again, _ = rounds.answered(JOB)
    np.testing.assert_array_equal(tokens, again)
    assert tokens.shape == mask.shape == (5, 9) and (mask[:, 5:] == 1).all()
    assert (np.diff(mask, axis=1) >= 0).all(), "what is padded stands on the left"
    assert (
        mask.sum(1).min() >= 6 and (tokens[mask == 0] == 0).all() and (tokens[mask > 0] > 0).all()
    )


def test_sides_are_held_against_each_other():
    mine = {"policy": [[-1.0, -2.0]], "reward": [0.5]}
    found = rollout.apart(mine, {"policy": [[-1.0, -2.25]], "reward": [0.5]})
    assert found == {"policy": 0.25, "reward": 0.0}
    with pytest.raises(ValueError, match=r"policy: one side gives \(1, 2\), the other \(1, 1\)"):
        rollout.apart(mine, {"policy": [[-1.0]], "reward": [0.5]})


def test_what_our_side_says_is_what_its_models_say():
    side = rounds.Ours(JOB)
    said = side.given()
    assert np.shape(said["policy"]) == (5, 3) == np.shape(said["value"])
    assert said["policy"] == said["reference"], "the reference is the policy that a run starts from"
    assert np.max(said["policy"]) < 0 and np.std(said["reward"]) > 0
    assert said["reward"] != [row[-1] for row in said["value"]], "two nets, not one"
    tokens, mask = rounds.answered(JOB)
    row = slice(int(9 - mask[0].sum()), None)
    alone = side.score(tokens[:1, row], mask[:1, row])
    np.testing.assert_allclose(alone[0], said["reward"][0], atol=1e-5)


def test_our_side_runs_and_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rollout.lanes, "PAUSE", 0)
    out = tmp_path / "result.json"
    words = "rollout --size tiny --against none --rows 2 --prompt 4 --new 3 --rounds 1"
    assert bench.main([*words.split(), "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    [own] = kept["sides"]
    assert set(own["parts"]) == set(rounds.PARTS) and own["peak"] > 2**20
    parts = sum(part["wall"][0] for part in own["parts"].values())
    assert 0 < parts <= own["wall"][0]
    assert (
        own["info"]["noted"]
        and own["parts"]["policy"]["wall"][0] < own["parts"]["reference"]["wall"][0]
    )
    said = capsys.readouterr().out
    assert "| gpt2 tiny, 2 x (4 + 3) |" in said and "| writing | formulary |" in said


@pytest.mark.parametrize(("name", "family"), [("rollout", "t5"), ("decode", "bert")])
def test_what_cannot_write_so_is_refused(name, family, capsys):
    words = f"{name} --family {family} --size tiny --against none"
    with pytest.raises(SystemExit):
        cleanly(bench.main)(words.split())
    assert f"bench {name} needs a decoder" in capsys.readouterr().err


def test_the_table_has_ratios_and_differences():
    def made(name, seconds, off):
        parts = {p: {"cpu": [seconds / 5], "wall": [seconds / 5]} for p in rounds.PARTS}
        return {"name": name, "cpu": [seconds], "wall": [seconds], "parts": parts, "peak": 1e9,
                "info": {}, "differences": dict.fromkeys(rounds.PARTS[1:], off)}  # fmt: skip

    result = dict(family="gpt2", size="12m", rows=4, prompt=8, new=8, threads=1)
    sides = [made("formulary", 2.0, 0.0), made("transformers stock", 5.0, 1e-4)]
    text = rollout.table({**result, "sides": sides})
    assert "| whole round | transformers stock | 5.000 (5.000 to 5.000) |" in text
    assert text.count("| 2.50 (2.50 to 2.50) |") == 6 and text.count("| 1.0e-04 |") == 4
    assert "| 16.0 |" in text, "32 tokens of answers in 2 seconds"
    sides[0]["info"]["noted"] = True
    for metric in ("cpu", "wall"):
        sides[0]["parts"]["policy"][metric] = [0.0]
    text = rollout.table({**result, "sides": sides})
    assert text.count("| noted while writing |") == 1 and text.count("| 2.50 (2.50 to 2.50) |") == 5
    assert "| policy | formulary | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) |  |" in text
