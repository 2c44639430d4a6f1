"""Q-learning against exact optima: table, network, time limits, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from train import qlearning
from train.core import config as configs
from train.core import log, tabular, validate

pytest.importorskip("gymnasium")
FILE = Path(__file__).parents[2] / "configs" / "qlearning.py"


def load(variant, **changes):
    made = configs.load(f"{FILE}:{variant}")
    made.update_from_flattened_dict(changes)
    return made


@pytest.mark.parametrize("variant", ["tiny", "cliff", "network"])
def test_variants_build(variant):
    made = load(variant)
    validate.validate(made)
    plan, batch = qlearning.check(made)
    assert plan.abstract.params["q"]["kernel"].shape[1] == 4
    assert set(batch) == {"now", "action", "after", "reward", "going"}


def test_a_table_finds_the_cliff_s_optimum(tmp_path):
    made = load("cliff", **{"steps": 30_000, "q.epsilon_steps": 10_000, "log.every": 10_000})
    qlearning.run(made, tmp_path)
    found = json.loads((tmp_path / "q.json").read_text())
    assert found["return"] == found["optimum"] == pytest.approx(-13)
    assert found["error"] < 0.01
    assert [row["step"] for row in log.read(tmp_path)] == [10_000, 20_000, 30_000]


@pytest.mark.slow
def test_a_table_finds_the_lake_s_optimum(tmp_path):
    qlearning.run(load("tiny"), tmp_path)
    found = json.loads((tmp_path / "q.json").read_text())
    assert found["optimum"] == pytest.approx(0.7402, abs=1e-4)
    assert found["return"] > 0.73 and found["error"] < 0.06


def test_a_network_finds_the_way_over_firm_ice(tmp_path):
    made = load("network", **{
        "steps": 5000, "q.epsilon_steps": 4000, "q.every": 2, "log.every": 5000, "q.target": 100,
        "optim.lr": 5e-3,
    })  # fmt: skip
    fitted = qlearning.run(made, tmp_path)
    assert fitted.metrics["return"] == 1
    assert fitted.metrics["value"] == pytest.approx(0.95**5, abs=0.1)


def test_known_optima():
    how, env, world = qlearning._open(load("tiny"))
    assert qlearning.optimum(how, env, world) == pytest.approx(0.7402, abs=1e-4)
    q = tabular.optimum(*world, 0.99)
    assert q[0].max() == pytest.approx(0.5420, abs=1e-4)
    random = tabular.evaluate(*world, 1 - 1e-9)
    assert random[0] == pytest.approx(0.0139, abs=2e-4)
    how, env, world = qlearning._open(load("cliff"))
    assert qlearning.optimum(how, env, world) == pytest.approx(-13)


def test_a_time_limit_is_no_end():
    how, env, _ = qlearning._open(load("cliff", **{"world.limit": 3}))
    walk = qlearning.Walk(env, how, 0)
    seen = [walk.step(lambda s: np.zeros(4)) for _ in range(3)]
    assert not any(ended for *_, ended in seen)
    assert walk.now == 36, "the episode begins again"
    table = np.zeros((48, 4))
    table[seen[-1][3]] = -5.0
    tabular.update(table, *seen[-1], rate=1.0, gamma=0.9)
    assert table[seen[-1][0], seen[-1][1]] == pytest.approx(seen[-1][2] - 4.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q.net": "tabel"}, "table"),
        ({"q.gamma": 1.0}, "expected 0 <= x < 1"),
        ({"q.epsilon": 2.0}, "expected 0 <= x <= 1"),
        ({"world.id": "Frozen-v1"}, "no such world"),
        ({"world.id": "CartPole-v1"}, "does not list its transitions"),
        ({"q.power": -1.0}, "q.power is -1.0; expected at least 0, at most 1"),
        ({"q.least": -5}, "q.least is -5; expected at least 0"),
        ({"q.net": "mlp", "q.least": 500_000}, "q.least is 500000, more than config.steps=400000"),
        ({"q.rate": 1.0}, "no field 'rate'"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        qlearning._open(load("tiny", **changes))
