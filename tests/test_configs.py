"""Every shipped config builds: model, optimiser, schedule and, where it says tiny, tiny."""

import ast
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from models import families
from models.build import IMAGES, build, example
from models.options import Options
from train import vision
from train.core import config as configs
from train.core import optim, validate

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def variants(path):
    return tuple(configs._module(path).VARIANTS)


CASES = [
    f"{path.stem}:{variant}"
    for path in FILES
    for variant in variants(path)
    if path.stem != "qlearning"  # no model of ours: tests/train/test_qlearning.py builds it
]


def load(case):
    name, _, variant = case.partition(":")
    return configs.load(f"{FOLDER / name}.py:{variant}")


@cache
def shapes(options):
    """Parameter shapes; scanned, so that 126 layers cost what one does."""
    model = build(options.replace(scan=True))
    variables = jax.eval_shape(model.init, jax.random.key(0), example(options, 1, 4))
    return variables["params"]


def test_all_are_here():
    assert {path.stem for path in FILES} >= {"shakespeare", "gpt1", "gpt2", "gpt3", "llama", "moe"}
    for family in set(families.FAMILIES) - {"whisper"}:  # read and written, not trained
        assert set(families.sizes(family)) <= set(variants(FOLDER / f"{family}.py"))


@pytest.mark.parametrize("case", CASES)
def test_a_variant_builds(case):
    config = load(case)
    validate.validate(config)
    options = Options.of(config.model.to_dict())
    params = shapes(options)
    transform, rate = optim.build(config.optim, config.steps, params)
    state = jax.eval_shape(transform.init, params)
    moment = "/mu/" if config.optim.name not in ("sgd", "rmsprop") else "trace/"
    moments = sum(x.size for path, x in optim._flat(state) if moment in path)
    first = config.optim.name != "adafactor" or config.optim.b1
    assert moments == (sum(x.size for x in jax.tree.leaves(params)) if first else 0)
    warm = [float(rate(step)) for step in (0, config.optim.warmup, config.steps)]
    assert 0 < warm[0] <= warm[1] == pytest.approx(config.optim.lr, rel=0.01)
    end = config.optim.end
    if config.optim.schedule == "inverse_root":
        end = ((config.optim.decay_steps or config.optim.warmup) / config.steps) ** 0.5
    assert warm[2] == pytest.approx(config.optim.lr * min(end, 1.0), rel=0.01, abs=1e-9)
    stem, _, variant = case.partition(":")
    known = families.COUNTS.get((options.family, variant))
    if known and stem == options.family:
        body = (
            params
            if options.kind in ("decoder", "encdec", *IMAGES)
            else shapes(options.replace(head="none"))
        )
        assert sum(x.size for x in jax.tree.leaves(body)) == known


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_is(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m train --config=configs/{path.name}" in text
    assert "CPU" in text and re.search(r"\b(19|20)\d\d\b", text), "hardware and paper"
    assert "tiny" in variants(path) or path.stem == "instruct_demo"  # its stages are
    for variant in re.findall(rf"configs/{path.name}:(\S+)", text):
        assert variant in variants(path)


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith(":tiny")])
def test_tiny_needs_no_download_and_a_minute(case):
    config = load(case)
    assert config.data.get("train", config.data.source) in (
        "shakespeare", "vader-movies", "vader-tweets", "kjv_web", "toy:reverse", "toy:sort", "mnist",
    )  # fmt: skip
    params = shapes(Options.of(config.model.to_dict()))
    size = sum(x.size for path, x in optim._flat(params) if not path.startswith("embed/positions"))
    operations = 6 * size * config.batch * config.length * config.steps
    options = Options.of(config.model.to_dict())
    if options.kind in IMAGES:
        operations = 3 * vision.operations(options) * config.batch * config.steps
    assert operations < 4e12, "about a minute on two cores"
    stream = Options.of(config.model.to_dict()).activations
    assert jnp.dtype(stream) == jnp.float32


def test_gpt3_sees_300_billion_tokens():
    for size in families.sizes("gpt3"):
        config = load(f"gpt3:{size}")
        steps = [start for start, _, _ in validate.shapes(config)] + [config.steps]
        rows = zip(steps, steps[1:], validate.shapes(config), strict=False)
        tokens = sum((stop - start) * length * batch for start, stop, (_, length, batch) in rows)
        assert tokens == pytest.approx(300e9, rel=1e-3)
        warm = sum(
            max(min(config.optim.warmup, stop) - start, 0) * length * batch
            for start, stop, (_, length, batch) in zip(
                steps, steps[1:], validate.shapes(config), strict=False
            )
        )
        assert warm == pytest.approx(375e6, rel=0.01)
