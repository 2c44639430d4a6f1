"""A reference that computes something else, a run that goes on as another, and one that goes on as itself."""

import dataclasses
import shutil

import pytest
from ml_collections import ConfigDict

from models.options import Options
from tests.train import toy
from tests.train.test_rounds_going_on import letters, train
from train import ppo, preference
from train.core import origin, start


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"act": "relu"}, "act='relu', config.model has 'gelu_tanh'"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ({"positions": "rotary", "rope_theta": 5e5}, "rope_theta=500000.0"),
        ({"context": 64, "drop_attn": 0.1, "remat": "none", "rope_theta": 5e5}, ""),
    ],
)
def test_a_reference_computes_what_the_policy_does(monkeypatch, other, words):
    o = Options(positions=other.get("positions", "learned"))
    monkeypatch.setattr(origin, "named", lambda given: dataclasses.replace(o, **other))
    if not words:
        return origin.refuse_other_model({}, o, "config.reference")
    with pytest.raises(ValueError, match=f"config.reference is a model with {words}"):
        origin.refuse_other_model({}, o, "config.reference")


def test_both_loops_ask(monkeypatch):
    o = Options(layers=1, width=8, heads=2, vocab=16, context=8)
    monkeypatch.setattr(origin, "named", lambda given: o.replace(act="relu"))
    monkeypatch.setattr(origin, "params", lambda *_: {})
    given = {"checkpoint": "run", "reference": ""}
    c = ConfigDict({"init": {}, "reference": given, "lora": {"rank": 0}, "seed": 0})
    with pytest.raises(ValueError, match="config.reference is a model with act"):
        preference.reference(c, o)
    with pytest.raises(ValueError, match="config.reference is a model with act"):
        ppo._parameters(c, o, None, {"reward": {"kind": "exact"}})


def test_another_method_is_another_run(monkeypatch):
    was = {"fingerprint": {"prompts": "x", start.HOW: {"ppo.method": "grpo", "ppo.epochs": 2}}}
    monkeypatch.setattr(start, "read_json", lambda path: was)
    monkeypatch.setattr(start.checkpoint, "read_config", lambda folder: {})
    now = {"prompts": "x", start.HOW: {"ppo.method": "rloo", "ppo.epochs": 2}}
    c = ConfigDict()
    with pytest.raises(ValueError, match='config.ppo.method is "rloo", but this run was .* "grpo"'):
        start.refuse_other_run("run", c, now)
    now[start.HOW] = {"ppo.method": "grpo", "ppo.epochs": 1}
    with pytest.raises(ValueError, match="config.ppo.epochs is 1, but this run was started with 2"):
        start.refuse_other_run("run", c, now)
    start.refuse_other_run("run", c, was["fingerprint"])
    start.refuse_other_run("run", ConfigDict({"allow_mismatch": True}), now)
    del was["fingerprint"][start.HOW]  # an older run
    start.refuse_other_run("run", c, now)


def test_groups_go_on_bit_for_bit(tmp_path):
    """GRPO, stopped within a round: the answers, advantages and orders of the round are kept."""
    how = {"ppo.method": "grpo", "checkpoint.every": 2, "steps": 4}
    whole = train(tmp_path, "whole", letters, **how)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000004")
    again = train(tmp_path, "cut", letters, **how)
    for part in ("params", "opt_state", "carry"):
        sides = [toy.digest(getattr(run.state, part)) for run in (again, whole)]
        assert sides[0] == sides[1], part
    with pytest.raises(ValueError, match='config.ppo.method is "rloo"'):
        train(tmp_path, "cut", letters, **{**how, "ppo.method": "rloo", "steps": 8})
